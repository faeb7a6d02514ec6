// What stands in front: a real Caddy with the example Caddyfile, and callers with a client certificate.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Folder, ROOT, freePort } from "./kit.ts";

/** Calls with a client certificate, or without one: the status, or "refused" where there is no connection. */
export function caller(folder: Folder, base: string) {
  const read = (name: string) => readFileSync(folder.at(name), "utf8");
  return (name: string | null, path: string, init: RequestInit = {}): Promise<number | "refused"> => {
    const tls = { ca: read("ca.pem"), ...(name ? { cert: read(`${name}.pem`), key: read(`${name}.key`) } : {}) };
    return fetch(base + path, { ...init, tls, keepalive: false } as RequestInit).then(
      ({ status }) => status,
      () => "refused" as const,
    );
  };
}

/** Where the roles listen, as URLs; behind those that are left out nobody answers. */
export interface Behind {
  collector?: string;
  receiver?: string;
  observer?: string;
}

/** A real Caddy that keeps its addresses when it is killed and started again; ends with its `using` block. */
export class Caddy implements AsyncDisposable {
  /** The hub's site: client certificates. */
  readonly url: string;
  /** The hooks' site: plain HTTP here, for its certificate would come from outside. */
  readonly hooks: string;
  #folder: Folder;
  #file: string;
  #child: Bun.Subprocess;

  constructor(folder: Folder, caddyfile: string, { url, hooks }: { url: string; hooks: string }) {
    this.#folder = folder;
    this.#file = folder.write("Caddyfile", caddyfile);
    this.url = url;
    this.hooks = hooks;
    this.#child = this.#start();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** Starts it again after a kill. */
  up(): void {
    this.#child = this.#start();
  }

  async kill(signal: NodeJS.Signals): Promise<void> {
    this.#child.kill(signal);
    await this.#child.exited;
  }

  #start(): Bun.Subprocess {
    const { path } = this.#folder;
    return Bun.spawn(["caddy", "run", "--config", this.#file, "--adapter", "caddyfile"], {
      stdout: "ignore",
      stderr: "ignore",
      env: { ...process.env, HOME: path, XDG_DATA_HOME: path, XDG_CONFIG_HOME: path },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill("SIGKILL");
  }
}

/** Caddy with the example Caddyfile, its addresses replaced by these. The folder holds the certificates (see `certificates`). */
export function startCaddy(folder: Folder, { collector, receiver, observer }: Behind): Caddy {
  const [front, other, admin] = [freePort(), freePort(), freePort()];
  const bare = (url: string | undefined) => url?.replace("http://", "") ?? "127.0.0.1:9";
  const [url, hooks] = [`https://localhost:${front}`, `http://localhost:${other}`];
  const text = readFileSync(join(ROOT, "etc/Caddyfile"), "utf8")
    .replace("hub.example.com", url)
    .replace("hooks.example.com", hooks)
    .replace("tls {", `tls ${folder.at("server.pem")} ${folder.at("server.key")} {`)
    .replace("/etc/picket/ca.pem", folder.at("ca.pem"))
    .replaceAll("127.0.0.1:18790", bare(collector))
    .replaceAll("127.0.0.1:18791", bare(receiver))
    .replaceAll("127.0.0.1:3219", bare(observer));
  const options = `{\n\tadmin 127.0.0.1:${admin}\n\tauto_https disable_redirects\n\tstorage file_system ${folder.at("storage")}\n}\n`;
  return new Caddy(folder, options + text, { url, hooks });
}
