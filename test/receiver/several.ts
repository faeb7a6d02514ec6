// Several receivers on one PostgreSQL, which tell one inbox.

import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { Folder, inboxLines, until } from "../kit.ts";
import type { Postgres } from "../postgres.ts";
import { Hub, report } from "./kit.ts";

export class Several implements AsyncDisposable {
  readonly hubs: Hub[];
  readonly database: string;
  readonly tokens = new Map<string, string>();
  #folder: Folder;
  #server: Postgres;

  private constructor(server: Postgres, { count, more }: { count: number; more: string }) {
    this.#server = server;
    this.#folder = new Folder();
    const store = server.database();
    this.database = new URL(store).pathname.slice(1);
    this.hubs = Array.from({ length: count }, () => new Hub({ more: `store: ${store}\n${more}` }));
    mkdirSync(this.#folder.at("inbox"));
    for (const hub of this.hubs) symlinkSync(this.#folder.at("inbox"), hub.inbox);
  }

  /** So many running ones, with these hosts. */
  static async start(
    server: Postgres,
    { count = 3, hosts = ["web-1"], more = "" }: { count?: number; hosts?: string[]; more?: string } = {},
  ): Promise<Several> {
    const several = new Several(server, { count, more });
    const [first] = several.hubs;
    for (const host of hosts) several.tokens.set(host, await first!.addHost(host));
    for (const hub of several.hubs) for (const [host, token] of several.tokens) hub.tokens.set(host, token);
    await Promise.all(several.hubs.map((hub) => hub.up()));
    return several;
  }

  /** Those whose processes run. */
  get running(): Hub[] {
    return this.hubs.filter(
      ({ daemon: { child } }) => child.exitCode === null && child.signalCode === null && !isStopped(child.pid),
    );
  }

  /** The one that leads, once there is one. */
  async leader(): Promise<Hub> {
    return until("a receiver leads", async () => {
      const all = await Promise.all(this.running.map(async (hub) => ((await healthOf(hub)).leads ? hub : null)));
      return all.find((hub) => hub !== null);
    });
  }

  async followers(): Promise<Hub[]> {
    const leader = await this.leader();
    return this.running.filter((hub) => hub !== leader);
  }

  /** Each of these hosts reports to one of those that run, and to the next where that one fails. */
  async report(hosts: string[]): Promise<void> {
    await Promise.all(
      hosts.map(async (host, n) => {
        const { running } = this;
        for (const hub of [...running.slice(n % running.length), ...running]) {
          const answer = await hub.report(report(), { host }).catch(() => null);
          if (answer?.status === 200) return;
        }
        throw new Error(`${host}'s report was refused`);
      }),
    );
  }

  /** The types and texts that the inbox was told. */
  told(): { source: string; payload: string }[] {
    return inboxLines(this.#folder.at("inbox"), "ops").map(({ source, payload }) => ({
      source: String(source).replace("receiver:", ""),
      payload: String(payload),
    }));
  }

  /** Rows of tab-separated texts. */
  rows(text: string): string[] {
    return this.#server.psql(text, this.database).stdout.toString().trim().split("\n").filter(Boolean);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const hub of this.hubs) await hub[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }
}

function isStopped(pid: number): boolean {
  return /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

export async function healthOf(hub: Hub): Promise<{ leads?: boolean }> {
  const answer = fetch(`${hub.url}/health`);
  return (await answer.then((response) => response.json()).catch(() => ({}))) as { leads?: boolean };
}
