// What the fuzz tests share: how many inputs, from which seed, and the generators of what other programs get wrong.
//
//   PICKET_FUZZ_INPUTS   inputs for each property (default 1,000; `bun run fuzz` gives 100,000)
//   PICKET_FUZZ_SEED     the seed; printed, so that what was found can be had again. `bun run fuzz` draws one; among the tests it is
//                        always the same: a change is judged by itself, and not by what chance brings up that day
//
// A property that asks a real server gives it many inputs in one run, side by side, and names the ones that were answered
// wrongly: shrinking works for what is judged in this process, where an input costs nothing.

import { connect } from "node:net";
import { lstatSync, readFileSync, readdirSync } from "node:fs";
import * as fc from "fast-check";

export const INPUTS = Number(process.env["PICKET_FUZZ_INPUTS"] ?? 1000);
/** With more inputs than this, time is no matter. */
const SHORT = 10_000;
export const SEED = Number(process.env["PICKET_FUZZ_SEED"] ?? (INPUTS > SHORT ? Date.now() % 2 ** 31 : 1));
console.log(`fuzzing: PICKET_FUZZ_SEED=${SEED} PICKET_FUZZ_INPUTS=${INPUTS}`);

/** For `test`: as long as so many inputs may take. */
export const TIMEOUT_MS = 300_000 + INPUTS * 30;

/** For `exchange`: silence of so many milliseconds is no answer, and not a machine that is busy. */
export const PATIENCE_MS = 30_000;

/** Settings for `fc.assert`; `share` is the part of all inputs for what costs more than others, in a short run. */
export function runs(share = 1): { numRuns: number; seed: number; endOnFailure: boolean } {
  const numRuns = INPUTS > SHORT ? INPUTS : Math.max(1, Math.round(INPUTS * share));
  return { numRuns, seed: SEED, endOnFailure: false };
}

/** So few, however many inputs there are: for what starts a program for each. */
export function few<T>(arbitrary: fc.Arbitrary<T>, count: number): T[] {
  return fc.sample(arbitrary, { numRuns: Math.min(count, INPUTS), seed: SEED });
}

/** So many values, the same for the same seed. */
export function sample<T>(arbitrary: fc.Arbitrary<T>, share = 1): T[] {
  return fc.sample(arbitrary, runs(share));
}

// ---------------------------------------------------------------------------------------------------------------
// Generators

const POLLUTING = [
  "__proto__",
  "constructor",
  "prototype",
  "toString",
  "hasOwnProperty",
  "valueOf",
  "toJSON",
  "length",
];
const NASTY_TEXTS = [
  "",
  " ",
  "\0",
  "\n",
  "\r\n",
  "\t",
  "\u001b[2J\u001b]0;title\u0007",
  "\u009b31m",
  "\ud800",
  "\udfff\ud800",
  "\ufeff",
  "\u202e",
  "\u2028",
  "..",
  "../../../etc/passwd",
  "/etc/passwd",
  "%2e%2e%2f",
  "a/b",
  "C:\\x",
  "%",
  "%zz",
  "%00",
  "NaN",
  "null",
  "-0",
  "1e999",
  "9".repeat(400),
  "a".repeat(300),
  "😀".repeat(70),
  "a\u0301",
  "' OR 1=1 --",
  "<script>alert(1)</script>",
  "{{ . }}",
  "${x}",
  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
];
const NASTY_NUMBERS = [
  0,
  -0,
  1,
  -1,
  0.1,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  -(2 ** 53),
  2 ** 64,
  1e21,
  1e308,
  -1e308,
  5e-324,
  Number.MAX_SAFE_INTEGER,
];

/** Text: ordinary, and what trips programs up. */
export const text = (): fc.Arbitrary<string> =>
  fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(...NASTY_TEXTS, ...POLLUTING) },
    { weight: 2, arbitrary: fc.string({ unit: "binary", maxLength: 40 }) },
    { weight: 2, arbitrary: fc.string({ maxLength: 40 }) },
  );

/** Numbers that JSON can say. */
export const number = (): fc.Arbitrary<number> =>
  fc.oneof(fc.constantFrom(...NASTY_NUMBERS), fc.integer(), fc.double({ noNaN: true, noDefaultInfinity: true }));

