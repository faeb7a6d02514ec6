// Looks for what may be wrong with an agent, from its folders to its receiver. Each check is green, yellow or red, says what it
// saw, and gives the command that mends it.

import { accessSync, constants, existsSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { type Client, HttpError } from "../client.ts";
import { ConfigError, isLoopback } from "../config.ts";
import { duration } from "../text.ts";
import { errorChain } from "../log.ts";
import { Backlog } from "./backlog.ts";
import { EpisodePlaces } from "./episodes.ts";
import type { Sampler } from "./report.ts";
import { ask } from "./services.ts";

export type State = "green" | "yellow" | "red";

/** One check. */
export interface Check {
  name: string;
  state: State;
  /** What was seen. */
  detail: string;
  /** What to type, where something is to be mended. */
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

/** All checks but that of the configuration, which has been read when this is called. */
export async function examine(patient: Patient): Promise<Check[]> {
  const { hostname } = new URL(patient.hub.url);
  return [
    { name: "configuration", state: "green", detail: "in order" },
    await dns(hostname),
    ...(await way(patient)),
    ...[dirname(patient.queueDir), ...(patient.episodesDir ? [patient.episodesDir] : [])].map(space),
    ...rights(patient),
    ...(await sources(patient)),
    queue(patient.queueDir),
    ...(patient.episodesDir ? quarantine(patient.episodesDir) : []),
    await unit(),
    await journal(),
  ];
}

/** The checks of a configuration that can't be used: a check for each thing that is wrong. */
export function misconfigured(error: unknown): Check[] {
  const problems = error instanceof ConfigError ? error.problems : [errorChain(error)];
  const fix = "picket-agent --check, and picket-agent example";
  return problems.map((detail) => ({ name: "configuration", state: "red", detail, fix }));
}

/** The worst of them. */
export function worst(checks: readonly Check[]): State {
  if (checks.some(({ state }) => state === "red")) return "red";
  return checks.some(({ state }) => state === "yellow") ? "yellow" : "green";
}

async function dns(host: string): Promise<Check> {
  const name = "dns";
  if (isLoopback(host)) return { name, state: "green", detail: `${host} is this machine` };
  try {
    const [first] = await Bun.dns.lookup(host.replace(/^\[|\]$/g, ""));
    return { name, state: "green", detail: `${host} is ${first?.address ?? "known"}` };
  } catch (error) {
    return { name, state: "red", detail: `${host}: ${errorChain(error)}`, fix: `getent hosts ${host}` };
  }
}

/** TLS, token and clock, by one ping. */
async function way({ hub, signal }: Patient): Promise<Check[]> {
  const tls = hub.url.startsWith("https:") ? "TLS is good" : "no TLS: this machine itself";
  try {
    const before = Date.now();
    const { body } = await hub.ask({ method: "POST", path: "/v1/ping", what: "ping", signal });
    const there = Date.parse(String(body["time"]));
    return [
      { name: "tls", state: "green", detail: tls },
      known(body["host"]),
      clock(Number.isNaN(there) ? 0 : (before + Date.now()) / 2 - there),
    ];
  } catch (error) {
    if (!(error instanceof HttpError)) {
      return [{ name: "tls", state: "red", detail: errorChain(error), fix: `curl -v ${hub.url}/health` }];
    }
    const token: Check = error.refusesCredentials
      ? {
          name: "token",
          state: "red",
          detail: "the receiver refuses it",
          fix: "on the receiver: picket-receiver token rotate HOST",
        }
      : {
          name: "token",
          state: "yellow",
          detail: `the receiver answers ${error.status}`,
          fix: "journalctl -u picket-receiver, there",
        };
    const skew = error.serverTime === null ? [] : [clock(Date.now() - error.serverTime)];
    return [{ name: "tls", state: "green", detail: tls }, token, ...skew];
  }
}

/** Something else may listen there, and answer everything with 200. */
function known(host: unknown): Check {
  const name = "token";
  return typeof host === "string"
    ? { name, state: "green", detail: `the receiver knows this host as "${host}"` }
    : {
        name,
        state: "red",
        detail: "what answers there is no receiver",
        fix: "picket-agent --check --print (receiver.url)",
      };
}

function clock(ahead: number): Check {
  const off = Math.abs(ahead);
  const detail =
    off < 2000 ? "as the receiver's" : `${duration(off)} ${ahead > 0 ? "ahead of" : "behind"} the receiver's`;
  if (off < CLOCK_YELLOW_MS) return { name: "clock", state: "green", detail };
  return { name: "clock", state: off < CLOCK_RED_MS ? "yellow" : "red", detail, fix: "timedatectl set-ntp true" };
}

function space(folder: string): Check {
  const name = `space ${folder}`;
  try {
    const there = existing(folder);
    const { bavail, blocks, bsize } = statfsSync(there);
    const free = bavail * bsize;
    const detail = `${(free / GIB).toFixed(1)} GiB free`;
    const fix = `df -h ${there}`;
    if (free < GIB / 10) return { name, state: "red", detail, fix };
    return free < GIB || bavail / blocks < 0.03
      ? { name, state: "yellow", detail, fix }
      : { name, state: "green", detail };
  } catch (error) {
    return { name, state: "red", detail: errorChain(error), fix: `ls -ld ${folder}` };
  }
}

/** The folder, or the nearest one above it that is there. */
function existing(folder: string): string {
  return existsSync(folder) || dirname(folder) === folder ? folder : existing(dirname(folder));
}

function rights({ queueDir, episodesDir }: Patient): Check[] {
  const places = episodesDir ? new EpisodePlaces(episodesDir) : null;
  const folders = [queueDir, ...(places ? [places.episodes, places.outbox, places.shipped, places.quarantine] : [])];
  const checks = folders.map((folder): Check => {
    const name = `rights ${folder}`;
    if (folder === episodesDir && !existsSync(folder)) {
      return { name, state: "yellow", detail: "is not there", fix: `mkdir -p ${folder}` };
    }
    try {
      accessSync(existing(folder), constants.W_OK | constants.X_OK);
      return { name, state: "green", detail: "can be written" };
    } catch (error) {
      return {
        name,
        state: "red",
        detail: errorChain(error),
        fix: "systemctl edit picket-agent (ReadWritePaths), or chown",
      };
    }
  });
  const bad = checks.filter(({ state }) => state !== "green");
  return bad.length > 0
    ? bad
    : [{ name: "rights", state: "green", detail: `${folders.length} folders can be written` }];
}

/** What reports are made from, where it is more than this host. */
async function sources({ sampler, signal }: Patient): Promise<Check[]> {
  const checks: Check[] = [];
  const { dockerSocket } = sampler;
  if (dockerSocket !== null) {
    const name = "docker";
    const containers = await sampler.containers(signal);
    checks.push(
      containers
        ? { name, state: "green", detail: `${containers.length} containers` }
        : { name, state: "yellow", detail: `${dockerSocket} gives no containers`, fix: "picket-agent selftest docker" },
    );
  }
  try {
    const node = await sampler.node(signal);
    if (node) checks.push({ name: "proxmox", state: "green", detail: `${node.guests?.length ?? "no"} guests` });
  } catch (error) {
    checks.push({ name: "proxmox", state: "red", detail: errorChain(error), fix: "picket-agent selftest proxmox" });
  }
  return checks;
}

function queue(dir: string): Check {
  const { oldest, count } = new Backlog(dir, Number.POSITIVE_INFINITY);
  if (!oldest) return { name: "queue", state: "green", detail: "nothing waits" };
  const age = Date.now() - oldest.recordedAt;
  const detail = `${count} reports wait, the oldest for ${duration(age)}`;
  const state = age > DAY_MS ? "red" : age > HOUR_MS ? "yellow" : "green";
  return { name: "queue", state, detail, ...(state === "green" ? {} : { fix: "picket-agent ping" }) };
}

/** What was refused, and whether it was for old code. */
function quarantine(episodesDir: string): Check[] {
  const all = new EpisodePlaces(episodesDir).quarantined();
  const old = all.findLast(({ reason }) => reason?.status === 412);
  const { remediation } = (old?.reason?.body ?? {}) as { remediation?: unknown };
  const gate: Check = old
    ? {
        name: "version gate",
        state: "red",
        detail: `episode "${old.id}" was refused: its code is too old`,
        fix: typeof remediation === "string" ? remediation : "update the code that makes the episodes",
      }
    : { name: "version gate", state: "green", detail: "has refused nothing that is still here" };
  if (all.length === 0) return [gate, { name: "quarantine", state: "green", detail: "empty" }];
  return [
    gate,
    { name: "quarantine", state: "yellow", detail: `${all.length} episodes`, fix: "picket-agent quarantine list" },
  ];
}

async function unit(): Promise<Check> {
  const name = "unit";
  const said = await ask(["show", "picket-agent.service", "-p", "LoadState,ActiveState,UnitFileState"]);
  const field = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(said ?? "")?.[1] ?? "";
  if (said === null || field("LoadState") !== "loaded")
    return { name, state: "green", detail: "not a service of systemd here" };
  const [active, enabled] = [field("ActiveState"), field("UnitFileState")];
  if (active !== "active") return { name, state: "red", detail: `is ${active}`, fix: "systemctl restart picket-agent" };
  if (enabled !== "enabled")
    return { name, state: "yellow", detail: `runs, but is ${enabled}`, fix: "systemctl enable picket-agent" };
  return { name, state: "green", detail: "runs, and will after a reboot" };
}

/** Shipping trouble of the last ten minutes; what is refused for good comes before what will be tried again. */
async function journal(): Promise<Check> {
  const name = "shipping lately";
  let text: string;
  try {
    const args = ["-u", "picket-agent.service", "--since", "-10min", "-o", "cat", "--no-pager", "-q"];
    const journalctl = Bun.spawn(["journalctl", ...args], {
      stdout: "pipe",
      stderr: "ignore",
      stdin: "ignore",
      timeout: 5000,
    });
    text = await new Response(journalctl.stdout).text();
  } catch {
    return { name, state: "green", detail: "no journal here" };
  }
  return judgeJournal(text);
}

/** What the lines of a journal tell. Exported for its table of cases. */
export function judgeJournal(text: string): Check {
  const name = "shipping lately";
  const lines = text.split("\n").filter((line) => /"level":"(warn|error)"/.test(line));
  const fix = "journalctl -u picket-agent --since -10min";
  const find = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length;
  const old = find(/"status":412/);
  if (old > 0) return { name, state: "red", detail: `${old} refused: the code is too old (412)`, fix };
  const bad = find(/"status":(400|413|422)/);
  if (bad > 0) return { name, state: "red", detail: `${bad} refused for good (400, 413, 422)`, fix };
  const transient = find(/not shipped|shipping holds|: answered (429|5\d\d)/);
  if (transient > 0) return { name, state: "yellow", detail: `${transient} times tried again`, fix };
  return { name, state: "green", detail: "no trouble in ten minutes" };
}
