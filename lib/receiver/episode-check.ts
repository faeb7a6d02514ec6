// The episodes compared with their index: lines that are missing are made, and differences are named.

import { createTarDecoder } from "modern-tar";
import type { EpisodeIndex, IndexRow } from "./episode-index.ts";
import type { EpisodeKey, EpisodeStore, StoredEpisode } from "./episodes.ts";

/** The daemon may be about to add the line of a file that is younger than this, in milliseconds. */
const YOUNG_MS = 2000;
/** A larger meta.json is not read, in bytes. */
const LARGEST_META = 1 << 20;
/** Data that people keep unpacks to some ten times its size; zeros alone come to tens of thousands. */
const MOST_RATIO = 1000;
const LEAST_UNPACKED = 1 << 30;

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
    await index.add(row, stored.at);
    made.push(row);
  }
  return made;
}

/** The line that an episode's file gives. */
export async function rowOf(episodes: EpisodeStore, stored: StoredEpisode): Promise<IndexRow> {
  const { host, episode, size, modifiedAt } = stored;
  const sha256 = await hashOf(episodes.open(stored));
  const commit = await commitOf(episodes.open(stored), size);
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
export async function hashOf(blob: Blob, pass?: (chunk: Uint8Array) => Promise<void>): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of blob.stream()) {
    hasher.update(chunk);
    await pass?.(chunk);
  }
  return hasher.digest("hex");
}

/** `code_version.commit` of the archive's meta.json; undefined where there is none to be read. */
async function commitOf(blob: Blob, size: number): Promise<string | undefined> {
  try {
    const parsed = JSON.parse((await metaOf(blob, size)).toString()) as { code_version?: { commit?: unknown } };
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
async function metaOf(blob: Blob, size: number): Promise<Buffer> {
  const most = Math.max(LEAST_UNPACKED, size * MOST_RATIO);
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
