// Stores a report in the tables, whole or not at all: everything here happens in the caller's transaction.
//
// A report that isn't late says how things are now: facts, status, containers and guests follow it, and a change for better or
// worse becomes an event. A late one (from an agent's queue) is history and leaves samples only.

import { duration } from "../text.ts";
import { type Alerts, settingOf } from "./alert-settings.ts";
import { close } from "./alerts.ts";
import { assess } from "./assess.ts";
import { note } from "./events.ts";
import type { Sender } from "./admission.ts";
import {
  type Described,
  alertOfContainer,
  alertOfGone,
  alertOfRestarts,
  dropUnwatched,
  hasRestarted,
  roleOf,
} from "./container-alerts.ts";
import { machineSeen, reportsTaken } from "./report-alerts.ts";
import type { ReportingHost } from "./hosts.ts";
import { keepLists } from "./lists.ts";
import { CONTAINER_METRICS, type Container, type Guest, METRICS, type Report } from "../report.ts";
import { isLate, memoryPercent } from "./report.ts";
import type { Queries, Value } from "../database.ts";

/** The finest step of the rollups, in seconds. */
export const FINEST_STEP = 600;

interface Received {
  sender: Sender;
  report: Report;
  /** Ids of containers and guests that were left out of it: they are not gone. */
  oddIds: Set<unknown>;
  /** When its last byte came, in milliseconds since 1970. */
  at: number;
  /** The receiver's running time then. */
  ran: number;
  /** Seconds between reports for a host without an interval of its own. */
  interval: number;
  /** Whether the host is told its interval; else it keeps its own. */
  told: boolean;
  /** What is an alert. */
  alerts: Alerts;
}

/** Without what is only shown: a doctor's result may be long. */
const SELECT_HOST = `SELECT id, name, status, archived_at, set_interval, told_interval, last_seen_at, last_recorded_at, heard_ms,
  agent_version, facts, refused, machines, restarts, alert_settings, judged, disk_paces FROM hosts WHERE id = $1`;

/** What became of a report. */
export interface Stored {
  /** Seconds until the host's next report. */
  interval: number;
  /** Whether there may be an event: the status of the host or one of its containers changed. */
  changed: boolean;
}

/**
 * Stores a report; null when its host was archived meanwhile. A second time it changes nothing more.
 *
 * A report that a newer one has overtaken on the way is a sign of life, but says nothing of how things are now. Only there do the
 * host's own times matter: its clock may have been set back.
 */
export async function storeReport(tx: Queries, received: Received): Promise<Stored | null> {
  const { sender, report, oddIds, at, ran, interval, told, alerts } = received;
  const host = await tx.one<ReportingHost>(SELECT_HOST, [sender.host]);
  if (!host || host.archived_at !== null) return null;
  const next = host.set_interval ?? interval;
  const own = ownInterval(report);
  // An agent that keeps to a longer interval than it was told is not silent sooner; one that is told none keeps its own.
  const expected = told || own === null ? Math.max(next, own ?? 0) : Math.max(host.set_interval ?? 0, own);
  const late = isLate(report, host.told_interval ?? expected);
  const seen = host.last_seen_at ?? 0;
  // A receipt that lies ahead is from before this clock was set back, and doesn't tell which report came first.
  const overtaken = sender.at < seen && seen <= at && report.recorded_at < (host.last_recorded_at ?? 0);
  const old = late || overtaken;
  const watched = settingOf(alerts, host.alert_settings)("containers");
  const update: Update = { tx, host, at: late ? report.recorded_at : at, ran, watched, old, oddIds, changed: false };
  const containers = await updateContainers(update, report.containers);
  const guests = await updateGuests(update, report.guests);
  await addSamples(tx, { host: host.id, report, containers, guests });
  if (late) {
    if (host.told_interval !== expected)
      await tx.run("UPDATE hosts SET told_interval = $1 WHERE id = $2", [expected, host.id]);
    return { interval: next, changed: false };
  }
  await comeOnline(update);
  if (await reportsTaken(tx, host, { at, ran })) update.changed = true;
  const machine = { boot: report.host.facts?.boot_at ?? null, ip: sender.ip };
  if (await machineSeen(tx, host, { machine, at, ran })) update.changed = true;
  const seenNow = { last_seen_at: at, heard_ms: Math.max(ran, host.heard_ms), told_interval: expected };
  await setColumns(tx, host.id, old ? seenNow : { ...seenNow, ...latest(host, report) });
  if (old) return { interval: next, changed: update.changed };
  await keepLists(tx, host.id, report);
  if (await assess(tx, { host, report, at, ran, interval: expected, alerts })) update.changed = true;
  return { interval: next, changed: update.changed };
}

