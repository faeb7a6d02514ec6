// The end of the inbox that events go to, for a page: bounded work, however long the inbox is.

import { closeSync, fstatSync, statSync } from "node:fs";
import { openFile } from "../cursor.ts";
import { readAt } from "../files.ts";
import { type Handled, type HandledIds, handleOnce, handledOf } from "../handled.ts";
import { inboxPlace } from "../inbox-place.ts";
import { inboxPath } from "../inbox.ts";
import type { Notify } from "../outbox.ts";
import { type ReadEvent, eventIn, waits } from "../reader.ts";
import { Refusal } from "../refusal.ts";
import { inTable } from "./inbox-end-table.ts";

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

/** The newest events of an inbox. */
export interface Newest extends Pick<End, "malformed" | "isCut"> {
  /** Newest first. */
  found: Pick<InboxLine, "event" | "offset">[];
}

export type InboxEnd = ReturnType<typeof openInboxEnd>;

/** Where an inbox is read. */
export interface InboxSource {
  /** For people. */
  where: string;
  /** Another text after each change of the inbox, or of what is handled. */
  version(): Promise<string>;
  /** Its newest events. One that is missing has none. */
  newest(): Promise<Newest>;
  /** Finds what is known of handled events, by their ids. */
  handledOf(ids: string[]): Promise<(id: string) => Handled | null>;
  handled(): Promise<HandledIds>;
}

/** Reads an inbox's end whenever it has changed. */
export function openInboxEnd(notify: Notify) {
  const { recipient } = notify;
  const { dir, database } = inboxPlace(notify);
  const source =
    database === null
      ? inFile(dir, recipient)
      : inTable({ database, recipient }, { events: MOST_EVENTS, bytes: MOST_BYTES });
  let read: Newest & { of: string } = { of: "", found: [], malformed: 0, isCut: false };

  /** Gives the events that don't wait. */
  async function shown(): Promise<Newest["found"]> {
    const of = await source.version();
    if (of !== read.of) read = { of, ...(await source.newest()) };
    return read.found.filter(({ event }) => !waits(event));
  }

  return {
    recipient,
    where: source.where,
    /** Another text after each change. Costs some stat(2), or a query. */
    async version(): Promise<string> {
      try {
        const { length } = await shown();
        return `${read.of} ${length}`;
      } catch (error) {
        return (error as Error).message;
      }
    },
    async look(): Promise<End> {
      try {
        const events = await shown();
        const get = await source.handledOf(events.map(({ event }) => event.id));
        const lines = events.map((line) => ({ ...line, handled: get(line.event.id) }));
        return { lines, malformed: read.malformed, isCut: read.isCut, problem: null };
      } catch (error) {
        return { lines: [], malformed: 0, isCut: false, problem: (error as Error).message };
      }
    },
    /** Marks one of these events as handled. @throws Refusal where it is not one of them, is handled already, or can't be marked. */
    async handle(id: string, by: string): Promise<void> {
      if (!(await shown()).some(({ event }) => event.id === id)) {
        throw new Refusal(404, "unknown_event", "that event is not among the newest of the inbox any more");
      }
      await handleOnce(await source.handled(), id, async () => ({ by })).catch((error: unknown) => {
        throw new Refusal(409, "not_marked", `mark the event as handled: ${(error as Error).message}`);
      });
    },
  };
}

function inFile(dir: string, recipient: string): InboxSource {
  const path = inboxPath(dir, recipient);
  const handled = handledOf({ dir, recipient }, MOST_HANDLED_BYTES);
  return {
    where: path,
    async version() {
      const { ino, size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { ino: 0, size: 0, mtimeMs: 0 };
      return `${ino} ${size} ${mtimeMs} ${handled.version()}`;
    },
    newest: async () => readEnd(path),
    async handledOf() {
      await handled.refresh();
      return (id) => handled.get(id);
    },
    handled: async () => handled,
  };
}

/** The newest events of an inbox. One that is missing has none. @throws Error where it can't be read. */
function readEnd(path: string): Newest {
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
function eventsIn(bytes: Buffer, from: number): Newest {
  const found: Newest["found"] = [];
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
