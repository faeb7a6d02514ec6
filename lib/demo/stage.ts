// What a demonstration is played on: a temporary folder with configurations, data and logs, the daemons that run in it, and commands that
// are shown with what they print.

import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { openClient } from "../client.ts";
import { textOf } from "../files.ts";
import { ownCommand } from "../unit.ts";

const WAIT_SECONDS = 30;

export type Stage = ReturnType<typeof openStage>;

/** The temporary folder with its configurations, data and logs, and the daemons that run in it. */
export function openStage() {
  const folder = mkdtempSync(join(tmpdir(), "picket-try."));
  const daemons = new Map<string, Subprocess>();
  const undo: string[][] = [];
  // Settings of your own, such as a real receiver's address and token, are not for the demonstration.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(PICKET_|PG|AWS_|S3_)/.test(name)));
  // Nor are the folders that a role uses where its configuration names none.
  env["STATE_DIRECTORY"] = join(folder, "state");
  let ending = false;

  const at = (name: string): string => join(folder, name);
  const log = (role: string): string => textOf(at(`${role}.log`)) ?? "";

  async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    for (const end = performance.now() + WAIT_SECONDS * 1000; !(await condition()); await Bun.sleep(20)) {
      if (performance.now() < end) continue;
      const logs = [...daemons.keys()].map(log).join("");
      throw new Error(`waited ${WAIT_SECONDS} s in vain until ${what}\n${logs}`);
    }
  }

  /** Starts a program under a name, which its log has, too. */
  function program(name: string, command: string[], own: Record<string, string> = {}): Subprocess {
    if (ending) throw new Error("the demonstration ends");
    const child = Bun.spawn(command, {
      cwd: folder,
      env: { ...env, ...own },
      stdio: ["ignore", "ignore", Bun.file(at(`${name}.log`))],
    });
    daemons.set(name, child);
    return child;
  }

  /** Starts a role: `name` is its own, or with a number behind it. The first of a role shows its configuration. */
  function spawn(name: string, config: string[]): Subprocess {
    const isLike = /-\d+$/.test(name) && (daemons.has(name) || !name.endsWith("-1"));
    writeFileSync(at(`${name}.yaml`), `${config.join("\n")}\n`);
    const child = program(name, [...ownCommand(), roleOf(name), "--config", at(`${name}.yaml`)]);
    if (!isLike) console.log(config.map((line) => `   ${line.replace(/pk_\w+/, "pk_…")}`).join("\n"));
    return child;
  }

  /** Starts a daemon on its own port, or on a free one if that is taken; returns its address. */
  async function daemon(name: string, port: number, config: (listen: string) => string[]): Promise<string> {
    const ready = () => / ready listen=(\S+)/.exec(log(name))?.[1];
    for (const one of [port, 0]) {
      const child = spawn(name, config(`127.0.0.1:${one}`));
      await until(`the ${name} is ready`, () => ready() !== undefined || child.exitCode !== null);
      const address = ready();
      if (address === undefined) continue;
      console.log(`   ${name === roleOf(name) ? "" : `${name} `}running, listening on ${address}`);
      return address;
    }
    throw new Error(`the ${name} did not start:\n${log(name)}`);
  }

  /** Runs a command of a role to its end; returns what it printed. */
  async function run(name: string, ...args: string[]): Promise<string> {
    const command = [...ownCommand(), roleOf(name), ...args, "--config", at(`${name}.yaml`)];
    const child = Bun.spawn(command, { env, stdio: ["ignore", "pipe", "inherit"] });
    const said = await new Response(child.stdout).text();
    if ((await child.exited) !== 0)
      throw new Error(`picket ${roleOf(name)} ${args.join(" ")} ended with ${child.exitCode}`);
    return said;
  }

  /** Does what only root may, and notes how it is undone; false, said, where it can't be done. */
  function admin(command: string[], undoing: string[]): boolean {
    if (ending) throw new Error("the demonstration ends");
    const line = command.join(" ");
    const can = process.getuid?.() === 0 && [command, undoing].every(([program]) => Bun.which(program!) !== null);
    if (!can || Bun.spawnSync(command).exitCode !== 0) {
      console.log(`(not here, it needs root and a system that can: ${line})`);
      return false;
    }
    console.log(`# ${line}`);
    undo.push(undoing);
    return true;
  }

  const ended = (): Promise<unknown> => Promise.all([...daemons.values()].map(({ exited }) => exited));

  /** Adds a line to a running daemon's configuration. */
  async function reload(role: string, line: string): Promise<void> {
    appendFileSync(at(`${role}.yaml`), `${line}\n`);
    console.log(`   ${line}`);
    daemons.get(role)!.kill("SIGHUP");
    await until(`the ${role} is reloaded`, () => log(role).includes("configuration reloaded"));
  }

  return {
    reload,
    at,
    env,
    log,
    until,
    program,
    spawn,
    daemon,
    run,
    admin,
    ended,
    /** Ends a program without a chance to clean up, and waits until it is gone. */
    async kill(name: string, signal: "SIGKILL" | "SIGQUIT" = "SIGKILL"): Promise<void> {
      console.log(`$ kill -${signal.slice(3)} ${name}`);
      const child = daemons.get(name)!;
      child.kill(signal);
      await child.exited;
    },
    /** Runs a command and shows it with its output. */
    async show(name: string, ...args: string[]): Promise<string> {
      console.log(`$ picket ${roleOf(name)} ${args.join(" ")}`);
      const said = await run(name, ...args);
      console.log(said.trimEnd());
      return said;
    },
    async end(): Promise<void> {
      ending = true;
      // What was started last uses what was started before.
      for (const child of [...daemons.values()].toReversed()) {
        child.kill();
        await child.exited;
      }
      for (const command of undo) Bun.spawnSync(command);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** The role of a daemon such as receiver-2. */
const roleOf = (name: string): string => name.replace(/-\d+$/, "");

/** Announces the next step. */
export function step(title: string): void {
  console.log(`\n== ${title}`);
}

/** Posts JSON, and shows it as curl would do it. */
export async function send(url: string, data: unknown, headers: Record<string, string> = {}): Promise<void> {
  const body = JSON.stringify(data);
  const shown = Object.entries(headers).map(([name, value]) => `-H '${name}: ${value}' `);
  console.log(`$ curl ${shown.join("")}-d '${body}' ${url}`);
  const client = openClient({ url, headers, timeoutMs: 10_000, largestAnswer: 1 << 20 });
  const { json, status } = await client.ask({ what: `post to ${url}`, method: "POST", path: "", json: data });
  console.log(`${JSON.stringify(json) ?? ""}   (${status})`);
}

/** The token in what `host add` prints. */
export function tokenIn(text: string): string {
  return /^export PICKET_TOKEN=(\S+)$/m.exec(text)?.[1] ?? "";
}
