// The runs of jobs: those that ended, by their pings; those that were missing or did not end, by the alerts that told so. A schedule that
// was changed since says nothing of them.

import type { Queries } from "../database.ts";
import type { Job } from "./jobs.ts";
import { expectedAfter } from "./jobs-schedule.ts";

export interface Run {
  /** When it ended, started, was expected or was given up. Milliseconds since 1970. */
  at: number;
  how: "success" | "fail" | "missing" | "endless" | "late" | "started";
  /** Null where no start came. */
  duration_ms: number | null;
  exit_status: number | null;
}

const NONE = { duration_ms: null, exit_status: null };

/** The last rows of each job, in no order: job by job, as its index gives them. */
const last = (columns: string, table: string, which: string): string =>
  `SELECT x.job, ${columns} FROM jobs j CROSS JOIN ${table} x WHERE ${which}
   AND x.id >= COALESCE((SELECT id FROM ${table} x WHERE ${which} ORDER BY id DESC LIMIT 1 OFFSET $1), 0)
   AND (j.id = $2 OR $2 IS NULL)`;
const ENDS = last(
  "x.at, x.kind AS how, x.duration_ms, x.exit_status",
  "job_pings",
  "x.job = j.id AND x.kind IN ('success', 'fail')",
);
const SILENCES = last(
  "x.opened_at, x.closed_at, json_extract(x.figures, '$.started_at') AS started",
  "alerts",
  // All of them have this type, and the other index knows their job.
  "x.host IS NULL AND x.job = j.id AND x.type || '' = 'job.down'",
);

interface Silence {
  job: number;
  opened_at: number;
  closed_at: number | null;
  /** Where a run started and did not end. */
  started: string | null;
}

/** The last runs of jobs by their number, oldest first. @param of one job alone. */
export async function runsOf(
  db: Queries,
  jobs: readonly Job[],
  { now, most, of = null }: { now: number; most: number; of?: number | null },
): Promise<Map<number, Run[]>> {
  const ends = Map.groupBy(await db.all<Run & { job: number }>(ENDS, [most - 1, of]), ({ job }) => job);
  const silences = Map.groupBy(await db.all<Silence>(SILENCES, [most - 1, of]), ({ job }) => job);
  const runs = new Map<number, Run[]>();
  for (const job of jobs) {
    const missing = await Promise.all(
      (silences.get(job.id) ?? []).map((silence) => missed(job, silence, { now, most })),
    );
    const all = [...(ends.get(job.id) ?? []), ...missing.flat()].toSorted((a, b) => a.at - b.at);
    if (job.status === "late") all.push({ ...NONE, at: job.due_at!, how: "late" });
    if (job.started_ran !== null) all.push({ ...NONE, at: job.started_at!, how: "started" });
    runs.set(job.id, all.slice(-most));
  }
  return runs;
}

/** The runs that were expected during a silence. */
async function missed(
  job: Job,
  { opened_at, closed_at, started }: Silence,
  { now, most }: { now: number; most: number },
): Promise<Run[]> {
  if (started !== null) return [{ ...NONE, at: opened_at, how: "endless" }];
  const runs: Run[] = [];
  for (let at: number | null = opened_at; at !== null && at <= (closed_at ?? now) && runs.length < most;) {
    runs.push({ ...NONE, at, how: "missing" });
    const due: number | null = await expectedAfter(job, at - job.grace_ms);
    at = due === null ? null : due + job.grace_ms;
  }
  return runs;
}

export interface Downtimes {
  /** The first moment of a month, in UTC. */
  month: number;
  count: number;
  ms: number;
}

/** How often and for how long a job was down, by month, the present one first. A failure is a downtime until the next success. */
export async function downtimesOf(
  db: Queries,
  job: Job,
  { now, months }: { now: number; months: number },
): Promise<Downtimes[]> {
  const [year, month] = [new Date(now).getUTCFullYear(), new Date(now).getUTCMonth()];
  const first = (back: number) => Date.UTC(year, month - back);
  const rows = await db.all<{ from: number; to: number }>(
    `SELECT opened_at AS "from", COALESCE(closed_at, $2) AS "to" FROM alerts
     WHERE host IS NULL AND job = $1 AND COALESCE(closed_at, $2) >= $3 ORDER BY opened_at`,
    [job.id, now, first(months - 1)],
  );
  const spans: { from: number; to: number }[] = [];
  for (const row of rows) {
    const before = spans.at(-1);
    if (before && row.from <= before.to) before.to = Math.max(before.to, row.to);
    else spans.push({ ...row });
  }
  return Array.from({ length: months }, (_, back) => {
    const [from, to] = [first(back), first(back - 1)];
    const within = spans.filter((span) => span.from < to && span.to > from);
    const ms = within.reduce((sum, span) => sum + Math.min(span.to, to) - Math.max(span.from, from), 0);
    return { month: from, count: within.length, ms };
  }).filter(({ month }, back) => first(back - 1) > job.created_at || month === first(0));
}
