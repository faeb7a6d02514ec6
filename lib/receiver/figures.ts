// The receiver's figures: what /metrics counts, what /health says, what `systemctl status` shows.

import { cannotWrite } from "../files.ts";
import type { Health } from "../http.ts";
import { errorChain } from "../log.ts";
import type { Registry } from "../metrics.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import { addHostSeries } from "./host-series.ts";
import { STATUSES } from "./hosts.ts";
import { jobFigures } from "./jobs-view.ts";
import type { Presence } from "./presence.ts";
import type { Store } from "./store.ts";
import type { GateSource, VersionGate } from "./version-gate.ts";

const SOURCES: readonly GateSource[] = ["off", "forgejo", "git", "kept", "none"];

/** Registers the counters and gauges. */
export function createFigures(metrics: Registry, { gate, store, presence }: Omit<Counted, "index" | "figures">) {
  const refused = metrics.counters(
    "picket_requests_refused_total",
    "Requests of agents that were not let in, by reason.",
  );
  const episodes = metrics.counters(
    "picket_episodes_total",
    "Uploads by outcome: stored, known (were here already), refused.",
  );
  // With 0 from the start: a counter that appears with 1 has no rate.
  for (const outcome of ["stored", "known", "refused"]) episodes({ outcome });
  const hosts = new Map<string, number>();
  metrics.gauge("picket_hosts", "Hosts by status.", () =>
    STATUSES.map((status) => [{ status }, hosts.get(status) ?? 0]),
  );
  const totals = { alerts: 0, refused: 0, episodes: 0, bytes: 0 };
  metrics.gauge("picket_alerts_open", "Alerts that are open.", () => totals.alerts);
  const leads = "Of several receivers on one store, one watches over hosts and jobs, and tells: 1 at that one.";
  metrics.gauge("picket_receiver_leads", leads, () => (presence.leads ? 1 : 0));
  metrics.gauge("picket_version_gate_source", "Where the list of allowed commits is from: 1 at that one.", () =>
    SOURCES.map((source) => [{ source }, source === gate.source ? 1 : 0]),
  );
  metrics.gauge("picket_episodes_stored", "Episodes in the index.", () => totals.episodes);
  addHostSeries(metrics, store);
  return {
    reports: metrics.counter("picket_reports_total", "Reports taken, on disk."),
    pings: metrics.counter("picket_pings_total", "Pings of jobs taken, on disk."),
    invalid: metrics.counter("picket_reports_invalid_total", "Reports that broke the contract (422)."),
    bytes: metrics.counter("picket_episode_bytes_total", "Bytes of episodes stored."),
    refused: (reason: string) => refused({ reason }),
    episodes: (outcome: "stored" | "known" | "refused") => episodes({ outcome }),
    hosts,
    totals,
    /** Why the last heartbeat didn't arrive. */
    heartbeat: { problem: null as string | null },
    /** Why the inbox can't be told what waits. */
    inbox: { problem: null as string | null },
    countJobs: jobFigures(metrics, store),
  };
}
export type Figures = ReturnType<typeof createFigures>;

/** Does something and keeps why it failed. */
export async function keepProblem(last: { problem: string | null }, work: () => Promise<void>): Promise<void> {
  try {
    await work();
    last.problem = null;
  } catch (error) {
    last.problem = errorChain(error);
    throw error;
  }
}

/** What the figures count. */
export interface Counted {
  store: Store;
  index: EpisodeIndex;
  gate: VersionGate;
  presence: Presence;
  figures: Figures;
}

/** Counts the rows of the store for the gauges. */
export async function countAll({ store, figures, index }: Counted): Promise<void> {
  const rows = await store.read.all<{ status: string; hosts: number }>(
    "SELECT status, COUNT(*) AS hosts FROM hosts GROUP BY status",
  );
  figures.hosts.clear();
  for (const { status, hosts } of rows) figures.hosts.set(status, hosts);
  const open = await store.read.one<{ alerts: number; refused: number }>(
    `SELECT (SELECT COUNT(*) FROM alerts WHERE closed_at IS NULL) AS alerts,
      (SELECT COUNT(*) FROM hosts WHERE refused IS NOT NULL) AS refused`,
  );
  Object.assign(figures.totals, open, await index.totals());
  await figures.countJobs();
}

const GATE_CLOSED = "no list of commits yet: episodes are answered 503";

/** Why neither reports nor episodes can be taken now, for which these folders must be writable; null when they can. */
function problemOf({ store }: Pick<Counted, "store">, folders: string[]): string | null {
  return folders.map(cannotWrite).find((one) => one !== null) ?? store.problem;
}

/** What is wrong now, for `systemctl status`. */
export function troublesOf(counted: Counted, folders: string[]): (string | null)[] {
  const { totals, inbox } = counted.figures;
  const { refused } = totals;
  return [
    problemOf(counted, folders),
    inbox.problem === null ? null : `events wait: ${inbox.problem}`,
    counted.gate.source === "none" ? GATE_CLOSED : null,
    refused > 0 ? `reports of ${refused} ${refused === 1 ? "host" : "hosts"} refused` : null,
  ];
}

/** `/health`: whether reports and episodes can be taken now, and the figures. */
export async function health(counted: Counted, folders: string[]): Promise<Health> {
  const { figures, gate, store, presence } = counted;
  const problem = problemOf(counted, folders);
  await countAll(counted);
  return {
    ok: problem === null,
    figures: {
      hosts: Object.fromEntries(STATUSES.map((status) => [status, figures.hosts.get(status) ?? 0])),
      reports: figures.reports.value,
      episodes: figures.totals.episodes,
      episode_bytes: figures.totals.bytes,
      open_alerts: figures.totals.alerts,
      uptime_sec: Math.floor(process.uptime()),
      ...(store.isFile ? {} : { leads: presence.leads }),
      version_gate: gate.source,
      ...(gate.source === "none" ? { version_gate_problem: GATE_CLOSED } : {}),
      ...(figures.heartbeat.problem === null ? {} : { heartbeat_problem: figures.heartbeat.problem }),
      ...(figures.inbox.problem === null ? {} : { inbox_problem: figures.inbox.problem }),
      ...(problem === null ? {} : { problem }),
    },
  };
}

/** One line for `systemctl status`. */
export function statusLine({ figures, store, presence }: Counted): string {
  const hosts = STATUSES.filter((status) => figures.hosts.get(status)).map(
    (status) => `${figures.hosts.get(status)} ${status}`,
  );
  return `${hosts.join(", ") || "no hosts"}; ${figures.reports.value} reports, ${figures.totals.episodes} episodes, ${figures.totals.alerts} alerts${store.isFile ? "" : presence.leads ? "; leads" : "; another receiver leads"}`;
}

/** How many hosts there are, archived ones too. */
export function hostCount({ figures }: Pick<Counted, "figures">): number {
  return figures.hosts.values().reduce((sum, hosts) => sum + hosts, 0);
}
