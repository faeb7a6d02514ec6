// Files and folders that are still there after a power cut, and what a role asks of the disk beside its journals.

import {
  type PathLike,
  accessSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  readdirSync,
  renameSync,
  statSync,
  statfsSync,
  writeSync,
} from "node:fs";
import { dirname } from "node:path";
import { flock, hasLibc } from "./ffi.ts";

/** With less room than this a folder counts as full: a batch of events would not fit. */
const ROOM_BYTES = 16 << 10;

/** The hint for an error that says that writing is not permitted; undefined for other errors. */
export function deniedHint(code = ""): string | undefined {
  if (!/^SQLITE_(CANTOPEN|READONLY|PERM|AUTH)|^E(ACCES|PERM|ROFS)/.test(code)) return undefined;
  return "run it as root or as the account that the service runs as; under systemd see ReadWritePaths in docs/operations.md";
}

/** Makes a folder with its parents and syncs every folder that got a new entry, so that a power cut can't take it back. */
export function makeFolder(path: string, mode: number): void {
  if (existsSync(path)) return;
  const parent = dirname(path);
  if (parent !== path) makeFolder(parent, mode);
  try {
    mkdirSync(path, { mode });
    inheritOwner(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EEXIST") throw Object.assign(new Error(`make the folder "${path}"`, { cause: error }), { code });
  }
  syncFolder(parent);
}

/**
 * Gives a file or folder that root made to the owner of the folder it lies in: root's `ping` and `read` mustn't leave
 * something in a service's folder that the service can't write to.
 */
export function inheritOwner(path: string): void {
  if (process.getuid?.() !== 0) return;
  const { uid, gid } = statSync(dirname(path));
  if (uid !== 0) lchownSync(path, uid, gid);
}

/** The folder, or the nearest one above it that exists. */
export function nearestFolder(folder: string): string {
  return existsSync(folder) || dirname(folder) === folder ? folder : nearestFolder(dirname(folder));
}

/** Whether a name exists, be it a broken link. */
export function isThere(path: PathLike): boolean {
  try {
    return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}

/** fsync(2) on a folder: makes the names in it durable. */
export function syncFolder(path: PathLike): void {
  const fd = openSync(path, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** True for errors that mean "no room" (disk, quota): a daemon answers 507 and goes on when there is room. */
export function isDiskFull(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === "ENOSPC" || code === "EDQUOT";
}

/** A descriptor for reading; null where there is no file. Opening a FIFO doesn't block: the caller checks what it opened. */
export function openToRead(path: string): number | null {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw error;
  }
}

/** A file's text; null where it can't be read. */
export function textOf(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

/** The names in a folder; none where it can't be read. */
export function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** Bytes of an open file; fewer where it ends before. */
export function readAt(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  let got = 0;
  for (let n = 1; n > 0 && got < length; got += n) n = readSync(fd, bytes, got, length - got, position + got);
  return bytes.subarray(0, got);
}

/** Why nothing new can be written to a folder now (gone, read-only, full), in words; null when something can. */
export function cannotWrite(folder: string): string | null {
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
    const { bavail, frsize, files, ffree } = statfsSync(folder);
    if (bavail * frsize < ROOM_BYTES) return `DISK FULL: no space left in "${folder}"`;
    // btrfs and others have no fixed number of inodes, and give 0.
    return files > 0 && ffree === 0 ? `DISK FULL: no inodes left in "${folder}"` : null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** The same for a file that is appended to; it need not be there yet. */
export function cannotAppend(path: string): string | null {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    if (found && !found.isFile()) return `"${path}" is not a regular file`;
    if (found) accessSync(path, constants.W_OK);
    return cannotWrite(dirname(path));
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Replaces a file whole, also piece by piece, and syncs it and its name: killed at any moment, there is the old one or the new one. `<path>.tmp` is used for
 * it, so two writers of one file have to take turns. Errors are those of the file system.
 */
export function writeWhole(path: string, text: string | Iterable<string>, mode = 0o640): void {
  const fresh = `${path}.tmp`;
  const fd = openSync(fresh, "w", mode);
  try {
    for (const part of typeof text === "string" ? [text] : text) {
      const bytes = Buffer.from(part);
      for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
    }
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  inheritOwner(fresh);
  renameSync(fresh, path);
  syncFolder(dirname(path));
}

/**
 * Locks `file` for as long as this process lives, or until you call what it returns. A daemon locks its data folder with it: a second one
 * would take the first one's work for leftovers of a crash.
 * @throws Error with a hint when another process holds the lock.
 */
export function holdAlone(program: string, file: string): () => void {
  const fd = openSync(file, "a", 0o600);
  inheritOwner(file);
  if (hasLibc() && !flock(fd)) {
    closeSync(fd);
    const hint = "is the service running? set another folder for this one";
    throw Object.assign(new Error(`another ${program} uses "${dirname(file)}"`), { hint });
  }
  return () => closeSync(fd);
}
