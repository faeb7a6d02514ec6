// One line of log a call, to stderr: text for people, or JSON (--json-log). In the journal each line carries its priority.
//
// A line is a line whatever is in it: line breaks and control characters (terminal sequences too) are escaped, and what
// is too long for journald is cut. Logging never stops a daemon: a closed or full stderr loses the line, nothing else.

import { fstatSync, writeSync } from "node:fs";

/** What a line carries beside its message. Undefined values are left out; an Error shows the messages of its chain. */
export type Fields = Record<string, unknown>;

/** How much a line matters, least first. */
export const LEVELS = ["debug", "info", "warn", "error"] as const;
export type Level = (typeof LEVELS)[number];

/** One function a level. */
export type Log = Record<Level, (msg: string, fields?: Fields) => void>;

/** The priorities of syslog(3), which journald takes from a line's start. */
const PRIORITIES: Record<Level, number> = { error: 3, warn: 4, info: 6, debug: 7 };

/** What repeats is logged again after so long, in milliseconds. */
const AGAIN_MS = 60_000;
/** So many kinds are remembered: a client that changes its address with each request must not fill the memory. */
const MOST_KINDS = 10_000;

/** Longest text of one value, in characters: journald splits lines at 48 KiB by default (LineMax=). */
const LONGEST_TEXT = 16_384;

/**
 * A log whose lines below `level` are dropped.
 *
 * Text: `12:03:04 info  collector ready listen=127.0.0.1:18790` (UTC); in the journal, which has the time, the level and the
 * program itself, `ready listen=127.0.0.1:18790`. JSON: `{"ts","level","role","msg",…fields}`, a field of one of these four
 * names as `field_<name>`. `write` takes each line without its newline (default: stderr).
 */
export function createLog(options: {
  role: string;
  json: boolean;
  level: Level;
  write?: (line: string, level: Level) => void;
}): Log {
  const { role, json, level, write = writeStderr } = options;
  const format = json ? formatJson : write === writeStderr && isJournal() ? formatFields : formatText;
  const at =
    (own: Level) =>
    (msg: string, fields: Fields = {}): void => {
      if (LEVELS.indexOf(own) < LEVELS.indexOf(level)) return;
      write(format({ ts: new Date().toISOString(), level: own, role, msg }, fields), own);
    };
  return { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
}

export type Seldom = ReturnType<typeof seldom>;

/** A log for trouble that repeats: a line of one `kind` is logged at most once a minute, so that an outage can't fill the journal. */
export function seldom(log: Log) {
  const loggedAt = new Map<string, number>(); // the oldest first
  const at = (level: "warn" | "error") => (kind: string, msg: string, fields?: Fields) => {
    const now = performance.now();
    if (now - (loggedAt.get(kind) ?? Number.NEGATIVE_INFINITY) < AGAIN_MS) return;
    loggedAt.delete(kind);
    loggedAt.set(kind, now);
    for (const [oldest, at] of loggedAt) {
      if (loggedAt.size <= MOST_KINDS && now - at < AGAIN_MS) break;
      loggedAt.delete(oldest);
    }
    log[level](msg, fields);
  };
  return { warn: at("warn"), error: at("error") };
}

/** The messages of an error and of its causes, `what failed: why: why that`. Anything thrown will do; endless chains are cut. */
export function errorChain(error: unknown): string {
  const messages: string[] = [];
  let current = error;
  while (current !== undefined && current !== null && messages.length < 8) {
    if (!(current instanceof Error)) {
      messages.push(asText(current));
      break;
    }
    const among = current instanceof AggregateError ? ` (${current.errors.map(errorChain).join("; ")})` : "";
    messages.push((current.message || current.name) + among);
    current = current.cause;
  }
  return messages.join(": ");
}

interface Head {
  ts: string;
  level: Level;
  role: string;
  msg: string;
}

function formatText(head: Head, fields: Fields): string {
  const { ts, level, role } = head;
  return `${ts.slice(11, 19)} ${level.padEnd(5)} ${role} ${formatFields(head, fields)}`;
}

function formatFields({ msg }: Head, fields: Fields): string {
  let line = clip(msg);
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue;
    const text = asText(value);
    line += ` ${name}=${/^[^\s"=\p{Cc}\u2028\u2029]+$/u.test(text) ? text : JSON.stringify(text)}`;
  }
  return escapeControls(line);
}

function formatJson(head: Head, fields: Fields): string {
  const record: Record<string, unknown> = { ...head, msg: clip(head.msg) };
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) record[Object.hasOwn(head, name) ? `field_${name}` : name] = asJson(value);
  }
  return escapeControls(JSON.stringify(record));
}

/** A value as one text; structures as compact JSON. */
function asText(value: unknown): string {
  const json = asJson(value);
  return typeof json === "string" ? json : JSON.stringify(json);
}

/** A value as what JSON.stringify takes without throwing: errors as their chain, what can't be put into JSON as text. */
function asJson(value: unknown): unknown {
  if (typeof value === "string") return clip(value);
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value);
  if (typeof value === "boolean" || value === null) return value;
  if (value instanceof Error) return clip(errorChain(value));
  if (typeof value === "bigint" || typeof value === "symbol") return String(value);
  if (typeof value !== "object") return `[${typeof value}]`;
  try {
    const json = JSON.stringify(value, (_, inner: unknown) => {
      if (inner instanceof Error) return errorChain(inner);
      return typeof inner === "bigint" ? String(inner) : inner;
    });
    return json.length > LONGEST_TEXT ? clip(json) : (JSON.parse(json) as unknown);
  } catch {
    return "[unprintable]"; // circular, or its own toJSON threw: the line is worth more than the field
  }
}

function clip(text: string): string {
  return text.length > LONGEST_TEXT ? `${text.slice(0, LONGEST_TEXT)}… (${text.length} characters)` : text;
}

/** Escapes, as JSON does, what ends a line or steers a terminal. Within a JSON text it only ever meets the inside of strings. */
function escapeControls(text: string): string {
  return text.replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, (character) => {
    const escaped = JSON.stringify(character).slice(1, -1);
    return escaped === character ? `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}` : escaped;
  });
}

let journal: boolean | undefined;

/** Whether stderr is the journal: $JOURNAL_STREAM names its device and inode, systemd.exec(5). */
function isJournal(): boolean {
  if (journal !== undefined) return journal;
  try {
    const { dev, ino } = fstatSync(2);
    journal = process.env["JOURNAL_STREAM"] === `${dev}:${ino}`;
  } catch {
    journal = false; // stderr is closed
  }
  return journal;
}

/** Writes a whole line to stderr or gives it up. A pipe that is full for now (EAGAIN) is waited for, up to about a second. */
export function writeStderr(line: string, level: Level = "error"): void {
  const bytes = Buffer.from(`${isJournal() ? `<${PRIORITIES[level]}>` : ""}${line}\n`);
  let offset = 0;
  for (let attempts = 0; offset < bytes.length && attempts < 500;) {
    try {
      offset += writeSync(2, bytes, offset);
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) return;
      attempts++;
      Bun.sleepSync(2);
    }
  }
}
