// The fleet at a glance, as the first page and `status` show it: each host and job with its state in a word, the worst first, and what
// needs you in words.

import type { Metric } from "../report.ts";
import { type AlertRow, ALERTS, type AlertType, listAlerts } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type EventRow, listEvents } from "./events.ts";
import type { Sample } from "./forecast.ts";
import { type Status, tagsOf } from "./hosts.ts";
import { type Run, runsOf } from "./job-runs.ts";
import { type Job, listJobs, stateOf } from "./jobs.ts";
import { scheduleText } from "./jobs-schedule.ts";
import { type Sparks, noSparks, readSparks, sparkOf } from "./sparks.ts";
import type { Store } from "./store.ts";
import { many } from "./store-command.ts";

/** How much a state needs you, and the shape that shows it: `bad` and `warn` do; `off` is known and expected. */
export const SHAPES = { bad: "✕", warn: "▲", ok: "●", off: "○" } as const;
export type Look = keyof typeof SHAPES;

const MOST_EVENTS = 12;
const MOST_ALERTS = 10_000;
/** How many kinds of trouble the summary names. */
const MOST_NAMED = 4;
export const MOST_RUNS = 12;

/** What is wrong: an open alert, without the name of its host or job. */
export interface Trouble {
  id: number;
  type: AlertType;
  look: Look;
  text: string;
  /** The command that tells more; null where there is none. */
  command: string | null;
  since: number;
  acknowledged: boolean;
}

/** Times in milliseconds since 1970. */
export interface Shown {
  name: string;
  look: Look;
  state: string;
  /** When the state began, where that says something. */
  since: number | null;
  paused: { until: number; reason: string | null } | null;
  troubles: Trouble[];
}

export type Figures = Record<keyof Sparks, number | null>;

export interface FleetHost extends Shown {
  tags: string[];
  /** The last known. `disk_percent`: of the fullest mount. */
  figures: Figures;
  /** The fullest mount; null where mounts are not reported. */
  mount: string | null;
  sparks: Sparks;
  last_seen_at: number | null;
}

export interface FleetJob extends Shown {
  schedule: string;
  last_ping_at: number | null;
  /** The last runs, oldest first. */
  runs: Run[];
}

export const SORTS = ["worst", "name", "disk", "cpu", "memory", "temperature", "seen"] as const;
export type Sort = (typeof SORTS)[number];

export interface FleetQuery {
  now: number;
  /** In a name, a tag or what is wrong. */
  text?: string;
  tag?: string | null;
  /** A state's word, or `trouble` for all that need you. */
  state?: string | null;
  sort?: Sort;
  archived?: boolean;
}

export interface Fleet {
  /** What needs you, in a few words. */
  headline: string;
  /** The same in detail, then how the others are. */
  summary: string[];
  /** Those that were asked for. */
  hosts: FleetHost[];
  /** How many hosts there are, without archived ones. */
  total: number;
  hidden: { archived: number };
  /** All tags and states that hosts have. */
  tags: string[];
  states: string[];
  jobs: FleetJob[];
  /** The newest first. */
  events: EventRow[];
}

type Read = { store: Pick<Store, "read" | "problem"> };

export async function fleetOf({ store }: Read, query: FleetQuery): Promise<Fleet> {
  const { read, problem } = store;
  const open = await listAlerts(read, { open: true, limit: MOST_ALERTS });
  const alerts = Map.groupBy(open, ({ host, job }) => (host === null ? `job ${job}` : `host ${host}`));
  const all = await hostsOf(read, alerts, query.now);
  const jobs = await jobsOf(read, alerts, query.now);
  const events = await listEvents(read, { after: null, from: null, limit: MOST_EVENTS });
  const active = all.filter(({ state }) => state !== "archived");
  const shown = (query.archived ? all : active).filter(fitting(query));
  return {
    headline: headlineOf(active, jobs),
    summary: [
      ...(problem === null ? [] : [`the receiver cannot rely on its store: ${problem}`]),
      ...summaryOf(active, jobs),
    ],
    hosts: shown.toSorted(ORDERS[query.sort ?? "worst"]),
    total: active.length,
    hidden: { archived: all.length - active.length },
    tags: [...new Set(all.flatMap(({ tags }) => tags))].toSorted(),
    states: [...new Set(active.map(({ state }) => state))].toSorted(),
    jobs: jobs.toSorted(worst),
    events: events.toReversed(),
  };
}

// ---------------------------------------------------------------------------------------------------------------
// Hosts

interface HostRow {
  id: number;
  name: string;
  status: Status;
  last_seen_at: number | null;
  paused_until: number | null;
  pause_reason: string | null;
  offline_is_fine: 0 | 1;
  tags: string;
  created_at: number;
  archived_at: number | null;
  metrics: string;
  /** JSON. */
  disks: string | null;
}

