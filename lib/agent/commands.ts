// The agent's commands: ping, selftest, doctor, --once, quarantine.

import { doctorCommand } from "../doctor.ts";
import { printable } from "../text.ts";
import { type Command, type CommandContext, UsageError } from "../service.ts";
import type { Config } from "./config.ts";
import { examine, ownFolders } from "./doctor.ts";
import { EpisodeFolders } from "./episodes.ts";
import { inWords } from "./host-words.ts";
import { exitIfRefused, hostOf, openHub, ping, wrongHost } from "./hub.ts";
import { REPORT_PATHS } from "./reporter.ts";
import { FIRST_SAMPLE_MS, Sampler } from "./report.ts";
import { Shipping } from "./shipping.ts";

const EXIT_RETRY = 5;
const EXIT_FATAL = 6;

type Context<A = object> = CommandContext<Config, A>;

/** `ping`: tries name, TLS, token and clock; writes nothing. */
async function pingOnce(context: Context): Promise<void> {
  const { receiver, host_id } = await context.loadConfig();
  const hub = openHub(receiver);
  const begin = performance.now();
  const { body, skewMs } = await ping(hub, context.signal).catch(exitIfRefused);
  const ms = Math.round(performance.now() - begin);
  if (typeof body["host"] !== "string") throw new Error(`ping "${hub.url}": the answer is not a receiver's`);
  const skew = skewMs === null ? "" : `, clocks differ by ${Math.round(Math.abs(skewMs) / 1000)} s`;
  context.print(printable(`${hub.url} knows this host as "${body["host"]}" (${ms} ms${skew})`));
  const wrong = wrongHost(host_id, body);
  if (wrong === null) return;
  throw Object.assign(new Error(wrong), { hint: 'remove "host_id" from the configuration' });
}

const SOURCES = ["hub", "docker", "proxmox", "host"];

/** `selftest [hub|docker|proxmox|host]`: collects once and shows it, `host` in words; `hub` also sends it as a report and shows the answer. */
async function selftest(context: Context<{ json?: boolean }>): Promise<void> {
  const [what = "hub"] = context.positionals;
  if (!SOURCES.includes(what)) throw new UsageError(`selftest "${what}" is not one of ${SOURCES.join(", ")}`);
  const config = await context.loadConfig();
  const { env, log, signal, print } = context;
  const sampler = new Sampler(config, { env, log });
  await Bun.sleep(FIRST_SAMPLE_MS);
  const show = (value: unknown) => print(JSON.stringify(value, null, 2));
  if (what === "host") {
    const host = await sampler.host();
    return context.args.json ? show(host) : print(inWords(host));
  }
  if (what === "docker") {
    return show((await sampler.containers(signal)) ?? `no containers read (socket: ${sampler.dockerSocket ?? "none"})`);
  }
  if (what === "proxmox") return show((await sampler.node(signal)) ?? 'no "proxmox" in the configuration');
  const report = await sampler.sample({ interval: config.interval_seconds, signal });
  show(report);
  const path = REPORT_PATHS[config.protocol];
  const { status, body } = await openHub(config.receiver)
    .ask({ method: "POST", path, what: "report", json: report, signal })
    .catch(exitIfRefused);
  print(`\n${config.receiver.url}${path}: ${status} ${JSON.stringify(body)}`);
}

/** `--once`: one pass over the episodes. */
async function once(context: Context): Promise<number> {
  const { receiver, host_id, ship } = await context.loadConfig();
  const hub = openHub(receiver);
  const { log, signal } = context;
  const shipping = new Shipping({ folders: foldersOf(ship), hub, host: hostOf(hub, host_id), log, signal });
  const { invalid, ...done } = await shipping.pass();
  done.scanned += invalid;
  done.fatal += invalid;
  const counts = Object.entries(done).map(([name, count]) => `${name}=${count}`);
  context.print(counts.join(" "));
  if (done.fatal + done.conflicts > 0) return EXIT_FATAL;
  return done.transient > 0 ? EXIT_RETRY : 0;
}

