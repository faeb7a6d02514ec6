// Writes events into inboxes: files (inbox.ts), or tables (table-writer.ts).

import { type Delivery, type InboxEvent, type InboxOptions, InboxWriter } from "./inbox.ts";
import type { InboxPlace } from "./inbox-place.ts";

/** Writes into all inboxes of a place. Errors are those of the file system with their `code`, or DatabaseErrors. */
export interface EventWriter {
  /** Makes what is missing, and reads what it has to remember. */
  open(): Promise<void>;
  /** Appends; resolves when durable. */
  deliver(event: InboxEvent): Promise<void>;
  /** Appends unless this id was delivered to this recipient within `dedupeHours`. */
  deliverOnce(event: InboxEvent): Promise<Delivery>;
  /** Remembers one more id of an event that was delivered, as long as its own. */
  remember(recipient: string, id: string): void;
  /** When an id was remembered, in milliseconds since 1970. */
  rememberedAt(recipient: string, id: string): number | undefined;
  /** Resolves when everything handed over so far is durable or refused. */
  settled(): Promise<void>;
  /** Why nothing can be written, in words; null where it can. Of a database it is known by the last attempt. */
  readonly problem: string | null;
  /** Attempts something, where `problem` needs that. */
  check(): Promise<void>;
  /** Finishes what is under way. */
  close(): Promise<void>;
  /** The window of `deliverOnce`. */
  dedupeHours: number;
}

/** A writer for a place: `open` comes first. */
export async function eventWriter(
  { dir, database }: InboxPlace,
  options: Omit<InboxOptions, "dir">,
): Promise<EventWriter> {
  if (database === null) return new InboxWriter({ ...options, dir });
  const { tableWriter } = await import("./table-writer.ts");
  return tableWriter(database, options);
}
