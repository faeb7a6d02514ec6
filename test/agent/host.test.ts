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
  return { total: 100 * 2 ** 30, used: 25.5 * 2 ** 30 };
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

/** Files of a folder of /sys, one a line: `name content`. */
const files = (folder: string, lines: string[]) =>
  Object.fromEntries(
    lines.map((line) => [`${folder}/${line.split(" ")[0]}`, `${line.split(" ").slice(1).join(" ")}\n`]),
  );
const chip = (n: number, ...lines: string[]) => files(`sys/class/hwmon/hwmon${n}`, lines);
const zone = (n: number, type: string, temp: number) =>
  files(`sys/class/thermal/thermal_zone${n}`, [`type ${type}`, `temp ${temp}`]);

test.each<[string, Record<string, string>, number | null]>([
  [
    "cores without a package",
    {
      ...chip(0, "name acpitz", "temp1_input 27800"),
      ...chip(1, "name coretemp", "temp2_input 61000", "temp3_input 63000"),
    },
    63,
  ],
  [
    "two sockets",
    { ...chip(0, "name coretemp", "temp1_input 45000"), ...chip(1, "name coretemp", "temp1_input 82000") },
    82,
  ],
  [
    "Tctl is the die's plus an offset",
    chip(0, "name k10temp", "temp1_input 67000", "temp1_label Tctl", "temp2_input 40000", "temp2_label Tdie"),
    40,
  ],
  [
    "Tctl alone is the die's",
    chip(0, "name k10temp", "temp1_input 67000", "temp1_label Tctl", "temp3_input 52000", "temp3_label Tccd1"),
    67,
  ],
  [
    "an old kernel's layout",
    chip(0, "device/name coretemp", "device/temp1_input 48000", "device/temp2_input 51000"),
    51,
  ],
  [
    "RK3588",
    {
      ...zone(0, "package-thermal", 48_000),
      ...zone(1, "bigcore0-thermal", 49_000),
      ...zone(2, "littlecore-thermal", 47_000),
      ...zone(3, "gpu-thermal", 60_000),
      ...zone(4, "center-thermal", 55_000),
    },
    49,
  ],
  [
    "RK3588 by its chips",
    { ...chip(0, "name bigcore1_thermal", "temp1_input 52000"), ...chip(1, "name npu_thermal", "temp1_input 60000") },
    52,
  ],
  ["a system on a chip", { ...zone(0, "soc-thermal", 48_000), ...zone(1, "ddr-thermal", 70_000) }, 48],
  [
    "Jetson",
    { ...zone(0, "AO-therm", 40_000), ...zone(1, "CPU-therm", 43_500), ...zone(2, "GPU-therm", 50_000) },
    43.5,
  ],
  [
    "Qualcomm",
    {
      ...zone(0, "cpu-0-0-thermal", 41_000),
      ...zone(1, "cpuss0-thermal", 44_000),
      ...zone(2, "modem-thermal", 60_000),
    },
    44,
  ],
  [
    "Intel's participants",
    { ...zone(0, "INT3400 Thermal", 20_000), ...zone(1, "acpitz", 90_000), ...zone(2, "TCPU", 58_000) },
    58,
  ],
  [
    "a board's sensor for the CPU",
    chip(0, "name nct6798", "temp1_input 30000", "temp1_label SYSTIN", "temp2_input 38000", "temp2_label CPUTIN"),
    38,
  ],
  ["whole degrees", zone(0, "cpu-thermal", 52), 52],
  ["a sensor that isn't connected", chip(0, "name coretemp", "temp1_input 255000", "temp2_input 44000"), 44],
  [
    "disks, batteries and ACPI are no CPU",
    {
      ...chip(0, "name nvme", "temp1_input 38850", "temp1_label Composite"),
      ...chip(1, "name drivetemp", "temp1_input 33000"),
      ...chip(2, "name acpitz", "temp1_input 27800"),
      ...zone(0, "acpitz", 27_800),
      ...zone(1, "pch_skylake", 47_000),
    },
    null,
  ],
])("temperature: %s", (_, sys, celsius) => expect(read(sys).cpu_temp_c).toBe(celsius));

/** An interface with its bytes received, and what /sys has of it. */
type Card = [name: string, bytes: number, has?: string];
const DEVICE = "device/vendor";

