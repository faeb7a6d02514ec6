// The drop folder: every `*.json` in it becomes an inbox line, or a dead letter with its reason.
//
// The scan is the truth, the watch only a hint to scan now. A scan is one pass, oldest file first:
//
//   read → judge → append (durable) → delete         an event's id is derived from name, content and mtime, so a crash
//                                                    between append and delete doesn't append it again
//   can't be right, and still for settle_ms  → `.dead-letter/NAME` beside `NAME.reason`
//   not a regular file                       → the same at once, moved as it is, never opened or followed
//   the inbox can't be written               → stays, tried again with backoff; drops for others don't wait for it
//   changed just now, and Syncthing is here  → stays for ARRIVAL_MS: Syncthing renames first and sets the mtime then, and
//                                              brings the file again, with that mtime, when it is killed in between
//
// Names are handled as bytes: a folder may hold names that aren't UTF-8.

import {
  type BigIntStats,
  type FSWatcher,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lstatSync,
  openSync,
  readSync,
  readdirSync,
  statSync,
  unlinkSync,
  watch,
} from "node:fs";
import { createHash } from "node:crypto";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { NAME_SEGMENT } from "../config.ts";
import { EVENT_TYPES, type EventDraft, PRIORITIES } from "../inbox.ts";
import { parseJson } from "../json.ts";
import type { Log } from "../log.ts";
import { bury, joined } from "./dead-letter.ts";

/** Larger drops are dead letters. */
export const MAX_DROP_BYTES = 1 << 20;
/** Files in hand at once: their events share a sync. */
const BATCH = 256;
const MAX_BACKOFF_MS = 30_000;
/** How often a folder that isn't there is looked for. */
const MISSING_POLL_MS = 1000;
/** In a folder with this mark, or below one, Syncthing puts files. */
const SYNCTHING_MARK = ".stfolder";
/** So long a file that Syncthing may just have renamed into place is left alone: it gets its mtime only then. */
const ARRIVAL_MS = 200;

const ACCEPTED = `a drop is {"recipient","type","payload"} and optionally "priority", "sentinel"`;

/** What a drop says. */
const Drop = v.strictObject(
  {
    recipient: v.pipe(
      v.string(),
      v.regex(
        NAME_SEGMENT,
        "not a valid name: letters, digits and . _ - only, 128 at most, starting with a letter or digit",
      ),
    ),
    type: v.picklist(EVENT_TYPES),
    payload: v.string(),
    priority: v.optional(v.union([v.literal(""), v.picklist(PRIORITIES)])),
    sentinel: v.optional(v.string()),
  },
  ACCEPTED,
);

export interface DropFolderOptions {
  path: string;
  settleMs: number;
  /** The `from` of the events. */
  agent: string;
  log: Log;
  /** Appends the event unless its id was there already; resolves when it is durable. */
  deliver: (event: EventDraft & { id: string }) => Promise<unknown>;
  /** The clock of the file's times, in milliseconds since 1970. */
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

/** What a pass left to do: nothing (null), or a pass in so many milliseconds. */
export type NextPass = number | null;

/** A file as the scan found it. */
interface Entry {
  name: Buffer;
  stats: BigIntStats;
}

type Judgement =
  | { kind: "event"; event: EventDraft & { id: string } }
  | { kind: "dead"; reason: string }
  | { kind: "unsettled" }
  | { kind: "arriving" }
  | { kind: "gone" };

/** A place that failed, and when it is tried again; times in milliseconds by `performance.now()`. */
interface Pause {
  failures: number;
  until: number;
  backoff: number;
}

/** What became of a pass's places. */
interface Tried {
  /** Left alone by this pass. */
  paused: ReadonlySet<string>;
  /** Why each failed. */
  failed: Map<string, Error>;
  /** Those of `paused` that have drops. */
  held: Set<string>;
}

/** Watches one drop folder. `pass` does one scan; `watch` calls back when one seems worthwhile. */
export class DropFolder {
  readonly figures: DropFigures = { delivered: 0, dead_letters: 0, waiting: 0, errors: 0 };
  #options: DropFolderOptions;
  /** When a file that can't be right yet was last seen to change, by name. */
  #unsettled = new Map<string, { size: bigint; mtimeNs: bigint; since: number }>();
  /** Ids of drops that were delivered but can't be deleted, by name. */
  #undeleted = new Map<string, string>();
  /** What failed and is left alone until its time, by the place that it concerns (see `FILE`). */
  #pauses = new Map<string, Pause>();
  #watcher: { watcher: FSWatcher; dev: bigint; ino: bigint } | null = null;
  #missing = false;
  /** Whether Syncthing keeps this folder in step, and whether it is just bringing something. */
  #synced = false;
  #arriving = false;

