// A lane: what one delivery still has to send from one inbox.
//
// The mark of reader `deliver:<name>` says what was sent (lib/mark.ts). Two cursors start from it:
//
//   counting   reads what comes, once, and counts what waits; a look that finds nothing new is a stat of the inbox and of the mark
//   reading    reads from the mark for each message: as many events as were counted by then, in the order of the file
//
// Nothing is locked while a message is under way, which may take long. When the mark was moved meanwhile (`deliver skip`), the
// message moves it no further. Memory is flat: a message keeps MOST_EVENTS events, whatever waits.

import { existsSync, rmSync, statSync } from "node:fs";
import type { Cursor, Line } from "../../cursor.ts";
import { textOf, writeWhole } from "../../files.ts";
import { type Priority, inboxPath } from "../../inbox.ts";
import { type MarkFile, type Spot, markPath, parseMark, spotOf, takeTurn } from "../../mark.ts";
import { type ReadEvent, eventIn, inboxCursor, waits } from "../../reader.ts";
import type { Pile, Waiting } from "./batch.ts";

/** The most that a message shows: events, and characters of their payloads. */
const MOST_EVENTS = 1000;
const MOST_CHARACTERS = 1 << 18;
/** So many sentinels are waited for; behind them nothing is read. */
const MOST_HELD = 1000;
/** A mark that lies so far behind moves though nothing was sent: what is behind it isn't for this delivery. */
const FAR_BYTES = 1 << 18;
/** After so many looks an event that waits for its sentinel is logged. */
const LOOKS_BEFORE_WARNING = 3;

const KINDS = ["urgent", "normal"] as const;
type Kind = (typeof KINDS)[number];
const kindOf = ({ priority }: ReadEvent): Kind => (priority === "urgent" ? "urgent" : "normal");

/** The source of the event that tells that a delivery is held; that delivery leaves it out. */
export const failingSource = (delivery: string): string => `collector:delivery.failing:${delivery}`;

export interface LaneOptions {
  dir: string;
  /** The delivery's name. */
  delivery: string;
  recipient: string;
  min: Priority;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
}

/** What one message takes. */
export interface Batch {
  /** Those that it shows, urgent first. */
  events: ReadEvent[];
  /** How many it takes. */
  count: number;
  /** The event's id, or a hash of all their ids. */
  id: string;
  /** Moves the mark behind them; false when it was moved meanwhile, and stays. */
  accept: () => Promise<boolean>;
}

export interface Wanted {
  urgentOnly: boolean;
  /** Takes all that was counted; else as much as a message shows. */
  all: boolean;
  /** Takes so many, to make the same message again. */
  count: number | null;
  now: number;
}

export type Lane = ReturnType<typeof openLane>;

