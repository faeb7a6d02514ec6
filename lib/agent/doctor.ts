// Examines an agent, from its folders to its receiver. Each check is green, yellow or red, says what it found, and names the
// command that fixes it.

import { accessSync, constants, existsSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { type Client, HttpError } from "../client.ts";
import { ConfigError, isLoopback } from "../config.ts";
import { duration } from "../text.ts";
import { errorChain } from "../log.ts";
import { Backlog } from "./backlog.ts";
import { EpisodePlaces } from "./episodes.ts";
import { outputOf } from "./host.ts";
import type { Sampler } from "./report.ts";

export type State = "green" | "yellow" | "red";

/** One check. */
export interface Check {
  name: string;
  state: State;
  /** What was found. */
  detail: string;
  /** The command that fixes it. */
  fix?: string;
}

export interface Patient {
  hub: Client;
  sampler: Sampler;
  queueDir: string;
  episodesDir: string | null;
  signal: AbortSignal;
}

const GIB = 1 << 30;
const CLOCK_YELLOW_MS = 30_000;
const CLOCK_RED_MS = 300_000;
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

const green = (name: string, detail: string): Check => ({ name, state: "green", detail });
const yellow = (name: string, detail: string, fix: string): Check => ({ name, state: "yellow", detail, fix });
const red = (name: string, detail: string, fix: string): Check => ({ name, state: "red", detail, fix });

/** All checks; the configuration has been read before. */
export async function examine(patient: Patient): Promise<Check[]> {
  const { hub, queueDir, episodesDir } = patient;
  return [
    green("configuration", "in order"),
    await dns(new URL(hub.url).hostname),
    ...(await way(patient)),
    ...[dirname(queueDir), ...(episodesDir ? [episodesDir] : [])].map(space),
    ...rights(patient),
    ...(await sources(patient)),
    queue(queueDir),
    ...(episodesDir ? quarantine(episodesDir) : []),
    await unit(),
    await journal(),
  ];
}

/** The checks of an invalid configuration: one for each error. */
export function misconfigured(error: unknown): Check[] {
  const problems = error instanceof ConfigError ? error.problems : [errorChain(error)];
  return problems.map((detail) => red("configuration", detail, "picket-agent --check, and picket-agent example"));
}

/** The worst of them. */
export function worst(checks: readonly Check[]): State {
  if (checks.some(({ state }) => state === "red")) return "red";
  return checks.some(({ state }) => state === "yellow") ? "yellow" : "green";
}

async function dns(host: string): Promise<Check> {
  if (isLoopback(host)) return green("dns", `${host} is this machine`);
  try {
    const [first] = await Bun.dns.lookup(host.replace(/^\[|\]$/g, ""));
    return green("dns", `${host} is ${first?.address ?? "known"}`);
  } catch (error) {
    return red("dns", `${host}: ${errorChain(error)}`, `getent hosts ${host}`);
  }
}

/** TLS, token and clock, by one ping. */
async function way({ hub, signal }: Patient): Promise<Check[]> {
  const tls = green("tls", hub.url.startsWith("https:") ? "TLS is good" : "no TLS: this machine itself");
  try {
    const before = Date.now();
    const { body } = await hub.ask({ method: "POST", path: "/v1/ping", what: "ping", signal });
    const there = Date.parse(String(body["time"]));
    return [tls, known(body["host"]), clock(Number.isNaN(there) ? 0 : (before + Date.now()) / 2 - there)];
  } catch (error) {
    if (!(error instanceof HttpError)) return [red("tls", errorChain(error), `curl -v ${hub.url}/health`)];
    const token = error.refusesCredentials
      ? red("token", "the receiver refuses it", "on the receiver: picket-receiver token rotate HOST")
      : yellow("token", `the receiver answers ${error.status}`, "on the receiver: journalctl -u picket-receiver");
    return [tls, token, ...(error.serverTime === null ? [] : [clock(Date.now() - error.serverTime)])];
  }
}

/** Something else may listen there, and answer everything with 200. */
function known(host: unknown): Check {
  return typeof host === "string"
    ? green("token", `the receiver knows this host as "${host}"`)
    : red("token", "what answers there is no receiver", "picket-agent --check --print (receiver.url)");
}

function clock(ahead: number): Check {
  const off = Math.abs(ahead);
  const detail =
    off < 2000 ? "as the receiver's" : `${duration(off)} ${ahead > 0 ? "ahead of" : "behind"} the receiver's`;
  if (off < CLOCK_YELLOW_MS) return green("clock", detail);
  return (off < CLOCK_RED_MS ? yellow : red)("clock", detail, "timedatectl set-ntp true");
}

function space(folder: string): Check {
  const name = `space ${folder}`;
  try {
    const there = existing(folder);
    const { bavail, blocks, bsize } = statfsSync(there);
    const free = bavail * bsize;
    const detail = `${(free / GIB).toFixed(1)} GiB free`;
    if (free >= GIB && bavail / blocks >= 0.03) return green(name, detail);
    return (free < GIB / 10 ? red : yellow)(name, detail, `df -h ${there}`);
  } catch (error) {
    return red(name, errorChain(error), `ls -ld ${folder}`);
  }
}

/** The folder, or the nearest one above it that exists. */
function existing(folder: string): string {
  return existsSync(folder) || dirname(folder) === folder ? folder : existing(dirname(folder));
}

function rights({ queueDir, episodesDir }: Patient): Check[] {
  const places = episodesDir ? new EpisodePlaces(episodesDir) : null;
  const folders = [queueDir, ...(places ? [places.episodes, places.outbox, places.shipped, places.quarantine] : [])];
  const bad = folders.flatMap((folder) => {
    const name = `rights ${folder}`;
    if (folder === episodesDir && !existsSync(folder)) return [yellow(name, "does not exist", `mkdir -p ${folder}`)];
    try {
      accessSync(existing(folder), constants.W_OK | constants.X_OK);
      return [];
    } catch (error) {
      return [red(name, errorChain(error), "systemctl edit picket-agent (ReadWritePaths), or chown")];
    }
  });
  return bad.length > 0 ? bad : [green("rights", `${folders.length} folders are writable`)];
}

/** The sources of reports other than this host itself. */
async function sources({ sampler, signal }: Patient): Promise<Check[]> {
  const checks: Check[] = [];
  const { dockerSocket } = sampler;
  if (dockerSocket !== null) {
    const containers = await sampler.containers(signal);
    checks.push(
      containers
        ? green("docker", `${containers.length} containers`)
        : yellow("docker", `${dockerSocket} gives no containers`, "picket-agent selftest docker"),
    );
  }
  try {
    const node = await sampler.node(signal);
    if (node) checks.push(green("proxmox", `${node.guests?.length ?? "no"} guests`));
  } catch (error) {
    checks.push(red("proxmox", errorChain(error), "picket-agent selftest proxmox"));
  }
  return checks;
}

function queue(dir: string): Check {
  const { oldest, count } = new Backlog(dir, Number.POSITIVE_INFINITY);
  if (!oldest) return green("queue", "nothing waits");
  const age = Date.now() - oldest.recordedAt;
  const detail = `${count} reports wait, the oldest for ${duration(age)}`;
  if (age <= HOUR_MS) return green("queue", detail);
  return (age > DAY_MS ? red : yellow)("queue", detail, "picket-agent ping");
}

/** What was refused, and whether it was for old code. */
function quarantine(episodesDir: string): Check[] {
  const all = new EpisodePlaces(episodesDir).quarantined();
  const old = all.findLast(({ reason }) => reason?.status === 412);
  const { remediation } = (old?.reason?.body ?? {}) as { remediation?: unknown };
  const update = typeof remediation === "string" ? remediation : "update the code that makes the episodes";
  return [
    old
      ? red("version gate", `episode "${old.id}" was refused: its code is too old`, update)
      : green("version gate", "has refused nothing that is still here"),
    all.length === 0
      ? green("quarantine", "empty")
      : yellow("quarantine", `${all.length} episodes`, "picket-agent quarantine list"),
  ];
}

async function unit(): Promise<Check> {
  const properties = "LoadState,ActiveState,UnitFileState";
  const said = (await outputOf(["systemctl", "show", "picket-agent.service", "-p", properties])) ?? "";
  const field = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(said)?.[1] ?? "";
  if (field("LoadState") !== "loaded") return green("unit", "not a service of systemd here");
  const [active, enabled] = [field("ActiveState"), field("UnitFileState")];
  if (active !== "active") return red("unit", `is ${active}`, "systemctl restart picket-agent");
  return enabled === "enabled"
    ? green("unit", "runs, and starts at boot")
    : yellow("unit", `runs, but is ${enabled}`, "systemctl enable picket-agent");
}

/** Shipping errors of the last ten minutes; a permanent refusal comes before what is retried. */
async function journal(): Promise<Check> {
  const args = ["-u", "picket-agent.service", "--since", "-10min", "-o", "cat", "--no-pager", "-q"];
  const text = await outputOf(["journalctl", ...args]);
  return text === null ? green(SHIPPING, "no journal here") : judgeJournal(text);
}

const SHIPPING = "shipping lately";

/** What the lines of a journal tell. Exported for its table of cases. */
export function judgeJournal(text: string): Check {
  const lines = text.split("\n").filter((line) => /"level":"(warn|error)"/.test(line));
  const fix = "journalctl -u picket-agent --since -10min";
  const find = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length;
  const old = find(/"status":412/);
  if (old > 0) return red(SHIPPING, `${old} refused: the code is too old (412)`, fix);
  const bad = find(/"status":(400|413|422)/);
  if (bad > 0) return red(SHIPPING, `${bad} refused for good (400, 413, 422)`, fix);
  const transient = find(/not shipped|shipping holds|: answered (429|5\d\d)/);
  return transient > 0 ? yellow(SHIPPING, `${transient} retries`, fix) : green(SHIPPING, "no trouble in ten minutes");
}
