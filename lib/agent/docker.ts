// Containers, from the Docker Engine API on its unix socket (Podman speaks it, too). Nothing is ever sent but GET.
//
// The list is one call. Times (inspect) and figures (stats) are then requested side by side, in two queues, so that slow figures
// don't delay the times. One deadline ends it all: a container whose answers are late or failing by then stays in the list
// without them. The figures are those that `docker stats` prints: its formulas are those of docker/cli,
// cli/command/container/stats_helpers.go. Podman gives no earlier sample, so it is asked twice, see `wallClockPercent`.

import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { TransportError, deadline, eachOf, openClient } from "../client.ts";

/** How long things may take, in milliseconds. */
export interface Patience {
  /** The list, without which there is nothing. */
  list: number;
  /** Any other answer: stats takes two seconds by itself, because the engine looks twice. */
  answer: number;
  /** Everything together. */
  all: number;
  /** Between two looks at a container whose engine gives one only. */
  look: number;
}

const PATIENCE: Patience = { list: 10_000, answer: 10_000, all: 30_000, look: 1000 };
/** So many containers are asked about at once: 500 times two seconds have to fit into the deadline. Bun has 256 requests open at most. */
const INSPECTS_AT_ONCE = 32;
const STATS_AT_ONCE = 128;
/** More are refused by the receiver, and so is a report of over 4 MiB or a list of over 10,000. */
const MOST_CONTAINERS = 500;
const MOST_PORTS = 10_000;
const ROOM_BYTES = 3 << 20;
/** Longer than any list, in bytes. */
const LARGEST_ANSWER = 64 << 20;
const MIB = 1 << 20;

/** What a report lacks of the engine's containers. */
export interface Gap {
  /** Containers over the 500 that a report may have; running ones are kept first. */
  leftOut: number;
  /** Containers whose figures or times didn't come in time. */
  late: number;
  /** Containers without their labels (and ports), because the report would have grown too big. */
  shortened: number;
}

/** A container of a report. */
export interface DockerContainer {
  container_id: string;
  name: string;
  image: string;
  image_tag: string | null;
  status: string | null;
  state: string | null;
  health_status: string | null;
  ports: { ip: string | null; private_port: number; public_port: number | null; type: string }[];
  labels: Record<string, string>;
  metrics: ContainerMetrics | null;
  started_at: string | null;
  finished_at: string | null;
}

export interface ContainerMetrics {
  cpu_percent: number | null;
  memory_usage_mb: number | null;
  memory_limit_mb: number | null;
  network_rx_bytes: number | null;
  network_tx_bytes: number | null;
  block_read_bytes: number | null;
  block_write_bytes: number | null;
}

/** Never below 0: such a figure is wrong, and the receiver would refuse the whole report for it. */
const count = v.nullish(
  v.pipe(
    v.number(),
    v.transform((given) => (given >= 0 ? given : null)),
  ),
  null,
);
const health = v.nullish(v.object({ Status: v.nullish(v.string(), null) }), null);
const Listed = v.array(
  v.object({
    Id: v.pipe(v.string(), v.minLength(1)),
    Names: v.nullish(v.array(v.string()), []),
    Image: v.nullish(v.string(), ""),
    State: v.nullish(v.string(), null),
    Status: v.nullish(v.string(), null),
    Ports: v.nullish(
      v.array(
        v.object({
          IP: v.nullish(v.string(), null),
          PrivatePort: v.number(),
          PublicPort: v.nullish(v.number(), null),
          Type: v.nullish(v.string(), "tcp"),
        }),
      ),
      [],
    ),
    Labels: v.nullish(v.record(v.string(), v.string()), {}),
    /** Since API 1.52. */
    Health: health,
  }),
);
type Listed = v.InferOutput<typeof Listed>[number];
const Inspected = v.object({
  State: v.object({
    StartedAt: v.nullish(v.string(), null),
    FinishedAt: v.nullish(v.string(), null),
    Health: health,
  }),
});
const Cpu = v.object({
  cpu_usage: v.optional(v.object({ total_usage: count, percpu_usage: v.nullish(v.array(v.number()), null) })),
  system_cpu_usage: count,
  online_cpus: count,
});
const Stats = v.object({
  read: v.nullish(v.string(), null),
  cpu_stats: Cpu,
  precpu_stats: v.optional(Cpu),
  memory_stats: v.optional(
    v.object({ usage: count, limit: count, stats: v.nullish(v.record(v.string(), v.number()), {}) }),
  ),
  networks: v.nullish(v.record(v.string(), v.object({ rx_bytes: count, tx_bytes: count })), null),
  blkio_stats: v.optional(
    v.object({ io_service_bytes_recursive: v.nullish(v.array(v.object({ op: v.string(), value: count })), null) }),
  ),
});
type Stats = v.InferOutput<typeof Stats>;

