// Episodes in a bucket, for receivers that share a database. An upload:
//
//   1. its bytes go to `<host>/<episode>.<sha256>.tar.zst` in parts, which can't be seen before they are assembled
//   2. the hash is checked, then they are assembled: what is under a key has the hash that the key names, and is never replaced by other bytes
//   3. the row of the index decides (episode-index-table.ts)
//
// Killed before 3 it leaves parts, which the bucket's own rule for unfinished uploads removes, or an object without a row: a stray. So does
// the upload that loses against another one of that name.
//
// Strays are noted in `stray_objects` when they are first seen, and removed a day later: after a database was restored, `index rebuild` has this
// day to take them in. An object may get its row at the very moment when it is removed, hence two steps on both sides:
//
//   what wants a row    holds the object: notes it as a stray that was seen just now. Then it is assembled, then it gets its row
//   what removes        claims the object, in a transaction that nothing runs beside: no row names it, and no note says that it is held.
//                       Then it is removed, then its note. What wants its row meanwhile is refused, and sent again
//
// A claim of a process that was killed is taken over an hour later: by then no request of that process is under way.

import { NAME_SEGMENT } from "../config.ts";
import type { Log } from "../log.ts";
import { Refusal } from "../refusal.ts";
import type { EpisodeKey, EpisodeStore, StoredEpisode, Upload } from "./episodes.ts";
import type { Bucket, S3Object } from "./s3.ts";
import type { Store } from "./store.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** So many objects are claimed at once, and so many removed. */
const BATCH = 200;
const AT_ONCE = 8;

/** Episodes in a bucket, by the rows of the store. */
export class EpisodeBucket implements EpisodeStore {
  #bucket: Bucket;
  #store: Store;

  constructor(bucket: Bucket, store: Store) {
    this.#bucket = bucket;
    this.#store = store;
  }

