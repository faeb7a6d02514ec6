// A report into the tables, whole or not at all: everything here happens in the caller's transaction.
//
// A report that isn't late says how things are: facts, status, containers and guests follow it, and what changed for
// better or worse becomes an event. A late one (from an agent's queue) is history and only leaves samples.

import { duration } from "../text.ts";
import { close, note, raise } from "./alerts.ts";
import type { Guest as Admitted } from "./admission.ts";
import type { Host } from "./hosts.ts";
import {
  CONTAINER_METRICS,
  type Container,
  type Guest,
  METRICS,
  type Report,
  isLate,
  memoryPercent,
} from "./report.ts";
import type { Queries, Value } from "./database.ts";

/** The finest step of the rollups, in seconds. */
export const FINEST_STEP = 600;

export interface Taking {
  guest: Admitted;
  report: Report;
  /** When all of it had come. */
  at: number;
  /** Seconds between reports, unless set for the host alone. */
  interval: number;
  /** Whether the host is told its interval: else it keeps its own. */
  told: boolean;
}

/** What came of a report. */
export interface Taken {
  /** What the host is told: seconds until its next report. */
  interval: number;
  /** Whether there may be an event: the status of the host or one of its containers changed. */
  changed: boolean;
}

/**
 * Takes a report; null when the host was archived meanwhile. Run again with the same one it changes nothing more.
 *
 * One that came so slowly that a newer one overtook it is a sign of life, but says nothing new of how things are. Only then
 * do the host's own times matter: its clock may have been set back.
 */
export async function ingest(tx: Queries, { guest, report, at, interval, told }: Taking): Promise<Taken | null> {
  const host = await tx.one<Host>("SELECT * FROM hosts WHERE id = $1", [guest.host]);
  if (!host || host.archived_at !== null) return null;
  const own = told ? null : ownInterval(report);
  const next = host.set_interval ?? own ?? interval;
  const late = isLate(report, host.told_interval ?? next);
  const seen = host.last_seen_at ?? 0;
  // A receipt that lies ahead is from before this clock was set back, and says nothing of who came first.
  const overtaken = guest.at < seen && seen <= at && report.recorded_at < (host.last_recorded_at ?? 0);
  const old = late || overtaken;
  const containers = report.containers === null ? null : unique(report.containers, (one) => one.container_id);
  const guests = report.guests === null ? null : unique(report.guests, (one) => one.vmid);
  const place: Place = { tx, host, at: late ? report.recorded_at : at, old, changed: false };
  const ids = await placeContainers(place, containers);
  const guestIds = await placeGuests(place, guests);
  await addSamples(tx, { host: host.id, report, containers: ids, guests: guestIds });
  if (late) {
    if (host.told_interval !== next) await tx.run("UPDATE hosts SET told_interval = $1 WHERE id = $2", [next, host.id]);
    return { interval: next, changed: false };
  }
  await comeOnline(place);
  await tx.run("UPDATE hosts SET last_seen_at = $1, away_ms = 0, told_interval = $2 WHERE id = $3", [
    at,
    next,
    host.id,
  ]);
  if (old) return { interval: next, changed: place.changed };
  await tx.run(
    `UPDATE hosts SET last_recorded_at = $1, agent_version = COALESCE($2, agent_version), facts = $3, metrics = $4,
       extras = $5 WHERE id = $6`,
    [
      report.recorded_at,
      report.agent_version,
      merged(host.facts, report.host.facts),
      JSON.stringify(report.host.metrics),
      merged(host.extras, extrasOf(report)),
      host.id,
    ],
  );
  return { interval: next, changed: place.changed };
}

interface Place {
  tx: Queries;
  host: Host;
  at: number;
  /** Whether the report says nothing of how things are now. */
  old: boolean;
  /** Set where something was told or may have been. */
  changed: boolean;
}

/** What an agent that is told nothing says of itself. */
function ownInterval({ interval_seconds: seconds }: Report): number | null {
  return seconds !== null && seconds >= 1 && seconds <= 86_400 ? seconds : null;
}

/** The status is written only when it changes, by whoever changes it. */
async function comeOnline(place: Place): Promise<void> {
  const { tx, host, at } = place;
  if (host.status === "online") return;
  place.changed = true;
  await tx.run("UPDATE hosts SET status = 'online' WHERE id = $1", [host.id]);
  if (host.status === "pending") return;
  await close(tx, { host: host.id, types: ["host.stale", "host.offline"], at });
  const away = duration(at - (host.last_seen_at ?? at));
  await note(tx, { host: host.id, type: "host.recovered", text: `${host.name} is back after ${away}`, at });
}

