// The cursor: reads on in a file that others append to, rename, truncate, replace or rewrite.
//
// A position is a place in one file as it was read: which file (device, inode), how far (offset), and hashes of the first and the last
// 4096 bytes before it. All of it is taken from the open descriptor and from the bytes that were read, never from whatever lies at the path
// afterwards. So a stored position either fits a file, and everything before it was read, or it doesn't.
//
// What can happen between two looks, and why no line is skipped:
//
//   appended to          the file fits; reading goes on at the offset. Half a line waits for its line break
//   renamed, a new one   the old file is found in the same folder by device and inode, under any name, and read to its end; then come
//   in its place         files that were rotated away in between (`NAME.2`, `NAME.1`, `NAME-20260131`), then the new one from its start
//   truncated, rewritten the position doesn't fit: all of it is new. What was not read before is read from a copy that a
//   in place             rotation made (copytruncate), where there is one
//   replaced by a copy   the old file is gone and the new one begins with all of it: reading goes on at the offset
//   removed              the open descriptor still leads to the rest; after a restart it is lost
//
// A file that was renamed is followed for a while: its writer may still have it open. Each new beginning at the path gets the next
// generation, so generation and offset name a line for good.
//
// It can't see: a change of equal length further than 4096 bytes from both ends of what was read; a file that is moved into another folder
// while nothing has it open; what was truncated before it was read.