/** Where the engine listens: as configured, else $DOCKER_HOST, else where it and Podman usually do; null where it isn't. */
export function findSocket(configured: string | undefined, env: Record<string, string | undefined>): string | null {
  if (configured !== undefined && configured !== "auto") return configured;
  const given = env["DOCKER_HOST"];
  if (given?.startsWith("unix://")) return given.slice("unix://".length);
  const usual = [
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    `/run/user/${process.getuid?.() ?? 0}/podman/podman.sock`,
  ];
  return usual.find((path) => existsSync(path)) ?? null;
}

/**
 * What the engine has, at most 500 of it: running ones first where there are more.
 * @param options.onGap called once when the report has less than the engine.
 * @throws Error when the list doesn't come in time or is something else.
 */
export async function readContainers(
  socket: string,
  {
    signal,
    patience = PATIENCE,
    onGap,
  }: { signal?: AbortSignal; patience?: Patience; onGap?: (gap: Gap) => void } = {},
): Promise<DockerContainer[]> {
  using late = deadline(patience.all);
  const end = signal ? AbortSignal.any([signal, late.signal]) : late.signal;
  const get = engineAt(socket, patience.answer, end);
  const listed = v.parse(Listed, await get("/containers/json?all=1", patience.list));
  const rows = liveFirst(listed, MOST_CONTAINERS).map(rowOf);
  const waiting = new Set<DockerContainer>();
  // A container that has gone meanwhile, or whose figures don't come, keeps what the list said.
  const ask = (some: DockerContainer[], atOnce: number, add: (row: DockerContainer) => Promise<void>) =>
    eachOf(some, atOnce, (row) =>
      add(row).catch((error: unknown) => {
        if (end.aborted || (error instanceof TransportError && error.late)) waiting.add(row);
      }),
    );
  const live = rows.filter(({ state }) => state === "running" || state === "paused");
  await Promise.all([
    ask(rows, INSPECTS_AT_ONCE, (row) => addTimes(get, row)),
    ask(live, STATS_AT_ONCE, (row) => addFigures(get, row, () => sleep(patience.look, undefined, { signal: end }))),
  ]);
  const gap = { leftOut: listed.length - rows.length, late: waiting.size, shortened: shorten(rows) };
  if (gap.leftOut + gap.late + gap.shortened > 0) onGap?.(gap);
  return rows;
}

/** The engine's version; null when it doesn't say. */
export async function dockerVersion(
  socket: string,
  { signal, patience = PATIENCE }: { signal?: AbortSignal; patience?: Patience } = {},
): Promise<string | null> {
  const answer = await engineAt(socket, patience.answer, signal)("/version");
  return v.parse(v.object({ Version: v.nullish(v.string(), null) }), answer).Version?.slice(0, 32) ?? null;
}

/** In the engine's order; where there are too many, those with processes before the others. */
function liveFirst(listed: Listed[], most: number): Listed[] {
  if (listed.length <= most) return listed;
  const isLive = ({ State }: Listed) => State === "running" || State === "paused" || State === "restarting";
  return [...listed.filter(isLive), ...listed.filter((one) => !isLive(one))].slice(0, most);
}

/** A container as the list has it. */
function rowOf(one: Listed): DockerContainer {
  const [image, tag] = splitImage(one.Image);
  const status = one.Status ?? "";
  return {
    container_id: one.Id.slice(0, 80),
    name: nameOf(one.Names, one.Id).slice(0, 255),
    image: image.slice(0, 255),
    image_tag: tag?.slice(0, 128) ?? null,
    status: one.Status && shortStatus(status),
    state: one.State?.slice(0, 32) ?? null,
    health_status: healthOf(one.Health?.Status ?? /\((?:health: )?(\w+)\)/.exec(status)?.[1]),
    ports: portsOf(one.Ports),
    labels: one.Labels,
    metrics: null,
    started_at: null,
    finished_at: null,
  };
}