test.each<[string, Card[], number]>([
  [
    "bond, bridge and VPN over two devices",
    [
      ["eth0", 1000, DEVICE],
      ["eth1", 500, DEVICE],
      ["bond0", 1500],
      ["vmbr0", 1500],
      ["wg0", 300],
      ["tap100i0", 7],
    ],
    1500,
  ],
  [
    "a switch's ports",
    [
      ["eth0", 1000, `${DEVICE} upper_lan1 upper_lan2`],
      ["lan1", 600, `${DEVICE} lower_eth0`],
      ["lan2", 400, `${DEVICE} lower_eth0`],
    ],
    1000,
  ],
  [
    "a switch's ports, by their kind",
    [
      ["eth0", 1000, DEVICE],
      ["lan1", 600, `${DEVICE} uevent=DEVTYPE=dsa`],
    ],
    1000,
  ],
  [
    "a cloud's virtual function",
    [
      ["eth0", 1000, `${DEVICE} lower_enP1s1`],
      ["enP1s1", 900, `${DEVICE} master upper_eth0`],
    ],
    1000,
  ],
  [
    "devices in a bond and a bridge",
    [
      ["eth0", 1000, `${DEVICE} master upper_bond0`],
      ["eth1", 500, `${DEVICE} master upper_bond0`],
      ["bond0", 1500, "lower_eth0 lower_eth1 master upper_br0"],
      ["br0", 1500, "lower_bond0"],
    ],
    1500,
  ],
  [
    "virtual functions of a card",
    [
      ["enp1s0f0", 1000, DEVICE],
      ["enp1s0f0v0", 300, `${DEVICE} device/physfn/vendor`],
    ],
    1000,
  ],
  [
    "a container's VPN",
    [
      ["lo", 5],
      ["eth0", 1000],
      ["tailscale0", 800],
    ],
    1000,
  ],
  [
    "a container's VPN of any name",
    [
      ["eth0", 1000],
      ["office", 800, "tun_flags"],
      ["home", 700, "uevent=DEVTYPE=wireguard"],
    ],
    1000,
  ],
  [
    "a container's VLAN and macvlan",
    [
      ["eth0", 1000, "upper_mv0 upper_lan"],
      ["mv0", 300, "lower_eth0"],
      ["lan", 200, "lower_eth0"],
      ["eth0.10", 100],
    ],
    1000,
  ],
  [
    "k3s in a container",
    [
      ["eth0", 1000],
      ["flannel.1", 300],
      ["cni0", 400],
      ["veth1a", 9],
      ["nodelocaldns", 9],
      ["kube-ipvs0", 9],
      ["cilium_vxlan", 9],
      ["lxc12ab34cd", 9],
    ],
    1000,
  ],
  [
    "a container with nothing but a tap",
    [
      ["lo", 5],
      ["tap0", 1000, "tun_flags"],
    ],
    1000,
  ],
  [
    "OpenVZ",
    [
      ["lo", 5],
      ["venet0", 1000],
    ],
    1000,
  ],
])("network: %s", (_, cards, bytes) => {
  const sys = cards.flatMap(([name, , has = "ifindex"]) =>
    has
      .split(" ")
      .map((file) => [`sys/class/net/${name}/${file.split("=")[0]}`, `${file.split("=").slice(1).join("=")}\n`]),
  );
  const dev = DEV(cards.map(([name, count]) => net(name, count, count * 2)));
  const { network_rx_bytes, network_tx_bytes } = read({ "proc/net/dev": dev, ...Object.fromEntries(sys) });
  expect([network_rx_bytes, network_tx_bytes]).toEqual([bytes, bytes * 2]);
});

const MOUNTINFO = (...lines: string[]) => ({
  "proc/self/mountinfo": `${lines.map((line) => `36 35 ${line}`).join("\n")}\n`,
});

test("data sets of one ZFS pool share its space", () => {
  const table = MOUNTINFO(
    "0:51 / /tank/a rw shared:1 - zfs tank/a rw",
    "0:52 / /tank/b\\040c rw - zfs tank/b rw,xattr",
    "0:51 / /again rw - zfs tank/a rw",
    "0:53 / /other rw - zfs other rw",
  );
  const sizes: Record<string, [number, number]> = { "/tank/b c": [900, 200], "/other": [50, 5] };
  const of = (mounts: string[]) => {
    using folder = new Folder();
    const space = (mount: string) => {
      const [total, used] = sizes[mount] ?? [800, 100];
      return { total: total * 2 ** 30, used: used * 2 ** 30 };
    };
    const { metrics } = new HostReader({ root: tree(folder, table), mounts, space }).read();
    return [metrics.disk_used_gb, metrics.disk_total_gb];
  };
  expect(of(["/tank/a"])).toEqual([100, 800]);
  expect(of(["/tank/a", "/tank/b c", "/again"])).toEqual([300, 1000]);
  expect(of(["/tank/a", "/tank/b c", "/other"])).toEqual([305, 1050]);
});

test("what the cache of ZFS can give back isn't used; in a container it is another's", () => {
  const arc = {
    "proc/spl/kstat/zfs/arcstats":
      "13 1 0x01 147 39984 4 5\nname type data\nsize                            4    1073741824\nc_min                           4    268435456\n",
  };
  const used = (more: Record<string, string>) => read({ ...MACHINE, ...more }).memory_used_mb;
  expect(used({})).toBe(1953);
  expect(used(arc)).toBe(1953 - 768);
  expect(used({ ...arc, ...MOUNTINFO("0:60 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw") })).toBe(1953);
});

test("counters that go back don't count: iowait after a moment of idleness", () => {
  const stat = (...times: number[]) => ({ "proc/stat": `cpu  ${times.join(" ")} 0 0 0 0 0\n` });
  expect(read(stat(1000, 0, 0, 9000, 500), { later: stat(1100, 0, 0, 9300, 100) }).cpu_percent).toBe(25);
  expect(read(stat(1000, 0, 0, 9000, 500), { later: stat(1000, 0, 0, 9000, 100) }).cpu_percent).toBeNull();
});

test("under lxcfs the container's start is reported, the same with each report", () => {
  using folder = new Folder();
  const table = MOUNTINFO("0:60 /proc/uptime /proc/uptime rw - fuse.lxcfs lxcfs rw");
  const reader = new HostReader({ root: tree(folder, { ...MACHINE, ...table }), mounts: [], space });
  const { boot_at } = reader.read().facts;
  expect(Math.abs(Date.now() - 12_345_670 - Date.parse(boot_at!))).toBeLessThan(60_000);
  tree(folder, { "proc/uptime": "12349.9 1.0\n" });
  expect(reader.read().facts.boot_at).toBe(boot_at);
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
    '#!/bin/sh\ncase "$*" in\n"is-active cloudflared") echo refreshing;;\n"is-active -- -.mount cloudflared") printf "active\\nfailed\\n";;\nesac\n',
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
