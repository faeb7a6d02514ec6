// Trouble that repeats is said once a minute for each kind of it: an outage must not fill the journal.

import type { Log } from "./log.ts";

const SAY_AGAIN_MS = 60_000;

/** Tells of trouble, but not of the same again and again. */
export class Seldom {
  #log: Log;
  #saidAt = new Map<string, number>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Warns, unless something of this kind was said within the last minute. */
  warn(kind: string, text: string): void {
    if (this.#isNews(kind)) this.#log.warn(text);
  }

  /** The same for what somebody has to mend. */
  error(kind: string, text: string): void {
    if (this.#isNews(kind)) this.#log.error(text);
  }

  #isNews(kind: string): boolean {
    const now = performance.now();
    if (now - (this.#saidAt.get(kind) ?? Number.NEGATIVE_INFINITY) < SAY_AGAIN_MS) return false;
    for (const [old, at] of this.#saidAt) if (now - at >= SAY_AGAIN_MS) this.#saidAt.delete(old);
    this.#saidAt.set(kind, now);
    return true;
  }
}
