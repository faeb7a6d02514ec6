// The space of disks: servers that never answer, odd figures, several mounts of one file system.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { Folder, have, runRole, until } from "../kit.ts";
import { FakeHub, Lab } from "./kit.ts";
import { canMount, mountOddDisk } from "./odd-disk.ts";

interface Sent {
  host: { metrics: { disk_used_gb: number | null; disk_total_gb: number | null } };
}

const GIB = 2 ** 30;
const figures = (total: number, free: number) => ({
  bsize: 1 << 20,
  frsize: 4096,
  blocks: total / 4096,
  bfree: free / 4096,
});

/** The sum that `selftest host` shows for these mount points, and what it says. */
async function sumOf(...disks: string[]) {
  using place = new Lab("http://127.0.0.1:9", { more: `disks: ${JSON.stringify(disks)}\n` });
  const { stdout, stderr } = await runRole("agent", ["selftest", "host", "--config", place.config]);
  const { disk_used_gb, disk_total_gb } = (JSON.parse(stdout) as Sent["host"]).metrics;
  return { used: disk_used_gb, total: disk_total_gb, said: stderr };
}

test.skipIf(!canMount)(
  "a mount whose server never answers has no figures; the agent reports, and ends, without it",
  async () => {
    using folder = new Folder();
    await using disk = await mountOddDisk(folder, "server");
    await disk.tell("hang");
    await Bun.$`ln -s server ${folder.at("link")}`;
    const totals: unknown[] = [];
    const hub = new FakeHub({
      "/v1/host-report": async (request) => {
        totals.push(((await request.json()) as Sent).host.metrics.disk_total_gb);
        return Response.json({});
      },
    });
    const disks = JSON.stringify(["/", disk.path, folder.at("link")]);
    using place = new Lab(hub, { more: `interval_seconds: 0.2\ndisks: ${disks}\n` });
    await using agent = await place.start();
    await agent.said(`disk "${disk.path}" has no figures: its server does not answer`);
    await until("reports", () => totals.length > 3);
    const { total } = await sumOf("/");
    expect(new Set(totals)).toEqual(new Set([total]));
    // It is asked once, and then only when it has answered.
    const asking = await Bun.$`ps -o args= --ppid ${agent.child.pid}`.text();
    expect(asking.trim().split("\n").toSorted()).toEqual(
      [`stat -f -c %S %b %f -- ${disk.path}`, `stat -f -c %S %b %f -- ${folder.at("link")}`].toSorted(),
    );
    await disk.tell(figures(500 * GIB, 400 * GIB));
    await until("its figures are back", () => totals.at(-1) === total! + 500);
    await disk.tell("hang");
    totals.length = 0;
    await until("reports without it", () => totals.length > 2 && totals.at(-1) === total);
    expect(await agent.kill()).toBe(0);
  },
);

test.skipIf(!canMount)("space is counted in fragments; more free than there is is no figure", async () => {
  using folder = new Folder();
  await using disk = await mountOddDisk(folder, "odd");
  await disk.tell(figures(461 * GIB, 400 * GIB));
  expect(await sumOf(disk.path)).toMatchObject({ used: 61, total: 461 });
  await disk.tell(figures(GIB, 265 * GIB));
  const odd = await sumOf(disk.path);
  expect(odd).toMatchObject({
    used: null,
    total: null,
    said: expect.stringContaining(`disk "${disk.path}" has no figures`),
  });
  expect((await sumOf(disk.path, "/")).total).toBe((await sumOf("/")).total);
});

const canLoop = canMount && have("mkfs.btrfs", "btrfs subvolumes") && Bun.spawnSync(["losetup", "-f"]).success;

test.skipIf(!canLoop)("subvolumes of one btrfs count once, mounted or not", async () => {
  using folder = new Folder();
  const [image, top, home] = [folder.at("image"), folder.at("top"), folder.at("home")];
  mkdirSync(top);
  mkdirSync(home);
  await Bun.$`truncate -s 20G ${image} && mkfs.btrfs -q ${image} && mount -o loop ${image} ${top}`.quiet();
  try {
    await Bun.$`btrfs subvolume create ${top}/home && btrfs subvolume create ${top}/srv`.quiet();
    await Bun.$`mount -o subvol=home $(findmnt -no SOURCE ${top}) ${home}`.quiet();
    expect(await sumOf(top, home, `${top}/srv`)).toMatchObject({ used: 1, total: 20 });
  } finally {
    await Bun.$`umount ${home}; umount ${top}`.nothrow().quiet();
  }
});
