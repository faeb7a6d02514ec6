// This host's own part of a report: figures and facts from /proc and /sys, and a list of each kind of thing that it has. A figure that
// can't be read is null, and so is a list.
//
// In a container (LXC, Docker) /proc may show the whole machine: if a cgroup sets a limit, the limit and the cgroup's own use
// are reported instead. LXC's lxcfs mounts files of its own over some of /proc.

import { machine } from "node:os";
import type { HOST_LISTS } from "../report.ts";
import { cpuCount, createCpuUse } from "./cpu.ts";
import { readDevices } from "./devices.ts";
import { Disks, type Space } from "./disks.ts";
import { type KernelFiles, fieldIn, isFaked, numberIn, openKernelFiles } from "./kernel-files.ts";
import { readMemory, readSwap } from "./memory.ts";
import { readNetwork } from "./network.ts";
import { readPools } from "./pools.ts";
import { readPower } from "./power.ts";
import { createProcesses } from "./processes.ts";
import { createSmart } from "./smart.ts";
import { type Note, type Warn, createTroubles, source } from "./source.ts";
import { cpuTemperature, createTemperatures } from "./temperature.ts";
import { createUnits, unknownUnits } from "./units.ts";

/** What a host has, as a report tells it. */
export type HostReading = Awaited<ReturnType<HostReader["read"]>>;

/** A report's `host.metrics`. */
export type HostMetrics = HostReading["host"]["metrics"];

/** A report's `host.facts`. */
export type HostFacts = HostReading["host"]["facts"];

type List = keyof typeof HOST_LISTS;

interface HostOptions {
  /** The folder of proc/, sys/, run/ and etc/: "/" except in tests. */
  root: string;
  /** Patterns of the mount points that are listed. */
  disks: readonly string[];
  /** Units that are listed besides those that failed, and patterns of them. */
  services?: readonly string[];
  /** Lists that are left out. */
  omit?: readonly List[];
  /** Logs what a report lacks. */
  warn?: Warn;
  /** A local file system's space. */
  space?: (mount: string) => Space | Promise<Space>;
  /** A monotonic clock in milliseconds. */
  clock?: () => number;
}

/** What figures are made of. */
interface Parts {
  root: Space | null;
  memory: ReturnType<typeof readMemory>;
  network: ReturnType<typeof readNetwork>;
  temperatures: Parameters<typeof cpuTemperature>[0] | null;
}

/** Elements of a list: hundreds of disks or sensors would make reports too large. */
const MOST = 128;
const MIB = 1 << 20;
const GIB = 1 << 30;

/** Reads the host. CPU use is measured since the last time. */
export class HostReader {
  #root: string;
  /** Computed once: uptime and clock are not read at the same moment, and a fact must not change with each report. */
  #bootSeconds: number | null = null;
  #services: readonly string[];
  #omit: readonly List[];
  #cpuUse: ReturnType<typeof createCpuUse>;
  #smart: ReturnType<typeof createSmart>;
  #ask: ReturnType<typeof sourcesOf>;
  #troubles: ReadonlyMap<string, string>;
  #wasRead = false;

  constructor(options: HostOptions) {
    const { root, services = [], omit = [], warn = () => {}, clock = () => performance.now() } = options;
    this.#root = root;
    this.#services = services;
    this.#omit = omit;
    this.#cpuUse = createCpuUse(openKernelFiles(root), clock);
    const { note, troubles } = createTroubles(warn);
    this.#troubles = troubles;
    this.#smart = createSmart({ note, clock });
    this.#ask = sourcesOf({ ...options, services, omit, note, clock });
  }

