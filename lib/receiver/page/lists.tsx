/** @jsxImportSource hono/jsx */
// What long lists have in common: the form that narrows them, and the links to their other pages. All of it is in the address.

import type { Queries } from "../../database.ts";
import type { Filter } from "../filter.ts";
import { Live } from "./regions.tsx";

/** So many rows are a page. */
export const ROWS = 100;

/** The filter of an address. A field without a value narrows nothing. */
export function filterOf(query: URLSearchParams): Filter {
  const given = (name: string) => query.get(name) || null;
  const before = given("before");
  return {
    host: given("host"),
    job: given("job"),
    type: given("kind"),
    severity: given("priority"),
    before: before !== null && /^\d{1,15}$/.test(before) ? Number(before) : null,
  };
}

export interface Choice {
  /** Of the parameter in the address. */
  name: string;
  label: string;
  /** Null for a day. */
  options: readonly string[] | null;
}

/** The end of the day that a list is to begin with, in UTC and milliseconds since 1970; null for now. */
export function endOf(query: URLSearchParams): number | null {
  const day = Date.parse(`${query.get("until")}T00:00:00Z`);
  return Number.isNaN(day) ? null : day + 86_400_000;
}

/** The names of all hosts and jobs, to choose from. */
export async function choicesOf(db: Queries): Promise<Choice[]> {
  const names = (table: "hosts" | "jobs") => db.all<{ name: string }>(`SELECT name FROM ${table} ORDER BY name`);
  const choice = (name: string, label: string, rows: { name: string }[]): Choice[] =>
    rows.length === 0 ? [] : [{ name, label, options: rows.map((row) => row.name) }];
  return [...choice("host", "Host", await names("hosts")), ...choice("job", "Job", await names("jobs"))];
}

/** A form that narrows a list. */
export function Filters({ path, query, choices }: { path: string; query: URLSearchParams; choices: Choice[] }) {
  return (
    <form class="filters" method="get" action={path}>
      {choices.map(({ name, label, options }) => (
        <label>
          <span>{label}</span>
          {options === null ? (
            <input type="date" name={name} value={query.get(name) ?? ""} />
          ) : (
            <Options name={name} options={options} chosen={query.get(name)} />
          )}
        </label>
      ))}
      <button>Filter</button>
      {choices.some(({ name }) => query.get(name)) && <a href={path}>Show all</a>}
    </form>
  );
}

function Options({ name, options, chosen }: { name: string; options: readonly string[]; chosen: string | null }) {
  return (
    <select name={name}>
      <option value="">all</option>
      {options.map((option) => (
        <option value={option} selected={option === chosen}>
          {option}
        </option>
      ))}
    </select>
  );
}

/** The links below a list. @param older the `before` of the next page; null on the last one. */
export function Paging({ path, query, older }: { path: string; query: URLSearchParams; older: string | null }) {
  return (
    <Live id="paging" as="nav" class="paging" aria-label="pages of this list">
      {query.has("before") && <a href={addressOf(path, query, { before: null })}>Newest</a>}
      {older !== null && (
        <a href={addressOf(path, query, { before: older })} rel="next">
          Older
        </a>
      )}
    </Live>
  );
}

/** A path with the same query but for these parameters; null takes one away. */
export function addressOf(path: string, query: URLSearchParams, changes: Record<string, string | null> = {}): string {
  const next = new URLSearchParams([...query].filter(([, value]) => value !== ""));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) next.delete(name);
    else next.set(name, value);
  }
  return next.size === 0 ? path : `${path}?${next.toString()}`;
}
