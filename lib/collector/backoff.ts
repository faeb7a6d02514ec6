// What failed is tried again after a pause that doubles with each failure; what else there is to do doesn't wait for it.

import type { Log } from "../log.ts";

const FIRST_MS = 1000;
const LONGEST_MS = 30_000;

/** Times in milliseconds by `performance.now()`: a clock that is set back must not make a day of a pause of seconds. */
interface Pause {
  length: number;
  until: number;
}

/** The pauses of places that failed, from one pass over all of them to the next. */
export class Backoff {
  #options: { log: Log; field: string; trouble: string; over?: string };
  #pauses = new Map<string, Pause>();
  #paused = new Set<string>();
  #held = new Set<string>();
  #failed = new Map<string, Error>();

  /** `trouble` and `over` are logged when places fail and when they work again, with their names as `field`. */
  constructor(options: { log: Log; field: string; trouble: string; over?: string }) {
    this.#options = options;
  }

  /** Begins a pass. Places that pause now are held for all of it, also when their time comes before its end. */
  begin(): void {
    const now = performance.now();
    this.#paused = new Set([...this.#pauses].filter(([, { until }]) => now < until).map(([place]) => place));
    this.#held.clear();
    this.#failed.clear();
  }

  /** Whether a place still pauses. */
  holds(place: string): boolean {
    if (!this.#paused.has(place)) return false;
    this.#held.add(place);
    return true;
  }

  /** Notes that a place failed in this pass. */
  failed(place: string, error: Error): void {
    if (!this.#failed.has(place)) this.#failed.set(place, error);
  }

  /** Ends a pass. Gives when places are tried again, in milliseconds from now. */
  end(): number[] {
    const { log, field, trouble, over } = this.#options;
    const now = performance.now();
    const well = [...this.#pauses.keys()].filter((place) => !this.#failed.has(place) && !this.#held.has(place));
    for (const place of well) this.#pauses.delete(place);
    if (over !== undefined && well.length > 0) log.info(over, { [field]: some(well) });
    for (const place of this.#failed.keys()) {
      const length = Math.min(2 * (this.#pauses.get(place)?.length ?? FIRST_MS / 2), LONGEST_MS);
      this.#pauses.set(place, { length, until: now + length });
    }
    // One line for all places: a full disk is one trouble, however many inboxes it concerns.
    const [error] = this.#failed.values();
    if (error) {
      const shortest = Math.min(...[...this.#failed.keys()].map((place) => this.#pauses.get(place)!.length));
      log.error(trouble, { [field]: some([...this.#failed.keys()]), retry_in_seconds: shortest / 1000, error });
    }
    return [...this.#pauses.values()].map(({ until }) => Math.max(0, until - now));
  }
}

/** A few of many names. */
function some(names: string[]): string {
  return names.length > 5 ? `${names.slice(0, 5).join(", ")} and ${names.length - 5} more` : names.join(", ");
}
