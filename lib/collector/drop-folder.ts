// The drop folder: every `*.json` in it becomes inbox lines, or a dead letter with its reason.
//
// The scan decides; the watch only says when to scan. A scan is one pass, oldest file first, and each file takes one way:
//
//   found → judged → delivered (durable) → deleted   an event's id is derived from name, content and mtime, so a crash
//                                                    between the last two doesn't deliver it again
//   several drops in a file                  → the file is deleted once all of them are delivered; each has an id of its own
//   another process has it open for writing  → stays, where that can be known: one drop may be the first line of several
//   invalid, and unchanged for settle_ms     → `.dead-letter/NAME` beside `NAME.reason`
//   lines of drops                           → wait for settle_ms, too: there may be more to come
//   another name                             → stays, and is logged once
//   not a regular file                       → a dead letter at once, never opened or followed
//   the inbox can't be written               → stays, retried with backoff; drops for other recipients don't wait
//   changed while it is read                 → stays for ARRIVAL_MS
//   changed just now, in a Syncthing folder  → the same: Syncthing renames a file into place, then sets its mtime; killed in
//                                              between, it brings the file again with that mtime. A file that
//                                              came without a set mtime is also remembered by name and content: the same with
//                                              an mtime from before that delivery is the same drop

import { type FSWatcher, existsSync, lstatSync, readdirSync, statSync, unlinkSync, watch } from "node:fs";
import { basename, dirname, join } from "node:path";
import { holdAlone, makeFolder } from "../files.ts";
import type { EventWriter } from "../event-writer.ts";
import type { Log } from "../log.ts";
import { Backoff, some } from "./backoff.ts";
import { joined, moveToDeadLetters } from "./dead-letter.ts";
import { type Drop, type Found, type Judged, eventIds, isSameDrop, judge } from "./drop.ts";

/** Files handled at once: their events share a sync. */
const BATCH = 256;
/** How often to look for a folder that is missing. */
const MISSING_POLL_MS = 1000;
/** Marks a folder that Syncthing synchronizes. */
const SYNCTHING_MARK = ".stfolder";
/** How long to wait for a file that just changed. */
const ARRIVAL_MS = 200;

interface DropFolderOptions {
  path: string;
  /** The collector's own folder, for the lock on this drop folder. */
  stateFolder: string;
  /** An invalid file is rejected once it has not changed for this long. */
  settleMs: () => number;
  log: Log;
  figures: DropFigures;
  /** Delivers a drop unless its id was delivered before; resolves when it is durable. */
  deliver: (drop: Drop, event: { id: string; source: string }) => Promise<unknown>;
  /** What is remembered of delivered drops besides their ids. */
  delivered: Pick<EventWriter, "remember" | "rememberedAt">;
  /** The clock that file times are compared with, in milliseconds since 1970. */
  now?: () => number;
}

/** Figures since the start. */
export interface DropFigures {
  delivered: number;
  dead_letters: number;
  /** Drops that wait for a retry. */
  waiting: number;
  errors: number;
}

/** A file in the folder, and what is known of it from former passes. */
interface Entry extends Found {
  /** Its name in latin1, which keeps the bytes. */
  key: string;
  /** When a scan first found it with this size and mtime, in milliseconds by `performance.now()`. */
  since: number;
  /** It is logged as no drop, or as open for writing. */
  isLogged: boolean;
  /** The id under which it was delivered, if it couldn't be deleted then. */
  deliveredAs: string | null;
}

/** A drop folder; a lock makes sure that one collector alone empties it. */
export class DropFolder {
  #options: DropFolderOptions;
  #release: () => void;
  #watcher: { watcher: FSWatcher; dev: bigint; ino: bigint } | null = null;
  #missing = false;
  #synced = false;
  /** The files that the last scan found, by key; without those that are gone since. */
  #entries = new Map<string, Entry>();
  #scannedAt = 0;
  /** When the next pass is needed, by `performance.now()`. */
  #nextAt = Infinity;
  #inboxes = new Backoff();
  /** Files that can't be read, or moved to `.dead-letter/`. */
  #files = new Backoff();

