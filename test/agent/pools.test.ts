// A real btrfs of two disks, whole and with one missing. ZFS and md, which this needs modules for: fixtures/hosts/nas.txt.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { openKernelFiles } from "../../lib/agent/kernel-files.ts";
import { readPools } from "../../lib/agent/pools.ts";
import { Folder, have } from "../kit.ts";
import { canMount } from "./odd-disk.ts";

const canLoop = canMount && have("mkfs.btrfs", "a btrfs of two disks") && Bun.spawnSync(["losetup", "-f"]).success;

test.skipIf(!canLoop)("a btrfs whose disk is missing is degraded", async () => {
  using folder = new Folder();
  const label = `pool-${process.pid}`;
  const poolNow = () => readPools(openKernelFiles("/")).filter(({ name }) => name === label);
  mkdirSync(folder.at("top"));
  const loops: string[] = [];
  try {
    for (const image of [folder.at("a"), folder.at("b")]) {
      await Bun.$`truncate -s 256M ${image}`;
      loops.push((await Bun.$`losetup -f --show ${image}`.text()).trim());
    }
    await Bun.$`mkfs.btrfs -q -L ${label} -d raid1 -m raid1 ${loops}`.quiet();
    await Bun.$`btrfs device scan ${loops} && mount ${loops[0]} ${folder.at("top")}`.quiet();
    expect(poolNow()).toEqual([{ name: label, kind: "btrfs", state: "online", detail: null }]);
    await Bun.$`umount ${folder.at("top")} && btrfs device scan -u ${loops} && losetup -d ${loops.pop()}`.quiet();
    expect(poolNow()).toEqual([]);
    await Bun.$`mount -o degraded ${loops[0]} ${folder.at("top")}`.quiet();
    expect(poolNow()).toEqual([{ name: label, kind: "btrfs", state: "degraded", detail: "disk 2 is missing" }]);
  } finally {
    await Bun.$`umount ${folder.at("top")}; losetup -d ${loops}`.nothrow().quiet();
  }
});
