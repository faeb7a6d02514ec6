#!/usr/bin/env bun
// picket-agent: reports this host to a receiver, as a heartbeat, and ships finished episode folders.
// Reads its YAML, or just PICKET_URL and PICKET_TOKEN; /proc, /sys, the Docker Engine's socket and a Proxmox node's API. Writes
// <data_dir>/queue: reports that could not be sent yet; outbox/, shipped/ and quarantine/ beside <ship.episodes_dir>. Doesn't listen.
// A crash loses at most the report being collected: an episode's state is the folder it lies in.

import { type FSWatcher, existsSync, watch } from "node:fs";
import { dirname } from "node:path";
import example from "./etc/agent.yaml" with { type: "text" };
import { Backlog } from "./lib/agent/backlog.ts";
import { COMMANDS } from "./lib/agent/commands.ts";
import { Config } from "./lib/agent/config.ts";
import { serverOf } from "./lib/agent/disks.ts";
import { examine, ownFolders, queueDirOf } from "./lib/agent/doctor.ts";
import { EpisodeFolders } from "./lib/agent/episodes.ts";
import { exitIfRefused, hostOf, openHub } from "./lib/agent/hub.ts";
import { FIRST_SAMPLE_MS, Sampler } from "./lib/agent/report.ts";
import { Reporter } from "./lib/agent/reporter.ts";
import { Shipping } from "./lib/agent/shipping.ts";
import { createTroubles } from "./lib/agent/source.ts";
import { isLoopback } from "./lib/config.ts";
import { overall, unlessDead } from "./lib/doctor.ts";
import { cannotWrite } from "./lib/files.ts";
import type { Log } from "./lib/log.ts";
import { type Called, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-agent: reports this host to a receiver, as a heartbeat, and ships finished episode folders

  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent selftest
  PICKET_URL=https://hub.example PICKET_TOKEN=pk_… picket-agent`;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

const MIB = 1 << 20;
const HOUR_MS = 3_600_000;

async function main(given: Config, service: Service): Promise<Running<Config>> {
  const { log, stopping } = service;
  let live = open(given, service);
  const backlog = new Backlog(queueDirOf(given), given.queue_max_mb * MIB);
  const reporter = new Reporter({
    hub: { ask: (request) => live.hub.ask(request) },
    backlog,
    collect: (interval) => live.sampler.sample({ interval, signal: stopping }),
    interval: given.interval_seconds,
    protocol: given.protocol,
    log,
  });
  await Bun.sleep(FIRST_SAMPLE_MS);
  await reporter.round({ first: true }).catch(exitIfRefused);
  let rounds = 1;
  const reports = service.loop({
    name: "report",
    every: () => reporter.pause,
    async pass() {
      // The first round ran above: refused credentials must end the start.
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
      // The answer to a queued report may change the interval, too, and that takes effect at once.
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
    queued: backlog.count,
  });
  return {
    status: () => statusLine(reporter, backlog),
    troubles: () => [
      cannotWrite(existsSync(given.data_dir) ? given.data_dir : dirname(given.data_dir)),
      reporter.trouble,
      reporter.rejection && "the receiver rejects reports",
      ...(shipping?.troubles() ?? []),
    ],
    reload(next) {
      live = open(next, service);
      backlog.maxBytes = next.queue_max_mb * MIB;
      reporter.configure({ interval: next.interval_seconds, protocol: next.protocol });
      shipping?.retryAll();
    },
    async stop() {
      shipping?.close();
    },
  };
}

type Live = ReturnType<typeof open>;

/** What depends on the configuration; a reload replaces it. `host` is this host's name at the receiver. */
function open(config: Config, { env, log }: Service) {
  const hub = openHub(config.receiver);
  const { protocol, hostname } = new URL(hub.url);
  if (protocol === "http:" && !isLoopback(hostname))
    log.info('the token is sent unencrypted, to private addresses only ("allow_http")', { receiver: hub.url });
  return { config, hub, sampler: new Sampler(config, { env, log }), host: hostOf(hub, config.host_id) };
}

/** Sends the doctor's result, so that it shows at the receiver. */
async function sendHealth({ config, hub, sampler, host }: Live, signal: AbortSignal): Promise<void> {
  const checks = await unlessDead(ownFolders(config), () => examine({ config, hub, sampler, signal }));
  await hub.ask({
    method: "PUT",
    path: `/v1/host-health/${await host()}`,
    what: "send the doctor's result",
    json: { state: overall(checks), checks },
    signal,
  });
}

/** Ships finished episodes. A scan every few seconds finds them all; the watch only makes it faster. */
function startShipping(live: () => Live, { log, stopping, loop: addLoop }: Service) {
  const settings = () => live().config.ship!;
  const folders = new EpisodeFolders(settings().episodes_dir);
  const shipping = new Shipping({
    folders,
    hub: { ask: (request) => live().hub.ask(request) },
    host: () => live().host(),
    log,
    signal: stopping,
  });
  const { note, troubles: unanswered } = createTroubles((_, text) => log.warn(text));
  const servers = folders.all.map((folder) => serverOf(folder, note));
  /** Known from the last pass: only right after the servers have answered it is safe to look. */
  let unwritable: string | null = null;
  let watcher: FSWatcher | null = null;
  const startWatcher = () =>
    watchFor(folders.episodes, { log, onMarker: () => loop.wake(), onEnd: () => (watcher = null) });
  let expiredAt = Number.NEGATIVE_INFINITY;
  const loop = addLoop({
    name: "ship",
    every: () => settings().scan_seconds,
    async pass(alive) {
      if ((await Promise.all(servers.map((answers) => answers()))).includes(false)) return;
      unwritable = existsSync(folders.outbox) ? cannotWrite(folders.outbox) : null;
      watcher ??= startWatcher();
      const { shipped, fatal } = await shipping.pass({ alive });
      // A folder that was moved stays watched, and the kernel limits the number of watches.
      if (shipped + fatal > 0) {
        watcher?.close();
        watcher = startWatcher();
      }
      if (performance.now() - expiredAt < HOUR_MS) return;
      expiredAt = performance.now();
      const { shipped_keep_days, quarantine_keep_days } = settings();
      const onError = (path: string, error: unknown) => log.warn("old episode not removed", { path, error });
      const removed =
        folders.expire(folders.shipped, { days: shipped_keep_days, onError }) +
        folders.expire(folders.quarantine, { days: quarantine_keep_days, onError });
      if (removed > 0) log.info("old episodes removed", { episodes: removed });
    },
  });
  return {
    troubles: () => [unwritable, ...Array.from(unanswered, ([what, why]) => `${what}: ${why}`), ...shipping.troubles],
    retryAll: () => shipping.retryAll(),
    close: () => watcher?.close(),
  };
}

/** Watches a folder for done.marker files; null if it can't be watched. */
function watchFor(
  folder: string,
  { log, onMarker, onEnd }: { log: Log; onMarker: () => void; onEnd: () => void },
): FSWatcher | null {
  if (!existsSync(folder)) return null;
  try {
    const end = () => {
      watcher.close();
      onEnd();
    };
    const watcher = watch(folder, { recursive: true }, (_, name) => {
      // No name: the folder itself was moved, or the kernel's queue overflowed. The next pass watches it again.
      if (!name) end();
      if (!name || name.endsWith("done.marker")) onMarker();
    });
    watcher.on("error", (error) => {
      log.debug("watching ended, scanning continues", { error });
      end();
    });
    return watcher;
  } catch (error) {
    log.debug("the folder can't be watched, only scanned", { error });
    return null;
  }
}

function statusLine(reporter: Reporter, backlog: Backlog): string {
  const { connected, sent, skipped } = reporter;
  const lost = backlog.dropped + reporter.rejected + reporter.lost;
  const figures = [
    `${connected ? "connected" : "not connected"}; ${sent} reports sent`,
    ...(backlog.count ? [`${backlog.count} queued`] : []),
    ...(lost ? [`${lost} lost`] : []),
    ...(skipped ? [`${skipped} skipped`] : []),
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
