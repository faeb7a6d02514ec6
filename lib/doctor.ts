// The doctor of every role: a table of checks. Each check is green, yellow or red, and names the command that fixes it.
// A role lists its checks in lib/<role>/doctor.ts; those that roles share are here.

import { X509Certificate } from "node:crypto";
import { existsSync, lstatSync, readFileSync, readdirSync, readlinkSync, statSync, statfsSync } from "node:fs";
import { userInfo } from "node:os";
import { join } from "node:path";
import { HttpError, openClient } from "./client.ts";
import { ConfigError, type Listen, listenAddress } from "./config.ts";
import { NO_JUDGE, unwritable } from "./config/access.ts";
import type { Connection } from "./guard.ts";
import { nearestFolder } from "./files.ts";
import { inboxPlace } from "./inbox-place.ts";
import { errorChain } from "./log.ts";
import type { Notify } from "./outbox.ts";
import { outputOf } from "./program.ts";
import type { Command, CommandContext } from "./service.ts";
import { duration, printable, printableLines } from "./text.ts";

export type State = "green" | "yellow" | "red";

export interface Check {
  name: string;
  state: State;
  detail: string;
  /** The command that fixes it. */
  fix?: string;
}

const GIB = 1 << 30;
/** With less than this part of its blocks or inodes free, a file system is nearly full. */
const SCARCE = 0.03;
const DAY_MS = 86_400_000;
/** A certificate that expires within this time is to be renewed. */
const RENEW_MS = 14 * DAY_MS;
/** How long a file system may take to answer. */
const ANSWER_MS = 5000;
const CLOCK_YELLOW_MS = 30_000;
const CLOCK_RED_MS = 300_000;
const EXIT: Record<State, number> = { green: 0, yellow: 1, red: 2 };

export const green = (name: string, detail: string): Check => ({ name, state: "green", detail });
export const yellow = (name: string, detail: string, fix: string): Check => ({ name, state: "yellow", detail, fix });
export const red = (name: string, detail: string, fix: string): Check => ({ name, state: "red", detail, fix });

export function overall(checks: readonly Check[]): State {
  return (["red", "yellow"] as const).find((one) => checks.some(({ state }) => state === one)) ?? "green";
}

/** The command `doctor` of a role. `folders` are those that it reads and writes, `examine` gives the checks of a valid configuration. */
export function doctorCommand<C>(
  role: string,
  folders: (config: C) => string[],
  examine: (config: C, context: CommandContext<C>) => Promise<Check[]>,
): Command<C> {
  return {
    summary: `check the ${role}: configuration, folders, clock, service, and what it works with`,
    usage: `usage: picket-${role} doctor [--json]

Exit code 0 all green, 1 a yellow check, 2 a red check or an invalid configuration.

example: picket-${role} doctor`,
    async run(context) {
      const checks = await examined();
      if (context.args["json"]) context.print(JSON.stringify({ state: overall(checks), checks }));
      else context.print(table(checks));
      return EXIT[overall(checks)];

      async function examined(): Promise<Check[]> {
        const config = await context.loadConfig().catch((error: unknown) => {
          if (error instanceof ConfigError) return null;
          throw error;
        });
        if (config === null) return [...(await configuration(role, context)), ...(await unit(role))];
        const asked = folders(config);
        return unlessDead(asked, async () => {
          const valid = await configuration(role, context);
          try {
            return [...valid, ...(await examine(config, context))];
          } catch (error) {
            const { path } = error as NodeJS.ErrnoException;
            const broken = red("doctor", errorChain(error), path ? `ls -ld ${path}` : `picket-${role} --check`);
            return [...valid, ...space(asked), ...rights(role, asked), broken];
          }
        });
      }
    },
  };
}

/**
 * The checks, or only which of these folders lie on a file system that doesn't answer: a look at such a folder never ends. A thread that
 * waits for a dead server can't be ended either, so another program asks, and is left alone.
 */
