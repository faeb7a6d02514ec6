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
    yield headers({ type: "5", name: Buffer.concat([name, SLASH]), stats });
    const names = readdirSync(path, { encoding: "buffer" }) as Buffer[];
    for (const child of names.toSorted((a, b) => Buffer.compare(a, b))) {
      yield* entry(Buffer.concat([path, SLASH, child]), Buffer.concat([name, SLASH, child]), context);
    }
  } else if (stats.isSymbolicLink()) {
    const link = readlinkSync(path, { encoding: "buffer" }) as unknown as Buffer;
    const leadsOut = !`${resolve(dirname(String(path)), String(link))}/`.startsWith(`${context.root}/`);
    const shown = `${String(name)} -> ${String(link)}`;
    if (leadsOut) context.skipped(shown, "the link leads out of the episode: only the link is shipped");
    yield headers({ type: "2", name, stats, link });
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
    const { size } = stats;
    yield headers({ type: "0", name, stats, size });
    for (let at = 0; at < size;) {
      const { bytesRead } = await readAt(fd, buffer, 0, Math.min(buffer.length, size - at), at);
      // The file has shrunk.
      const piece = bytesRead > 0 ? buffer.subarray(0, bytesRead) : Buffer.alloc(Math.min(CHUNK, size - at));
      yield piece;
      at += piece.length;
    }
    yield Buffer.alloc(-size & (BLOCK - 1));
  } finally {
    closeSync(fd);
  }
}

/** A file, a link, a folder; a long link or name for the next header. */
type Type = "0" | "2" | "5" | "K" | "L";

interface Entry {
  type: Type;
  name: Buffer;
  stats: Stats;
  size?: number;
  link?: Buffer;
}

/** An entry's header, preceded by those for names that are too long for it. */
function headers({ type, name, stats: { mode, mtimeMs }, size = 0, link }: Entry): Buffer {
  const parts: Buffer[] = [];
  if (link && link.length > 100) parts.push(longName("K", link));
  if (name.length > 100) parts.push(longName("L", name));
  const mtime = Math.max(0, Math.floor(mtimeMs / 1000));
  return Buffer.concat([...parts, header({ name, type, size, mode: mode & 0o7777, mtime, link })]);
}

function longName(type: "K" | "L", name: Buffer): Buffer {
  const size = name.length + 1;
  const body = Buffer.alloc(Math.ceil(size / BLOCK) * BLOCK);
  name.copy(body);
  const start = header({ name: Buffer.from("./@LongLink"), type, size, mode: 0, mtime: 0, link: undefined });
  return Buffer.concat([start, body]);
}

interface Header extends Record<"size" | "mode" | "mtime", number> {
  name: Buffer;
  type: Type;
  link: Buffer | undefined;
}

/** `mtime`: seconds since 1970. */
function header({ name, type, size, mode, mtime, link }: Header): Buffer {
  const block = Buffer.alloc(BLOCK);
  name.copy(block, 0, 0, 100);
  octal(block, { at: 100, length: 8, value: mode });
  for (const at of [108, 116]) octal(block, { at, length: 8, value: 0 });
  octal(block, { at: 124, length: 12, value: size });
  octal(block, { at: 136, length: 12, value: mtime });
  block.write(type, 156);
  link?.copy(block, 157, 0, 100);
  block.write("ustar  \0", 257);
  // The checksum counts its own field as blanks.
  block.fill(" ", 148, 156);
  const sum = block.reduce((all, byte) => all + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

/** Octal digits and a NUL; if the value is too large for them, base 256 with the first bit set (GNU). */
function octal(block: Buffer, { at, length, value }: { at: number; length: number; value: number }): void {
  const digits = value.toString(8);
  if (digits.length < length) return void block.write(`${digits.padStart(length - 1, "0")}\0`, at);
  block.writeUIntBE(value, at + length - 6, 6);
  block[at] = 0x80;
}
