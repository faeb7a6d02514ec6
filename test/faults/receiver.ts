// The receiver under load: reports of several hosts, half of which follow the receiver's clock, and episodes.

import { Database } from "bun:sqlite";
import { existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CuttingProxy } from "../cutting-proxy.ts";
import { runRole } from "../kit.ts";
import { container, report, uploadHeaders } from "../receiver/kit.ts";
import type { Chance } from "./chance.ts";
import { linesOf, litterIn } from "./collector.ts";
import { MOST_PAUSE_MS, send } from "./load.ts";
import { type Found, Ledger, digestOf } from "./oracle.ts";
import type { Handover, Subject, World } from "./world.ts";

const HOSTS = ["web-1", "web-2", "db-1"] as const;
/** These have their time from where the receiver has it. */
const SAME_CLOCK = new Set<string>(["web-1", "db-1"]);
const CONTAINERS = 3;
const LARGEST_EPISODE = 150_000;
const ZSTD_MAGIC = [0x28, 0xb5, 0x2f, 0xfd];
const FIRST_NUMBER = 10_000_000;

/** What the load hands to a receiver, and what its store, folder and index have to hold. */
export function receiverSubject(world: World): Subject {
  const ledger = new Ledger();
  const data = join(world.data, "receiver");
  const tokens = new Map<string, string>();
  let number = FIRST_NUMBER;
  let runs = 0;
  let last = 0;

  const bearer = (host: string) => ({ authorization: `Bearer ${tokens.get(host)}` });

  function reporting(host: string): Handover {
    const n = number++;
    // Two reports never bear the same time: it is what tells them apart.
    last = Math.max(Date.now(), last + 1);
    const at = last + (SAME_CLOCK.has(host) ? subject.clockOffset * 1000 : 0);
    const key = `report ${host} ${at}`;
    const body = report({
      recorded_at: new Date(at).toISOString(),
      host: { metrics: { cpu_percent: 50, uptime_seconds: n } },
      containers: Array.from({ length: CONTAINERS }, (_, c) =>
        container(`c${c}`, { status: `Up ${n} seconds`, metrics: { memory_usage_mb: n } }),
      ),
    });
    return {
      request: { method: "POST", path: "/v1/host-report", headers: bearer(host), body: JSON.stringify(body) },
      attempt: () =>
        ledger.attempt(
          key,
          sampleDigest(
            n,
            Array.from({ length: CONTAINERS }, () => n),
          ),
        ),
      answered: (status) => status === 200 && ledger.acknowledge(key),
    };
  }

  function shipping(chance: Chance): Handover {
    const host = chance.pick(HOSTS);
    const bytes = new Uint8Array(chance.between(100, LARGEST_EPISODE));
    // As many as tell it apart: drawing each byte would take longer than sending it.
    bytes.set(chance.bytes(64));
    bytes.set(ZSTD_MAGIC);
    const episode = `ep-${number++}`;
    const keys = [`episode ${host}/${episode}`, `row ${host}/${episode}`];
    return {
      request: {
        method: "PUT",
        path: `/v1/episodes/${host}/${episode}.tar.zst`,
        headers: { ...bearer(host), ...uploadHeaders(bytes) },
        body: bytes,
      },
      attempt: () => keys.forEach((key) => ledger.attempt(key, digestOf(bytes))),
      answered: (status) => (status === 200 || status === 201) && keys.forEach((key) => ledger.acknowledge(key)),
    };
  }

  function stored(): Found[] {
    const db = new Database(join(data, "receiver.db"), { readonly: true });
    try {
      db.run("PRAGMA busy_timeout=5000");
      type Sample = { host: string; at: number; n: number; containers: string | null };
      const samples = db
        .query(
          `SELECT h.name AS host, s.at, s.uptime_seconds AS n, w.containers FROM host_samples s JOIN hosts h ON h.id = s.host
           LEFT JOIN workload_samples w ON w.host = s.host AND w.at = s.at`,
        )
        .all() as Sample[];
      return samples.map(({ host, at, n, containers }) => {
        const figures = Object.values(JSON.parse(containers ?? "{}") as Record<string, number[]>);
        return [
          `report ${host} ${at}`,
          sampleDigest(
            n,
            figures.map((one) => one[1] ?? 0),
          ),
        ];
      });
    } finally {
      db.close();
    }
  }

  /** Hosts that were told to be silent, and what SQLite finds wrong with its file. */
  function storeComplaints(): string[] {
    const db = new Database(join(data, "receiver.db"), { readonly: true });
    try {
      const integrity = db.query("PRAGMA integrity_check").all() as { integrity_check: string }[];
      const silent = db.query("SELECT text FROM alerts WHERE type IN ('host.stale', 'host.offline')").all() as {
        text: string;
      }[];
      return [
        ...integrity.filter((one) => one.integrity_check !== "ok").map((one) => `store: ${one.integrity_check}`),
        ...silent.map(({ text }) => `told though it reported: ${text}`),
      ];
    } finally {
      db.close();
    }
  }

  function filed(): Found[] {
    return HOSTS.flatMap((host) => {
      const folder = join(data, "episodes", host);
      const names = existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith(".")) : [];
      return names.map((name): Found => {
        return [`episode ${host}/${name.replace(/\.tar\.zst$/, "")}`, digestOf(readFileSync(join(folder, name)))];
      });
    });
  }

  /** The rows of the index, each with the digest of the file that has the hash it says. */
  function indexed(files: Map<string, string>): { rows: Found[]; torn: number } {
    const { lines, torn } = linesOf(join(data, "index.jsonl"));
    const rows = (lines as { host: string; episode: string }[]).map(({ host, episode }): Found => {
      const key = `${host}/${episode}`;
      return [`row ${key}`, files.get(`episode ${key}`) ?? "no file"];
    });
    return { rows, torn };
  }

  const subject: Subject = {
    ledger,
    clockOffset: 0,
    handover: (chance) => reporting(chance.pick(["web-1", "web-2"])),
    async prepare() {
      writeFileSync(
        world.config,
        `listen: 127.0.0.1:${world.port}
data_dir: ${data}
rate_limit_per_minute: 10000000
notify: { recipient: ops, inbox_dir: ${join(world.data, "inbox")} }
`,
      );
      for (const host of HOSTS) {
        const { stdout, stderr } = await runRole("receiver", ["host", "add", host, "--config", world.config]);
        const token = /pk_[A-Za-z0-9]{40}/.exec(stdout)?.[0];
        if (!token) throw new Error(`host add: ${stderr}`);
        tokens.set(host, token);
      }
      world.proxy = await CuttingProxy.to(world.port);
    },
    async load(stop) {
      const chance = world.chance.fork(`load ${runs++}`);
      const reporter = async (own: Chance) => {
        while (!stop.aborted) {
          await send(world, reporting(own.pick(HOSTS)), { stop, tries: own.pick([1, 3, 1000]) });
          await Bun.sleep(own.between(1, MOST_PAUSE_MS));
        }
      };
      const shipper = async (own: Chance) => {
        while (!stop.aborted) {
          await send(world, shipping(own), { stop, tries: own.pick([1, 3, 1000]) });
          await Bun.sleep(own.between(10, 60));
        }
      };
      await Promise.all([
        ...Array.from({ length: chance.between(6, 12) }, (_, n) => reporter(chance.fork(`reporter ${n}`))),
        ...Array.from({ length: chance.between(2, 4) }, (_, n) => shipper(chance.fork(`shipper ${n}`))),
      ]);
    },
    async probe() {
      const healthy = await fetch(`http://127.0.0.1:${world.port}/health`, { keepalive: false }).catch(() => null);
      if (healthy?.status !== 200) return false;
      if (!(await send(world, reporting("web-1"), { tries: 1 }))) return false;
      return send(world, shipping(world.chance.fork("probe")), { tries: 1 });
    },
    waiting: () => [],
    settle: async () => {
      // No host shall be silent for longer than its intervals, however long a round takes.
      for (const host of HOSTS) await send(world, reporting(host), { tries: 3 });
    },
    async judge() {
      const files = filed();
      const { rows, torn } = indexed(new Map(files));
      const complaints = ledger.judge([...stored(), ...files, ...rows]);
      if (torn > world.mayHaveTorn) complaints.push(`${torn} lines of index.jsonl are torn`);
      return [...complaints, ...storeComplaints()];
    },
    litter: () => litterIn(world.data),
    end: async () => {},
  };
  return subject;
}

function sampleDigest(n: number, containers: number[]): string {
  return digestOf(JSON.stringify([n, containers]));
}
