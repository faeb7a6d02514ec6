// A report as the receiver reads it: its shape, and its times against the clock.

import * as v from "valibot";
import type { BrokenField } from "../refusal.ts";
import { type Container, Report, asBroken } from "../report.ts";

/** How far a report's time may be ahead of the receiver's clock, and behind it. */
export const AHEAD_MS = 5 * 60_000;
export const BEHIND_MS = 60 * 60_000;
/** How long an agent may take from its figures to sending them. */
const SAMPLING_MS = 30_000;

/** A valid report, and what was left out of it: containers and guests that break a rule cost nobody the rest. */
interface Read {
  report: Report;
  odd: BrokenField[];
  /** Their ids, as far as they have any. */
  oddIds: Set<unknown>;
}

/**
 * Reads a report.
 * @param options.now milliseconds since 1970; `recorded_at` (with `sent_at`: that one) lies between an hour before and five minutes after it.
 * @param options.backfillMs how old `recorded_at` may be where `sent_at` is given.
 * @returns the report, or every broken field, such as `containers[3].metrics.cpu_percent`; `clock`: only its times are.
 */
export function readReport(
  data: unknown,
  { now, backfillMs }: { now: number; backfillMs: number },
): Read | { broken: BrokenField[]; clock: boolean } {
  if (Array.isArray(data)) return { broken: [{ field: "body", error: "expected a mapping" }], clock: false };
  const oddIds = new Set<unknown>();
  let odd: BrokenField[] = [];
  let parsed = v.safeParse(Report, data);
  if (!parsed.success) {
    odd = parsed.issues.map(asBroken);
    const rest = withoutOdd(data, odd, oddIds);
    parsed = rest === null ? parsed : v.safeParse(Report, rest);
    if (!parsed.success) return { broken: odd, clock: false };
  }
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
  return broken.length > 0 ? { broken, clock: true } : { report, odd, oddIds };
}

/** The report without the containers and guests that break a rule; null where anything else does. */
function withoutOdd(data: unknown, odd: BrokenField[], ids: Set<unknown>): unknown {
  const lists = { containers: new Set<number>(), guests: new Set<number>() };
  for (const { field } of odd) {
    const [, list, index] = /^(containers|guests)\[(\d+)\]/.exec(field) ?? [];
    if (index === undefined) return null;
    lists[list as keyof typeof lists].add(Number(index));
  }
  const given = data as Record<keyof typeof lists, unknown[]>;
  const rest: Record<string, unknown> = { ...given };
  for (const [list, indexes] of Object.entries(lists) as [keyof typeof lists, Set<number>][]) {
    if (indexes.size === 0) continue;
    for (const index of indexes) {
      const { container_id: id, vmid } = (given[list][index] ?? {}) as Record<string, unknown>;
      ids.add(id ?? Number(vmid));
    }
    rest[list] = given[list].filter((_, index) => !indexes.has(index));
  }
  return rest;
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
