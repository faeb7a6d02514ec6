// `--check` as root, of what an installed system service will run: root reads and writes what the service may not. The same check runs
// again as the account of the unit and in its sandbox: as a one-shot unit with the [Service] lines of the installed one, drop-ins
// included. Without a running systemd it runs as the account alone.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { accounts } from "./config/access.ts";
import { print } from "./exit.ts";
import { writeStderr } from "./log.ts";
import { outputOf } from "./program.ts";
import { isService } from "./systemd.ts";
import { quoteForUnit } from "./unit.ts";

/** Where unit files lie that no systemd reads just now: an image, a container. */
const UNIT_FOLDERS = [
  "/etc/systemd/system",
  "/usr/local/lib/systemd/system",
  "/usr/lib/systemd/system",
  "/lib/systemd/system",
];
const RUNTIME_UNITS = "/run/systemd/system";
/** How long a check may take; it also waits for a machine that is busy. */
const CHECK_SECONDS = 60;

interface Asked {
  role: string;
  /** The words that start this program, and `--check` with its flags but `--config`. */
  command: string[];
  config: string | undefined;
}

/** Checks what the installed service of a role will run, and prints the result. Gives its exit code; null when that isn't what is asked for. */
export async function checkAsService({ role, command, config }: Asked): Promise<number | null> {
  if (process.getuid?.() !== 0 || isService()) return null;
  const unit = await installed(role);
  if (unit === null) return null;
  const [, own] = /^ExecStart=.*\s--config[= ]"?([^\s"]+)/m.exec(unit.text) ?? [];
  if (config !== undefined && !isSame(config, own ?? `/etc/picket/${role}.yaml`)) return null;
  const words = [...command, ...(own === undefined ? [] : ["--config", own])];
  return unit.isLive ? inUnit(role, unit.text, words) : asAccount(unit.text, words);
}

/** The unit's text with its drop-ins, and whether a systemd runs that knows it. */
async function installed(role: string): Promise<{ text: string; isLive: boolean } | null> {
  const name = `picket-${role}.service`;
  if (existsSync(RUNTIME_UNITS)) {
    const text = (await outputOf(["systemctl", "cat", name])) ?? "";
    return text === "" ? null : { text, isLive: true };
  }
  const file = UNIT_FOLDERS.map((folder) => join(folder, name)).find((path) => existsSync(path));
  return file === undefined ? null : { text: readFileSync(file, "utf8"), isLive: false };
}

function isSame(file: string, other: string): boolean {
  try {
    return realpathSync(file) === realpathSync(other);
  } catch {
    return false;
  }
}

/** Runs the words as a one-shot unit that has the service's account, environment, credentials and sandbox. */
async function inUnit(role: string, text: string, words: string[]): Promise<number> {
  const name = `picket-${role}-check-${process.pid}.service`;
  const folder = mkdtempSync("/run/picket-check-");
  const [out, err] = [join(folder, "out"), join(folder, "err")];
  // An account of DynamicUser= is named after the unit: the state folder must stay that of the service.
  const user = (await outputOf(["systemctl", "show", "--value", "-p", "User", `picket-${role}.service`]))?.trim();
  const reset = ["Condition", "StartPre", "Start", "StartPost", "Reload", "Stop", "StopPost"].map(
    (key) => `Exec${key}=`,
  );
  const lines = [
    `[Unit]\nDescription=Check of the configuration of picket-${role}`,
    ...serviceLines(text),
    ...reset,
    `Type=oneshot\nRemainAfterExit=no\nRestart=no\nWatchdogSec=0\nTimeoutStartSec=${CHECK_SECONDS}\nRuntimeDirectoryPreserve=yes`,
    ...(user ? [`User=${user}`] : []),
    `StandardInput=null\nStandardOutput=file:${out}\nStandardError=file:${err}`,
    `ExecStart=${words.map((word, index) => quoteForUnit(word, index === 0)).join(" ")}\n`,
  ];
  mkdirSync(RUNTIME_UNITS, { recursive: true });
  const path = join(RUNTIME_UNITS, name);
  try {
    writeFileSync(path, lines.join("\n"));
    await outputOf(["systemctl", "start", name], CHECK_SECONDS * 1000);
    const code = Number(await outputOf(["systemctl", "show", "--value", "-p", "ExecMainStatus", name]));
    const read = (file: string) => (existsSync(file) ? readFileSync(file, "utf8").trimEnd() : "");
    const [result, errors] = [read(out), read(err)];
    if (result === "" && errors === "") {
      writeStderr(await whyNotStarted(role, name));
      return 78;
    }
    if (errors !== "") writeStderr(errors);
    if (result !== "") print(result);
    if (code === 0) writeStderr(`checked as ${user || "root"}, in the sandbox of picket-${role}.service`);
    return code;
  } finally {
    rmSync(path, { force: true });
    rmSync(folder, { recursive: true });
    await outputOf(["systemctl", "reset-failed", name]);
  }
}

function serviceLines(text: string): string[] {
  let section = "";
  return text.split("\n").filter((line) => {
    if (/^\[.*\]$/.test(line)) section = line;
    return section === "[Service]";
  });
}

/** systemd's own words: a path in ReadWritePaths= that doesn't exist, an account that is unknown, a program that the unit can't run. */
async function whyNotStarted(role: string, name: string): Promise<string> {
  const said = await outputOf(["journalctl", "-q", "-o", "cat", "--no-pager", "-u", name, "-p", "warning"]);
  return `picket-${role}: error: the unit can't start\n${(said ?? "").trimEnd()}\nhint: systemctl cat picket-${role}`;
}

/** Runs the words as the account of the unit. */
async function asAccount(text: string, words: string[]): Promise<number | null> {
  const setting = (key: string) => new RegExp(`^${key}=(\\S+)`, "m").exec(text)?.[1];
  const account = setting("User") ?? "root";
  const entry = accounts().find(([name]) => name === account);
  if (account === "root" || entry === undefined) return null;
  const [, , uid = "", gid = "", , home = "/"] = entry;
  const state = setting("StateDirectory");
  const child = Bun.spawn(["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--init-groups", ...words], {
    env: {
      PATH: process.env["PATH"],
      HOME: home,
      INVOCATION_ID: "check", // see isService
      ...(state === undefined ? {} : { STATE_DIRECTORY: `/var/lib/${state}` }),
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
  const code = await child.exited;
  if (code === 0) writeStderr(`checked as ${account}`);
  return code;
}
