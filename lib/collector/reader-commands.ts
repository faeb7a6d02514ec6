// The commands that show an inbox to a person or a script.

import { asLine } from "../frame.ts";
import { wellFormed } from "../json.ts";
import { MOST_KEPT, type ReadEvent, follow, inboxCursor, readEvents, readLast, readNew } from "../reader.ts";
import type { Command } from "../service.ts";
import { printable } from "../text.ts";
import type { Config } from "./config.ts";
import { type Context, asRecipient, atLeastOne, configOf } from "./inbox-command.ts";

/** `read RECIPIENT`: shows events; with `--new` those past the mark, which moves once they were written out. */
async function read(
  context: Context<{ new?: boolean; follow?: boolean; json?: boolean; limit?: string }>,
): Promise<void> {
  const { args, positionals, log } = context;
  const recipient = asRecipient(positionals[0] ?? "");
  const limit = args.limit === undefined ? Number.POSITIVE_INFINITY : atLeastOne("--limit", args.limit);
  const { inbox_dir: dir } = await configOf(context, recipient);
  const source = { dir, recipient, reader: "person", warn: (message: string) => log.warn(message) };
  const show = (event: ReadEvent) =>
    context.print(args.json ? printable(JSON.stringify(event, wellFormed)) : asLine(event));
  const cursor = inboxCursor(source);
  const showNew = async () => {
    for (let [left, more, order] = [limit, true, "urgent-first" as "urgent-first" | "file"]; more && left > 0;) {
      const turn = await readNew({ ...source, limit: Math.min(left, MOST_KEPT), order }, cursor);
      for (const event of turn.events) {
        show(event);
        if (!turn.handedOver()) break;
      }
      turn.done();
      ({ more } = turn);
      left -= turn.events.length;
      // All urgent ones were shown.
      if (turn.events.at(-1)?.priority !== "urgent") order = "file";
    }
  };
  if (args.new) await showNew();
  else await readLast(cursor, { ...source, limit }, show);
  if (!args.follow) return;
  await follow(source, context.signal, () => (args.new ? showNew() : readEvents(cursor, source, show)));
}

/** The commands, as data. */
export const READER_COMMANDS = {
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
} satisfies Record<string, Command<Config>>;
