// A sliding window for each key: at most so many in any 60 seconds of the monotonic clock. In memory only: a restart begins with a
// full allowance. There are no more keys than the store has tokens.

const WINDOW_MS = 60_000;

/** Remembers when each key took one. */
export class RateLimit {
  #taken = new Map<number, number[]>();
  /** The allowance of each key. */
  perMinute: number;

  constructor(perMinute: number) {
    this.perMinute = perMinute;
  }

  /** Milliseconds until one is free for `key`; 0 when one is free now. Takes nothing. */
  wait(key: number): number {
    const now = performance.now();
    const times = this.#taken.get(key) ?? [];
    const first = times.findIndex((at) => at > now - WINDOW_MS);
    times.splice(0, first < 0 ? times.length : first);
    return times.length < this.perMinute ? 0 : times[times.length - this.perMinute]! + WINDOW_MS - now;
  }

  /** Takes one. */
  take(key: number): void {
    const times = this.#taken.get(key);
    if (times) times.push(performance.now());
    else this.#taken.set(key, [performance.now()]);
  }
}
