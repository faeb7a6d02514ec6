// What a report says is wrong: a pure function of the report, the settings, and the pace at which its file systems grow.

import type { Report } from "../report.ts";
import { roughly, shellWord } from "../text.ts";
import type { SettingOf } from "./alert-settings.ts";
import type { AlertType, Severity } from "./alerts.ts";

/**
 * What is said of one subject. `near`: less than a twentieth below the limit, which ends no alert and begins none. `off`: not to be
 * judged.
 */
export interface Finding {
  type: AlertType;
  subject: string;
  state: "wrong" | "near" | "well" | "off";
  /** A higher one is told again. Default: 0. */
  level?: number;
  /** Most findings say that all is well as before: nothing is made of them. */
  say: () => Said;
}

/** An alert in words. */
export interface Said {
  severity?: Severity;
  /** When it begins. */
  text: string;
  /** When it is over. */
  recovered: string;
  figures: Record<string, unknown>;
}

export interface Judged {
  /** The host's name. */
  name: string;
  report: Pick<Report, "host" | "recorded_at">;
  /** Of the host's facts, as they are known. */
  cpuCount: number | null;
  settings: SettingOf;
  /** The pace of a mount in GiB a millisecond; null where there is none. */
  paceOf: (mount: string) => number | null;
}

/** The part of a limit at which an alert is over. */
const CLEAR_PART = 0.95;
/** The further levels of a full disk. */
const DISK_LEVELS = [95, 99];
const HOUR_MS = 3_600_000;

/** What is said of a subject that was wrong and is no longer reported. */
export function goneText(name: string, type: AlertType, subject: string): string {
  // Failed units are listed, others need not be.
  if (type === "unit.failed") return `${name}: unit ${subject.replace(/\.service$/, "")} is no longer failed`;
  return `${name}: ${subject} is no longer reported`;
}

/** The findings of what the report tells of, by type: a type that is missing is not known now. */
export function judge(judged: Judged): Map<AlertType, Finding[]> {
  const { host } = judged.report;
  const found = new Map<AlertType, Finding[]>();
  const add = <T>(type: AlertType, list: readonly T[] | null, find: (one: T) => Finding | null): void => {
    if (list === null) return;
    const all = list.map(find).filter((one) => one !== null);
    found.set(type, all);
  };
  const disks = host.disks?.filter((disk) => disk.read_only !== true) ?? null;
  add("disk.high", disks, (disk) => fullDisk(judged, disk));
  add("disk.filling", disks, (disk) => fillingDisk(judged, disk));
  add("unit.failed", host.units, (unit) => failedUnit(judged, unit));
  add("pool.degraded", host.pools, (pool) => degradedPool(judged, pool));
  add("smart.failing", host.smart, (disk) => failingDisk(judged, disk));
  add("temperature.high", host.temperatures, (sensor) => hotSensor(judged, sensor));
  for (const load of LOADS) {
    const value = load.valueOf(host.metrics, judged.cpuCount);
    add(load.type, value === null ? null : [value], (one) => ofLoad(judged, load, one));
  }
  return found;
}

/** An element of one of a host's lists. */
type One<K extends "disks" | "units" | "pools" | "smart" | "temperatures"> = NonNullable<Report["host"][K]>[number];

/** The state of a figure whose limit is an upper one. */
function stateOf(value: number, limit: number | "off"): Finding["state"] {
  if (limit === "off") return "off";
  if (value >= limit) return "wrong";
  return value > limit * CLEAR_PART ? "near" : "well";
}

const percent = (value: number): string => `${Math.floor(value)} %`;
const gb = (value: number): string => value.toFixed(1);

