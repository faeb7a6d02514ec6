// The units of systemd: those that failed, and those that the configuration names. One `systemctl show` takes more CPU than a
// report. It runs only after a unit has started or ended: then systemd adds or removes a link in /run/systemd/units, whatever the
// unit is. `systemctl reset-failed` does neither: besides, it runs every ten minutes.

import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { answerOf } from "../program.ts";

/** An element of a report's `host.units`. */
export interface Unit {
  name: string;
  /** systemd's ActiveState and SubState. */
  state: string;
  sub: string;
  /** When it came into this state, RFC 3339. */
  since: string | null;
  /** Why it failed, such as "exit 1", "signal 9" or "timeout". */
  detail: string | null;
}

type ServiceStatus = "active" | "inactive" | "failed" | "unknown";

/** The units for the report's list, and the status of the ones that the configuration names. */
export interface Units {
  list: Unit[] | null;
  services: { name: string; status: ServiceStatus }[];
}

const AGAIN_MS = 10 * 60_000;
const PROPERTIES = "Id,LoadState,ActiveState,SubState,StateChangeTimestamp,Result,ExecMainStatus";

/** @param options.names units, or patterns of units; `cloudflared` is `cloudflared.service`. */
export function createUnits({ root, names, clock }: { root: string; names: readonly string[]; clock: () => number }) {
  let latest: Units | null = null;
  let askedAt = Number.NEGATIVE_INFINITY;
  let changedAt = 0;

  /** @throws Error when systemctl can't be asked. */
  return async (): Promise<Units> => {
    // sd_booted(3)
    if (!existsSync(join(root, "run/systemd/system"))) return unknownUnits(names);
    const changed = lastChange(root);
    if (latest && changed === changedAt && clock() - askedAt < AGAIN_MS) return latest;
    const [failed, named] = await Promise.all([
      show(["--state=failed", "--", "*", ...names.filter(isName)]),
      // There a pattern finds only what failed.
      names.every(isName) ? [] : show(["--", ...names.filter((name) => !isName(name))]),
    ]);
    changedAt = changed;
    askedAt = clock();
    const found = new Map([...failed, ...named].map((unit) => [unit.name, unit]));
    const services = [...names.filter(isName), ...named.map(({ name }) => name)].map((name) => ({
      name,
      status: statusOf(found.get(idOf(name))?.state ?? ""),
    }));
    return (latest = { list: [...found.values()], services });
  };
}

/** What is known of the units without systemd. */
export function unknownUnits(names: readonly string[]): Units {
  return { list: null, services: names.filter(isName).map((name) => ({ name, status: "unknown" })) };
}

const isName = (name: string) => !/[*?[]/.test(name);

/** A name without a type is a service's. */
const idOf = (name: string) =>
  /\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$/.test(name) ? name : `${name}.service`;

/** 0 where an old systemd has no such folder. */
function lastChange(root: string): number {
  return statSync(join(root, "run/systemd/units"), { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** @throws Error when systemctl isn't there, can't reach systemd, or doesn't answer. */
async function show(units: string[]): Promise<Unit[]> {
  // TZ is the zone of the times that it prints.
  const command = ["systemctl", "show", `--property=${PROPERTIES}`, ...units];
  const { code, text } = await answerOf(command, { env: { TZ: "UTC" } });
  if (code !== 0) throw new Error(`"systemctl show" ended with ${code}: try "systemctl status"`);
  return text
    .split("\n\n")
    .filter((block) => block.trim() !== "")
    .map((block) => {
      const field = (name: string) => new RegExp(`^${name}=(.*)$`, "m").exec(block)?.[1] ?? "";
      return {
        name: field("Id"),
        state: field("ActiveState"),
        sub: field("SubState"),
        since: timeOf(field("StateChangeTimestamp")),
        detail: field("LoadState") === "not-found" ? "not found" : reasonOf(field("Result"), field("ExecMainStatus")),
      };
    });
}

/** From "Sat 2026-11-28 08:25:57 UTC". */
function timeOf(text: string): string | null {
  const [, date, time] = /^\w+ (\S+) (\S+) UTC$/.exec(text) ?? [];
  return date === undefined ? null : `${date}T${time}Z`;
}

/** systemd's Result, and the exit code or signal of the main process: 0 when another one failed, such as ExecStartPre=. */
function reasonOf(result: string, status: string): string | null {
  if (result === "" || result === "success") return null;
  if (Number(status) > 0 && result === "exit-code") return `exit ${status}`;
  return Number(status) > 0 && result === "signal" ? `signal ${status}` : result.replaceAll("-", " ");
}

function statusOf(state: string): ServiceStatus {
  if (/^(active|reloading|refreshing|activating)$/.test(state)) return "active";
  if (state === "inactive" || state === "deactivating") return "inactive";
  return state === "failed" ? "failed" : "unknown";
}
