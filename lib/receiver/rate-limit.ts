// A sliding window for each key: at most so many in any 60 seconds.
//
// Receivers on one store have their allowances there together, by the database's clock; a crash of the database begins with full ones. One on
// a file has them in memory, by the monotonic clock, and begins with full ones. So has each receiver those of addresses,
// which may be any number: of very many keys the oldest are forgotten.

import type { Store } from "./store.ts";

const WINDOW_MS = 60_000;
const MOST_KEYS = 10_000;

type Key = number | string;

/**
 * Takes one for `key`. Gives the milliseconds until one is free; 0 where it took one.
 * @param options.perMinute the allowance.
 * @param options.spend false: takes none, also where one is free.
 */
export type Allowance = (key: Key, options: { perMinute: number; spend: boolean }) => Promise<number>;

/** The allowances of a kind, of all receivers on a store. */
export function allowanceOf(store: Store, kind: string): Allowance {
  if (store.isFile) return allowanceInMemory();
  return async (key, { perMinute, spend }) => {
    const values = [`${kind} ${key}`, perMinute, spend ? 1 : 0];
    return (await store.read.one<{ wait: number }>("SELECT picket_take($1, $2, $3) AS wait", values))!.wait;
  };
}

export function allowanceInMemory(): Allowance {
  const taken = new Map<Key, number[]>();
  return async (key, { perMinute, spend }) => {
    const now = performance.now();
    const times = taken.get(key) ?? [];
    const first = times.findIndex((at) => at > now - WINDOW_MS);
    times.splice(0, first < 0 ? times.length : first);
    if (times.length >= perMinute) return times[times.length - perMinute]! + WINDOW_MS - now;
    if (!spend) return 0;
    times.push(now);
    taken.set(key, times);
    if (taken.size > MOST_KEYS) taken.delete(taken.keys().next().value!);
    return 0;
  };
}
