// Checks an agent, from its folders to its receiver. Each check is green, yellow or red, and names the command that fixes it.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Client, HttpError } from "../client.ts";
import { isLoopback } from "../config.ts";
import { type Check, clock, green, red, rights, space, unit, yellow } from "../doctor.ts";
import { isThere } from "../files.ts";
import { duration } from "../text.ts";
import { errorChain } from "../log.ts";
import { outputOf } from "../program.ts";
import { Backlog } from "./backlog.ts";
import type { Config } from "./config.ts";
import { EpisodeFolders } from "./episodes.ts";
import { ping, refused, wrongHost } from "./hub.ts";
import type { Sampler } from "./report.ts";

/** What is checked. */
export interface Subject {
  config: Config;
  hub: Client;
  sampler: Sampler;
  signal: AbortSignal;
}

const RECEIVERS = "the receiver's";
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** The folder of the reports that could not be sent. */
export const queueDirOf = ({ data_dir }: Config) => join(data_dir, "queue");

/** The folders that an agent reads and writes. */
export function ownFolders({ data_dir, ship }: Config): string[] {
  return [data_dir, ...(ship ? new EpisodeFolders(ship.episodes_dir).all : [])];
}

/** All checks of a valid configuration. */
export async function examine({ config, hub, sampler, signal }: Subject): Promise<Check[]> {
  const queueDir = queueDirOf(config);
  const episodes = config.ship ? new EpisodeFolders(config.ship.episodes_dir) : null;
  return [
    await dns(new URL(hub.url).hostname),
    ...(await connection(hub, { config, signal })),
    ...space(ownFolders(config)),
    ...folders(queueDir, episodes),
    await host(sampler),
    ...(await sources(sampler, signal)),
    queue(queueDir),
    ...(episodes ? [...finished(episodes), ...quarantine(episodes)] : []),
    ...(await unit("agent")),
    await journal(),
  ];
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
async function connection(hub: Client, { config, signal }: Pick<Subject, "config" | "signal">): Promise<Check[]> {
  const tls = green("tls", howEncrypted(hub.url));
  try {
    const { body, skewMs } = await ping(hub, signal);
    const wrong = wrongHost(config.host_id, body);
    const host = wrong === null ? [] : [red("host_id", wrong, 'remove "host_id" from the configuration')];
    return [tls, token(body["host"]), ...host, clock(skewMs ?? 0, RECEIVERS)];
  } catch (error) {
    if (!(error instanceof HttpError)) return [red("tls", errorChain(error), `curl -v ${hub.url}/health`)];
    if (error.foreign) return [tls, red("token", `not tested: ${error.message}`, `curl -i ${hub.url}/v1/ping`)];
    const { what, fix } = refused(error);
    const check = error.refusesCredentials
      ? red("token", `the receiver rejects ${what}: ${error.message}`, fix)
      : yellow("token", error.message, "on the receiver: journalctl -u picket-receiver");
    return [tls, check, ...(error.serverTime === null ? [] : [clock(Date.now() - error.serverTime, RECEIVERS)])];
  }
}

function howEncrypted(url: string): string {
  if (url.startsWith("https:")) return "TLS works";
  if (isLoopback(new URL(url).hostname)) return "no TLS: the receiver is this machine";
  return 'no TLS ("allow_http"): the token is sent unencrypted, to private addresses only';
}

/** A program that speaks JSON may listen there, and answer everything with 200. */
function token(host: unknown): Check {
  return typeof host === "string"
    ? green("token", `the receiver knows this host as "${host}"`)
    : red("token", "the answer is not a receiver's", "picket-agent --check --print (receiver.url)");
}

/** The agent makes its own folders; that of the episodes is another program's. */
function folders(queueDir: string, ship: EpisodeFolders | null): Check[] {
  const made = [queueDir, ...(ship?.all ?? [])];
  const lost = made.filter((folder) => isThere(folder) && !existsSync(folder));
  const missing = ship && !isThere(ship.episodes) ? [ship.episodes] : [];
  return [
    ...lost.map((folder) => red(`rights ${folder}`, "is a link that leads nowhere", `ls -l ${folder}`)),
    ...missing.map((folder) => yellow(`rights ${folder}`, "does not exist", `mkdir -p ${folder}`)),
    ...rights(
      "agent",
      made.filter((folder) => !missing.includes(folder) && !lost.includes(folder)),
    ),
  ];
}

/** What waits in the episodes' folder, and can't be shipped; and how episodes move. */
function finished(folders: EpisodeFolders): Check[] {
  const { ids, invalid } = folders.finished();
  const others = folders.otherMounts();
  const how = others.length > 0 ? `; copied, because another mount holds ${others.join(" and ")}` : "";
  if (invalid.size === 0) return [green("episodes", `${ids.length} are finished${how}`)];
  return [...invalid].map(([name, fix]) =>
    red("episodes", `"${name}" can't be shipped`, `${folders.episodes}: ${fix}`),
  );
}

/** What of this host can't be read. To ask the disks for their own judgement takes long, and is root's. */
async function host(sampler: Sampler): Promise<Check> {
  const troubles = [...(await sampler.hostTroubles())].filter(([what]) => what !== "smart");
  if (troubles.length === 0) return green("host", "all of it can be read");
  return yellow("host", troubles.map(([what, why]) => `${what}: ${why}`).join("; "), "picket-agent selftest host");
}

/** The optional sources of reports: Docker and Proxmox. */
async function sources(sampler: Sampler, signal: AbortSignal): Promise<Check[]> {
  const checks: Check[] = [];
  const { dockerSocket } = sampler;
  if (dockerSocket !== null) {
    const containers = await sampler.containers(signal);
    checks.push(
      containers
        ? green("docker", `${containers.length} containers`)
        : yellow("docker", `${dockerSocket}: containers can't be read`, "picket-agent selftest docker"),
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
  const { oldest, count, rejection } = new Backlog(dir, Number.POSITIVE_INFINITY);
  if (rejection !== null) return red("reports", `the receiver rejects them: ${rejection}`, "picket-agent selftest");
  if (!oldest) return green("queue", "empty");
  const age = Date.now() - oldest.recordedAt;
  const detail = `${count} reports are queued, the oldest for ${duration(age)}`;
  if (age <= HOUR_MS) return green("queue", detail);
  return (age > DAY_MS ? red : yellow)("queue", detail, "picket-agent ping");
}

/** Rejected episodes, and whether the reason was old code. */
function quarantine(episodes: EpisodeFolders): Check[] {
  const all = episodes.quarantined();
  const old = all.findLast(({ reason }) => reason?.status === 412);
  const { remediation } = (old?.reason?.body ?? {}) as { remediation?: unknown };
  const update = typeof remediation === "string" ? remediation : "update the code that makes the episodes";
  return [
    old
      ? red("version gate", `episode "${old.id}" was rejected: its code is too old`, update)
      : green("version gate", "rejected no episode in quarantine"),
    all.length === 0
      ? green("quarantine", "empty")
      : yellow("quarantine", `${all.length} episodes`, "picket-agent quarantine list"),
  ];
}

const SHIPPING = "shipping lately";

/** Shipping errors of the last ten minutes. */
async function journal(): Promise<Check> {
  const args = ["--since", "-10min", "-p", "warning", "-o", "cat", "--no-pager", "-q"];
  const units = ["-u", "--user-unit"].map((of) => outputOf(["journalctl", of, "picket-agent.service", ...args]));
  const text = (await Promise.all(units)).join("\n");
  return Bun.which("journalctl") === null ? green(SHIPPING, "no journal here") : judgeJournal(text);
}

/** Judges the warnings and errors of a journal, as text or JSON: a permanent rejection comes before a retry. Exported for its table of cases. */
export function judgeJournal(text: string): Check {
  const lines = text.split("\n");
  const fix = "journalctl -u picket-agent --since -10min";
  const count = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length;
  const old = count(/\bstatus"?[:=]412/);
  if (old > 0) return red(SHIPPING, `${old} rejected: the code is too old (412)`, fix);
  const rejected = count(/\bstatus"?[:=](400|413|422)/);
  if (rejected > 0) return red(SHIPPING, `${rejected} rejected for good (400, 413, 422)`, fix);
  const retries = count(/not shipped|shipping waits|: answered (429|5\d\d)/);
  return retries > 0 ? yellow(SHIPPING, `${retries} retries`, fix) : green(SHIPPING, "no errors in ten minutes");
}
