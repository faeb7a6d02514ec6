// `hook --install CLIENT` and `--uninstall CLIENT`: the hook in the settings of a coding agent.
//
// A setting is merged into what is there: lib/json-edit.ts. Ours stands last in an event's list, since Codex remembers by their place which hooks
// you trust. A settings file is replaced at once, keeps its mode and owner, and a link to it stays a link.

import { accessSync, chmodSync, constants, chownSync, readFileSync, realpathSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { isThere, makeFolder, writeWhole } from "../files.ts";
import { identityOf } from "../identity.ts";
import { parseKept, removeAt, setAt } from "../json-edit.ts";
import { type Environment, UsageError } from "../service.ts";
import { shellWord } from "../text.ts";
import { ownLink } from "../unit.ts";
import { type Context, asRecipient, oneOf } from "./inbox-command.ts";

interface Client {
  /** The settings of a person, and of one project (those that aren't committed, where there are such). */
  file(env: Environment, home: string): string;
  project: string;
  /** The events that the hook can answer; the first ones are installed without `--event`. */
  events: string[];
  installed: number;
  /** Whether the client takes comments in the file: a file that it refuses has no effect as a whole. */
  comments: boolean;
  flags: string[];
  /** What stands beside type and command: a limit of 10 seconds in the client's unit. */
  extra: Record<string, unknown>;
  note: string;
}

/** Looked up in the clients' documentation, and tried with Claude Code 2.1.197, Codex 0.171.0 and Gemini CLI 0.61.0. */
const CLIENTS: Record<string, Client> = {
  "claude-code": {
    file: (env, home) => join(env["CLAUDE_CONFIG_DIR"] || join(home, ".claude"), "settings.json"),
    project: ".claude/settings.local.json",
    events: [
      "SessionStart",
      "UserPromptSubmit",
      "PostToolUse",
      "Stop",
      "UserPromptExpansion",
      "PreToolUse",
      "PostToolUseFailure",
      "PostToolBatch",
      "SubagentStart",
      "SubagentStop",
      "Setup",
    ],
    installed: 4,
    comments: false,
    flags: [],
    extra: { timeout: 10 },
    note: "/hooks in Claude Code lists it",
  },
  codex: {
    file: (env, home) => join(env["CODEX_HOME"] || join(home, ".codex"), "hooks.json"),
    project: ".codex/hooks.json",
    events: ["SessionStart", "UserPromptSubmit", "PostToolUse", "Stop", "PreToolUse", "SubagentStart", "SubagentStop"],
    installed: 4,
    comments: false,
    flags: [],
    extra: { timeout: 10 },
    note: "Codex skips it until you trust it: type /hooks there",
  },
  "gemini-cli": {
    file: (env, home) => join(env["GEMINI_CLI_HOME"] || home, ".gemini", "settings.json"),
    project: ".gemini/settings.json",
    events: ["SessionStart", "BeforeAgent", "AfterTool", "AfterAgent"],
    installed: 4,
    comments: true,
    flags: ["--format", "json"],
    extra: { name: "picket", timeout: 10_000 },
    note: "/hooks panel in Gemini CLI lists it",
  },
};

export interface InstallArgs {
  config?: string;
  as?: string;
  install?: string;
  uninstall?: string;
  event?: string[];
  project?: boolean;
  "dry-run"?: boolean;
}

/** Adds the hook to a client's settings, or takes it out. */
export function changeSettings(context: Context<InstallArgs>): void {
  const { args, env, log, print } = context;
  const isInstall = args.install !== undefined;
  if (isInstall && args.uninstall !== undefined) throw new UsageError("--install and --uninstall exclude each other");
  const flag = isInstall ? "--install" : "--uninstall";
  const client = CLIENTS[oneOf(flag, args.install ?? args.uninstall!, Object.keys(CLIENTS))]!;
  if (args.as !== undefined) asRecipient(args.as);
  const given = (args.event ?? []).map((event) => oneOf("--event", event, client.events));
  const path = args.project ? resolve(client.project) : client.file(env, env["HOME"] || homedir());
  const former = isThere(path) ? readFileSync(path, "utf8") : "";
  let text = former.trim() === "" ? "{}\n" : former;
  try {
    const events = given.length > 0 ? given : isInstall ? client.events.slice(0, client.installed) : client.events;
    const command = commandOf(context, client);
    for (const event of events) {
      text = isInstall ? installed(text, client, { event, command }) : uninstalled(text, client, event);
      if (oursIn(text, client, event).length > 0 !== isInstall)
        throw new Error(`"${event}" or "hooks" stands twice in it`);
    }
  } catch (error) {
    throw new Error(`"${path}" was left as it is`, { cause: error });
  }
  if (isInstall) warnWithoutIdentity(context);
  if (args["dry-run"]) return print(text);
  if (text === former || (former === "" && !isInstall)) return print(`nothing to change in ${path}`);
  const backup = replaceSettings(path, text);
  print(`changed ${path}${backup === null ? "" : `; as it was: ${backup}`}`);
  if (isInstall) log.info(client.note);
}

function warnWithoutIdentity({ args, env, log }: Context<InstallArgs>): void {
  try {
    identityOf(args.as, env);
  } catch {
    log.warn(
      "no identity is set here: the hook prints nothing where the client has no PICKET_IDENTITY; or use --as NAME",
    );
  }
}

/** What the client's shell runs. The path is absolute: a client's PATH may be another than yours. */
function commandOf({ args, command: [program = "", ...words] }: Context<InstallArgs>, { flags }: Client): string {
  const config = args.config === undefined ? [] : ["--config", resolve(args.config)];
  const as = args.as === undefined ? [] : ["--as", args.as];
  return [ownLink() ?? program, ...words, "hook", ...as, ...flags, ...config].map(shellWord).join(" ");
}

/** What `--install` wrote, or you by hand in the same form. A longer shell line is yours alone. */
function isOurs(hook: unknown): hook is { command: string } {
  const { command } = (hook ?? {}) as { command?: unknown };
  return (
    typeof command === "string" &&
    /(picket-collector|collector\.ts|picket'? collector|picket\.ts'? collector)'? hook( |$)/.test(command) &&
    !/[;&|]/.test(command)
  );
}

type Path = (string | number)[];

/** The lists of the file's hooks, by event. */
function listsOf(text: string, client: Client): Record<string, unknown> {
  const { hooks = {} } = asObject(parseKept(text, client), "the top level");
  return asObject(hooks, '"hooks"');
}

/** The paths of our hooks in an event's list; the last first. */
function oursIn(text: string, client: Client, event: string): Path[] {
  const groups = listsOf(text, client)[event] ?? [];
  if (!Array.isArray(groups)) throw new Error(`"hooks.${event}" is not a list`);
  const paths = groups.flatMap((group: { hooks?: unknown } | null, at) =>
    Array.isArray(group?.hooks)
      ? group.hooks.flatMap((hook, index): Path[] => (isOurs(hook) ? [["hooks", event, at, "hooks", index]] : []))
      : [],
  );
  return paths.toReversed();
}

function asObject(value: unknown, name: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Error(`${name} is not an object`);
}

function installed(text: string, client: Client, { event, command }: { event: string; command: string }): string {
  const [ours] = oursIn(text, client, event);
  if (ours) return setAt(text, [...ours, "command"], command);
  const group = { hooks: [{ type: "command", command, ...client.extra }] };
  return event in listsOf(text, client)
    ? setAt(text, ["hooks", event, -1], group)
    : setAt(text, ["hooks", event], [group]);
}

/** Without our hooks at the event, and without the groups and lists that are empty then. */
function uninstalled(text: string, client: Client, event: string): string {
  const without = (rest: string, path: Path): string => removeAt(rest, widest(path, listsOf(rest, client)));
  return oursIn(text, client, event).reduce(without, text);
}

/** The path to take out: of the group, the list or all hooks where nothing else is in there. */
function widest(path: Path, lists: Record<string, unknown>): Path {
  const [, event, at] = path as [string, string, number];
  const groups = lists[event] as { hooks: unknown[] }[];
  if (groups[at]!.hooks.length > 1) return path;
  if (groups.length > 1) return path.slice(0, 3);
  return path.slice(0, Object.keys(lists).length > 1 ? 2 : 1);
}

/** Replaces the file and keeps its mode, its owner and a link to it. Gives the path of the backup; null where there was no file. */
function replaceSettings(path: string, text: string): string | null {
  if (!isThere(path)) {
    makeFolder(dirname(path), 0o755);
    writeWhole(path, text, 0o600);
    return null;
  }
  const file = realpathSync(path);
  accessSync(file, constants.W_OK);
  const { mode, uid, gid } = statSync(file);
  const backup = `${path}.before-picket`;
  for (const [target, content] of [
    [backup, readFileSync(file, "utf8")],
    [file, text],
  ] as const) {
    writeWhole(target, content, mode & 0o777);
    chmodSync(target, mode & 0o777);
    if (process.getuid?.() === 0) chownSync(target, uid, gid);
  }
  return backup;
}
