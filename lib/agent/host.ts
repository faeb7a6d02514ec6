// This host's figures, from /proc, /sys and statfs, and the states of its units, from systemctl (run only if units are
// configured). A figure that can't be read is null.
//
// In a container (LXC, Docker) /proc may show the whole machine: if a cgroup sets a limit, the limit and the cgroup's own use
// are reported instead. The machine itself has no limit at the root of the cgroup tree: version 2 has no such file there,
// version 1 a number larger than any memory. LXC's lxcfs mounts files of its own over some of /proc.

import { machine } from "node:os";
import { outputOf } from "../program.ts";
import { Disks, type Space } from "./disks.ts";
import { type KernelFiles, fieldIn, numberIn, openKernelFiles } from "./kernel-files.ts";
import { networkBytes } from "./network.ts";
import { cpuTemperature } from "./temperature.ts";

/** A report's `host.metrics`. */
export type HostMetrics = ReturnType<HostReader["read"]>["metrics"];

/** A report's `host.facts`. */
export type HostFacts = ReturnType<HostReader["read"]>["facts"];

interface HostOptions {
  /** The folder of proc/, sys/ and etc/: "/" except in tests. */
  root: string;
  /** Mount points whose space is added up; each file system counts once. */
  mounts: readonly string[];
  /** Logs a mount without figures. */
  warn?: (kind: string, text: string) => void;
  /** A local file system's space. */
  space?: (mount: string) => Space;
  /** A monotonic clock in milliseconds. */
  clock?: () => number;
}

/** Counters of the time that the CPUs spent busy, and idle. */
interface CpuTimes {
  busy: number[];
  idle: number[];
}

const MIB = 1 << 20;
const GIB = 1 << 30;

/** Reads the host. CPU use is measured since the last time. */
export class HostReader {
  #root: string;
  #disks: Disks;
  #clock: () => number;
  #files: KernelFiles;
  #last: CpuTimes | null;
  /** Computed once: uptime and clock are not read at the same moment, and a fact must not change with each report. */
  #bootSeconds: number | null = null;

  constructor({ root, mounts, warn = () => {}, space, clock = () => performance.now() }: HostOptions) {
    this.#root = root;
    this.#disks = new Disks({ root, mounts, warn, ...(space ? { space } : {}) });
    this.#clock = clock;
    this.#files = openKernelFiles(root);
    this.#last = this.#cpuTimes();
  }

  /** Asks those whose answer may take long, for a limited time. */
  async ask(): Promise<void> {
    await this.#disks.ask();
  }

  /** The current figures and facts. */
  read() {
    this.#files = openKernelFiles(this.#root);
    const disk = this.#disks.read();
    const memory = this.#memory();
    return { metrics: this.#metrics(disk, memory), facts: this.#facts(disk, memory) };
  }

  /** Memory is in MiB, as `free -m` counts it, and disks are in GiB, as `df -BG` does. */
  #metrics(disk: Space | null, memory: Space | null) {
    const network = networkBytes(this.#files);
    const uptime = numberIn(this.#files.text("proc/uptime"));
    return {
      cpu_percent: this.#cpuPercent(),
      memory_used_mb: memory && Math.floor(memory.used / MIB),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_used_gb: disk && Math.ceil(disk.used / GIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
      network_rx_bytes: network && network.received,
      network_tx_bytes: network && network.sent,
      uptime_seconds: uptime && Math.floor(uptime),
      load_average: numberIn(this.#files.text("proc/loadavg")),
      cpu_temp_c: cpuTemperature(this.#files),
    };
  }

  #facts(disk: Space | null, memory: Space | null) {
    const name = /^PRETTY_NAME=(.*)$/m.exec(this.#files.text("etc/os-release") ?? "")?.[1];
    return {
      cpu_count: this.#cpuCount(),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
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

  /** The machine's busy time; in a container with a limit, the cgroup's CPU time as a share of the limit. */
  #cpuPercent(): number | null {
    const now = this.#cpuTimes();
    const last = this.#last;
    this.#last = now;
    if (!now || !last) return null;
    // Single counters go back now and then: iowait by design (proc_stat(5)), steal after a migration.
    const since = (from: number[], to: number[]) =>
      to.reduce((sum, at, n) => sum + Math.max(0, at - (from[n] ?? at)), 0);
    const busy = since(last.busy, now.busy);
    const share = busy / (busy + since(last.idle, now.idle));
    return Number.isFinite(share) ? Math.round(share * 10_000) / 100 : null;
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
    return { busy: [user, nice, system, ...interrupts], idle: [idle, iowait] };
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
  #memory(): Space | null {
    const text = this.#files.text("proc/meminfo");
    const field = (name: string) => fieldIn(text, name) ?? Number.NaN;
    const total = field("MemTotal") * 1024;
    // Kernels before 3.14 have no MemAvailable.
    const known = fieldIn(text, "MemAvailable") ?? field("MemFree") + field("Buffers") + field("Cached");
    const available = known * 1024 + this.#zfsCache();
    const limit =
      numberIn(this.#files.text("sys/fs/cgroup/memory.max")) ??
      numberIn(this.#files.text("sys/fs/cgroup/memory/memory.limit_in_bytes"));
    if (limit !== null && limit < total) {
      const used = this.#cgroupMemory();
      if (used !== null) return { total: limit, used };
    }
    // While a guest's memory shrinks (ballooning) more may be available than there is.
    return Number.isNaN(total - available) ? null : { total, used: Math.max(0, total - available) };
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

// -- systemd's units

type ServiceStatus = "active" | "inactive" | "failed" | "unknown";

/** The status of each unit, in the given order. Without systemd all are unknown. */
export async function readServices(units: readonly string[]): Promise<{ name: string; status: ServiceStatus }[]> {
  if (units.length === 0) return [];
  // It prints one status a line. `-.mount` is a unit and looks like an option.
  const dashed = units.some((unit) => unit.startsWith("-")) ? ["--"] : [];
  const lines = (await outputOf(["systemctl", "is-active", ...dashed, ...units]))?.split("\n") ?? [];
  return units.map((name, index) => ({ name, status: asStatus(lines[index]?.trim() ?? "") }));
}

function asStatus(text: string): ServiceStatus {
  if (/^(active|reloading|refreshing|activating)$/.test(text)) return "active";
  if (text === "inactive" || text === "deactivating") return "inactive";
  return text === "failed" ? "failed" : "unknown";
}
