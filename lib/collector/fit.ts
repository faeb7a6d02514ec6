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
  /** The size that the text may have, and how much of it a piece of text takes. */
  most?: number;
  sizeOf?: (text: string) => number;
}

const lengthOf = (text: string): number => text.length;

/** The events in their order, below a title; `count` says how many are in the text, and `parts` is what each became. A single one that is too long is cut. */
export function fit(
  events: readonly ReadEvent[],
  { recipient, what = "new", isMore, rest, most = MOST_CHARACTERS, sizeOf = lengthOf }: Fit,
): { text: string; count: number; title: string; parts: string[] } {
  const parts: string[] = [];
  const nothing = `nothing ${what} in the inbox of ${recipient}`;
  if (events.length === 0) return { text: nothing, count: 0, title: nothing, parts };
  const titleOf = (count: number, more: number) => {
    const others = more > 0 || isMore ? `, ${more}${isMore ? "+" : ""} more ${rest}` : "";
    return `${count} ${what} in the inbox of ${recipient}${others}:`;
  };
  // The longest that it can be, and the line break at the end.
  let left = most - sizeOf(`${titleOf(events.length, events.length)}\n`);
  for (const event of events) {
    const part = asModelBlock(event);
    left -= sizeOf("\n\n");
    const size = sizeOf(part);
    if (size > left && parts.length > 0) break;
    parts.push(cut(part, left, { recipient, sizeOf }));
    left -= size;
    if (left <= 0) break;
  }
  const title = titleOf(parts.length, events.length - parts.length);
  return { text: [title, ...parts].join("\n\n"), count: parts.length, title, parts };
}

/** A single event, cut where it is too long. */
export function fitOne(event: ReadEvent, recipient: string): string {
  return cut(asModelBlock(event), MOST_CHARACTERS, { recipient, sizeOf: lengthOf });
}

function cut(text: string, most: number, { recipient, sizeOf }: Required<Pick<Fit, "recipient" | "sizeOf">>): string {
  if (sizeOf(text) <= most) return text;
  const note = `\n[cut: ${text.length} characters; all of it: picket-collector read ${recipient}]`;
  const room = most - sizeOf(note);
  let kept = text.slice(0, room);
  // A character takes 6 at most: `\u001b`.
  for (let over = 0; (over = sizeOf(kept) - room) > 0;) kept = kept.slice(0, -Math.ceil(over / 6));
  return kept.replace(/[\uD800-\uDBFF]$/, "") + note;
}
