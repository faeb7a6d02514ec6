// The drop folder: every `*.json` in it becomes an inbox line, or a dead letter with its reason.
//
// The scan is the truth, the watch only a hint to scan now. A scan is one pass, oldest file first, and each file goes one way:
//
//   seen → judged → delivered (durable) → removed    an event's id is derived from name, content and mtime, so a crash
//                                                    between the last two doesn't deliver it again
//   refused, and still for settle_ms         → `.dead-letter/NAME` beside `NAME.reason`
//   not a regular file                       → the same at once, never opened or followed
//   the inbox can't be written               → stays, tried again with backoff; drops for others don't wait for it
//   changed just now, and Syncthing is here  → stays for ARRIVAL_MS: Syncthing renames first and sets the mtime then, and
//                                              brings the file again, with that mtime, when it is killed in between. A file
//                                              that came without it is remembered by name and content alone: the same with
//                                              an mtime from before that delivery is the same drop

import { type FSWatcher, existsSync, lstatSync, readdirSync, statSync, unlinkSync, watch } from "node:fs";
import { basename, dirname, join } from "node:path";
import { holdAlone, makeFolder } from "../files.ts";
import type { InboxWriter } from "../inbox.ts";
import type { Log } from "../log.ts";
import { Backoff } from "./backoff.ts";
import { bury, joined } from "./dead-letter.ts";
import { type Drop, type Entry, type Judgement, isStill, judge } from "./drop.ts";

/** Files in hand at once: their events share a sync. */
const BATCH = 256;
/** How often a folder that isn't there is looked for. */
const MISSING_POLL_MS = 1000;
/** In a folder with this mark, or below one, Syncthing puts files. */
const SYNCTHING_MARK = ".stfolder";
/** So long a file that Syncthing may just have renamed into place is left alone: it gets its mtime only then. */
const ARRIVAL_MS = 200;

interface DropFolderOptions {
  path: string;
  /** The collector's own folder; a lock in it keeps other collectors away from this drop folder. */
  stateFolder: string;
  /** For how long a file that can't be a drop has to be still before it is refused. */
  settleMs: () => number;
  log: Log;
  figures: DropFigures;
  /** Delivers a drop unless its id was delivered before; resolves when it is durable. */
  deliver: (drop: Drop, event: { id: string; source: string }) => Promise<unknown>;
  /** What is remembered of delivered drops besides their ids. */
  delivered: Pick<InboxWriter, "remember" | "rememberedAt">;
  /** The clock of the files' times, in milliseconds since 1970. */
  now?: () => number;
}

/** Figures since the start. */
export interface DropFigures {
  delivered: number;
  dead_letters: number;
  /** Drops that stay because the inbox could not be written. */
  waiting: number;
  errors: number;
}

/** The size and mtime that a file had, and since when: milliseconds by `performance.now()`. */
interface Still {
  size: bigint;
  mtimeNs: bigint;
  since: number;
}

/** A drop folder that this collector alone empties. */
export class DropFolder {
  #options: DropFolderOptions;
  #release: () => void;
  #watcher: { watcher: FSWatcher; dev: bigint; ino: bigint } | null = null;
  #missing = false;
  /** Whether Syncthing keeps this folder in step, and whether it is bringing something just now. */
  #synced = false;
  #arriving = false;
  /** By a file's name in latin1, as all maps of files here. */
  #unsettled = new Map<string, Still>();
  /** Delivered drops that can't be deleted, with their event's id. */
  #undeleted = new Map<string, string>();
  #inboxes: Backoff;
  #files: Backoff;

