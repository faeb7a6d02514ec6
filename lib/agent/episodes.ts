// An episode's state is the folder it lies in, and each step is one rename (lib/agent/move.ts: also to another mount): shipping
// resumes after a crash.
//
//   episodes/<id>/done.marker      finished by its producer
//   outbox/<id>.tar.zst.partial    being packed
//   outbox/<id>.tar.zst            packed, not sent yet
//   outbox/<id>.tar.zst.accepted.N accepted, not moved yet; emptied; N is the inode of episodes/<id>
//   shipped/<id>/                  accepted by the receiver
//   quarantine/<id>/               rejected; the reason is in quarantine_reason.json beside its files
//
// outbox, shipped and quarantine are beside the episodes' folder. Each step takes a lock (flock(2) on
// the episode's folder itself), so that a daemon, `--once` and the quarantine commands never work on the same episode.

import {
  type PathLike,
  closeSync,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { NAME_SEGMENT } from "../config.ts";
import { isThere, openToRead } from "../files.ts";
import { IN_TRANSIT, isOtherMount, lockFolder, moveFolder, removeLeftovers } from "./move.ts";

const MARKER = "done.marker";
const REASON = "quarantine_reason.json";
const SUFFIX = ".tar.zst";
/** Larger than any meta.json, in bytes. */
const LARGEST_JSON = 16 << 20;

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

  /** The episodes' own folder, and those beside it. */
  get all(): string[] {
    return [this.episodes, this.outbox, this.shipped, this.quarantine];
  }

  /** Creates the folders beside the episodes. */
  make(): void {
    for (const folder of this.all.slice(1)) mkdirSync(folder, { recursive: true });
  }

  /** Finished episodes, the oldest first; and by name those that can't be shipped, with a fix. */
  finished(): { ids: string[]; invalid: Map<string, string> } {
    const found: { id: string; at: number }[] = [];
    const invalid = new Map<string, string>();
    // A name need not be UTF-8.
    for (const name of existsSync(this.episodes) ? readdirSync(this.episodes, { encoding: "buffer" }) : []) {
      const id = String(name);
      const folder = Buffer.concat([Buffer.from(`${this.episodes}/`), name]);
      const at = IN_TRANSIT.test(id) ? null : markedAt(Buffer.concat([folder, Buffer.from(`/${MARKER}`)]));
      if (at === null) continue;
      if (typeof at === "string") invalid.set(id, at);
      else if (!NAME_SEGMENT.test(id)) invalid.set(id, "rename it");
      // Its archive would be one link, and the data would stay where nobody looks for it.
      else if (lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink())
        invalid.set(id, "it is a link: put the folder itself there, or mount it");
      else found.push({ id, at });
    }
    return { ids: found.toSorted((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1)).map(({ id }) => id), invalid };
  }

  /** Locks an episode, as `lockFolder`. */
  lock(id: string): Disposable | null {
    return lockFolder(join(this.episodes, id));
  }

  /** The folders on another mount than the episodes: these are copied there. */
  otherMounts(): string[] {
    return [this.shipped, this.quarantine].filter((folder) => isOtherMount(this.episodes, folder));
  }

  /** The path of an episode's archive. */
  archive(id: string): string {
    return join(this.outbox, `${id}${SUFFIX}`);
  }

  /** The commit in meta.json; null if there is none of 40 hex digits. */
  commit(id: string): string | null {
    const meta: { code_version?: { commit?: unknown } } | null = readObject(join(this.episodes, id, "meta.json"));
    const commit = meta?.code_version?.commit;
    return typeof commit === "string" && /^[0-9a-f]{40}$/.test(commit) ? commit : null;
  }

  /** Notes that the receiver has an episode: if it can't be moved it isn't sent again. */
  accept(id: string): void {
    renameSync(this.archive(id), this.#accepted(id));
    truncateSync(this.#accepted(id));
  }

  isAccepted(id: string): boolean {
    return existsSync(this.#accepted(id));
  }

  /** The inode tells this folder from a later one of the same name. */
  #accepted(id: string): string {
    return `${this.archive(id)}.accepted.${statSync(join(this.episodes, id)).ino}`;
  }

  /** Moves an accepted episode to shipped. After a crash in between, `sweep` removes what is in the outbox. */
  async ship(id: string, alive?: () => void): Promise<void> {
    const accepted = this.#accepted(id);
    await this.#move(id, this.shipped, alive);
    rmSync(accepted, { force: true });
  }

  /** Moves an episode to quarantine, with the reason. */
  async quarantineEpisode(id: string, reason: Omit<QuarantineReason, "time">, alive?: () => void): Promise<void> {
    const text = JSON.stringify({ ...reason, time: new Date().toISOString() }, null, 2);
    const file = join(this.episodes, id, REASON);
    // Its producer may have put a link or a pipe there.
    rmSync(file, { recursive: true, force: true });
    writeFileSync(file, `${text}\n`, { flag: "wx" });
    await this.#move(id, this.quarantine, alive);
    rmSync(this.archive(id), { force: true });
  }

  /** Moves an episode into a folder; if the name is taken it gets a number. */
  async #move(id: string, folder: string, alive?: () => void): Promise<void> {
    mkdirSync(folder, { recursive: true });
    let to = join(folder, id);
    for (let n = 2; existsSync(to); n++) to = join(folder, `${id}.${n}`);
    await moveFolder(join(this.episodes, id), to, { first: MARKER, alive });
  }

  /** The episodes in quarantine. */
  quarantined(): { id: string; reason: QuarantineReason | null }[] {
    if (!existsSync(this.quarantine)) return [];
    return readdirSync(this.quarantine)
      .filter((name) => !IN_TRANSIT.test(name))
      .toSorted((a, b) => (a < b ? -1 : 1))
      .map((id) => ({ id, reason: readObject(join(this.quarantine, id, REASON)) as QuarantineReason | null }));
  }

  /** Moves an episode from quarantine back to the finished ones. Throws when it isn't in quarantine, or its name is taken. */
  async retry(id: string): Promise<void> {
    const from = join(this.quarantine, id);
    const to = join(this.episodes, id);
    if (!NAME_SEGMENT.test(id) || !existsSync(from)) throw new Error(`retry "${id}": it is not in quarantine`);
    if (existsSync(to)) throw new Error(`retry "${id}": there is an episode of that name in ${this.episodes}`);
    rmSync(join(from, REASON), { force: true });
    // A kill in `quarantineEpisode` may have left the rejected archive: it must not be sent instead of the fixed episode.
    rmSync(this.archive(id), { force: true });
    await moveFolder(from, to, { first: MARKER });
  }

  /** Removes leftovers of a crash: partial archives and copies that no process writes, and archives whose folder has moved. */
  sweep(onError: (path: string, error: unknown) => void): void {
    for (const folder of [this.episodes, this.shipped, this.quarantine]) removeLeftovers(folder, onError);
    for (const name of existsSync(this.outbox) ? readdirSync(this.outbox) : []) {
      const [, id, state] = /^(.+)\.tar\.zst(\.partial|\.accepted\.\d+)?$/.exec(name) ?? [];
      if (id === undefined) continue;
      const path = join(this.outbox, name);
      try {
        const gone = !existsSync(join(this.episodes, id));
        const other = !gone && state?.startsWith(".accepted") && path !== this.#accepted(id);
        using lock = state === ".partial" && !gone ? this.lock(id) : null;
        if (gone || other || lock) rmSync(path, { force: true });
      } catch (error) {
        onError(path, error);
      }
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

/** When a marker was written, in milliseconds since 1970; null if there is none: the folder may hold files and broken links, too. Text: what fixes it. */
function markedAt(marker: PathLike): number | string | null {
  try {
    return statSync(marker).mtimeMs;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR" && code !== "ELOOP") return "make it readable";
    return isThere(marker) ? `its ${MARKER} is a link that leads nowhere: replace it with a file` : null;
  }
}

/** The JSON of a regular file; null for anything else: a pipe would block, a device may have no end. */
function readObject(path: string): object | null {
  let fd: number | null = null;
  try {
    fd = openToRead(path);
    if (fd === null) return null;
    const stats = fstatSync(fd);
    if (!stats.isFile() || stats.size > LARGEST_JSON) return null;
    return JSON.parse(readFileSync(fd, "utf8")) as object | null;
  } catch {
    return null;
  } finally {
    if (fd !== null) closeSync(fd);
  }
}
