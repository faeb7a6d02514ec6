// The routes that an operator reads: hosts, their history, events (also as a stream), episodes. JSON with times in RFC 3339.

import { once } from "node:events";
import { type Context, Hono } from "hono";
import { streamSSE } from "hono/streaming";
import { NAME_SEGMENT } from "../config.ts";
import type { Bindings } from "../http.ts";
import { Refusal } from "../refusal.ts";
import { alertOf, listAlerts } from "./alerts.ts";
import { type News, listEvents, newestEvent } from "./events.ts";
import { CONTAINER_SERIES, type ContainerSeries, readHistory } from "./history.ts";
import { time } from "./hosts.ts";
import { listJobs } from "./jobs.ts";
import { jobView } from "./jobs-view.ts";
import {
  type Reading,
  allHealth,
  allHosts,
  containerOf,
  eventOf,
  healthOf,
  hostOf,
  oneHost,
  oneJob,
} from "./reading.ts";
import { METRICS, type Metric } from "../report.ts";
import { episodeName } from "./take-episode.ts";

const DAY_MS = 86_400_000;
const MOST_ROWS = 10_000;
/** How often a quiet stream sends a comment, so that proxies and clients keep it open, in milliseconds. */
const HEARTBEAT_MS = 15_000;

type C = Context<{ Bindings: Bindings }>;

/** The routes below /v1 that read. */
export function readingRoutes(reading: Reading): Hono<{ Bindings: Bindings }> {
  const app = new Hono<{ Bindings: Bindings }>();
  const get = (path: string, answer: (c: C) => Promise<Response>) =>
    app.get(path, (c: C) => {
      // A session lets in, too: nothing on the way may keep the answer.
      c.header("cache-control", "no-store");
      return answer(c);
    });
  get("/hosts", async (c) => c.json({ hosts: await allHosts(reading) }));
  get("/hosts/:id", async (c) => c.json(await oneHost(reading, await hostOf(reading, c.req.param("id")))));
  get("/hosts/:id/history", (c) => history(reading, c));
  get("/jobs", async (c) => c.json({ jobs: (await listJobs(reading.store.read)).map(jobView) }));
  get("/jobs/:name", async (c) => c.json(await oneJob(reading, c.req.param("name") ?? "")));
  get("/host-health", async (c) => c.json({ health: await allHealth(reading) }));
  get("/host-health/:host", async (c) => {
    const host = await hostOf(reading, c.req.param("host"));
    if (host.health === null) throw new Refusal(404, "no_health", `"${host.name}" has not sent its health yet`);
    return c.json(healthOf(host));
  });
  get("/alerts", (c) => alerts(reading, c));
  get("/events", (c) => events(reading, c));
  get("/episodes", (c) => listEpisodes(reading, c));
  get("/episodes/:host/:file", (c) => download(reading, c));
  return app;
}

// ---------------------------------------------------------------------------------------------------------------
// History

