// Fleets to look at: a homelab, 200 hosts, everything wrong at once, hostile texts. What is now comes in by the front door; what was,
// is written into the store as history.ts and ping.ts do.

import { METRICS } from "../../../lib/report.ts";
import { until } from "../../kit.ts";
import { Hub, addHosts, archive, container, report } from "../kit.ts";
import type { Hand } from "../store-kit.ts";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** For a receiver that is to take a fleet at once, and whose alerts don't wait. */
export const FLEET = `rate_limit_per_minute: 1000000
alerts: { for_minutes: 0, cpu_percent: 95, memory_percent: 95, swap_percent: 90, load_per_cpu: 4 }`;

/** A receiver with these hosts, none of which has reported. */
export async function openFleet(hosts: string[], more = ""): Promise<Hub> {
  const hub = new Hub({ more: `${FLEET}\n${more}` });
  // Makes the store.
  await hub.addHost(hosts[0] ?? "nas");
  addHosts(hub, hosts.slice(1));
  // As if the receiver had run for long: a host can't be silent for longer than that.
  const life = JSON.stringify({ ran: 30 * DAY, line: Date.now(), doubted: null });
  hub.change((db) => {
    db.run("DELETE FROM meta WHERE key = 'alive'");
    db.run("INSERT INTO meta (key, value) VALUES ('alive', ?)", [life]);
    db.run("UPDATE hosts SET created_at = ?", [Date.now() - 40 * DAY]);
  });
  await hub.up();
  return hub;
}

// ---------------------------------------------------------------------------------------------------------------
// Figures, the same in each run

/** From -1 to 1: a slow and a quick wave, and noise. */
function sway(seed: number, at: number): number {
  const minute = at / MINUTE;
  const noise = Math.abs(Math.sin(minute * 12.9898 + seed * 78.233) * 43758.5453) % 1;
  return 0.5 * Math.sin(minute / 229 + seed) + 0.3 * Math.sin(minute / 47 + 2 * seed) + 0.4 * (noise - 0.5);
}

/** A counter that grows by about `rate` a second. */
const grown = (rate: number, seed: number, at: number) =>
  Math.round(
    rate * ((at % (400 * DAY)) / 1000 + 900 * Math.sin(at / MINUTE / 61 + seed) + 60 * Math.sin(at / MINUTE / 5)),
  );

interface Load {
  seed: number;
  cpu: number;
  /** Percent of `memoryMb`. */
  memory: number;
  memoryMb: number;
  /** Of the root. */
  diskGb: number;
  totalGb: number;
  /** The fullest mount, and GiB used of it. */
  fullest: [mount: string, used: number];
  celsius: number | null;
  rate: number;
}

function metricsAt({ seed, cpu, memory, memoryMb, diskGb, totalGb, celsius, rate }: Load, at: number) {
  return {
    cpu_percent: round(Math.min(100, Math.max(0.2, cpu * (1 + 0.7 * sway(seed, at))))),
    memory_used_mb: Math.round((memoryMb * (memory + 5 * sway(seed + 1, at))) / 100),
    memory_total_mb: memoryMb,
    disk_used_gb: Math.round(diskGb),
    disk_total_gb: totalGb,
    network_rx_bytes: grown(rate, seed, at),
    network_tx_bytes: grown(rate / 3, seed + 1, at),
    uptime_seconds: Math.round((at % (100 * DAY)) / 1000),
    load_average: Math.round(Math.max(1, cpu * 4 * (1 + 0.7 * sway(seed + 2, at)))) / 100,
    cpu_temp_c: celsius === null ? null : round(celsius + 4 * sway(seed, at)),
  };
}

const round = (value: number) => Math.round(value * 10) / 10;

/** What `workload_samples` has of a container: CONTAINER_METRICS, then memory_percent. */
function containerAt(id: number, at: number): number[] {
  const used = 40 + (id % 7) * 60 * (1 + 0.2 * sway(id, at));
  const counters = [8000, 3000, 500, 900].map((rate, n) => grown(rate, id + n, at));
  return [round(2 * (1 + sway(id, at))), Math.round(used), 512, ...counters, round((used / 512) * 100)];
}

