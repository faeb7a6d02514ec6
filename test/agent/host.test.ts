// What the agent reads of its host: /proc and /sys of other machines as fixture trees; systemd's units. Containers: agent/docker.test.ts.

import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { HostReader } from "../../lib/agent/host.ts";
import { Folder, runRole } from "../kit.ts";

/** Writes a tree of files. */
function tree(folder: Folder, files: Record<string, string>): string {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(folder.at(path)), { recursive: true });
    writeFileSync(folder.at(path), content);
  }
  return folder.path;
}

const STAT = (busy: number, idle: number, cpus = 4) =>
  `cpu  ${busy} 0 0 ${idle} 0 0 0 0 0 0\n${Array.from({ length: cpus }, (_, n) => `cpu${n} 1 0 0 1 0 0 0 0 0 0\n`).join("")}intr 1\nbtime 1700000000\n`;

const MEMINFO =
  "MemTotal:        8000000 kB\nMemFree:          500000 kB\nMemAvailable:    6000000 kB\nBuffers:  100000 kB\nCached:  900000 kB\n";

const DEV = (lines: string[]) =>
  `Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n${lines.join("\n")}\n`;

const net = (name: string, rx: number, tx: number) => `${name.padStart(6)}: ${rx} 1 0 0 0 0 0 0 ${tx} 1 0 0 0 0 0 0`;

const MACHINE = {
  "proc/stat": STAT(1000, 9000),
  "proc/meminfo": MEMINFO,
  "proc/uptime": "12345.67 40000.00\n",
  "proc/loadavg": "0.52 0.40 0.30 1/200 1234\n",
  "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
  "proc/sys/kernel/arch": "x86_64\n",
  "etc/os-release": 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
  "proc/net/dev": DEV([
    net("lo", 999, 999),
    net("eth0", 1000, 2000),
    net("docker0", 5, 5),
    net("vethab12", 7, 7),
    net("bond0", 1000, 2000),
  ]),
  "sys/class/net/eth0/device/vendor": "x",
  "sys/class/hwmon/hwmon0/name": "acpitz\n",
  "sys/class/hwmon/hwmon0/temp1_input": "27800\n",
  "sys/class/hwmon/hwmon10/name": "coretemp\n",
  "sys/class/hwmon/hwmon10/temp1_input": "45500\n",
};

const space = (mount: string) => {
  if (mount === "/gone") throw new Error("ENOENT");
  return { device: Bun.hash.crc32(mount), total: 100 * 2 ** 30, used: 25.5 * 2 ** 30 };
};

function read(
  files: Record<string, string>,
  { later = {}, mounts = ["/"] }: { later?: Record<string, string>; mounts?: string[] } = {},
) {
  using folder = new Folder();
  let now = 0;
  const reader = new HostReader({ root: tree(folder, files), mounts, space, clock: () => now });
  tree(folder, later);
  now = 10_000;
  const { metrics, facts } = reader.read();
  return { ...metrics, facts };
}

