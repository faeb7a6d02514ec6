// Containers, from the Docker Engine API on its unix socket or over TCP (Podman has the same API). All requests are GET.
//
// The list is one request. Times (inspect) and figures (stats) are then requested in two concurrent queues, so that slow figures
// don't delay the times, under one deadline: a container whose answers fail or come late stays in the list without them. The
// formulas are those of `docker stats` (docker/cli, cli/command/container/stats_helpers.go). Podman's answers have no earlier
// sample, so it is asked twice, see `wallClockPercent`.

import { accessSync, constants, existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as v from "valibot";
import { type Peer, TransportError, deadline, eachOf, openClient } from "../client.ts";
import { namesIn } from "../files.ts";
import { fittingOf } from "./fitting.ts";
import type { Warn } from "./source.ts";

/** In milliseconds. */
const TIMEOUTS = {
  list: 10_000,
  /** For any other answer: the engine takes two seconds for stats. */
  answer: 10_000,
  /** For everything together. */
  all: 30_000,
  /** Between two samples, if the engine gives only one at a time. */
  resample: 1000,
};
export type Timeouts = typeof TIMEOUTS;
/** Concurrent requests: 500 stats of two seconds have to fit into the deadline, and Bun has at most 256 requests open. */
const INSPECTS_AT_ONCE = 32;
const STATS_AT_ONCE = 128;
/** The receiver rejects a report with more, one of over 4 MiB, and a list of over 10,000. */
const MOST_CONTAINERS = 500;
const MOST_PORTS = 10_000;
const ROOM_BYTES = 3 << 20;
/** Longer than any list, in bytes. */
const LARGEST_ANSWER = 64 << 20;
const MIB = 1 << 20;

/** A container of a report. */
export type DockerContainer = ReturnType<typeof rowOf>;

type ContainerMetrics = ReturnType<typeof metricsOf>;

const maybe = <S extends v.GenericSchema>(schema: S) => v.nullish(schema, null);
/** A negative figure becomes null: the receiver would reject the whole report for it. */
const negativeToNull = v.transform((given: number) => (given >= 0 ? given : null));
const count = maybe(v.pipe(v.number(), negativeToNull));
const health = maybe(v.object({ Status: maybe(v.string()) }));
const Port = v.object({
  IP: maybe(v.string()),
  PrivatePort: v.number(),
  PublicPort: maybe(v.number()),
  Type: v.nullish(v.string(), "tcp"),
});
/** What a container can do without: null, or anything unexpected, is nothing. */
const Listed = v.object({
  Id: v.pipe(v.string(), v.minLength(1)),
  Names: v.fallback(v.array(v.string()), []),
  Image: v.fallback(v.string(), ""),
  State: v.fallback(v.nullable(v.string()), null),
  Status: v.fallback(v.nullable(v.string()), null),
  Ports: v.fallback(v.array(Port), []),
  Labels: v.fallback(v.record(v.string(), v.fallback(v.string(), "")), {}),
  /** Since API 1.52. */
  Health: v.fallback(health, null),
});
type Listed = v.InferOutput<typeof Listed>;
const Inspected = v.object({
  State: v.object({ StartedAt: maybe(v.string()), FinishedAt: maybe(v.string()), Health: health }),
});
const Cpu = v.object({
  cpu_usage: v.optional(v.object({ total_usage: count, percpu_usage: maybe(v.array(v.number())) })),
  system_cpu_usage: count,
  online_cpus: count,
});
type Cpu = v.InferOutput<typeof Cpu>;
const Memory = v.object({ usage: count, limit: count, stats: v.fallback(v.record(v.string(), v.number()), {}) });
const Blocks = v.array(v.object({ op: v.string(), value: count }));
const Stats = v.object({
  read: maybe(v.string()),
  cpu_stats: Cpu,
  precpu_stats: maybe(Cpu),
  memory_stats: maybe(Memory),
  networks: maybe(v.record(v.string(), v.object({ rx_bytes: count, tx_bytes: count }))),
  blkio_stats: maybe(v.object({ io_service_bytes_recursive: maybe(Blocks) })),
});
type Stats = v.InferOutput<typeof Stats>;

type Env = Record<string, string | undefined>;

/** Where the engine is: the configured address, else $DOCKER_HOST, else the first usual socket that may be used; null if there is none. */
export function findEngine(configured: string | undefined, env: Env): string | null {
  if (configured !== undefined && configured !== "auto") return configured;
  const given = env["DOCKER_HOST"] || env["CONTAINER_HOST"];
  if (given) return given;
  const runtime = env["XDG_RUNTIME_DIR"] || `/run/user/${process.getuid?.() ?? 0}`;
  const usual = [
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    // Rootless engines have theirs in their account's folder.
    ...[runtime, ...accounts()].flatMap((folder) => [join(folder, "docker.sock"), join(folder, "podman/podman.sock")]),
    join(homedir(), ".docker/run/docker.sock"),
  ];
  const here = usual.filter((path) => existsSync(path));
  return here.find(isOpen) ?? here[0] ?? null;
}

/** None where a unit's ProtectHome= hides them. */
function accounts(): string[] {
  return namesIn("/run/user").map((name) => join("/run/user", name));
}

function isOpen(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** How to reach an engine, as the docker command does. @throws Error for what it can't be reached by, such as ssh://. */
function peerOf(engine: string, env: Env): Omit<Peer, "timeoutMs" | "largestAnswer"> {
  const [, scheme, rest = ""] = /^(\w+):\/\/(.*)$/.exec(engine) ?? [null, "unix", engine];
  if (scheme === "unix") return { url: "http://docker", unix: rest };
  if (scheme !== "tcp" && scheme !== "http" && scheme !== "https") {
    throw new Error(`"${engine}": ${scheme}:// is not supported: only unix:// and tcp://`);
  }
  const isTls = scheme === "https" || (scheme === "tcp" && (env["DOCKER_TLS_VERIFY"] || env["DOCKER_CERT_PATH"]));
  const { host, port } = new URL(`tcp://${rest}`);
  const url = `${isTls ? "https" : "http"}://${host}${port ? "" : isTls ? ":2376" : ":2375"}`;
  if (!isTls) return { url };
  const folder = env["DOCKER_CERT_PATH"] || join(homedir(), ".docker");
  const file = (name: string) => (existsSync(join(folder, name)) ? join(folder, name) : undefined);
  return { url, ca_file: file("ca.pem"), client_cert_file: file("cert.pem"), client_key_file: file("key.pem") };
}

interface ReadOptions {
  signal?: AbortSignal;
  timeouts?: Partial<Timeouts>;
  env?: Env;
  warn?: Warn;
}

/**
 * Reads the containers, at most 500 of them: running ones first if there are more.
 * @throws Error when the list fails or is invalid.
 */
export async function readContainers(engine: string, options: ReadOptions = {}): Promise<DockerContainer[]> {
  const timeouts = { ...TIMEOUTS, ...options.timeouts };
  using late = deadline(timeouts.all);
  const signal = options.signal ? AbortSignal.any([options.signal, late.signal]) : late.signal;
  const { env = {}, warn = () => {} } = options;
  const get = engineAt(engine, { env, answerMs: timeouts.answer, signal });
  const all = v.parse(v.array(v.unknown()), await get("/containers/json?all=1", timeouts.list));
  const listed = fittingOf(Listed, all, { what: "a container", warn });
  const rows = liveFirst(listed, MOST_CONTAINERS).map(rowOf);
  const lateRows = new Set<DockerContainer>();
  // After a failure (the container was removed, for one) the row keeps the list's fields.
  const complete = (some: DockerContainer[], atOnce: number, add: (row: DockerContainer) => Promise<void>) =>
    eachOf(some, atOnce, (row) =>
      add(row).catch((error: unknown) => {
        if (signal.aborted || (error instanceof TransportError && error.late)) lateRows.add(row);
      }),
    );
  const live = rows.filter(({ state }) => state === "running" || state === "paused");
  await Promise.all([
    complete(rows, INSPECTS_AT_ONCE, (row) => addTimes(get, row)),
    complete(live, STATS_AT_ONCE, (row) => addFigures(get, row, () => sleep(timeouts.resample, undefined, { signal }))),
  ]);
  const lacks = {
    "left out": listed.length - rows.length,
    "without figures or times, because of the timeout": lateRows.size,
    "without labels": shorten(rows),
  };
  const found = Object.entries(lacks).filter(([, n]) => n > 0);
  if (found.length > 0) warn("containers", `containers: ${found.map(([what, n]) => `${n} ${what}`).join(", ")}`);
  return rows;
}

/** The engine's version; null if the answer has none. */
export async function dockerVersion(
  engine: string,
  { env = {}, signal }: Pick<ReadOptions, "env" | "signal"> = {},
): Promise<string | null> {
  const answer = await engineAt(engine, { env, answerMs: TIMEOUTS.answer, signal })("/version");
  return v.parse(v.object({ Version: v.nullish(v.string(), null) }), answer).Version?.slice(0, 32) ?? null;
}

/** In the engine's order; if there are too many, those with processes come first. */
function liveFirst(listed: Listed[], most: number): Listed[] {
  if (listed.length <= most) return listed;
  const isLive = ({ State }: Listed) => ["running", "paused", "restarting"].includes(State ?? "");
  return listed.toSorted((a, b) => Number(isLive(b)) - Number(isLive(a))).slice(0, most);
}

/** A container with the list's fields. */
function rowOf(one: Listed) {
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
    metrics: null as ContainerMetrics | null,
    started_at: null as string | null,
    finished_at: null as string | null,
  };
}

/** Adds start and end, and the health if the list has none (Podman). */
async function addTimes(get: Get, row: DockerContainer): Promise<void> {
  const { State } = v.parse(Inspected, await get(`/containers/${encodeURIComponent(row.container_id)}/json`));
  row.started_at = timeOf(State.StartedAt);
  row.finished_at = timeOf(State.FinishedAt);
  // A stopped container keeps its last health there.
  if (row.state === "running") row.health_status ??= healthOf(State.Health?.Status);
}

/** Adds the figures. If the engine gives no earlier sample, takes a second one after `pause`. */
async function addFigures(get: Get, row: DockerContainer, pause: () => Promise<void>): Promise<void> {
  const path = `/containers/${encodeURIComponent(row.container_id)}/stats?stream=false`;
  const first = v.parse(Stats, await get(path));
  row.metrics = metricsOf(first);
  if (row.metrics.cpu_percent !== null) return;
  await pause();
  const second = v.parse(Stats, await get(path));
  row.metrics = { ...metricsOf(second), cpu_percent: wallClockPercent(first, second) };
}

type Get = (path: string, timeoutMs?: number) => Promise<unknown>;

function engineAt(
  engine: string,
  { env, answerMs, signal }: { env: Env; answerMs: number; signal: AbortSignal | undefined },
): Get {
  const client = openClient({ ...peerOf(engine, env), timeoutMs: answerMs, largestAnswer: LARGEST_ANSWER });
  return async (path, timeoutMs = answerMs) => {
    const what = `ask the Docker Engine at ${engine} for ${path}`;
    const { json } = await client.ask({ what, path, signal, timeoutMs });
    if (json === undefined) throw new Error(`${what}: the answer isn't JSON`);
    return json;
  };
}

/** If the report would be too large, removes labels, and if need be ports, of the largest containers. @returns how many were shortened. */
function shorten(rows: DockerContainer[]): number {
  const sizeOf = (value: unknown) => Buffer.byteLength(JSON.stringify(value));
  if (sizeOf(rows) <= ROOM_BYTES) return 0;
  const share = Math.floor(ROOM_BYTES / rows.length);
  const big = rows.filter((row) => sizeOf(row) > share);
  for (const row of big) {
    row.labels = {};
    if (sizeOf(row) > share) row.ports = [];
  }
  return big.length;
}

/** The figures of one stats answer, as `docker stats` prints them. Without an earlier sample CPU use is null. */
function metricsOf({ cpu_stats, precpu_stats, memory_stats: memory, networks, blkio_stats }: Stats) {
  const total = (bytes: (number | null)[] | undefined) =>
    bytes?.reduce<number>((sum, one) => sum + (one ?? 0), 0) ?? null;
  const nets = networks ? Object.values(networks) : undefined;
  const blocks = blkio_stats?.io_service_bytes_recursive ?? undefined;
  // The field is "Read", "read" or "rbytes", depending on the version.
  const moved = (op: RegExp) => total(blocks?.filter((one) => op.test(one.op)).map(({ value }) => value));
  const usage = memory?.usage ?? null;
  return {
    cpu_percent: cpuPercent(cpu_stats, precpu_stats),
    // Not rounded: the kernel counts pages, which are 1/256 MiB.
    memory_usage_mb: usage === null ? null : withoutCache(usage, memory!.stats) / MIB,
    memory_limit_mb: memory?.limit ? memory.limit / MIB : null,
    network_rx_bytes: total(nets?.map(({ rx_bytes }) => rx_bytes)),
    network_tx_bytes: total(nets?.map(({ tx_bytes }) => tx_bytes)),
    block_read_bytes: moved(/^r/i),
    block_write_bytes: moved(/^w/i),
  };
}

/** In percent of one CPU: 150 is one and a half. */
function cpuPercent(now: Cpu, before: Cpu | null): number | null {
  if (!before?.system_cpu_usage) return null;
  const used = (now.cpu_usage?.total_usage ?? 0) - (before.cpu_usage?.total_usage ?? 0);
  const system = (now.system_cpu_usage ?? 0) - before.system_cpu_usage;
  // Before API 1.27 there is no online_cpus.
  const cpus = now.online_cpus || (now.cpu_usage?.percpu_usage?.length ?? 0);
  return system > 0 && used > 0 ? hundredths((used / system) * cpus * 100) : 0;
}

/**
 * In percent of one CPU, by wall-clock time between two answers. The usual formula is wrong for Podman: its answers have no earlier
 * sample, and its system_cpu_usage leaves out idle time (github.com/containers/podman/issues/24730 and 28761).
 */
function wallClockPercent(first: Stats, second: Stats): number | null {
  const ms = Date.parse(second.read ?? "") - Date.parse(first.read ?? "");
  const [from, to] = [first.cpu_stats.cpu_usage?.total_usage, second.cpu_stats.cpu_usage?.total_usage];
  if (!(ms > 0) || typeof from !== "number" || typeof to !== "number") return null;
  return hundredths((Math.max(0, to - from) / (ms * 1e6)) * 100);
}

/** Without cache that the kernel can free at once: total_inactive_file in cgroup v1, inactive_file in v2. */
function withoutCache(usage: number, stats: Record<string, number>): number {
  const { total_inactive_file: v1, inactive_file: v2 = 0 } = stats;
  if (v1 !== undefined && v1 < usage) return usage - v1;
  return v2 < usage ? usage - v2 : usage;
}

function hundredths(value: number): number {
  return Number(value.toFixed(2));
}

/** Splits `registry:5000/team/app:1.2@sha256:…` into image and tag; the tag is null if there is none. */
export function splitImage(image: string): [image: string, tag: string | null] {
  const plain = image.replace(/@sha256:[0-9a-f]+$/, "");
  if (plain.startsWith("sha256:")) return [plain, null];
  const colon = plain.lastIndexOf(":");
  return colon > plain.lastIndexOf("/") ? [plain.slice(0, colon), plain.slice(colon + 1)] : [plain, null];
}

/** The container's own name, without those of legacy links such as `/other/alias`; its short id if it has none. */
function nameOf(names: string[], id: string): string {
  const all = names.map((name) => name.replace(/^\//, "")).filter((name) => name !== "");
  return all.find((name) => !name.includes("/")) ?? all[0] ?? id.slice(0, 12);
}

/**
 * At most 32 characters: `Up About a minute (health: starting)` loses its health, which has its own field, and
 * `Exited (137) Less than a second ago` becomes `Exited (137) a second ago`.
 */
function shortStatus(status: string): string {
  const cut = status.length > 32 ? status.replace(/ \((health: )?\w+\)$/, "") : status;
  return (cut.length > 32 ? cut.replace("Less than a second", "a second") : cut).slice(0, 32);
}

/** "none" (API 1.52) and "" (Podman) mean that there is no health check. */
function healthOf(status: string | null | undefined): string | null {
  return status && /^(un)?healthy$|^starting$/.test(status) ? status : null;
}

/** Sorted and without duplicates: the engine's order varies, and some versions list a port twice. IPv4 and IPv6 are two ports. */
function portsOf(ports: Listed["Ports"]) {
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
  return text && !text.startsWith("0001-01-01") ? text.slice(0, 64) : null;
}
