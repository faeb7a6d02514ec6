// Whole lines of a file that somebody else writes, read with flat memory, and what tells whether a file is still the same.

import { fstatSync, readSync } from "node:fs";

const CHUNK = 256 << 10;
/** Of a longer line only the beginning is given. */
const LARGEST_LINE = 1 << 20;
/** Lines that are given at once, in number and in bytes. */
const MOST_LINES = 500;
const MOST_BYTES = 2 << 20;
/** So many bytes of the beginning and of the end of what was read are its print. */
const PRINT_BYTES = 4096;
const NEWLINE = 0x0a;

/** A line without its line break. */
export interface Line {
  bytes: Buffer;
  /** The byte after its line break. */
  end: number;
}

/** The next whole lines from byte `from` on, as many as fit a batch; none at the end, or while the last one has no line break. */
export function readLines(fd: number, from: number, to = fstatSync(fd).size): Line[] {
  const lines: Line[] = [];
  let rest: Buffer[] = [];
  let restBytes = 0;
  let bytes = 0;
  for (let at = from; at < to && (lines.length === 0 || restBytes === 0 || bytes < MOST_BYTES);) {
    const chunk = Buffer.alloc(Math.min(CHUNK, to - at));
    const read = readSync(fd, chunk, 0, chunk.length, at);
    if (read === 0) break;
    let begin = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0 && end < read; end = chunk.indexOf(NEWLINE, begin)) {
      const line = Buffer.concat([...rest, chunk.subarray(begin, end)]).subarray(0, LARGEST_LINE);
      rest = [];
      restBytes = 0;
      begin = end + 1;
      bytes += line.length;
      lines.push({ bytes: line, end: at + begin });
      if (lines.length >= MOST_LINES || bytes >= MOST_BYTES) return lines;
    }
    if (restBytes < LARGEST_LINE) rest.push(chunk.subarray(begin, read));
    restBytes += read - begin;
    at += read;
  }
  return lines;
}

/** What was read of a file, by its size and by hashes of its beginning and its end. */
export interface Print {
  offset: number;
  head: string;
  tail: string;
}

/** The print of the first `offset` bytes. */
export function printOf(fd: number, offset: number): Print {
  return { offset, head: hashBefore(fd, Math.min(offset, PRINT_BYTES)), tail: hashBefore(fd, offset) };
}

/** Whether a file still has what was read of it. */
export function fits(fd: number, { offset, head, tail }: Print): boolean {
  return beginsAlike(fd, { offset, head }) && fstatSync(fd).size >= offset && hashBefore(fd, offset) === tail;
}

/** Whether a file begins like one that was read. */
export function beginsAlike(fd: number, { offset, head }: Pick<Print, "offset" | "head">): boolean {
  const bytes = Math.min(offset, PRINT_BYTES);
  return fstatSync(fd).size >= bytes && hashBefore(fd, bytes) === head;
}

/** A hash of the bytes before `end`, at most PRINT_BYTES of them; the empty text where there are none. */
function hashBefore(fd: number, end: number): string {
  if (end === 0) return "";
  const begin = Math.max(0, end - PRINT_BYTES);
  const bytes = Buffer.alloc(end - begin);
  const read = readSync(fd, bytes, 0, bytes.length, begin);
  return new Bun.CryptoHasher("sha256").update(bytes.subarray(0, read)).digest("hex");
}

/** Distinct texts that are remembered at least; at most twice as many. */
const MOST_TEXTS = 2_000_000;

/** Counts how often each text came. What came before the newest two million texts begins at 0 again. */
export class Repeats {
  #now = new Map<number, number>();
  #former = new Map<number, number>();

  /** How often the text of this hash came before. */
  add(hash: bigint): number {
    const key = keyOf(hash);
    const before = this.#now.get(key) ?? this.#former.get(key) ?? 0;
    if (before === 0 && this.#now.size >= MOST_TEXTS) {
      this.#former = this.#now;
      this.#now = new Map();
    }
    this.#now.set(key, before + 1);
    return before;
  }

  /** Takes one back. */
  undo(hash: bigint): void {
    const key = keyOf(hash);
    this.#now.set(key, (this.#now.get(key) ?? this.#former.get(key) ?? 1) - 1);
  }
}

/** 52 bits are a number that takes no memory of its own. */
function keyOf(hash: bigint): number {
  return Number(hash & 0xf_ffff_ffff_ffffn);
}
