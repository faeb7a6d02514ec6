// A folder as a tar stream: the same bytes for the same folder, whoever reads it and when.
//
// Sorted by name, owner and group 0, times and modes kept. The format is GNU's: its long names ('L', 'K') are plain bytes, while
// pax records have to be UTF-8, and a file name need not be. (That is why no library writes it: those that exist take names
// as text.) Links are stored as links; sockets, pipes and devices are left out.
// A file is stored with the size that it had when its turn came: one that grows meanwhile is cut there, one that shrinks is
// filled up with zeros, so that the archive stays whole.

import { type Stats, closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readlinkSync } from "node:fs";
import { read } from "node:fs";
import { promisify } from "node:util";

const BLOCK = 512;
const CHUNK = 1 << 20;
const SLASH = Buffer.from("/");
const readAt = promisify(read);

/** What was left out, by its path. */
type Skipped = (path: string, why: string) => void;

/**
 * The tar of `folder`, its entries below `name/`, in chunks of 1 MiB but for the last: zstd's bytes depend on how its input is
 * cut, and a chunk for every header would cost more than what is in it. Throws when something in it can't be read.
 */
export async function* tarOf(folder: string, name: string, skipped: Skipped = () => {}): AsyncGenerator<Buffer> {
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

/** The tar in pieces of any size; each holds only until the next is asked for. */
async function* pieces(folder: string, name: string, skipped: Skipped): AsyncGenerator<Buffer> {
  yield* entry(Buffer.from(folder), Buffer.from(name), { skipped, buffer: Buffer.allocUnsafe(CHUNK) });
  yield Buffer.alloc(2 * BLOCK);
}

interface Context {
  skipped: Skipped;
  /** What is read of files goes through it. */
  buffer: Buffer;
}

async function* entry(path: Buffer, name: Buffer, context: Context): AsyncGenerator<Buffer> {
  const stats = lstatSync(path);
  if (stats.isDirectory()) {
    yield headers({ name: Buffer.concat([name, SLASH]), stats, size: 0, type: "5" });
    const names = readdirSync(path, { encoding: "buffer" }) as Buffer[];
    for (const child of names.toSorted((a, b) => Buffer.compare(a, b))) {
      yield* entry(Buffer.concat([path, SLASH, child]), Buffer.concat([name, SLASH, child]), context);
    }
  } else if (stats.isSymbolicLink()) {
    const link = readlinkSync(path, { encoding: "buffer" }) as unknown as Buffer;
    yield headers({ name, stats, size: 0, type: "2", link });
  } else if (stats.isFile()) {
    yield* file(path, name, context.buffer);
  } else {
    context.skipped(name.toString(), "neither a file, a folder nor a link");
  }
}

async function* file(path: Buffer, name: Buffer, buffer: Buffer): AsyncGenerator<Buffer> {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const stats = fstatSync(fd);
    yield headers({ name, stats, size: stats.size, type: "0" });
    let left = stats.size;
    let at = 0;
    while (left > 0) {
      const { bytesRead } = await readAt(fd, buffer, 0, Math.min(buffer.length, left), at);
      if (bytesRead === 0) break;
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
      left -= bytesRead;
    }
    // What was cut off meanwhile.
    for (; left > 0; left -= Math.min(CHUNK, left)) yield Buffer.alloc(Math.min(CHUNK, left));
    const rest = stats.size % BLOCK;
    if (rest > 0) yield Buffer.alloc(BLOCK - rest);
  } finally {
    closeSync(fd);
  }
}

interface Entry {
  name: Buffer;
  stats: Stats;
  size: number;
  type: "0" | "2" | "5";
  link?: Buffer;
}

/** An entry's header, after those for names that don't fit into it. */
function headers({ name, stats, size, type, link }: Entry): Buffer {
  const parts: Buffer[] = [];
  if (link && link.length > 100) parts.push(longName("K", link));
  if (name.length > 100) parts.push(longName("L", name));
  const mtime = Math.max(0, Math.floor(stats.mtimeMs / 1000));
  parts.push(header({ name, size, type, mode: stats.mode & 0o7777, mtime, link: link ?? Buffer.alloc(0) }));
  return Buffer.concat(parts);
}

function longName(type: "K" | "L", name: Buffer): Buffer {
  const size = name.length + 1;
  const body = Buffer.alloc(Math.ceil(size / BLOCK) * BLOCK);
  name.copy(body);
  const own = { name: Buffer.from("./@LongLink"), size, type, mode: 0, mtime: 0, link: Buffer.alloc(0) };
  return Buffer.concat([header(own), body]);
}

function header(fields: {
  name: Buffer;
  size: number;
  type: string;
  mode: number;
  mtime: number;
  link: Buffer;
}): Buffer {
  const block = Buffer.alloc(BLOCK);
  fields.name.copy(block, 0, 0, 100);
  octal(block, { at: 100, length: 8, value: fields.mode });
  octal(block, { at: 108, length: 8, value: 0 });
  octal(block, { at: 116, length: 8, value: 0 });
  octal(block, { at: 124, length: 12, value: fields.size });
  octal(block, { at: 136, length: 12, value: fields.mtime });
  block.write(fields.type, 156);
  fields.link.copy(block, 157, 0, 100);
  block.write("ustar  \0", 257);
  // The sum is made with blanks in its own place.
  block.fill(" ", 148, 156);
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** Octal digits and a NUL; what is too large for them in base 256 with the first bit set (GNU). */
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
