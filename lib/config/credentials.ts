// Where secrets come from: written in place (`token`), a file (`token_file`), or a systemd credential.
//
// One secret, one source: in place and by file at once is an error. Neither: the credential named after the whole key
// ("auth.token"; list indexes as numbers) in $CREDENTIALS_DIRECTORY, then the one named after the bare key ("token").
// The bare name serves only the first setting of that name in the schema: an agent's hub token must not end up at
// another service because both keys are called "token".

import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { Secret } from "../secret.ts";
import { marked, type Shape, settings } from "./shape.ts";
import { resolvePath, type Surroundings } from "./paths.ts";
import { isMapping, type Mapping, type Path } from "./data.ts";

const LARGEST_SECRET = 65_536;

/** How a secret is written in a configuration: one, or several for rotation. */
export type SecretSchema = v.GenericSchema<string | string[], Secret[]>;

/**
 * The schema entries of a secret, to be spread into a `v.strictObject`: `{ ...secret("token", { required: true }) }`
 * takes `token` or `token_file` or a systemd credential, each one or a list, and gives `token: Secret[]`: all of them,
 * empty when it is optional and absent. `token_file` is no part of the result.
 *
 * `loadConfig` reads the files and credentials; parsed by valibot alone, the schema knows only the value in place.
 */
export function secret<const K extends string>(key: K): Record<K, v.OptionalSchema<SecretSchema, readonly []>>;
export function secret<const K extends string>(key: K, options: { required: true }): Record<K, SecretSchema>;
export function secret(key: string, options?: { required: true }): Record<string, v.GenericSchema> {
  const value = v.pipe(
    v.union([v.string(), v.array(v.string())]),
    marked({ kind: "secret", key }),
    v.transform((given) => (Array.isArray(given) ? given : [given]).map((text) => new Secret(text))),
  );
  // never parsed: loadConfig takes it out; it is here so that the key is known
  const file = v.optional(v.pipe(v.union([v.string(), v.array(v.string())]), marked({ kind: "secret_file", key })));
  return { [key]: options?.required === true ? value : v.optional(value, []), [`${key}_file`]: file };
}

/** Where `resolveSecret` puts what it has to say, with the path that it is about. */
export interface Findings {
  problem(at: Path, text: string): void;
  warning(at: Path, text: string): void;
}

/** Whom a bare credential name serves: key → the setting's path with list indexes as 0. */
export type BareNames = ReadonlyMap<string, string>;

/** The first setting of each secret's name in the schema. */
export function bareNames(root: Shape): BareNames {
  const names = new Map<string, string>();
  for (const { path, mark } of settings(root)) {
    if (mark?.kind === "secret" && !names.has(mark.key)) names.set(mark.key, path.join("."));
  }
  return names;
}

/**
 * Puts the texts of the secret `key` into `mapping[key]` (a list), whichever way they are given, and takes
 * `mapping[key_file]` out. Leaves the key absent when there is none. Problems never quote a value.
 */
export function resolveSecret(options: {
  mapping: Mapping;
  key: string;
  path: Path;
  surroundings: Surroundings;
  bare: BareNames;
  findings: Findings;
}): void {
  const { mapping, key, path, surroundings, findings } = options;
  const fileKey = `${key}_file`;
  const inPlace = mapping[key];
  const byFile = mapping[fileKey];
  delete mapping[fileKey];
  if (inPlace !== undefined && byFile !== undefined) {
    findings.problem([...path, fileKey], `given beside ${key}: one of the two has to go`);
    mapping[key] = [];
    return;
  }
  if (inPlace !== undefined) {
    const listed = texts(inPlace, { path: [...path, key], what: "text", findings });
    mapping[key] = listed.map(({ text }) => text);
    return;
  }
  if (byFile !== undefined) {
    const listed = texts(byFile, { path: [...path, fileKey], what: "a path", findings });
    mapping[key] = listed.flatMap(({ text, at }) => fromFile(text, { at, surroundings, findings }) ?? []);
    return;
  }
  const credential = fromCredential(options);
  if (credential !== null) mapping[key] = [credential];
}

