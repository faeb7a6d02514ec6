// The inbox: one file a recipient, one event a line, written by every role and by anything that can append a line.
//
//   <inbox_dir>/<recipient>.inbox     the events (see `formatEvent`); appended through lib/journal.ts
//   <inbox_dir>/<recipient>.mark      what the agent was shown (lib/mark.ts)
//   <inbox_dir>/.picket/              what the writers keep for themselves: intents and the ledger of delivered ids
//
// Exactly once: an event whose id is derived from what caused it (a delivery, a drop) is written by `deliverOnce`.
// An id counts as delivered when it is in the ledger or in the inbox itself. The ledger is written after the inbox and
// synced only once in 16 MiB of events: whatever a crash takes from it is still in the inbox's last 64 MiB, which are
// read before the first delivery to a recipient. So a second sync per event isn't needed, and a reader that takes the inbox
// away doesn't bring old events back.

import { statSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import * as v from "valibot";
import { NAME_SEGMENT } from "./config.ts";
import { cannotWrite, makeFolder } from "./files.ts";
import { type Durability, Journal, healFolder } from "./journal.ts";
import { Ledger } from "./ledger.ts";
import { replay } from "./replay.ts";

export const EVENT_TYPES = ["INFO", "NEEDS-RESPONSE", "ACK-REQUEST"] as const;
export const PRIORITIES = ["normal", "urgent"] as const;
export type EventType = (typeof EVENT_TYPES)[number];
export type Priority = (typeof PRIORITIES)[number];

/** One line of an inbox, keys in the order of the file. */
export interface InboxEvent {
  /** RFC 3339, UTC, milliseconds. */
  ts: string;
  /** 32 lower-case hex digits. */
  id: string;
  /** Who writes. */
  from: string;
  /** The recipient. */
  to: string;
  type: EventType;
  priority: Priority;
  payload: string;
  /** A path: readers hold the event back until it exists. */
  sentinel?: string | undefined;
  /** Where it came from: `drop-folder:<file name>`, `webhook:<route path>`. */
  source?: string | undefined;
}

/** What a caller knows of an event; `ts` and `id` are filled in where they are absent. */
type EventDraft = Omit<InboxEvent, "ts" | "id"> & { ts?: string | undefined; id?: string | undefined };

/** The schema of a line, for readers: lenient where other programs write (only `payload` has to be there). */
export const EventLine = v.looseObject({
  ts: v.fallback(v.string(), ""),
  id: v.fallback(v.string(), ""),
  from: v.fallback(v.string(), ""),
  to: v.fallback(v.string(), ""),
  type: v.fallback(v.string(), "INFO"),
  priority: v.fallback(v.pipe(v.string(), v.toLowerCase()), "normal"),
  payload: v.string(),
  sentinel: v.fallback(v.optional(v.string()), undefined),
  source: v.fallback(v.optional(v.string()), undefined),
});

/** Fills in time and id; keeps given ones. */
export function completeEvent(draft: EventDraft): InboxEvent {
  return { ...draft, ts: draft.ts ?? new Date().toISOString(), id: draft.id ?? randomId() };
}

/**
 * The line of an event, without its line break: compact JSON, keys in their fixed order, empty optional ones left out. Half of a surrogate pair
 * becomes U+FFFD: JSON can escape it (`\ud83d`), but not every reader takes that, and jq 1.6 stops at such a line.
 */
export function formatEvent(event: InboxEvent): string {
  const { ts, id, from, to, type, priority, payload, sentinel, source } = event;
  return JSON.stringify({
    ts,
    id,
    from: from.toWellFormed(),
    to,
    type,
    priority,
    payload: payload.toWellFormed(),
    sentinel: sentinel?.toWellFormed() || undefined,
    source: source?.toWellFormed() || undefined,
  });
}

let pool = "";
let poolAt = 0;

/** 128 random bits in hex. Drawn in blocks: one call into the kernel's generator for many ids. */
export function randomId(): string {
  if (poolAt >= pool.length) {
    pool = randomBytes(4096).toString("hex");
    poolAt = 0;
  }
  poolAt += 32;
  return pool.slice(poolAt - 32, poolAt);
}

/** Where a recipient's events lie. Throws on a name that is not a single plain segment. */
export function inboxPath(dir: string, recipient: string): string {
  if (!NAME_SEGMENT.test(recipient)) throw new Error(`find the inbox of "${recipient}": not a valid name`);
  return join(dir, `${recipient}.inbox`);
}

/** The folder for the writers' own files. */
export function statePath(dir: string): string {
  return join(dir, ".picket");
}

export interface InboxOptions {
  dir: string;
  durability: Durability;
  /** How long a derived id is remembered, in hours. */
  dedupeHours: number;
  /** Milliseconds since 1970. */
  now?: () => number;
  /** Told once a ledger line could not be written: the inbox still remembers it. */
  onLedgerError?: (error: Error) => void;
}

/** `written`: appended now. `already`: this id was delivered to this recipient before; nothing was appended. */
export type Delivery = "written" | "already";

/** All inboxes of a folder, for writing. Errors are those of the file system, with their `code`. */
export class InboxWriter {
  readonly dir: string;
  #options: InboxOptions;
  #journals = new Map<string, Journal>();
  #pending = new Map<string, Promise<Delivery>>();
  #ledger: Ledger;
  /** By recipient: the search of the inbox for ids that the ledger may have lost. */
  #tails = new Map<string, Promise<void>>();

  constructor(options: InboxOptions) {
    this.dir = options.dir;
    this.#options = options;
    const { dir, dedupeHours: hours, now, onLedgerError: onError } = options;
    this.#ledger = new Ledger({ folder: statePath(dir), hours, now, onError });
  }

  /** Makes the folder, heals what a dead writer left, and reads the ledger. */
  async open(): Promise<void> {
    makeFolder(this.dir, 0o755);
    healFolder(statePath(this.dir), this.dir);
    await this.#ledger.load();
  }

  /** Appends; resolves when durable. */
  deliver(event: InboxEvent): Promise<void> {
    return this.#append(event.to, formatEvent(event));
  }

  /** Appends unless this id was delivered to this recipient within `dedupeHours`. Simultaneous calls share one append. */
  deliverOnce(event: InboxEvent): Promise<Delivery> {
    const key = `${event.to}/${event.id}`;
    const under = this.#pending.get(key);
    if (under) return under.then(() => "already");
    const work = this.#writeOnce(event, key);
    this.#pending.set(key, work);
    const forget = () => this.#pending.delete(key);
    work.then(forget, forget);
    return work;
  }

  /** Remembers one more id of an event that was delivered, as long as its own. */
  remember(recipient: string, id: string): void {
    this.#ledger.add(`${recipient}/${id}`, 0);
  }

  /** When an id was delivered or remembered, in milliseconds since 1970. */
  rememberedAt(recipient: string, id: string): number | undefined {
    return this.#ledger.at(`${recipient}/${id}`);
  }

  /** Resolves when everything handed over so far is durable or refused. */
  async settled(): Promise<void> {
    await Promise.all([...this.#journals.values()].map((journal) => journal.settled()));
  }

  /** Why nothing can be written, in words; null where it can. */
  get problem(): string | null {
    return cannotWrite(this.dir);
  }

  async check(): Promise<void> {}

  /** Finishes what is under way and closes all files. */
  async close(): Promise<void> {
    await Promise.all([...this.#journals.values()].map((journal) => journal.close()));
    await this.#ledger.close();
  }

  /** How many ids are remembered. */
  get remembered(): number {
    return this.#ledger.size;
  }

  /** The window of `deliverOnce`. */
  get dedupeHours(): number {
    return this.#ledger.hours;
  }

  set dedupeHours(hours: number) {
    this.#ledger.hours = hours;
  }

  async #writeOnce(event: InboxEvent, key: string): Promise<Delivery> {
    await this.#tailRead(event.to);
    if (isDrop(event) ? this.#ledger.at(key) !== undefined : this.#ledger.has(key)) return "already";
    const line = formatEvent(event);
    await this.#append(event.to, line);
    this.#ledger.add(key, line.length);
    return "written";
  }

  #tailRead(recipient: string): Promise<void> {
    let reading = this.#tails.get(recipient);
    if (!reading) {
      reading = this.#readTail(recipient);
      reading.catch(() => this.#tails.delete(recipient));
      this.#tails.set(recipient, reading);
    }
    return reading;
  }

  /** What the ledger lost in a crash is in the last part of the inbox. */
  async #readTail(recipient: string): Promise<void> {
    const path = inboxPath(this.dir, recipient);
    const found = statSync(path, { throwIfNoEntry: false });
    if (!found?.isFile()) return;
    const { oldest } = this.#ledger;
    await replay({
      path,
      // Half a line, if that is where it begins, is no JSON.
      from: Math.max(0, found.size - TAIL_BYTES),
      record: (value) => {
        const { id, ts, source } = (value ?? {}) as Partial<InboxEvent>;
        if (typeof id !== "string" || typeof source !== "string") return;
        // A drop that was delivered but not deleted counts as delivered however old it is: its collector may be restarted late.
        const at = isDrop({ source }) ? Number.POSITIVE_INFINITY : Date.parse(String(ts));
        if (at >= oldest) this.#ledger.recall(`${recipient}/${id}`, at);
      },
    });
  }

  #journal(recipient: string): Journal {
    const journal =
      this.#journals.get(recipient) ??
      new Journal({
        path: inboxPath(this.dir, recipient),
        durability: this.#options.durability,
        intents: statePath(this.dir),
      });
    // The one that was used last comes last.
    this.#journals.delete(recipient);
    this.#journals.set(recipient, journal);
    return journal;
  }

  #append(recipient: string, line: string): Promise<void> {
    const appended = this.#journal(recipient).append(line);
    return this.#journals.size <= MOST_OPEN ? appended : appended.finally(() => this.#closeIdle());
  }

  /** Closes the journals that were used least recently: drops can name any number of recipients, and descriptors are few. */
  #closeIdle(): void {
    for (const [recipient, journal] of this.#journals) {
      if (this.#journals.size <= MOST_OPEN) return;
      if (journal.busy) continue;
      this.#journals.delete(recipient);
      // Every append was acknowledged or refused already, so no caller waits for this.
      journal.close().catch(() => {});
    }
  }
}

/** So many inboxes stay open, with two descriptors each; more only while they are written to. */
const MOST_OPEN = 64;
/** How much of an inbox is searched for ids that the ledger may have lost: far more than a second of the highest rate. */
const TAIL_BYTES = 64 << 20;

/** Whether the window doesn't matter: `dedupe_hours` is about deliveries, a drop that was delivered is over. */
export function isDrop({ source }: Pick<InboxEvent, "source">): boolean {
  return source?.startsWith("drop-folder:") === true;
}
