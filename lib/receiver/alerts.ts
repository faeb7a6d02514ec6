// Alerts: what is wrong now; at most one is open for each host or job, type and subject.
//
// An alert is opened and closed in the transaction that changes what it is about. announce.ts turns beginnings and ends into
// events.

import type { Queries } from "../database.ts";
import { type Filter, narrowed } from "./filter.ts";
import { time } from "./hosts.ts";

export const SEVERITIES = ["critical", "warning", "info"] as const;
export type Severity = (typeof SEVERITIES)[number];

/** A type of alerts. `many` and `well` follow a number, where several begin or end at once; without `well` the end is not told. */
interface Kind {
  severity: Severity;
  many: string;
  well?: string;
}

/** The types of alerts. `disk.high` ends with the event `disk.recovered`, and so do all types of `disk`. */
export const ALERTS = {
  "host.stale": { severity: "warning", many: "hosts are stale" },
  "host.offline": { severity: "critical", many: "hosts are offline", well: "hosts are back" },
  "host.reports_refused": {
    severity: "warning",
    many: "hosts have all their reports refused",
    well: "hosts have their reports taken again",
  },
  "host.twins": {
    severity: "warning",
    many: "hosts have a token that two machines use",
    well: "hosts have their token for themselves again",
  },
  "host.uploads_failing": { severity: "warning", many: "hosts have every upload refused" },
  "host.uploads_silent": { severity: "warning", many: "hosts ship nothing" },
  "host.unstamped": { severity: "warning", many: "hosts send episodes without a commit" },
  "container.unhealthy": { severity: "warning", many: "containers are unhealthy", well: "containers are well again" },
  "container.stopped": { severity: "warning", many: "containers have stopped", well: "containers are well again" },
  "container.restarting": {
    severity: "warning",
    many: "containers restart again and again",
    well: "containers no longer restart",
  },
  "disk.high": {
    severity: "warning",
    many: "file systems are nearly full",
    well: "file systems have room again",
  },
  "disk.filling": {
    severity: "warning",
    many: "file systems fill up",
    well: "file systems no longer fill up",
  },
  "unit.failed": { severity: "warning", many: "units failed", well: "units are no longer failed" },
  "pool.degraded": { severity: "critical", many: "pools are degraded", well: "pools are in order again" },
  "smart.failing": { severity: "critical", many: "disks are failing", well: "disks pass their own test again" },
  "doctor.red": {
    severity: "warning",
    many: "hosts have errors in doctor",
    well: "hosts have no more errors in doctor",
  },
  "temperature.high": { severity: "critical", many: "sensors are hot", well: "sensors have cooled down" },
  "cpu.high": { severity: "warning", many: "hosts have busy CPUs", well: "hosts have time on their CPUs again" },
  "memory.high": { severity: "warning", many: "hosts are short of memory", well: "hosts have memory again" },
  "swap.high": { severity: "warning", many: "hosts are short of swap", well: "hosts have swap again" },
  "job.down": { severity: "critical", many: "jobs are down", well: "jobs have succeeded again" },
  "job.failed": { severity: "critical", many: "jobs failed", well: "jobs have succeeded again" },
  "load.high": { severity: "warning", many: "hosts have a high load", well: "hosts have a normal load again" },
} as const satisfies Record<string, Kind>;
export type AlertType = keyof typeof ALERTS;

/** What an alert or an event is about. */
export type Whose = { host: number; job?: never } | { job: number; host?: never };

const columnOf = ({ host }: Whose) => (host === undefined ? "job" : "host");

/** The condition that rows of two tables are about the same. COALESCE is what PostgreSQL can join by, the rest what SQLite can. */
export const sameSubject = (a: string, b: string): string =>
  `COALESCE(${a}.host, -${a}.job) = COALESCE(${b}.host, -${b}.job) AND ${a}.type = ${b}.type AND ${a}.subject = ${b}.subject
   AND ${a}.host IS NOT DISTINCT FROM ${b}.host AND ${a}.job IS NOT DISTINCT FROM ${b}.job`;

/** What goes wrong. */
type Trouble = Whose & {
  type: AlertType;
  /** The container, disk, unit and so on. */
  subject?: string;
  text: string;
  at: number;
  /** Where it got worse by a step: a higher level of an open alert is told, too. */
  level?: number;
  severity?: Severity;
  /** What was measured. */
  figures?: Record<string, unknown>;
};