describe("hosts", () => {
  test("a machine", () => {
    expect(read(MACHINE, { later: { "proc/stat": STAT(1500, 9500) } })).toEqual({
      cpu_percent: 50,
      memory_used_mb: 1953,
      memory_total_mb: 7812,
      disk_used_gb: 26,
      disk_total_gb: 100,
      network_rx_bytes: 1000,
      network_tx_bytes: 2000,
      uptime_seconds: 12_345,
      load_average: 0.52,
      cpu_temp_c: 45.5,
      facts: {
        cpu_count: 4,
        memory_total_mb: 7812,
        disk_total_gb: 100,
        os: "Debian GNU/Linux 12 (bookworm)",
        kernel: "6.1.0-18-amd64",
        arch: "x86_64",
        boot_at: "2023-11-14T22:13:20.000Z",
      },
    });
  });

  test("an ARM board: its temperature is a thermal zone's", () => {
    const { "sys/class/hwmon/hwmon10/name": _, "sys/class/hwmon/hwmon10/temp1_input": __, ...board } = MACHINE;
    const zones = {
      "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
      "sys/class/thermal/thermal_zone0/temp": "60000\n",
      "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
      "sys/class/thermal/thermal_zone1/temp": "51540\n",
      "sys/class/thermal/cooling_device0/type": "fan\n",
    };
    expect(read({ ...board, ...zones }).cpu_temp_c).toBe(51.5);
    expect(read(board).cpu_temp_c).toBeNull();
  });

  test("a container with limits of cgroup version 2", () => {
    const limits = {
      "sys/fs/cgroup/memory.max": "1073741824\n",
      "sys/fs/cgroup/memory.current": "536870912\n",
      "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 134217728\n",
      "sys/fs/cgroup/cpu.max": "150000 100000\n",
      "sys/fs/cgroup/cpu.stat": "usage_usec 1000000\nuser_usec 1\n",
      "sys/fs/cgroup/cpuset.cpus.effective": "0-1,3\n",
      "proc/net/dev": DEV([net("lo", 9, 9), net("eth0", 100, 200)]),
    };
    const { "sys/class/net/eth0/device/vendor": _, ...rest } = MACHINE;
    const later = { "sys/fs/cgroup/cpu.stat": "usage_usec 8500000\nuser_usec 1\n" };
    expect(read({ ...rest, ...limits }, { later })).toMatchObject({
      // 7.5 s of 10 s on 1.5 CPUs
      cpu_percent: 50,
      memory_used_mb: 384,
      memory_total_mb: 1024,
      network_rx_bytes: 100,
      facts: { cpu_count: 2, memory_total_mb: 1024 },
    });
    expect(read({ ...MACHINE, "sys/fs/cgroup/memory.max": "max\n" })).toMatchObject({ memory_total_mb: 7812 });
  });

  test("a container with limits of cgroup version 1, and a machine without", () => {
    const limits = {
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": "1073741824\n",
      "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 268435456\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
      "sys/fs/cgroup/cpuacct/cpuacct.usage": "1000000000\n",
    };
    const later = { "sys/fs/cgroup/cpuacct/cpuacct.usage": "2000000000\n" };
    expect(read({ ...MACHINE, ...limits }, { later })).toMatchObject({
      cpu_percent: 20,
      memory_used_mb: 768,
      memory_total_mb: 2048,
      facts: { cpu_count: 1 },
    });
    const none = {
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    };
    expect(read({ ...MACHINE, ...none })).toMatchObject({ memory_total_mb: 7812, facts: { cpu_count: 4 } });
  });

  test("128 cores, no swap, odd mounts, an old kernel; nothing at all", () => {
    expect(read({ ...MACHINE, "proc/stat": STAT(1, 1, 128) }).facts.cpu_count).toBe(128);
    expect(read(MACHINE, { mounts: ["/", "/gone", "/srv"] })).toMatchObject({ disk_total_gb: 200, disk_used_gb: 51 });
    expect(
      read({
        ...MACHINE,
        "proc/meminfo": "MemTotal:  4000 kB\nMemFree:   1024 kB\nBuffers:   0 kB\nCached:   1024 kB\n",
      }),
    ).toMatchObject({ memory_used_mb: 1 });
    const nothing = read({}, { mounts: ["/gone"] });
    for (const [name, value] of Object.entries({ ...nothing, ...nothing.facts })) {
      if (name !== "facts") expect([name, value]).toEqual([name, null]);
    }
  });
});

test("folders on one file system count once: where a disk isn't mounted lies the one above", () => {
  using folder = new Folder();
  mkdirSync(folder.at("not-mounted"));
  const totalOf = (...mounts: string[]) => new HostReader({ root: "/", mounts }).read().metrics.disk_total_gb;
  const one = totalOf(folder.path);
  expect(one).toEqual(expect.any(Number));
  expect(totalOf(folder.path, folder.at("not-mounted"), folder.at("missing"))).toBe(one);
  expect(totalOf(folder.at("missing"))).toBe(null);
});

test("systemctl is asked for the units alone; one whose name looks like an option is no option", async () => {
  using folder = new Folder();
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => Response.json({}) });
  mkdirSync(folder.at("bin"));
  folder.write(
    "bin/systemctl",
    '#!/bin/sh\ncase "$*" in\n"is-active cloudflared") echo active;;\n"is-active -- -.mount cloudflared") printf "active\\nfailed\\n";;\nesac\n',
  );
  chmodSync(folder.at("bin/systemctl"), 0o755);
  const seen: unknown[] = [];
  for (const services of ["[cloudflared]", '["-.mount", cloudflared]']) {
    const config = folder.write(
      "agent.yaml",
      `receiver: { url: "http://127.0.0.1:${server.port}", token: t }\ndata_dir: ${folder.at("agent")}\ndocker: { enabled: false }\nservices: ${services}\n`,
    );
    const env = { PATH: `${folder.at("bin")}:${process.env["PATH"]}` };
    const { stdout } = await runRole("agent", ["selftest", "--config", config], { env });
    const report = JSON.parse(stdout.slice(0, stdout.indexOf("\n\n"))) as { cloudflared: unknown };
    seen.push(report.cloudflared);
  }
  await server.stop(true);
  expect(seen).toEqual([{ status: "active" }, { status: "failed" }]);
});

test("more memory available than there is means that none is used: the receiver would refuse the report for less than none", () => {
  using root = new Folder();
  mkdirSync(root.at("proc"));
  root.write("proc/meminfo", "MemTotal:        1024000 kB\nMemAvailable:    2048000 kB\n");
  const { metrics } = new HostReader({ root: root.path, mounts: [] }).read();
  expect([metrics.memory_used_mb, metrics.memory_total_mb]).toEqual([0, 1000]);
});
