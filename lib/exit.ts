// How a program ends: an error becomes text or log lines, and an exit code.
//
// Exit codes: 0 done · 1 it failed while running · 2 wrong usage, or a required setting is missing · 3 the other side
// refused our credentials · 78 the configuration is invalid (EX_CONFIG, sysexits.h) · 128 + N at a second signal N.

import { writeSync } from "node:fs";
import { UsageError } from "./command-line.ts";
import { ConfigError } from "./config.ts";
import { deniedHint } from "./files.ts";
import { errorChain, type Log, writeStderr } from "./log.ts";

/** The other side refused our credentials (401, 403): exit code 3, and units don't restart on it. */
export class RefusedCredentials extends Error {
  override name = "RefusedCredentials";
  hint: string | undefined;

  constructor(message: string, options?: ErrorOptions & { hint?: string }) {
    super(message, options);
    this.hint = options?.hint;
  }
}

/** Where errors go: to `log` where stderr is JSON, else they are text. `strays` is the log of a daemon. */
export interface Top {
  program: string;
  log: Log | null;
  strays: Log | null;
  debug: boolean;
  neverFails: boolean;
}

/** Ends the program at an error that nothing catches, such as a dropped promise's: it must not limp on. */
export function takeStrays(top: Top): void {
  const die = (error: unknown): never => {
    if (top.strays === null) process.exit(report(error, top));
    top.strays.error("unexpected error, giving up", { error });
    if (error instanceof Error && error.stack) top.strays.debug(error.stack);
    process.exit(1);
  };
  process.on("uncaughtException", die);
  process.on("unhandledRejection", die);
}

/** The one printer of errors. Returns what they mean as an exit code. */
export function report(error: unknown, { program, log, debug, neverFails }: Top): number {
  const lines = error instanceof ConfigError ? [...error.problems] : [errorChain(error)];
  const hint = findHint(error);
  const stack = debug && error instanceof Error ? error.stack : undefined;
  const code = neverFails ? 0 : exitCode(error);
  if (log) {
    for (const line of lines) log.error(line, { hint, stack });
    return code;
  }
  // Problems stand at the start of their lines, where editors look for FILE:LINE:COL.
  if (error instanceof ConfigError) {
    lines.unshift(
      `${program}: error: ${error.exitCode === 2 ? "a required setting is missing" : "the configuration is invalid"}`,
    );
  } else lines[0] = `${program}: error: ${lines[0]}`;
  for (const line of lines) writeStderr(line);
  if (hint !== undefined) writeStderr(`hint: ${hint}`);
  if (stack !== undefined) writeStderr(stack, "debug");
  return code;
}

/** The first hint in an error's chain. */
function findHint(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ("hint" in error && typeof error.hint === "string") return error.hint;
  return findHint(error.cause) ?? deniedHint((error as NodeJS.ErrnoException).code);
}

function exitCode(error: unknown): number {
  if (error instanceof UsageError) return 2;
  if (error instanceof ConfigError) return error.exitCode;
  return error instanceof RefusedCredentials ? 3 : 1;
}

/** Writes to stdout, also to a pipe that is non-blocking and full for now. Ends the program with 0 when the reader is gone. */
export function print(text: string): void {
  const bytes = Buffer.from(text.endsWith("\n") ? text : `${text}\n`);
  for (let offset = 0; offset < bytes.length;) {
    try {
      offset += writeSync(1, bytes, offset);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EPIPE") process.exit(0);
      if (code !== "EAGAIN") throw new Error("cannot write to stdout", { cause: error });
      Bun.sleepSync(2);
    }
  }
}
