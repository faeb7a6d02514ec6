// A message as text: one line for what has a title, and the framed events (lib/frame.ts), cut to what a service takes.

import { asBlock } from "../../frame.ts";
import { derivedId } from "../../outbox.ts";
import { cut, printable } from "../../text.ts";
import type { Message } from "./message.ts";

/** Of an event's first line a title shows so many characters: what a phone and a mail program show. */
const LONGEST_LINE = 80;

export const isUrgent = ({ events }: Message): boolean => events.some(({ priority }) => priority === "urgent");

/** Whose events, and how many: `ops`, `ops (reminder)`, `ops: 5 events, 2 urgent`. */
export function headOf({ recipient, events, omitted, reminder }: Message): string {
  const count = events.length + omitted;
  const urgent = events.filter(({ priority }) => priority === "urgent").length;
  const marks = [reminder && "reminder", count === 1 && urgent > 0 && "urgent"].filter(Boolean).join(", ");
  const whose = marks === "" ? recipient : `${recipient} (${marks})`;
  return count === 1 ? whose : `${whose}: ${count} events${urgent > 0 ? `, ${urgent} urgent` : ""}`;
}

/** The same, and the first line of a single event: `ops (urgent): nas is offline`. */
export function titleOf(message: Message): string {
  const [first, ...others] = message.events;
  if (!first || others.length + message.omitted > 0) return headOf(message);
  const [line = ""] = first.payload.trim().split(/\r?\n/);
  return `${headOf(message)}: ${cut(printable(line), LONGEST_LINE)}`;
}

/** The events in their frames, and a count of those that are left out. */
export function textOf({ recipient, events, omitted }: Message): string {
  const more = omitted > 0 ? [`${omitted} more: picket-collector read ${recipient}`] : [];
  return [...events.map(asBlock), ...more].join("\n\n");
}

/** The text, or as much of its beginning as `fits` with a line that says so. @param most characters that can fit at all. */
export function fitted(
  text: string,
  { recipient, most, fits }: { recipient: string; most: number; fits: (text: string) => boolean },
): string {
  if (text.length <= most && fits(text)) return text;
  const upTo = (length: number): string => {
    const kept = text.slice(0, length).replace(/[\ud800-\udbff]$/, "");
    return `${kept}…\n\nToo long for this message: picket-collector read ${recipient}`;
  };
  let [low, high] = [0, Math.min(text.length, most)];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (fits(upTo(middle))) low = middle;
    else high = middle - 1;
  }
  return upTo(low);
}

/** The id of a message or an event where it goes into a URL or a header. Other programs write ids, too. */
export function plainId({ id }: { id: string }): string {
  return /^[A-Za-z0-9_-]{1,64}$/.test(id) ? id : derivedId(id);
}
