// What a host has, in words: what `selftest host` shows.

import { columns, duration, printable, size } from "../text.ts";
import type { HostReading } from "./host.ts";

type Host = HostReading["host"];

/** A line for each kind of figure, then a table of each list. */
export function inWords(host: Host): string {
  const { metrics, facts } = host;
  const known = (value: string | number | null, unit = "") => (value === null ? "?" : `${value}${unit}`);
  const mib = (value: number | null) => (value === null ? "?" : size(value * 2 ** 20));
  const { load_average: load, load_average_5: load5, load_average_15: load15 } = metrics;
  const uptime = metrics.uptime_seconds === null ? "?" : duration(metrics.uptime_seconds * 1000);
  const sections: [string, string[][]][] = [
    ["host", [[`${known(facts.os)}, kernel ${known(facts.kernel)} (${known(facts.arch)}), up ${uptime}`]]],
    [
      "cpu",
      [
        [
          `${known(metrics.cpu_percent, " %")} of ${known(facts.cpu_count)} CPUs; ${known(metrics.cpu_iowait_percent, " %")} waited for disks, ${known(metrics.cpu_steal_percent, " %")} went to other machines; load ${[load, load5, load15].map((one) => known(one)).join(" ")}; ${known(metrics.cpu_temp_c, " °C")}`,
        ],
      ],
    ],
    [
      "memory",
      [
        [
          `${mib(metrics.memory_used_mb)} of ${mib(metrics.memory_total_mb)} used; swap: ${mib(metrics.swap_used_mb)} of ${mib(metrics.swap_total_mb)}`,
        ],
      ],
    ],
    ...Object.entries(ROWS).map(([list, rows]): [string, string[][]] => [list, rows(host)]),
  ];
  return columns(
    sections.flatMap(([title, rows]) => {
      const lines = columns(rows).split("\n");
      return lines.map((line, n) => [n === 0 ? title : "", printable(line)]);
    }),
  );
}

const given = (text: string | number | null | undefined, before = "", after = "") =>
  text === null || text === undefined ? "" : `${before}${text}${after}`;

/** The rows of a list; one that is empty or not known is a row, too. */
function rowsOf<T>(list: T[] | null | undefined, row: (one: T) => string[]): string[][] {
  if (!list) return [["not known here"]];
  return list.length > 0 ? list.map(row) : [["none"]];
}

const ROWS: Record<string, (host: Host) => string[][]> = {
  disks: ({ disks }) =>
    rowsOf(disks, (one) => [
      one.mount,
      given(one.used_percent, "", " %"),
      `${one.used_gb} of ${one.total_gb} GB`,
      given(one.inodes_used_percent, "", " % of inodes"),
      `${given(one.fstype)} ${given(one.device)}${one.read_only === true ? ", read-only" : ""}`,
    ]),
  devices: ({ devices }) =>
    rowsOf(devices, (one) => [
      one.name,
      `${size(one.read_bytes)} read`,
      `${size(one.write_bytes)} written`,
      `busy for ${duration(one.busy_ms)}`,
    ]),
  interfaces: ({ interfaces }) =>
    rowsOf(interfaces, (one) => [
      one.name,
      one.up === false ? "down" : one.up === null ? "" : "up",
      given(one.speed_mbit, "", " Mbit/s"),
      `${size(one.rx_bytes)} received`,
      `${size(one.tx_bytes)} sent`,
      one.counted ? "" : "not in the sum",
    ]),
  temperatures: ({ temperatures }) =>
    rowsOf(temperatures, (one) => [
      one.chip,
      given(one.label),
      `${one.celsius} °C`,
      given(one.high, "high ", " °C"),
      given(one.critical, "critical ", " °C"),
    ]),
  units: ({ units }) =>
    rowsOf(units, (one) => [one.name, `${one.state} (${one.sub})`, given(one.detail), given(one.since, "since ")]),
  processes: ({ processes }) =>
    rowsOf(processes, (one) => [one.name, String(one.pid), `${one.cpu_percent} %`, size(one.memory_mb * 2 ** 20)]),
  pools: ({ pools }) => rowsOf(pools, (one) => [one.name, one.kind, one.state, given(one.detail)]),
  smart: ({ smart }) =>
    rowsOf(smart, (one) => [
      one.device,
      given(one.model),
      one.passed === null ? "asleep, or doesn't say" : one.passed ? "passed" : "FAILING",
      given(one.temperature, "", " °C"),
      given(one.power_on_hours, "on for ", " h"),
      given(one.wear_percent, "", " % worn"),
      given(one.errors, "", " errors"),
    ]),
  power: ({ power }) =>
    rowsOf(power, (one) => [
      one.name,
      given(one.kind),
      given(one.state),
      given(one.percent, "", " %"),
      one.online === null ? "" : one.online ? "connected" : "not connected",
    ]),
};
