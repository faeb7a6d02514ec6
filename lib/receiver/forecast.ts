// When a file system will be full, at the pace of the last six hours.
//
// One sample of each mount is kept for each 36th of the window. The window is 360 report intervals, at most six hours: 6 hours at
// one report a minute, 6 minutes at one a second. A forecast needs six samples: 50 minutes at one report a minute.
//
// The pace is the median of the slopes between all pairs of samples (Theil and Sen). It counts only where
//
//   it is no noise   the number of pairs that rise exceeds that of pairs that fall (Mann and Kendall's test, 2.5 deviations)
//   it is no burst   no third of the time has more than three fifths of the growth

/** `[milliseconds since 1970 by the host's clock, GiB used]`, oldest first. */
export type Sample = [at: number, used: number];

const SAMPLES = 36;
const WINDOW_INTERVALS = 360;
const LONGEST_WINDOW_MS = 6 * 3_600_000;
const LEAST_SAMPLES = 6;
const DEVIATIONS = 2.5;
const BURST_PART = 0.6;

/** How far back samples count, for a host that reports every so many seconds. */
export function windowOf(intervalSeconds: number): number {
  return Math.min(WINDOW_INTERVALS * intervalSeconds * 1000, LONGEST_WINDOW_MS);
}

/** Whether a sample is due. One that lies far before the last one is: the host's clock was set back. */
export function isDue(last: number | undefined, at: number, windowMs: number): boolean {
  return last === undefined || at - last >= windowMs / SAMPLES || at - last < -windowMs;
}

/** The samples with one that is due. */
export function withSample(samples: readonly Sample[], sample: Sample, windowMs: number): Sample[] {
  const recent = samples.filter(([at]) => at >= sample[0] - windowMs && at < sample[0]);
  return [...recent, sample].slice(-SAMPLES - 1);
}

/** The pace in GiB a millisecond; null where it does not grow steadily, or there are too few samples to tell. */
export function paceOf(samples: readonly Sample[]): number | null {
  const [first, last] = [samples[0], samples.at(-1)];
  if (!first || !last || samples.length < LEAST_SAMPLES || last[1] <= first[1]) return null;
  const span = last[0] - first[0];
  const slopes: number[] = [];
  let [rising, burst] = [0, 0];
  for (const [index, [at, used]] of samples.entries()) {
    for (const [later, then] of samples.slice(index + 1)) {
      slopes.push((then - used) / (later - at));
      rising += Math.sign(then - used);
      if (later - at <= span / 3) burst = Math.max(burst, then - used);
    }
  }
  const n = samples.length;
  const deviation = Math.sqrt((n * (n - 1) * (2 * n + 5)) / 18);
  const pace = slopes.toSorted((a, b) => a - b)[Math.floor(slopes.length / 2)]!;
  const steady = rising - 1 >= DEVIATIONS * deviation && burst <= BURST_PART * (last[1] - first[1]);
  return steady && pace > 0 ? pace : null;
}