import { type Stats, closeSync, existsSync, fstatSync, read, readdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import * as v from "valibot";
import { openToRead, readAt } from "./files.ts";
import type { LineCursor } from "./inboxes.ts";

const CHUNK = 1 << 20;
const PRINT_BYTES = 4096;
/** What the marks of 0.1.0 hashed. */
const OLD_PRINT_BYTES = 256;
const NEWLINE = 0x0a;
/** Of a longer line only the beginning is kept. */
const LONGEST_LINE = 16 << 20;
/** Renamed files that are still followed. */
const MOST_FORMER = 4;
/** So often a folder in which files are being renamed is listed. */
const LISTINGS = 10;

const wholeNumber = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** A place in a file. Serialisable. */
export const Position = v.object({
  dev: v.number(),
  inode: v.number(),
  /** When the file was made, and changed last, in milliseconds since 1970. */
  born: v.number(),
  mtime: v.number(),
  /** Counts the files at this path, from 1. */
  generation: wholeNumber,
  /** Everything before this byte was read; it is the start of a line. */
  offset: wholeNumber,
  /** Hashes of the first and the last bytes before the offset; "" where there are none, or where they are not known. */
  head: v.string(),
  tail: v.string(),
});
export type Position = v.InferOutput<typeof Position>;

/** A position of which only some is known: it fits every file that has these bytes. */
export function partialPosition(known: Partial<Position> & { offset: number }): Position {
  // Without a time no rotated file is newer.
  return { dev: 0, inode: 0, born: 0, mtime: Number.MAX_SAFE_INTEGER, generation: 1, head: "", tail: "", ...known };
}

/** Where nothing was read yet: files that were rotated away before now are not read. File systems count time in steps of some milliseconds. */
export function unread(): Position {
  return partialPosition({ offset: 0, generation: 0, mtime: Date.now() - 100 });
}

/** A whole line. Its bytes are valid during the call only. */
export interface Line {
  /** It stands in here from `start` to before `end`, without its line break. */
  bytes: Buffer;
  start: number;
  end: number;
  /** Its length in the file, larger than `end - start` where it was cut. */
  length: number;
  /** Its first byte in the file. */
  offset: number;
  generation: number;
}

/** Opens a file for reading; null when there is none. A FIFO is not waited for. @throws Error when it is no regular file. */
export function openFile(path: string): number | null {
  const fd = openToRead(path);
  if (fd === null || fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new Error(`read "${path}": not a regular file`);
}

export function startOf(fd: number, generation = 1): Position {
  return { ...fileOf(fstatSync(fd)), generation, offset: 0, head: "", tail: "" };
}

/** A place in an open file that is known to be unchanged. */
export function positionAt(fd: number, offset: number, at = startOf(fd)): Position {
  return {
    ...at,
    offset,
    head: hash(bytesBefore(fd, Math.min(offset, PRINT_BYTES))),
    tail: hash(bytesBefore(fd, offset)),
  };
}

/** Whether a file, whatever its name and inode, begins with what was read up to a position. */
export function fits(fd: number, position: Position): boolean {
  return bytesAround(fd, position) !== null;
}

/** The first and the last bytes before a position; null where the file has others there. */
function bytesAround(fd: number, { offset, head, tail }: Position): { head: Buffer; before: Buffer } | null {
  if (fstatSync(fd).size < offset) return null;
  const before = bytesBefore(fd, offset);
  const first = offset > PRINT_BYTES ? bytesBefore(fd, PRINT_BYTES) : before;
  const old = tail.length < 64;
  const found = old ? Bun.hash(before.subarray(-OLD_PRINT_BYTES)).toString(16) : hash(before);
  if ((head !== "" && hash(first) !== head) || (tail !== "" && found !== tail)) return null;
  return { head: first, before };
}

export interface Reading {
  /** Called for each line. An answer of true ends the reading behind that line. */
  visit: (line: Line) => unknown;
  /** Ends after one chunk. */
  piecemeal?: boolean;
  /** So many bytes of a line are kept. */
  longest?: number | undefined;
}

/**
 * Visits the whole lines of an open file from a position on, with flat memory. Gives the position behind the last one; null, and nothing is
 * read, when the position doesn't fit the file.
 */
export async function readOn(
  fd: number,
  from: Position,
  { visit, piecemeal, longest = LONGEST_LINE }: Reading,
): Promise<Position | null> {
  const stats = fstatSync(fd);
  const { size } = stats;
  const { generation } = from;
  const around = bytesAround(fd, from);
  if (around === null) return null;
  if (size <= from.offset) return from;
  const chunk = Buffer.allocUnsafe(Math.min(CHUNK, size - from.offset));
  // The first bytes of the file, and the last ones before the chunk.
  let { head, before } = around;
  let rest: Buffer[] = [];
  let restLength = 0;
  let last: { offset: number; tail: Buffer } | null = null;
  for (let at = from.offset; at < size;) {
    const bytes = chunk.subarray(0, await readChunk(fd, chunk, Math.min(chunk.length, size - at), at));
    if (bytes.length === 0) break;
    if (head.length < PRINT_BYTES) head = Buffer.concat([head, bytes.subarray(0, PRINT_BYTES - head.length)]);
    let start = 0;
    let enough = false;
    for (let end = bytes.indexOf(NEWLINE); end >= 0 && !enough; end = bytes.indexOf(NEWLINE, start)) {
      const length = restLength + end - start;
      const offset = at + end - length;
      const line = { bytes, start, end: Math.min(end, start + longest), length, offset, generation };
      if (restLength > 0) {
        line.bytes = Buffer.concat([...rest, bytes.subarray(start, end)]);
        line.start = 0;
        line.end = Math.min(line.bytes.length, longest);
      }
      enough = visit(line) === true;
      rest = [];
      restLength = 0;
      start = end + 1;
    }
    if (start > 0) last = { offset: at + start, tail: lastOf(before, bytes.subarray(0, start)) };
    if ((piecemeal || enough) && last !== null) break;
    if (restLength < longest) rest.push(Buffer.from(bytes.subarray(start)));
    restLength += bytes.length - start;
    before = lastOf(before, bytes);
    at += bytes.length;
  }
  if (last === null) return from;
  const { offset, tail } = last;
  return { ...fileOf(stats), generation, offset, head: hash(head.subarray(0, offset)), tail: hash(tail) };
}

/** A file that is read, or was until it was renamed; `fd` is -1 until it is found again. */
interface Followed {
  position: Position;
  fd: number;
}

interface CursorOptions {
  path: string;
  /** A rotation may also put its number before the extension: `ops.000001.jsonl`. */
  numberInside?: boolean;
  /** Of a longer line only so much is kept, in bytes. */
  longest?: number;
}

export interface Pass {
  /** Called once it is known which files are to be read: the positions are where that begins. */
  begin?: () => void | Promise<void>;
  /** Called for each new line, in the order of the files and their lines. */
  visit: (line: Line) => unknown;
  /** Which renamed files are followed on though they were read to their end. */
  keep?: (generation: number) => boolean;
  /**
   * Called after each piece of a file, or when `visit` answered true. The positions lie behind the piece by then; when it throws they are set
   * back, and the piece is read again next time. Without it every file is one piece.
   */
  settle?: () => Promise<void>;
  signal?: AbortSignal | undefined;
}

/** Follows a path. Errors are those of the file system; a later pass goes on from there. */
export class Cursor implements LineCursor {
  #path: string;
  #longest: number | undefined;
  #rotated: RegExp;
  /** Oldest first; the last one is the one at the path, as far as is known. */
  #files: Followed[] = [];

  constructor({ path, numberInside = false, longest }: CursorOptions) {
    this.#path = path;
    this.#longest = longest;
    const name = basename(path);
    const extension = extname(name);
    const number = String.raw`[.-](\d[\d.T_-]*)`;
    const inside = `${RegExp.escape(basename(name, extension))}${number}${RegExp.escape(extension)}`;
    this.#rotated = new RegExp(`^(?:${RegExp.escape(name)}${number}${numberInside ? `|${inside}` : ""})$`);
  }

  /** How far it has read: the files that were renamed, then the one at the path. Empty before there was one. */
  get positions(): Position[] {
    return this.#files.map(({ position }) => position);
  }

  /** Goes on from stored positions. Files that are open stay open. */
  set positions(positions: readonly Position[]) {
    const before = this.#files;
    this.#files = positions.map((position) => {
      const open = before.find((file) => file.fd >= 0 && isSame(file.position, position));
      const fd = open?.fd ?? -1;
      if (open) open.fd = -1;
      return { position, fd };
    });
    for (const file of before) shut(file);
  }

  /** Whether it follows a renamed file, which may still be written to. */
  get isBehind(): boolean {
    return this.#files.length > Number(existsSync(this.#path));
  }

  readonly far = 1 << 18;

  skip(): Promise<void> {
    return this.read({ visit() {} });
  }

  /** Reads everything that is new. @throws Error when something else than a file lies at the path. */
  async read({ begin, visit, keep = () => false, settle, signal }: Pass): Promise<void> {
    this.#locate();
    this.#letGo(keep);
    await begin?.();
    for (const file of this.#files) {
      while (file.fd >= 0) {
        if (signal?.aborted) return;
        const from = file.position;
        const reading = { visit, piecemeal: settle !== undefined, longest: this.#longest };
        const next = await readOn(file.fd, from, reading);
        // The end; or it was rewritten, which the next pass sees.
        if (next === null || next.offset === from.offset) break;
        file.position = next;
        try {
          await settle?.();
        } catch (error) {
          file.position = from;
          throw error;
        }
      }
    }
  }

  /** The position at an earlier line of a file; null when the file is not what was read any more. */
  back(generation: number, offset: number): Position | null {
    const file = this.#files.find(({ position, fd }) => position.generation === generation && fd >= 0);
    if (!file) return null;
    const earlier = positionAt(file.fd, offset, file.position);
    // Judged after the hashes were taken: what fits now was the same then.
    return fits(file.fd, file.position) ? earlier : null;
  }

  /** The line at an earlier offset of a file; null when the file is not what was read any more. */
  async lineAt(generation: number, offset: number): Promise<Line | null> {
    const file = this.#files.find(({ position, fd }) => position.generation === generation && fd >= 0);
    if (!file) return null;
    for (let length = PRINT_BYTES; length <= LONGEST_LINE; length *= 16) {
      const bytes = readAt(file.fd, offset, length);
      const end = bytes.indexOf(NEWLINE);
      if (end >= 0)
        return fits(file.fd, file.position) ? { bytes, start: 0, end, length: end, offset, generation } : null;
    }
    return null;
  }

  close(): void {
    for (const file of this.#files) shut(file);
  }

  /** Decides which files are to be read, and opens them. */
  #locate(): void {
    // Opened before the folder is listed: what is renamed in between is in the listing.
    const here = openFile(this.#path);
    const last = this.#files.at(-1);
    const is = here === null ? null : startOf(here);
    if (here !== null && (!last || (isSame(is!, last.position) && fits(here, last.position)))) {
      if (!last) this.#files.push({ position: is!, fd: here });
      else if (last.fd < 0) adopt(last, here);
      else closeSync(here);
      this.#reopenFormer();
    } else if (last) {
      this.#moveOn(here, last);
    }
  }

  /** The file at the path is another one, or is missing. */
  #moveOn(here: number | null, last: Followed): void {
    const is = here === null ? null : startOf(here);
    const siblings = this.#reopenFormer(this.#siblings());
    if (last.fd < 0) last.fd = reopen(last.position, siblings);
    // Rewritten: what it says now is new, wherever it is.
    else if (!fits(last.fd, last.position)) shut(last);
    if (here !== null && isCopy(here, last)) {
      shut(last);
      adopt(last, here);
      return;
    }
    if (last.fd < 0) {
      const copies = siblings.filter(({ rank }) => rank !== null).toReversed();
      const fd = last.position.offset > 0 ? firstOpen(copies, (one) => fits(one, last.position)) : -1;
      if (fd >= 0) adopt(last, fd);
    }
    let { generation } = last.position;
    for (const sibling of this.#missed(siblings, last, is)) {
      const fd = openSibling(sibling);
      if (fd >= 0) this.#files.push({ fd, position: startOf(fd, ++generation) });
    }
    if (here !== null) this.#files.push({ fd: here, position: startOf(here, ++generation) });
  }

  /** Files that came to the path, or were rewritten, and were renamed since the last look; oldest first. */
  #missed(siblings: Sibling[], last: Followed, here: Position | null): Sibling[] {
    const known = this.#files.filter(({ fd }) => fd >= 0).map(({ position }) => position);
    if (here) known.push(here);
    const renamed = siblings.find((one) => isSame(one, last.position) && one.born === last.position.born);
    const after = renamed?.rank ?? null;
    // It was renamed since it was opened: what is newer is for the next pass.
    const before = siblings.find((one) => here && isSame(one, here))?.rank ?? Infinity;
    return siblings.filter((one) => {
      if (known.some((file) => isSame(one, file))) return false;
      if (one === renamed) return true;
      if (one.rank === null || one.rank >= before) return false;
      return after === null ? one.mtime >= last.position.mtime : one.rank > after;
    });
  }

  /** After a restart: finds renamed files that are still followed. */
  #reopenFormer(siblings?: Sibling[]): Sibling[] {
    const closed = this.#files.slice(0, -1).filter(({ fd }) => fd < 0);
    const beside = siblings ?? (closed.length > 0 ? this.#siblings() : []);
    for (const file of closed) file.fd = reopen(file.position, beside);
    return beside;
  }

  /** Lets go of renamed files that were read to their end and have no name any more, or newer ones behind them. */
  #letGo(keep: (generation: number) => boolean): void {
    const former = this.#files.slice(0, -1);
    const kept = former.filter(({ fd, position }, index) => {
      if (fd < 0 || !fits(fd, position)) return false;
      const { size, nlink } = fstatSync(fd);
      return size > position.offset || keep(position.generation) || (nlink > 0 && index >= former.length - MOST_FORMER);
    });
    for (const file of former) if (!kept.includes(file)) shut(file);
    this.#files = [...kept, ...this.#files.slice(-1)];
  }

  /** The regular files in the folder; those that a rotation named have a rank and come in the order of their age. */
  #siblings(): Sibling[] {
    const rank = (path: string): number | null => {
      const match = this.#rotated.exec(basename(path));
      const digits = (match?.[1] ?? match?.[2])?.replaceAll(/\D/g, "");
      // Short numbers count backwards (`.1` is the newest), dates and padded numbers forwards.
      return digits === undefined ? null : digits.length < 6 ? -Number(digits) : Number(digits);
    };
    return agreedListing(dirname(this.#path))
      .map((file) => ({ ...file, rank: rank(file.path) }))
      .toSorted((a, b) => (a.rank ?? -Infinity) - (b.rank ?? -Infinity));
  }
}