/** What a report does to its host's rows. */
interface Update {
  tx: Queries;
  host: ReportingHost;
  at: number;
  ran: number;
  watched: Alerts["containers"];
  /** Whether the report says nothing of how things are now. */
  old: boolean;
  oddIds: Set<unknown>;
  /** Set where an event was stored or may have been. */
  changed: boolean;
}

/** The interval that an agent says it keeps. */
function ownInterval({ interval_seconds: seconds }: Report): number | null {
  return seconds !== null && seconds >= 1 && seconds <= 86_400 ? seconds : null;
}

/** In one statement: a host's row is long, and each writes it anew. */
async function setColumns(tx: Queries, id: number, columns: Record<string, Value>): Promise<void> {
  const names = Object.keys(columns).map((name, index) => `${name} = $${index + 2}`);
  await tx.run(`UPDATE hosts SET ${names.join(", ")} WHERE id = $1`, [id, ...Object.values(columns)]);
}

/** What the report says of how things are now. */
function latest({ facts, agent_version }: ReportingHost, report: Report): Record<string, Value> {
  const { metrics, facts: newFacts } = report.host;
  return {
    last_recorded_at: report.recorded_at,
    agent_version: report.agent_version ?? agent_version,
    facts: merged(facts, newFacts),
    metrics: JSON.stringify(metrics),
  };
}

/** Writes the status only where it changes. */
async function comeOnline(update: Update): Promise<void> {
  const { tx, host, at, ran } = update;
  if (host.status === "online") return;
  update.changed = true;
  await tx.run("UPDATE hosts SET status = 'online' WHERE id = $1", [host.id]);
  if (host.status === "pending") return;
  const about = { host: host.id, at };
  const text = `${host.name} is back after ${duration(ran - host.heard_ms)}`;
  await close(tx, { ...about, types: ["host.stale"] });
  await close(tx, { ...about, types: ["host.offline"], recovered: text });
  const told = await tx.one(
    "SELECT 1 FROM told WHERE host = $1 AND type = 'host.offline' AND open = 1 AND flapping IS NULL",
    [host.id],
  );
  // Else announce.ts tells that it is back.
  if (!told) await note(tx, { ...about, type: "host.recovered", severity: "info", text, quiet: true });
}

/** Only what is given and not null replaces what was known, which is parsed only where a null has something to leave. */
function merged(before: string, now: Record<string, unknown> | null): string {
  if (now === null) return before;
  const all = Object.entries(now);
  const given = Object.fromEntries(all.filter(([, value]) => value !== null));
  const keeps = all.some(([name, value]) => value === null && before.includes(`"${name}":`));
  return JSON.stringify(keeps ? { ...(JSON.parse(before) as object), ...given } : given);
}

function unique<T>(all: T[], key: (one: T) => string | number): T[] {
  return [...new Map(all.map((one) => [key(one), one])).values()];
}

// ---------------------------------------------------------------------------------------------------------------
// Containers and guests

/** A row of `containers` or `guests`. */
interface Known {
  id: number;
  /** The container's id, or the guest's number. */
  key: string | number;
  description: string;
}

const CONTAINERS = { table: "containers", key: "container_id" } as const;
const GUESTS = { table: "guests", key: "vmid" } as const;
type Kind = typeof CONTAINERS | typeof GUESTS;

/** The rows that a host has now, by their key. */
async function presentRows({ tx, host }: Update, { table, key }: Kind): Promise<Map<string | number, Known>> {
  const rows = await tx.all<Known>(
    `SELECT id, ${key} AS key, description FROM ${table} WHERE host = $1 AND gone_at IS NULL`,
    [host.id],
  );
  return new Map(rows.map((row) => [row.key, row]));
}

