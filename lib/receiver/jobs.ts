// Jobs: what pings when it has run, a backup for one. Silence past its time is told, and so is a failure.
//
//   new → (a success) up → (its time passes) late → (for `grace`) down → (a success) up
//   any → (a failure, or a start without an end for `grace`) down
//
// `grace` counts in the receiver's running time (presence.ts), so that its own absence turns no job down: `late_ran` and
// `started_ran` are that time when it was first seen late, and when it was started.

import { randomBytes } from "node:crypto";
import { UsageError } from "../command-line.ts";
import { NAME_SEGMENT } from "../config.ts";
import type { Queries } from "../database.ts";
import { type Schedule, expectedAfter } from "./jobs-schedule.ts";
import { getNote, setNote } from "./store.ts";

/** A job's schedule and grace where `?create=1` makes it: those of Healthchecks. */
export const DEFAULTS = { every_ms: 86_400_000, cron: null, tz: null, grace_ms: 3_600_000 };

/** A row of `jobs`. Times in milliseconds since 1970. */
export interface Job extends Schedule {
  id: number;
  name: string;
  /** Who knows it may ping: never logged. */
  uuid: string;
  created_at: number;
  grace_ms: number;
  status: "new" | "up" | "late" | "down";
  /** How many came. */
  pings: number;
  /** The last success or failure. */
  last_ping_at: number | null;
  /** From its start to its end; null where no start came. */
  last_duration_ms: number | null;
  /** When the next ping is expected; null while it is new or down. */
  due_at: number | null;
  late_ran: number | null;
  /** The start that has no end yet. */
  started_at: number | null;
  /** Null once it has been told that this start has no end. */
  started_ran: number | null;
  started_rid: string | null;
  down_at: number | null;
  paused_until: number | null;
  pause_reason: string | null;
}

export const STATES = ["new", "up", "started", "late", "down", "paused"] as const;
export type JobState = (typeof STATES)[number];

/** What a job shows as. */
export function stateOf({ status, started_ran, paused_until }: Job): JobState {
  if (paused_until !== null) return "paused";
  return started_ran === null ? status : "started";
}

/** Makes a job. @throws UsageError where the name is invalid or taken. */
export async function addJob(
  tx: Queries,
  name: string,
  { every_ms, cron, tz, grace_ms, now }: Schedule & { grace_ms: number; now: number },
): Promise<Job> {
  await mustBeFree(tx, name);
  await tx.run(
    "INSERT INTO jobs (name, uuid, created_at, every_ms, cron, tz, grace_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    [name, crypto.randomUUID(), now, every_ms, cron, tz, grace_ms],
  );
  return findJob(tx, name);
}

async function mustBeFree(db: Queries, name: string): Promise<void> {
  if (!NAME_SEGMENT.test(name)) {
    const rule = "1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit";
    throw new UsageError(`job "${name}" is not a valid name`, rule);
  }
  if (await jobNamed(db, name))
    throw new UsageError(`job "${name}" exists already`, `picket-receiver job show ${name}`);
}

/** Changes a job's name, schedule or grace. What is expected next follows from its last ping. */
export async function setJob(
  tx: Queries,
  name: string,
  { schedule, ...set }: { name?: string | undefined; schedule: Schedule | null; grace_ms?: number | undefined },
): Promise<Job> {
  const job = await findJob(tx, name);
  if (set.name !== undefined && set.name !== job.name) await mustBeFree(tx, set.name);
  const next = { ...job, ...schedule, name: set.name ?? job.name, grace_ms: set.grace_ms ?? job.grace_ms };
  if (schedule !== null && job.due_at !== null) {
    const due_at = await expectedAfter(next, job.last_ping_at!);
    Object.assign(next, { due_at, status: "up", late_ran: null });
  }
  await tx.run(
    `UPDATE jobs SET name = $1, every_ms = $2, cron = $3, tz = $4, grace_ms = $5, due_at = $6, status = $7, late_ran = $8
     WHERE id = $9`,
    [next.name, next.every_ms, next.cron, next.tz, next.grace_ms, next.due_at, next.status, next.late_ran, job.id],
  );
  return next;
}

/** Deletes a job with its pings, alerts and events. */
export async function removeJob(tx: Queries, name: string): Promise<void> {
  const { id } = await findJob(tx, name);
  for (const table of ["job_pings", "alerts", "told", "events"])
    await tx.run(`DELETE FROM ${table} WHERE job = $1`, [id]);
  await tx.run("DELETE FROM jobs WHERE id = $1", [id]);
}

/** The job that a command names. @throws UsageError when there is none. */
export async function findJob(db: Queries, name: string): Promise<Job> {
  const found = await jobNamed(db, name);
  if (!found) throw new UsageError(`there is no job "${name}"`, "picket-receiver job list shows them");
  return found;
}

export function jobNamed(db: Queries, name: string): Promise<Job | undefined> {
  return db.one<Job>("SELECT * FROM jobs WHERE name = $1", [name]);
}

/** All jobs by name. */
export function listJobs(db: Queries): Promise<Job[]> {
  return db.all<Job>("SELECT * FROM jobs ORDER BY name");
}

/** What tells more of a job, for the texts of events. */
export const showCommand = ({ name }: Job): string => `picket-receiver job show ${name}`;

/** The key of URLs that name jobs; null before the first. */
export const pingKey = (db: Queries): Promise<string | null> => getNote(db, "ping_key");

/** Makes a key, which replaces the one before. */
export async function newPingKey(tx: Queries): Promise<string> {
  const key = randomBytes(16).toString("base64url");
  await setNote(tx, "ping_key", key);
  return key;
}
