// The space of disks: servers that never answer, odd figures, several mounts of one file system.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { Folder, have, runRole, until } from "../kit.ts";
import { FakeHub, Lab } from "./kit.ts";
import { canMount, mountOddDisk } from "./odd-disk.ts";

interface Sent {
  host: { disks: { mount: string; used_gb: number; total_gb: number }[] };
}

const GIB = 2 ** 30;
const figures = (total: number, free: number) => ({
  bsize: 1 << 20,
  frsize: 4096,
  blocks: total / 4096,
  bfree: free / 4096,
});

/** What `selftest host` shows of the disks with these patterns, and what it says. */
async function look(...disks: string[]) {
  using place = new Lab("http://127.0.0.1:9", { more: `disks: ${JSON.stringify(disks)}\n` });
  const { stdout, stderr } = await runRole("agent", ["selftest", "host", "--json", "--config", place.config]);
  return { disks: (JSON.parse(stdout) as Sent["host"]).disks, said: stderr };
}

test.skipIf(!canMount)(
  "a mount whose server never answers has no figures; the agent reports, and ends, without it",
  async () => {
    using folder = new Folder();
    await using disk = await mountOddDisk(folder, "server");
    await disk.tell("hang");
    await Bun.$`ln -s server ${folder.at("link")}`;
    /** The mounts of each report. */
    const reports: string[] = [];
    const hub = new FakeHub({
      "/v1/host-report": async (request) => {
        reports.push(((await request.json()) as Sent).host.disks.map(({ mount }) => mount).join());
        return Response.json({});
      },
    });
    const disks = JSON.stringify(["/", disk.path, folder.at("link")]);
    using place = new Lab(hub, { more: `interval_seconds: 0.2\ndisks: ${disks}\n` });
    await using agent = await place.start();
    await agent.said(`disk "${disk.path}" not read: no answer within 2 s`);
    await until("reports", () => reports.length > 3);
    expect(new Set(reports)).toEqual(new Set(["/"]));
    // It is asked once, and then only when it has answered.
    const asking = await Bun.$`ps -o args= --ppid ${agent.child.pid}`.text();
    expect(asking.trim().split("\n")).toEqual([`stat -f -c %S %b %f %a %c %d -- ${disk.path}`]);
    await disk.tell(figures(500 * GIB, 400 * GIB));
    await until("its figures are back", () => reports.at(-1) === `/,${disk.path}`);
    await disk.tell("hang");
    reports.length = 0;
    await until("reports without it", () => reports.length > 2 && reports.at(-1) === "/");
    expect(await agent.kill()).toBe(0);
  },
);

test.skipIf(!canMount)(
  "episodes wait while the server of one of their folders doesn't answer; reports don't",
  async () => {
    const hub = new FakeHub({ "/v1/host-report": () => Response.json({ blocked: false }) });
    using place = new Lab(hub, { more: `interval_seconds: 0.2\nhost_id: web-1\ndisks: ["/"]\n` });
    await using disk = await mountOddDisk(place.folder, "quarantine");
    await disk.tell("hang");
    place.episode("ep-1");
    await using agent = await place.start();
    await agent.said(`folder "${disk.path}" not read: no answer within 2 s`);
    await until("reports", () => hub.asked.filter((path) => path === "/v1/host-report").length > 3);
    expect([place.in("episodes"), place.in("outbox")]).toEqual([["ep-1"], []]);
    expect(await agent.kill()).toBe(0);
  },
);

test.skipIf(!canMount)("space is counted in fragments; more free than there is is no figure", async () => {
  using folder = new Folder();
  await using disk = await mountOddDisk(folder, "odd");
  await disk.tell(figures(461 * GIB, 400 * GIB));
  expect((await look(disk.path)).disks).toMatchObject([{ mount: disk.path, used_gb: 61, total_gb: 461 }]);
  await disk.tell(figures(GIB, 265 * GIB));
  const odd = await look(disk.path, "/");
  expect(odd.disks).toMatchObject([{ mount: "/" }]);
  expect(odd.said).toContain(`disk "${disk.path}" not read: -${264 * GIB} of ${GIB} bytes used can't be right`);
  using place = new Lab("http://127.0.0.1:9", { more: `disks: ["${disk.path}"]\n` });
  expect((await place.run(["doctor"])).stdout).toMatch(/^yellow +host +disk ".*bytes used can't be right$/m);
  // Only a name asks a server.
  expect((await look("*")).disks).not.toContainEqual(expect.objectContaining({ mount: disk.path }));
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
    expect((await look(home, `${top}/srv`, top)).disks).toMatchObject([{ mount: top, fstype: "btrfs", total_gb: 20 }]);
    expect((await look(`${folder.path}/*`)).disks).toMatchObject([{ mount: top, used_gb: 0 }]);
  } finally {
    await Bun.$`umount ${home}; umount ${top}`.nothrow().quiet();
  }
});
