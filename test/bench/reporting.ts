// What a report costs the host that sends it: CPU time and resident memory of the compiled agent, against
// prometheus-node-exporter answering a scrape with the same collectors on.
//   bun test/bench/reporting.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
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
} from "./kit.ts";

const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
/** Reports and scrapes a round. */
const REPORTS = Number(process.env["PICKET_BENCH_REPORTS"] ?? 400);
const WARM_UP = 100;
const DENSE_SECONDS = 0.02;
/** As far apart that little is left of the one before in the processor's caches, and the garbage collector has had its turn. */
const SPARSE_SECONDS = 2;
const SPARSE_REPORTS = 6;
/** The runtime tidies up for half a minute after its start. */
const SETTLE_SECONDS = 40;
const IDLE_SECONDS = 20;
const DEFAULT_SECONDS = 60;
const DAY_SECONDS = 86_400;
const AGENT = join(ROOT, "dist/picket-agent");
const EXPORTER = "prometheus-node-exporter";
/** Those that give what a report holds of its host. */
const COLLECTORS = [
  "cpu",
  "meminfo",
  "filesystem",
  "loadavg",
  "netdev",
  "hwmon",
  "thermal_zone",
  "uname",
  "stat",
  "os",
];

/** What a program cost, in CPU milliseconds. */
interface Cost {
  /** One report or scrape right after the other. */
  dense: number;
  /** The same far apart. */
  sparse: number;
  /** Resident memory after the dense ones, in MiB. */
  mib: number;
}

/** A hub that takes every report and says nothing, so that the agent keeps its configured interval. */
async function withHub<T>(
  work: (hub: { url: string; taken: (reports: number) => Promise<void> }) => Promise<T>,
): Promise<T> {
  let reports = 0;
  let awaited = Number.POSITIVE_INFINITY;
  let arrived = () => {};
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      await request.arrayBuffer();
      if (request.method === "POST" && ++reports >= awaited) arrived();
      return new Response(null, { status: 204 });
    },
  });
  try {
    return await work({
      url: `http://127.0.0.1:${server.port}`,
      async taken(more) {
        const { promise, resolve } = Promise.withResolvers<void>();
        arrived = resolve;
        awaited = reports + more;
        await promise;
      },
    });
  } finally {
    await server.stop(true);
  }
}

function agentOn(folder: string, { url, interval }: { url: string; interval: number }): string[] {
  const config = join(folder, "agent.yaml");
  writeFileSync(
    config,
    `receiver: { url: "${url}", token: pk_bench }
host_id: bench
protocol: telemetry
interval_seconds: ${interval}
data_dir: ${folder}/agent
docker: { enabled: false }
`,
  );
  return [AGENT, "--config", config, "--log-level", "warn"];
}

/** Runs `work` and gives the CPU milliseconds of a process meanwhile. */
async function spent(pid: number, work: () => Promise<unknown>): Promise<number> {
  const before = cpuSeconds(pid);
  await work();
  return (cpuSeconds(pid) - before) * 1000;
}

/** CPU milliseconds a second of a process that has nothing to do. */
async function idleOf(pid: number): Promise<number> {
  await Bun.sleep(SETTLE_SECONDS * 1000);
  return (await spent(pid, () => Bun.sleep(IDLE_SECONDS * 1000))) / IDLE_SECONDS;
}

/** A contestant: what it costs, and what it costs to do nothing. */
interface Contestant {
  cost: (folder: string) => Promise<Cost>;
  idle: (folder: string) => Promise<number>;
}

function withAgent<T>(
  folder: string,
  interval: number,
  work: (child: { pid: number; taken: (reports: number) => Promise<void> }) => Promise<T>,
): Promise<T> {
  return withHub(({ url, taken }) =>
    withProgram(
      agentOn(folder, { url, interval }),
      () => taken(1),
      ({ pid }) => work({ pid, taken }),
    ),
  );
}

const agent: Contestant = {
  async cost(folder) {
    const dense = await withAgent(folder, DENSE_SECONDS, async ({ pid, taken }) => {
      await taken(WARM_UP);
      return { dense: (await spent(pid, () => taken(REPORTS))) / REPORTS, mib: await residentMiB(pid) };
    });
    const sparse = await withAgent(folder, SPARSE_SECONDS, async ({ pid, taken }) => {
      await taken(2);
      return (await spent(pid, () => taken(SPARSE_REPORTS))) / SPARSE_REPORTS;
    });
    return { ...dense, sparse };
  },
  idle: (folder) => withAgent(folder, DAY_SECONDS, ({ pid }) => idleOf(pid)),
};

