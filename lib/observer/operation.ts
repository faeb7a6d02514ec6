// An operation: what somebody carried out, and how it went. Read once, where it comes in; trusted from there on.
//
// Fields that are not known are kept. Names that other programs use for the same thing are understood: `ok` for `success`,
// `audit_duration_ms` for `duration_ms`, `one_liner` for `output_summary`; where both are given, the real name counts.

import * as v from "valibot";

/** Where operations come from. */
export const SOURCES = ["mcp", "scenario", "langfuse", "overseer_correction", "workflow", "inbox"] as const;
export type Source = (typeof SOURCES)[number];

const words = v.pipe(
  v.nullish(v.string("expected text"), ""),
  v.transform((text) => text.toWellFormed()),
);
const optionalWords = v.optional(v.nullable(v.string("expected text")));
const optionalFlag = v.optional(v.nullable(v.boolean("expected true or false")));

const Given = v.looseObject(
  {
    id: v.optional(v.nullable(v.pipe(v.string("expected text"), v.maxLength(256, "expected at most 256 characters")))),
    timestamp: v.optional(
      v.nullable(
        v.pipe(
          v.string("expected a time such as 2026-01-31T12:00:00Z"),
          v.check(
            (text) => /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text) && !Number.isNaN(Date.parse(text)),
            "expected a time such as 2026-01-31T12:00:00Z",
          ),
        ),
      ),
    ),
    endpoint: v.pipe(
      v.string("expected the name of what was called"),
      v.check((text) => text.trim() !== "", "expected the name of what was called, found nothing"),
      v.maxLength(4096, "expected at most 4096 characters"),
    ),
    source: v.pipe(
      v.nullish(v.string("expected text"), ""),
      v.transform((text) => text.trim() || "mcp"),
      v.picklist(SOURCES, `expected one of ${SOURCES.join(", ")}`),
    ),
    success: optionalFlag,
    ok: optionalFlag,
    duration_ms: v.optional(v.nullable(v.pipe(v.number("expected milliseconds"), v.minValue(0, "expected 0 or more")))),
    audit_duration_ms: v.optional(
      v.nullable(v.pipe(v.number("expected milliseconds"), v.minValue(0, "expected 0 or more"))),
    ),
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
    count: v.optional(v.nullable(v.number("expected a number"))),
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
  const parsed = v.safeParse(Given, data);
  if (!parsed.success) {
    return {
      broken: parsed.issues.map((issue) => ({ field: v.getDotPath(issue) ?? "", error: wording(issue) })),
    };
  }
  const { ok, audit_duration_ms, one_liner, success, duration_ms, output_summary, ...others } = parsed.output;
  const { timestamp, endpoint, source, error, id, ...rest } = others;
  const failed = typeof error === "string" && error.trim() !== "";
  const operation = {
    ...(id ? { id } : {}),
    timestamp: timestamp ?? new Date(now).toISOString(),
    endpoint,
    source,
    success: success ?? ok ?? !failed,
    duration_ms: duration_ms ?? audit_duration_ms ?? 0,
    output_summary: output_summary ?? one_liner ?? "",
    ...(failed ? { error } : {}),
    ...withoutNulls(rest),
  };
  return { operation: operation as Operation };
}

function wording(issue: v.BaseIssue<unknown>): string {
  // valibot's own words for a missing key name types, not what is expected.
  return issue.message.startsWith("Invalid") ? "is required" : issue.message;
}

function withoutNulls(fields: Record<string, unknown>): Record<string, unknown> {
  const known = Given.entries as Record<string, unknown>;
  return Object.fromEntries(
    Object.entries(fields).filter(([name, value]) => value !== undefined && (value !== null || !(name in known))),
  );
}

/** Whether a value is an operation as this program records them: for reading back what was written, much quicker than the schema. */
export function isRecorded(value: unknown): value is Operation {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
  const { endpoint, source, success, timestamp, duration_ms } = value as Record<string, unknown>;
  return (
    typeof endpoint === "string" &&
    endpoint.trim() !== "" &&
    typeof success === "boolean" &&
    typeof timestamp === "string" &&
    typeof duration_ms === "number" &&
    SOURCES.includes(source as Source)
  );
}
