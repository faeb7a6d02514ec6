// A journal is an append-only file of JSON lines that many processes may write and read at once.
//
// The protocol, and why each step is safe:
//
//   1. An append that arrives while a batch is being written waits for the next batch. A batch is one write(2) on an
//      O_APPEND descriptor and one fdatasync(2). The kernel serialises appends to one file, so lines of different
//      processes never interleave. `append` resolves after the sync, never before.
//   2. Each batch looks up the path again. If the file was renamed, removed or replaced, the new one is opened (or made,
//      with its folder, both synced), so no line goes into a file that readers have left. No `await` stands between
//      the look-up and the write. After a truncation, O_APPEND writes at the new end.
//   3. If the last byte of the file isn't a line break, another writer died in the middle of a line. The batch then starts
//      with a line break, so the torn line can't swallow ours. If that writer was only slow, the result is an empty
//      line, which every reader skips.
//   4. kill -9 can end a write(2) between two pages, so this process can leave a torn line, too. Therefore each batch
//      first goes to an *intent* file (page cache only: it must survive the process, not the machine). A process that
//      finds an intent without an owner (its flock is free) compares it with the journal and retracts the torn rest,
//      which was never acknowledged. A program that appends with `>>` doesn't look for torn lines and may have
//      continued ours: turning our rest into line breaks makes its line whole again.
//      A power cut loses what wasn't synced, but may keep the file's length and leave zeros (ext4 with delayed
//      allocation does). Opening the file retracts zeros at the end; readers skip them.
//   5. A short write (full disk) is retracted the same way, and the whole batch fails.
//   6. Retracting truncates only under a write lease, which shows that no other process has the file open, so an append
//      can't fall between the look and the cut. Without a lease the bytes become line breaks in place.
//
// Limit: a reader that renames the file and reads it to the end within the microsecond between look-up and write (step 2)
// misses that batch. A reader that takes files away should rename first and read a moment later.