const idOf = (db: Hand, host: string): number =>
  (db.query("SELECT id FROM hosts WHERE name = ?").all(host) as { id: number }[])[0]!.id;
const containersOf = (db: Hand, host: number) =>
  db.query("SELECT id FROM containers WHERE host = ? AND gone_at IS NULL").all(host) as { id: number }[];

/** A sample a minute of the last hours of hosts that have reported. */
export function writeHours(hub: Hub, hosts: Record<string, Load>, hours: number, now = Date.now()): void {
  const [marks, end] = [METRICS.map(() => "?").join(", "), now - MINUTE];
  hub.change((db) => {
    const host = db.query(
      `INSERT INTO host_samples (host, at, ${METRICS.join(", ")}) VALUES (?, ?, ${marks}) ON CONFLICT DO NOTHING`,
    );
    const workload = db.query(
      "INSERT INTO workload_samples (host, at, containers, guests) VALUES (?, ?, ?, '{}') ON CONFLICT DO NOTHING",
    );
    const filled = db.query(
      "INSERT INTO disk_history (host, mount, samples) VALUES (?, ?, ?) ON CONFLICT (host, mount) DO UPDATE SET samples = excluded.samples",
    );
    for (const [name, load] of Object.entries(hosts)) {
      const id = idOf(db, name);
      const containers = containersOf(db, id);
      for (let at = end - hours * HOUR; at <= end; at += MINUTE) {
        const metrics = metricsAt(load, at);
        host.run(id, at, ...METRICS.map((metric) => metrics[metric]));
        if (containers.length === 0) continue;
        workload.run(
          id,
          at,
          JSON.stringify(Object.fromEntries(containers.map((one) => [one.id, containerAt(one.id, at)]))),
        );
      }
      rollUp(db, name, load, { step: 600, from: end - hours * HOUR, to: now });
      const [mount, used] = load.fullest;
      const samples = Array.from({ length: 36 }, (_, n) => [
        now - (36 - n) * 10 * MINUTE,
        round(used * (1 - (36 - n) / 6000)),
      ]);
      filled.run(id, mount, JSON.stringify(samples));
    }
  });
}

/** A year of rollups of a host that has reported, with a week without any. */
export function writeYear(hub: Hub, name: string, load: Load, now = Date.now()): void {
  hub.change((db) => {
    for (const [step, days] of [
      [600, 30],
      [3600, 366],
      [86_400, 366],
    ] as const) {
      rollUp(db, name, load, { step, from: now - days * DAY, to: now - 107 * DAY });
      rollUp(db, name, load, { step, from: now - Math.min(days, 100) * DAY, to: now });
    }
  });
}

/** The rollups of whole steps in a span of time. */
function rollUp(
  db: Hand,
  name: string,
  load: Load,
  { step, from, to }: { step: number; from: number; to: number },
): void {
  const id = idOf(db, name);
  const containers = containersOf(db, id);
  const addHost = db.query(
    "INSERT INTO host_rollups (host, step, at, metrics) VALUES (?, ?, ?, ?) ON CONFLICT (host, step, at) DO UPDATE SET metrics = excluded.metrics",
  );
  const add = db.query(
    "INSERT INTO workload_rollups (host, step, at, containers) VALUES (?, ?, ?, ?) ON CONFLICT (host, step, at) DO UPDATE SET containers = excluded.containers",
  );
  const width = step * 1000;
  for (let at = Math.ceil(from / width) * width; at + width <= to; at += width) {
    const moments = Array.from({ length: SAMPLED }, (_, n) => at + (n * width) / SAMPLED);
    const metrics = moments.map((one) => metricsAt(load, one));
    addHost.run(
      id,
      step,
      at,
      JSON.stringify(Object.fromEntries(METRICS.map((metric) => [metric, summary(metrics.map((one) => one[metric]))]))),
    );
    const each = containers.map(({ id: one }) => {
      const figures = moments.map((moment) => containerAt(one, moment));
      const of = (column: number) => summary(figures.map((all) => all[column]!));
      return [one, { cpu_percent: of(0), memory_usage_mb: of(1), memory_percent: of(7) }];
    });
    if (each.length > 0) add.run(id, step, at, JSON.stringify(Object.fromEntries(each)));
  }
}

