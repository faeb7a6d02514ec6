// Tells what the alerts are: turns their beginnings, levels, ends and reminders into events.
//
// Each look compares every subject (a type of alert at a host's or job's disk, container, …) with what was told of it (`told`), and
// tells the difference in the transaction that notes it as told: a kill tells nothing twice and loses nothing. All times are the
// receiver's running time (presence.ts), which stands still while it is away.
//
//   what begins or ends                told, in one event with all of its kind that do so until the group is closed
//   the same again within an hour      told once it has lasted for ten report intervals
//   the sixth change within an hour    told as flapping; then nothing until it has been still for half an hour
//   a critical one that stays open     told again after remind_hours, unless it is acknowledged
//   what ends before it was told       an alert, and no event; but a job's failure, which is told, and then its end
//
// A group is closed when nothing has joined it for a look (a quarter of the report interval, at most 15 s), or after two minutes. A paused host tells ends only.

import { duration } from "../text.ts";
import { ALERTS, type AlertType, type Severity, sameSubject } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { type EventType, note, recoveredType } from "./events.ts";
import type { Store } from "./store.ts";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const LONGEST_LOOK_MS = 15_000;
const LONGEST_GROUP_MS = 2 * MINUTE_MS;
const LASTING_INTERVALS = 10;
const FLAPPING_CHANGES = 6;
const STILL_MS = 30 * MINUTE_MS;
/** The most names in a text. */
const MOST_NAMES = 10;

/** A subject: its open alert, or else its last one, and what was told. */
interface Subject {
  id: number;
  host: number | null;
  job: number | null;
  type: AlertType;
  subject: string;
  severity: Severity;
  level: number;
  text: string;
  figures: string | null;
  opened_ran: number;
  closed_ran: number | null;
  recovery: string | null;
  acknowledged: 0 | 1;
  name: string;
  interval: number;
  paused: 0 | 1;
  told_id: number | null;
  told_open: 0 | 1 | null;
  told_level: number;
  began: number | null;
  ended: number | null;
  reminded: number;
  flapping: number | null;
  steady: number | null;
}

type Change = "began" | "level" | "ended" | "flapping" | "steady" | "reminder";

/** What is to be told of a subject, and since when it may be. */
interface Due {
  subject: Subject;
  change: Change;
  since: number;
  /** Only of what is flapping: its changes within an hour, and the first of them. */
  changes?: { count: number; first: number };
}

export interface Look {
  /** Milliseconds since 1970. */
  now: number;
  /** The receiver's running time. */
  ran: number;
  /** Seconds between reports for a host that was told none yet. */
  interval: number;
  remindHours: number;
  /** More hosts are about to be offline: those that fall silent together are one event. */
  sinking: boolean;
}

/** One look. Gives the number of events that it stored. */
export async function announce(store: Store, look: Look): Promise<number> {
  const { read } = store;
  const fresh = await read.one("SELECT 1 FROM alerts WHERE changed_ran IS NULL LIMIT 1");
  if (!fresh && (await ready(read, look)).length === 0) return 0;
  return store.write(async (tx) => {
    await tx.run(
      `UPDATE alerts SET opened_ran = COALESCE(opened_ran, $1), changed_ran = $1,
         closed_ran = CASE WHEN closed_at IS NOT NULL THEN COALESCE(closed_ran, $1) END WHERE changed_ran IS NULL`,
      [look.ran],
    );
    let events = 0;
    for (const group of await ready(tx, look)) events += await tell(tx, group, look);
    return events;
  });
}

/** The groups that are closed. */
async function ready(db: Queries, look: Look): Promise<Due[][]> {
  const changes = await recentChanges(db, look.ran);
  const groups = Map.groupBy(
    (await subjects(db, look)).flatMap((subject) => dueOf(subject, changes(subject), look) ?? []),
    ({ subject: { type, closed_ran: closed, recovery }, change }) =>
      change === "ended" ? `${wellOf(type) ?? type} ${recovery === null}` : `${change} ${type} ${closed === null}`,
  );
  return [...groups.values()].filter((group) => {
    const intervals = group.map(({ subject }) => subject.interval);
    const lookMs = Math.min(look.interval * 250, ...intervals.map((interval) => interval * 250), LONGEST_LOOK_MS);
    const since = group.map((due) => due.since);
    const waits = look.sinking && group[0]!.subject.type === "host.offline" && group[0]!.change === "began";
    const still = !waits && look.ran - Math.max(...since) >= lookMs;
    return still || look.ran - Math.min(...since) >= LONGEST_GROUP_MS;
  });
}

