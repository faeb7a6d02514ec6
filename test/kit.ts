// The few helpers that tests share: temporary folders, conditions, daemons as child processes, inbox lines.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { alternatives, marksOf, type Shape } from "../lib/config/shape.ts";
import { binaries } from "./binaries.ts";

export const ROOT = join(import.meta.dir, "..");

/** What a suite runs against: the script, or the binary compiled from it. */
export type Target = "source" | "binary";
export const TARGETS: readonly Target[] = ["source", "binary"];
/** What a test runs that names neither: the script, or by PICKET_TEST_TARGET=binary the compiled program, as `bun run test` does. That starts with a third of the CPU time. */
export const DEFAULT_TARGET: Target = process.env["PICKET_TEST_TARGET"] === "binary" ? "binary" : "source";

/** A temporary folder that goes away at the end of its `using` block. */
export class Folder implements Disposable {
  readonly path: string;
  constructor(under = tmpdir()) {
    this.path = mkdtempSync(join(under, "picket-test-"));
  }
  at(...names: string[]): string {
    return join(this.path, ...names);
  }
  write(name: string, content: string | Uint8Array): string {
    writeFileSync(this.at(name), content);
    return this.at(name);
  }
  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

type Truthy<T> = Exclude<T, undefined | null | false | "" | 0>;

/** Asks until the answer is truthy, less often the longer it takes, and gives it; throws with `what` after so many seconds. */
export async function until<T>(what: string, probe: () => T | Promise<T>, seconds = 120): Promise<Truthy<T>> {
  const start = performance.now();
  for (;;) {
    const answer = await probe();
    if (answer) return answer as Truthy<T>;
    const waited = performance.now() - start;
    if (waited > seconds * 1000) throw new Error(`waited ${seconds} s in vain: ${what}`);
    await Bun.sleep(Math.min(5 + waited / 20, 50));
  }
}

/** The command line of a role: `bun role.ts`, or its link to the one binary; always that of PICKET_TEST_BINARIES where it is set. */
export async function command(role: string, target: Target): Promise<string[]> {
  return target === "source" && !process.env["PICKET_TEST_BINARIES"]
    ? [process.execPath, join(ROOT, `${role}.ts`)]
    : [join(await binaries(), `picket-${role}`)];
}

/** What a finished command left. */
export interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  target?: Target;
  env?: Record<string, string | undefined>;
  cwd?: string;
  stdin?: string | Uint8Array;
  /** A command that runs the role. */
  wrap?: string[];
}

