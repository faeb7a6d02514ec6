// What the plots of a host and of a container show: lines with their least and greatest values, over a range of time.

import { settingOf } from "./alert-settings.ts";
import { type ContainerSeries, readHistory } from "./history.ts";
import type { Host } from "./hosts.ts";
import type { Reading } from "./reading.ts";
import type { Plot } from "./plot.ts";
import type { Metric } from "../report.ts";

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86_400;

/** The ranges to choose from, each in seconds, with those from one point to the next. */
export const RANGES = {
  hour: [HOUR, MINUTE],
  "6h": [6 * HOUR, 2 * MINUTE],
  day: [DAY, 10 * MINUTE],
  week: [7 * DAY, HOUR],
  month: [30 * DAY, 3 * HOUR],
  year: [365 * DAY, DAY],
} as const satisfies Record<string, [length: number, step: number]>;
export type RangeName = keyof typeof RANGES;

/** A range of time in milliseconds since 1970. `name` is null where it was zoomed into. */
export interface Range {
  name: RangeName | null;
  from: number;
  to: number;
  /** The most points. */
  points: number;
}

/** The shortest and longest range to zoom into, in milliseconds, and its points. */
const SHORTEST = 5 * MINUTE * 1000;
const LONGEST = 3 * 366 * DAY * 1000;
const ZOOMED = 240;

/**
 * The range of an address: `?range=week`, or `?from=…&to=…` with two date-times. What is no range is the one that a host of this age
 * can fill. A range that follows the clock ends with the point that is not over: it moves once for each point.
 */
export function rangeOf(query: URLSearchParams, { now, since }: { now: number; since: number }): Range {
  const [from, to] = [query.get("from"), query.get("to")].map((given) => Date.parse(given ?? ""));
  if (from! >= 0 && to! - from! >= SHORTEST && to! - from! <= LONGEST) {
    return { name: null, from: from!, to: to!, points: ZOOMED };
  }
  const age = (now - since) / 1000;
  const fitting = age < 1.5 * HOUR ? "hour" : age < 9 * HOUR ? "6h" : "day";
  const asked = query.get("range") ?? "";
  const name = Object.hasOwn(RANGES, asked) ? (asked as RangeName) : fitting;
  const [length, step] = RANGES[name];
  const end = (Math.floor(now / 1000 / step) + 1) * step * 1000;
  return { name, from: end - length * 1000, to: end, points: length / step + 1 };
}

interface Kind extends Pick<Plot, "id" | "title" | "unit"> {
  metrics: readonly (Metric | ContainerSeries)[];
  /** What is shown of the metrics; they themselves by default. @param end milliseconds since 1970: nothing was measured after it. */
  shown?: (series: Series[], end: number) => Series[];
  names?: string[];
  low?: null;
  high?: number;
}

const HOST_PLOTS: readonly Kind[] = [
  { id: "cpu", title: "CPU", unit: "%", metrics: ["cpu_percent"] },
  {
    id: "memory",
    title: "Memory",
    unit: "%",
    metrics: ["memory_used_mb", "memory_total_mb"],
    shown: shareOf,
    high: 100,
  },
  { id: "disk", title: "Disk /", unit: "%", metrics: ["disk_used_gb", "disk_total_gb"], shown: shareOf, high: 100 },
  {
    id: "network",
    title: "Network",
    unit: "bytes/s",
    metrics: ["network_rx_bytes", "network_tx_bytes"],
    shown: (series, end) => series.map((one) => rateOf(one, end)),
    names: ["in", "out"],
  },
  { id: "load", title: "Load", unit: "", metrics: ["load_average"] },
  { id: "temperature", title: "Temperature", unit: "°C", metrics: ["cpu_temp_c"], low: null },
];

const CONTAINER_PLOTS: readonly Kind[] = [
  { id: "cpu", title: "CPU", unit: "%", metrics: ["cpu_percent"] },
  { id: "memory", title: "Memory", unit: "MB", metrics: ["memory_usage_mb"] },
];

/** The plots of what a host measures. */
export function hostPlots(reading: Reading, host: Host, range: Range): Promise<Plot[]> {
  const measured = JSON.parse(host.metrics) as Partial<Record<string, number | null>>;
  const kinds = HOST_PLOTS.filter(({ metrics }) => metrics.some((metric) => typeof measured[metric] === "number"));
  return plotsOf(reading, { host, container: null, range, kinds, limits: limitsOf(reading, host) });
}

/** What a host receives and sends in a second, between its last two reports; null where that is unknown. */
export async function ratesNow({ store }: Reading, host: Host): Promise<[received: number, sent: number] | null> {
  const [last, before] = await store.read.all<{ at: number; received: number | null; sent: number | null }>(
    `SELECT at, network_rx_bytes AS received, network_tx_bytes AS sent FROM host_samples WHERE host = $1
     ORDER BY at DESC LIMIT 2`,
    [host.id],
  );
  const rate = (of: "received" | "sent") =>
    ((last?.[of] ?? Number.NaN) - (before?.[of] ?? Number.NaN)) / ((last!.at - before!.at) / 1000);
  if (!last || !before) return null;
  const [received, sent] = [rate("received"), rate("sent")];
  return received >= 0 && sent >= 0 ? [received, sent] : null;
}