const HOSTS = `SELECT h.id, h.name, h.status, h.last_seen_at, h.paused_until, h.pause_reason, h.offline_is_fine, h.tags, h.created_at,
    h.archived_at, h.metrics, COALESCE(json_extract(l.lists, '$.disks'), json_extract(l.rest, '$.disks')) AS disks
  FROM hosts h LEFT JOIN host_lists l ON l.host = h.id`;

interface Mount {
  mount: string;
  used_percent: number;
  read_only: boolean | null;
}

/** Of the mounts that can be written to, the fullest. */
function fullestOf({ disks }: Pick<HostRow, "disks">): Mount | null {
  const mounts = (JSON.parse(disks ?? "[]") as Mount[]).filter((one) => !one.read_only && one.used_percent !== null);
  return mounts.reduce<Mount | null>((a, b) => (a !== null && a.used_percent >= b.used_percent ? a : b), null);
}

/** The samples of file systems, by the host's number and the mount: those of the fullest are parsed alone. */
async function diskSamples(db: Queries): Promise<(host: number, mount: string) => Sample[]> {
  const rows = await db.all<{ host: number; mount: string; samples: string }>(
    "SELECT host, mount, samples FROM disk_history",
  );
  const all = new Map(rows.map(({ host, mount, samples }) => [`${host} ${mount}`, samples]));
  return (host, mount) => JSON.parse(all.get(`${host} ${mount}`) ?? "[]") as Sample[];
}

async function hostsOf(db: Queries, alerts: Map<string, AlertRow[]>, now: number): Promise<FleetHost[]> {
  const sparks = await readSparks(db, now);
  const [rows, samplesOf] = [await db.all<HostRow>(HOSTS), await diskSamples(db)];
  return rows.map((row) => {
    const metrics = JSON.parse(row.metrics) as Partial<Record<Metric, number | null>>;
    const spark = sparks.get(row.id) ?? noSparks();
    const fullest = fullestOf(row);
    if (fullest !== null) {
      const percent = fullest.used_percent;
      const history = samplesOf(row.id, fullest.mount);
      const [, used] = history.at(-1) ?? [0, 0];
      // In percent as the host counts them, which a part of the file system may be kept from.
      spark.disk_percent = sparkOf(used > 0 ? history.map(([at, gb]) => [at, (percent * gb) / used]) : [], now);
    }
    return {
      ...conditionOf(row, alerts.get(`host ${row.name}`)),
      tags: tagsOf(row),
      figures: {
        disk_percent: fullest?.used_percent ?? partOf(metrics.disk_used_gb, metrics.disk_total_gb),
        cpu_percent: metrics.cpu_percent ?? null,
        memory_percent: partOf(metrics.memory_used_mb, metrics.memory_total_mb),
        temperature_c: metrics.cpu_temp_c ?? null,
      },
      mount: fullest?.mount ?? null,
      sparks: spark,
      last_seen_at: row.last_seen_at,
    };
  });
}

const partOf = (used: number | null | undefined, total: number | null | undefined): number | null =>
  typeof used === "number" && total ? (used / total) * 100 : null;

/** What a host's state follows from. */
type Told = Pick<
  HostRow,
  | "name"
  | "status"
  | "last_seen_at"
  | "archived_at"
  | "created_at"
  | "paused_until"
  | "pause_reason"
  | "offline_is_fine"
>;

/** How a host is. @param open its open alerts. */
export function conditionOf(host: Told, open?: readonly AlertRow[]): Shown {
  const told = open?.filter(({ type }) => type !== "host.stale" || host.offline_is_fine === 0);
  const troubles = troublesOf(host.name, told);
  return { name: host.name, ...stateOfHost(host, troubles), paused: pausedOf(host), troubles };
}

type State = Pick<Shown, "look" | "state" | "since">;

function stateOfHost(row: Told, troubles: Trouble[]): State {
  const { status, last_seen_at: since, archived_at, created_at } = row;
  if (status === "archived") return { look: "off", state: "archived", since: archived_at };
  if (pausedOf(row) !== null) return { look: "off", state: "paused", since: null };
  const worstOne = worstOf(troubles);
  if (status === "offline" || status === "stale") {
    const isKnown =
      row.offline_is_fine === 1 || troubles.some((one) => one.type === "host.offline" && one.acknowledged);
    const silent = status === "offline" ? "bad" : "warn";
    return { look: isKnown || worstOne?.look === "bad" ? (worstOne?.look ?? "off") : silent, state: status, since };
  }
  if (worstOne)
    return { look: worstOne.look, state: worstOne.look === "bad" ? "critical" : "warning", since: worstOne.since };
  const pending = status === "pending";
  if (troubles.length > 0) return { look: "off", state: "acknowledged", since: null };
  return { look: pending ? "off" : "ok", state: pending ? "pending" : "fine", since: pending ? created_at : null };
}

