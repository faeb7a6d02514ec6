// The places of an episode on a host. A state is a place; each step is one rename, so that whoever is killed goes on from there.
//
//   episodes/<id>/done.marker      finished by its producer
//   outbox/<id>.tar.zst.partial    is being packed
//   outbox/<id>.tar.zst            packed, to be sent
//   shipped/<id>/                  arrived
//   quarantine/<id>/               refused; why is in quarantine_reason.json beside its files
//
// outbox, shipped and quarantine lie beside the episodes' folder, on the same file system. Whoever works on an episode holds
// its folder (flock(2) on the folder itself), so that a daemon, `--once` and the quarantine's commands don't meet in one.

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

/** Why an episode was put away. */
interface QuarantineReason {
  /** The answer's status; null where it wasn't sent. */
  status: number | null;
  /** The answer's body, or what is wrong. */
  body: unknown;
  /** RFC 3339. */
  time: string;
}

/** The folders of a host's episodes. */
export class EpisodePlaces {
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

  /** Makes the folders that are ours. */
  make(): void {
    for (const folder of [this.outbox, this.shipped, this.quarantine]) mkdirSync(folder, { recursive: true });
  }

  /** Finished episodes, the longest finished first. What can't be shipped as it lies there is told to `odd`, with what would help. */
  finished(odd: (name: string, remedy: string) => void): string[] {
    const found: { id: string; at: number }[] = [];
    for (const id of existsSync(this.episodes) ? readdirSync(this.episodes) : []) {
      const at = markedAt(join(this.episodes, id, MARKER));
      if (at === null) continue;
      if (at === "hidden") odd(id, "let it be read");
      else if (NAME_SEGMENT.test(id)) found.push({ id, at });
      else odd(id, "rename it");
    }
    return found.toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1)).map(({ id }) => id);
  }

  /**
   * Takes an episode for oneself.
   * @returns what gives it back; null when somebody else works on it, or has moved it away. Throws when it is not there.
   */
  hold(id: string): (() => void) | null {
    const folder = join(this.episodes, id);
    const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
    const release = () => closeSync(fd);
    const taken = hasLibc() && !flock(fd, "exclusive");
    const here = statSync(folder, { throwIfNoEntry: false });
    if (!taken && here?.ino === fstatSync(fd).ino) return release;
    release();
    return null;
  }

  /** Where an episode's archive lies, or will. */
  archive(id: string): string {
    return join(this.outbox, `${id}${SUFFIX}`);
  }

  /** The commit in meta.json; null without one of 40 hex digits. */
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

  /** It has arrived: the folder goes to shipped, then the archive goes. */
  ship(id: string): void {
    this.#move(join(this.episodes, id), this.shipped, id);
    this.#drop(this.archive(id));
  }

  /** It won't be taken: the folder goes to quarantine with the reason, then the archive goes. */
  putAway(id: string, reason: QuarantineReason): void {
    writeFileSync(join(this.episodes, id, REASON), `${JSON.stringify(reason, null, 2)}\n`);
    this.#move(join(this.episodes, id), this.quarantine, id);
    this.#drop(this.archive(id));
  }

  /** What is in quarantine. */
  quarantined(): { id: string; reason: QuarantineReason | null }[] {
    if (!existsSync(this.quarantine)) return [];
    return readdirSync(this.quarantine)
      .toSorted((a, b) => (a < b ? -1 : 1))
      .map((id) => ({ id, reason: readReason(join(this.quarantine, id, REASON)) }));
  }

  /** Back to the finished ones, as it was. Throws when it isn't there, or its place is taken. */
  retry(id: string): void {
    const from = join(this.quarantine, id);
    const to = join(this.episodes, id);
    if (!NAME_SEGMENT.test(id) || !existsSync(from)) throw new Error(`retry "${id}": it is not in quarantine`);
    if (existsSync(to)) throw new Error(`retry "${id}": there is an episode of that name in ${this.episodes}`);
    this.#drop(join(from, REASON));
    // Of one that was killed while it put this away: what was refused must not be sent in place of what was mended.
    this.#drop(this.archive(id));
    renameSync(from, to);
  }

  /** Removes what is being packed by nobody any more, and archives whose folder is gone. What can't be removed is told to `left`. */
  sweep(left: (path: string, error: unknown) => void): void {
    for (const name of existsSync(this.outbox) ? readdirSync(this.outbox) : []) {
      const [, id, partial] = /^(.+)\.tar\.zst(\.partial)?$/.exec(name) ?? [];
      if (id === undefined) continue;
      const path = join(this.outbox, name);
      try {
        if (!existsSync(join(this.episodes, id))) this.#drop(path);
        else if (partial) this.#dropUnheld(id, path);
      } catch (error) {
        left(path, error);
      }
    }
  }

  /**
   * Removes what has lain in a folder for longer than so many days; 0 keeps it for ever. What can't be removed is told to `left`.
   * @returns how many went.
   */
  expire(
    folder: string,
    { days, now, left }: { days: number; now: number; left: (path: string, error: unknown) => void },
  ): number {
    if (days === 0 || !existsSync(folder)) return 0;
    let gone = 0;
    for (const path of readdirSync(folder).map((id) => join(folder, id))) {
      try {
        if (now - lstatSync(path).ctimeMs <= days * 86_400_000) continue;
        rmSync(path, { recursive: true, force: true });
        gone++;
      } catch (error) {
        left(path, error);
      }
    }
    return gone;
  }

  /** Moves a folder; one of that name that is there already gets out of the way. */
  #move(from: string, into: string, id: string): void {
    mkdirSync(into, { recursive: true });
    let to = join(into, id);
    for (let n = 2; existsSync(to); n++) to = join(into, `${id}.${n}`);
    renameSync(from, to);
    syncFolder(into);
  }

  #dropUnheld(id: string, path: string): void {
    const release = this.hold(id);
    if (release === null) return;
    this.#drop(path);
    release();
  }

  /** Removes a file; another process's sweep may have been quicker. */
  #drop(path: string): void {
    rmSync(path, { force: true });
  }
}

/**
 * When a marker was written, in milliseconds since 1970; null where there is none, "hidden" where that can't be seen. Nothing that lies
 * among the episodes (a file, a link to itself, somebody's own folder) keeps the others from being found.
 */
function markedAt(marker: string): number | "hidden" | null {
  try {
    return statSync(marker).mtimeMs;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP" ? null : "hidden";
  }
}

function readReason(path: string): QuarantineReason | null {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as QuarantineReason;
  } catch {
    return null;
  }
}
