// Decides that a job is late or down: the dead-man's switch of jobs.

import { duration, span } from "../text.ts";
import { raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type Job, showCommand } from "./jobs.ts";
import { expectedAfter, scheduleText } from "./jobs-schedule.ts";
import type { Store } from "./store.ts";

/** The time of a look. */
export interface Look {
  /** Milliseconds since 1970. */
  now: number;
  /** The receiver's running time, and when it last came back or its clock was set: see presence.ts. */
  ran: number;
  backAt: number;
}

/** Looks over the jobs of a store. */
export function createJobWatch(store: Store): (look: Look) => Promise<void> {
  let seen: number | null = null;
  return async (look) => {
    if (look.backAt !== seen) {
      await store.write((tx) => expectAnew(tx, look));
      seen = look.backAt;
    }
    const jobs = await store.read.all<Job>(
      `SELECT * FROM jobs WHERE paused_until IS NULL AND
       (status = 'up' AND due_at <= $1 OR status = 'late' AND late_ran <= $2 - grace_ms OR started_ran <= $2 - grace_ms)`,
      [look.now, look.ran],
    );
    // Together, so that they share transactions.
    await Promise.all(jobs.map((job) => store.write((tx) => fallBehind(tx, job, look), [-job.id])));
  };
}

/**
 * After an absence, or when the clock was set. A ping that was due and over its grace meanwhile could not be heard: the next one is
 * expected. None is expected later than after a ping now: its time would be from a clock that was ahead.
 */
async function expectAnew(tx: Queries, { now, backAt }: Look): Promise<void> {
  for (const job of await tx.all<Job>("SELECT * FROM jobs WHERE due_at IS NOT NULL")) {
    const next = await expectedAfter(job, now);
    const missed = job.status === "up" && job.due_at! + job.grace_ms <= backAt;
    const due = missed || (next !== null && job.due_at! > next) ? next : job.due_at;
    if (due === job.due_at && job.status === "up") continue;
    const early = job.status === "late" && due !== null && due > now;
    await tx.run(`UPDATE jobs SET due_at = $1${early ? ", status = 'up', late_ran = NULL" : ""} WHERE id = $2`, [
      due,
      job.id,
    ]);
  }
}

/** Moves a job to late or down. Nothing changes where a ping came first. */
async function fallBehind(tx: Queries, job: Job, { now, ran }: Look): Promise<void> {
  const claim = (set: string, values: (number | null)[]) =>
    tx.run(`UPDATE jobs SET ${set} WHERE id = $1 AND pings = $2 AND status = $3`, [
      job.id,
      job.pings,
      job.status,
      ...values,
    ]);
  const endless = job.started_ran !== null && job.started_ran <= ran - job.grace_ms;
  if (!endless && job.status === "up") {
    await claim("status = 'late', late_ran = $4", [ran]);
    return;
  }
  const claimed = await claim(
    `status = 'down', due_at = NULL, late_ran = NULL, down_at = COALESCE(down_at, $4)${endless ? ", started_ran = NULL" : ""}`,
    [now],
  );
  if (claimed === 0) return;
  const why = endless
    ? `it started ${duration(now - job.started_at!)} ago and has not ended`
    : `no ping for ${duration(now - job.last_ping_at!)}`;
  const expected = endless ? "" : `${scheduleText(job)}, `;
  const text = `${job.name} is down: ${why} (${expected}grace ${span(job.grace_ms)}); ${showCommand(job)}`;
  const figures = endless ? { started_at: new Date(job.started_at!).toISOString() } : undefined;
  await raise(tx, { job: job.id, type: "job.down", text, at: now, ...(figures && { figures }) });
}