  async upload({ host, episode }: EpisodeKey, sha256: string): Promise<Upload> {
    const object = `${host}/${episode}.${sha256}.tar.zst`;
    const sending = this.#bucket.upload(object, "application/zstd");
    let size = 0;
    return {
      at: object,
      write(chunk) {
        size += chunk.length;
        return sending.write(chunk);
      },
      commit: async () => {
        await this.#hold(object);
        // Equal bytes are there already, from an upload that was killed, say.
        if ((await this.#bucket.stat(object))?.size === size) sending.abort();
        else await sending.end();
        // s3rver shows an object while it is written, by another receiver that has the same bytes.
        for (let tries = 20; (await this.#bucket.stat(object))?.size !== size; tries--) {
          if (tries === 0) throw new Error(`store "${object}": it is not there with its ${size} bytes`);
          await Bun.sleep(100);
        }
        return "stored";
      },
      abort: async () => sending.abort(),
    };
  }

  async find({ host, episode }: EpisodeKey): Promise<StoredEpisode | null> {
    const row = await this.#store.read.one<{ object: string }>(
      "SELECT object FROM episodes WHERE host = $1 AND episode = $2 AND removed_at IS NULL",
      [host, episode],
    );
    const found = row ? await this.#bucket.stat(row.object) : null;
    return found && { host, episode, ...stored(found) };
  }

  async sync({ at }: StoredEpisode): Promise<void> {
    await this.#hold(at);
    if (!(await this.#bucket.stat(at))) throw new Error(`keep "${at}": it was removed meanwhile`);
  }

  open({ at }: Pick<StoredEpisode, "at">): Blob {
    return this.#bucket.file(at);
  }

  body({ at }: StoredEpisode, start: number, end: number): ReadableStream {
    return this.#bucket.file(at).slice(start, end).stream();
  }

  async *list(): AsyncIterable<StoredEpisode> {
    for await (const page of this.#bucket.list()) {
      const rows = await this.#rowsOf(page);
      for (const object of page) {
        const key = rows.get(object.key) ?? (await this.#unnoted(object));
        if (key) yield { ...key, ...stored(object) };
      }
    }
  }

  async has(host: string): Promise<boolean> {
    const row = await this.#store.read.one("SELECT 1 AS has FROM episodes WHERE host = $1 AND removed_at IS NULL", [
      host,
    ]);
    return row !== undefined;
  }

  /** Rows name their objects: nothing moves. */
  async move(): Promise<void> {}

  async remove<K extends EpisodeKey>(keys: readonly K[], note: (gone: K[]) => Promise<void>): Promise<void> {
    const objects: string[] = [];
    for (const { host, episode } of keys) {
      const row = await this.#store.read.one<{ object: string }>(
        "SELECT object FROM episodes WHERE host = $1 AND episode = $2",
        [host, episode],
      );
      if (row) objects.push(row.object);
    }
    // An object without a row is swept; a row without an object would be a loss.
    await note([...keys]);
    await this.#drop(objects);
  }

  /** Says at the start what is wrong with the bucket, which stops nothing else. */
  async prepare(log: Log): Promise<void> {
    const looked = this.#bucket.list().next();
    await looked.catch((error: unknown) => log.error("episodes can't be stored now", { error }));
  }

  async sweep(log: Log, alive: () => void): Promise<void> {
    const now = Date.now();
    await this.#store.write(
      (tx) =>
        tx.run(
          "DELETE FROM stray_objects WHERE object IN (SELECT object FROM episodes WHERE removed_at IS NULL) AND removing IS NULL",
        ),
      [],
    );
    for await (const page of this.#bucket.list()) {
      alive();
      const rows = await this.#rowsOf(page);
      const strays = page.filter(({ key }) => !rows.has(key)).map(({ key }) => key);
      await this.#store.write(async (tx) => {
        for (const object of strays) {
          // It may have got its row since it was looked for.
          await tx.run(
            `INSERT INTO stray_objects (object, seen_at) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT)
             WHERE NOT EXISTS (SELECT 1 FROM episodes WHERE object = $1 AND removed_at IS NULL) ON CONFLICT DO NOTHING`,
            [object, now],
          );
        }
      }, []);
    }
    const due = await this.#store.read.all<{ object: string }>(
      "SELECT object FROM stray_objects WHERE seen_at <= $1 OR removing <= $2 ORDER BY object",
      [now - DAY_MS, now - HOUR_MS],
    );
    let swept = 0;
    for (let from = 0; from < due.length; from += BATCH) {
      alive();
      swept += await this.#drop(due.slice(from, from + BATCH).map(({ object }) => object));
    }
    if (swept > 0) log.info("removed objects that no episode has", { objects: swept });
  }

  /** The live rows of objects, by these. */
  async #rowsOf(page: readonly S3Object[]): Promise<Map<string, EpisodeKey>> {
    const rows = await this.#store.read.all<EpisodeKey & { object: string }>(
      `SELECT object, host, episode FROM episodes WHERE removed_at IS NULL
       AND object IN (SELECT json_array_elements_text(CAST(CAST($1 AS TEXT) AS JSON)))`,
      [JSON.stringify(page.map(({ key }) => key))],
    );
    return new Map(rows.map(({ object, host, episode }) => [object, { host, episode }]));
  }

  /** The episode that an object without a row is; null where its name has a row, also a removed one. */
  async #unnoted({ key }: S3Object): Promise<EpisodeKey | null> {
    const [, host = "", episode = ""] = /^([^/]+)\/(.+)\.[0-9a-f]{64}\.tar\.zst$/.exec(key) ?? [];
    if (!NAME_SEGMENT.test(host) || !NAME_SEGMENT.test(episode)) return null;
    const values = [host, episode];
    const row = await this.#store.read.one("SELECT 1 AS has FROM episodes WHERE host = $1 AND episode = $2", values);
    return row ? null : { host, episode };
  }

  /** Keeps an object that gets its row soon from being removed. @throws Refusal 503 where it is being removed. */
  async #hold(object: string): Promise<void> {
    const held = await this.#store.write(
      (tx) =>
        tx.run(
          `INSERT INTO stray_objects (object, seen_at) VALUES ($1, $2)
           ON CONFLICT (object) DO UPDATE SET seen_at = excluded.seen_at WHERE stray_objects.removing IS NULL`,
          [object, Date.now()],
        ),
      [],
    );
    if (held > 0) return;
    const what = "an episode of this name is being removed: send it again later";
    throw new Refusal(503, "being_removed", what, { headers: { "retry-after": "60" } });
  }

  /** Removes objects that no row names and nothing holds. Gives how many. */
  async #drop(objects: readonly string[]): Promise<number> {
    const now = Date.now();
    const claimed = await this.#store.write(async (tx) => {
      const claims: string[] = [];
      for (const object of objects) {
        const count = await tx.run(
          `INSERT INTO stray_objects (object, seen_at, removing) SELECT CAST($1 AS TEXT), CAST($2 AS BIGINT), $2
           WHERE NOT EXISTS (SELECT 1 FROM episodes WHERE object = $1 AND removed_at IS NULL)
           ON CONFLICT (object) DO UPDATE SET removing = excluded.removing
           WHERE (stray_objects.removing IS NULL AND stray_objects.seen_at <= $3) OR stray_objects.removing <= $4`,
          [object, now, now - DAY_MS, now - HOUR_MS],
        );
        if (count > 0) claims.push(object);
      }
      return claims;
    });
    const waiting = [...claimed];
    const work = async (): Promise<void> => {
      for (let object = waiting.pop(); object !== undefined; object = waiting.pop()) await this.#bucket.remove(object);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    await this.#store.write(async (tx) => {
      for (const object of claimed) await tx.run("DELETE FROM stray_objects WHERE object = $1", [object]);
    }, []);
    return claimed.length;
  }
}

const stored = ({ key: at, size, modifiedAt }: S3Object) => ({ at, size, modifiedAt });
