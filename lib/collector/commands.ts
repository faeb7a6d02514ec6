// The commands at the collector's command line: append an event, show events and deliveries, hand events to a coding agent.

import { resolve } from "node:path";
import { NAME_SEGMENT, besideService } from "../config.ts";
import { type ReadEvent, follow, inboxCursor, readEvents, readLast, readNew } from "../reader.ts";
import { EVENT_TYPES, InboxWriter, PRIORITIES, completeEvent, inboxPath } from "../inbox.ts";
import { asBlock, asLine } from "../frame.ts";
import { wellFormed } from "../json.ts";
import { printable } from "../text.ts";
import { type Command, type CommandContext, UsageError } from "../service.ts";
import { type Config, DAEMON_ONLY } from "./config.ts";
import { SHOWN, readDeliveries } from "./deliveries.ts";
import { doctor } from "./doctor.ts";

const HOOK_CHARACTERS = 10_000;

type Context<A> = CommandContext<Config, A>;

/** A reader names no sender, so an inbox can be read where there is no collector. */
const READING = [...DAEMON_ONLY, "agent"];

/** The configuration without what the daemon alone needs. Logs when the recipient's inbox is another than the system service's. */
async function configOf({ loadConfig, log }: Context<unknown>, recipient: string, unused = READING): Promise<Config> {
  const config = await loadConfig(unused);
  const inbox = inboxPath(config.inbox_dir, recipient);
  const system = besideService("inbox", inbox);
  if (system) log.warn("this is your own inbox; for the system service's use sudo", { inbox, system });
  return config;
}

/** `ping RECIPIENT TEXT`: appends one event and prints its id. */
async function ping(
  context: Context<{ type?: string; priority?: string; from?: string; sentinel?: string }>,
): Promise<void> {
  const { args, positionals } = context;
  const [to = "", given = ""] = positionals;
  const type = oneOf("--type", args.type ?? "INFO", EVENT_TYPES);
  const priority = oneOf("--priority", args.priority || "normal", PRIORITIES);
  const recipient = asRecipient(to);
  const payload = given === "-" ? (await context.stdin()).replace(/\r?\n$/, "") : given;
  const config = await configOf(context, recipient, args.from === undefined ? DAEMON_ONLY : READING);
  const inbox = new InboxWriter({ dir: config.inbox_dir, durability: config.durability, dedupeHours: 0 });
  const sentinel = args.sentinel ? resolve(args.sentinel) : undefined;
  const event = completeEvent({ from: args.from ?? config.agent, to: recipient, type, priority, payload, sentinel });
  await inbox.deliver(event);
  await inbox.close();
  context.print(event.id);
}

/** `read RECIPIENT`: shows events; with `--new` those past the mark, which moves once they were written out. */
async function read(
  context: Context<{ new?: boolean; follow?: boolean; json?: boolean; limit?: string }>,
): Promise<void> {
  const { args, positionals, log } = context;
  const recipient = asRecipient(positionals[0] ?? "");
  const limit = args.limit === undefined ? Number.POSITIVE_INFINITY : atLeastOne("--limit", args.limit);
  const { inbox_dir: dir } = await configOf(context, recipient);
  const source = { dir, recipient, warn: (message: string) => log.warn(message) };
  const show = (event: ReadEvent) =>
    context.print(args.json ? printable(JSON.stringify(event, wellFormed)) : asLine(event));
  const cursor = inboxCursor(source);
  const showNew = async () => {
    const { events, handedOver, done } = await readNew(source, cursor);
    for (const event of events.slice(0, limit)) {
      show(event);
      handedOver();
    }
    done();
  };
  if (args.new) await showNew();
  else await readLast(cursor, { ...source, limit }, show);
  if (!args.follow) return;
  await follow(source, context.signal, () => (args.new ? showNew() : readEvents(cursor, source, show)));
}

/**
 * `hook`: the new events of an identity as plain text, for the prompt hook of a coding agent. Whatever happens, it ends
 * with 0 and prints nothing else: a hook that fails stops the agent's work, and to some agents exit code 2 means "refuse the prompt".
 */
async function hook(context: Context<{ as?: string }>): Promise<void> {
  const { args, env, log } = context;
  const recipient = env["PICKET_IDENTITY"] || args.as;
  try {
    if (!recipient) throw new UsageError("no recipient: set PICKET_IDENTITY or give --as NAME");
    const { inbox_dir: dir } = await configOf(context, asRecipient(recipient));
    const { events, done } = await readNew({
      dir,
      recipient,
      warn: (message) => log.warn(message),
    });
    const { text, count } = fit(recipient, events);
    if (count > 0) context.print(text);
    done(count);
  } catch (error) {
    log.error("inbox not read", { error });
  }
}