import {
  closeSync,
  constants,
  existsSync,
  fdatasync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readdirSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import { flock, hasLibc, writeLease } from "./ffi.ts";
import { inheritOwner, makeFolder, readAt, syncFolder } from "./files.ts";

const dataSync = promisify(fdatasync);
const NEWLINE = 0x0a;
const BRACE = 0x7b;
const MAX_BATCH_BYTES = 4 << 20;
/** How far behind an intent's offset its batch is looked for: other writers may have come in between. */
const MAX_HEAL_BYTES = 64 << 20;

/** `disk`: acknowledged means fdatasynced. `os`: acknowledged means in the page cache, lost in a power cut. */
export type Durability = "disk" | "os";

interface JournalOptions {
  /** The file. It and its folder are made when they are missing (file 0600, folder 0755). */
  path: string;
  durability: Durability;
  /** Folder for the intent file (see the protocol, step 4), shared by all journals that lie in one folder; null where a torn line does no harm. */
  intents: string | null;
}

interface Waiting {
  line: string;
  resolve: () => void;
  reject: (error: Error) => void;
}

/** One journal, open for appending. Errors of `append` are those of the file system, with their `code` (`ENOSPC`, `EROFS`, …). */
export class Journal {
  readonly path: string;
  #options: JournalOptions;
  #intent: Intent | null = null;
  #fd = -1;
  #dev = 0;
  #ino = 0;
  /** Size of the file right after our last write: while it still is, the last byte is our own line break. */
  #knownEnd = -1;
  #queue: Waiting[] = [];
  /** The batch that is being written. */
  #batch: Waiting[] = [];
  #flushing: Promise<void> | null = null;
  #closed = false;

  constructor(options: JournalOptions) {
    this.path = options.path;
    this.#options = options;
  }

  /**
   * Appends one line (without its line break). Resolves when it is durable; rejects when it is not in the file.
   * Lines are written in the order of the calls.
   */
  append(line: string): Promise<void> {
    return this.appendAll([line]);
  }

  /** Appends lines in one piece: all of them or none, unless the process is killed in the middle of it. */
  appendAll(lines: readonly string[]): Promise<void> {
    if (this.#closed) return Promise.reject(new Error(`append to "${this.path}": the journal is closed`));
    if (lines.some((line) => line.includes("\n")))
      return Promise.reject(new Error(`append to "${this.path}": a line can't contain a line break`));
    if (lines.length === 0) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#queue.push({ line: lines.join("\n"), resolve, reject });
      // The other requests of this tick share the batch.
      this.#flushing ??= new Promise<void>((done) => setImmediate(done)).then(() => this.#flush());
    });
  }

  /** Makes durable what was appended under `durability: "os"`. */
  async sync(): Promise<void> {
    await this.settled();
    if (this.#fd >= 0) await dataSync(this.#fd);
  }

  /** Resolves when everything appended so far is durable or refused; what comes after that is not waited for. */
  async settled(): Promise<void> {
    const last = this.#queue.at(-1) ?? this.#batch.at(-1);
    if (!last) return;
    const { resolve, reject } = last;
    await new Promise<void>((done) => {
      last.resolve = () => done(resolve());
      last.reject = (error) => done(reject(error));
    });
  }

  /** True while lines wait for their sync. */
  get busy(): boolean {
    return this.#flushing !== null;
  }

  /** Waits for what is under way, then closes. Later appends are refused. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#flushing;
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
    this.#intent?.close();
    this.#intent = null;
  }

  async #flush(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#takeBatch();
      this.#batch = batch;
      try {
        await this.#commit(batch);
        for (const waiting of batch) waiting.resolve();
      } catch (error) {
        for (const waiting of batch) waiting.reject(error as Error);
      }
      this.#batch = [];
    }
    this.#flushing = null;
  }

  #takeBatch(): Waiting[] {
    let bytes = 0;
    const last = this.#queue.findIndex(({ line }) => (bytes += line.length) >= MAX_BATCH_BYTES);
    return this.#queue.splice(0, last < 0 ? this.#queue.length : last + 1);
  }

  async #commit(batch: Waiting[]): Promise<void> {
    this.#findFile();
    const before = fstatSync(this.#fd).size;
    const torn = before > 0 && before !== this.#knownEnd && readAt(this.#fd, before - 1, 1)[0] !== NEWLINE;
    let text = torn ? "\n" : "";
    for (const waiting of batch) text += `${waiting.line}\n`;
    const bytes = Buffer.from(text);
    this.#intent?.note({ dev: this.#dev, ino: this.#ino, before }, bytes);
    const fd = this.#fd;
    let written = 0;
    try {
      written = writeSync(fd, bytes);
      if (written < bytes.length) throw diskFull(this.path);
      this.#knownEnd = before + bytes.length;
      if (this.#options.durability === "disk") await dataSync(fd);
    } catch (error) {
      if (written > 0) retractBatch(fd, this.path, before, bytes.subarray(0, written));
      this.#knownEnd = -1;
      throw error;
    }
  }

  #findFile(): void {
    const found = statSync(this.path, { throwIfNoEntry: false });
    if (this.#fd >= 0 && found && found.ino === this.#ino && found.dev === this.#dev) return;
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
    this.#knownEnd = -1;
    makeFolder(dirname(this.path), 0o755);
    // An intent claims the file it lies beside; a folder that went away took ours along.
    const { intents, durability } = this.#options;
    if (intents !== null && (!this.#intent || !existsSync(this.#intent.path))) {
      this.#intent?.close();
      this.#intent = claimIntent(intents, this.path);
    }
    this.#fd = openSync(this.path, constants.O_RDWR | constants.O_APPEND | constants.O_CREAT, 0o600);
    if (!found) inheritOwner(this.path);
    const now = fstatSync(this.#fd);
    if (!now.isFile()) {
      closeSync(this.#fd);
      this.#fd = -1;
      throw new Error(`open "${this.path}": not a regular file`);
    }
    this.#dev = now.dev;
    this.#ino = now.ino;
    retractZeros(this.#fd, this.path, now.size);
    if (!found && durability === "disk") syncFolder(dirname(this.path));
  }
}

function diskFull(path: string): Error {
  return Object.assign(new Error(`write to "${path}": no space left on the device`), { code: "ENOSPC" });
}

// ---------------------------------------------------------------------------------------------------------------
// Intents

interface Place {
  dev: number;
  ino: number;
  /** Size of the journal before the batch: the batch lies at or behind it. */
  before: number;
}

type Intent = ReturnType<typeof claimIntent>;

/** Heals every journal of a folder whose writer died in the middle of a line. For a daemon's start. */
export function healFolder(intents: string, journals: string): void {
  if (!existsSync(intents)) return;
  for (const name of readdirSync(intents)) {
    const match = /^(.+)\.\d+\.intent$/.exec(name);
    // Only a file is an intent: a FIFO of that name would be waited for.
    if (!match || !lstatSync(join(intents, name), { throwIfNoEntry: false })?.isFile()) continue;
    try {
      healIntent(join(intents, name), join(journals, match[1]!));
    } catch {
      // A journal that can't be written is no reason not to start. Its first append heals it, or says why that can't be.
    }
  }
}

function healIntent(path: string, journal: string): void {
  const fd = openSync(path, constants.O_RDWR);
  try {
    if (flock(fd)) healFrom(fd, journal);
  } finally {
    closeSync(fd);
  }
}

/** Takes the first intent file of a journal that no living process holds, after healing what its last owner left. */
function claimIntent(folder: string, journal: string) {
  // Without flock every process would claim the first intent: better no healing than a wrong one.
  if (!hasLibc()) return { path: dirname(journal), note: () => {}, close: () => {} };
  makeFolder(folder, 0o700);
  for (let n = 0; ; n++) {
    const path = join(folder, `${basename(journal)}.${n}.intent`);
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    if (!flock(fd)) {
      closeSync(fd);
      continue;
    }
    try {
      inheritOwner(path);
      healFrom(fd, journal);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
    return {
      path,
      note(place: Place, bytes: Buffer): void {
        const header = `${JSON.stringify({ ...place, length: bytes.length, hash: Bun.hash(bytes).toString(16) })}\n`;
        const noted = Buffer.concat([Buffer.from(header), bytes]);
        writeSync(fd, noted, 0, noted.length, 0);
      },
      close: () => closeSync(fd),
    };
  }
}

/** Compares an intent with its journal, retracts the torn rest of a line, and empties the intent. */
function healFrom(intent: number, journal: string): void {
  const noted = readIntent(intent);
  if (noted) {
    const { dev, ino, before } = noted.place;
    const found = statSync(journal, { throwIfNoEntry: false });
    if (found && found.ino === ino && found.dev === dev && found.size > before)
      healJournal(journal, before, noted.bytes);
  }
  ftruncateSync(intent, 0);
}

function readIntent(fd: number): { place: Place; bytes: Buffer } | null {
  const size = fstatSync(fd).size;
  if (size === 0) return null;
  const all = readAt(fd, 0, size);
  const end = all.indexOf(NEWLINE);
  if (end < 0) return null;
  try {
    const header = JSON.parse(all.toString("utf8", 0, end)) as Place & { length: number; hash: string };
    if (![header.before, header.length].every((n) => Number.isSafeInteger(n) && n >= 0)) return null;
    const bytes = all.subarray(end + 1, end + 1 + header.length);
    // A power cut or a death while noting leaves half an intent: then the journal wasn't touched yet.
    return Bun.hash(bytes).toString(16) === header.hash ? { place: header, bytes } : null;
  } catch {
    return null;
  }
}

function healJournal(path: string, before: number, batch: Buffer): void {
  const fd = openSync(path, constants.O_RDWR);
  try {
    const size = Math.min(fstatSync(fd).size, before + batch.length + MAX_HEAL_BYTES);
    const region = readAt(fd, before, size - before);
    const torn = findTornLine(region, batch);
    if (torn) retract(fd, path, before + torn.start, before + torn.end);
  } finally {
    closeSync(fd);
  }
}

/**
 * Where in `region` (the journal from the batch's offset on) the torn rest of `batch` lies; null when the batch is
 * whole, or when none of it got there. Exported for its table of cases.
 */
export function findTornLine(region: Buffer, batch: Buffer): { start: number; end: number } | null {
  const lines = batch[0] === NEWLINE ? batch.subarray(1) : batch;
  if (region.includes(lines)) return null;
  let best = { at: -1, length: 0 };
  for (let at = 0; at >= 0 && at < region.length; at = nextLine(region, at)) {
    const length = commonPrefix(region, at, lines);
    if (length > best.length && !isWholeLine(region, at, length, lines)) best = { at, length };
  }
  if (best.at < 0) return null;
  const whole = lines.lastIndexOf(NEWLINE, best.length - 1) + 1;
  const start = best.at + whole;
  // Up to here ours is whole, and another's line follows that begins like our next one.
  if (isWholeLine(region, start, 0, lines)) return null;
  const end = tornEnd(region, start, best.at + best.length);
  return end > start ? { start, end } : null;
}

function nextLine(region: Buffer, at: number): number {
  const end = region.indexOf(NEWLINE, at);
  return end < 0 ? -1 : end + 1;
}

function commonPrefix(region: Buffer, at: number, lines: Buffer): number {
  const most = Math.min(region.length - at, lines.length);
  let length = 0;
  while (length < most && region[at + length] === lines[length]) length++;
  return length;
}

/** Another writer's whole line may begin like ours (`{"ts":"2026-…`): it is no rest of ours when it parses. */
function isWholeLine(region: Buffer, at: number, length: number, lines: Buffer): boolean {
  if (lines.subarray(0, length).includes(NEWLINE)) return false;
  const end = region.indexOf(NEWLINE, at);
  return end >= 0 && isJson(region.subarray(at, end));
}

/** The rest may be followed by another writer's line that happens to begin as ours would go on: step back until that one is whole. */
function tornEnd(region: Buffer, start: number, end: number): number {
  const newline = region.indexOf(NEWLINE, end);
  const stop = newline < 0 ? region.length : newline;
  for (let at = end; at > start && at > end - 4096; at--) {
    if (at === stop || (region[at] === BRACE && isJson(region.subarray(at, stop)))) return at;
  }
  return end;
}

function isJson(bytes: Buffer): boolean {
  try {
    JSON.parse(bytes.toString());
    return true;
  } catch {
    return false;
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Retracting

/** Takes back what a failed write left of a batch, wherever other writers made it land. */
function retractBatch(fd: number, path: string, before: number, written: Buffer): void {
  const region = readAt(fd, before, fstatSync(fd).size - before);
  const at = region.indexOf(written);
  if (at >= 0) retract(fd, path, before + at, before + at + written.length);
}

/** Takes away the zeros that a power cut left where data had not reached the disk yet. */
function retractZeros(fd: number, path: string, size: number): void {
  let start = size;
  while (start > 0) {
    const from = Math.max(0, start - 4096);
    const last = readAt(fd, from, start - from).findLastIndex((byte) => byte !== 0);
    start = from + last + 1;
    if (last >= 0) break;
  }
  if (start < size) retract(fd, path, start, size);
}

/** Removes bytes [start, end): truncates if they are the last and no other process has the file open, else turns them into line breaks. */
function retract(fd: number, path: string, start: number, end: number): void {
  const release = writeLease(fd);
  try {
    if (release && fstatSync(fd).size === end) {
      ftruncateSync(fd, start);
      fsyncSync(fd);
      return;
    }
  } finally {
    release?.();
  }
  // A descriptor with O_APPEND would append whatever the position says.
  const place = fstatSync(fd);
  const plain = openSync(path, constants.O_WRONLY);
  try {
    const opened = fstatSync(plain);
    if (opened.ino !== place.ino || opened.dev !== place.dev) return;
    writeSync(plain, Buffer.alloc(end - start, NEWLINE), 0, end - start, start);
    fsyncSync(plain);
  } finally {
    closeSync(plain);
  }
}
