// This host's figures, from /proc, /sys and statfs, and the states of its units, from systemctl: the only program that a report
// starts, and only where units are configured. What can't be read is null and harms nothing else.
//
// In a container (LXC, Docker) the machine's /proc may show the whole machine: where a cgroup sets a limit, the limit and the
// cgroup's own use count instead. On the machine itself there is no limit at the root of the cgroup tree (version 2 has no
// such file there, version 1 a number larger than any memory).

import { existsSync, readFileSync, readdirSync, statSync, statfsSync } from "node:fs";
import { machine } from "node:os";
import { join } from "node:path";

/** The figures of a report's `host.metrics`. Memory in MiB as `free -m` counts it, disks in GiB as `df -BG` does. */
export interface HostMetrics {
  cpu_percent: number | null;
  memory_used_mb: number | null;
  memory_total_mb: number | null;
  disk_used_gb: number | null;
  disk_total_gb: number | null;
  network_rx_bytes: number | null;
  network_tx_bytes: number | null;
  uptime_seconds: number | null;
  load_average: number | null;
  cpu_temp_c: number | null;
}

/** The facts of a report's `host.facts`. */
export interface HostFacts {
  cpu_count: number | null;
  memory_total_mb: number | null;
  disk_total_gb: number | null;
  os: string | null;
  kernel: string | null;
  arch: string | null;
  boot_at: string | null;
}

/** Room in bytes: of a file system as statfs(2) says, or of memory. */
interface DiskSpace {
  total: number;
  used: number;
}

/** The one that a mount point is on. */
interface FileSystem extends DiskSpace {
  /** What tells it from others: st_dev of stat(2). */
  device: number;
}

interface HostOptions {
  /** Where proc/, sys/ and etc/ lie: "/" but for tests. */
  root: string;
  /** Mount points whose space is added up; what lies on one file system counts once. */
  mounts: readonly string[];
  space?: (mount: string) => FileSystem;
  /** Milliseconds on a clock that only runs forward. */
  clock?: () => number;
}

const MIB = 1 << 20;
const GIB = 1 << 30;

/** Reads the host again and again; CPU use is that since the last time. */
export class HostReader {
  #root: string;
  #mounts: readonly string[];
  #space: (mount: string) => FileSystem;
  #clock: () => number;
  #last: CpuTimes | null;
  /** What was read in this look: several figures ask for the same file. */
  #texts = new Map<string, string | null>();

  constructor({ root, mounts, space = spaceOf, clock = () => performance.now() }: HostOptions) {
    this.#root = root;
    this.#mounts = mounts;
    this.#space = space;
    this.#clock = clock;
    this.#last = this.#cpuTimes();
  }

