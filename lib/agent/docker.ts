// Containers, from the Docker Engine API on its unix socket (Podman speaks it, too). Nothing is ever sent but GET.
//
// The list is one call. Each container's times (inspect) and figures (stats) are asked for side by side, and a slow or failing
// one delays nobody and keeps its place in the list without them. The figures are those that `docker stats` prints: its
// formulas are those of docker/cli, cli/command/container/stats_helpers.go.

import { existsSync } from "node:fs";
import * as v from "valibot";

/** How long one answer may take: stats takes two seconds by itself, because the engine looks twice. */
const ANSWER_MS = 10_000;
/** So many containers are asked about at once. */
const AT_ONCE = 32;
const MIB = 1 << 20;

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

const count = v.nullish(v.number(), null);
const Listed = v.array(
  v.object({
    Id: v.string(),
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
  }),
);
const Inspected = v.object({
  State: v.object({ StartedAt: v.nullish(v.string(), null), FinishedAt: v.nullish(v.string(), null) }),
});
const Cpu = v.object({
  cpu_usage: v.optional(v.object({ total_usage: count, percpu_usage: v.nullish(v.array(v.number()), null) })),
  system_cpu_usage: count,
  online_cpus: count,
});
const Stats = v.object({
  cpu_stats: Cpu,
  precpu_stats: v.optional(Cpu),
  memory_stats: v.optional(
    v.object({ usage: count, limit: count, stats: v.nullish(v.record(v.string(), v.number()), {}) }),
  ),
  networks: v.nullish(v.record(v.string(), v.object({ rx_bytes: count, tx_bytes: count })), null),
  blkio_stats: v.optional(
    v.object({ io_service_bytes_recursive: v.nullish(v.array(v.object({ op: v.string(), value: v.number() })), null) }),
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

/** What the engine has. @throws Error when it doesn't answer or answers something else. */
export async function readContainers(
  socket: string,
  { signal }: { signal?: AbortSignal } = {},
): Promise<DockerContainer[]> {
  const listed = v.parse(Listed, await get(socket, "/containers/json?all=1", signal));
  const rows = listed.map((one): DockerContainer => {
    const [image, tag] = splitImage(one.Image);
    return {
      container_id: one.Id.slice(0, 80),
      name: (one.Names[0] ?? one.Id.slice(0, 12)).replace(/^\//, "").slice(0, 255),
      image: image.slice(0, 255),
      image_tag: tag?.slice(0, 128) ?? null,
      status: one.Status?.slice(0, 32) ?? null,
      state: one.State?.slice(0, 32) ?? null,
      health_status: healthOf(one.Status ?? ""),
      ports: one.Ports.map(({ IP, PrivatePort, PublicPort, Type }) => ({
        ip: IP,
        private_port: PrivatePort,
        public_port: PublicPort,
        type: Type,
      })),
      labels: one.Labels,
      metrics: null,
      started_at: null,
      finished_at: null,
    };
  });
  const queue = [...rows];
  const worker = async (): Promise<void> => {
    for (let row = queue.shift(); row; row = queue.shift()) await complete(socket, row, signal);
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, rows.length) }, worker));
  return rows;
}

/** The engine's version; null when it doesn't say. */
export async function dockerVersion(socket: string): Promise<string | null> {
  const { Version } = v.parse(v.object({ Version: v.nullish(v.string(), null) }), await get(socket, "/version"));
  return Version?.slice(0, 32) ?? null;
}

/** Adds times and figures; what can't be had stays null. */
async function complete(socket: string, row: DockerContainer, signal: AbortSignal | undefined): Promise<void> {
  const id = encodeURIComponent(row.container_id);
  const times = async (): Promise<void> => {
    const { State } = v.parse(Inspected, await get(socket, `/containers/${id}/json`, signal));
    row.started_at = timeOf(State.StartedAt);
    row.finished_at = timeOf(State.FinishedAt);
  };
  const figures = async (): Promise<void> => {
    if (row.state !== "running" && row.state !== "paused") return;
    row.metrics = metricsOf(v.parse(Stats, await get(socket, `/containers/${id}/stats?stream=false`, signal)));
  };
  // One that has gone meanwhile, or whose figures are late, keeps what the list said.
  await Promise.allSettled([times(), figures()]);
}

async function get(socket: string, path: string, signal?: AbortSignal): Promise<unknown> {
  const late = AbortSignal.timeout(ANSWER_MS);
  const answer = await fetch(`http://docker${path}`, {
    unix: socket,
    signal: signal ? AbortSignal.any([signal, late]) : late,
  } as RequestInit).catch((error: Error) => {
    throw new Error(`ask the Docker Engine at ${socket}`, { cause: error });
  });
  if (answer.status !== 200)
    throw new Error(`ask the Docker Engine at ${socket}: ${path} is answered ${answer.status}`);
  return answer.json();
}

/** The figures of one stats answer, as `docker stats` prints them. */
export function metricsOf({
  cpu_stats: cpu,
  precpu_stats: before,
  memory_stats: memory,
  networks,
  blkio_stats: io,
}: Stats): ContainerMetrics {
  const used = (cpu.cpu_usage?.total_usage ?? 0) - (before?.cpu_usage?.total_usage ?? 0);
  const system = (cpu.system_cpu_usage ?? 0) - (before?.system_cpu_usage ?? 0);
  const cpus = cpu.online_cpus || (cpu.cpu_usage?.percpu_usage?.length ?? 1);
  const looked = before?.system_cpu_usage !== null && before?.system_cpu_usage !== undefined;
  const usage = memory?.usage ?? null;
  // cgroup v1 calls it total_inactive_file, v2 inactive_file: what the kernel gives back at once is not counted.
  const inactive = memory?.stats["total_inactive_file"] ?? memory?.stats["inactive_file"] ?? 0;
  const nets = networks === null ? null : Object.values(networks);
  const blocks = io?.io_service_bytes_recursive ?? null;
  const sum = (op: string) =>
    blocks?.filter((one) => one.op.toLowerCase() === op).reduce((bytes, { value }) => bytes + value, 0) ?? null;
  return {
    cpu_percent: !looked ? null : system > 0 && used > 0 ? round((used / system) * cpus * 100) : 0,
    memory_usage_mb: usage === null ? null : round((inactive < usage ? usage - inactive : usage) / MIB),
    memory_limit_mb: memory?.limit ? round(memory.limit / MIB) : null,
    network_rx_bytes: nets && nets.reduce((bytes, { rx_bytes }) => bytes + (rx_bytes ?? 0), 0),
    network_tx_bytes: nets && nets.reduce((bytes, { tx_bytes }) => bytes + (tx_bytes ?? 0), 0),
    block_read_bytes: sum("read"),
    block_write_bytes: sum("write"),
  };
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** `registry:5000/team/app:1.2@sha256:…` as image and tag; an image without a tag, or by its id alone, has none. */
export function splitImage(image: string): [image: string, tag: string | null] {
  const plain = image.replace(/@sha256:[0-9a-f]+$/, "");
  if (plain.startsWith("sha256:")) return [plain, null];
  const colon = plain.lastIndexOf(":");
  return colon > plain.lastIndexOf("/") ? [plain.slice(0, colon), plain.slice(colon + 1)] : [plain, null];
}

/** `Up 3 hours (healthy)`, `Up 2 seconds (health: starting)`. */
function healthOf(status: string): string | null {
  const [, health] = /\((?:health: )?(healthy|unhealthy|starting)\)/.exec(status) ?? [];
  return health ?? null;
}

/** Go's zero time means never. */
function timeOf(text: string | null): string | null {
  return text === null || text === "" || text.startsWith("0001-01-01") ? null : text;
}
