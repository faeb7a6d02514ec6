// A report of a large but normal host stays under 64 KiB: 60 containers, 20 disks, 30 interfaces, 40 sensors. Labels are sent as
// they are, and not counted here: those of compose and of a proxy are as large as all else of a container.

import { expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { readContainers } from "../../lib/agent/docker.ts";
import { HostReader } from "../../lib/agent/host.ts";
import { Folder } from "../kit.ts";

const AT_MOST = 64 << 10;
const GIB = 2 ** 30;
const each = <T>(count: number, make: (n: number) => T): T[] => Array.from({ length: count }, (_, n) => make(n));

const LIST = each(60, (n) => ({
  Id: n.toString(16).padStart(64, "a"),
  Names: [`/project-${n}-server-1`],
  Image: `registry.example.org/team/project-${n}:2026.11.28`,
  State: "running",
  Status: "Up 3 weeks (healthy)",
  Labels: { "com.docker.compose.project": `project-${n}`, "com.docker.compose.service": "server" },
  Ports: ["0.0.0.0", "::"].map((IP) => ({ IP, PrivatePort: 8080, PublicPort: 20_000 + n, Type: "tcp" })),
}));
const STATS = {
  cpu_stats: { cpu_usage: { total_usage: 3e9 }, system_cpu_usage: 20e9, online_cpus: 16 },
  precpu_stats: { cpu_usage: { total_usage: 1e9 }, system_cpu_usage: 1e9 },
  memory_stats: { usage: 734_003_200, limit: 64 * GIB },
  networks: { eth0: { rx_bytes: 123_456_789_012, tx_bytes: 98_765_432_109 } },
};
const STATE = { StartedAt: "2026-11-07T03:14:15.926535897Z", FinishedAt: "2026-11-07T03:14:12.112358132Z" };

const disk = (n: number) => `sd${String.fromCharCode(97 + n)}`;
const FILES: Record<string, string> = {
  "proc/self/mountinfo": each(
    20,
    (n) => `${n + 30} 1 8:${16 * n} / /srv/storage-${n} rw - ext4 /dev/${disk(n)} rw\n`,
  ).join(""),
  "proc/diskstats": each(20, (n) => `8 ${16 * n} ${disk(n)} 1 0 98765432101 3 4 0 98765432101 7 0 987654321 10\n`).join(
    "",
  ),
  "proc/net/dev": `a\nb\n${each(30, (n) => `enp${n}s0f0: 123456789012 1 0 0 0 0 0 0 98765432109 1 0 0 0 0 0 0\n`).join("")}`,
  ...Object.fromEntries(each(20, (n) => [`sys/block/${disk(n)}/size`, "1\n"])),
  ...Object.fromEntries(each(30, (n) => [`sys/class/net/enp${n}s0f0/device/vendor`, "x\n"])),
  "sys/class/hwmon/hwmon0/name": "coretemp\n",
  ...Object.fromEntries(
    each(40, (n) => [
      [`sys/class/hwmon/hwmon0/temp${n + 1}_input`, "45000\n"],
      [`sys/class/hwmon/hwmon0/temp${n + 1}_label`, `Core ${n}\n`],
      [`sys/class/hwmon/hwmon0/temp${n + 1}_crit`, "100000\n"],
    ]).flat(),
  ),
};

test("a report of 60 containers, 20 disks and 30 interfaces is smaller than 64 KiB", async () => {
  using folder = new Folder();
  for (const [path, content] of Object.entries(FILES)) {
    mkdirSync(dirname(folder.at(path)), { recursive: true });
    writeFileSync(folder.at(path), content);
  }
  using _ = Bun.serve({
    unix: folder.at("docker.sock"),
    fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname.endsWith("/containers/json")) return Response.json(LIST);
      return Response.json(pathname.endsWith("/stats") ? STATS : { State: STATE });
    },
  });
  const space = () => ({ total: 8000 * GIB, used: 4321 * GIB, free: 3679 * GIB, inodes: 1000, freeInodes: 500 });
  const { host } = await new HostReader({ root: folder.path, disks: ["*"], omit: ["smart"], space }).read();
  const containers = await readContainers(folder.at("docker.sock"));
  expect(
    [containers, host.disks, host.devices, host.interfaces, host.temperatures].map((list) => list?.length),
  ).toEqual([60, 20, 20, 30, 40]);
  const bytes = Buffer.byteLength(JSON.stringify({ host, containers }));
  expect(Buffer.byteLength(JSON.stringify(host))).toBeLessThan(AT_MOST / 4);
  expect(bytes).toBeLessThan(AT_MOST);
});