/** The plots of a container. @param container its number in the store. */
export function containerPlots(reading: Reading, host: Host, container: number, range: Range): Promise<Plot[]> {
  return plotsOf(reading, { host, container, range, kinds: CONTAINER_PLOTS, limits: {} });
}

/** From where on the figures of a host are alerts, by plot. */
function limitsOf(reading: Reading, host: Host): Record<string, number | null> {
  const setting = settingOf(reading.config().alerts, host.alert_settings);
  const { cpu_count: cpus } = JSON.parse(host.facts) as { cpu_count?: number };
  const number = (given: unknown, times = 1) => (typeof given === "number" ? given * times : null);
  return {
    cpu: number(setting("cpu_percent")),
    memory: number(setting("memory_percent")),
    disk: number(setting("disk_percent", "/")),
    load: cpus === undefined ? null : number(setting("load_per_cpu"), cpus),
    temperature: number(setting("temperature_c")),
  };
}

interface Wanted {
  host: Host;
  container: number | null;
  range: Range;
  kinds: readonly Kind[];
  limits: Record<string, number | null>;
}

async function plotsOf(reading: Reading, { host, container, range, kinds, limits }: Wanted): Promise<Plot[]> {
  const { retention, poll_interval_seconds } = reading.config();
  const { from, to, points } = range;
  const interval = host.told_interval ?? host.set_interval ?? poll_interval_seconds;
  const read = (metric: Metric | ContainerSeries): Promise<Series> =>
    readHistory(reading.store.read, {
      host: host.id,
      metric,
      container,
      from,
      to,
      points,
      now: Date.now(),
      retention,
    });
  const plots: Plot[] = [];
  for (const { metrics, shown = (all: Series[]) => all, names = [], ...kind } of kinds) {
    const series = shown(await Promise.all(metrics.map(read)), Math.min(to, Date.now()));
    const lines = series.map((one, n) => ({ name: names[n] ?? kind.title, points: one.points }));
    const step = series[0]!.step;
    plots.push({
      low: 0,
      high: null,
      ...kind,
      limit: limits[kind.id] ?? null,
      from,
      to,
      // Reports don't come to the second: one may miss its minute.
      ...linesOf(lines, { step: step * 1000, gap: Math.max(1.5 * step, 2.5 * interval) * 1000 }),
    });
  }
  return plots;
}

// ---------------------------------------------------------------------------------------------------------------
// Points

type Series = Awaited<ReturnType<typeof readHistory>>;
type Point = Series["points"][number];

/** A part of a whole that may have grown, in percent. */
function shareOf([used, total]: Series[]): Series[] {
  const whole = new Map(total!.points.map(({ at, mean }) => [at, mean]));
  const points = used!.points.flatMap(({ at, min, mean, max }) => {
    const percent = 100 / (whole.get(at) ?? 0);
    return Number.isFinite(percent) ? [{ at, min: min * percent, mean: mean * percent, max: max * percent }] : [];
  });
  return [{ ...used!, points }];
}

/** What a counter counts in a second, from the end of a point to that of the next; none where it began anew, or where that one is not over. */
function rateOf({ step, points }: Series, end: number): Series {
  const rates = points.slice(1).flatMap(({ at, max }, n): Point[] => {
    const before = points[n]!;
    const rate = ((max - before.max) / (at - before.at)) * 1000;
    return rate >= 0 && at + step * 1000 <= end ? [{ at, min: rate, mean: rate, max: rate }] : [];
  });
  return { step, points: rates };
}

/** Lines over the same times, with a null in each gap. Times in milliseconds. */
function linesOf(
  lines: { name: string; points: Point[] }[],
  { step, gap }: { step: number; gap: number },
): Pick<Plot, "at" | "lines"> {
  const all = new Set(lines.flatMap(({ points }) => points.map(({ at }) => at)));
  const times = [...all].toSorted((a, b) => a - b);
  const at = times.flatMap((one, n) => (n > 0 && one - times[n - 1]! > gap ? [times[n - 1]! + step, one] : [one]));
  return {
    at: at.map((one) => one + step / 2),
    lines: lines.map(({ name, points }) => {
      const by = new Map(points.map((point) => [point.at, point]));
      const values = (of: "min" | "mean" | "max") => at.map((one) => rounded(by.get(one)?.[of]));
      return { name, min: values("min"), mean: values("mean"), max: values("max") };
    }),
  };
}

/** Four digits are more than a plot shows. */
const rounded = (value: number | undefined): number | null =>
  value === undefined ? null : Number(value.toPrecision(4));
