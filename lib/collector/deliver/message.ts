// What a delivery hands to a channel, and what comes back.

import type { ReadEvent } from "../../reader.ts";

/** Events of one inbox, sent as one. */
export interface Message {
  /**
   * The event's id, or one derived from the ids of all: the same at each try, so that the other side can tell repeats. A reminder has
   * another one each time, or it would pass for a repeat.
   */
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
   * @throws TransportError, Refused; the signal's reason if it was aborted.
   */
  send(message: Message, signal: AbortSignal): Promise<string>;
  /** Ends what it keeps open. */
  close?(): Promise<void>;
}

interface Refusal {
  /** What it answered: an HTTP status, or an SMTP server's code. */
  status: number;
  /** The same message may be taken soon. */
  later: boolean;
  /** In seconds; null if it doesn't say. */
  retryAfter: number | null;
}

/** The other side does not take the message. */
export class Refused extends Error implements Refusal {
  override name = "Refused";
  readonly status: number;
  readonly later: boolean;
  readonly retryAfter: number | null;

  constructor(message: string, { status, later, retryAfter }: Refusal) {
    super(message);
    this.status = status;
    this.later = later;
    this.retryAfter = retryAfter;
  }
}

/** Whether retrying soon is pointless: the configuration or the message is refused, and the delivery is held. */
export function isHeld(error: unknown): boolean {
  return error instanceof Refused && !error.later;
}