/** So many of a rollup's samples are made. */
const SAMPLED = 6;

/** min, mean, max and count, as a rollup has them; undefined where nothing is known. */
function summary(values: (number | null)[]): number[] | undefined {
  const known = values.filter((value) => value !== null);
  if (known.length === 0) return undefined;
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return [Math.min(...known), mean, Math.max(...known), known.length];
}

// ---------------------------------------------------------------------------------------------------------------
// A homelab

const disk = (mount: string, used_gb: number, total_gb: number, more = {}) => ({
  mount,
  device: "/dev/sda1",
  fstype: "ext4",
  used_gb,
  total_gb,
  used_percent: round((used_gb / total_gb) * 100),
  inodes_used_percent: 4,
  read_only: false,
  ...more,
});
/** A container with figures like those of its history. */
function live(name: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  const [cpu, used, limit, ...counters] = containerAt(name.length, Date.now());
  const [rx, tx, read, written] = counters;
  const metrics = {
    cpu_percent: cpu,
    memory_usage_mb: used,
    memory_limit_mb: limit,
    network_rx_bytes: rx,
    network_tx_bytes: tx,
    block_read_bytes: read,
    block_write_bytes: written,
  };
  return container(name, { metrics, started_at: ago(3 * HOUR), ...more });
}
const unit = (name: string, more = {}) => ({
  name,
  state: "active",
  sub: "running",
  since: ago(30 * HOUR),
  detail: null,
  ...more,
});
const failed = (name: string) =>
  unit(name, { state: "failed", sub: "failed", since: ago(40 * MINUTE), detail: "exit 1" });
const ago = (ms: number) => new Date(Date.now() - ms).toISOString();
const processes = (...names: string[]) =>
  names.map((name, n) => ({ name, pid: 800 + 311 * n, cpu_percent: round(20 / (n + 1)), memory_mb: 900 - 130 * n }));

export const LOADS = {
  nas: {
    seed: 1,
    cpu: 14,
    memory: 52,
    memoryMb: 32_060,
    diskGb: 38,
    totalGb: 117,
    fullest: ["/tank", 21_862],
    celsius: 44,
    rate: 900_000,
  },
  pi: {
    seed: 2,
    cpu: 6,
    memory: 38,
    memoryMb: 7812,
    diskGb: 24,
    totalGb: 58,
    fullest: ["/", 23.7],
    celsius: 51,
    rate: 40_000,
  },
  "web-1": {
    seed: 3,
    cpu: 23,
    memory: 61,
    memoryMb: 3915,
    diskGb: 17,
    fullest: ["/", 16.8],
    totalGb: 39,
    celsius: null,
    rate: 250_000,
  },
} satisfies Record<string, Load>;

