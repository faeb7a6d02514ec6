/** @jsxImportSource hono/jsx */
// A job: its state, what is expected of it, its last runs, and what they sent.

import { Refusal } from "../../refusal.ts";
import { duration, printable, printableLines, size, span } from "../../text.ts";
import { listAlerts } from "../alerts.ts";
import { eventsBefore } from "../events.ts";
import { downtimesOf, runsOf, type Downtimes, type Run } from "../job-runs.ts";
import { type Job, jobNamed, showCommand } from "../jobs.ts";
import { type TakenPing, listPings } from "../jobs-ping.ts";
import { scheduleText } from "../jobs-schedule.ts";
import { OpenAlert } from "./alerts.tsx";
import { Event } from "./events.tsx";
import { JobState } from "./jobs.tsx";
import type { Page } from "./page.ts";
import { Ago, At, State, Text } from "./parts.tsx";
import { Live } from "./regions.tsx";
import { Runs, runsText } from "./runs.tsx";

const MOST_RUNS = 60;
const MONTHS = 3;
const MOST_ALERTS = 10;
const MOST_EVENTS = 5;
/** A longer body has a page of its own, in characters. */
const LONG = 10_000;

export const jobPage: Page = {
  path: "/jobs/:name",
  async show({ reading, params, query, now }) {
    const { read } = reading.store;
    const name = params["name"]!;
    const job = await jobNamed(read, name);
    if (!job) throw new Refusal(404, "unknown_job", `There is no job "${name}".`);
    const pings = await listPings(read, job.id);
    const wanted = pings.find(({ id, body }) => String(id) === query.get("body") && body !== null);
    if (wanted) return { title: `${name}: what a run sent`, content: <Body job={job} ping={wanted} now={now} /> };
    const runs = (await runsOf(read, [job], { now, most: MOST_RUNS, of: job.id })).get(job.id)!;
    const alerts = await listAlerts(read, { job: name, open: true, limit: MOST_ALERTS });
    const events = await eventsBefore(read, { job: name, limit: MOST_EVENTS });
    const downtimes = await downtimesOf(read, job, { now, months: MONTHS });
    return {
      title: name,
      content: (
        <section class="whole">
          <h1>{name}</h1>
          <Live id="state">
            <JobState job={job} now={now} />
            {job.pause_reason !== null && <p>{printable(job.pause_reason)}</p>}
          </Live>
          <ol class="log" id="open">
            {alerts.map((alert) => (
              <OpenAlert alert={alert} back={`/jobs/${name}`} now={now} />
            ))}
          </ol>
          <h2>Last runs</h2>
          <Live id="runs">
            <Runs runs={runs} tall />
            {runs.length > 0 && <div class="dim">{runsText(runs)}</div>}
          </Live>
          <div class="halves">
            <Live id="schedule">
              <Facts job={job} runs={runs} now={now} />
            </Live>
            <Live id="downtimes">
              <h2>Time down</h2>
              <dl>{downtimes.map(Downtime)}</dl>
              <a href={`/alerts?job=${name}`}>All alerts</a>
            </Live>
          </div>
          <h2>Last events</h2>
          <ol class="log" id="events">
            {events.map((event) => (
              <Event event={event} now={now} />
            ))}
          </ol>
          <p class="below">
            <a href={`/events?job=${name}`}>All events</a>
          </p>
          <h2>Last pings</h2>
          <ol class="log" id="pings">
            {pings.map((ping, n) => (
              <Ping job={job} ping={ping} number={job.pings - n} now={now} />
            ))}
          </ol>
        </section>
      ),
    };
  },
};

function Facts({ job, runs, now }: { job: Job; runs: readonly Run[]; now: number }) {
  const took = runs.flatMap(({ duration_ms: ms }) => ms ?? []).toSorted((a, b) => a - b);
  const last = job.last_duration_ms;
  return (
    <>
      <h2>Schedule</h2>
      <dl>
        <dt>expected</dt>
        <dd>{scheduleText(job)}</dd>
        <dt>grace</dt>
        <dd>{span(job.grace_ms)}: how late it may be, and how long it may run</dd>
        <dt>next</dt>
        <dd>{job.due_at === null ? "–" : <At at={job.due_at} now={now} />}</dd>
        <dt>last ping</dt>
        <dd>
          <Ago at={job.last_ping_at} now={now} />
        </dd>
        <dt>took</dt>
        <dd>
          {last === null ? "–" : duration(last)}
          {took.length > 1 && (
            <span class="dim">
              {` (of the last ${took.length}: half under ${duration(took[took.length >> 1]!)}, longest ${duration(took.at(-1)!)})`}
            </span>
          )}
        </dd>
        <dt>pings</dt>
        <dd>
          {job.pings} since <At at={job.created_at} now={now} />
        </dd>
        <dt>its URL</dt>
        <dd>
          <code>{showCommand(job)}</code> shows it
        </dd>
      </dl>
    </>
  );
}

function Downtime({ month, count, ms }: Downtimes) {
  const name = new Date(month).toLocaleDateString("en", { month: "long", year: "numeric", timeZone: "UTC" });
  return (
    <>
      <dt>{name}</dt>
      <dd>{count === 0 ? "none" : `${count === 1 ? "once" : `${count} times`}, ${duration(ms)} in all`}</dd>
    </>
  );
}

const KINDS = {
  success: ["ok", "success"],
  fail: ["bad", "failed"],
  start: ["off", "started"],
  log: ["off", "log"],
} as const;

function Ping({ job, ping, number, now }: { job: Job; ping: TakenPing; number: number; now: number }) {
  const { id, at, kind, exit_status, duration_ms, ip, agent, rid, body } = ping;
  const [look, word] = KINDS[kind];
  const more = [
    ...(duration_ms === null ? [] : [`took ${duration(duration_ms)}`]),
    `from ${ip}`,
    ...(agent === null ? [] : [agent]),
    ...(rid === null ? [] : [`run ${rid}`]),
  ];
  return (
    <Live id={`ping-${id}`} as="li" list="pings">
      <span class="dim">{`#${number}`}</span>
      <At at={at} now={now} />
      <State look={look} word={word} more={exit_status === null ? undefined : `exit ${exit_status}`} />
      <div class="told">
        <div class="dim">{printable(more.join(", "))}</div>
        {body !== null && body.length <= LONG && <Text text={body.trimEnd()} />}
        {body !== null && body.length > LONG && (
          <>
            <Text text={body.slice(0, 300)} />
            <a href={`/jobs/${job.name}?body=${id}`}>all of it</a>{" "}
            <span class="dim">({size(Buffer.byteLength(body))})</span>
          </>
        )}
      </div>
    </Live>
  );
}

/** All that a run sent. */
function Body({ job, ping, now }: { job: Job; ping: TakenPing; now: number }) {
  return (
    <section class="whole">
      <h1>
        <a href={`/jobs/${job.name}`}>{job.name}</a>, <At at={ping.at} now={now} />
      </h1>
      <pre>{printableLines(ping.body!)}</pre>
    </section>
  );
}