/** Opens an alert, or raises the level of the open one; false where nothing changes. */
export async function raise(tx: Queries, trouble: Trouble): Promise<boolean> {
  const { host = null, job = null, type, subject = "", text, at, level = 0, figures } = trouble;
  const severity = trouble.severity ?? ALERTS[type].severity;
  const measured = figures === undefined ? null : JSON.stringify(figures);
  const opened = await tx.run(
    `INSERT INTO alerts (host, job, type, subject, severity, text, opened_at, level, figures)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
    [host, job, type, subject, severity, text, at, level, measured],
  );
  if (opened > 0 || level === 0) return opened > 0;
  const raised = await tx.run(
    `UPDATE alerts SET severity = $1, text = $2, level = $3, figures = $4
     WHERE ${columnOf(trouble)} = $5 AND type = $6 AND subject = $7 AND closed_at IS NULL AND level < $3`,
    [severity, text, level, measured, host ?? job, type, subject],
  );
  return raised > 0;
}

/** Closes the open alerts of these types and gives their number. `recovered` is what is told; without it the end is not told. */
export async function close(
  tx: Queries,
  {
    types,
    subject = "",
    at,
    recovered,
    ...whose
  }: Whose & { types: readonly AlertType[]; subject?: string; at: number; recovered?: string | undefined },
): Promise<number> {
  let closed = 0;
  for (const type of types) {
    closed += await tx.run(
      `UPDATE alerts SET closed_at = $1, recovery = $2, changed_ran = NULL
       WHERE ${columnOf(whose)} = $3 AND type = $4 AND subject = $5 AND closed_at IS NULL`,
      [at, recovered ?? null, whose.host ?? whose.job, type, subject],
    );
  }
  return closed;
}

/** A row of `alerts`. Times in milliseconds since 1970. */
export interface AlertRow {
  id: number;
  /** The host's name, where it is about one. */
  host: string | null;
  /** The job's name, where it is about one. */
  job: string | null;
  type: AlertType;
  /** Empty where it is about the host as a whole. */
  subject: string;
  severity: Severity;
  text: string;
  /** JSON. */
  figures: string | null;
  opened_at: number;
  closed_at: number | null;
  acknowledged_at: number | null;
  acknowledged_by: string | null;
}

/** An alert as it is shown. `what` is its type and subject. */
export function alertOf(row: AlertRow) {
  const { type, subject, figures, opened_at, closed_at, acknowledged_at, ...alert } = row;
  return {
    ...alert,
    type,
    subject: subject || null,
    what: subject === "" ? type : `${type} ${subject}`,
    figures: figures === null ? null : JSON.parse(figures),
    opened_at: time(opened_at),
    closed_at: time(closed_at),
    acknowledged_at: time(acknowledged_at),
  };
}

/** Alerts that pass a filter: open ones first, then the newest. `open` narrows them to those that are open, or are not. */
export function listAlerts(
  db: Queries,
  { open = null, limit, ...filter }: Filter & { open?: boolean | null; limit: number },
): Promise<AlertRow[]> {
  const { where, values } = narrowed("a", filter);
  const state = open === null ? "" : `AND a.closed_at IS ${open ? "" : "NOT "}NULL`;
  // Open ones are few: SQLite takes them by their index and sorts them, where it can't go through all rows by number.
  const order = { null: "a.closed_at IS NOT NULL, a.id", true: "+a.id", false: "a.id" }[`${open}`];
  return db.all<AlertRow>(
    `SELECT a.id, h.name AS host, j.name AS job, a.type, a.subject, a.severity, a.text, a.figures, a.opened_at, a.closed_at,
       a.acknowledged_at, a.acknowledged_by
     FROM alerts a LEFT JOIN hosts h ON h.id = a.host LEFT JOIN jobs j ON j.id = a.job
     WHERE ${where} ${state} ORDER BY ${order} DESC LIMIT $${values.length + 1}`,
    [...values, limit],
  );
}

/** Notes who takes care of an open alert: it gets no reminders. False where there is none. */
export async function acknowledge(
  tx: Queries,
  { id, by, at }: { id: number; by: string | null; at: number },
): Promise<boolean> {
  const changed = await tx.run(
    "UPDATE alerts SET acknowledged_at = $1, acknowledged_by = $2 WHERE id = $3 AND closed_at IS NULL",
    [at, by, id],
  );
  return changed > 0;
}
