// An operation that needs nothing filled in is read without the schema: that must give the same as the schema does.

import { describe, expect, test } from "bun:test";
import { readOperation } from "../../lib/observer/operation.ts";

const NOW = 1_780_000_000_000;
const PLAIN = { endpoint: "deploy", source: "scenario", input_summary: "to eu-1" };

/** The same through the schema: blanks around a source are its business. */
function throughSchema(data: object) {
  const { source } = data as { source: unknown };
  return readOperation(typeof source === "string" ? { ...data, source: ` ${source} ` } : data, NOW);
}

const CASES: Record<string, object> = {
  "the least": PLAIN,
  "every field": {
    ...PLAIN,
    id: "op-1",
    timestamp: "2026-01-31T12:00:00Z",
    success: false,
    ok: true,
    duration_ms: 12,
    audit_duration_ms: 13,
    output_summary: "none",
    one_liner: "nothing",
    error: "no route to host",
    staffer_id: "st-1",
    sig_hash: "abc",
    event_kind: "fill",
    role: "welder",
    city: "Toledo",
    state: "OH",
    count: 3,
    rescue_attempted: true,
    rescue_succeeded: false,
    task_class: "matching",
  },
  "other names": { ...PLAIN, ok: true, audit_duration_ms: 5, one_liner: "done" },
  "an error alone": { ...PLAIN, error: "no" },
  "a blank error": { ...PLAIN, error: "  ", id: "" },
  nulls: { ...PLAIN, id: null, error: null, city: null, timestamp: null, duration_ms: null, unknown: null },
  "unknown fields": { ...PLAIN, tags: ["a"], deep: { a: 1 }, 7: "seven" },
  "names of Object.prototype": JSON.parse('{"__proto__":{"a":1},"constructor":1,"prototype":2,"toString":3}') as object,
  "half a surrogate pair": { ...PLAIN, input_summary: "\ud800" },
  "no input_summary": { endpoint: "deploy", source: "mcp" },
  "a blank endpoint": { ...PLAIN, endpoint: " " },
  "a long endpoint": { ...PLAIN, endpoint: "x".repeat(4097) },
  "a long id": { ...PLAIN, id: "x".repeat(257) },
  "no time": { ...PLAIN, timestamp: "yesterday" },
  "a time that is none": { ...PLAIN, timestamp: "2026-13-41T12:00:00Z" },
  "a negative duration": { ...PLAIN, duration_ms: -1 },
  "another negative duration": { ...PLAIN, audit_duration_ms: -1 },
  "an unknown source": { ...PLAIN, source: "elsewhere" },
  "a source that is no text": { ...PLAIN, source: 1 },
};
// Each known field with what it can't be.
for (const name of Object.keys(CASES["every field"]!)) CASES[`${name} is a list`] = { ...PLAIN, [name]: [] };

describe("an operation is read the same with and without the schema:", () => {
  test.each(Object.entries(CASES))("%s", (_name, fields) => {
    const data = { ...PLAIN, ...fields };
    for (const name of ["__proto__", "constructor"]) {
      if (Object.hasOwn(fields, name)) Object.defineProperty(data, name, { value: 1, enumerable: true });
    }
    const read = readOperation(data, NOW);
    const other = throughSchema(data);
    expect(read).toStrictEqual(other);
    expect(JSON.stringify(read)).toBe(JSON.stringify(other));
  });
});
