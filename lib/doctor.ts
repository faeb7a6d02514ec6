// The doctor of every role: a table of checks. Each check is green, yellow or red, and names the command that fixes it.
// A role lists its checks in lib/<role>/doctor.ts; those that roles share are here.

import { accessSync, constants, existsSync, readlinkSync, statSync, statfsSync } from "node:fs";
import { dirname } from "node:path";
import { ConfigError } from "./config.ts";
import { errorChain } from "./log.ts";
import { outputOf } from "./program.ts";
import type { Command, CommandContext } from "./service.ts";
import { duration, printable, printableLines } from "./text.ts";

export type State = "green" | "yellow" | "red";

/** One check. */
export interface Check {
  name: string;
  state: State;
  /** What was found. */
  detail: string;
  /** The command that fixes it. */
  fix?: string;
}

const GIB = 1 << 30;
/** With less than this part of its blocks or inodes free, a file system is nearly full. */
const SCARCE = 0.03;
const CLOCK_YELLOW_MS = 30_000;
const CLOCK_RED_MS = 300_000;
const EXIT: Record<State, number> = { green: 0, yellow: 1, red: 2 };

export const green = (name: string, detail: string): Check => ({ name, state: "green", detail });
export const yellow = (name: string, detail: string, fix: string): Check => ({ name, state: "yellow", detail, fix });
export const red = (name: string, detail: string, fix: string): Check => ({ name, state: "red", detail, fix });

/** The most severe state. */
export function overall(checks: readonly Check[]): State {
  if (checks.some(({ state }) => state === "red")) return "red";
  return checks.some(({ state }) => state === "yellow") ? "yellow" : "green";
}

/** The command `doctor` of a role. `examine` gives the checks of a valid configuration. */
export function doctorCommand<C>(
  role: string,
  examine: (config: C, context: CommandContext<C>) => Promise<Check[]>,
): Command<C> {
  return {
    summary: `check the ${role}: configuration, folders, clock, service, and what it works with`,
    usage: `usage: picket-${role} doctor [--json]

Exit code 0 all green, 1 a yellow check, 2 a red check or an invalid configuration.

example: picket-${role} doctor`,
    options: { json: { type: "boolean" } },
    async run(context) {
      const examined = async (): Promise<Check[]> => {
        const config = await context.loadConfig();
        return [green("configuration", "valid"), ...(await examine(config, context))];
      };
      const checks = await examined().catch((error: unknown) => misconfigured(role, error));
      if (context.args["json"]) context.print(JSON.stringify({ state: overall(checks), checks }));
      else context.print(table(checks));
      return EXIT[overall(checks)];
    },
  };
}

/** The checks of an invalid configuration: one for each error. */
function misconfigured(role: string, error: unknown): Check[] {
  if (!(error instanceof ConfigError)) return [red("doctor", errorChain(error), `picket-${role} --check`)];
  const fix = `picket-${role} --check, and picket-${role} example`;
  return error.problems.map((problem) => red("configuration", problem, fix));
}

function table(checks: readonly Check[]): string {
  const width = Math.max(...checks.map(({ name }) => name.length));
  const lines = checks.flatMap(({ name, state, detail, fix }) => [
    printable(`${state.padEnd(6)}  ${name.padEnd(width)}  ${detail}`),
    // A fix may be several lines, to be pasted.
    ...(fix ? [printableLines(`${" ".repeat(width + 10)}fix: ${fix}`)] : []),
  ]);
  return lines.join("\n");
}

