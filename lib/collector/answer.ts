// Dealing with an event: acknowledging it, answering it, or only marking it as handled (lib/handled.ts).

import { NAME_SEGMENT } from "../config.ts";
import { handledOf } from "../handled.ts";
import { type InboxWriter, completeEvent } from "../inbox.ts";
import { type ReadEvent, inboxCursor, readEvents } from "../reader.ts";
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

/**
 * Writes the answer into the inbox of the event's sender, and marks the event as handled. Gives what was done, in words.
 * @throws Error in words, and nothing is written: the recipient has no such event, it is handled already, or its sender has no inbox.
 */
export async function answer(
  { writer, recipient }: { writer: InboxWriter; recipient: string },
  { by, id, text, note }: Answer,
): Promise<string> {
  const { dir } = writer;
  const handled = handledOf({ dir, recipient });
  if (handled.has(id)) throw new Error(`event "${shown(id)}" is handled already`);
  const event = await find(id, { dir, recipient });
  if (!event) throw new Error(`there is no event "${shown(id)}" in the inbox of ${recipient}`);
  const { from } = event;
  if (by !== "mark_handled") {
    if (!NAME_SEGMENT.test(from)) {
      throw new Error(
        `"${shown(from)}", who wrote event "${shown(id)}", has no inbox: it can only be marked as handled`,
      );
    }
    const repeated = printable(cut(event.payload, REPEATED));
    const payload = text === undefined ? `acknowledged ${id}: ${repeated}` : `answer to ${id}: ${text}`;
    await writer.deliver(completeEvent({ from: recipient, to: from, type: "INFO", priority: "normal", payload }));
  }
  await handled.add(id, { by, note });
  return by === "mark_handled" ? "marked as handled" : `${by === "ack" ? "acknowledged" : "answered"} to ${from}`;
}

const shown = (text: string): string => printable(cut(text, REPEATED));

async function find(id: string, source: { dir: string; recipient: string }): Promise<ReadEvent | null> {
  const cursor = inboxCursor(source);
  let found: ReadEvent | null = null;
  try {
    await readEvents(cursor, { ...source, warn: () => {} }, (event) => {
      if (event.id === id) found = event;
    });
  } finally {
    cursor.close();
  }
  return found;
}
