// A folder as a tar stream: the same folder gives the same bytes, on any host and at any time.
//
// Sorted by name, owner and group 0, times and modes kept. The format is GNU's: its long names ('L', 'K') are plain bytes, while
// pax records are UTF-8, and a file name need not be (libraries that write tar take names as text). Links are stored as links,
// because a link of a producer's could lead to any file that only the agent may read; sockets, pipes and devices are skipped. A file keeps the size that it has when its turn comes: if it grows it is cut there, if
// it shrinks it is filled up with zeros.

import { type Stats, closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { read } from "node:fs";
import { dirname, resolve } from "node:path";
import { promisify } from "node:util";

const BLOCK = 512;
const CHUNK = 1 << 20;
const SLASH = Buffer.from("/");
const readAt = promisify(read);

/** Called for each entry that is skipped, or whose content is. */
type Skipped = (path: string, why: string) => void;

/**
 * The tar of `folder`, with its entries below `name/`, in chunks of 1 MiB (the last may be shorter): zstd's output depends on how
 * its input is cut, and a chunk for each header would be slow. Throws when an entry can't be read.
 */
export async function* tarOf(folder: string, name: string, skipped: Skipped): AsyncGenerator<Buffer> {
  let chunk = Buffer.allocUnsafe(CHUNK);
  let filled = 0;
  for await (const piece of pieces(folder, name, skipped)) {
    for (let at = 0; at < piece.length;) {
      const copied = piece.copy(chunk, filled, at);
      at += copied;
      filled += copied;
      if (filled < CHUNK) continue;
      yield chunk;
      chunk = Buffer.allocUnsafe(CHUNK);
      filled = 0;
    }
  }
  if (filled > 0) yield chunk.subarray(0, filled);
}

/** The tar in pieces of any size; each is valid only until the next is requested. */
async function* pieces(folder: string, name: string, skipped: Skipped): AsyncGenerator<Buffer> {
  yield* entry(Buffer.from(folder), Buffer.from(name), { root: folder, skipped, buffer: Buffer.allocUnsafe(CHUNK) });
  yield Buffer.alloc(2 * BLOCK);
}

interface Context {
  root: string;
  skipped: Skipped;
  /** Shared by all reads. */
  buffer: Buffer;
}

async function* entry(path: Buffer, name: Buffer, context: Context): AsyncGenerator<Buffer> {
  const stats = lstatSync(path);
  if (stats.isDirectory()) {
    yield headers({ name: Buffer.concat([name, SLASH]), type: "5", size: 0, ...modeAndTime(stats) });
    const names = readdirSync(path, { encoding: "buffer" }) as Buffer[];
    for (const child of names.toSorted((a, b) => Buffer.compare(a, b))) {
      yield* entry(Buffer.concat([path, SLASH, child]), Buffer.concat([name, SLASH, child]), context);
    }
  } else if (stats.isSymbolicLink()) {
    const link = readlinkSync(path, { encoding: "buffer" }) as unknown as Buffer;
    const target = resolve(dirname(String(path)), String(link));
    if (!target.startsWith(`${context.root}/`))
      context.skipped(
        `${String(name)} -> ${String(link)}`,
        "the link leads out of the episode: only the link is shipped",
      );
    yield headers({ name, type: "2", size: 0, link, ...modeAndTime(stats) });
  } else if (stats.isFile()) {
    yield* file(path, name, context.buffer);
  } else {
    context.skipped(name.toString(), "neither a file, a folder nor a link");
  }
}

async function* file(path: Buffer, name: Buffer, buffer: Buffer): AsyncGenerator<Buffer> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    yield headers({ name, type: "0", size: stats.size, ...modeAndTime(stats) });
    let left = stats.size;
    let at = 0;
    while (left > 0) {
      const { bytesRead } = await readAt(fd, buffer, 0, Math.min(buffer.length, left), at);
      if (bytesRead === 0) break;
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
      left -= bytesRead;
    }
    // The file has shrunk.
    for (; left > 0; left -= Math.min(CHUNK, left)) yield Buffer.alloc(Math.min(CHUNK, left));
    const rest = stats.size % BLOCK;
    if (rest > 0) yield Buffer.alloc(BLOCK - rest);
  } finally {
    closeSync(fd);
  }
}

interface Header {
  name: Buffer;
  /** A file, a link, a folder; a long link or name for the next header. */
  type: "0" | "2" | "5" | "K" | "L";
  size: number;
  mode: number;
  /** Seconds since 1970. */
  mtime: number;
  link?: Buffer;
}

function modeAndTime({ mode, mtimeMs }: Stats): Pick<Header, "mode" | "mtime"> {
  return { mode: mode & 0o7777, mtime: Math.max(0, Math.floor(mtimeMs / 1000)) };
}

/** An entry's header, preceded by those for names that are too long for it. */
function headers(entry: Header): Buffer {
  const { name, link } = entry;
  const parts: Buffer[] = [];
  if (link && link.length > 100) parts.push(longName("K", link));
  if (name.length > 100) parts.push(longName("L", name));
  return Buffer.concat([...parts, header(entry)]);
}

function longName(type: "K" | "L", name: Buffer): Buffer {
  const size = name.length + 1;
  const body = Buffer.alloc(Math.ceil(size / BLOCK) * BLOCK);
  name.copy(body);
  return Buffer.concat([header({ name: Buffer.from("./@LongLink"), type, size, mode: 0, mtime: 0 }), body]);
}

function header({ name, type, size, mode, mtime, link }: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  name.copy(block, 0, 0, 100);
  octal(block, { at: 100, length: 8, value: mode });
  octal(block, { at: 108, length: 8, value: 0 });
  octal(block, { at: 116, length: 8, value: 0 });
  octal(block, { at: 124, length: 12, value: size });
  octal(block, { at: 136, length: 12, value: mtime });
  block.write(type, 156);
  link?.copy(block, 157, 0, 100);
  block.write("ustar  \0", 257);
  // The checksum counts its own field as blanks.
  block.fill(" ", 148, 156);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** Octal digits and a NUL; if the value is too large for them, base 256 with the first bit set (GNU). */
function octal(block: Buffer, { at, length, value }: { at: number; length: number; value: number }): void {
  const digits = value.toString(8);
  if (digits.length < length) {
    block.write(`${digits.padStart(length - 1, "0")}\0`, at);
    return;
  }
  let rest = BigInt(value);
  for (let index = at + length - 1; index > at; index--) {
    block[index] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[at] = 0x80;
}
