// Lines of JSON: what a line of a journal holds, and reading a whole file of them.

import { closeSync } from "node:fs";
import { type Line, openFile, partialPosition, readOn } from "./cursor.ts";

const BRACE = 0x7b;

/** A line's number from 1 (counted from where the reading began), and its length in bytes. */
interface LineOf {
  number: number;
  length: number;
}

interface ReplayOptions {
  path: string;
  /** Byte to start at. Default 0. */
  from?: number;
  /** Lines of more bytes than this count as malformed and are never held in memory. */
  maxLine?: number;
  /** Called for each line that is JSON. */
  record: (value: unknown, line: LineOf) => void;
  /** Called for each line that isn't. Empty lines are neither. */
  malformed?: (line: LineOf, reason: string) => void;
}

/** Reads a journal line by line with flat memory. A missing file is an empty one, what isn't a file is an error. A torn last line is left alone. */
export async function replay({ path, from = 0, maxLine, record, malformed }: ReplayOptions): Promise<void> {
  const fd = openFile(path);
  if (fd === null) return;
  let number = 0;
  const visit = (line: Line): void => {
    const found = parseLine(line);
    const place = { number: ++number, length: line.length };
    if (found === null) return;
    if ("value" in found) record(found.value, place);
    else malformed?.(place, found.malformed);
  };
  try {
    await readOn(fd, partialPosition({ offset: from }), { visit, longest: maxLine });
  } finally {
    closeSync(fd);
  }
}

/**
 * The text of a line that doesn't begin as usual. Zeros at its start are where a power cut took something that wasn't synced, or the
 * second half of a line break in UTF-16: PowerShell's `>>` appends that, without a byte order mark where the file isn't new.
 */
function decodeLine(line: Buffer): string {
  const rest = line.subarray(line.findIndex((byte) => byte !== 0));
  const isBigEndian = rest[0] === 0xfe && rest[1] === 0xff;
  if (isBigEndian) return new TextDecoder("utf-16be").decode(rest.subarray(0, rest.length & ~1));
  const isWide = (rest[0] === 0xff && rest[1] === 0xfe) || rest[1] === 0;
  return new TextDecoder(isWide ? "utf-16le" : "utf-8").decode(rest);
}

/** What a line says, or why it is malformed; null when it is empty. */
export function parseLine({ bytes, start, end, length }: Line): { value: unknown } | { malformed: string } | null {
  if (length > end - start) return { malformed: `longer than ${end - start} bytes` };
  const isPlain = bytes[start] === BRACE && bytes[start + 1] !== 0;
  const text = isPlain ? bytes.toString("utf8", start, end) : decodeLine(bytes.subarray(start, end));
  if (!isPlain && text.trim() === "") return null;
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { malformed: "not JSON" };
  }
}
