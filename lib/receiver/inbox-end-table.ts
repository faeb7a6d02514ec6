// The end of an inbox that is a table (lib/inbox-tables.ts), for a page.

import { textArray } from "../database.ts";
import type { Handled } from "../handled.ts";
import type { InboxDatabase } from "../inbox-database.ts";
import { openInboxes } from "../inboxes.ts";
import { eventIn } from "../reader.ts";
import type { InboxSource } from "./inbox-end.ts";

const VERSION = `SELECT (SELECT MAX(seq) FROM inbox WHERE recipient = $1) AS newest,
  (SELECT MAX(seq) FROM inbox_handled WHERE recipient = $1) AS handled`;
const NEWEST = `SELECT seq, line FROM (
    SELECT seq, line, SUM(octet_length(line)) OVER (ORDER BY seq DESC) AS bytes
    FROM (SELECT seq, line FROM inbox WHERE recipient = $1 ORDER BY seq DESC LIMIT $2::bigint) AS newest
  ) AS sized WHERE bytes < $3::bigint ORDER BY seq DESC`;
const HANDLED = "SELECT id, ts, by, note FROM inbox_handled WHERE recipient = $1 AND id = ANY($2::text[])";

/** @param most so many events, and so many bytes of their lines, are looked at. */
export function inTable(
  { database, recipient }: { database: InboxDatabase; recipient: string },
  most: { events: number; bytes: number },
): InboxSource {
  const read = async () => (await database.open()).read;
  return {
    where: `${recipient} at ${database.url}`,
    async version() {
      const { newest, handled } = (await (await read()).one<Record<string, number | null>>(VERSION, [recipient]))!;
      return `${newest} ${handled}`;
    },
    async newest() {
      // One more than is shown, to see whether there are older ones.
      const values = [recipient, most.events + 1, most.bytes];
      const rows = await (await read()).all<{ seq: number; line: string }>(NEWEST, values);
      let malformed = 0;
      const found = rows.slice(0, most.events).flatMap(({ seq: offset, line: text }) => {
        const bytes = Buffer.from(text);
        const line = { bytes, start: 0, end: bytes.length, length: bytes.length, offset, generation: 1 };
        const event = eventIn(line, () => void malformed++);
        return event ? [{ event, offset }] : [];
      });
      return { found, malformed, isCut: rows.length > most.events };
    },
    async handledOf(ids) {
      const rows = await (await read()).all<Handled & { id: string }>(HANDLED, [recipient, textArray(ids)]);
      const known = new Map(rows.map(({ id, note, ...rest }) => [id, { ...rest, note: note ?? undefined }]));
      return (id) => known.get(id) ?? null;
    },
    handled: async () => (await openInboxes({ dir: "", database }, { patienceMs: 0 })).handled(recipient),
  };
}
