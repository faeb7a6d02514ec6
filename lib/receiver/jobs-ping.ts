// What a ping does with its job. The rules are those of Healthchecks (`Check.ping` in hc/api/models.py):
//
//   start       begins a run; the job's state stays
//   log         is kept, and changes nothing
//   success     the job is up, and expected again by its schedule
//   fail        the job is down until a success comes
//
// A success ends the run that has its run id (`rid`), and its duration is measured; one without a run id ends any run, and so does
// a failure. Of runs that overlap only the last that started is watched.

import { duration } from "../text.ts";
import { close, raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type Job, showCommand } from "./jobs.ts";
import { expectedAfter } from "./jobs-schedule.ts";

/** How many pings of a job are kept, and of how many their bodies. */
const KEPT = { pings: 100, bodies: 10 };

/** A row of `job_pings`. */
export interface Ping {
  kind: "success" | "start" | "fail" | "log";
  /** What it said its exit status was. */
  exit_status: number | null;
  /** The run that it belongs to. */
  rid: string | null;
  ip: string;
  /** The user agent. */
  agent: string | null;
  body: string | null;
}

/** A ping that was taken. */
export interface TakenPing extends Ping {
  id: number;
  at: number;
  duration_ms: number | null;
}

/** Stores a ping and what follows from it. Gives whether an alert began or ended; null where the job is gone. */
export async function takePing(
  tx: Queries,
  id: number,
  { at, ran, ...ping }: Ping & { at: number; ran: number },
): Promise<boolean | null> {
  const job = await tx.one<Job>("SELECT * FROM jobs WHERE id = $1", [id]);
  if (!job) return null;
  const next = after(job, ping, { at, ran, due: await expectedAfter(job, at) });
  const duration_ms = isEnd(ping) ? next.last_duration_ms : null;
  await tx.run(
    `UPDATE jobs SET pings = pings + 1, status = $1, last_ping_at = $2, last_duration_ms = $3, due_at = $4, late_ran = $5,
     started_at = $6, started_ran = $7, started_rid = $8, down_at = $9 WHERE id = $10`,
    [
      next.status,
      next.last_ping_at,
      next.last_duration_ms,
      next.due_at,
      next.late_ran,
      next.started_at,
      next.started_ran,
      next.started_rid,
      next.down_at,
      id,
    ],
  );
  const { kind, exit_status, rid, ip, agent, body } = ping;
  await tx.run(
    `INSERT INTO job_pings (job, at, kind, exit_status, rid, duration_ms, ip, agent, body)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [id, at, kind, exit_status, rid, duration_ms, ip, agent, body],
  );
  await forget(tx, id);
  return isEnd(ping) && tell(tx, job, { ping, at, duration_ms });
}

const isEnd = ({ kind }: Pick<Ping, "kind">): boolean => kind === "success" || kind === "fail";

/** The job after a ping. `due` is when it is expected after a success now. */
function after(job: Job, ping: Ping, { at, ran, due }: { at: number; ran: number; due: number | null }): Job {
  const { kind, rid } = ping;
  if (kind === "log") return job;
  if (kind === "start") return { ...job, started_at: at, started_ran: ran, started_rid: rid };
  const isOfRun = job.started_at !== null && job.started_rid === rid;
  const ends = isOfRun || rid === null || kind === "fail";
  return {
    ...job,
    ...(ends ? { started_at: null, started_ran: null, started_rid: null } : {}),
    last_ping_at: at,
    // The clock may have been set meanwhile.
    last_duration_ms: isOfRun ? Math.max(0, at - job.started_at!) : null,
    late_ran: null,
    ...(kind === "fail"
      ? { status: "down", due_at: null, down_at: job.down_at ?? at }
      : { status: "up", due_at: due, down_at: null }),
  };
}

/** Raises or closes the job's alerts; gives whether that changed one. A failure replaces the alert of silence. */
async function tell(
  tx: Queries,
  job: Job,
  { ping, at, duration_ms }: { ping: Ping; at: number; duration_ms: number | null },
): Promise<boolean> {
  const took = duration_ms === null ? null : duration(duration_ms);
  if (ping.kind === "fail") {
    await close(tx, { job: job.id, types: ["job.down"], at });
    const status = ping.exit_status === null ? "" : ` with exit status ${ping.exit_status}`;
    const text = `${job.name} failed${status}${took === null ? "" : ` after ${took}`}; ${showCommand(job)}`;
    return raise(tx, { job: job.id, type: "job.failed", text, at });
  }
  const down = job.down_at === null ? "" : `, after ${duration(at - job.down_at)}`;
  // What a pause kept quiet from its beginning to its end is not told after it.
  const isQuiet =
    job.paused_until !== null && !(await tx.one("SELECT 1 FROM told WHERE job = $1 AND open = 1", [job.id]));
  const recovered = isQuiet
    ? undefined
    : `${job.name} has succeeded again${down}${took === null ? "" : `; the run took ${took}`}`;
  return (await close(tx, { job: job.id, types: ["job.down", "job.failed"], at, recovered })) > 0;
}

/** Deletes old pings, and the bodies of those that stay. */
async function forget(tx: Queries, job: number): Promise<void> {
  await tx.run(
    `DELETE FROM job_pings WHERE job = $1
     AND id <= (SELECT id FROM job_pings WHERE job = $1 ORDER BY id DESC LIMIT 1 OFFSET $2)`,
    [job, KEPT.pings],
  );
  await tx.run(
    `UPDATE job_pings SET body = NULL WHERE job = $1 AND body IS NOT NULL
     AND id <= (SELECT id FROM job_pings WHERE job = $1 AND body IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET $2)`,
    [job, KEPT.bodies],
  );
}

/** The pings of a job that are kept, newest first. */
export function listPings(db: Queries, job: number): Promise<TakenPing[]> {
  return db.all<TakenPing>(
    "SELECT id, at, kind, exit_status, rid, duration_ms, ip, agent, body FROM job_pings WHERE job = $1 ORDER BY id DESC",
    [job],
  );
}
