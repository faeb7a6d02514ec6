// What the agent reads of its host: /proc and /sys of other machines as fixture trees; systemd's units. Containers: agent/docker.test.ts.

import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Space } from "../../lib/agent/disks.ts";
import { HostReader } from "../../lib/agent/host.ts";
import { Folder } from "../kit.ts";

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
  "MemTotal:        8000000 kB\nMemFree:          500000 kB\nMemAvailable:    6000000 kB\nBuffers:  100000 kB\nCached:  900000 kB\nSwapTotal:  2048000 kB\nSwapFree:  1536000 kB\n";

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

const GIB = 2 ** 30;
/** What of a file system is used, and what is in all; a tenth of the rest is root's. */
const spaceOf = (used: number, total: number): Space => {
  return { used: used * GIB, total: total * GIB, free: (total - used) * 0.9 * GIB, inodes: 1000, freeInodes: 250 };
};

interface Options extends Partial<ConstructorParameters<typeof HostReader>[0]> {
  /** What changes within ten seconds. */
  later?: Record<string, string>;
}

/** A report's `host` and `services`, read from a tree of files. */
async function readHost(files: Record<string, string>, { later = {}, ...options }: Options = {}) {
  using folder = new Folder();
  let now = 0;
  const root = tree(folder, files);
  const space = () => spaceOf(25.5, 100);
  const reader = new HostReader({ root, disks: ["*"], omit: ["smart"], space, clock: () => now, ...options });
  tree(folder, later);
  now = 10_000;
  return await reader.read();
}

async function read(files: Record<string, string>, options?: Options) {
  const { metrics, facts } = (await readHost(files, options)).host;
  return { ...metrics, facts };
}

