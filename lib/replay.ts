// Reads a journal, or any file of JSON lines, from a byte on: line by line, with flat memory, whatever is in it.

import { statSync } from "node:fs";

const NEWLINE = 0x0a;
const BRACE = 0x7b;

/** Where a line stands: its number from 1 (counted from `from`), its first byte, and the byte after its line break. */
export interface LinePlace {
  number: number;
  offset: number;
  end: number;
}

export interface ReplayOptions {
  path: string;
  /** Byte to start at: the start of a line. Default 0. */
  from?: number;
  /** Byte to stop at. Default: the size when the replay starts. */
  to?: number;
  /** Lines of more bytes than this count as malformed and are never held in memory. */
  maxLine?: number;
  /** Called for each line that is JSON. */
  record: (value: unknown, place: LinePlace) => void;
  /** Called for each line that isn't. Empty lines are neither. */
  malformed?: (place: LinePlace, reason: string) => void;
}

/** What a replay saw. `end` is the byte after the last complete line: a torn last line lies behind it. */
export interface Replayed {
  records: number;
  malformed: number;
  end: number;
}

/** Reads a journal line by line with flat memory. A missing file is an empty one, what isn't a file is an error. A torn last line is left alone. */
export async function replay(options: ReplayOptions): Promise<Replayed> {
  const from = options.from ?? 0;
  const maxLine = options.maxLine ?? 16 << 20;
  const seen: Replayed = { records: 0, malformed: 0, end: from };
  const found = statSync(options.path, { throwIfNoEntry: false });
  if (!found) return seen;
  // A FIFO would be waited for, for ever.
  if (!found.isFile()) throw new Error(`read "${options.path}": not a regular file`);
  let number = 0;
  const judge: Judge = (bytes, start, end, length) => {
    number++;
    const place = { number, offset: seen.end, end: seen.end + length + 1 };
    seen.end = place.end;
    if (length > maxLine) {
      seen.malformed++;
      options.malformed?.(place, `longer than ${maxLine} bytes`);
      return;
    }
    let text = bytes.toString("utf8", start, end);
    if (bytes[start] !== BRACE) {
      // Zeros are where a power cut took something that wasn't synced.
      text = text.replace(/^\0+/, "");
      if (text.trim() === "") return;
    }
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      seen.malformed++;
      options.malformed?.(place, "not JSON");
      return;
    }
    seen.records++;
    options.record(value, place);
  };
  await eachLine(options, maxLine, judge);
  return seen;
}

/** Looks at a line: bytes [start, end), of which nothing is kept when `length` is over the limit. */
type Judge = (bytes: Buffer, start: number, end: number, length: number) => void;

/** Cuts a file into lines; of a line longer than `maxLine` only the length is kept. */
async function eachLine({ path, from = 0, to }: ReplayOptions, maxLine: number, judge: Judge): Promise<void> {
  const file = to === undefined ? Bun.file(path).slice(from) : Bun.file(path).slice(from, to);
  let rest: Buffer[] = [];
  let restLength = 0;
  for await (const chunk of file.stream()) {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let at = 0;
    for (let end = bytes.indexOf(NEWLINE); end >= 0; end = bytes.indexOf(NEWLINE, at)) {
      if (restLength === 0) judge(bytes, at, end, end - at);
      else {
        const line = Buffer.concat([...rest, bytes.subarray(at, end)]);
        judge(line, 0, line.length, restLength + end - at);
      }
      rest = [];
      restLength = 0;
      at = end + 1;
    }
    if (at < bytes.length) {
      restLength += bytes.length - at;
      rest = restLength > maxLine ? [] : [...rest, Buffer.from(bytes.subarray(at))];
    }
  }
}
