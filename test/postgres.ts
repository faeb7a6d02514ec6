// A PostgreSQL server for tests: Debian's, with its data in a temporary folder, as the user postgres.

import { chownSync, existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort, until } from "./kit.ts";

const ROOT = "/usr/lib/postgresql";

/** The folder of the server's programs; null (said) where there are none. */
export function postgresPrograms(test: string): string | null {
  const [newest] = (existsSync(ROOT) ? readdirSync(ROOT) : []).toSorted((a, b) => Number(b) - Number(a));
  const found = newest === undefined ? null : join(ROOT, newest, "bin");
  if (found === null || !existsSync(join(found, "initdb")))
    console.log(`skipped: ${test}: postgresql is not installed`);
  return found !== null && existsSync(join(found, "initdb")) ? found : null;
}

/** Runs one of its programs as a user that may be a server. */
function asPostgres(command: string[], cwd: string): Bun.SyncSubprocess<"pipe", "pipe"> {
  const account = process.getuid?.() === 0 ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
  return Bun.spawnSync([...account, ...command], { cwd, stdout: "pipe", stderr: "pipe" });
}

/** A server on loopback. */
export class Postgres implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "picket-test-postgres-"));
  readonly port: number;
  #programs: string;
  #process: Bun.Subprocess | null = null;
  #settings: Record<string, string> = {};

  private constructor(programs: string, port: number) {
    this.#programs = programs;
    this.port = port;
  }

  /** Makes one and starts it. `settings` are lines of postgresql.conf. */
  static async start(programs: string, settings: Record<string, string> = {}): Promise<Postgres> {
    const server = new Postgres(programs, freePort());
    if (process.getuid?.() === 0) {
      const id = (flag: string): number => Number(Bun.spawnSync(["id", flag, "postgres"]).stdout.toString());
      chownSync(server.folder, id("-u"), id("-g"));
    }
    const data = join(server.folder, "data");
    const made = asPostgres(
      [
        join(programs, "initdb"),
        "-D",
        data,
        "-A",
        "trust",
        "-U",
        "picket",
        "-E",
        "UTF8",
        "--no-sync",
        "--locale=C.UTF-8",
      ],
      server.folder,
    );
    if (made.exitCode !== 0) throw new Error(`initdb: ${made.stderr.toString()}`);
    await server.up(settings);
    return server;
  }

  /** Starts it, also after `down`; settings that are given are added to the former ones. */
  async up(settings: Record<string, string> = {}): Promise<void> {
    Object.assign(this.#settings, settings);
    const account =
      process.getuid?.() === 0 ? ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] : [];
    const all = {
      listen_addresses: "127.0.0.1",
      port: String(this.port),
      unix_socket_directories: this.folder,
      max_connections: "500",
      ...this.#settings,
    };
    const flags = Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
    this.#process = Bun.spawn(
      [...account, join(this.#programs, "postgres"), "-D", join(this.folder, "data"), ...flags],
      {
        cwd: this.folder,
        stdout: "ignore",
        stderr: Bun.file(join(this.folder, "log")),
      },
    );
    await until("postgres answers", () => this.psql("SELECT 1").exitCode === 0);
  }

  /** Its process, which takes SIGQUIT as `immediate`. */
  get pid(): number {
    return this.#process!.pid;
  }

  /** Ends it: `SIGQUIT` is the immediate mode, `SIGINT` the fast one. */
  async down(signal: "SIGQUIT" | "SIGINT" | "SIGTERM" = "SIGINT"): Promise<void> {
    this.#process?.kill(signal);
    await this.#process?.exited;
    this.#process = null;
  }

  /** Lets all of its processes stand still (SIGSTOP), or go on (SIGCONT). */
  signal(signal: "SIGSTOP" | "SIGCONT"): void {
    const children = Bun.spawnSync(["ps", "-o", "pid=", "--ppid", String(this.pid)]).stdout.toString();
    for (const pid of [this.pid, ...children.trim().split(/\s+/).map(Number)]) process.kill(pid, signal);
  }

  /** Ends it at once, for a process that ends. */
  end(): void {
    this.#process?.kill("SIGQUIT");
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Runs statements; tab-separated rows without titles. */
  psql(text: string, database = "postgres"): Bun.SyncSubprocess<"pipe", "pipe"> {
    const command = [
      join(this.#programs, "psql"),
      "-XqAt",
      "-F",
      "\t",
      "-h",
      "127.0.0.1",
      "-p",
      String(this.port),
      "-U",
      "picket",
    ];
    return Bun.spawnSync([...command, "-v", "ON_ERROR_STOP=1", "-d", database], {
      stdin: Buffer.from(text),
      stdout: "pipe",
      stderr: "pipe",
    });
  }

  /** Makes a database, which is empty unless it is a copy of another; gives its address. */
  database(name = `t${crypto.randomUUID().replaceAll("-", "")}`, template = "template1"): string {
    const made = this.psql(`CREATE DATABASE ${name} TEMPLATE ${template}`);
    if (made.exitCode !== 0) throw new Error(made.stderr.toString());
    return `postgres://picket@127.0.0.1:${this.port}/${name}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.down("SIGQUIT");
    rmSync(this.folder, { recursive: true, force: true });
  }
}
