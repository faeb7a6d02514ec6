// The commands at the agent's command line: try the way to the receiver, look at what is collected, ship once, quarantine.

import { join } from "node:path";
import { printable, printableLines } from "../text.ts";
import { type Command, type CommandContext, UsageError } from "../service.ts";
import type { Config } from "./config.ts";
import { type Patient, type State, examine, misconfigured, worst } from "./doctor.ts";
import { EpisodePlaces } from "./episodes.ts";
import { hostOf, openHub, refusedAtOnce } from "./hub.ts";
import { REPORT_PATHS } from "./reporter.ts";
import { Sampler } from "./report.ts";
import { Shipping } from "./shipping.ts";

const EXIT_RETRY = 5;
const EXIT_FATAL = 6;
const DOCTOR_EXIT: Record<State, number> = { green: 0, yellow: 1, red: 2 };

type Context<A = object> = CommandContext<Config, A>;

/** `ping`: credentials, TLS and the way to the receiver, without writing anything. */
async function ping(context: Context): Promise<void> {
  const hub = openHub((await context.loadConfig()).receiver);
  const begin = performance.now();
  const { body } = await hub
    .ask({ method: "POST", path: "/v1/ping", what: "ping", signal: context.signal })
    .catch(refusedAtOnce);
  const ms = Math.round(performance.now() - begin);
  if (typeof body["host"] !== "string") throw new Error(`ping ${hub.url}: it answers, but not as a receiver does`);
  const there = Date.parse(String(body["time"]));
  const skew = Number.isNaN(there) ? "" : `, clocks differ by ${Math.round(Math.abs(Date.now() - there) / 1000)} s`;
  context.print(printable(`${hub.url} knows this host as "${body["host"]}" (${ms} ms${skew})`));
}

const SOURCES = ["hub", "docker", "proxmox", "host"];

/** `selftest [hub|docker|proxmox|host]`: one collection, shown; for hub one report, and what came back. */
async function selftest(context: Context): Promise<void> {
  const [what = "hub"] = context.positionals;
  if (!SOURCES.includes(what)) throw new UsageError(`selftest "${what}" is not one of ${SOURCES.join(", ")}`);
  const config = await context.loadConfig();
  const { env, log, signal, print } = context;
  const sampler = new Sampler(config, { env, log });
  // CPU use is that between two looks.
  await Bun.sleep(200);
  const show = (value: unknown) => print(JSON.stringify(value, null, 2));
  if (what === "host") return show(sampler.host());
  if (what === "docker") {
    return show((await sampler.containers(signal)) ?? `no containers read (socket: ${sampler.dockerSocket ?? "none"})`);
  }
  if (what === "proxmox") return show((await sampler.node(signal)) ?? 'no "proxmox" in the configuration');
  const report = await sampler.sample({ interval: config.interval_seconds, signal });
  show(report);
  const path = REPORT_PATHS[config.protocol];
  const { status, body } = await openHub(config.receiver)
    .ask({ method: "POST", path, what: "report", json: report, signal })
    .catch(refusedAtOnce);
  print(`\n${config.receiver.url}${path}: ${status} ${JSON.stringify(body)}`);
}

/** `--once`: one pass over the episodes. */
async function once(context: Context): Promise<number> {
  const config = await context.loadConfig();
  const { ship, host_id } = config;
  if (!ship) throw new UsageError("nothing to ship", 'set "ship.episodes_dir"');
  const hub = openHub(config.receiver);
  const places = new EpisodePlaces(ship.episodes_dir);
  const shipping = new Shipping({ places, hub, host: hostOf(hub, host_id), log: context.log, signal: context.signal });
  const done = await shipping.pass();
  context.print(
    Object.entries(done)
      .map(([name, count]) => `${name}=${count}`)
      .join(" "),
  );
  if (done.fatal + done.conflicts > 0) return EXIT_FATAL;
  return done.transient > 0 ? EXIT_RETRY : 0;
}

async function placesOf(context: Context): Promise<EpisodePlaces> {
  const { ship } = await context.loadConfig();
  if (!ship) throw new UsageError("nothing is shipped here", 'set "ship.episodes_dir"');
  return new EpisodePlaces(ship.episodes_dir);
}

/** `quarantine list`. */
async function listQuarantine(context: Context): Promise<void> {
  const all = (await placesOf(context)).quarantined();
  if (all.length === 0) context.print("nothing is in quarantine");
  for (const { id, reason } of all) {
    const { error } = (reason?.body ?? {}) as { error?: unknown };
    const why = typeof error === "string" ? error : JSON.stringify(reason?.body ?? null);
    context.print(printable(`${id}  ${reason?.status ?? "-"}  ${reason?.time ?? "-"}  ${why}`));
  }
}

/** `quarantine retry ID`. */
async function retryQuarantined(context: Context): Promise<void> {
  const [id = ""] = context.positionals;
  (await placesOf(context)).retry(id);
  context.print(`${id}: back among the finished ones; it is shipped by the next pass`);
}

