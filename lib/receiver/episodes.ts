// Episodes: finished archives that are never changed and never overwritten. Where they are stored (EpisodeStore) and what is noted of each
// (EpisodeIndex) go together, and there are two pairs of them:
//
//   a folder (episode-folder.ts)   and index.jsonl beside it (episode-index-file.ts): a name in the folder decides which bytes it has

import { homedir } from "node:os";
import { isAbsolute, join } from "node:path";
import type { Log } from "../log.ts";
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
  /** Where its bytes are: the path of a file. */
  at: string;
}

/** An episode that is being uploaded. */
export interface Upload {
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
  /** Makes a stored episode survive a power cut: the process that stored it may have died before its sync. */
  sync(key: EpisodeKey): Promise<void>;
  /** The bytes; `slice` gives a part of them. */
  open(stored: Pick<StoredEpisode, "at">): Blob;
  /** All of them. Other names, folders and dangling links are skipped. */
  list(): AsyncIterable<StoredEpisode>;
  /** Whether a host has episodes. */
  has(host: string): Promise<boolean>;
  /** Moves a host's episodes to another name, durably. Uploads under the former name may continue. */
  move(from: string, to: string): Promise<void>;
  /** Removes episodes, durably, and has it noted in the index. One that is missing counts as removed. */
  remove<K extends EpisodeKey>(keys: readonly K[], note: (gone: K[]) => Promise<void>): Promise<void>;
  /** Makes the place where it is missing, removes what unfinished uploads left, and logs what it can't remove. */
  sweep(log: Log): Promise<void>;
}

/** Where the episodes of a configuration are, and their index. */
export function openEpisodes(config: Config, store: Store): { episodes: EpisodeStore; index: EpisodeIndex } {
  return { episodes: new EpisodeFolder(episodesFolder(config)), index: openIndexFile(store) };
}

/** The folder of a configuration: below data_dir unless it is absolute. */
export function episodesFolder({ data_dir, episodes }: { data_dir: string; episodes: string }): string {
  if (episodes.startsWith("~/")) return join(homedir(), episodes.slice(2));
  return isAbsolute(episodes) ? episodes : join(data_dir, episodes);
}