function fullDisk({ name, settings, paceOf }: Judged, disk: One<"disks">): Finding | null {
  const { mount, used_percent: used, inodes_used_percent: inodes } = disk;
  if (used === null && inodes === null) return null;
  const limit = settings("disk_percent", mount);
  const value = Math.max(used ?? 0, inodes ?? 0);
  const state = stateOf(value, limit);
  const say = (): Said => {
    const ofInodes = (inodes ?? 0) > (used ?? 0);
    const what = ofInodes ? `has used ${percent(value)} of its inodes` : `is ${percent(value)} full${sizes(disk)}`;
    const left = hoursLeft(disk, paceOf(mount));
    const pace = left === null || ofInodes ? "" : `, full in about ${roughly(left * HOUR_MS)} at this pace`;
    const hint = ofInodes ? `df -i ${shellWord(mount)}` : `du -xh ${shellWord(mount)} | sort -h | tail`;
    return {
      ...(value >= 99 ? { severity: "critical" } : {}),
      text: `${name}: ${mount} ${what}${pace}; ${hint}`,
      recovered: `${name}: ${mount} has room again: it ${what}`,
      figures: { ...disk, limit },
    };
  };
  if (state !== "wrong") return { type: "disk.high", subject: mount, state, say };
  const level = Math.max(Number(limit), ...DISK_LEVELS.filter((step) => step <= value));
  return { type: "disk.high", subject: mount, state, level, say };
}

function fillingDisk({ name, settings, paceOf }: Judged, disk: One<"disks">): Finding | null {
  const { mount } = disk;
  const limit = settings("disk_full_hours", mount);
  const left = hoursLeft(disk, paceOf(mount));
  const near = left !== null && limit !== "off" && left * CLEAR_PART <= limit ? "near" : "well";
  return {
    type: "disk.filling",
    subject: mount,
    state: limit === "off" ? "off" : left !== null && left <= limit ? "wrong" : near,
    say: () => {
      const when = `will be full in about ${roughly((left ?? 0) * HOUR_MS)} at the pace of the last hours`;
      return {
        text: `${name}: ${mount} ${when}${sizes(disk)}; du -xh ${shellWord(mount)} | sort -h | tail`,
        recovered: `${name}: ${mount} no longer fills up${sizes(disk)}`,
        figures: { ...disk, limit, hours_left: left },
      };
    },
  };
}

function sizes({ used_gb: used, total_gb: total }: One<"disks">): string {
  if (used === null || total === null || total < 0.1) return "";
  return total < 1024 ? ` (${gb(used)} of ${gb(total)} GB)` : ` (${gb(used / 1024)} of ${gb(total / 1024)} TB)`;
}

/** The hours until a file system is full; null where it doesn't grow, or that isn't known. */
function hoursLeft(disk: One<"disks">, pace: number | null): number | null {
  const { used_gb: used, total_gb: total, used_percent: percentUsed } = disk;
  if (pace === null || used === null || total === null) return null;
  // A part of many file systems is root's alone: they are full before all is used.
  const usable = percentUsed !== null && percentUsed >= 5 ? Math.min(total, (used * 100) / percentUsed) : total;
  return Math.max(0, usable - used) / pace / HOUR_MS;
}

function failedUnit({ name, report, settings }: Judged, unit: One<"units">): Finding {
  const { state, detail, since } = unit;
  const wrong = state === "failed" ? "wrong" : "well";
  return {
    type: "unit.failed",
    subject: unit.name,
    state: settings("units", unit.name) === "off" ? "off" : wrong,
    say: () => {
      const short = unit.name.replace(/\.service$/, "");
      const ago = since === null ? Number.NaN : report.recorded_at - Date.parse(since);
      const when = ago >= 0 ? ` ${roughly(ago)} ago` : "";
      const why = detail === null ? "" : ` (${detail})`;
      return {
        text: `${name}: unit ${short} failed${why}${when}; systemctl status ${shellWord(short)}`,
        recovered: `${name}: unit ${short} is ${state}`,
        figures: unit,
      };
    },
  };
}

const POOL_COMMANDS = new Map<string | null, (pool: string) => string>([
  ["zfs", (pool) => `zpool status ${pool}`],
  ["md", () => "cat /proc/mdstat"],
  ["btrfs", (pool) => `btrfs filesystem show ${pool}`],
]);