/** Adds start and end, and the health where the list has none (Podman's). */
async function addTimes(get: Get, row: DockerContainer): Promise<void> {
  const { State } = v.parse(Inspected, await get(`/containers/${encodeURIComponent(row.container_id)}/json`));
  row.started_at = timeOf(State.StartedAt);
  row.finished_at = timeOf(State.FinishedAt);
  // A container that has ended keeps its last health there, which says nothing of now.
  if (row.state === "running") row.health_status ??= healthOf(State.Health?.Status);
}

/** Adds its figures; where the engine gives no earlier sample, from two looks with a `pause` between them. */
async function addFigures(get: Get, row: DockerContainer, pause: () => Promise<void>): Promise<void> {
  const path = `/containers/${encodeURIComponent(row.container_id)}/stats?stream=false`;
  const first = v.parse(Stats, await get(path));
  row.metrics = metricsOf(first);
  if (row.metrics.cpu_percent !== null) return;
  await pause();
  const second = v.parse(Stats, await get(path));
  row.metrics = { ...metricsOf(second), cpu_percent: wallClockPercent(first, second) };
}

/** Asks the engine for a path. */
type Get = (path: string, timeoutMs?: number) => Promise<unknown>;

function engineAt(socket: string, answerMs: number, signal: AbortSignal | undefined): Get {
  const engine = openClient({
    url: "http://docker",
    unix: socket,
    timeoutMs: answerMs,
    largestAnswer: LARGEST_ANSWER,
  });
  return async (path, timeoutMs = answerMs) => {
    const what = `ask the Docker Engine at ${socket} for ${path}`;
    const { json } = await engine.ask({ what, path, signal, timeoutMs });
    if (json === undefined) throw new Error(`${what}: the answer isn't JSON`);
    return json;
  };
}

/** Leaves out labels, and then ports, of those that have more than their share, when the receiver would refuse it all. @returns of how many. */
function shorten(rows: DockerContainer[]): number {
  const sizeOf = (what: unknown) => Buffer.byteLength(JSON.stringify(what));
  if (sizeOf(rows) <= ROOM_BYTES) return 0;
  const share = Math.floor(ROOM_BYTES / rows.length);
  const big = rows.filter((row) => sizeOf(row) > share);
  for (const row of big) {
    row.labels = {};
    if (sizeOf(row) > share) row.ports = [];
  }
  return big.length;
}

/** The figures of one stats answer, as `docker stats` prints them; CPU use null where there is no earlier sample to compare with. */
export function metricsOf({
  cpu_stats,
  precpu_stats,
  memory_stats: memory,
  networks,
  blkio_stats,
}: Stats): ContainerMetrics {
  const total = (bytes: (number | null)[] | undefined) =>
    bytes?.reduce<number>((sum, one) => sum + (one ?? 0), 0) ?? null;
  const nets = networks === null ? undefined : Object.values(networks);
  // "Read", "read", "rbytes": the first letter counts.
  const blocks = (letter: string) =>
    total(
      blkio_stats?.io_service_bytes_recursive
        ?.filter(({ op }) => op[0]?.toLowerCase() === letter)
        .map(({ value }) => value),
    );
  return {
    cpu_percent: cpuPercent(cpu_stats, precpu_stats),
    memory_usage_mb: mebibytes(memory?.usage === null || !memory ? null : withoutCache(memory.usage, memory.stats)),
    memory_limit_mb: mebibytes(memory?.limit || null),
    network_rx_bytes: total(nets?.map(({ rx_bytes }) => rx_bytes)),
    network_tx_bytes: total(nets?.map(({ tx_bytes }) => tx_bytes)),
    block_read_bytes: blocks("r"),
    block_write_bytes: blocks("w"),
  };
}