/** Free space and inodes below these folders, one check for each file system. */
export function space(folders: readonly string[]): Check[] {
  const seen = new Set<number>();
  return folders.flatMap((folder) => {
    const name = `space ${folder}`;
    try {
      const there = existing(folder);
      const { dev } = statSync(there);
      if (seen.has(dev)) return [];
      seen.add(dev);
      const { bavail, blocks, frsize, files, ffree } = statfsSync(there);
      const free = bavail * frsize;
      // btrfs and others have no fixed number of inodes, and give 0.
      const inodes = files > 0 ? ffree / files : 1;
      const detail = `${(free / GIB).toFixed(1)} GiB and ${Math.floor(inodes * 100)} % of the inodes free`;
      if (free >= GIB && bavail / blocks >= SCARCE && inodes >= SCARCE) return [green(name, detail)];
      const fix = inodes < SCARCE ? `df -i ${there}` : `df -h ${there}`;
      return [(free < GIB / 10 || inodes < SCARCE / 10 ? red : yellow)(name, detail, fix)];
    } catch (error) {
      return [red(name, errorChain(error), `ls -ld ${folder}`)];
    }
  });
}

/** Whether the folders can be written to, or made. */
export function rights(role: string, folders: readonly string[]): Check[] {
  const bad = folders.flatMap((folder) => {
    try {
      accessSync(existing(folder), constants.W_OK | constants.X_OK);
      return [];
    } catch (error) {
      const fix = `systemctl edit picket-${role} (ReadWritePaths), or chown`;
      return [red(`rights ${folder}`, errorChain(error), fix)];
    }
  });
  return bad.length > 0 ? bad : [green("rights", `${folders.length} folders are writable`)];
}

/** The folder, or the nearest one above it that exists. */
function existing(folder: string): string {
  return existsSync(folder) || dirname(folder) === folder ? folder : existing(dirname(folder));
}

/** How far this clock is ahead of another one, in milliseconds. */
export function clock(ahead: number, whose: string): Check {
  const off = Math.abs(ahead);
  const detail = off < 2000 ? `agrees with ${whose}` : `${duration(off)} ${ahead > 0 ? "ahead of" : "behind"} ${whose}`;
  if (off < CLOCK_YELLOW_MS) return green("clock", detail);
  return (off < CLOCK_RED_MS ? yellow : red)("clock", detail, "timedatectl set-ntp true");
}

/** The role's services: the system's and this user's. */
export async function unit(role: string): Promise<Check[]> {
  const checks: Check[] = [];
  for (const scope of ["system", "user"] as const) {
    const check = await unitOf(role, scope);
    if (check) checks.push(check);
  }
  return checks.length > 0 ? checks : [green("unit", "not installed as a systemd service")];
}

const PROPERTIES = "LoadState,ActiveState,UnitFileState,ExecMainStatus,NeedDaemonReload,StatusText,MainPID";

async function unitOf(role: string, scope: "system" | "user"): Promise<Check | null> {
  const systemctl = ["systemctl", `--${scope}`];
  const said = (await outputOf([...systemctl, "show", `picket-${role}.service`, "-p", PROPERTIES])) ?? "";
  const field = (key: string) => new RegExp(`^${key}=(.*)$`, "m").exec(said)?.[1] ?? "";
  if (field("LoadState") !== "loaded") return null;
  const name = scope === "system" ? "unit" : "user unit";
  const run = (verb: string) => `${scope === "system" ? "systemctl" : "systemctl --user"} ${verb}`;
  const [active, enabled, status] = [field("ActiveState"), field("UnitFileState"), field("ExecMainStatus")];
  const fails = active === "failed" && status !== "0" ? ` (exit code ${status})` : "";
  if (active !== "active" && active !== "reloading")
    return red(name, `is ${active}${fails}`, run(`restart picket-${role}`));
  if (/old configuration|restart needed/i.test(field("StatusText")))
    return yellow(name, field("StatusText"), `picket-${role} --check`);
  if (isReplaced(field("MainPID")))
    return yellow(name, "runs a program that was replaced", run(`restart picket-${role}`));
  if (field("NeedDaemonReload") === "yes") return yellow(name, "its unit file has changed", run("daemon-reload"));
  if (enabled === "enabled") return green(name, "active, starts at boot");
  return yellow(name, `active, but ${enabled}`, run(`enable picket-${role}`));
}

/** Whether the file that a process runs was replaced; false where this user may not know. */
function isReplaced(pid: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/exe`).endsWith(" (deleted)");
  } catch {
    return false;
  }
}