  constructor(options: DropFolderOptions) {
    this.#options = options;
  }

  /** Takes new options; those of the path need a new DropFolder. */
  configure(options: Pick<DropFolderOptions, "settleMs" | "agent">): void {
    this.#options = { ...this.#options, ...options };
  }

  get path(): string {
    return this.#options.path;
  }

  /**
   * One scan. `alive` is called now and then. Returns when the next pass is worthwhile, apart from the poll.
   * Throws when the folder can't be read; a folder that isn't there is waited for.
   */
  async pass(alive: () => void, hint: () => void, stopping: AbortSignal): Promise<NextPass> {
    if (!this.#present()) return MISSING_POLL_MS;
    this.#rewatch(hint);
    this.#synced = isSynced(this.path);
    this.#arriving = false;
    const entries = this.#scan();
    this.#forgetVanished(entries);
    this.figures.waiting = 0;
    const tried: Tried = { paused: this.#paused(), failed: new Map(), held: new Set() };
    for (let at = 0; at < entries.length && !stopping.aborted; at += BATCH) {
      await this.#handle(entries.slice(at, at + BATCH), tried);
      alive();
      // A stop, a webhook and a health check get their turn among 100,000 files.
      await new Promise((done) => setImmediate(done));
    }
    return this.#next(tried);
  }

  /** Ends the watch. */
  close(): void {
    this.#watcher?.watcher.close();
    this.#watcher = null;
  }

  /** Milliseconds by a clock that nobody sets: a wait of seconds must not become one of a day. */
  #now(): number {
    return performance.now();
  }

  #present(): boolean {
    const found = statSync(this.path, { throwIfNoEntry: false });
    if (found?.isDirectory()) {
      if (this.#missing) this.#options.log.info("drop folder is back", { path: this.path });
      this.#missing = false;
      return true;
    }
    this.close();
    if (!this.#missing) this.#options.log.warn("drop folder is not there, waiting for it", { path: this.path });
    this.#missing = true;
    return false;
  }

  /** A folder that was removed and made again is another one: the old watch would stay silent for ever. */
  #rewatch(hint: () => void): void {
    const { dev, ino } = statSync(this.path, { bigint: true });
    if (this.#watcher?.dev === dev && this.#watcher.ino === ino) return;
    this.close();
    try {
      const own = basename(this.path);
      // A null file name says that the kernel's queue overflowed; a scan is the answer to that, too;
      const watcher = watch(this.path, { persistent: false }, (_event, name) => {
        // and the folder's own name that it is gone.
        if (name === null || name === own || isOurs(Buffer.from(name))) hint();
      });
      watcher.on("error", (error) => {
        this.#options.log.warn("drop folder watch ended, polling goes on", { path: this.path, error });
        this.close();
      });
      this.#watcher = { watcher, dev, ino };
    } catch (error) {
      this.#options.log.warn("drop folder can't be watched, polling only", { path: this.path, error });
    }
  }

  #scan(): Entry[] {
    const entries: Entry[] = [];
    for (const name of readdirSync(this.path, { encoding: "buffer" })) {
      if (!isOurs(name)) continue;
      const stats = lstatSync(this.#at(name), { bigint: true, throwIfNoEntry: false });
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

  /** The places that are left alone for the whole pass: none is forgotten because its time has come by the pass's end. */
  #paused(): Set<string> {
    const now = this.#now();
    return new Set([...this.#pauses].filter(([, { until }]) => now < until).map(([place]) => place));
  }

  /** Handles some files together; notes in `tried` what failed, and what waits for its time. */
  async #handle(entries: Entry[], tried: Tried): Promise<void> {
    // Judging is synchronous and appends keep the order of their calls, so older files are appended first.
    const work = entries.map(async (entry) => {
      let place = FILE + entry.name.toString();
      try {
        const judged = this.#judge(entry);
        if (judged.kind === "arriving") this.#arriving = true;
        if (judged.kind === "event") place = judged.event.to;
        if (!tried.paused.has(place)) return await this.#act(entry, judged);
        tried.held.add(place);
      } catch (error) {
        this.figures.errors++;
        if (!tried.failed.has(place)) tried.failed.set(place, error as Error);
      }
      this.figures.waiting++;
    });
    await Promise.all(work);
  }

  async #act(entry: Entry, judged: Judgement): Promise<void> {
    const key = entry.name.toString("latin1");
    if (judged.kind !== "unsettled") this.#unsettled.delete(key);
    if (judged.kind === "event") {
      const { id } = judged.event;
      if (this.#undeleted.get(key) !== id) {
        await this.#options.deliver(judged.event);
        this.figures.delivered++;
      }
      this.#removeDelivered(entry, id);
    } else if (judged.kind === "dead") {
      const movedTo = bury(this.path, entry, judged.reason);
      this.figures.dead_letters++;
      const file = entry.name.toString();
      this.#options.log.warn("drop refused", { file, reason: judged.reason, moved_to: movedTo.toString() });
    }
  }

  /** Whoever can't delete goes on with the other drops, tries again with each pass, and doesn't deliver a second time. */
  #removeDelivered(entry: Entry, id: string): void {
    const key = entry.name.toString("latin1");
    try {
      this.#remove(entry, id);
      this.#undeleted.delete(key);
    } catch (error) {
      if (this.#undeleted.get(key) === id) return;
      this.#undeleted.set(key, id);
      this.figures.errors++;
      const file = entry.name.toString();
      this.#options.log.error("drop delivered, but not deleted: it stays, and is not delivered again", { file, error });
    }
  }

  /**
   * Deletes a delivered drop, unless it is another file by now: that one is judged by the next pass. The same file with the
   * same content and another mtime is the same drop: Syncthing sets the mtime after the rename, `cp -p` after the last byte.
   */
  #remove({ name, stats }: Entry, id: string): void {
    const path = this.#at(name);
    const now = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (!now || now.ino !== stats.ino || now.size !== stats.size) return;
    if (now.mtimeNs !== stats.mtimeNs) {
      const content = this.#read(name, now);
      if (!Buffer.isBuffer(content) || dropId(name, content, stats.mtimeNs) !== id) return;
    }
    unlinkSync(path);
  }

  #judge({ name, stats }: Entry): Judgement {
    if (!stats.isFile()) return { kind: "dead", reason: `not a regular file but ${kindOf(stats)}` };
    if (this.#synced && this.#changedJustNow(stats)) return { kind: "arriving" };
    if (stats.size > MAX_DROP_BYTES)
      return this.#unlessGrowing(name, stats, `${stats.size} bytes: over the limit of ${MAX_DROP_BYTES}`);
    const content = this.#read(name, stats);
    if (!Buffer.isBuffer(content)) return content;
    const drop = parseDrop(content);
    if (typeof drop === "string") return this.#unlessGrowing(name, stats, drop);
    const file = name.toString();
    return {
      kind: "event",
      event: {
        id: dropId(name, content, stats.mtimeNs),
        from: this.#options.agent,
        to: drop.recipient,
        type: drop.type,
        priority: drop.priority || "normal",
        payload: drop.payload,
        sentinel: drop.sentinel,
        source: `drop-folder:${file}`,
      },
    };
  }

  /** By the time of its last change of any kind, rename and mtime included; one in the future is a clock's, and no reason to wait. */
  #changedJustNow({ ctimeMs }: BigIntStats): boolean {
    const age = (this.#options.now ?? Date.now)() - Number(ctimeMs);
    return age >= 0 && age < ARRIVAL_MS;
  }

  /** The content of a file as it was scanned, or why there is none to judge. */
  #read(name: Buffer, stats: BigIntStats): Buffer | Judgement {
    let fd: number;
    try {
      // O_NOFOLLOW and O_NONBLOCK: it may have become a link or a FIFO since the scan.
      fd = openSync(this.#at(name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code === "ENOENT" || code === "ELOOP" || code === "ENXIO") return { kind: "gone" };
      return this.#unlessGrowing(name, stats, `can't be read: ${(error as Error).message}`);
    }
    try {
      const now = fstatSync(fd, { bigint: true });
      if (!now.isFile() || now.ino !== stats.ino) return { kind: "gone" };
      if (now.size !== stats.size || now.mtimeNs !== stats.mtimeNs) return this.#unlessGrowing(name, now, "");
      const content = Buffer.alloc(Number(stats.size));
      let got = 0;
      for (let n = -1; got < content.length && n !== 0; got += n)
        n = readSync(fd, content, got, content.length - got, got);
      return content.subarray(0, got);
    } finally {
      closeSync(fd);
    }
  }

  /** A file that can't be right may still be on its way: it is judged once size and mtime have been still for a while. */
  #unlessGrowing(name: Buffer, stats: BigIntStats, reason: string): Judgement {
    const key = name.toString("latin1");
    const before = this.#unsettled.get(key);
    const now = this.#now();
    if (!before || before.size !== stats.size || before.mtimeNs !== stats.mtimeNs) {
      this.#unsettled.set(key, { size: stats.size, mtimeNs: stats.mtimeNs, since: now });
      return this.#options.settleMs > 0 || reason === "" ? { kind: "unsettled" } : { kind: "dead", reason };
    }
    return now - before.since >= this.#options.settleMs && reason !== ""
      ? { kind: "dead", reason }
      : { kind: "unsettled" };
  }

  #next(tried: Tried): NextPass {
    this.#goOn(tried);
    const now = this.#now();
    for (const place of tried.failed.keys()) {
      const failures = (this.#pauses.get(place)?.failures ?? 0) + 1;
      const backoff = Math.min(MAX_BACKOFF_MS, 500 * 2 ** Math.min(failures, 10));
      this.#pauses.set(place, { failures, until: now + backoff, backoff });
    }
    const places = [...tried.failed.keys()];
    this.#tell("drops stay: the inbox can't be written", "recipient", places.filter(isRecipient), tried);
    const unmoved = places.filter((place) => !isRecipient(place));
    this.#tell("drops stay: they can't be read, or moved to .dead-letter", "file", unmoved, tried);
    const waits = [...this.#unsettled.values()].map(({ since }) => Math.max(0, since + this.#options.settleMs - now));
    for (const { until } of this.#pauses.values()) waits.push(Math.max(0, until - now));
    if (this.#arriving) waits.push(ARRIVAL_MS);
    return waits.length > 0 ? Math.max(10, Math.min(...waits)) : null;
  }

  /** Forgets the pauses of what went well, or has no drop any more. */
  #goOn({ failed, held }: Tried): void {
    const over = [...this.#pauses.keys()].filter((place) => !failed.has(place) && !held.has(place));
    for (const place of over) this.#pauses.delete(place);
    const to = over.filter(isRecipient);
    if (to.length > 0) this.#options.log.info("drops go on: the inbox can be written again", { recipient: some(to) });
  }

  /** One line for all places with the same trouble: a full disk is one trouble, whoever the drops are for. */
  #tell(message: string, field: string, places: string[], { failed }: Tried): void {
    const [first] = places;
    if (first === undefined) return;
    const pauses = places.map((place) => this.#pauses.get(place)!.backoff);
    this.#options.log.error(message, {
      [field]: some(places.map((place) => place.replace(FILE, ""))),
      retry_in_seconds: Math.min(...pauses) / 1000,
      error: failed.get(first),
    });
  }

  #at(name: Buffer): Buffer {
    return joined(this.path, name);
  }
}

/**
 * What a drop's failure concerns, its place, is its recipient's inbox; of a file that can't be judged or moved it is only that
 * file, told apart by this: no name of a recipient has it.
 */
const FILE = "file:";

function isRecipient(place: string): boolean {
  return !place.startsWith(FILE);
}

/** A few of many names. */
function some(names: string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
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

/** The event of a drop, or what is wrong with it. */
function parseDrop(content: Buffer): v.InferOutput<typeof Drop> | string {
  let value: unknown;
  try {
    value = parseJson(content);
  } catch (error) {
    return (error as Error).message;
  }
  const parsed = v.safeParse(Drop, value);
  if (parsed.success) return parsed.output;
  const problems = parsed.issues.map((issue) => {
    const where = issue.path?.map(({ key }) => String(key)).join(".");
    return where ? `${where}: ${issue.message}` : issue.message;
  });
  return [...new Set(problems)].join("; ");
}

/** Name, content and mtime make the drop: the same three again are the same event. */
function dropId(name: Buffer, content: Buffer, mtimeNs: bigint): string {
  const hash = createHash("sha256");
  hash.update(`${name.length}:`).update(name).update(`:${mtimeNs}:`).update(content);
  return hash.digest("hex").slice(0, 32);
}

function compare(a: bigint, b: bigint): number {
  return a < b ? -1 : Number(a > b);
}

function kindOf(stats: BigIntStats): string {
  if (stats.isSymbolicLink()) return "a link";
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a FIFO";
  if (stats.isSocket()) return "a socket";
  return "a device";
}
