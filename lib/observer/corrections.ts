// Follows a file to which an overseer appends its corrections, one a line; each becomes an operation once.
//
// What the file may do meanwhile, and what is made of it:
//
//   it grows, also by half a line      whole lines are taken, the rest waits for its line break
//   it is renamed, a new one is made   the old one (kept open) is read to its end, then the new one from its beginning
//   it is truncated, or written anew   it is another file from then on: all of it is new
//   it is replaced by, or rewritten as, a copy of itself with more or fewer lines (an editor saves), which its unchanged
//                                      beginning tells: what was taken is known by its ids and not taken again
//
// Each line gets an id from the file's generation, its text, and how often that text came before in that generation. The log takes
// an id once, so that whoever is killed between recording and remembering reads again and adds nothing. What is remembered lies
// in corrections.json: generation, inode, how far, and a hash of what was read; it is written after the log.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  statSync,
} from "node:fs";
import { dirname, join } from "node:path";
import * as v from "valibot";
import { type Operation, readOperation } from "./operation.ts";
import { writeWhole } from "./op-log.ts";

const CHUNK = 1 << 20;
/** A longer line is no correction; it is taken cut. */
const LARGEST_LINE = 1 << 20;
const BATCH = 500;
/** So much of the beginning and the end of what was taken tells whether a file is still the same. */
const PRINT_BYTES = 4096;
const NEWLINE = 0x0a;
const STATE_FILE = "corrections.json";

const State = v.object({
  generation: v.number(),
  inode: v.number(),
  offset: v.number(),
  /** Hash of the first PRINT_BYTES of what was taken, and of the last. */
  head: v.string(),
  tail: v.string(),
});
type State = v.InferOutput<typeof State>;

export interface CorrectionsOptions {
  path: string;
  /** Where corrections.json lies; null remembers nothing across restarts. */
  folder: string | null;
  /** Records operations that were not recorded yet. */
  record: (operations: Operation[]) => Promise<void>;
}

/** The one who follows. */
export class Corrections {
  #options: CorrectionsOptions;
  #state: State | null;
  /** How often each text came in this generation, by its hash; null until the part that was taken has been read again. */
  #seen: Map<bigint, number> | null = null;
  #open: { fd: number; inode: number } | null = null;
  /** Corrections recorded since the start. */
  taken = 0;

  constructor(options: CorrectionsOptions) {
    this.#options = options;
    this.#state = options.folder === null ? null : readState(options.folder);
  }

  /** Takes what is new. Throws when the file can't be read, or the log not be written: a later pass goes on from there. */
  async pass({ alive = () => {} }: { alive?: () => void } = {}): Promise<void> {
    const { path } = this.#options;
    const here = statSync(path, { throwIfNoEntry: false });
    if (here && !here.isFile()) throw new Error(`follow "${path}": not a regular file`);
    if (this.#state && here?.ino !== this.#state.inode) await this.#takeRenamed(this.#state.inode, alive);
    if (!here) return;
    if (this.#open?.inode !== here.ino) this.#openFile(path);
    const { fd, inode } = this.#open!;
    this.#adopt(fd, inode);
    await this.#take(fd, alive);
  }

  close(): void {
    if (this.#open) closeSync(this.#open.fd);
    this.#open = null;
  }

  /** What was appended to the file before and after it was renamed. */
  async #takeRenamed(inode: number, alive: () => void): Promise<void> {
    if (this.#open?.inode !== inode) {
      const renamed = siblingWith(this.#options.path, inode);
      if (renamed === null) return;
      this.#openFile(renamed);
    }
    await this.#take(this.#open!.fd, alive);
  }

  #openFile(path: string): void {
    this.close();
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    this.#open = { fd, inode: fstatSync(fd).ino };
  }

  /** Finds out what the file is to what was read. */
  #adopt(fd: number, inode: number): void {
    const known = this.#state;
    if (!known) return this.#begin(inode, 1);
    const same = fitsHead(fd, known);
    if (inode === known.inode && same && printOf(fd, known.offset) === known.tail) return;
    this.#begin(inode, same && known.offset > 0 ? known.generation : known.generation + 1);
  }

  #begin(inode: number, generation: number): void {
    this.#state = { generation, inode, offset: 0, head: "", tail: "" };
    this.#seen = new Map();
  }