describe("hosts", () => {
  test("a machine", async () => {
    expect(await read(MACHINE, { later: { "proc/stat": STAT(1500, 9500) } })).toEqual({
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
      load_average_5: 0.4,
      load_average_15: 0.3,
      swap_used_mb: 500,
      swap_total_mb: 2000,
      cpu_iowait_percent: 0,
      cpu_steal_percent: 0,
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

  test("an ARM board: its temperature is a thermal zone's", async () => {
    const { "sys/class/hwmon/hwmon10/name": _, "sys/class/hwmon/hwmon10/temp1_input": __, ...board } = MACHINE;
    const zones = {
      "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
      "sys/class/thermal/thermal_zone0/temp": "60000\n",
      "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
      "sys/class/thermal/thermal_zone1/temp": "51540\n",
      "sys/class/thermal/cooling_device0/type": "fan\n",
    };
    expect((await read({ ...board, ...zones })).cpu_temp_c).toBe(51.5);
    expect((await read(board)).cpu_temp_c).toBeNull();
  });

  test("a container with limits of cgroup version 2", async () => {
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
    expect(await read({ ...rest, ...limits }, { later })).toMatchObject({
      // 7.5 s of 10 s on 1.5 CPUs
      cpu_percent: 50,
      memory_used_mb: 384,
      memory_total_mb: 1024,
      network_rx_bytes: 100,
      facts: { cpu_count: 2, memory_total_mb: 1024 },
    });
    expect(await read({ ...MACHINE, "sys/fs/cgroup/memory.max": "max\n" })).toMatchObject({ memory_total_mb: 7812 });
  });

  test("a container with limits of cgroup version 1, and a machine without", async () => {
    const limits = {
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
      "sys/fs/cgroup/memory/memory.usage_in_bytes": "1073741824\n",
      "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 268435456\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
      "sys/fs/cgroup/cpuacct/cpuacct.usage": "1000000000\n",
    };
    const later = { "sys/fs/cgroup/cpuacct/cpuacct.usage": "2000000000\n" };
    expect(await read({ ...MACHINE, ...limits }, { later })).toMatchObject({
      cpu_percent: 20,
      memory_used_mb: 768,
      memory_total_mb: 2048,
      facts: { cpu_count: 1 },
    });
    const none = {
      "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    };
    expect(await read({ ...MACHINE, ...none })).toMatchObject({ memory_total_mb: 7812, facts: { cpu_count: 4 } });
  });

  test("128 cores, no swap, an old kernel; nothing at all", async () => {
    expect((await read({ ...MACHINE, "proc/stat": STAT(1, 1, 128) })).facts.cpu_count).toBe(128);
    expect(
      await read({
        ...MACHINE,
        "proc/meminfo": "MemTotal:  4000 kB\nMemFree:   1024 kB\nBuffers:   0 kB\nCached:   1024 kB\n",
      }),
    ).toMatchObject({ memory_used_mb: 1 });
    const gone = () => {
      throw new Error("ENOENT");
    };
    const nothing = await read({}, { space: gone });
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
])("temperature: %s", async (_, sys, celsius) => expect((await read(sys)).cpu_temp_c).toBe(celsius));

test("a disk's temperature is read once an hour, so that the disk may sleep", async () => {
  using folder = new Folder();
  let now = 0;
  const sensors = chip(0, "name drivetemp", "temp1_input 33000");
  const reader = new HostReader({ root: tree(folder, sensors), disks: [], omit: ["smart"], clock: () => now });
  const celsius = async () => (await reader.read()).host.temperatures!.map((one) => one.celsius);
  expect(await celsius()).toEqual([33]);
  tree(folder, chip(0, "temp1_input 44000"));
  expect(await celsius()).toEqual([33]);
  now = 3_600_000;
  expect(await celsius()).toEqual([44]);
});

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
])("network: %s", async (_, cards, bytes) => {
  const sys = cards.flatMap(([name, , has = "ifindex"]) =>
    has
      .split(" ")
      .map((file) => [`sys/class/net/${name}/${file.split("=")[0]}`, `${file.split("=").slice(1).join("=")}\n`]),
  );
  const dev = DEV(cards.map(([name, count]) => net(name, count, count * 2)));
  const { network_rx_bytes, network_tx_bytes } = await read({ "proc/net/dev": dev, ...Object.fromEntries(sys) });
  expect([network_rx_bytes, network_tx_bytes]).toEqual([bytes, bytes * 2]);
});

const MOUNTINFO = (...lines: string[]) => ({
  "proc/self/mountinfo": `${lines.map((line) => `36 35 ${line}`).join("\n")}\n`,
});

test("a file system is listed once: pools, subvolumes, bind mounts; patterns choose", async () => {
  const table = MOUNTINFO(
    "254:1 / / ro,relatime shared:1 - ext4 /dev/mapper/vg0-root rw,errors=remount-ro",
    "254:1 /var/lib/app /var/lib/app rw - ext4 /dev/mapper/vg0-root rw",
    "254:2 /etc/hosts /etc/hosts rw - ext4 /dev/vdb rw",
    "0:51 / /tank rw - zfs tank rw",
    "0:52 / /tank/b\\040c rw - zfs tank/b rw,xattr",
    "0:53 / /other rw - zfs other rw",
    "0:40 /@home /home rw - btrfs /dev/sda2 ro,subvolid=257",
    "0:40 /@srv /srv/deep rw - btrfs /dev/sda2 rw",
    "0:60 / /run rw - tmpfs tmpfs rw",
    "7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro",
    "0:61 / /mnt/nas rw - nfs4 nas:/export rw",
  );
  const spaces: Record<string, Space> = {
    "/": spaceOf(3.6, 4),
    "/tank": spaceOf(100, 800),
    "/tank/b c": spaceOf(200, 900),
    "/other": spaceOf(5, 50),
    "/home": { ...spaceOf(1, 20), inodes: 0, freeInodes: 0 },
    "/run": spaceOf(0, 1),
  };
  const list = async (...disks: string[]) => {
    const { host } = await readHost({ ...MACHINE, ...table }, { disks, space: (mount) => spaces[mount]! });
    expect(host.metrics).toMatchObject({ disk_used_gb: 4, disk_total_gb: 4 });
    return host.disks!;
  };
  expect(await list("*")).toEqual([
    {
      mount: "/",
      device: "/dev/mapper/vg0-root",
      fstype: "ext4",
      used_gb: 3.6,
      total_gb: 4,
      used_percent: 90.9,
      inodes_used_percent: 75,
      read_only: false,
    },
    {
      mount: "/tank",
      device: "tank",
      fstype: "zfs",
      used_gb: 300,
      total_gb: 1000,
      used_percent: 32.3,
      inodes_used_percent: null,
      read_only: false,
    },
    expect.objectContaining({ mount: "/other", device: "other", used_gb: 5, total_gb: 50 }),
    expect.objectContaining({ mount: "/home", fstype: "btrfs", inodes_used_percent: null, read_only: true }),
  ]);
  const mounts = async (...disks: string[]) => (await list(...disks)).map(({ mount }) => mount);
  expect(await mounts("!/tank*", "!/home")).toEqual(["/", "/other"]);
  expect(await mounts("/t*", "/home")).toEqual(["/tank", "/home"]);
  expect(await mounts("/run", "/tank/b c", "/nowhere/else", "/")).toEqual(["/run", "/tank/b c", "/"]);
});

test("a local disk that hangs costs one report two seconds; the others are asked by processes meanwhile", async () => {
  const said: string[] = [];
  const asked: string[] = [];
  const space = async (mount: string): Promise<Space> => {
    asked.push(mount);
    return mount === "/stuck" ? new Promise<Space>(() => {}) : spaceOf(1, 2);
  };
  using folder = new Folder();
  const root = tree(folder, MOUNTINFO("254:1 / / rw - ext4 /dev/a rw", "254:2 / /stuck rw - xfs /dev/b rw"));
  const reader = new HostReader({ root, disks: ["*"], space, warn: (_, text) => said.push(text) });
  const mounts = async () => (await reader.read()).host.disks!.map(({ mount }) => mount);
  expect([await mounts(), await mounts(), await mounts()]).toEqual([["/"], ["/"], ["/"]]);
  expect(asked).toEqual(["/", "/stuck"]);
  expect(said).toEqual(['disk "/stuck" not read: no answer within 2 s']);
});

test("what the cache of ZFS can give back isn't used; in a container it is another's", async () => {
  const arc = {
    "proc/spl/kstat/zfs/arcstats":
      "13 1 0x01 147 39984 4 5\nname type data\nsize                            4    1073741824\nc_min                           4    268435456\n",
  };
  const used = async (more: Record<string, string>) => (await read({ ...MACHINE, ...more })).memory_used_mb;
  expect(await used({})).toBe(1953);
  expect(await used(arc)).toBe(1953 - 768);
  expect(await used({ ...arc, ...MOUNTINFO("0:60 /proc/meminfo /proc/meminfo rw - fuse.lxcfs lxcfs rw") })).toBe(1953);
});

test("counters that go back don't count: iowait after a moment of idleness", async () => {
  const stat = (...times: number[]) => ({ "proc/stat": `cpu  ${times.join(" ")} 0 0 0 0\n` });
  const shares = async (from: number[], to: number[]) => {
    const { cpu_percent, cpu_iowait_percent, cpu_steal_percent } = await read(stat(...from), { later: stat(...to) });
    return [cpu_percent, cpu_iowait_percent, cpu_steal_percent];
  };
  expect(await shares([1000, 0, 0, 9000, 500], [1100, 0, 0, 9300, 100])).toEqual([25, 0, 0]);
  expect(await shares([1000, 0, 0, 9000, 500], [1000, 0, 0, 9000, 100])).toEqual([null, null, null]);
  expect(await shares([1000, 0, 0, 9000, 500, 0, 0, 7], [1100, 0, 0, 9200, 600, 0, 0, 107])).toEqual([40, 20, 20]);
});

test("under lxcfs the container's start is reported, the same with each report", async () => {
  using folder = new Folder();
  const table = MOUNTINFO("0:60 /proc/uptime /proc/uptime rw - fuse.lxcfs lxcfs rw");
  const reader = new HostReader({ root: tree(folder, { ...MACHINE, ...table }), disks: [] });
  const boot = async () => (await reader.read()).host.facts.boot_at;
  const boot_at = await boot();
  expect(Math.abs(Date.now() - 12_345_670 - Date.parse(boot_at!))).toBeLessThan(60_000);
  tree(folder, { "proc/uptime": "12349.9 1.0\n" });
  expect(await boot()).toBe(boot_at);
});

test("folders on one file system count once: where a disk isn't mounted lies the one above", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("not-mounted"));
  const said: string[] = [];
  const disksOf = async (...disks: string[]) =>
    (await new HostReader({ root: "/", disks, warn: (_, text) => said.push(text) }).read()).host.disks!;
  const [one] = await disksOf(folder.path);
  expect(one!.total_gb).toBeGreaterThan(0);
  expect(await disksOf(folder.path, folder.at("not-mounted"))).toMatchObject([{ total_gb: one!.total_gb }]);
  expect(said).toEqual([]);
  expect(await disksOf(folder.at("missing"))).toEqual([]);
  expect(said).toEqual([expect.stringMatching(/^disk ".*missing" not read: ENOENT/)]);
});

test("more memory available than there is means that none is used: the receiver would refuse the report for less than none", async () => {
  const { memory_used_mb, memory_total_mb } = await read({
    "proc/meminfo": "MemTotal:        1024000 kB\nMemAvailable:    2048000 kB\n",
  });
  expect([memory_used_mb, memory_total_mb]).toEqual([0, 1000]);
});