function foldersOf(ship: Config["ship"]): EpisodeFolders {
  if (!ship) throw new UsageError("no episodes are shipped", 'set "ship.episodes_dir"');
  return new EpisodeFolders(ship.episodes_dir);
}

/** `quarantine list`. */
async function listQuarantine(context: Context): Promise<void> {
  const all = foldersOf((await context.loadConfig()).ship).quarantined();
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
  await foldersOf((await context.loadConfig()).ship).retry(id);
  context.print(`${id}: finished again; the next pass ships it`);
}

/** `quarantine drain-unstamped`: the version gate would reject episodes without a commit. */
async function drainUnstamped(context: Context<{ "dry-run"?: boolean }>): Promise<number> {
  const folders = foldersOf((await context.loadConfig()).ship);
  const unstamped = folders.finished().ids.filter((id) => folders.commit(id) === null);
  if (context.args["dry-run"]) {
    for (const id of unstamped) context.print(id);
    context.print(`${unstamped.length} unstamped, left where they are`);
    return 0;
  }
  let busy = 0;
  for (const id of unstamped) {
    using lock = folders.lock(id);
    if (lock)
      await folders.quarantineEpisode(id, { status: null, body: { error: "no commit of 40 hex digits in meta.json" } });
    else busy++;
    context.print(lock ? id : `${id}: is being shipped right now, left where it is`);
  }
  context.print(`${unstamped.length - busy} unstamped put into quarantine`);
  return busy > 0 ? EXIT_RETRY : 0;
}

/** `doctor`: the sources are asked, too. */
const doctor = doctorCommand<Config>("agent", ownFolders, (config, { env, log, signal }) => {
  const sampler = new Sampler(config, { env, log });
  return examine({ config, hub: openHub(config.receiver), sampler, signal });
});

export const COMMANDS = {
  ping: {
    summary: "test the connection to the receiver: name, TLS, token, clock; writes nothing",
    usage: "usage: picket-agent ping\n\nExit code 3 when the receiver rejects the token.\n\nexample: picket-agent ping",
    run: pingOnce,
  },
  selftest: {
    summary: "collect one report, show it, send it, show the answer",
    usage: `usage: picket-agent selftest [SOURCE] [--json]

SOURCE is one of
  hub       collect from all sources, send one report, show it and the answer (the default)
  docker    show only the containers
  proxmox   show only the node, its guests, storages and backups
  host      show only the host itself, in words: figures, disks, units, pools …

With --json the host is shown as it is in a report.

example: picket-agent selftest host`,
    run: selftest,
  },
  doctor,
  "--once": {
    summary: "ship the finished episodes once, and exit",
    usage: `usage: picket-agent --once

Prints the counts of scanned, shipped, transient, conflicts and fatal episodes.
Exit code 0 all shipped, ${EXIT_RETRY} some to retry, ${EXIT_FATAL} some rejected, or with a name or link that can't be shipped.

example: picket-agent --once`,
    run: once,
  },
  "quarantine list": {
    summary: "show the rejected episodes, and why they were rejected",
    usage: "usage: picket-agent quarantine list\n\nexample: picket-agent quarantine list",
    run: listQuarantine,
  },
  "quarantine retry": {
    summary: "move a rejected episode back, to ship it again",
    usage: "usage: picket-agent quarantine retry ID\n\nexample: picket-agent quarantine retry ep-1",
    run: retryQuarantined,
  },
  "quarantine drain-unstamped": {
    summary: "put all finished episodes without a commit into quarantine",
    usage: `usage: picket-agent quarantine drain-unstamped [--dry-run]

  --dry-run   only show them

Safe while the agent runs: an episode that it is shipping stays (exit code ${EXIT_RETRY}: run this again).

example: picket-agent quarantine drain-unstamped --dry-run`,
    run: drainUnstamped,
  },
} satisfies Record<string, Command<Config>>;
