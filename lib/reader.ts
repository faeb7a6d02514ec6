// Reading an inbox: as it grows, and what is new to a reader, with a mark that remembers what it was shown (lib/mark.ts).

import { existsSync } from "node:fs";
import * as v from "valibot";
import type { Line } from "./cursor.ts";
import { EventLine } from "./inbox.ts";
import type { Inboxes, LineCursor } from "./inboxes.ts";
import { type Reader, type Spot, type StoredMark, type Turn, openMark, readMark, spotOf } from "./mark.ts";
import { derivedId } from "./outbox.ts";
import { parseLine } from "./replay.ts";

/** An event as a reader shows it. */
export type ReadEvent = v.InferOutput<typeof EventLine>;

/** After this many looks at a held event, one warning. */
const LOOKS_BEFORE_WARNING = 3;
/** So many events are in memory in a turn, and so many bytes of their lines. */
export const MOST_KEPT = 1000;
const MOST_KEPT_BYTES = 16 << 20;
/** With more lines shown ahead of their turn than this, urgent events wait for theirs. It bounds the mark. */
const MOST_AHEAD = 10_000;

interface Source {
  inboxes: Inboxes;
  recipient: string;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
}

export interface ReadOptions extends Source, Reader {}

/** Shows the events behind the cursor, oldest first, with flat memory. Those whose sentinel is absent are left out. */
export function readEvents(cursor: LineCursor, source: Source, show: (event: ReadEvent) => void): Promise<void> {
  const eventOf = eventsOf(source);
  return cursor.read({
    visit(line) {
      const event = eventOf(line);
      if (event && !waits(event)) show(event);
    },
  });
}

/** Shows the newest `limit` of them, of those that `only` takes, oldest first. */
export async function readLast(
  cursor: LineCursor,
  source: Source & { limit: number; only: (event: ReadEvent) => boolean },
  show: (event: ReadEvent) => void,
): Promise<void> {
  const { limit, only } = source;
  const last: ReadEvent[] = [];
  await readEvents(cursor, source, (event) => {
    if (!only(event)) return;
    if (limit === Number.POSITIVE_INFINITY) return show(event);
    last.push(event);
    if (last.length > limit) last.shift();
  });
  for (const event of last) show(event);
}

/**
 * Calls `pass` whenever the inbox may have changed, until `signal` is aborted. The watch is a hint; a look every second, or
 * every `pauseMs`, is what counts, and sees sentinels appear, too. Where `pass` gave true there is nothing of that kind, and a look at
 * the inbox's version now and then is enough.
 */
export async function follow(
  { inboxes, recipient }: Source,
  signal: AbortSignal,
  pass: () => Promise<boolean | void>,
  pauseMs: () => number = () => 1000,
) {
  let wake = (): void => {};
  const endWatching = inboxes.watch((changed) => {
    if (changed === null || changed === recipient) wake();
  });
  const aborted = new Promise<void>((done) => signal.addEventListener("abort", () => done(), { once: true }));
  let settled: string | null = null;
  while (!signal.aborted) {
    const changed = new Promise<void>((done) => (wake = done));
    const now = await inboxes.version(recipient);
    if (settled !== now) settled = (await pass()) === true ? now : null;
    await Promise.race([changed, aborted, Bun.sleep(settled === null ? pauseMs() : inboxes.idleMs)]);
  }
  endWatching();
}

export interface NewOptions extends ReadOptions {
  /** At most so many events in this turn; the others wait for the next. */
  limit?: number | undefined;
  /** `file`: oldest first; the reading ends at the limit. `urgent-first`: urgent ones before the others, each oldest first. */
  order?: "urgent-first" | "file" | undefined;
  /** Events that it refuses stay new. */
  only?: ((event: ReadEvent) => boolean) | undefined;
  /** Nothing is noted. */
  peek?: boolean | undefined;
}

/** The events that the reader's mark doesn't cover. Two processes that read for one reader take turns: `done` ends the turn. */
export async function readNew(options: NewOptions, cursor?: LineCursor) {
  const { inboxes, recipient, peek } = options;
  const own = cursor ?? inboxes.cursor(recipient);
  const place = inboxes.mark(options);
  const turn = peek ? null : await place.takeTurn();
  const end = async (): Promise<void> => {
    if (!cursor) own.close();
    await turn?.end();
  };
  try {
    return await collectNew(options, { cursor: own, turn, end, stored: await readMark(place) });
  } catch (error) {
    await end();
    throw error;
  }
}

interface Found extends Spot {
  event: ReadEvent;
}

interface Collecting {
  cursor: LineCursor;
  stored: StoredMark;
  /** Null: nothing is noted. */
  turn: Turn | null;
  end: () => Promise<void>;
}

