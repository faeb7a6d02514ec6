// Memory of all four roles on one host, idle: one program with links against four single ones.
//   bun test/bench/memory.ts                 after bun run build
//   PICKET_BENCH_SINGLES=FOLDER …            the single programs are those of another version

import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Daemon } from "../kit.ts";
import { ROOT, type Section, inFolder, median } from "./kit.ts";

const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 3);
const SINGLES = process.env["PICKET_BENCH_SINGLES"] ?? join(ROOT, "dist");
const SETTLED_MS = 15_000;
const ROLES = ["receiver", "collector", "observer", "agent"] as const;
/** As in the agent's unit (etc/picket.service). */
const AGENT_ENV = { BUN_GC_TIMER_DISABLE: "1", MIMALLOC_PURGE_DELAY: "60000" };

/** The proportional set size of a process, in MiB: pages that several processes share count in parts. */
function pssMiB(pid: number): number {
  return Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))![1]) / 1024;
}

/** Starts the four from a folder of programs, lets them settle, and adds up their memory. */
function together(programs: string, env: Record<string, string>): Promise<number> {
  return inFolder(async (folder) => {
    const config = (role: string, text: string): string[] => {
      writeFileSync(join(folder, `${role}.yaml`), text);
      return [join(programs, `picket-${role}`), "--config", join(folder, `${role}.yaml`)];
    };
    const receiver = config("receiver", `listen: 127.0.0.1:0\ndata_dir: ${folder}/receiver`);
    const added = Bun.spawnSync([receiver[0]!, "host", "add", "bench", ...receiver.slice(1)]).stdout.toString();
    const token = /pk_[A-Za-z0-9]{40}/.exec(added)![0];
    const daemons: Daemon[] = [];
    try {
      for (const role of ROLES) {
        const command = {
          receiver: () => receiver,
          collector: () =>
            config("collector", `agent: bench\ninbox_dir: ${folder}/inbox\ndrop_folder: { path: ${folder}/drops }`),
          observer: () => config("observer", `listen: 127.0.0.1:0\npersist_path: ${folder}/observer/ops.jsonl`),
          agent: () => {
            const url = `http://${/listen=(\S+)/.exec(daemons[0]!.log.join("\n"))![1]}`;
            return config(
              "agent",
              `receiver: { url: "${url}", token: ${token} }\ndata_dir: ${folder}/agent\ndocker: { enabled: false }`,
            );
          },
        }[role]();
        const child = Bun.spawn(command, {
          stdin: "ignore",
          stdout: "ignore",
          stderr: "pipe",
          env: { ...process.env, ...(role === "agent" ? env : {}) },
        });
        const daemon = new Daemon(child);
        daemons.push(daemon);
        await daemon.said(" ready ");
      }
      await Bun.sleep(SETTLED_MS);
      return daemons.reduce((sum, { child }) => sum + pssMiB(child.pid), 0);
    } finally {
      for (const daemon of daemons) await daemon.kill();
    }
  });
}

export async function memory(): Promise<Section> {
  return inFolder(async (links) => {
    for (const role of ROLES) symlinkSync(join(ROOT, "dist/picket"), join(links, `picket-${role}`));
    const one: number[] = [];
    const four: number[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      four.push(await together(SINGLES, {}));
      one.push(await together(links, AGENT_ENV));
    }
    const [ours, singles] = [median(one), median(four)];
    return {
      title: "Memory of all four roles",
      command: "bun test/bench/memory.ts",
      text: `Proportional set size (shared pages count in parts) of four idle daemons on one host, ${SETTLED_MS / 1000} s after their start; median of ${ROUNDS} rounds in turn.`,
      rows: [
        { what: "four single programs", figure: `${singles.toFixed(1)} MiB`, ratio: "1.00 of the single programs" },
        {
          what: "picket, and a link for each role",
          figure: `${ours.toFixed(1)} MiB`,
          ratio: `${(ours / singles).toFixed(2)} of the single programs`,
          aim: "0.60",
        },
      ],
    };
  });
}

if (import.meta.main) console.table((await memory()).rows);
