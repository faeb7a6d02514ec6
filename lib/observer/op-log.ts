// The observer's log of operations: JSON lines, appended and synced before anything is counted or answered.
//
//   ops.jsonl            what is being written
//   ops.000001.jsonl …   full segments, oldest first; nothing reads them but `check`, `tail` and people
//   snapshot.json        what is known of all full segments, so that a start reads only ops.jsonl
//
// Rotation: everything under way is awaited, the snapshot is written beside its place and renamed (it says which file, by inode and hashes,
// it covers up to which byte, and under which number that goes), then the log is renamed. Killed in between, or when the rename
// fails, the next start finds a log that is covered up to there and reads only what came after; being full, it is rotated soon.
// Without a snapshot, or with a broken one, all segments are read.
//
// A line that was torn by a power cut is closed at the start, so that what is counted now is what is counted next time.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { type Position, fits, openFile, partialPosition, positionAt, startOf } from "../cursor.ts";
import { makeFolder, syncFolder, writeWhole } from "../files.ts";
import { type Durability, Journal, healFolder } from "../journal.ts";
import { replay } from "../replay.ts";
import { type Operation, isRecorded, readOperation } from "./operation.ts";

const NEWLINE = 0x0a;
const SNAPSHOT_VERSION = 1;
/** More than any line that was taken: a body of 4 MiB can become 19 MiB of JSON, since `1e20` is written with all its zeros. */
export const LONGEST_LINE = 32 << 20;

/** Whoever keeps figures of what is in the log. */
export interface Books {
  /** Counts an operation that is in the log; `length`: characters of its line. */
  apply(operation: Operation, length: number): void;
  /** All that is to be known of what was applied, as JSON. */
  save(): unknown;
  /** Takes over what `save` gave. @throws Error when it is not that. */
  restore(state: unknown): void;
  /** Forgets everything. */
  reset(): void;
}

interface OpLogOptions {
  /** `…/ops.jsonl`; null keeps nothing. */
  path: string | null;
  rotateBytes: number;
  durability: Durability;
  books: Books;
  /** A line that is no operation: its file, its number there, why. */
  malformed: (file: string, line: number, reason: string) => void;
}

/** What a start read. */
export interface Opened {
  applied: number;
  malformed: number;
  /** Full segments that were not read, because the snapshot knows them. */
  skipped: number;
  /** The number of the last segment that it knows and that was renamed; 0 without a snapshot. */
  covered: number;
}

const Snapshot = v.object({
  version: v.literal(SNAPSHOT_VERSION),
  /** All segments up to this number. */
  covers: v.number(),
  /** The last of them, as it was before its rename, and how long; hashes of its first and last bytes, which 0.1.0 did not keep. */
  inode: v.number(),
  bytes: v.number(),
  head: v.optional(v.string(), ""),
  tail: v.optional(v.string(), ""),
  state: v.unknown(),
});

/** The log, open. Errors of `record` are those of the file system, with their `code`. */
export class OpLog {
  #options: OpLogOptions;
  #journal: Journal | null;
  #bytes = 0;
  /** The number of the last segment. */
  #covered = 0;
  #underWay = 0;
  /** Set while the log rotates: nobody appends meanwhile. */
  #rotating: Promise<void> | null = null;
  #idle: (() => void) | null = null;

  private constructor(options: OpLogOptions, journal: Journal | null) {
    this.#options = options;
    this.#journal = journal;
  }

  /** Reads what there is and opens the log for more. */
  static async open(options: OpLogOptions): Promise<{ log: OpLog; opened: Opened }> {
    const { path } = options;
    if (path === null)
      return { log: new OpLog(options, null), opened: { applied: 0, malformed: 0, skipped: 0, covered: 0 } };
    const folder = dirname(path);
    const intents = join(folder, ".picket");
    makeFolder(folder, 0o750);
    healFolder(intents, folder);
    closeTornLine(path);
    const opened = await readAll(path, options);
    const journal = new Journal({ path, durability: options.durability, intents });
    const log = new OpLog(options, journal);
    log.#covered = opened.covered;
    log.#bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    return { log, opened };
  }

