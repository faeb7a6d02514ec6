// The newest operations of a log, and what is recorded from then on, across its rotations. For whoever looks from outside.
//
// The log may be renamed at any moment, also while it is read, and more than once between two looks. So what is read is an open
// file, whatever it is called by then, and what came between two looks is told by the segments' numbers.

import { closeSync, fstatSync, statSync } from "node:fs";
import { openToRead } from "../files.ts";
import { replay } from "../replay.ts";
import { LONGEST_LINE, type Segment, operationOf, segmentsOf } from "./op-log.ts";
import type { Operation } from "./operation.ts";

/** The log, held open: `path` leads to it under any name. */
interface Held {
  path: string;
  inode: number;
  size: number;
}

/** Reads on from where it stopped. */
export class LogTail {
  #path: string;
  /** The file that was read last, and up to which byte. */
  #inode: number | undefined;
  #end = 0;
  /** The number of the last segment that nothing more is expected of. */
  #done = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** The newest operations, oldest first; reading goes on behind them. */
  async newest(limit: number): Promise<Operation[]> {
    return this.#hold(async (log) => {
      const segment = upTo(log, segmentsOf(this.#path)).at(-1);
      this.#done = segment?.number ?? 0;
      this.#inode = log?.inode;
      const { last, end } = log ? await lastOf(log.path, limit) : { last: [], end: 0 };
      this.#end = end;
      // A segment may just have begun.
      if (last.length >= limit || !segment) return last;
      return [...(await lastOf(segment.path, limit - last.length)).last, ...last];
    });
  }

  /** Hands over what was recorded since. */
  async read(each: (operation: Operation) => void): Promise<void> {
    return this.#hold(async (log) => {
      const fresh = segmentsOf(this.#path).filter(({ number }) => number > this.#done);
      for (const { path, number } of upTo(log, fresh)) {
        // What came into the file after it was read last, and whole segments since.
        await readFrom(path, inodeOf(path) === this.#inode ? this.#end : 0, each);
        this.#done = number;
      }
      if (!log) return;
      const from = log.inode === this.#inode && log.size >= this.#end ? this.#end : 0;
      this.#inode = log.inode;
      this.#end = await readFrom(log.path, from, each);
    });
  }

  /** Opens the log for as long as `work` takes; null while there is none. */
  async #hold<T>(work: (log: Held | null) => Promise<T>): Promise<T> {
    const fd = openToRead(this.#path);
    if (fd === null) return work(null);
    try {
      const stats = fstatSync(fd);
      if (!stats.isFile()) throw new Error(`read "${this.#path}": not a regular file`);
      return await work({ path: `/proc/self/fd/${fd}`, inode: stats.ino, size: stats.size });
    } finally {
      closeSync(fd);
    }
  }
}

/** Those before the log, where it has become one of them since it was opened. */
function upTo(log: Held | null, segments: Segment[]): Segment[] {
  const own = segments.findIndex(({ path }) => inodeOf(path) === log?.inode);
  return own < 0 || log === null ? segments : segments.slice(0, own);
}

function inodeOf(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.ino;
}

async function lastOf(path: string, limit: number): Promise<{ last: Operation[]; end: number }> {
  const last: Operation[] = [];
  const end = await readFrom(path, 0, (operation) => {
    last.push(operation);
    if (last.length > limit) last.shift();
  });
  return { last, end };
}

/** Gives the byte after the last whole line. */
async function readFrom(path: string, from: number, each: (operation: Operation) => void): Promise<number> {
  const record = (value: unknown): void => {
    const operation = operationOf(value);
    if (typeof operation !== "string") each(operation);
  };
  const { end } = await replay({ path, from, maxLine: LONGEST_LINE, record });
  return end;
}
