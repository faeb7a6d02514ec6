// An operation: what was called, and how it went. It is validated once, where it comes in, and trusted from there on.
//
// Unknown fields are kept. Three fields have a second name that other programs use: `ok` for `success`, `audit_duration_ms` for
// `duration_ms`, `one_liner` for `output_summary`; where both are given, the first name counts.
//
// The fields are checked by hand because most of the observer's time goes into it: valibot took five times as long.

import { DEEPEST, isNestedDeeper } from "../json.ts";
import type { BrokenField } from "../refusal.ts";
import { outcomeOf } from "./outcome.ts";

/** Where operations come from. */
export const SOURCES = ["mcp", "scenario", "langfuse", "overseer_correction", "workflow", "inbox"] as const;
export type Source = (typeof SOURCES)[number];

const LONGEST_ID = 256;
const LONGEST_ENDPOINT = 4096;
/** A timestamp may be this far ahead of our clock. */
const CLOCK_MS = 60_000;
/** What Go and C write where there is no time. */
const NO_TIME = /^(?:0001-01-01|1970-01-01)[T ]00:00/;

/** An operation as it is recorded. */
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
  /** When it came in; set only when `timestamp` is later than that. */
  observed_at?: string;
  [unknown: string]: unknown;
}

/** A checked operation without defaults. */
type Given = Partial<Operation> & { ok?: boolean; audit_duration_ms?: number; one_liner?: string };

/** Returns what is wrong with a value that is not null; null when it is valid. */
type Check = (value: unknown) => string | null;

const text: Check = (value) => (typeof value === "string" ? null : "expected text");
const flag: Check = (value) => (typeof value === "boolean" ? null : "expected true or false");
const number: Check = (value) => (Number.isFinite(value) ? null : "expected a number");
const duration: Check = (value) =>
  Number.isFinite(value) ? ((value as number) < 0 ? "expected 0 or more" : null) : "expected milliseconds";
const atMost = (characters: number, value: string) =>
  value.length > characters ? `expected at most ${characters} characters` : null;
const KNOWN_SOURCES = new Set<unknown>(SOURCES);

/** The known fields. */
const FIELDS = {
  id: (value) => text(value) ?? atMost(LONGEST_ID, value as string),
  timestamp: (value) => (value === "" || isTime(value) ? null : "expected a time such as 2026-01-31T12:00:00Z"),
  endpoint(value) {
    if (typeof value !== "string") return "expected the name of what was called";
    if (value.trim() === "") return "expected the name of what was called, found nothing";
    return atMost(LONGEST_ENDPOINT, value);
  },
  source(value) {
    if (typeof value !== "string") return "expected text";
    return KNOWN_SOURCES.has(value.trim() || "mcp") ? null : `expected one of ${SOURCES.join(", ")}`;
  },
  success: flag,
  ok: flag,
  duration_ms: duration,
  audit_duration_ms: duration,
  input_summary: text,
  output_summary: text,
  one_liner: text,
  error: text,
  staffer_id: text,
  sig_hash: text,
  event_kind: text,
  role: text,
  city: text,
  state: text,
  count: number,
  rescue_attempted: flag,
  rescue_succeeded: flag,
  task_class: text,
} satisfies Record<string, Check>;
const CHECKS = new Map<string, Check>(Object.entries(FIELDS));

/**
 * Validates an operation and fills in defaults: `timestamp` is now, `source` is `mcp`, `success` is true unless there is an
 * `error`, or another field says so (outcome.ts).
 * @param now milliseconds since 1970.
 * @returns the operation with a sentence for each field that isn't understood, or every field that is wrong.
 */
export function readOperation(
  data: unknown,
  now: number,
): { operation: Operation; warnings: string[] } | { broken: BrokenField[] } {
  if (typeof data !== "object" || data === null || Array.isArray(data)) {
    return { broken: [{ field: "", error: "expected an operation: a JSON object" }] };
  }
  const given = data as Record<string, unknown>;
  const broken: BrokenField[] = [];
  if (given["endpoint"] === undefined) broken.push({ field: "endpoint", error: "is required" });
  for (const field of Object.keys(given)) {
    const value = given[field];
    const check = CHECKS.get(field);
    const error = check ? (value === null && field !== "endpoint" ? null : check(value)) : tooDeep(value);
    if (error !== null) broken.push({ field, error });
  }
  if (broken.length > 0) return { broken };
  const isSaid = typeof (given["success"] ?? given["ok"]) === "boolean";
  const { failed, warnings } = isSaid ? NOTHING_SAID : outcomeOf(given);
  return { operation: completed(given, failed, now), warnings };
}

const NOTHING_SAID = { failed: false, warnings: [] };

function tooDeep(value: unknown): string | null {
  return isNestedDeeper(value, DEEPEST) ? `expected at most ${DEEPEST} levels of nesting` : null;
}

function isTime(value: unknown): boolean {
  return typeof value === "string" && /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(value) && !Number.isNaN(Date.parse(value));
}

/** Fields that `completed` sets one by one, and names that would reach the prototype. */
const DECIDED = new Set([
  ..."id timestamp endpoint source success ok duration_ms audit_duration_ms output_summary one_liner error".split(" "),
  ..."input_summary __proto__ prototype constructor".split(" "),
]);

/** Fills in defaults, replaces second names, drops known fields that are null. */
function completed(given: Given, failed: boolean, now: number): Operation {
  const { id, timestamp, endpoint, source, success, ok, error } = given;
  const hasError = typeof error === "string" && error.trim() !== "";
  const operation = (id ? { id } : {}) as Operation;
  operation.timestamp = timestamp && !NO_TIME.test(timestamp) ? timestamp : new Date(now).toISOString();
  operation.endpoint = endpoint!;
  operation.source = (source?.trim() || "mcp") as Source;
  operation.success = success ?? ok ?? !(failed || hasError);
  operation.duration_ms = given.duration_ms ?? given.audit_duration_ms ?? 0;
  operation.output_summary = given.output_summary ?? given.one_liner ?? "";
  if (hasError) operation.error = error;
  operation.input_summary = (given.input_summary ?? "").toWellFormed();
  for (const name of Object.keys(given)) {
    if (DECIDED.has(name)) continue;
    const value = given[name];
    if (value !== null || !CHECKS.has(name)) operation[name] = value;
  }
  if (Date.parse(operation.timestamp) > now + CLOCK_MS) operation.observed_at = new Date(now).toISOString();
  return operation;
}

/**
 * The time of an operation, in milliseconds since 1970: never later than it came in, also when the log is read again. Otherwise a
 * timestamp in the future would make every later failure look like the first after a silence.
 */
export function timeOf({ timestamp, observed_at }: Operation): number {
  const observed = typeof observed_at === "string" ? Date.parse(observed_at) : Number.NaN;
  return Math.min(Date.parse(timestamp), Number.isNaN(observed) ? Date.now() : observed, Date.now());
}

/** Optional fields that the observer's other parts take for text. */
const OPTIONAL_TEXTS = ["error", "sig_hash", "id", "event_kind", "role", "city", "state", "staffer_id"] as const;

/** Whether a value from the log is an operation as `readOperation` returns it. Three times as fast as validating it again. */
export function isRecorded(value: unknown): value is Operation {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const given = value as Record<keyof typeof FIELDS, unknown>;
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
    OPTIONAL_TEXTS.every((field) => given[field] === undefined || typeof given[field] === "string") &&
    (given.count === undefined || typeof given.count === "number")
  );
}
