// From argv to what is asked for: the flags and sub-commands that all roles have in common, and those of the role.
//
// Flags may stand before and after the sub-command. To know which word is a flag's value and which is the sub-command,
// argv is first read with the flags of all commands together. Where two commands differ in the type of a flag, the first one counts
// whose name is in argv.

import { parseArgs } from "node:util";
import { LEVELS, type Level } from "./log.ts";
import { nearest } from "./nearest.ts";
import { columns } from "./text.ts";

/** Flags as `node:util` parseArgs has them. */
type Flags = Record<string, { type: "string" | "boolean"; short?: string; multiple?: boolean }>;

/** The values of flags by name: text, or true, or a list of them for a flag with `multiple`. */
export type Args = Record<string, string | boolean | (string | boolean)[] | undefined>;

/** How a command is called, as data. */
export interface Calling {
  /** What it does, for the list of commands: a few words in lower case. */
  summary: string;
  /**
   * What `COMMAND --help` prints below the summary: how it is called, its flags, an example. The first paragraph declares what it
   * takes: `usage: PROGRAM COMMAND HOST [FILE] [--json] --limit N`. `NAME…` is one word or more, `[--flag VALUE]…` a flag that may repeat.
   */
  usage: string;
}

export interface Request {
  /** The command's name, such as "host add"; null is the daemon. */
  command: string | null;
  /** The first words of several commands, when that is all there was: only with `help`. */
  group: string | null;
  level: Level;
  args: Args & CommonArgs;
  positionals: string[];
}

/** The flags of every role. */
interface CommonArgs {
  config?: string;
  check?: boolean;
  print?: boolean;
  help?: boolean;
  version?: boolean;
  "json-log"?: boolean;
  "log-level"?: string;
}

/** Wrong usage: exit code 2. */
export class UsageError extends Error {
  override name = "UsageError";
  hint: string | undefined;

  constructor(message: string, hint?: string) {
    super(message);
    this.hint = hint;
  }
}

const COMMON = {
  config: { type: "string" },
  "json-log": { type: "boolean" },
  "log-level": { type: "string" },
  version: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} satisfies Flags;

const DAEMON = { check: { type: "boolean" }, print: { type: "boolean" } } satisfies Flags;

type Token = NonNullable<ReturnType<typeof parseArgs<{ tokens: true; strict: false }>>["tokens"]>[number];
type FlagToken = Extract<Token, { kind: "option" }>;

/**
 * Reads a command line. A command's name is one or more words ("ping", "host add"), or a flag ("--once") that takes the
 * daemon's place.
 * @throws UsageError with the nearest known flag or command as its hint.
 */
export function parseCommandLine(argv: string[], commands: Record<string, Calling>): Request {
  const every = everyFlag(commands, argv);
  const parsed = parseArgs({ args: argv, options: every, strict: false, allowPositionals: true, tokens: true });
  const { tokens } = parsed;
  const flags = tokens.filter((token) => token.kind === "option");
  for (const flag of flags) refuseUnknown(flag, every);
  const asksHelp = flags.some((flag) => flag.name === "help");
  const { command, words, group } = chooseCommand(tokens, commands, asksHelp);
  const declared = command === null ? { flags: DAEMON, names: [] } : declaredBy(command, commands[command]!);
  const own: Flags = { ...COMMON, ...declared.flags };
  for (const flag of flags) {
    if (group === null) refuseForeign(flag, command, own, commands);
    refuseMalformed(flag, every);
  }
  const args: Request["args"] = { ...parsed.values };
  if (args.print && !args.check) throw new UsageError('flag "--print" needs "--check"');
  const level = levelOf(args["log-level"] ?? "info");
  const request = { command, group, level, args, positionals: parsed.positionals.slice(words) };
  if (!args.help && !args.version) checkPositionals(request, declared.names);
  return request;
}

/** The command that a command line names, also one that is wrong otherwise; null for the daemon, or none that is known. */
export function commandOf(argv: string[], commands: Record<string, Calling>): string | null {
  const options = everyFlag(commands, argv);
  const { tokens } = parseArgs({ args: argv, options, strict: false, allowPositionals: true, tokens: true });
  try {
    return chooseCommand(tokens, commands, false).command;
  } catch {
    return null;
  }
}

