// Retries with exponential backoff, a pause for each key (a recipient, a file), so that one that fails delays no other.

import type { Log } from "../log.ts";

const FIRST_MS = 1000;
const LONGEST_MS = 30_000;

interface BackoffOptions {
  log: Log;
  /** The name of the keys in the log. */
  field: string;
  /** Logged when keys fail. */
  failing: string;
  /** Logged when keys work again. */
  recovered?: string;
}

/** The pauses of failed keys, from one pass to the next. Times in milliseconds by `performance.now()`, which never goes back. */
export class Backoff {
  #options: BackoffOptions;
  #pauses = new Map<string, { length: number; until: number }>();
  #begun = 0;
  /** Those of this pass. */
  #failed = new Map<string, Error>();

  constructor(options: BackoffOptions) {
    this.#options = options;
  }

  /** Begins a pass. */
  begin(): void {
    this.#begun = performance.now();
    this.#failed.clear();
  }

  /** Whether to skip a key in this pass: it failed in it, or its pause had not ended when the pass began. */
  skips(key: string): boolean {
    return (this.#pauses.get(key)?.until ?? 0) > this.#begun;
  }

  /** Notes that a key failed in this pass. */
  failed(key: string, error: Error): void {
    if (this.skips(key)) return;
    const length = Math.min(2 * (this.#pauses.get(key)?.length ?? FIRST_MS / 2), LONGEST_MS);
    this.#pauses.set(key, { length, until: performance.now() + length });
    this.#failed.set(key, error);
  }

  /** Ends a pass. Returns when to retry the first key; Infinity when none waits. */
  end(): number {
    const { log, field, failing, recovered } = this.#options;
    const well = [...this.#pauses.keys()].filter((key) => !this.skips(key));
    for (const key of well) this.#pauses.delete(key);
    if (recovered !== undefined && well.length > 0) log.info(recovered, { [field]: some(well) });
    // One line for all keys: a full disk is one problem, however many inboxes it concerns.
    const [error] = this.#failed.values();
    if (error) {
      const keys = [...this.#failed.keys()];
      const shortest = keys.reduce((least, key) => Math.min(least, this.#pauses.get(key)!.length), LONGEST_MS);
      log.error(failing, { [field]: some(keys), retry_in_seconds: shortest / 1000, error });
    }
    return this.#pauses.values().reduce((first, { until }) => Math.min(first, until), Infinity);
  }
}

/** The first of many names. */
export function some(names: string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
}