/** Any value of JSON, with keys that pollute prototypes. */
export const { json } = fc.letrec<{ json: unknown }>((tie) => ({
  json: fc.oneof(
    { maxDepth: 4, depthIdentifier: "json" },
    fc.constant(null),
    fc.boolean(),
    number(),
    text(),
    fc.array(tie("json"), { maxLength: 4, depthIdentifier: "json" }),
    fc
      .array(fc.tuple(fc.oneof(text(), fc.constantFrom(...POLLUTING)), tie("json")), {
        maxLength: 4,
        depthIdentifier: "json",
      })
      .map((entries) => withOwn(entries)),
  ),
}));

/** An object whose `__proto__` is a key like any other, as JSON.parse makes it. */
export function withOwn(entries: readonly (readonly [string, unknown])[]): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  for (const [key, value] of entries) {
    Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });
  }
  return object;
}

/** JSON text that no generator of values gives: too deep, numbers without end, equal keys, infinities. */
export const strangeJson = (): fc.Arbitrary<string> =>
  fc.oneof(
    fc.integer({ min: 1, max: 3000 }).map((depth) => "[".repeat(depth) + "]".repeat(depth)),
    fc.integer({ min: 1, max: 2000 }).map((depth) => '{"a":'.repeat(depth) + "1" + "}".repeat(depth)),
    fc.integer({ min: 1, max: 3000 }).map((depth) => "[".repeat(depth)),
    fc.integer({ min: 1, max: 5000 }).map((digits) => `{"n":${"9".repeat(digits)},"m":-1e${digits},"o":1E-${digits}}`),
    fc.constantFrom(
      '{"a":1,"a":2}',
      '{"__proto__":{"polluted":1}}',
      "1e999",
      "[1e400,-1e400]",
      "\ufeff{}",
      "{}{}",
      "[,]",
    ),
    json.map((value) => JSON.stringify(value) ?? "null"),
  );

/** Bytes: noise, and text with a bit turned, a piece cut out or doubled. */
export function mutated(seeds: fc.Arbitrary<string | Uint8Array>): fc.Arbitrary<Uint8Array<ArrayBuffer>> {
  const change = fc.record({
    kind: fc.constantFrom("flip", "cut", "double", "insert", "truncate", "none"),
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    length: fc.integer({ min: 0, max: 64 }),
    bytes: fc.uint8Array({ maxLength: 16 }),
  });
  return fc.tuple(seeds, fc.array(change, { maxLength: 4 })).map(([seed, changes]) => {
    let bytes = new Uint8Array(Buffer.from(seed as string));
    for (const { kind, at: where, length, bytes: given } of changes) {
      const at = Math.floor(where * bytes.length);
      const piece = bytes.subarray(at, at + length);
      if (kind === "flip" && bytes.length > 0) bytes[Math.min(at, bytes.length - 1)]! ^= 1 << (length & 7);
      if (kind === "cut") bytes = joined(bytes.subarray(0, at), bytes.subarray(at + length));
      if (kind === "double") bytes = joined(bytes.subarray(0, at), piece, bytes.subarray(at));
      if (kind === "insert") bytes = joined(bytes.subarray(0, at), given, bytes.subarray(at));
      if (kind === "truncate") bytes = bytes.slice(0, at);
    }
    return bytes;
  });
}

function joined(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.concat(parts));
}

/** A right value with some of its places, at any depth, set to something else or taken away. */
export function damaged(right: unknown): fc.Arbitrary<unknown> {
  const paths = placesOf(right);
  const edit = fc.record({ path: fc.constantFrom(...paths), value: json, gone: fc.boolean() });
  return fc.array(edit, { maxLength: 3 }).map((edits) => {
    const copy: unknown = structuredClone(right);
    let result = copy;
    for (const { path, value, gone } of edits) {
      const last = path.at(-1);
      if (last === undefined) {
        result = value;
        continue;
      }
      const holder = path.slice(0, -1).reduce<unknown>((inner, key) => (inner as Holder | undefined)?.[key], copy);
      if (typeof holder !== "object" || holder === null) continue;
      if (gone) delete (holder as Holder)[last];
      else Object.defineProperty(holder, last, { value, enumerable: true, writable: true, configurable: true });
    }
    return result;
  });
}
type Holder = Record<string, unknown>;

