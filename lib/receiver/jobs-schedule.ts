// When a job is expected: so long after its last ping, or by a cron expression in a time zone.
//
// croner reads the expression, and knows the changes of summer time: a time that is skipped comes with the change, one that comes
// twice counts once, and intervals (`*/30`) go on. It is loaded when the first job has an expression.

import { UsageError } from "../command-line.ts";
import { readDuration, span } from "../text.ts";

/** `every_ms`, or `cron` and `tz`; the others are null. */
export interface Schedule {
  every_ms: number | null;
  cron: string | null;
  /** A name of the IANA database. */
  tz: string | null;
}

/** The flags of a schedule. */
export interface ScheduleFlags {
  every?: string;
  schedule?: string;
  tz?: string;
}

const CRON = /^(\S+(\s+\S+){4}|@(hourly|daily|weekly|monthly|yearly|annually))$/;
const LONGEST_MS = 366 * 86_400_000;
/** A ping may be so early by the sender's clock, and still counts for the time that it is meant for. */
const EARLY_MS = 60_000;

/** The schedule that the flags give; null where they give none. @throws UsageError. */
export async function readSchedule({ every, schedule, tz }: ScheduleFlags): Promise<Schedule | null> {
  if (every !== undefined && schedule !== undefined) throw new UsageError("give --every or --schedule, not both");
  if (tz !== undefined && schedule === undefined)
    throw new UsageError("--tz is for --schedule", "give --schedule, too");
  if (every !== undefined) return { every_ms: readSpan("every", every), cron: null, tz: null };
  if (schedule === undefined) return null;
  const zone = tz ?? Intl.DateTimeFormat().resolvedOptions().timeZone;
  const cron = { every_ms: null, cron: schedule.trim(), tz: readZone(zone) };
  const wrong = (why: string) =>
    new UsageError(`--schedule "${schedule}" ${why}`, 'minute, hour, day, month and weekday, such as "0 3 * * *"');
  if (!CRON.test(cron.cron)) throw wrong("is not a cron expression of five fields");
  const next = await expectedAfter(cron, Date.now()).catch((error: Error) => {
    throw wrong(`is not a cron expression: ${error.message.replace(/^CronPattern: /, "")}`);
  });
  if (next === null) throw wrong("never comes");
  return cron;
}

/** A flag's duration in milliseconds. @throws UsageError. */
export function readSpan(flag: string, text: string): number {
  const ms = readDuration(text);
  if (ms !== null && ms >= 1000 && ms <= LONGEST_MS) return ms;
  throw new UsageError(`--${flag} "${text}" is not a duration from 1s to 366d`, "such as 5m, 24h or 7d");
}

function readZone(name: string): string {
  try {
    return new Intl.DateTimeFormat("en", { timeZone: name }).resolvedOptions().timeZone;
  } catch {
    throw new UsageError(
      `--tz "${name}" is not a time zone`,
      "such as Europe/Berlin; timedatectl list-timezones shows them",
    );
  }
}

/** When the next ping is expected after one at `at`, in milliseconds since 1970; null where none will be. */
export async function expectedAfter({ every_ms, cron, tz }: Schedule, at: number): Promise<number | null> {
  if (every_ms !== null) return at + every_ms;
  const { Cron } = await import("croner");
  const next = new Cron(cron!, { timezone: tz! }).nextRun(new Date(at + EARLY_MS));
  return next?.getTime() ?? null;
}

/** `every 1d`, `at "0 3 * * *" (Europe/Berlin)`. */
export function scheduleText({ every_ms, cron, tz }: Schedule): string {
  return every_ms === null ? `at "${cron}" (${tz})` : `every ${span(every_ms)}`;
}
