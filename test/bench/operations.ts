// Durable operations per second against a bare Bun.serve and a bare loop of appends; how long a million operations take to be
// read at a start, against jq and a JSON.parse for each line; what memory ten million take; what reading costs meanwhile.
//   bun test/bench/operations.ts [events|replay|memory|stats]

import { closeSync, fdatasyncSync, openSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import {
  ROOT,
  type Row,
  type Section,
  count,
  freePort,
  inFolder,
  median,
  peakMiB,
  percentile,
  residentMiB,
  withProgram,
} from "./kit.ts";

const SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 4);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const OPERATIONS = Number(process.env["PICKET_BENCH_OPERATIONS"] ?? 10_000_000);
const REPLAYED = Number(process.env["PICKET_BENCH_REPLAYED"] ?? 1_000_000);
const OBSERVER = join(ROOT, "dist/picket-observer");
const CONNECTIONS = 64;
const COMMAND = "bun test/bench/operations.ts";

// ---------------------------------------------------------------------------------------------------------------
// Operations

const TASKS = [
  { endpoint: "mcp:search_candidates", source: "mcp", class: "search" },
  { endpoint: "POST /v1/fill-requests", source: "scenario", class: "matching" },
  { endpoint: "workflow:invoice-export", source: "workflow", class: "export" },
  { endpoint: "mcp:send_offer", source: "scenario", class: "outreach" },
  { endpoint: "inbox:read", source: "inbox", class: "triage" },
];
const CITIES = [
  ["Toledo", "OH"],
  ["Fresno", "CA"],
  ["Albany", "NY"],
  ["El Paso", "TX"],
];
const ROLES = ["welder", "forklift operator", "line cook", "picker"];
/** No two failures of one have the same text. */
const ERRORS = [
  (mark: string) => `connect ECONNREFUSED 10.0.3.17:5432 (attempt ${mark})`,
  (mark: string) => `HTTP 503 from https://jobs.example.com/v1/runs/${mark}: Service Unavailable`,
  (mark: string) => `timed out after ${mark} ms while waiting for worker-12`,
  (mark: string) => `ENOENT: no such file or directory, open '/srv/exports/${mark}/invoice.json'`,
];

/** The n-th operation, some 350 bytes of JSON: one of ten failed, in words of its own; some have an id, or all. `mark`: what makes it unique. */
function operation(n: number, mark: string, { allIds = false } = {}): Record<string, unknown> {
  const task = TASKS[n % TASKS.length]!;
  const [city, state] = CITIES[n % CITIES.length]!;
  const success = (n + Math.floor(n / 10)) % 10 !== 7;
  return {
    ...(allIds || n % 4 === 0 ? { id: `op-${mark}` } : {}),
    timestamp: new Date(1_780_000_000_000 + n * 40).toISOString(),
    endpoint: task.endpoint,
    source: task.source,
    success,
    duration_ms: 20 + ((n * 37) % 900),
    input_summary: `${(n % 5) + 1} x ${ROLES[n % 4]} in ${city}, shift ${n % 3}, radius 40 km, contract template ${n % 90}`,
    output_summary: success ? `${n % 12} found, best score 0.${n % 100}, 2 left out for their distance` : "",
    ...(success ? {} : { error: ERRORS[((n / 10) % ERRORS.length) | 0]!(mark) }),
    staffer_id: `st-${1000 + (n % 700)}`,
    ...(task.source === "scenario"
      ? { event_kind: "fill_request", role: ROLES[n % 4], city, state, count: n % 9 }
      : {}),
    task_class: task.class,
  };
}