  /** Makes the folder and locks it. Throws when that fails, or when another collector has it. */
  constructor(options: DropFolderOptions) {
    const { log, path } = options;
    makeFolder(path, 0o755);
    this.#options = options;
    this.#release = holdFolder(options);
    this.#inboxes = new Backoff({
      log,
      field: "recipient",
      trouble: "drops stay: the inbox can't be written",
      over: "drops go on: the inbox can be written again",
    });
    this.#files = new Backoff({
      log,
      field: "file",
      trouble: "drops stay: they can't be read, or moved to .dead-letter",
    });
  }

  get path(): string {
    return this.#options.path;
  }

  /** Ends the watch and unlocks the folder. */
  close(): void {
    this.#unwatch();
    this.#release();
  }

  /**
   * One scan. `alive` is called now and then; `wake` when something happens in the folder later. Gives in how many milliseconds the
   * next pass is worthwhile, apart from the poll: null when nothing waits. Throws when the folder can't be read; one that isn't there
   * is waited for.
   */
  async pass(alive: () => void, wake: () => void, stopping: AbortSignal): Promise<number | null> {
    if (!this.#present()) return MISSING_POLL_MS;
    this.#rewatch(wake);
    this.#synced = isSynced(this.path);
    this.#arriving = false;
    const entries = this.#scan();
    this.#forgetVanished(entries);
    this.#options.figures.waiting = 0;
    this.#inboxes.begin();
    this.#files.begin();
    for (let at = 0; at < entries.length && !stopping.aborted; at += BATCH) {
      // Judging is synchronous and appends keep the order of their calls, so older files are appended first.
      await Promise.all(entries.slice(at, at + BATCH).map((entry) => this.#handle(entry)));
      alive();
      // A stop, a webhook and a health check get their turn among 100,000 files.
      await new Promise((done) => setImmediate(done));
    }
    const now = performance.now();
    const waits = [...this.#inboxes.end(), ...this.#files.end()];
    for (const { since } of this.#unsettled.values()) waits.push(since + this.#options.settleMs() - now);
    if (this.#arriving) waits.push(ARRIVAL_MS);
    return waits.length > 0 ? Math.max(10, Math.min(...waits)) : null;
  }

  // Seen

  #present(): boolean {
    const { log, path } = this.#options;
    const present = statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;
    if (present && this.#missing) log.info("drop folder is back", { path });
    if (!present && !this.#missing) log.warn("drop folder is not there, waiting for it", { path });
    if (!present) this.#unwatch();
    this.#missing = !present;
    return present;
  }

  /** A folder that was removed and made again is another one: the old watch would stay silent for ever. */
  #rewatch(wake: () => void): void {
    const { log, path } = this.#options;
    const { dev, ino } = statSync(path, { bigint: true });
    if (this.#watcher?.dev === dev && this.#watcher.ino === ino) return;
    this.#unwatch();
    try {
      const own = basename(path);
      const watcher = watch(path, { persistent: false }, (_event, name) => {
        // A null name says that the kernel's queue overflowed, the folder's own name that it is gone.
        if (name === null || name === own || isOurs(Buffer.from(name))) wake();
      });
      watcher.on("error", (error) => {
        log.warn("drop folder watch ended, polling goes on", { path, error });
        this.#unwatch();
      });
      this.#watcher = { watcher, dev, ino };
    } catch (error) {
      log.warn("drop folder can't be watched, polling only", { path, error });
    }
  }

  #unwatch(): void {
    this.#watcher?.watcher.close();
    this.#watcher = null;
  }

  #scan(): Entry[] {
    const entries: Entry[] = [];
    for (const name of readdirSync(this.path, { encoding: "buffer" })) {
      if (!isOurs(name)) continue;
      const stats = lstatSync(joined(this.path, name), { bigint: true, throwIfNoEntry: false });
      if (stats) entries.push({ name, stats });
    }
    return entries.toSorted((a, b) => compare(a.stats.mtimeNs, b.stats.mtimeNs) || Buffer.compare(a.name, b.name));
  }

  #forgetVanished(entries: Entry[]): void {
    if (this.#unsettled.size + this.#undeleted.size === 0) return;
    const there = new Set(entries.map(({ name }) => name.toString("latin1")));
    for (const known of [this.#unsettled, this.#undeleted]) {
      for (const name of known.keys()) if (!there.has(name)) known.delete(name);
    }
  }

  async #handle(entry: Entry): Promise<void> {
    const { figures } = this.#options;
    let [backoff, place] = [this.#files, entry.name.toString()];
    try {
      const judged = this.#judge(entry);
      if (judged === null) return;
      if (judged.kind === "drop") [backoff, place] = [this.#inboxes, judged.drop.recipient];
      if (!backoff.holds(place))
        return await (judged.kind === "drop" ? this.#deliver(entry, judged) : this.#bury(entry, judged));
    } catch (error) {
      figures.errors++;
      backoff.failed(place, error as Error);
    }
    figures.waiting++;
  }

  // Judged

  /** A drop, or what is refused for good; null for a file that is gone, or may be on its way. */
  #judge(entry: Entry): Extract<Judgement, { kind: "drop" | "refused" }> | null {
    const key = entry.name.toString("latin1");
    if (this.#synced && entry.stats.isFile() && this.#changedJustNow(entry)) {
      this.#arriving = true;
      this.#unsettled.delete(key);
      return null;
    }
    const judged = judge(this.path, entry);
    if (judged.kind === "changing") this.#still(key, judged.stats);
    else if (judged.kind === "refused" && judged.mayGrow && this.#still(key, entry.stats) < this.#options.settleMs())
      return null;
    else this.#unsettled.delete(key);
    return judged.kind === "drop" || judged.kind === "refused" ? judged : null;
  }

  /** By the time of its last change of any kind, rename and mtime included; one in the future is a clock's, and no reason to wait. */
  #changedJustNow({ stats }: Entry): boolean {
    const age = (this.#options.now ?? Date.now)() - Number(stats.ctimeMs);
    return age >= 0 && age < ARRIVAL_MS;
  }

  /** For how many milliseconds a file has had this size and mtime. */
  #still(key: string, { size, mtimeNs }: Entry["stats"]): number {
    const now = performance.now();
    const before = this.#unsettled.get(key);
    if (before?.size === size && before.mtimeNs === mtimeNs) return now - before.since;
    this.#unsettled.set(key, { size, mtimeNs, since: now });
    return 0;
  }

  // Delivered and removed

  async #deliver(entry: Entry, { drop, id, contentId }: Extract<Judgement, { kind: "drop" }>): Promise<void> {
    const { deliver, delivered, figures, log } = this.#options;
    const key = entry.name.toString("latin1");
    const file = entry.name.toString();
    if (this.#undeleted.get(key) !== id && !this.#isBroughtAgain(entry, drop, contentId)) {
      await deliver(drop, { id, source: `drop-folder:${file}` });
      figures.delivered++;
      if (this.#synced && !hasSetMtime(entry)) delivered.remember(drop.recipient, contentId);
    }
    try {
      this.#remove(entry, id);
      this.#undeleted.delete(key);
    } catch (error) {
      // It stays, is tried again with each pass, and is not delivered a second time.
      if (this.#undeleted.get(key) === id) return;
      this.#undeleted.set(key, id);
      figures.errors++;
      log.error("drop delivered, but not deleted: it stays, and is not delivered again", { file, error });
    }
  }

  /** Whether Syncthing, killed between its rename and its mtime, brings a delivered file again. */
  #isBroughtAgain(entry: Entry, { recipient }: Drop, contentId: string): boolean {
    if (!this.#synced || !hasSetMtime(entry)) return false;
    const at = this.#options.delivered.rememberedAt(recipient, contentId);
    return at !== undefined && Number(entry.stats.mtimeMs) < at;
  }

  /** Deletes a delivered drop, unless it is another file by now: that one is judged by the next pass. */
  #remove({ name, stats }: Entry, id: string): void {
    const path = joined(this.path, name);
    const now = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (!now || now.ino !== stats.ino || now.size !== stats.size) return;
    const { mtimeNs } = stats;
    if (now.mtimeNs === mtimeNs || isStill(this.path, { name, stats: now }, { id, mtimeNs })) unlinkSync(path);
  }

  #bury(entry: Entry, { reason }: { reason: string }): void {
    const { figures, log } = this.#options;
    const movedTo = bury(this.path, entry, reason);
    figures.dead_letters++;
    log.warn("drop refused", { file: entry.name.toString(), reason, moved_to: movedTo.toString() });
  }
}

/** Two collectors that empty one folder would deliver twice what both see: the second one doesn't start. */
function holdFolder({ path, stateFolder, log }: DropFolderOptions): () => void {
  const name = new Bun.CryptoHasher("sha256").update(path).digest("hex").slice(0, 16);
  try {
    makeFolder(stateFolder, 0o700);
    return holdAlone("picket-collector", join(stateFolder, `drops-${name}.lock`));
  } catch (error) {
    if (error instanceof Error && "hint" in error && !("code" in error))
      throw new Error(`empty "${path}"`, { cause: error });
    // A full disk, for one, is no reason not to start.
    log.warn("can't check whether another collector empties the drop folder, too", { path, error });
    return () => {};
  }
}

/** Only `*.json`, and nothing that starts with a dot: synced folders hold temporary files of others. */
function isOurs(name: Buffer): boolean {
  return name[0] !== 0x2e && name.length > 5 && name.toString("latin1").endsWith(".json");
}

/** Whether the folder, or one above it, is one that Syncthing keeps in step. */
function isSynced(folder: string): boolean {
  const above = dirname(folder);
  return existsSync(join(folder, SYNCTHING_MARK)) || (above !== folder && isSynced(above));
}

/** Whether a program set the mtime: it is from before the file was made. */
function hasSetMtime({ stats }: Entry): boolean {
  return stats.mtimeNs < stats.birthtimeNs;
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : Number(a > b);
}
