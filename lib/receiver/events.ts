// Events: what was told, in order. The outbox tells each: lib/outbox.ts. A quiet one is in the log and in /v1/events, and is no
// line in the inbox.

import { randomInt } from "node:crypto";
import { EventEmitter } from "node:events";
import type { Log } from "../log.ts";
import { atMostEvery } from "../loop.ts";
import { type OutboxEvent, type Untold, derivedId } from "../outbox.ts";
import { ALERTS, type AlertType, type Severity } from "./alerts.ts";
import type { Queries, Value } from "../database.ts";
import { type Filter, narrowed } from "./filter.ts";
import { RESTORE_HINT } from "./sqlite.ts";
import { type Store, getNote, setNote } from "./store.ts";

/** The types of events: those of alerts, their ends, and `alert.flapping`. */
export type EventType = AlertType | `${string}.recovered` | "alert.flapping";

/** The event that ends alerts of a type: `disk.recovered` for all of `disk`. */
export function recoveredType(type: AlertType): EventType {
  return `${type.split(".")[0]!}.recovered`;
}

const TYPES = Object.keys(ALERTS) as AlertType[];
export const EVENT_TYPES: readonly EventType[] = [
  ...new Set<EventType>([...TYPES, ...TYPES.map(recoveredType), "alert.flapping"]),
].toSorted();

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
  /** The container, disk, unit and so on, where it is about one. */
  subject: string | null;
  text: string;
  /** 1 where it is no line in the inbox. */
  quiet: 0 | 1;
}

/** What an event says. */
export interface Happening {
  host?: number | null;
  job?: number | null;
  type: EventType;
  severity: Severity;
  subject?: string | null;
  text: string;
  at: number;
  quiet?: boolean;
}

/** Stores an event. */
export async function note(tx: Queries, happening: Happening): Promise<void> {
  const { at, type, severity, host = null, job = null, subject = null, text, quiet = false } = happening;
  await tx.run(
    "INSERT INTO events (at, type, severity, host, job, subject, text, quiet) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    [at, type, severity, host, job, subject, text, quiet ? 1 : 0],
  );
}

const OUTBOX_BATCH = 100;
const COLUMNS = `e.id, e.at, e.type, e.severity, h.name AS host, j.name AS job, e.subject, e.text, e.quiet
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
  const skipped = SKIPPED + randomInt(2 ** 28);
  const made = crypto.randomUUID();
  const instance = await store.write(async (tx) => {
    const noted = await getNote(tx, "instance");
    await (noted === null ? setNote(tx, "instance", made) : store.skip(tx, "events", skipped));
    return noted ?? made;
  });
  let damageTold = false;
  /** The number of the last event in the log. */
  let logged = 0;
  const untold = async (): Promise<Untold[]> => {
    if (store.damage !== null && !damageTold) {
      log.error("the store is damaged", { error: new Error(store.damage) });
      const mark = async (): Promise<void> => void (damageTold = true);
      return [{ event: damageEvent(store.dir, store.damage), mark }];
    }
    const rows = await store.read.all<EventRow>(
      `SELECT ${COLUMNS} WHERE e.told_at IS NULL ORDER BY e.id LIMIT ${OUTBOX_BATCH}`,
    );
    for (const { id, type, severity, text } of rows) {
      if (id > logged) log[severity === "info" ? "info" : "warn"](text, { event: type });
      logged = Math.max(logged, id);
    }
    const loud = rows.filter(({ quiet }) => quiet === 0);
    const [last] = rows.slice(-1);
    if (last && loud.length === 0) {
      await store.write((tx) => markTold(tx, last.id), []);
      return untold();
    }
    return loud.map(({ id, at, type, severity, text }) => {
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
        mark: () => store.write((tx) => markTold(tx, id), []),
      };
    });
  };
  return untold;
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

/** Events that pass a filter, newest first. */
export function eventsBefore(db: Queries, { limit, ...filter }: Filter & { limit: number }): Promise<EventRow[]> {
  const { where, values } = narrowed("e", filter);
  const text = `SELECT ${COLUMNS} WHERE ${where} ORDER BY e.id DESC LIMIT $${values.length + 1}`;
  return db.all<EventRow>(text, [...values, limit]);
}

/** The number after the last event before a time. */
export async function numberAt(db: Queries, at: number): Promise<number> {
  const last = await db.one<{ id: number }>("SELECT id FROM events WHERE at < $1 ORDER BY at DESC, id DESC LIMIT 1", [
    at,
  ]);
  return (last?.id ?? 0) + 1;
}

/** The number of the newest event; 0 where there is none. */
export async function newestEvent(db: Queries): Promise<number> {
  return (await db.one<{ id: number | null }>("SELECT MAX(id) AS id FROM events"))?.id ?? 0;
}

/**
 * Emits "event" when there may be a new one: wakes the loops that tell them and the streams that show them. Emits "change" when anything
 * was taken: wakes the open pages. Both also for what another receiver took.
 */
export type News = EventEmitter<{ event: []; change: [] }>;
const NEWS = ["event", "change"] as const;

/** Other receivers hear of many things that were taken together, so often at most, in milliseconds. */
const HINT_MS = 200;

export function createNews(store: Store): News {
  const news: News = new EventEmitter<{ event: []; change: [] }>().setMaxListeners(0);
  if (store.isFile) return news;
  let isOthers = false;
  store.onHint((said) => {
    isOthers = true;
    for (const what of NEWS) if (said === what || said === null) news.emit(what);
    isOthers = false;
  });
  for (const what of NEWS) {
    const hint = atMostEvery(HINT_MS, () => store.hint(what));
    news.on(what, () => {
      if (!isOthers) hint();
    });
  }
  return news;
}