function placesOf(value: unknown, path: string[] = []): string[][] {
  if (typeof value !== "object" || value === null) return [path];
  const inner = Object.entries(value).flatMap(([key, one]) => placesOf(one, [...path, key]));
  return [
    path,
    ...inner,
    ...(path.length < 4
      ? [
          [...path, "__proto__"],
          [...path, "extra"],
        ]
      : []),
  ];
}

// ---------------------------------------------------------------------------------------------------------------
// What has to hold

const BEFORE = JSON.stringify(namesOf());

function namesOf(): string[] {
  return [Object.prototype, Array.prototype, Function.prototype].flatMap((one) =>
    Reflect.ownKeys(one).map((key) => String(key)),
  );
}

/** Throws when something was added to the prototypes that everything inherits from. */
export function prototypesUntouched(): void {
  if (JSON.stringify(namesOf()) !== BEFORE) throw new Error("a prototype was touched");
  const probe: Record<string, unknown> = {};
  for (const _ in probe) throw new Error("a prototype was touched");
}

/** All files below a folder but those below `except`, by path, sorted. */
export function listing(folder: string, except: string[] = []): string[] {
  return below(Buffer.from(folder), except).toSorted();
}

function below(folder: Buffer, except: string[]): string[] {
  return readdirSync(folder, { encoding: "buffer" }).flatMap((name) => {
    const path = Buffer.concat([folder, Buffer.from("/"), name]);
    const shown = path.toString("latin1");
    if (except.includes(shown)) return [];
    return [shown, ...(lstatSync(path).isDirectory() ? below(path, except) : [])];
  });
}

/** Resident memory of a process, in MiB. */
export async function residentMb(pid: number): Promise<number> {
  const status = await Bun.file(`/proc/${pid}/status`).text();
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}

/**
 * CPU time that a process has used, in milliseconds: this one, or another by its id. What something costs is judged by it and
 * not by the clock: on a busy machine a process may have to wait ten times as long as it computes.
 */
export function cpuMs(pid?: number): number {
  if (pid === undefined) {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1000;
  }
  // proc_pid_stat(5): utime and stime are the 14th and 15th field, in ticks of 10 ms; the name before them may hold anything.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /s, "")
    .split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** Gives each input to `work`, so many at a time. */
export async function sideBySide<T>(
  inputs: readonly T[],
  at: number,
  work: (input: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < inputs.length) await work(inputs[next++]!);
  };
  await Promise.all(Array.from({ length: at }, one));
}

/**
 * Sends bytes over a socket of their own and gives what came back: a whole answer, or what there was when the other side closed.
 * "" where it closed without a word, null where nothing at all came for `patience` ms.
 * @param quiet when so many ms pass without an answer, our side of the connection is closed: what is sent may be half a request.
 */
export function exchange(url: string, bytes: Uint8Array, patience: number, quiet = patience): Promise<string | null> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve) => {
    let got = "";
    const socket = connect({ host: hostname, port: Number(port) });
    const end = (result: string | null): void => {
      clearTimeout(late);
      clearTimeout(silent);
      socket.destroy();
      resolve(result);
    };
    const late = setTimeout(() => end(got === "" ? null : got), patience);
    const silent = setTimeout(() => socket.end(), quiet);
    socket.on("connect", () => socket.write(bytes));
    socket.on("data", (chunk) => {
      got += chunk.toString("latin1");
      if (isWhole(got)) end(got);
    });
    socket.on("close", () => end(got));
    socket.on("error", () => end(got));
  });
}

function isWhole(answer: string): boolean {
  const head = answer.indexOf("\r\n\r\n");
  if (head < 0) return false;
  const length = /\r\ncontent-length: (\d+)/i.exec(answer.slice(0, head));
  return length !== null && answer.length >= head + 4 + Number(length[1]);
}

/** The statuses in what a server sent, in order: pipelined requests get several. */
export function statusesOf(answer: string): number[] {
  return [...answer.matchAll(/(?:^|\r\n\r\n|[}\]])HTTP\/1\.[01] (\d{3})/g)].map((match) => Number(match[1]));
}