/** Of one CPU, so 150 is one and a half. */
function cpuPercent(now: v.InferOutput<typeof Cpu>, before: v.InferOutput<typeof Cpu> | undefined): number | null {
  if (!before?.system_cpu_usage) return null;
  const used = (now.cpu_usage?.total_usage ?? 0) - (before.cpu_usage?.total_usage ?? 0);
  const system = (now.system_cpu_usage ?? 0) - before.system_cpu_usage;
  // Engines before API 1.27 don't say how many CPUs there are.
  const cpus = now.online_cpus || (now.cpu_usage?.percpu_usage?.length ?? 0);
  return system > 0 && used > 0 ? hundredths((used / system) * cpus * 100) : 0;
}

/**
 * Of one CPU, by the clock, from two answers: Podman's have no earlier sample, and its system_cpu_usage leaves out the idle time
 * (github.com/containers/podman/issues/24730 and 28761), so that the usual formula gives any figure but the right one.
 */
function wallClockPercent(first: Stats, second: Stats): number | null {
  const ms = Date.parse(second.read ?? "") - Date.parse(first.read ?? "");
  const [from, to] = [first.cpu_stats.cpu_usage?.total_usage, second.cpu_stats.cpu_usage?.total_usage];
  if (!(ms > 0) || typeof from !== "number" || typeof to !== "number") return null;
  return hundredths((Math.max(0, to - from) / (ms * 1e6)) * 100);
}

/** What the kernel gives back at once is not counted. cgroup v1 calls it total_inactive_file, v2 inactive_file. */
function withoutCache(usage: number, stats: Record<string, number>): number {
  const { total_inactive_file: v1, inactive_file: v2 = 0 } = stats;
  if (v1 !== undefined && v1 < usage) return usage - v1;
  return v2 < usage ? usage - v2 : usage;
}

function hundredths(value: number): number {
  return Number(value.toFixed(2));
}

/** Exact: the kernel counts pages, which are 1/256 of it. */
function mebibytes(bytes: number | null): number | null {
  return bytes === null ? null : bytes / MIB;
}

/** `registry:5000/team/app:1.2@sha256:…` as image and tag; an image without a tag, or by its id alone, has none. */
export function splitImage(image: string): [image: string, tag: string | null] {
  const plain = image.replace(/@sha256:[0-9a-f]+$/, "");
  if (plain.startsWith("sha256:")) return [plain, null];
  const colon = plain.lastIndexOf(":");
  return colon > plain.lastIndexOf("/") ? [plain.slice(0, colon), plain.slice(colon + 1)] : [plain, null];
}

/** Its own name: legacy links add others, such as `/other/alias`. Some have none. */
function nameOf(names: string[], id: string): string {
  const all = names.map((name) => name.replace(/^\//, "")).filter((name) => name !== "");
  return all.find((name) => !name.includes("/")) ?? all[0] ?? id.slice(0, 12);
}

/** A status has 32 characters in a report; `Up About a minute (health: starting)` has more, and its health is told elsewhere. */
function shortStatus(status: string): string {
  return (status.length > 32 ? status.replace(/ \((health: )?\w+\)$/, "") : status).slice(0, 32);
}

/** "none" (API 1.52) and "" (Podman) mean that nothing is checked. */
function healthOf(said: string | null | undefined): string | null {
  return said === "healthy" || said === "unhealthy" || said === "starting" ? said : null;
}

/** Each once, in an order that stays the same: the engine's doesn't, and some versions name one twice. IPv4 and IPv6 are two. */
function portsOf(ports: Listed["Ports"]): DockerContainer["ports"] {
  const byKey = new Map(
    ports.map(({ IP, PrivatePort, PublicPort, Type }) => {
      const port = { ip: IP || null, private_port: PrivatePort, public_port: PublicPort || null, type: Type };
      const key = [String(PrivatePort).padStart(5), Type, String(PublicPort || 0).padStart(5), IP ?? ""].join(" ");
      return [key, port];
    }),
  );
  return [...byKey]
    .toSorted(([one], [two]) => (one < two ? -1 : 1))
    .map(([, port]) => port)
    .slice(0, MOST_PORTS);
}

/** Go's zero time means never. */
function timeOf(text: string | null): string | null {
  return text === null || text === "" || text.startsWith("0001-01-01") ? null : text.slice(0, 64);
}
