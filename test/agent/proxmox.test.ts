// A Proxmox node, by answers as its API gives them in versions 6 to 9, over real TLS. Not tested here: a real Proxmox VE.

import { describe, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { Proxmox } from "../../lib/agent/proxmox.ts";
import { Secret } from "../../lib/secret.ts";
import { FakeHub } from "./kit.ts";
import { Folder, certificates, have, runRole, startRole, until } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";

const TOKEN = "root@pam!picket=0e1f2a3b-0000-4000-8000-0123456789ab";

type Answers = Record<string, unknown>;

/** What a version answers; a missing path is 404, a number is that status. */
const VERSIONS: Record<string, Answers> = {
  "6": {
    "/status": {
      cpu: 0.0412,
      uptime: 86_400,
      loadavg: ["0.25", "0.30", "0.35"],
      memory: { total: 16_777_216_000, used: 4_294_967_296, free: 12_482_248_704 },
      rootfs: { total: 100_000_000_000, used: 25_000_000_000, avail: 75_000_000_000, free: 75_000_000_000 },
      cpuinfo: { cpus: 8, cores: 4, sockets: 1, model: "a processor" },
      kversion: "Linux 5.4.106-1-pve #1 SMP PVE 5.4.106-1 (Fri, 19 Mar 2021 11:08:47 +0100)",
      pveversion: "pve-manager/6.4-4/337d6701",
    },
    "/lxc": [
      {
        vmid: "101",
        name: "dns",
        status: "running",
        cpus: "2",
        maxmem: "536870912",
        maxdisk: "8589934592",
        type: "lxc",
      },
    ],
    "/qemu": [
      {
        vmid: "100",
        name: "web",
        status: "stopped",
        cpus: 4,
        maxmem: 2_147_483_648,
        maxdisk: 34_359_738_368,
        pid: "1",
      },
    ],
    "/lxc/101/config": {
      memory: "512",
      swap: "512",
      rootfs: "local-lvm:vm-101-disk-0,size=8G",
      mp0: "tank:a,size=512M",
    },
    "/qemu/100/config": {
      memory: 2048,
      cores: "2",
      sockets: "2",
      scsi0: "local-lvm:vm-100-disk-0,size=32G",
      ide2: "local:iso/debian.iso,media=cdrom,size=378M",
      unused0: "local-lvm:vm-100-disk-1",
    },
    "/storage": [],
  },
  "8": {
    "/status": {
      cpu: "0.5",
      uptime: "120",
      loadavg: ["1.50", "1.0", "0.5"],
      memory: { total: 8_589_934_592, used: 1_073_741_824 },
      rootfs: { total: 10_737_418_240, used: 1 },
      cpuinfo: { cpus: 4 },
      "current-kernel": { release: "6.8.12-4-pve", sysname: "Linux", machine: "x86_64" },
      kversion: "Linux 6.8.12-4-pve #1 SMP",
      pveversion: "pve-manager/8.3.0/c1689ccb1065a83b",
    },
    "/lxc": [{ vmid: 200, name: "quiet", status: "stopped", cpus: 4 }],
    "/qemu": [
      { vmid: 201, name: "locked", status: "running", cpus: 1, maxmem: 1_073_741_824 },
      { vmid: 202, name: "odd" },
      { vmid: 203, name: "machine", status: "running", cpus: 6 },
    ],
    "/lxc/200/config": { rootfs: "local:200/vm-200-disk-0.raw,size=1T", memory: "1024" },
    "/qemu/201/config": 403,
    "/qemu/202/config": {},
    "/qemu/203/config": { memory: "current=4096", cores: 6, virtio0: "a:b,iothread=1,size=10G", sata1: "a:c,size=6G" },
    "/storage": [
      {
        storage: "pbs",
        type: "pbs",
        content: "backup",
        active: 1,
        enabled: 1,
        shared: 1,
        total: 2_000_000_000_000,
        used: "500000000000",
        avail: 1_500_000_000_000,
      },
      { storage: "local-lvm", type: "lvmthin", content: "rootdir,images", active: 1, enabled: 1, shared: 0 },
      { storage: "away", type: "nfs", content: "backup,iso", active: 0, enabled: 1, shared: 1 },
    ],
    "/storage/pbs/content": [
      { volid: "pbs:backup/vm/201/2026-01-30T12:00:00Z", vmid: 201, ctime: 1_769_774_400, size: 5 },
      {
        volid: "pbs:backup/vm/201/2026-01-31T12:00:00Z",
        vmid: "201",
        ctime: "1769860800",
        size: "1073741824",
        verification: { state: "ok", upid: "x" },
      },
      { volid: "pbs:backup/ct/200/2026-01-31T12:00:00Z", vmid: 200, ctime: 1_769_860_800, size: 7 },
    ],
  },
};

// 7 answers as 6 does, with more figures as numbers; 9 as 8 does, with what is available of the memory told, too.
VERSIONS["7"] = {
  ...VERSIONS["6"],
  "/lxc": [{ vmid: 101, name: "dns", status: "running", cpus: 2, maxmem: 536_870_912, maxdisk: 8_589_934_592 }],
};

VERSIONS["9"] = {
  ...VERSIONS["8"],
  "/status": {
    ...(VERSIONS["8"]!["/status"] as object),
    memory: { total: 8_589_934_592, used: 1_073_741_824, available: 7_516_192_768 },
    pveversion: "pve-manager/9.0.3/025864202ebb6109",
  },
};

/** A node's API over TLS; what it was asked is kept. */
function node(folder: Folder, answers: Answers) {
  const asked: string[] = [];
  const secrets: (string | null)[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: { cert: Bun.file(folder.at("server.pem")), key: Bun.file(folder.at("server.key")) },
    fetch(request) {
      const { pathname } = new URL(request.url);
      asked.push(`${request.method} ${pathname}`);
      secrets.push(request.headers.get("authorization"));
      if (request.headers.get("authorization") !== `PVEAPIToken=${TOKEN}`) return new Response("", { status: 401 });
      const answer = answers[pathname.replace("/api2/json/nodes/pve1", "")];
      if (answer === undefined) return new Response('{"data":null}', { status: 404 });
      if (typeof answer === "number") return new Response('{"data":null}', { status: answer });
      return typeof answer === "string" ? new Response(answer) : Response.json({ data: answer });
    },
  });
  return {
    server,
    asked,
    secrets,
    endpoint: `https://127.0.0.1:${server.port}`,
    [Symbol.dispose]: () => void server.stop(true),
  };
}

