/** @jsxImportSource hono/jsx */
// All jobs, those that need you first.

import { duration, printable, span } from "../../text.ts";
import { JOB_LOOKS, sinceOf } from "../fleet.ts";
import { type Run, runsOf } from "../job-runs.ts";
import { type Job, listJobs, stateOf } from "../jobs.ts";
import { scheduleText } from "../jobs-schedule.ts";
import { many } from "../store-command.ts";
import type { Page } from "./page.ts";
import { Ago, At, State } from "./parts.tsx";
import { Live } from "./regions.tsx";
import { Runs } from "./runs.tsx";

const MOST_RUNS = 20;

export const jobsPage: Page = {
  path: "/jobs",
  async show({ reading, now }) {
    const { read } = reading.store;
    const jobs = (await listJobs(read)).toSorted(worst);
    const runs = await runsOf(read, jobs, { now, most: MOST_RUNS });
    const title = headline(jobs);
    return {
      title,
      content: (
        <section class="whole">
          <Live id="headline" as="h1">
            {title}
          </Live>
          <Live id="none" class="none">
            {jobs.length === 0 && (
              <p>
                A job is what must run in time, such as a backup. This makes one and prints the URL that it pings:{" "}
                <code>picket-receiver job add backup-nas --every 24h</code>
              </p>
            )}
          </Live>
          <ol class="log" id="jobs">
            {jobs.map((job) => (
              <Row job={job} runs={runs.get(job.id)!} now={now} />
            ))}
          </ol>
        </section>
      ),
    };
  },
};

const RANKS = { bad: 0, warn: 1, ok: 2, off: 3 };
const { compare } = new Intl.Collator("en", { numeric: true });
const lookOf = (job: Job) => JOB_LOOKS[stateOf(job)];
const worst = (a: Job, b: Job) => RANKS[lookOf(a)] - RANKS[lookOf(b)] || compare(a.name, b.name);

function headline(jobs: readonly Job[]): string {
  const states = Map.groupBy(jobs, stateOf);
  const [down, late] = [states.get("down")?.length ?? 0, states.get("late")?.length ?? 0];
  if (jobs.length === 0) return "No jobs yet";
  if (down + late === 0) return jobs.length === 1 ? "The job is fine" : `${jobs.length} jobs, none late or down`;
  return (
    [down > 0 ? `${down} down` : "", late > 0 ? `${late} late` : ""].filter(Boolean).join(", ") +
    ` of ${many(jobs.length, "job")}`
  );
}

function Row({ job, runs, now }: { job: Job; runs: Run[]; now: number }) {
  const look = lookOf(job);
  return (
    <Live id={`job-${job.id}`} as="li" list="jobs" class={`is-${look}`}>
      <JobState job={job} now={now} />
      <div class="told">
        <a class="name" href={`/jobs/${job.name}`}>
          {job.name}
        </a>
        <div class="dim">
          {scheduleText(job)}, grace {span(job.grace_ms)}
          {job.pause_reason !== null && `; ${printable(job.pause_reason)}`}
        </div>
      </div>
      <Runs runs={runs} />
      <div class="aside">
        <span>
          last ping <Ago at={job.last_ping_at} now={now} />
          {job.last_duration_ms !== null && `, took ${duration(job.last_duration_ms)}`}
        </span>
        {job.due_at !== null && (
          <span>
            next <At at={job.due_at} now={now} />
          </span>
        )}
      </div>
    </Live>
  );
}

/** What a job shows as, and since when or until when. */
export function JobState({ job, now }: { job: Job; now: number }) {
  const [since, until] = [sinceOf(job), job.paused_until];
  return (
    <div>
      <State look={lookOf(job)} word={stateOf(job)} />
      {(until ?? since) !== null && (
        <div class="dim">
          {until === null ? "since" : "until"} <At at={(until ?? since)!} now={now} />
        </div>
      )}
    </div>
  );
}
