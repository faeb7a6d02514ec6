// The agent under load: producers finish episodes, synced before they count as handed over; reports go out every second, to a
// real receiver on a disk of its own, through a proxy.

import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../kit.ts";
import { CuttingProxy } from "../cutting-proxy.ts";
import { Hub } from "../receiver/kit.ts";
import type { Chance } from "./chance.ts";
import { linesOf, litterIn, syncFolder, tryTo } from "./collector.ts";
import { type Found, Ledger, digestOf } from "./oracle.ts";
import type { Subject, World } from "./world.ts";

const HOST = "web-1";
const COMMIT = "c".repeat(40);
/** Producers wait for an agent that is so many behind: on a busy machine they would outrun it for good, and no new one would come through. */
const MOST_WAITING = 6;

/** What producers hand to an agent, and where its receiver has to have it. */
export function agentSubject(world: World): Subject {
  const ledger = new Ledger();
  const hub = new Hub({ more: "rate_limit_per_minute: 10000000", target: "binary" });
  const at = (...names: string[]) => join(world.data, ...names);
  let number = 0;
  let runs = 0;

  /** Finishes an episode, durably; gives its id, or null where it couldn't be written. */
  function produce(content: Uint8Array): string | null {
    const id = `ep-${number++}`;
    const folder = at("episodes", id);
    const keys = [`stored ${id}`, `row ${id}`, `shipped ${id}`];
    for (const key of keys) ledger.attempt(key, digestOf(content));
    try {
      mkdirSync(folder);
      writeFileSync(join(folder, "data"), content, { flush: true });
      writeFileSync(join(folder, "meta.json"), JSON.stringify({ code_version: { commit: COMMIT } }), { flush: true });
      syncFolder(folder);
      syncFolder(at("episodes"));
      writeFileSync(join(folder, "done.marker"), "", { flush: true });
      syncFolder(folder);
    } catch {
      return null;
    }
    for (const key of keys) ledger.acknowledge(key);
    return id;
  }

  const stored = (id: string) => join(hub.data, "episodes", HOST, `${id}.tar.zst`);
  const reports = () => hub.rows<{ count: number }>("SELECT COUNT(*) AS count FROM host_samples")[0]?.count ?? 0;

  /** What a receiver has, unpacked. */
  function received(): Found[] {
    const folder = join(hub.data, "episodes", HOST);
    const names = existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith(".")) : [];
    return names.map((name) => {
      const id = name.replace(/\.tar\.zst$/, "");
      const tar = tryTo(() => Bun.zstdDecompressSync(readFileSync(join(folder, name))));
      return [`stored ${id}`, tar ? digestOf(fileIn(tar, `${id}/data`)) : "no zstd"];
    });
  }

  const subject: Subject = {
    ledger,
    clockOffset: 0,
    handover: null,
    async prepare() {
      await hub.addHost(HOST);
      await hub.up();
      world.proxy = await CuttingProxy.to(Number(new URL(hub.url).port));
      mkdirSync(at("episodes"));
      // The telemetry door tells no interval: a report goes out every second.
      writeFileSync(
        world.config,
        `receiver: { url: "http://127.0.0.1:${world.proxy.port}", token: ${hub.tokens.get(HOST)}, timeout_seconds: 2 }
data_dir: ${at("agent")}
protocol: telemetry
interval_seconds: 1
docker: { enabled: false }
ship: { episodes_dir: ${at("episodes")}, scan_seconds: 1 }
`,
      );
    },
    async load(stop) {
      const chance = world.chance.fork(`load ${runs++}`);
      const producer = async (own: Chance) => {
        while (!stop.aborted) {
          const content = own.bytes(own.between(0, 3000));
          await world.mayWrite();
          if (subject.waiting().length < MOST_WAITING) produce(content);
          await Bun.sleep(own.between(20, 250));
        }
      };
      await Promise.all(Array.from({ length: chance.between(1, 3) }, (_, n) => producer(chance.fork(`producer ${n}`))));
    },
    async probe() {
      const before = reports();
      const id = produce(new Uint8Array(10));
      if (id === null) return false;
      // A receiver takes no report from a clock that is wrong.
      const reported = () => subject.clockOffset !== 0 || reports() > before;
      await until("shipped and reported", () => existsSync(stored(id)) && reported(), 29);
      return true;
    },
    waiting: () => readdirSync(at("episodes")).filter((id) => finished(at("episodes", id))),
    settle: async () => {},
    async judge() {
      const shipped = tryTo(() => readdirSync(at("shipped"))) ?? [];
      const kept = shipped.map((id): Found => [`shipped ${id}`, digestOf(readFileSync(at("shipped", id, "data")))]);
      const here = received();
      const digests = new Map(here);
      const { lines } = linesOf(join(hub.data, "index.jsonl"));
      const rows = (lines as { episode: string }[]).map(({ episode }): Found => [
        `row ${episode}`,
        digests.get(`stored ${episode}`) ?? "no file",
      ]);
      const away = tryTo(() => readdirSync(at("quarantine"))) ?? [];
      return [
        ...ledger.judge([...kept, ...here, ...rows]),
        ...away.map((id) => `a good episode is in quarantine: ${id}`),
      ];
    },
    litter: () => [...litterIn(world.data), ...readdirSync(at("outbox")).map((name) => join("outbox", name))],
    end: () => hub[Symbol.asyncDispose](),
  };
  return subject;
}

function finished(folder: string): boolean {
  return existsSync(join(folder, "done.marker"));
}

/** A file in a tar archive: its header says its size in octal digits (POSIX.1-2017, pax, ustar). */
function fileIn(tar: Uint8Array, name: string): Uint8Array {
  const text = new TextDecoder("latin1");
  for (let at = 0; at + 512 <= tar.length;) {
    const header = text.decode(tar.subarray(at, at + 512));
    const size = Number.parseInt(header.slice(124, 136), 8) || 0;
    if (header.slice(0, 100).replace(/\0.*$/s, "") === name) return tar.subarray(at + 512, at + 512 + size);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return new Uint8Array();
}
