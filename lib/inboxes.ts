// The inboxes of a place as their readers use them: files (file-inboxes.ts), or tables (table-inboxes.ts).

import type { Line, Pass, Position } from "./cursor.ts";
import { fileInboxes } from "./file-inboxes.ts";
import type { HandledIds } from "./handled.ts";
import type { InboxPlace } from "./inbox-place.ts";
import type { Log } from "./log.ts";
import type { MarkPlace, Reader } from "./mark.ts";

/** Reads the lines of an inbox on, in their order. */
export interface LineCursor {
  /** How far it has read: where a file was renamed, that one comes before its successor. Set them to go on from there. */
  positions: readonly Position[];
  /** Whether it reads something that is the inbox no more, and may still grow. */
  readonly isBehind: boolean;
  /** A mark that lies so far behind, in offsets, takes long to read on from. */
  readonly far: number;
  read(pass: Pass): Promise<void>;
  /** Goes to the end. */
  skip(): Promise<void>;
  /** The position at an earlier line; null when what was read has changed. */
  back(generation: number, offset: number): Position | null;
  /** The line at an earlier offset; null when what was read has changed. */
  lineAt(generation: number, offset: number): Promise<Line | null>;
  close(): void;
}

/** What a delivery keeps beside its marks. One process at a time sends. */
export interface DeliveryPlace {
  /**
   * Becomes the one, where no other is. Gives 0 where another is, else a number that is another one each time this process begins to be it.
   * @throws Error where the other has to end first.
   */
  hold(): Promise<number>;
  /** The text that was written last; null where there is none. */
  read(): Promise<string | null>;
  write(text: string): Promise<void>;
  remove(): Promise<void>;
  /** Lets another process send. */
  release(): Promise<void>;
}

export interface Inboxes extends AsyncDisposable {
  /** Where only a change of an inbox can bring more, its version is asked for so often, in milliseconds. */
  readonly idleMs: number;
  /** Where a recipient's events are, for people. */
  where(recipient: string): string;
  /** Those whose inbox is there. */
  recipients(): Promise<string[]>;
  /** Another text after each change of an inbox. */
  version(recipient: string): Promise<string>;
  /** Calls `changed` when an inbox, or any (null), may have changed: a hint, some get lost. Gives what ends it. */
  watch(changed: (recipient: string | null) => void): () => void;
  cursor(recipient: string): LineCursor;
  /** Visits lines among which are all those of an event. */
  find(recipient: string, id: string, visit: (line: Line) => void): Promise<void>;
  mark(reader: Reader): MarkPlace;
  handled(recipient: string): HandledIds;
  /** The process that pushes a recipient's events into a session: its id, where that isn't enough with its machine; null where none does. */
  watcher(recipient: string): Promise<number | string | null>;
  /** Becomes what pushes them; null while another does. Gives what ends it. */
  becomeWatcher(recipient: string): Promise<(() => void | Promise<void>) | null>;
  delivery(name: string): DeliveryPlace;
}

/** What is done while a database is away. Files are never. */
export interface Waiting {
  log?: Log | undefined;
  /** So long it is waited for, in milliseconds, then a question throws a DatabaseError; without it for ever. */
  patienceMs?: number | undefined;
  /** Ends the waiting. */
  signal?: AbortSignal | undefined;
}

/** The inboxes of a place, whose database stays open. */
export async function openInboxes({ dir, database }: InboxPlace, waiting: Waiting): Promise<Inboxes> {
  if (database === null) return fileInboxes(dir);
  // Evaluated only where it is used.
  const { tableInboxes } = await import("./table-inboxes.ts");
  return tableInboxes(database, waiting);
}
