// The observer's log of operations: JSON lines, appended and synced before anything is counted or answered.
//
//   ops.jsonl            the segment that is being written
//   ops.000001.jsonl …   full segments, oldest first; only `check` and `tail` read them
//   snapshot.json        the figures of all full segments, so that a start reads only ops.jsonl
//
// Rotation waits for the writes under way, replaces the snapshot, then renames the log. The snapshot has the number of the new segment,
// and which file it covers (by inode and hashes) up to which byte. After a kill in between, or a failed rename, the next start finds
// that the snapshot covers the log up to that byte and reads only the rest; the log is still full, so it is rotated soon.
// Without a valid snapshot a start reads all segments.
//
// A start ends a line that a power cut tore with a line break, so that each start counts the same lines.

import {
  appendFileSync,
  closeSync,
  existsSync,
  fstatSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import * as v from "valibot";
import { type Position, fits, openFile, partialPosition, positionAt, startOf } from "../cursor.ts";
import { makeFolder, syncFolder, writeWhole } from "../files.ts";
import { type Durability, Journal, healFolder } from "../journal.ts";
import { replay } from "../replay.ts";
import { type Books, BooksState } from "./books.ts";
import { type Operation, isRecorded, readOperation } from "./operation.ts";

const SNAPSHOT_VERSION = 1;
/** Longer than any recorded line: a body of 4 MiB can become 19 MiB of JSON, since `1e20` is written with all its zeros. */
export const LONGEST_LINE = 32 << 20;

interface OpLogOptions {
  /** `…/ops.jsonl`; null writes no log. */
  path: string | null;
  rotateBytes: number;
  durability: Durability;
  books: Books;
  /** Called for each line that is not an operation, with its file, its number there, and the reason. */
  malformed: (file: string, line: number, reason: string) => void;
}

/** The lines that a start read. */
export interface Opened {
  applied: number;
  malformed: number;
  /** Full segments that were not read, because the snapshot covers them. */
  skipped: number;
  /** The number of the last renamed segment that the snapshot covers; 0 without a snapshot. */
  covered: number;
}

const Snapshot = v.object({
  version: v.literal(SNAPSHOT_VERSION),
  /** It covers all segments up to this number. */
  covers: v.number(),
  /** Of the last one: its inode, its length, and hashes of its first and last bytes. 0.1.0 wrote no hashes. */
  inode: v.number(),
  bytes: v.number(),
  head: v.optional(v.string(), ""),
  tail: v.optional(v.string(), ""),
  state: BooksState,
});

/** The open log. */
export class OpLog {
  /** What a start read. */
  readonly opened: Opened;
  #options: OpLogOptions;
  #journal: Journal | null;
  #bytes: number;
  /** The number of the last segment. */
  #covered: number;
  /** Set while the log rotates: `record` waits for it. */
  #rotating: Promise<void> | null = null;

  private constructor(options: OpLogOptions, { journal, opened }: { journal: Journal | null; opened: Opened }) {
    this.opened = opened;
    this.#options = options;
    this.#journal = journal;
    this.#covered = opened.covered;
    this.#bytes = journal ? (statSync(journal.path, { throwIfNoEntry: false })?.size ?? 0) : 0;
  }

  /** Reads the log and opens it for appending. */
  static async open(options: OpLogOptions): Promise<OpLog> {
    const { path, durability } = options;
    if (path === null)
      return new OpLog(options, { journal: null, opened: { applied: 0, malformed: 0, skipped: 0, covered: 0 } });
    const folder = dirname(path);
    const intents = join(folder, ".picket");
    makeFolder(folder, 0o750);
    healFolder(intents, folder);
    await closeTornLine(path);
    const opened = await readAll(path, options);
    return new OpLog(options, { journal: new Journal({ path, durability, intents }), opened });
  }

  /** Records all of the operations or none; resolves when they are durable and counted. @throws the file system's error. */
  async record(operations: readonly Operation[]): Promise<void> {
    const { books } = this.#options;
    const lines = operations.map((operation) => JSON.stringify(operation));
    while (this.#rotating) await this.#rotating;
    await this.#journal?.appendAll(lines);
    // Lines are applied in their order in the log: appends resolve in that order, and nothing is awaited in between.
    for (const [index, operation] of operations.entries()) {
      books.apply(operation, lines[index]!.length);
      this.#bytes += lines[index]!.length + 1;
    }
  }

  /** Whether the log is large enough to be rotated. */
  get full(): boolean {
    return this.#journal !== null && this.#bytes >= this.#options.rotateBytes;
  }

  /** Changes the size at which the log is full. */
  set rotateBytes(bytes: number) {
    this.#options.rotateBytes = bytes;
  }

  /** Begins a new segment. `record` waits meanwhile. */
  async rotate(): Promise<void> {
    const { path } = this.#options;
    if (path === null || this.#rotating) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#rotating = promise;
    try {
      // The last append resolved before this does, so its operations are applied.
      await this.#journal?.settled();
      if (existsSync(path)) await this.#startSegment(path);
    } finally {
      this.#rotating = null;
      resolve();
    }
  }

  async #startSegment(path: string): Promise<void> {
    // A number is never used twice, not even when the old segments were moved away: they may come back.
    const number = Math.max(segmentsOf(path).at(-1)?.number ?? 0, this.#covered) + 1;
    const state = await this.#options.books.save();
    const { inode, offset: bytes, head, tail } = endOf(path);
    const snapshot = { version: SNAPSHOT_VERSION, covers: number, inode, bytes, head, tail, state };
    writeWhole(snapshotPath(path), JSON.stringify(snapshot));
    renameSync(path, segmentPath(path, number));
    this.#covered = number;
    syncFolder(dirname(path));
    this.#bytes = 0;
  }

  /** Waits for the writes under way, and closes the log. */
  async close(): Promise<void> {
    await this.#journal?.close();
  }
}

/** The full segments of a log, oldest first. */
export function segmentsOf(path: string): { number: number; path: string }[] {
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

/** Brings the books up to date: reads the snapshot and the lines after it, or else all segments. Writes nothing. */
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

/** Reads one file line by line, in constant memory. `from`: the byte at which a line begins. */
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
    record(value, { number, length }) {
      const operation = operationOf(value);
      if (typeof operation === "string") return skip(number, operation);
      seen.applied++;
      apply(operation, length);
    },
    malformed: ({ number }, reason) => skip(number, reason),
  });
  return seen;
}

/** A line's operation, or the reason why it is none. Completes a line that another program wrote. */
export function operationOf(value: unknown): Operation | string {
  if (isRecorded(value)) return value;
  const read = readOperation(value, Date.now());
  if ("operation" in read) return read.operation;
  return read.broken.map(({ field, error }) => (field === "" ? error : `${field}: ${error}`)).join("; ");
}

/** Restores the books from the snapshot. It covers the segments up to `covered`, and a log that was not renamed up to byte `from`. */
function restore(path: string, books: Books): { covered: number; from: number } {
  const snapshot = readSnapshot(snapshotPath(path));
  if (snapshot === null) return { covered: 0, from: 0 };
  const { covers, inode, bytes, head, tail, state } = snapshot;
  books.restore(state);
  const here = existsSync(segmentPath(path, covers)) ? null : openFile(path);
  if (here === null) return { covered: covers, from: 0 };
  try {
    // A copied log has another inode, so the hashes decide when there are any.
    const known =
      (tail !== "" || startOf(here).inode === inode) && fits(here, partialPosition({ offset: bytes, head, tail }));
    return { covered: covers, from: known ? bytes : 0 };
  } finally {
    closeSync(here);
  }
}

/** Null when it is missing or invalid. */
function readSnapshot(file: string): v.InferOutput<typeof Snapshot> | null {
  try {
    return v.parse(Snapshot, JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return null;
  }
}

/** The end of a file to which nothing is being appended. @throws Error when it is missing. */
export function endOf(path: string): Position {
  const fd = openFile(path);
  if (fd === null) throw new Error(`read "${path}": it is missing`);
  try {
    return positionAt(fd, fstatSync(fd).size);
  } finally {
    closeSync(fd);
  }
}

/** Appends a line break to a last line without one. */
async function closeTornLine(path: string): Promise<void> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found?.isFile() || found.size === 0) return;
  const last = await Bun.file(path)
    .slice(found.size - 1)
    .text();
  if (last !== "\n") appendFileSync(path, "\n");
}
