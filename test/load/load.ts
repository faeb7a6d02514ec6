// Everything at once for a long time: webhooks and drops into a collector, reports and episodes of many hosts into a receiver,
// operations into an observer, and a real agent, on one machine. First as much as goes, for a few seconds; then half of that.
//   bun run load                          an hour, into test/load/README.md and load.svg
//   PICKET_LOAD_SECONDS=600 bun run load
// What would fill a disk in an hour is taken away as its readers would: inbox lines, full segments, episodes that were fetched.

import { mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Folder, runRole, startRole, until } from "../kit.ts";

export const SERVICES = ["collector", "receiver", "agent", "observer"] as const;
export type Name = (typeof SERVICES)[number];
/** Kinds of load, each with what one of it is. */
export const KINDS = ["webhooks", "drops", "reports", "episodes", "operations"] as const;
export type Kind = (typeof KINDS)[number];

/** One look at everything. */
export interface Look {
  /** Seconds since the load began. */
  at: number;
  /** Acknowledged since the last look, a second. */
  rates: Record<Kind, number>;
  /** 99th percentile of an answer since the last look, in milliseconds. */
  p99: number;
  /** Resident memory in MiB, and open descriptors. */
  memory: Record<Name, number>;
  descriptors: Record<Name, number>;
}

export interface Result {
  /** What went at most, a second. */
  most: Record<Kind, number>;
  looks: Look[];
  /** Answers that were not 2xx, and requests without an answer. */
  failures: number;
  acknowledged: Record<Kind, number>;
}

const HOSTS = 40;
/** So many of a kind are under way at a time under a steady load. */
const MOST_FLYING = 128;
/**
 * How long the collector remembers a delivery id (110 bytes each). With the default of 24 hours no run would be long enough to see it forget
 * any: at thousands a second it would only grow.
 */
export const REMEMBERED_HOURS = 0.1;
const zero = (): Record<Kind, number> => ({ webhooks: 0, drops: 0, reports: 0, episodes: 0, operations: 0 });

/** The four services, under load. */
export class Fleet implements AsyncDisposable {
  readonly folder = new Folder();
  readonly daemons = new Map<Name, Daemon>();
  readonly counts = zero();
  failures = 0;
  #urls = new Map<Name, string>();
  #tokens: string[] = [];
  #sent = 0;
  #times: number[] = [];

  /** Starts them, the compiled ones. */
  async start(): Promise<void> {
    const { folder } = this;
    mkdirSync(folder.at("drops"));
    mkdirSync(folder.at("lab/episodes"), { recursive: true });
    const inbox = `{ recipient: ops, inbox_dir: ${folder.at("inbox")} }`;
    folder.write(
      "collector.yaml",
      `agent: load\ninbox_dir: ${folder.at("inbox")}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: ${REMEMBERED_HOURS}, routes: [{ path: /hook, recipient: hooks, type: INFO, template: "{{ .n }} {{ .text }}" }] }\ndrop_folder: { path: ${folder.at("drops")} }\n`,
    );
    const receiver = folder.write(
      "receiver.yaml",
      `listen: "127.0.0.1:0"\ndata_dir: ${folder.at("receiver")}\nrate_limit_per_minute: 1000000\nnotify: ${inbox}\n`,
    );
    folder.write(
      "observer.yaml",
      `listen: "127.0.0.1:0"\npersist_path: ${folder.at("observer/ops.jsonl")}\nrotate_mb: 64\ncycle_seconds: 5\nnotify: ${inbox}\n`,
    );
    for (let n = 0; n <= HOSTS; n++) {
      const { stdout } = await runRole("receiver", ["host", "add", `host-${n}`, "--config", receiver], {
        target: "binary",
      });
      this.#tokens.push(/pk_\w+/.exec(stdout)![0]);
    }
    for (const name of ["collector", "receiver", "observer"] as const) await this.#start(name);
    folder.write(
      "agent.yaml",
      `receiver: { url: "${this.#urls.get("receiver")}", token: ${this.#tokens.at(-1)} }\nprotocol: telemetry\ninterval_seconds: 1\ndata_dir: ${folder.at("agent")}\nship: { episodes_dir: ${folder.at("lab/episodes")}, scan_seconds: 1, shipped_keep_days: 0.0001 }\n`,
    );
    await this.#start("agent");
  }