const COLUMNS = `a.id, a.host, a.job, a.type, a.subject, a.severity, a.level, a.text, a.figures, a.opened_ran, a.closed_ran,
  a.recovery, a.acknowledged_at IS NOT NULL AS acknowledged, COALESCE(h.name, j.name) AS name,
  COALESCE(h.told_interval, $1) AS interval, COALESCE(h.paused_until, j.paused_until) IS NOT NULL AS paused, t.id AS told_id, t.open AS told_open, t.level AS told_level, t.began, t.ended, t.reminded,
  t.flapping, t.steady`;

/** The subjects that have an open alert, or of which something was told lately, and the jobs that failed and have succeeded since. */
async function subjects(db: Queries, { interval, ran }: Look): Promise<Subject[]> {
  const open = await db.all<Subject>(
    `SELECT ${COLUMNS} FROM alerts a LEFT JOIN hosts h ON h.id = a.host LEFT JOIN jobs j ON j.id = a.job
     LEFT JOIN told t ON ${sameSubject("t", "a")}
     WHERE a.closed_at IS NULL AND a.changed_ran IS NOT NULL AND a.type <> 'host.stale'`,
    [interval],
  );
  const over = await db.all<Subject>(
    `SELECT ${COLUMNS} FROM told t LEFT JOIN hosts h ON h.id = t.host LEFT JOIN jobs j ON j.id = t.job
     JOIN alerts a ON a.id = (SELECT MAX(b.id) FROM alerts b WHERE ${sameSubject("b", "t")})
     WHERE a.closed_ran IS NOT NULL`,
    [interval],
  );
  const missed = await db.all<Subject>(
    `SELECT ${COLUMNS} FROM alerts a JOIN jobs j ON j.id = a.job LEFT JOIN hosts h ON h.id = a.host
     LEFT JOIN told t ON ${sameSubject("t", "a")}
     WHERE a.changed_ran > $2 AND a.type = 'job.failed' AND a.closed_ran IS NOT NULL AND a.recovery IS NOT NULL AND t.id IS NULL
     AND a.id = (SELECT MAX(b.id) FROM alerts b WHERE b.host IS NULL AND b.job = a.job AND b.type = a.type)`,
    [interval, ran - HOUR_MS],
  );
  return [...open, ...over, ...missed];
}

/** How often each subject changed within the last hour, since it was last told to be steady. */
async function recentChanges(db: Queries, ran: number) {
  type Row = Pick<Subject, "host" | "job" | "type" | "subject" | "opened_ran" | "closed_ran">;
  const keyOf = ({ host, job, type, subject }: Row) => JSON.stringify([host, job, type, subject]);
  const rows = await db.all<Row>(
    "SELECT host, job, type, subject, opened_ran, closed_ran FROM alerts WHERE changed_ran > $1",
    [ran - HOUR_MS],
  );
  const all = Map.groupBy(rows, keyOf);
  return (subject: Subject) => {
    const from = Math.max(ran - HOUR_MS, subject.steady ?? Number.NEGATIVE_INFINITY);
    const times = (all.get(keyOf(subject)) ?? []).flatMap((row) => [row.opened_ran, row.closed_ran ?? from]);
    const recent = times.filter((time) => time > from);
    return { count: recent.length, first: Math.min(...recent) };
  };
}

/** What is to be told of a subject now; null where nothing is. */
function dueOf(subject: Subject, changes: { count: number; first: number }, look: Look): Due | null {
  const { opened_ran: opened, closed_ran: closed, told_open: told, began, ended, paused } = subject;
  const { ran } = look;
  const isOpen = closed === null;
  const changed = closed ?? opened;
  const due = (change: Change, since: number): Due | null => (ran >= since ? { subject, change, since } : null);
  /** What comes again within an hour has to last. */
  const lasting = (before: number | null): number =>
    before !== null && changed - before < HOUR_MS ? changed + LASTING_INTERVALS * subject.interval * 1000 : changed;
  if (paused && (isOpen || !told)) return null;
  if (subject.flapping !== null) return due("steady", changed + STILL_MS);
  if (changes.count >= FLAPPING_CHANGES) return { subject, change: "flapping", since: changed, changes };
  if (!isOpen && told) return due("ended", lasting(ended));
  // A job that fails and is run again at once has failed nevertheless. Where it was paused, `recovery` is null (jobs-ping.ts).
  const isMissed =
    subject.type === "job.failed" &&
    subject.recovery !== null &&
    Math.max(began ?? -Infinity, ended ?? -Infinity) < opened;
  if (!isOpen) return isMissed ? due("began", changed) : null;
  if (!told) return due("began", lasting(began));
  if (subject.level > subject.told_level) return { subject, change: "level", since: changed };
  if (subject.severity !== "critical" || subject.acknowledged) return null;
  return due("reminder", subject.reminded + look.remindHours * HOUR_MS);
}