type FileOf = Pick<Position, "dev" | "inode" | "born" | "mtime">;

interface Listed extends FileOf {
  path: string;
}

interface Sibling extends Listed {
  rank: number | null;
}

/** A folder in which files are being renamed is listed until two listings agree. */
function agreedListing(folder: string): Listed[] {
  const nameOf = ({ path, dev, inode }: Listed): string => `${dev} ${inode} ${path}`;
  let found = listing(folder);
  for (let n = 1; n < LISTINGS; n++) {
    const before = found.map(nameOf).join("\n");
    found = listing(folder);
    if (found.map(nameOf).join("\n") === before) break;
  }
  return found;
}

function listing(folder: string): Listed[] {
  return (existsSync(folder) ? readdirSync(folder) : []).flatMap((name) => {
    const path = join(folder, name);
    try {
      const stats = statSync(path);
      return stats.isFile() ? [{ path, ...fileOf(stats) }] : [];
    } catch {
      // It was removed just now, or can't be read.
      return [];
    }
  });
}

function fileOf({ dev, ino: inode, birthtimeMs: born, mtimeMs: mtime }: Stats): FileOf {
  return { dev, inode, born, mtime };
}

/** Whether it is the same file. Older versions left no device. */
function isSame(one: FileOf, other: FileOf): boolean {
  return one.inode === other.inode && (one.dev === other.dev || one.dev === 0 || other.dev === 0);
}

