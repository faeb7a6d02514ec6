// This host's figures, from /proc, /sys and statfs, and the states of its units, from systemctl (run only if units are
// configured). A figure that can't be read is null.
//
// In a container (LXC, Docker) /proc may show the whole machine: if a cgroup sets a limit, the limit and the cgroup's own use
// are reported instead. The machine itself has no limit at the root of the cgroup tree: version 2 has no such file there,
// version 1 a number larger than any memory.

import { existsSync, readFileSync, readdirSync, statSync, statfsSync } from "node:fs";
import { machine } from "node:os";
import { join } from "node:path";
import { outputOf } from "../program.ts";

/** A report's `host.metrics`. */
export type HostMetrics = ReturnType<HostReader["read"]>["metrics"];

/** A report's `host.facts`. */
export type HostFacts = ReturnType<HostReader["read"]>["facts"];

/** Bytes of a file system or of memory. */
interface Space {
  total: number;
  used: number;
}

/** The file system of a mount point. */
interface FileSystem extends Space {
  /** Identifies it: st_dev of stat(2). */
  device: number;
}

interface HostOptions {
  /** The folder of proc/, sys/ and etc/: "/" except in tests. */
  root: string;
  /** Mount points whose space is added up; each file system counts once. */
  mounts: readonly string[];
  space?: (mount: string) => FileSystem;
  /** A monotonic clock in milliseconds. */
  clock?: () => number;
}

const MIB = 1 << 20;
const GIB = 1 << 30;

/** Reads the host. CPU use is measured since the last time. */
export class HostReader {
  #root: string;
  #mounts: readonly string[];
  #space: (mount: string) => FileSystem;
  #clock: () => number;
  #last: CpuTimes | null;
  /** Files read in this round: several figures are in the same file, and /proc/stat is long on a machine with many CPUs. */
  #texts = new Map<string, string | null>();

  constructor({ root, mounts, space = spaceOf, clock = () => performance.now() }: HostOptions) {
    this.#root = root;
    this.#mounts = mounts;
    this.#space = space;
    this.#clock = clock;
    this.#last = this.#cpuTimes();
  }

