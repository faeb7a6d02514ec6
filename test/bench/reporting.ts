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
const IDLE_SECONDS = 6;
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

/** What a program cost. */
interface Cost {
  /** CPU milliseconds of one report or scrape, one right after the other. */
  dense: number;
  /** The same far apart, without what it costs to do nothing. */
  sparse: number;
  /** CPU milliseconds a second with nothing to do. */
  idle: number;
  /** Resident memory after the run. */
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
  await Bun.sleep(2000);
  return (await spent(pid, () => Bun.sleep(IDLE_SECONDS * 1000))) / IDLE_SECONDS;
}

async function agent(folder: string): Promise<Cost> {
  return withHub(async ({ url, taken }) => {
    const every = <T>(interval: number, work: (pid: number) => Promise<T>) =>
      withProgram(
        agentOn(folder, { url, interval }),
        () => taken(1),
        ({ pid }) => work(pid),
      );
    const { dense, mib } = await every(DENSE_SECONDS, async (pid) => {
      await taken(WARM_UP);
      return { dense: (await spent(pid, () => taken(REPORTS))) / REPORTS, mib: await residentMiB(pid) };
    });
    const sparse = await every(SPARSE_SECONDS, async (pid) => {
      await taken(1);
      return (await spent(pid, () => taken(SPARSE_REPORTS))) / SPARSE_REPORTS;
    });
    const idle = await every(DAY_SECONDS, idleOf);
    return { dense, mib, idle, sparse: sparse - idle * SPARSE_SECONDS };
  });
}

async function exporter(): Promise<Cost> {
  const listen = `127.0.0.1:${freePort()}`;
  const flags = ["--collector.disable-defaults", ...COLLECTORS.map((name) => `--collector.${name}`)];
  const scrape = async () => {
    const answer = await fetch(`http://${listen}/metrics`);
    if (!answer.ok) throw new Error(`${EXPORTER}: ${answer.status}`);
    await answer.arrayBuffer();
  };
  /** At the agent's pace. */
  const scrapes = async (times: number, seconds: number) => {
    for (let n = 0; n < times; n++) await Promise.all([scrape(), Bun.sleep(seconds * 1000)]);
  };
  return withProgram(
    [EXPORTER, `--web.listen-address=${listen}`, "--log.level=error", "--web.disable-exporter-metrics", ...flags],
    scrape,
    async ({ pid }) => {
      await scrapes(WARM_UP, DENSE_SECONDS);
      const dense = (await spent(pid, () => scrapes(REPORTS, DENSE_SECONDS))) / REPORTS;
      const mib = await residentMiB(pid);
      const sparse = (await spent(pid, () => scrapes(SPARSE_REPORTS, SPARSE_SECONDS))) / SPARSE_REPORTS;
      const idle = await idleOf(pid);
      return { dense, mib, idle, sparse: sparse - idle * SPARSE_SECONDS };
    },
  );
}

/** CPU seconds a day at the default interval. */
function perDay({ sparse, idle }: Cost): number {
  return ((sparse / DEFAULT_SECONDS + idle) * DAY_SECONDS) / 1000;
}

function row(what: string, unit: string, [mine, theirs]: [number, number | null | undefined]): Row {
  const show = (value: number) => `${value.toFixed(value < 10 ? 2 : 0)} ${unit}`;
  if (theirs === null || theirs === undefined) return { what, figure: show(mine) };
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
  const ours: Cost[] = [];
  const theirs: Cost[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    ours.push(await inFolder(agent));
    if (there) theirs.push(await exporter());
    console.error(
      `round ${round + 1}: agent ${JSON.stringify(ours.at(-1))}, exporter ${JSON.stringify(theirs.at(-1))}`,
    );
  }
  const middle = (costs: Cost[]): Cost => ({
    dense: median(costs.map(({ dense }) => dense)),
    sparse: median(costs.map(({ sparse }) => sparse)),
    idle: median(costs.map(({ idle }) => idle)),
    mib: median(costs.map(({ mib }) => mib)),
  });
  const mine = middle(ours);
  const peer = there ? middle(theirs) : null;
  return {
    title: "What a report costs its host",
    command: "bun test/bench/reporting.ts",
    text: `The compiled agent without Docker, collecting and sending; against ${EXPORTER} answering a scrape with the collectors ${COLLECTORS.join(", ")}. ${count(REPORTS)} of them ${DENSE_SECONDS * 1000} ms apart after ${WARM_UP} to warm up, then ${SPARSE_REPORTS} that are ${SPARSE_SECONDS} s apart, then ${IDLE_SECONDS} s with nothing to do; median of ${ROUNDS} rounds in turn.`,
    rows: [
      row(`CPU time of a report or scrape, ${DENSE_SECONDS * 1000} ms apart`, "ms", [mine.dense, peer?.dense]),
      row(`CPU time of a report or scrape, ${SPARSE_SECONDS} s apart`, "ms", [mine.sparse, peer?.sparse]),
      row("CPU time with nothing to do, of each second", "ms", [mine.idle, peer?.idle]),
      row(`CPU time of a day with one every ${DEFAULT_SECONDS} s`, "s", [perDay(mine), peer && perDay(peer)]),
      row("resident memory after the run", "MiB", [mine.mib, peer?.mib]),
    ],
  };
}

if (import.meta.main) console.table((await reporting()).rows);
