// The commands that show an inbox to a person or a script, wait for its events, and acknowledge them.

import { asLine } from "../frame.ts";
import { identityOf } from "../identity.ts";
import { EVENT_TYPES, PRIORITIES } from "../inbox.ts";
import { wellFormed } from "../json.ts";
import type { LineCursor } from "../inboxes.ts";
import { MOST_KEPT, type ReadEvent, follow, readEvents, readLast, readNew } from "../reader.ts";
import { type Command, UsageError } from "../service.ts";
import { printable, readDuration } from "../text.ts";
import { answer } from "./answer.ts";
import type { Config } from "./config.ts";
import { fit } from "./fit.ts";
import { type Context, asRecipient, atLeastOne, configOf, oneOf, openPlace } from "./inbox-command.ts";

/** As timeout(1) has it. */
const TIME_IS_OVER = 124;
const INTERRUPTED = 130;
/** Timers can't take more. */
const LONGEST_MS = 2 ** 31 - 1;

interface ReadArgs {
  new?: boolean;
  reader?: string;
  peek?: boolean;
  open?: boolean;
  follow?: boolean;
  json?: boolean;
  limit?: string;
}

/** `read RECIPIENT`: shows events; with `--new` those past the reader's mark, which moves once they were written out. */
async function read(context: Context<ReadArgs>): Promise<void> {
  const { args, positionals, log } = context;
  const recipient = asRecipient(positionals[0] ?? "");
  refuseMeaningless(args);
  const limit = args.limit === undefined ? Number.POSITIVE_INFINITY : atLeastOne("--limit", args.limit);
  const reader = args.reader === undefined ? "person" : asRecipient(args.reader, "reader");
  await using place = await openPlace(context, await configOf(context, recipient));
  const { inboxes } = place;
  const source = { inboxes, recipient, reader, warn: (message: string) => log.warn(message) };
  const show = (event: ReadEvent) =>
    context.print(args.json ? printable(JSON.stringify(event, wellFormed)) : asLine(event));
  const cursor = inboxes.cursor(recipient);
  const handled = args.open ? inboxes.handled(recipient) : null;
  const only = ({ id }: ReadEvent): boolean => handled === null || !handled.has(id);
  if (args.peek) {
    const { events, more } = await readNew({ ...source, limit: Math.min(limit, MOST_KEPT), peek: true }, cursor);
    for (const event of events) show(event);
    if (more && limit > MOST_KEPT) log.info("more are new", { shown: events.length });
  } else if (args.new) {
    const showAll = () => showNew({ source, cursor, limit, show });
    await showAll();
    if (args.follow) await follow(source, context.signal, showAll);
  } else {
    await handled?.refresh();
    await readLast(cursor, { ...source, limit, only }, show);
    if (!args.follow) return;
    await follow(source, context.signal, async () => {
      await handled?.refresh();
      await readEvents(cursor, source, (event) => only(event) && show(event));
      return !cursor.isBehind;
    });
  }
}

function refuseMeaningless(args: ReadArgs): void {
  const needNew = (["reader", "peek"] as const).find((flag) => args[flag] !== undefined && !args.new);
  if (needNew) throw new UsageError(`--${needNew} needs --new`);
  if (args.peek && args.follow) throw new UsageError("give --peek or --follow, not both");
  if (args.open && args.new) throw new UsageError("give --open or --new, not both");
}

interface Showing {
  source: Parameters<typeof readNew>[0];
  cursor: LineCursor;
  limit: number;
  show: (event: ReadEvent) => void;
}

/** Shows what is new, turn by turn. Gives whether only a change of the inbox can bring more. */
async function showNew({ source, cursor, limit, show }: Showing): Promise<boolean> {
  let order: "urgent-first" | "file" = "urgent-first";
  for (let left = limit; left > 0;) {
    const turn = await readNew({ ...source, limit: Math.min(left, MOST_KEPT), order }, cursor);
    for (const event of turn.events) {
      show(event);
      if (!(await turn.handedOver())) break;
    }
    await turn.done();
    if (!turn.more) return turn.waiting === 0 && !cursor.isBehind;
    left -= turn.events.length;
    // All urgent ones were shown.
    if (turn.events.at(-1)?.priority !== "urgent") order = "file";
  }
  return false;
}

