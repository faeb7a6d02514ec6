// A program's life from argv to exit code; no role touches `process` itself.
//
//   argv ─ sub-command ──────────────────────────────────────────────→ its number, else 0
//        └ daemon: configuration → main → READY=1 → loops … SIGTERM → loops end → stop → 0
//                       └ 78, 2      └ 1, 3          └ SIGHUP: RELOADING=1, reload, READY=1
//
// What the exit codes mean: lib/exit.ts.

import { once } from "node:events";
import { isatty } from "node:tty";
import type * as v from "valibot";
import {
  commandHelp,
  commandOf,
  groupHelp,
  helpText,
  parseCommandLine,
  type Args,
  type Calling,
  type Request,
} from "./command-line.ts";
import { checkAsService } from "./as-service.ts";
import { ConfigError, loadConfig, printConfig, untilRestart, type ShortForms } from "./config.ts";
import { print, report, takeStrays, type Top } from "./exit.ts";
import { createLog, errorChain, type Log, writeStderr } from "./log.ts";
import { createLoops, toldToStop, type Loop, type LoopOptions } from "./loop.ts";
import { isService, managed, notify, reloading, watchdogMs } from "./systemd.ts";
import { guessText } from "./json.ts";
import { ownCommand, unitText } from "./unit.ts";
import { versionLine } from "./version.ts";

export { UsageError, type Args } from "./command-line.ts";
export { RefusedCredentials } from "./exit.ts";
export type { Loop, LoopOptions, LoopStats } from "./loop.ts";

/** After a signal: how long the loops may take to end before `stop` is called all the same. */
const LOOPS_END_MS = 1500;
/** After a signal: when what is still going on is cut off. The promise is 3 s. */
const STOP_MS = 2500;
/** The exit code of a process that a signal ended: 128 + its number. */
const STOP_SIGNALS = { SIGINT: 130, SIGTERM: 143 };
/** How long a silent stdin is waited for; and one that has sent a whole JSON value, but isn't closed. */
const SILENT_MS = 5000;
const SETTLED_MS = 300;
/** Systemd ends a start that says nothing for so long. */
const WAITS_MS = 60_000;
/** How often `STATUS=` is told at most. */
const STATUS_MS = 5000;

/** What a role's `main` hands back once it really serves. */
export interface Running<C> {
  /** One line of figures for `systemctl status`. */
  status(): string;
  /** What is wrong now, in a few words each, such as `DISK FULL`: stands before the figures. Null: nothing. */
  troubles?(): (string | null)[];
  /** Takes over a new, valid configuration without dropping anything. What waits for a restart (see config/restart.ts) is in it as it was. */
  reload(config: C): Promise<void> | void;
  /** Stops taking, finishes what is in hand. The loops have ended before. */
  stop(): Promise<void>;
}

/** What a role's `main` gets besides its configuration. */
export interface Service {
  log: Log;
  env: Environment;
  /** Aborted at SIGTERM or SIGINT: take nothing new, let the pass end. */
  stopping: AbortSignal;
  /** Says in the status line why the start takes so long. */
  waits: (why: string) => void;
  /** Adds a loop. Its first pass comes when `main` has returned, and at once after that. */
  loop: (options: LoopOptions) => Loop;
}

/** What a sub-command gets. `A` names the flags it declared: `CommandContext<Config, { follow?: boolean }>`. */
export interface CommandContext<C, A = Args> {
  log: Log;
  env: Environment;
  args: A;
  positionals: string[];
  /** The configuration; its warnings are logged. Errors in `unused` sections don't count. @throws ConfigError. */
  loadConfig: (unused?: readonly string[]) => Promise<C>;
  /** Runs `--check`, which judges as the installed service does where root asks: its exit code, and what it said on stderr. */
  check: () => Promise<{ code: number; said: string[] }>;
  /** Writes to stdout, with a line break if the text doesn't end with one. Ends the program with exit code 0 when the reader is gone (`| head`). */
  print: (text: string) => void;
  /** All of stdin as text. */
  stdin: () => Promise<string>;
  /** The words that start this program again. */
  command: string[];
  /** Aborted at SIGINT or SIGTERM. A command that hasn't ended 2.5 s later is cut off. */
  signal: AbortSignal;
}

