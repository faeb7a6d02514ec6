// What the receiver's tests share: a receiver as a child process, hosts with tokens, reports and episodes to send.

import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { inboxesIn } from "../inbox-kit.ts";
import { type Daemon, Folder, type Target, runRole, startRole } from "../kit.ts";
import {
  type Hand,
  changeStore,
  episodeFile,
  episodeFiles,
  onFile,
  rowsOf,
  storeEnv,
  storeLines,
} from "./store-kit.ts";

export interface HubOptions {
  target?: Target;
  /** More lines of the configuration. */
  more?: string;
  env?: Record<string, string | undefined>;
  /** Where data_dir lies. Default: the hub's own folder. */
  data?: string;
  port?: number;
  wrap?: string[];
}

/** A receiver with a configuration, data folder and inbox of its own. */
export class Hub implements AsyncDisposable {
  readonly folder = new Folder();
  readonly data: string;
  readonly inbox: string;
  readonly config: string;
  readonly tokens = new Map<string, string>();
  daemon!: Daemon;
  url!: string;
  #options: HubOptions;

  constructor(options: HubOptions = {}) {
    this.#options = options;
    this.data = options.data ?? this.folder.at("data");
    this.inbox = this.folder.at("inbox");
    this.config = this.folder.at("receiver.yaml");
    this.configure(options.more ?? "");
  }

  /** A running one, with these hosts. */
  static async start(options: HubOptions & { hosts?: string[] } = {}): Promise<Hub> {
    const hub = new Hub(options);
    for (const host of options.hosts ?? ["web-1"]) await hub.addHost(host);
    await hub.up();
    return hub;
  }

  /** Writes the configuration. */
  configure(more: string): void {
    writeFileSync(
      this.config,
      `listen: "127.0.0.1:${this.#options.port ?? 0}"\ndata_dir: ${this.data}\nnotify: { recipient: ops, ${inboxesIn(this.folder).flow} }\n${more}\n${storeLines(this.data, more)}`,
    );
  }

  /** Where it listens, also while it doesn't; with a `port` of its own only. */
  get address(): string {
    return `http://127.0.0.1:${this.#options.port}`;
  }

  async up(): Promise<void> {
    const { target, env, wrap } = this.#options;
    this.daemon = await startRole("receiver", ["--config", this.config, "--log-level", "debug"], {
      ...(target ? { target } : {}),
      env: { ...storeEnv, ...env },
      ...(wrap ? { wrap } : {}),
    });
    this.url = await this.daemon.url();
  }

  /** Runs one of the receiver's commands. */
  run(...args: string[]) {
    const { target, env } = this.#options;
    return runRole("receiver", [...args, "--config", this.config], {
      ...(target ? { target } : {}),
      env: { ...storeEnv, ...env },
    });
  }

  async addHost(name: string): Promise<string> {
    const { code, stdout, stderr } = await this.run("host", "add", name);
    const token = /pk_[A-Za-z0-9]{40}/.exec(stdout)?.[0];
    if (code !== 0 || !token) throw new Error(`host add ${name}: ${stderr}`);
    this.tokens.set(name, token);
    return token;
  }

  bearer(host = "web-1"): Record<string, string> {
    return { authorization: `Bearer ${this.tokens.get(host)}` };
  }

  /** Sends a report; what is given replaces parts of a right one. */
  report(body: unknown = report(), { host = "web-1", path = "/v1/host-report" } = {}): Promise<Response> {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return fetch(this.url + path, { method: "POST", body: text, headers: this.bearer(host) });
  }