  /** Records operations, all or none; resolves when they are durable and counted. */
  async record(operations: readonly Operation[]): Promise<void> {
    const { books } = this.#options;
    const lines = operations.map((operation) => JSON.stringify(operation));
    while (this.#rotating) await this.#rotating;
    this.#underWay++;
    try {
      await this.#journal?.appendAll(lines);
      // Lines are applied in their order in the log: appends resolve in that order, and nothing is awaited in between.
      for (const [index, operation] of operations.entries()) {
        books.apply(operation, lines[index]!.length);
        this.#bytes += lines[index]!.length + 1;
      }
    } finally {
      this.#underWay--;
      if (this.#underWay === 0) this.#idle?.();
    }
  }

  /** Whether the log is large enough to be rotated. */
  get full(): boolean {
    return this.#journal !== null && this.#bytes >= this.#options.rotateBytes;
  }

  /** Changes when it counts as full. */
  set rotateBytes(bytes: number) {
    this.#options.rotateBytes = bytes;
  }

  /** Begins a new segment. Whoever records meanwhile waits. */
  async rotate(): Promise<void> {
    const { path } = this.#options;
    if (path === null || this.#rotating) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#rotating = promise;
    try {
      while (this.#underWay > 0) await new Promise<void>((idle) => (this.#idle = idle));
      this.#idle = null;
      if (!existsSync(path)) return;
      // Also where the segments were packed away: one that is put back must not be taken for a new one.
      const number = Math.max(segmentsOf(path).at(-1)?.number ?? 0, this.#covered) + 1;
      const state = this.#options.books.save();
      const { inode, offset: bytes, head, tail } = endOf(path);
      const snapshot = { version: SNAPSHOT_VERSION, covers: number, inode, bytes, head, tail, state };
      writeWhole(snapshotPath(path), JSON.stringify(snapshot));
      renameSync(path, segmentPath(path, number));
      this.#covered = number;
      syncFolder(dirname(path));
      this.#bytes = 0;
    } finally {
      this.#rotating = null;
      resolve();
    }
  }

  /** Waits for what is under way, and closes. */
  async close(): Promise<void> {
    await this.#journal?.close();
  }
}

/** A full segment. */
export interface Segment {
  number: number;
  path: string;
}

/** The full segments of a log, oldest first. */
export function segmentsOf(path: string): Segment[] {
  const folder = dirname(path);
  const pattern = new RegExp(`^${RegExp.escape(stem(path))}\\.(\\d{6,})\\.jsonl$`);
  return (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((name) => {
      const digits = pattern.exec(name)?.[1];
      return digits === undefined ? [] : [{ number: Number(digits), path: join(folder, name) }];
    })
    .toSorted((a, b) => a.number - b.number);
}

function stem(path: string): string {
  return basename(path).replace(/\.jsonl$/, "");
}

function segmentPath(path: string, number: number): string {
  return join(dirname(path), `${stem(path)}.${String(number).padStart(6, "0")}.jsonl`);
}

function snapshotPath(path: string): string {
  return join(dirname(path), "snapshot.json");
}

/** Reads what the books need: the snapshot and what came after it, else everything. Leaves all as it is. */
export async function readAll(
  path: string,
  { books, malformed }: Pick<OpLogOptions, "books" | "malformed">,
): Promise<Opened> {
  const { covered, from } = restore(path, books);
  const segments = segmentsOf(path);
  const opened: Opened = {
    applied: 0,
    malformed: 0,
    skipped: segments.filter(({ number }) => number <= covered).length,
    covered: from > 0 ? covered - 1 : covered,
  };
  const unread = segments.filter(({ number }) => number > covered).map((segment) => ({ file: segment.path, from: 0 }));
  for (const part of [...unread, { file: path, from }]) {
    const seen = await readLog(part.file, (operation, length) => books.apply(operation, length), malformed, part.from);
    opened.applied += seen.applied;
    opened.malformed += seen.malformed;
  }
  return opened;
}

/** Reads one file of operations, from a byte on at which a line begins, line by line with flat memory. */
export async function readLog(
  file: string,
  apply: (operation: Operation, length: number) => void,
  malformed: (file: string, line: number, reason: string) => void,
  from = 0,
): Promise<{ applied: number; malformed: number }> {
  const seen = { applied: 0, malformed: 0 };
  const skip = (line: number, reason: string): void => {
    seen.malformed++;
    malformed(file, line, reason);
  };
  await replay({
    path: file,
    from,
    maxLine: LONGEST_LINE,
    record(value, { number, offset, end }) {
      const operation = operationOf(value);
      if (typeof operation === "string") return skip(number, operation);
      seen.applied++;
      apply(operation, end - offset - 1);
    },
    malformed: ({ number }, reason) => skip(number, reason),
  });
  return seen;
}

/** A line's operation, with what is left out where somebody else wrote it; or what is wrong with it. */
export function operationOf(value: unknown): Operation | string {
  if (isRecorded(value)) return value;
  const read = readOperation(value, Date.now());
  if ("operation" in read) return read.operation;
  return read.broken.map(({ field, error }) => (field === "" ? error : `${field}: ${error}`)).join("; ");
}

/** Takes over the snapshot. Gives up to which segment all is known, and up to which byte of the log: 0 unless it was not renamed. */
function restore(path: string, books: Books): { covered: number; from: number } {
  const file = snapshotPath(path);
  if (!existsSync(file)) return { covered: 0, from: 0 };
  try {
    const { covers, inode, bytes, head, tail, state } = v.parse(Snapshot, JSON.parse(readFileSync(file, "utf8")));
    books.restore(state);
    const here = existsSync(segmentPath(path, covers)) ? null : openFile(path);
    if (here === null) return { covered: covers, from: 0 };
    try {
      // A log that was copied has another inode: what is in it tells.
      const known =
        (tail !== "" || startOf(here).inode === inode) && fits(here, partialPosition({ offset: bytes, head, tail }));
      return { covered: covers, from: known ? bytes : 0 };
    } finally {
      closeSync(here);
    }
  } catch {
    books.reset();
    return { covered: 0, from: 0 };
  }
}

/** How much there is of a log that nothing is appended to. */
export function endOf(path: string): Position {
  const fd = openFile(path);
  if (fd === null) throw new Error(`read "${path}": it is missing`);
  try {
    return positionAt(fd, fstatSync(fd).size);
  } finally {
    closeSync(fd);
  }
}

/** Ends a last line that has no line break: it counts from now on as what it is. */
function closeTornLine(path: string): void {
  if (!existsSync(path)) return;
  const fd = openSync(path, constants.O_RDWR | constants.O_APPEND);
  try {
    const { size } = fstatSync(fd);
    const last = Buffer.alloc(1);
    if (size === 0 || (readSync(fd, last, 0, 1, size - 1) === 1 && last[0] === NEWLINE)) return;
    writeSync(fd, "\n");
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
