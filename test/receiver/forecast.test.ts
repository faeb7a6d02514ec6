// When a file system is full: samples in, a pace out.

import { expect, test } from "bun:test";
import { type Sample, isDue, paceOf, windowOf, withSample } from "../../lib/receiver/forecast.ts";

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;

/** The pace in GiB an hour after a report a minute; null where there is none. */
function after(hours: number, used: (hour: number) => number): number | null {
  const windowMs = windowOf(60);
  let samples: Sample[] = [];
  for (let at = 0; at <= hours * HOUR_MS; at += MINUTE_MS) {
    const rounded = Math.round(used(at / HOUR_MS) * 10) / 10;
    if (isDue(samples.at(-1)?.[0], at, windowMs)) samples = withSample(samples, [at, rounded], windowMs);
  }
  expect(samples.length).toBeLessThanOrEqual(37);
  const pace = paceOf(samples);
  return pace === null ? null : pace * HOUR_MS;
}

/** The same every time. */
function noise(seed: number): number {
  const x = Math.sin(seed * 12_345.678) * 43_758.5453;
  return x - Math.floor(x) - 0.5;
}

test.each([
  ["a steady pace", 6, (hour: number) => 100 + 5 * hour, 5],
  ["a steady pace for an hour", 1, (hour: number) => 100 + 5 * hour, 5],
  ["a steady pace, with noise", 6, (hour: number) => 100 + 5 * hour + 2 * noise(hour), 5],
  ["a slow pace on a small disk, in tenths", 6, (hour: number) => 3 + 0.08 * hour, 0.08],
  ["a pace after long rest", 12, (hour: number) => 100 + Math.max(0, hour - 5) * 3, 3],
] as const)("%s is seen within a fifth", (_what, hours, used, pace) => {
  const found = after(hours, used);
  expect(Math.abs(found! / pace - 1)).toBeLessThan(0.2);
});

test.each([
  ["half an hour", 0.5, (hour: number) => 100 + 5 * hour],
  ["a disk at rest", 6, () => 100],
  ...Array.from({ length: 20 }, (_, seed) => ["noise", 6, (hour: number) => 100 + 8 * noise(hour + seed)] as const),
  ["a burst of ten minutes", 6, (hour: number) => 100 + 300 * Math.min(Math.max(hour - 4, 0), 1 / 6)],
  ["a burst in the middle", 6, (hour: number) => (hour < 3 ? 100 : 150)],
  ["a burst of an hour", 6, (hour: number) => 100 + 50 * Math.min(Math.max(hour - 3, 0), 1)],
  ["what is filled and emptied", 6, (hour: number) => 100 + 30 * (hour % 2)],
  ["a disk that is emptied", 6, (hour: number) => 100 - 5 * hour],
] as const)("%s gives no pace", (_what, hours, used) => {
  expect(after(hours, used)).toBeNull();
});

test("a clock that was set back begins anew, a report that comes again counts once", () => {
  const windowMs = windowOf(60);
  expect(isDue(10 * HOUR_MS, 10 * HOUR_MS, windowMs)).toBe(false);
  expect(isDue(10 * HOUR_MS, HOUR_MS, windowMs)).toBe(true);
  expect(withSample([[10 * HOUR_MS, 5]], [HOUR_MS, 6], windowMs)).toEqual([[HOUR_MS, 6]]);
});