function fingerprint(file: string): string {
  return new X509Certificate(readFileSync(file)).fingerprint256;
}

function configure(
  folder: Folder,
  endpoint: string,
  how: string,
  more = 'receiver: { url: "http://127.0.0.1:9", token: t }\n',
) {
  writeFileSync(folder.at("pve.token"), `${TOKEN}\n`, { mode: 0o600 });
  return folder.write(
    "agent.yaml",
    `${more}data_dir: ${folder.at("agent")}\ndocker: { enabled: false }\nproxmox: { endpoint: "${endpoint}", node: pve1, token_file: pve.token, ${how} }\n`,
  );
}

type Reading = {
  isThisHost: boolean;
  metrics: object;
  facts: object;
  guests?: object[];
  storage_targets: object[];
  backups: object[];
};

async function look(config: string): Promise<{ code: number; reading: Reading; stderr: string }> {
  const { code, stdout, stderr } = await runRole("agent", ["selftest", "proxmox", "--config", config]);
  expect(stdout + stderr).not.toContain(TOKEN.slice(16));
  return { code, reading: (code === 0 ? JSON.parse(stdout) : {}) as Reading, stderr };
}

describe.skipIf(!have("openssl", "Proxmox over TLS"))("Proxmox", () => {
  test.each(["6", "7"])("version %s: numbers as text, machines and containers", async (version) => {
    using folder = new Folder();
    await certificates(folder);
    using pve = node(folder, VERSIONS[version]!);
    const { reading, stderr } = await look(configure(folder, pve.endpoint, `ca_file: ${folder.at("ca.pem")}`));
    expect(stderr).toBe("");
    expect(reading).toEqual({
      isThisHost: true,
      metrics: {
        cpu_percent: 4.12,
        memory_total_mb: 16_000,
        disk_used_gb: 24,
        disk_total_gb: 94,
        uptime_seconds: 86_400,
        load_average: 0.25,
        load_average_5: 0.3,
        load_average_15: 0.35,
      },
      facts: {
        cpu_count: 8,
        memory_total_mb: 16_000,
        disk_total_gb: 94,
        os: "Proxmox VE 6.4-4",
        kernel: "5.4.106-1-pve",
      },
      guests: [
        {
          vmid: 100,
          name: "web",
          kind: "qemu",
          status: "stopped",
          controller_version: "",
          spec: { cores: 4, memory_mb: 2048, disk_gb: 32 },
        },
        {
          vmid: 101,
          name: "dns",
          kind: "lxc",
          status: "running",
          controller_version: "",
          spec: { cores: 2, memory_mb: 512, disk_gb: 8.5 },
        },
      ],
      storage_targets: [],
      backups: [],
    });
    expect(pve.asked.every((one) => one.startsWith("GET /api2/json/nodes/pve1/"))).toBe(true);
  });

  test.each(["8", "9"])(
    "version %s: a forbidden configuration, no status, storages and backups; by fingerprint",
    async (version) => {
      using folder = new Folder();
      await certificates(folder);
      using pve = node(folder, VERSIONS[version]!);
      const pinned = `fingerprint: "${fingerprint(folder.at("server.pem"))}"`;
      const { reading, stderr } = await look(configure(folder, pve.endpoint, pinned));
      expect(stderr).toContain("guest 201 (qemu) without spec");
      expect(stderr).toContain("PVEAuditor");
      expect(reading.metrics).toMatchObject({
        cpu_percent: 50,
        disk_used_gb: 1,
        uptime_seconds: 120,
      });
      expect(reading.facts).toMatchObject({ kernel: "6.8.12-4-pve", os: expect.stringMatching(/^Proxmox VE [89]\./) });
      expect(reading.guests).toMatchObject([
        { vmid: 200, kind: "lxc", status: "stopped", spec: { cores: 4, memory_mb: 1024, disk_gb: 1024 } },
        { vmid: 201, kind: "qemu", status: "running" },
        { vmid: 202, kind: "qemu", status: "unknown", spec: { cores: 1, memory_mb: null, disk_gb: null } },
        { vmid: 203, kind: "qemu", status: "running", spec: { cores: 6, memory_mb: 4096, disk_gb: 16 } },
      ]);
      expect(reading.guests![1]).not.toHaveProperty("spec");
      expect(reading.storage_targets).toMatchObject([
        { name: "pbs", type: "pbs", content: ["backup"], active: true, total_bytes: 2e12, used_bytes: 5e11 },
        { name: "local-lvm", content: ["rootdir", "images"], total_bytes: null },
        { name: "away", active: false },
      ]);
      expect(reading.backups).toEqual([
        {
          vmid: 201,
          storage: "pbs",
          volume: "pbs:backup/vm/201/2026-01-31T12:00:00Z",
          created_at: "2026-01-31T12:00:00.000Z",
          size_bytes: 1_073_741_824,
          count: 2,
          verified: "ok",
        },
        expect.objectContaining({ vmid: 200, count: 1, verified: null }),
      ]);
      expect(pve.asked.filter((one) => !one.startsWith("GET "))).toEqual([]);
    },
  );

  test("the token is sent only to the configured server", async () => {
    using folder = new Folder();
    await certificates(folder);
    using pve = node(folder, VERSIONS["8"]!);
    const other = fingerprint(folder.at("foreign.pem"));
    const real = fingerprint(folder.at("server.pem"));
    for (const [how, said] of [
      [`fingerprint: "${other}"`, real],
      [`ca_file: ${folder.at("foreign-ca.pem")}`, "ask Proxmox at"],
      ["", "ask Proxmox at"],
    ] as const) {
      const { code, stderr } = await look(configure(folder, pve.endpoint, how));
      expect([how, code]).toEqual([how, 1]);
      expect(stderr).toContain(said);
    }
    expect(pve.secrets).toEqual([]);
    // The right one, written without colons and in small letters, is let in.
    const { code } = await look(
      configure(folder, pve.endpoint, `fingerprint: "${real.replaceAll(":", "").toLowerCase()}"`),
    );
    expect([code, pve.secrets.length > 0]).toEqual([0, true]);
  });

  test("what a failing list or storage would give is left out, and logged", async () => {
    using folder = new Folder();
    await certificates(folder);
    const answers: Answers = { ...VERSIONS["8"], "/qemu": 500, "/storage/pbs/content": "no JSON" };
    using pve = node(folder, answers);
    const how = `ca_file: ${folder.at("ca.pem")}`;
    const first = await look(configure(folder, pve.endpoint, how));
    expect([first.code, first.reading.guests, first.reading.backups]).toEqual([0, undefined, []]);
    expect(first.stderr).toContain("guests not read");
    expect(first.stderr).toContain('backups on "pbs" not read');
    answers["/qemu"] = [{ vmid: "not a number" }];
    expect((await look(configure(folder, pve.endpoint, how))).stderr).toContain("guest's number");
    answers["/qemu"] = [];
    answers["/storage"] = 403;
    const second = await look(configure(folder, pve.endpoint, how));
    expect([second.reading.guests?.length, second.reading.storage_targets]).toEqual([1, []]);
    answers["/status"] = 595;
    const third = await look(configure(folder, pve.endpoint, how));
    expect([third.code, third.stderr]).toEqual([1, expect.stringContaining("595")]);
  });

  test("no report is sent while the node's status can't be read, which the doctor says; the next one follows when it can", async () => {
    using folder = new Folder();
    await certificates(folder);
    const answers: Answers = { ...VERSIONS["8"], "/status": 500 };
    using pve = node(folder, answers);
    await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
    const receiver = `receiver: { url: "${hub.url}", token: ${hub.tokens.get("web-1")} }\nprotocol: telemetry\ninterval_seconds: 0.2\n`;
    const config = configure(folder, pve.endpoint, `ca_file: ${folder.at("ca.pem")}`, receiver);
    await using agent = await startRole("agent", ["--config", config]);
    await agent.said(" ready ");
    await agent.said("no report this time");
    const passes = pve.asked.length;
    await until("it is tried again", () => pve.asked.length > passes + 2);
    expect(hub.rows("SELECT * FROM host_samples")).toEqual([]);
    expect(agent.log.filter((line) => line.includes("no report this time")).length).toBe(1);
    const doctor = await runRole("agent", ["doctor", "--config", config]);
    expect([doctor.code, doctor.stdout]).toEqual([2, expect.stringMatching(/^red +proxmox .*500/m)]);
    const count = (path: string) => pve.asked.filter((one) => one.endsWith(path)).length;
    const inVain = count("/status");
    answers["/status"] = VERSIONS["8"]!["/status"];
    type Seen = { status: string; metrics: object; guests: object[] };
    await until("the node is seen", async () => (await hub.get<Seen>("/v1/hosts/web-1")).status === "online");
    expect(await hub.get<Seen>("/v1/hosts/web-1")).toMatchObject({
      metrics: { uptime_seconds: 120, memory_total_mb: 8192 },
      guests: [{ vmid: 200 }, { vmid: 201 }, { vmid: 202 }, { vmid: 203 }],
    });
    // What seldom changes is not asked for with each report.
    await until("more reports", () => count("/status") > inVain + 10);
    expect([count("/lxc/200/config"), count("/storage/pbs/content")]).toEqual([1, 1]);
    expect(count("/qemu/201/config")).toBeGreaterThan(1);
    expect(agent.log.join("\n")).not.toContain(TOKEN.slice(16));
    await agent.kill();
  });
});