/** Stores the event of a group, and that it was told; 0 where there is nothing to say. */
async function tell(tx: Queries, group: Due[], { now, ran }: Look): Promise<0 | 1> {
  for (const { subject, change } of group) await keepTold(tx, subject, change, ran);
  const event = eventOf(group, ran);
  if (event === null) return 0;
  const ofHost = new Set(group.map(({ subject: { host, job } }) => `${host} ${job}`)).size === 1;
  const { host, job, subject } = group[0]!.subject;
  await note(tx, {
    ...event,
    at: now,
    host: ofHost ? host : null,
    job: ofHost ? job : null,
    subject: group.length === 1 && subject !== "" ? subject : null,
  });
  return 1;
}

async function keepTold(tx: Queries, subject: Subject, change: Change, ran: number): Promise<void> {
  // What is told late is told as open: its end follows.
  const open = subject.closed_ran === null || change === "began";
  const begins = change === "began" || (change === "steady" && open);
  const ends = change === "ended" || (change === "steady" && !open);
  const { host, job, type, subject: name, told_id: id } = subject;
  const told = [
    open ? 1 : 0,
    open ? Math.max(subject.level, subject.told_level ?? 0) : 0,
    begins ? ran : subject.began,
    ends ? ran : subject.ended,
    begins || change === "level" || change === "reminder" ? ran : (subject.reminded ?? ran),
    change === "flapping" ? ran : null,
    change === "steady" ? ran : subject.steady,
  ];
  if (id === null) {
    await tx.run(
      `INSERT INTO told (open, level, began, ended, reminded, flapping, steady, host, job, type, subject)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
      [...told, host, job, type, name],
    );
    // What ended long ago has nothing to do with what comes.
    const old = "open = 0 AND flapping IS NULL AND COALESCE(ended, began) < $1";
    await tx.run(`DELETE FROM told WHERE ${old}`, [ran - HOUR_MS]);
  } else {
    await tx.run(
      `UPDATE told SET open = $1, level = $2, began = $3, ended = $4, reminded = $5, flapping = $6, steady = $7 WHERE id = $8`,
      [...told, id],
    );
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Words

function wellOf(type: AlertType): string | undefined {
  return (ALERTS[type] as { well?: string }).well;
}

function labelOf({ name, subject }: Subject): string {
  return subject === "" ? name : `${name}: ${subject}`;
}

/** What is said of a group; null where its end is not told. */
function eventOf(group: Due[], ran: number): { type: EventType; severity: Severity; text: string } | null {
  const { change, subject, changes } = group[0]!;
  const { type } = subject;
  const names = [...new Set(group.map((due) => labelOf(due.subject)))].toSorted();
  const only = names.length === 1 ? names[0]! : null;
  if (change === "flapping") {
    const what = type === "host.offline" ? "" : ` (${type})`;
    const text = `${only}${what} is flapping: changed ${changes!.count} times in ${duration(ran - changes!.first)}`;
    return {
      type: "alert.flapping",
      severity: "warning",
      text: only === null ? listed(names, `are flapping (${type})`) : text,
    };
  }
  const isOpen = subject.closed_ran === null || change === "began";
  const since = duration(ran - Math.min(...group.map((due) => due.subject.opened_ran)));
  const after = change === "steady" ? `, for ${duration(STILL_MS)} now, after flapping` : "";
  if (!isOpen) {
    const told = group.find((due) => due.subject.recovery !== null)?.subject.recovery ?? null;
    if (told === null && change !== "steady") return null;
    const text =
      only === null ? listed(names, wellOf(type) ?? `are no longer ${type}`) : (told ?? `${only}: ${type} is over`);
    return { type: recoveredType(type), severity: "info", text: text + after };
  }
  const critical = group.some((due) => due.subject.severity === "critical");
  const again = change === "reminder" ? `still, for ${since}: ` : "";
  const text = only === null ? listed(names, ALERTS[type].many) + silence(group) : subject.text;
  return { type, severity: critical ? "critical" : ALERTS[type].severity, text: again + text + after };
}

/** `12 hosts are offline: nas, pi, … and 2 more`. */
function listed(names: string[], what: string): string {
  const shown = names.length > MOST_NAMES ? names.slice(0, MOST_NAMES - 1) : names;
  const more = names.length - shown.length;
  return `${names.length} ${what}: ${shown.join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

/** For how long hosts that are offline have been silent, at the least. */
function silence(group: Due[]): string {
  const silent = group.map(({ subject }) => (JSON.parse(subject.figures ?? "{}") as { silent_ms?: number }).silent_ms);
  const known = silent.filter((ms) => ms !== undefined);
  return known.length === 0 ? "" : ` (no report for ${duration(Math.min(...known))})`;
}
