// The index as a file: index.jsonl, a journal with one line an episode, in the order in which they came.
//
// The file is the truth, and readable without this program. Lookups use a table of the store that follows the file: the lines that
// were added since, also by another process (`index rebuild`), are read before each lookup. The position is kept in the same
// transaction as the rows. A file that was replaced, cut or rewritten in place is read again from its start. Of two lines for one
// episode the later one counts; a line that removes it counts only for the line with the same received_at, so that an upload at
// that moment stays.

import { closeSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { type Line as FileLine, Position, fits, openFile, readOn, startOf } from "../cursor.ts";
import type { Queries } from "../database.ts";
import { isDiskFull } from "../files.ts";
import { Journal } from "../journal.ts";
import { parseLine } from "../replay.ts";
import { type EpisodeIndex, type IndexRow, count, lookups } from "./episode-index.ts";
import { type Store, getNote, setNote } from "./store.ts";

const Time = v.pipe(
  v.string(),
  v.check((text) => !Number.isNaN(Date.parse(text))),
);
const Line = v.object({
  received_at: Time,
  host: v.string(),
  episode: v.string(),
  sha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/)),
  size: v.number(),
  removed_at: v.optional(Time),
});
/** A line that says that a host has another name from here on. */
const Renamed = v.object({ renamed_at: Time, renamed_from: v.string(), host: v.string() });
type Renamed = v.InferOutput<typeof Renamed>;

/** Opens index.jsonl in the store's folder. */
export function openIndexFile(store: Store): EpisodeIndex {
  const path = join(store.dir, "index.jsonl");
  const journal = new Journal({ path, durability: "disk", intents: join(store.dir, ".picket") });
  let following: Promise<void> | null = null;
  let totals: { of: string | null; episodes: number; bytes: number } | null = null;
  const follow = async (): Promise<void> => {
    // A pass under way may have read the file before the caller's line was added.
    if (following) await following;
    following ??= readLines(store, path).finally(() => (following = null));
    await following;
  };
  const looking = lookups(store.read, follow);
  return {
    ...looking,
    follow,
    async add(row) {
      if (row.removed_at === undefined && (await looking.has(row))) return "known";
      await journal.append(JSON.stringify(row));
      return "added";
    },
    async renaming() {},
    rename(from, to) {
      const line: Renamed = { renamed_at: new Date().toISOString(), renamed_from: from, host: to };
      return journal.append(JSON.stringify(line));
    },
    async totals() {
      await follow().catch((error: unknown) => {
        if (!isDiskFull(error)) throw error;
      });
      const of = await getNote(store.read, "index_place");
      if (!totals || totals.of !== of) totals = { of, ...(await count(store.read)) };
      const { episodes, bytes } = totals;
      return { episodes, bytes };
    },
    close: () => journal.close(),
  };
}

/** Brings the table up to the file. */
async function readLines(store: Store, path: string): Promise<void> {
  const note = await getNote(store.read, "index_place");
  const fd = openFile(path);
  if (fd === null) {
    if (note !== null) await store.write(forget);
    return;
  }
  try {
    const start = startOf(fd);
    const before = note === null ? null : asPosition(note);
    let from = before && before.inode === start.inode && fits(fd, before) ? before : start;
    if (note !== null && from === start) await store.write(forget);
    for (;;) {
      const rows: (IndexRow | Renamed)[] = [];
      const visit = (line: FileLine): void => {
        const found = parseLine(line);
        if (!found || !("value" in found)) return;
        if (v.is(Line, found.value) || v.is(Renamed, found.value)) rows.push(found.value as IndexRow | Renamed);
      };
      const next = await readOn(fd, from, { visit, piecemeal: true });
      if (next === null || next === from) return;
      await store.write((tx) => adopt(tx, rows, next));
      from = next;
    }
  } finally {
    closeSync(fd);
  }
}

async function adopt(tx: Queries, lines: (IndexRow | Renamed)[], position: Position): Promise<void> {
  // An upload that began before its host was renamed has a line with the former name behind the one that renames.
  const aliases = await tx.all<{ former: string; name: string }>(
    "SELECT a.name AS former, h.name FROM host_aliases a JOIN hosts h ON h.id = a.host",
  );
  const names = new Map(aliases.map(({ former, name }) => [former, name]));
  for (const line of lines) {
    if ("renamed_from" in line) {
      await tx.run("UPDATE OR REPLACE episodes SET host = $1, line = json_set(line, '$.host', $1) WHERE host = $2", [
        line.host,
        line.renamed_from,
      ]);
      continue;
    }
    const row = { ...line, host: names.get(line.host) ?? line.host };
    await tx.run(
      `INSERT INTO episodes (host, episode, received_at, sha256, size, line, removed_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
       ON CONFLICT (host, episode) DO UPDATE SET received_at = excluded.received_at, sha256 = excluded.sha256,
         size = excluded.size, line = excluded.line, removed_at = excluded.removed_at
       WHERE excluded.removed_at IS NULL OR excluded.received_at = episodes.received_at`,
      [row.host, row.episode, row.received_at, row.sha256, row.size, JSON.stringify(row), row.removed_at ?? null],
    );
  }
  await setNote(tx, "index_place", JSON.stringify(position));
}

/** How far the table has it; null for the note of 0.1.0, which can't tell whether the file was rewritten: it is read anew once. */
function asPosition(note: string): Position | null {
  const parsed = v.safeParse(Position, JSON.parse(note));
  return parsed.success ? parsed.output : null;
}

async function forget(tx: Queries): Promise<void> {
  await tx.run("DELETE FROM episodes");
  await tx.run("DELETE FROM meta WHERE key = 'index_place'");
}
