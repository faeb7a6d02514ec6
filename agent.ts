#!/usr/bin/env bun
// picket-agent: reports this host to a receiver, as a heartbeat.
// Reads its YAML, or PICKET_URL and PICKET_TOKEN alone; /proc, /sys and the Docker Engine's socket. Writes <data_dir>/queue: reports
// that could not be sent yet. Listens nowhere. Towards everything it looks at it is read-only.
// Killed at any moment it loses the sample it was taking, nothing else.

import { join } from "node:path";
import * as v from "valibot";
import systemUnit from "./etc/picket-agent.service" with { type: "text" };
import userUnit from "./etc/picket-agent.user.service" with { type: "text" };
import example from "./etc/agent.yaml" with { type: "text" };
import { Backlog } from "./lib/agent/backlog.ts";
import { findSocket } from "./lib/agent/docker.ts";
import { HostReader } from "./lib/agent/host.ts";
import { type Hub, HttpError, openHub } from "./lib/agent/hub.ts";
import { type Sources, collect } from "./lib/agent/report.ts";
import { DRAIN_SECONDS, Reporter } from "./lib/agent/reporter.ts";
import { dataFolder, httpUrl, integer, isLoopback, nameSegment, path, rule, seconds, secret } from "./lib/config.ts";
import {
  type CommandContext,
  type Environment,
  RefusedCredentials,
  type Running,
  type Service,
  UsageError,
  run,
} from "./lib/service.ts";

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
  data_dir: v.optional(path(), () => dataFolder("agent")),
  queue_max_mb: v.optional(integer({ min: 1, unit: "MiB" }), 64),
  /** Mount points whose space is reported, added up. */
  disks: v.optional(v.array(path()), ["/"]),
  docker: v.optional(
    v.strictObject({ socket: v.optional(v.string(), "auto"), enabled: v.optional(v.boolean(), true) }),
    {},
  ),
});

/** What the configuration gives. */
export type Config = v.InferOutput<typeof Config>;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const { log, stopping } = service;
  const hub = hubOf(config);
  const sources = sourcesOf(config, service.env);
  const backlog = new Backlog(join(config.data_dir, "queue"), config.queue_max_mb << 20);
  const reporter = new Reporter({
    hub,
    backlog,
    collect: (interval) => collect(sources, { interval, log, signal: stopping }),
    interval: config.interval_seconds,
    protocol: config.protocol,
    log,
  });
  await reporter.round({ first: true }).catch(refused);
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
  log.info("ready", {
    receiver: hub.url,
    connected: reporter.connected,
    docker: sources.docker ?? "none",
    waiting: backlog.list().length,
  });
  return {
    status: () => statusLine(reporter, backlog),
    stop: () => Promise.resolve(),
  };
}

function hubOf({ receiver }: Config): Hub {
  return openHub(receiver);
}

function sourcesOf(config: Config, env: Environment): Sources {
  return {
    host: new HostReader({ root: "/", mounts: config.disks }),
    docker: config.docker.enabled ? findSocket(config.docker.socket, env) : null,
    hostId: config.host_id,
  };
}

/** A wrong token shows at once, and starting again won't help. */
function refused(error: unknown): never {
  if (error instanceof HttpError && error.refusesCredentials) {
    throw new RefusedCredentials("the receiver refuses this token", {
      cause: error,
      hint: "on the receiver: picket-receiver token list; a new one: picket-receiver token rotate HOST",
    });
  }
  throw error;
}

function statusLine(reporter: Reporter, backlog: Backlog): string {
  const waiting = backlog.list().length;
  const lost = backlog.dropped + reporter.refused;
  return `${reporter.connected ? "connected" : "not connected"}; ${reporter.sent} reports sent${waiting ? `, ${waiting} waiting` : ""}${lost ? `, ${lost} lost` : ""}`;
}

// ---------------------------------------------------------------------------------------------------------------
// Commands

type Commanding<A = object> = CommandContext<Config, A>;

/** `ping`: credentials, TLS and the way to the receiver, without writing anything. */
async function ping(context: Commanding): Promise<void> {
  const hub = hubOf(await context.loadConfig());
  const begin = performance.now();
  const { body } = await hub
    .send({ method: "POST", path: "/v1/ping", what: "ping", signal: context.signal })
    .catch(refused);
  const ms = Math.round(performance.now() - begin);
  const there = Date.parse(String(body["time"]));
  const skew = Number.isNaN(there) ? "" : `, clocks differ by ${Math.round(Math.abs(Date.now() - there) / 1000)} s`;
  context.print(`${hub.url} knows this host as "${String(body["host"])}" (${ms} ms${skew})`);
}

/** `selftest [hub|docker|host]`: one collection, shown; for hub one report, and what came back. */
async function selftest(context: Commanding): Promise<void> {
  const [what = "all"] = context.positionals;
  if (!["all", "hub", "docker", "host"].includes(what)) {
    throw new UsageError(`selftest "${what}" is not one of hub, docker, host`);
  }
  const config = await context.loadConfig();
  const sources = sourcesOf(config, context.env);
  // CPU use is that between two looks.
  await Bun.sleep(200);
  const report = await collect(sources, {
    interval: config.interval_seconds,
    log: context.log,
    signal: context.signal,
  });
  const { host, containers } = report as { host?: unknown; containers?: unknown };
  const shown =
    what === "host"
      ? host
      : what === "docker"
        ? (containers ?? `no containers read (socket: ${sources.docker ?? "none"})`)
        : report;
  context.print(JSON.stringify(shown, null, 2));
  if (what !== "hub" && what !== "all") return;
  const path = config.protocol === "report" ? "/v1/host-report" : "/agent/telemetry";
  const request = {
    method: "POST" as const,
    path,
    what: "report",
    body: JSON.stringify(report),
    signal: context.signal,
  };
  const { status, body } = await hubOf(config).send(request).catch(refused);
  context.print(`\n${config.receiver.url}${path}: ${status} ${JSON.stringify(body)}`);
}

const COMMANDS = {
  ping: {
    summary: "try credentials, TLS and the way to the receiver; writes nothing",
    usage: "usage: picket-agent ping\n\nExit code 3 when the token is refused.\n\nexample: picket-agent ping",
    run: ping,
  },
  selftest: {
    summary: "collect once, show it, send it, show the answer",
    usage: `usage: picket-agent selftest [hub|docker|host]

  hub      one report is sent, and the answer shown (the default does that, too)
  docker   only the containers
  host     only the host's figures

example: picket-agent selftest docker`,
    positionals: { min: 0, max: 1, names: ["SOURCE"] },
    run: selftest,
  },
};

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
