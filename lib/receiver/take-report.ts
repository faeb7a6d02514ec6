// Takes a report in: read, validated, stored whole, and only then answered.

import { readJson } from "../body.ts";
import { type Log, seldom } from "../log.ts";
import { Refusal, refuseFields } from "../refusal.ts";
import { cut } from "../text.ts";
import { type Sender, mustBe, stamp, unauthorized } from "./admission.ts";
import type { Config } from "./config.ts";
import type { Figures } from "./figures.ts";
import type { Presence } from "./presence.ts";
import { reportRefused } from "./report-alerts.ts";
import { readReport } from "./report.ts";
import type { Store } from "./store.ts";
import { type Stored, storeReport } from "./store-report.ts";

const MAX_REPORT_BYTES = 4 << 20;
const HOUR_MS = 3_600_000;

export interface TakingReports {
  config: () => Pick<Config, "backfill_hours" | "poll_interval_seconds" | "alerts">;
  store: Store;
  presence: Presence;
  figures: Figures;
  /** There may be a new event. */
  news: () => void;
  log: Log;
}

/** Takes reports; `told` is whether the answer says the host's interval. @throws Refusal. */
export type TakeReport = (sender: Sender, request: Request, told: boolean) => Promise<Stored>;

export function createTakeReport(taking: TakingReports): TakeReport {
  const { config, store, figures, news } = taking;
  const rare = seldom(taking.log);
  return async (sender, request, told) => {
    try {
      const data = await readJson(request, MAX_REPORT_BYTES);
      // A report is received when its last byte is: one that comes slowly may be overtaken.
      const [at, ran] = [Date.now(), await taking.presence.ran()];
      const { report, odd, oddIds } = valid(taking, data, at);
      if (report.host_id !== null) await mustBe(store, sender, report.host_id);
      const taken = await store.write(
        async (tx) => {
          await stamp(tx, sender);
          const { poll_interval_seconds: interval, alerts } = config();
          return storeReport(tx, { sender, report, oddIds, at, ran, interval, told, alerts });
        },
        [sender.host],
      );
      if (!taken) throw unauthorized("invalid_token");
      figures.reports.add();
      if (taken.changed) news();
      if (odd.length > 0) {
        const fields = cut(odd.map(({ field, error }) => `${field}: ${error}`).join("; "), 500);
        rare.warn(sender.name, "left out of a report", { host: sender.name, fields });
      }
      return taken;
    } catch (error) {
      if (isRefused(error) && !request.signal.aborted) {
        const { message: why } = error;
        const note = async (): Promise<boolean> => {
          const ran = await taking.presence.ran();
          const refused = { at: Date.now(), ran, why, interval: config().poll_interval_seconds };
          return store.write((tx) => reportRefused(tx, sender, refused), [sender.host]);
        };
        if (await note().catch(() => false)) news();
      }
      throw error;
    }
  };
}

function valid({ config, presence, figures }: TakingReports, data: unknown, now: number) {
  const read = readReport(data, { now, backfillMs: config().backfill_hours * HOUR_MS });
  if (!("broken" in read)) return read;
  // A refused report is lost: the agent sends this one again.
  if (read.clock && presence.clockDoubted) {
    const what = "the clocks of agent and receiver differ, and the receiver's may be wrong: send it again later";
    throw new Refusal(503, "clock", what, { headers: { "retry-after": "60" } });
  }
  figures.invalid.add();
  throw refuseFields(422, "invalid_report", read.broken);
}

/** Whether the report itself is why it was not taken. */
function isRefused(error: unknown): error is Refusal {
  return (
    error instanceof Refusal && error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status)
  );
}
