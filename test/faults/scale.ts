#!/usr/bin/env bun
// Past one machine: three receivers and two collectors behind Caddy share PostgreSQL and an S3 server, of which any may die at any
// moment. The long form: bun run faults:scale
//
//   PICKET_FAULT_SEED    the seed of all chance (default: a new one, printed)
//   PICKET_FAULT_KILLS   how many faults that end a process, at least (100)
//   PICKET_FAULT_KINDS   only these faults, such as postgresDies,frozenReceiver (all of them)
//
// The load goes through Caddy, and sends again what is not acknowledged. Then the tables are read by psql:
//
//   reports, episodes, deliveries, drops   acknowledged: there once and whole; else absent, or there once and whole
//   events                                 each is in the inbox of ops once
//   a delivery (deliver:)                  has sent on what came to carol, in order; a message comes again whole, with its id, or not at all
//   silence                                of the host that is silent, once; of no other

import { mkdirSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { binaries } from "../binaries.ts";
import { CuttingProxy } from "../cutting-proxy.ts";
import { Caddy } from "../front-kit.ts";
import { type Daemon, Folder, freePort, runRole, startRole, until } from "../kit.ts";
import { Postgres } from "../postgres.ts";
import { bytesOf, container, report, sha256, uploadHeaders } from "../receiver/kit.ts";
import { S3 } from "../s3.ts";
import { Chance, chooseSeed } from "./chance.ts";
import { MOST_PAUSE_MS, send } from "./load.ts";
import { type Found, Ledger, digestOf } from "./oracle.ts";
import type { Handover } from "./world.ts";

const HOSTS = ["web-1", "web-2", "db-1"] as const;
const SILENT = "pi";
/** Seconds between reports. Others than the silent host may be held up by a fault, and by a busy machine. */
const INTERVAL = { silent: 4, others: 15 };
const ROUTES = { "/hook": ["bob"], "/both": ["carol", "dave"] } as const;
const DROPS_FOR = "erin";
const SENT_ON = "carol";
const DIGITS = 8;
const LARGEST_EPISODE = 300_000;
const MOST_ALERTS = 100;
/** A silent leader keeps its place for 5 s, and a report waits as long for what it holds locked. */
const ANSWERS_WITHIN_SECONDS = 60;

interface Node {
  name: string;
  role: "receiver" | "collector";
  port: number;
  config: string;
  daemon: Daemon;
}

/** All processes, and what was handed to them. */
class Cluster implements AsyncDisposable {
  readonly ledger = new Ledger();
  readonly folder = new Folder();
  readonly nodes: Node[] = [];
  readonly postgres: Postgres;
  readonly s3: S3;
  /** Stands before PostgreSQL. */
  readonly proxy: CuttingProxy;
  caddy!: Caddy;
  /** Where Caddy listens for each role. */
  readonly front = { receiver: freePort(), collector: freePort() };
  /** What a delivery has sent on, by the message's id, in order. */
  readonly #sent = new Map<string, string[]>();
  readonly #target = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: async (request) => {
      const { id, events } = (await request.json()) as { id: string; events: { id: string }[] };
      const ids = events.map((event) => event.id);
      const former = this.#sent.get(id);
      if (former !== undefined && former.join() !== ids.join()) this.#wrong.push(`sent again as another: ${id}`);
      this.#sent.set(id, ids);
      return new Response("ok");
    },
  });
  readonly #wrong: string[] = [];
  kills = 0;
  slowest = 0;
  readonly #url: string;
  readonly #sql: Bun.SQL;
  readonly #place: string;
  readonly #tokens = new Map<string, string>();
  #number = 0;
  #last = 0;

  private constructor(postgres: Postgres, s3: S3, proxy: CuttingProxy) {
    [this.postgres, this.s3, this.proxy] = [postgres, s3, proxy];
    this.#url = postgres.database();
    this.#sql = new Bun.SQL(this.#url, { max: 2 });
    this.#place = s3.place();
  }

  static async start(programs: string): Promise<Cluster> {
    await binaries();
    // What is killed here are processes, not machines.
    const [postgres, s3] = await Promise.all([Postgres.start(programs, { fsync: "off" }), S3.start()]);
    const cluster = new Cluster(postgres, s3, await CuttingProxy.to(postgres.port));
    try {
      await cluster.#start();
      return cluster;
    } catch (error) {
      await cluster[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #start(): Promise<void> {
    const url = this.#url.replace(String(this.postgres.port), String(this.proxy.port));
    for (const n of [1, 2, 3]) {
      this.#add("receiver", n, (port, data) => [
        `listen: 127.0.0.1:${port}`,
        `data_dir: ${data}`,
        `store: ${url}`,
        `episodes: ${this.#place}`,
        `poll_interval_seconds: ${INTERVAL.silent}`,
        "rate_limit_per_minute: 10000000",
        `notify: { recipient: ops, inbox: "${url}" }`,
      ]);
    }
    for (const n of [1, 2]) {
      this.#add("collector", n, (port, data) => [
        "agent: foreman",
        "trusted_proxies: [127.0.0.1]",
        `inbox_dir: ${data}`,
        `inbox: ${url}`,
        `webhook:\n  listen: 127.0.0.1:${port}\n  routes:`,
        ...Object.entries(ROUTES).map(
          ([path, to]) =>
            `    - { path: ${path}, recipient: [${to.join(", ")}], type: INFO, template: "{{ .id }} {{ .fill }}", verify: { scheme: none } }`,
        ),
        `drop_folder: { path: ${this.#drops(n)}, poll_fallback_seconds: 1 }`,
        `deliver:\n  - { name: hub, recipients: [${SENT_ON}], max_per_hour: 100000, webhook: { url: "${this.#target.url.href}" } }`,
      ]);
      mkdirSync(this.#drops(n));
    }
    for (const host of [...HOSTS, SILENT]) {
      const { config } = this.nodes[0]!;
      const { stdout, stderr } = await runRole("receiver", ["host", "add", host, "--config", config], {
        target: "binary",
        env: this.s3.env,
      });
      const token = /pk_[A-Za-z0-9]{40}/.exec(stdout)?.[0];
      if (!token) throw new Error(`host add: ${stderr}`);
      this.#tokens.set(host, token);
    }
    await Promise.all(this.nodes.map((node) => this.up(node)));
    const site = (role: Node["role"]) => {
      const to = this.nodes.filter((node) => node.role === role).map(({ port }) => `127.0.0.1:${port}`);
      const balance = "lb_policy round_robin\n\t\tlb_try_duration 3s\n\t\tfail_duration 1s";
      return `http://127.0.0.1:${this.front[role]} {\n\treverse_proxy ${to.join(" ")} {\n\t\t${balance}\n\t}\n}\n`;
    };
    const options = `{\n\tadmin off\n\tauto_https off\n\tstorage file_system ${this.folder.at("storage")}\n}\n`;
    this.caddy = new Caddy(this.folder, options + site("receiver") + site("collector"), { url: "", hooks: "" });
    await this.answers();
    await until("the silent host has reported", () => this.#send("receiver", this.#reporting(SILENT)));
  }

  #drops = (n: number): string => this.folder.at(`drops-${n}`);

  #add(role: Node["role"], n: number, lines: (port: number, data: string) => string[]): void {
    const [name, port] = [`${role}-${n}`, freePort()];
    const config = this.folder.write(`${name}.yaml`, `${lines(port, this.folder.at(name)).join("\n")}\n`);
    this.nodes.push({ name, role, port, config, daemon: undefined! });
  }

  /** Starts one. */
  async up(node: Node): Promise<void> {
    node.daemon = await startRole(node.role, ["--config", node.config], { target: "binary", env: this.s3.env });
  }

  /** Waits until each process answers, and what is sent is taken. */
  async answers(): Promise<void> {
    const began = performance.now();
    const chance = new Chance(0);
    const works = async (node: Node) => {
      const { exitCode, signalCode } = node.daemon.child;
      if (exitCode !== null || signalCode !== null)
        throw new Error(`${node.name} ended: ${exitCode ?? signalCode}\n${words(node)}`);
      const url = `http://127.0.0.1:${node.port}/health`;
      return (
        (await fetch(url, { keepalive: false, signal: AbortSignal.timeout(5000) }).catch(() => null))?.status === 200
      );
    };
    const all = [
      ...this.nodes.map((node) => ({ what: `${node.name} answers`, probe: () => works(node), node })),
      { what: "a report is taken", probe: () => this.#send("receiver", this.#reporting("web-1")), node: null },
      { what: "an episode is taken", probe: () => this.#send("receiver", this.#shipping(chance)), node: null },
      { what: "a delivery is taken", probe: () => this.#send("collector", this.#delivering(chance)), node: null },
    ];
    await Promise.all(
      all.map(({ what, probe, node }) =>
        until(what, probe, ANSWERS_WITHIN_SECONDS).catch((error: unknown) => {
          throw new Error(`${(error as Error).message}\n${(node ? [node] : this.nodes).map(words).join("\n")}`);
        }),
      ),
    );
    this.slowest = Math.max(this.slowest, performance.now() - began);
  }

  // -------------------------------------------------------------------------------------------------------------
  // The load

  #send = (role: Node["role"], handover: Handover, tries = 1, stop?: AbortSignal): Promise<boolean> =>
    send({ port: this.front[role] }, handover, { tries, ...(stop ? { stop } : {}) });

  #bearer = (host: string) => ({ authorization: `Bearer ${this.#tokens.get(host)}` });

  #reporting(host: string): Handover {
    const n = ++this.#number;
    // Two reports never bear the same time: it is what tells them apart.
    this.#last = Math.max(Date.now(), this.#last + 1);
    const key = `report ${host} ${this.#last}`;
    // Each alert is about another container.
    const sick = host === "db-1" ? Math.min(Math.floor(n / 20), MOST_ALERTS) : 0;
    const body = report({
      recorded_at: new Date(this.#last).toISOString(),
      interval_seconds: host === SILENT ? INTERVAL.silent : INTERVAL.others,
      host: { metrics: { cpu_percent: 50, uptime_seconds: n } },
      containers: Array.from({ length: sick }, (_, c) => container(`c${c}`, { health_status: "unhealthy" })),
    });
    return {
      request: { method: "POST", path: "/v1/host-report", headers: this.#bearer(host), body: JSON.stringify(body) },
      attempt: () => this.ledger.attempt(key, String(n)),
      answered: (status) => status === 200 && this.ledger.acknowledge(key),
    };
  }

  #shipping(chance: Chance): Handover {
    const host = chance.pick(HOSTS);
    const bytes = bytesOf(chance.between(100, LARGEST_EPISODE));
    const episode = `ep-${++this.#number}`;
    const key = `episode ${host}/${episode}`;
    return {
      request: {
        method: "PUT",
        path: `/v1/episodes/${host}/${episode}.tar.zst`,
        headers: { ...this.#bearer(host), ...uploadHeaders(bytes) },
        body: bytes,
      },
      attempt: () => this.ledger.attempt(key, sha256(bytes)),
      answered: (status) => (status === 200 || status === 201) && this.ledger.acknowledge(key),
    };
  }

  #delivering(chance: Chance): Handover {
    const id = String(++this.#number).padStart(DIGITS, "0");
    const path = chance.pick(["/hook", "/both"] as const);
    const fill = chance.text(chance.between(0, 500));
    const keys = ROUTES[path].map((recipient) => `${recipient} ${id}`);
    return {
      request: {
        method: "POST",
        path,
        headers: { "x-github-delivery": `delivery-${id}` },
        body: JSON.stringify({ id, fill }),
      },
      attempt: () => keys.forEach((key) => this.ledger.attempt(key, digestOf(`${id} ${fill}`))),
      answered: (status) => status === 202 && keys.forEach((key) => this.ledger.acknowledge(key)),
    };
  }

  #drop(chance: Chance): void {
    const id = String(++this.#number).padStart(DIGITS, "0");
    const payload = `${id} ${chance.text(chance.between(0, 500))}`;
    const folder = this.#drops(chance.between(1, 2));
    this.ledger.attempt(`${DROPS_FOR} ${id}`, digestOf(payload));
    writeFileSync(join(folder, `.${id}.tmp`), JSON.stringify({ recipient: DROPS_FOR, type: "INFO", payload }));
    renameSync(join(folder, `.${id}.tmp`), join(folder, `${id}.json`));
    this.ledger.acknowledge(`${DROPS_FOR} ${id}`);
  }

  /** Hands over, in many ways at once, until it is told to stop. */
  async load(chance: Chance, stop: AbortSignal): Promise<void> {
    const again = async (name: string, pause: number, work: (own: Chance) => unknown) => {
      const own = chance.fork(name);
      while (!stop.aborted) {
        await work(own);
        await Bun.sleep(own.between(1, pause));
      }
    };
    const tries = (own: Chance) => own.pick([1, 3, 1000]);
    await Promise.all([
      ...HOSTS.map((host) =>
        again(host, 2 * MOST_PAUSE_MS, (own) => this.#send("receiver", this.#reporting(host), tries(own), stop)),
      ),
      again("shipper", 5 * MOST_PAUSE_MS, (own) => this.#send("receiver", this.#shipping(own), tries(own), stop)),
      ...[1, 2].map((n) =>
        again(`deliverer ${n}`, MOST_PAUSE_MS, (own) =>
          this.#send("collector", this.#delivering(own), tries(own), stop),
        ),
      ),
      again("dropper", 2 * MOST_PAUSE_MS, (own) => this.#drop(own)),
    ]);
  }

  // -------------------------------------------------------------------------------------------------------------
  // The oracle

  /** Asked past Picket and the proxy. */
  async #rows(text: string): Promise<string[][]> {
    const rows = (await this.#sql.unsafe(text).values()) as unknown[][];
    return rows.map((row) => row.map(String));
  }

  /** Waits until nothing is under way. */
  async settle(): Promise<void> {
    // No host shall be silent for longer than its intervals, however long a round takes.
    const reporting = setInterval(() => {
      for (const host of HOSTS) void this.#send("receiver", this.#reporting(host));
    }, 1000);
    const waiting = () => [1, 2].flatMap((n) => readdirSync(this.#drops(n)).filter((name) => name.endsWith(".json")));
    const left = async () => [
      ...waiting().map((name) => `drop ${name}`),
      ...(await this.#rows("SELECT id, text FROM events WHERE told_at IS NULL")).map(
        (row) => `untold ${row.join(" ")}`,
      ),
      ...(await this.#unsent()).map((id) => `unsent ${id}`),
      ...((await this.#rows("SELECT 1 FROM events WHERE type = 'host.offline'")).length > 0 ? [] : ["none is offline"]),
    ];
    try {
      await until("nothing waits", async () => (await left()).length === 0, 90).catch(async (error: unknown) => {
        const lines = [(error as Error).message, ...(await left()).slice(0, 10), ...this.nodes.map(words)];
        throw new Error(lines.join("\n"));
      });
    } finally {
      clearInterval(reporting);
    }
  }

  /** The ids of the events that were to be sent on, in order. */
  async #toSend(): Promise<string[]> {
    return (await this.#rows(`SELECT id FROM inbox WHERE recipient = '${SENT_ON}' ORDER BY seq`)).map(([id]) => id!);
  }

  async #unsent(): Promise<string[]> {
    const sent = new Set([...this.#sent.values()].flat());
    return (await this.#toSend()).filter((id) => !sent.has(id));
  }

  /** What is wrong; nothing when all is well. */
  async judge(): Promise<string[]> {
    const samples = await this.#rows(
      "SELECT h.name, s.at, s.uptime_seconds FROM host_samples s JOIN hosts h ON h.id = s.host",
    );
    const reports = samples.map(([host, at, n]): Found => [`report ${host} ${at}`, String(Number(n))]);
    const episodes: Found[] = [];
    const complaints: string[] = [];
    const prefix = new URL(this.#place).pathname.slice(1);
    for (const [host, episode, hash, object] of await this.#rows(
      "SELECT host, episode, sha256, object FROM episodes",
    )) {
      const key = `${host}/${episode}`;
      const bytes = await this.s3.client
        .file(`${prefix}/${object}`)
        .bytes()
        .catch(() => null);
      if (!bytes || sha256(bytes) !== hash) complaints.push(`its object is missing or not whole: ${key}: ${object}`);
      episodes.push([`episode ${key}`, hash!]);
    }
    const happened = async (where: string) => {
      const rows = await this.#rows(`SELECT type || ' ' || text FROM events WHERE quiet = 0 ${where}`);
      return Map.groupBy(rows, ([text]) => text!);
    };
    // Others may happen, and be told, while this looks.
    const before = await happened("AND told_at IS NOT NULL");
    const lines = (await this.#rows("SELECT line FROM inbox ORDER BY recipient, seq")).map(
      ([line]) => JSON.parse(line!) as { to: string; payload: string; source: string },
    );
    const delivered = lines
      .filter(({ to }) => to !== "ops")
      .map(({ to, payload }): Found => [`${to} ${payload.slice(0, DIGITS)}`, digestOf(payload)]);
    complaints.push(...this.ledger.judge([...reports, ...episodes, ...delivered]));
    complaints.push(...this.#wrong, ...(await this.#unsent()).map((id) => `not sent on: ${id}`));
    const [inOrder, all] = [[...this.#sent.values()].flat(), await this.#toSend()];
    if (inOrder.join() !== all.join())
      complaints.push(`sent on ${inOrder.length} events for ${all.length}, or not in order`);
    const after = await happened("");
    const told = Map.groupBy(
      lines.filter(({ to }) => to === "ops"),
      ({ payload, source }) => `${source.replace("receiver:", "")} ${payload}`,
    );
    for (const text of new Set([...before.keys(), ...told.keys()])) {
      const [least, times, most] = [before, told, after].map((each) => each.get(text)?.length ?? 0) as [
        number,
        number,
        number,
      ];
      if (times < least || times > most) complaints.push(`happened ${most} times, told ${times} times: ${text}`);
    }
    const silent = await this.#rows(
      "SELECT type, text FROM events WHERE type IN ('host.stale', 'host.offline') ORDER BY id",
    );
    const isRight = silent.map(([type]) => type).join() === "host.stale,host.offline";
    if (!isRight || !silent.every(([, text]) => text!.startsWith(`${SILENT} is`)))
      complaints.push(`told as silent: ${silent.map(([, text]) => text).join("; ")}`);
    const doubles = await this.#rows(
      "SELECT host, type, subject FROM alerts WHERE closed_at IS NULL GROUP BY 1, 2, 3 HAVING count(*) > 1",
    );
    return [...complaints, ...doubles.map((one) => `open twice: ${one.join(" ")}`)];
  }

  /** Ends all as systemd does. */
  async stop(): Promise<string[]> {
    const codes = await Promise.all(this.nodes.map(({ daemon }) => daemon.kill()));
    const wrong = this.nodes.filter((_, n) => codes[n] !== 0);
    return wrong.map((node) => `SIGTERM: ${node.name} ends with ${codes[this.nodes.indexOf(node)]}\n${words(node)}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { daemon } of this.nodes) daemon?.child.kill("SIGKILL");
    await this.caddy?.[Symbol.asyncDispose]();
    this.proxy[Symbol.dispose]();
    await Promise.all([this.#target.stop(true), this.#sql.close({ timeout: 0 })]);
    await Promise.all([this.postgres[Symbol.asyncDispose](), this.s3[Symbol.asyncDispose]()]);
    this.folder[Symbol.dispose]();
  }
}

const words = ({ name, daemon }: Node): string => [`${name}:`, ...daemon.log.slice(-6)].join("\n");

// ---------------------------------------------------------------------------------------------------------------
// The faults

type Fault = (cluster: Cluster, chance: Chance) => Promise<void>;

const one = ({ nodes }: Cluster, chance: Chance, role: Node["role"]): Node =>
  chance.pick(nodes.filter((node) => node.role === role));

const killed =
  (role: Node["role"]): Fault =>
  async (cluster, chance) => {
    const node = one(cluster, chance, role);
    await node.daemon.kill("SIGKILL");
    cluster.kills++;
    await Bun.sleep(chance.between(0, 1500));
    await cluster.up(node);
  };

/** As for an update: what it was doing is finished, or sent again. */
const restartedReceiver: Fault = async (cluster, chance) => {
  const node = one(cluster, chance, "receiver");
  const code = await node.daemon.kill();
  if (code !== 0) throw new Error(`SIGTERM: ${node.name} ends with ${code}\n${words(node)}`);
  await cluster.up(node);
};

const frozen =
  (least: number, most: number): Fault =>
  async (cluster, chance) => {
    const { daemon } = one(cluster, chance, "receiver");
    daemon.child.kill("SIGSTOP");
    await Bun.sleep(chance.between(least, most));
    daemon.child.kill("SIGCONT");
  };

const postgresDies: Fault = async (cluster, chance) => {
  await cluster.postgres.down(chance.pick(["SIGQUIT", "SIGQUIT", "SIGINT"]));
  cluster.kills++;
  await Bun.sleep(chance.between(0, 3000));
  await cluster.postgres.up();
};

const frozenPostgres: Fault = async ({ postgres }, chance) => {
  postgres.signal("SIGSTOP");
  await Bun.sleep(chance.between(200, 4000));
  postgres.signal("SIGCONT");
};

const sessionsEnd: Fault = async ({ postgres }) => {
  postgres.psql(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'picket' AND random() < 0.5",
  );
};

/** Each new connection carries a few transactions, and is cut within one, or at its answer. */
const cutConnections: Fault = async ({ proxy }, chance) => {
  const own = chance.fork("cuts");
  const after = () => own.between(300, 3000);
  if (own.next() < 0.5) proxy.nextCut = after;
  else proxy.nextAnswerCut = after;
  proxy.cutAll();
  await Bun.sleep(own.between(500, 3000));
  proxy.nextCut = proxy.nextAnswerCut = null;
  proxy.cutAll();
};

const bucketAway: Fault = async (cluster, chance) => {
  const { s3 } = cluster;
  await s3.down();
  cluster.kills++;
  await Bun.sleep(chance.between(0, 2000));
  await s3.up();
};

const frozenBucket: Fault = async ({ s3 }, chance) => {
  process.kill(s3.pid, "SIGSTOP");
  await Bun.sleep(chance.between(200, 4000));
  process.kill(s3.pid, "SIGCONT");
};

const caddyDies: Fault = async (cluster) => {
  await cluster.caddy.kill("SIGKILL");
  cluster.kills++;
  cluster.caddy.up();
};

export const FAULTS = {
  killedReceiver: killed("receiver"),
  killedCollector: killed("collector"),
  restartedReceiver,
  frozenReceiver: frozen(200, 3000),
  // Another one leads meanwhile, and it comes back as if nothing had been.
  replacedReceiver: frozen(11_000, 15_000),
  postgresDies,
  frozenPostgres,
  sessionsEnd,
  cutConnections,
  bucketAway,
  frozenBucket,
  caddyDies,
} satisfies Record<string, Fault>;
export type Kind = keyof typeof FAULTS;

/** What is done in a round, in order. */
export type Rounds = (chance: Chance, kills: () => number) => Iterable<Kind[]>;

/** Rounds of faults under load, each judged afterwards. Gives what it came to, as a line. @throws Error where something is wrong. */
export async function runScale(
  { programs, seed, rounds }: { programs: string; seed: number; rounds: Rounds },
  log = console.log,
): Promise<string> {
  await using cluster = await Cluster.start(programs);
  const chance = new Chance(seed);
  let faults = 0;
  for (const round of rounds(chance.fork("rounds"), () => cluster.kills)) {
    const stop = new AbortController();
    const load = cluster.load(chance.fork(`load ${faults}`), stop.signal);
    try {
      for (const kind of round) {
        await Bun.sleep(chance.between(100, 1000));
        const began = performance.now();
        await FAULTS[kind](cluster, chance.fork(`${kind} ${faults++}`));
        await cluster.answers();
        log(`${faults}. ${kind}: ${Math.round(performance.now() - began)} ms; ${cluster.kills} kills`);
      }
    } finally {
      stop.abort();
      await load;
    }
    await cluster.settle();
    const complaints = await cluster.judge();
    if (complaints.length > 0) throw new Error(complaints.slice(0, 20).join("\n"));
  }
  const complaints = await cluster.stop();
  if (complaints.length > 0) throw new Error(complaints.join("\n"));
  const { ledger, kills, slowest } = cluster;
  return `${faults} faults, ${kills} kills: ${ledger.acknowledgements} of ${ledger.attempts} acknowledged, there once; back after at most ${(slowest / 1000).toFixed(1)} s`;
}

/** Rounds of ten faults at random, until so many have ended a process. */
const atRandom = (kinds: readonly Kind[], least: number): Rounds =>
  function* (chance, kills) {
    while (kills() < least) yield Array.from({ length: 10 }, () => chance.pick(kinds));
  };

if (import.meta.main) {
  const { postgresPrograms } = await import("../postgres.ts");
  const programs = postgresPrograms("faults past one machine");
  const all = Object.keys(FAULTS) as Kind[];
  const kinds = (process.env["PICKET_FAULT_KINDS"]?.split(",") as Kind[] | undefined) ?? all;
  const seed = chooseSeed();
  console.log(`PICKET_FAULT_SEED=${seed}`);
  const rounds = atRandom(kinds, Number(process.env["PICKET_FAULT_KILLS"] ?? 100));
  if (programs) console.log(await runScale({ programs, seed, rounds }));
  process.exit(0);
}
