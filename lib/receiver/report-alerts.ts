// Alerts of a host's reports: all are refused, or two machines take turns in sending them.

import { cut, duration } from "../text.ts";
import type { Sender } from "./admission.ts";
import { close, raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import type { Host, ReportingHost } from "./hosts.ts";
import { OFFLINE_AFTER } from "./presence.ts";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** The time of a boot is computed from a clock that may be set. */
const SAME_BOOT_MS = 2 * 60_000;

/** `hosts.refused`: since when (running time) every report is refused, when the last was, and why. */
export interface RefusedReports {
  since: number;
  at: number;
  why: string;
}

/** Notes that a report was refused; true where this raised the alert. Also of a host that never reported: it tries to. */
export async function reportRefused(
  tx: Queries,
  sender: Sender,
  { at, ran, why, interval }: Omit<RefusedReports, "since"> & { ran: number; interval: number },
): Promise<boolean> {
  const host = await tx.one<Host>("SELECT * FROM hosts WHERE id = $1 AND archived_at IS NULL", [sender.host]);
  if (!host) return false;
  const since = host.refused === null ? ran : (JSON.parse(host.refused) as RefusedReports).since;
  const refused: RefusedReports = { since, at, why: cut(why, 300) };
  await tx.run("UPDATE hosts SET refused = $1 WHERE id = $2", [JSON.stringify(refused), host.id]);
  const expected = host.told_interval ?? host.set_interval ?? interval;
  if (ran - since < OFFLINE_AFTER * expected * 1000) return false;
  const text = `${host.name}: every report is refused for ${duration(ran - since)}: ${refused.why}`;
  return raise(tx, { host: host.id, type: "host.reports_refused", text, at });
}

/** A report was taken: they are not refused any more. True where that is an event. */
export async function reportsTaken(
  tx: Queries,
  host: ReportingHost,
  { at, ran }: { at: number; ran: number },
): Promise<boolean> {
  if (host.refused === null) return false;
  const { since } = JSON.parse(host.refused) as RefusedReports;
  await tx.run("UPDATE hosts SET refused = NULL WHERE id = $1", [host.id]);
  const recovered = `${host.name}: its reports are taken again after ${duration(ran - since)}`;
  return (await close(tx, { host: host.id, types: ["host.reports_refused"], at, recovered })) > 0;
}

/** Where a report comes from: the host's boot, where it says so, and its address. */
export interface Machine {
  boot: string | null;
  ip: string;
}

/** `hosts.machines`: the last one, the one before it, and the running time of the change. */
interface Machines {
  now: Machine;
  before: Machine | null;
  since: number;
}

/**
 * Looks whether the former machine is back, after another: then two have one token, as clones do. A reboot, a reinstallation or a
 * new address changes the machine once. True where there is an event.
 */
export async function machineSeen(
  tx: Queries,
  { id, name, machines }: ReportingHost,
  { machine, at, ran }: { machine: Machine; at: number; ran: number },
): Promise<boolean> {
  const seen = machines === null ? null : (JSON.parse(machines) as Machines);
  if (seen !== null && isSame(seen.now, machine)) {
    if (seen.before === null || ran - seen.since < HOUR_MS) return false;
    await keepMachines(tx, id, { now: machine, before: null, since: ran });
    const recovered = `${name}: one machine alone reports as it again`;
    return (await close(tx, { host: id, types: ["host.twins"], at, recovered })) > 0;
  }
  await keepMachines(tx, id, { now: machine, before: seen?.now ?? null, since: ran });
  if (!seen?.before || !isSame(seen.before, machine) || ran - seen.since > DAY_MS) return false;
  const said = ({ boot, ip }: Machine) => (boot === null ? ip : `${ip}, booted ${boot}`);
  const text = `${name}: two machines report with its token (${said(seen.now)}; ${said(machine)}): picket-receiver host add NAME gives one a token of its own`;
  return raise(tx, { host: id, type: "host.twins", text, at });
}

async function keepMachines(tx: Queries, host: number, machines: Machines): Promise<void> {
  await tx.run("UPDATE hosts SET machines = $1 WHERE id = $2", [JSON.stringify(machines), host]);
}

function isSame(a: Machine, b: Machine): boolean {
  if (a.boot !== null && b.boot !== null) {
    return a.boot === b.boot || Math.abs(Date.parse(a.boot) - Date.parse(b.boot)) < SAME_BOOT_MS;
  }
  // A host with IPv4 and IPv6 may use either.
  return a.ip === b.ip || a.ip.includes(":") !== b.ip.includes(":");
}