function everyFlag(commands: Record<string, Calling>, argv: string[]): Flags {
  const line = ` ${argv.join(" ")} `;
  const place = (name: string): number => (line.includes(` ${name} `) ? line.indexOf(` ${name} `) : line.length);
  const lastCounts = Object.entries(commands).toSorted(([a], [b]) => place(b) - place(a));
  const flags = lastCounts.map(([command, calling]) => declaredBy(command, calling).flags);
  return Object.assign({ ...COMMON, ...DAEMON }, ...flags) as Flags;
}

/** The flags of a command, and the names of the words that follow it, as its usage shows them. */
function declaredBy(command: string, { usage }: Calling): { flags: Flags; names: string[] } {
  const [synopsis = ""] = usage.trim().split("\n\n");
  const flags: Flags = {};
  for (const [, name = "", value, more] of synopsis.matchAll(/--([a-z-]+)(?: ([A-Z][A-Z=]*))?(?:\](…))?/g)) {
    flags[name] = { type: value === undefined ? "boolean" : "string", multiple: more !== undefined };
  }
  const [line = ""] = synopsis.split("\n");
  const words = line.slice(line.indexOf(` ${command}`) + command.length + 1);
  const withoutFlags = words.replaceAll(/\[[^\]]*--[^\]]*\]|--[a-z-]+( [A-Z]+)?/g, "");
  return { flags, names: withoutFlags.match(/\[?[A-Z][A-Z/]*\]?…?/g) ?? [] };
}

/** The longest leading words that name a command; without words a flag that is one; else the daemon. */
function chooseCommand(
  tokens: Token[],
  commands: Record<string, Calling>,
  help: boolean,
): { command: string | null; words: number; group: string | null } {
  const end = tokens.findIndex((token) => token.kind === "option-terminator");
  const before = end === -1 ? tokens : tokens.slice(0, end);
  const words = before.filter((token) => token.kind === "positional").map((token) => token.value);
  for (let count = words.length; count > 0; count--) {
    const name = words.slice(0, count).join(" ");
    if (Object.hasOwn(commands, name) && !name.startsWith("--")) return { command: name, words: count, group: null };
  }
  const [first] = words;
  if (first !== undefined) {
    if (help && isGroup(first, commands) && words.length === 1) return { command: null, words: 1, group: first };
    throw unknownCommand(first, words[1], commands);
  }
  const flag = tokens.find((token) => token.kind === "option" && Object.hasOwn(commands, `--${token.name}`));
  return { command: flag?.kind === "option" ? `--${flag.name}` : null, words: 0, group: null };
}

function isGroup(word: string, commands: Record<string, Calling>): boolean {
  return Object.keys(commands).some((name) => name.startsWith(`${word} `));
}

function unknownCommand(first: string, second: string | undefined, commands: Record<string, Calling>): UsageError {
  const names = Object.keys(commands).filter((name) => !name.startsWith("--"));
  const members = names.filter((name) => name.startsWith(`${first} `)).map((name) => name.slice(first.length + 1));
  const follow = `${first} is followed by one of: ${members.join(", ")}`;
  if (members.length > 0 && second === undefined) {
    return new UsageError(`sub-command ${quote(first)} is incomplete`, follow);
  }
  const wrong = members.length > 0 ? `${first} ${second}` : first;
  const known = new Set(members.length > 0 ? names : names.map((name) => name.split(" ")[0] ?? name));
  const flag = nearest(wrong, ["help", "version", "check"]);
  const near = nearest(wrong, known) ?? (flag && `--${flag}`);
  const all = members.length > 0 ? follow : `known are: ${[...known].join(", ")}`;
  return new UsageError(`unknown sub-command ${quote(wrong)}`, near === undefined ? all : didYouMean(near));
}

