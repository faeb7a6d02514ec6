// Reports that could not be sent, on disk, one file each: `<recorded_at in ms>.json`. A place is the state: a file is a
// report that has not arrived, and goes when it has. Written under another name and renamed, so none is ever half there;
// not synced: a power cut may take the last samples of an outage, and a flash card need not be written for each.

import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";

/** A report that waits. */
export interface Waiting {
  path: string;
  /** Milliseconds since 1970. */
  recordedAt: number;
}

/** The queue. */
export class Backlog {
  readonly dir: string;
  #maxBytes: number;
  /** How many were dropped for want of room since the start. */
  dropped = 0;

  constructor(dir: string, maxBytes: number) {
    this.dir = dir;
    this.#maxBytes = maxBytes;
  }

  /** Changes how many bytes it may hold. */
  set maxBytes(bytes: number) {
    this.#maxBytes = bytes;
  }

  /** Keeps a report; drops the oldest ones where there is no room for it. */
  add(report: { recorded_at: string }): void {
    mkdirSync(this.dir, { recursive: true, mode: 0o700 });
    const name = `${Date.parse(report.recorded_at)}.json`;
    const text = JSON.stringify(report);
    this.#makeRoom(Buffer.byteLength(text));
    writeFileSync(join(this.dir, `.${name}.tmp`), text, { mode: 0o600 });
    renameSync(join(this.dir, `.${name}.tmp`), join(this.dir, name));
  }

  /** What waits, oldest first. */
  list(): Waiting[] {
    if (!existsSync(this.dir)) return [];
    const names = readdirSync(this.dir).filter((name) => /^\d+\.json$/.test(name));
    return names
      .map((name) => ({ path: join(this.dir, name), recordedAt: Number.parseInt(name, 10) }))
      .toSorted((a, b) => a.recordedAt - b.recordedAt);
  }

  /** Reads one; null when it isn't there any more or is no report. */
  read({ path }: Waiting): Record<string, unknown> | null {
    try {
      return JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
    } catch {
      return null;
    }
  }

  /** Takes one out: it has arrived, or never will. */
  remove({ path }: Waiting): void {
    if (existsSync(path)) unlinkSync(path);
  }

  #makeRoom(bytes: number): void {
    const waiting = this.list();
    const sizes = waiting.map(({ path }) => statSync(path, { throwIfNoEntry: false })?.size ?? 0);
    let total = sizes.reduce((sum, size) => sum + size, bytes);
    for (const [index, one] of waiting.entries()) {
      if (total <= this.#maxBytes) return;
      this.remove(one);
      this.dropped++;
      total -= sizes[index]!;
    }
  }
}
