#!/usr/bin/env bun
// picket-agent: reports this host to a receiver, as a heartbeat, and ships finished episode folders.
// Reads its YAML, or PICKET_URL and PICKET_TOKEN alone; /proc, /sys, the Docker Engine's socket and a Proxmox node's API. Writes
// <data_dir>/queue: reports that could not be sent yet; outbox/, shipped/ and quarantine/ beside <ship.episodes_dir>. Listens nowhere.
// Killed at any moment it loses the sample it was taking, nothing else: an episode's state is the place where it lies.

import { type FSWatcher, existsSync, watch } from "node:fs";
import { join } from "node:path";
import example from "./etc/agent.yaml" with { type: "text" };
import { Backlog } from "./lib/agent/backlog.ts";
import { COMMANDS } from "./lib/agent/commands.ts";
import { Config } from "./lib/agent/config.ts";
import { examine, worst } from "./lib/agent/doctor.ts";
import { EpisodePlaces } from "./lib/agent/episodes.ts";
import { hostOf, openHub, refusedAtOnce } from "./lib/agent/hub.ts";
import { Sampler } from "./lib/agent/report.ts";
import { Reporter } from "./lib/agent/reporter.ts";
import { Shipping } from "./lib/agent/shipping.ts";
import type { Client } from "./lib/client.ts";
import type { Log } from "./lib/log.ts";
import { type Called, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-agent: reports this host to a receiver, as a heartbeat, and ships finished episode folders

  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent selftest
  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent`;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

const MIB = 1 << 20;
const HOUR_MS = 3_600_000;
const FIRST_LOOK_MS = 200;

async function main(given: Config, service: Service): Promise<Running<Config>> {
  const { log, stopping } = service;
  let live = open(given, service);
  const backlog = new Backlog(join(given.data_dir, "queue"), given.queue_max_mb * MIB);
  const reporter = new Reporter({
    hub: { ask: (request) => live.hub.ask(request) },
    backlog,
    collect: (interval) => live.sampler.sample({ interval, signal: stopping }),
    interval: given.interval_seconds,
    protocol: given.protocol,
    log,
  });
  // CPU use is that between two looks.
  await Bun.sleep(FIRST_LOOK_MS);
  await reporter.round({ first: true }).catch(refusedAtOnce);
  let rounds = 1;
  const reports = service.loop({
    name: "report",
    every: () => reporter.pause,
    async pass() {
      // A loop's first pass comes at once, and the first round was before it.
      if (rounds++ > 1) await reporter.round();
      if (reporter.drainPause < Infinity) drain.wake();
    },
  });
  const drain = service.loop({
    name: "backlog",
    every: () => reporter.drainPause,
    async pass() {
      const { interval } = reporter;
      await reporter.drain();
      // The answer to one that waited tells the interval, too, and that takes effect at once.
      if (reporter.interval !== interval) reports.wake();
    },
  });
  service.loop({ name: "health", every: () => HOUR_MS / 1000, pass: () => sendHealth(live, stopping) });
  const shipping = given.ship ? startShipping(() => live, service) : null;
  log.info("ready", {
    receiver: live.hub.url,
    connected: reporter.connected,
    docker: live.sampler.dockerSocket ?? "none",
    proxmox: given.proxmox?.node ?? "none",
    waiting: backlog.count,
  });
  return {
    status: () => statusLine(reporter, backlog),
    reload(next) {
      live = open(next, service);
      backlog.maxBytes = next.queue_max_mb * MIB;
      reporter.configure({ interval: next.interval_seconds, protocol: next.protocol });
    },
    async stop() {
      shipping?.close();
    },
  };
}

/** What a configuration opens; a reload opens anew. */
interface Live {
  config: Config;
  hub: Client;
  sampler: Sampler;
  /** What this host is called at the receiver. */
  host: () => Promise<string>;
}

function open(config: Config, { env, log }: Service): Live {
  const hub = openHub(config.receiver);
  return { config, hub, sampler: new Sampler(config, { env, log }), host: hostOf(hub, config.host_id) };
}

/** What the doctor says, to where operators look. Hourly, and by itself: a receiver that is away is the reports' to tell of. */
async function sendHealth({ config, hub, sampler, host }: Live, signal: AbortSignal): Promise<void> {
  const queueDir = join(config.data_dir, "queue");
  const checks = await examine({ hub, sampler, queueDir, episodesDir: config.ship?.episodes_dir ?? null, signal });
  await hub.ask({
    method: "PUT",
    path: `/v1/host-health/${await host()}`,
    what: "send the doctor's result",
    json: { state: worst(checks), checks },
    signal,
  });
}

/** Ships what is finished: a scan every few seconds is the truth, the watch makes it quick. */
function startShipping(live: () => Live, { log, stopping, loop: addLoop }: Service): { close(): void } {
  const settings = () => live().config.ship!;
  const places = new EpisodePlaces(settings().episodes_dir);
  const shipping = new Shipping({
    places,
    hub: { ask: (request) => live().hub.ask(request) },
    host: () => live().host(),
    log,
    signal: stopping,
  });
  let watcher: FSWatcher | null = null;
  const watched = () => watchFor(places.episodes, { log, found: () => loop.wake(), ended: () => (watcher = null) });
  let sweptAt = Number.NEGATIVE_INFINITY;
  const loop = addLoop({
    name: "ship",
    every: () => settings().scan_seconds,
    async pass(alive) {
      watcher ??= watched();
      const { shipped, fatal } = await shipping.pass({ alive });
      // A folder that has moved away is still watched, and the kernel has only so many watches for all programs together.
      if (shipped + fatal > 0) {
        watcher?.close();
        watcher = watched();
      }
      if (performance.now() - sweptAt < HOUR_MS) return;
      sweptAt = performance.now();
      const { shipped_keep_days, quarantine_keep_days } = settings();
      const now = Date.now();
      const left = (old: string, error: unknown) => log.warn("old episode not removed", { path: old, error });
      const gone =
        places.expire(places.shipped, { days: shipped_keep_days, now, left }) +
        places.expire(places.quarantine, { days: quarantine_keep_days, now, left });
      if (gone > 0) log.info("old episodes removed", { episodes: gone });
    },
  });
  return { close: () => watcher?.close() };
}

function watchFor(
  folder: string,
  { log, found, ended }: { log: Log; found: () => void; ended: () => void },
): FSWatcher | null {
  if (!existsSync(folder)) return null;
  try {
    const end = () => {
      watcher.close();
      ended();
    };
    const watcher = watch(folder, { recursive: true }, (_, name) => {
      // Without a name it is the folder itself that has gone, or the kernel's queue was too short: watched anew by the next pass.
      if (!name) end();
      if (!name || name.endsWith("done.marker")) found();
    });
    watcher.on("error", (error) => {
      log.debug("watching ended, scanning goes on", { error });
      end();
    });
    return watcher;
  } catch (error) {
    log.debug("not watched, only scanned", { error });
    return null;
  }
}

function statusLine(reporter: Reporter, backlog: Backlog): string {
  const { connected, sent, skipped } = reporter;
  const lost = backlog.dropped + reporter.refused + reporter.unkept;
  const figures = [
    `${connected ? "connected" : "not connected"}; ${sent} reports sent`,
    ...(backlog.count ? [`${backlog.count} waiting`] : []),
    ...(lost ? [`${lost} lost`] : []),
    ...(skipped ? [`${skipped} left out`] : []),
  ];
  return figures.join(", ");
}

/** Runs the role: by itself, or as a part of picket.ts. */
export const start = (called?: Called) =>
  run(
    "agent",
    {
      usage: USAGE,
      schema: Config,
      shortForms: {
        PICKET_URL: { path: ["receiver", "url"] },
        PICKET_TOKEN: { path: ["receiver", "token"] },
        PICKET_INTERVAL_SECONDS: { path: ["interval_seconds"], lenient: true },
      },
      main,
      commands: COMMANDS,
      example,
    },
    called,
  );

if (import.meta.main) await start();