/** Bodies in which `@` stands for what is new with each request. */
function bodies(many: number, length: number): string[] {
  return Array.from({ length: many }, (_, body) => {
    if (length === 1) return JSON.stringify(operation(body, "@"));
    return JSON.stringify(Array.from({ length }, (_item, n) => operation(body * length + n, `@-${n}`)));
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Programs

function observerOn(folder: string, more = ""): { cmd: string[]; url: string } {
  const port = freePort();
  const config = join(folder, "observer.yaml");
  writeFileSync(config, `listen: 127.0.0.1:${port}\npersist_path: ${folder}/data/ops.jsonl\n${more}\n`);
  return { cmd: [OBSERVER, "--config", config, "--log-level", "error"], url: `http://127.0.0.1:${port}` };
}

function withObserver<T>(
  folder: string,
  work: (url: string, child: Subprocess) => Promise<T>,
  more?: string,
): Promise<T> {
  const { cmd, url } = observerOn(folder, more);
  return withProgram(
    cmd,
    () => fetch(`${url}/health`),
    (child) => work(url, child),
  );
}

/** A server that reads the body, does this with it, and answers 200. */
const bare = (work: string) => `Bun.serve({ port: Number(process.argv[2]), hostname: "127.0.0.1", async fetch(request) {
  if (request.method === "POST") { ${work} }
  return new Response('{"accepted":true,"ring_size":2000}', { headers: { "content-type": "application/json" } });
} });`;

function withBare<T>(folder: string, code: string, work: (url: string) => Promise<T>): Promise<T> {
  const port = freePort();
  const url = `http://127.0.0.1:${port}`;
  writeFileSync(join(folder, "bare.ts"), code);
  return withProgram(
    [process.execPath, join(folder, "bare.ts"), String(port)],
    () => fetch(url),
    () => work(url),
  );
}

/** Starts wrk with these bodies in turn, each new by what stands for `@`; gives requests a second. */
async function wrkBodies(url: string, folder: string, posted: string[]): Promise<number> {
  writeFileSync(join(folder, "bodies"), posted.join("\n"));
  writeFileSync(
    join(folder, "operations.lua"),
    `wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local bodies, n, run = {}, 0, os.time() % 1000000
for line in io.lines("${join(folder, "bodies")}") do
  local parts = {}
  for part in string.gmatch(line .. "@", "([^@]*)@") do parts[#parts + 1] = part end
  bodies[#bodies + 1] = parts
end
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, table.concat(bodies[n % #bodies + 1], string.format("%d%08d", run, n)))
end
`,
  );
  const run = Bun.spawn(
    ["wrk", "-t1", `-c${CONNECTIONS}`, `-d${SECONDS}s`, "-s", join(folder, "operations.lua"), `${url}/observer/event`],
    { stdout: "pipe" },
  );
  const text = await new Response(run.stdout).text();
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(text);
  if (bad) throw new Error(`${url}: ${bad[1]} refused:\n${text}`);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]);
}

// ---------------------------------------------------------------------------------------------------------------
// Events

/** The same lines, as many for one fdatasync as 64 connections can have waiting: what the disk gives. Requests a second. */
async function appendLoop(folder: string, posted: string[]): Promise<number> {
  const lines = posted.map((body) => {
    const items = JSON.parse(body) as unknown;
    return Array.isArray(items) ? items.map((item) => `${JSON.stringify(item)}\n`).join("") : `${body}\n`;
  });
  const fd = openSync(join(folder, "lines"), "a");
  const begin = performance.now();
  let done = 0;
  while (performance.now() - begin < SECONDS * 1000) {
    let text = "";
    for (let n = 0; n < CONNECTIONS; n++) text += lines[(done + n) % lines.length]!;
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
    fdatasyncSync(fd);
    done += CONNECTIONS;
  }
  closeSync(fd);
  return done / ((performance.now() - begin) / 1000);
}

type Contestant = (folder: string, posted: string[]) => Promise<number>;

const READ_ONLY = "bare Bun.serve that reads the body";
const CONTESTANTS: Record<string, Contestant> = {
  [READ_ONLY]: (folder, posted) =>
    withBare(folder, bare("await request.arrayBuffer();"), (url) => wrkBodies(url, folder, posted)),
  "bare Bun.serve that also parses it": (folder, posted) =>
    withBare(folder, bare("await request.json();"), (url) => wrkBodies(url, folder, posted)),
  "bare loop: append and fdatasync, no network": appendLoop,
  "observer, fdatasync": (folder, posted) => withObserver(folder, (url) => wrkBodies(url, folder, posted)),
  "observer, `durability: os`": (folder, posted) =>
    withObserver(folder, (url) => wrkBodies(url, folder, posted), "durability: os"),
};

/** Operations a second, one by one and in arrays of 100; rounds in turn, so that a slow minute of the machine hits all. */
export async function operations(): Promise<Section> {
  const kinds = [
    { name: "one", length: 1, posted: bodies(240, 1) },
    { name: "arrays of 100", length: 100, posted: bodies(12, 100) },
  ];
  const rates = new Map<string, number[]>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const { name, length, posted } of kinds) {
      for (const [contestant, run] of Object.entries(CONTESTANTS)) {
        const rate = length * (await inFolder((folder) => run(folder, posted)));
        const key = `${name}: ${contestant}`;
        rates.set(key, [...(rates.get(key) ?? []), rate]);
        console.error(`round ${round + 1}: ${key}: ${count(rate)}/s`);
      }
    }
  }
  const rows = kinds.flatMap(({ name }) => {
    const base = median(rates.get(`${name}: ${READ_ONLY}`)!);
    return Object.keys(CONTESTANTS).map((contestant): Row => {
      const rate = median(rates.get(`${name}: ${contestant}`)!);
      const aim = name === "one" && contestant === "observer, fdatasync" ? "0.4 of bare" : "";
      return {
        what: `${name}: ${contestant}`,
        figure: `${count(rate)}/s`,
        ratio: `${(rate / base).toFixed(2)} of bare`,
        aim,
      };
    });
  });
  return {
    title: "Durable operations per second",
    command: `${COMMAND} events`,
    text: `Operations of ${count(average(kinds[0]!.posted))} bytes, a quarter with an id, a tenth failed with a new text each; ${CONNECTIONS} connections, wrk on the same machine; median of ${ROUNDS} rounds of ${SECONDS} s in turn. Every 200 of "fdatasync" is on disk (requests that wait at the same time share one sync).`,
    rows,
  };
}

