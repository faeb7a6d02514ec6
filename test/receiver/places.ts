// Where a receiver stores episodes, for behaviours that are the same in both places.

import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { S3 } from "../s3.ts";
import { Hub, type HubOptions, sha256 } from "./kit.ts";

type Line = Record<string, unknown>;

const PROGRAMS = postgresPrograms("episodes in a bucket");
/** A folder with a SQLite store, a bucket with a PostgreSQL. */
export const PLACES: readonly ("folder" | "bucket")[] = PROGRAMS === null ? ["folder"] : ["folder", "bucket"];

/** One of them. Hubs that are made with the same `options` share what they store. */
export interface Place extends AsyncDisposable {
  options(more?: string): HubOptions;
  /** The names of a host's episodes as `NAME.tar.zst`, and of what is not finished. */
  files(hub: Hub, host?: string): Promise<string[]>;
  /** The lines of the index. */
  lines(hub: Hub): Promise<Line[]>;
  read(hub: Hub, episode: string, host?: string): Promise<Uint8Array>;
  /** Past the receiver: puts bytes where an episode's are, or would be. */
  put(hub: Hub, episode: string, bytes: Uint8Array, host?: string): Promise<void>;
  /** Past the receiver: removes an episode's bytes. */
  remove(hub: Hub, episode: string, host?: string): Promise<void>;
  /** Past the receiver: changes the lines of the index, or takes all away. */
  change(hub: Hub, change: null | ((line: Line) => Line)): Promise<void>;
}

/** Opens a place, with its servers. */
export async function openPlace(kind: (typeof PLACES)[number]): Promise<Place> {
  return kind === "folder" ? new InFolder() : new InBucket(await Postgres.start(PROGRAMS!), await S3.start());
}

class InFolder implements Place {
  options(more = ""): HubOptions {
    return { more };
  }

  async files(hub: Hub, host = "web-1"): Promise<string[]> {
    const folder = join(hub.data, "episodes", host);
    return existsSync(folder) ? readdirSync(folder).toSorted() : [];
  }

  async lines(hub: Hub): Promise<Line[]> {
    const path = join(hub.data, "index.jsonl");
    const lines = existsSync(path) ? readFileSync(path, "utf8").trim().split("\n") : [];
    return lines.map((line) => JSON.parse(line) as Line);
  }

  async read(hub: Hub, episode: string, host?: string): Promise<Uint8Array> {
    return readFileSync(this.#path(hub, episode, host));
  }

  async put(hub: Hub, episode: string, bytes: Uint8Array, host?: string): Promise<void> {
    const path = this.#path(hub, episode, host);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }

  async remove(hub: Hub, episode: string, host?: string): Promise<void> {
    unlinkSync(this.#path(hub, episode, host));
  }

  async change(hub: Hub, change: null | ((line: Line) => Line)): Promise<void> {
    const path = join(hub.data, "index.jsonl");
    const lines = await this.lines(hub);
    rmSync(path);
    if (change) writeFileSync(path, lines.map((line) => `${JSON.stringify(change(line))}\n`).join(""));
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #path(hub: Hub, episode: string, host = "web-1"): string {
    return join(hub.data, "episodes", host, `${episode}.tar.zst`);
  }
}

export class InBucket implements Place {
  readonly postgres: Postgres;
  readonly s3: S3;

  constructor(postgres: Postgres, s3: S3) {
    this.postgres = postgres;
    this.s3 = s3;
  }

  options(more = ""): HubOptions {
    const s3 = `s3: { endpoint: "${this.s3.endpoint}" }`;
    const lines = [`store: ${this.postgres.database()}`, `episodes: ${this.s3.place()}`, s3, more];
    return { more: lines.join("\n"), env: this.s3.env };
  }

  async files(hub: Hub, host = "web-1"): Promise<string[]> {
    const keys = await this.#objects(hub, host);
    return keys.map((key) => key.slice(key.lastIndexOf("/") + 1).replace(/\.[0-9a-f]{64}\./, ".")).toSorted();
  }

  async lines(hub: Hub): Promise<Line[]> {
    const { stdout } = await hub.run("index", "export");
    return stdout.split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as Line]));
  }

  async read(hub: Hub, episode: string, host?: string): Promise<Uint8Array> {
    return this.s3.client.file((await this.#object(hub, episode, host))!).bytes();
  }

  async put(hub: Hub, episode: string, bytes: Uint8Array, host = "web-1"): Promise<void> {
    const fresh = `${this.prefix(hub)}${host}/${episode}.${sha256(bytes)}.tar.zst`;
    await this.s3.client.write((await this.#object(hub, episode, host)) ?? fresh, bytes);
  }

  async remove(hub: Hub, episode: string, host?: string): Promise<void> {
    await this.s3.client.delete((await this.#object(hub, episode, host))!);
  }

  async change(hub: Hub, change: null | ((line: Line) => Line)): Promise<void> {
    if (!change) return void this.sql(hub, "DELETE FROM episodes");
    for (const line of await this.lines(hub)) {
      const { host, episode, received_at, ...rest } = change(line);
      const json = JSON.stringify({ received_at, host, episode, ...rest });
      this.sql(
        hub,
        `UPDATE episodes SET received_at = '${String(received_at)}', line = '${json}' WHERE host = '${String(host)}' AND episode = '${String(episode)}'`,
      );
    }
  }

  /** Runs a statement in a hub's database; gives its rows. */
  sql(hub: Hub, text: string): string {
    const { exitCode, stdout, stderr } = this.postgres.psql(
      text,
      /^store: .*\/(\w+)$/m.exec(readFileSync(hub.config, "utf8"))![1],
    );
    if (exitCode !== 0) throw new Error(stderr.toString());
    return stdout.toString();
  }

  prefix(hub: Hub): string {
    return `${/^episodes: s3:\/\/[^/]+\/(.+)$/m.exec(readFileSync(hub.config, "utf8"))![1]}/`;
  }

  async #objects(hub: Hub, host: string): Promise<string[]> {
    const { contents = [] } = await this.s3.client.list({ prefix: `${this.prefix(hub)}${host}/` });
    return contents.map(({ key }) => key);
  }

  async #object(hub: Hub, episode: string, host = "web-1"): Promise<string | undefined> {
    const before = `${this.prefix(hub)}${host}/${episode}.`;
    return (await this.#objects(hub, host)).find((key) => key.startsWith(before) && key.length === before.length + 72);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.postgres[Symbol.asyncDispose](), this.s3[Symbol.asyncDispose]()]);
  }
}
