// Reading an inbox, with a mark that remembers how far a reader got.
//
// <inbox_dir>/<recipient>.mark holds { offset, print, shown, held }: everything before `offset` was shown; of what follows, the lines at
// `shown` were too. `print` is a hash of the last bytes before `offset`: the file that is there now is the file that was read
// when it still has these bytes there. So the mark survives a rename with a new file after it, a truncation, and a copy;
// where it doesn't fit, reading starts at the beginning, for showing twice is better than never.
// `held` counts the passes in which an event waited for its sentinel. The mark is replaced by rename after the events
// were written out, so a reader killed in between shows them again.

import { closeSync, constants, existsSync, openSync, readFileSync, readSync, statSync, watch } from "node:fs";
import { basename, join } from "node:path";
import * as v from "valibot";
import { inheritOwner, makeFolder, writeWhole } from "./files.ts";
import { EventLine, inboxPath, statePath } from "./inbox.ts";
import { flock, hasLibc } from "./ffi.ts";
import { replay } from "./replay.ts";

/** An event as a reader shows it. */
export type ReadEvent = v.InferOutput<typeof EventLine>;

interface Found {
  event: ReadEvent;
  offset: number;
}

const Mark = v.object({
  offset: v.pipe(v.number(), v.integer(), v.minValue(0)),
  print: v.string(),
  shown: v.array(v.number()),
  held: v.record(v.string(), v.number()),
});
type Mark = v.InferOutput<typeof Mark>;

const NO_MARK: Mark = { offset: 0, print: "", shown: [], held: {} };
const PRINT_BYTES = 256;
/** After this many passes over a held event, one warning. */
const PASSES_BEFORE_WARNING = 3;

export interface ReadOptions {
  dir: string;
  recipient: string;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
}

/**
 * Shows the events of an inbox from byte `from` on, oldest first, with flat memory; those whose sentinel is absent are left out.
 * Returns the byte to go on from later.
 */
export function readFrom(options: ReadOptions, from: number, show: (event: ReadEvent) => void): Promise<number> {
  return scan(options, from, ({ event }) => {
    if (!waits(event)) show(event);
  });
}

/** Shows the newest `limit` events of an inbox, oldest first. Returns the byte to go on from later. */
export async function readLast(options: ReadOptions, limit: number, show: (event: ReadEvent) => void): Promise<number> {
  if (limit === Number.POSITIVE_INFINITY) return readFrom(options, 0, show);
  const last: ReadEvent[] = [];
  const end = await readFrom(options, 0, (event) => {
    last.push(event);
    if (last.length > limit) last.shift();
  });
  for (const event of last) show(event);
  return end;
}

/**
 * Calls `pass` whenever the inbox may have changed, until `signal` is aborted. The watch is a hint; a look every second
 * is what counts, and sees sentinels appear, too.
 */
export async function follow(
  { dir, recipient }: ReadOptions,
  signal: AbortSignal,
  pass: () => Promise<void>,
): Promise<void> {
  const name = basename(inboxPath(dir, recipient));
  makeFolder(dir, 0o755);
  let wake = (): void => {};
  const watcher = watch(dir, (_event, changed) => {
    if (changed === null || changed === name) wake();
  });
  watcher.on("error", () => watcher.close());
  const aborted = new Promise<void>((done) => signal.addEventListener("abort", () => done(), { once: true }));
  while (!signal.aborted) {
    const changed = new Promise<void>((done) => (wake = done));
    await pass();
    await Promise.race([changed, aborted, Bun.sleep(1000)]);
  }
  watcher.close();
}

/** How far a reader got in an inbox, and what stands before it (see the mark). */
export interface Place {
  offset: number;
  print: string;
}

/** The place behind the first `offset` bytes of an inbox. */
export function placeAt({ dir, recipient }: ReadOptions, offset: number): Place {
  return { offset, print: printBefore(inboxPath(dir, recipient), offset) };
}

/** Where to go on reading: at the beginning when the inbox was replaced or truncated since, however long it is now. */
export function goOn({ dir, recipient }: ReadOptions, { offset, print }: Place): number {
  const path = inboxPath(dir, recipient);
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  return offset <= size && printBefore(path, offset) === print ? offset : 0;
}

/** What one pass over the new events gives: what to show, and `done` to move the mark over the first `count` of them. */
export interface NewEvents {
  /** Urgent first, then oldest first. */
  events: ReadEvent[];
  /** Moves the mark past the first `count` events, durably, and lets other readers in. Call it once, after showing them. */
  done: (count: number) => void;
}

/** The events past the reader's mark. Two readers of one recipient take turns: `done` ends the turn. */
export async function readNew(options: ReadOptions): Promise<NewEvents> {
  const release = await takeTurn(options);
  try {
    return await collectNew(options, release);
  } catch (error) {
    release();
    throw error;
  }
}

