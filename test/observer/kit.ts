// A real observer as a child process, and what tests ask of it.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { inboxesIn } from "../inbox-kit.ts";
import { type Daemon, Folder, type RunOptions, inboxLines, runRole, startRole, until, wholeLines } from "../kit.ts";

export type Op = Record<string, unknown>;

export interface ObserverOptions extends RunOptions {
  /** More lines of the configuration. */
  more?: string;
  /** Where its log lies; default: in a folder of its own. */
  data?: string;
  port?: number;
}

/** An observer with a folder of its own. */
export class Observer implements AsyncDisposable {
  readonly folder = new Folder();
  readonly data: string;
  readonly inbox: string;
  readonly config: string;
  daemon!: Daemon;
  url!: string;
  #options: ObserverOptions;

  constructor(options: ObserverOptions = {}) {
    this.#options = options;
    this.data = options.data ?? this.folder.at("data");
    this.inbox = this.folder.at("inbox");
    this.config = this.folder.at("observer.yaml");
    this.configure(options.more ?? "");
  }

  static async start(options: ObserverOptions = {}): Promise<Observer> {
    const observer = new Observer(options);
    await observer.up();
    return observer;
  }

  get log(): string {
    return join(this.data, "ops.jsonl");
  }

  /** Writes the configuration; a cycle is a fifth of a second unless `more` says otherwise. */
  configure(more: string): void {
    const cycle = more.includes("cycle_seconds") ? "" : "cycle_seconds: 0.2\n";
    const log = more.includes("persist_path") ? "" : `persist_path: ${this.log}\n`;
    const notify = more.includes("notify") ? "" : `notify: { recipient: ops, ${inboxesIn(this.folder).flow} }\n`;
    writeFileSync(this.config, `listen: "127.0.0.1:${this.#options.port ?? 0}"\n${log}${notify}${cycle}${more}\n`);
  }

  async up(): Promise<void> {
    this.daemon = await startRole("observer", ["--config", this.config, "--log-level", "debug"], this.#options);
    this.url = await this.daemon.url();
  }

  /** Ends it and starts it again. */
  async again(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await this.daemon.kill(signal);
    await this.up();
  }

  run(...args: string[]) {
    return runRole("observer", [...args, "--config", this.config], this.#options);
  }

  post(path: string, body: unknown): Promise<Response> {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    return fetch(this.url + path, { method: "POST", body: text });
  }

  /** Records; throws unless it is taken. */
  async record(...operations: Op[]): Promise<void> {
    const answer = await this.post("/observer/event", operations.length === 1 ? operations[0] : operations);
    const said = await answer.text();
    if (answer.status !== 200 || said.includes('"accepted":false')) throw new Error(`${answer.status} ${said}`);
  }

  async get<T>(path: string): Promise<T> {
    const answer = await fetch(this.url + path);
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return (await answer.json()) as T;
  }

  stats(): Promise<{
    total: number;
    successes: number;
    failures: number;
    by_source: object;
    recent_scenario_ops: Op[];
  }> {
    return this.get("/observer/stats");
  }

  /** The escalations that were written. */
  escalations(): Op[] {
    return lines(join(this.data, "escalations.jsonl"));
  }

  /** What the inbox was told. */
  told(): Record<string, string>[] {
    return inboxLines(this.inbox, "ops");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** The lines of a JSON-lines file, each of which has to be whole; none when it is missing. */
export function lines(path: string): Op[] {
  return wholeLines(path)
    .split("\n")
    .flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Op]));
}

/** A failure of an endpoint. */
export function failure(endpoint: string, error: string, more: Op = {}): Op {
  return { endpoint, success: false, error, source: "workflow", ...more };
}

export const HOUR = 3_600_000;

/** A time so many hours and minutes ago, as operations have it. */
export const ago = (hours: number, minutes = 0) => new Date(Date.now() - hours * HOUR - minutes * 60_000).toISOString();

/** Deeper than what can be written. */
export const DEPTH = 200_000;

/** Awaits two more passes of the steps that escalate. */
export async function twoCycles(observer: Observer): Promise<void> {
  type Health = { steps: Record<string, { passes: number }> };
  const passes = async () => {
    const { steps } = await observer.get<Health>("/health");
    return Math.min(steps["analyze"]!.passes, steps["escalate"]!.passes);
  };
  const before = await passes();
  await until("two passes", async () => (await passes()) >= before + 2);
}