function withExporter<T>(work: (child: { pid: number; scrape: () => Promise<void> }) => Promise<T>): Promise<T> {
  const listen = `127.0.0.1:${freePort()}`;
  const flags = ["--collector.disable-defaults", ...COLLECTORS.map((name) => `--collector.${name}`)];
  const scrape = async () => {
    const answer = await fetch(`http://${listen}/metrics`);
    if (!answer.ok) throw new Error(`${EXPORTER}: ${answer.status}`);
    await answer.arrayBuffer();
  };
  return withProgram(
    [EXPORTER, `--web.listen-address=${listen}`, "--log.level=error", "--web.disable-exporter-metrics", ...flags],
    scrape,
    ({ pid }) => work({ pid, scrape }),
  );
}

const exporter: Contestant = {
  cost: () =>
    withExporter(async ({ pid, scrape }) => {
      /** At the agent's pace. */
      const scrapes = async (times: number, seconds: number) => {
        for (let n = 0; n < times; n++) await Promise.all([scrape(), Bun.sleep(seconds * 1000)]);
      };
      await scrapes(WARM_UP, DENSE_SECONDS);
      const dense = (await spent(pid, () => scrapes(REPORTS, DENSE_SECONDS))) / REPORTS;
      const mib = await residentMiB(pid);
      await scrapes(2, SPARSE_SECONDS);
      const sparse = (await spent(pid, () => scrapes(SPARSE_REPORTS, SPARSE_SECONDS))) / SPARSE_REPORTS;
      return { dense, mib, sparse };
    }),
  idle: () => withExporter(({ pid }) => idleOf(pid)),
};

/** Medians of a contestant's rounds; a day has a report every minute, and nothing to do in between. */
function summary(costs: Cost[], idle: number): Cost & { idle: number; day: number } {
  const sparse = median(costs.map((cost) => cost.sparse));
  const each = sparse - idle * SPARSE_SECONDS;
  return {
    dense: median(costs.map(({ dense }) => dense)),
    mib: median(costs.map(({ mib }) => mib)),
    sparse,
    idle,
    day: ((each / DEFAULT_SECONDS + idle) * DAY_SECONDS) / 1000,
  };
}

function row(what: string, unit: string, [mine, theirs]: [number, number | undefined]): Row {
  const show = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} ${unit}`;
  if (theirs === undefined) return { what, figure: show(mine) };
  return {
    what,
    figure: `${show(mine)} against ${show(theirs)}`,
    ratio: theirs > 0 ? `${(mine / theirs).toFixed(2)} times` : "",
  };
}

/** What reporting costs the host. */
export async function reporting(): Promise<Section> {
  const there = Bun.which(EXPORTER) !== null;
  if (!there) console.log(`skipped: ${EXPORTER} is not installed`);
  const contestants = there ? [agent, exporter] : [agent];
  const idle = await Promise.all(contestants.map((one) => inFolder(one.idle)));
  const costs: Cost[][] = contestants.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, one] of contestants.entries()) costs[index]!.push(await inFolder(one.cost));
    console.error(`round ${round + 1}: agent, exporter: ${JSON.stringify(costs.map((all) => all.at(-1)))}`);
  }
  const [mine, peer] = contestants.map((_, index) => summary(costs[index]!, idle[index]!));
  return {
    title: "What a report costs its host",
    command: "bun test/bench/reporting.ts",
    text: `The compiled agent without Docker, collecting and sending; against ${EXPORTER} answering a scrape with the collectors ${COLLECTORS.join(", ")}. ${count(REPORTS)} of them ${DENSE_SECONDS * 1000} ms apart after ${WARM_UP} to warm up, then ${SPARSE_REPORTS} that are ${SPARSE_SECONDS} s apart; median of ${ROUNDS} rounds in turn. Idle: ${IDLE_SECONDS} s, beginning ${SETTLE_SECONDS} s after the start.`,
    rows: [
      row(`CPU time of a report or scrape, ${DENSE_SECONDS * 1000} ms apart`, "ms", [mine!.dense, peer?.dense]),
      row(`CPU time of a report or scrape, ${SPARSE_SECONDS} s apart`, "ms", [mine!.sparse, peer?.sparse]),
      row("CPU time per second while idle", "ms", [mine!.idle, peer?.idle]),
      row(`CPU time of a day with one every ${DEFAULT_SECONDS} s`, "s", [mine!.day, peer?.day]),
      row("resident memory after the run", "MiB", [mine!.mib, peer?.mib]),
    ],
  };
}

if (import.meta.main) console.table((await reporting()).rows);