  /** Takes whole lines from where it stopped. */
  async #take(fd: number, alive: () => void): Promise<void> {
    const state = this.#state!;
    this.#seen ??= countedUpTo(fd, state.offset);
    for (;;) {
      const lines = readLines(fd, state.offset, BATCH);
      if (lines.length === 0) return;
      const operations = lines.flatMap(({ bytes }) => this.#operationOf(bytes) ?? []);
      try {
        await this.#options.record(operations);
      } catch (error) {
        // They will be read again, and have to get the same ids then.
        this.#seen = null;
        throw error;
      }
      this.taken += operations.length;
      state.offset = lines.at(-1)!.end;
      state.head = printOf(fd, Math.min(state.offset, PRINT_BYTES));
      state.tail = printOf(fd, state.offset);
      const { folder } = this.#options;
      if (folder !== null) writeWhole(join(folder, STATE_FILE), `${JSON.stringify(state)}\n`);
      alive();
    }
  }

  #operationOf(bytes: Buffer): Operation | null {
    const text = bytes.toString("utf8");
    if (text.trim() === "") return null;
    const hash = Bun.hash.wyhash(bytes);
    const before = this.#seen!.get(hash) ?? 0;
    this.#seen!.set(hash, before + 1);
    return operationOf(text, `correction:${this.#state!.generation}:${hash.toString(16)}:${before}`);
  }
}

/** A correction as an operation: a line of JSON keeps its fields, any other is text. It counts as a success unless it says otherwise. */
function operationOf(text: string, id: string): Operation {
  const now = Date.now();
  const fixed = { id, source: "overseer_correction" };
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    given = null;
  }
  if (typeof given === "object" && given !== null && !Array.isArray(given)) {
    const read = readOperation({ endpoint: "overseer_correction", ...given, ...fixed }, now);
    if ("operation" in read) return read.operation;
  }
  const read = readOperation({ ...fixed, endpoint: "overseer_correction", success: true, output_summary: text }, now);
  if ("operation" in read) return read.operation;
  throw new Error("a correction is no operation");
}

function readState(folder: string): State | null {
  const file = join(folder, STATE_FILE);
  if (!existsSync(file)) return null;
  try {
    return v.parse(State, JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return null;
  }
}

/** The file of this inode in the same folder. */
function siblingWith(path: string, inode: number): string | null {
  const folder = dirname(path);
  if (!existsSync(folder)) return null;
  for (const name of readdirSync(folder)) {
    const file = join(folder, name);
    const stats = statSync(file, { throwIfNoEntry: false });
    if (stats?.isFile() && stats.ino === inode) return file;
  }
  return null;
}

function fitsHead(fd: number, { offset, head }: State): boolean {
  const bytes = Math.min(offset, PRINT_BYTES);
  return fstatSync(fd).size >= bytes && printOf(fd, bytes) === head;
}

/** A hash of the bytes before `end`, at most PRINT_BYTES of them; the empty text where there are none. */
function printOf(fd: number, end: number): string {
  if (end === 0) return "";
  const begin = Math.max(0, end - PRINT_BYTES);
  const bytes = Buffer.alloc(end - begin);
  const read = readSync(fd, bytes, 0, bytes.length, begin);
  return new Bun.CryptoHasher("sha256").update(bytes.subarray(0, read)).digest("hex");
}

/** How often each line came within the part that was taken. */
function countedUpTo(fd: number, offset: number): Map<bigint, number> {
  const seen = new Map<bigint, number>();
  for (let at = 0; at < offset;) {
    const lines = readLines(fd, at, BATCH, offset);
    if (lines.length === 0) break;
    for (const { bytes } of lines) {
      if (bytes.toString("utf8").trim() === "") continue;
      const hash = Bun.hash.wyhash(bytes);
      seen.set(hash, (seen.get(hash) ?? 0) + 1);
    }
    at = lines.at(-1)!.end;
  }
  return seen;
}

interface Line {
  bytes: Buffer;
  /** The byte after its line break. */
  end: number;
}

/** Up to `most` whole lines from `from` on; of a line that is too long its beginning. */
function readLines(fd: number, from: number, most: number, to = fstatSync(fd).size): Line[] {
  const lines: Line[] = [];
  let rest = Buffer.alloc(0);
  for (let at = from; at < to && lines.length < most;) {
    const chunk = Buffer.alloc(Math.min(CHUNK, to - at));
    const read = readSync(fd, chunk, 0, chunk.length, at);
    if (read === 0) break;
    let begin = 0;
    for (
      let end = chunk.indexOf(NEWLINE);
      end >= 0 && end < read && lines.length < most;
      end = chunk.indexOf(NEWLINE, begin)
    ) {
      const bytes = Buffer.concat([rest, chunk.subarray(begin, end)]).subarray(0, LARGEST_LINE);
      rest = Buffer.alloc(0);
      begin = end + 1;
      lines.push({ bytes, end: at + begin });
    }
    if (rest.length < LARGEST_LINE) rest = Buffer.concat([rest, chunk.subarray(begin, read)]);
    at += read;
  }
  return lines;
}
