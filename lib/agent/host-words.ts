// What a host has, in words: what `selftest host` shows.

import { columns, duration, printable, size } from "../text.ts";
import type { HostReading } from "./host.ts";

type Host = HostReading["host"];

/** A line for each kind of figure, then a table of each list. */
export function inWords(host: Host): string {
  return columns(
    Object.entries(ROWS).flatMap(([title, rows]) =>
      columns(rows(host))
        .split("\n")
        .map((line, n) => [n === 0 ? title : "", printable(line)]),
    ),
  );
}

const known = (value: string | number | null, unit = "") => (value === null ? "?" : `${value}${unit}`);
const mebibytes = (value: number | null) => (value === null ? "?" : size(value * 2 ** 20));
/** Nothing where nothing is known. */
const given = (text: string | number | null | undefined, before = "", after = "") =>
  text === null || text === undefined ? "" : `${before}${text}${after}`;

/** The rows of a list; one that is empty or not known is a row, too. */
function rowsOf<T>(list: T[] | null | undefined, row: (one: T) => string[]): string[][] {
  if (!list) return [["not known here"]];
  return list.length > 0 ? list.map(row) : [["none"]];
}

const ROWS: Record<string, (host: Host) => string[][]> = {
  host: ({ facts, metrics: { uptime_seconds: up } }) => [
    [
      `${known(facts.os)}, kernel ${known(facts.kernel)} (${known(facts.arch)})${up === null ? "" : `, up ${duration(up * 1000)}`}`,
    ],
  ],
  cpu: ({ facts, metrics }) => {
    const { cpu_iowait_percent: waiting, cpu_steal_percent: stolen, load_average: load } = metrics;
    const loads = [load, metrics.load_average_5, metrics.load_average_15].map((one) => known(one));
    return [
      [
        `${known(metrics.cpu_percent, " %")} of ${known(facts.cpu_count)} CPUs`,
        `load ${loads.join(" ")}`,
        given(metrics.cpu_temp_c, "", " °C"),
        given(waiting, "waiting for disks ", " %"),
        given(stolen, "taken by the hypervisor ", " %"),
      ].filter(Boolean),
    ];
  },
  memory: ({ metrics: { memory_used_mb, memory_total_mb, swap_used_mb, swap_total_mb } }) => [
    [
      `${mebibytes(memory_used_mb)} of ${mebibytes(memory_total_mb)} used`,
      swap_total_mb === 0 ? "no swap" : `swap: ${mebibytes(swap_used_mb)} of ${mebibytes(swap_total_mb)} used`,
    ],
  ],
  disks: ({ disks }) =>
    rowsOf(disks, (one) => [
      one.mount,
      given(one.used_percent, "", " %"),
      one.total_gb < 0.1 ? "under 0.1 GB" : `${one.used_gb} of ${one.total_gb} GB`,
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
    rowsOf(processes, (one) => [one.name, `pid ${one.pid}`, `${one.cpu_percent} %`, size(one.memory_mb * 2 ** 20)]),
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
