#!/usr/bin/env bun
// picket-collector: webhooks and dropped files in, inbox lines out.
// Reads its YAML. Listens on <webhook.listen>, watches <drop_folder.path>. Writes <inbox_dir>/*.inbox, and for itself
// <inbox_dir>/.picket/. Sends what inboxes hold on to `deliver` (lib/collector/deliver/). Killed at any moment it loses nothing it acknowledged, and doubles no drop and no delivery that has
// an id: what a crash leaves behind is healed by the next start (lib/journal.ts, lib/inbox.ts).

import type * as v from "valibot";
import example from "./etc/collector.yaml" with { type: "text" };
import { readBody } from "./lib/body.ts";
import { COMMANDS } from "./lib/collector/commands.ts";
import { Config, type Route } from "./lib/collector/config.ts";
import { readPayload, unpacking } from "./lib/collector/body.ts";
import { Deliveries, type DeliveryRecord, deliveryList } from "./lib/collector/deliveries.ts";
import { openChannels, startDeliveries } from "./lib/collector/deliver/loop.ts";
import { askedOf, deliveryId, eventId } from "./lib/collector/delivery.ts";
import type { Drop } from "./lib/collector/drop.ts";
import { DropFolder } from "./lib/collector/drop-folder.ts";
import { type Figures, createFigures, health, statusLine, troublesOf } from "./lib/collector/figures.ts";
import { SignatureError, compileVerifier } from "./lib/collector/signature.ts";
import { TemplateError } from "./lib/collector/template.ts";
import type { Listen } from "./lib/config.ts";
import { isBusy } from "./lib/database.ts";
import { type EventWriter, eventWriter } from "./lib/event-writer.ts";
import { isDiskFull } from "./lib/files.ts";
import { type Answer, type Server, comparable, pathOf, serve } from "./lib/http.ts";
import { oncePossible } from "./lib/once-possible.ts";
import { Refusal, unknownPath, wrongMethod } from "./lib/refusal.ts";
import { inboxPlace } from "./lib/inbox-place.ts";
import { type Delivery, type InboxEvent, randomId, statePath } from "./lib/inbox.ts";
import { openInboxes } from "./lib/inboxes.ts";
import { type Log, seldom } from "./lib/log.ts";
import { Registry } from "./lib/metrics.ts";
import { type Called, type Loop, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-collector: webhooks and dropped files in, inbox lines out

  mkdir -p ~/.config/picket && picket-collector example > ~/.config/picket/collector.yaml
  picket-collector --check && picket-collector
  picket-collector ping bob "the build is green" && picket-collector read bob --new`;

const MAX_BODY_BYTES = 1 << 20;
const DEDUPE_HOURS = 24;
const FLUSH_CHECK_SECONDS = 10;
const ACCEPTED = { status: 202, headers: { "content-type": "application/json" } };

// ---------------------------------------------------------------------------------------------------------------
// The daemon

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log } = service;
  if (config.durability === "os" && config.inbox === undefined)
    log.warn("durability: os: a power cut may lose events that were acknowledged");
  const place = inboxPlace(config);
  const inbox = await eventWriter(place, {
    durability: config.durability,
    dedupeHours: config.webhook?.dedupe_hours ?? DEDUPE_HOURS,
    onLedgerError: (error) => log.warn("delivered id not noted, the inbox itself remembers it", { error }),
  });
  await oncePossible(service, () => inbox.open());
  const metrics = new Registry();
  const figures = createFigures(metrics);
  const deliveries = new Deliveries(deliveryList(place));
  const routes = compileRoutes(config);
  const agent = (): string => collector.config.agent;
  const inboxes = await openInboxes(place, { log, signal: service.stopping });
  const outgoing = await startDeliveries(config.deliver, { inbox, inboxes, agent, log, metrics, service });
  const collector: Collector = { config, inbox, deliveries, outgoing, log, metrics, figures, routes, folder: null };
  collector.folder = openDropFolder(collector, config);
  const emptying = emptyDropFolder(collector, service);
  const server = config.webhook ? listenForWebhooks(collector, config.webhook.listen) : null;
  // A collector without a drop folder has no other loop: the watchdog has to see when nothing reaches the disk any more.
  service.loop({
    name: "flush",
    every: () => FLUSH_CHECK_SECONDS,
    async pass(alive) {
      await inbox.settled();
      alive();
      await inbox.check();
    },
  });
  log.info("ready", {
    listen: server && String(server.address),
    inbox: place.database?.url ?? place.dir,
    routes: collector.routes.size,
    drops: config.drop_folder?.path,
    deliver: config.deliver.map(({ name }) => name).join(", ") || undefined,
  });
  return {
    status: () => statusLine(collector),
    troubles: () => troublesOf(collector),
    async reload(next) {
      // What can fail comes first, so that a refused reload changes nothing.
      const channels = openChannels(next.deliver);
      const { folder } = collector;
      const opened = openDropFolder(collector, next);
      try {
        server?.reload(next);
      } catch (error) {
        if (opened !== folder) opened?.close();
        throw error;
      }
      if (opened !== folder) folder?.close();
      Object.assign(collector, { config: next, routes: compileRoutes(next), folder: opened });
      inbox.dedupeHours = next.webhook?.dedupe_hours ?? DEDUPE_HOURS;
      emptying.wake();
      await outgoing.reload(channels);
    },
    async stop() {
      await Promise.all([server?.stop(), outgoing.stop()]);
      collector.folder?.close();
      await Promise.all([deliveries.close(), inbox.close(), inboxes[Symbol.asyncDispose]()]);
      await place.database?.close();
    },
  };
}

/** What the daemon's parts share. A reload replaces `config`, `routes` and `folder`. */
interface Collector {
  config: Config;
  routes: Map<string, CompiledRoute>;
  /** The drop folder; null without one. */
  folder: DropFolder | null;
  inbox: EventWriter;
  /** What came over webhooks, for people. */
  deliveries: Deliveries;
  /** Sends events on. */
  outgoing: Awaited<ReturnType<typeof startDeliveries>>;
  figures: Figures;
  metrics: Registry;
  log: Log;
}

// ---------------------------------------------------------------------------------------------------------------
// Webhooks

type CompiledRoute = ReturnType<typeof compileRoute>;

function compileRoutes({ webhook }: Config): Map<string, CompiledRoute> {
  return new Map((webhook?.routes ?? []).map((route) => [comparable(route.path), compileRoute(route)]));
}

function compileRoute({ verify, recipient, ...route }: v.InferOutput<typeof Route>) {
  // Some clients send user and password only after a 401 with this header.
  const isBasic = verify?.scheme === "basic";
  const challenge: Record<string, string> = isBasic ? { "www-authenticate": 'Basic realm="picket"' } : {};
  const credentials = verify && (verify.scheme === "none" ? ("none" as const) : ("own" as const));
  const verifier = compileVerifier(verify ?? { scheme: "none", secret: [] });
  // What events, log and `deliveries` show.
  const title = route.name ?? route.path;
  return { ...route, recipients: [...new Set([recipient].flat())], verifier, credentials, challenge, title };
}

function listenForWebhooks(collector: Collector, listen: Listen): Server {
  const { figures, deliveries } = collector;
  return serve({
    role: "collector",
    listen,
    connection: collector.config,
    answer: takeWebhooks(collector),
    log: collector.log,
    metrics: collector.metrics,
    health: () => health(collector),
    credentialsOf: (path) => collector.routes.get(path)?.credentials ?? null,
    shown: (path) => collector.routes.get(path)?.title ?? path,
    refused(path, { status, message: reason }) {
      const route = collector.routes.get(path);
      if (!route) return;
      figures.errors.add();
      deliveries.note({ ts: new Date().toISOString(), route: route.title, status, reason });
    },
  });
}

function takeWebhooks(collector: Collector): Answer {
  const { figures, deliveries } = collector;
  const rare = seldom(collector.log);
  return async (request, { ip }) => {
    const route = collector.routes.get(pathOf(request.url));
    if (!route) throw unknownPath();
    const record: DeliveryRecord = { ts: new Date().toISOString(), route: route.title, status: ACCEPTED.status };
    try {
      if (request.method !== "POST") throw wrongMethod(request.method, "POST");
      figures.received.add();
      return await receive(collector, { route, request, record });
    } catch (error) {
      figures.errors.add();
      const gone = request.signal.aborted && !(error instanceof Refusal);
      const refusal = gone ? new Refusal(499, "gone", "the sender went away") : asRefusal(error, route);
      const { status, code, message: reason, log: more } = refusal;
      Object.assign(record, { status, reason });
      const level = status < 500 ? "warn" : "error";
      rare[level](`${route.title} ${code}`, "delivery refused", { ...record, ts: undefined, ip: ip(), ...more });
      throw gone ? error : refusal;
    } finally {
      deliveries.note(record);
    }
  };
}

interface Received {
  route: CompiledRoute;
  request: Request;
  /** Its line in `deliveries`, filled in while it is handled. */
  record: DeliveryRecord;
}

/** One delivery, from its signature to its lines on disk. */
async function receive(collector: Collector, { route, request, record }: Received): Promise<Response> {
  const asked = askedOf(request);
  const length = asked.header("content-length");
  if (length) record.size = Number(length);
  // The body is read only if the headers pass.
  const verifyBody = route.verifier(asked, Date.now());
  const unpacked = unpacking(asked.header("content-encoding"), MAX_BODY_BYTES);
  const body = await readBody(request, MAX_BODY_BYTES);
  record.size = body.length;
  verifyBody(body);
  const { data, text } = readPayload(unpacked(body), asked.header("content-type"));
  const context = { missing: route.missing, ...asked, body: text };
  if (route.when && route.when.render(data, context).trim() !== "true") {
    collector.figures.filtered.add();
    Object.assign(record, { status: 200, reason: "`when` is not true" });
    return Response.json({ skipped: true });
  }
  const delivery = deliveryId(asked.header);
  const id = delivery === null ? randomId() : eventId(route.path, delivery);
  const payload = route.template.render(data, context);
  const { type, priority, sentinel, title } = route;
  const [source, once] = [`webhook:${title}`, delivery !== null];
  const outcomes = await Promise.all(
    route.recipients.map((to) => deliver(collector, { id, to, type, priority, payload, sentinel, source }, once)),
  );
  record.id = id;
  if (!outcomes.includes("written")) record.reason = "delivered before";
  return new Response(`{"id":"${id}"}`, ACCEPTED);
}

/** What a webhook or a drop gives of an event. */
type Given = Omit<InboxEvent, "ts" | "from" | "priority" | "sentinel"> & Pick<Drop, "priority" | "sentinel">;

/** Appends an event to its recipient's inbox, durably; `once`: unless its id is there already. */
async function deliver({ inbox, figures, config }: Collector, given: Given, once: boolean): Promise<Delivery> {
  const { id, to, type, payload, source } = given;
  const [ts, from, priority] = [new Date().toISOString(), config.agent, given.priority || "normal"] as const;
  const event = { ts, id, from, to, type, priority, payload, sentinel: given.sentinel ?? undefined, source };
  const outcome = once ? await inbox.deliverOnce(event) : await inbox.deliver(event);
  (outcome === "already" ? figures.duplicates : figures.emitted).add();
  return outcome ?? "written";
}

/** What went wrong, as the answer that makes a sender do the right thing. */
function asRefusal(error: unknown, { challenge }: CompiledRoute): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof SignatureError) return new Refusal(401, "signature", error.message, { headers: challenge });
  if (error instanceof TemplateError) return new Refusal(500, "template", `the template fails: ${error.message}`);
  const log = { error };
  const later = { headers: { "retry-after": "5" }, log };
  if (isBusy(error)) return new Refusal(503, "away", "the inbox's database is away; send it again later", later);
  return isDiskFull(error)
    ? new Refusal(507, "disk_full", "the inbox can't be written: no space left; send it again later", { log })
    : new Refusal(500, "inbox", "the inbox can't be written; send it again later", { log });
}

// ---------------------------------------------------------------------------------------------------------------
// Drops

/** Opens the drop folder of a configuration, unless it is the present one: that may be gone for now, and come back. Throws when it can't. */
function openDropFolder(collector: Collector, { drop_folder }: Config): DropFolder | null {
  const { folder, inbox, figures, log } = collector;
  if (!drop_folder || folder?.path === drop_folder.path) return drop_folder ? folder : null;
  return new DropFolder({
    path: drop_folder.path,
    stateFolder: statePath(collector.config.inbox_dir),
    settleMs: () => collector.config.drop_folder?.settle_ms ?? drop_folder.settle_ms,
    log,
    figures: figures.drops,
    delivered: inbox,
    deliver: ({ recipient: to, ...drop }, event) => deliver(collector, { ...drop, ...event, to }, true),
  });
}

/** The loop over whichever drop folder is configured now. */
function emptyDropFolder(collector: Collector, { loop, stopping }: Service): Loop {
  let soonMs = Infinity;
  const emptying = loop({
    name: "drops",
    every: () => Math.min(collector.config.drop_folder?.poll_fallback_seconds ?? Infinity, soonMs / 1000),
    async pass(alive) {
      soonMs = Infinity;
      soonMs = (await collector.folder?.pass(alive, () => emptying.wake(), stopping)) ?? Infinity;
    },
  });
  return emptying;
}

/** Runs the role: by itself, or as a part of picket.ts. */
export const start = (called?: Called) =>
  run("collector", { usage: USAGE, schema: Config, main, commands: COMMANDS, example }, called);

if (import.meta.main) await start();