function average(texts: string[]): number {
  return texts.reduce((sum, text) => sum + text.length, 0) / texts.length;
}

// ---------------------------------------------------------------------------------------------------------------
// Replay

const PARSE_EACH = `const decoder = new TextDecoder();
let rest = "", parsed = 0;
for await (const chunk of Bun.file(process.argv[2]).stream()) {
  const lines = (rest + decoder.decode(chunk, { stream: true })).split("\\n");
  rest = lines.pop();
  for (const line of lines) { JSON.parse(line); parsed++; }
}
if (parsed !== Number(process.argv[3])) throw new Error("parsed " + parsed);`;

/** Writes a log of so many operations, as the observer does. */
function writeLog(path: string, many: number): void {
  const fd = openSync(path, "w");
  for (let first = 0; first < many; first += 1000) {
    const length = Math.min(1000, many - first);
    const lines = Array.from({ length }, (_, n) => `${JSON.stringify(operation(first + n, `${first + n}`))}\n`);
    const bytes = Buffer.from(lines.join(""));
    for (let at = 0; at < bytes.length;) at += writeSync(fd, bytes, at);
  }
  closeSync(fd);
}

async function timed(cmd: string[]): Promise<number> {
  const begin = performance.now();
  const run = Bun.spawn(cmd, { stdout: "ignore", stderr: "inherit" });
  if ((await run.exited) !== 0) throw new Error(`${cmd.join(" ")} ended with ${run.exitCode}`);
  return (performance.now() - begin) / 1000;
}

