// Reading an inbox: as it grows, and what is new to a reader, with a mark that remembers what it was shown (lib/mark.ts).

import { existsSync, statSync, watch } from "node:fs";
import { basename } from "node:path";
import * as v from "valibot";
import { Cursor, type Line } from "./cursor.ts";
import { makeFolder } from "./files.ts";
import { EventLine, inboxPath, statePath } from "./inbox.ts";
import { type Reader, type Spot, type Turn, openMark, readMark, spotOf, takeTurn } from "./mark.ts";
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
const IDLE_MS = 5000;

interface Source {
  dir: string;
  recipient: string;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
}

export interface ReadOptions extends Source, Reader {}

/** Reads an inbox as it grows. */
export function inboxCursor({ dir, recipient }: Pick<Source, "dir" | "recipient">): Cursor {
  return new Cursor({ path: inboxPath(dir, recipient) });
}

/** Shows the events behind the cursor, oldest first, with flat memory. Those whose sentinel is absent are left out. */
export function readEvents(cursor: Cursor, source: Source, show: (event: ReadEvent) => void): Promise<void> {
  return cursor.read({
    visit(line) {
      const event = eventIn(line, source);
      if (event && !waits(event)) show(event);
    },
  });
}

/** Shows the newest `limit` of them, of those that `only` takes, oldest first. */
export async function readLast(
  cursor: Cursor,
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
 * every `pauseMs`, is what counts, and sees sentinels appear, too. Where `pass` gave true there is nothing of that kind, and a stat(2)
 * every five seconds is enough.
 */
export async function follow(
  { dir, recipient }: Source,
  signal: AbortSignal,
  pass: () => Promise<boolean | void>,
  pauseMs: () => number = () => 1000,
) {
  const path = inboxPath(dir, recipient);
  makeFolder(dir, 0o755);
  let wake = (): void => {};
  const watcher = watch(dir, (_event, changed) => {
    if (changed === null || changed === basename(path)) wake();
  });
  watcher.on("error", () => watcher.close());
  const aborted = new Promise<void>((done) => signal.addEventListener("abort", () => done(), { once: true }));
  let settled: string | null = null;
  while (!signal.aborted) {
    const changed = new Promise<void>((done) => (wake = done));
    const { ino, size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? { ino: 0, size: 0, mtimeMs: 0 };
    const now = `${ino} ${size} ${mtimeMs}`;
    if (settled !== now) settled = (await pass()) === true ? now : null;
    await Promise.race([changed, aborted, Bun.sleep(settled === null ? pauseMs() : IDLE_MS)]);
  }
  watcher.close();
}

export interface NewOptions extends ReadOptions {
  /** At most so many events in this turn; the others wait for the next. */
  limit?: number | undefined;
  /** `file`: oldest first; the reading ends at the limit. `urgent-first`: urgent ones before the others, each oldest first. */
  order?: "urgent-first" | "file" | undefined;
  /** `now`: to a reader without a mark, only what comes from now on is new. */
  begin?: "now" | undefined;
  /** Events that it refuses stay new. */
  only?: ((event: ReadEvent) => boolean) | undefined;
  /** Nothing is noted. */
  peek?: boolean | undefined;
}

/** The events that the reader's mark doesn't cover. Two processes that read for one reader take turns: `done` ends the turn. */
export async function readNew(options: NewOptions, cursor?: Cursor) {
  const own = cursor ?? inboxCursor(options);
  if (options.begin === "now") makeFolder(statePath(options.dir), 0o700);
  const turn: Turn = options.peek ? { isOurs: () => false, end: () => {} } : await takeTurn(options);
  const end = (): void => {
    if (!cursor) own.close();
    turn.end();
  };
  try {
    return await collectNew(options, own, { ...turn, end });
  } catch (error) {
    end();
    throw error;
  }
}

interface Found extends Spot {
  event: ReadEvent;
}

async function collectNew(options: NewOptions, cursor: Cursor, turn: Turn) {
  const { limit = MOST_KEPT, only = () => true } = options;
  const stored = readMark(options);
  cursor.positions = stored.files;
  if (options.begin === "now" && stored.text === "") await cursor.read({ visit() {} });
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
    const event = eventIn(line, options);
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
    begin() {
      mark = openMark({ reader: options, stored, starts: cursor.positions, turn });
      if (mark.ahead > MOST_AHEAD) order = "file";
      for (const line of mark.heldLines(cursor)) visit(line);
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
    handedOver: (): boolean => options.peek === true || (mark.note(ordered[next]!) && next++ >= 0),
    /** Ends the turn: so many more were handed over at once. Makes the mark durable and lets other readers in. */
    done: (count = 0): void => {
      try {
        for (const one of ordered.slice(next, next + count)) mark.add(one);
        for (const one of found) if (!mark.isShown(one)) mark.leave(one);
        if (!options.peek) mark.close(cursor, options.begin === "now");
      } finally {
        turn.end();
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

/** What a line says; null where it is no event, with a warning where it isn't empty. */
export function eventIn(line: Line, { dir, recipient, warn }: Source): ReadEvent | null {
  const found = parseLine(line);
  if (found === null) return null;
  const parsed = "value" in found ? v.safeParse(EventLine, found.value) : null;
  if (parsed?.success) {
    const event = parsed.output;
    // Other programs need not give one: then it is made of the line.
    return event.id === "" ? { ...event, id: derivedId(line.bytes.subarray(line.start, line.end)) } : event;
  }
  const reason = "malformed" in found ? found.malformed : "not an event";
  warn(`${inboxPath(dir, recipient)}: skipped the line at byte ${line.offset}: ${reason}`);
  return null;
}
