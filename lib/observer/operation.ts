// An operation: what somebody carried out, and how it went. Read once, where it comes in; trusted from there on.
//
// Fields that are not known are kept. Names that other programs use for the same thing are understood: `ok` for `success`,
// `audit_duration_ms` for `duration_ms`, `one_liner` for `output_summary`; where both are given, the real name counts.

import * as v from "valibot";
import { DEEPEST, isNestedDeeper } from "../json.ts";

/** Where operations come from. */
export const SOURCES = ["mcp", "scenario", "langfuse", "overseer_correction", "workflow", "inbox"] as const;
export type Source = (typeof SOURCES)[number];

const LONGEST_ID = 256;
const LONGEST_ENDPOINT = 4096;
/** Clocks may be this far apart. */
const CLOCK_MS = 60_000;

const words = v.pipe(
  v.nullish(v.string("expected text"), ""),
  v.transform((text) => text.toWellFormed()),
);
const optionalWords = v.optional(v.nullable(v.string("expected text")));
const optionalDuration = v.optional(
  v.nullable(
    v.pipe(v.number("expected milliseconds"), v.finite("expected milliseconds"), v.minValue(0, "expected 0 or more")),
  ),
);
const optionalFlag = v.optional(v.nullable(v.boolean("expected true or false")));

const Given = v.looseObject(
  {
    id: v.optional(
      v.nullable(
        v.pipe(v.string("expected text"), v.maxLength(LONGEST_ID, `expected at most ${LONGEST_ID} characters`)),
      ),
    ),
    timestamp: v.optional(
      v.nullable(
        v.pipe(
          v.string("expected a time such as 2026-01-31T12:00:00Z"),
          v.check((text) => text === "" || isTime(text), "expected a time such as 2026-01-31T12:00:00Z"),
        ),
      ),
    ),
    endpoint: v.pipe(
      v.string("expected the name of what was called"),
      v.check((text) => text.trim() !== "", "expected the name of what was called, found nothing"),
      v.maxLength(LONGEST_ENDPOINT, `expected at most ${LONGEST_ENDPOINT} characters`),
    ),
    source: v.pipe(
      v.nullish(v.string("expected text"), ""),
      v.transform((text) => text.trim() || "mcp"),
      v.picklist(SOURCES, `expected one of ${SOURCES.join(", ")}`),
    ),
    success: optionalFlag,
    ok: optionalFlag,
    duration_ms: optionalDuration,
    audit_duration_ms: optionalDuration,
    input_summary: words,
    output_summary: optionalWords,
    one_liner: optionalWords,
    error: optionalWords,
    staffer_id: optionalWords,
    sig_hash: optionalWords,
    event_kind: optionalWords,
    role: optionalWords,
    city: optionalWords,
    state: optionalWords,
    count: v.optional(v.nullable(v.pipe(v.number("expected a number"), v.finite("expected a number")))),
    rescue_attempted: optionalFlag,
    rescue_succeeded: optionalFlag,
    task_class: optionalWords,
  },
  "expected an operation: a JSON object",
);

/** An operation as it is recorded; what was not given is left out, unknown fields are kept. */
export interface Operation {
  id?: string;
  /** RFC 3339. */
  timestamp: string;
  endpoint: string;
  source: Source;
  success: boolean;
  duration_ms: number;
  input_summary: string;
  output_summary: string;
  error?: string;
  staffer_id?: string;
  sig_hash?: string;
  event_kind?: string;
  role?: string;
  city?: string;
  state?: string;
  count?: number;
  rescue_attempted?: boolean;
  rescue_succeeded?: boolean;
  task_class?: string;
  /** When it came in, of one whose timestamp lies ahead of that. */
  observed_at?: string;
  [unknown: string]: unknown;
}

/** A field that breaks the contract. */
export interface BrokenField {
  field: string;
  error: string;
}

/**
 * Reads an operation and fills in what was left out: `timestamp` is now, `source` is `mcp`; without `success` it is one unless
 * there is an `error`.
 * @param now milliseconds since 1970.
 * @returns the operation, or every field that is wrong.
 */
export function readOperation(data: unknown, now: number): { operation: Operation } | { broken: BrokenField[] } {
  if (isPlain(data)) return { operation: completed(data, now) };
  const parsed = v.safeParse(Given, data);
  if (!parsed.success) {
    return {
      broken: parsed.issues.map((issue) => ({ field: v.getDotPath(issue) ?? "", error: wording(issue) })),
    };
  }
  const deep = Object.entries(parsed.output).find(([, value]) => isNestedDeeper(value, DEEPEST));
  if (deep) return { broken: [{ field: deep[0], error: `expected at most ${DEEPEST} levels of nesting` }] };
  return { operation: completed(parsed.output, now) };
}

type Given = v.InferOutput<typeof Given>;

/** Fields that `completed` decides on one by one. */
const DECIDED = new Set(
  "id timestamp endpoint source success ok duration_ms audit_duration_ms output_summary one_liner error input_summary".split(
    " ",
  ),
);

