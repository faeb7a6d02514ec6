// The index of all episodes: what is noted of each. It is a file, index.jsonl (episode-index-file.ts), or a table (episode-index-table.ts).
// Both are looked up in the table `episodes` of the store.

import { isDiskFull } from "../files.ts";
import type { Queries } from "../database.ts";
import type { EpisodeKey } from "./episodes.ts";

/** An episode's line. */
export interface IndexRow extends EpisodeKey {
  received_at: string;
  sha256: string;
  size: number;
  schema: number;
  /** 40 hex digits. */
  commit?: string | undefined;
  /** Made afterwards, from the episode itself. */
  backfilled?: boolean;
  /** The episode that was received at `received_at` was removed. */
  removed_at?: string | undefined;
}

/** A line's place among all. */
export type Place = Pick<IndexRow, "received_at" | "host" | "episode">;

/** What looks up, the same for all indexes. */
interface Lookups {
  /** Whether an episode has a line, and is not removed by it. */
  has(key: EpisodeKey): Promise<boolean>;
  /** The line of an episode, also of one that was removed. */
  find(key: EpisodeKey): Promise<IndexRow | null>;
  /** Lines by their time, oldest first; without `since` the newest ones. */
  list(wanted: { host: string | null; since: string | null; limit: number }): Promise<IndexRow[]>;
  /** Lines before one by their time, all without it; the newest first. */
  before(wanted: { host: string | null; before: Place | null; limit: number }): Promise<IndexRow[]>;
  /** All lines, oldest first, of one host or all; those of removed episodes only where they are wanted. Lines may be added meanwhile. */
  all(host?: string | null, removed?: boolean): AsyncIterable<IndexRow>;
}

/** The index, for looking up and adding. */
export interface EpisodeIndex extends Lookups {
  /**
   * Notes an episode whose bytes are at a place (StoredEpisode), or that it was removed (null); resolves when it is on disk. `known`: it is noted already.
   * `other`: its name is noted with other bytes; nothing was changed.
   */
  add(row: IndexRow, at: string | null): Promise<"added" | "known" | "other">;
  /** Takes part in the transaction that renames a host. */
  renaming(tx: Queries, from: string, to: string): Promise<void>;
  /** Finishes that the host's lines have its new name. It is called after that transaction, and again where that was killed. */
  rename(from: string, to: string): Promise<void>;
  /** The number and the bytes of all episodes. */
  totals(): Promise<{ episodes: number; bytes: number }>;
  /** Brings the table up to date. */
  follow(): Promise<void>;
  close(): Promise<void>;
}

/** So many lines are read at once. */
const PAGE = 500;

/** A line of the table. Its own column names the host: a renamed one stands in the JSON with its former name. */
type TableRow = Pick<IndexRow, "host"> & { line: string };
const asRow = ({ host, line }: TableRow): IndexRow => ({ ...(JSON.parse(line) as IndexRow), host });

/** Looks lines up in the table; `follow` brings it up to date before that. */
export function lookups(read: Queries, follow: () => Promise<void>): Lookups {
  /** For reading: on a full disk the table may lack the newest lines, which is better than an error. */
  const followIfRoom = (): Promise<void> =>
    follow().catch((error: unknown) => {
      if (!isDiskFull(error)) throw error;
    });
  const all = async (text: string, values: (string | number | null)[]): Promise<IndexRow[]> =>
    (await read.all<TableRow>(text, values)).map(asRow);
  const looking: Lookups = {
    async has(key) {
      const row = await looking.find(key);
      return row !== null && row.removed_at === undefined;
    },
    async find({ host, episode }) {
      await follow();
      const [row] = await all("SELECT host, line FROM episodes WHERE host = $1 AND episode = $2", [host, episode]);
      return row ?? null;
    },
    async list({ host, since, limit }) {
      if (since === null) return (await looking.before({ host, before: null, limit })).toReversed();
      await followIfRoom();
      return all(
        `SELECT host, line FROM episodes
         WHERE received_at >= $1 AND removed_at IS NULL AND (CAST($2 AS TEXT) IS NULL OR host = $2)
         ORDER BY received_at, host, episode LIMIT $3`,
        [since, host, limit],
      );
    },
    async before({ host, before, limit }) {
      await followIfRoom();
      const place = [before?.received_at ?? "~", before?.host ?? "", before?.episode ?? ""];
      return all(
        `SELECT host, line FROM episodes WHERE (received_at, host, episode) < ($1, $2, $3) AND removed_at IS NULL
         ${host === null ? "" : "AND host = $5"} ORDER BY received_at DESC, host DESC, episode DESC LIMIT $4`,
        [...place, limit, ...(host === null ? [] : [host])],
      );
    },
    async *all(host = null, removed = false) {
      await follow();
      let last: Place = { received_at: "", host: "", episode: "" };
      for (;;) {
        const page = await all(
          `SELECT host, line FROM episodes
           WHERE (received_at, host, episode) > ($1, $2, $3) ${removed ? "" : "AND removed_at IS NULL"} AND (CAST($4 AS TEXT) IS NULL OR host = $4)
           ORDER BY received_at, host, episode LIMIT ${PAGE}`,
          [last.received_at, last.host, last.episode, host],
        );
        yield* page;
        if (page.length < PAGE) return;
        last = page.at(-1)!;
      }
    },
  };
  return looking;
}

/** Counts the lines of the table. */
export async function count(read: Queries): Promise<{ episodes: number; bytes: number }> {
  const row = await read.one<{ episodes: number; bytes: number | null }>(
    "SELECT COUNT(*) AS episodes, CAST(SUM(size) AS BIGINT) AS bytes FROM episodes WHERE removed_at IS NULL",
  );
  return { episodes: row?.episodes ?? 0, bytes: row?.bytes ?? 0 };
}
