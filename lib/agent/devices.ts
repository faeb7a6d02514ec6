// What the disks have read and written since boot: /proc/diskstats, see the kernel's Documentation/admin-guide/iostats.rst.

import type { KernelFiles } from "./kernel-files.ts";

const SECTOR_BYTES = 512;
/** Memory, and what passes its bytes on to others that are listed. */
const NO_DISK = /^(loop|ram|zram|dm-|sr|fd)\d/;

/** A report's `host.devices`: whole disks and arrays, no partitions. */
export function readDevices(files: KernelFiles) {
  const disks = new Set(files.names("sys/block"));
  const lines = (files.text("proc/diskstats") ?? "").matchAll(
    /^ *\d+ +\d+ (\S+) \d+ \d+ (\d+) \d+ \d+ \d+ (\d+) \d+ \d+ (\d+)/gm,
  );
  return [...lines].flatMap(([, name = "", read, written, busy]) => {
    if (!disks.has(name) || NO_DISK.test(name)) return [];
    return [
      {
        name,
        read_bytes: Number(read) * SECTOR_BYTES,
        write_bytes: Number(written) * SECTOR_BYTES,
        busy_ms: Number(busy),
      },
    ];
  });
}
