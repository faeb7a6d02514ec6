// Retries with exponential backoff, a pause for each key (a recipient, a file), so that one that fails delays no other.

const FIRST_MS = 1000;
const LONGEST_MS = 30_000;

/** The pauses of failed keys, from one pass to the next. Times in milliseconds by `performance.now()`, which never goes back. */
export class Backoff {
  #pauses = new Map<string, { length: number; until: number }>();
  #begun = 0;
  /** Those of this pass. */
  #failed = new Map<string, Error>();

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

  /**
   * Ends a pass. `failed` and `recovered` name keys, for people; they are empty when there is none. `why`: the shortest pause, and the first error.
   * `nextAt`: when to retry; Infinity when nothing waits.
   */
  end() {
    const well = [...this.#pauses.keys()].filter((key) => !this.skips(key));
    for (const key of well) this.#pauses.delete(key);
    const failed = [...this.#failed.keys()];
    const shortest = failed.reduce((least, key) => Math.min(least, this.#pauses.get(key)!.length), LONGEST_MS);
    return {
      failed: some(failed),
      why: { retry_in_seconds: shortest / 1000, error: this.#failed.get(failed[0] ?? "") },
      recovered: some(well),
      nextAt: this.#pauses.values().reduce((first, { until }) => Math.min(first, until), Infinity),
    };
  }
}

/** The first of many names. */
export function some(names: string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
}
