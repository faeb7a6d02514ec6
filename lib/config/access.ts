// Whether the account that judges a configuration may read a file, or write to a folder, and what allows it. A service sees
// less than root: its own account's rights, and what the sandbox of its unit leaves.

import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { dirname } from "node:path";
import { nearestFolder } from "../files.ts";

export interface Judge {
  role: string;
  /** The role's service, or a check as it would see it: then the command that allows a thing is named. */
  service: boolean;
  /** `--check` of what will run: folders are judged, too. A running daemon waits for those that are absent. */
  folders: boolean;
}

const WRITE = constants.W_OK | constants.X_OK;

export const NO_JUDGE: Judge = { role: "", service: false, folders: false };

/** Why a file can't be read, after the error `code`, and what allows it. */
export function unreadable(path: string, code: string, judge: Judge): string {
  if (judge.service && mountOf(path).hides) return `is hidden from the service${remedy(path, "read", judge)}`;
  if (code === "ENOENT" || code === "ENOTDIR") return "does not exist";
  return `cannot be read: ${code}${isDenied(code) ? remedy(path, "read", judge) : ""}`;
}

/** Why a folder, which the role makes where it is absent, can't be written to, and what allows it; null when it can. */
export function unwritable(folder: string, judge: Judge): string | null {
  if (judge.service && mountOf(folder).hides) return `is hidden from the service${remedy(folder, "write", judge)}`;
  const code = denial(nearestFolder(folder), WRITE);
  return code && `cannot be written to: ${code}${isDenied(code) ? remedy(folder, "write", judge) : ""}`;
}

/** Why access(2) refuses, as an error code; null when it doesn't. */
export function denial(path: string, mode: number): string | null {
  try {
    accessSync(path, mode);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? "unknown error";
  }
}

function isDenied(code: string): boolean {
  return code === "EACCES" || code === "EPERM" || code === "EROFS";
}

/** The commands that let the service in; empty for other accounts. */
function remedy(path: string, wanted: "read" | "write", { role, service }: Judge): string {
  // Not for this account: the service's.
  if (!service) return path.startsWith("/etc/picket/") ? `: sudo picket-${role} --check checks as the service` : "";
  const account = ownAccount();
  const { hides, readOnly } = mountOf(path);
  const commands: string[] = [];
  const settings: string[] = [];
  const absent = wanted === "write" && !hides && !existsSync(path);
  const closed = hides ? null : firstClosed(dirname(path));
  if (closed !== null) commands.push(`chmod o+x ${closed}`);
  else if (absent && account !== null) commands.push(`install -d -o ${account} ${path}`);
  else if (!hides && !may(path, wanted)) {
    if (account === "root") settings.push("CapabilityBoundingSet=CAP_DAC_OVERRIDE");
    else if (account !== null) commands.push(`chown ${account} ${path}`);
    else if (wanted === "read") settings.push(`LoadCredential=NAME:${path}`);
    else commands.push("take a folder below /var/lib, with StateDirectory=");
  }
  if (hides && /^\/(home|root|run\/user)\//.test(path)) settings.push("ProtectHome=tmpfs");
  if (hides) settings.push(`${wanted === "read" ? "BindReadOnlyPaths" : "BindPaths"}=${path}`);
  else if (wanted === "write" && readOnly) settings.push(`ReadWritePaths=${path}`);
  const lines = ["[Service]", ...settings].map((line) => `"${line}"`).join(", ");
  if (settings.length > 0) commands.push(`systemctl edit picket-${role}, with the lines ${lines}`);
  return commands.map((command, index) => `${index === 0 ? ":" : "; then"} ${command}`).join("");
}

/** Whether the mode of a path, or of the folder that it would be made in, allows it. */
function may(path: string, wanted: "read" | "write"): boolean {
  const code = wanted === "read" ? denial(path, constants.R_OK) : denial(nearestFolder(path), WRITE);
  // access(2) looks at the mode first, then whether the mount is read-only.
  return code === null || code === "EROFS";
}

/** The first folder on the way to this one, itself included, that this account may not search. */
function firstClosed(folder: string): string | null {
  const above = dirname(folder) === folder ? null : firstClosed(dirname(folder));
  return above ?? (denial(folder, constants.X_OK) === "EACCES" ? folder : null);
}

/** The mount that a path is on: whether it is read-only, and whether it hides what others see there (ProtectHome=, PrivateTmp=, InaccessiblePaths=). */
function mountOf(path: string): { readOnly: boolean; hides: boolean } {
  const mounts = readFileSync("/proc/self/mountinfo", "utf8").trimEnd().split("\n");
  const [, , , root = "", point = "", options = "", ...more] = mounts
    .map((line) => line.split(" "))
    .filter(([, , , , point = ""]) => path === point || path.startsWith(point === "/" ? point : `${point}/`))
    .reduce((last, next) => (next[4]!.length >= (last[4]?.length ?? 0) ? next : last), []);
  const overHome = /^\/(home|root|run\/user)$/.test(point) && more.includes("tmpfs");
  const hides = overHome || /\/systemd\/inaccessible\/|\/systemd-private-/.test(root);
  return { readOnly: options.split(",").includes("ro"), hides };
}

/** This account's name; null for one of DynamicUser=, which can own nothing that lasts. */
export function ownAccount(): string | null {
  const uid = String(process.getuid?.());
  return accounts().find(([, , id]) => id === uid)?.[0] ?? null;
}

/** The fields of each line of /etc/passwd, passwd(5). */
export function accounts(): string[][] {
  const lines = readFileSync("/etc/passwd", "utf8").split("\n");
  return lines.map((line) => line.split(":"));
}