/** Only what is there and not null replaces what was known. */
function merged(before: string, now: Record<string, unknown> | null): string {
  const all = JSON.parse(before) as Record<string, unknown>;
  for (const [key, value] of Object.entries(now ?? {})) if (value !== null) all[key] = value;
  return JSON.stringify(all);
}

function extrasOf(report: Report): Record<string, unknown> {
  const { cloudflared, services, storage_targets, backups, restore_tests, pbs_snapshots, audit_tail } = report;
  return { cloudflared, services, storage_targets, backups, restore_tests, pbs_snapshots, audit_tail };
}

function unique<T>(all: T[], key: (one: T) => string | number): T[] {
  return [...new Map(all.map((one) => [key(one), one])).values()];
}

// ---------------------------------------------------------------------------------------------------------------
// Containers

interface Known {
  id: number;
  container_id: string;
  description: string;
}

type Described = Omit<Container, "metrics" | "container_id">;

/** Brings the containers in step with a report's; gives each one's number with its figures. */
async function placeContainers(place: Place, containers: Container[] | null): Promise<[number, Container][]> {
  if (containers === null) return [];
  const { tx, host, old } = place;
  const present = await tx.all<Known>(
    "SELECT id, container_id, description FROM containers WHERE host = $1 AND gone_at IS NULL",
    [host.id],
  );
  const known = new Map(present.map((one) => [one.container_id, one]));
  const placed: [number, Container][] = [];
  for (const container of containers) {
    const before = known.get(container.container_id);
    known.delete(container.container_id);
    const { metrics: _, container_id: __, ...described } = container;
    const description = JSON.stringify(described);
    if (old || before?.description === description) {
      placed.push([before?.id ?? (await addContainer(place, container.container_id, description)), container]);
      continue;
    }
    const id = before
      ? await changeContainer(tx, before.id, description)
      : await addContainer(place, container.container_id, description);
    placed.push([id, container]);
    place.changed = true;
    await tellOfContainer(place, before && (JSON.parse(before.description) as Described), described);
  }
  if (!old) await loseContainers(place, [...known.values()], new Set(containers.map(({ name }) => name)));
  return placed;
}

async function changeContainer(tx: Queries, id: number, description: string): Promise<number> {
  await tx.run("UPDATE containers SET description = $1 WHERE id = $2", [description, id]);
  return id;
}

/** A container that isn't among those present: new, or back again. An old report doesn't bring it back. */
async function addContainer({ tx, host, at, old }: Place, containerId: string, description: string): Promise<number> {
  const update = old ? "SET host = containers.host" : "SET description = excluded.description, gone_at = NULL";
  const row = await tx.one<{ id: number }>(
    `INSERT INTO containers (host, container_id, description, first_seen_at, gone_at) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (host, container_id) DO UPDATE ${update} RETURNING id`,
    [host.id, containerId, description, at, old ? at : null],
  );
  return row!.id;
}

/** A container that was taken away is nobody's trouble any more, unless another one has taken its name. */
async function loseContainers({ tx, host, at }: Place, gone: Known[], names: Set<string>): Promise<void> {
  for (const { id, description } of gone) {
    await tx.run("UPDATE containers SET gone_at = $1 WHERE id = $2", [at, id]);
    const { name } = JSON.parse(description) as Described;
    if (names.has(name)) continue;
    await close(tx, { host: host.id, types: ["container.unhealthy", "container.stopped"], subject: name, at });
  }
}

const STOPPED = new Set(["exited", "dead"]);

function isUnhealthy(container: Described | undefined): boolean {
  return container?.health_status === "unhealthy" && !STOPPED.has(container.state ?? "");
}