/** Runs a role's command to its end. */
export async function runRole(role: string, args: string[], options: RunOptions = {}): Promise<Outcome> {
  const cmd = [...(options.wrap ?? []), ...(await command(role, options.target ?? DEFAULT_TARGET)), ...args];
  const child = Bun.spawn(cmd, {
    env: { ...process.env, ...options.env },
    cwd: options.cwd ?? ROOT,
    stdin: options.stdin === undefined ? "ignore" : Buffer.from(options.stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

/** A daemon as a child process; ends with its `using` block. */
export class Daemon implements AsyncDisposable {
  readonly child: Subprocess<"ignore", "ignore", "pipe">;
  readonly log: string[] = [];
  constructor(child: Subprocess<"ignore", "ignore", "pipe">) {
    this.child = child;
    void this.#read();
  }
  /** Base URL, once the daemon said where it listens. */
  async url(): Promise<string> {
    const line = await until("the daemon is ready", () => {
      if (this.child.exitCode !== null)
        throw new Error(`the daemon ended with ${this.child.exitCode}:\n${this.log.join("\n")}`);
      return this.log.find((one) => one.includes(" ready ") || one.includes('"ready"'));
    });
    const listen = /listen"?[=:]"?([^\s",]+)/.exec(line)?.[1];
    return `http://${listen}`;
  }
  /** Waits for a line of the log. */
  async said(what: string | RegExp): Promise<string> {
    return until(`the log says ${what}`, () =>
      this.log.find((line) => (typeof what === "string" ? line.includes(what) : what.test(line))),
    );
  }
  async kill(signal: NodeJS.Signals = "SIGTERM"): Promise<number> {
    this.child.kill(signal);
    return this.child.exited;
  }
  async #read(): Promise<void> {
    let rest = "";
    for await (const chunk of this.child.stderr.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      this.log.push(...lines);
    }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode === null) this.child.kill("SIGKILL");
    await this.child.exited;
  }
}

/** Starts a role's daemon. Its first log line with `ready` tells where it listens. */
export async function startRole(role: string, args: string[], options: RunOptions = {}): Promise<Daemon> {
  const cmd = [...(options.wrap ?? []), ...(await command(role, options.target ?? DEFAULT_TARGET)), ...args];
  const child = Bun.spawn(cmd, {
    env: { ...process.env, ...options.env },
    cwd: options.cwd ?? ROOT,
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  return new Daemon(child);
}

/** So long a line may be under way: a large append is seen in pieces, and its writer may have to wait for the CPU. */
const LINE_MS = 5000;

/**
 * The text of a file of lines, "" where there is none. A last line without its end may be one that is being written just now:
 * it is looked at again, and whole a moment later. Throws where it stays torn.
 */
export function wholeLines(path: string): string {
  const end = performance.now() + LINE_MS;
  for (;;) {
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch {
      return "";
    }
    if (text === "" || text.endsWith("\n")) return text;
    if (performance.now() > end) throw new Error(`the last line of ${path} is torn`);
    Bun.sleepSync(5);
  }
}

/** Inboxes that are no files, by the folder that stands for them in a test (inbox-kit.ts). */
export const inboxTables = new Map<string, (recipient: string) => string>();

/** The lines of an inbox, each of which has to be whole; a missing inbox has none. Empty lines are skipped, as by every reader. */
export function inboxLines(dir: string, recipient: string): Record<string, string>[] {
  const lines = (inboxTables.get(dir)?.(recipient) ?? wholeLines(join(dir, `${recipient}.inbox`))).split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Record<string, string>);
}

/** True when the program is on PATH; else says that `test` is skipped. */
export function have(program: string, test: string): boolean {
  if (Bun.which(program)) return true;
  console.log(`skipped: ${test}: ${program} is not installed`);
  return false;
}

/** Makes ca, foreign-ca, server, renewed, client, foreign (of the foreign one) and expired, each a .pem and a .key, with openssl. */
export async function certificates(folder: Folder): Promise<void> {
  const sh = (script: string) => Bun.$`sh -c ${script}`.cwd(folder.path).quiet();
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
  const authority = (name: string) =>
    `openssl req -x509 ${key} -nodes -keyout ${name}.key -out ${name}.pem -days 2 -subj /CN=${name}`;
  const signed = (name: string, by: string, days = "-days 2") =>
    `openssl req ${key} -nodes -keyout ${name}.key -out ${name}.csr -subj /CN=localhost && printf 'subjectAltName=IP:127.0.0.1,DNS:localhost' > ext && openssl x509 -req -in ${name}.csr -CA ${by}.pem -CAkey ${by}.key -CAcreateserial ${days} -extfile ext -out ${name}.pem`;
  await sh(
    [
      authority("ca"),
      authority("foreign-ca"),
      signed("server", "ca"),
      signed("renewed", "ca"),
      signed("client", "ca"),
      signed("foreign", "foreign-ca"),
      signed("expired", "ca", "-days -1"),
    ].join(" && "),
  );
}

/** Ports below those that the kernel gives out by itself (net.ipv4.ip_local_port_range, 32768 and up). */
const OWN_PORTS = { from: 20_000, to: 32_000 };

/**
 * A port that is free now and that no other test is given while this process lives: for a daemon that has to come back at the same
 * address. An abstract socket named after the port keeps other processes away; the kernel takes it back.
 */
export function freePort(): number {
  for (;;) {
    const port = OWN_PORTS.from + Math.floor(Math.random() * (OWN_PORTS.to - OWN_PORTS.from));
    try {
      Bun.listen({ unix: `\0picket-test-port-${port}`, socket: { data() {} } }).unref();
      Bun.listen({ hostname: "127.0.0.1", port, socket: { data() {} } }).stop(true);
      return port;
    } catch {
      // taken: try another
    }
  }
}

/** A server that gives one answer, behind an environment whose proxy for everything is another one. */
export class BehindProxy implements AsyncDisposable {
  /** Who was asked, "server" or "proxy". */
  readonly seen: string[] = [];
  readonly url: string;
  readonly env: Record<string, string>;
  readonly #servers: Bun.Server<undefined>[];
  constructor(answer: unknown) {
    const answering = (name: string) =>
      Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        fetch: () => {
          this.seen.push(name);
          return Response.json(answer);
        },
      });
    const [proxy, server] = [answering("proxy"), answering("server")];
    this.#servers = [proxy, server];
    this.url = `http://127.0.0.1:${server.port}`;
    this.env = { http_proxy: String(proxy.url), HTTP_PROXY: String(proxy.url), NO_PROXY: "", no_proxy: "" };
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.stop(true)));
  }
}

/** The settings of a schema that wait for a restart, by name: for every change, or only when a section appears or goes. */
export function restartKeys(schema: Shape, path: string[] = []): { key: string; of: string }[] {
  const of = marksOf(schema).find((mark) => mark.kind === "restart")?.of;
  const [only, ...others] = alternatives([schema]);
  const entries = of === "value" || others.length > 0 ? [] : Object.entries(only?.entries ?? {});
  const inside = entries.flatMap(([key, entry]) => restartKeys(entry, [...path, key]));
  return of === undefined ? inside : [{ key: path.join("."), of }, ...inside];
}
