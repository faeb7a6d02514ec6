// What stands around Picket past one machine, for demonstrations: PostgreSQL, an S3 server and a load balancer, on loopback. They are
// Debian's PostgreSQL, npm's s3rver, and a server of its own.

import { chmodSync, chownSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import type { Stage } from "./stage.ts";

const BUCKET = "picket";
const S3_KEY = "S3RVER";

/** What is missing on this machine, with the command that installs it; null where all is there. */
export function missingServer(): string | null {
  if (postgresProgram("initdb") === null) return "PostgreSQL is not installed\nhint: apt install postgresql";
  if (Bun.which("s3rver") === null) return "s3rver is not on PATH\nhint: run ./install.sh try --scale in a clone";
  return null;
}

/** Debian keeps PostgreSQL's programs off the PATH. */
function postgresProgram(name: string): string | null {
  const folders = [...new Bun.Glob("*/bin").scanSync({ cwd: "/usr/lib/postgresql", onlyFiles: false, absolute: true })];
  return Bun.which(name, { PATH: [process.env["PATH"], ...folders.toSorted().toReversed()].join(":") });
}

/** Starts PostgreSQL with an empty database. `start` starts it again. */
export async function startPostgres(stage: Stage): Promise<{ url: string; start: () => Promise<void> }> {
  const port = freePort();
  const folder = stage.at("postgres");
  mkdirSync(folder);
  const isRoot = process.getuid?.() === 0;
  if (isRoot) {
    // It refuses to run as root. Its account has to get at its folder.
    const id = (flag: string): number => Number(Bun.spawnSync(["id", flag, "postgres"]).stdout.toString());
    chownSync(folder, id("-u"), id("-g"));
    chmodSync(stage.at(""), 0o711);
  }
  const account = isRoot ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
  const command = (name: string, ...args: string[]): string[] => [...account, postgresProgram(name)!, ...args];
  const data = join(folder, "data");
  complete(command("initdb", "-D", data, "-A", "trust", "-U", "picket", "-E", "UTF8", "--locale=C.UTF-8"), folder);
  const at = ["-h", "127.0.0.1", "-p", String(port)];
  const flags = [...at, "-k", "", "-D", data, "-c", "max_connections=200"];
  const isReady = () => Bun.spawnSync(command("pg_isready", "-q", ...at), { cwd: folder }).exitCode === 0;
  async function start(): Promise<void> {
    stage.program("postgres", command("postgres", ...flags));
    await stage.until("PostgreSQL answers", isReady);
  }
  await start();
  complete(command("createdb", ...at, "-U", "picket", "picket"), folder);
  return { url: `postgres://picket@127.0.0.1:${port}/picket`, start };
}

/** Starts an S3 server with an empty bucket. `env` is what a process needs to use it. */
export async function startS3(stage: Stage) {
  const port = freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  const options = ["-d", stage.at("s3"), "-a", "127.0.0.1", "-p", String(port), "-s", "--configure-bucket", BUCKET];
  async function start(): Promise<void> {
    // This program is Bun, too: there may be no Node.js.
    stage.program("s3", [process.execPath, Bun.which("s3rver")!, ...options], { BUN_BE_BUN: "1" });
    const isThere = () => fetch(endpoint).then(Boolean, () => false);
    await stage.until("the S3 server answers", isThere);
  }
  await start();
  const env = { S3_ENDPOINT: endpoint, AWS_ACCESS_KEY_ID: S3_KEY, AWS_SECRET_ACCESS_KEY: S3_KEY };
  return { url: `s3://${BUCKET}`, env, start };
}

/** A load balancer: a server that refuses the connection is passed over. */
export function openBalancer(addresses: string[]): { address: string } & Disposable {
  let turn = 0;
  async function forward(request: Request): Promise<Response> {
    const { method, headers } = request;
    const body = method === "GET" || method === "HEAD" ? null : await request.arrayBuffer();
    for (const _ of addresses) {
      const url = request.url.replace(/^http:\/\/[^/]*/, `http://${addresses[turn++ % addresses.length]}`);
      try {
        return await fetch(url, { method, headers, body, keepalive: false, redirect: "manual", decompress: false });
      } catch (error) {
        if ((error as { code?: string }).code !== "ECONNREFUSED") break;
      }
    }
    return new Response("no server answers", { status: 502 });
  }
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 0, fetch: forward });
  return { address: `127.0.0.1:${server.port}`, [Symbol.dispose]: () => void server.stop(true) };
}

function freePort(): number {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data: () => {} } });
  server.stop(true);
  return server.port;
}

/** Runs a program to its end. */
function complete(command: string[], cwd: string): void {
  const { exitCode, stderr } = Bun.spawnSync(command, { cwd, stdout: "ignore", stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`${command.join(" ")}: ${stderr.toString().trim()}`);
}
