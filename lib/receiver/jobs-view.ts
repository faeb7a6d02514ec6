// Jobs as the API, `--json` and /metrics give them. Times in RFC 3339.

import type { Registry } from "../metrics.ts";
import { time } from "./hosts.ts";
import { type Job, STATES, listJobs, stateOf } from "./jobs.ts";
import type { TakenPing } from "./jobs-ping.ts";
import type { Store } from "./store.ts";

/** The most series that name a job. */
const MOST_SERIES = 1000;

const seconds = (ms: number | null) => (ms === null ? null : ms / 1000);

/** A job without its URL, which is a credential. */
export function jobView(job: Job) {
  return {
    name: job.name,
    status: stateOf(job),
    every_seconds: seconds(job.every_ms),
    schedule: job.cron,
    tz: job.tz,
    grace_seconds: job.grace_ms / 1000,
    pings: job.pings,
    last_ping_at: time(job.last_ping_at),
    last_duration_seconds: seconds(job.last_duration_ms),
    expected_at: time(job.due_at),
    started_at: time(job.started_at),
    down_since: time(job.down_at),
    paused_until: time(job.paused_until),
    pause_reason: job.pause_reason,
    created_at: time(job.created_at),
  };
}

export function pingView({ at, kind, exit_status, rid, duration_ms, ip, agent, body }: TakenPing) {
  return { at: time(at), kind, exit_status, rid, ip, agent, body, duration_seconds: seconds(duration_ms) };
}

/** Gauges of all jobs; they show the jobs of the last call of what this gives. */
export function jobFigures(metrics: Registry, store: Store): () => Promise<void> {
  let jobs: Job[] = [];
  metrics.gauge("picket_jobs", "Jobs by status.", () =>
    STATES.map((status) => [{ status }, jobs.filter((job) => stateOf(job) === status).length]),
  );
  metrics.gauge("picket_job_up", "0 where a job is down, else 1; the first thousand jobs by name.", () =>
    jobs.slice(0, MOST_SERIES).map((job) => [{ job: job.name }, job.status === "down" ? 0 : 1]),
  );
  return async () => {
    jobs = await listJobs(store.read);
  };
}