function refuseUnknown(flag: FlagToken, every: Flags): void {
  if (Object.hasOwn(every, flag.name)) return;
  const near = flag.rawName.startsWith("--") ? nearest(flag.name, Object.keys(every)) : undefined;
  throw new UsageError(
    `unknown flag ${quote(flag.rawName)}`,
    near === undefined ? "--help lists the flags; a word that starts with - comes after --" : didYouMean(`--${near}`),
  );
}

/** Refuses a flag that exists, but not for this command. */
function refuseForeign(flag: FlagToken, command: string | null, own: Flags, commands: Record<string, Calling>): void {
  if (Object.hasOwn(own, flag.name)) return;
  const homes = Object.keys(commands).filter((name) =>
    Object.hasOwn(declaredBy(name, commands[name]!).flags, flag.name),
  );
  const target = command === null ? "without a sub-command" : `with ${quote(command)}`;
  const hint = homes.length > 0 ? `it belongs to: ${homes.join(", ")}` : "it stands without a sub-command";
  throw new UsageError(`flag ${quote(flag.rawName)} has no meaning ${target}`, hint);
}

function refuseMalformed(flag: FlagToken, every: Flags): void {
  if (every[flag.name]?.type === "boolean") {
    if (flag.value !== undefined) throw new UsageError(`flag ${quote(flag.rawName)} takes no value`);
    return;
  }
  if (flag.value === undefined) throw new UsageError(`flag ${quote(flag.rawName)} needs a value`);
  if (!flag.inlineValue && flag.value.startsWith("-") && flag.value !== "-") {
    const hint = `a value that starts with - is written ${flag.rawName}=${flag.value}`;
    throw new UsageError(`flag ${quote(flag.rawName)} needs a value`, hint);
  }
}

function levelOf(given: string): Level {
  const known = LEVELS.find((name) => name === given);
  if (known !== undefined) return known;
  const near = nearest(given, LEVELS);
  const hint = near === undefined ? `known are: ${LEVELS.join(", ")}` : didYouMean(near);
  throw new UsageError(`unknown log level ${quote(given)}`, hint);
}

function checkPositionals({ command, positionals }: Request, names: string[]): void {
  const hint = command === null ? undefined : `${command} --help shows how it is called`;
  const required = names.filter((name) => !name.startsWith("["));
  const missing = required.slice(positionals.length);
  if (missing.length > 0) throw new UsageError(`missing ${missing.join(" and ").replace("…", "")}`, hint);
  const extra = names.at(-1)?.endsWith("…") ? undefined : positionals[names.length];
  if (extra !== undefined) throw new UsageError(`unexpected argument ${quote(extra)}`, hint);
}

/** The help of a program: its own text, then its commands and the flags that every role has. */
export function helpText(role: string, usage: string, commands: Record<string, Calling>): string {
  return `${usage.trim()}\n\ncommands:\n${commandTable(commands)}\n\nflags:\n${table([
    ["--config PATH", `default ~/.config/picket/${role}.yaml, else /etc/picket/${role}.yaml`],
    ["--check [--print]", "validate the configuration, print ok (and the effective values), exit"],
    ["--json-log", "log JSON lines to stderr"],
    ["--log-level LEVEL", `${LEVELS.join(", ")} (default info)`],
    ["--version, --help", "COMMAND --help shows the command's own flags"],
  ])}\n`;
}

export function commandHelp({ summary, usage }: Calling): string {
  return `${summary}\n\n${usage.trim()}\n`;
}

/** The help of commands that begin with the same word, such as "host". */
export function groupHelp(program: string, group: string, commands: Record<string, Calling>): string {
  const members = Object.entries(commands).filter(([name]) => name.startsWith(`${group} `));
  return `${program} ${group}:\n${commandTable(Object.fromEntries(members))}\n`;
}

function commandTable(commands: Record<string, Calling>): string {
  const rows = Object.entries(commands).map(([name, calling]): [string, string] => [
    [name, ...declaredBy(name, calling).names].join(" "),
    calling.summary,
  ]);
  return table(rows);
}

const table = (rows: string[][]): string => columns(rows).replaceAll(/^/gm, "  ");

function quote(text: string): string {
  return JSON.stringify(text);
}

function didYouMean(near: string): string {
  return `did you mean ${quote(near)}?`;
}
