// An episode from its folder to the receiver's index, against tar, zstd and curl into nginx's WebDAV.
//   bun test/bench/shipping.ts
// The folder is made of this machine's own files, taken in turn from three places, so that it is text, data and programs.

import { copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT, type Section, count, curl, inFolder, median, peakMiB, withReceiver, withWebDav } from "./kit.ts";

const MIB = Number(process.env["PICKET_BENCH_SHIP_MIB"] ?? 1024);
const ROUNDS = Number(process.env["PICKET_BENCH_ROUNDS"] ?? 5);
const AGENT = join(ROOT, "dist/picket-agent");
const PLACES = ["/usr/lib", "/usr/share", "/usr/bin"];
/** Larger files would make up the folder by themselves. */
const LARGEST_BYTES = 32 << 20;
const EPISODE = "episode";
const LOOK_MS = 20;

/** Files below a folder, by name, links not followed; what can't be read is left out. */
function* filesBelow(folder: string): Generator<{ path: string; bytes: number }> {
  let entries;
  try {
    entries = readdirSync(folder, { withFileTypes: true }).toSorted((a, b) => (a.name < b.name ? -1 : 1));
  } catch {
    return;
  }
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesBelow(path);
    else if (entry.isFile()) yield { path, bytes: statSync(path, { throwIfNoEntry: false })?.size ?? 0 };
  }
}

/** Copies files into a folder until it holds as much as it shall: of each place the same share. */
function fill(folder: string): { files: number; mib: number } {
  let files = 0;
  let bytes = 0;
  for (const [index, place] of PLACES.entries()) {
    const enough = ((MIB << 20) / PLACES.length) * (index + 1);
    for (const { path, bytes: size } of filesBelow(place)) {
      if (bytes >= enough) break;
      if (size > LARGEST_BYTES) continue;
      const to = join(folder, path);
      try {
        mkdirSync(join(to, ".."), { recursive: true });
        copyFileSync(path, to);
      } catch {
        continue;
      }
      files++;
      bytes += size;
    }
  }
  return { files, mib: bytes / (1 << 20) };
}

/** What a contestant took. */
interface Run {
  seconds: number;
  archiveBytes: number;
  peakMiB?: number;
}

/** `episodes/` holds the one episode, and gets it back. */
type Contestant = (folder: string, episodes: string) => Promise<Run>;

const RECEIVED = `data/episodes/bench/${EPISODE}.tar.zst`;

const agent: Contestant = (folder, episodes) =>
  withReceiver(folder, async (url, token) => {
    const config = join(folder, "agent.yaml");
    const own = join(folder, "host/episodes");
    mkdirSync(own, { recursive: true });
    renameSync(join(episodes, EPISODE), join(own, EPISODE));
    writeFileSync(
      config,
      `receiver: { url: "${url}", token: ${token} }\ndata_dir: ${folder}/agent\nship: { episodes_dir: ${own} }\n`,
    );
    const begin = performance.now();
    const run = Bun.spawn([AGENT, "--once", "--config", config, "--log-level", "warn"], {
      stdout: "pipe",
      stderr: "inherit",
    });
    let peak = 0;
    const look = setInterval(() => (peak = Math.max(peak, peakMiB(run.pid) ?? 0)), LOOK_MS);
    const said = await new Response(run.stdout).text();
    const code = await run.exited;
    const seconds = (performance.now() - begin) / 1000;
    clearInterval(look);
    const shipped = join(folder, "host/shipped", EPISODE);
    if (existsSync(shipped)) renameSync(shipped, join(episodes, EPISODE));
    if (code !== 0 || !said.includes("shipped=1")) throw new Error(`picket-agent --once ended with ${code}: ${said}`);
    return { seconds, archiveBytes: statSync(join(folder, RECEIVED)).size, peakMiB: peak };
  });

function pipeline(compressor: string): Contestant {
  return (folder, episodes) =>
    withWebDav(folder, async (url) => {
      const from = `tar --sort=name -cf - -C '${episodes}' ${EPISODE} | ${compressor}`;
      const seconds = await curl(["-T", "-", `${url}/${EPISODE}.tar.zst`], ["201"], from);
      return { seconds, archiveBytes: statSync(join(folder, `dav/${EPISODE}.tar.zst`)).size };
    });
}

const AGENT_ROW = "agent to receiver: hashed, synced on both sides, in the index";
const ALL_CORES_ROW = "tar, zstd -T0, curl -T- into nginx: neither hashed nor synced";
const ONE_CORE_ROW = "tar, zstd -T1, curl -T- into nginx: neither hashed nor synced";

/** MiB of the folder a second, and the archive's size. */
export async function shipping(): Promise<Section> {
  return inFolder(async (folder) => {
    const episodes = join(folder, "episodes");
    const { files, mib } = fill(join(episodes, EPISODE));
    writeFileSync(join(episodes, EPISODE, "done.marker"), "");
    const contestants = new Map<string, Contestant>([[AGENT_ROW, agent]]);
    const missing = ["tar", "zstd", "curl", "nginx", "bash"].filter((program) => !Bun.which(program));
    if (missing.length === 0) {
      contestants.set(ALL_CORES_ROW, pipeline("zstd -q -3 -T0"));
      contestants.set(ONE_CORE_ROW, pipeline("zstd -q -3 -T1"));
    } else console.log(`skipped: the pipeline into nginx, for want of ${missing.join(", ")}`);
    const runs = new Map<string, Run[]>();
    for (let round = 0; round < ROUNDS; round++) {
      const all = [...contestants];
      const turn = round % all.length;
      for (const [name, contestant] of [...all.slice(turn), ...all.slice(0, turn)]) {
        const run = await inFolder((own) => contestant(own, episodes));
        runs.set(name, [...(runs.get(name) ?? []), run]);
        console.error(`round ${round + 1}: ${name}: ${JSON.stringify(run)}`);
      }
    }
    const rate = (name: string) => mib / median(runs.get(name)!.map(({ seconds }) => seconds));
    const size = (name: string) => runs.get(name)![0]!.archiveBytes;
    const peak = median(runs.get(AGENT_ROW)!.map(({ peakMiB }) => peakMiB ?? 0));
    return {
      title: "Shipping an episode of mixed files",
      command: "bun test/bench/shipping.ts",
      text: `${count(files)} files of this machine, ${count(mib)} MiB (from ${PLACES.join(", ")}), over loopback, from the start of the program to its end; median of ${ROUNDS} rounds in turn. All compress with zstd's level 3; tar sorts by name, as the agent does.`,
      rows: [
        ...[...contestants.keys()].map((what) => ({
          what,
          figure: `${rate(what).toFixed(0)} MiB/s`,
          ratio: `${(rate(what) / rate(AGENT_ROW)).toFixed(2)} of the agent`,
        })),
        ...[...contestants.keys()].map((what) => ({
          what: `the archive's size, ${what.split(":")[0]}`,
          figure: `${(size(what) / (1 << 20)).toFixed(1)} MiB`,
          ratio: `${(size(what) / size(AGENT_ROW)).toFixed(3)} of the agent's`,
        })),
        { what: "resident memory of the agent at most", figure: `${peak.toFixed(0)} MiB` },
      ],
    };
  });
}

if (import.meta.main) console.table((await shipping()).rows);
