// What doesn't fit is left out and named, so that one odd container never costs a report: of the lists that others give, and of
// the report itself, by the rules that the receiver accepts it by.

import * as v from "valibot";
import { Report as Shape, asBroken } from "../report.ts";
import type { Warn } from "./source.ts";

/** The elements that the schema accepts. `what` names such an element. */
export function fittingOf<S extends v.GenericSchema>(
  schema: S,
  given: readonly unknown[],
  { what, warn }: { what: string; warn: Warn },
): v.InferOutput<S>[] {
  return given.flatMap((one) => {
    const parsed = v.safeParse(schema, one);
    if (parsed.success) return [parsed.output];
    const [issue] = parsed.issues;
    warn(
      what,
      `${what} left out: ${v.getDotPath(issue) ?? ""}: ${issue.message}: ${JSON.stringify(one).slice(0, 200)}`,
    );
    return [];
  });
}

/** Changes a report until the receiver accepts it: a field that doesn't fit becomes null; if it must have a value, its container or guest goes. */
export function fit<R extends { containers?: unknown[]; guests?: unknown[] }>(report: R, warn: Warn): R {
  for (;;) {
    const { issues } = v.safeParse(Shape, report);
    if (!issues) return report;
    for (const issue of issues) {
      const { field, error } = asBroken(issue);
      const done = blank(
        report,
        (issue.path ?? []).map(({ key }) => String(key)),
      );
      if (done) warn(`unfit ${field.replace(/\[\d+\]/g, "")}`, `${field}: ${error}: ${done}`);
    }
    for (const name of ["containers", "guests"] as const) {
      const list = report[name];
      if (list) report[name] = list.filter((one) => one !== null);
    }
  }
}

/** Sets a field to null, or what it is in if it was null. @returns what was done; null if that is gone already. */
function blank(report: Record<string, unknown>, path: string[]): string | null {
  const [leaf = "", ...up] = path.toReversed();
  const holders = [report];
  for (const key of up.toReversed()) {
    const inner = holders.at(-1)![key] as Record<string, unknown> | null;
    if (!inner) return null;
    holders.push(inner);
  }
  const [holder, outer] = holders.toReversed();
  if ((holder![leaf] ?? null) !== null) {
    const given = JSON.stringify(holder![leaf]).slice(0, 100);
    holder![leaf] = null;
    return `${given} is sent as null`;
  }
  if (!outer) throw new Error(`the report has no valid "${leaf}"`);
  outer[up[0]!] = null;
  return `${JSON.stringify(holder!["name"] ?? holder!["vmid"] ?? up[0])} is left out`;
}
