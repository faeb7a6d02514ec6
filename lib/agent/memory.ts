// Memory and swap, from /proc/meminfo; in a container with a limit, from its cgroup, of either version.

import { type KernelFiles, fieldIn, isFaked, numberIn } from "./kernel-files.ts";

/** Total and used (total − available), in bytes; null if the kernel doesn't say. */
export function readMemory(files: KernelFiles): { total: number; used: number } | null {
  const text = files.text("proc/meminfo");
  const field = (name: string) => fieldIn(text, name) ?? Number.NaN;
  const total = field("MemTotal") * 1024;
  // Kernels before 3.14 have no MemAvailable.
  const known = fieldIn(text, "MemAvailable") ?? field("MemFree") + field("Buffers") + field("Cached");
  const available = known * 1024 + zfsCache(files);
  const limit = limitOf(files);
  if (limit !== null && limit < total) {
    const used = cgroupUse(files);
    if (used !== null) return { total: limit, used };
  }
  // While a guest's memory shrinks (ballooning) more may be available than there is.
  return Number.isNaN(total - available) ? null : { total, used: Math.max(0, total - available) };
}

/** In bytes. In a container's /proc the swap is the machine's, unless lxcfs has put its own there. */
export function readSwap(files: KernelFiles): { total: number; used: number } | null {
  const text = files.text("proc/meminfo");
  const [total, free] = [fieldIn(text, "SwapTotal"), fieldIn(text, "SwapFree")];
  if (total === null || free === null || (limitOf(files) !== null && !isFaked(files, "meminfo"))) return null;
  return { total: total * 1024, used: (total - free) * 1024 };
}

/** The cgroup's limit in bytes: version 1 has a number larger than any memory where there is none. */
function limitOf(files: KernelFiles): number | null {
  const limit =
    numberIn(files.text("sys/fs/cgroup/memory.max")) ??
    numberIn(files.text("sys/fs/cgroup/memory/memory.limit_in_bytes"));
  return limit !== null && limit < 2 ** 60 ? limit : null;
}

/** What the ARC of ZFS can give back: the kernel doesn't count it as cache. A container's memory has no part of it. */
function zfsCache(files: KernelFiles): number {
  if (isFaked(files, "meminfo")) return 0;
  const text = files.text("proc/spl/kstat/zfs/arcstats")?.replace(/^(\w+) +\d+ +/gm, "$1 ") ?? null;
  return Math.max(0, (fieldIn(text, "size") ?? 0) - (fieldIn(text, "c_min") ?? 0));
}

/** The cgroup's memory without cache that the kernel can free at once, as `docker stats` counts it. */
function cgroupUse(files: KernelFiles): number | null {
  const v2 = numberIn(files.text("sys/fs/cgroup/memory.current"));
  const used = v2 ?? numberIn(files.text("sys/fs/cgroup/memory/memory.usage_in_bytes"));
  if (used === null) return null;
  const stat = files.text("sys/fs/cgroup/memory.stat") ?? files.text("sys/fs/cgroup/memory/memory.stat");
  // Version 1 has the sum over child groups under another name; version 2 has only the sum.
  return Math.max(0, used - (fieldIn(stat, "total_inactive_file") ?? fieldIn(stat, "inactive_file") ?? 0));
}