/** `quarantine drain-unstamped`: what bears no commit would be refused anyway. */
async function drainUnstamped(context: Context<{ "dry-run"?: boolean }>): Promise<number> {
  const places = await placesOf(context);
  const unstamped = places.finished(() => {}).filter((id) => places.commit(id) === null);
  if (context.args["dry-run"]) {
    for (const id of unstamped) context.print(id);
    context.print(`${unstamped.length} unstamped, left where they are`);
    return 0;
  }
  let busy = 0;
  for (const id of unstamped) {
    const drained = drain(places, id);
    if (!drained) busy++;
    context.print(drained ? id : `${id}: is being shipped right now, left where it is`);
  }
  context.print(`${unstamped.length - busy} unstamped put into quarantine`);
  return busy > 0 ? EXIT_RETRY : 0;
}

/** Puts one away, unless an agent works on it. */
function drain(places: EpisodePlaces, id: string): boolean {
  const release = places.hold(id);
  if (release === null) return false;
  try {
    const body = { error: "no commit of 40 hex digits in meta.json" };
    places.putAway(id, { status: null, body, time: new Date().toISOString() });
  } finally {
    release();
  }
  return true;
}

/** What is examined: all of it can be opened, as the configuration says. */
async function patientOf(context: Context): Promise<Patient> {
  const config = await context.loadConfig();
  const { env, log, signal } = context;
  return {
    hub: openHub(config.receiver),
    sampler: new Sampler(config, { env, log }),
    queueDir: join(config.data_dir, "queue"),
    episodesDir: config.ship?.episodes_dir ?? null,
    signal,
  };
}

/** `doctor`: a table of checks. */
async function doctor(context: Context<{ json?: boolean }>): Promise<number> {
  const checks = await patientOf(context).then(examine, misconfigured);
  if (context.args.json) {
    context.print(JSON.stringify({ state: worst(checks), checks }));
  } else {
    const width = Math.max(...checks.map(({ name }) => name.length));
    for (const { name, state, detail, fix } of checks) {
      context.print(printable(`${state.padEnd(6)}  ${name.padEnd(width)}  ${detail}`));
      // A fix may be several lines, to be pasted.
      if (fix) context.print(printableLines(`${" ".repeat(width + 10)}fix: ${fix}`));
    }
  }
  return DOCTOR_EXIT[worst(checks)];
}

/** The commands, as data. */
export const COMMANDS = {
  ping: {
    summary: "try credentials, TLS and the way to the receiver; writes nothing",
    usage: "usage: picket-agent ping\n\nExit code 3 when the token is refused.\n\nexample: picket-agent ping",
    run: ping,
  },
  selftest: {
    summary: "collect once, show it, send it, show the answer",
    usage: `usage: picket-agent selftest [hub|docker|proxmox|host]

  hub       collect all, send one report, show it and the answer (the default)
  docker    only the containers
  proxmox   only the node, its guests, storages and backups
  host      only the host's own figures

example: picket-agent selftest docker`,
    positionals: { min: 0, max: 1, names: ["SOURCE"] },
    run: selftest,
  },
  doctor: {
    summary: "look for trouble, from the folders to the receiver",
    usage: `usage: picket-agent doctor [--json]

Exit code 0 all green, 1 something yellow, 2 something red (or a configuration that is wrong).

example: picket-agent doctor`,
    options: { json: { type: "boolean" } },
    run: doctor,
  },
  "--once": {
    summary: "ship what is finished, once, and end",
    usage: `usage: picket-agent --once

Prints scanned, shipped, transient, conflicts, fatal. Exit code 0 all well, ${EXIT_RETRY} something to try again, ${EXIT_FATAL} something refused.

example: picket-agent --once`,
    run: once,
  },
  "quarantine list": {
    summary: "show the episodes that were refused, and why",
    usage: "usage: picket-agent quarantine list\n\nexample: picket-agent quarantine list",
    run: listQuarantine,
  },
  "quarantine retry": {
    summary: "put a refused episode back, to be shipped again",
    usage: "usage: picket-agent quarantine retry ID\n\nexample: picket-agent quarantine retry ep-1",
    positionals: { min: 1, max: 1, names: ["ID"] },
    run: retryQuarantined,
  },
  "quarantine drain-unstamped": {
    summary: "put all finished episodes without a commit into quarantine",
    usage: `usage: picket-agent quarantine drain-unstamped [--dry-run]

  --dry-run   only show which

Safe beside a running agent: what it is shipping is left to it (exit code ${EXIT_RETRY}: run this again).

example: picket-agent quarantine drain-unstamped --dry-run`,
    options: { "dry-run": { type: "boolean" } },
    run: drainUnstamped,
  },
} satisfies Record<string, Command<Config>>;