/** Whether the last file is gone, and the one at the path begins with all of it. */
function isCopy(here: number, { fd, position }: Followed): boolean {
  if (fd < 0) return position.offset > 0 && fits(here, position);
  const { nlink, size } = fstatSync(fd);
  return nlink === 0 && fits(here, positionAt(fd, size, position));
}

/** Opens the same file under another name; -1 if it is gone. Inodes are reused, so its bytes or its birth time must agree, too. */
function reopen(position: Position, siblings: Sibling[]): number {
  const same = siblings.filter((one) => isSame(one, position) && (position.offset > 0 || one.born === position.born));
  return firstOpen(same, (fd) => fits(fd, position));
}

function firstOpen(siblings: Sibling[], suits: (fd: number) => boolean): number {
  for (const sibling of siblings) {
    const fd = openSibling(sibling);
    if (fd >= 0 && suits(fd)) return fd;
    if (fd >= 0) closeSync(fd);
  }
  return -1;
}

/** Opens a file that was listed, also when it was renamed since; -1 when it is gone. */
function openSibling(sibling: Sibling): number {
  let { path } = sibling;
  for (let n = 0; n < LISTINGS; n++) {
    const fd = openToRead(path);
    if (fd !== null && isSame(fileOf(fstatSync(fd)), sibling)) return fd;
    if (fd !== null) closeSync(fd);
    const now = agreedListing(dirname(path)).find((one) => isSame(one, sibling));
    if (!now) return -1;
    path = now.path;
  }
  return -1;
}

function adopt(file: Followed, fd: number): void {
  file.fd = fd;
  file.position = { ...file.position, ...fileOf(fstatSync(fd)) };
}

function shut(file: Followed): void {
  if (file.fd >= 0) closeSync(file.fd);
  file.fd = -1;
}

/** The last bytes before `end`. */
function bytesBefore(fd: number, end: number): Buffer {
  const begin = Math.max(0, end - PRINT_BYTES);
  return readAt(fd, begin, end - begin);
}

/** The last bytes of both, copied. */
function lastOf(before: Buffer, bytes: Buffer): Buffer {
  return Buffer.concat([before, bytes.subarray(-PRINT_BYTES)]).subarray(-PRINT_BYTES);
}

function hash(bytes: Buffer): string {
  return bytes.length === 0 ? "" : new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

function readChunk(fd: number, chunk: Buffer, length: number, at: number): Promise<number> {
  return new Promise((done, failed) =>
    read(fd, chunk, 0, length, at, (error, count) => (error ? failed(error) : done(count))),
  );
}
