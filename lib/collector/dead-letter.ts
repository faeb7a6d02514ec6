// What is no drop is put into `.dead-letter/`, beside its reason: NAME and NAME.reason, for a person to mend and move back.
// Names are handled as bytes: a folder may hold names that aren't UTF-8.

import {
  type BigIntStats,
  closeSync,
  constants,
  fsyncSync,
  lstatSync,
  openSync,
  renameSync,
  unlinkSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { makeFolder, syncFolder } from "../files.ts";
import { printable } from "../text.ts";

const DEAD_LETTER = ".dead-letter";

/**
 * Moves a file of a folder into its `.dead-letter/`, durably; gives where it lies now. The reason comes first: a letter without one
 * could not be explained any more. Errors are those of the file system; then the file is where it was, and no reason is left.
 */
export function bury(path: string, { name, stats }: { name: Buffer; stats: BigIntStats }, reason: string): Buffer {
  const folder = join(path, DEAD_LETTER);
  makeFolder(folder, 0o755);
  const target = freeName(folder, name);
  const at = new Date().toISOString();
  const where = `${printable(join(path, name.toString()))} (${stats.size} bytes, modified ${timeOf(stats.mtimeMs)})`;
  const why = concat(target, ".reason");
  writeDurably(why, `what:  ${printable(reason)}\nwhere: ${where}\nwhen:  ${at}\n`);
  try {
    renameSync(joined(path, name), target);
  } catch (error) {
    // It is tried again, each time with a reason of its own.
    unlinkSync(why);
    throw error;
  }
  syncFolder(folder);
  syncFolder(path);
  return target;
}

/** A name's path below a folder. */
export function joined(folder: string, name: Buffer): Buffer {
  return concat(`${folder}/`, name);
}

function freeName(folder: string, name: Buffer): Buffer {
  // NAME_MAX is 255 bytes, and `.reason` and a number have to fit as well.
  const base = name.length > 235 ? name.subarray(0, 235) : name;
  for (let n = 0; ; n++) {
    const path = concat(`${folder}/`, base, n === 0 ? "" : `.${n}`);
    if (!exists(path) && !exists(concat(path, ".reason"))) return path;
  }
}

function exists(path: Buffer): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function writeDurably(path: Buffer, text: string): void {
  const fd = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
  try {
    const bytes = Buffer.from(text);
    if (writeSync(fd, bytes) < bytes.length)
      throw Object.assign(new Error("no space left on the device"), { code: "ENOSPC" });
    fsyncSync(fd);
  } catch (error) {
    unlinkSync(path);
    throw error;
  } finally {
    closeSync(fd);
  }
}

/** RFC 3339, or seconds since 1970 where the file system tells a time that no calendar has. */
function timeOf(ms: bigint): string {
  const date = new Date(Number(ms));
  return Number.isNaN(date.getTime()) ? `${ms / 1000n} s after 1970` : date.toISOString();
}

function concat(...parts: (Buffer | string)[]): Buffer {
  return Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part) : part)));
}