async function collectNew(options: ReadOptions, release: () => void): Promise<NewEvents> {
  const path = inboxPath(options.dir, options.recipient);
  const markPath = join(options.dir, `${options.recipient}.mark`);
  const mark = fitting(readMark(markPath), path);
  const lines: Found[] = [];
  const end = await scan(options, mark.offset, (found) => lines.push(found));
  const shown = new Set(mark.shown);
  const fresh = lines.filter(({ offset }) => !shown.has(offset));
  const held: Record<string, number> = {};
  const ready = fresh.filter(({ event, offset }) => {
    if (!waits(event)) return true;
    const passes = (mark.held[offset] ?? 0) + 1;
    if (passes === PASSES_BEFORE_WARNING) {
      options.warn(
        `event ${event.id} has been held back ${passes} times: its sentinel "${event.sentinel}" does not exist`,
      );
    }
    held[offset] = Math.min(passes, PASSES_BEFORE_WARNING + 1);
    return false;
  });
  const ordered = [...ready.filter((one) => isUrgent(one)), ...ready.filter((one) => !isUrgent(one))];
  return {
    events: ordered.map(({ event }) => event),
    done(count) {
      try {
        for (const { offset } of ordered.slice(0, count)) shown.add(offset);
        const next = advance({ path, from: mark.offset, lines, end, shown, held });
        if (JSON.stringify(next) !== JSON.stringify(mark)) writeWhole(markPath, JSON.stringify(next), 0o600);
      } finally {
        release();
      }
    },
  };
}

function isUrgent({ event }: Found): boolean {
  return event.priority === "urgent";
}

function waits(event: ReadEvent): boolean {
  return event.sentinel !== undefined && event.sentinel !== "" && !existsSync(event.sentinel);
}

async function scan(options: ReadOptions, from: number, visit: (found: Found) => void): Promise<number> {
  const path = inboxPath(options.dir, options.recipient);
  const { end } = await replay({
    path,
    from,
    record(value, place) {
      const parsed = v.safeParse(EventLine, value);
      if (parsed.success) visit({ event: parsed.output, offset: place.offset });
      else options.warn(`${path}: skipped the line at byte ${place.offset}: not an event`);
    },
    malformed: (place, reason) => options.warn(`${path}: skipped the line at byte ${place.offset}: ${reason}`),
  });
  return end;
}

// ---------------------------------------------------------------------------------------------------------------
// The mark

interface Progress {
  path: string;
  from: number;
  lines: Found[];
  end: number;
  shown: Set<number>;
  held: Record<string, number>;
}

/** The mark moves to the first event that wasn't shown; what was shown behind it is remembered one by one. */
function advance({ path, from, lines, end, shown, held }: Progress): Mark {
  const first = lines.find(({ offset }) => !shown.has(offset));
  const offset = first?.offset ?? Math.max(end, from);
  const later = first ? lines.filter((line) => line.offset > offset && shown.has(line.offset)) : [];
  return { offset, print: printBefore(path, offset), shown: later.map((line) => line.offset), held };
}

/** The mark, or the beginning when the inbox is another file than the one it was made for. */
function fitting(mark: Mark, path: string): Mark {
  const size = statSync(path, { throwIfNoEntry: false })?.size ?? 0;
  return mark.offset <= size && printBefore(path, mark.offset) === mark.print ? mark : NO_MARK;
}

function printBefore(path: string, offset: number): string {
  if (offset === 0 || !existsSync(path)) return "";
  const fd = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(Math.min(PRINT_BYTES, offset));
    const n = readSync(fd, bytes, 0, bytes.length, offset - bytes.length);
    return Bun.hash(bytes.subarray(0, n)).toString(16);
  } finally {
    closeSync(fd);
  }
}

function readMark(path: string): Mark {
  if (!existsSync(path)) return NO_MARK;
  try {
    return v.parse(Mark, JSON.parse(readFileSync(path, "utf8")));
  } catch {
    // Only a rename puts a mark there, so this one was edited: showing everything again loses nothing.
    return NO_MARK;
  }
}

async function takeTurn({ dir, recipient }: ReadOptions): Promise<() => void> {
  inboxPath(dir, recipient);
  if (!existsSync(dir) || !hasLibc()) return () => {};
  makeFolder(statePath(dir), 0o700);
  const fd = openSync(join(statePath(dir), `${recipient}.reader`), constants.O_RDWR | constants.O_CREAT, 0o600);
  inheritOwner(join(statePath(dir), `${recipient}.reader`));
  // Turns are short: a reader that holds one for five seconds is stopped, not slow, and mustn't stop the others.
  for (let tries = 0; tries < 100 && !flock(fd, "exclusive"); tries++) await Bun.sleep(50);
  return () => closeSync(fd);
}