/** Adds a row, or brings it back; gives its number. An old report doesn't bring it back. */
async function addRow({ tx, host, at, old }: Update, kind: Kind, row: Omit<Known, "id">): Promise<number> {
  const { table, key } = kind;
  const update = old ? `SET host = ${table}.host` : "SET description = excluded.description, gone_at = NULL";
  const added = await tx.one<{ id: number }>(
    `INSERT INTO ${table} (host, ${key}, description, first_seen_at, gone_at) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (host, ${key}) DO UPDATE ${update} RETURNING id`,
    [host.id, row.key, row.description, at, old ? at : null],
  );
  return added!.id;
}

/** Updates the containers; gives the row number of each with its figures. */
async function updateContainers(update: Update, reported: Container[] | null): Promise<[number, Container][]> {
  if (reported === null) return [];
  const { tx, old } = update;
  const containers = unique(reported, (one) => one.container_id);
  const present = containers.map(({ metrics: _metrics, container_id: _id, ...described }): Described => described);
  const known = await presentRows(update, CONTAINERS);
  // Parsed only where a container is new.
  let former: Map<string, Described> | null = null;
  const inRole = (role: string): Described | undefined => {
    former ??= new Map(
      [...known.values()].map((row) => JSON.parse(row.description) as Described).map((one) => [roleOf(one), one]),
    );
    return former.get(role);
  };
  const rows: [number, Container][] = [];
  const restarted: string[] = [];
  const seen = new Set<string | number>();
  for (const [index, container] of containers.entries()) {
    const { container_id: key } = container;
    const now = present[index]!;
    const row = known.get(key);
    seen.add(key);
    const description = JSON.stringify(now);
    const id = row?.id ?? (await addRow(update, CONTAINERS, { key, description }));
    rows.push([id, container]);
    if (old || (row?.description === description && now.state?.toLowerCase() !== "restarting")) continue;
    const before = row && (JSON.parse(row.description) as Described);
    if (hasRestarted(before ?? inRole(roleOf(now)), now, !row)) restarted.push(roleOf(now));
    if (row) await tx.run("UPDATE containers SET description = $1 WHERE id = $2", [description, id]);
    if (await alertOfContainer(update, { before, now, present })) update.changed = true;
  }
  if (old) return rows;
  const gone = [...known.values()].filter(({ key }) => !seen.has(key));
  await loseContainers(update, gone, present);
  if (await alertOfRestarts(update, restarted, present)) update.changed = true;
  if (await dropUnwatched(update)) update.changed = true;
  return rows;
}

/** Marks containers as gone and closes their alerts. */
async function loseContainers(update: Update, gone: Known[], present: Described[]): Promise<void> {
  for (const { id, key, description } of gone) {
    if (update.oddIds.has(key)) continue;
    await update.tx.run("UPDATE containers SET gone_at = $1 WHERE id = $2", [update.at, id]);
    if (await alertOfGone(update, JSON.parse(description) as Described, present)) update.changed = true;
  }
}

/** Updates the guests; gives the row number of each with it. */
async function updateGuests(update: Update, reported: Guest[] | null): Promise<[number, Guest][]> {
  if (reported === null) return [];
  const { tx, at, old, oddIds } = update;
  const known = await presentRows(update, GUESTS);
  const rows: [number, Guest][] = [];
  for (const guest of unique(reported, (one) => one.vmid)) {
    const { vmid: key, ...described } = guest;
    const before = known.get(key);
    known.delete(key);
    // The agent could not read the spec this time: keep the former one.
    const spec = described.spec ?? (before ? (JSON.parse(before.description) as Guest).spec : null);
    const description = JSON.stringify({ ...described, spec });
    const same = before && (old || before.description === description);
    rows.push([same ? before.id : await addRow(update, GUESTS, { key, description }), guest]);
  }
  if (!old) {
    for (const { id, key } of known.values()) {
      if (!oddIds.has(key)) await tx.run("UPDATE guests SET gone_at = $1 WHERE id = $2", [at, id]);
    }
  }
  return rows;
}

// ---------------------------------------------------------------------------------------------------------------
// Samples

/** The figures of one container in `workload_samples`: those of CONTAINER_METRICS, then memory_percent. */
export type ContainerSample = (number | null)[];
/** The index of memory_percent in a ContainerSample. */
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
