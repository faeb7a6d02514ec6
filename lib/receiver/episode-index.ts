// The index of all episodes: index.jsonl, a journal with one line an episode, in the order in which they came.
//
// The file is the truth, and readable without this program. Lookups use a table of the store that follows the file: the lines that
// were added since, also by another process (`index rebuild`), are read before each lookup. The position is kept in the same
// transaction as the rows. A file that was replaced, cut or rewritten in place is read again from its start. Of two lines for one
// episode the later one counts; a line that removes it counts only for the line with the same received_at, so that an upload at
// that moment stays.

import { closeSync } from "node:fs";
import { join } from "node:path";
import { createTarDecoder } from "modern-tar";
import * as v from "valibot";
import { type Line as FileLine, Position, fits, openFile, readOn, startOf } from "../cursor.ts";
import { isDiskFull } from "../files.ts";
import { Journal } from "../journal.ts";
import { parseLine } from "../replay.ts";
import type { EpisodeKey, EpisodeStore, StoredEpisode } from "./episodes.ts";
import type { Queries } from "../database.ts";
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
/**
 * A line of the index. `commit`: 40 hex digits. `backfilled`: made afterwards, from the file. `removed_at`: the episode that was
 * received at `received_at` was removed.
 */
export type IndexRow = v.InferOutput<typeof Line> & {
  schema: number;
  commit?: string | undefined;
  backfilled?: boolean;
};

/** A line's place among all. */
export type Place = Pick<IndexRow, "received_at" | "host" | "episode">;

/** A line that says that a host has another name from here on. */
const Renamed = v.object({ renamed_at: Time, renamed_from: v.string(), host: v.string() });
type Renamed = v.InferOutput<typeof Renamed>;

/** The daemon may be about to add the line of a file that is younger than this, in milliseconds. */
const YOUNG_MS = 2000;
/** So many lines are read at once. */
const PAGE = 500;
/** A larger meta.json is not read, in bytes. */
const LARGEST_META = 1 << 20;
/** Data that people keep unpacks to some ten times its size; zeros alone come to tens of thousands. */
const MOST_RATIO = 1000;
const LEAST_UNPACKED = 1 << 30;

/** The index, for looking up and adding. */
export class EpisodeIndex {
  readonly path: string;
  #store: Store;
  #journal: Journal;
  #following: Promise<void> | null = null;
  #totals: { of: string | null; episodes: number; bytes: number } | null = null;

  constructor(store: Store) {
    this.#store = store;
    this.path = join(store.dir, "index.jsonl");
    this.#journal = new Journal({ path: this.path, durability: "disk", intents: join(store.dir, ".picket") });
  }

  /** Adds a line; resolves when it is on disk. */
  add(row: IndexRow): Promise<void> {
    return this.#journal.append(JSON.stringify(row));
  }

  /** Adds that a host's episodes are another name's from here on. */
  rename(from: string, to: string): Promise<void> {
    const line: Renamed = { renamed_at: new Date().toISOString(), renamed_from: from, host: to };
    return this.#journal.append(JSON.stringify(line));
  }

  /** Whether an episode has a line, and is not removed by it. */
  async has(key: EpisodeKey): Promise<boolean> {
    const row = await this.find(key);
    return row !== null && row.removed_at === undefined;
  }