async function collectNew(options: NewOptions, { cursor, stored, turn, end }: Collecting) {
  const { limit = MOST_KEPT, only = () => true } = options;
  const eventOf = eventsOf(options);
  cursor.positions = stored.files;
  let mark!: ReturnType<typeof openMark>;
  const enough = new AbortController();
  const [urgent, others] = [createShelf(limit), createShelf(limit)];
  let order = options.order;
  let [more, waiting] = [false, 0];
  const visit = (line: Line): void => {
    // Only an urgent one would be taken now.
    if (others.isFull() && !/urgent/i.test(line.bytes.toString("latin1", line.start, line.end))) return leave(line);
    const spot = spotOf(line);
    if (mark.isShown(spot)) return;
    const event = eventOf(line);
    // One warning is enough.
    if (!event) return mark.ahead < MOST_AHEAD ? mark.add(spot) : undefined;
    const shelf = event.priority === "urgent" && order !== "file" ? urgent : others;
    if (!only(event)) return leave(line, false);
    if (shelf.isFull()) return leave(line);
    if (waits(event)) return hold(event, spot);
    shelf.add({ event, ...spot }, line.length);
    if ((order === "file" ? others : urgent).isFull()) enough.abort();
  };
  const leave = (line: Line, isMore = true): void => {
    more ||= isMore;
    mark.leave(line);
  };
  const hold = ({ id, sentinel }: ReadEvent, spot: Spot): void => {
    waiting++;
    if (mark.hold(spot, LOOKS_BEFORE_WARNING + 1) !== LOOKS_BEFORE_WARNING) return;
    const text = `held back ${LOOKS_BEFORE_WARNING} times: its sentinel "${sentinel}" does not exist`;
    options.warn(`event ${id} has been ${text}`);
  };
  await cursor.read({
    keep: (generation) =>
      stored.files.some((file) => file.generation === generation && Object.keys(file.held).length > 0),
    async begin() {
      mark = openMark(stored, cursor.positions);
      if (mark.ahead > MOST_AHEAD) order = "file";
      for (const line of await mark.heldLines(cursor)) visit(line);
    },
    visit(line) {
      visit(line);
      return enough.signal.aborted;
    },
    signal: enough.signal,
  });
  const found = [...urgent.found, ...others.found];
  const ordered = found.slice(0, limit);
  let next = 0;
  return {
    /** Urgent first, then oldest first. */
    events: ordered.map(({ event }) => event),
    /** Whether others wait for the next turn, as far as was read. */
    more: more || enough.signal.aborted || found.length > limit,
    /** How many wait for their sentinel. */
    waiting,
    /** Notes that the next of them was handed over. Call it right after each. False: another process took the turn over; end it. */
    handedOver: async (): Promise<boolean> => turn === null || ((await mark.note(ordered[next]!, turn)) && next++ >= 0),
    /** Ends the turn: so many more were handed over at once. Makes the mark durable and lets other readers in. */
    done: async (count = 0): Promise<void> => {
      try {
        for (const one of ordered.slice(next, next + count)) mark.add(one);
        for (const one of found) if (!mark.isShown(one)) mark.leave(one);
        if (turn !== null) await mark.close(cursor, turn, false);
      } finally {
        await end();
      }
    },
  };
}

/** Takes events until it is full. */
function createShelf(limit: number) {
  const found: Found[] = [];
  let bytes = 0;
  return {
    found,
    isFull: (): boolean => found.length >= limit || bytes >= MOST_KEPT_BYTES,
    add(one: Found, length: number): void {
      found.push(one);
      bytes += length;
    },
  };
}

export function waits(event: ReadEvent): boolean {
  return event.sentinel !== undefined && event.sentinel !== "" && !existsSync(event.sentinel);
}

/** Gives what a line says, with a warning where it is no event. */
export function eventsOf({ inboxes, recipient, warn }: Source): (line: Line) => ReadEvent | null {
  const where = inboxes.where(recipient);
  return (line) => eventIn(line, (reason) => warn(`${where}: skipped the line at byte ${line.offset}: ${reason}`));
}

/** What a line says; null where it is no event. `skipped` is told why, unless it is empty. */
export function eventIn(line: Line, skipped: (reason: string) => void): ReadEvent | null {
  const found = parseLine(line);
  if (found === null) return null;
  const parsed = "value" in found ? v.safeParse(EventLine, found.value) : null;
  if (parsed?.success) {
    const event = parsed.output;
    // Other programs need not give one: then it is made of the line.
    return event.id === "" ? { ...event, id: derivedId(line.bytes.subarray(line.start, line.end)) } : event;
  }
  skipped("malformed" in found ? found.malformed : "not an event");
  return null;
}
