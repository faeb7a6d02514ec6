// Events (what happened, in order) and alerts (what is wrong now; at most one open for each host or job, type and subject).
//
// An event is stored in the transaction that changes what it tells of. The outbox tells it afterwards: lib/outbox.ts.

import { randomInt } from "node:crypto";
import { EventEmitter } from "node:events";
import type { Log } from "../log.ts";
import { type OutboxEvent, type Untold, derivedId } from "../outbox.ts";
import type { Queries, Value } from "./database.ts";
import { RESTORE_HINT } from "./sqlite.ts";
import { type Store, getNote, setNote } from "./store.ts";

type Severity = "info" | "warning" | "critical";

/** The types of events, and their severity. */
export const EVENTS = {
  "host.stale": "warning",
  "host.offline": "critical",
  "host.recovered": "info",
  "host.reports_refused": "warning",
  "host.twins": "warning",
  "host.uploads_failing": "warning",
  "host.uploads_silent": "warning",
  "host.unstamped": "warning",
  "container.unhealthy": "warning",
  "container.stopped": "warning",
  "container.restarting": "warning",
  "container.recovered": "info",
  "job.down": "critical",
  "job.failed": "critical",
  "job.recovered": "info",
} as const satisfies Record<string, Severity>;
export type EventType = keyof typeof EVENTS;

/** A row of `events`. Times in milliseconds since 1970. */
export interface EventRow {
  id: number;
  at: number;
  type: EventType;
  severity: Severity;
  /** The host's name, where it is about one. */
  host: string | null;
  /** The job's name, where it is about one. */
  job: string | null;
  /** The container, where it is about one. */
  subject: string | null;
  text: string;
}

/** A row of `alerts`. */
interface AlertRow {
  type: EventType;
  subject: string;
  severity: Severity;
  text: string;
  opened_at: number;
}

/** What an alert or an event is about. */
export type Whose = { host: number; job?: never } | { job: number; host?: never };

/** What happens. */
type Happening = Whose & {
  type: EventType;
  /** The container. */
  subject?: string;
  text: string;
  at: number;
};

/** Opens an alert and stores its event; false where one is open already. While the host or job is paused the alert is muted: pause.ts. */
export async function raise(tx: Queries, happening: Happening): Promise<boolean> {
  const { host = null, job = null, type, subject = "", text, at } = happening;
  const opened = await tx.one<{ muted: number }>(
    `INSERT INTO alerts (host, job, type, subject, severity, text, opened_at, muted)
     VALUES ($1, $2, $3, $4, $5, $6, $7, EXISTS (
       SELECT 1 FROM hosts WHERE id = $1 AND paused_until IS NOT NULL
       UNION ALL SELECT 1 FROM jobs WHERE id = $2 AND paused_until IS NOT NULL))
     ON CONFLICT DO NOTHING RETURNING muted`,
    [host, job, type, subject, EVENTS[type], text, at],
  );
  if (opened?.muted !== 0) return false;
  await note(tx, happening);
  return true;
}

/** Closes the open alerts of these types; gives the number of those that were told. */
export async function close(
  tx: Queries,
  { host, job, types, subject = "", at }: Whose & { types: readonly EventType[]; subject?: string; at: number },
): Promise<number> {
  let closed = 0;
  for (const type of types) {
    const told = await tx.all<{ muted: number }>(
      `UPDATE alerts SET closed_at = $1
       WHERE host IS $2 AND job IS $3 AND type = $4 AND subject = $5 AND closed_at IS NULL RETURNING muted`,
      [at, host ?? null, job ?? null, type, subject],
    );
    closed += told.filter(({ muted }) => muted === 0).length;
  }
  return closed;
}

/** Stores an event that has no alert. */
export async function note(tx: Queries, happening: Happening): Promise<void> {
  const { host = null, job = null, type, subject = null, text, at } = happening;
  await tx.run(
    "INSERT INTO events (at, type, severity, host, job, subject, text) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    [at, type, EVENTS[type], host, job, subject, text],
  );
}

/** The open alerts of a host, oldest first. */
export function openAlerts(db: Queries, host: number): Promise<AlertRow[]> {
  return db.all<AlertRow>(
    "SELECT type, subject, severity, text, opened_at FROM alerts WHERE host = $1 AND closed_at IS NULL ORDER BY id",
    [host],
  );
}

const OUTBOX_BATCH = 100;
const COLUMNS = `e.id, e.at, e.type, e.severity, h.name AS host, j.name AS job, e.subject, e.text
  FROM events e LEFT JOIN hosts h ON h.id = e.host LEFT JOIN jobs j ON j.id = e.job`;

