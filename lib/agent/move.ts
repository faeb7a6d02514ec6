// Moves a folder, also to another mount, where rename(2) can't (EXDEV), and where the folder is a mount itself (EBUSY).
//
//   <to>/../.NAME.copying   being copied; locked (flock(2)) by the process that copies
//   <to>                    complete and synced
//   <from>/../.NAME.moved   being removed
//
// Each step is one rename. Killed in between, `removeLeftovers` removes what has a dot; the worst that remains is a second, whole copy,
// or, where a folder has to be removed in place, a part of it without its marker.

import {
  type Stats,
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  lchownSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  openSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { open, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { flock, hasLibc } from "../ffi.ts";
import { syncFolder } from "../files.ts";

const CHUNK = 1 << 20;
const SLASH = Buffer.from("/");
/** The name of a folder that is being moved. */
export const IN_TRANSIT = /^\..+\.(copying|moved)$/;

/** Whether a folder can't be renamed from one folder into the other: rename(2) looks at the mounts first, and at the names then. */
export function isOtherMount(from: string, to: string): boolean {
  try {
    renameSync(join(from, ".no-such.moved"), join(to, ".no-such.moved"));
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EXDEV";
  }
}

/** Moves a folder to a name that is free. `first` is removed before the rest where the folder must be removed in place. */
export async function moveFolder(
  from: string,
  to: string,
  { first, alive = () => {} }: { first: string; alive?: (() => void) | undefined },
): Promise<void> {
  try {
    renameSync(from, to);
    syncFolder(dirname(to));
    return;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "EXDEV" && code !== "EBUSY") throw error;
  }
  // Else each try would leave one more copy.
  accessSync(from, constants.W_OK);
  const copy = transit(to, "copying");
  rmSync(copy, { recursive: true, force: true });
  mkdirSync(copy, { mode: 0o700 });
  using _ = lockFolder(copy);
  try {
    await copyTree(Buffer.from(from), Buffer.from(copy), alive);
    renameSync(copy, to);
    syncFolder(dirname(to));
  } catch (error) {
    rmSync(copy, { recursive: true, force: true });
    throw error;
  }
  await removeMoved(from, first);
}

/** A mount, and a lower folder of an overlay, can't be renamed: they are removed in place. */
async function removeMoved(from: string, first: string): Promise<void> {
  const moved = transit(from, "moved");
  try {
    renameSync(from, moved);
  } catch {
    rmSync(join(from, first), { force: true });
    // A mount's folder stays, empty.
    await rm(from, { recursive: true, force: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EBUSY") throw error;
    });
    return;
  }
  await rm(moved, { recursive: true, force: true });
}

function transit(path: string, state: "copying" | "moved"): string {
  return join(dirname(path), `.${basename(path)}.${state}`);
}

/** Removes what a crash has left in a folder, and no other process works on. */
export function removeLeftovers(folder: string, onError: (path: string, error: unknown) => void): void {
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    if (!IN_TRANSIT.test(name)) continue;
    const path = join(folder, name);
    try {
      using lock = lockFolder(path);
      if (lock) rmSync(path, { recursive: true, force: true });
    } catch (error) {
      onError(path, error);
    }
  }
}

/** Locks a folder. Null when another process has locked or moved it. Throws when it doesn't exist. */
export function lockFolder(folder: string): Disposable | null {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  const locked = !hasLibc() || flock(fd);
  // It may have been moved between open and lock.
  const here = statSync(folder, { throwIfNoEntry: false });
  if (locked && here?.ino === fstatSync(fd).ino) return { [Symbol.dispose]: () => closeSync(fd) };
  closeSync(fd);
  return null;
}

/** Copies files, folders and links with their modes, times and, for root, owners; all else (sockets, pipes) stays behind. */
async function copyTree(from: Buffer, to: Buffer, alive: () => void): Promise<void> {
  alive();
  const stats = lstatSync(from);
  if (stats.isSymbolicLink()) symlinkSync(readlinkSync(from, { encoding: "buffer" }), to);
  else if (stats.isFile()) await copyFile(from, to, alive);
  else if (!stats.isDirectory()) return;
  else {
    mkdirSync(to, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(from, { encoding: "buffer" }) as Buffer[])
      await copyTree(Buffer.concat([from, SLASH, name]), Buffer.concat([to, SLASH, name]), alive);
  }
  keep(to, stats);
  if (stats.isDirectory()) syncFolder(to);
}

async function copyFile(from: Buffer, to: Buffer, alive: () => void): Promise<void> {
  await using source = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  await using target = await open(to, "wx", 0o600);
  const buffer = Buffer.allocUnsafe(CHUNK);
  // A file that grows is cut at the size it has now, as in the archive.
  for (let left = (await source.stat()).size; left > 0;) {
    const { bytesRead } = await source.read(buffer, 0, Math.min(CHUNK, left));
    if (bytesRead === 0) break;
    await target.writeFile(buffer.subarray(0, bytesRead));
    left -= bytesRead;
    alive();
  }
  await target.sync();
}

function keep(path: Buffer, stats: Stats): void {
  if (process.getuid?.() === 0) lchownSync(path, stats.uid, stats.gid);
  if (!stats.isSymbolicLink()) chmodSync(path, stats.mode & 0o7777);
  lutimesSync(path, stats.atime, stats.mtime);
}