  /** Figures and facts now. Each file is read once: /proc/stat is long where there are many CPUs. */
  look(): { metrics: HostMetrics; facts: HostFacts } {
    this.#texts.clear();
    const space = { disk: this.#disk(), memory: this.#memory() };
    return { metrics: this.#metrics(space), facts: this.#facts(space) };
  }

  #metrics({ disk, memory }: Spaces): HostMetrics {
    const network = this.#network();
    return {
      cpu_percent: this.#cpuPercent(),
      memory_used_mb: memory && Math.floor(memory.used / MIB),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_used_gb: disk && Math.ceil(disk.used / GIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
      network_rx_bytes: network && network.received,
      network_tx_bytes: network && network.sent,
      uptime_seconds: floor(number(this.#read("proc/uptime"))),
      load_average: number(this.#read("proc/loadavg")),
      cpu_temp_c: this.#temperature(),
    };
  }

  #facts({ disk, memory }: Spaces): HostFacts {
    const boot = /^btime (\d+)$/m.exec(this.#read("proc/stat") ?? "")?.[1];
    const name = /^PRETTY_NAME=(.*)$/m.exec(this.#read("etc/os-release") ?? "")?.[1];
    return {
      cpu_count: this.#cpuCount(),
      memory_total_mb: memory && Math.floor(memory.total / MIB),
      disk_total_gb: disk && Math.ceil(disk.total / GIB),
      os: name === undefined ? null : name.replace(/^(["'])(.*)\1$/, "$2").slice(0, 80),
      kernel: this.#read("proc/sys/kernel/osrelease")?.trim() ?? null,
      arch: this.#root === "/" ? machine() : (this.#read("proc/sys/kernel/arch")?.trim() ?? null),
      boot_at: boot === undefined ? null : new Date(Number(boot) * 1000).toISOString(),
    };
  }

  #read(path: string): string | null {
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

  /** In a container with a limit the cgroup's own time against its share, else the machine's busy time. */
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
    const line = /^cpu +(.*)$/m.exec(this.#read("proc/stat") ?? "")?.[1];
    if (line === undefined) return null;
    const times = line.split(/ +/).slice(0, 8).map(Number);
    const total = times.reduce((sum, time) => sum + time, 0);
    return { busy: total - (times[3] ?? 0) - (times[4] ?? 0), total };
  }

  #cgroupCpuSeconds(): number | null {
    const v2 = /^usage_usec (\d+)$/m.exec(this.#read("sys/fs/cgroup/cpu.stat") ?? "")?.[1];
    if (v2 !== undefined) return Number(v2) / 1e6;
    const v1 = number(this.#read("sys/fs/cgroup/cpuacct/cpuacct.usage"));
    return v1 === null ? null : v1 / 1e9;
  }

  /** CPUs that the cgroup's quota is worth; null without one. */
  #cpuLimit(): number | null {
    const v2 = this.#read("sys/fs/cgroup/cpu.max")?.trim().split(" ").map(Number);
    if (v2?.[0] && v2[1]) return v2[0] / v2[1];
    const quota = number(this.#read("sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
    const period = number(this.#read("sys/fs/cgroup/cpu/cpu.cfs_period_us"));
    return quota !== null && quota > 0 && period ? quota / period : null;
  }

  #cpuCount(): number | null {
    const online = this.#read("proc/stat")?.match(/^cpu\d+ /gm)?.length ?? null;
    const set =
      this.#read("sys/fs/cgroup/cpuset.cpus.effective") ?? this.#read("sys/fs/cgroup/cpuset/cpuset.effective_cpus");
    const limit = this.#cpuLimit();
    const counts = [online, set === null ? null : countOf(set), limit === null ? null : Math.ceil(limit)];
    const known = counts.filter((count) => count !== null && count > 0) as number[];
    return known.length === 0 ? null : Math.min(...known);
  }

  // -- memory

  /** Total and used (total − available), in bytes. */
  #memory(): DiskSpace | null {
    const text = this.#read("proc/meminfo");
    const field = (name: string): number | null => {
      const kib = new RegExp(`^${name}: +(\\d+) kB$`, "m").exec(text ?? "")?.[1];
      return kib === undefined ? null : Number(kib) * 1024;
    };
    const total = field("MemTotal");
    // Kernels before 3.14 have no MemAvailable.
    const available = field("MemAvailable") ?? sum(field("MemFree"), field("Buffers"), field("Cached"));
    const limit =
      number(this.#read("sys/fs/cgroup/memory.max")) ??
      number(this.#read("sys/fs/cgroup/memory/memory.limit_in_bytes"));
    if (limit !== null && total !== null && limit < total) {
      const used = this.#cgroupMemory();
      if (used !== null) return { total: limit, used };
    }
    // A guest whose memory has just been taken away (ballooning) has for a moment more available than there is.
    return total === null || available === null ? null : { total, used: Math.max(0, total - available) };
  }

  /** What the cgroup uses without what the kernel would give back at once, as `docker stats` counts it. */
  #cgroupMemory(): number | null {
    const v2 = number(this.#read("sys/fs/cgroup/memory.current"));
    const used = v2 ?? number(this.#read("sys/fs/cgroup/memory/memory.usage_in_bytes"));
    if (used === null) return null;
    const stat = this.#read("sys/fs/cgroup/memory.stat") ?? this.#read("sys/fs/cgroup/memory/memory.stat") ?? "";
    // In version 1 the total is with the groups below; version 2 only has that.
    const inactive = (/^total_inactive_file (\d+)$/m.exec(stat) ?? /^inactive_file (\d+)$/m.exec(stat))?.[1];
    return Math.max(0, used - Number(inactive ?? 0));
  }

  // -- disks, network, temperature

  #disk(): DiskSpace | null {
    const known = new Map<number, DiskSpace>();
    for (const mount of this.#mounts) {
      try {
        // Where nothing is mounted it is the file system above, which may be told already.
        const { device, ...space } = this.#space(mount);
        known.set(device, space);
      } catch {
        // A mount that isn't there has no space.
      }
    }
    const all = [...known.values()];
    if (all.length === 0) return null;
    return { total: sum(...all.map(({ total }) => total))!, used: sum(...all.map(({ used }) => used))! };
  }

  /**
   * Bytes since boot over all interfaces that are devices. Bridges, bonds, VLANs and tunnels carry the same bytes once
   * more, veths and taps are those of guests. A container has no devices: there all but loopback and such names count.
   */
  #network(): { received: number; sent: number } | null {
    const lines = [...(this.#read("proc/net/dev") ?? "").matchAll(/^ *([^:\s]+): *(\d+)(?: +\d+){7} +(\d+)/gm)];
    if (lines.length === 0) return null;
    const all = lines.map(([, name = "", received, sent]) => ({
      name,
      received: Number(received),
      sent: Number(sent),
    }));
    const devices = all.filter(({ name }) => existsSync(join(this.#root, "sys/class/net", name, "device")));
    const virtual =
      /^(lo|docker|br-|veth|virbr|vmbr|fwbr|fwpr|fwln|tap|vnet|cni|flannel|cali|podman|lxcbr|lxdbr|incusbr)/;
    const counted = devices.length > 0 ? devices : all.filter(({ name }) => !virtual.test(name));
    return {
      received: counted.reduce((bytes, { received }) => bytes + received, 0),
      sent: counted.reduce((bytes, { sent }) => bytes + sent, 0),
    };
  }

  /** Of the sensor that is the CPU's, in °C. */
  #temperature(): number | null {
    for (const chip of this.#list("sys/class/hwmon")) {
      const name = this.#read(`sys/class/hwmon/${chip}/name`)?.trim() ?? "";
      if (!/^(coretemp|k10temp|zenpower|cpu_thermal|soc_thermal|cpu0_thermal)$/.test(name)) continue;
      const degrees = celsius(this.#read(`sys/class/hwmon/${chip}/temp1_input`));
      if (degrees !== null) return degrees;
    }
    const zones = this.#list("sys/class/thermal").filter((zone) => zone.startsWith("thermal_zone"));
    const of = (zone: string) => this.#read(`sys/class/thermal/${zone}/type`)?.trim() ?? "";
    const best =
      zones.find((zone) => /^(x86_pkg_temp|cpu|soc|k10temp)/i.test(of(zone))) ??
      zones.find((zone) => of(zone) === "acpitz");
    return best === undefined ? null : celsius(this.#read(`sys/class/thermal/${best}/temp`));
  }
}

interface Spaces {
  disk: DiskSpace | null;
  memory: DiskSpace | null;
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

function floor(value: number | null): number | null {
  return value === null ? null : Math.floor(value);
}

function sum(...values: (number | null)[]): number | null {
  return values.includes(null) ? null : (values as number[]).reduce((all, value) => all + value, 0);
}

/** How many CPUs `0-3,8` are. */
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
  // Sensors that aren't wired say 0, -273 or 255.
  return degrees > -40 && degrees < 150 && degrees !== 0 ? degrees : null;
}

// -- systemd's units

/** As a report has it. */
type ServiceStatus = "active" | "inactive" | "failed" | "unknown";

const PROGRAM_MS = 5000;

/** The status of each unit, in their order. Without systemd all are unknown. */
export async function readServices(units: readonly string[]): Promise<{ name: string; status: ServiceStatus }[]> {
  if (units.length === 0) return [];
  // One answer a line, in order; the exit code only says whether all are active.
  // `-.mount` is a unit, too, and looks like an option.
  const dashed = units.some((unit) => unit.startsWith("-")) ? ["--"] : [];
  const said = (await outputOf(["systemctl", "is-active", ...dashed, ...units]))?.split("\n") ?? [];
  return units.map((name, index) => ({ name, status: asStatus(said[index]?.trim() ?? "") }));
}

function asStatus(text: string): ServiceStatus {
  if (text === "active" || text === "reloading" || text === "activating") return "active";
  if (text === "inactive" || text === "deactivating") return "inactive";
  return text === "failed" ? "failed" : "unknown";
}

/** What a program writes to stdout, whatever its exit code; null where it isn't installed. It is ended after five seconds. */
export async function outputOf(command: string[]): Promise<string | null> {
  try {
    const child = Bun.spawn(command, { stdout: "pipe", stderr: "ignore", stdin: "ignore", timeout: PROGRAM_MS });
    const text = await new Response(child.stdout).text();
    await child.exited;
    return text;
  } catch {
    return null;
  }
}