test("contradictory settings are configuration errors", async () => {
  using folder = new Folder();
  const check = async (endpoint: string, how: string) => {
    const { code, stderr } = await runRole("agent", ["--check", "--config", configure(folder, endpoint, how)]);
    return `${code} ${stderr}`;
  };
  expect(await check("http://pve.example:8006", "")).toMatch(/^78 [^]*only https/);
  expect(await check("https://pve.example:8006", "ca_file: /x, fingerprint: AB")).toMatch(/^78 [^]*64 hex digits/);
  expect(await check("https://pve.example:8006", `ca_file: /x, fingerprint: "${"ab".repeat(32)}"`)).toMatch(
    /^78 [^]*set one of them, not both/,
  );
  expect(await check("http://127.0.0.1:8006", `fingerprint: "${"ab".repeat(32)}"`)).toMatch(/^78 [^]*https is needed/);
});

test("guests whose configuration never comes delay a report for a limited time, however many they are", async () => {
  const vmids = Array.from({ length: 100 }, (_, index) => 100 + index);
  const forEver = () => new Promise<Response>(() => {});
  using node = new FakeHub({
    "/status": () => Response.json({ data: {} }),
    "/lxc": () => Response.json({ data: vmids.map((vmid) => ({ vmid, status: "running" })) }),
    "/qemu": () => Response.json({ data: [] }),
    "/storage": () => Response.json({ data: [{ storage: "tank", content: "backup" }] }),
    "/config": forEver,
    "/content": forEver,
  });
  const warned: string[] = [];
  const settings = { endpoint: node.url, node: "pve1", token: [new Secret("root@pam!picket=00000000-0000")] };
  const proxmox = new Proxmox(settings, (kind) => warned.push(kind), { restMs: 2000 });
  const { guests, backups } = await proxmox.read(new AbortController().signal);
  expect(guests?.map(({ vmid }) => vmid)).toEqual(vmids);
  expect(guests?.every(({ spec }) => spec === undefined)).toBe(true);
  expect(backups).toEqual([]);
  expect([...new Set(warned)].toSorted()).toEqual(["backups tank", "late"]);
});

