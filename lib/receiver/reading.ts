// What an operator reads, as data: hosts and what they have, jobs, health. The API (api.ts) and the pages share it.

import { Refusal } from "../refusal.ts";
import { type AlertRow, alertOf, listAlerts } from "./alerts.ts";
import type { EventRow, News } from "./events.ts";
import type { Config } from "./config.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import type { EpisodeStore } from "./episodes.ts";
import { type Host, hostNamed, listHosts, tagsOf, time } from "./hosts.ts";
import { jobNamed } from "./jobs.ts";
import { type ListsRow, listsOf } from "./lists.ts";
import { listPings } from "./jobs-ping.ts";
import { jobView, pingView } from "./jobs-view.ts";
import { CONTAINER_METRICS, type Container, type Guest, type HostLists } from "../report.ts";
import { AHEAD_MS } from "./report.ts";
import type { RefusedReports } from "./report-alerts.ts";
import { type ContainerSample, MEMORY_PERCENT } from "./store-report.ts";
import type { Store } from "./store.ts";

/** The most containers and guests of a host: present ones first, then those that went last. */
const MOST_PARTS = 1000;

export interface Reading {
  store: Store;
  index: EpisodeIndex;
  episodes: EpisodeStore;
  news: News;
  /** The present configuration. */
  config: () => Config;
  stopping: AbortSignal;
}

export async function hostOf({ store }: Reading, name = ""): Promise<Host> {
  const host = await hostNamed(store.read, name);
  if (!host) throw new Refusal(404, "unknown_host", `there is no host "${name}"`);
  return host;
}

export async function allHosts(reading: Reading): Promise<unknown[]> {
  const { store } = reading;
  const open = await store.read.all<{ host: number; alerts: number }>(
    "SELECT host, COUNT(*) AS alerts FROM alerts WHERE host IS NOT NULL AND closed_at IS NULL GROUP BY host",
  );
  const alerts = new Map(open.map((row) => [row.host, row.alerts]));
  const hosts = await listHosts(store.read);
  return hosts.map((host) => ({
    ...summaryOf(host, reading.config().poll_interval_seconds),
    open_alerts: alerts.get(host.id) ?? 0,
  }));
}

function summaryOf(host: Host, interval: number) {
  return {
    id: host.name,
    status: host.status,
    tags: tagsOf(host),
    last_seen_at: time(host.last_seen_at),
    last_recorded_at: time(host.last_recorded_at),
    interval_seconds: host.told_interval ?? host.set_interval ?? interval,
    agent_version: host.agent_version,
    refused: refusedOf(host),
    created_at: time(host.created_at),
    facts: JSON.parse(host.facts),
    metrics: JSON.parse(host.metrics),
  };
}

/** When and why its last report was refused; null when one was taken since. */
function refusedOf({ refused }: Host) {
  if (refused === null) return null;
  const { at, why } = JSON.parse(refused) as RefusedReports;
  return { at: time(at), why };
}

/** What a host has besides its own row. Times in milliseconds since 1970. */
export interface Details {
  /** Its lists as they were last reported; one that never was is absent. */
  lists: { [L in keyof HostLists]?: HostLists[L] } & Record<string, unknown>;
  containers: (Known & Omit<Container, "metrics"> & { metrics: ContainerFigures | null })[];
  guests: (Known & Guest)[];
  /** Open ones, the oldest first. */
  alerts: AlertRow[];
}

/** When a container or a guest was first reported, and when a report lacked it. */
interface Known {
  /** The row's number. */
  id: number;
  first_seen_at: number;
  gone_at: number | null;
}

type ContainerFigures = Record<(typeof CONTAINER_METRICS)[number] | "memory_percent", number | null>;

