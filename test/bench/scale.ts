// Receivers on PostgreSQL: durable reports a second against a bare Bun.SQL loop that writes the same rows to the same server, with one,
// two and three receivers; what 10,000 hosts cost; appends to an inbox a second.
//   bun test/bench/scale.ts reports | fleet | inbox

import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { sha256 } from "../../lib/receiver/hosts.ts";
import { METRICS } from "../../lib/report.ts";
import { Store } from "../../lib/receiver/store.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import {
  ROOT,
  type Row,
  type Section,
  count,
  cpuSeconds,
  freePort,
  inFolder,
  median,
  residentMiB,
  withProgram,
  wrk,
} from "./kit.ts";
import { container, report } from "../receiver/kit.ts";
import { BODY, CONTAINERS, tokenOf, wrkReports } from "./reports.ts";

const SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 4);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 3);
const RECEIVER = join(ROOT, "dist/picket-receiver");
const CONNECTIONS = 8;
/** Of each receiver: so many that none reports much more often than a real one. */
const HOSTS = 1000;
/** Those that report before it is measured. */
const WARM_HOSTS = 64;
const FLEET = 10_000;
const FLEET_CONTAINERS = 10;
/** Reports a second, more than twice as many as the fleet sends. */
const FLEET_RATE = 400;
const FLEET_SECONDS = Number(process.env["PICKET_BENCH_FLEET_SECONDS"] ?? 240);
/** Less than a host may be silent. */
const QUIET_SECONDS = 40;
/** So many reports of each of them come before those that are counted. */
const WARM = 20;

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

