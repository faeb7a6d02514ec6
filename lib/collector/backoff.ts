// Retries with exponential backoff, a pause for each key (a recipient, a file), so that one that fails delays no other.

import type { Log } from "../log.ts";

const FIRST_MS = 1000;
const LONGEST_MS = 30_000;

/** Times in milliseconds by `performance.now()`, which never goes back. */
interface Pause {
  length: number;
  until: number;
}

interface BackoffOptions {
  log: Log;
  /** The name of the keys in the log. */
  field: string;
  /** Logged when keys fail. */
  failing: string;
  /** Logged when keys work again. */
  recovered?: string;
}

/** The pauses of failed keys, from one pass to the next. */
export class Backoff {
  #options: BackoffOptions;
  #pauses = new Map<string, Pause>();
  #paused = new Set<string>();
  #skipped = new Set<string>();
  #failed = new Map<string, Error>();

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Begins a pass. A key that is paused now stays paused until the pass ends, even if its time comes earlier. */
  begin(): void {
    const now = performance.now();
    this.#paused = new Set([...this.#pauses].filter(([, { until }]) => now < until).map(([key]) => key));
    this.#skipped.clear();
    this.#failed.clear();
  }

  /** Whether to skip a key in this pass. */
  skips(key: string): boolean {
    if (!this.#paused.has(key)) return false;
    this.#skipped.add(key);
    return true;
  }

  /** Notes that a key failed in this pass. */
  failed(key: string, error: Error): void {
    if (!this.#failed.has(key)) this.#failed.set(key, error);
  }

  /** Ends a pass. Returns when to retry each key, in milliseconds from now. */
  end(): number[] {
    const { log, field, failing, recovered } = this.#options;
    const now = performance.now();
    const well = [...this.#pauses.keys()].filter((key) => !this.#failed.has(key) && !this.#skipped.has(key));
    for (const key of well) this.#pauses.delete(key);
    if (recovered !== undefined && well.length > 0) log.info(recovered, { [field]: some(well) });
    for (const key of this.#failed.keys()) {
      const length = Math.min(2 * (this.#pauses.get(key)?.length ?? FIRST_MS / 2), LONGEST_MS);
      this.#pauses.set(key, { length, until: now + length });
    }
    // One line for all keys: a full disk is one problem, however many inboxes it concerns.
    const [error] = this.#failed.values();
    if (error) {
      const keys = [...this.#failed.keys()];
      const shortest = Math.min(...keys.map((key) => this.#pauses.get(key)!.length));
      log.error(failing, { [field]: some(keys), retry_in_seconds: shortest / 1000, error });
    }
    return [...this.#pauses.values()].map(({ until }) => Math.max(0, until - now));
  }
}

/** The first of many names. */
export function some(names: string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
}
