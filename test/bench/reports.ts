// Durable reports a second against the same rows in a bare bun:sqlite loop, Pushgateway and VictoriaMetrics; what reading
// costs with 1,000 hosts, and what memory an hour of them takes.
//   bun test/bench/reports.ts

import { Database } from "bun:sqlite";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../lib/receiver/hosts.ts";
import { METRICS } from "../../lib/report.ts";
import { Store } from "../../lib/receiver/store.ts";
import { container, report } from "../receiver/kit.ts";
import {
  ROOT,
  type Row,
  type Section,
  count,
  freePort,
  inFolder,
  median,
  percentile,
  residentMiB,
  withProgram,
} from "./kit.ts";

const SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 4);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const RECEIVER = join(ROOT, "dist/picket-receiver");
/** Of each report. */
export const CONTAINERS = 30;
const DAY_MS = 86_400_000;
/** A report; `@` is when it was recorded. */
export const BODY = JSON.stringify(
  report({ recorded_at: "@", containers: Array.from({ length: CONTAINERS }, (_, n) => container(`service-${n}`)) }),
);

export const tokenOf = (host: number) => `pk_${String(host).padStart(40, "0")}`;

/** A data folder with so many hosts, whose tokens are known. */
async function seed(folder: string, hosts: number): Promise<Database> {
  await (await Store.open({ data_dir: join(folder, "data") })).close();
  const db = new Database(join(folder, "data/receiver.db"));
  const addHost = db.prepare("INSERT INTO hosts (id, name, status, created_at) VALUES (?, ?, 'pending', 0)");
  const addToken = db.prepare("INSERT INTO tokens (host, sha256, created_at) VALUES (?, ?, 0)");
  db.transaction(() => {
    for (let host = 1; host <= hosts; host++) {
      addHost.run(host, `host-${host}`);
      addToken.run(host, sha256(tokenOf(host)));
    }
  })();
  return db;
}

function receiverOn(folder: string): { cmd: string[]; url: string } {
  const port = freePort();
  const config = join(folder, "receiver.yaml");
  writeFileSync(config, `listen: 127.0.0.1:${port}\ndata_dir: ${folder}/data\nrate_limit_per_minute: 100000000\n`);
  return { cmd: [RECEIVER, "--config", config, "--log-level", "warn"], url: `http://127.0.0.1:${port}` };
}

interface Load {
  folder: string;
  body: string;
  path: string;
  from?: number;
  hosts?: number;
}

/** wrk with a report that is new each time, from hosts in turn, the first of them `from + 1`. */
export async function wrkReports(url: string, { folder, body, path, from = 0, hosts = 64 }: Load): Promise<number> {
  // Only our own reports say when they are from.
  const [before = "", after] = body.split("@");
  writeFileSync(join(folder, "before"), before);
  writeFileSync(join(folder, "after"), after ?? "");
  writeFileSync(
    join(folder, "report.lua"),
    `local function read(name) local file = io.open("${folder}/" .. name, "rb"); return file:read("*a") end
local before, after, n, start = read("before"), read("after"), 0, os.time() - 3000
wrk.method = "POST"
request = function()
  n = n + 1
  local host = ${from} + n % ${hosts} + 1
  wrk.headers["authorization"] = "Bearer pk_" .. string.format("%040d", host)
  local at = os.date("!%Y-%m-%dT%H:%M:%S", start + math.floor(n / 1000)) .. string.format(".%03dZ", n % 1000)
  return wrk.format(nil, (string.gsub("${path}", "HOST", "host-" .. host)), nil, ${after === undefined ? "before" : "before .. at .. after"})
end
`,
  );
  const run = Bun.spawn(["wrk", "-t1", "-c64", `-d${SECONDS}s`, "-s", join(folder, "report.lua"), url], {
    stdout: "pipe",
  });
  const text = await new Response(run.stdout).text();
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(text);
  if (bad) throw new Error(`${url}: ${bad[1]} refused:\n${text}`);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]);
}