/** What a container's change means. A container that was first seen stopped has not stopped. */
async function tellOfContainer({ tx, host, at }: Place, before: Described | undefined, now: Described): Promise<void> {
  const about = { host: host.id, subject: now.name, at };
  const who = `${host.name}: container ${now.name}`;
  const stopped = STOPPED.has(now.state ?? "");
  if (before && before.name !== now.name) {
    await close(tx, { ...about, subject: before.name, types: ["container.unhealthy", "container.stopped"] });
  }
  if (isUnhealthy(now) && !isUnhealthy(before)) {
    await raise(tx, { ...about, type: "container.unhealthy", text: `${who} is unhealthy` });
  }
  if (stopped && before !== undefined && !STOPPED.has(before.state ?? "")) {
    const how = now.status ? ` (${now.status})` : "";
    await raise(tx, { ...about, type: "container.stopped", text: `${who} has stopped${how}` });
  }
  const well =
    now.state === "running" &&
    (now.health_status === null || now.health_status === "healthy" || now.health_status === "none");
  if (!well) return;
  const closed = await close(tx, { ...about, types: ["container.unhealthy", "container.stopped"] });
  if (closed > 0) await note(tx, { ...about, type: "container.recovered", text: `${who} is well again` });
}

// ---------------------------------------------------------------------------------------------------------------
// Guests

/** Brings the guests in step with a report's; gives each one's number with it. */
async function placeGuests({ tx, host, at, old }: Place, guests: Guest[] | null): Promise<[number, Guest][]> {
  if (guests === null) return [];
  const present = await tx.all<{ id: number; vmid: number; description: string }>(
    "SELECT id, vmid, description FROM guests WHERE host = $1 AND gone_at IS NULL",
    [host.id],
  );
  const known = new Map(present.map((one) => [one.vmid, one]));
  const placed: [number, Guest][] = [];
  for (const guest of guests) {
    const before = known.get(guest.vmid);
    known.delete(guest.vmid);
    const { vmid, ...described } = guest;
    // A spec that couldn't be read this time is still what it was.
    const spec = described.spec ?? (before ? (JSON.parse(before.description) as Guest).spec : null);
    const description = JSON.stringify({ ...described, spec });
    if (before && (old || before.description === description)) {
      placed.push([before.id, guest]);
      continue;
    }
    const update = old ? "SET host = guests.host" : "SET description = excluded.description, gone_at = NULL";
    const row = await tx.one<{ id: number }>(
      `INSERT INTO guests (host, vmid, description, first_seen_at, gone_at) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (host, vmid) DO UPDATE ${update} RETURNING id`,
      [host.id, vmid, description, at, old ? at : null],
    );
    placed.push([row!.id, guest]);
  }
  if (!old) {
    for (const gone of known.values()) await tx.run("UPDATE guests SET gone_at = $1 WHERE id = $2", [at, gone.id]);
  }
  return placed;
}

// ---------------------------------------------------------------------------------------------------------------
// Samples

/** The figures of one container in `workload_samples`: those of CONTAINER_METRICS, then memory_percent. */
export type ContainerSample = (number | null)[];
/** Where memory_percent stands in a ContainerSample. */
export const MEMORY_PERCENT = CONTAINER_METRICS.length;

const INSERT_HOST_SAMPLE = `INSERT INTO host_samples (host, at, ${METRICS.join(", ")})
  VALUES ($1, $2, ${METRICS.map((_, index) => `$${index + 3}`).join(", ")})
  ON CONFLICT (host, at) DO UPDATE SET ${METRICS.map((name) => `${name} = excluded.${name}`).join(", ")}`;

async function addSamples(
  tx: Queries,
  samples: { host: number; report: Report; containers: [number, Container][]; guests: [number, Guest][] },
): Promise<void> {
  const { host, report, containers, guests } = samples;
  const at = report.recorded_at;
  const metrics: Value[] = METRICS.map((name) => report.host.metrics[name]);
  await tx.run(INSERT_HOST_SAMPLE, [host, at, ...metrics]);
  if (containers.length > 0 || guests.length > 0) {
    const figures = containers.map(([id, one]) => [id, sampleOf(one)] as const);
    const states = guests.map(([id, { status }]) => [id, status] as const);
    await tx.run(
      `INSERT INTO workload_samples (host, at, containers, guests) VALUES ($1, $2, $3, $4)
       ON CONFLICT (host, at) DO UPDATE SET containers = excluded.containers, guests = excluded.guests`,
      [host, at, JSON.stringify(Object.fromEntries(figures)), JSON.stringify(Object.fromEntries(states))],
    );
  }
  const step = FINEST_STEP * 1000;
  await tx.run("INSERT INTO rollups_due (step, at, host) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", [
    FINEST_STEP,
    Math.floor(at / step) * step,
    host,
  ]);
}

function sampleOf({ metrics }: Container): ContainerSample {
  return [...CONTAINER_METRICS.map((name) => metrics?.[name] ?? null), memoryPercent(metrics)];
}
