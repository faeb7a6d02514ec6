// The last three hours of the fleet's figures, as a mean of each ten minutes: rollups, and samples where those may not be made yet.

import type { Queries } from "./database.ts";
import { FINEST_STEP } from "./store-report.ts";

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

const ROLLED = `SELECT h.id AS host, r.at, ${means((metric) => `(r.metrics ->> '$.${metric}[1]')`)}
  FROM hosts h JOIN host_rollups r ON r.host = h.id AND r.step = ${FINEST_STEP} AND r.at >= $1 AND r.at < $2`;
const SAMPLED = `SELECT h.id AS host, s.at / ${STEP_MS} * ${STEP_MS} AS at, ${means((metric) => `AVG(s.${metric})`)}
  FROM hosts h JOIN host_samples s ON s.host = h.id AND s.at >= $2 AND s.at <= $3 GROUP BY h.id, s.at / ${STEP_MS}`;

/** Of all hosts that have reported lately, by their number. */
export async function readSparks(db: Queries, now: number): Promise<Map<number, Sparks>> {
  const last = Math.floor(now / STEP_MS) * STEP_MS;
  const first = last - (SPARK_POINTS - 1) * STEP_MS;
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