/**
 * A sub-command, as data. Its key in `commands` is what is typed: "ping", "host add", or a flag ("--once") that takes
 * the daemon's place. `run` returns the exit code if it isn't 0.
 */
export interface Command<C> extends Calling {
  /**
   * True for arguments with which it ends with 0 whatever happens, wrong usage included: for a caller that takes any other code as "stop the
   * work". Stdin is then read to its end before anything else: for a caller whose long prompt mustn't end in EPIPE.
   */
  neverFails?: (argv: string[]) => boolean;
  // A method, so that a function that names its flags (see CommandContext) fits.
  run(context: CommandContext<C>): Promise<number | void>;
}

export type Environment = Record<string, string | undefined>;

export interface Role<C> {
  /** The head of the help: what it is, and an example to paste. */
  usage: string;
  schema: v.GenericSchema<unknown, C>;
  /** Environment variables with a name of their own, see config.ts. */
  shortForms?: ShortForms;
  main(config: C, service: Service): Promise<Running<C>>;
  commands?: Record<string, Command<C>>;
  /** The text of the annotated configuration in `etc/`. */
  example: string;
}

export interface Called {
  /** What follows the words of `command`. */
  argv: string[];
  /** The words that start the role again. */
  command: string[];
}

/** Runs a role as `picket-<role>`: the daemon, or what its command line asks for. Ends the process. */
export async function run<C>(
  role: string,
  options: Role<C>,
  { argv, command }: Called = { argv: process.argv.slice(2), command: ownCommand() },
): Promise<never> {
  const program = `picket-${role}`;
  const top: Top = { program, log: null, strays: null, debug: false, neverFails: false };
  takeStrays(top);
  managed(); // also takes systemd's variables out of the environment, before a program is started
  try {
    if (argv.includes("--json-log")) top.log = createLog({ role, json: true, level: "error" });
    const commands = { ...options.commands, ...builtIn(role, options.example, command) };
    const called = commandOf(argv, commands);
    top.neverFails = called !== null && commands[called]?.neverFails?.(argv) === true;
    const stdin = top.neverFails ? await readPatiently() : null;
    const request = parseCommandLine(argv, commands);
    top.debug = request.level === "debug";
    process.exit(await answer({ role, program, options, commands, request, top, command, stdin }));
  } catch (error) {
    process.exit(report(error, top));
  }
}

/** All of stdin. A terminal isn't read, and a pipe that stays open and silent is left after a while. */
async function readPatiently(): Promise<string> {
  const parts: Uint8Array[] = [];
  if (isatty(0)) return "";
  try {
    const reader = Bun.stdin.stream().getReader();
    for (;;) {
      const silent = Bun.sleep(isWholeJson(parts) ? SETTLED_MS : SILENT_MS);
      const next = await Promise.race([reader.read(), silent]);
      if (!next?.value) break;
      parts.push(next.value);
    }
  } catch {
    // It is closed, or can't be read.
  }
  return guessText(Buffer.concat(parts));
}

function isWholeJson(parts: Uint8Array[]): boolean {
  // Most parts of a long text don't end like this, and needn't be parsed.
  if (
    !/\}\s*$/.test(
      Buffer.from(parts.at(-1) ?? [])
        .toString("latin1")
        .slice(-20),
    )
  )
    return false;
  try {
    JSON.parse(guessText(Buffer.concat(parts)));
    return true;
  } catch {
    return false;
  }
}

interface Life<C> {
  role: string;
  program: string;
  options: Role<C>;
  commands: Record<string, Command<C>>;
  request: Request;
  top: Top;
  /** The words that start the role again. */
  command: string[];
  /** What stdin held, where it has been read. */
  stdin: string | null;
}

async function answer<C>(life: Life<C>): Promise<number> {
  const { role, program, options, commands, request } = life;
  const command = request.command === null ? undefined : commands[request.command];
  if (request.args.help) {
    if (request.group !== null) print(groupHelp(program, request.group, commands));
    else print(command ? commandHelp(command) : helpText(role, options.usage, commands));
    return 0;
  }
  if (request.args.version) {
    print(versionLine(program));
    return 0;
  }
  const log = createLog({ role, json: request.args["json-log"] === true, level: request.level });
  if (command) return runCommand(life, command, log);
  if (request.args.check) return check(life);
  return runDaemon(life, log);
}

