// Reading an inbox, with a mark that remembers what a reader was shown.
//
// <inbox_dir>/<recipient>.mark: the first line is JSON, { files: [{ …position, shown, held }] }: of the file at the path, and of renamed ones
// before it that are still followed, how far all of it was shown (lib/cursor.ts), which lines behind that were shown too (urgent
// ones come first), and in how many passes an event waited for its sentinel. Lines are named by their offset and a hash: an
// inbox that was rewritten can't pass for one that was shown.
// Each event that is handed over adds a line `<generation> <offset> <hash>`: one write(2), no sync. At the end of a turn the mark is replaced
// by rename, and synced. So a reader that is killed repeats the event in hand at most; a power cut repeats those of one turn.
// A mark of 0.1.0, { offset, print, shown, held }, is read as well.

import { closeSync, constants, existsSync, openSync, readFileSync, watch, writeSync } from "node:fs";
import { basename, join } from "node:path";
import * as v from "valibot";
import { Cursor, type Line, type Pass, Position, partialPosition } from "./cursor.ts";
import { inheritOwner, makeFolder, writeWhole } from "./files.ts";
import { flock, hasLibc } from "./ffi.ts";
import { EventLine, inboxPath, statePath } from "./inbox.ts";
import { parseLine } from "./replay.ts";

/** An event as a reader shows it. */
export type ReadEvent = v.InferOutput<typeof EventLine>;

/** After this many passes over a held event, one warning. */
const PASSES_BEFORE_WARNING = 3;

interface ReadOptions {
  dir: string;
  recipient: string;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
}

/** Reads an inbox as it grows. */
export function inboxCursor({ dir, recipient }: ReadOptions): Cursor {
  return new Cursor({ path: inboxPath(dir, recipient) });
}

/** Shows the events behind the cursor, oldest first, with flat memory. Those whose sentinel is absent are left out. */
export function readEvents(cursor: Cursor, options: ReadOptions, show: (event: ReadEvent) => void): Promise<void> {
  return scan(cursor, options, (event) => {
    if (!waits(event)) show(event);
  });
}

