// The history of figures: samples are thinned out with age. A query reads the coarsest grain that is fine enough.
//
//   raw samples     48 hours (by default, see config.ts)
//   600 s rollups   30 days
//   3600 s          a year
//   86400 s         a year: a page over a year reads 365 rows
//
// Each sample marks its ten minutes as due. When they are over, a pass makes their rollup and marks the hour, then the day. So
// a late sample updates its rollups at any age, and a pass that is killed is repeated.

import { CONTAINER_METRICS, METRICS, type Metric } from "../report.ts";
import { type ContainerSample, FINEST_STEP, MEMORY_PERCENT } from "./store-report.ts";
import { isDiskFull } from "../files.ts";
import type { Retention } from "./config.ts";
import { type Queries, isBusy } from "../database.ts";
import type { Store } from "./store.ts";

const HOUR = 3600;
const DAY = 86_400;
const STEPS = [FINEST_STEP, HOUR, DAY] as const;
type Step = (typeof STEPS)[number];
/** How long each grain is kept, in seconds; 0 is a raw sample. */
function keptOf({ raw_hours, ten_minute_days, hourly_days }: Retention): Record<0 | Step, number> {
  return { 0: raw_hours * HOUR, 600: ten_minute_days * DAY, 3600: hourly_days * DAY, 86400: hourly_days * DAY };
}
/** The most rollups of one pass: others get a turn after it. */
const PER_PASS = 500;

/** The figures of a container that are rolled up. */
export const CONTAINER_SERIES = ["cpu_percent", "memory_usage_mb", "memory_percent"] as const;
export type ContainerSeries = (typeof CONTAINER_SERIES)[number];

/** min, mean and max of `count` samples. */
type Summary = [min: number, mean: number, max: number, count: number];
type Summaries = Record<string, Summary>;

// ---------------------------------------------------------------------------------------------------------------
// Rolling up

/** Makes the rollups that are due; true when more are due. When one fails (a broken row), it throws after the others are made. */
export async function rollupPass(store: Store, { now, alive }: { now: number; alive: () => void }): Promise<boolean> {
  let failed: Error | undefined;
  for (const step of STEPS) {
    const due = await store.read.all<{ at: number; host: number }>(
      "SELECT at, host FROM rollups_due WHERE step = $1 AND at <= $2 ORDER BY at LIMIT $3",
      [step, now - step * 1000, PER_PASS],
    );
    const roll = async ({ at, host }: { at: number; host: number }): Promise<void> => {
      try {
        await store.write((tx) => rollUp(tx, { host, step, at }), [host]);
      } catch (cause) {
        if (isBusy(cause) || isDiskFull(cause)) throw cause;
        failed ??= new Error(`roll up ${step} s of host ${host} from ${new Date(at).toISOString()} on`, { cause });
      }
      alive();
    };
    await together(store, due, roll);
    if (due.length === PER_PASS && !failed) return true;
  }
  if (failed) throw failed;
  return false;
}

/** Works on rows one by one, so that reports get between them; where writers have no need to wait for each other some share a transaction. */
async function together<T>(store: Store, rows: readonly T[], work: (row: T) => Promise<void>): Promise<void> {
  const most = store.isFile ? 1 : 50;
  for (let done = 0; done < rows.length; done += most) await Promise.all(rows.slice(done, done + most).map(work));
}

async function rollUp(tx: Queries, { host, step, at }: { host: number; step: Step; at: number }): Promise<void> {
  const rolled = step === FINEST_STEP ? await fromSamples(tx, host, at) : await fromRollups(tx, { host, step, at });
  await tx.run("DELETE FROM rollups_due WHERE step = $1 AND at = $2 AND host = $3", [step, at, host]);
  // The finer rows are deleted for their age: the rollup that was made of them stays.
  if (rolled === null) return;
  const [metrics, containers] = rolled;
  await tx.run(
    `INSERT INTO host_rollups (host, step, at, metrics) VALUES ($1, $2, $3, $4)
     ON CONFLICT (host, step, at) DO UPDATE SET metrics = excluded.metrics`,
    [host, step, at, JSON.stringify(metrics)],
  );
  if (Object.keys(containers).length > 0) {
    await tx.run(
      `INSERT INTO workload_rollups (host, step, at, containers) VALUES ($1, $2, $3, $4)
       ON CONFLICT (host, step, at) DO UPDATE SET containers = excluded.containers`,
      [host, step, at, JSON.stringify(containers)],
    );
  }
  const coarser = STEPS[STEPS.indexOf(step) + 1];
  if (coarser === undefined) return;
  await tx.run("INSERT INTO rollups_due (step, at, host) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [
    coarser,
    Math.floor(at / (coarser * 1000)) * coarser * 1000,
    host,
  ]);
}