/** What the hosts of a homelab report. */
function homelab(): Record<keyof typeof LOADS, { facts: object; lists: object; rest: object }> {
  return {
    nas: {
      facts: {
        cpu_count: 8,
        memory_total_mb: 32_060,
        os: "Debian GNU/Linux 12",
        kernel: "6.1.0-28-amd64",
        arch: "x64",
        docker_version: "27.3.1",
      },
      lists: {
        disks: [
          disk("/", 38.2, 116.6),
          disk("/tank", 21_862, 23_984, { device: "tank", fstype: "zfs" }),
          disk("/boot", 0.2, 0.9, { device: "/dev/sda2" }),
        ],
        devices: ["sda", "sdb", "sdc", "nvme0n1"].map((name, n) => ({
          name,
          read_bytes: grown(4e6, n, Date.now()),
          write_bytes: grown(1e6, n, Date.now()),
          busy_ms: grown(40, n, Date.now()),
        })),
        interfaces: [
          {
            name: "eno1",
            rx_bytes: grown(9e5, 1, Date.now()),
            tx_bytes: grown(3e5, 2, Date.now()),
            up: true,
            speed_mbit: 2500,
            counted: true,
          },
          { name: "eno2", rx_bytes: 0, tx_bytes: 0, up: false, speed_mbit: null, counted: true },
        ],
        temperatures: [
          { chip: "coretemp", label: "Package id 0", celsius: 44, high: 80, critical: 100 },
          { chip: "nvme", label: "Composite", celsius: 39.9, high: 81.8, critical: 84.8 },
          { chip: "drivetemp", label: "sda", celsius: 36, high: 55, critical: 60 },
        ],
        units: [
          failed("samba.service"),
          unit("nfs-server.service", { sub: "exited" }),
          unit("docker.service"),
          unit("zfs-zed.service"),
          unit("ssh.service"),
        ],
        processes: processes("jellyfin", "immich", "postgres", "smbd", "syncthing"),
        pools: [{ name: "tank", kind: "zfs", state: "online", detail: null }],
        smart: ["sda", "sdb", "sdc"].map((device, n) => ({
          device,
          model: "WDC WD80EFAX-68KNBN0",
          passed: true,
          temperature: 35 + n,
          power_on_hours: 31_404 + 7 * n,
          wear_percent: null,
          errors: 0,
        })),
        power: [{ name: "ups", kind: "ups", state: "charging", percent: 100, online: true }],
      },
      rest: {
        containers: [
          live("jellyfin", {
            image: "docker.io/jellyfin/jellyfin",
            image_tag: "10.10.3",
            health_status: "healthy",
            ports: [{ private: 8096, public: 8096, type: "tcp" }],
            labels: { "com.docker.compose.project": "media" },
          }),
          live("immich-server", {
            image: "ghcr.io/immich-app/immich-server",
            image_tag: "v1.122.1",
            health_status: "unhealthy",
            status: "Up 2 days (unhealthy)",
            labels: { "com.docker.compose.project": "immich" },
          }),
          live("immich-postgres", {
            image: "docker.io/library/postgres",
            image_tag: "16",
            health_status: "healthy",
            ports: [],
            labels: { "com.docker.compose.project": "immich" },
          }),
          live("paperless", {
            image: "ghcr.io/paperless-ngx/paperless-ngx",
            image_tag: "2.13",
            labels: { "com.docker.compose.project": "paperless" },
          }),
          live("old-wiki", {
            image: "docker.io/library/dokuwiki",
            image_tag: "2023",
            state: "exited",
            status: "Exited (0) 5 weeks ago",
            ports: [],
            metrics: null,
          }),
        ],
        guests: [
          {
            vmid: 101,
            name: "home-assistant",
            kind: "qemu",
            status: "running",
            spec: { cores: 2, memory_mb: 4096, disk_gb: 32 },
          },
          {
            vmid: 102,
            name: "forgejo",
            kind: "lxc",
            status: "running",
            spec: { cores: 2, memory_mb: 2048, disk_gb: 64 },
          },
          {
            vmid: 110,
            name: "sandbox",
            kind: "lxc",
            status: "stopped",
            spec: { cores: 1, memory_mb: 512, disk_gb: 8 },
          },
        ],
      },
    },
    pi: {
      facts: {
        cpu_count: 4,
        memory_total_mb: 7812,
        os: "Raspbian GNU/Linux 12",
        kernel: "6.6.51+rpt-rpi-v8",
        arch: "arm64",
      },
      lists: {
        disks: [
          disk("/", 23.7, 57.9, { device: "/dev/mmcblk0p2" }),
          disk("/boot/firmware", 0.1, 0.5, { device: "/dev/mmcblk0p1", fstype: "vfat" }),
        ],
        interfaces: [
          {
            name: "eth0",
            rx_bytes: grown(4e4, 1, Date.now()),
            tx_bytes: grown(1e4, 2, Date.now()),
            up: true,
            speed_mbit: 1000,
            counted: true,
          },
        ],
        temperatures: [{ chip: "cpu_thermal", label: "temp1", celsius: 51, high: null, critical: 110 }],
        units: [unit("pihole-FTL.service"), unit("ssh.service")],
        processes: processes("pihole-FTL", "unbound"),
      },
      rest: { containers: [] },
    },
    "web-1": {
      facts: {
        cpu_count: 2,
        memory_total_mb: 3915,
        os: "Debian GNU/Linux 12",
        kernel: "6.1.0-28-cloud-amd64",
        arch: "x64",
        docker_version: "27.3.1",
      },
      lists: {
        disks: [disk("/", 16.8, 38.6, { device: "/dev/vda1" })],
        interfaces: [
          {
            name: "ens3",
            rx_bytes: grown(2.5e5, 1, Date.now()),
            tx_bytes: grown(8e4, 2, Date.now()),
            up: true,
            speed_mbit: null,
            counted: true,
          },
        ],
        units: [unit("caddy.service"), unit("docker.service"), unit("ssh.service")],
        processes: processes("caddy", "node", "postgres"),
      },
      rest: {
        containers: ["shop", "shop-db", "plausible"].map((name) => live(name, { health_status: "healthy" })),
      },
    },
  };
}

