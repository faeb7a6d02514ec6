// Reports that could not be sent, on disk, one file each: `<recorded_at in ms>.json`, removed when it has arrived. A file is
// written under another name and renamed, so none is incomplete. It isn't synced: a power cut may take the last reports of an
// outage, which spares flash cards a sync for each.
//
// The folder is read once, at the start: only the daemon changes it.

import { mkdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { namesIn, textOf } from "../files.ts";

/** A queued report. */
interface Queued {
  path: string;
  /** Milliseconds since 1970. */
  recordedAt: number;
  bytes: number;
}

/** The queue. */
export class Backlog {
  readonly dir: string;
  maxBytes: number;
  /** Oldest first. */
  #queue: Queued[];
  /** Reports dropped since the start because the queue was full. */
  dropped = 0;

  constructor(dir: string, maxBytes: number) {
    this.dir = dir;
    this.maxBytes = maxBytes;
    this.#queue = queuedIn(dir);
  }

  /** What the receiver said when it rejected the last report; null when it took it. A file, so that the doctor sees it. */
  get rejection(): string | null {
    return textOf(join(this.dir, "rejection"));
  }

  set rejection(said: string | null) {
    if (said === this.rejection) return;
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    if (said === null) rmSync(join(this.dir, "rejection"), { force: true });
    else writeFileSync(join(this.dir, "rejection"), said, { mode: 0o600 });
  }

  get count(): number {
    return this.#queue.length;
  }

  get oldest(): Queued | undefined {
    return this.#queue[0];
  }

  /** Queues a report; drops the oldest ones if there is no room for it. */
  add(report: { recorded_at: string }): void {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    const text = JSON.stringify(report);
    const bytes = Buffer.byteLength(text);
    let left = this.maxBytes - this.#queue.reduce((sum, one) => sum + one.bytes, bytes);
    for (; left < 0 && this.#queue[0]; this.dropped++) {
      left += this.#queue[0].bytes;
      this.remove(this.#queue[0]);
    }
    let recordedAt = Date.parse(report.recorded_at);
    while (this.#queue.some((one) => one.recordedAt === recordedAt)) recordedAt++;
    const path = join(this.dir, `${recordedAt}.json`);
    // The same name each time: what a crash leaves is overwritten.
    const fresh = join(this.dir, ".next.tmp");
    writeFileSync(fresh, text, { mode: 0o600 });
    renameSync(fresh, path);
    // Usually the end, but a clock may be set back.
    const after = this.#queue.findLastIndex((one) => one.recordedAt < recordedAt);
    this.#queue.splice(after + 1, 0, { path, recordedAt, bytes });
  }

  /** Reads a report; null if the file is gone or damaged. */
  read({ path }: Queued): Record<string, unknown> | null {
    try {
      return JSON.parse(textOf(path) ?? "null") as Record<string, unknown> | null;
    } catch {
      return null;
    }
  }

  /** Removes a report. Throws when its file can't be removed; until the next start it isn't sent again all the same. */
  remove(one: Queued): void {
    this.#queue = this.#queue.filter((other) => other !== one);
    rmSync(one.path, { force: true });
  }
}

function queuedIn(dir: string): Queued[] {
  // What can't be read is reported by `add`.
  return namesIn(dir)
    .filter((name) => /^\d+\.json$/.test(name))
    .map((name) => {
      const path = join(dir, name);
      const bytes = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
      return { path, recordedAt: Number.parseInt(name, 10), bytes };
    })
    .toSorted((a, b) => a.recordedAt - b.recordedAt);
}
