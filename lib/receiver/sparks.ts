// The last three hours of the fleet's figures, as a mean of each ten minutes: rollups, and samples where those may not be made yet.

import type { Queries } from "../database.ts";
import { type ContainerSample, FINEST_STEP } from "./store-report.ts";

const STEP_MS = FINEST_STEP * 1000;
/** Ten minutes each; the last one is not over. */
export const SPARK_POINTS = 18;

/** Means, oldest first; null where nothing was measured. */
export type Spark = (number | null)[];

const FIGURES = ["cpu_percent", "memory_percent", "temperature_c", "disk_percent"] as const;
export type Sparks = Record<(typeof FIGURES)[number], Spark>;

type Row = Record<keyof Sparks, number | null> & { host: number; at: number };

const part = (used: string, total: string) => `100.0 * ${used} / NULLIF(${total}, 0)`;
/** Each figure's mean as SQL, from what gives a metric's mean. `disk_percent` is the root's. */
const means = (mean: (metric: string) => string) =>
  `${mean("cpu_percent")} AS cpu_percent, ${part(mean("memory_used_mb"), mean("memory_total_mb"))} AS memory_percent,
   ${mean("cpu_temp_c")} AS temperature_c, ${part(mean("disk_used_gb"), mean("disk_total_gb"))} AS disk_percent`;

const ROLLED = `SELECT h.id AS host, r.at, ${means((metric) => `CAST(json_extract(r.metrics, '$.${metric}[1]') AS DOUBLE PRECISION)`)}
  FROM hosts h JOIN host_rollups r ON r.host = h.id AND r.step = ${FINEST_STEP} AND r.at >= $1 AND r.at < $2`;
const SAMPLED = `SELECT h.id AS host, s.at / ${STEP_MS} * ${STEP_MS} AS at, ${means((metric) => `AVG(s.${metric})`)}
  FROM hosts h JOIN host_samples s ON s.host = h.id AND s.at >= $2 AND s.at <= $3 GROUP BY h.id, s.at / ${STEP_MS}`;

/** When the first and the last point begin. */
function spanOf(now: number): { first: number; last: number } {
  const last = Math.floor(now / STEP_MS) * STEP_MS;
  return { first: last - (SPARK_POINTS - 1) * STEP_MS, last };
}

/** Of all hosts that have reported lately, by their number. */
export async function readSparks(db: Queries, now: number): Promise<Map<number, Sparks>> {
  const { first, last } = spanOf(now);
  // The ten minutes before these have just ended: their rollup comes within a minute.
  const rows = await db.all<Row>(`${ROLLED} UNION ALL ${SAMPLED}`, [first, last - STEP_MS, now]);
  const all = new Map<number, Sparks>();
  for (const row of rows) {
    const sparks = all.getOrInsertComputed(row.host, noSparks);
    const at = (row.at - first) / STEP_MS;
    for (const figure of FIGURES) sparks[figure][at] = row[figure];
  }
  return all;
}

/** CPU in percent, and memory in MiB, by the container's number. */
export type ContainerSparks = ReadonlyMap<string, { cpu: Spark; memory: Spark }>;

/** Of all containers of a host that were reported lately. */
export async function readContainerSparks(
  db: Queries,
  { host, now }: { host: number; now: number },
): Promise<ContainerSparks> {
  const { first, last } = spanOf(now);
  const rolled = await db.all<{ at: number; containers: string }>(
    `SELECT at, containers FROM workload_rollups WHERE host = $1 AND step = ${FINEST_STEP} AND at >= $2 AND at < $3`,
    [host, first, last - STEP_MS],
  );
  const sampled = await db.all<{ at: number; containers: string }>(
    "SELECT at, containers FROM workload_samples WHERE host = $1 AND at >= $2 AND at <= $3",
    [host, last - STEP_MS, now],
  );
  const sparks = new Map<string, { cpu: Spark; memory: Spark }>();
  const put = (id: string, at: number, cpu: number | null, memory: number | null) => {
    const spark = sparks.getOrInsertComputed(id, () => ({ cpu: empty(), memory: empty() }));
    const point = Math.floor((at - first) / STEP_MS);
    spark.cpu[point] = cpu;
    spark.memory[point] = memory;
  };
  for (const { at, containers } of rolled) {
    const all = JSON.parse(containers) as Record<string, Record<string, [min: number, mean: number]>>;
    for (const [id, { cpu_percent: cpu, memory_usage_mb: memory }] of Object.entries(all)) {
      put(id, at, cpu?.[1] ?? null, memory?.[1] ?? null);
    }
  }
  for (const { at, containers } of sampled) {
    const all = JSON.parse(containers) as Record<string, ContainerSample>;
    for (const [id, [cpu, memory]] of Object.entries(all)) put(id, at, cpu ?? null, memory ?? null);
  }
  return sparks;
}

const empty = (): Spark => Array<number | null>(SPARK_POINTS).fill(null);

export const noSparks = (): Sparks => ({
  cpu_percent: empty(),
  memory_percent: empty(),
  temperature_c: empty(),
  disk_percent: empty(),
});

/** The ten minutes of samples `[at, value]`, the last one of each. */
export function sparkOf(samples: readonly (readonly [at: number, value: number])[], now: number): Spark {
  const last = Math.floor(now / STEP_MS);
  const spark = empty();
  for (const [at, value] of samples) {
    const point = SPARK_POINTS - 1 - (last - Math.floor(at / STEP_MS));
    if (point >= 0 && point < SPARK_POINTS) spark[point] = value;
  }
  return spark;
}