  /** The current figures and facts. */
  read() {
    this.#texts.clear();
    const disk = this.#disk();
    const memory = this.#memory();
    return { metrics: this.#metrics(disk, memory), facts: this.#facts(disk, memory) };
  }

  /** Memory is in MiB, as `free -m` counts it, and disks are in GiB, as `df -BG` does. */
  #metrics(disk: Space | null, memory: Space | null) {
    const network = this.#network();
    const uptime = number(this.#text("proc/uptime"));
    return {
      cpu_percent: this.#cpuPercent(),
      memory_used_mb: memory && Math.floor(memory.used / MIB),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_used_gb: disk && Math.ceil(disk.used / GIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
      network_rx_bytes: network && network.received,
      network_tx_bytes: network && network.sent,
      uptime_seconds: uptime && Math.floor(uptime),
      load_average: number(this.#text("proc/loadavg")),
      cpu_temp_c: this.#temperature(),
    };
  }

  #facts(disk: Space | null, memory: Space | null) {
    const boot = /^btime (\d+)$/m.exec(this.#text("proc/stat") ?? "")?.[1];
    const name = /^PRETTY_NAME=(.*)$/m.exec(this.#text("etc/os-release") ?? "")?.[1];
    return {
      cpu_count: this.#cpuCount(),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
      os: name === undefined ? null : name.replace(/^(["'])(.*)\1$/, "$2").slice(0, 80),
      kernel: this.#text("proc/sys/kernel/osrelease")?.trim() ?? null,
      arch: this.#root === "/" ? machine() : (this.#text("proc/sys/kernel/arch")?.trim() ?? null),
      boot_at: boot === undefined ? null : new Date(Number(boot) * 1000).toISOString(),
    };
  }

  #text(path: string): string | null {
    const known = this.#texts.get(path);
    if (known !== undefined) return known;
    const text = textOf(join(this.#root, path));
    this.#texts.set(path, text);
    return text;
  }

  #list(path: string): string[] {
    try {
      return readdirSync(join(this.#root, path)).toSorted(new Intl.Collator("en", { numeric: true }).compare);
    } catch {
      return [];
    }
  }

  // -- CPU

  /** The machine's busy time; in a container with a limit, the cgroup's CPU time as a share of the limit. */
  #cpuPercent(): number | null {
    const now = this.#cpuTimes();
    const last = this.#last;
    this.#last = now;
    if (!now || !last) return null;
    const share = (now.busy - last.busy) / (now.total - last.total);
    return Number.isFinite(share) ? Math.round(Math.min(Math.max(share, 0), 1) * 10_000) / 100 : null;
  }

  #cpuTimes(): CpuTimes | null {
    const limit = this.#cpuLimit();
    const used = limit === null ? null : this.#cgroupCpuSeconds();
    if (limit !== null && used !== null) return { busy: used, total: (this.#clock() / 1000) * limit };
    // user nice system idle iowait irq softirq steal; guest time is part of user's.
    const line = /^cpu +(.*)$/m.exec(this.#text("proc/stat") ?? "")?.[1];
    if (line === undefined) return null;
    const times = line.split(/ +/).slice(0, 8).map(Number);
    const total = times.reduce((sum, time) => sum + time, 0);
    return { busy: total - (times[3] ?? 0) - (times[4] ?? 0), total };
  }

  #cgroupCpuSeconds(): number | null {
    const v2 = /^usage_usec (\d+)$/m.exec(this.#text("sys/fs/cgroup/cpu.stat") ?? "")?.[1];
    if (v2 !== undefined) return Number(v2) / 1e6;
    const v1 = number(this.#text("sys/fs/cgroup/cpuacct/cpuacct.usage"));
    return v1 === null ? null : v1 / 1e9;
  }

  /** The cgroup's quota in CPUs; null if there is none. */
  #cpuLimit(): number | null {
    const v2 = this.#text("sys/fs/cgroup/cpu.max")?.trim().split(" ").map(Number);
    if (v2?.[0] && v2[1]) return v2[0] / v2[1];
    const quota = number(this.#text("sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
    const period = number(this.#text("sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    return quota !== null && quota > 0 && period ? quota / period : null;
  }

  #cpuCount(): number | null {
    const online = this.#text("proc/stat")?.match(/^cpu\d+ /gm)?.length ?? null;
    const set =
      this.#text("sys/fs/cgroup/cpuset.cpus.effective") ?? this.#text("sys/fs/cgroup/cpuset/cpuset.effective_cpus");
    const limit = this.#cpuLimit();
    const counts = [online, set === null ? null : countOf(set), limit === null ? null : Math.ceil(limit)];
    const known = counts.filter((count) => count !== null && count > 0) as number[];
    return known.length === 0 ? null : Math.min(...known);
  }

  // -- memory

  /** Total and used (total − available), in bytes. */
  #memory(): Space | null {
    const text = this.#text("proc/meminfo");
    const field = (name: string): number | null => {
      const kib = new RegExp(`^${name}: +(\\d+) kB$`, "m").exec(text ?? "")?.[1];
      return kib === undefined ? null : Number(kib) * 1024;
    };
    const total = field("MemTotal");
    // Kernels before 3.14 have no MemAvailable.
    const available = field("MemAvailable") ?? sum(field("MemFree"), field("Buffers"), field("Cached"));
    const limit =
      number(this.#text("sys/fs/cgroup/memory.max")) ??
      number(this.#text("sys/fs/cgroup/memory/memory.limit_in_bytes"));
    if (limit !== null && total !== null && limit < total) {
      const used = this.#cgroupMemory();
      if (used !== null) return { total: limit, used };
    }
    // While a guest's memory shrinks (ballooning) more may be available than there is.
    return total === null || available === null ? null : { total, used: Math.max(0, total - available) };
  }

  /** The cgroup's memory without cache that the kernel can free at once, as `docker stats` counts it. */
  #cgroupMemory(): number | null {
    const v2 = number(this.#text("sys/fs/cgroup/memory.current"));
    const used = v2 ?? number(this.#text("sys/fs/cgroup/memory/memory.usage_in_bytes"));
    if (used === null) return null;
    const stat = this.#text("sys/fs/cgroup/memory.stat") ?? this.#text("sys/fs/cgroup/memory/memory.stat") ?? "";
    // Version 1 has the sum over child groups under another name; version 2 has only the sum.
    const inactive = (/^total_inactive_file (\d+)$/m.exec(stat) ?? /^inactive_file (\d+)$/m.exec(stat))?.[1];
    return Math.max(0, used - Number(inactive ?? 0));
  }

  // -- disks, network, temperature

  #disk(): Space | null {
    const known = new Map<number, Space>();
    for (const mount of this.#mounts) {
      try {
        // If nothing is mounted here it is the parent's file system, which may be counted already.
        const { device, ...space } = this.#space(mount);
        known.set(device, space);
      } catch {
        // It doesn't exist.
      }
    }
    const all = [...known.values()];
    if (all.length === 0) return null;
    return all.reduce((sum, { total, used }) => ({ total: sum.total + total, used: sum.used + used }));
  }

  /**
   * Bytes since boot over all interfaces that are devices. Bridges, bonds, VLANs and tunnels carry the same bytes again;
   * veths and taps belong to guests. A container has no devices: there all count except loopback and virtual names.
   */
  #network(): { received: number; sent: number } | null {
    const lines = [...(this.#text("proc/net/dev") ?? "").matchAll(/^ *([^:\s]+): *(\d+)(?: +\d+){7} +(\d+)/gm)];
    if (lines.length === 0) return null;
    const all = lines.map(([, name = "", rx, tx]) => ({ name, received: Number(rx), sent: Number(tx) }));
    const devices = all.filter(({ name }) => existsSync(join(this.#root, "sys/class/net", name, "device")));
    const virtual =
      /^(lo|docker|br-|veth|virbr|vmbr|fwbr|fwpr|fwln|tap|vnet|cni|flannel|cali|podman|lxcbr|lxdbr|incusbr)/;
    const counted = devices.length > 0 ? devices : all.filter(({ name }) => !virtual.test(name));
    return {
      received: counted.reduce((sum, { received }) => sum + received, 0),
      sent: counted.reduce((sum, { sent }) => sum + sent, 0),
    };
  }

  /** The CPU's, in °C. */
  #temperature(): number | null {
    for (const chip of this.#list("sys/class/hwmon")) {
      const name = this.#text(`sys/class/hwmon/${chip}/name`)?.trim() ?? "";
      if (!/^(coretemp|k10temp|zenpower|cpu_thermal|soc_thermal|cpu0_thermal)$/.test(name)) continue;
      const degrees = celsius(this.#text(`sys/class/hwmon/${chip}/temp1_input`));
      if (degrees !== null) return degrees;
    }
    const zones = this.#list("sys/class/thermal").filter((zone) => zone.startsWith("thermal_zone"));
    const of = (zone: string) => this.#text(`sys/class/thermal/${zone}/type`)?.trim() ?? "";
    const best =
      zones.find((zone) => /^(x86_pkg_temp|cpu|soc|k10temp)/i.test(of(zone))) ??
      zones.find((zone) => of(zone) === "acpitz");
    return best === undefined ? null : celsius(this.#text(`sys/class/thermal/${best}/temp`));
  }
}

interface CpuTimes {
  busy: number;
  total: number;
}

function textOf(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

function spaceOf(mount: string): FileSystem {
  const { blocks, bfree, bsize } = statfsSync(mount);
  return { device: statSync(mount).dev, total: blocks * bsize, used: (blocks - bfree) * bsize };
}

function number(text: string | null | undefined): number | null {
  const found = /^\s*(-?\d+(?:\.\d+)?)/.exec(text ?? "")?.[1];
  return found === undefined ? null : Number(found);
}

function sum(...values: (number | null)[]): number | null {
  return values.includes(null) ? null : (values as number[]).reduce((all, value) => all + value, 0);
}

/** The number of CPUs in a list such as `0-3,8`. */
function countOf(list: string): number {
  return list
    .trim()
    .split(",")
    .filter(Boolean)
    .reduce((count, range) => {
      const [first = 0, last = first] = range.split("-").map(Number);
      return count + last - first + 1;
    }, 0);
}

function celsius(text: string | null): number | null {
  const milli = number(text);
  if (milli === null) return null;
  const degrees = Math.round(milli / 100) / 10;
  // Unconnected sensors report 0, -273 or 255.
  return degrees > -40 && degrees < 150 && degrees !== 0 ? degrees : null;
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
  if (text === "active" || text === "reloading" || text === "activating") return "active";
  if (text === "inactive" || text === "deactivating") return "inactive";
  return text === "failed" ? "failed" : "unknown";
}