  /** Creates and locks the folder. Throws when that fails, or when another collector holds the lock. */
  constructor(options: DropFolderOptions) {
    makeFolder(options.path, 0o755);
    this.#options = options;
    this.#release = lockFolder(options);
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
   * One scan. It calls `alive` now and then; the watch calls `wake` when something happens in the folder later. Returns in how many
   * milliseconds the next pass is needed, apart from the poll; Infinity when nothing waits. Throws when the folder exists and can't be read.
   */
  async pass(alive: () => void, wake: () => void, stopping: AbortSignal): Promise<number> {
    if (!this.#watch(wake)) return MISSING_POLL_MS;
    this.#synced = isSynced(this.path);
    this.#nextAt = Infinity;
    this.#options.figures.waiting = 0;
    this.#inboxes.begin();
    this.#files.begin();
    const found = this.#scan();
    const drops = found.filter(({ key }) => DROP_NAME.test(key));
    this.#logOthers(found.filter(({ key }) => !DROP_NAME.test(key)));
    for (let at = 0; at < drops.length && !stopping.aborted; at += BATCH) {
      // Judging is synchronous and appends keep the order of their calls, so older files are appended first.
      await Promise.all(drops.slice(at, at + BATCH).map((entry) => this.#handle(entry)));
      alive();
      // Webhooks, health checks and a stop are answered during a scan of 100,000 files.
      await new Promise((done) => setImmediate(done));
    }
    this.#endRetries();
    return Math.max(10, this.#nextAt - performance.now());
  }

  /** One line for all that failed: a full disk is one problem, however many inboxes it concerns. */
  #endRetries(): void {
    const { log } = this.#options;
    const [inboxes, files] = [this.#inboxes.end(), this.#files.end()];
    const { recovered: recipient } = inboxes;
    if (recipient) log.info("drops go on: the inbox can be written again", { recipient });
    if (inboxes.failed)
      log.error("drops stay: the inbox can't be written", { recipient: inboxes.failed, ...inboxes.why });
    if (files.failed)
      log.error("drops stay: they can't be read, or moved to .dead-letter", { file: files.failed, ...files.why });
    this.#needPassAt(Math.min(inboxes.nextAt, files.nextAt));
  }

  #needPassAt(at: number): void {
    this.#nextAt = Math.min(this.#nextAt, at);
  }

  // Found

  /** Watches the folder; false when it is missing. A folder that was removed and created again needs a new watch. */
  #watch(wake: () => void): boolean {
    const { log, path } = this.#options;
    const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
    const isMissing = stats?.isDirectory() !== true;
    if (isMissing && !this.#missing) log.warn("drop folder is missing; waiting for it", { path });
    if (!isMissing && this.#missing) log.info("drop folder is back", { path });
    this.#missing = isMissing;
    if (!isMissing && this.#watcher?.dev === stats.dev && this.#watcher.ino === stats.ino) return true;
    this.#unwatch();
    if (isMissing) return false;
    try {
      const own = basename(path);
      const watcher = watch(path, { persistent: false }, (_event, name) => {
        // A null name means that the kernel's queue overflowed, the folder's own name that the folder is gone.
        if (name === null || name === own || !PASSED_OVER.test(name)) wake();
      });
      watcher.on("error", (error) => {
        log.warn("drop folder watch ended; polling only", { path, error });
        this.#unwatch();
      });
      this.#watcher = { watcher, dev: stats.dev, ino: stats.ino };
    } catch (error) {
      log.warn("drop folder can't be watched; polling only", { path, error });
    }
    return true;
  }

  #unwatch(): void {
    this.#watcher?.watcher.close();
    this.#watcher = null;
  }

  /** The files, the oldest first. */
  #scan(): Entry[] {
    const known = this.#entries;
    this.#entries = new Map();
    this.#scannedAt = performance.now();
    for (const name of readdirSync(this.path, { encoding: "buffer" })) {
      const key = name.toString("latin1");
      const stats = PASSED_OVER.test(key)
        ? undefined
        : lstatSync(joined(this.path, name), { bigint: true, throwIfNoEntry: false });
      if (!stats) continue;
      const before = known.get(key);
      const isSame = before?.stats.size === stats.size && before.stats.mtimeNs === stats.mtimeNs;
      const since = isSame ? before.since : this.#scannedAt;
      this.#entries.set(key, { isLogged: false, deliveredAs: null, ...before, name, key, stats, since });
    }
    const oldestFirst = (a: Entry, b: Entry) =>
      Number(a.stats.mtimeNs - b.stats.mtimeNs) || Buffer.compare(a.name, b.name);
    return [...this.#entries.values()].toSorted(oldestFirst);
  }

  /** Logs the files that are no drops by their name, once, when they are no longer written to. */
  #logOthers(others: Entry[]): void {
    const fresh = others.filter((entry) => !entry.isLogged && this.#isStill(entry));
    for (const entry of fresh) entry.isLogged = true;
    if (fresh.length === 0) return;
    const files = some(fresh.map(({ name }) => name.toString()));
    this.#options.log.warn("files stay: the name of a drop ends in .json", { path: this.path, files });
  }

  /** One file on its way. */
  async #handle(entry: Entry): Promise<void> {
    const { figures } = this.#options;
    const file = entry.name.toString();
    try {
      const judged = this.#mayGetItsMtime(entry) ? "changing" : judge(this.path, entry);
      if (judged === "changing") this.#needPassAt(performance.now() + ARRIVAL_MS);
      if (typeof judged === "string" || !this.#isWhole(entry, judged)) return;
      if (judged.kind === "drops") {
        if (await this.#deliver(entry, judged)) return;
      } else if (!this.#files.skips(file)) {
        return this.#reject(entry, judged);
      }
    } catch (error) {
      figures.errors++;
      this.#files.failed(file, error as Error);
    }
    figures.waiting++;
  }

  // Judged

  /** Whether nothing more is written to a file, as far as that can be known. */
  #isWhole(entry: Entry, { mayGrow, isOpen }: Judged): boolean {
    if (!mayGrow && !isOpen) return true;
    if (!this.#isStill(entry)) return false;
    if (!isOpen) return true;
    if (!entry.isLogged)
      this.#options.log.info("drop waits: a program has it open for writing", { file: entry.name.toString() });
    entry.isLogged = true;
    this.#needPassAt(performance.now() + ARRIVAL_MS);
    return false;
  }

  /** Whether scans have found a file unchanged for long enough. */
  #isStill({ since }: Entry): boolean {
    const stillAt = since + this.#options.settleMs();
    if (stillAt <= this.#scannedAt) return true;
    this.#needPassAt(stillAt);
    return false;
  }

  /** By ctime, which a rename and a new mtime change as well. A ctime in the future comes from a wrong clock: no reason to wait. */
  #mayGetItsMtime({ stats }: Entry): boolean {
    const age = (this.#options.now ?? Date.now)() - Number(stats.ctimeMs);
    return this.#synced && stats.isFile() && age >= 0 && age < ARRIVAL_MS;
  }

  // Delivered and deleted

  /** Delivers what a file holds and deletes it; false when an inbox can't be written, and the file has to stay. */
  async #deliver(entry: Entry, judged: Extract<Judged, { kind: "drops" }>): Promise<boolean> {
    const { delivered, figures, log } = this.#options;
    const { drops, id, contentId } = judged;
    const { recipient } = drops[0]!;
    const file = entry.name.toString();
    if (entry.deliveredAs !== id && !this.#isBroughtAgain(entry, recipient, contentId)) {
      const ids = eventIds(judged);
      const source = `drop-folder:${file}`;
      const all = await Promise.all(drops.map((drop, n) => this.#deliverOne(drop, { id: ids[n]!, source })));
      if (all.includes(false)) return false;
      figures.delivered += drops.length;
      if (this.#synced && !hasSetMtime(entry)) delivered.remember(recipient, contentId);
    }
    try {
      this.#delete(entry, id);
    } catch (error) {
      // Each pass tries to delete it again.
      if (entry.deliveredAs === id) return true;
      entry.deliveredAs = id;
      figures.errors++;
      log.error("drop delivered but not deleted: it stays, and is not delivered again", { file, error });
    }
    return true;
  }

  async #deliverOne(drop: Drop, event: { id: string; source: string }): Promise<boolean> {
    const { recipient } = drop;
    if (this.#inboxes.skips(recipient)) return false;
    try {
      await this.#options.deliver(drop, event);
      return true;
    } catch (error) {
      this.#options.figures.errors++;
      this.#inboxes.failed(recipient, error as Error);
      return false;
    }
  }

  /** Whether Syncthing, killed between its rename and its mtime, brings a delivered file again. */
  #isBroughtAgain(entry: Entry, recipient: string, contentId: string): boolean {
    if (!this.#synced || !hasSetMtime(entry)) return false;
    const at = this.#options.delivered.rememberedAt(recipient, contentId);
    return at !== undefined && Number(entry.stats.mtimeMs) < at;
  }

  /** Deletes a delivered drop, unless another file has its name now: the next pass judges that one. */
  #delete({ name, key, stats }: Entry, id: string): void {
    const path = joined(this.path, name);
    const now = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (!now || now.ino !== stats.ino || now.size !== stats.size) return;
    const { mtimeNs } = stats;
    if (now.mtimeNs !== mtimeNs && !isSameDrop(this.path, { name, stats: now }, { id, mtimeNs })) return;
    unlinkSync(path);
    this.#entries.delete(key);
  }

  #reject(entry: Entry, { reason }: { reason: string }): void {
    const { figures, log } = this.#options;
    const movedTo = moveToDeadLetters(this.path, entry, reason);
    this.#entries.delete(entry.key);
    figures.dead_letters++;
    log.warn("drop rejected", { file: entry.name.toString(), reason, moved_to: movedTo.toString() });
  }
}

/** Two collectors in one folder would deliver a drop twice, so the second one doesn't start. */
function lockFolder({ path, stateFolder, log }: DropFolderOptions): () => void {
  const name = new Bun.CryptoHasher("sha256").update(path).digest("hex").slice(0, 16);
  try {
    makeFolder(stateFolder, 0o700);
    return holdAlone("picket-collector", join(stateFolder, `drops-${name}.lock`));
  } catch (error) {
    // Errors of the file system have a code. A collector starts on a full disk, too.
    if (!(error as NodeJS.ErrnoException).code) throw new Error(`lock the drop folder "${path}"`, { cause: error });
    log.warn("drop folder can't be locked; make sure that no other collector empties it", { path, error });
    return () => {};
  }
}

/** Temporary and hidden files: synchronized folders hold them. */
export const PASSED_OVER = /^\.|\.tmp$/is;
export const DROP_NAME = /\.json$/is;

/** Whether Syncthing synchronizes the folder, or one above it. */
function isSynced(folder: string): boolean {
  const above = dirname(folder);
  return existsSync(join(folder, SYNCTHING_MARK)) || (above !== folder && isSynced(above));
}

/** Whether a program set the mtime: it is from before the file was made. */
function hasSetMtime({ stats }: Entry): boolean {
  return stats.mtimeNs < stats.birthtimeNs;
}
