// What the agent's tests share: a receiver that answers as a test says, and an agent's folders with a configuration.

import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DEFAULT_TARGET, type Daemon, Folder, type RunOptions, type Target, have, runRole, startRole } from "../kit.ts";

export const COMMIT = "c".repeat(40);

type Answer = (request: Request) => Response | Promise<Response>;

/** What a receiver answers to a report. */
export const ENVELOPE = { poll_interval_seconds: 60, blocked: false, desired_generation: 0, has_signed_ops: false };

/** A refusal as a receiver gives it. */
export function refusal(
  status: number,
  { headers = {}, ...body }: { headers?: Record<string, string>; [member: string]: unknown } = {},
): Response {
  if (status === 401) return new Response(null, { status, headers: { "www-authenticate": "Bearer", ...headers } });
  return Response.json({ error: "refused", code: "refused", ...body }, { status, headers });
}

/** A receiver that takes everything, except what `doors` (ends of paths) answer otherwise. */
export class FakeHub implements Disposable {
  /** The path of each request. */
  readonly asked: string[] = [];
  readonly url: string;
  readonly #server: Bun.Server<undefined>;

  constructor(doors: Record<string, Answer> = {}) {
    this.#server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      fetch: (request) => {
        const { pathname } = new URL(request.url);
        this.asked.push(pathname);
        const door = Object.keys(doors).find((end) => pathname.endsWith(end));
        return door === undefined ? this.#take(request, pathname) : doors[door]!(request);
      },
    });
    this.url = `http://127.0.0.1:${this.#server.port}`;
  }

  async #take(request: Request, pathname: string): Promise<Response> {
    await request.arrayBuffer();
    if (pathname === "/v1/ping") return Response.json({ host: "web-1", time: new Date().toISOString() });
    return Response.json(ENVELOPE, { status: pathname.endsWith(".tar.zst") ? 201 : 200 });
  }

  [Symbol.dispose](): void {
    void this.#server.stop(true);
  }
}

/** An agent's configuration towards a hub; its loop is quick until the receiver says 60. */
export function configure(folder: Folder, url: string, token: string, more = ""): string {
  return folder.write(
    "agent.yaml",
    `receiver: { url: "${url}", token: ${token} }\ndata_dir: ${folder.at("agent")}\ninterval_seconds: 0.2\ndocker: { enabled: false }\n${more}`,
  );
}

/** Starts an agent that logs everything. */
export function start(config: string, target: Target = DEFAULT_TARGET): Promise<Daemon> {
  return startRole("agent", ["--config", config, "--log-level", "debug"], { target });
}

/** The samples that wait to be sent. */
export function waiting(folder: Folder): string[] {
  const dir = folder.at("agent/queue");
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith(".json")) : [];
}

export interface LabOptions {
  token?: string;
  /** More lines of the configuration. */
  more?: string;
  /** Where its folders lie. */
  under?: string;
}

/** The folders of an agent that ships episodes, with a configuration. Its hub, where it is given as one, ends with it. */
export class Lab implements Disposable {
  readonly folder: Folder;
  readonly config: string;
  readonly #hub: FakeHub | null;

  constructor(hub: FakeHub | string, { token = "pk_test-token", more = "", under }: LabOptions = {}) {
    this.#hub = typeof hub === "string" ? null : hub;
    this.folder = new Folder(under);
    mkdirSync(this.folder.at("episodes"));
    const url = typeof hub === "string" ? hub : hub.url;
    this.config = this.folder.write(
      "agent.yaml",
      `receiver: { url: "${url}", token: ${token} }\ndata_dir: ${this.folder.at("agent")}\ndocker: { enabled: false }\nship: { episodes_dir: ${this.folder.at("episodes")}, scan_seconds: 1 }\n${more}`,
    );
  }

  /** A finished episode; its folder. */
  episode(
    id: string,
    files: Record<string, string | Uint8Array> = { "data.txt": id },
    commit: string | null = COMMIT,
  ): string {
    const folder = this.folder.at("episodes", id);
    mkdirSync(folder, { recursive: true });
    for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
    if (commit) writeFileSync(join(folder, "meta.json"), JSON.stringify({ code_version: { commit } }));
    writeFileSync(join(folder, "done.marker"), "");
    return folder;
  }

  in(place: string): string[] {
    const folder = this.folder.at(place);
    return existsSync(folder) ? readdirSync(folder).toSorted() : [];
  }

  run(args: string[], options: RunOptions = {}) {
    return runRole("agent", [...args, "--config", this.config], options);
  }

  once(options: RunOptions = {}) {
    return this.run(["--once"], options);
  }

  start(options: RunOptions = {}): Promise<Daemon> {
    return startRole("agent", ["--config", this.config, "--log-level", "debug"], options);
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
    this.#hub?.[Symbol.dispose]();
  }
}

const isRoot = process.getuid?.() === 0;

/** Runs a program as root without the power to read and write everything: folders' rights count for it, too. */
export const powerless = isRoot ? ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] : [];
export const canBePowerless = !isRoot || have("setpriv", "folders that may not be read");
