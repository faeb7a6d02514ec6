// Alerts of a host's containers: unhealthy, stopped, restarting again and again. What is stopped with exit code 0 has done its
// work. A report holds no count of restarts: it is taken from what changes between two reports.

import type { Container } from "../report.ts";
import { duration, shellWord } from "../text.ts";
import { type Alerts, CONTAINERS } from "./alert-settings.ts";
import { type AlertType, close, raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import type { ReportingHost } from "./hosts.ts";

/** A container without its figures, as `containers.description` holds it. */
export type Described = Omit<Container, "metrics" | "container_id">;

/** The report that an alert is from. */
interface About {
  tx: Queries;
  host: ReportingHost;
  at: number;
  /** The receiver's running time then. */
  ran: number;
  /** What is an alert. */
  watched: Alerts["containers"];
}

const ENDED = new Set(["exited", "stopped", "dead"]);
/** So many restarts within the window are an alert. */
const RESTARTS = 3;
/** The least window, and the least number of reports in it. */
const WINDOW_MS = 10 * 60_000;
const WINDOW_REPORTS = 10;

/** Docker's and Podman's word. */
function stateOf({ state }: Described): string {
  return state?.toLowerCase() ?? "";
}

function hasEnded(container: Described): boolean {
  return ENDED.has(stateOf(container));
}

function isStopped(container: Described): boolean {
  return hasEnded(container) || stateOf(container) === "paused";
}

function endedWell(container: Described): boolean {
  return hasEnded(container) && container.status?.startsWith("Exited (0)") === true;
}

function isUnhealthy(container: Described | undefined): boolean {
  return container?.health_status === "unhealthy" && !isStopped(container);
}

function isWell(container: Described): boolean {
  const { health_status: health } = container;
  return (stateOf(container) === "running" && [null, "healthy", "none"].includes(health)) || endedWell(container);
}

/**
 * What stays the same when a container is replaced: the slot of a swarm's service, a compose service's number, a pod's container;
 * otherwise its name.
 */
export function roleOf({ name, labels }: Described): string {
  const label = (key: string): string | null => (typeof labels?.[key] === "string" ? labels[key] : null);
  const task = label("com.docker.swarm.task.name");
  if (task !== null) return task.replace(/\.[^.]*$/, "");
  const [project, service] = [label("com.docker.compose.project"), label("com.docker.compose.service")];
  if (service !== null) return `${project}/${service}/${label("com.docker.compose.container-number") ?? name}`;
  const pod = label("io.kubernetes.pod.name");
  return pod === null ? name : `${pod}/${label("io.kubernetes.container.name")}`;
}

/**
 * Raises and closes the alerts of a container that changed; true where one did. One that was stopped when it was first seen has not stopped.
 * @param present all containers of the report.
 */
export async function alertOfContainer(
  { tx, host, at, watched }: About,
  { before, now, present }: { before: Described | undefined; now: Described; present: Described[] },
): Promise<boolean> {
  const about = { host: host.id, subject: now.name, at };
  const types = ["container.unhealthy", "container.stopped"] as const;
  const who = `${host.name}: container ${now.name}`;
  let changed = false;
  const end = async (more: { subject?: string; recovered?: string }): Promise<void> => {
    if ((await close(tx, { ...about, types, ...more })) > 0) changed = true;
  };
  const begin = async (type: AlertType, text: string): Promise<void> => {
    if (await raise(tx, { ...about, type, text })) changed = true;
  };
  if (before && before.name !== now.name) await end({ subject: before.name });
  if (isUnhealthy(now) && !isUnhealthy(before) && watched.includes("unhealthy")) {
    await begin("container.unhealthy", `${who} is unhealthy; ${logsOf(now.name)}`);
  }
  const same = present.filter((other) => other !== now && roleOf(other) === roleOf(now));
  const stops = isStopped(now) && before !== undefined && !isStopped(before) && !endedWell(now);
  if (stops && !same.some(isWell) && watched.includes("stopped")) {
    const how = now.status ? ` (${now.status})` : "";
    const text =
      stateOf(now) === "paused"
        ? `is paused${how}; docker unpause ${shellWord(now.name)}`
        : `has stopped${how}; ${logsOf(now.name)}`;
    await begin("container.stopped", `${who} ${text}`);
  }
  if (!isWell(now)) return changed;
  await end({ recovered: `${who} is well again` });
  for (const { name } of same.filter(isStopped)) {
    const recovered = `${host.name}: container ${name} was replaced by ${now.name}`;
    await end({ subject: name, recovered });
  }
  return changed;
}

/** Closes the alerts of a container that is gone, unless another one of the report has its name; true where there was one. */
export async function alertOfGone({ tx, host, at }: About, gone: Described, present: Described[]): Promise<boolean> {
  if (present.some(({ name }) => name === gone.name)) return false;
  const types = ["container.unhealthy", "container.stopped"] as const;
  return (await close(tx, { host: host.id, at, subject: gone.name, types })) > 0;
}

/** Closes the alerts of a host's containers that are no longer asked for; true where there was one. */
export async function dropUnwatched({ tx, host, at, watched }: About): Promise<boolean> {
  let closed = 0;
  for (const trouble of CONTAINERS.filter((one) => !watched.includes(one))) {
    closed += await tx.run(
      "UPDATE alerts SET closed_at = $1, changed_ran = NULL WHERE host = $2 AND type = $3 AND closed_at IS NULL",
      [at, host.id, `container.${trouble}`],
    );
  }
  return closed > 0;
}

/** Whether a container has restarted since the last report, or its predecessor in its role was replaced. */
export function hasRestarted(before: Described | undefined, now: Described, isNew: boolean): boolean {
  if (stateOf(now) === "restarting") return true;
  if (!before || stateOf(now) !== "running" || endedWell(before)) return false;
  return (
    isNew ||
    hasEnded(before) ||
    (before.started_at !== null && now.started_at !== null && before.started_at !== now.started_at)
  );
}

/** What shows why. Podman takes the same words. */
function logsOf(name: string): string {
  return `docker logs --tail 50 ${shellWord(name)}`;
}

/** `hosts.restarts`: the running times of each role's latest restarts. */
export type Restarts = Record<string, number[]>;

/** Raises and closes the alerts of containers that restart. True where there may be an event. */
export async function alertOfRestarts(
  { tx, host, at, ran, watched }: About,
  restarted: string[],
  present: Described[],
): Promise<boolean> {
  if (restarted.length === 0 && host.restarts === null) return false;
  // Without a prototype: a container may be named "constructor".
  const all = { __proto__: null, ...JSON.parse(host.restarts ?? "{}") } as Restarts;
  for (const role of restarted) (all[role] ??= []).push(ran);
  const windowMs = Math.max(WINDOW_MS, WINDOW_REPORTS * (host.told_interval ?? 0) * 1000);
  for (const [role, times] of Object.entries(all)) {
    const recent = times.filter((time) => time > ran - windowMs);
    const about = { host: host.id, subject: role, at };
    const now = present.find((one) => roleOf(one) === role);
    const who = `${host.name}: container ${now?.name ?? role}`;
    if (recent.length >= RESTARTS && watched.includes("restarting")) {
      const often = `${recent.length} times in ${duration(ran - recent[0]!)}`;
      const text = `${who} restarts again and again: ${often}; ${logsOf(now?.name ?? role)}`;
      await raise(tx, { ...about, type: "container.restarting", text });
    }
    if (recent.length > 0 && now) {
      all[role] = recent;
      continue;
    }
    delete all[role];
    const recovered = now && isWell(now) ? `${who} no longer restarts` : undefined;
    await close(tx, { ...about, types: ["container.restarting"], recovered });
  }
  const text = Object.keys(all).length === 0 ? null : JSON.stringify(all);
  await tx.run("UPDATE hosts SET restarts = $1 WHERE id = $2", [text, host.id]);
  return true;
}
