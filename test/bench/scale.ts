// Receivers on PostgreSQL: durable reports a second against a bare Bun.SQL loop that writes the same rows to the same server, with one,
// two and three receivers; and what 10,000 hosts cost.
//   bun test/bench/scale.ts reports | fleet | inbox

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../../lib/receiver/hosts.ts";
import { METRICS } from "../../lib/report.ts";
import { Store } from "../../lib/receiver/store.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { ROOT, type Section, count, freePort, inFolder, median, withProgram } from "./kit.ts";
import { BODY, CONTAINERS, tokenOf, wrkReports } from "./reports.ts";

const SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 4);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 3);
const RECEIVER = join(ROOT, "dist/picket-receiver");
const CONNECTIONS = 8;
const HOSTS = 64;

/** A database with so many hosts, whose tokens are known. */
async function seed(server: Postgres, folder: string, hosts: number): Promise<string> {
  const url = server.database();
  await (await Store.open({ data_dir: folder, store: url })).close();
  await using sql = new Bun.SQL(url, { max: 1 });
  const all = Array.from({ length: hosts }, (_, n) => ({ id: n + 1, sha256: sha256(tokenOf(n + 1)) }));
  const given = "json_to_recordset($1::text::json) AS x(id BIGINT, sha256 TEXT)";
  await sql.unsafe(
    `INSERT INTO hosts (id, name, status, created_at) SELECT id, 'host-' || id, 'pending', 0 FROM ${given}`,
    [JSON.stringify(all)],
  );
  await sql.unsafe(`INSERT INTO tokens (host, sha256, created_at) SELECT id, sha256, 0 FROM ${given}`, [
    JSON.stringify(all),
  ]);
  return url;
}

/** The rows of a report, a transaction each, on several connections side by side; `together`: its statements are sent without waiting. */
async function bareLoop(url: string, together: boolean): Promise<number> {
  await using sql = new Bun.SQL(url, { max: CONNECTIONS });
  const { facts, metrics } = (JSON.parse(BODY) as { host: { facts: object; metrics: Record<string, number> } }).host;
  const values = METRICS.map((name) => metrics[name]!);
  const figures = Array.from({ length: CONTAINERS }, (_, n) => [n, [1.5, 50, 300, 10, 20, 30, 40, 16.67]] as const);
  const containers = JSON.stringify(Object.fromEntries(figures));
  const marks = values.map((_, index) => `$${index + 3}`).join(", ");
  const statements = (host: number, at: number): [string, unknown[]][] => [
    ["UPDATE tokens SET last_used_at = $1 WHERE id = $2", [at, host]],
    [`INSERT INTO host_samples (host, at, ${METRICS.join(", ")}) VALUES ($1, $2, ${marks})`, [host, at, ...values]],
    ["INSERT INTO workload_samples (host, at, containers, guests) VALUES ($1, $2, $3, '{}')", [host, at, containers]],
    [
      "INSERT INTO rollups_due (step, at, host) VALUES (600, $1, $2) ON CONFLICT DO NOTHING",
      [Math.floor(at / 600_000) * 600_000, host],
    ],
    [
      "UPDATE hosts SET last_seen_at = $1, last_recorded_at = $1, facts = $2, metrics = $3 WHERE id = $4",
      [at, JSON.stringify(facts), JSON.stringify(metrics), host],
    ],
    [
      "INSERT INTO host_lists (host, names, rest, lists) VALUES ($1, '', '{}', '{}') ON CONFLICT (host) DO UPDATE SET lists = '{}'",
      [host],
    ],
  ];
  const begin = performance.now();
  const start = Date.now() - 3_000_000;
  let done = 0;
  const work = async (first: number): Promise<void> => {
    const connection = await sql.reserve();
    for (let n = 0; performance.now() - begin < SECONDS * 1000; n++) {
      const host = first + ((n * CONNECTIONS) % HOSTS);
      const all = [["BEGIN", []], ...statements(host, start + n), ["COMMIT", []]] as [string, unknown[]][];
      if (together) await Promise.all(all.map(([text, given]) => connection.unsafe(text, given)));
      else for (const [text, given] of all) await connection.unsafe(text, given);
      done++;
    }
    await connection.release();
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, n) => work(n + 1)));
  return done / ((performance.now() - begin) / 1000);
}