test("a container with half a CPU has one: the receiver would refuse the report for less", async () => {
  using node = new FakeHub({
    "/status": () => Response.json({ data: {} }),
    "/lxc": () => Response.json({ data: [{ vmid: "101", status: "running", cpus: 0.5 }] }),
    "/qemu": () => Response.json({ data: [] }),
    "/storage": () => Response.json({ data: [] }),
    "/config": () => Response.json({ data: { cpulimit: "0.5", memory: 512 } }),
  });
  const settings = { endpoint: node.url, node: "pve1", token: [new Secret("root@pam!picket=00000000-0000")] };
  const { guests } = await new Proxmox(settings, () => {}).read(new AbortController().signal);
  expect(guests?.[0]?.spec).toEqual({ cores: 1, memory_mb: 512, disk_gb: null });
});

test("guests that are paused, broken, hibernated or templates say so; an unfinished backup doesn't count", async () => {
  const CASES: [entry: object, status: string][] = [
    [{ status: "running", qmpstatus: "running" }, "running"],
    [{ status: "running", qmpstatus: "paused" }, "paused"],
    [{ status: "running", qmpstatus: "prelaunch" }, "paused"],
    [{ status: "running", qmpstatus: "io-error" }, "io-error"],
    [{ status: "running", qmpstatus: "guest-panicked" }, "internal-error"],
    [{ status: "running", qmpstatus: "running", lock: "backup" }, "running"],
    [{ status: "stopped", qmpstatus: "stopped", lock: "suspended" }, "hibernated"],
    [{ status: "stopped", qmpstatus: "stopped" }, "stopped"],
    [{ status: "stopped", template: "1" }, "template"],
    [{ status: "unknown" }, "unknown"],
  ];
  using node = new FakeHub({
    "/status": () => Response.json({ data: {} }),
    "/lxc": () =>
      Response.json({
        data: [
          { vmid: 200, status: "stopped", template: 1 },
          { vmid: 201, status: "running", lock: "" },
        ],
      }),
    // Only a full list has the machines' own words.
    "/qemu": ({ url }) =>
      Response.json({
        data: CASES.map(([entry], n) => ({
          vmid: 100 + n,
          ...entry,
          ...(url.includes("full=1") ? {} : { qmpstatus: undefined }),
        })),
      }),
    "/storage": () => Response.json({ data: [{ storage: "pbs", type: "pbs", content: "backup" }] }),
    "/config": () => Response.json({ data: {} }),
    "/content": () =>
      Response.json({
        data: [
          {
            volid: "pbs:backup/vm/100/2026-01-30T12:00:00Z",
            vmid: 100,
            ctime: 1_769_774_400,
            size: 34_359_738_368,
            verification: { state: "ok" },
          },
          { volid: "pbs:backup/vm/100/2026-01-31T12:00:00Z", vmid: 100, ctime: 1_769_860_800, size: 1 },
          { volid: "pbs:backup/vm/101/2026-01-31T12:00:00Z", vmid: 101, ctime: 1_769_860_800, size: "1" },
        ],
      }),
  });
  await using hub = await Hub.start();
  using folder = new Folder();
  const config = configure(
    folder,
    node.url,
    "",
    `receiver: { url: "${hub.url}", token: ${hub.tokens.get("web-1")} }\n`,
  );
  const { code, stdout } = await runRole("agent", ["selftest", "--config", config]);
  expect([code, stdout]).toEqual([0, expect.stringContaining("/v1/host-report: 200")]);
  const { guests, backups } = await hub.get<{ guests: { status: string }[]; backups: object[] }>("/v1/hosts/web-1");
  expect(guests.map(({ status }) => status)).toEqual([...CASES.map(([, status]) => status), "template", "running"]);
  expect(backups).toMatchObject([{ vmid: 100, created_at: "2026-01-30T12:00:00.000Z", count: 1, verified: "ok" }]);
});
