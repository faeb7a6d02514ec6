#!/usr/bin/env bun
// picket-receiver: takes in what every host's agent sends, and knows who went silent.
// Reads its YAML. Listens on <listen>. Writes <data_dir>: receiver.db (hosts, tokens, samples, events), episodes/<host>/*.tar.zst,
// index.jsonl, and for itself .picket/ and receiver.lock; what happens also goes into an inbox (<notify>).
// Killed at any moment it loses nothing it acknowledged: a report is in the store whole or not at all, an episode is in its
// place or a partial file that the next start sweeps away.

import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Context, Hono } from "hono";
import example from "./etc/receiver.yaml" with { type: "text" };
import { isLoopback } from "./lib/config.ts";
import { holdAlone, isDiskFull, makeFolder } from "./lib/files.ts";
import { type Bindings, Refusal, type Server, readBody, refusalLog, serve } from "./lib/http.ts";
import { type Log, errorChain, seldom } from "./lib/log.ts";
import { Registry } from "./lib/metrics.ts";
import { isNestedDeeper } from "./lib/json.ts";
import { type Outbox, createOutbox, inboxChannel } from "./lib/outbox.ts";
import { Admission, type Guest, stamp, unauthorized } from "./lib/receiver/admission.ts";
import { type News, createNews, eventSource } from "./lib/receiver/alerts.ts";
import { COMMANDS } from "./lib/receiver/commands.ts";
import { Config } from "./lib/receiver/config.ts";
import { EpisodeIndex } from "./lib/receiver/episode-index.ts";
import { EpisodeFolder, type EpisodeStore, episodesFolder } from "./lib/receiver/episodes.ts";
import { type Figures, countAll, createFigures, health, hostCount, statusLine } from "./lib/receiver/figures.ts";
import { retentionPass, rollupPass } from "./lib/receiver/history.ts";
import { type Taken, ingest } from "./lib/receiver/ingest.ts";
import { Presence } from "./lib/receiver/presence.ts";
import { readingRoutes } from "./lib/receiver/reading.ts";
import { DEEPEST, readReport } from "./lib/receiver/report.ts";
import { isBusy } from "./lib/receiver/database.ts";
import { Store } from "./lib/receiver/store.ts";
import { type TakenEpisode, createTurns, episodeName, takeEpisode } from "./lib/receiver/take-episode.ts";
import { quietPass, uploadRefused, uploadTaken } from "./lib/receiver/uploads.ts";
import { VersionGate } from "./lib/receiver/version-gate.ts";
import { type Called, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-receiver: takes in every host's reports and episodes, and knows who went silent

  mkdir -p ~/.config/picket && picket-receiver example > ~/.config/picket/receiver.yaml
  picket-receiver host add web-1      # prints web-1's token and what to paste there
  picket-receiver --check && picket-receiver`;

const MAX_REPORT_BYTES = 4 << 20;
const MAX_HEALTH_BYTES = 64 << 10;
const HOUR_MS = 3_600_000;
/** So often a start looks whether there is room by now. */
const ROOM_LOOK_MS = 1000;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

/** What the daemon's parts share. `config` is replaced by a reload. */
interface Receiver {
  config: Config;
  store: Store;
  episodes: EpisodeStore;
  index: EpisodeIndex;
  gate: VersionGate;
  admission: Admission;
  presence: Presence;
  news: News;
  figures: Figures;
  metrics: Registry;
  log: Log;
}

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log } = service;
  const store = await onceThereIsRoom(service, () => Store.open(config.data_dir));
  const unlock = holdAlone("picket-receiver", join(config.data_dir, "receiver.lock"));
  const episodes = new EpisodeFolder(episodesFolder(config));
  makeFolder(episodes.path, 0o750);
  const metrics = new Registry();
  const gate = new VersionGate(config.version_gate, log);
  const receiver: Receiver = {
    config,
    store,
    episodes,
    index: new EpisodeIndex(store),
    gate,
    admission: new Admission({ store, ...doorSettings(config), now: Date.now }),
    presence: new Presence(store),
    news: createNews(),
    figures: createFigures(metrics, gate),
    metrics,
    log,
  };
  // Before anybody can report: what the receiver missed is nobody's silence.
  await onceThereIsRoom(service, () => watch(receiver));
  await sweep(receiver);
  await Promise.all([
    onceThereIsRoom(service, () => receiver.index.follow()),
    receiver.gate.refresh(),
    countAll(receiver),
  ]);
  const events = await onceThereIsRoom(service, () => eventSource(store, log));
  const from = config.notify?.from ?? "receiver";
  const outbox = createOutbox(events, inboxChannel(config.notify, { from, log }));
  const server = listenToAgents(receiver, service);
  startLoops(receiver, service, outbox);
  log.info("ready", { listen: String(server.address), data: config.data_dir, hosts: hostCount(receiver) });
  return {
    status: () => statusLine(receiver),
    async reload(next) {
      // What may fail comes first: a reload that is refused changes nothing.
      server.reload(next);
      receiver.config = next;
      receiver.admission.configure(doorSettings(next));
      receiver.gate.configure(next.version_gate);
      // Else what is said of its list would be of none until somebody ships.
      await receiver.gate.refresh();
    },
    async stop() {
      receiver.news.ring();
      await server.stop();
      await receiver.index.close();
      await outbox.close();
      // On a full disk the last mark has to do.
      await receiver.presence.mark(Date.now()).catch(() => {});
      await store.close();
      unlock();
    },
  };
}

function doorSettings({ rate_limit_per_minute, auth }: Config): { perMinute: number; bind: boolean } {
  return { perMinute: rate_limit_per_minute, bind: auth.bind_fingerprint };
}

// ---------------------------------------------------------------------------------------------------------------
// The doors

const AGENT_DOORS = /^\/(v1\/host-report|agent\/telemetry|v1\/ping)$/;
const AGENT_PUTS = /^\/v1\/(episodes|host-health)\//;

/** Agents bear tokens of their own, judged by the door itself. */
function isAgentDoor(pathname: string, method: string): boolean {
  return AGENT_DOORS.test(pathname) || (method === "PUT" && AGENT_PUTS.test(pathname));
}

function listenToAgents(receiver: Receiver, service: Service): Server {
  return serve({
    role: "receiver",
    listen: receiver.config.listen,
    connection: receiver.config,
    app: createApp(receiver, service.stopping),
    log: receiver.log,
    metrics: receiver.metrics,
    health: () => health(receiver, [receiver.config.data_dir, episodesFolder(receiver.config)]),
    bearsOwnCredentials: isAgentDoor,
  });
}

type C = Context<{ Bindings: Bindings }>;

/** All routes but /health and /metrics. */
export function createApp(receiver: Receiver, stopping: AbortSignal): Hono<{ Bindings: Bindings }> {
  const { store, index, episodes, news } = receiver;
  const app = new Hono<{ Bindings: Bindings }>();
  const refused = refusalLog(receiver.log);

  /** Judges the credentials, then does the work; whoever was let in is stamped also when the work is refused. */
  const asGuest = async (c: C, work: (guest: Guest) => Promise<Response>): Promise<Response> => {
    const request = c.req.raw;
    let guest: Guest;
    try {
      guest = await receiver.admission.letIn(request, c.env.ip());
    } catch (error) {
      const refusal = asRefusal(error);
      receiver.figures.refused(refusal.code).add();
      refused(refusal, c.env.ip());
      throw refusal;
    }
    try {
      return await work(guest);
    } catch (error) {
      await store.write((tx) => stamp(tx, guest)).catch(() => {});
      if (request.signal.aborted) throw error;
      const refusal = asRefusal(error);
      const { status, log, extra } = refusal;
      refused(refusal, c.env.ip(), { host: guest.name, status, field: extra["field"], ...log });
      throw refusal;
    }
  };

  app.post("/v1/host-report", (c) =>
    asGuest(c, async (guest) => {
      const { interval } = await takeReport(receiver, { guest, request: c.req.raw, told: true });
      const control = { poll_interval_seconds: interval, blocked: false, desired_generation: 0, has_signed_ops: false };
      return Response.json(control);
    }),
  );
  app.post("/agent/telemetry", (c) =>
    asGuest(c, async (guest) => {
      await takeReport(receiver, { guest, request: c.req.raw, told: false });
      return new Response(null, { status: 204 });
    }),
  );
  app.post("/v1/ping", (c) =>
    asGuest(c, async (guest) => {
      await store.write((tx) => stamp(tx, guest));
      return Response.json({ host: guest.name, time: new Date().toISOString() });
    }),
  );
  app.put("/v1/host-health/:host", (c) =>
    asGuest(c, async (guest) => {
      mustBe(guest, c.req.param("host"));
      const result = parseJson(await readBody(c.req.raw, MAX_HEALTH_BYTES));
      if (isNestedDeeper(result, DEEPEST)) throw new Refusal(422, "too_deep", "the body is nested too deeply");
      const text = JSON.stringify(result);
      await store.write(async (tx) => {
        await stamp(tx, guest);
        await tx.run("UPDATE hosts SET health = $1, health_at = $2 WHERE id = $3", [text, Date.now(), guest.host]);
      });
      return new Response(null, { status: 204 });
    }),
  );
  app.put("/v1/episodes/:host/:file", (c) =>
    asGuest(c, async (guest) => {
      // A slow link is no stalled one: the upload itself looks whether something comes.
      c.env.idle(0);
      const uploading = takeUpload(receiver, { guest, request: c.req.raw, ...c.req.param() });
      const { outcome, sha256, size } = await uploading.finally(() => c.env.idle(30));
      return Response.json({ sha256, size }, { status: outcome === "stored" ? 201 : 200 });
    }),
  );
  const interval = () => receiver.config.poll_interval_seconds;
  const may = (request: Request, ip: () => string) => mayRead(receiver.config, request, ip);
  app.route("/v1", readingRoutes({ store, index, episodes, interval, onEvents: news.once, stopping, mayRead: may }));
  return app;
}

/** Without an operator's token reading is for this machine alone: not for whom a proxy on it brings along. */
function mayRead({ auth, trusted_proxies }: Config, request: Request, ip: () => string): void {
  if (auth.token.length > 0) return;
  const { headers } = request;
  const brought = headers.has("forwarded") || (trusted_proxies.length === 0 && headers.has("x-forwarded-for"));
  if (headers.has("authorization")) {
    throw new Refusal(401, "invalid_token", "a host's token reads nothing", {
      headers: { "www-authenticate": "Bearer" },
    });
  }
  if (brought || !isLoopback(ip())) {
    throw new Refusal(403, "local_only", 'only this machine may read: set "auth.token_file" for others');
  }
}

function mustBe({ name }: Guest, host: string): void {
  if (host !== name)
    throw new Refusal(403, "not_your_host", "the token belongs to another host", { extra: { field: "host" } });
}

function parseJson(body: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    throw new Refusal(400, "bad_json", `the body is not JSON: ${(error as Error).message}`);
  }
}

/** What went wrong, as the answer that makes an agent do the right thing. */
function asRefusal(error: unknown): Refusal {
  if (error instanceof Refusal) return error;
  const log = { error };
  if (isDiskFull(error)) return new Refusal(507, "disk_full", "no space left here; send it again later", { log });
  if (isBusy(error)) {
    const headers = { "retry-after": "5" };
    return new Refusal(503, "busy", "the store is locked by another program; send it again later", { headers, log });
  }
  return new Refusal(500, "store", "it could not be stored; send it again later", { log });
}

// ---------------------------------------------------------------------------------------------------------------
// Reports and episodes

async function takeReport(
  receiver: Receiver,
  { guest, request, told }: { guest: Guest; request: Request; told: boolean },
): Promise<Taken> {
  const { config, store, figures, news } = receiver;
  const data = parseJson(await readBody(request, MAX_REPORT_BYTES));
  // The receipt is the end of the body: it may have come slowly, and others before it.
  const at = Date.now();
  const read = readReport(data, { now: at, backfillMs: config.backfill_hours * HOUR_MS });
  if ("broken" in read) {
    figures.invalid.add();
    const named = read.broken.map(({ field, error }) => `${field}: ${error}`);
    const extra = { field: read.broken[0]?.field, fields: read.broken };
    throw new Refusal(422, "invalid_report", named.slice(0, 5).join("; "), { extra });
  }
  const { report } = read;
  if (report.host_id !== null) mustBe(guest, report.host_id);
  const storing = store.write(async (tx) => {
    await stamp(tx, guest);
    return ingest(tx, { guest, report, at, interval: config.poll_interval_seconds, told });
  });
  const taken = await storing.catch((error: unknown) => {
    if (report.sent_at === null) receiver.presence.heard(guest.host, at);
    throw error;
  });
  if (!taken) throw unauthorized("invalid_token");
  figures.reports.add();
  if (taken.changed) news.ring();
  return taken;
}

async function takeUpload(
  receiver: Receiver,
  { guest, request, host, file }: { guest: Guest; request: Request; host: string; file: string },
): Promise<TakenEpisode> {
  const { store, figures, news, log } = receiver;
  await store.write((tx) => stamp(tx, guest)).catch((error: Error) => log.warn("use of a token not noted", { error }));
  try {
    mustBe(guest, host);
    const key = { host, episode: episodeName(file) };
    const taking = { ...receiver, maxBytes: receiver.config.max_episode_bytes, inTurn };
    const taken = await takeEpisode(taking, key, request);
    // It is here and in the index: what is noted of the host besides must not make it a failure.
    await store
      .write((tx) => uploadTaken(tx, guest, { at: Date.now(), stamped: taken.stamped }))
      .catch((error: unknown) => log.warn("upload not noted at its host", { error }));
    figures.episodes(taken.outcome).add();
    if (taken.outcome === "stored") {
      figures.bytes.add(taken.size);
      log.info("episode stored", { host, episode: key.episode, size: taken.size });
    }
    return taken;
  } catch (error) {
    if (!request.signal.aborted) {
      const refusal = asRefusal(error);
      const { status, code } = refusal;
      figures.episodes("refused").add();
      // What fails here is no failing of the host's.
      if (status < 500) {
        const refused = { at: Date.now(), why: `${status} ${code}`, unstamped: code === "unstamped" };
        await store.write((tx) => uploadRefused(tx, guest, refused)).catch(() => {});
        news.ring();
      }
      throw refusal;
    }
    throw error;
  }
}

const inTurn = createTurns();

// ---------------------------------------------------------------------------------------------------------------
// Loops

function startLoops(receiver: Receiver, service: Service, outbox: Outbox): void {
  const { store, news } = receiver;
  let due = 0;
  const watching = service.loop({
    name: "presence",
    every: () => Math.max(due, 20) / 1000,
    async pass() {
      due = 1000;
      due = await watch(receiver);
    },
  });
  const tell = service.loop({ name: "tell", every: () => 5, pass: (alive) => outbox.pass(alive) });
  const onNews = (): void => {
    watching.wake();
    tell.wake();
    news.once(onNews);
  };
  news.once(onNews);
  service.loop({
    name: "rollups",
    every: () => 30,
    async pass(alive) {
      while ((await rollupPass(store, { now: Date.now(), alive })).more && !service.stopping.aborted);
    },
  });
  service.loop({ name: "figures", every: () => 5, pass: () => countAll(receiver) });
  service.loop({ name: "hourly", every: () => 3600, pass: (alive) => hourly(receiver, alive) });
  service.loop({
    name: "uploads",
    every: () => 300,
    pass: async () => {
      if ((await quietPass(store, { now: Date.now(), since: receiver.presence.backAt })) > 0) news.ring();
    },
  });
}

/**
 * Does a step of the start, again and again while the disk is full. A receiver that ended instead would be started again up to the
 * limit of its unit, and stay down when there is room.
 */
async function onceThereIsRoom<T>({ log, stopping }: Service, step: () => Promise<T>): Promise<T> {
  const rare = seldom(log);
  for (;;) {
    try {
      return await step();
    } catch (error) {
      if (!isDiskFull(error) && !isDiskFull((error as Error).cause)) throw error;
      rare.warn("full", `the start waits until there is room: ${errorChain(error)}`);
    }
    await sleep(ROOM_LOOK_MS, undefined, { signal: stopping });
  }
}

/** Looks who has fallen silent; gives the milliseconds until something may be due. */
async function watch({ config, presence, news, log }: Receiver): Promise<number> {
  const { next, changed, away } = await presence.pass({ now: Date.now(), interval: config.poll_interval_seconds });
  if (Math.abs(away) >= 1000) log.info("was away: every deadline moves by that", { seconds: Math.round(away / 1000) });
  if (changed > 0) news.ring();
  return next;
}

async function hourly(receiver: Receiver, alive: () => void): Promise<void> {
  await retentionPass(receiver.store, { now: Date.now(), alive });
  await sweep(receiver);
}

async function sweep({ episodes, log }: Pick<Receiver, "episodes" | "log">): Promise<void> {
  const { files, failures } = await episodes.sweep();
  if (files > 0) log.info("swept unfinished uploads", { files });
  const [error] = failures;
  if (error) log.warn("unfinished uploads can't be swept", { error, times: failures.length });
}

/** Runs the role: by itself, or as a part of picket.ts. */
export const start = (called?: Called) =>
  run(
    "receiver",
    {
      usage: USAGE,
      schema: Config,
      main,
      commands: COMMANDS,
      example,
    },
    called,
  );

if (import.meta.main) await start();
