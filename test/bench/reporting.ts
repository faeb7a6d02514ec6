// What a report costs the host that sends it: CPU time and resident memory of the compiled agent, against
// prometheus-node-exporter answering a scrape with the same collectors on.
//   bun test/bench/reporting.ts
//   PICKET_BENCH_BEFORE=/path/to/picket-agent bun test/bench/reporting.ts     against another build of the agent

import { readFileSync, writeFileSync } from "node:fs";
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
/** The interval of a host, and for how many of them both are watched. */
const INTERVAL_SECONDS = 60;
const MINUTES = Number(process.env["PICKET_BENCH_MINUTES"] ?? 5);
/** From the start to the measurement: the runtime tidies up for half a minute, and the first report is another one than the rest. */
const SETTLE_SECONDS = 80;
/** What the agent's unit sets. */
const UNIT = { BUN_GC_TIMER_DISABLE: "1", MIMALLOC_PURGE_DELAY: "60000" };
const AGENT = join(ROOT, "dist/picket-agent");
/** Another agent's binary to compare with, such as one of an earlier commit. */
const BEFORE = process.env["PICKET_BENCH_BEFORE"];
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

/** What a program costs while it has one report or scrape right after the other. */
interface Dense {
  /** CPU milliseconds of each. */
  ms: number;
  /** Resident memory afterwards, in MiB. */
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

function agentOn(binary: string, folder: string, { url, interval }: { url: string; interval: number }): string[] {
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
  return [binary, "--config", config, "--log-level", "warn"];
}

/** Runs `work` and gives the CPU milliseconds of a process, and of the processes that it started, meanwhile. */
async function spent(pid: number, work: () => Promise<unknown>): Promise<number> {
  const all = () => cpuSeconds(pid) + childSeconds(pid);
  const before = all();
  await work();
  return (all() - before) * 1000;
}

/** CPU seconds of the ended processes that a process started: cutime and cstime of proc_pid_stat(5), in hundredths of a second. */
function childSeconds(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

/** CPU milliseconds a minute of a process, over some minutes. */
async function minute(pid: number): Promise<number> {
  await Bun.sleep(SETTLE_SECONDS * 1000);
  return (await spent(pid, () => Bun.sleep(MINUTES * 60_000))) / MINUTES;
}

/** A contestant: what it costs when it is busy, and what a minute costs with one report or scrape in it. */
interface Contestant {
  dense: (folder: string) => Promise<Dense>;
  sparse: (folder: string) => Promise<number>;
}

function withAgent<T>(
  binary: string,
  folder: string,
  interval: number,
  work: (child: { pid: number; taken: (reports: number) => Promise<void> }) => Promise<T>,
): Promise<T> {
  return withHub(({ url, taken }) =>
    withProgram(
      agentOn(binary, folder, { url, interval }),
      () => taken(1),
      ({ pid }) => work({ pid, taken }),
      UNIT,
    ),
  );
}

const agent = (binary: string): Contestant => ({
  dense: (folder) =>
    withAgent(binary, folder, DENSE_SECONDS, async ({ pid, taken }) => {
      await taken(WARM_UP);
      return { ms: (await spent(pid, () => taken(REPORTS))) / REPORTS, mib: await residentMiB(pid) };
    }),
  sparse: (folder) => withAgent(binary, folder, INTERVAL_SECONDS, ({ pid }) => minute(pid)),
});

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
  dense: () =>
    withExporter(async ({ pid, scrape }) => {
      /** At the agent's pace. */
      const scrapes = async (times: number) => {
        for (let n = 0; n < times; n++) await Promise.all([scrape(), Bun.sleep(DENSE_SECONDS * 1000)]);
      };
      await scrapes(WARM_UP);
      return { ms: (await spent(pid, () => scrapes(REPORTS))) / REPORTS, mib: await residentMiB(pid) };
    }),
  sparse: () =>
    withExporter(async ({ pid, scrape }) => {
      const timer = setInterval(() => void scrape(), INTERVAL_SECONDS * 1000);
      return minute(pid).finally(() => clearInterval(timer));
    }),
};

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
  if (!there && BEFORE === undefined) console.log(`skipped: ${EXPORTER} is not installed`);
  const other = BEFORE !== undefined ? [agent(BEFORE)] : there ? [exporter] : [];
  const contestants = [agent(AGENT), ...other];
  // Side by side: they hardly work.
  const sparse = await Promise.all(contestants.map((one) => inFolder(one.sparse)));
  const all: Dense[][] = contestants.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, one] of contestants.entries()) all[index]!.push(await inFolder(one.dense));
    console.error(`round ${round + 1}: agent, other: ${JSON.stringify(all.map((rounds) => rounds.at(-1)))}`);
  }
  const medians = (of: (dense: Dense) => number): [number, number | undefined] => {
    const [mine, theirs] = all.map((rounds) => median(rounds.map(of)));
    return [mine!, theirs];
  };
  return {
    title: "What a report costs its host",
    command: "bun test/bench/reporting.ts",
    text: `The compiled agent without Docker, collecting and sending, with the environment of its unit; against ${BEFORE ?? `${EXPORTER} answering a scrape with the collectors ${COLLECTORS.join(", ")}`}. One every ${INTERVAL_SECONDS} s: both side by side for ${MINUTES} minutes, beginning ${SETTLE_SECONDS} s after the start, the whole process by its CPU clock. ${DENSE_SECONDS * 1000} ms apart: ${count(REPORTS)} of them after ${WARM_UP} to warm up; median of ${ROUNDS} rounds in turn.`,
    rows: [
      {
        ...row(`CPU time of a minute with one report or scrape`, "ms", [sparse[0]!, sparse[1]]),
        aim: "at most 2 times",
      },
      row(
        `CPU time of a report or scrape, ${DENSE_SECONDS * 1000} ms apart`,
        "ms",
        medians(({ ms }) => ms),
      ),
      row(
        "resident memory after the run",
        "MiB",
        medians(({ mib }) => mib),
      ),
    ],
  };
}

if (import.meta.main) console.table((await reporting()).rows);