const RANGE = "WHERE host = $1 AND step = $2 AND at >= $3 AND at < $4";

type Rolled = [metrics: Summaries, containers: Record<string, Summaries>];

async function fromSamples(tx: Queries, host: number, at: number): Promise<Rolled | null> {
  const range = [host, at, at + FINEST_STEP * 1000];
  const samples = await tx.all<Record<Metric, number | null>>(
    "SELECT * FROM host_samples WHERE host = $1 AND at >= $2 AND at < $3",
    range,
  );
  if (samples.length === 0) return null;
  const metrics: Summaries = {};
  for (const name of METRICS) {
    for (const sample of samples) add(metrics, name, sample[name]);
  }
  const rows = await tx.all<{ containers: string }>(
    "SELECT containers FROM workload_samples WHERE host = $1 AND at >= $2 AND at < $3",
    range,
  );
  const containers: Record<string, Summaries> = {};
  for (const row of rows) {
    for (const [id, sample] of Object.entries(JSON.parse(row.containers) as Record<string, ContainerSample>)) {
      const series = (containers[id] ??= {});
      for (const name of CONTAINER_SERIES) add(series, name, sample[columnOf(name)] ?? null);
    }
  }
  return [metrics, containers];
}

function add(series: Summaries, name: string, value: number | null): void {
  if (value !== null) series[name] = merge(series[name], [value, value, value, 1]);
}

async function fromRollups(
  tx: Queries,
  { host, step, at }: { host: number; step: Step; at: number },
): Promise<Rolled | null> {
  const finer = STEPS[STEPS.indexOf(step) - 1]!;
  const range = [host, finer, at, at + step * 1000];
  const rows = await tx.all<{ metrics: string }>(`SELECT metrics FROM host_rollups ${RANGE}`, range);
  if (rows.length === 0) return null;
  const metrics: Summaries = {};
  for (const row of rows) {
    mergeAll(metrics, JSON.parse(row.metrics) as Summaries);
  }
  const containers: Record<string, Summaries> = {};
  for (const row of await tx.all<{ containers: string }>(`SELECT containers FROM workload_rollups ${RANGE}`, range)) {
    for (const [id, series] of Object.entries(JSON.parse(row.containers) as Record<string, Summaries>)) {
      mergeAll((containers[id] ??= {}), series);
    }
  }
  return [metrics, containers];
}

function mergeAll(into: Summaries, from: Summaries): void {
  for (const [name, summary] of Object.entries(from)) into[name] = merge(into[name], summary);
}

function merge(a: Summary | undefined, b: Summary): Summary {
  if (!a) return b;
  const count = a[3] + b[3];
  return [Math.min(a[0], b[0]), (a[1] * a[3] + b[1] * b[3]) / count, Math.max(a[2], b[2]), count];
}

// ---------------------------------------------------------------------------------------------------------------
// Retention

/** Samples from before this time are too old: whole ten minutes, and none that wait for their rollup. @param host null: of all. */
async function unneeded(tx: Queries, old: number, host: number | null = null): Promise<number> {
  const bucket = FINEST_STEP * 1000;
  const due = await tx.one<{ at: number | null }>(
    `SELECT MIN(at) AS at FROM rollups_due WHERE step = $1 ${host === null ? "" : "AND host = $2"}`,
    [FINEST_STEP, ...(host === null ? [] : [host])],
  );
  const before = Math.floor(old / bucket) * bucket;
  return Math.min(before, due?.at ?? before);
}

async function deleteSamples(tx: Queries, host: number, before: number): Promise<void> {
  await tx.run("DELETE FROM host_samples WHERE host = $1 AND at < $2", [host, before]);
  await tx.run("DELETE FROM workload_samples WHERE host = $1 AND at < $2", [host, before]);
}