  async #start(name: Name): Promise<void> {
    const daemon = await startRole(name, ["--config", this.folder.at(`${name}.yaml`)], { target: "binary" });
    this.daemons.set(name, daemon);
    this.#urls.set(name, await daemon.url());
  }

  /** One of a kind; resolves when it is acknowledged. */
  async one(kind: Kind): Promise<void> {
    const n = this.#sent++;
    const begin = performance.now();
    const ok = await this.#send(kind, n).catch(() => false);
    if (kind !== "drops") this.#times.push(performance.now() - begin);
    if (ok) this.counts[kind]++;
    else this.failures++;
  }

  async #send(kind: Kind, n: number): Promise<boolean> {
    const { folder } = this;
    if (kind === "drops") {
      const name = folder.at("drops", `d${n}.json`);
      writeFileSync(`${name}.tmp`, JSON.stringify({ recipient: "drops", type: "INFO", payload: `drop ${n}` }));
      renameSync(`${name}.tmp`, name);
      return true;
    }
    if (kind === "episodes") {
      const episode = folder.at("lab/episodes", `ep-${n}`);
      mkdirSync(episode);
      writeFileSync(join(episode, "data"), crypto.getRandomValues(new Uint8Array(60_000)));
      writeFileSync(join(episode, "done.marker"), "");
      return true;
    }
    const [name, path, body, headers] = this.#request(kind, n);
    const answer = await fetch(this.#urls.get(name)! + path, {
      method: "POST",
      body,
      headers,
      signal: AbortSignal.timeout(30_000),
    });
    await answer.arrayBuffer();
    return answer.ok;
  }

  #request(kind: "webhooks" | "reports" | "operations", n: number): [Name, string, string, Record<string, string>] {
    if (kind === "webhooks") {
      const body = JSON.stringify({ n, text: "x".repeat(n % 500) });
      return ["collector", "/hook", body, { "x-github-delivery": `delivery-${n}` }];
    }
    if (kind === "reports") {
      const metrics = { cpu_percent: n % 100, memory_used_mb: n % 9000, memory_total_mb: 16_000, uptime_seconds: n };
      const body = JSON.stringify({ recorded_at: new Date().toISOString(), host: { metrics } });
      return ["receiver", "/agent/telemetry", body, { authorization: `Bearer ${this.#tokens[n % HOSTS]}` }];
    }
    const some = Array.from({ length: 10 }, (_, i) => {
      const failed = (n + i) % 20 === 0;
      return {
        id: `op-${n}-${i}`,
        endpoint: `endpoint-${String.fromCodePoint(97 + ((n + i) % 26))}`,
        source: "workflow",
        success: !failed,
        duration_ms: n % 1000,
        input_summary: `input ${n}`,
        ...(failed ? { error: `job ${n}: no answer from 10.0.${n % 256}.7 within ${n} ms` } : {}),
      };
    });
    return ["observer", "/observer/event", JSON.stringify(some), {}];
  }

  /** The 99th percentile since the last look. */
  p99(): number {
    const times = this.#times.toSorted((a, b) => a - b);
    this.#times = [];
    return Math.round((times[Math.floor(times.length * 0.99)] ?? 0) * 10) / 10;
  }

  /** Takes away what readers would have taken. */
  tidy(): void {
    const { folder } = this;
    for (const name of ["hooks", "drops", "ops"]) {
      const inbox = folder.at("inbox", `${name}.inbox`);
      const old = `${inbox}.taken`;
      rmSync(old, { force: true });
      try {
        renameSync(inbox, old);
      } catch {
        // Nothing came.
      }
    }
    const segments = readdirSync(folder.at("observer"))
      .filter((name) => /\.\d{6}\.jsonl$/.test(name))
      .toSorted((a, b) => (a < b ? -1 : 1));
    for (const name of segments.slice(0, -1)) rmSync(folder.at("observer", name));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const daemon of this.daemons.values()) await daemon[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** As much as goes, with so many of each kind under way at a time; gives what was acknowledged a second. */
export async function most(fleet: Fleet, seconds: number): Promise<Record<Kind, number>> {
  const end = performance.now() + seconds * 1000;
  const before = { ...fleet.counts };
  const under: Record<Kind, number> = { webhooks: 16, drops: 1, reports: 16, episodes: 1, operations: 8 };
  const worker = async (kind: Kind): Promise<void> => {
    while (performance.now() < end) {
      await fleet.one(kind);
      // Files are not acknowledged: they come at a pace that is surely taken.
      if (kind === "drops") await Bun.sleep(5);
      if (kind === "episodes") await Bun.sleep(200);
    }
  };
  await Promise.all(KINDS.flatMap((kind) => Array.from({ length: under[kind] }, () => worker(kind))));
  return each((kind) => (fleet.counts[kind] - before[kind]) / seconds);
}

/** A steady load of so many a second, looked at in equal steps. */
export async function steady(
  fleet: Fleet,
  rates: Record<Kind, number>,
  { seconds, looks }: { seconds: number; looks: number },
): Promise<Look[]> {
  const seen: Look[] = [];
  const begin = performance.now();
  const end = begin + seconds * 1000;
  const due = zero();
  const flying = zero();
  let last = begin;
  let counted = { ...fleet.counts };
  let tidied = begin;
  for (let now = begin, before = begin; now < end; before = now, now = performance.now()) {
    for (const kind of KINDS) {
      due[kind] += (rates[kind] * (now - before)) / 1000;
      // Beyond that the load would only wait in this process. Each kind has its own: none takes the others' turn.
      for (; due[kind] >= 1 && flying[kind] < MOST_FLYING; due[kind]--) {
        flying[kind]++;
        void fleet.one(kind).finally(() => flying[kind]--);
      }
      due[kind] = Math.min(due[kind], rates[kind]);
    }
    if (now - last >= (seconds * 1000) / looks) {
      const passed = (now - last) / 1000;
      seen.push({
        at: Math.round((now - begin) / 1000),
        rates: each((kind) => Math.round((fleet.counts[kind] - counted[kind]) / passed)),
        p99: fleet.p99(),
        memory: ofEach(fleet, residentMiB),
        descriptors: ofEach(fleet, (pid) => readdirSync(`/proc/${pid}/fd`).length),
      });
      counted = { ...fleet.counts };
      last = now;
    }
    if (now - tidied >= 60_000) {
      fleet.tidy();
      tidied = now;
    }
    await Bun.sleep(10);
  }
  await until("what is under way is answered", () => KINDS.every((kind) => flying[kind] === 0));
  return seen;
}

function each(figure: (kind: Kind) => number): Record<Kind, number> {
  return Object.fromEntries(KINDS.map((kind) => [kind, figure(kind)])) as Record<Kind, number>;
}

function ofEach(fleet: Fleet, figure: (pid: number) => number): Record<Name, number> {
  return Object.fromEntries(SERVICES.map((name) => [name, figure(fleet.daemons.get(name)!.child.pid)])) as Record<
    Name,
    number
  >;
}

function residentMiB(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Math.round(Number(/VmRSS:\s+(\d+)/.exec(status)![1]) / 1024);
}
