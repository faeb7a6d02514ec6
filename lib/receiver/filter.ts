// What lists of alerts and of events are narrowed to. Both tables have these columns.

import type { Value } from "../database.ts";

/** What is left out or null narrows nothing. */
export interface Filter {
  /** The names of a host and of a job. */
  host?: string | null;
  job?: string | null;
  type?: string | null;
  severity?: string | null;
  /** A row's number: only those before it. */
  before?: number | null;
}

const CONDITIONS: Record<keyof Filter, string> = {
  host: "host = (SELECT id FROM hosts WHERE name = ?)",
  job: "job = (SELECT id FROM jobs WHERE name = ?)",
  type: "type = ?",
  severity: "severity = ?",
  before: "id < ?",
};

/** The condition of a filter on a table's alias, and its values: `$1` is the first. */
export function narrowed(table: string, filter: Filter): { where: string; values: Value[] } {
  const given = Object.entries(CONDITIONS).flatMap(([key, condition]) => {
    const value = filter[key as keyof Filter] ?? null;
    return value === null ? [] : [{ condition, value }];
  });
  const each = given.map(({ condition }, n) => `${table}.${condition.replace("?", `$${n + 1}`)}`);
  return { where: each.join(" AND ") || "TRUE", values: given.map(({ value }) => value) };
}
