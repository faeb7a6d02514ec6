// What an agent is told by others: a container engine, a Proxmox node and its receiver answer anything at all. It costs what they
// were asked for and never the heartbeat: what is collected is a report that the receiver takes.
// Not tested here: answers that aren't JSON, come late or never end (test/agent/docker.test.ts, test/agent/proxmox.test.ts).

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { Backlog } from "../../lib/agent/backlog.ts";
import { readContainers } from "../../lib/agent/docker.ts";
import { Proxmox } from "../../lib/agent/proxmox.ts";
import { Reporter } from "../../lib/agent/reporter.ts";
import { createLog } from "../../lib/log.ts";
import { readReport } from "../../lib/receiver/report.ts";
import { Secret } from "../../lib/secret.ts";
import { Folder } from "../kit.ts";
import { TIMEOUT_MS, damaged, json, prototypesUntouched, runs } from "./kit.ts";

const ID = "0123456789abcdef".repeat(4);
const LISTED = {
  Id: ID,
  Names: ["/web", "/other/web"],
  Image: "registry:5000/team/app:1.2",
  State: "running",
  Status: "Up 2 hours (healthy)",
  Ports: [{ IP: "0.0.0.0", PrivatePort: 80, PublicPort: 8080, Type: "tcp" }],
  Labels: { "com.example": "x" },
  Health: { Status: "healthy" },
};
const INSPECTED = {
  State: { StartedAt: "2026-01-31T12:00:00Z", FinishedAt: "0001-01-01T00:00:00Z", Health: { Status: "healthy" } },
};
const CPU = { cpu_usage: { total_usage: 2e9, percpu_usage: [1e9, 1e9] }, system_cpu_usage: 9e9, online_cpus: 2 };
const STATS = {
  read: "2026-01-31T12:00:00Z",
  cpu_stats: CPU,
  precpu_stats: { ...CPU, cpu_usage: { total_usage: 1e9 }, system_cpu_usage: 5e9 },
  memory_stats: { usage: 9e6, limit: 1e9, stats: { inactive_file: 1e6 } },
  networks: { eth0: { rx_bytes: 5, tx_bytes: 6 } },
  blkio_stats: { io_service_bytes_recursive: [{ op: "Read", value: 7 }] },
};

/** What the receiver finds wrong with a report that has these parts. */
function refused(parts: { metrics?: object; facts?: object; [part: string]: unknown }): unknown {
  const now = Date.now();
  const { metrics = {}, facts = {}, ...rest } = parts;
  const report = { recorded_at: new Date(now).toISOString(), host: { metrics, facts }, ...rest };
  const read = readReport(JSON.parse(JSON.stringify(report)), { now, backfillMs: 3_600_000 });
  return "broken" in read ? read.broken : null;
}

