// From exec to ready, and idle memory, against a bare compiled Bun program.
//   bun test/bench/start.ts

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT, type Section, inFolder, median, residentMiB } from "./kit.ts";

const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5) * 4;
const BARE = `Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => new Response("ok") }); console.error("bare ready");`;

interface Figures {
  ms: number[];
  mib: number[];
}

async function once(cmd: string[], figures: Figures): Promise<void> {
  const start = performance.now();
  const child = Bun.spawn(cmd, { stdin: "ignore", stdout: "ignore", stderr: "pipe" });
  let text = "";
  for await (const chunk of child.stderr.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    if (text.includes("ready")) break;
  }
  figures.ms.push(performance.now() - start);
  await Bun.sleep(300);
  figures.mib.push(await residentMiB(child.pid));
  child.kill("SIGTERM");
  await child.exited;
}

export async function start(): Promise<Section> {
  return inFolder(async (folder) => {
    writeFileSync(join(folder, "bare.ts"), BARE);
    const bareBinary = join(folder, "bare");
    await Bun.$`${process.execPath} build --compile --no-compile-autoload-dotenv --no-compile-autoload-bunfig --outfile ${bareBinary} ${join(folder, "bare.ts")}`.quiet();
    writeFileSync(
      join(folder, "collector.yaml"),
      `agent: bench
inbox_dir: ${folder}/inbox
webhook:
  listen: 127.0.0.1:0
  routes: [{ path: /a, recipient: bob, type: INFO, template: "{{ .a }} {{ .b }}" }]
drop_folder: { path: ${folder}/drops }
`,
    );
    const bare: Figures = { ms: [], mib: [] };
    const ours: Figures = { ms: [], mib: [] };
    for (let round = 0; round < ROUNDS; round++) {
      await once([bareBinary], bare);
      await once([join(ROOT, "dist/picket-collector"), "--config", join(folder, "collector.yaml")], ours);
    }
    const row = (what: string, unit: string, mine: number, theirs: number) => ({
      what,
      figure: `${mine.toFixed(1)} ${unit} against ${theirs.toFixed(1)} ${unit}`,
      ratio: `${(mine / theirs).toFixed(2)} times`,
    });
    return {
      title: "Start and idle memory",
      command: "bun test/bench/start.ts",
      text: `The compiled collector (one route, one drop folder) against a compiled Bun program that only calls Bun.serve; from exec to the line that says ready, and resident memory 0.3 s later; median of ${ROUNDS} starts in turn.`,
      rows: [
        row("start to ready", "ms", median(ours.ms), median(bare.ms)),
        row("resident memory, idle", "MiB", median(ours.mib), median(bare.mib)),
      ],
    };
  });
}

if (import.meta.main) console.table((await start()).rows);