export async function unlessDead(folders: readonly string[], checks: () => Promise<Check[]>): Promise<Check[]> {
  const asked = folders.map(async (folder) => {
    const answer = outputOf(["stat", "-f", "--", folder], 2 * ANSWER_MS);
    if ((await Promise.race([answer, Bun.sleep(ANSWER_MS)])) !== undefined) return [];
    const detail = `its file system has not answered for ${ANSWER_MS / 1000} s: a server that is gone?`;
    return [red(`space ${folder}`, detail, `umount -l ${mountPoint(folder)}, and mount it again`)];
  });
  const dead = (await Promise.all(asked)).flat();
  return dead.length > 0 ? dead : checks();
}

/** Where the file system of a folder is mounted, as its path says. */
function mountPoint(folder: string): string {
  const points = Array.from(readFileSync("/proc/self/mounts", "utf8").matchAll(/^\S+ (\S+)/gm), ([, point]) => point!);
  const above = points.filter((point) => `${folder}/`.startsWith(`${point}/`));
  return above.toSorted((a, b) => a.length - b.length).at(-1) ?? folder;
}

/** What `--check` says: as the account of the service where root asks. */
async function configuration(role: string, { check }: Pick<CommandContext<unknown>, "check">): Promise<Check[]> {
  const name = "configuration";
  const { code, said } = await check();
  const [warning, error] = [`picket-${role}: warning: `, `picket-${role}: error: `];
  const warnings = said.filter((line) => line.startsWith(warning)).map((line) => line.slice(warning.length));
  const yellows = warnings.map((line) => yellow(name, line, `picket-${role} --check`));
  if (code === 0) return [green(name, said.find((line) => line.startsWith("checked as")) ?? "valid"), ...yellows];
  const problems = said.filter((line) => !line.startsWith(`picket-${role}: `) && !line.startsWith("hint: "));
  const whole = said.map((line) => line.replace(error, "")).join("; ");
  const reds = (problems.length > 0 ? problems : [whole]).map((line) =>
    red(name, line, `picket-${role} --check, and picket-${role} example`),
  );
  return [...reds, ...yellows];
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
      const there = nearestFolder(folder);
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
  const fix = `systemctl edit picket-${role} (ReadWritePaths), or chown`;
  const bad = folders.flatMap((folder) => {
    const why = unwritable(folder, NO_JUDGE);
    return why === null ? [] : [red(`rights ${folder}`, why, fix)];
  });
  return bad.length > 0 ? bad : [green("rights", `${folders.join(", ")}: writable`)];
}

/** How far this clock is ahead of another one, in milliseconds. */
export function clock(ahead: number, whose: string): Check {
  const off = Math.abs(ahead);
  const detail = off < 2000 ? `agrees with ${whose}` : `${duration(off)} ${ahead > 0 ? "ahead of" : "behind"} ${whose}`;
  if (off < CLOCK_YELLOW_MS) return green("clock", detail);
  return (off < CLOCK_RED_MS ? yellow : red)("clock", detail, "timedatectl set-ntp true");
}

/** Whether this clock is synchronised, and not behind what was stored last (milliseconds since 1970). */
async function ownClock(newest: number | null): Promise<Check[]> {
  const ahead = (newest ?? 0) - Date.now();
  if (ahead > CLOCK_RED_MS) {
    const detail = `the newest data is ${duration(ahead)} ahead of it: it is behind, or was ahead`;
    return [red("clock", detail, "timedatectl set-ntp true")];
  }
  const synchronised = (await outputOf(["timedatectl", "show", "-P", "NTPSynchronized"]))?.trim();
  if (synchronised === "no") return [yellow("clock", "is not synchronised", "timedatectl set-ntp true")];
  return synchronised === "yes" ? [green("clock", "is synchronised")] : [];
}