test(
  "whatever a container engine answers: the containers are ones that the receiver takes, or there are none",
  async () => {
    using folder = new Folder();
    const socket = folder.at("engine");
    let now: Record<"list" | "inspected" | "stats", unknown> = { list: [], inspected: {}, stats: {} };
    const server = Bun.serve({
      unix: socket,
      fetch: ({ url }) =>
        Response.json(url.includes("/stats") ? now.stats : url.endsWith("all=1") ? now.list : now.inspected),
    });
    const timeouts = { list: 5000, answer: 5000, all: 10_000, resample: 1 };
    const list = fc.oneof(
      { weight: 4, arbitrary: fc.array(damaged(LISTED), { minLength: 1, maxLength: 3 }) },
      { weight: 1, arbitrary: json },
    );
    let taken = 0;
    try {
      await fc.assert(
        fc.asyncProperty(list, damaged(INSPECTED), damaged(STATS), async (listed, inspected, stats) => {
          now = { list: listed ?? null, inspected: inspected ?? null, stats: stats ?? null };
          const rows = await readContainers(socket, { timeouts }).catch((error: unknown) => {
            expect(error).toBeInstanceOf(Error);
            return null;
          });
          if (rows === null) return;
          taken++;
          expect(refused({ containers: rows })).toBe(null);
        }),
        runs(0.5),
      );
    } finally {
      await server.stop(true);
    }
    expect(taken).toBeGreaterThan(0);
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

const NODE = {
  cpu: 0.25,
  uptime: 3600,
  memory: { total: 8e9, used: 4e9 },
  rootfs: { total: 9e10, used: 1e10 },
  loadavg: ["0.10", "0.20", "0.30"],
  cpuinfo: { cpus: 8 },
  kversion: "Linux 6.8.12-1-pve #1 SMP",
  "current-kernel": { release: "6.8.12-1-pve" },
  pveversion: "pve-manager/8.2.4/faa83925c9641325",
};
const GUEST = { vmid: "101", name: "web", status: "running", cpus: 2, maxmem: 2 ** 31, maxdisk: 2 ** 33 };
const SPEC = {
  cores: 2,
  sockets: 1,
  memory: "current=2048",
  scsi0: "local:vm-101-disk-0,size=32G",
  ide2: "none,media=cdrom",
};
const STORAGE = {
  storage: "local",
  type: "dir",
  content: "backup,iso",
  active: 1,
  enabled: 1,
  shared: 0,
  total: 9e10,
  used: 1e10,
};
const BACKUP = {
  volid: "local:backup/x.zst",
  vmid: 101,
  ctime: 1_700_000_000,
  size: 5e9,
  verification: { state: "ok" },
};

test(
  "whatever a Proxmox node answers: it is a report that the receiver takes, or there is none",
  async () => {
    let answers: Record<string, unknown> = {};
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch(request) {
        const { pathname } = new URL(request.url);
        const last = pathname.split("/").at(-1)!;
        return Response.json({ data: answers[last] ?? null });
      },
    });
    const some = (right: unknown) =>
      fc.oneof({ weight: 5, arbitrary: fc.array(damaged(right), { maxLength: 2 }) }, { weight: 1, arbitrary: json });
    const said = fc.record({
      status: damaged(NODE),
      lxc: some(GUEST),
      qemu: some(GUEST),
      config: damaged(SPEC),
      storage: some(STORAGE),
      content: some(BACKUP),
    });
    let taken = 0;
    try {
      await fc.assert(
        fc.asyncProperty(said, async (given) => {
          answers = given;
          const settings = { endpoint: `http://127.0.0.1:${server.port}`, node: "pve1", token: [new Secret("x")] };
          const reading = await new Proxmox(settings, () => {})
            .read(AbortSignal.timeout(20_000))
            .catch((error: unknown) => {
              expect(error).toBeInstanceOf(Error);
              return null;
            });
          if (reading === null) return;
          taken++;
          expect(refused({ ...reading })).toBe(null);
        }),
        runs(0.25),
      );
    } finally {
      await server.stop(true);
    }
    expect(taken).toBeGreaterThan(0);
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

test(
  "whatever a receiver answers: the interval stays between a minute and an hour",
  async () => {
    using folder = new Folder();
    const right = { poll_interval_seconds: 60, blocked: false, desired_generation: 0, has_signed_ops: false };
    const log = createLog({ role: "agent", json: true, level: "debug", write: () => {} });
    await fc.assert(
      fc.asyncProperty(damaged(right), async (answer) => {
        const body = (typeof answer === "object" && answer !== null ? answer : {}) as Record<string, unknown>;
        const reporter = new Reporter({
          hub: { ask: async () => ({ status: 200, text: "", json: answer, body, headers: new Headers() }) },
          backlog: new Backlog(folder.at("queue"), 1 << 20),
          collect: async () => ({ recorded_at: new Date().toISOString() }),
          interval: 60,
          protocol: "report",
          log,
        });
        await reporter.round({ first: true });
        // Another program may answer 200, too.
        expect(reporter.sent).toBe("poll_interval_seconds" in body || "blocked" in body ? 1 : 0);
        expect(reporter.interval).toBeGreaterThanOrEqual(60);
        expect(reporter.interval).toBeLessThanOrEqual(3600);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);
