#!/usr/bin/env bun
// picket-agent: reports this host to a receiver, as a heartbeat, and ships finished episode folders.
// Reads its YAML, or PICKET_URL and PICKET_TOKEN alone; /proc, /sys and the Docker Engine's socket. Writes <data_dir>/queue: reports
// that could not be sent yet; outbox/, shipped/ and quarantine/ beside <ship.episodes_dir>. Listens nowhere.
// Killed at any moment it loses the sample it was taking, nothing else: an episode's state is the place where it lies.

import { type FSWatcher, existsSync, watch } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import systemUnit from "./etc/picket-agent.service" with { type: "text" };
import userUnit from "./etc/picket-agent.user.service" with { type: "text" };
import example from "./etc/agent.yaml" with { type: "text" };
import { Backlog } from "./lib/agent/backlog.ts";
import { COMMANDS } from "./lib/agent/commands.ts";
import { examine, worst } from "./lib/agent/doctor.ts";
import { EpisodePlaces } from "./lib/agent/episodes.ts";
import { type Hub, hostOf, openHub, refusedAtOnce } from "./lib/agent/hub.ts";
import { collect, openSources } from "./lib/agent/report.ts";
import { DRAIN_SECONDS, Reporter } from "./lib/agent/reporter.ts";
import { Shipping } from "./lib/agent/shipping.ts";
import {
  httpUrl,
  integer,
  isLoopback,
  nameSegment,
  number,
  ownDataFolder,
  path,
  rule,
  seconds,
  secret,
} from "./lib/config.ts";
import type { Log } from "./lib/log.ts";
import { type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-agent: reports this host to a receiver, as a heartbeat

  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent selftest
  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent`;

// ---------------------------------------------------------------------------------------------------------------
// Configuration: the schema is the documentation of the defaults

const Receiver = v.pipe(
  v.strictObject({
    url: httpUrl(),
    ...secret("token", { required: true }),
    /** Whom to trust besides the system's authorities. */
    ca_file: v.optional(path()),
    client_cert_file: v.optional(path()),
    client_key_file: v.optional(path()),
    timeout_seconds: v.optional(seconds({ min: 1, max: 600 }), 30),
  }),
  rule(({ url, client_cert_file: cert, client_key_file: key }) => {
    const broken = [];
    const { protocol, hostname } = new URL(url);
    if (protocol === "http:" && !isLoopback(hostname)) {
      broken.push({
        path: ["url"],
        message: "http would send the token readable: only https, or http to this machine",
      });
    }
    if (!cert !== !key) {
      broken.push({
        path: ["client_cert_file"],
        message: 'client certificates need "client_cert_file" and "client_key_file"',
      });
    }
    return broken;
  }),
);

const Ship = v.strictObject({
  /** Folders with a done.marker in them are shipped. */
  episodes_dir: path(),
  scan_seconds: v.optional(seconds({ min: 1, max: 3600 }), 5),
  /** 0 keeps for ever. */
  shipped_keep_days: v.optional(number({ min: 0, unit: "days" }), 7),
  quarantine_keep_days: v.optional(number({ min: 0, unit: "days" }), 30),
});

const HOUR_MS = 3_600_000;
const FIRST_LOOK_MS = 200;

const Config = v.strictObject({
  receiver: Receiver,
  /** Default: the token's host. */
  host_id: v.optional(nameSegment()),
  /** Until the receiver says otherwise. */
  interval_seconds: v.optional(
    v.pipe(
      seconds({ max: 86_400 }),
      v.check((given) => given > 0, "expected a number of seconds above 0"),
    ),
    60,
  ),
  /** `telemetry` for hubs that know only that. */
  protocol: v.optional(v.picklist(["report", "telemetry"]), "report"),
  /** Reports that wait for the receiver. */
  data_dir: v.optional(path(), () => ownDataFolder("agent")),
  queue_max_mb: v.optional(integer({ min: 1, unit: "MiB" }), 64),
  /** Mount points whose space is reported, added up. */
  disks: v.optional(v.array(path()), ["/"]),
  docker: v.optional(
    v.strictObject({ socket: v.optional(v.string(), "auto"), enabled: v.optional(v.boolean(), true) }),
    {},
  ),
  /** Units of systemd whose state is reported; `cloudflared` has a field of its own. */
  services: v.optional(
    v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9:_.\\@-]+$/, "expected the name of a unit"))),
    [],
  ),
  ship: v.optional(Ship),
});

/** What the configuration gives. */
export type Config = v.InferOutput<typeof Config>;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log, stopping } = service;
  const hub = openHub(config.receiver);
  const sources = openSources(config, service.env);
  const backlog = new Backlog(join(config.data_dir, "queue"), config.queue_max_mb << 20);
  const reporter = new Reporter({
    hub,
    backlog,
    collect: (interval) => collect(sources, { interval, log, signal: stopping }),
    interval: config.interval_seconds,
    protocol: config.protocol,
    log,
  });
  // CPU use is that between two looks.
  await Bun.sleep(FIRST_LOOK_MS);
  await reporter.round({ first: true }).catch(refusedAtOnce);
  let early = true;
  service.loop({
    name: "report",
    every: () => reporter.interval,
    async pass() {
      // The first round was before this loop began.
      if (!early) await reporter.round();
      early = false;
    },
  });
  let more = true;
  service.loop({
    name: "backlog",
    every: () => (more ? DRAIN_SECONDS : 5),
    async pass() {
      more = await reporter.drain();
    },
  });
  service.loop({ name: "health", every: () => HOUR_MS / 1000, pass: () => sendHealth(config, { hub, service }) });
  const shipping = config.ship ? startShipping(config, { hub, service }) : null;
  log.info("ready", {
    receiver: hub.url,
    connected: reporter.connected,
    docker: sources.docker ?? "none",
    waiting: backlog.list().length,
  });
  return {
    status: () => statusLine(reporter, backlog),
    async stop() {
      shipping?.close();
    },
  };
}

/** What the doctor says, to where operators look. Hourly, and by itself: a receiver that is away is the reports' to tell of. */
async function sendHealth(config: Config, { hub, service }: { hub: Hub; service: Service }): Promise<void> {
  const { data_dir, ship, host_id } = config;
  const signal = service.stopping;
  const checks = await examine({
    hub,
    queueDir: join(data_dir, "queue"),
    episodesDir: ship?.episodes_dir ?? null,
    signal,
  });
  const host = await hostOf(hub, host_id)();
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify({ state: worst(checks), checks });
  await hub.send({
    method: "PUT",
    path: `/v1/host-health/${host}`,
    what: "send the doctor's result",
    headers,
    body,
    signal,
  });
}

/** Ships what is finished: a scan every few seconds is the truth, the watch makes it quick. */
function startShipping({ ship, host_id }: Config, { hub, service }: { hub: Hub; service: Service }): FSWatcher | null {
  const { log, stopping } = service;
  const { episodes_dir, scan_seconds, shipped_keep_days, quarantine_keep_days } = ship!;
  const places = new EpisodePlaces(episodes_dir);
  const shipping = new Shipping({ places, hub, host: hostOf(hub, host_id), log, signal: stopping });
  let sweptAt = Number.NEGATIVE_INFINITY;
  const loop = service.loop({
    name: "ship",
    every: () => scan_seconds,
    async pass(alive) {
      await shipping.pass({ alive });
      if (performance.now() - sweptAt < HOUR_MS) return;
      sweptAt = performance.now();
      const now = Date.now();
      const gone =
        places.expire(places.shipped, shipped_keep_days, now) +
        places.expire(places.quarantine, quarantine_keep_days, now);
      if (gone > 0) log.info("old episodes removed", { episodes: gone });
    },
  });
  return watchFor(episodes_dir, { log, found: () => loop.wake() });
}

function watchFor(folder: string, { log, found }: { log: Log; found: () => void }): FSWatcher | null {
  if (!existsSync(folder)) return null;
  try {
    const watcher = watch(
      folder,
      { recursive: true },
      (_, name) => (name === null || name.endsWith("done.marker")) && found(),
    );
    watcher.on("error", (error) => log.debug("watching ended, scanning goes on", { error }));
    return watcher;
  } catch (error) {
    log.debug("not watched, only scanned", { error });
    return null;
  }
}

function statusLine(reporter: Reporter, backlog: Backlog): string {
  const waiting = backlog.list().length;
  const lost = backlog.dropped + reporter.refused;
  return `${reporter.connected ? "connected" : "not connected"}; ${reporter.sent} reports sent${waiting ? `, ${waiting} waiting` : ""}${lost ? `, ${lost} lost` : ""}`;
}

if (import.meta.main) {
  await run("agent", {
    usage: USAGE,
    schema: Config,
    shortForms: {
      PICKET_URL: { path: ["receiver", "url"] },
      PICKET_TOKEN: { path: ["receiver", "token"] },
      PICKET_INTERVAL_SECONDS: { path: ["interval_seconds"], lenient: true },
    },
    main,
    commands: COMMANDS,
    unit: { system: systemUnit, user: userUnit },
    example,
  });
}
