// The door of jobs' pings, as Healthchecks' clients know it (https://healthchecks.io/docs/http_api/), with GET, HEAD and POST:
//
//   /ping/<uuid>  /ping/<uuid>/start  …/fail  …/log  …/<exit status>      ?rid=<uuid> names the run
//   /ping/<key>/<name>  …/start  …                                       ?create=1 makes the job
//
// Answers are plain text: 200 "OK", 201 "Created", 400, 404 "not found", 429, 503, 507. A 2xx means that the ping is on disk. The
// path is the credential: it is in no log and no error.

import type { Context } from "hono";
import { readOn, readStart } from "../body.ts";
import { type Bindings, pathOf } from "../http.ts";
import type { Log } from "../log.ts";
import type { Counter } from "../metrics.ts";
import { Refusal, refusalLog } from "../refusal.ts";
import { Secret, secretEquals } from "../secret.ts";
import { cut } from "../text.ts";
import { asRefusal, tooMany } from "./admission.ts";
import type { News } from "./events.ts";
import type { Queries } from "../database.ts";
import { NAME_SEGMENT } from "../config.ts";
import { DEFAULTS, type Job, addJob, jobNamed, pingKey } from "./jobs.ts";
import { type Ping, takePing } from "./jobs-ping.ts";
import type { Presence } from "./presence.ts";
import { allowanceInMemory, allowanceOf } from "./rate-limit.ts";
import type { Store } from "./store.ts";

/** So much of a body is kept, in bytes. */
const BODY_LIMIT = 100_000;
/** Past so many jobs a ping makes none. */
const MOST_JOBS = 1000;
/** Paths without a job that an address may ask for in a minute; over that it is refused. */
const MISSES_PER_MINUTE = 60;
const UUID = /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i;

/** What a path asks for. */
export interface PingPath {
  job: { uuid: string } | { key: string; name: string };
  kind: Ping["kind"];
  exit_status: number | null;
}

/** Reads a path; null for one that is no ping's. */
export function readPingPath(pathname: string): PingPath | null {
  const [first = "", ...rest] = pathname.slice("/ping/".length).split("/");
  const byId = UUID.test(first) ? actionOf(rest[0] ?? "") : null;
  if (byId && rest.length <= 1) return { job: { uuid: first.toLowerCase() }, ...byId };
  const [name = "", ...action] = rest;
  const byName = action[0] === "" ? null : actionOf(action[0] ?? "");
  if (!byName || action.length > 1 || !NAME_SEGMENT.test(name)) return null;
  return { job: { key: first, name }, ...byName };
}

function actionOf(word: string): Pick<PingPath, "kind" | "exit_status"> | null {
  if (word === "") return { kind: "success", exit_status: null };
  if (word === "start" || word === "fail" || word === "log") return { kind: word, exit_status: null };
  if (!/^\d{1,9}$/.test(word)) return null;
  return { kind: Number(word) === 0 ? "success" : "fail", exit_status: Number(word) };
}

interface PingDoor {
  store: Store;
  presence: Presence;
  news: News;
  /** Pings of one job in a minute. */
  perMinute: () => number;
  taken: Counter;
  log: Log;
}

/** Answers a ping. */
export function createPingDoor(door: PingDoor): (c: Context<{ Bindings: Bindings }>) => Promise<Response> {
  const { store, presence, news, taken, log } = door;
  const takeMiss = allowanceInMemory();
  const takePingOf = allowanceOf(store, "pings");
  const logRefusal = refusalLog(log);

  async function take(request: Request, ip: string): Promise<Response> {
    const wait = await takeMiss(ip, { perMinute: MISSES_PER_MINUTE, spend: false });
    if (wait > 0) throw tooMany(wait, "from this address");
    const path = readPingPath(pathOf(request.url));
    const query = new URL(request.url, "http://x").searchParams;
    const found = path && (await findOrAdd(path, query.get("create") === "1"));
    if (!found) {
      await takeMiss(ip, { perMinute: MISSES_PER_MINUTE, spend: true });
      throw unknownJob();
    }
    const { job, created } = found;
    const next = await takePingOf(job.id, { perMinute: door.perMinute(), spend: true });
    if (next > 0) throw tooMany(next, "of this job", { job: job.name });
    const ping = await readPing(request, path, { ip, rid: query.get("rid") });
    const [at, ran] = [Date.now(), await presence.ran()];
    const told = await store.write((tx) => takePing(tx, job.id, { ...ping, at, ran }), [-job.id]);
    if (told === null) throw unknownJob();
    if (told) news.emit("event");
    taken.add();
    return answer(created ? 201 : 200, created ? "Created" : "OK");
  }

  async function findOrAdd({ job }: PingPath, create: boolean): Promise<{ job: Job; created: boolean } | null> {
    const known = await jobOf(store.read, job);
    if (known || !create || !("key" in job) || !(await isKey(store.read, job.key))) {
      return known ? { job: known, created: false } : null;
    }
    const added = await store.write(async (tx) => {
      // Another ping may have made it.
      const other = await jobNamed(tx, job.name);
      if (other) return { job: other, created: false };
      const { count } = (await tx.one<{ count: number }>("SELECT COUNT(*) AS count FROM jobs"))!;
      if (count >= MOST_JOBS) return null;
      return { job: await addJob(tx, job.name, { ...DEFAULTS, now: Date.now() }), created: true };
    });
    if (added?.created) log.info("job made by its first ping", { job: job.name });
    if (!added) log.warn("job not made: there are too many", { job: job.name, jobs: MOST_JOBS });
    return added;
  }

  return async (c) => {
    const request = c.req.raw;
    const ip = c.env.ip();
    let response: Response;
    try {
      response = await take(request, ip);
    } catch (error) {
      if (request.signal.aborted && !(error instanceof Refusal)) return new Response(null, { status: 499 });
      const refusal = asRefusal(error);
      // While pings can't be stored no job's time runs.
      if (refusal.status >= 500) presence.storeFailed();
      logRefusal(refusal, ip);
      response = answer(refusal.status, refusal.message, refusal.headers);
    }
    await readOn(request, response);
    return response;
  };
}

async function jobOf(db: Queries, job: PingPath["job"]): Promise<Job | undefined> {
  if ("uuid" in job) return db.one<Job>("SELECT * FROM jobs WHERE uuid = $1", [job.uuid]);
  return (await isKey(db, job.key)) ? jobNamed(db, job.name) : undefined;
}

async function isKey(db: Queries, given: string): Promise<boolean> {
  const key = await pingKey(db);
  return key !== null && secretEquals(given, [new Secret(key)]);
}

/** @throws Refusal 400. */
async function readPing(
  request: Request,
  { kind, exit_status }: PingPath,
  { ip, rid }: { ip: string; rid: string | null },
): Promise<Ping> {
  if (exit_status !== null && exit_status > 255) throw new Refusal(400, "bad_url", "invalid url format");
  if (rid !== null && !UUID.test(rid)) throw new Refusal(400, "bad_rid", "invalid uuid format");
  const body = new TextDecoder().decode(await readStart(request, BODY_LIMIT));
  const agent = request.headers.get("user-agent");
  return {
    kind,
    exit_status,
    rid: rid?.toLowerCase() ?? null,
    ip,
    agent: agent && cut(agent, 200),
    body: body || null,
  };
}

const unknownJob = (): Refusal => new Refusal(404, "unknown_job", "not found");

function answer(status: number, text: string, headers: Record<string, string> = {}): Response {
  return new Response(text, {
    status,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-store",
      "ping-body-limit": String(BODY_LIMIT),
      "access-control-allow-origin": "*",
      ...headers,
    },
  });
}