/** How long a start takes that reads a million operations. */
export async function replaying(): Promise<Section> {
  return inFolder(async (folder) => {
    await Bun.$`mkdir ${join(folder, "data")}`;
    const log = join(folder, "data/ops.jsonl");
    writeLog(log, REPLAYED);
    writeFileSync(join(folder, "parse.ts"), PARSE_EACH);
    const memory: number[] = [];
    const peaks: number[] = [];
    const observer = async (): Promise<number> => {
      const begin = performance.now();
      const ready = (url: string) => fetch(`${url}/observer/stats`).then((answer) => answer.json());
      return withObserver(
        folder,
        async (url, child) => {
          const seconds = (performance.now() - begin) / 1000;
          const { total } = (await ready(url)) as { total: number };
          if (total !== REPLAYED) throw new Error(`the observer knows of ${total} operations`);
          memory.push(await residentMiB(child.pid));
          peaks.push(peakMiB(child.pid) ?? Number.NaN);
          return seconds;
        },
        "rotate_mb: 100000",
      );
    };
    const contestants: Record<string, () => Promise<number>> = {
      "Bun: JSON.parse for each line": () => timed([process.execPath, join(folder, "parse.ts"), log, String(REPLAYED)]),
      observer,
    };
    if (Bun.which("jq")) contestants["jq -c ."] = () => timed(["jq", "-c", ".", log]);
    else console.log("skipped: jq is not installed");
    const times = new Map<string, number[]>();
    for (let round = 0; round < ROUNDS; round++) {
      for (const [name, run] of Object.entries(contestants)) {
        const seconds = await run();
        times.set(name, [...(times.get(name) ?? []), seconds]);
        console.error(`round ${round + 1}: ${name}: ${seconds.toFixed(2)} s`);
      }
    }
    const base = median(times.get("Bun: JSON.parse for each line")!);
    const rows: Row[] = [...times].map(([what, all]) => ({
      what: what === "observer" ? "observer, from its start to its first answer" : what,
      figure: `${median(all).toFixed(2)} s`,
      ratio: `${(median(all) / base).toFixed(2)} times JSON.parse`,
      aim: what === "observer" ? "2 times; faster than jq" : "",
    }));
    const empty = await inFolder((none) => withObserver(none, (_url, child) => residentMiB(child.pid)));
    rows.push({
      what: "observer, resident memory afterwards",
      figure: `${median(memory).toFixed(0)} MiB`,
      ratio: `${median(peaks).toFixed(0)} MiB at most; ${empty.toFixed(0)} MiB with an empty log`,
    });
    return {
      title: `A start that reads ${count(REPLAYED)} operations`,
      command: `${COMMAND} replay`,
      text: `One log of ${count(statSync(log).size / (1 << 20))} MiB, in the page cache, no snapshot; a tenth of the operations failed and are sorted into clusters, each with a text of its own. Median of ${ROUNDS} rounds in turn.`,
      rows,
    };
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Memory

/** How often memory is looked at, in milliseconds. */
const LOOK_MS = 100;

/** Resident memory while ten million operations come in. */
export async function remembering(): Promise<Section> {
  return inFolder((folder) =>
    withObserver(folder, async (url, child) => {
      const length = 1000;
      const parts = Array.from({ length: 8 }, (_, body) => {
        const items = Array.from({ length }, (_item, n) => operation(body * length + n, `@-${n}`, { allIds: true }));
        return JSON.stringify(items).split("@");
      });
      const atStart = await residentMiB(child.pid);
      const marks = [OPERATIONS / 10, OPERATIONS / 2, OPERATIONS];
      const seen: { after: number; memory: number; seconds: number }[] = [];
      const begin = performance.now();
      let next = 0;
      const send = async (end: number): Promise<void> => {
        while (next < end) {
          const n = next++;
          const answer = await fetch(`${url}/observer/event`, {
            method: "POST",
            body: parts[n % parts.length]!.join(String(n)),
          });
          if (answer.status !== 200) throw new Error(`answered ${answer.status}: ${await answer.text()}`);
          await answer.arrayBuffer();
        }
      };
      const sendAll = (end: number) => Promise.all(Array.from({ length: 4 }, () => send(end)));
      for (const after of marks) {
        await sendAll((after - OPERATIONS / 10) / length);
        // Between two collections of garbage it swings by half: one look says little.
        const looks: number[] = [];
        const looking = setInterval(() => void residentMiB(child.pid).then((mib) => looks.push(mib)), LOOK_MS);
        await sendAll(after / length);
        clearInterval(looking);
        seen.push({ after, memory: median(looks), seconds: (performance.now() - begin) / 1000 });
        console.error(`${count(after)}: ${seen.at(-1)!.memory.toFixed(0)} MiB`);
      }
      const peak = peakMiB(child.pid) ?? Number.NaN;
      const { total } = (await (await fetch(`${url}/observer/stats`)).json()) as { total: number };
      if (total !== OPERATIONS) throw new Error(`the observer knows of ${total} operations`);
      const rows: Row[] = seen.map(({ after, memory, seconds }, index) => ({
        what: `up to ${count(after)} operations (${Math.round(seconds)} s)`,
        figure: `${memory.toFixed(0)} MiB`,
        ratio: `${(memory / (seen[index - 1]?.memory ?? atStart)).toFixed(2)} times the row above`,
        aim: index === 2 ? "flat: 1.1 times" : "",
      }));
      rows.push({ what: "at most", figure: `${peak.toFixed(0)} MiB`, ratio: `${atStart.toFixed(0)} MiB at the start` });
      return {
        title: `Memory while ${count(OPERATIONS)} operations come in`,
        command: `${COMMAND} memory`,
        text: `Arrays of ${count(length)} over HTTP, four at a time, each operation with an id of its own, a tenth failed; the log rotates every 256 MiB. Each figure is the median of samples every ${LOOK_MS} ms while the tenth before it came in.`,
        rows,
      };
    }),
  );
}

// ---------------------------------------------------------------------------------------------------------------
// Reading under load

async function latencies(url: string, seconds: number): Promise<number[]> {
  const times: number[] = [];
  const end = performance.now() + seconds * 1000;
  while (performance.now() < end) {
    const begin = performance.now();
    await (await fetch(`${url}/observer/stats`)).arrayBuffer();
    times.push(performance.now() - begin);
    // A reader that looks now and then: back to back it would be load itself.
    await Bun.sleep(2);
  }
  return times;
}

/** How long /observer/stats takes, idle and while operations come in at full rate. */
export async function statsUnderLoad(): Promise<Section> {
  return inFolder((folder) =>
    withObserver(folder, async (url) => {
      const loads: [string, string[]][] = [
        ["one by one", bodies(240, 1)],
        ["in arrays of 100", bodies(12, 100)],
      ];
      await wrkBodies(url, folder, loads[0]![1]);
      const measured = [{ what: "idle", times: await latencies(url, SECONDS) }];
      for (const [name, posted] of loads) {
        const load = wrkBodies(url, folder, posted);
        await Bun.sleep(300);
        measured.push({ what: `while operations come ${name}`, times: await latencies(url, SECONDS - 1) });
        await load;
      }
      return {
        title: "Reading /observer/stats under load",
        command: `${COMMAND} stats`,
        text: `One reader, 2 ms between its requests, beside wrk with ${CONNECTIONS} connections at full rate on the same two cores.`,
        rows: measured.map(({ what, times }) => ({
          what,
          figure: `p50 ${median(times).toFixed(2)} ms, p99 ${percentile(times, 99).toFixed(2)} ms`,
          ratio: `${count(times.length)} requests`,
        })),
      };
    }),
  );
}

if (import.meta.main) {
  const sections = { events: operations, replay: replaying, memory: remembering, stats: statsUnderLoad };
  const asked = process.argv.slice(2);
  for (const [name, section] of Object.entries(sections)) {
    if (asked.length === 0 || asked.includes(name)) console.table((await section()).rows);
  }
}