async function history(reading: Reading, c: C): Promise<Response> {
  const host = await hostOf(reading, c.req.param("id"));
  const now = Date.now();
  const to = instant(c, "to") ?? now;
  const from = instant(c, "from") ?? to - DAY_MS;
  if (from >= to) throw badQuery("from", "lies after to");
  const points = whole(c, "points", 300);
  const wanted = c.req.query("container");
  const container = wanted === undefined ? null : await containerOf(reading, host, wanted);
  const known: readonly string[] = container === null ? METRICS : CONTAINER_SERIES;
  const metric = (c.req.query("metric") || known[0]) as Metric | ContainerSeries;
  if (!known.includes(metric)) throw badQuery("metric", `expected one of ${known.join(", ")}`);
  const { retention } = reading.config();
  const query = { host: host.id, metric, container, from, to, points, now, retention };
  const series = await readHistory(reading.store.read, query);
  return c.json({
    host: host.name,
    metric,
    ...(wanted === undefined ? {} : { container: wanted }),
    from: time(from),
    to: time(to),
    step_seconds: series.step,
    points: series.points.map(({ at, ...point }) => ({ at: time(at), ...point })),
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Alerts and events

/** Open ones first, then the newest. */
async function alerts(reading: Reading, c: C): Promise<Response> {
  const name = c.req.query("host") || undefined;
  const host = name === undefined ? null : (await hostOf(reading, name)).name;
  const state = c.req.query("state") || "all";
  if (!["all", "open", "closed"].includes(state)) throw badQuery("state", "expected open, closed or all");
  const limit = whole(c, "limit", 100);
  const open = state === "all" ? null : state === "open";
  return c.json({ alerts: (await listAlerts(reading.store.read, { host, open, limit })).map(alertOf) });
}

async function events(reading: Reading, c: C): Promise<Response> {
  if (/\btext\/event-stream\b/.test(c.req.header("accept") ?? "")) return stream(reading, c);
  const since = c.req.query("since");
  const limit = whole(c, "limit", 100);
  const asked = since !== undefined && /^\d{1,15}$/.test(since) ? Number(since) : null;
  const from = asked === null ? instant(c, "since") : null;
  const newest = await newestEvent(reading.store.read);
  // It read what a restored backup lacks: it starts over.
  const reset = asked !== null && asked > newest;
  const rows = await listEvents(reading.store.read, { after: reset ? 0 : asked, from, limit });
  return c.json({ events: rows.map(eventOf), next: rows.at(-1)?.id ?? newest, ...(reset ? { reset } : {}) });
}

/** Server-sent events: from `Last-Event-ID` or `since` on, else from now on. One that is ahead gets `reset`, and all events. */
async function stream(reading: Reading, c: C): Promise<Response> {
  const { store, stopping, news } = reading;
  const asked = c.req.header("last-event-id") ?? c.req.query("since");
  if (asked !== undefined && !/^\d{1,15}$/.test(asked)) throw badQuery("since", "expected the number of an event");
  const newest = await newestEvent(store.read);
  const reset = Number(asked ?? 0) > newest;
  let last = asked === undefined ? newest : reset ? 0 : Number(asked);
  c.env.idle(0);
  // nginx would collect the events until its buffer is full.
  c.header("x-accel-buffering", "no");
  return streamSSE(c, async (out) => {
    await out.write(": listening\n\n");
    if (reset) await out.writeSSE({ event: "reset", data: JSON.stringify({ since: Number(asked), newest }) });
    while (!out.aborted && !stopping.aborted && (await c.env.mayGoOn())) {
      // Before the look: an event that comes during it isn't missed.
      const woken = nextNews(news);
      const rows = await listEvents(store.read, { after: last, from: null, limit: 500 });
      for (const row of rows) {
        await out.writeSSE({ id: String(row.id), event: row.type, data: JSON.stringify(eventOf(row)) });
        last = row.id;
      }
      if (rows.length === 0 && !(await woken)) await out.write(": alive\n\n");
    }
  });
}

/** Waits for news; false where none came for a while. */
function nextNews(news: News): Promise<boolean> {
  const came = once(news, "event", { signal: AbortSignal.timeout(HEARTBEAT_MS) });
  return came.then(
    () => true,
    () => false,
  );
}

// ---------------------------------------------------------------------------------------------------------------
// Episodes

async function listEpisodes({ index }: Reading, c: C): Promise<Response> {
  const host = c.req.query("host") || null;
  if (host !== null && !NAME_SEGMENT.test(host)) throw badQuery("host", "is not a valid name");
  const since = instant(c, "since");
  const limit = whole(c, "limit", 100);
  return c.json({ episodes: await index.list({ host, since: time(since), limit }) });
}

/** An episode's bytes, with RFC 9110's conditional requests (13) and single ranges (14). */
async function download({ episodes, index }: Reading, c: C): Promise<Response> {
  const host = c.req.param("host") ?? "";
  const key = { host, episode: episodeName(c.req.param("file") ?? "") };
  const found = NAME_SEGMENT.test(host) ? await episodes.find(key) : null;
  if (!found) throw new Refusal(404, "unknown_episode", `there is no episode "${key.episode}" of "${host}"`);
  const row = await index.find(key);
  const etag = row ? `"${row.sha256}"` : null;
  const headers = {
    "content-type": "application/zstd",
    "content-length": String(found.size),
    "accept-ranges": "bytes",
    ...(etag ? { etag } : {}),
  };
  const none = c.req.header("if-none-match");
  if (etag && none && (none === "*" || none.split(",").some((tag) => tag.trim().replace(/^W\//, "") === etag))) {
    return new Response(null, { status: 304, headers });
  }
  c.env.idle(120);
  const { size } = found;
  const ifRange = c.req.header("if-range");
  // A part of other bytes is of no use.
  const range = ifRange === undefined || ifRange === etag ? rangeOf(c.req.header("range"), size) : null;
  if (range === "none") {
    return new Response(null, { status: 416, headers: { "content-range": `bytes */${size}` } });
  }
  const [start, end] = range ?? [0, size];
  const answer = { ...headers, "content-length": String(end - start) };
  const body = c.req.method === "HEAD" ? null : episodes.body(found, start, end);
  if (!range) return new Response(body, { headers: answer });
  return new Response(body, {
    status: 206,
    headers: { ...answer, "content-range": `bytes ${start}-${end - 1}/${size}` },
  });
}

/** One range of bytes, as [start, end[; `none` where it has none of them, null where all are to be answered. */
function rangeOf(header: string | undefined, size: number): [start: number, end: number] | "none" | null {
  const [, first = "", last = ""] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  if (first === "" && last === "") return null;
  const start = first === "" ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === "" || last === "" ? size : Math.min(Number(last) + 1, size);
  if (first !== "" && last !== "" && Number(last) < start) return null;
  return start < end ? [start, end] : "none";
}

// ---------------------------------------------------------------------------------------------------------------
// Parameters

function badQuery(field: string, what: string): Refusal {
  return new Refusal(400, "bad_query", `${field}: ${what}`, { extra: { field } });
}

/** A time: RFC 3339, or milliseconds since 1970. */
function instant(c: C, name: string): number | null {
  const given = c.req.query(name) || undefined;
  if (given === undefined) return null;
  const at = /^\d{11,15}$/.test(given) ? Number(given) : Date.parse(given);
  if (Number.isNaN(at)) {
    const other = name === "since" ? ", or the number of an event" : "";
    throw badQuery(name, `expected a date-time, such as 2026-01-31T12:00:00Z${other}`);
  }
  return at;
}

/** A number of rows or points. */
function whole(c: C, name: string, otherwise: number): number {
  const given = c.req.query(name) || String(otherwise);
  if (!/^\d{1,9}$/.test(given) || Number(given) < 1)
    throw badQuery(name, `expected a whole number from 1 to ${MOST_ROWS}`);
  return Math.min(Number(given), MOST_ROWS);
}
