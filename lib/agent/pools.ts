// Disks that stand for each other: ZFS pools, md arrays and btrfs file systems, as the kernel sees them.
//
//   online     all is there
//   degraded   a disk is missing, or data was damaged: what is left works
//   failed     it doesn't work any more

import { type KernelFiles, inOrder, numberIn } from "./kernel-files.ts";

interface Pool {
  name: string;
  kind: "zfs" | "md" | "btrfs";
  state: "online" | "degraded" | "failed";
  /** Null where there is nothing to say. */
  detail: string | null;
}

/** A report's `host.pools`. */
export const readPools = (files: KernelFiles): Pool[] => [...zfsPools(files), ...mdArrays(files), ...btrfs(files)];

function zfsPools(files: KernelFiles): Pool[] {
  return inOrder(files.names("proc/spl/kstat/zfs")).flatMap((name): Pool[] => {
    const state = files.text(`proc/spl/kstat/zfs/${name}/state`)?.trim();
    if (state === undefined) return [];
    if (state === "ONLINE" || state === "DEGRADED")
      return [{ name, kind: "zfs", state: state === "ONLINE" ? "online" : "degraded", detail: null }];
    return [{ name, kind: "zfs", state: "failed", detail: state.toLowerCase() }];
  });
}

/** How many disks an array of a level can do without; raid10 depends on which. */
const SPARE_DISKS: Record<string, (disks: number) => number> = {
  raid1: (disks) => disks - 1,
  raid10: (disks) => disks - 1,
  raid4: () => 1,
  raid5: () => 1,
  raid6: () => 2,
};

/** /proc/mdstat, see md(4). */
function mdArrays(files: KernelFiles): Pool[] {
  const blocks = (files.text("proc/mdstat") ?? "").split(/^(?=md)/m).slice(1);
  return blocks.flatMap((text): Pool[] => {
    const [, name = "", active, level = ""] = /^(\S+) : (active )?(?:\(\S+\) )*(\S+)/.exec(text) ?? [];
    // The metadata of a firmware's array, not an array.
    if (!active && text.includes("external:")) return [];
    if (!active) return [{ name, kind: "md", state: "failed", detail: "inactive" }];
    const [, disks, present] = /\[(\d+)\/(\d+)\]/.exec(text)?.map(Number) ?? [];
    const broken = [...text.matchAll(/(\S+)\[\d+\]\(F\)/g)].map(([, disk]) => disk);
    const work = /(resync|recovery|reshape|check|repair) *= *([\d.]+%|DELAYED|PENDING)/i.exec(text);
    const missing = disks === undefined || present === undefined ? 0 : disks - present;
    const isFailed = missing > (SPARE_DISKS[level]?.(disks ?? 0) ?? 0);
    const said = [
      missing > 0 ? `${level}, ${present} of ${disks} disks` : level,
      ...(broken.length > 0 ? [`${broken.join(", ")} failed`] : []),
      ...(work ? [`${work[1]} ${work[2]!.replace("%", " %").toLowerCase()}`] : []),
    ];
    return [
      { name, kind: "md", state: isFailed ? "failed" : missing > 0 ? "degraded" : "online", detail: said.join("; ") },
    ];
  });
}

/** A btrfs's counters of errors stay until `btrfs device stats -z`. */
function btrfs(files: KernelFiles): Pool[] {
  const folder = "sys/fs/btrfs";
  return inOrder(files.names(folder)).flatMap((uuid): Pool[] => {
    const devices = inOrder(files.names(`${folder}/${uuid}/devinfo`));
    if (devices.length === 0) return [];
    const said = devices.flatMap((device) => {
      const about = `${folder}/${uuid}/devinfo/${device}`;
      const errors = [...(files.text(`${about}/error_stats`) ?? "").matchAll(/^(\w+?)(?:_errs)? ([1-9]\d*)$/gm)];
      return [
        ...(numberIn(files.text(`${about}/missing`)) === 1 ? [`disk ${device} is missing`] : []),
        ...errors.map(([, kind, count]) => `disk ${device}: ${count} ${kind} errors`),
      ];
    });
    const name = files.text(`${folder}/${uuid}/label`)?.trim() || uuid;
    return [{ name, kind: "btrfs", state: said.length > 0 ? "degraded" : "online", detail: said.join("; ") || null }];
  });
}