function degradedPool({ name, settings }: Judged, pool: One<"pools">): Finding | null {
  const { kind, state, detail } = pool;
  if (state === null) return null;
  const wrong = state === "online" ? "well" : "wrong";
  return {
    type: "pool.degraded",
    subject: pool.name,
    state: settings("pools", pool.name) === "off" ? "off" : wrong,
    // A pool that fails after it was degraded is told again.
    level: state === "failed" ? 2 : 1,
    say: () => {
      const command = POOL_COMMANDS.get(kind)?.(shellWord(pool.name));
      const what = `${name}: pool ${pool.name} is ${state}`;
      return {
        text: what + (detail ? `: ${detail}` : "") + (command ? `; ${command}` : ""),
        recovered: `${what} again`,
        figures: pool,
      };
    },
  };
}

function failingDisk({ name, settings }: Judged, disk: One<"smart">): Finding | null {
  const { device, model, passed } = disk;
  if (passed === null) return null;
  return {
    type: "smart.failing",
    subject: device,
    state: settings("smart", device) === "off" ? "off" : passed ? "well" : "wrong",
    say: () => {
      const what = `${name}: disk ${device}${model ? ` (${model})` : ""}`;
      const errors = disk.errors ? `, ${disk.errors} errors` : "";
      const path = device.startsWith("/") ? device : `/dev/${device}`;
      return {
        text: `${what} says that it is failing${errors}; smartctl -a ${shellWord(path)}`,
        recovered: `${what} passes its own test again`,
        figures: disk,
      };
    },
  };
}

function hotSensor({ name, settings }: Judged, sensor: One<"temperatures">): Finding | null {
  const { chip, label, celsius, critical } = sensor;
  const subject = label ? `${chip} ${label}` : chip;
  const set = settings("temperature_c", subject);
  // A mark of 0 is none.
  const limit = set === "critical" ? (critical !== null && critical > 0 ? critical : null) : set;
  if (celsius === null || limit === null) return null;
  return {
    type: "temperature.high",
    subject,
    state: stateOf(celsius, limit),
    say: () => ({
      text: `${name}: ${subject} is at ${celsius} °C (limit ${limit} °C); sensors`,
      recovered: `${name}: ${subject} has cooled down to ${celsius} °C`,
      figures: { ...sensor, limit },
    }),
  };
}

interface Load {
  type: AlertType;
  key: "cpu_percent" | "memory_percent" | "swap_percent" | "load_per_cpu";
  valueOf: (metrics: Report["host"]["metrics"], cpuCount: number | null) => number | null;
  /** The figure in words. */
  said: (value: string) => string;
  command: string;
}

const part = (used: number | null, total: number | null) => (used === null || !total ? null : (used / total) * 100);

const LOADS: readonly Load[] = [
  {
    type: "cpu.high",
    key: "cpu_percent",
    valueOf: ({ cpu_percent: busy }) => busy,
    said: (value) => `its CPUs are ${value} % busy`,
    command: "ps -eo pcpu,pid,comm --sort -pcpu | head",
  },
  {
    type: "memory.high",
    key: "memory_percent",
    valueOf: ({ memory_used_mb: used, memory_total_mb: total }) => part(used, total),
    said: (value) => `${value} % of its memory is used`,
    command: "ps -eo rss,pid,comm --sort -rss | head",
  },
  {
    type: "swap.high",
    key: "swap_percent",
    valueOf: ({ swap_used_mb: used, swap_total_mb: total }) => part(used, total),
    said: (value) => `${value} % of its swap is used`,
    command: "free -m",
  },
  {
    type: "load.high",
    key: "load_per_cpu",
    valueOf: ({ load_average: load }, cpus) => (load === null || cpus === null ? null : load / cpus),
    said: (value) => `its load is ${value} for each CPU`,
    command: "uptime",
  },
];

function ofLoad({ name, settings }: Judged, { type, key, said, command }: Load, value: number): Finding {
  const limit = settings(key);
  return {
    type,
    subject: "",
    state: stateOf(value, limit),
    say: () => {
      const words = `${name}: ${said(value.toFixed(1).replace(/\.0$/, ""))} (limit ${limit})`;
      return { text: `${words}; ${command}`, recovered: words, figures: { value, limit } };
    },
  };
}
