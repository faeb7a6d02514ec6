// The inboxes of a place as their readers use them: a folder (file-inboxes.ts).

import type { Line, Pass, Position } from "./cursor.ts";
import { fileInboxes } from "./file-inboxes.ts";
import type { HandledIds } from "./handled.ts";
import type { MarkPlace, Reader } from "./mark.ts";

/** Reads the lines of an inbox on, in their order. */
export interface LineCursor {
  /** How far it has read: where a file was renamed, that one comes before its successor. Set them to go on from there. */
  positions: readonly Position[];
  /** Whether it reads something that is the inbox no more, and may still grow. */
  readonly isBehind: boolean;
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
  /** Whether this process is the one; it becomes it where no other is. @throws Error where another has to end first. */
  isOurs(): Promise<boolean>;
  /** The text that was written last; null where there is none. */
  read(): Promise<string | null>;
  write(text: string): Promise<void>;
  remove(): Promise<void>;
  /** Lets another process send. */
  release(): Promise<void>;
}

export interface Inboxes extends AsyncDisposable {
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
  /** The process id of what pushes a recipient's events into a session; null where nothing does. */
  watcher(recipient: string): Promise<number | null>;
  /** Becomes what pushes them; null while another does. Gives what ends it. */
  becomeWatcher(recipient: string): Promise<(() => void | Promise<void>) | null>;
  delivery(name: string): DeliveryPlace;
}

/** The inboxes of a configuration. */
export async function openInboxes({ inbox_dir }: { inbox_dir: string }): Promise<Inboxes> {
  return fileInboxes(inbox_dir);
}