function builtIn(role: string, example: string, command: string[]): Record<string, Command<unknown>> {
  const program = `picket-${role}`;
  return {
    unit: {
      summary: "print the systemd unit for where this program lies (--user: a user unit)",
      usage: `usage: ${program} unit [--user]\n\nexample: ${program} unit > /etc/systemd/system/${program}.service`,
      async run({ args, print }) {
        print(unitText(role, args["user"] === true ? "user" : "system", command));
      },
    },
    example: {
      summary: "print the annotated configuration",
      usage: `usage: ${program} example\n\nexample: ${program} example > /etc/picket/${role}.yaml`,
      async run({ print }) {
        print(example);
      },
    },
  };
}

/** The configuration; `warn` is told each of its warnings. */
async function load<C>(
  { role, options, request }: Life<C>,
  warn: (warning: string) => void,
  unused?: readonly string[],
): Promise<C> {
  const { schema, shortForms } = options;
  const { config: file, check: isCheck = false } = request.args;
  // A file that is named may be meant for another machine: what it needs there is not judged here.
  const judge = { role, service: isService(), folders: isCheck && (file === undefined || isService()) };
  const { config, warnings } = await loadConfig({ role, schema, shortForms, judge, unused, file });
  for (const warning of warnings) warn(warning);
  return config;
}

async function check<C>(life: Life<C>): Promise<number> {
  const { role, request } = life;
  const command = [...life.command, "--check", ...(request.args.print ? ["--print"] : [])];
  const code = await checkAsService({ role, command, config: request.args.config });
  if (code !== null) return code;
  const config = await load(life, (warning) => writeStderr(`${life.program}: warning: ${warning}`, "warn"));
  print("ok");
  if (request.args.print) print(printConfig(config));
  return 0;
}

async function runCommand<C>(life: Life<C>, command: Command<C>, log: Log): Promise<number> {
  const stop = new AbortController();
  onStopSignals((signal) => {
    stop.abort();
    setTimeout(() => process.exit(STOP_SIGNALS[signal]), STOP_MS);
  });
  const code = await command.run({
    log,
    env: process.env,
    args: life.request.args,
    positionals: life.request.positionals,
    loadConfig: (unused) => load(life, log.warn, unused),
    async check() {
      const { config } = life.request.args;
      const words = [...life.command, "--check", ...(config === undefined ? [] : ["--config", config])];
      const child = Bun.spawn(words, { stdout: "ignore", stderr: "pipe", env: process.env });
      const text = await new Response(child.stderr).text();
      return { code: await child.exited, said: text.split("\n").filter(Boolean) };
    },
    print,
    stdin: async () => life.stdin ?? guessText(await Bun.stdin.bytes()),
    command: life.command,
    signal: stop.signal,
  });
  return code ?? 0;
}

async function runDaemon<C>(life: Life<C>, log: Log): Promise<number> {
  life.top.strays = log;
  const stopping = stopSignal(log);
  let isReloadAsked = false;
  let reloads: Loop | undefined;
  process.on("SIGHUP", () => {
    log.debug("SIGHUP");
    isReloadAsked = true;
    reloads?.wake();
  });
  const config = await load(life, log.warn);
  let running: Running<C> | undefined;
  let trouble: string | null = null;
  const status = (): string => statusLine(running, [trouble, ...loops.failing()]);
  const loops = createLoops({ log, stopping, watchdogMs: watchdogMs(), sign: createTeller(status) });
  try {
    const waits = (why: string): void =>
      void notify(`STATUS=${why.replace(/\s+/g, " ")}\nEXTEND_TIMEOUT_USEC=${WAITS_MS * 1000}`);
    running = await life.options.main(config, { log, env: process.env, stopping, waits, loop: loops.loop });
  } catch (error) {
    if (toldToStop(error, stopping)) return 0;
    throw error;
  }
  if (!stopping.aborted) {
    const reload = createReload(life, log, { running, config });
    const pass = async (): Promise<void> => {
      if (!isReloadAsked) return;
      isReloadAsked = false;
      notify(reloading());
      trouble = await reload();
      loops.reconsider();
      if (!stopping.aborted) notify(ready(status()));
    };
    reloads = loops.loop({ name: "reload", every: () => Infinity, pass });
    announce(log, status());
    loops.start();
    await once(stopping, "abort");
  }
  await Promise.race([loops.ended(), Bun.sleep(LOOPS_END_MS)]);
  await running.stop();
  return 0;
}