  /** Ships bytes as an episode; headers that are given replace the right ones, null takes one away. */
  ship(
    episode: string,
    bytes: Uint8Array<ArrayBuffer>,
    {
      host = "web-1",
      to = host,
      headers = {},
    }: { host?: string; to?: string; headers?: Record<string, string | null> } = {},
  ): Promise<Response> {
    const all: Record<string, string | null> = { ...this.bearer(host), ...uploadHeaders(bytes), ...headers };
    const given = Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== null);
    return fetch(`${this.url}/v1/episodes/${to}/${episode}.tar.zst`, {
      method: "PUT",
      body: bytes,
      headers: Object.fromEntries(given),
    });
  }

  async get<T = Record<string, unknown>>(path: string, headers: Record<string, string> = {}): Promise<T> {
    const answer = await fetch(this.url + path, { headers });
    if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as T;
  }

  /** Looks into the store. */
  rows<T>(sql: string): T[] {
    return rowsOf<T>(this.data, sql);
  }

  /** Changes the store by hand, while the daemon is down. */
  change(work: (db: Hand) => void): void {
    changeStore(this.data, work);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** A report that is in order, recorded so many milliseconds ago. */
export function report(more: Record<string, unknown> = {}, agoMs = 0): Record<string, unknown> {
  return {
    recorded_at: new Date(Date.now() - agoMs).toISOString(),
    agent_version: "0.1.0",
    host: {
      metrics: {
        cpu_percent: 12.5,
        memory_used_mb: 1024,
        memory_total_mb: 4096,
        disk_used_gb: 10,
        disk_total_gb: 100,
        network_rx_bytes: 1_000_000,
        network_tx_bytes: 2_000_000,
        uptime_seconds: 3600,
        load_average: 0.5,
        cpu_temp_c: 41.5,
      },
      facts: { cpu_count: 4, os: "Debian GNU/Linux 12", arch: "x64" },
    },
    ...more,
  };
}

/** A container of a report. */
export function container(name: string, more: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    container_id: Bun.hash(name).toString(16),
    name,
    image: "docker.io/library/nginx",
    image_tag: "1.27",
    status: "Up 3 hours",
    state: "running",
    health_status: null,
    ports: [{ private: 80, public: 8080, type: "tcp" }],
    labels: { "com.docker.compose.project": "web" },
    metrics: {
      cpu_percent: 1.5,
      memory_usage_mb: 50,
      memory_limit_mb: 300,
      network_rx_bytes: 10,
      network_tx_bytes: 20,
      block_read_bytes: 30,
      block_write_bytes: 40,
    },
    ...more,
  };
}

export function sha256(bytes: Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
}

export function uploadHeaders(bytes: Uint8Array): Record<string, string> {
  return { "x-content-sha256": sha256(bytes), "content-type": "application/zstd", "x-schema-version": "1" };
}

/** An archive with some content, as an agent makes it. */
export async function archive(
  content: string,
  meta: unknown = { code_version: { commit: "a".repeat(40) } },
): Promise<Uint8Array<ArrayBuffer>> {
  using folder = new Folder();
  mkdirSync(folder.at("ep"));
  folder.write("ep/meta.json", JSON.stringify(meta));
  folder.write("ep/data.txt", content);
  const tar = Bun.spawnSync(["tar", "-C", folder.path, "-cf", "-", "ep"]).stdout;
  return new Uint8Array(Bun.zstdCompressSync(tar));
}

/** libfaketime (the one for threads: the other now and then forgets its offset), for a clock that a test sets; null (said) where it isn't installed. */
export function faketime(test: string): string | null {
  const found = ["x86_64", "aarch64"]
    .map((arch) => `/usr/lib/${arch}-linux-gnu/faketime/libfaketimeMT.so.1`)
    .find((path) => existsSync(path));
  if (!found) console.log(`skipped: ${test}: faketime is not installed`);
  // A process that was killed leaves files named by its id, which a later one of that id would find.
  for (const name of found ? readdirSync("/dev/shm") : []) {
    const pid = /^(?:faketime_shm|sem\.faketime_sem)_(\d+)$/.exec(name)?.[1];
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) rmSync(join("/dev/shm", name), { force: true });
  }
  return found ?? null;
}

/** The wall clock of a child process. Its monotonic clock is the machine's. */
export class Clock {
  readonly env: Record<string, string>;
  #file: string;

  constructor(folder: Folder, library: string) {
    this.#file = folder.write("clock", "+0\n");
    this.env = {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: this.#file,
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
      FAKETIME_DONT_RESET: "1",
    };
  }