/** The rows of a report, one transaction a report, one after the other: what SQLite itself gives on this disk. */
async function bareLoop(folder: string): Promise<number> {
  const db = await seed(folder, 64);
  db.run("PRAGMA synchronous=FULL");
  const names = METRICS.join(", ");
  const stamp = db.prepare("UPDATE tokens SET last_used_at = ? WHERE id = ?");
  const host = db.prepare(
    "UPDATE hosts SET last_seen_at = ?, last_recorded_at = ?, facts = ?, metrics = ? WHERE id = ?",
  );
  const sample = db.prepare(
    `INSERT INTO host_samples (host, at, ${names}) VALUES (?, ?${", ?".repeat(METRICS.length)})`,
  );
  const workload = db.prepare("INSERT INTO workload_samples (host, at, containers, guests) VALUES (?, ?, ?, ?)");
  const lists = db.prepare(
    "INSERT INTO host_lists (host, names, rest, lists) VALUES (?, '', '{}', '{}') ON CONFLICT DO UPDATE SET lists = '{}'",
  );
  const due = db.prepare("INSERT INTO rollups_due (step, at, host) VALUES (600, ?, ?) ON CONFLICT DO NOTHING");
  const figures = Object.fromEntries(
    Array.from({ length: CONTAINERS }, (_, n) => [n, [1.5, 50, 300, 10, 20, 30, 40, 16.67]]),
  );
  const containers = JSON.stringify(figures);
  const { facts, metrics } = (JSON.parse(BODY) as { host: { facts: object; metrics: Record<string, number> } }).host;
  const values = METRICS.map((name) => metrics[name]!);
  const one = db.transaction((id: number, at: number) => {
    stamp.run(at, id);
    sample.run(id, at, ...values);
    workload.run(id, at, containers, "{}");
    due.run(Math.floor(at / 600_000) * 600_000, id);
    host.run(at, at, JSON.stringify(facts), JSON.stringify(metrics), id);
    lists.run(id);
  });
  const begin = performance.now();
  let done = 0;
  while (performance.now() - begin < SECONDS * 1000) one((done % 64) + 1, 1_700_000_000_000 + done++);
  db.close();
  return done / SECONDS;
}

async function receiver(folder: string): Promise<number> {
  (await seed(folder, 64)).close();
  const { cmd, url } = receiverOn(folder);
  return withProgram(
    cmd,
    () => fetch(`${url}/health`),
    () => wrkReports(url, { folder, body: BODY, path: "/v1/host-report" }),
  );
}

/** The same figures as Prometheus' text. */
function exposition(instance: string): string {
  const { host, containers } = JSON.parse(BODY) as {
    host: { metrics: Record<string, number> };
    containers: { name: string; metrics: Record<string, number> }[];
  };
  const lines = Object.entries(host.metrics).map(
    ([name, value]) => `host_${name}${instance ? `{instance="${instance}"}` : ""} ${value}`,
  );
  for (const { name, metrics } of containers) {
    for (const [metric, value] of Object.entries(metrics))
      lines.push(`container_${metric}{name="${name}"${instance ? `,instance="${instance}"` : ""}} ${value}`);
  }
  return `${lines.toSorted().join("\n")}\n`;
}

function peer(
  program: string,
  flags: (folder: string, listen: string) => string[],
  load: { body: string; path: string; ready: string },
) {
  return async (folder: string): Promise<number> => {
    const listen = `127.0.0.1:${freePort()}`;
    const url = `http://${listen}`;
    return withProgram(
      [program, ...flags(folder, listen)],
      async () => {
        if (!(await fetch(url + load.ready)).ok) throw new Error("not ready");
      },
      () => wrkReports(url, { folder, ...load }),
    );
  };
}

const CONTESTANTS: { name: string; program?: string; run: (folder: string) => Promise<number> }[] = [
  { name: "bare bun:sqlite loop, the same rows, a transaction a report, no network", run: bareLoop },
  { name: "receiver, each report durable", run: receiver },
  {
    name: "Prometheus Pushgateway, saved every second",
    program: "prometheus-pushgateway",
    run: peer(
      "prometheus-pushgateway",
      (folder, listen) => [
        `--web.listen-address=${listen}`,
        `--persistence.file=${folder}/push`,
        "--persistence.interval=1s",
        "--log.level=error",
      ],
      { body: exposition(""), path: "/metrics/job/bench/instance/HOST", ready: "/-/ready" },
    ),
  },
  {
    name: "VictoriaMetrics, import of Prometheus text, saved later",
    program: "victoria-metrics",
    run: peer(
      "victoria-metrics",
      (folder, listen) => [`-httpListenAddr=${listen}`, `-storageDataPath=${folder}/vm`, "-loggerLevel=ERROR"],
      {
        body: exposition("x"),
        path: "/api/v1/import/prometheus",
        ready: "/health",
      },
    ),
  },
];

/** Reports per second. */
export async function reports(): Promise<Section> {
  const rates = new Map<string, number[]>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, program, run } of CONTESTANTS) {
      if (program && !Bun.which(program)) {
        if (round === 0) console.log(`skipped: ${program} is not installed`);
        continue;
      }
      const rate = await inFolder(run);
      rates.set(name, [...(rates.get(name) ?? []), rate]);
      console.error(`round ${round + 1}: ${name}: ${count(rate)}/s`);
    }
  }
  const base = median(rates.get(CONTESTANTS[0]!.name)!);
  return {
    title: "Reports per second",
    command: "bun test/bench/reports.ts",
    text: `A report with ${CONTAINERS} containers (${count(BODY.length)} bytes), 64 connections, 64 hosts, wrk on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn. The receiver's 200 means that the report is on disk; the peers answer before that.`,
    rows: [...rates].map(([what, all]) => ({
      what,
      figure: `${count(median(all))}/s`,
      ratio: `${(median(all) / base).toFixed(2)} of the bare loop`,
    })),
  };
}