function certificates(role: string, { tls }: Pick<Connection, "tls">): Check[] {
  const files = tls ? [tls.cert_file, ...(tls.client_ca_file === undefined ? [] : [tls.client_ca_file])] : [];
  return files.map((file) => {
    const name = `certificate ${file}`;
    const fix = `renew it, then: systemctl reload picket-${role}`;
    try {
      const blocks = readFileSync(file, "utf8").match(/-----BEGIN CERT[^]*?-----END CERT[^\n]*/g) ?? [];
      const left = Math.min(...blocks.map((pem) => Date.parse(new X509Certificate(pem).validTo))) - Date.now();
      if (left <= 0) return red(name, `expired ${duration(-left)} ago`, fix);
      return left < RENEW_MS
        ? yellow(name, `expires in ${duration(left)}`, fix)
        : green(name, `expires in ${duration(left)}`);
    } catch (error) {
      return red(name, errorChain(error), `openssl x509 -noout -dates -in ${file}`);
    }
  });
}

/** Files in a folder that belong to another account than the folder, such as those of a copy that root made. */
function owners(folder: string): Check[] {
  if (!existsSync(folder)) return [];
  const { uid } = statSync(folder);
  const strange = readdirSync(folder)
    .toSorted()
    .filter((name) => {
      const stats = lstatSync(join(folder, name), { throwIfNoEntry: false });
      return stats && !stats.isSymbolicLink() && stats.uid !== uid;
    });
  if (strange.length === 0) return [];
  const detail = `files of another account than the folder's: ${strange.slice(0, 5).join(", ")}`;
  return [red(`owner ${folder}`, detail, `chown -R --reference=${folder} ${folder}`)];
}

/** A role that listens, as it is configured. */
interface Listener extends Pick<Connection, "auth" | "tls"> {
  /** Undefined where it doesn't listen. */
  listen: Listen | undefined;
  /** Where it writes. */
  folders: readonly string[];
  /** Folders whose files all belong to one account. */
  owned: readonly string[];
  /** The time of its newest data, in milliseconds since 1970. */
  newest: number | null;
  /** The file that the daemon locks for its folder. */
  lock: string | null;
}

/** The checks of each role that listens, and the figures of the running daemon. */
export async function examineListener(role: string, listener: Listener): Promise<Asked> {
  const { folders, owned, newest, listen } = listener;
  const { checks, figures } = listen ? await daemon(role, { ...listener, listen }) : { checks: [], figures: {} };
  const all = [
    ...space(folders),
    ...rights(role, folders),
    ...owned.flatMap(owners),
    ...certificates(role, listener),
    ...(await ownClock(newest)),
    ...(await unit(role)),
    ...checks,
  ];
  return { checks: all, figures };
}

interface Asked {
  checks: Check[];
  figures: Record<string, unknown>;
}

/** Asks the running daemon for its figures. */
async function daemon(role: string, { listen, auth, tls, lock }: Listener & { listen: Listen }): Promise<Asked> {
  const name = "daemon";
  const answer = (check: Check, figures = {}): Asked => ({ checks: [check], figures });
  if (tls?.client_ca_file !== undefined || listen.port === 0) {
    return answer(green(name, `${String(listen)} is not asked: it wants a client certificate, or has no fixed port`));
  }
  const host = { "0.0.0.0": "127.0.0.1", "::": "::1" }[listen.host] ?? listen.host;
  const url = `${tls ? "https" : "http"}://${String(listenAddress(host, listen.port))}`;
  const [token] = auth.token;
  try {
    const client = openClient({
      url,
      ...(token ? { headers: { authorization: `Bearer ${token.reveal()}` }, secrets: [token] } : {}),
      ...(tls ? { fingerprint: new X509Certificate(readFileSync(tls.cert_file)).fingerprint256 } : {}),
      timeoutMs: 5000,
      largestAnswer: 1 << 20,
    });
    const { body } = await client.ask({ path: "/health", what: "health" });
    return answer(green(name, `${url} works`), body);
  } catch (error) {
    const text = errorChain(error);
    if (error instanceof HttpError && error.status === 503) {
      const { problem, error: what } = error.body;
      const why = [problem, what].find((one) => typeof one === "string");
      return answer(red(name, why ?? text, `journalctl -u picket-${role} -n 50`), error.body);
    }
    if (error instanceof HttpError) return answer(yellow(name, `${url}: ${text}`, `curl -i ${url}/health`));
    const why = text.includes("ECONNREFUSED") ? `nothing listens on ${String(listen)}` : text;
    const holder = lock === null ? null : holderOf(lock);
    const other = holder === null ? "" : `; process ${holder} uses its folder`;
    return answer(red(name, `${why}${other}`, `systemctl restart picket-${role}`));
  }
}

