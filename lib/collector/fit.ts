// As many events as fit into a text of limited length: what `hook` prints, and what the tools of `mcp` answer.

import { asModelBlock } from "../frame.ts";
import type { ReadEvent } from "../reader.ts";

/** So many characters at most are shown to an agent at once. */
export const MOST_CHARACTERS = 10_000;

interface Fit {
  recipient: string;
  /** What they are; `new` unless given. */
  what?: string;
  /** There are others besides these. */
  isMore: boolean;
  /** How an agent gets the rest: `next time`. */
  rest: string;
}

/** The events in their order, below a title; `count` says how many are in the text. A single one that is too long is cut. */
export function fit(
  events: readonly ReadEvent[],
  { recipient, what = "new", isMore, rest }: Fit,
): { text: string; count: number } {
  if (events.length === 0) return { text: `nothing ${what} in the inbox of ${recipient}`, count: 0 };
  const parts: string[] = [];
  const title = (count: number, more: number) => {
    const others = more > 0 || isMore ? `, ${more}${isMore ? "+" : ""} more ${rest}` : "";
    return `${count} ${what} in the inbox of ${recipient}${others}:`;
  };
  // The longest that it can be, and the line break at the end.
  let left = MOST_CHARACTERS - title(events.length, events.length).length - 1;
  for (const event of events) {
    const part = asModelBlock(event);
    // Two line breaks stand before each.
    left -= 2;
    if (part.length > left && parts.length > 0) break;
    parts.push(part.length > left ? cut(part, left, recipient) : part);
    left -= part.length;
    if (left <= 0) break;
  }
  const text = [title(parts.length, events.length - parts.length), ...parts].join("\n\n");
  return { text, count: parts.length };
}

/** A single event, cut where it is too long. */
export function fitOne(event: ReadEvent, recipient: string): string {
  return cut(asModelBlock(event), MOST_CHARACTERS, recipient);
}

function cut(text: string, length: number, recipient: string): string {
  if (text.length <= length) return text;
  const note = `\n[cut: ${text.length} characters; all of it: picket-collector read ${recipient}]`;
  return text.slice(0, length - note.length).replace(/[\uD800-\uDBFF]$/, "") + note;
}
