// Takes in the result of a host's doctor.

import { readJson } from "../body.ts";
import { isNestedDeeper } from "../json.ts";
import { Refusal } from "../refusal.ts";
import { DEEPEST } from "../report.ts";
import { cut } from "../text.ts";
import { type Sender, stamp } from "./admission.ts";
import { type Alerts, settingOf } from "./alert-settings.ts";
import { close, raise } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type Host, setHealth } from "./hosts.ts";
import type { Store } from "./store.ts";

const MAX_HEALTH_BYTES = 64 << 10;

interface Taking {
  store: Store;
  config: () => { alerts: Alerts };
  /** There may be a new event. */
  news: () => void;
}

/** Stores the result, which may be any JSON. Red checks, as a Picket's doctor writes them, are an alert. @throws Refusal */
export async function takeHealth({ store, config, news }: Taking, sender: Sender, request: Request): Promise<void> {
  const result = await readJson(request, MAX_HEALTH_BYTES);
  if (isNestedDeeper(result, DEEPEST)) throw new Refusal(422, "too_deep", "the body is nested too deeply");
  const changed = await store.write(
    async (tx) => {
      await stamp(tx, sender);
      await setHealth(tx, sender.host, JSON.stringify(result));
      return judgeHealth(tx, sender, result, config().alerts);
    },
    [sender.host],
  );
  if (changed) news();
}

async function judgeHealth(tx: Queries, { host, name }: Sender, result: unknown, alerts: Alerts): Promise<boolean> {
  const own = await tx.one<Pick<Host, "alert_settings">>("SELECT alert_settings FROM hosts WHERE id = $1", [host]);
  const about = { host, at: Date.now() };
  const isOff = settingOf(alerts, own?.alert_settings ?? null)("doctor") === "off";
  const red = isOff ? [] : redChecks(result);
  const types = ["doctor.red"] as const;
  if (red.length === 0) {
    const recovered = isOff ? undefined : `${name}: the doctor finds no more errors`;
    return (await close(tx, { ...about, types, recovered })) > 0;
  }
  const what = red.map((check) => cut(check, 200)).join("; ");
  const text = `${name}: the doctor finds ${red.length === 1 ? "an error" : `${red.length} errors`}: ${cut(what, 500)}; picket-agent doctor`;
  return raise(tx, { ...about, type: "doctor.red", text, figures: { red } });
}

/** The red checks of a doctor's result, each as `name: detail`. */
function redChecks(result: unknown): string[] {
  const { checks } = (result ?? {}) as { checks?: unknown };
  if (!Array.isArray(checks)) return [];
  return (checks as ({ name?: unknown; state?: unknown; detail?: unknown } | null)[])
    .filter((check) => check?.state === "red")
    .map((check) => `${String(check!.name)}: ${String(check!.detail)}`);
}
