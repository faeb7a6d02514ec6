// Whether an operation failed, from the fields by which other programs say so: `isError: true`, `status: "failed"`, `level: "error"`,
// `exit_code: 1`, `status_code: 500` and their like. `success` and `ok` win; operation.ts reads those.

/** Whether the value of such a field means a failure; null when the value isn't understood. */
type Reading = (value: unknown) => boolean | null;

const FAILED =
  /^(fail(ed|ure|ing)?|err(or(ed)?)?|fatal|crit(ical)?|alert|emerg(ency)?|severe|panic(ked)?|exception|crash(ed)?|abort(ed)?|time(d[ _-]?)?out|denied|rejected|unhealthy|broken|ko|no|false|bad)$/;
const NOT = /^(no|not|non|without|false|free)$/;
const FINE =
  /^(ok(ay)?|success(ful)?|succeeded|pass(ed)?|complete[d]?|done|finished|healthy|good|yes|true|info(rmation(al)?)?|debug|trace|verbose|notice|warn(ing)?|log|default|running|started|pending|queued|skipped|unchanged|changed|created|accepted)$/;

/** Beyond so many characters it is a text, and no state. */
const LONGEST_STATE = 60;

const plain = (text: string): boolean | null => (FAILED.test(text) ? true : FINE.test(text) ? false : null);
const word: Reading = (value) => {
  if (typeof value === "boolean") return !value;
  if (typeof value === "number") return code(value);
  const text = typeof value === "string" ? value.trim().toLowerCase() : "";
  if (/^\d{3}\b/.test(text)) return code(Number.parseInt(text, 10));
  const said = plain(text);
  if (said !== null || text.length > LONGEST_STATE) return said;
  // startup_failure, "failed with exit code 1"; not "no error"
  const words = text.split(/[^a-z]+/).filter(Boolean);
  return !words.some((one) => NOT.test(one)) && words.some((one) => FAILED.test(one)) ? true : null;
};
/** Of a span of OpenTelemetry it is an object, whose code is 0 (unset), 1 (ok), 2 (error), or their names. */
const status: Reading = (value) => {
  if (typeof value !== "object" || value === null || !("code" in value)) return word(value);
  const { code: of } = value;
  return typeof of === "number" ? ([false, false, true][of] ?? null) : word(String(of).replace(/^STATUS_CODE_/, ""));
};
const failing: Reading = (value) =>
  typeof value === "boolean" ? value : value === 0 || value === 1 ? value === 1 : opposite(word(value));
const exit: Reading = (value) => {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof number === "number" && Number.isInteger(number) ? number !== 0 : null;
};
/** A status of HTTP: a server's error is a failure, a client's may be what was asked for. */
const code: Reading = (value) => {
  const number = typeof value === "string" ? Number.parseInt(value, 10) : value;
  return typeof number === "number" && number >= 100 && number < 600 ? number >= 500 : null;
};
/** What is there only after a failure. */
const trace: Reading = (value) => (typeof value === "string" ? value.trim() !== "" : typeof value === "object");
const list: Reading = (value) => (Array.isArray(value) ? value.length > 0 : value === "" ? false : null);
/** Of a number for severity no two programs mean the same. */
const level: Reading = (value) => (typeof value === "string" && !/^\d/.test(value) ? word(value) : null);
/** The result of a tool of the Model Context Protocol. */
const result: Reading = (value) => {
  if (typeof value !== "object" || value === null)
    return typeof value === "string" ? (plain(value.trim().toLowerCase()) ?? false) : null;
  const isError = (value as Record<string, unknown>)["isError"] ?? (value as Record<string, unknown>)["is_error"];
  return isError === undefined ? false : failing(isError);
};

/** By the field's name in lower case without `_` and `-`. */
const READINGS = new Map<string, Reading>([
  ...["iserror", "haserror", "failed", "failure", "errored", "timedout", "crashed"].map(
    (name) => [name, failing] as const,
  ),
  ...["success", "ok", "succeeded", "successful", "passed", "phase", "outcome", "conclusion"].map(
    (name) => [name, word] as const,
  ),
  ...["level", "severity", "loglevel", "severitytext", "levelname"].map((name) => [name, level] as const),
  ...["exitcode", "exitstatus", "returncode", "rc"].map((name) => [name, exit] as const),
  ...["statuscode", "httpstatus", "httpstatuscode", "httpcode"].map((name) => [name, code] as const),
  ...["exception", "excinfo", "traceback", "stacktrace", "errormessage", "errmsg"].map(
    (name) => [name, trace] as const,
  ),
  ["status", status],
  ["errors", list],
  ["result", result],
]);

function opposite(value: boolean | null): boolean | null {
  return value === null ? null : !value;
}

/**
 * Reads the outcome from the fields of an operation that have no meaning of their own.
 * @returns whether one of them says that it failed, and a sentence for each that isn't understood.
 */
export function outcomeOf(given: Record<string, unknown>): { failed: boolean; warnings: string[] } {
  let failed = false;
  const warnings: string[] = [];
  for (const field of Object.keys(given)) {
    // Most names are none of these, and this is called for every operation.
    if (field.length > 16 || given[field] === null) continue;
    const reading = READINGS.get(field.toLowerCase().replace(/[_-]/g, ""));
    if (reading === undefined) continue;
    const said = reading(given[field]);
    if (said === null) warnings.push(`${field}: not understood as success or failure; send "success": true or false`);
    else failed ||= said;
  }
  return { failed, warnings };
}
