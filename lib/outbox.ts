// The outbox: what happened is stored first, then told to an inbox, in order and at least once.
//
//   1. the source stores an event; its id is derived from what happened
//   2. the inbox is told
//   3. the source marks the event as told
//
// Killed between 2 and 3, the next start tells the event again with the same id, and an inbox takes an id once. An inbox that
// can't be written delays its events and loses none: the next pass begins with the event that failed.

import { type EventWriter, eventWriter } from "./event-writer.ts";
import { type InboxSettings, inboxPlace } from "./inbox-place.ts";
import type { Log } from "./log.ts";

/** What is told. */
export interface OutboxEvent {
  /** See `derivedId`. */
  id: string;
  /** RFC 3339: when it happened. */
  ts: string;
  urgent: boolean;
  text: string;
  /** The role and what it is about, such as `receiver:host.offline`. */
  source: string;
}

/** An event that waits. */
export interface Untold {
  event: OutboxEvent;
  /** Stores that this event and all before it were told. */
  mark: () => Promise<void>;
}

export type Outbox = ReturnType<typeof createOutbox>;

/** 32 hex digits that are always the same for the same text. */
export function derivedId(text: string | Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 32);
}

/** How long an inbox remembers an id: an event that is older must not be told again. */
export const REMEMBERED_HOURS = 24 * 7;

/** Which inbox is told, as a configuration says it. */
export interface Notify extends InboxSettings {
  recipient: string;
}

/** An outbox whose events become lines of an inbox. Without `notify` they count as told. */
export function createOutbox(notify: Notify | undefined, { from, log }: { from: string; log: Log }) {
  const place = notify && inboxPlace(notify);
  let opening: Promise<EventWriter> | null = null;
  let closed = false;
  async function open(): Promise<EventWriter> {
    const writer = await eventWriter(place!, {
      durability: "disk",
      dedupeHours: REMEMBERED_HOURS,
      onLedgerError: (error) => log.warn("told event not noted, the inbox itself remembers it", { error }),
    });
    await writer.open();
    return writer;
  }
  /** Tells one event: resolves when it is durable. An id that the inbox has taken already counts as told. */
  async function tell({ id, ts, urgent, text: payload, source }: OutboxEvent): Promise<void> {
    if (!notify) return;
    opening ??= open().catch((error: unknown) => {
      opening = null;
      throw error;
    });
    const writer = await opening;
    const priority = urgent ? "urgent" : "normal";
    await writer.deliverOnce({ ts, id, from, to: notify.recipient, type: "INFO", priority, payload, source });
  }
  return {
    tell,
    /**
     * Tells what waits. Throws where the inbox or the mark fails: the next pass tells the rest.
     * @param untold gives the first events that wait, in order; none when all are told.
     */
    async pass(untold: () => Promise<Untold[]>, alive: () => void): Promise<void> {
      for (let waiting = await untold(); waiting.length > 0; waiting = await untold()) {
        for (const { event, mark } of waiting) {
          if (closed) return;
          await tell(event).catch((cause: unknown) => {
            throw new Error("tell the inbox", { cause });
          });
          await mark();
          alive();
        }
      }
    },
    /** Ends a pass after its present event. */
    async close(): Promise<void> {
      closed = true;
      await (await opening?.catch(() => null))?.close();
      await place?.database?.close();
    },
  };
}
