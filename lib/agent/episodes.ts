// An episode's state is the folder it lies in, and each step is one rename: shipping resumes after a crash.
//
//   episodes/<id>/done.marker      finished by its producer
//   outbox/<id>.tar.zst.partial    being packed
//   outbox/<id>.tar.zst            packed, not sent yet
//   shipped/<id>/                  accepted by the receiver
//   quarantine/<id>/               rejected; the reason is in quarantine_reason.json beside its files
//
// outbox, shipped and quarantine are beside the episodes' folder, on the same file system. Each step takes a lock (flock(2) on
// the episode's folder itself), so that a daemon, `--once` and the quarantine commands never work on the same episode.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { NAME_SEGMENT } from "../config.ts";
import { flock, hasLibc } from "../ffi.ts";
import { syncFolder } from "../files.ts";

const MARKER = "done.marker";
const REASON = "quarantine_reason.json";
const SUFFIX = ".tar.zst";

/** Why an episode is in quarantine. */
interface QuarantineReason {
  /** The answer's status; null if the episode wasn't sent. */
  status: number | null;
  /** The answer's body, or a description of the problem. */
  body: unknown;
  /** RFC 3339. */
  time: string;
}

/** The folders of a host's episodes. */
export class EpisodeFolders {
  readonly episodes: string;
  readonly outbox: string;
  readonly shipped: string;
  readonly quarantine: string;

  constructor(episodes: string) {
    const beside = dirname(episodes);
    this.episodes = episodes;
    this.outbox = join(beside, "outbox");
    this.shipped = join(beside, "shipped");
    this.quarantine = join(beside, "quarantine");
  }

  /** Creates the folders beside the episodes. */
  make(): void {
    for (const folder of [this.outbox, this.shipped, this.quarantine]) mkdirSync(folder, { recursive: true });
  }

  /** Finished episodes, the oldest first. `invalid` is called for each that can't be shipped, with a fix. */
  finished(invalid: (name: string, fix: string) => void = () => {}): string[] {
    const found: { id: string; at: number }[] = [];
    for (const id of existsSync(this.episodes) ? readdirSync(this.episodes) : []) {
      const at = markedAt(join(this.episodes, id, MARKER));
      if (at === null) continue;
      if (at === "unreadable") invalid(id, "make it readable");
      else if (NAME_SEGMENT.test(id)) found.push({ id, at });
      else invalid(id, "rename it");
    }
    return found.toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1)).map(({ id }) => id);
  }

  /**
   * Locks an episode.
   * @returns what unlocks it; null when another process has locked or moved it. Throws when it doesn't exist.
   */
  lock(id: string): (() => void) | null {
    const folder = join(this.episodes, id);
    const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    const unlock = () => closeSync(fd);
    const locked = !hasLibc() || flock(fd, "exclusive");
    // It may have been moved between open and lock.
    const here = statSync(folder, { throwIfNoEntry: false });
    if (locked && here?.ino === fstatSync(fd).ino) return unlock;
    unlock();
    return null;
  }

  /** The path of an episode's archive. */
  archive(id: string): string {
    return join(this.outbox, `${id}${SUFFIX}`);
  }

  /** The commit in meta.json; null if there is none of 40 hex digits. */
  commit(id: string): string | null {
    try {
      const meta = JSON.parse(readFileSync(join(this.episodes, id, "meta.json"), "utf8")) as {
        code_version?: { commit?: unknown };
      };
      const commit = meta.code_version?.commit;
      return typeof commit === "string" && /^[0-9a-f]{40}$/.test(commit) ? commit : null;
    } catch {
      return null;
    }
  }

  /** Moves an accepted episode to shipped. After a crash in between, `sweep` removes the archive. */
  ship(id: string): void {
    moveInto(this.shipped, join(this.episodes, id), id);
    rmSync(this.archive(id), { force: true });
  }

  /** Moves an episode to quarantine, with the reason. */
  quarantineEpisode(id: string, reason: Omit<QuarantineReason, "time">): void {
    const text = JSON.stringify({ ...reason, time: new Date().toISOString() }, null, 2);
    writeFileSync(join(this.episodes, id, REASON), `${text}\n`);
    moveInto(this.quarantine, join(this.episodes, id), id);
    rmSync(this.archive(id), { force: true });
  }

  /** The episodes in quarantine. */
  quarantined(): { id: string; reason: QuarantineReason | null }[] {
    if (!existsSync(this.quarantine)) return [];
    return readdirSync(this.quarantine)
      .toSorted((a, b) => (a < b ? -1 : 1))
      .map((id) => ({ id, reason: readReason(join(this.quarantine, id, REASON)) }));
  }

  /** Moves an episode from quarantine back to the finished ones. Throws when it isn't in quarantine, or its name is taken. */
  retry(id: string): void {
    const from = join(this.quarantine, id);
    const to = join(this.episodes, id);
    if (!NAME_SEGMENT.test(id) || !existsSync(from)) throw new Error(`retry "${id}": it is not in quarantine`);
    if (existsSync(to)) throw new Error(`retry "${id}": there is an episode of that name in ${this.episodes}`);
    rmSync(join(from, REASON), { force: true });
    // A kill in `quarantineEpisode` may have left the rejected archive: it must not be sent instead of the fixed episode.
    rmSync(this.archive(id), { force: true });
    renameSync(from, to);
  }

  /** Removes leftovers of a crash: partial archives that no process writes, and archives whose folder has moved. */
  sweep(onError: (path: string, error: unknown) => void): void {
    for (const name of existsSync(this.outbox) ? readdirSync(this.outbox) : []) {
      const [, id, partial] = /^(.+)\.tar\.zst(\.partial)?$/.exec(name) ?? [];
      if (id === undefined) continue;
      const path = join(this.outbox, name);
      try {
        if (!existsSync(join(this.episodes, id))) rmSync(path, { force: true });
        else if (partial) this.#removeUnlocked(id, path);
      } catch (error) {
        onError(path, error);
      }
    }
  }

  #removeUnlocked(id: string, path: string): void {
    const unlock = this.lock(id);
    try {
      if (unlock) rmSync(path, { force: true });
    } finally {
      unlock?.();
    }
  }

  /**
   * Removes what has been in a folder for longer than so many days; 0 keeps it forever.
   * @returns how many were removed.
   */
  expire(folder: string, { days, onError }: { days: number; onError: (path: string, error: unknown) => void }): number {
    if (days === 0 || !existsSync(folder)) return 0;
    let removed = 0;
    for (const path of readdirSync(folder).map((id) => join(folder, id))) {
      try {
        if (Date.now() - lstatSync(path).ctimeMs <= days * 86_400_000) continue;
        rmSync(path, { recursive: true, force: true });
        removed++;
      } catch (error) {
        onError(path, error);
      }
    }
    return removed;
  }
}

/** Moves a folder into another one; if the name is taken it gets a number. */
function moveInto(folder: string, from: string, id: string): void {
  mkdirSync(folder, { recursive: true });
  let to = join(folder, id);
  for (let n = 2; existsSync(to); n++) to = join(folder, `${id}.${n}`);
  renameSync(from, to);
  syncFolder(folder);
}

/** When a marker was written, in milliseconds since 1970; null if there is none: the folder may hold files and broken links, too. */
function markedAt(marker: string): number | "unreadable" | null {
  try {
    return statSync(marker).mtimeMs;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP" ? null : "unreadable";
  }
}

function readReason(path: string): QuarantineReason | null {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as QuarantineReason;
  } catch {
    return null;
  }
}
