// A sliding window for each key: so many in any 60 seconds at most. In memory only: a restart begins with a full allowance. There are no
// more keys than the store has tokens.

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
  wait(key: number, now: number): number {
    const times = this.#recent(key, now);
    if (times.length < this.perMinute) return 0;
    return times[times.length - this.perMinute]! + WINDOW_MS - now;
  }

  /** Takes one. */
  take(key: number, now: number): void {
    const times = this.#recent(key, now);
    if (times.length === 0) this.#taken.set(key, [now]);
    else times.push(now);
  }

  #recent(key: number, now: number): number[] {
    const times = this.#taken.get(key);
    if (!times) return [];
    let old = 0;
    // Times that lie ahead are from before the clock was set back, and don't count.
    while (old < times.length && (times[old]! <= now - WINDOW_MS || times[old]! > now)) old++;
    if (old > 0) times.splice(0, old);
    if (times.length === 0) this.#taken.delete(key);
    return times;
  }
}
