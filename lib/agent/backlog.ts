// Reports that could not be sent, on disk, one file each: `<recorded_at in ms>.json`. A place is the state: a file is a
// report that has not arrived, and is removed when it has. Written under another name and renamed, so none is incomplete;
// not synced: a power cut may take the last samples of an outage, and a flash card need not be written for each.
//
// The folder is read once, at the start: only the daemon changes it.

import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A report that waits. */
export interface Waiting {
  path: string;
  /** Milliseconds since 1970. */
  recordedAt: number;
  bytes: number;
}

/** The queue. */
export class Backlog {
  readonly dir: string;
  #maxBytes: number;
  /** Oldest first. */
  #waiting: Waiting[];
  #bytes: number;
  /** How many were dropped for want of room since the start. */
  dropped = 0;

  constructor(dir: string, maxBytes: number) {
    this.dir = dir;
    this.#maxBytes = maxBytes;
    this.#waiting = waitingIn(dir);
    this.#bytes = this.#waiting.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /** Changes how many bytes it may hold. */
  set maxBytes(bytes: number) {
    this.#maxBytes = bytes;
  }

  /** How many wait. */
  get count(): number {
    return this.#waiting.length;
  }

  /** The one that has waited for longest. */
  get oldest(): Waiting | undefined {
    return this.#waiting[0];
  }

  /** Keeps a report; drops the oldest ones where there is no room for it. Two of the same millisecond are both kept. */
  add(report: { recorded_at: string }): void {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    const text = JSON.stringify(report);
    const bytes = Buffer.byteLength(text);
    while (this.#waiting[0] && this.#bytes + bytes > this.#maxBytes) {
      this.remove(this.#waiting[0]);
      this.dropped++;
    }
    let recordedAt = Date.parse(report.recorded_at);
    while (this.#waiting.some((one) => one.recordedAt === recordedAt)) recordedAt++;
    // At the end, but for a clock that was set back.
    const after = this.#waiting.findLastIndex((one) => one.recordedAt < recordedAt);
    const name = `${recordedAt}.json`;
    // One name for all: what a kill leaves is written over by the next.
    const fresh = join(this.dir, ".next.tmp");
    writeFileSync(fresh, text, { mode: 0o600 });
    renameSync(fresh, join(this.dir, name));
    this.#waiting.splice(after + 1, 0, { path: join(this.dir, name), recordedAt, bytes });
    this.#bytes += bytes;
  }

  /** Reads one; null when it isn't there any more or is no report. */
  read({ path }: Waiting): Record<string, unknown> | null {
    try {
      return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    } catch {
      return null;
    }
  }

  /**
   * Takes one out: it has arrived, or never will. Throws where its file can't be removed; it is forgotten all the same until the
   * next start, so that it isn't sent again and again.
   */
  remove(one: Waiting): void {
    const index = this.#waiting.indexOf(one);
    if (index >= 0) {
      this.#waiting.splice(index, 1);
      this.#bytes -= one.bytes;
    }
    rmSync(one.path, { force: true });
  }
}

function waitingIn(dir: string): Waiting[] {
  let names: string[];
  try {
    names = readdirSync(dir).filter((name) => /^\d+\.json$/.test(name));
  } catch {
    return [];
  }
  return names
    .map((name) => {
      const path = join(dir, name);
      return {
        path,
        recordedAt: Number.parseInt(name, 10),
        bytes: statSync(path, { throwIfNoEntry: false })?.size ?? 0,
      };
    })
    .toSorted((a, b) => a.recordedAt - b.recordedAt);
}