const JOBS: { name: string; flags: string[]; every: number; took: number; fails: number[] }[] = [
  {
    name: "backup-nas",
    flags: ["--schedule", "0 3 * * *", "--tz", "Europe/Berlin", "--grace", "2h"],
    every: DAY,
    took: 12 * MINUTE,
    fails: [4],
  },
  { name: "certificates", flags: ["--every", "7d", "--grace", "1d"], every: 7 * DAY, took: 8000, fails: [] },
  { name: "scrub-tank", flags: ["--every", "30d", "--grace", "3d"], every: 30 * DAY, took: 9 * HOUR, fails: [0] },
];

/** So many runs of a job, the last one by the front door. */
async function runJob(hub: Hub, { name, flags, every, took, fails }: (typeof JOBS)[number], runs = 14): Promise<void> {
  const { stdout } = await hub.run("job", "add", name, ...flags, "--url", hub.url);
  const url = /http\S+/.exec(stdout)![0];
  hub.change((db) => {
    const add = db.query(
      `INSERT INTO job_pings (job, at, kind, exit_status, duration_ms, ip, agent, body)
       SELECT id, ?, ?, ?, ?, '192.0.2.7', 'curl/7.88.1', ? FROM jobs WHERE name = ?`,
    );
    for (let run = runs; run > 0; run--) {
      const bad = fails.includes(run);
      const body = bad
        ? "Fatal: unable to open repository: connection refused"
        : `run ${runs - run + 1}: 41.2 GiB, 312 new files`;
      add.run(
        Date.now() - run * every - (run % 3) * MINUTE,
        bad ? "fail" : "success",
        bad ? 1 : 0,
        took * (1 + (run % 5) / 20),
        body,
        name,
      );
    }
    db.run("UPDATE jobs SET pings = ? WHERE name = ?", [runs, name]);
  });
  const answer = await fetch(fails.includes(0) ? `${url}/fail` : url, {
    method: "POST",
    body: fails.includes(0)
      ? "scrub: 3 errors on sdb, see zpool status tank"
      : "snapshot 4f0c2a11 saved\nadded 1.204 GiB in 12:03",
  });
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${await answer.text()}`);
}

/** Reports as the host says, with the figures of its load. */
async function tell(hub: Hub, host: string, load: Load, { facts = {}, lists = {}, rest = {} } = {}): Promise<void> {
  const now = Date.now();
  const body = report({ interval_seconds: 600, host: { metrics: metricsAt(load, now), facts, ...lists }, ...rest });
  const answer = await hub.report(body, { host });
  if (answer.status !== 200) throw new Error(`${host}: ${await answer.text()}`);
}

/** nas with troubles, pi that is offline or not, web-1 that is fine; with jobs, episodes, and hours of history. */
export async function seedHomelab({ hours = 26, offline = true, more = "" } = {}): Promise<Hub> {
  const hub = await openFleet(Object.keys(LOADS), more);
  const hosts = homelab();
  for (const host of Object.keys(LOADS) as (keyof typeof LOADS)[]) await tell(hub, host, LOADS[host], hosts[host]);
  writeHours(hub, LOADS, hours);
  for (const job of JOBS) await runJob(hub, job);
  for (const [episode, content] of Object.entries({ "deploy-0041": "ok", "deploy-0042": "rolled back" })) {
    const answer = await hub.ship(episode, await archive(content));
    if (!answer.ok) throw new Error(`${episode}: ${await answer.text()}`);
  }
  const checks = [
    { name: "clock", state: "green", detail: "0.02 s ahead" },
    { name: "queue", state: "yellow", detail: "3 episodes wait" },
  ];
  await fetch(`${hub.url}/v1/host-health`, {
    method: "POST",
    headers: hub.bearer("nas"),
    body: JSON.stringify({ checks }),
  });
  if (offline) await silence(hub, "pi", HOUR);
  return hub;
}

/** As if a host had been silent for so long; waits until the receiver has seen it. */
export async function silence(hub: Hub, host: string, ms: number): Promise<void> {
  hub.change((db) =>
    db.run("UPDATE hosts SET heard_ms = heard_ms - ?, last_seen_at = last_seen_at - ? WHERE name = ?", [ms, ms, host]),
  );
  await until(
    `${host} is offline`,
    () => hub.rows(`SELECT 1 FROM hosts WHERE name = '${host}' AND status = 'offline'`).length > 0,
  );
}

/** As if what was told, each alert and each ping had come so many minutes after the one before it, the last of them so long ago. */
export function spread(hub: Hub, minutes: number): void {
  const past = (table: string) =>
    `(SELECT COUNT(*) FROM ${table} later WHERE later.id >= ${table}.id) * ${minutes * MINUTE}`;
  hub.change((db) => {
    db.run(`UPDATE events SET at = at - ${past("events")}`);
    db.run(`UPDATE alerts SET opened_at = opened_at - ${past("alerts")}`);
    db.run(`UPDATE jobs SET last_ping_at = last_ping_at - 9 * ${past("jobs")}, down_at = down_at - ${past("jobs")}`);
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Many hosts

export const manyHosts = (count: number) =>
  Array.from({ length: count }, (_, n) => `host-${String(n + 1).padStart(3, "0")}`);

export const loadOf = (seed: number): Load => ({
  seed,
  cpu: 5 + ((seed * 7) % 60),
  memory: 20 + ((seed * 13) % 60),
  memoryMb: 8000,
  diskGb: 20 + ((seed * 11) % 60),
  totalGb: 100,
  fullest: ["/", 20 + ((seed * 11) % 60)],
  celsius: seed % 3 === 0 ? null : 40 + (seed % 20),
  rate: 100_000,
});

/** A host of many reports. */
export function tellOneOfMany(hub: Hub, host: string, seed: number, containers: number): Promise<void> {
  return tell(hub, host, loadOf(seed), {
    facts: { cpu_count: 4, os: "Debian GNU/Linux 12", arch: "x64" },
    lists: {
      disks: [disk("/", 20 + ((seed * 11) % 60), 100), disk("/srv", 10, 100)],
      units: seed % 40 === 7 ? [failed("caddy.service")] : [],
    },
    rest: {
      containers: Array.from({ length: containers }, (_, n) =>
        container(`service-${n}`, seed % 50 === 9 && n < 2 ? { health_status: "unhealthy" } : {}),
      ),
    },
  });
}

/** Hosts with containers and three hours of history each; a few have troubles. */
export async function seedMany({ hosts = 200, containers = 30, more = "" } = {}): Promise<Hub> {
  const names = manyHosts(hosts);
  const hub = await openFleet(names, more);
  for (let at = 0; at < hosts; at += 20) {
    await Promise.all(names.slice(at, at + 20).map((host, n) => tellOneOfMany(hub, host, at + n, containers)));
  }
  writeHours(hub, Object.fromEntries(names.map((name, seed) => [name, loadOf(seed)])), 3);
  return hub;
}

// ---------------------------------------------------------------------------------------------------------------
// Everything wrong, and hostile texts

interface Wrong {
  /** More lines of the configuration. */
  more?: string;
  /** What a host or a stranger says in place of a harmless text. */
  text?: (harmless: string) => string;
}

/** Each alert that a report can raise, on each of two hosts, of which one is paused; a job that failed. */
export async function seedWrong({ more = "", text = (harmless) => harmless }: Wrong = {}): Promise<Hub> {
  const hosts = ["nas", "pi"];
  const hub = await openFleet([...hosts, "not-yet"], more);
  const name = (harmless: string, most = 255) => text(harmless).slice(0, most);
  const load: Load = {
    seed: 4,
    cpu: 100,
    memory: 99,
    memoryMb: 4000,
    diskGb: 99,
    totalGb: 100,
    fullest: ["/", 99.4],
    celsius: 105,
    rate: 1e6,
  };
  const ill = [
    container(name("ill"), {
      container_id: "1",
      health_status: "unhealthy",
      image: name("image"),
      labels: { [text("key")]: text("value") },
    }),
    container(name("stopped"), { container_id: "2", image_tag: name("tag", 128) }),
  ];
  const stopped = [ill[0], { ...ill[1], state: "exited", status: "Exited (137) 2 minutes ago" }];
  for (const host of hosts) {
    const rest = { guests: [{ vmid: 100, name: name("guest"), kind: "qemu", status: "io-error" }] };
    await tell(hub, host, load, { rest: { ...rest, containers: ill } });
    await tell(hub, host, load, {
      facts: { cpu_count: 1, os: name("Debian", 80), kernel: name("kernel"), arch: name("arch", 64) },
      lists: {
        metrics: {
          ...metricsAt(load, Date.now()),
          cpu_percent: 99.9,
          load_average: 40,
          swap_used_mb: 990,
          swap_total_mb: 1000,
        },
        disks: ["/", "/srv", text("/mnt")].map((mount, n) =>
          disk(mount, 99.4 - n, 100, { device: text("sda"), inodes_used_percent: 98 }),
        ),
        interfaces: [{ name: text("eth"), rx_bytes: 1, tx_bytes: 1, up: true, speed_mbit: 10, counted: true }],
        devices: [{ name: text("dev"), read_bytes: 1, write_bytes: 1, busy_ms: 1 }],
        temperatures: [{ chip: text("chip"), label: text("label"), celsius: 105, high: 80, critical: 100 }],
        units: ["caddy.service", "docker.service", text("unit")].map((one) => ({
          ...failed(one),
          detail: text("exit 1"),
        })),
        pools: [{ name: text("tank"), kind: "zfs", state: "degraded", detail: text("one of two devices is gone") }],
        smart: [
          {
            device: text("sdb"),
            model: text("model"),
            passed: false,
            temperature: 70,
            power_on_hours: 80_000,
            wear_percent: 101,
            errors: 42,
          },
        ],
        processes: [{ name: text("process"), pid: 1, cpu_percent: 100, memory_mb: 3900 }],
      },
      rest: { ...rest, containers: stopped },
    });
    const checks = [{ name: text("clock"), state: "red", detail: text("3 hours behind") }];
    await fetch(`${hub.url}/v1/host-health`, {
      method: "POST",
      headers: hub.bearer(host),
      body: JSON.stringify({ checks }),
    });
    await hub.ship(`episode-${host}`, await archive("content", { code_version: { commit: name("a".repeat(40)) } }), {
      host,
    });
  }
  await runJob(hub, { ...JOBS[2]!, name: "scrub-tank" }, 3);
  const { stdout } = await hub.run("job", "add", "says-much", "--every", "1d", "--url", hub.url);
  await fetch(/http\S+/.exec(stdout)![0], { method: "POST", body: text("body") });
  await hub.run("host", "pause", hosts.at(-1)!, "2h", "--reason", name("a new kernel", 200));
  return hub;
}

/** Texts that want to be more than text. */
const HOSTILE = [
  `<script>document.title = "taken"; alert(1)</script>`,
  `"><img src=x onerror=alert(1)>'--`,
  "\u202egnp.exe\u202c \u2067\u05e9\u05dc\u05d5\u05dd \u200f\u0645\u0631\u062d\u0628\u0627",
  "A".repeat(10_000),
  "</td></table></main></template><h1>out</h1>",
  "javascript:alert(1)//; rm -rf /; `reboot`",
];

/** Each text made a hostile one, in turn. */
export function hostile(): (harmless: string) => string {
  let n = 0;
  return (harmless) => `${harmless} ${HOSTILE[n++ % HOSTILE.length]}`;
}
