// <inbox_dir>/.<recipient>.watcher-active: held by `mcp --channel` while it pushes a recipient's events into a session, so that `hook` doesn't
// print them as well, and a second `mcp` doesn't push them again.
//
// It holds the process id, and is locked with flock(2). The lock is what counts: the kernel drops it when the watcher dies, so a file that a
// kill left behind silences no hook. The holder removes the file before it unlocks it; who locks one makes sure that it is still the one at
// the path. Where there is no libc, the process id counts.

import { closeSync, constants, fstatSync, ftruncateSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { flock, hasLibc } from "./ffi.ts";
import { inheritOwner, makeFolder, openToRead, textOf } from "./files.ts";

/** Whose events are pushed, and where the inboxes lie. */
export interface Watched {
  dir: string;
  recipient: string;
}

/** A look at the file (`watcherOf`) locks it for a moment: that is no watcher. */
const TRIES = 10;
const PAUSE_MS = 20;

function pathOf({ dir, recipient }: Watched): string {
  return join(dir, `.${recipient}.watcher-active`);
}

/** The process id of the recipient's watcher; null where none is alive. */
export function watcherOf(watched: Watched): number | null {
  const fd = openToRead(pathOf(watched));
  if (fd === null) return null;
  try {
    if (hasLibc() && flock(fd)) return null;
    const pid = Number(textOf(pathOf(watched)));
    return hasLibc() || isAlive(pid) ? pid : null;
  } finally {
    closeSync(fd);
  }
}

/** Becomes the recipient's watcher; null while another one is alive. Gives what ends it. Errors are those of the file system. */
export async function becomeWatcher(watched: Watched): Promise<(() => void) | null> {
  const path = pathOf(watched);
  makeFolder(watched.dir, 0o755);
  for (let tries = 0; tries < TRIES; tries++) {
    if (!hasLibc() && watcherOf(watched) !== null) return null;
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    if ((!hasLibc() || flock(fd)) && isAt(path, fd)) {
      inheritOwner(path);
      ftruncateSync(fd);
      writeSync(fd, `${process.pid}\n`);
      return () => {
        rmSync(path, { force: true });
        closeSync(fd);
      };
    }
    closeSync(fd);
    await Bun.sleep(PAUSE_MS);
  }
  return null;
}

function isAt(path: string, fd: number): boolean {
  return statSync(path, { throwIfNoEntry: false })?.ino === fstatSync(fd).ino;
}

function isAlive(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
