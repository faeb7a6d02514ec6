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
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PICKET_")));
  let ending = false;

  const at = (name: string): string => join(folder, name);
  const log = (role: string): string => textOf(at(`${role}.log`)) ?? "";

  async function until(what: string, condition: () => boolean): Promise<void> {
    for (const end = performance.now() + WAIT_SECONDS * 1000; !condition(); await Bun.sleep(20)) {
      if (performance.now() < end) continue;
      const logs = [...daemons.keys()].map(log).join("");
      throw new Error(`waited ${WAIT_SECONDS} s in vain until ${what}\n${logs}`);
    }
  }

  function spawn(role: string, config: string[]): Subprocess {
    if (ending) throw new Error("the demonstration ends");
    writeFileSync(at(`${role}.yaml`), `${config.join("\n")}\n`);
    const child = Bun.spawn([...ownCommand(), role, "--config", at(`${role}.yaml`)], {
      env,
      stdio: ["ignore", "ignore", Bun.file(at(`${role}.log`))],
    });
    daemons.set(role, child);
    console.log(config.map((line) => `   ${line.replace(/pk_\w+/, "pk_…")}`).join("\n"));
    return child;
  }

  /** Starts a daemon on its own port, or on a free one if that is taken; returns its address. */
  async function daemon(role: string, port: number, config: (listen: string) => string[]): Promise<string> {
    const ready = () => / ready listen=(\S+)/.exec(log(role))?.[1];
    for (const one of [port, 0]) {
      const child = spawn(role, config(`127.0.0.1:${one}`));
      await until(`the ${role} is ready`, () => ready() !== undefined || child.exitCode !== null);
      const address = ready();
      if (address === undefined) continue;
      console.log(`   running, listening on ${address}`);
      return address;
    }
    throw new Error(`the ${role} did not start:\n${log(role)}`);
  }

  /** Runs a command of a role to its end; returns what it printed. */
  async function run(role: string, ...args: string[]): Promise<string> {
    const command = [...ownCommand(), role, ...args, "--config", at(`${role}.yaml`)];
    const child = Bun.spawn(command, { env, stdio: ["ignore", "pipe", "inherit"] });
    const said = await new Response(child.stdout).text();
    if ((await child.exited) !== 0) throw new Error(`picket ${role} ${args.join(" ")} ended with ${child.exitCode}`);
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
    log,
    until,
    spawn,
    daemon,
    run,
    admin,
    ended,
    /** Runs a command and shows it with its output. */
    async show(role: string, ...args: string[]): Promise<string> {
      console.log(`$ picket ${role} ${args.join(" ")}`);
      const said = await run(role, ...args);
      console.log(said.trimEnd());
      return said;
    },
    async end(): Promise<void> {
      ending = true;
      for (const daemon of daemons.values()) daemon.kill();
      await ended();
      for (const command of undo) Bun.spawnSync(command);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

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