/** The process that holds the lock of a file (flock(2)); null without one. */
function holderOf(file: string): string | null {
  const inode = statSync(file, { throwIfNoEntry: false })?.ino;
  const locks = inode === undefined || !existsSync("/proc/locks") ? "" : readFileSync("/proc/locks", "utf8");
  return new RegExp(`FLOCK .* (\\d+) \\S+:${inode} `).exec(locks)?.[1] ?? null;
}

/** Whether an inbox gets what a role has to say. */
export async function notifies(role: string, what: string, notify?: Notify): Promise<Check> {
  if (!notify) return yellow("notify", `no inbox gets the ${what}`, `picket-${role} example (notify)`);
  const { dir, database } = inboxPlace(notify);
  const problem = (await database?.problem()) ?? null;
  await database?.close();
  if (problem !== null) return red("notify", problem, "look into the database's log, and at notify.inbox");
  return green("notify", `${what} go to ${notify.recipient} in ${database?.url ?? dir}`);
}

export const ago = (at: number): string => `${duration(Date.now() - at)} ago`;

/** The role's services: the system's and this user's. */
export async function unit(role: string): Promise<Check[]> {
  const checks = [await unitOf(role, "system"), await unitOf(role, "user")].filter((check) => check !== null);
  if (checks.length === 2 && checks.every(({ detail }) => !detail.startsWith("is "))) {
    const fix = `systemctl --user disable --now picket-${role}`;
    checks.push(yellow("units", "a system service and a user service run", fix));
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
  const says = field("StatusText") === "" ? "" : `: ${field("StatusText")}`;
  const fails = active === "failed" && status !== "0" ? ` (exit code ${status})` : "";
  if (active !== "active" && active !== "reloading")
    return red(name, `is ${active}${fails}`, run(`restart picket-${role}`));
  if (/old configuration|restart needed/i.test(field("StatusText")))
    return yellow(name, `active${says}`, `picket-${role} --check`);
  if (isReplaced(field("MainPID")))
    return yellow(name, "runs a program that was replaced", run(`restart picket-${role}`));
  if (field("NeedDaemonReload") === "yes") return yellow(name, "its unit file has changed", run("daemon-reload"));
  if (enabled === "enabled" && scope === "user" && (await isBoundToLogin()))
    return yellow(name, "active, but it starts when you log in, and stops when you log out", "loginctl enable-linger");
  if (enabled === "enabled") return green(name, `active, starts at boot${says}`);
  return yellow(name, `active, but ${enabled}`, run(`enable picket-${role}`));
}

/** Whether this user's services end with the last session; false where logind doesn't say. */
async function isBoundToLogin(): Promise<boolean> {
  const said = await outputOf(["loginctl", "show-user", userInfo().username, "--property=Linger", "--value"]);
  return said?.trim() === "no";
}

/** Whether the file that a process runs was replaced; false where this user may not know. */
function isReplaced(pid: string): boolean {
  try {
    return readlinkSync(`/proc/${pid}/exe`).endsWith(" (deleted)");
  } catch {
    return false;
  }
}