/** CPU seconds of receivers together, and of the server with its processes. */
function cpuOf(server: Postgres, pids: number[]): [number, number] {
  const ticks = (pid: string): number => {
    const [, ppid, ...rest] = readFileSync(`/proc/${pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ")
      .map(Number);
    const [own, ofEnded] = [rest[9]! + rest[10]!, rest[11]! + rest[12]!];
    return Number(pid) === server.pid ? own + ofEnded : ppid === server.pid ? own : 0;
  };
  const attempt = (pid: string): number => {
    try {
      return ticks(pid);
    } catch {
      return 0; // It has ended.
    }
  };
  const all = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(attempt);
  return [pids.reduce((sum, pid) => sum + cpuSeconds(pid), 0), all.reduce((sum, one) => sum + one, 0) / 100];
}

/** A rate, and the microseconds of CPU that each report took: of the writers together, and of the server. */
interface Measured {
  rate: number;
  cpu: [number, number];
}

async function measured(server: Postgres, pids: number[], run: () => Promise<number>): Promise<Measured> {
  const before = cpuOf(server, pids);
  const rate = await run();
  const each = (n: 0 | 1): number => ((after[n] - before[n]) * 1e6) / (rate * SECONDS);
  const after = cpuOf(server, pids);
  return { rate, cpu: [each(0), each(1)] };
}

/** The first report of a host writes a row for each container; and a receiver that has just started runs cold. */
async function warmUp(url: string, from: number, text = BODY): Promise<void> {
  const report = async (host: number): Promise<void> => {
    for (let n = 0; n < WARM; n++) {
      const body = text.replace("@", new Date(Date.now() - 3_500_000 + n).toISOString());
      const headers = { authorization: `Bearer ${tokenOf(host)}` };
      const answer = await fetch(`${url}/v1/host-report`, { method: "POST", body, headers });
      if (!answer.ok) throw new Error(`a report is answered ${answer.status}`);
      await answer.arrayBuffer();
    }
  };
  await Promise.all(Array.from({ length: WARM_HOSTS }, (_, n) => report(from + n + 1)));
}

/** As if all hosts had reported what the first one has. */
const ALIKE = `
  INSERT INTO containers (host, container_id, description, first_seen_at)
    SELECT h.id, c.container_id, c.description, c.first_seen_at FROM hosts h, containers c WHERE c.host = 1 AND h.id > 1 ON CONFLICT DO NOTHING;
  INSERT INTO host_lists SELECT h.id, l.names, l.rest, l.lists FROM hosts h, host_lists l WHERE l.host = 1 AND h.id > 1 ON CONFLICT DO NOTHING;
  UPDATE hosts h SET status = f.status, told_interval = f.told_interval, agent_version = f.agent_version, facts = f.facts,
    machines = f.machines, heard_ms = f.heard_ms FROM hosts f WHERE f.id = 1 AND h.id > 1;
  VACUUM ANALYZE`;

/** Asks the server itself; gives the figures of its answer. */
function askServer(server: Postgres, url: string, sql: string): number[] {
  const answer = server.psql(sql, basename(url));
  if (answer.exitCode !== 0) throw new Error(answer.stderr.toString());
  return answer.stdout.toString().trim().split(/\s/).map(Number);
}

/** Reports a second of so many receivers together. */
const receiversOf = (receivers: number) => async (server: Postgres, folder: string) => {
  const url = await seed(server, folder, HOSTS * receivers);
  return withReceivers({ url, folder, receivers }, async (urls, pids) => {
    await Promise.all(urls.map((one, n) => warmUp(one, n * HOSTS)));
    for (const statement of ALIKE.split(";")) askServer(server, url, statement);
    const load = async (one: string, n: number): Promise<number> => {
      const own = join(folder, `wrk-${n}`);
      mkdirSync(own);
      return wrkReports(one, { folder: own, body: BODY, path: "/v1/host-report", from: n * HOSTS, hosts: HOSTS });
    };
    return measured(server, pids, async () => (await Promise.all(urls.map(load))).reduce((sum, rate) => sum + rate, 0));
  });
};

const bare = (together: boolean) => async (server: Postgres, folder: string) => {
  const url = await seed(server, folder, HOSTS);
  return measured(server, [process.pid], () => bareLoop(url, together));
};

const CONTESTANTS: { name: string; run: (server: Postgres, folder: string) => Promise<Measured> }[] = [
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
  const all = new Map<string, Measured[]>();
  await using server = await Postgres.start(programs);
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, run } of CONTESTANTS) {
      const one = await inFolder((folder) => run(server, folder));
      all.set(name, [...(all.get(name) ?? []), one]);
      console.error(`round ${round + 1}: ${name}: ${count(one.rate)}/s, ${one.cpu.map(count).join(" + ")} µs`);
    }
  }
  const rateOf = (name: string): number => median(all.get(name)!.map(({ rate }) => rate));
  const base = rateOf(CONTESTANTS[0]!.name);
  return {
    title: "Reports per second on PostgreSQL",
    command: "bun test/bench/scale.ts reports",
    text: `A report with ${CONTAINERS} containers (${count(BODY.length)} bytes), 64 connections and ${count(HOSTS)} hosts a receiver, wrk and the server (Debian's settings: every commit is synced) on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn. CPU time for each report: of the receivers, or the loop, and of the server.`,
    rows: [...all].map(([what, figures]) => ({
      what,
      figure: `${count(rateOf(what))}/s; ${[0, 1].map((n) => count(median(figures.map(({ cpu }) => cpu[n]!)))).join(" + ")} µs`,
      ratio: `${(rateOf(what) / base).toFixed(2)} of the bare loop`,
      aim: what.startsWith("one") ? "0.5 of the bare loop" : "",
    })),
  };
}

/** Sends reports of all hosts in turn at a steady rate, each host's a minute after the one before it; gives how many were taken. */
async function sendSteadily(urls: string[], text: string, seconds: number): Promise<number> {
  const [begin, start] = [performance.now(), Date.now() - 3_000_000];
  const open = new Set<Promise<void>>();
  let sent = 0;
  const one = async (n: number): Promise<void> => {
    const host = (n % FLEET) + 1;
    const at = new Date(start + Math.floor(n / FLEET) * 60_000 + (n % 60_000)).toISOString();
    const headers = { authorization: `Bearer ${tokenOf(host)}` };
    const answer = await fetch(`${urls[n % urls.length]}/v1/host-report`, {
      method: "POST",
      body: text.replace("@", at),
      headers,
    });
    if (!answer.ok) throw new Error(`a report is answered ${answer.status}: ${await answer.text()}`);
    await answer.arrayBuffer();
  };
  for (let passed = 0; passed < seconds; passed = (performance.now() - begin) / 1000) {
    while (sent < passed * FLEET_RATE) {
      if (open.size >= 64) await Promise.race(open);
      const answered = one(sent++).finally(() => open.delete(answered));
      open.add(answered);
    }
    await Promise.race([Bun.sleep(5), ...open]);
  }
  await Promise.all(open);
  return sent;
}

/** Bytes of tables that keep samples and of the whole database, bytes written to the log, and rows. */
const STATE = `SELECT (SELECT COUNT(*) FROM host_samples) + (SELECT COUNT(*) FROM workload_samples),
  (SELECT SUM(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname ~ '^(host|workload)_samples'),
  pg_database_size(current_database()), pg_current_wal_lsn() - '0/0'`;

/** What a fleet costs: three receivers take its reports at a steady rate. */
export async function fleet(programs: string): Promise<Section> {
  await using server = await Postgres.start(programs);
  return await inFolder(async (folder) => {
    const url = await seed(server, folder, FLEET);
    const containers = Array.from({ length: FLEET_CONTAINERS }, (_, n) => container(`service-${n}`));
    const body = JSON.stringify(report({ recorded_at: "@", containers }));
    return withReceivers({ url, folder, receivers: 3 }, async (urls, pids) => {
      await warmUp(urls[0]!, 0, body);
      for (const statement of ALIKE.split(";")) askServer(server, url, statement);
      const memory: number[] = [];
      const measure = async () => memory.push(Math.max(...(await Promise.all(pids.map(residentMiB)))));
      const watch = setInterval(() => void measure(), 1000);
      const begin = performance.now();
      const before = { cpu: cpuOf(server, pids), state: askServer(server, url, STATE) };
      const done = await sendSteadily(urls, body, FLEET_SECONDS);
      const rate = done / ((performance.now() - begin) / 1000);
      const after = { cpu: cpuOf(server, pids), state: askServer(server, url, STATE) };
      clearInterval(watch);
      const quiet = cpuOf(server, pids);
      await Bun.sleep(QUIET_SECONDS * 1000);
      const idle = cpuOf(server, pids).map((cpu, n) => `${(((cpu - quiet[n]!) / QUIET_SECONDS) * 100).toFixed(1)} %`);
      const each = after.state.map((figure, n) => (figure - before.state[n]!) / done);
      const cpu = after.cpu.map((seconds, n) => (seconds - before.cpu[n]!) / done);
      const perDay = FLEET * 1440;
      const percent = (seconds: number) => `${((seconds * FLEET * 100) / 60).toFixed(0)} % of a core`;
      const bytes = (what: string, perReport: number): Row => ({
        what,
        figure: `${((perReport * perDay) / 1e9).toFixed(1)} GB a day`,
        ratio: `${count(perReport)} bytes a report`,
      });
      const most = (from: number, to?: number) => `${Math.max(...memory.slice(from, to)).toFixed(0)} MiB`;
      return {
        title: `What ${count(FLEET)} hosts cost`,
        command: "bun test/bench/scale.ts fleet",
        text: `A report a minute with ${FLEET_CONTAINERS} containers (${count(body.length)} bytes) is ${count(FLEET / 60)} a second. Three receivers took ${count(done)} in ${FLEET_SECONDS} s, ${count(rate)} a second: ${(done / FLEET).toFixed(1)} minutes of the fleet. None was refused. The figures of a day are reckoned from what each report cost; the leader's periodic work is in them.`,
        rows: [
          {
            what: "CPU of the receivers together",
            figure: percent(cpu[0]!),
            ratio: `${count(cpu[0]! * 1e6)} µs a report`,
          },
          { what: "CPU of PostgreSQL", figure: percent(cpu[1]!), ratio: `${count(cpu[1]! * 1e6)} µs a report` },
          {
            what: `periodic work: CPU while no report comes, for ${QUIET_SECONDS} s afterwards`,
            figure: `${idle[0]} of a core in the receivers`,
            ratio: `${idle[1]} in PostgreSQL`,
          },
          {
            what: "rows of samples",
            figure: `${((each[0]! * perDay) / 1e6).toFixed(1)} million a day`,
            ratio: `${each[0]!.toFixed(1)} a report`,
          },
          bytes("disk for samples with their indexes, which are kept for two days", each[1]!),
          {
            what: "growth of the rest of the database in this run: rollups, and versions of rows that wait for a vacuum",
            figure: `${(((each[2]! - each[1]!) * done) / 1e6).toFixed(0)} MB`,
            ratio: `${((each[1]! * done) / 1e6).toFixed(0)} MB of samples`,
          },
          bytes("written to PostgreSQL's log", each[3]!),
          {
            what: "memory of the largest receiver in the last minute, at most",
            figure: most(-60),
            ratio: `${most(0, 60)} in the first minute`,
            aim: "flat",
          },
        ],
      };
    });
  });
}

/** Appends as the collector stores them, a transaction each, on several connections side by side. */
async function bareAppends(url: string): Promise<number> {
  await using sql = new Bun.SQL(url, { max: CONNECTIONS });
  const line = "x".repeat(250);
  const begin = performance.now();
  let done = 0;
  const work = async (): Promise<void> => {
    while (performance.now() - begin < SECONDS * 1000) {
      const id = crypto.randomUUID();
      await sql`INSERT INTO inbox (recipient, id, line) VALUES ('bob', ${id}, ${line}) ON CONFLICT (recipient, id) DO NOTHING`;
      done++;
    }
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
  return done / ((performance.now() - begin) / 1000);
}

/** Webhooks a second that one collector stores in an inbox there. */
async function collected(url: string, folder: string): Promise<number> {
  const port = freePort();
  const config = join(folder, "collector.yaml");
  writeFileSync(
    config,
    `agent: bench\ninbox: ${url}\nwebhook:\n  listen: 127.0.0.1:${port}\n  routes: [{ path: /open, recipient: bob, type: INFO, template: ${JSON.stringify("{{ .text }}")} }]\n`,
  );
  const body = JSON.stringify({ text: "x".repeat(100) });
  const load = { body, headers: { "content-type": "application/json" }, seconds: SECONDS, folder };
  return withProgram(
    [join(ROOT, "dist/picket-collector"), "--config", config, "--log-level", "warn"],
    async () => {
      if (!(await fetch(`http://127.0.0.1:${port}/health`)).ok) throw new Error("not ready");
    },
    () => wrk({ ...load, url: `http://127.0.0.1:${port}/open` }),
  );
}

/** Appends to an inbox in PostgreSQL a second. */
export async function scaleInbox(programs: string): Promise<Section> {
  await using server = await Postgres.start(programs);
  const url = server.database();
  const rates: [number, number][] = [];
  for (let round = 0; round < ROUNDS; round++) {
    // The collector makes the tables.
    const own = await inFolder((folder) => collected(url, folder));
    rates.push([own, await bareAppends(url)]);
    console.error(`round ${round + 1}: ${rates[round]!.map(count).join(" against ")} appends/s`);
  }
  const [own, loop] = [0, 1].map((n) => median(rates.map((pair) => pair[n]!))) as [number, number];
  return {
    title: "Appends to an inbox in PostgreSQL",
    command: "bun test/bench/scale.ts inbox",
    text: `Events for one recipient, each 202 a commit; wrk with 64 connections and the server on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn.`,
    rows: [
      {
        what: `bare Bun.SQL loop of the same INSERT on ${CONNECTIONS} connections, a commit each`,
        figure: `${count(loop)}/s`,
        ratio: "1.00 of the bare loop",
      },
      {
        what: "one collector, webhooks that wait at the same time share a commit",
        figure: `${count(own)}/s`,
        ratio: `${(own / loop).toFixed(2)} of the bare loop`,
      },
    ],
  };
}

if (import.meta.main) {
  const programs = postgresPrograms("PostgreSQL's figures");
  const chosen = { reports: scaleReports, fleet, inbox: scaleInbox }[process.argv[2] ?? "reports"];
  if (programs && chosen) {
    const { text, rows } = await chosen(programs);
    console.log(text);
    console.table(rows);
  }
}