/** One text or a list of them, each with its place; what is neither is a problem. */
function texts(
  value: unknown,
  { path, what, findings }: { path: Path; what: string; findings: Findings },
): { text: string; at: Path }[] {
  const listed = Array.isArray(value) ? (value as unknown[]) : [value];
  if (listed.length === 0) findings.problem(path, `expected ${what} or a list of at least one, found an empty list`);
  return listed.flatMap((text, index) => {
    const at = Array.isArray(value) ? [...path, index] : path;
    if (typeof text === "string" && text !== "") return [{ text, at }];
    findings.problem(at, `expected ${what}, found ${describeWrong(text)}`);
    return [];
  });
}

function describeWrong(value: unknown): string {
  if (value === "") return "an empty one";
  if (value === null) return "nothing";
  if (Array.isArray(value)) return "a list";
  return isMapping(value) ? "a mapping" : `a ${typeof value} (put it in quotes)`;
}

function fromFile(
  given: string,
  { at, surroundings, findings }: { at: Path; surroundings: Surroundings; findings: Findings },
): string | null {
  const { credentials } = surroundings;
  if (credentials !== null && !given.includes("/") && !given.startsWith("~")) {
    const outcome = readSecret(join(credentials, given));
    if ("text" in outcome) return outcome.text;
    if (!outcome.absent) {
      findings.problem(at, `the credential of this name ${outcome.problem}`);
      return null;
    }
  }
  const file = resolvePath(given, surroundings);
  const outcome = readSecret(file);
  // somebody may have put the token itself here: only what looks like a path is repeated
  const name = /^(\/|~\/|\.{1,2}\/)/.test(given) ? file : "the file named here";
  if ("problem" in outcome) {
    findings.problem(at, `${name} ${outcome.problem}`);
    return null;
  }
  if ((outcome.mode & 0o066) !== 0) {
    const mode = (outcome.mode & 0o777).toString(8).padStart(4, "0");
    findings.warning(at, `${file} is open to others than its owner (mode ${mode}): chmod 600 ${file}`);
  }
  return outcome.text;
}

function fromCredential(options: Parameters<typeof resolveSecret>[0]): string | null {
  const { key, path, surroundings, bare, findings } = options;
  if (surroundings.credentials === null) return null;
  const full = [...path, key];
  const names = [full.join(".")];
  const setting = full.map((step) => (typeof step === "number" ? 0 : step)).join(".");
  if (bare.get(key) === setting && !names.includes(key)) names.push(key);
  for (const name of names) {
    const outcome = readSecret(join(surroundings.credentials, name));
    if ("text" in outcome) return outcome.text;
    if (!outcome.absent) {
      findings.problem(full, `the credential ${JSON.stringify(name)} ${outcome.problem}`);
      return null;
    }
  }
  return null;
}

type Outcome = { text: string; mode: number } | { problem: string; absent: boolean };

/** A secret's file, without its one trailing line break. Only a regular file is read, and opening it never waits (a FIFO's would). */
function readSecret(file: string): Outcome {
  let fd: number | undefined;
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (!stat.isFile()) return { absent: false, problem: "is not a regular file" };
    if (stat.size > LARGEST_SECRET) return { absent: false, problem: `is over ${LARGEST_SECRET} bytes` };
    const text = decode(readFileSync(fd))?.replace(/\r?\n$/, "");
    if (text === undefined) return { absent: false, problem: "is not UTF-8 text" };
    return text === "" ? { absent: false, problem: "is empty" } : { text, mode: stat.mode };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    const absent = code === "ENOENT" || code === "ENOTDIR";
    return { absent, problem: absent ? "does not exist" : `cannot be read: ${code}` };
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
