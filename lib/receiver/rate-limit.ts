// A sliding window for each key: so many in any 60 seconds at most. In memory only: a restart begins with a full allowance.

const WINDOW_MS = 60_000;
/** Quiet keys are forgotten when there are more keys than this. */
const SWEEP_AT = 4096;

/** Remembers when each key took one. */
export class RateLimit {
  #taken = new Map<string | number, number[]>();
  #perMinute: number;

  constructor(perMinute: number) {
    this.#perMinute = perMinute;
  }

  /** Changes the allowance of all keys. */
  set perMinute(perMinute: number) {
    this.#perMinute = perMinute;
  }

  /** Milliseconds until one is free for `key`; 0 when one is free now. Takes nothing. */
  wait(key: string | number, now: number): number {
    const times = this.#recent(key, now);
    if (times.length < this.#perMinute) return 0;
    return times[times.length - this.#perMinute]! + WINDOW_MS - now;
  }

  /** Takes one. */
  take(key: string | number, now: number): void {
    const times = this.#recent(key, now);
    if (times.length === 0) this.#taken.set(key, [now]);
    else times.push(now);
    if (this.#taken.size > SWEEP_AT) this.#sweep(now);
  }

  #recent(key: string | number, now: number): number[] {
    const times = this.#taken.get(key);
    if (!times) return [];
    let old = 0;
    // Times that lie ahead are from before the clock was set back, and don't count.
    while (old < times.length && (times[old]! <= now - WINDOW_MS || times[old]! > now)) old++;
    if (old > 0) times.splice(0, old);
    if (times.length === 0) this.#taken.delete(key);
    return times;
  }

  #sweep(now: number): void {
    for (const key of this.#taken.keys()) this.#recent(key, now);
  }
}
