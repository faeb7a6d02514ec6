// The CPUs' number and use, from /proc/stat; in a container with a limit, from its cgroup, of either version. The machine itself has no
// limit at the root of the cgroup tree.

import { type KernelFiles, fieldIn, numberIn } from "./kernel-files.ts";

/** Counters of the time that the CPUs spent busy, and idle. */
interface CpuTimes {
  busy: number[];
  idle: number[];
  /** Parts that are also shown by themselves; a cgroup has none. */
  iowait?: number;
  steal?: number;
}

/**
 * Measures CPU use between two readings, the first of them now: the machine's busy time in percent; in a container with a limit, the
 * cgroup's CPU time as a share of the limit. Null without two readings.
 * @param clock milliseconds.
 */
export function createCpuUse(files: KernelFiles, clock: () => number) {
  let last = timesOf(files, clock);
  return (files: KernelFiles) => {
    const now = timesOf(files, clock);
    const before = last;
    last = now;
    if (!now || !before) return null;
    // Single counters go back now and then: iowait by design (proc_stat(5)), steal after a migration.
    const since = (from = Number.NaN, to = Number.NaN) => Math.max(0, to - from);
    const sum = (from: number[], to: number[]) => to.reduce((all, at, n) => all + since(from[n] ?? at, at), 0);
    const busy = sum(before.busy, now.busy);
    const whole = busy + sum(before.idle, now.idle);
    const share = (part: number) =>
      whole > 0 && !Number.isNaN(part) ? Math.round((part / whole) * 10_000) / 100 : null;
    return {
      busy: share(busy),
      iowait: share(since(before.iowait, now.iowait)),
      steal: share(since(before.steal, now.steal)),
    };
  };
}

function timesOf(files: KernelFiles, clock: () => number): CpuTimes | null {
  const limit = limitOf(files);
  const used = limit === null ? null : cgroupSeconds(files);
  if (limit !== null && used !== null) return { busy: [used], idle: [(clock() / 1000) * limit - used] };
  // user nice system idle iowait irq softirq steal; guest time is part of user's.
  const line = /^cpu +(.*)$/m.exec(files.text("proc/stat") ?? "")?.[1];
  if (line === undefined) return null;
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = line
    .split(/ +/)
    .map(Number);
  return { busy: [user, nice, system, irq, softirq, steal], idle: [idle, iowait], iowait, steal };
}

function cgroupSeconds(files: KernelFiles): number | null {
  const v2 = fieldIn(files.text("sys/fs/cgroup/cpu.stat"), "usage_usec");
  if (v2 !== null) return v2 / 1e6;
  const v1 = numberIn(files.text("sys/fs/cgroup/cpuacct/cpuacct.usage"));
  return v1 === null ? null : v1 / 1e9;
}

/** The cgroup's quota in CPUs; null if there is none. */
function limitOf(files: KernelFiles): number | null {
  const v2 = files.text("sys/fs/cgroup/cpu.max")?.trim().split(" ").map(Number);
  if (v2?.[0] && v2[1]) return v2[0] / v2[1];
  const quota = numberIn(files.text("sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
  const period = numberIn(files.text("sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  return quota !== null && quota > 0 && period ? quota / period : null;
}

/** The CPUs that can be used; null if the kernel doesn't say. */
export function cpuCount(files: KernelFiles): number | null {
  const online = files.text("proc/stat")?.match(/^cpu\d+ /gm)?.length ?? null;
  const set =
    files.text("sys/fs/cgroup/cpuset.cpus.effective") ?? files.text("sys/fs/cgroup/cpuset/cpuset.effective_cpus");
  const limit = limitOf(files);
  const counts = [online, set === null ? null : countOf(set), limit === null ? null : Math.ceil(limit)];
  const known = counts.filter((count) => count !== null && count > 0) as number[];
  return known.length === 0 ? null : Math.min(...known);
}

/** The number of CPUs in a list such as `0-3,8`. */
function countOf(list: string): number {
  return [...list.matchAll(/(\d+)(?:-(\d+))?/g)].reduce(
    (sum, [, first, last = first]) => sum + Number(last) - Number(first) + 1,
    0,
  );
}
