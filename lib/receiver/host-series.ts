// Each host's own series in /metrics: the figures of its last report, and what is wrong with it.

import type { Labels, Registry } from "../metrics.ts";
import type { Metric } from "../report.ts";
import type { Host } from "./hosts.ts";
import { listsOf } from "./lists.ts";
import type { Store } from "./store.ts";

/** So many hosts, the first by name, have series; a scrape of them has some 500 kB. */
const MOST_HOSTS = 500;
/** The most mounts of a host. */
const MOST_MOUNTS = 24;
const MIB = 2 ** 20;

type Row = Pick<Host, "name" | "status" | "last_seen_at" | "metrics"> & {
  rest: string | null;
  lists: string | null;
  alerts: number;
  urgent: number;
  /** How many hosts there are in all. */
  hosts: number;
};

/** A host at the last scrape. */
interface Watched extends Omit<Row, "metrics" | "rest" | "lists"> {
  metrics: Partial<Record<Metric, number | null>>;
  disks: { mount: string; used_percent: number | null; inodes_used_percent: number | null }[];
}

type Series = [name: string, help: string, value: (host: Watched) => number | null | undefined];

const GAUGES: readonly Series[] = [
  ["up", "Whether reports come: 0 for an offline host.", ({ status }) => (status === "offline" ? 0 : 1)],
  [
    "last_report_timestamp_seconds",
    "When the last report came, in seconds since 1970.",
    ({ last_seen_at }) => last_seen_at! / 1000,
  ],
  ["alerts_open", "Open alerts of the host.", ({ alerts }) => alerts],
  ["alerts_urgent", "Open alerts of the host that are critical.", ({ urgent }) => urgent],
  ["cpu_ratio", "CPU in use, 0 to 1.", ({ metrics }) => scaled(metrics.cpu_percent, 0.01)],
  ["load1", "Load average of a minute.", ({ metrics }) => metrics.load_average],
  ["memory_used_bytes", "Memory in use.", ({ metrics }) => scaled(metrics.memory_used_mb, MIB)],
  ["memory_total_bytes", "Memory in all.", ({ metrics }) => scaled(metrics.memory_total_mb, MIB)],
  ["uptime_seconds", "Time since the host's start.", ({ metrics }) => metrics.uptime_seconds],
  ["cpu_temperature_celsius", "Temperature of the CPU.", ({ metrics }) => metrics.cpu_temp_c],
];

const COUNTERS: readonly Series[] = [
  ["network_receive_bytes_total", "Bytes received by all interfaces.", ({ metrics }) => metrics.network_rx_bytes],
  ["network_transmit_bytes_total", "Bytes sent by all interfaces.", ({ metrics }) => metrics.network_tx_bytes],
];

const MOUNTS: readonly [string, string, "used_percent" | "inodes_used_percent"][] = [
  ["disk_used_ratio", "Space in use of a file system, 0 to 1.", "used_percent"],
  ["disk_inodes_used_ratio", "Inodes in use of a file system, 0 to 1.", "inodes_used_percent"],
];

/** Registers the series. They are read from the store at each scrape, of hosts that have reported and aren't archived. */
export function addHostSeries(registry: Registry, store: Store): void {
  let watched: Watched[] = [];
  const read = async () => {
    const rows = await store.read.all<Row>(
      `SELECT name, status, last_seen_at, metrics, rest, lists, COUNT(a.id) AS alerts, COUNT(*) FILTER (WHERE a.severity = 'critical') AS urgent,
         COUNT(*) OVER () AS hosts
       FROM hosts h LEFT JOIN host_lists l ON l.host = h.id LEFT JOIN alerts a ON a.host = h.id AND a.closed_at IS NULL
       WHERE archived_at IS NULL AND last_seen_at IS NOT NULL GROUP BY h.id, l.host ORDER BY name LIMIT ${MOST_HOSTS}`,
    );
    watched = rows.map(({ rest, lists, ...row }) => {
      const { disks } = listsOf({ rest: rest ?? "{}", lists: lists ?? "{}" }) as Partial<Pick<Watched, "disks">>;
      return { ...row, metrics: JSON.parse(row.metrics), disks: (disks ?? []).slice(0, MOST_MOUNTS) };
    });
  };
  // The other figures are served without a store, too: it is then that they are needed.
  registry.beforeRender(() => read().catch(() => void (watched = [])));
  const samples = (value: Series[2]) => () =>
    watched.map((host): [Labels, number] => [{ host: host.name }, value(host) ?? Number.NaN]);
  for (const [name, help, value] of GAUGES) registry.gauge(`picket_host_${name}`, help, samples(value));
  for (const [name, help, value] of COUNTERS) registry.counted(`picket_host_${name}`, help, samples(value));
  for (const [name, help, key] of MOUNTS) {
    registry.gauge(`picket_host_${name}`, help, () =>
      watched.flatMap(({ name: host, disks }) =>
        disks.map((disk): [Labels, number] => [{ host, mount: disk.mount }, scaled(disk[key], 0.01) ?? Number.NaN]),
      ),
    );
  }
  const left = `Hosts without series of their own: those after the first ${MOST_HOSTS}.`;
  registry.gauge("picket_host_series_left_out", left, () => (watched[0]?.hosts ?? 0) - watched.length);
}

function scaled(figure: number | null | undefined, factor: number): number | null {
  return typeof figure === "number" ? figure * factor : null;
}
