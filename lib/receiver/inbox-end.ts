// The end of the inbox that events go to, for a page: bounded work, however long the inbox is.

import { closeSync, fstatSync, statSync } from "node:fs";
import { openFile } from "../cursor.ts";
import { readAt } from "../files.ts";
import { type Handled, handleOnce, handledOf } from "../handled.ts";
import { inboxPath } from "../inbox.ts";
import { type ReadEvent, eventIn, waits } from "../reader.ts";
import { Refusal } from "../refusal.ts";

/** So many events are looked at, the newest, and so many bytes. */
const MOST_EVENTS = 500;
const MOST_BYTES = 4 << 20;
const FIRST_BYTES = 256 << 10;
/** And of the journal of handled events: some 70,000. */
const MOST_HANDLED_BYTES = 8 << 20;
const NEWLINE = 0x0a;

/** An event as it stands in the inbox. */
export interface InboxLine {
  event: ReadEvent;
  /** Its first byte in the file. */
  offset: number;
  /** Null where it is open. */
  handled: Handled | null;
}

/** What an inbox's end says at a moment. */
export interface End {
  /** Newest first. Those that wait for their sentinel are left out. */
  lines: InboxLine[];
  /** Lines that are no events. */
  malformed: number;
  /** Whether older lines were not looked at. */
  isCut: boolean;
  /** Why the inbox can't be read; null where it can. */
  problem: string | null;
}

interface Read extends Pick<End, "malformed" | "isCut"> {
  /** Newest first. */
  found: Pick<InboxLine, "event" | "offset">[];
}

export type InboxEnd = ReturnType<typeof openInboxEnd>;

/** Reads an inbox's end whenever it has changed. */
export function openInboxEnd({ inbox_dir: dir, recipient }: { inbox_dir: string; recipient: string }) {
  const path = inboxPath(dir, recipient);
  const handled = handledOf({ dir, recipient }, MOST_HANDLED_BYTES);
  let read: Read & { of: string } = { of: "", found: [], malformed: 0, isCut: false };

  function refresh(): void {
    const { ino, size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { ino: 0, size: 0, mtimeMs: 0 };
    const of = `${ino} ${size} ${mtimeMs}`;
    if (of !== read.of) read = { of, ...readEnd(path) };
  }
  const shown = () => read.found.filter(({ event }) => !waits(event));

  return {
    recipient,
    path,
    /** Another text after each change. Costs some stat(2). */
    version(): string {
      try {
        refresh();
        return `${read.of} ${handled.version()} ${shown().length}`;
      } catch (error) {
        return (error as Error).message;
      }
    },
    look(): End {
      try {
        refresh();
        const lines = shown().map((line) => ({ ...line, handled: handled.get(line.event.id) }));
        return { lines, malformed: read.malformed, isCut: read.isCut, problem: null };
      } catch (error) {
        return { lines: [], malformed: 0, isCut: false, problem: (error as Error).message };
      }
    },
    /** Marks one of these events as handled. @throws Refusal where it is not one of them, is handled already, or can't be marked. */
    async handle(id: string, by: string): Promise<void> {
      refresh();
      if (!shown().some(({ event }) => event.id === id)) {
        throw new Refusal(404, "unknown_event", "that event is not among the newest of the inbox any more");
      }
      await handleOnce(handled, id, async () => ({ by })).catch((error: unknown) => {
        throw new Refusal(409, "not_marked", `mark the event as handled: ${(error as Error).message}`);
      });
    },
  };
}

/** The newest events of an inbox. One that is missing has none. @throws Error where it can't be read. */
function readEnd(path: string): Read {
  const fd = openFile(path);
  if (fd === null) return { found: [], malformed: 0, isCut: false };
  try {
    const { size } = fstatSync(fd);
    for (let length = FIRST_BYTES; ; length *= 4) {
      const from = Math.max(0, size - length);
      const read = eventsIn(readAt(fd, from, size - from), from);
      if (from === 0 || read.found.length === MOST_EVENTS || length >= MOST_BYTES) return read;
    }
  } finally {
    closeSync(fd);
  }
}

/** @param from where the bytes begin in the file: unless that is 0, in the middle of a line. */
function eventsIn(bytes: Buffer, from: number): Read {
  const found: Read["found"] = [];
  let malformed = 0;
  const first = from === 0 ? 0 : bytes.indexOf(NEWLINE) + 1;
  // What follows the last line break is being written.
  let end = bytes.lastIndexOf(NEWLINE);
  while (end >= first && found.length < MOST_EVENTS) {
    const start = Math.max(first, end === 0 ? 0 : bytes.lastIndexOf(NEWLINE, end - 1) + 1);
    const offset = from + start;
    const line = { bytes, start, end, length: end - start, offset, generation: 1 };
    const event = eventIn(line, () => void malformed++);
    if (event) found.push({ event, offset });
    end = start - 1;
  }
  return { found, malformed, isCut: from > 0 || end >= first };
}