/** Deletes expired rows, host by host. Not while the clock is doubted: see presence.ts. */
export async function retentionPass(
  store: Store,
  { now, alive, retention }: { now: number; alive: () => void; retention: Retention },
): Promise<void> {
  const kept = keptOf(retention);
  const hosts = await store.read.all<{ id: number }>("SELECT id FROM hosts");
  await together(store, hosts, async ({ id }) => {
    alive();
    await store.write(
      async (tx) => {
        if (store.isFile) await deleteSamples(tx, id, await unneeded(tx, now - kept[0] * 1000, id));
        for (const step of STEPS) {
          const range = [id, step, now - kept[step] * 1000];
          await tx.run("DELETE FROM host_rollups WHERE host = $1 AND step = $2 AND at < $3", range);
          await tx.run("DELETE FROM workload_rollups WHERE host = $1 AND step = $2 AND at < $3", range);
        }
      },
      [id],
    );
  });
  if (!store.isFile) {
    const { partitionPass } = await import("./partitions.ts");
    await store.write(async (tx) => partitionPass(tx, { now, before: await unneeded(tx, now - kept[0] * 1000) }));
  }
  const before = now - retention.event_days * DAY * 1000;
  await store.write(async (tx) => {
    // The second time and the events around one tell what happened under a clock that was years behind.
    await tx.run("DELETE FROM containers WHERE gone_at < $1 AND first_seen_at < $1", [before]);
    await tx.run("DELETE FROM guests WHERE gone_at < $1 AND first_seen_at < $1", [before]);
    await tx.run("DELETE FROM alerts WHERE closed_at < $1 AND opened_at < $1", [before]);
    await tx.run(
      "DELETE FROM events WHERE told_at > 0 AND id < (SELECT MIN(id) FROM events WHERE at BETWEEN $1 AND $2)",
      [before, now],
    );
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Reading

/** A series and its range. Times in milliseconds since 1970. */
interface HistoryQuery {
  host: number;
  metric: Metric | ContainerSeries;
  /** The container's number; null is the host itself. */
  container: number | null;
  from: number;
  to: number;
  /** The most points. */
  points: number;
  now: number;
  retention: Retention;
}

/** Reads a series, downsampled. `step`: seconds from one point to the next. */
export async function readHistory(db: Queries, query: HistoryQuery) {
  const { host, from, to, points, now, retention } = query;
  const source = sourceOf(query);
  // Points begin at multiples of their width, so that an hour is the same point in each answer. The first one then begins before
  // `from`, so the others share the range. A single point covers all of it.
  const wanted = (to - from) / 1000 / Math.max(points - 1, 1);
  const grain = grainFor(keptOf(retention), wanted, (now - from) / 1000);
  const width = Math.max(Math.ceil(wanted), grain, 1) * 1000;
  const buckets = new Map<number, Summary>();
  const take = (at: number, summary: Summary): void => {
    const bucket = points === 1 ? from : Math.max(Math.floor(Math.max(at, from) / width) * width, from);
    buckets.set(bucket, merge(buckets.get(bucket), summary));
  };
  // Rows that are not rolled up yet are read in finer grains, from where the coarse one ends.
  let start = from;
  for (const step of STEPS.toReversed().filter((one) => one <= grain)) {
    const first = Math.floor(start / (step * 1000)) * step * 1000;
    const found = await db.all<{ at: number; summary: string | null }>(
      `SELECT at, ${source.summary} ${RANGE} ORDER BY at`,
      [host, step, first, to, ...source.rolled],
    );
    for (const { at, summary } of found) if (summary !== null) take(at, JSON.parse(summary) as Summary);
    const last = found.at(-1);
    if (last) start = Math.max(start, last.at + step * 1000);
  }
  const samples = await db.all<{ at: number; value: number | null }>(
    `SELECT at, ${source.value} WHERE host = $1 AND at >= $2 AND at < $3`,
    [host, start, to, ...source.sampled],
  );
  for (const { at, value } of samples) if (value !== null) take(at, [value, value, value, 1]);
  const series = [...buckets].toSorted(([a], [b]) => a - b);
  return {
    step: width / 1000,
    points: series.map(([at, [min, mean, max]]) => ({ at, min, mean: tidy(mean), max })),
  };
}

/** The coarsest grain that is fine enough and reaches back far enough; else the finest that reaches back. */
function grainFor(kept: Record<0 | Step, number>, wantedSeconds: number, backSeconds: number): 0 | Step {
  const grains = [0, ...STEPS] as const;
  const reaching = grains.filter((grain) => kept[grain] >= backSeconds);
  const candidates = reaching.length > 0 ? reaching : [DAY as Step];
  return candidates.findLast((grain) => grain <= wantedSeconds) ?? candidates[0]!;
}

/** The SQL of a series: its summary in a rollup and its value in a sample, and the last parameters of each. */
function sourceOf({ metric, container }: HistoryQuery) {
  if (container === null) {
    const summary = `json_extract(metrics, '$.${metric}') AS summary FROM host_rollups`;
    return { summary, value: `${metric} AS value FROM host_samples`, rolled: [], sampled: [] };
  }
  return {
    summary: "json_extract(containers, $5) AS summary FROM workload_rollups",
    value: "CAST(json_extract(containers, $4) AS DOUBLE PRECISION) AS value FROM workload_samples",
    rolled: [`$."${container}".${metric}`],
    sampled: [`$."${container}"[${columnOf(metric as ContainerSeries)}]`],
  };
}

function columnOf(series: ContainerSeries): number {
  return series === "memory_percent" ? MEMORY_PERCENT : CONTAINER_METRICS.indexOf(series);
}

function tidy(mean: number): number {
  return Math.round(mean * 1000) / 1000;
}
