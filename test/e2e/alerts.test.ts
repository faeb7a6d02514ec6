// What a real agent sees go wrong on real parts, as lines in the receiver's inbox; both are the compiled program.
// Not tested here: md and ZFS (they need modules of the kernel), units (systemd.test.ts), how lines are grouped (announce.test.ts).

import { expect, test } from "bun:test";
import { chmodSync, mkdirSync } from "node:fs";
import { canMount, mountOddDisk } from "../agent/odd-disk.ts";
import { Folder, have, inboxLines, runRole, startRole, until } from "../kit.ts";
import { Clock, Hub, TELLS_SOON, faketime, report } from "../receiver/kit.ts";
import { isRoot } from "./disk.ts";

const library = faketime("forecasts");
const canFill = isRoot && library !== null && have("mkfs.ext4", "a file system that is filled");
const canBreak =
  canMount && have("mkfs.btrfs", "a btrfs that loses a disk") && Bun.spawnSync(["losetup", "-f"]).success;
const AT_ONCE = `${TELLS_SOON}\nalerts: { for_minutes: 0, clear_minutes: 0 }`;

const texts = (hub: Hub): string[] => inboxLines(hub.inbox, "ops").map(({ payload }) => String(payload));
const told = (hub: Hub, what: string | RegExp): Promise<string> =>
  until(`told: ${what}`, () => texts(hub).find((text) => text.match(what)));

/** An agent's configuration that reports to a hub as `nas`. */
function agentOf(hub: Hub, folder: Folder, more: string): string {
  const receiver = `receiver: { url: "${hub.url}", token: ${hub.tokens.get("nas")} }`;
  return folder.write("agent.yaml", `${receiver}\ndata_dir: ${folder.at("agent")}\n${more}\n`);
}

test.skipIf(!canFill)(
  "a disk that fills up at a steady pace for hours: the forecast, 90, 95 and 99 percent, room again",
  async () => {
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    await using hub = await Hub.start({ hosts: ["nas"], more: AT_ONCE, target: "binary", env: clock.env });
    const mount = folder.at("disk");
    mkdirSync(mount);
    await Bun.$`truncate -s 40G ${folder.at("image")} && mkfs.ext4 -q -m 0 ${folder.at("image")}`.quiet();
    await Bun.$`mount -o loop ${folder.at("image")} ${mount}`.quiet();
    try {
      const config = agentOf(
        hub,
        folder,
        `docker: { enabled: false }\nomit: [smart, units, pools]\ndisks: ["${mount}"]`,
      );
      const look = async () => {
        const args = ["selftest", "hub", "--config", config];
        const { code, stderr } = await runRole("agent", args, { target: "binary", env: clock.env });
        expect([code, stderr]).toEqual([0, ""]);
      };
      const filled = async (): Promise<number> =>
        Number((await Bun.$`df -B1 --output=used ${mount} | tail -1`.text()).trim()) / 2 ** 30;
      const total = Number((await Bun.$`df -B1 --output=size ${mount} | tail -1`.text()).trim()) / 2 ** 30;
      // 5 GiB an hour, from 10 GiB: full after 5.7 hours.
      const steps = [...Array.from({ length: 15 }, (_, n) => n / 3), 5.3, 5.55, 5.78];
      for (const hour of steps) {
        clock.offset(hour * 3600);
        await Bun.$`fallocate -l ${Math.round((10 + 5 * hour) * 2 ** 30)} ${mount}/file`.quiet();
        await look();
        const percent = ((await filled()) / total) * 100;
        for (const limit of [90, 95, 99])
          if (percent >= limit)
            await told(hub, new RegExp(`is (${limit}|${limit + 1}|${limit + 2}|${limit + 3}) % full`));
      }
      const { alerts } = await hub.get<{
        alerts: { type: string; opened_at: string; figures: { hours_left: number; used_gb: number } }[];
      }>("/v1/alerts");
      const { hours_left: left, used_gb: used } = alerts.find(({ type }) => type === "disk.filling")!.figures;
      expect(Math.abs(left / ((total - used) / 5) - 1)).toBeLessThan(0.2);
      await Bun.$`rm ${mount}/file`.quiet();
      clock.offset(6.2 * 3600);
      await look();
      await told(hub, "has room again");
      await told(hub, "no longer fills up");
      const [sizes, hint] = [String.raw` \(\d+\.\d of 39\.\d GB\)`, `; du -xh ${mount} | sort -h | tail`];
      const line = (what: string) => expect.stringMatching(new RegExp(`^nas: ${mount} ${what}`));
      expect(texts(hub)).toEqual([
        line(`will be full in about \\d+ h at the pace of the last hours${sizes}; `),
        ...["9[0-4]", "9[5-8]", "99"].map((of) =>
          line(`is ${of} % full${sizes}, full in about \\d+ min at this pace; `),
        ),
        line("(no longer fills up|has room again: it is 0 % full)"),
        line("(no longer fills up|has room again: it is 0 % full)"),
      ]);
      expect(
        texts(hub)
          .slice(0, 4)
          .filter((text) => !text.endsWith(hint)),
      ).toEqual([]);
    } finally {
      await Bun.$`umount -l ${mount}`.quiet().nothrow();
    }
  },
);