  /** The line of an episode, also of one that was removed. */
  async find({ host, episode }: EpisodeKey): Promise<IndexRow | null> {
    await this.follow();
    const row = await this.#store.read.one<{ line: string }>(
      "SELECT line FROM episodes WHERE host = $1 AND episode = $2",
      [host, episode],
    );
    return row ? (JSON.parse(row.line) as IndexRow) : null;
  }

  /** Lines by their time, oldest first; without `since` the newest ones. */
  async list({
    host,
    since,
    limit,
  }: {
    host: string | null;
    since: string | null;
    limit: number;
  }): Promise<IndexRow[]> {
    if (since === null) return (await this.before({ host, before: null, limit })).toReversed();
    await this.#followIfRoom();
    const rows = await this.#store.read.all<{ line: string }>(
      `SELECT line FROM episodes WHERE received_at >= $1 AND removed_at IS NULL AND ($2 IS NULL OR host = $2)
       ORDER BY received_at, host, episode LIMIT $3`,
      [since, host, limit],
    );
    return rows.map(({ line }) => JSON.parse(line) as IndexRow);
  }

  /** Lines before one by their time, all without it; the newest first. */
  async before(wanted: { host: string | null; before: Place | null; limit: number }): Promise<IndexRow[]> {
    const { host, before, limit } = wanted;
    await this.#followIfRoom();
    const rows = await this.#store.read.all<{ line: string }>(
      `SELECT line FROM episodes WHERE (received_at, host, episode) < ($1, $2, $3) AND removed_at IS NULL
       ${host === null ? "" : "AND host = $5"} ORDER BY received_at DESC, host DESC, episode DESC LIMIT $4`,
      [before?.received_at ?? "~", before?.host ?? "", before?.episode ?? "", limit, ...(host === null ? [] : [host])],
    );
    return rows.map(({ line }) => JSON.parse(line) as IndexRow);
  }

  /** All lines but those of removed episodes, oldest first, of one host or all. Lines may be added meanwhile. */
  async *all(host: string | null = null): AsyncIterable<IndexRow> {
    await this.follow();
    let last = { received_at: "", host: "", episode: "" };
    for (;;) {
      const page = await this.#store.read.all<typeof last & { line: string }>(
        `SELECT received_at, host, episode, line FROM episodes
         WHERE (received_at, host, episode) > ($1, $2, $3) AND removed_at IS NULL AND ($4 IS NULL OR host = $4)
         ORDER BY received_at, host, episode LIMIT ${PAGE}`,
        [last.received_at, last.host, last.episode, host],
      );
      for (const { line } of page) yield JSON.parse(line) as IndexRow;
      if (page.length < PAGE) return;
      last = page.at(-1)!;
    }
  }

  /** The number and the bytes of all episodes in the index. */
  async totals(): Promise<{ episodes: number; bytes: number }> {
    await this.#followIfRoom();
    const place = await getNote(this.#store.read, "index_place");
    if (!this.#totals || this.#totals.of !== place) {
      const row = await this.#store.read.one<{ episodes: number; bytes: number | null }>(
        "SELECT COUNT(*) AS episodes, SUM(size) AS bytes FROM episodes WHERE removed_at IS NULL",
      );
      this.#totals = { of: place, episodes: row?.episodes ?? 0, bytes: row?.bytes ?? 0 };
    }
    const { episodes, bytes } = this.#totals;
    return { episodes, bytes };
  }

  /** For reading: on a full disk the table may lack the newest lines, which is better than an error. */
  async #followIfRoom(): Promise<void> {
    try {
      await this.follow();
    } catch (error) {
      if (!isDiskFull(error)) throw error;
    }
  }

  /** Closes the file. */
  close(): Promise<void> {
    return this.#journal.close();
  }

  /** Brings the table up to the file. */
  async follow(): Promise<void> {
    // A pass under way may have read the file before the caller's line was added.
    if (this.#following) await this.#following;
    this.#following ??= this.#readOn().finally(() => (this.#following = null));
    await this.#following;
  }

  async #readOn(): Promise<void> {
    const note = await getNote(this.#store.read, "index_place");
    const fd = openFile(this.path);
    if (fd === null) {
      if (note !== null) await this.#store.write(forget);
      return;
    }
    try {
      const start = startOf(fd);
      const before = note === null ? null : asPosition(note);
      let from = before && before.inode === start.inode && fits(fd, before) ? before : start;
      if (note !== null && from === start) await this.#store.write(forget);
      for (;;) {
        const rows: (IndexRow | Renamed)[] = [];
        const visit = (line: FileLine): void => {
          const found = parseLine(line);
          if (!found || !("value" in found)) return;
          if (v.is(Line, found.value) || v.is(Renamed, found.value)) rows.push(found.value as IndexRow | Renamed);
        };
        const next = await readOn(fd, from, { visit, piecemeal: true });
        if (next === null || next === from) return;
        await this.#store.write((tx) => adopt(tx, rows, next));
        from = next;
      }
    } finally {
      closeSync(fd);
    }
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

// ---------------------------------------------------------------------------------------------------------------
// Rebuilding and verifying

export interface Check {
  index: EpisodeIndex;
  episodes: EpisodeStore;
  signal: AbortSignal;
  /** Called before each episode. */
  progress: () => void;
}

/** Makes the lines that are missing, from the files themselves; gives those that were made. */
export async function rebuild({ index, episodes, signal, progress }: Check): Promise<IndexRow[]> {
  const made: IndexRow[] = [];
  for await (const stored of episodes.list()) {
    signal.throwIfAborted();
    progress();
    if (await index.has(stored)) continue;
    const row = await rowOf(episodes, stored);
    const age = Date.now() - stored.modifiedAt;
    // The daemon is adding the line of a new file, unless it was killed.
    if (age >= 0 && age < YOUNG_MS) await Bun.sleep(YOUNG_MS - age);
    if (await index.has(stored)) continue;
    await episodes.sync(stored);
    await index.add(row);
    made.push(row);
  }
  return made;
}

/** The line that an episode's file gives. */
export async function rowOf(episodes: EpisodeStore, stored: StoredEpisode): Promise<IndexRow> {
  const { host, episode, size, modifiedAt } = stored;
  const sha256 = await hashOf(episodes.open(stored));
  const commit = await commitOf(episodes.open(stored));
  const received_at = new Date(modifiedAt).toISOString();
  return { received_at, host, episode, sha256, size, schema: 1, commit, backfilled: true };
}

/** What `verify` found wrong with one episode. */
interface Difference extends EpisodeKey {
  what: "missing file" | "missing line" | "other size" | "other hash" | "unreadable";
  detail: string;
}

const REMEDY = "move the file away: the same bytes are taken again, others are not";

/** Hashes every file again and compares it with its line. */
export async function* verify({ index, episodes, signal, progress }: Check): AsyncIterable<Difference> {
  const seen = new Set<string>();
  for await (const stored of episodes.list()) {
    signal.throwIfAborted();
    progress();
    const key = { host: stored.host, episode: stored.episode };
    seen.add(`${stored.host}/${stored.episode}`);
    const row = await index.find(stored);
    if (!row || row.removed_at !== undefined) {
      const detail = `${row ? "the index says that it was removed; " : ""}run: picket-receiver index rebuild`;
      yield { ...key, what: "missing line", detail };
    } else if (row.size !== stored.size) {
      yield { ...key, what: "other size", detail: `${stored.size} bytes, the index says ${row.size}; ${REMEDY}` };
    } else {
      const sha256 = await hashOf(episodes.open(stored)).catch((error: Error) => error);
      if (sha256 instanceof Error) yield { ...key, what: "unreadable", detail: sha256.message };
      else if (sha256 !== row.sha256)
        yield { ...key, what: "other hash", detail: `${sha256}, the index says ${row.sha256}; ${REMEDY}` };
    }
  }
  for await (const { host, episode } of index.all()) {
    const name = `${host}/${episode}`;
    if (seen.has(name) || (await episodes.find({ host, episode }))) continue;
    const detail = `the same bytes are taken again; if you removed it: picket-receiver episodes rm ${name}`;
    yield { host, episode, what: "missing file", detail };
  }
}

/** SHA-256 of a file, in hex, with flat memory. */
export async function hashOf(blob: Blob): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of blob.stream()) hasher.update(chunk);
  return hasher.digest("hex");
}