  /** Lets it run so many seconds before or behind the machine's. */
  offset(seconds: number): void {
    // By rename: half a line would be another time.
    writeFileSync(`${this.#file}.new`, `${seconds < 0 ? "" : "+"}${seconds}\n`);
    renameSync(`${this.#file}.new`, this.#file);
  }
}

/** The lines of the index; a table has one for each episode. */
export function indexLines(hub: Hub): Record<string, unknown>[] {
  if (!onFile) {
    const rows = hub.rows<{ line: string }>("SELECT line FROM episodes ORDER BY coalesce(removed_at, received_at)");
    return rows.map(({ line }) => JSON.parse(line) as Record<string, unknown>);
  }
  const path = join(hub.data, "index.jsonl");
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

/** A host's episodes as NAME.tar.zst, and what is not finished: the names of files, or of objects. */
export function filesOf(hub: Hub, host = "web-1"): string[] {
  return [...episodeFiles(hub.data, host).keys()];
}

/** The file of an episode; `bytes`: of those that have its name, the one with these. */
export function fileOf(
  hub: Hub,
  episode: string,
  { host = "web-1", bytes }: { host?: string; bytes?: Uint8Array } = {},
): string {
  return episodeFile(hub.data, host, episode, bytes ? sha256(bytes) : null);
}

/** Loses the index. */
export function forgetEpisodes(hub: Hub): void {
  if (onFile) rmSync(join(hub.data, "index.jsonl"));
  else hub.change((db) => db.run("DELETE FROM episodes"));
}

/** Random bytes that begin as zstd does. */
export function bytesOf(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(bytes.subarray(at, Math.min(at + 65_536, size)));
  bytes.set([0x28, 0xb5, 0x2f, 0xfd]);
  return bytes;
}

/** Opens an upload by hand: announces `length`, and gives the socket to go on with. */
export async function begin(
  hub: Hub,
  episode: string,
  { length, headers = {}, to = "web-1" }: { length: number; headers?: Record<string, string>; to?: string },
) {
  const { hostname, port } = new URL(hub.url);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect(Number(port), hostname, resolve);
  socket.on("error", reject);
  let answer = "";
  const closed = new Promise<string>((done) => socket.on("close", () => done(answer)));
  socket.on("data", (chunk) => (answer += chunk.toString()));
  await promise;
  const all = { ...hub.bearer(), "content-type": "application/zstd", "x-schema-version": "1", ...headers };
  const lines = Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.write(
    `PUT /v1/episodes/${to}/${episode}.tar.zst HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n${lines}\r\n`,
  );
  return { socket, closed, answer: () => answer };
}

/** A receiver whose clock the test sets, with hosts that have reported. */
export async function startAt(
  folder: Folder,
  library: string,
  hosts: string[],
  more = "",
): Promise<{ hub: Hub; clock: Clock }> {
  const clock = new Clock(folder, library);
  const hub = new Hub({ env: clock.env, more: `rate_limit_per_minute: 100000\n${more}` });
  await hub.addHost(hosts[0]!);
  addHosts(hub, hosts.slice(1));
  await hub.up();
  return { hub, clock };
}

/** Adds hosts with their tokens in one go: a command each would take its time. */
export function addHosts(hub: Hub, names: string[]): void {
  hub.change((db) => {
    for (const name of names) {
      const token = `pk_${Buffer.from(crypto.getRandomValues(new Uint8Array(20))).toString("hex")}`;
      db.run("INSERT INTO hosts (name, status, created_at) VALUES (?, 'pending', 0)", [name]);
      db.run("INSERT INTO tokens (host, sha256, created_at) SELECT id, ?, 0 FROM hosts WHERE name = ?", [
        sha256(Buffer.from(token)),
        name,
      ]);
      hub.tokens.set(name, token);
    }
  });
}

/** The alive mark of a receiver: see presence.ts. */
export function lifeOf(hub: Hub): { ran: number; line: number } {
  return JSON.parse(hub.rows<{ value: string }>("SELECT value FROM meta WHERE key = 'alive'")[0]!.value);
}

function setLife(db: Hand, life: { ran: number; line: number }): void {
  db.run("UPDATE meta SET value = ? WHERE key = 'alive'", [JSON.stringify(life)]);
}

/** As if a receiver that is down had run until that time. */
export function runUntil(hub: Hub, seconds: number): void {
  const life = lifeOf(hub);
  hub.change((db) => setLife(db, { ...life, line: Date.now() + seconds * 1000 }));
}

/** A receiver that tells alerts soon; `report({ interval_seconds: 3600 })` keeps its hosts from being silent soon. */
export const TELLS_SOON = "poll_interval_seconds: 1\nrate_limit_per_minute: 100000";

/** As if a receiver that is down had run for so much longer, with its hosts reporting. */
export function runOn(hub: Hub, ms: number): void {
  const life = lifeOf(hub);
  hub.change((db) => {
    setLife(db, { ...life, ran: life.ran + ms });
    db.run("UPDATE hosts SET heard_ms = heard_ms + ?", [ms]);
  });
}

/** A report as of the receiver's clock. */
export async function reportAt(
  hub: Hub,
  seconds: number,
  host = "web-1",
  more: Record<string, unknown> = {},
): Promise<void> {
  const answer = await hub.report(report(more, -seconds * 1000), { host });
  if (answer.status !== 200) throw new Error(await answer.text());
}

/** The status of every host. */
export function statuses(hub: Hub): Record<string, string> {
  const rows = hub.rows<{ name: string; status: string }>("SELECT name, status FROM hosts");
  return Object.fromEntries(rows.map(({ name, status }) => [name, status]));
}