/** A start skips between so many numbers and 2^28 more of them. */
const SKIPPED = 2 ** 20;

/**
 * The events that wait for the outbox. Each goes into the log, too: an operator looks there first. The mark is `told_at`.
 *
 * A restored backup lacks the last events, and nothing tells of files that were copied back by hand. Nevertheless no event is taken for
 * one that was lost: every start but the first skips a random span of numbers, so that a reader's last number is never another
 * event's. Ids for the inbox are derived from the store's own random name, the number, and what happened when.
 */
export async function eventSource(store: Store, log: Log): Promise<() => Promise<Untold[]>> {
  const noted = await getNote(store.read, "instance");
  const instance = noted ?? crypto.randomUUID();
  const skipped = SKIPPED + randomInt(2 ** 28);
  await store.write(async (tx) => {
    if (noted === null) return setNote(tx, "instance", instance);
    const changed = await tx.run("UPDATE sqlite_sequence SET seq = seq + $1 WHERE name = 'events'", [skipped]);
    if (changed === 0) await tx.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', $1)", [skipped]);
  });
  let damageTold = false;
  /** The number of the last event in the log. */
  let logged = 0;
  return async () => {
    if (store.damage !== null && !damageTold) {
      log.error("the store is damaged", { error: new Error(store.damage) });
      const mark = async (): Promise<void> => void (damageTold = true);
      return [{ event: damageEvent(store.dir, store.damage), mark }];
    }
    const rows = await store.read.all<EventRow>(
      `SELECT ${COLUMNS} WHERE e.told_at IS NULL ORDER BY e.id LIMIT ${OUTBOX_BATCH}`,
    );
    return rows.map(({ id, at, type, severity, text }) => {
      if (id > logged) log[severity === "info" ? "info" : "warn"](text, { event: type });
      logged = Math.max(logged, id);
      const urgent = severity === "critical";
      const ts = new Date(at).toISOString();
      return {
        event: {
          id: derivedId(`${instance}:${id}:${at}:${type}:${text}`),
          ts,
          urgent,
          text,
          source: `receiver:${type}`,
        },
        mark: () => store.write((tx) => markTold(tx, id)),
      };
    });
  };
}

/** Told without the store, once a day. */
function storeEvent(dir: string, what: "damaged" | "lost", text: string): OutboxEvent {
  const ts = new Date().toISOString();
  const id = derivedId(`${dir}:${what}:${ts.slice(0, 10)}`);
  return { id, ts, urgent: true, text: `${text}; ${RESTORE_HINT}`, source: `receiver:store.${what}` };
}

export function damageEvent(dir: string, damage: string): OutboxEvent {
  const what = "the receiver cannot rely on its store, and refuses what it cannot store (503)";
  return storeEvent(dir, "damaged", `${what}: ${damage}`);
}

export function lossEvent(dir: string): OutboxEvent {
  const what = `the store in "${dir}" is gone, and the receiver began an empty one: it knows no host and no token`;
  return storeEvent(dir, "lost", what);
}

async function markTold(tx: Queries, id: number): Promise<void> {
  await tx.run("UPDATE events SET told_at = $1 WHERE id <= $2 AND told_at IS NULL", [Date.now(), id]);
}

/** Events after a number or from a time on, oldest first; without both the newest ones. */
export async function listEvents(
  db: Queries,
  { after, from, limit }: { after: number | null; from: number | null; limit: number },
): Promise<EventRow[]> {
  const ask = (where: string, values: Value[]) => db.all<EventRow>(`SELECT ${COLUMNS} ${where}`, [...values, limit]);
  if (after !== null) return ask("WHERE e.id > $1 ORDER BY e.id LIMIT $2", [after]);
  if (from !== null) return ask("WHERE e.at >= $1 ORDER BY e.id LIMIT $2", [from]);
  return (await ask("ORDER BY e.id DESC LIMIT $1", [])).toReversed();
}

/** The number of the newest event; 0 where there is none. */
export async function newestEvent(db: Queries): Promise<number> {
  return (await db.one<{ id: number | null }>("SELECT MAX(id) AS id FROM events"))?.id ?? 0;
}

/** Emits "event" when there may be a new one: wakes the loops that tell them and the streams that show them. */
export type News = EventEmitter<{ event: [] }>;

export function createNews(): News {
  return new EventEmitter<{ event: [] }>().setMaxListeners(0);
}