/** `code_version.commit` of the archive's meta.json; undefined where there is none to be read. */
async function commitOf(blob: Blob): Promise<string | undefined> {
  try {
    const parsed = JSON.parse((await metaOf(blob)).toString()) as { code_version?: { commit?: unknown } };
    const commit = parsed.code_version?.commit;
    return typeof commit === "string" && /^[0-9a-f]{40}$/.test(commit) ? commit : undefined;
  } catch {
    return undefined;
  }
}

/**
 * The first meta.json of an archive, empty without one. Only this file is held in memory. Reading ends with it, or fails when
 * the archive unpacks to far more than real data does (a zip bomb).
 */
async function metaOf(blob: Blob): Promise<Buffer> {
  const most = Math.max(LEAST_UNPACKED, blob.size * MOST_RATIO);
  let unpacked = 0;
  const bounded = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller) {
      unpacked += chunk.length;
      if (unpacked > most) throw new Error(`unpacks to more than ${most} bytes`);
      controller.enqueue(chunk);
    },
  });
  const tar = blob.stream().pipeThrough(new DecompressionStream("zstd")).pipeThrough(bounded);
  for await (const { header, body } of tar.pipeThrough(createTarDecoder())) {
    const wanted = /^(\.\/)?([^/]+\/)?meta\.json$/.test(header.name) && header.size <= LARGEST_META;
    if (wanted) return Buffer.from(await new Response(body).arrayBuffer());
    // Not cancelled: modern-tar 0.8 takes that for the file that it is at by now, the end of which then never comes.
    if (header.size > 0) await body.pipeTo(new WritableStream());
  }
  return Buffer.alloc(0);
}
