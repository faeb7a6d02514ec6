// This host's own part of a report: figures and facts from /proc and /sys, and a list of each kind of thing that it has. A figure that
// can't be read is null, and so is a list.
//
// In a container (LXC, Docker) /proc may show the whole machine: if a cgroup sets a limit, the limit and the cgroup's own use
// are reported instead. The machine itself has no limit at the root of the cgroup tree: version 2 has no such file there,
// version 1 a number larger than any memory. LXC's lxcfs mounts files of its own over some of /proc.

import { machine } from "node:os";
import type { HOST_LISTS } from "../report.ts";
import { readDevices } from "./devices.ts";
import { Disks, type Space } from "./disks.ts";
import { type KernelFiles, fieldIn, numberIn, openKernelFiles } from "./kernel-files.ts";
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

/** Counters of the time that the CPUs spent busy, and idle. */
interface CpuTimes {
  busy: number[];
  idle: number[];
  /** Parts that are also shown by themselves; a cgroup has none. */
  iowait?: number;
  steal?: number;
}

/** Bytes. */
interface Memory {
  total: number;
  used: number;
}

/** What figures are made of. */
interface Parts {
  root: Space | null;
  memory: Memory | null;
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
  #clock: () => number;
  #files: KernelFiles;
  #last: CpuTimes | null;
  /** Computed once: uptime and clock are not read at the same moment, and a fact must not change with each report. */
  #bootSeconds: number | null = null;
  #services: readonly string[];
  #omit: readonly List[];
  #smart: ReturnType<typeof createSmart>;
  #ask: ReturnType<typeof sourcesOf>;
  #troubles: ReadonlyMap<string, string>;
  #wasRead = false;

  constructor(options: HostOptions) {
    const { root, services = [], omit = [], warn = () => {}, clock = () => performance.now() } = options;
    this.#root = root;
    this.#clock = clock;
    this.#services = services;
    this.#omit = omit;
    this.#files = openKernelFiles(root);
    this.#last = this.#cpuTimes();
    const { note, troubles } = createTroubles(warn);
    this.#troubles = troubles;
    this.#smart = createSmart({ note, clock });
    this.#ask = sourcesOf({ ...options, services, omit, note, clock });
  }

