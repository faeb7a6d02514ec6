// The newest operations of a log, and what is recorded from then on, across its rotations. For whoever looks from outside.

import { statSync } from "node:fs";
import { replay } from "../replay.ts";
import { LONGEST_LINE, operationOf, segmentsOf } from "./op-log.ts";
import type { Operation } from "./operation.ts";

/** Reads on from where it stopped. */
export class LogTail {
  #path: string;
  #inode: number | undefined;
  #end = 0;

  constructor(path: string) {
    this.#path = path;
  }

  /** The newest operations, oldest first; reading goes on behind them. */
  async newest(limit: number): Promise<Operation[]> {
    const last = await this.#last(this.#path, limit);
    // A segment may just have begun.
    const segment = last.length < limit ? segmentsOf(this.#path).at(-1) : undefined;
    if (!segment) return last;
    return [...(await lastOf(segment.path, limit - last.length)).last, ...last];
  }

  /** Hands over what was recorded since. */
  async read(each: (operation: Operation) => void): Promise<void> {
    const now = statSync(this.#path, { throwIfNoEntry: false });
    if (now?.ino !== this.#inode) {
      // What came into the file after it was read last, and whole segments since.
      const segments = segmentsOf(this.#path);
      const begun = segments.findIndex(({ path }) => inodeOf(path) === this.#inode);
      for (const { path } of begun < 0 ? [] : segments.slice(begun)) {
        await readFrom(path, this.#end, each);
        this.#end = 0;
      }
      this.#end = 0;
      this.#inode = now?.ino;
    }
    if (!now) return;
    this.#end = await readFrom(this.#path, now.size < this.#end ? 0 : this.#end, each);
  }

  async #last(path: string, limit: number): Promise<Operation[]> {
    this.#inode = inodeOf(path);
    const { last, end } = await lastOf(path, limit);
    this.#end = end;
    return last;
  }
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