/** So many receivers on one database, each with its part of the hosts. */
async function withReceivers<T>(
  { url, folder, receivers }: { url: string; folder: string; receivers: number },
  work: (urls: string[], pids: number[]) => Promise<T>,
): Promise<T> {
  const start = async (urls: string[], pids: number[]): Promise<T> => {
    if (urls.length === receivers) return work(urls, pids);
    const port = freePort();
    const data = join(folder, `data-${urls.length}`);
    mkdirSync(data);
    writeFileSync(
      `${data}.yaml`,
      `listen: 127.0.0.1:${port}\ndata_dir: ${data}\nstore: ${url}\nstore_connections: ${CONNECTIONS}\nrate_limit_per_minute: 100000000\n`,
    );
    const one = `http://127.0.0.1:${port}`;
    return withProgram(
      [RECEIVER, "--config", `${data}.yaml`, "--log-level", "warn"],
      () => fetch(`${one}/health`),
      (child) => start([...urls, one], [...pids, child.pid]),
    );
  };
  return start([], []);
}

/** Reports a second of so many receivers together. */
const receiversOf = (receivers: number) => async (server: Postgres, folder: string) => {
  const url = await seed(server, folder, HOSTS * receivers);
  return withReceivers({ url, folder, receivers }, async (urls) => {
    const load = async (one: string, n: number): Promise<number> => {
      const own = join(folder, `wrk-${n}`);
      mkdirSync(own);
      return wrkReports(one, { folder: own, body: BODY, path: "/v1/host-report", from: n * HOSTS });
    };
    const rates = await Promise.all(urls.map(load));
    return rates.reduce((sum, rate) => sum + rate, 0);
  });
};

const bare = (together: boolean) => async (server: Postgres, folder: string) =>
  bareLoop(await seed(server, folder, HOSTS), together);

const CONTESTANTS: { name: string; run: (server: Postgres, folder: string) => Promise<number> }[] = [
  {
    name: `bare Bun.SQL loop on ${CONNECTIONS} connections, no network, each report's statements sent together`,
    run: bare(true),
  },
  { name: "the same, one statement after the other", run: bare(false) },
  { name: "one receiver, each report durable", run: receiversOf(1) },
  { name: "two receivers", run: receiversOf(2) },
  { name: "three receivers", run: receiversOf(3) },
];

/** Reports per second. */
export async function scaleReports(programs: string): Promise<Section> {
  const rates = new Map<string, number[]>();
  await using server = await Postgres.start(programs);
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, run } of CONTESTANTS) {
      const rate = await inFolder((folder) => run(server, folder));
      rates.set(name, [...(rates.get(name) ?? []), rate]);
      console.error(`round ${round + 1}: ${name}: ${count(rate)}/s`);
    }
  }
  const base = median(rates.get(CONTESTANTS[0]!.name)!);
  return {
    title: "Reports per second on PostgreSQL",
    command: "bun test/bench/scale.ts reports",
    text: `A report with ${CONTAINERS} containers (${count(BODY.length)} bytes), 64 connections and 64 hosts a receiver, wrk and the server (Debian's settings: every commit is synced) on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn.`,
    rows: [...rates].map(([what, all]) => ({
      what,
      figure: `${count(median(all))}/s`,
      ratio: `${(median(all) / base).toFixed(2)} of the bare loop`,
      aim: what.startsWith("one") ? "0.5 of the bare loop" : "",
    })),
  };
}

if (import.meta.main) {
  const programs = postgresPrograms("PostgreSQL's figures");
  if (programs) console.table((await scaleReports(programs)).rows);
}