  /** The current figures, facts and lists. `services`: the state of those that the configuration names. */
  async read() {
    this.#wasRead = true;
    const files = (this.#files = openKernelFiles(this.#root));
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
    const memory = this.#memory();
    const metrics = this.#metrics({ root, memory, network, temperatures });
    return { host: { metrics, facts: this.#facts(root, memory), ...without(lists, this.#omit) }, services };
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
  #metrics({ root, memory, network, temperatures }: Parts) {
    const uptime = numberIn(this.#files.text("proc/uptime"));
    const load = this.#files.text("proc/loadavg")?.split(" ").map(Number) ?? [];
    const { busy = null, iowait = null, steal = null } = this.#cpuShares() ?? {};
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
      ...this.#swap(),
      cpu_iowait_percent: iowait,
      cpu_steal_percent: steal,
    };
  }

  #facts(root: Space | null, memory: Memory | null) {
    const name = /^PRETTY_NAME=(.*)$/m.exec(this.#files.text("etc/os-release") ?? "")?.[1];
    return {
      cpu_count: this.#cpuCount(),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_total_gb: root && Math.ceil(root.total / GIB),
      os: name === undefined ? null : name.replace(/^(["'])(.*)\1$/, "$2").slice(0, 80),
      kernel: this.#files.text("proc/sys/kernel/osrelease")?.trim() ?? null,
      arch: this.#root === "/" ? machine() : (this.#files.text("proc/sys/kernel/arch")?.trim() ?? null),
      boot_at: this.#boot(),
    };
  }

  /** Under lxcfs the machine's own start is in /proc/stat, and the container's in its uptime. */
  #boot(): string | null {
    const uptime = this.#isFaked("uptime") ? numberIn(this.#files.text("proc/uptime")) : null;
    if (uptime !== null) this.#bootSeconds ??= Math.round(Date.now() / 1000 - uptime);
    const boot = this.#bootSeconds ?? fieldIn(this.#files.text("proc/stat"), "btime");
    return boot === null ? null : new Date(boot * 1000).toISOString();
  }

  /** Whether another file is mounted over one of /proc. */
  #isFaked(name: string): boolean {
    return this.#files.text("proc/self/mountinfo")?.includes(` /proc/${name} `) ?? false;
  }

  // -- CPU

  /** The machine's busy time in percent; in a container with a limit, the cgroup's CPU time as a share of the limit. */
  #cpuShares() {
    const now = this.#cpuTimes();
    const last = this.#last;
    this.#last = now;
    if (!now || !last) return null;
    // Single counters go back now and then: iowait by design (proc_stat(5)), steal after a migration.
    const since = (from = Number.NaN, to = Number.NaN) => Math.max(0, to - from);
    const sum = (from: number[], to: number[]) => to.reduce((all, at, n) => all + since(from[n] ?? at, at), 0);
    const busy = sum(last.busy, now.busy);
    const whole = busy + sum(last.idle, now.idle);
    const share = (part: number) =>
      whole > 0 && !Number.isNaN(part) ? Math.round((part / whole) * 10_000) / 100 : null;
    return {
      busy: share(busy),
      iowait: share(since(last.iowait, now.iowait)),
      steal: share(since(last.steal, now.steal)),
    };
  }

  #cpuTimes(): CpuTimes | null {
    const limit = this.#cpuLimit();
    const used = limit === null ? null : this.#cgroupCpuSeconds();
    if (limit !== null && used !== null) return { busy: [used], idle: [(this.#clock() / 1000) * limit - used] };
    // user nice system idle iowait irq softirq steal; guest time is part of user's.
    const line = /^cpu +(.*)$/m.exec(this.#files.text("proc/stat") ?? "")?.[1];
    if (line === undefined) return null;
    const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, ...interrupts] = line
      .split(/ +/)
      .slice(0, 8)
      .map(Number);
    const steal = interrupts[2] ?? 0;
    return { busy: [user, nice, system, ...interrupts], idle: [idle, iowait], iowait, steal };
  }

  #cgroupCpuSeconds(): number | null {
    const v2 = fieldIn(this.#files.text("sys/fs/cgroup/cpu.stat"), "usage_usec");
    if (v2 !== null) return v2 / 1e6;
    const v1 = numberIn(this.#files.text("sys/fs/cgroup/cpuacct/cpuacct.usage"));
    return v1 === null ? null : v1 / 1e9;
  }

  /** The cgroup's quota in CPUs; null if there is none. */
  #cpuLimit(): number | null {
    const v2 = this.#files.text("sys/fs/cgroup/cpu.max")?.trim().split(" ").map(Number);
    if (v2?.[0] && v2[1]) return v2[0] / v2[1];
    const quota = numberIn(this.#files.text("sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
    const period = numberIn(this.#files.text("sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    return quota !== null && quota > 0 && period ? quota / period : null;
  }

  #cpuCount(): number | null {
    const online = this.#files.text("proc/stat")?.match(/^cpu\d+ /gm)?.length ?? null;
    const set =
      this.#files.text("sys/fs/cgroup/cpuset.cpus.effective") ??
      this.#files.text("sys/fs/cgroup/cpuset/cpuset.effective_cpus");
    const limit = this.#cpuLimit();
    const counts = [online, set === null ? null : countOf(set), limit === null ? null : Math.ceil(limit)];
    const known = counts.filter((count) => count !== null && count > 0) as number[];
    return known.length === 0 ? null : Math.min(...known);
  }

  // -- memory

  /** Total and used (total − available), in bytes. */
  #memory(): Memory | null {
    const text = this.#files.text("proc/meminfo");
    const field = (name: string) => fieldIn(text, name) ?? Number.NaN;
    const total = field("MemTotal") * 1024;
    // Kernels before 3.14 have no MemAvailable.
    const known = fieldIn(text, "MemAvailable") ?? field("MemFree") + field("Buffers") + field("Cached");
    const available = known * 1024 + this.#zfsCache();
    const limit = this.#memoryLimit();
    if (limit !== null && limit < total) {
      const used = this.#cgroupMemory();
      if (used !== null) return { total: limit, used };
    }
    // While a guest's memory shrinks (ballooning) more may be available than there is.
    return Number.isNaN(total - available) ? null : { total, used: Math.max(0, total - available) };
  }

  /** In a container's /proc the swap is the machine's, unless lxcfs has put its own there. */
  #swap(): { swap_used_mb: number | null; swap_total_mb: number | null } {
    const text = this.#files.text("proc/meminfo");
    const [total, free] = [fieldIn(text, "SwapTotal"), fieldIn(text, "SwapFree")];
    if (total === null || free === null || (this.#memoryLimit() !== null && !this.#isFaked("meminfo")))
      return { swap_used_mb: null, swap_total_mb: null };
    return { swap_used_mb: Math.floor((total - free) / 1024), swap_total_mb: Math.floor(total / 1024) };
  }

  /** The cgroup's limit in bytes: version 1 has a number larger than any memory where there is none. */
  #memoryLimit(): number | null {
    const limit =
      numberIn(this.#files.text("sys/fs/cgroup/memory.max")) ??
      numberIn(this.#files.text("sys/fs/cgroup/memory/memory.limit_in_bytes"));
    return limit !== null && limit < 2 ** 60 ? limit : null;
  }

  /** What the ARC of ZFS can give back: the kernel doesn't count it as cache. A container's memory has no part of it. */
  #zfsCache(): number {
    if (this.#isFaked("meminfo")) return 0;
    const text = this.#files.text("proc/spl/kstat/zfs/arcstats")?.replace(/^(\w+) +\d+ +/gm, "$1 ") ?? null;
    return Math.max(0, (fieldIn(text, "size") ?? 0) - (fieldIn(text, "c_min") ?? 0));
  }

  /** The cgroup's memory without cache that the kernel can free at once, as `docker stats` counts it. */
  #cgroupMemory(): number | null {
    const v2 = numberIn(this.#files.text("sys/fs/cgroup/memory.current"));
    const used = v2 ?? numberIn(this.#files.text("sys/fs/cgroup/memory/memory.usage_in_bytes"));
    if (used === null) return null;
    const stat = this.#files.text("sys/fs/cgroup/memory.stat") ?? this.#files.text("sys/fs/cgroup/memory/memory.stat");
    // Version 1 has the sum over child groups under another name; version 2 has only the sum.
    return Math.max(0, used - (fieldIn(stat, "total_inactive_file") ?? fieldIn(stat, "inactive_file") ?? 0));
  }
}

/** The number of CPUs in a list such as `0-3,8`. */
function countOf(list: string): number {
  return [...list.matchAll(/(\d+)(?:-(\d+))?/g)].reduce(
    (sum, [, first, last = first]) => sum + Number(last) - Number(first) + 1,
    0,
  );
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
