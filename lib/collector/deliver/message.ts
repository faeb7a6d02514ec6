// What a delivery hands to a channel, and what comes back.

import { HttpError } from "../../client.ts";
import { asBlock } from "../../frame.ts";
import type { ReadEvent } from "../../reader.ts";

/** Events of one inbox, sent as one. */
export interface Message {
  /** The event's id, or one derived from the ids of all: the same at each try, so that the other side can tell repeats. */
  id: string;
  recipient: string;
  /** Urgent first; at least one. */
  events: readonly ReadEvent[];
  /** So many more are counted, not shown. */
  omitted: number;
  /** It was sent before, and nobody handled it since. */
  reminder: boolean;
}

export interface Channel {
  /**
   * Sends it, and gives what the other side answered: `200`.
   * @throws TransportError, HttpError, Refused; the signal's reason if it was aborted.
   */
  send(message: Message, signal: AbortSignal): Promise<string>;
  /** Ends what it keeps open. */
  close?(): Promise<void>;
}

/** The other side says no otherwise than by an HTTP status. */
export class Refused extends Error {
  override name = "Refused";
  /** What it answered: an SMTP server's code, or 200 for an answer that says no. */
  readonly status: number;
  /** The same message may be taken later. */
  readonly later: boolean;
  /** In seconds; null if it doesn't say. */
  readonly retryAfter: number | null;

  constructor(
    message: string,
    { status, later, retryAfter = null }: Pick<Refused, "status" | "later"> & { retryAfter?: number | null },
  ) {
    super(message);
    this.status = status;
    this.later = later;
    this.retryAfter = retryAfter;
  }
}

/** Answers with 4xx after which the same request is tried again soon: timeout, too early, too many. */
const SOON = new Set([408, 425, 429]);

/** Whether retrying soon is pointless: the configuration or the message is refused, and the delivery is held. */
export function isHeld(error: unknown): boolean {
  if (error instanceof Refused) return !error.later;
  return error instanceof HttpError && error.status >= 300 && error.status < 500 && !SOON.has(error.status);
}

/** One line that tells what the message is about. */
export function titleOf({ recipient, events, omitted, reminder }: Message): string {
  const count = events.length + omitted;
  const urgent = events.filter(({ priority }) => priority === "urgent").length;
  const what = count === 1 ? (events[0]?.type ?? "INFO") : `${count} events`;
  const marks = [reminder && "reminder", urgent > 0 && (count === 1 ? "urgent" : `${urgent} urgent`)].filter(Boolean);
  return `${recipient}: ${what}${marks.length > 0 ? ` (${marks.join(", ")})` : ""}`;
}

/** The events in their frames, and a count of those that are left out. */
export function textOf({ events, omitted }: Message): string {
  const more = omitted > 0 ? [`${omitted} more in the inbox`] : [];
  return [...events.map(asBlock), ...more].join("\n\n");
}
