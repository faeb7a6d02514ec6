// A report as the receiver reads it: its shape, and its times against the clock.

import * as v from "valibot";
import type { BrokenField } from "../refusal.ts";
import { type Container, Report, asBroken } from "../report.ts";

/** How far a report's time may be ahead of the receiver's clock, and behind it. */
export const AHEAD_MS = 5 * 60_000;
export const BEHIND_MS = 60 * 60_000;
/** How long an agent may take from its figures to sending them. */
const SAMPLING_MS = 30_000;

/**
 * Reads a report.
 * @param options.now milliseconds since 1970; `recorded_at` (with `sent_at`: that one) lies between an hour before and five minutes after it.
 * @param options.backfillMs how old `recorded_at` may be where `sent_at` is given.
 * @returns the report, or every broken field, such as `containers[3].metrics.cpu_percent`; `clock`: only its times are.
 */
export function readReport(
  data: unknown,
  { now, backfillMs }: { now: number; backfillMs: number },
): { report: Report } | { broken: BrokenField[]; clock: boolean } {
  if (Array.isArray(data)) return { broken: [{ field: "body", error: "expected a mapping" }], clock: false };
  const parsed = v.safeParse(Report, data);
  if (!parsed.success) return { broken: parsed.issues.map(asBroken), clock: false };
  const report = parsed.output;
  const { recorded_at: recorded, sent_at: sent } = report;
  const broken: BrokenField[] = [];
  const window = (field: string, at: number, behind: number): void => {
    if (at > now + AHEAD_MS) broken.push({ field, error: "is more than 5 minutes ahead: check the host's clock" });
    if (at < now - behind) broken.push({ field, error: `is more than ${hours(behind)} ago: check the host's clock` });
  };
  window("recorded_at", recorded, sent === null ? BEHIND_MS : Number.POSITIVE_INFINITY);
  if (sent !== null && recorded < now - backfillMs) {
    broken.push({
      field: "recorded_at",
      error: `is more than ${hours(backfillMs)} ago (backfill_hours): too old to be taken`,
    });
  }
  if (sent !== null) window("sent_at", sent, BEHIND_MS);
  return broken.length > 0 ? { broken, clock: true } : { report };
}

/** Whether a report comes from a queue: then it is history and says nothing of the present. */
export function isLate({ recorded_at: recorded, sent_at: sent }: Report, intervalSeconds: number): boolean {
  return sent !== null && sent - recorded > Math.max((intervalSeconds * 1000) / 2, SAMPLING_MS);
}

/** usage / limit in percent, two decimals; null where there is no limit. */
export function memoryPercent(metrics: Container["metrics"]): number | null {
  const { memory_usage_mb: usage = null, memory_limit_mb: limit = null } = metrics ?? {};
  return usage === null || !limit ? null : Math.round((usage / limit) * 10_000) / 100;
}

function hours(ms: number): string {
  const count = Math.round(ms / 3_600_000);
  return count === 1 ? "an hour" : `${count} hours`;
}