/** What the first SIGINT or SIGTERM of a daemon sets going, the cut at its end included. */
function stopSignal(log: Log): AbortSignal {
  const stop = new AbortController();
  onStopSignals((signal) => {
    notify("STOPPING=1");
    log.info("stopping", { signal });
    stop.abort();
    setTimeout(() => {
      log.warn("stopped before everything had ended", { after_seconds: STOP_MS / 1000 });
      process.exit(0);
    }, STOP_MS);
  });
  return stop.signal;
}

/** What is wrong, and a role's figures, as one line. A role that can't say them goes on serving. */
function statusLine(running: Running<never> | undefined, others: (string | null)[]): string {
  const parts = [...others];
  try {
    parts.unshift(...(running?.troubles?.() ?? []));
    parts.push(running?.status() ?? null);
  } catch (error) {
    parts.push(`no figures: ${errorChain(error)}`);
  }
  return parts.filter(Boolean).join("; ").replace(/\s+/g, " ").trim();
}

/** Tells systemd that it serves. */
function announce(log: Log, status: string): void {
  if (notify(ready(status)) || !managed()) return;
  log.warn("systemd can't be notified: its socket is gone, or libc is unreachable (is MemoryDenyWriteExecute set?)");
}

function ready(status: string): string {
  return status === "" ? "READY=1" : `READY=1\nSTATUS=${status}`;
}

/** Makes of the loops' signs of life what systemd is told: WATCHDOG=1 while all live, STATUS= when it has changed. */
function createTeller(status: () => string): (all: boolean) => void {
  const period = watchdogMs();
  let fedAt = Number.NEGATIVE_INFINITY;
  let toldAt = Number.NEGATIVE_INFINITY;
  let told = "";
  return (all) => {
    if (!managed()) return;
    const now = performance.now();
    const lines: string[] = [];
    // Signs come at least every third of the period; sent at most every quarter, the gap stays under two thirds.
    if (period !== null && all && now - fedAt >= period / 4) {
      lines.push("WATCHDOG=1");
      fedAt = now;
    }
    if (now - toldAt >= STATUS_MS) {
      const text = status();
      if (text !== told) lines.push(`STATUS=${text}`);
      told = text;
      toldAt = now;
    }
    if (lines.length > 0) notify(lines.join("\n"));
  };
}

/**
 * Reads the file again. A valid one takes effect, but for what waits for a restart; an invalid one is refused, and the former stays. Gives why
 * the file is not in effect as it stands; null when it is.
 */
function createReload<C>(
  life: Life<C>,
  log: Log,
  { running, config: first }: { running: Running<C>; config: C },
): () => Promise<string | null> {
  let former = first;
  return async () => {
    try {
      const next = await load(life, log.warn);
      const { config, messages, problems } = untilRestart(life.options.schema, { former, next });
      for (const message of messages) log.warn(message);
      if (problems.length > 0) throw new ConfigError(problems);
      await running.reload(config);
      former = config;
      log.info("configuration reloaded");
      return messages.length === 0 ? null : `restart needed: ${messages.map((one) => one.split(": ")[0]).join(", ")}`;
    } catch (error) {
      const problems = error instanceof ConfigError ? error.problems : [errorChain(error)];
      for (const problem of problems) log.error(problem);
      log.error("configuration refused: the former one stays");
      if (error instanceof Error && error.stack) log.debug(error.stack);
      return `old configuration: ${problems.length} ${problems.length === 1 ? "error" : "errors"}`;
    }
  };
}

/** Calls `first` at the first SIGINT or SIGTERM; a second one ends the process at once. */
function onStopSignals(first: (signal: keyof typeof STOP_SIGNALS) => void): void {
  let asked = false;
  const handle = (signal: keyof typeof STOP_SIGNALS) => (): void => {
    if (asked) process.exit(STOP_SIGNALS[signal]);
    asked = true;
    first(signal);
  };
  process.on("SIGINT", handle("SIGINT"));
  process.on("SIGTERM", handle("SIGTERM"));
}