/** Shows the newest `limit` of them, oldest first. */
export async function readLast(
  cursor: Cursor,
  options: ReadOptions & { limit: number },
  show: (event: ReadEvent) => void,
): Promise<void> {
  const { limit } = options;
  if (limit === Number.POSITIVE_INFINITY) return readEvents(cursor, options, show);
  const last: ReadEvent[] = [];
  await readEvents(cursor, options, (event) => {
    last.push(event);
    if (last.length > limit) last.shift();
  });
  for (const event of last) show(event);
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

/** The events that the reader's mark doesn't cover. Two readers of one recipient take turns: `done` ends the turn. */
export async function readNew(options: ReadOptions, cursor?: Cursor) {
  const own = cursor ?? inboxCursor(options);
  const release = await takeTurn(options);
  const end = (): void => {
    if (!cursor) own.close();
    release();
  };
  try {
    return await collectNew(options, own, end);
  } catch (error) {
    end();
    throw error;
  }
}

interface Found extends Spot {
  event: ReadEvent;
}

async function collectNew(options: ReadOptions, cursor: Cursor, end: () => void) {
  const path = join(options.dir, `${options.recipient}.mark`);
  const text = existsSync(path) ? readFileSync(path, "utf8") : "";
  const before = parseMark(text);
  cursor.positions = before;
  const found: Found[] = [];
  let starts: readonly Position[] = [];
  await scan(cursor, { ...options, begin: () => (starts = cursor.positions) }, (event, spot) =>
    found.push({ event, ...spot }),
  );
  const mark = openMark({ path, text, before, starts, cursor });
  const ready = found.filter((one) => {
    if (mark.isShown(one)) return false;
    if (!waits(one.event)) return true;
    if (mark.hold(one) === PASSES_BEFORE_WARNING) {
      const { id, sentinel } = one.event;
      options.warn(
        `event ${id} has been held back ${PASSES_BEFORE_WARNING} times: its sentinel "${sentinel}" does not exist`,
      );
    }
    return false;
  });
  const isUrgent = ({ event }: Found): number => Number(event.priority === "urgent");
  const ordered = ready.toSorted((a, b) => isUrgent(b) - isUrgent(a));
  let next = 0;
  return {
    /** Urgent first, then oldest first. */
    events: ordered.map(({ event }) => event),
    /** Notes that the next of them was handed over. Call it right after each. */
    handedOver: () => mark.note(ordered[next++]!),
    /** Ends the turn: so many more were handed over at once. Makes the mark durable and lets other readers in. */
    done: (more = 0): void => {
      try {
        for (const one of ordered.slice(next, next + more)) mark.add(one);
        mark.close(found);
      } finally {
        end();
      }
    },
  };
}

function waits(event: ReadEvent): boolean {
  return event.sentinel !== undefined && event.sentinel !== "" && !existsSync(event.sentinel);
}

function scan(
  cursor: Cursor,
  options: ReadOptions & Pick<Pass, "begin">,
  each: (event: ReadEvent, spot: Spot) => void,
): Promise<void> {
  const path = inboxPath(options.dir, options.recipient);
  return cursor.read({
    begin: options.begin ?? (() => {}),
    visit(line) {
      const found = parseLine(line);
      if (found === null) return;
      const parsed = "value" in found ? v.safeParse(EventLine, found.value) : null;
      if (parsed?.success) return each(parsed.output, spotOf(line));
      const reason = "malformed" in found ? found.malformed : "not an event";
      options.warn(`${path}: skipped the line at byte ${line.offset}: ${reason}`);
    },
  });
}

// ---------------------------------------------------------------------------------------------------------------
// The mark

/** A line of an inbox, by its place and its text. */
interface Spot {
  generation: number;
  offset: number;
  hash: string;
}

function spotOf({ bytes, start, end, generation, offset }: Line): Spot {
  return { generation, offset, hash: Bun.hash(bytes.subarray(start, end)).toString(16) };
}

const MarkFile = v.object({
  ...Position.entries,
  /** Hashes of lines that were shown, by their offset; "" fits any line. */
  shown: v.record(v.string(), v.string()),
  /** Passes in which an event waited, by its offset. */
  held: v.record(v.string(), v.number()),
});
type MarkFile = v.InferOutput<typeof MarkFile>;

const Mark = v.object({ files: v.array(MarkFile) });
const OldMark = v.object({
  offset: v.pipe(v.number(), v.integer(), v.minValue(0)),
  print: v.string(),
  shown: v.array(v.number()),
  held: v.record(v.string(), v.number()),
});

interface Turn {
  path: string;
  /** What is there, and what it says. */
  text: string;
  before: MarkFile[];
  /** Where the files were read from. */
  starts: readonly Position[];
  /** It has read everything by now. */
  cursor: Cursor;
}

/** The mark during a turn: what is shown is added to what was shown before. */
function openMark({ path, text, before, starts, cursor }: Turn) {
  const files = starts.map((position): MarkFile => {
    const known = before.find(({ generation }) => generation === position.generation);
    return { ...position, shown: { ...known?.shown }, held: { ...known?.held } };
  });
  const fileOf = ({ generation }: { generation: number }): MarkFile =>
    files.find((file) => file.generation === generation)!;
  const isShown = (spot: Spot): boolean => ["", spot.hash].includes(fileOf(spot).shown[spot.offset] ?? "-");
  const add = (spot: Spot): void => void (fileOf(spot).shown[spot.offset] = spot.hash);
  let fd = -1;
  const replaceBy = (replacement: MarkFile[]): void => {
    const fresh = `${JSON.stringify({ files: replacement })}\n`;
    if (fresh !== text && replacement.length + text.length > 0) writeWhole(path, fresh, 0o600);
  };
  const ended = (end: Position, found: Found[]): MarkFile => {
    const file = fileOf(end);
    const lines = found.filter((one) => one.generation === end.generation);
    const first = lines.find((one) => !isShown(one));
    // What was rewritten meanwhile is not what was read: then the mark stays.
    const position = first ? (cursor.back(end.generation, first.offset) ?? file) : end;
    const later = lines.filter((one) => one.offset >= position.offset);
    const shown = later.filter(isShown).map(({ offset, hash }) => [offset, hash]);
    const waiting = later.filter((one) => !isShown(one) && one.offset in file.held);
    const held = waiting.map(({ offset }) => [offset, file.held[offset]]);
    return { ...position, shown: Object.fromEntries(shown), held: Object.fromEntries(held) };
  };
  return {
    isShown,
    add,
    /** In how many passes it has waited by now. */
    hold(spot: Spot): number {
      const { held } = fileOf(spot);
      return (held[spot.offset] = Math.min((held[spot.offset] ?? 0) + 1, PASSES_BEFORE_WARNING + 1));
    },
    /** Adds it to the file, for a reader that is killed before the end. */
    note(spot: Spot): void {
      if (fd < 0) {
        replaceBy(files);
        fd = openSync(path, constants.O_WRONLY | constants.O_APPEND);
      }
      writeSync(fd, `${spot.generation} ${spot.offset} ${spot.hash}\n`);
      add(spot);
    },
    close(found: Found[]): void {
      if (fd >= 0) closeSync(fd);
      replaceBy(cursor.positions.map((end) => ended(end, found)));
    },
  };
}

/** What a mark says, the file at the path last; nothing where it was edited, since showing everything again loses nothing. */
export function parseMark(text: string): MarkFile[] {
  const [first, ...notes] = text.split("\n");
  try {
    const given: unknown = JSON.parse(first!);
    const old = v.safeParse(OldMark, given);
    if (old.success) {
      const { offset, print: tail, shown, held } = old.output;
      return [{ ...partialPosition({ offset, tail }), shown: Object.fromEntries(shown.map((at) => [at, ""])), held }];
    }
    const { files } = v.parse(Mark, given);
    for (const note of notes) {
      const [, generation, offset, hash] = /^(\d+) (\d+) ([0-9a-f]+)$/.exec(note) ?? [];
      const file = files.find((one) => String(one.generation) === generation);
      if (file) file.shown[offset!] = hash!;
    }
    return files;
  } catch {
    return [];
  }
}

async function takeTurn({ dir, recipient }: ReadOptions): Promise<() => void> {
  inboxPath(dir, recipient);
  if (!existsSync(dir) || !hasLibc()) return () => {};
  makeFolder(statePath(dir), 0o700);
  const fd = openSync(join(statePath(dir), `${recipient}.reader`), constants.O_RDWR | constants.O_CREAT, 0o600);
  inheritOwner(join(statePath(dir), `${recipient}.reader`));
  // Turns are short: a reader that holds one for five seconds is stopped, not slow, and mustn't stop the others.
  for (let tries = 0; tries < 100 && !flock(fd); tries++) await Bun.sleep(50);
  return () => closeSync(fd);
}
