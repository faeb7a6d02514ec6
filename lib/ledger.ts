// The ledger of delivered ids: which events with a derived id were delivered to which recipient, and when.
//
// Lines `{"at":<ms>,"key":"<recipient>/<id>"}` in files of one window each, so that forgetting is deleting the file before the last. It is
// written after the inbox and seldom synced: what a crash takes from it is found in the inbox itself (lib/inbox.ts).

import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { Journal } from "./journal.ts";
import { replay } from "./replay.ts";

const FORGET_EVERY_MS = 10_000;
/** An id is kept at least this long: a start after a crash delivers what was left within that time. */
const KEPT_MS = 600_000;
/** How many bytes of events may be delivered before the ledger is synced. */
const SYNC_BYTES = 16 << 20;

interface LedgerOptions {
  folder: string;
  /** How long an id is remembered. */
  hours: number;
  now?: (() => number) | undefined;
  /** Told once a line could not be written. */
  onError?: ((error: Error) => void) | undefined;
}

/** Which ids were delivered. A key is `<recipient>/<id>`. */
export class Ledger {
  hours: number;
  #folder: string;
  /** What the lines say. */
  #wall: () => number;
  /** The time by which ids expire. Setting the system's clock must not change it. */
  #now: () => number;
  #onError: (error: Error) => void;
  #seen = new Map<string, number>();
  #file: { start: number; journal: Journal } | null = null;
  #unsynced = 0;
  #forgetAt = 0;

  constructor({ folder, hours, now, onError = () => {} }: LedgerOptions) {
    this.hours = hours;
    this.#folder = folder;
    this.#wall = now ?? Date.now;
    this.#now = now ?? steadyTime();
    this.#onError = onError;
  }

  get size(): number {
    return this.#seen.size;
  }

  /** What was delivered before is forgotten. */
  get oldest(): number {
    return this.#now() - this.#window();
  }

  async load(): Promise<void> {
    const { oldest } = this;
    for (const path of this.#files()) {
      // What isn't a file holds no ids, and is no reason not to start.
      if (!statSync(path, { throwIfNoEntry: false })?.isFile()) continue;
      await replay({
        path,
        record: (value) => {
          const { at, key } = (value ?? {}) as { at?: unknown; key?: unknown };
          if (typeof key !== "string" || typeof at !== "number" || !(at >= oldest)) return;
          this.#seen.set(key, Math.min(at, this.#now()));
        },
      });
    }
  }

  /** Whether it was delivered within the window. */
  has(key: string): boolean {
    const at = this.#seen.get(key);
    return at !== undefined && at >= this.oldest;
  }

  /** When it was delivered, as far as this process remembers: for the window, and for `KEPT_MS` at least. */
  at(key: string): number | undefined {
    return this.#seen.get(key);
  }

  /** Takes in what the inbox itself remembers. What a wrong clock puts into the future was delivered now at the latest. */
  recall(key: string, at: number): void {
    if (!this.#seen.has(key)) this.#seen.set(key, Math.min(at, this.#now()));
  }

  add(key: string, bytes: number): void {
    const at = this.#now();
    this.#seen.delete(key);
    this.#seen.set(key, at);
    if (at >= this.#forgetAt) this.#forget(at);
    // Not awaited by the delivery, and no reason for it to fail: the event is durable in the inbox, which is searched after a crash.
    this.#note(key, bytes).catch((error: Error) => this.#onError(error));
  }

  async #note(key: string, bytes: number): Promise<void> {
    const wall = this.#wall();
    const journal = this.#journal(wall);
    this.#unsynced += bytes;
    const sync = this.#unsynced >= SYNC_BYTES;
    if (sync) this.#unsynced = 0;
    await journal.append(`{"at":${wall},"key":"${key}"}`);
    if (sync) await journal.sync();
  }

  async close(): Promise<void> {
    await this.#file?.journal.close();
  }

  #window(): number {
    return this.hours * 3_600_000;
  }

  /** The map is in order of time: the oldest are first. */
  #forget(now: number): void {
    this.#forgetAt = now + FORGET_EVERY_MS;
    const oldest = now - Math.max(this.#window(), KEPT_MS);
    for (const [key, at] of this.#seen) {
      if (at >= oldest) break;
      this.#seen.delete(key);
    }
  }

  #files(): string[] {
    if (!existsSync(this.#folder)) return [];
    const names = readdirSync(this.#folder).filter((name) => /^delivered-\d{8}T\d{6}\d*Z?\.jsonl$/.test(name));
    return names.toSorted().map((name) => join(this.#folder, name));
  }

  #journal(now: number): Journal {
    const window = Math.max(this.#window(), 3_600_000);
    const start = Math.floor(now / window) * window;
    if (this.#file?.start === start) return this.#file.journal;
    const name = `delivered-${stamp(start)}.jsonl`;
    if (this.#file) {
      this.#file.journal.close().catch((error: Error) => this.#onError(error));
      this.#sweep(name, now - 2 * window);
    }
    const journal = new Journal({ path: join(this.#folder, name), durability: "os", intents: null });
    this.#file = { start, journal };
    return journal;
  }

  #sweep(current: string, before: number): void {
    for (const path of this.#files()) {
      if (path.endsWith(current) || path >= join(this.#folder, `delivered-${stamp(before)}`)) continue;
      try {
        rmSync(path, { force: true });
      } catch (error) {
        this.#onError(error as Error);
      }
    }
  }
}

/** A time in a file's name, in seconds: sorted by name is sorted by time. */
function stamp(at: number): string {
  return new Date(at).toISOString().replace(/[-:]|\.\d+/g, "");
}

/** Milliseconds since 1970, from the clock at this call and the monotonic clock after it. */
function steadyTime(): () => number {
  const began = Date.now() - performance.now();
  return () => began + performance.now();
}
