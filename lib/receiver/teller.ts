// Tells events to an inbox: each is one line there, in their order.
//
// Told at least once by the store's notes, and exactly once by the inbox: an event's id is derived from the store and its
// number, and an inbox takes an id once. An inbox that can't be written delays what is told and loses nothing.

import { InboxWriter } from "../inbox.ts";
import type { Log } from "../log.ts";
import { type EventRow, markTold, untold } from "./alerts.ts";
import { type Store, getNote, setNote } from "./store.ts";

/** Whom events are told. */
export interface Notify {
  inbox_dir: string;
  recipient: string;
  /** The `from` of the lines. */
  from: string;
}

/** How long the inbox remembers what it was told, in hours: a line that a crash kept from being noted is told again at the next start. */
const REMEMBER_HOURS = 24 * 7;

/** The one who tells. */
export class Teller {
  #store: Store;
  #notify: Notify | undefined;
  #log: Log;
  #inbox: InboxWriter | null;
  #opened = false;
  /** The last event that the log has. */
  #said = 0;
  /** Of this store, so that its numbers make ids which no other store gives. */
  #instance: string;

  private constructor(
    store: Store,
    { notify, instance, log }: { notify: Notify | undefined; instance: string; log: Log },
  ) {
    this.#store = store;
    this.#notify = notify;
    this.#log = log;
    this.#instance = instance;
    this.#inbox = notify
      ? new InboxWriter({
          dir: notify.inbox_dir,
          durability: "disk",
          dedupeHours: REMEMBER_HOURS,
          onLedgerError: (error) => log.warn("told event not noted, the inbox itself remembers it", { error }),
        })
      : null;
  }

  /** Without `notify` events count as told. */
  static async open(store: Store, { notify, log }: { notify: Notify | undefined; log: Log }): Promise<Teller> {
    const noted = await getNote(store.read, "instance");
    const instance = noted ?? crypto.randomUUID();
    if (noted === null) await store.write((tx) => setNote(tx, "instance", instance));
    return new Teller(store, { notify, instance, log });
  }

  /** Tells what nobody was told yet. Throws when the inbox can't be written: it is told by a later pass. */
  async pass(alive: () => void): Promise<void> {
    const store = this.#store;
    if (!this.#inbox || !this.#notify) {
      const waiting = await untold(store.read, 1000);
      for (const event of waiting) this.#say(event);
      if (waiting.length > 0) await store.write((tx) => markTold(tx, waiting.at(-1)!.id, Date.now()));
      return;
    }
    if (!this.#opened) {
      await this.#inbox.open();
      this.#opened = true;
    }
    for (;;) {
      const events = await untold(store.read, 100);
      if (events.length === 0) return;
      for (const event of events) {
        this.#say(event);
        await this.#inbox.deliverOnce(this.#asInboxEvent(event, this.#notify));
        await store.write((tx) => markTold(tx, event.id, Date.now()));
        alive();
      }
    }
  }

  /** Closes the inbox. */
  async close(): Promise<void> {
    await this.#inbox?.close();
  }

  /** Into the log as well: that is where somebody looks first. */
  #say({ id, type, severity, text }: EventRow): void {
    if (id <= this.#said) return;
    this.#said = id;
    this.#log[severity === "info" ? "info" : "warn"](text, { event: type });
  }

  #asInboxEvent({ id, at, type, severity, text }: EventRow, { recipient, from }: Notify) {
    return {
      ts: new Date(at).toISOString(),
      id: new Bun.CryptoHasher("sha256").update(`${this.#instance}:${id}`).digest("hex").slice(0, 32),
      from,
      to: recipient,
      type: "INFO" as const,
      priority: severity === "critical" ? ("urgent" as const) : ("normal" as const),
      payload: text,
      source: `receiver:${type}`,
    };
  }
}
