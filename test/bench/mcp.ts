// The MCP server: from a line in the inbox to the notification, idle watchers, start, memory.
//   bun test/bench/mcp.ts                    after bun run build

import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { ROOT, type Section, count, cpuSeconds, inFolder, median, percentile, residentMiB } from "./kit.ts";

const PROGRAM = join(ROOT, "dist/picket-collector");
const EVENTS = Number(process.env["PICKET_BENCH_EVENTS"] ?? 500);
const WATCHERS = 10;
const IDLE_SECONDS = Number(process.env["PICKET_BENCH_SECONDS"] ?? 20);
const OLD_LINES = 1_000_000;
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);

const line = (n: number): string =>
  `${JSON.stringify({ ts: "2026-01-31T12:00:00.000Z", id: n.toString(16).padStart(32, "0"), from: "bench", to: "bob", type: "INFO", priority: "normal", payload: `event ${n}` })}\n`;

interface Watcher {
  child: Subprocess<"pipe", "pipe", "inherit">;
  /** Resolves at the next message. */
  message: () => Promise<string>;
  end: () => Promise<void>;
}

/** A client's process; its session is open when it resolves. */
async function watcher(folder: string, name: string, args: string[] = ["--channel"]): Promise<Watcher> {
  const env = { PATH: "/usr/bin:/bin", HOME: folder, PICKET_COLLECTOR_INBOX_DIR: join(folder, "inbox") };
  const child = Bun.spawn([PROGRAM, "mcp", ...args, "--as", name], {
    env,
    stdin: "pipe",
    stdout: "pipe",
    stderr: "inherit",
  });
  const tell = (message: object): void => {
    void child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
    void child.stdin.flush();
  };
  const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  const message = async (): Promise<string> => {
    for (;;) {
      const end = rest.indexOf("\n");
      if (end >= 0) {
        const one = rest.slice(0, end);
        rest = rest.slice(end + 1);
        return one;
      }
      const { value, done } = await reader.read();
      if (done) throw new Error("the server has ended");
      rest += value;
    }
  };
  const params = { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "bench", version: "1" } };
  tell({ id: 1, method: "initialize", params });
  await message();
  tell({ method: "notifications/initialized" });
  return {
    child,
    message,
    async end() {
      await child.stdin.end();
      await child.exited;
    },
  };
}

/** Milliseconds from each line's write to its notification, one line at a time, at odd moments. */
async function latencies(folder: string): Promise<number[]> {
  const { message, end } = await watcher(folder, "bob");
  const inbox = openSync(join(folder, "inbox/bob.inbox"), "a");
  const found: number[] = [];
  for (let n = 0; n < EVENTS; n++) {
    await Bun.sleep(Math.random() * 20);
    const begun = performance.now();
    writeSync(inbox, line(n));
    await message();
    found.push(performance.now() - begun);
  }
  closeSync(inbox);
  await end();
  return found;
}

/** The time that watchers with nothing to do take together, in percent of a core. */
async function idle(folder: string): Promise<number> {
  const watchers: Watcher[] = [];
  for (let n = 0; n < WATCHERS; n++) {
    writeFileSync(join(folder, `inbox/idle-${n}.inbox`), line(n));
    watchers.push(await watcher(folder, `idle-${n}`));
    await watchers.at(-1)!.message();
  }
  // Starting is not idling.
  await Bun.sleep(12_000);
  const sum = (): number => watchers.reduce((all, { child }) => all + cpuSeconds(child.pid), 0);
  const before = sum();
  await Bun.sleep(IDLE_SECONDS * 1000);
  const used = sum() - before;
  await Promise.all(watchers.map(({ end }) => end()));
  return (used / IDLE_SECONDS) * 100;
}

/** Milliseconds from exec to the first new event's notification, with a million lines behind the mark; and what is resident then. */
async function starts(folder: string): Promise<{ ms: number[]; mib: number[]; empty: number[] }> {
  const path = join(folder, "inbox/old.inbox");
  const fd = openSync(path, "w");
  for (let n = 0; n < OLD_LINES; n += 1000)
    writeSync(fd, Array.from({ length: 1000 }, (_, at) => line(n + at)).join(""));
  closeSync(fd);
  // A reader of the agent's mark that has shown all of them.
  const env = { PATH: "/usr/bin:/bin", HOME: folder, PICKET_COLLECTOR_INBOX_DIR: join(folder, "inbox") };
  const script = `const { readNew } = await import(${JSON.stringify(join(ROOT, "lib/reader.ts"))});
    const { fileInboxes } = await import(${JSON.stringify(join(ROOT, "lib/file-inboxes.ts"))});
    for (let more = true; more;) {
      const turn = await readNew({ inboxes: fileInboxes(process.argv[1]), recipient: "old", reader: "agent", order: "file", warn() {} });
      await turn.done(turn.events.length);
      more = turn.events.length > 0;
    }`;
  Bun.spawnSync([process.execPath, "-e", script, join(folder, "inbox")], { env, stderr: "inherit" });
  const figures = { ms: [] as number[], mib: [] as number[], empty: [] as number[] };
  for (let round = 0; round < ROUNDS; round++) {
    writeFileSync(path, line(OLD_LINES + round), { flag: "a" });
    const begun = performance.now();
    const { child, message, end } = await watcher(folder, "old");
    await message();
    figures.ms.push(performance.now() - begun);
    await Bun.sleep(1000);
    figures.mib.push(await residentMiB(child.pid));
    await end();
  }
  return figures;
}

/** What a hook has resident at its end, in MiB. */
function hookMiB(folder: string): number {
  const env = { PATH: "/usr/bin:/bin", HOME: folder, PICKET_COLLECTOR_INBOX_DIR: join(folder, "inbox") };
  const run = Bun.spawnSync([PROGRAM, "hook", "--as", "bob"], { env, stdin: "ignore" });
  return run.resourceUsage.maxRSS / 2 ** 20;
}

export async function mcp(): Promise<Section> {
  return inFolder(async (folder) => {
    mkdirSync(join(folder, "inbox"));
    const times = await latencies(folder);
    const { ms, mib } = await starts(folder);
    const hooks = Array.from({ length: ROUNDS }, () => hookMiB(folder));
    const percent = await idle(folder);
    return {
      title: "The MCP server",
      command: "bun test/bench/mcp.ts",
      text: `The compiled \`picket-collector mcp --channel\`: ${count(EVENTS)} lines, each appended at an odd moment, until the client has read the notification; ${WATCHERS} processes with nothing to do, over ${IDLE_SECONDS} s; from exec to the notification of a new event, with a million lines behind the mark.`,
      rows: [
        { what: "line to notification, p50", figure: `${percentile(times, 50).toFixed(2)} ms` },
        { what: "line to notification, p99", figure: `${percentile(times, 99).toFixed(2)} ms`, aim: "below 50 ms" },
        {
          what: `CPU of ${WATCHERS} idle watchers together`,
          figure: `${percent.toFixed(2)} % of a core`,
          aim: "below 1 %",
        },
        {
          what: "start to the first notification, a million old lines",
          figure: `${median(ms).toFixed(0)} ms`,
          aim: "below 200 ms",
        },
        {
          what: "resident memory, against `hook` at its end",
          figure: `${median(mib).toFixed(1)} MiB against ${median(hooks).toFixed(1)} MiB`,
          ratio: `${(median(mib) / median(hooks)).toFixed(2)} times`,
        },
      ],
    };
  });
}

if (import.meta.main) console.table((await mcp()).rows);
