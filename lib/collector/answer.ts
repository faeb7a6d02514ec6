// Dealing with an event: acknowledging it, answering it, or only marking it as handled (lib/handled.ts).

import { NAME_SEGMENT } from "../config.ts";
import type { EventWriter } from "../event-writer.ts";
import { handleOnce } from "../handled.ts";
import { completeEvent } from "../inbox.ts";
import type { Inboxes } from "../inboxes.ts";
import { derivedId } from "../outbox.ts";
import { type ReadEvent, eventIn, waits } from "../reader.ts";
import { cut, printable } from "../text.ts";

/** How much of an event its acknowledgement repeats, in characters. */
const REPEATED = 80;

export interface Answer {
  by: "ack" | "respond" | "mark_handled";
  /** The event's. */
  id: string;
  /** What is answered; for `respond`. */
  text?: string | undefined;
  /** Kept beside the id; for `mark_handled`. */
  note?: string | undefined;
}

/** So long a killed process's answer is found again instead of written twice: `dedupeHours` of the writer. */
export const DEDUPE_HOURS = 24;

/**
 * Writes the answer into the inbox of the event's sender, and marks the event as handled. Gives what was done, in words. One process at a
 * time does so for a recipient; one that is killed in between and begins again writes no second answer.
 * @throws Error in words, and nothing is written: the recipient has no such event, it is handled already, or there is no inbox for an answer.
 */
export async function answer(
  { inboxes, writer, recipient }: { inboxes: Inboxes; writer: EventWriter; recipient: string },
  { by, id, text, note }: Answer,
): Promise<string> {
  let done = "marked as handled";
  await handleOnce(inboxes.handled(recipient), id, async () => {
    const event = await find(id, { inboxes, recipient });
    if (!event) throw new Error(`there is no event "${shown(id)}" in the inbox of ${recipient}`);
    const { from } = event;
    const hasInbox = NAME_SEGMENT.test(from);
    if (by === "respond" && !hasInbox) {
      const who = `"${shown(from)}", who wrote event "${shown(id)}"`;
      throw new Error(`${who}, has no inbox: it can only be marked as handled`);
    }
    if (by === "mark_handled") return { by, note };
    if (hasInbox) {
      const repeated = printable(cut(event.payload, REPEATED));
      const payload = text === undefined ? `acknowledged ${id}: ${repeated}` : `answer to ${id}: ${text}`;
      const about = { id: derivedId(`${recipient} ${by} ${id}`), source: `collector:${by}` };
      const draft = { ...about, from: recipient, to: from, type: "INFO", priority: "normal", payload } as const;
      await writer.deliverOnce(completeEvent(draft));
    }
    done = hasInbox
      ? `${by === "ack" ? "acknowledged" : "answered"} to ${from}`
      : `marked as handled; "${shown(from)}", who wrote it, has no inbox`;
    return { by, note };
  });
  return done;
}

const shown = (text: string): string => printable(cut(text, REPEATED));

/** The last event of that id that a reader may see. */
async function find(id: string, of: { inboxes: Inboxes; recipient: string }): Promise<ReadEvent | null> {
  let found: ReadEvent | null = null;
  await of.inboxes.find(of.recipient, id, (line) => {
    const event = eventIn(line, () => {});
    if (event?.id === id && !waits(event)) found = event;
  });
  return found;
}
