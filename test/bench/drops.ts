// Drops: from the rename into the folder to the line in the inbox, and a burst of 10,000 against a plain loop.
//   bun test/bench/drops.ts

import {
  closeSync,
  fdatasyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { ROOT, type Section, count, freePort, inFolder, median, percentile, withProgram } from "./kit.ts";

const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const BURST = 10_000;
const SINGLE = 300;

function drop(folder: string, n: number): void {
  const text = JSON.stringify({ recipient: "bob", type: "INFO", payload: `number ${n}` });
  writeFileSync(join(folder, `.${n}.tmp`), text);
  renameSync(join(folder, `.${n}.tmp`), join(folder, "drops", `${n}.json`));
}

function lines(path: string): number {
  try {
    return readFileSync(path).toString().split("\n").length - 1;
  } catch {
    return 0;
  }
}

/** What somebody would write in ten minutes: read, append, sync, delete, one after the other. */
function plainLoop(folder: string): number {
  const start = performance.now();
  const inbox = openSync(join(folder, "plain.inbox"), "a");
  for (const name of readdirSync(join(folder, "drops"))) {
    const path = join(folder, "drops", name);
    const { recipient, type, payload } = JSON.parse(readFileSync(path, "utf8")) as Record<string, string>;
    writeSync(inbox, `${JSON.stringify({ ts: new Date(), from: "bench", to: recipient, type, payload })}\n`);
    fdatasyncSync(inbox);
    unlinkSync(path);
  }
  closeSync(inbox);
  return BURST / ((performance.now() - start) / 1000);
}

function config(folder: string, port: number): string {
  mkdirSync(join(folder, "drops"));
  const path = join(folder, "collector.yaml");
  writeFileSync(
    path,
    `agent: bench\ninbox_dir: ${folder}/inbox\nwebhook: { listen: "127.0.0.1:${port}" }\ndrop_folder: { path: ${folder}/drops }\n`,
  );
  return path;
}

async function withCollector<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const port = freePort();
  const cmd = [join(ROOT, "dist/picket-collector"), "--config", config(folder, port), "--log-level", "warn"];
  return withProgram(cmd, () => fetch(`http://127.0.0.1:${port}/health`), work);
}

/** Drops a second: 10,000 files that were renamed into the folder at once. */
const burst = () =>
  inFolder((folder) =>
    withCollector(folder, async () => {
      mkdirSync(join(folder, "staged"));
      for (let n = 0; n < BURST; n++) {
        writeFileSync(
          join(folder, "staged", `${n}.json`),
          JSON.stringify({ recipient: "bob", type: "INFO", payload: `number ${n}` }),
        );
      }
      const start = performance.now();
      for (let n = 0; n < BURST; n++)
        renameSync(join(folder, "staged", `${n}.json`), join(folder, "drops", `${n}.json`));
      while (readdirSync(join(folder, "drops")).length > 0) await Bun.sleep(5);
      const rate = BURST / ((performance.now() - start) / 1000);
      if (lines(join(folder, "inbox/bob.inbox")) !== BURST) throw new Error("not every drop is in the inbox");
      return rate;
    }),
  );

/** Milliseconds from the rename to the line, one drop after the other. */
const latencies = () =>
  inFolder((folder) =>
    withCollector(folder, async () => {
      const inbox = join(folder, "inbox/bob.inbox");
      drop(folder, -1);
      while (lines(inbox) < 1) await Bun.sleep(5);
      const times: number[] = [];
      for (let n = 0; n < SINGLE; n++) {
        while (readdirSync(join(folder, "drops")).length > 0) await Bun.sleep(1);
        const { size } = statSync(inbox);
        const start = performance.now();
        drop(folder, n);
        while (statSync(inbox).size === size) await Bun.sleep(0);
        times.push(performance.now() - start);
      }
      return times;
    }),
  );

export async function drops(): Promise<Section> {
  const ours: number[] = [];
  const plain: number[] = [];
  const times: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    plain.push(
      await inFolder(async (folder) => {
        mkdirSync(join(folder, "drops"));
        for (let n = 0; n < BURST; n++) drop(folder, n);
        return plainLoop(folder);
      }),
    );
    ours.push(await burst());
    times.push(...(await latencies()));
    console.error(
      `round ${round + 1}: plain ${count(plain.at(-1)!)}/s, collector ${count(ours.at(-1)!)}/s, p50 ${percentile(times, 50).toFixed(2)} ms`,
    );
  }
  return {
    title: "Drops",
    command: "bun test/bench/drops.ts",
    text: `A burst of ${count(BURST)} files is renamed into the folder (the collector's time includes the renames, the loop's does not), against a plain loop that reads, appends, syncs and deletes one after the other; median of ${ROUNDS}. Latency: from before the temporary file is written until the inbox has grown, ${SINGLE} drops a round, one at a time.`,
    rows: [
      { what: "plain loop", figure: `${count(median(plain))} files/s`, ratio: "1" },
      {
        what: "collector",
        figure: `${count(median(ours))} files/s`,
        ratio: `${(median(ours) / median(plain)).toFixed(2)} of the plain loop`,
      },
      { what: "drop to inbox, p50", figure: `${percentile(times, 50).toFixed(2)} ms` },
      { what: "drop to inbox, p99", figure: `${percentile(times, 99).toFixed(2)} ms` },
    ],
  };
}

if (import.meta.main) console.table((await drops()).rows);