/** `wait`: prints the first new events that are asked for, as `hook` does, and ends. The others stay new. */
async function wait(context: Context<{ as?: string; timeout?: string; min?: string; type?: string }>): Promise<number> {
  const { args, env, log, signal } = context;
  const recipient = identityOf(args.as, env);
  const min = oneOf("--min", args.min ?? "normal", PRIORITIES);
  const type = args.type === undefined ? null : oneOf("--type", args.type, EVENT_TYPES);
  const timeout = args.timeout === undefined ? LONGEST_MS : readDuration(args.timeout);
  if (timeout === null) throw new UsageError(`--timeout "${args.timeout}" is not a time`, "such as 30s, 10m or 2h");
  await using place = await openPlace(context, await configOf(context, recipient));
  const { inboxes } = place;
  const source = { inboxes, recipient, reader: "agent", warn: (message: string) => log.warn(message) };
  const only = (event: ReadEvent): boolean =>
    (min === "normal" || event.priority === min) && (type === null || event.type === type);
  const cursor = inboxes.cursor(recipient);
  const over = new AbortController();
  let code = TIME_IS_OVER;
  const end = (as: number): void => {
    code = as;
    over.abort();
  };
  setTimeout(() => over.abort(), Math.min(timeout, LONGEST_MS));
  signal.addEventListener("abort", () => end(INTERRUPTED));
  await follow(source, over.signal, async () => {
    const turn = await readNew({ ...source, only }, cursor);
    const { title, parts } = fit(turn.events, { recipient, isMore: turn.more, rest: "next time" });
    for (const [index, part] of parts.entries()) {
      context.print(index === 0 ? `${title}\n\n${part}` : `\n${part}`);
      if (!(await turn.handedOver())) break;
    }
    await turn.done();
    if (parts.length > 0) end(0);
    return turn.waiting === 0 && !cursor.isBehind;
  });
  return code;
}

/** `ack ID…`. */
async function ack(context: Context<{ as?: string }>): Promise<void> {
  const { args, env, positionals, print } = context;
  const recipient = identityOf(args.as, env);
  await using place = await openPlace(context, await configOf(context, recipient));
  const { inboxes } = place;
  const writer = await place.writer();
  const failures: Error[] = [];
  for (const id of positionals) {
    try {
      print(`${id}: ${await answer({ inboxes, writer, recipient }, { by: "ack", id })}`);
    } catch (error) {
      failures.push(error as Error);
    }
  }
  await writer.close();
  // One has its hint.
  if (failures.length === 1) throw failures[0]!;
  if (failures.length > 1) throw new Error(failures.map(({ message }) => message).join("; "));
}

const AS = "--as        whose inbox (default: $PICKET_IDENTITY, and what docs/readers.md names)";

/** The commands, as data. */
export const READER_COMMANDS = {
  read: {
    summary: "show the events of an inbox",
    usage: `usage: picket-collector read RECIPIENT [--new] [--reader NAME] [--peek] [--open] [--follow] [--json] [--limit N]

  --new       only what this command has not shown yet, urgent first
  --reader    with --new: remember under this name what was shown; each name sees every event once
  --peek      with --new: remember nothing, so that they stay new
  --open      only what was not acknowledged, answered or marked as handled
  --follow    go on showing what comes, until Ctrl-C
  --json      one line of JSON an event
  --limit     at most so many: the newest, with --new the first ones

example: picket-collector read bob --new`,
    run: read,
  },
  wait: {
    summary: "wait for new events, print the first ones, and end",
    usage: `usage: picket-collector wait [--as NAME] [--timeout TIME] [--min PRIORITY] [--type TYPE]

  ${AS}
  --timeout   how long: 30s, 10m, 2h (default: until one comes)
  --min       urgent: only urgent events; the others stay new
  --type      only events of this type: ${EVENT_TYPES.join(", ")}

What it prints is not new any more to an agent: hook and mcp don't show it again. Ends with 0, and with ${TIME_IS_OVER} when the time is over.

example: picket-collector wait --as bob --timeout 10m`,
    run: wait,
  },
  ack: {
    summary: "acknowledge events: tell their senders, and mark them as handled",
    usage: `usage: picket-collector ack ID… [--as NAME]

  ID          as the event's header shows it
  ${AS}

example: picket-collector ack 2c9d0e1f3a4b5c6d7e8f90a1b2c3d4e5 --as bob`,
    run: ack,
  },
} satisfies Record<string, Command<Config>>;