/** The worst trouble that no one takes care of, since the first like it. */
function worstOf(troubles: readonly Trouble[]): { look: "bad" | "warn"; since: number } | null {
  const left = troubles.filter(({ acknowledged }) => !acknowledged);
  if (left.length === 0) return null;
  const look = left.some((one) => one.look === "bad") ? "bad" : "warn";
  return { look, since: Math.min(...left.filter((one) => one.look === look).map(({ since }) => since)) };
}

const pausedOf = ({ paused_until: until, pause_reason: reason }: Pick<HostRow, "paused_until" | "pause_reason">) =>
  // 0: it was ended just now (pause.ts).
  until === null || until === 0 ? null : { until, reason };

// ---------------------------------------------------------------------------------------------------------------
// Jobs

export const JOB_LOOKS = { new: "off", up: "ok", started: "ok", late: "warn", down: "bad", paused: "off" } as const;

async function jobsOf(db: Queries, alerts: Map<string, AlertRow[]>, now: number): Promise<FleetJob[]> {
  const jobs = await listJobs(db);
  const runs = await runsOf(db, jobs, { now, most: MOST_RUNS });
  return jobs.map((job) => {
    const troubles = troublesOf(job.name, alerts.get(`job ${job.name}`));
    const state = stateOf(job);
    const isKnown = troubles.length > 0 && troubles.every(({ acknowledged }) => acknowledged);
    return {
      name: job.name,
      look: isKnown ? "off" : JOB_LOOKS[state],
      state,
      since: sinceOf(job),
      paused: pausedOf(job),
      troubles,
      schedule: scheduleText(job),
      last_ping_at: job.last_ping_at,
      runs: runs.get(job.id)!,
    };
  });
}

/** Since when a job is in its state; null where that says nothing. */
export function sinceOf(job: Job): number | null {
  const since = { down: job.down_at, late: job.due_at, started: job.started_at, new: job.created_at };
  return (since as Partial<Record<string, number | null>>)[stateOf(job)] ?? null;
}

// ---------------------------------------------------------------------------------------------------------------
// What is asked for, and in which order

const needsYou = ({ look }: Shown): boolean => look === "bad" || look === "warn";

function fitting({ text = "", tag = null, state = null }: FleetQuery): (host: FleetHost) => boolean {
  const wanted = text.trim().toLowerCase();
  const has = (one: string) => one.toLowerCase().includes(wanted);
  return (host) =>
    (tag === null || host.tags.includes(tag)) &&
    (state === null || (state === "trouble" ? needsYou(host) : host.state === state)) &&
    (wanted === "" || has(host.name) || host.tags.some(has) || host.troubles.some((one) => has(one.text)));
}

/** Natural: web-2 comes before web-10. */
const { compare } = new Intl.Collator("en", { numeric: true });
type Order = (a: FleetHost, b: FleetHost) => number;

/** What is taken care of comes after what needs you; what is expected to be as it is comes last. */
function rankOf({ look, state, troubles }: Shown): number {
  const known = troubles.length > 0 ? 2 : state === "pending" || state === "new" ? 3 : 5;
  return { bad: 0, warn: 1, ok: 4, off: known }[look];
}
const worst = (a: Shown, b: Shown): number => rankOf(a) - rankOf(b) || compare(a.name, b.name);
/** The highest first, unknown ones last. */
const highest =
  (valueOf: (host: FleetHost) => number | null): Order =>
  (a, b) =>
    (valueOf(b) ?? -Infinity) - (valueOf(a) ?? -Infinity) || compare(a.name, b.name);

const ORDERS: Record<Sort, Order> = {
  worst,
  name: (a, b) => compare(a.name, b.name),
  disk: highest(({ figures }) => figures.disk_percent),
  cpu: highest(({ figures }) => figures.cpu_percent),
  memory: highest(({ figures }) => figures.memory_percent),
  temperature: highest(({ figures }) => figures.temperature_c),
  seen: highest(({ last_seen_at: at }) => -(at ?? 0)),
};

// ---------------------------------------------------------------------------------------------------------------
// Words

export const LOOK_OF = { critical: "bad", warning: "warn", info: "off" } as const;

/** What tells more of a host that says nothing. */
const SILENT = "systemctl status picket-agent";