export function openLane({ dir, delivery, recipient, min, warn }: LaneOptions) {
  const options = { dir, recipient, reader: `deliver:${delivery}`, warn };
  const [inbox, mark] = [inboxPath(dir, recipient), markPath(options)];
  const [counting, reading] = [inboxCursor(options), inboxCursor(options)];
  const piles = (): Record<Kind, Pile> => ({ urgent: { count: 0, since: 0 }, normal: { count: 0, since: 0 } });
  let waiting = piles();
  /** Sentinels that are absent, and for how many looks. */
  const absent = new Map<string, number>();
  /** What inbox and mark were at the last look; the mark "" to count again. */
  const seen = { inbox: "", mark: "" };

  const isFor = ({ priority, source }: ReadEvent): boolean =>
    (min === "normal" || priority === "urgent") && source !== failingSource(delivery);

  /** Counts what came. @param now when it did, in milliseconds since 1970. */
  async function look(now: number): Promise<void> {
    const is = { inbox: signature(inbox), mark: signature(mark) };
    const fresh = is.mark !== seen.mark || absent.keys().some(existsSync);
    for (const [path, looks] of absent) absent.set(path, patience(path, looks));
    // A file that was renamed may still be written to.
    if (!fresh && is.inbox === seen.inbox && counting.positions.length < 2) return;
    const text = textOf(mark) ?? "";
    const files = parseMark(text);
    if (fresh) {
      counting.positions = files;
      waiting = piles();
      absent.clear();
    }
    await count({ files, fresh, now });
    Object.assign(seen, is);
    const found = KINDS.some((kind) => waiting[kind].count > 0) || absent.size > 0;
    if (!found && isFar(files.at(-1), counting)) await replace(text, counting.positions.map(bare));
  }

  function patience(path: string, looks: number): number {
    if (looks === LOOKS_BEFORE_WARNING)
      warn(`${inbox}: an event waits for its sentinel "${path}", which does not exist`);
    return Math.min(looks, LOOKS_BEFORE_WARNING) + 1;
  }

  async function count({ files, fresh, now }: { files: MarkFile[]; fresh: boolean; now: number }): Promise<void> {
    const full = new AbortController();
    const visit = (event: ReadEvent): boolean => {
      if (waits(event)) {
        absent.set(event.sentinel!, absent.get(event.sentinel!) ?? 1);
        if (absent.size >= MOST_HELD) full.abort();
        return full.signal.aborted;
      }
      const pile = waiting[kindOf(event)];
      // What is there at the start may have waited for long.
      if (pile.count++ === 0) pile.since = Math.min((fresh && Date.parse(event.ts)) || now, now);
      return false;
    };
    await readOn(counting, { files, held: fresh, signal: full.signal, visit });
  }

  /** Visits the events for this delivery that the mark doesn't cover, from where a cursor is; `held`: with those before it that wait. */
  async function readOn(cursor: Cursor, { files, held, signal, visit }: Reading): Promise<void> {
    const isShown = shownIn(files);
    const visitLine = (line: Line): boolean => {
      const spot = spotOf(line);
      const event = isShown(spot) ? null : eventIn(line, options);
      return event !== null && isFor(event) && visit(event, spot);
    };
    const heldLines = files.flatMap((file) =>
      Object.keys(file.held).map((offset) => [file.generation, Number(offset)] as const),
    );
    await cursor.read({
      signal,
      keep: (generation) => heldLines.some(([one]) => one === generation),
      begin() {
        if (!held) return;
        for (const place of heldLines) {
          const line = cursor.lineAt(...place);
          if (line && visitLine(line)) return;
        }
      },
      visit: visitLine,
    });
  }

  /** Replaces the mark, if it still is what it was. */
  async function replace(text: string, files: MarkFile[]): Promise<boolean> {
    const turn = await takeTurn(options);
    try {
      if ((textOf(mark) ?? "") !== text || !turn.isOurs()) return false;
      writeWhole(mark, `${JSON.stringify({ files })}\n`, 0o600);
      seen.mark = signature(mark);
      return true;
    } finally {
      turn.end();
    }
  }

  /** Reads what the next message takes; null where less is found than was counted: then it is counted again. */
  async function gather({ urgentOnly, all, count: again, now }: Wanted): Promise<Batch | null> {
    const before = { urgent: waiting.urgent.count, normal: urgentOnly ? 0 : waiting.normal.count };
    const counted = before.urgent + before.normal;
    const text = textOf(mark) ?? "";
    const most = Math.min(again ?? (all ? Infinity : MOST_EVENTS), counted);
    const files = parseMark(text);
    const isLeft = (event: ReadEvent): boolean => urgentOnly && kindOf(event) !== "urgent";
    const taking = createTaking({ files, most, whole: all || again !== null, isLeft });
    reading.positions = files;
    await readOn(reading, { files, held: true, signal: taking.signal, visit: taking.take });
    if (!taking.signal.aborted) {
      seen.mark = "";
      return null;
    }
    const { by } = taking;
    const accept = async (): Promise<boolean> => {
      if (!(await replace(text, taking.behind(reading)))) return false;
      for (const kind of KINDS) {
        waiting[kind].count -= by[kind];
        // What is left came while this was sent.
        if (by[kind] === before[kind]) waiting[kind].since = now;
      }
      return true;
    };
    return { ...taking.taken(), accept };
  }

  return {
    recipient,
    look,
    gather,
    waiting: (): Waiting => ({ recipient, ...waiting }),
    /** Sentinels that are waited for. */
    held: (): number => absent.size,
    /** Whether there is a mark. */
    isBegun: (): boolean => existsSync(mark),
    /** Whether another program has moved the mark since the last look. */
    isMoved: (): boolean => seen.mark !== "" && signature(mark) !== seen.mark,
    /** Begins with what comes from now on, whatever waits. */
    async begin(): Promise<void> {
      reading.positions = [];
      await reading.read({ visit() {} });
      while (!(await replace(textOf(mark) ?? "", reading.positions.map(bare))));
    },
    close(): void {
      counting.close();
      reading.close();
    },
    /** Removes the mark. */
    forget(): void {
      rmSync(mark, { force: true });
    },
  };
}

