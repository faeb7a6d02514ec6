// What a delivery sends next, or when it has to look again. Nothing here reads a clock or a file.
//
//   a message        what waits in one inbox, up to MOST_EVENTS; the rest is the next one
//   group_seconds    so long after the first event of a message came it is sent
//   quiet            urgent events go through; the others wait, and are one message afterwards
//   max_per_hour     the last message that is allowed takes everything that waits, and counts what it doesn't show. Then all
//                    waits until the first message of the hour is an hour old
//   remind_minutes   an urgent event, and one that needs a response, is sent again until it was handled
//
// Times are those of the wall clock, in milliseconds since 1970; a clock that is set back delays nothing for longer than an hour.

import type { ReadEvent } from "../../reader.ts";
import type { Quiet } from "./quiet.ts";

export const MINUTE_MS = 60_000;
const HOUR_MINUTES = 60;

/** What waits in an inbox, by urgency: how many events, and since when. */
export interface Waiting {
  recipient: string;
  urgent: Pile;
  normal: Pile;
}

export interface Pile {
  count: number;
  /** When the first of them came; of no meaning where there is none. */
  since: number;
}

/** An event that is sent again until it was handled. */
export interface Reminder {
  recipient: string;
  /** When next. */
  at: number;
  event: ReadEvent;
}

/** How many messages were sent, by the minute since 1970. */
export type Sent = Record<string, number>;

export interface Rules {
  group_seconds: number;
  max_per_hour: number;
  quiet?: Quiet | undefined;
}

/** What is sent, and from which inbox. */
export type Next =
  | { kind: "events"; recipient: string; urgentOnly: boolean; all: boolean }
  | { kind: "reminder"; recipient: string; events: ReadEvent[] }
  /** Nothing before then, as far as that is known; `why` for people. */
  | { kind: "wait"; until: number; why: string };

/** @param given.now milliseconds since 1970. */
export function nextMessage(given: {
  waiting: readonly Waiting[];
  reminders: readonly Reminder[];
  sent: Sent;
  rules: Rules;
  now: number;
}): Next {
  const { waiting, reminders, sent, rules, now } = given;
  const isQuiet = rules.quiet?.holds(now) === true;
  const group = rules.group_seconds * 1000;
  const ready = waiting
    .map(({ recipient, urgent, normal }) => {
      const piles = (isQuiet ? [urgent] : [urgent, normal]).filter(({ count }) => count > 0);
      // The clock was set back since.
      return { recipient, due: Math.min(...piles.map(({ since }) => (since > now ? now : since + group))) };
    })
    .toSorted((a, b) => a.due - b.due);
  const [first] = ready;
  const due = reminders.filter(({ at, event }) => at <= now && (!isQuiet || event.priority === "urgent"));
  const isDue = first !== undefined && first.due <= now;
  if (!isDue && due.length === 0) {
    const grouped = first?.due ?? Infinity;
    const isHeldBack =
      isQuiet && (waiting.some(({ normal }) => normal.count > 0) || reminders.some(({ at }) => at <= now));
    const quiet = isHeldBack ? `quiet: ${String(rules.quiet)}` : "";
    const until = Math.min(grouped, ...reminders.map(({ at }) => (at > now ? at : Infinity)));
    return { kind: "wait", until, why: grouped < Infinity ? `group_seconds: ${rules.group_seconds}` : quiet };
  }
  const past = recent(sent, now);
  const room = past.reduce((left, [, count]) => left - count, rules.max_per_hour);
  if (room <= 0) return { kind: "wait", until: roomAt(past, 1 - room), why: `max_per_hour: ${rules.max_per_hour}` };
  if (isDue) return { kind: "events", recipient: first.recipient, urgentOnly: isQuiet, all: room === 1 };
  const { recipient } = due[0]!;
  const events = due.filter((one) => one.recipient === recipient).map(({ event }) => event);
  return { kind: "reminder", recipient, events };
}

/** Counts one more message. Minutes that are over an hour old go. */
export function countSent(sent: Sent, now: number): Sent {
  const minute = Math.floor(now / MINUTE_MS);
  return { ...Object.fromEntries(recent(sent, now)), [minute]: (sent[minute] ?? 0) + 1 };
}

/** The minutes of the last hour, the oldest first. A time ahead of now is one of a clock that was set back since. */
function recent(sent: Sent, now: number): [minute: number, count: number][] {
  const minute = Math.floor(now / MINUTE_MS);
  const all = Object.entries(sent).map(([at, count]): [number, number] => [Number(at), count]);
  return all.filter(([at]) => Math.abs(minute - at) < HOUR_MINUTES).toSorted(([a], [b]) => a - b);
}

/** When so many messages of the last hour are an hour old. */
function roomAt(past: [minute: number, count: number][], messages: number): number {
  let left = messages;
  const [minute] = past.find(([, count]) => (left -= count) <= 0)!;
  return (minute + HOUR_MINUTES) * MINUTE_MS;
}