/** What is asked of a receiver with 1,000 hosts and a year of history. */
export async function reading(): Promise<Section> {
  return inFolder(async (folder) => {
    const hosts = 1000;
    const db = await seed(folder, hosts);
    const now = Date.now();
    const today = Math.floor(now / DAY_MS) * DAY_MS;
    const metrics = JSON.stringify(Object.fromEntries(METRICS.map((name) => [name, [1.25, 12.5, 98.75, 1440]])));
    const rollup = db.prepare("INSERT INTO host_rollups (host, step, at, metrics) VALUES (?, ?, ?, ?)");
    for (let host = 1; host <= hosts; host++) {
      db.transaction(() => {
        for (let day = 1; day <= 365; day++) rollup.run(host, 86_400, today - day * DAY_MS, metrics);
        for (let hour = 1; hour <= 24 * 30; hour++) rollup.run(host, 3600, today - hour * 3_600_000, metrics);
      })();
    }
    db.close();
    const { cmd, url } = receiverOn(folder);
    return withProgram(
      cmd,
      () => fetch(`${url}/health`),
      async (child) => {
        const atStart = await residentMiB(child.pid);
        const send = async (host: number, minute: number) => {
          const at = new Date(now - 3_500_000 + minute * 58_000 + (host % 50_000)).toISOString();
          const answer = await fetch(`${url}/v1/host-report`, {
            method: "POST",
            body: BODY.replace("@", at),
            headers: { authorization: `Bearer ${tokenOf(host)}` },
          });
          if (answer.status !== 200) throw new Error(`a report is answered ${answer.status}: ${await answer.text()}`);
          await answer.arrayBuffer();
        };
        const begin = performance.now();
        for (let minute = 0; minute < 60; minute++) {
          for (let first = 1; first <= hosts; first += 64) {
            await Promise.all(
              Array.from({ length: Math.min(64, hosts - first + 1) }, (_, n) => send(first + n, minute)),
            );
          }
        }
        const seconds = (performance.now() - begin) / 1000;
        const after = await residentMiB(child.pid);
        const timed = async (path: string) => {
          const times: number[] = [];
          let size = 0;
          for (let n = 0; n < 40; n++) {
            const start = performance.now();
            size = (await (await fetch(url + path)).arrayBuffer()).byteLength;
            times.push(performance.now() - start);
          }
          return { figure: `${median(times).toFixed(1)} ms (p95 ${percentile(times, 95).toFixed(1)} ms)`, size };
        };
        const year = `from=${new Date(now - 364 * DAY_MS).toISOString()}&metric=cpu_percent`;
        const list = await timed("/v1/hosts");
        const page = await timed(`/v1/hosts/host-500/history?${year}`);
        const month = await timed(
          `/v1/hosts/host-500/history?from=${new Date(now - 30 * DAY_MS).toISOString()}&metric=cpu_percent&points=720`,
        );
        const one = await timed("/v1/hosts/host-500");
        const rows: Row[] = [
          { what: "list of 1,000 hosts", figure: list.figure, ratio: `${count(list.size / 1024)} KiB` },
          { what: "one host with 30 containers", figure: one.figure, ratio: `${count(one.size / 1024)} KiB` },
          {
            what: "a host's year, 300 points asked for (reads 365 rows and today's)",
            figure: page.figure,
            ratio: `${count(page.size / 1024)} KiB`,
          },
          { what: "a host's month by the hour", figure: month.figure, ratio: `${count(month.size / 1024)} KiB` },
          {
            what: `memory after an hour's reports of 1,000 hosts (60,000, sent within ${Math.round(seconds)} s)`,
            figure: `${after.toFixed(0)} MiB against ${atStart.toFixed(0)} MiB at the start`,
            ratio: `${(after / atStart).toFixed(2)} times`,
          },
        ];
        return {
          title: "Reading, and memory, with 1,000 hosts",
          command: "bun test/bench/reports.ts",
          text: "1,000 hosts, each with a year of daily and a month of hourly rollups and an hour of samples with 30 containers; median of 40 requests over HTTP, one at a time.",
          rows,
        };
      },
    );
  });
}

if (import.meta.main) {
  console.table((await reports()).rows);
  console.table((await reading()).rows);
}
