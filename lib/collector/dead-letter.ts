// Dead letters: an invalid drop moves to `.dead-letter/NAME`, with the reason beside it in `NAME.reason`. You fix it and move it back.
// Names are bytes: a folder may hold names that aren't UTF-8.

import { type BigIntStats, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isThere, makeFolder, syncFolder } from "../files.ts";
import { printable } from "../text.ts";

/**
 * Moves a file to the `.dead-letter/` of its folder, durably, and returns its new path. The reason is written first, so that no dead
 * letter lacks one. Throws errors of the file system; then the file is where it was, without a reason beside it.
 */
export function moveToDeadLetters(path: string, { name, stats }: { name: Buffer; stats: BigIntStats }, reason: string) {
  const folder = join(path, ".dead-letter");
  makeFolder(folder, 0o755);
  const target = freePath(folder, name);
  const where = `${printable(join(path, name.toString()))} (${stats.size} bytes, modified ${timeOf(stats.mtimeMs)})`;
  const text = `what:  ${printable(reason)}\nwhere: ${where}\nwhen:  ${new Date().toISOString()}\n`;
  try {
    writeFileSync(reasonOf(target), text, { flag: "wx", mode: 0o600, flush: true });
    renameSync(joined(path, name), target);
  } catch (error) {
    // Each retry would leave one more.
    rmSync(reasonOf(target), { force: true });
    throw error;
  }
  syncFolder(folder);
  syncFolder(path);
  return target;
}

/** The path of a name in a folder. */
export function joined(folder: string, name: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${folder}/`), name]);
}

function freePath(folder: string, name: Buffer): Buffer {
  // NAME_MAX is 255 bytes, and `.reason` and a number have to fit as well.
  const base = joined(folder, name.subarray(0, 235));
  for (let n = 0; ; n++) {
    const path = n === 0 ? base : Buffer.concat([base, Buffer.from(`.${n}`)]);
    if (!isThere(path) && !isThere(reasonOf(path))) return path;
  }
}

function reasonOf(path: Buffer): Buffer {
  return Buffer.concat([path, Buffer.from(".reason")]);
}

/** RFC 3339, or seconds since 1970 where a file's time is beyond what a Date can hold. */
function timeOf(ms: bigint): string {
  const date = new Date(Number(ms));
  return Number.isNaN(date.getTime()) ? `${ms / 1000n} s after 1970` : date.toISOString();
}