/** A file as it is now; "-" when it is missing. */
function signature(path: string): string {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats ? `${stats.ino} ${stats.size} ${stats.mtimeMs}` : "-";
}

const bare = (position: Omit<MarkFile, "shown" | "held">): MarkFile => ({ ...position, shown: {}, held: {} });

function isFar(from: MarkFile | undefined, { positions }: Cursor): boolean {
  const to = positions.at(-1);
  return to !== undefined && (from?.generation !== to.generation || to.offset - from.offset > FAR_BYTES);
}

interface Reading {
  /** What the mark says. */
  files: MarkFile[];
  held: boolean;
  signal: AbortSignal;
  /** An answer of true ends the reading behind that event. */
  visit: (event: ReadEvent, spot: Spot) => boolean;
}

/** Which lines behind a mark were shown before others: urgent ones in quiet hours. */
function shownIn(files: MarkFile[]): (spot: Spot) => boolean {
  const shown = new Map(files.map((file) => [file.generation, file.shown]));
  return ({ generation, offset, hash }) => shown.get(generation)?.[offset] === hash;
}

interface Taking {
  files: MarkFile[];
  most: number;
  /** Takes also those that it doesn't show. */
  whole: boolean;
  isLeft: (event: ReadEvent) => boolean;
}

/** Takes up to `most` events for one message. */
function createTaking({ files, most, whole, isLeft }: Taking) {
  const full = new AbortController();
  const by = { urgent: 0, normal: 0 };
  const characters = { urgent: 0, normal: 0 };
  const kept: Record<Kind, ReadEvent[]> = { urgent: [], normal: [] };
  const ids = new Bun.CryptoHasher("sha256");
  let first: ReadEvent | undefined;
  /** By generation: those that wait for their sentinel, the first one that is left, and those behind that one that were taken. */
  const passed = new Map<number, { held: Record<string, number>; left: Spot | null; taken: Spot[] }>();

  function take(event: ReadEvent, spot: Spot): boolean {
    const file = passedIn(spot.generation);
    const isHeld = spot.offset in file.held;
    if (isLeft(event)) {
      if (!isHeld) file.left ??= spot;
      return false;
    }
    if (waits(event)) {
      file.held[spot.offset] ??= 1;
      return false;
    }
    delete file.held[spot.offset];
    if (file.left) file.taken.push(spot);
    first ??= event;
    ids.update(`${event.id}\n`);
    const kind = kindOf(event);
    by[kind]++;
    if (by[kind] <= MOST_EVENTS && characters[kind] < MOST_CHARACTERS) kept[kind].push(event);
    characters[kind] += event.payload.length;
    const isCut = !whole && characters.urgent + characters.normal >= MOST_CHARACTERS;
    if (isCut || by.urgent + by.normal >= most) full.abort();
    return full.signal.aborted;
  }

  function passedIn(generation: number) {
    const old = files.find((file) => file.generation === generation);
    const file = passed.get(generation) ?? { held: { ...old?.held }, left: null, taken: [] };
    passed.set(generation, file);
    return file;
  }

  /** The mark behind what was taken; it doesn't pass what is left. */
  function behind(cursor: Cursor): MarkFile[] {
    return cursor.positions.map((end) => {
      const { generation } = end;
      const { held, left, taken } = passedIn(generation);
      const old = files.find((file) => file.generation === generation);
      // What was rewritten meanwhile is not what was read: then the mark stays.
      const position = left ? cursor.back(generation, left.offset) : end;
      if (!position) return old ?? bare(end);
      const shown = { ...old?.shown, ...Object.fromEntries(taken.map(({ offset, hash }) => [offset, hash])) };
      const ahead = Object.entries(shown).filter(([offset]) => Number(offset) >= position.offset);
      const waiting = Object.entries(held).filter(([offset]) => Number(offset) < position.offset);
      return { ...position, shown: Object.fromEntries(ahead), held: Object.fromEntries(waiting) };
    });
  }

  return {
    take,
    behind,
    by,
    /** Aborted when it is full. */
    signal: full.signal,
    taken() {
      const count = by.urgent + by.normal;
      const id = count === 1 && first?.id ? first.id : ids.digest("hex").slice(0, 32);
      return { events: [...kept.urgent, ...kept.normal].slice(0, MOST_EVENTS), count, id };
    },
  };
}
