// A sliding window for each key: at most so many in any 60 seconds of the monotonic clock. In memory only: a restart begins with a
// full allowance. Of very many keys the oldest are forgotten.

const WINDOW_MS = 60_000;
const MOST_KEYS = 10_000;

/** Remembers when each key took one. */
export class RateLimit<Key = number> {
  #taken = new Map<Key, number[]>();
  /** The allowance of each key. */
  perMinute: number;

  constructor(perMinute: number) {
    this.perMinute = perMinute;
  }

  /** Milliseconds until one is free for `key`; 0 when one is free now. Takes nothing. */
  wait(key: Key): number {
    const now = performance.now();
    const times = this.#taken.get(key) ?? [];
    const first = times.findIndex((at) => at > now - WINDOW_MS);
    times.splice(0, first < 0 ? times.length : first);
    return times.length < this.perMinute ? 0 : times[times.length - this.perMinute]! + WINDOW_MS - now;
  }

  /** Takes one. */
  take(key: Key): void {
    const times = this.#taken.get(key);
    if (times) times.push(performance.now());
    else this.#taken.set(key, [performance.now()]);
    if (this.#taken.size > MOST_KEYS) this.#taken.delete(this.#taken.keys().next().value!);
  }
}
