// Compares what a report says is wrong (judge.ts) with what was known of the host, and opens and closes alerts.
//
// `hosts.judged` has what is wrong, by type and subject, with the receiver's running times (presence.ts): neither a restart, nor an
// absence, nor a clock that jumps ends a wait. Most reports find all well, or as before, and write nothing.

import type { Report } from "../report.ts";
import type { Alerts } from "./alert-settings.ts";
import { settingOf } from "./alert-settings.ts";
import { type AlertType, close, raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type Sample, isDue, paceOf, windowOf, withSample } from "./forecast.ts";
import type { ReportingHost } from "./hosts.ts";
import { type Finding, goneText, judge } from "./judge.ts";

const MINUTE_MS = 60_000;
/** The most mounts that have a forecast. */
const MOST_MOUNTS = 32;
/** What lasts `for_minutes` before it counts; all else counts at once. */
const WAIT: ReadonlySet<AlertType> = new Set(["temperature.high", "cpu.high", "memory.high", "swap.high", "load.high"]);
/** States, not figures: what is no longer so is over at once. */
const AT_ONCE: ReadonlySet<AlertType> = new Set(["unit.failed", "pool.degraded", "smart.failing"]);

/** One that is wrong: since when, the level of its alert once that is open, and since when it has been well. */
interface Wrong {
  since: number;
  open?: number;
  well?: number;
}

interface Assessment {
  host: ReportingHost;
  report: Report;
  at: number;
  ran: number;
  /** Seconds between the host's reports. */
  interval: number;
  alerts: Alerts;
}

/** Opens and closes the alerts of a report that says how things are now. True where one did. */
export async function assess(tx: Queries, { host, report, at, ran, interval, alerts }: Assessment): Promise<boolean> {
  const judged = JSON.parse(host.judged ?? "{}") as Record<string, Wrong>;
  const paces = await keepSamples(tx, host, report, interval);
  const found = judge({
    name: host.name,
    report,
    cpuCount: report.host.facts?.cpu_count ?? (JSON.parse(host.facts) as { cpu_count?: number }).cpu_count ?? null,
    settings: settingOf(alerts, host.alert_settings),
    paceOf: (mount) => paces[mount]?.[1] ?? null,
  });
  const whole = { tx, host: host.id, at, ran, alerts };
  let changed = false;
  const take = async (key: string, finding: Finding): Promise<void> => {
    const { wrong, act } = nextOf(judged[key], finding, whole);
    if (act) changed = (await carryOut(whole, finding, act)) || changed;
    if (wrong) judged[key] = wrong;
    else delete judged[key];
  };
  const known = Object.keys(judged);
  for (const [type, findings] of found) {
    for (const finding of findings) {
      const { subject, state } = finding;
      if (state !== "wrong" && (known.length === 0 || !judged[`${type} ${subject}`])) continue;
      // Two sensors of one name: the first counts.
      if (findings.find((one) => one.subject === subject) === finding) await take(`${type} ${subject}`, finding);
    }
  }
  for (const key of known) {
    const [type, subject] = [key.split(" ", 1)[0] as AlertType, key.slice(key.indexOf(" ") + 1)];
    if (!found.get(type)?.every((one) => one.subject !== subject)) continue;
    const gone = goneText(host.name, type, subject);
    await take(key, { type, subject, state: "well", say: () => ({ text: gone, recovered: gone, figures: {} }) });
  }
  const text = Object.keys(judged).length === 0 ? null : JSON.stringify(judged);
  if (text !== host.judged) await tx.run("UPDATE hosts SET judged = $1 WHERE id = $2", [text, host.id]);
  return changed;
}

/** What follows from a finding: what is kept of it, and whether its alert is opened or closed now. */
function nextOf(
  before: Wrong | undefined,
  { type, state, level = 0 }: Finding,
  { ran, alerts }: { ran: number; alerts: Alerts },
): { wrong?: Wrong; act?: "raise" | "close" | "drop" } {
  const open = before?.open;
  if (state === "off") return open === undefined ? {} : { act: "drop" };
  if (state === "wrong") {
    const since = before?.since ?? ran;
    const counts = !WAIT.has(type) || ran - since >= alerts.for_minutes * MINUTE_MS;
    if (open === undefined && !counts) return { wrong: { since } };
    const worse = open === undefined || level > open;
    return { wrong: { since, open: Math.max(level, open ?? 0) }, ...(worse ? { act: "raise" } : {}) };
  }
  if (open === undefined) return {};
  if (state === "near") return { wrong: { since: before!.since, open } };
  const well = before!.well ?? ran;
  if (AT_ONCE.has(type) || ran - well >= alerts.clear_minutes * MINUTE_MS) return { act: "close" };
  return { wrong: { ...before!, well } };
}

async function carryOut(
  { tx, host, at }: { tx: Queries; host: number; at: number },
  finding: Finding,
  act: "raise" | "close" | "drop",
): Promise<boolean> {
  const { type, subject, level = 0, say } = finding;
  if (act === "raise") return raise(tx, { host, type, subject, at, level, ...say() });
  const recovered = act === "close" ? say().recovered : undefined;
  return (await close(tx, { host, types: [type], subject, at, recovered })) > 0;
}

/** `hosts.disk_paces`: by mount, the time of the last sample, and the pace since. The samples have a table, which most reports don't touch. */
type Paces = Record<string, [at: number, pace: number | null]>;

/** Keeps a sample of each mount from time to time; gives the paces. */
async function keepSamples(tx: Queries, host: ReportingHost, report: Report, interval: number): Promise<Paces> {
  // Without a prototype: a mount may have any name.
  const paces = { __proto__: null, ...JSON.parse(host.disk_paces ?? "{}") } as Paces;
  const windowMs = windowOf(interval);
  const at = report.recorded_at;
  let changed = false;
  for (const { mount, used_gb: used } of (report.host.disks ?? []).slice(0, MOST_MOUNTS)) {
    if (used === null || !isDue(paces[mount]?.[0], at, windowMs)) continue;
    const kept = await tx.one<{ samples: string }>("SELECT samples FROM disk_history WHERE host = $1 AND mount = $2", [
      host.id,
      mount,
    ]);
    const samples = withSample(JSON.parse(kept?.samples ?? "[]") as Sample[], [at, used], windowMs);
    await tx.run(
      `INSERT INTO disk_history (host, mount, samples) VALUES ($1, $2, $3)
       ON CONFLICT (host, mount) DO UPDATE SET samples = excluded.samples`,
      [host.id, mount, JSON.stringify(samples)],
    );
    paces[mount] = [at, paceOf(samples)];
    changed = true;
  }
  if (!changed) return paces;
  for (const [mount, [last]] of Object.entries(paces)) {
    if (last >= at - windowMs) continue;
    delete paces[mount];
    await tx.run("DELETE FROM disk_history WHERE host = $1 AND mount = $2", [host.id, mount]);
  }
  await tx.run("UPDATE hosts SET disk_paces = $1 WHERE id = $2", [JSON.stringify(paces), host.id]);
  return paces;
}
