#!/usr/bin/env bun
// picket-collector: webhooks and dropped files in, inbox lines out.
// Reads its YAML. Listens on <webhook.listen>, watches <drop_folder.path>. Writes <inbox_dir>/*.inbox, and for itself
// <inbox_dir>/.picket/. Killed at any moment it loses nothing it acknowledged, and doubles no drop and no delivery that has
// an id: what a crash leaves behind is healed by the next start (lib/journal.ts, lib/inbox.ts).

import { join } from "node:path";
import type * as v from "valibot";
import example from "./etc/collector.yaml" with { type: "text" };
import { COMMANDS } from "./lib/collector/commands.ts";
import { Config, type Route } from "./lib/collector/config.ts";
import { PayloadError, deliveryId, eventId, parsePayload } from "./lib/collector/delivery.ts";
import { type DropFigures, DropFolder } from "./lib/collector/drop-folder.ts";
import { type Verifier, compileVerifier } from "./lib/collector/signature.ts";
import { TemplateError } from "./lib/collector/template.ts";
import type { Listen } from "./lib/config.ts";
import { cannotWrite, holdAlone, isDiskFull, makeFolder } from "./lib/files.ts";
import { type Answer, type Health, type Server, pathOf, readBody, serve } from "./lib/http.ts";
import { Refusal, refusalLog, unknownPath, wrongMethod } from "./lib/refusal.ts";
import {
  type EventDraft,
  type InboxEvent,
  InboxWriter,
  type Priority,
  completeEvent,
  randomId,
  statePath,
} from "./lib/inbox.ts";
import type { Log } from "./lib/log.ts";
import { Registry } from "./lib/metrics.ts";
import { type Called, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-collector: webhooks and dropped files in, inbox lines out

  mkdir -p ~/.config/picket && picket-collector example > ~/.config/picket/collector.yaml
  picket-collector --check && picket-collector
  picket-collector ping bob "the build is green" && picket-collector read bob --new`;

const MAX_BODY_BYTES = 1 << 20;
const DEFAULT_POLL_SECONDS = 30;
const FLUSH_CHECK_SECONDS = 10;
const ACCEPTED = { status: 202, headers: { "content-type": "application/json" } };

// ---------------------------------------------------------------------------------------------------------------
// The daemon

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log } = service;
  if (config.durability === "os") log.warn("durability: os: a power cut may lose events that were acknowledged");
  const inbox = new InboxWriter({
    dir: config.inbox_dir,
    durability: config.durability,
    dedupeHours: dedupeHours(config),
    onLedgerError: (error) => log.warn("delivered id not noted, the inbox itself remembers it", { error }),
  });
  await inbox.open();
  const metrics = new Registry();
  const collector: Collector = {
    config,
    inbox,
    log,
    metrics,
    figures: createFigures(metrics),
    routes: compileRoutes(config),
  };
  const drops = startDrops(collector, service);
  const server = config.webhook ? listenForWebhooks(collector, config.webhook.listen, drops) : null;
  // A collector that only takes webhooks has no other loop: the watchdog shall see when nothing reaches the disk any more.
  service.loop({ name: "flush", every: () => FLUSH_CHECK_SECONDS, pass: () => inbox.settled() });
  const listening = server && String(server.address);
  log.info("ready", {
    listen: listening,
    inbox: config.inbox_dir,
    routes: collector.routes.size,
    drops: config.drop_folder?.path,
  });
  return {
    status: () => statusLine(collector, drops),
    reload(next) {
      // What can fail comes first: a configuration is taken over as a whole, or the former one stays.
      drops.prepare(next);
      try {
        server?.reload(next);
      } catch (error) {
        drops.letGo();
        throw error;
      }
      collector.config = next;
      collector.routes = compileRoutes(next);
      inbox.dedupeHours = dedupeHours(next);
      drops.reload();
    },
    async stop() {
      await server?.stop();
      drops.close();
      await inbox.close();
    },
  };
}

/** What the daemon's parts share. `config` and `routes` are replaced by a reload. */
interface Collector {
  config: Config;
  routes: Map<string, CompiledRoute>;
  inbox: InboxWriter;
  figures: Figures;
  metrics: Registry;
  log: Log;
}

function dedupeHours({ webhook }: Config): number {
  return webhook?.dedupe_hours ?? 24;
}

// ---------------------------------------------------------------------------------------------------------------
// Webhooks

interface CompiledRoute extends Omit<v.InferOutput<typeof Route>, "verify" | "recipient" | "priority"> {
  recipients: string[];
  priority: Priority;
  verifier: Verifier;
  /** Where a request that bears no token is let in by its signature. */
  signed: boolean;
  source: string;
}

function compileRoutes({ webhook }: Config): Map<string, CompiledRoute> {
  const compile = ({ verify, recipient, priority, ...route }: v.InferOutput<typeof Route>): CompiledRoute => ({
    ...route,
    recipients: [...new Set([recipient].flat())],
    priority: priority || "normal",
    verifier: compileVerifier({ scheme: verify?.scheme ?? "none", secrets: verify?.secret ?? [] }),
    signed: verify !== undefined && verify.scheme !== "none",
    source: `webhook:${route.path}`,
  });
  return new Map((webhook?.routes ?? []).map((route) => [route.path, compile(route)]));
}

function listenForWebhooks(collector: Collector, listen: Listen, drops: Drops): Server {
  return serve({
    role: "collector",
    listen,
    connection: collector.config,
    answer: takeWebhooks(collector),
    log: collector.log,
    metrics: collector.metrics,
    health: () => health(collector, drops),
    bearsOwnCredentials: (path) => collector.routes.get(path)?.signed === true,
  });
}

/** Routes are looked up by the path as it was sent: a path from the configuration is never a pattern. */
function takeWebhooks(collector: Collector): Answer {
  const { figures, log } = collector;
  const refusals = refusalLog(log);
  return async (request, { ip }) => {
    const route = collector.routes.get(pathOf(request.url));
    if (!route) throw unknownPath();
    try {
      if (request.method !== "POST") throw wrongMethod(request.method, "POST");
      figures.received.add();
      return await receive(collector, route, request);
    } catch (error) {
      figures.errors.add();
      if (request.signal.aborted) throw error;
      const refusal = asRefusal(error, log);
      if (refusal.status === 401) refusals(refusal, ip());
      throw refusal;
    }
  };
}

/** One delivery, from its signature to its lines on disk. */
async function receive(collector: Collector, route: CompiledRoute, request: Request): Promise<Response> {
  const { headers } = request;
  const header = (name: string) => headers.get(name) ?? undefined;
  const early = route.verifier.early(header, Date.now());
  if (early !== null) throw new Refusal(401, "signature", early);
  const body = await readBody(request, MAX_BODY_BYTES);
  const wrong = route.verifier.verify(header, body, Date.now());
  if (wrong !== null) throw new Refusal(401, "signature", wrong);

  const data = await parsePayload(body, header("content-type"));
  const context = { missing: route.missing, header, query: queryOf(request.url) };
  if (route.when && route.when.render(data, context).trim() !== "true") {
    collector.figures.filtered.add();
    return Response.json({ skipped: true });
  }
  const delivery = deliveryId(header);
  const id = delivery === null ? randomId() : eventId(route.path, delivery);
  const payload = route.template.render(data, context);
  const [first, ...others] = route.recipients.map((to) => {
    const { type, priority, sentinel, source } = route;
    const ts = new Date().toISOString();
    const event = { ts, id, from: collector.config.agent, to, type, priority, payload, sentinel, source };
    return deliver(collector, event, delivery !== null);
  });
  await (others.length === 0 ? first : Promise.all([first, ...others]));
  return new Response(`{"id":"${id}"}`, ACCEPTED);
}

async function deliver({ inbox, figures }: Collector, event: InboxEvent, once: boolean): Promise<void> {
  if (!once) await inbox.deliver(event);
  else if ((await inbox.deliverOnce(event)) === "already") return figures.duplicates.add();
  figures.emitted.add();
}

/** What went wrong, as the answer that makes a sender do the right thing. */
function asRefusal(error: unknown, log: Log): Refusal {
  if (error instanceof Refusal) return error;
  if (error instanceof PayloadError) return new Refusal(400, "bad_body", error.message);
  if (error instanceof TemplateError) return new Refusal(500, "template", `the template fails: ${error.message}`);
  log.error("event not written", { error });
  if (isDiskFull(error))
    return new Refusal(507, "disk_full", "the inbox can't be written: no space left; send it again later");
  return new Refusal(500, "inbox", "the inbox can't be written; send it again later");
}

function queryOf(url: string): (name: string) => string | undefined {
  let parameters: URLSearchParams | undefined;
  return (name) => {
    const start = url.indexOf("?");
    parameters ??= new URLSearchParams(start < 0 ? "" : url.slice(start));
    return parameters.get(name) ?? undefined;
  };
}

// ---------------------------------------------------------------------------------------------------------------
// Drops

interface Drops {
  folder(): DropFolder | null;
  /** Makes the folder of a configuration, unless it is the present one: that may go and come back. Throws when it can't. */
  prepare(config: Config): void;
  /** Lets go of every folder but the present configuration's. */
  letGo(): void;
  reload(): void;
  close(): void;
}

/** Runs the drop folder of the configuration, also when a reload brings another one. */
function startDrops(collector: Collector, service: Service): Drops {
  const { log } = collector;
  let folder: DropFolder | null = null;
  let next: number | null = null;
  const held = new Map<string, () => void>();
  const prepare = ({ drop_folder: wanted }: Config) => {
    if (!wanted || wanted.path === folder?.path) return;
    makeFolder(wanted.path, 0o755);
    if (!held.has(wanted.path)) held.set(wanted.path, holdFolder(collector, wanted.path));
  };
  const letGo = () => {
    for (const [path, release] of held) {
      if (path === collector.config.drop_folder?.path) continue;
      release();
      held.delete(path);
    }
  };
  const follow = () => {
    const settings = collector.config.drop_folder;
    const same = settings !== undefined && folder?.path === settings.path;
    if (!same) {
      folder?.close();
      folder = null;
    }
    letGo();
    if (!settings) return;
    const options = { settleMs: settings.settle_ms, agent: collector.config.agent };
    if (folder) return folder.configure(options);
    const deliverDrop = (event: EventDraft & { id: string }) => deliver(collector, completeEvent(event), true);
    folder = new DropFolder({ path: settings.path, ...options, log, deliver: deliverDrop });
  };
  const figure = (name: keyof DropFigures) => () => folder?.figures[name] ?? 0;
  collector.metrics.counted("picket_drops_total", "Drops delivered.", figure("delivered"));
  collector.metrics.counted("picket_dead_letters_total", "Drops moved to .dead-letter.", figure("dead_letters"));
  collector.metrics.gauge(
    "picket_drops_waiting",
    "Drops that stay because the inbox can't be written.",
    figure("waiting"),
  );
  const poll = () => collector.config.drop_folder?.poll_fallback_seconds ?? DEFAULT_POLL_SECONDS;
  prepare(collector.config);
  follow();
  const loop = service.loop({
    name: "drops",
    every: () => Math.min(poll(), (next ?? Number.POSITIVE_INFINITY) / 1000),
    async pass(alive) {
      next = null;
      next = (await folder?.pass(alive, () => loop.wake(), service.stopping)) ?? null;
    },
  });
  return {
    folder: () => folder,
    prepare,
    letGo,
    reload() {
      follow();
      loop.wake();
    },
    close: () => folder?.close(),
  };
}

/** Two collectors that empty one folder would deliver twice what both see: the second one doesn't start. Gives what ends the hold. */
function holdFolder({ inbox, log }: Collector, folder: string): () => void {
  const name = new Bun.CryptoHasher("sha256").update(folder).digest("hex").slice(0, 16);
  try {
    makeFolder(statePath(inbox.dir), 0o700);
    return holdAlone("picket-collector", join(statePath(inbox.dir), `drops-${name}.lock`));
  } catch (error) {
    if (error instanceof Error && "hint" in error && !("code" in error))
      throw new Error(`empty "${folder}"`, { cause: error });
    // A full disk for one: that is no reason not to start.
    log.warn("no telling whether another collector empties the drop folder, too", { path: folder, error });
    return () => {};
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Figures

function createFigures(metrics: Registry) {
  return {
    received: metrics.counter("picket_webhooks_received_total", "Deliveries to known routes."),
    emitted: metrics.counter("picket_events_total", "Events written to an inbox, durable."),
    errors: metrics.counter("picket_webhook_errors_total", "Requests to known routes that were refused (4xx, 5xx)."),
    filtered: metrics.counter("picket_webhooks_filtered_total", "Deliveries that `when` did not let through."),
    duplicates: metrics.counter("picket_duplicates_total", "Deliveries and drops that had been delivered before."),
  };
}
type Figures = ReturnType<typeof createFigures>;

/** `/health`: whether the inbox can be written now, and the figures. */
function health({ figures, inbox, config }: Collector, drops: Drops): Health {
  const problem = cannotWrite(inbox.dir);
  const dropped = drops.folder()?.figures;
  return {
    ok: problem === null,
    figures: {
      received: figures.received.value,
      emitted: figures.emitted.value,
      errors: figures.errors.value,
      uptime_sec: Math.floor(process.uptime()),
      filtered: figures.filtered.value,
      duplicates: figures.duplicates.value,
      ...(dropped ? { drops: dropped } : {}),
      durability: config.durability,
      ...(problem === null ? {} : { problem }),
    },
  };
}

function statusLine({ figures }: Collector, drops: Drops): string {
  const dropped = drops.folder()?.figures;
  const waiting = dropped?.waiting ? `, ${dropped.waiting} drops waiting` : "";
  const dead = dropped?.dead_letters ? `, ${dropped.dead_letters} dead letters` : "";
  return `${figures.emitted.value} events, ${figures.errors.value} errors${dead}${waiting}`;
}

/** Runs the role: by itself, or as a part of picket.ts. */
export const start = (called?: Called) =>
  run(
    "collector",
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