function troublesOf(name: string, rows: readonly AlertRow[] = []): Trouble[] {
  const troubles = rows.map(({ id, type, severity, text, opened_at, acknowledged_at }): Trouble => {
    const [what, command] = commandOf(text);
    const isSilent = type === "host.offline" || type === "host.stale";
    const own = what.startsWith(`${name}: `) ? what.slice(name.length + 2) : what;
    return {
      id,
      type,
      look: LOOK_OF[severity],
      text: isSilent ? own.slice(own.indexOf(": ") + 1).trim() : own,
      command: isSilent ? SILENT : command,
      since: opened_at,
      acknowledged: acknowledged_at !== null,
    };
  });
  const rank = ({ look, acknowledged }: Trouble) => (acknowledged ? 2 : look === "bad" ? 0 : 1);
  return troubles.toSorted((a, b) => rank(a) - rank(b) || a.since - b.since || a.id - b.id);
}

/** A word of a command line as `shellWord` writes it. */
const WORD = String.raw`(?:[\w@%+=:,./-]+|'(?:[^']|'\\'')*')`;
/** What alerts name to look further (judge.ts, container-alerts.ts, jobs.ts, take-health.ts). */
const COMMAND = new RegExp(
  `; ((?:systemctl status|docker logs --tail 50|docker unpause|df -i|zpool status|btrfs filesystem show|smartctl -a|picket-receiver job show) ${WORD}|` +
    `du -xh ${WORD} \\| sort -h \\| tail|ps -eo [a-z,]+ --sort -[a-z]+ \\| head|` +
    "cat /proc/mdstat|sensors|free -m|uptime|picket-agent doctor)$",
);

/**
 * An alert's text is what is wrong, and a command after a semicolon. Names and details in it come from hosts: a command is one of ours,
 * with one word of theirs, or none.
 */
export function commandOf(text: string): [what: string, command: string | null] {
  const found = COMMAND.exec(text);
  return found ? [text.slice(0, found.index), found[1]!] : [text, null];
}

function headlineOf(hosts: readonly FleetHost[], jobs: readonly FleetJob[]): string {
  const [bad, late] = [hosts.filter(needsYou).length, jobs.filter(needsYou).length];
  const ofHosts = `${bad} of ${many(hosts.length, "host")}`;
  const ofJobs = `${late} of ${many(jobs.length, "job")}`;
  if (bad > 0 && late > 0) return `${ofHosts} and ${ofJobs} need you`;
  if (bad + late > 0) return `${bad > 0 ? ofHosts : ofJobs} ${bad + late === 1 ? "needs" : "need"} you`;
  if (hosts.length === 0) return jobs.length === 0 ? "No hosts yet" : "All jobs are fine";
  if (hosts.length === 1) return `${hosts[0]!.name} is ${hosts[0]!.state}`;
  return hosts.every(({ look }) => look === "ok") ? `All ${hosts.length} hosts are fine` : "Nothing needs you";
}

/** What is wrong by its kind, the most first, then how many hosts and jobs are in which state. */
function summaryOf(hosts: readonly FleetHost[], jobs: readonly FleetJob[]): string[] {
  const wrong = [...hosts, ...jobs]
    .filter(needsYou)
    .flatMap((shown) =>
      shown.troubles.filter(({ acknowledged }) => !acknowledged).map((trouble) => ({ name: shown.name, trouble })),
    );
  const kinds = [...Map.groupBy(wrong, ({ trouble }) => trouble.type)].toSorted(
    ([, [a]], [, [b]]) => Number(b!.trouble.look === "bad") - Number(a!.trouble.look === "bad"),
  );
  const named = kinds.slice(0, MOST_NAMED).map(([type, all]) => {
    const { name, trouble } = all[0]!;
    return all.length === 1 ? shortOf(name, trouble) : `${all.length} ${ALERTS[type].many}`;
  });
  const more = kinds.slice(MOST_NAMED).reduce((sum, [, all]) => sum + all.length, 0);
  return [
    ...named,
    ...(more > 0 ? [`${more} more`] : []),
    ...(hosts.length > 0 ? [statesOf(hosts, "host")] : []),
    ...(jobs.length > 0 ? [statesOf(jobs, "job")] : []),
  ];
}

/** `nas: unit caddy failed`, `pi is offline`: without figures and reasons. */
function shortOf(name: string, { type, text }: Trouble): string {
  if (type === "host.offline" || type === "host.stale") return `${name} is ${type.slice("host.".length)}`;
  const short = text.split(/ \(|, |: /, 1)[0]!;
  return short.startsWith(name) ? short : `${name}: ${short}`;
}

function statesOf(all: readonly Shown[], what: string): string {
  const states = Map.groupBy(all.toSorted(worst), ({ state }) => state);
  const each = [...states].map(([state, those]) => `${those.length} ${state}`);
  return states.size === 1
    ? `${many(all.length, what)}, ${all.length === 1 ? "" : "all "}${[...states.keys()][0]}`
    : `${many(all.length, what)}: ${each.join(", ")}`;
}