/** What was left out filled in, other names for the same thing put right, what is null left out. */
function completed(given: Given, now: number): Operation {
  const { id, timestamp, endpoint, source, success, ok, error, input_summary } = given;
  const failed = typeof error === "string" && error.trim() !== "";
  const operation = (id ? { id } : {}) as Operation;
  operation.timestamp = timestamp || new Date(now).toISOString();
  operation.endpoint = endpoint;
  operation.source = source;
  operation.success = success ?? ok ?? !failed;
  operation.duration_ms = given.duration_ms ?? given.audit_duration_ms ?? 0;
  operation.output_summary = given.output_summary ?? given.one_liner ?? "";
  if (failed) operation.error = error;
  operation.input_summary = input_summary;
  for (const name of Object.keys(given)) {
    if (DECIDED.has(name)) continue;
    const value = given[name];
    if (value !== undefined && (value !== null || !(name in Given.entries))) operation[name] = value;
  }
  if (Date.parse(operation.timestamp) > now + CLOCK_MS) operation.observed_at = new Date(now).toISOString();
  return operation;
}

/**
 * When it was carried out, in milliseconds since 1970: never later than it came in, also when the log is read again later. Otherwise
 * one that lies ahead would make all that follow look like the end of a silence.
 */
export function timeOf({ timestamp, observed_at }: Operation): number {
  const observed = typeof observed_at === "string" ? Date.parse(observed_at) : Number.NaN;
  return Math.min(Date.parse(timestamp), Number.isNaN(observed) ? Date.now() : observed, Date.now());
}

/** What `typeof` says of each field that is as the schema wants it. */
const TYPES: Record<keyof typeof Given.entries, "string" | "number" | "boolean"> = {
  id: "string",
  timestamp: "string",
  endpoint: "string",
  source: "string",
  success: "boolean",
  ok: "boolean",
  duration_ms: "number",
  audit_duration_ms: "number",
  input_summary: "string",
  output_summary: "string",
  one_liner: "string",
  error: "string",
  staffer_id: "string",
  sig_hash: "string",
  event_kind: "string",
  role: "string",
  city: "string",
  state: "string",
  count: "number",
  rescue_attempted: "boolean",
  rescue_succeeded: "boolean",
  task_class: "string",
};
const TYPE_OF = new Map<string, string>(Object.entries(TYPES));
const KNOWN_SOURCES = new Set<unknown>(SOURCES);

/**
 * Whether the schema would take this as it stands: nothing wrong, nothing to rewrite, no source or input_summary to fill in. Most
 * operations are like that, and asking takes a fifth of the schema's time. Where in doubt it says no, and the schema decides.
 */
function isPlain(data: unknown): data is Given {
  if (typeof data !== "object" || data === null || Array.isArray(data)) return false;
  const given = data as Record<string, unknown>;
  for (const name of Object.keys(given)) {
    const type = TYPE_OF.get(name);
    // The schema drops unknown fields with such names.
    if (type === undefined && (name in Object.prototype || name === "prototype")) return false;
    const value = given[name];
    if (type === undefined ? typeof value === "object" : typeof value !== type) return false;
    if (typeof value === "number" && !Number.isFinite(value)) return false;
  }
  const { id, timestamp, endpoint, source, duration_ms, audit_duration_ms, input_summary } = data as Given;
  return (
    typeof endpoint === "string" &&
    endpoint.length <= LONGEST_ENDPOINT &&
    endpoint.trim() !== "" &&
    KNOWN_SOURCES.has(source) &&
    typeof input_summary === "string" &&
    input_summary.isWellFormed() &&
    (id?.length ?? 0) <= LONGEST_ID &&
    (typeof timestamp !== "string" || isTime(timestamp)) &&
    (duration_ms ?? 0) >= 0 &&
    (audit_duration_ms ?? 0) >= 0
  );
}

function isTime(text: string): boolean {
  return /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text) && !Number.isNaN(Date.parse(text));
}

function wording(issue: v.BaseIssue<unknown>): string {
  // For a missing key valibot has the words that are meant for the object.
  return issue.type === "loose_object" && issue.path ? "is required" : issue.message;
}

/** Whether a value is an operation as this program records them: for reading back what was written, much quicker than the schema. */
export function isRecorded(value: unknown): value is Operation {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const given = value as Record<keyof typeof TYPES, unknown>;
  const { endpoint, source, success, timestamp, duration_ms, input_summary, output_summary } = given;
  return (
    typeof endpoint === "string" &&
    endpoint.trim() !== "" &&
    typeof success === "boolean" &&
    typeof timestamp === "string" &&
    isTime(timestamp) &&
    typeof duration_ms === "number" &&
    typeof input_summary === "string" &&
    typeof output_summary === "string" &&
    KNOWN_SOURCES.has(source) &&
    isTextOrAbsent(given.error) &&
    isTextOrAbsent(given.sig_hash) &&
    isTextOrAbsent(given.id) &&
    isTextOrAbsent(given.event_kind) &&
    isTextOrAbsent(given.role) &&
    isTextOrAbsent(given.city) &&
    isTextOrAbsent(given.state) &&
    isTextOrAbsent(given.staffer_id) &&
    (given.count === undefined || typeof given.count === "number")
  );
}

function isTextOrAbsent(value: unknown): boolean {
  return value === undefined || typeof value === "string";
}