export async function detailsOf({ store: { read } }: Reading, host: Host): Promise<Details> {
  const latest = await read.one<{ containers: string }>(
    // One that lies ahead was stored under a wrong clock.
    "SELECT containers FROM workload_samples WHERE host = $1 AND at <= $2 ORDER BY at DESC LIMIT 1",
    [host.id, Date.now() + AHEAD_MS],
  );
  const figures = JSON.parse(latest?.containers ?? "{}") as Record<string, ContainerSample>;
  const parts = async <T>(table: "containers" | "guests", order: string) => {
    const rows = await read.all<Known & { host: number; description: string }>(
      `SELECT * FROM ${table} WHERE host = $1 ORDER BY gone_at IS NOT NULL, gone_at DESC, ${order} LIMIT $2`,
      [host.id, MOST_PARTS],
    );
    return rows.map(({ host: _host, description, first_seen_at, gone_at, ...row }) => ({
      ...row,
      ...(JSON.parse(description) as T),
      first_seen_at,
      gone_at,
    }));
  };
  const lists = await read.one<ListsRow>("SELECT rest, lists FROM host_lists WHERE host = $1", [host.id]);
  const containers = await parts<Omit<Container, "metrics">>("containers", "id");
  const alerts = await listAlerts(read, { host: host.name, open: true, limit: MOST_PARTS });
  return {
    lists: lists ? listsOf(lists) : {},
    containers: containers.map((one) => ({
      ...one,
      metrics: one.gone_at === null ? metricsOf(figures[one.id]) : null,
    })),
    guests: await parts<Guest>("guests", "vmid"),
    alerts: alerts.toReversed(),
  };
}

function metricsOf(sample: ContainerSample | undefined): ContainerFigures | null {
  if (!sample) return null;
  const figures = CONTAINER_METRICS.map((name, index) => [name, sample[index] ?? null] as const);
  return { ...Object.fromEntries(figures), memory_percent: sample[MEMORY_PERCENT] ?? null } as ContainerFigures;
}

export async function oneHost(reading: Reading, host: Host): Promise<unknown> {
  const { lists, containers, guests, alerts } = await detailsOf(reading, host);
  const shown = <T extends Known>({ id: _id, ...one }: T) => ({
    ...one,
    first_seen_at: time(one.first_seen_at),
    gone_at: time(one.gone_at),
  });
  return {
    ...summaryOf(host, reading.config().poll_interval_seconds),
    ...lists,
    last_upload_at: time(host.last_upload_at),
    containers: containers.map(shown),
    guests: guests.map(shown),
    alert_settings: JSON.parse(host.alert_settings ?? "{}"),
    offline_is_fine: host.offline_is_fine === 1,
    alerts: alerts.map(alertOf),
    health: host.health === null ? null : healthOf(host),
  };
}

export async function oneJob({ store }: Reading, name: string): Promise<unknown> {
  const job = await jobNamed(store.read, name);
  if (!job) throw new Refusal(404, "unknown_job", `there is no job "${name}"`);
  const pings = await listPings(store.read, job.id);
  return { ...jobView(job), last_pings: pings.map(pingView) };
}

export async function allHealth({ store }: Reading): Promise<unknown[]> {
  const hosts = await store.read.all<Host>("SELECT * FROM hosts WHERE health IS NOT NULL ORDER BY name");
  return hosts.map(healthOf);
}

export function healthOf({ name, health, health_at }: Host) {
  return { host: name, received_at: time(health_at), health: JSON.parse(health ?? "null") };
}

/** A container by its id, or the newest one of that name. */
export async function containerOf({ store }: Reading, host: Host, wanted: string): Promise<number> {
  const found = await store.read.one<{ id: number }>(
    `SELECT id FROM containers WHERE host = $1 AND (container_id = $2 OR json_extract(description, '$.name') = $2)
     ORDER BY container_id = $2 DESC, id DESC`,
    [host.id, wanted],
  );
  if (!found) throw new Refusal(404, "unknown_container", `"${host.name}" has no container "${wanted}"`);
  return found.id;
}

export function eventOf({ id, at, quiet, ...event }: EventRow) {
  return { id, at: time(at), ...event, quiet: quiet === 1 };
}