/** As many events as fit into a hook's text, in their order; the rest waits for the next turn. */
function fit(recipient: string, events: ReadEvent[]): { text: string; count: number } {
  const parts: string[] = [];
  const title = (count: number, more: number) =>
    `${count} new in the inbox of ${recipient}${more > 0 ? `, ${more} more next time` : ""}:`;
  // The longest that it can be, and the line break at the end.
  let left = HOOK_CHARACTERS - title(events.length, events.length).length - 1;
  for (const event of events) {
    const part = asBlock(event);
    // Two line breaks stand before each.
    left -= 2;
    if (part.length > left && parts.length > 0) break;
    parts.push(part.length > left ? cut(part, left, recipient) : part);
    left -= part.length;
    if (left <= 0) break;
  }
  const text = [title(parts.length, events.length - parts.length), ...parts].join("\n\n");
  return { text, count: parts.length };
}

function cut(text: string, length: number, recipient: string): string {
  const note = `\n[cut: ${text.length} characters; all of it: picket-collector read ${recipient}]`;
  return text.slice(0, length - note.length).replace(/[\uD800-\uDBFF]$/, "") + note;
}

/** `deliveries`: shows the last ones, the newest last. */
async function deliveries(context: Context<{ failed?: boolean; json?: boolean; limit?: string }>): Promise<void> {
  const { args, log, print } = context;
  const limit = atLeastOne("--limit", args.limit ?? `${SHOWN}`);
  const { inbox_dir } = await context.loadConfig(DAEMON_ONLY);
  const records = (await readDeliveries(inbox_dir)).filter(({ status }) => !args.failed || status >= 400).slice(-limit);
  if (records.length === 0) log.info(args.failed ? "no failed deliveries" : "no deliveries", { inbox_dir });
  for (const record of records) {
    const { ts, route, status, reason, size, id } = record;
    const words = [ts, status, route, size === undefined ? "" : `${size} bytes`, id, reason];
    print(args.json ? JSON.stringify(record) : printable(words.filter(Boolean).join(" ")));
  }
}

function oneOf<const T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw new UsageError(`${flag} "${value}" is not one of ${allowed.join(", ")}`);
  return found;
}

function asRecipient(name: string): string {
  if (NAME_SEGMENT.test(name)) return name;
  throw new UsageError(
    `recipient "${name}" is not a valid name`,
    "1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit",
  );
}

function atLeastOne(flag: string, value: string): number {
  if (/^[1-9]\d{0,8}$/.test(value)) return Number(value);
  throw new UsageError(`${flag} "${value}" is not a whole number of 1 or more`);
}

/** The commands, as data. */
export const COMMANDS = {
  doctor,
  ping: {
    summary: "append one event to an inbox",
    usage: `usage: picket-collector ping RECIPIENT TEXT [--type TYPE] [--priority PRIORITY] [--from NAME] [--sentinel PATH]

  TEXT        "-" reads it from stdin
  --type      ${EVENT_TYPES.join(", ")} (default INFO)
  --priority  ${PRIORITIES.join(", ")} (default normal)
  --from      who writes (default: the configuration's agent)
  --sentinel  readers hold the event back until this path exists

example: picket-collector ping bob "the build is green"`,
    run: ping,
  },
  read: {
    summary: "show the events of an inbox",
    usage: `usage: picket-collector read RECIPIENT [--new] [--follow] [--json] [--limit N]

  --new       only what this command has not shown yet, urgent first
  --follow    go on showing what comes, until Ctrl-C
  --json      one line of JSON an event
  --limit     at most so many: the newest, with --new the first ones

example: picket-collector read bob --new`,
    run: read,
  },
  hook: {
    summary: "print new events as plain text, for the prompt hook of a coding agent",
    usage: `usage: PICKET_IDENTITY=NAME picket-collector hook [--as NAME]

  --as        whose inbox, where PICKET_IDENTITY is not set

Prints at most ${HOOK_CHARACTERS} characters, nothing when there is nothing new, and ends with 0 whatever happens.

example: PICKET_IDENTITY=bob picket-collector hook`,
    neverFails: true,
    run: hook,
  },
  deliveries: {
    summary: "show the last deliveries over webhooks, and why some failed",
    usage: `usage: picket-collector deliveries [--failed] [--limit N] [--json]

  --failed    only those that were refused
  --limit     at most so many, the newest (default ${SHOWN})
  --json      one line of JSON a delivery: ts, status, size, id, route, reason

example: picket-collector deliveries --failed --limit 20`,
    run: deliveries,
  },
} satisfies Record<string, Command<Config>>;
