// The outbox: what happened is stored first, then told to an inbox, in order and at least once.
//
//   1. the source stores an event; its id is derived from what happened
//   2. the inbox is told
//   3. the source marks the event as told
//
// Killed between 2 and 3, the next start tells the event again with the same id, and an inbox takes an id once. An inbox that
// can't be written delays its events and loses none: the next pass begins with the event that failed.

import { InboxWriter } from "./inbox.ts";
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

/** An outbox whose events become lines of an inbox. Without `notify` they count as told. */
export function createOutbox(
  notify: { inbox_dir: string; recipient: string } | undefined,
  { from, log }: { from: string; log: Log },
) {
  const writer =
    notify &&
    new InboxWriter({
      dir: notify.inbox_dir,
      durability: "disk",
      dedupeHours: REMEMBERED_HOURS,
      onLedgerError: (error) => log.warn("told event not noted, the inbox itself remembers it", { error }),
    });
  let opened = false;
  let closed = false;
  /** Tells one event: resolves when it is durable. An id that the inbox has taken already counts as told. */
  async function tell({ id, ts, urgent, text: payload, source }: OutboxEvent): Promise<void> {
    if (!writer) return;
    if (!opened) await writer.open();
    opened = true;
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
      await writer?.close();
    },
  };
}