  /** The current figures, facts and lists. `services`: the state of those that the configuration names. */
  async read() {
    this.#wasRead = true;
    const files = openKernelFiles(this.#root);
    const ask = this.#ask;
    const [disks, network, temperatures, units, devices, processes, pools, power] = await Promise.all([
      ask.disks(files),
      ask.network(files),
      ask.temperatures(),
      ask.units(),
      ask.devices(files),
      ask.processes(),
      ask.pools(files),
      ask.power(),
    ]);
    const { list, services } = units ?? unknownUnits(this.#services);
    const lists = {
      disks: disks?.list ?? null,
      devices,
      interfaces: network?.list ?? null,
      temperatures,
      units: list,
      processes,
      pools,
      smart: this.#omit.includes("smart") ? null : this.#smart.read(),
      power,
    };
    const root = disks?.root ?? null;
    const memory = readMemory(files);
    const metrics = this.#metrics(files, { root, memory, network, temperatures });
    return { host: { metrics, facts: this.#facts(files, { root, memory }), ...without(lists, this.#omit) }, services };
  }

  /** The same, with the answers that otherwise come with a later report. */
  async readAll() {
    if (!this.#omit.includes("smart")) this.#smart.read();
    await this.#smart.answered();
    return this.read();
  }

  /** Why what could not be read the last time, by source. Between two reports nothing is read for it: CPU use would be that of a moment. */
  async troubles(): Promise<ReadonlyMap<string, string>> {
    if (!this.#wasRead) await this.read();
    return this.#troubles;
  }

  /** Memory is in MiB, as `free -m` counts it, and the root's space in GiB, as `df -BG` does. */
  #metrics(files: KernelFiles, { root, memory, network, temperatures }: Parts) {
    const uptime = numberIn(files.text("proc/uptime"));
    const load = files.text("proc/loadavg")?.split(" ").map(Number) ?? [];
    const { busy = null, iowait = null, steal = null } = this.#cpuUse(files) ?? {};
    const swap = readSwap(files);
    return {
      cpu_percent: busy,
      memory_used_mb: memory && Math.floor(memory.used / MIB),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_used_gb: root && Math.ceil(root.used / GIB),
      disk_total_gb: root && Math.ceil(root.total / GIB),
      network_rx_bytes: network && network.received,
      network_tx_bytes: network && network.sent,
      uptime_seconds: uptime && Math.floor(uptime),
      load_average: load[0] ?? null,
      cpu_temp_c: temperatures && cpuTemperature(temperatures),
      load_average_5: load[1] ?? null,
      load_average_15: load[2] ?? null,
      swap_used_mb: swap && Math.floor(swap.used / MIB),
      swap_total_mb: swap && Math.floor(swap.total / MIB),
      cpu_iowait_percent: iowait,
      cpu_steal_percent: steal,
    };
  }

  #facts(files: KernelFiles, { root, memory }: Pick<Parts, "root" | "memory">) {
    const name = /^PRETTY_NAME=(.*)$/m.exec(files.text("etc/os-release") ?? "")?.[1];
    return {
      cpu_count: cpuCount(files),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_total_gb: root && Math.ceil(root.total / GIB),
      os: name === undefined ? null : name.replace(/^(["'])(.*)\1$/, "$2").slice(0, 80),
      kernel: files.text("proc/sys/kernel/osrelease")?.trim() ?? null,
      arch: this.#root === "/" ? machine() : (files.text("proc/sys/kernel/arch")?.trim() ?? null),
      boot_at: this.#boot(files),
    };
  }

  /** Under lxcfs the machine's own start is in /proc/stat, and the container's in its uptime. */
  #boot(files: KernelFiles): string | null {
    const uptime = isFaked(files, "uptime") ? numberIn(files.text("proc/uptime")) : null;
    if (uptime !== null) this.#bootSeconds ??= Math.round(Date.now() / 1000 - uptime);
    const boot = this.#bootSeconds ?? fieldIn(files.text("proc/stat"), "btime");
    return boot === null ? null : new Date(boot * 1000).toISOString();
  }
}

/** The lists but for those that are left out, or null; of each what a receiver takes. */
function without<T extends Record<string, unknown[] | null>>(lists: T, omit: readonly string[]): Partial<T> {
  return Object.fromEntries(
    Object.entries(lists).flatMap(([name, list]) =>
      list === null || omit.includes(name) ? [] : [[name, list.slice(0, MOST)]],
    ),
  ) as Partial<T>;
}

/** The sources of lists, each asked for a limited time. */
function sourcesOf({
  root,
  disks,
  services,
  omit,
  note,
  space,
  clock,
}: Required<Omit<HostOptions, "space" | "warn">> & HostOptions & { note: Note }) {
  const all = new Disks({ patterns: disks, note, ...(space ? { space } : {}) });
  const processes = omit.includes("processes") ? null : createProcesses(root, clock);
  return {
    /** Each disk is a source of its own. */
    disks: (files: KernelFiles) => all.read(files),
    network: source("interfaces", readNetwork, note),
    temperatures: source("temperatures", createTemperatures(root, clock), note),
    units: source("units", createUnits({ root, names: services, clock }), note),
    devices: source("devices", readDevices, note),
    processes: source("processes", () => processes?.read() ?? null, note),
    pools: source("pools", readPools, note),
    power: source("power", () => readPower(root), note),
  };
}
