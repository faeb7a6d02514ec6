// The outbox: what happened is stored first, then told to a channel, in order and at least once.
//
//   1. the source stores an event; its id is derived from what happened
//   2. the channel is told
//   3. the source marks the event as told
//
// Killed between 2 and 3, the next start tells the event again with the same id, and an inbox takes an id once. A channel that
// fails delays its events and loses none: the next pass begins with the event that failed. The mark belongs to the channel, so
// each further channel gets an outbox and a mark of its own, and delays nothing but itself.

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

/** Takes events. An id that it has taken already counts as told. */
interface Channel {
  name: string;
  /** Resolves when the event is durable there. */
  tell(event: OutboxEvent): Promise<void>;
  close(): Promise<void>;
}

/** An event that waits. */
export interface Untold {
  event: OutboxEvent;
  /** Stores that this event and all before it were told. */
  mark: () => Promise<void>;
}

/** Tells one channel. */
export interface Outbox {
  /** Tells what waits. Throws where the channel or the mark fails: the next pass tells the rest. */
  pass(alive: () => void): Promise<void>;
  /** Ends a pass after its present event. */
  close(): Promise<void>;
}

/**
 * An outbox for one channel.
 * @param untold gives the first events that wait, in order; none when all are told.
 */
export function createOutbox(untold: () => Promise<Untold[]>, channel: Channel): Outbox {
  let closed = false;
  return {
    async pass(alive) {
      for (let waiting = await untold(); waiting.length > 0; waiting = await untold()) {
        for (const { event, mark } of waiting) {
          if (closed) return;
          await channel.tell(event).catch((cause: unknown) => {
            throw new Error(`tell the ${channel.name}`, { cause });
          });
          await mark();
          alive();
        }
      }
    },
    async close() {
      closed = true;
      await channel.close();
    },
  };
}

/** 32 hex digits that are always the same for the same text. */
export function derivedId(text: string | Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 32);
}

/** How long an inbox remembers an id: an event that is older must not be told again. */
export const REMEMBERED_HOURS = 24 * 7;

/** An inbox as a channel: each event is a line. Without `notify` events count as told. */
export function inboxChannel(
  notify: { inbox_dir: string; recipient: string } | undefined,
  { from, log }: { from: string; log: Log },
): Channel {
  const name = "inbox";
  if (!notify) return { name, async tell() {}, async close() {} };
  const writer = new InboxWriter({
    dir: notify.inbox_dir,
    durability: "disk",
    dedupeHours: REMEMBERED_HOURS,
    onLedgerError: (error) => log.warn("told event not noted, the inbox itself remembers it", { error }),
  });
  let opened = false;
  return {
    name,
    async tell({ id, ts, urgent, text, source }) {
      if (!opened) await writer.open();
      opened = true;
      const priority = urgent ? "urgent" : "normal";
      await writer.deliverOnce({ ts, id, from, to: notify.recipient, type: "INFO", priority, payload: text, source });
    },
    close: () => writer.close(),
  };
}