const SCAN = { devices: [{ name: "/dev/sda", type: "scsi" }] };
/** Of smartctl's JSON, what is read of it. */
const smartOf = (passed: boolean) => ({
  smartctl: { exit_status: passed ? 0 : 8 },
  model_name: "WDC WD40EFRX-68N32N0",
  smart_status: { passed },
  ata_smart_attributes: { table: [{ id: 197, name: "Current_Pending_Sector", value: 200, raw: { value: 12 } }] },
});

test.skipIf(!canBreak)(
  "a failing disk, a pool without a disk and a red doctor are a line each, and a line when they are over; a dead mount delays none",
  async () => {
    using folder = new Folder();
    const label = `pool-${process.pid}`;
    await using hub = await Hub.start({ hosts: ["nas"], more: AT_ONCE, target: "binary" });
    await using dead = await mountOddDisk(folder, "dead");
    await dead.tell("hang");
    folder.write("scan", JSON.stringify(SCAN));
    folder.write(
      "smartctl",
      `#!/bin/sh\ncase "$*" in *--scan*) cat ${folder.at("scan")};; *) cat ${folder.at("sda")};; esac\n`,
    );
    chmodSync(folder.at("smartctl"), 0o755);
    for (const name of ["top", "episodes", "episodes/not a name"]) mkdirSync(folder.at(name));
    folder.write("episodes/not a name/done.marker", "");
    const config = agentOf(
      hub,
      folder,
      `docker: { enabled: false }\nomit: [units]\ndisks: [/, "${dead.path}"]\nship: { episodes_dir: ${folder.at("episodes")} }`,
    );
    /** An agent reports, and sends its doctor's result; a disk's own judgement is in its second report, a minute later. */
    const toldAll = async (...what: RegExp[]) => {
      const options = { target: "binary", env: { PATH: `${folder.path}:${process.env["PATH"]}` } } as const;
      await using agent = await startRole("agent", ["--config", config], options);
      await agent.said("ready");
      const { stdout } = await runRole("agent", ["selftest", "host", "--json", "--config", config], options);
      const host = JSON.parse(stdout) as { pools: { name: string }[] };
      // Another test's pool, on the same machine at the same time, is not this host's.
      host.pools = host.pools.filter(({ name }) => name === label);
      const answer = await hub.report(report({ interval_seconds: 60, host }), { host: "nas" });
      expect(answer.status).toBe(200);
      for (const one of what) await told(hub, one);
      const late = agent.log.filter((line) => line.includes("not read"));
      expect(late).toEqual([expect.stringContaining(`disk "${dead.path}" not read: no answer within 2 s`)]);
    };
    const loops: string[] = [];
    try {
      for (const image of [folder.at("a"), folder.at("b")]) {
        await Bun.$`truncate -s 256M ${image}`;
        loops.push((await Bun.$`losetup -f --show ${image}`.text()).trim());
      }
      const [first, second] = loops as [string, string];
      await Bun.$`mkfs.btrfs -q -L ${label} -d raid1 -m raid1 ${loops} && btrfs device scan -u ${loops}`.quiet();
      await Bun.$`mount -o degraded ${first} ${folder.at("top")}`.quiet();
      folder.write("sda", JSON.stringify(smartOf(false)));
      await toldAll(/pool/, /says that it is failing/, /doctor/);
      await Bun.$`umount ${folder.at("top")} && btrfs device scan ${second} && mount ${first} ${folder.at("top")}`.quiet();
      folder.write("sda", JSON.stringify(smartOf(true)));
      await Bun.$`rm -r ${folder.at("episodes/not a name")}`;
      await toldAll(/pool .* again/, /passes/, /no more/);
    } finally {
      await Bun.$`umount ${folder.at("top")}; losetup -d ${loops}`.nothrow().quiet();
    }
    const disk = "nas: disk /dev/sda (WDC WD40EFRX-68N32N0)";
    expect(texts(hub).toSorted()).toEqual(
      [
        `nas: the doctor finds an error: episodes: "not a name" can't be shipped; picket-agent doctor`,
        `nas: pool ${label} is degraded: disk 2 is missing; btrfs filesystem show ${label}`,
        `${disk} says that it is failing, 12 errors; smartctl -a /dev/sda`,
        "nas: the doctor finds no more errors",
        `nas: pool ${label} is online again`,
        `${disk} passes its own test again`,
      ].toSorted(),
    );
  },
);
