// Episodes: finished archives that are never changed and never overwritten. Where they are stored (EpisodeStore) and what is noted of each
// (EpisodeIndex) go together, and there are two pairs of them:
//
//   a folder (episode-folder.ts)   and index.jsonl (episode-index-file.ts): a name in the folder decides which bytes it has
//   a bucket (episode-bucket.ts)   and a table that receivers share (episode-index-table.ts): a row decides

import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import { isPostgres } from "../config.ts";
import type { Log } from "../log.ts";
import { Refusal } from "../refusal.ts";
import type { Config } from "./config.ts";
import { EpisodeFolder } from "./episode-folder.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import { openIndexFile } from "./episode-index-file.ts";
import type { Store } from "./store.ts";

/** Which episode. Both names are checked by the caller (NAME_SEGMENT). */
export interface EpisodeKey {
  host: string;
  episode: string;
}

/** A stored episode. */
export interface StoredEpisode extends EpisodeKey {
  size: number;
  /** Milliseconds since 1970. */
  modifiedAt: number;
  /** Where its bytes are: the path of a file, or an object's key. */
  at: string;
}

/** An episode that is being uploaded. */
export interface Upload {
  /** Where its bytes will be, as of a stored one. */
  readonly at: string;
  write(chunk: Uint8Array): Promise<void>;
  /** Stores it durably under its name. `taken`: another one has the name; nothing was changed. */
  commit(): Promise<"stored" | "taken">;
  /** Leaves nothing behind. May be called at any time, also after `commit`. */
  abort(): Promise<void>;
}

/** Stores episodes. On a full disk errors have the code `ENOSPC`. */
export interface EpisodeStore {
  /** Begins an upload of bytes that are said to have this hash. */
  upload(key: EpisodeKey, sha256: string): Promise<Upload>;
  find(key: EpisodeKey): Promise<StoredEpisode | null>;
  /** Makes sure that a stored episode stays, also past a power cut: the process that stored it may have died before its sync. */
  sync(stored: StoredEpisode): Promise<void>;
  /** The bytes; `slice` gives a part of them. */
  open(stored: Pick<StoredEpisode, "at">): Blob;
  /** The bytes from `start` to before `end`, as the body of a response. */
  body(stored: StoredEpisode, start: number, end: number): Blob | ReadableStream;
  /** All of them. Other names, folders and dangling links are skipped. */
  list(): AsyncIterable<StoredEpisode>;
  /** Whether a host has episodes. */
  has(host: string): Promise<boolean>;
  /** Moves a host's episodes to another name, durably. Uploads under the former name may continue. */
  move(from: string, to: string): Promise<void>;
  /** Removes episodes, durably, and has it noted in the index. One that is missing counts as removed. */
  remove<K extends EpisodeKey>(keys: readonly K[], note: (gone: K[]) => Promise<void>): Promise<void>;
  /** Makes the place where it is missing, and sweeps what an earlier process left. */
  prepare(log: Log): Promise<void>;
  /** Removes what uploads left that were never finished, and logs what it can't remove. */
  sweep(log: Log, alive: () => void): Promise<void>;
}

/** Where the episodes of a configuration are, and their index. @throws ConfigError without credentials for a bucket. */
export async function openEpisodes(
  config: Config,
  store: Store,
): Promise<{ episodes: EpisodeStore; index: EpisodeIndex }> {
  const { episodes: place, s3, max_episode_bytes } = config;
  if (!isPostgres(config.store)) {
    return { episodes: new EpisodeFolder(episodesFolder(config)), index: openIndexFile(store) };
  }
  // Evaluated only where they are used.
  const { openIndexTable } = await import("./episode-index-table.ts");
  const index = openIndexTable(store);
  if (place === undefined) return { episodes: NOWHERE, index };
  const [{ EpisodeBucket }, { Bucket }] = await Promise.all([import("./episode-bucket.ts"), import("./s3.ts")]);
  return { episodes: new EpisodeBucket(new Bucket(place, s3, max_episode_bytes), store), index };
}

const refuse = (): never => {
  throw new Refusal(503, "no_place", "no place for episodes is configured here", {
    headers: { "retry-after": "3600" },
  });
};
/** No place: a receiver of a shared database that takes no episodes. */
const NOWHERE: EpisodeStore = {
  find: async () => null,
  async *list() {},
  has: async () => false,
  upload: async () => refuse(),
  open: refuse,
  body: refuse,
  async sync() {},
  async move() {},
  remove: async () => refuse(),
  async prepare() {},
  async sweep() {},
};

/** The folders of this machine that the daemon writes to. */
export const writtenFolders = (config: Config): string[] =>
  isPostgres(config.store) ? [config.data_dir] : [config.data_dir, episodesFolder(config)];

/** The folder of a configuration: below data_dir unless it is absolute. */
export function episodesFolder({ data_dir, episodes = "episodes" }: Pick<Config, "data_dir" | "episodes">): string {
  if (episodes.startsWith("~/")) return join(homedir(), episodes.slice(2));
  return isAbsolute(episodes) ? episodes : join(data_dir, episodes);
}
