#!/usr/bin/env bun
// picket-receiver: stores every host's reports and episodes, and alerts an inbox when a host goes silent.
// Reads its YAML. Listens on <listen>. Writes <data_dir>: receiver.db (hosts, tokens, samples, events), episodes/<host>/*.tar.zst,
// index.jsonl, and for itself .picket/ and receiver.lock. Events also go into an inbox (<notify>).
// Killed at any moment it loses nothing it acknowledged: a report is in the store whole or not at all, an episode is in its
// place or a partial file that the next start sweeps away.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Context, Hono } from "hono";
import example from "./etc/receiver.yaml" with { type: "text" };
import type { CredentialsOf } from "./lib/guard.ts";
import { holdAlone } from "./lib/files.ts";
import { type Bindings, type Server, answersOf, serve } from "./lib/http.ts";
import type { Log } from "./lib/log.ts";
import { Registry } from "./lib/metrics.ts";
import { oncePossible } from "./lib/once-possible.ts";
import { createOutbox } from "./lib/outbox.ts";
import { Admission, type Door, type Sender, mustBe, stamp } from "./lib/receiver/admission.ts";
import { COMMANDS } from "./lib/receiver/commands.ts";
import { Config } from "./lib/receiver/config.ts";
import { isPostgres } from "./lib/config.ts";
import { damageOf } from "./lib/database.ts";
import { createNews, damageEvent, eventSource, lossEvent } from "./lib/receiver/events.ts";
import { episodesFolder, openEpisodes, writtenFolders } from "./lib/receiver/episodes.ts";
import {
  countAll,
  createFigures,
  health,
  hostCount,
  keepProblem,
  statusLine,
  troublesOf,
} from "./lib/receiver/figures.ts";
import { formerNames } from "./lib/receiver/hosts.ts";
import { refuseRootOwned } from "./lib/receiver/ownership.ts";
import { SITE } from "./lib/receiver/page/page.ts";
import { createJobWatch } from "./lib/receiver/jobs-watch.ts";
import { type Looping, startLoops, watch } from "./lib/receiver/loops.ts";
import { createPingDoor } from "./lib/receiver/ping.ts";
import { Presence } from "./lib/receiver/presence.ts";
import { readingRoutes } from "./lib/receiver/api.ts";
import { makeShrinkable } from "./lib/receiver/shrink.ts";
import { hasNoStore } from "./lib/receiver/sqlite.ts";
import { Store } from "./lib/receiver/store.ts";
import { createTakeReport } from "./lib/receiver/take-report.ts";
import { takeHealth } from "./lib/receiver/take-health.ts";
import { takeUpload } from "./lib/receiver/take-upload.ts";
import { type Sessions, createSessions, toLogin } from "./lib/receiver/sessions.ts";
import { VersionGate } from "./lib/receiver/version-gate.ts";
import { type Called, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-receiver: stores every host's reports and episodes, alerts an inbox when a host goes silent

  mkdir -p ~/.config/picket && picket-receiver example > ~/.config/picket/receiver.yaml
  picket-receiver host add web-1      # prints web-1's token and what to paste there
  picket-receiver --check && picket-receiver`;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

/** What the daemon's parts share. */
interface Receiver extends Looping {
  admission: Admission;
  sessions: Sessions;
  metrics: Registry;
  log: Log;
}

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log } = service;
  refuseRootOwned(config.data_dir, episodesFolder(config));
  const from = config.notify?.from ?? "receiver";
  const outbox = createOutbox(config.notify, { from, log });
  const tellDamage = async (error: unknown): Promise<never> => {
    const damage = damageOf(error);
    if (damage !== null) await outbox.tell(damageEvent(config.data_dir, damage));
    throw error;
  };
  const lock = join(config.data_dir, "receiver.lock");
  const isLost = existsSync(lock) && !isPostgres(config.store) && hasNoStore(config.data_dir);
  const store = await oncePossible(service, () => Store.open(config)).catch(tellDamage);
  const unlock = holdAlone("picket-receiver", lock);
  if (isLost) {
    const lost = lossEvent(config.data_dir);
    log.error(lost.text);
    await outbox.tell(lost).catch((error: unknown) => log.error("the inbox was not told", { error }));
  }
  await makeShrinkable(store, log);
  const { episodes, index } = await openEpisodes(config, store);
  const metrics = new Registry();
  const gate = new VersionGate(config.version_gate, log);
  const presence = new Presence(store, log);
  const figures = createFigures(metrics, { gate, store, presence });
  const receiver: Receiver = {
    config,
    store,
    episodes,
    index,
    gate,
    admission: new Admission({ store, config, presence, figures, log }),
    sessions: createSessions(store, () => receiver.config.auth.token),
    presence,
    watchJobs: createJobWatch(store),
    news: createNews(store),
    figures,
    metrics,
    log,
  };
  await episodes.prepare(log);
  const events = await oncePossible(service, async () => {
    // Before any host can report: the time that the receiver was away counts as no host's silence.
    await watch(receiver);
    await receiver.index.follow();
    await countAll(receiver);
    return eventSource(store, log);
  }).catch(tellDamage);
  await gate.refresh();
  const server = listenToAgents(receiver, service);
  startLoops(receiver, {
    service,
    tellEvents: (alive) => keepProblem(figures.inbox, () => outbox.pass(events, alive)),
    folders: () => writtenFolders(receiver.config),
  });
  log.info("ready", { listen: String(server.address), data: config.data_dir, hosts: hostCount(receiver) });
  return {
    status: () => statusLine(receiver),
    troubles: () => troublesOf(receiver, writtenFolders(receiver.config)),
    async reload(next) {
      // What may fail comes first: a reload that is refused changes nothing.
      server.reload(next);
      receiver.config = next;
      // Streams look whether they may go on.
      receiver.news.emit("event");
      receiver.admission.configure(next);
      receiver.gate.configure(next.version_gate);
      // So that health and metrics speak of the new list at once.
      await receiver.gate.refresh();
    },
    async stop() {
      receiver.news.emit("event");
      await server.stop();
      await receiver.index.close();
      await outbox.close();
      // On a full disk the mark before this one counts.
      await receiver.presence.mark().catch(() => {});
      await store.close();
      unlock();
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------
// The doors

const AGENT_DOORS = /^\/(v1\/host-report|agent\/telemetry|v1\/ping)\/?$/;
const AGENT_PUTS = /^\/v1\/(episodes|host-health)\//;
const PING_DOOR = /^\/ping\/./;

/** Agents have tokens of their own, which `Admission` judges, and a ping's path is its credential. A path that is nearly one of theirs is 404 to them: it says nothing of their token. */
function hasOwnCredentials(pathname: string, method: string): boolean {
  const meant = pathname.replaceAll(/(\/|%2F)+/g, "/").toLowerCase();
  return AGENT_DOORS.test(meant) || PING_DOOR.test(meant) || (method === "PUT" && AGENT_PUTS.test(meant));
}

/** All else is read by operators: with a token, by login, or by this machine alone. */
function credentialsOf({ auth }: Config, pathname: string, method: string): ReturnType<CredentialsOf> {
  // A login asks for the token; what the form looks like is no secret.
  const isOpen = auth.token.length > 0 && /^\/(login$|assets\/)/.test(pathname);
  if (isOpen || hasOwnCredentials(pathname, method)) return "own";
  return pathname === "/health" || pathname === "/metrics" ? null : "local";
}

function listenToAgents(receiver: Receiver, service: Service): Server {
  return serve({
    role: "receiver",
    listen: receiver.config.listen,
    connection: receiver.config,
    answer: answersOf(createApp(receiver, service.stopping)),
    log: receiver.log,
    metrics: receiver.metrics,
    health: () => health(receiver, writtenFolders(receiver.config)),
    credentialsOf: (path, method) => credentialsOf(receiver.config, path, method),
    hasSession: receiver.sessions.isOpen,
    refused: toLogin,
  });
}

type C = Context<{ Bindings: Bindings }>;

/** All routes but /health and /metrics. */
export function createApp(receiver: Receiver, stopping: AbortSignal): Hono<{ Bindings: Bindings }> {
  const { store, index, episodes, news, figures } = receiver;
  const app = new Hono<{ Bindings: Bindings }>();
  const taking = { ...receiver, config: () => receiver.config, news: () => news.emit("event") };
  const takeReport = createTakeReport(taking);
  const admitted = (c: C, door: Door, work: (sender: Sender) => Promise<Response>): Promise<Response> =>
    receiver.admission.admit({ request: c.req.raw, ip: c.env.ip(), door }, work).finally(() => news.emit("change"));

  app.post("/v1/host-report", (c) =>
    admitted(c, "report", async (sender) => {
      const { interval } = await takeReport(sender, c.req.raw, true);
      const control = { poll_interval_seconds: interval, blocked: false, desired_generation: 0, has_signed_ops: false };
      return Response.json(control);
    }),
  );
  app.post("/agent/telemetry", (c) =>
    admitted(c, "report", async (sender) => {
      await takeReport(sender, c.req.raw, false);
      return new Response(null, { status: 204 });
    }),
  );
  app.post("/v1/ping", (c) =>
    admitted(c, "other", async (sender) => {
      await store.write((tx) => stamp(tx, sender), [sender.host]);
      const former = await formerNames(store.read, sender.host);
      const names = { host: sender.name, ...(former.length > 0 ? { former_names: former } : {}) };
      return Response.json({ ...names, time: new Date().toISOString() });
    }),
  );
  app.put("/v1/host-health/:host", (c) =>
    admitted(c, "other", async (sender) => {
      await mustBe(store, sender, c.req.param("host"));
      await takeHealth(taking, sender, c.req.raw);
      return new Response(null, { status: 204 });
    }),
  );
  app.put("/v1/episodes/:host/:file", (c) =>
    admitted(c, "upload", async (sender) => {
      // A slow link is no stalled one: the upload itself notices when nothing comes.
      c.env.idle(0);
      const uploading = takeUpload(taking, { sender, request: c.req.raw, ...c.req.param() });
      const { outcome, sha256, size } = await uploading.finally(() => c.env.idle(30));
      return Response.json({ sha256, size }, { status: outcome === "stored" ? 201 : 200 });
    }),
  );
  app.on(
    ["GET", "POST"],
    "/ping/*",
    createPingDoor({ ...receiver, perMinute: () => receiver.config.rate_limit_per_minute, taken: figures.pings }),
  );
  const reading = { store, index, episodes, news, config: () => receiver.config, stopping };
  app.route("/v1", readingRoutes(reading));
  let site: Promise<(c: C) => Promise<Response>> | null = null;
  app.on(["GET", "POST"], SITE, async (c) => {
    // The pages' code is only loaded once a page is asked for.
    site ??= import("./lib/receiver/page/site.tsx").then(({ createSite }) => createSite({ ...receiver, reading }));
    return (await site)(c);
  });
  return app;
}

/** Runs the role: by itself, or as a part of picket.ts. */
export const start = (called?: Called) =>
  run("receiver", { usage: USAGE, schema: Config, main, commands: COMMANDS, example }, called);

if (import.meta.main) await start();
