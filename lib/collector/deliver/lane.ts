// A lane: what one delivery still has to send from one inbox.
//
// The mark of reader `deliver:<name>` says what was sent (lib/mark.ts). Two cursors start from it:
//
//   counting   reads what comes, once, and counts what waits; a look that finds nothing new asks for the versions of inbox and mark
//   reading    reads from the mark for each message: as many events as were counted by then, in the order of the file
//
// Nothing is locked while a message is under way, which may take long. When the mark was moved meanwhile (`deliver skip`), the
// message moves it no further. Memory is flat: a message keeps MOST_EVENTS events, whatever waits.

import { existsSync } from "node:fs";
import type { Line } from "../../cursor.ts";
import type { Priority } from "../../inbox.ts";
import type { Inboxes, LineCursor } from "../../inboxes.ts";
import { type StoredMark, openMark, readMark, spotOf } from "../../mark.ts";
import { type ReadEvent, eventsOf, waits } from "../../reader.ts";
import type { Pile, Waiting } from "./batch.ts";

/** The most that a message shows: events, and characters of their payloads. */
const MOST_EVENTS = 1000;
const MOST_CHARACTERS = 1 << 18;
/** So many sentinels are waited for; behind them nothing is read. */
const MOST_HELD = 1000;
/** After so many looks an event that waits for its sentinel is logged. */
const LOOKS_BEFORE_WARNING = 3;

const KINDS = ["urgent", "normal"] as const;
type Kind = (typeof KINDS)[number];
const kindOf = ({ priority }: ReadEvent): Kind => (priority === "urgent" ? "urgent" : "normal");

/** The source of the event that tells that a delivery is held; that delivery leaves it out. */
export const failingSource = (delivery: string): string => `collector:delivery.failing:${delivery}`;

export interface LaneOptions {
  inboxes: Inboxes;
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

export function openLane({ inboxes, delivery, recipient, min, warn }: LaneOptions) {
  const mark = inboxes.mark({ recipient, reader: `deliver:${delivery}` });
  const eventOf = eventsOf({ inboxes, recipient, warn });
  const [counting, reading] = [inboxes.cursor(recipient), inboxes.cursor(recipient)];
  const piles = (): Record<Kind, Pile> => ({ urgent: { count: 0, since: 0 }, normal: { count: 0, since: 0 } });
  let waiting = piles();
  /** Sentinels that are absent, and for how many looks. */
  const absent = new Map<string, number>();
  /** The versions of inbox and mark at the last look; the mark null to count again. */
  const seen: { inbox: string; mark: string | null } = { inbox: "", mark: null };

  const isFor = ({ priority, source }: ReadEvent): boolean =>
    (min === "normal" || priority === "urgent") && source !== failingSource(delivery);

  /** Counts what came. @param now when it did, in milliseconds since 1970. */
  async function look(now: number): Promise<void> {
    const is = { inbox: await inboxes.version(recipient), mark: await mark.version() };
    const fresh = is.mark !== seen.mark || absent.keys().some(existsSync);
    for (const [path, looks] of absent) absent.set(path, patience(path, looks));
    // A file that was renamed may still be written to.
    if (!fresh && is.inbox === seen.inbox && !counting.isBehind) return;
    const stored = await readMark(mark);
    if (fresh) {
      counting.positions = stored.files;
      waiting = piles();
      absent.clear();
    }
    const move = await count({ stored, fresh, now });
    Object.assign(seen, is);
    const found = KINDS.some((kind) => waiting[kind].count > 0) || absent.size > 0;
    if (!found && isFar(stored, counting)) await move();
  }

  function patience(path: string, looks: number): number {
    if (looks === LOOKS_BEFORE_WARNING)
      warn(`${inboxes.where(recipient)}: an event waits for its sentinel "${path}", which does not exist`);
    return Math.min(looks, LOOKS_BEFORE_WARNING) + 1;
  }

  function count({ stored, fresh, now }: { stored: StoredMark; fresh: boolean; now: number }) {
    const full = new AbortController();
    const take = (event: ReadEvent): void => {
      const pile = waiting[kindOf(event)];
      // What is there at the start may have waited for long.
      if (pile.count++ === 0) pile.since = Math.min((fresh && Date.parse(event.ts)) || now, now);
    };
    const hold = ({ sentinel = "" }: ReadEvent): void => {
      absent.set(sentinel, absent.get(sentinel) ?? 1);
      if (absent.size >= MOST_HELD) full.abort();
    };
    return readFrom(counting, stored, { urgentOnly: false, held: fresh, signal: full.signal, take, hold });
  }

  /** Reads from where a cursor is what the mark doesn't cover. Gives what moves the mark behind that, unless it was moved meanwhile. */
  async function readFrom(cursor: LineCursor, stored: StoredMark, { urgentOnly, held, signal, take, hold }: Reading) {
    let open!: ReturnType<typeof openMark>;
    /** Generations of which something is left for later. */
    const left = new Set<number>();
    let waited = true;
    const visit = (line: Line): boolean => {
      const spot = spotOf(line);
      const event = open.isShown(spot) ? null : eventOf(line);
      if (event === null || !isFor(event)) return false;
      if (urgentOnly && kindOf(event) !== "urgent") {
        open.leave(spot);
        left.add(spot.generation);
      } else if (waits(event)) {
        open.hold(spot, 1);
        hold(event);
      } else {
        // Where nothing is left, the position says it.
        if (left.has(spot.generation) || waited) open.add(spot);
        take(event);
      }
      return signal.aborted;
    };
    await cursor.read({
      signal,
      keep: (generation) =>
        stored.files.some((file) => file.generation === generation && Object.keys(file.held).length > 0),
      async begin() {
        open = openMark(stored, cursor.positions);
        if (held) (await open.heldLines(cursor)).some(visit);
        waited = false;
      },
      visit,
    });
    return async (): Promise<boolean> => {
      const turn = await mark.takeTurn();
      try {
        if ((await mark.read()) !== stored.text) return false;
        await open.close(cursor, turn, true);
        seen.mark = await mark.version();
        return true;
      } finally {
        await turn.end();
      }
    };
  }

  /** Reads what the next message takes; null where less is found than was counted: then it is counted again. */
  async function gather({ urgentOnly, all, count: again, now }: Wanted): Promise<Batch | null> {
    const before = { urgent: waiting.urgent.count, normal: urgentOnly ? 0 : waiting.normal.count };
    const most = Math.min(again ?? (all ? Infinity : MOST_EVENTS), before.urgent + before.normal);
    const taking = createTaking(most, all || again !== null);
    const stored = await readMark(mark);
    reading.positions = stored.files;
    const move = await readFrom(reading, stored, { ...taking, urgentOnly, held: true, hold() {} });
    if (!taking.signal.aborted) {
      seen.mark = null;
      return null;
    }
    const { by } = taking;
    const accept = async (): Promise<boolean> => {
      const moved = await move();
      reading.close();
      if (!moved) return false;
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
    /** Whether there is a mark. */
    isBegun: async (): Promise<boolean> => (await mark.version()) !== "",
    /** Whether another program has moved the mark since the last look. */
    isMoved: async (): Promise<boolean> => seen.mark !== null && (await mark.version()) !== seen.mark,
    /** Begins at the start of the inbox, or with what comes from now on, whatever waits. */
    async begin(from: "start" | "now"): Promise<void> {
      let moved = false;
      while (!moved) {
        reading.positions = [];
        if (from === "now") await reading.skip();
        const stored = { ...(await readMark(mark)), files: [] };
        const signal = from === "now" ? new AbortController().signal : AbortSignal.abort();
        const move = await readFrom(reading, stored, { urgentOnly: false, held: false, signal, take() {}, hold() {} });
        moved = await move();
      }
      reading.close();
      seen.mark = null;
    },
    close(): void {
      counting.close();
      reading.close();
    },
    /** Removes the mark. */
    forget: (): Promise<void> => mark.forget(),
  };
}

/** A mark that lies far behind moves though nothing was sent: what is behind it isn't for this delivery. */
function isFar({ files }: StoredMark, { positions, far }: LineCursor): boolean {
  const [from, to] = [files.at(-1), positions.at(-1)];
  return to !== undefined && (from?.generation !== to.generation || to.offset - from.offset > far);
}

interface Reading {
  /** Others are left for later. */
  urgentOnly: boolean;
  /** Visits also those before the cursor that waited for their sentinel. */
  held: boolean;
  /** Ends the reading behind the present event. */
  signal: AbortSignal;
  take: (event: ReadEvent) => void;
  /** An event that waits for its sentinel. */
  hold: (event: ReadEvent) => void;
}

/** Takes up to `most` events for one message; `whole`: also more than it shows. */
function createTaking(most: number, whole: boolean) {
  const full = new AbortController();
  const by = { urgent: 0, normal: 0 };
  const characters = { urgent: 0, normal: 0 };
  const kept: Record<Kind, ReadEvent[]> = { urgent: [], normal: [] };
  const ids = new Bun.CryptoHasher("sha256");
  let first = "";
  return {
    by,
    /** Aborted when it is full. */
    signal: full.signal,
    take(event: ReadEvent): void {
      const kind = kindOf(event);
      by[kind]++;
      if (by.urgent + by.normal === 1) first = event.id;
      ids.update(`${event.id}\n`);
      if (by[kind] <= MOST_EVENTS && characters[kind] < MOST_CHARACTERS) kept[kind].push(event);
      characters[kind] += event.payload.length;
      const isCut = !whole && characters.urgent + characters.normal >= MOST_CHARACTERS;
      if (isCut || by.urgent + by.normal >= most) full.abort();
    },
    taken() {
      const count = by.urgent + by.normal;
      const id = count === 1 && first !== "" ? first : ids.digest("hex").slice(0, 32);
      return { events: [...kept.urgent, ...kept.normal].slice(0, MOST_EVENTS), count, id };
    },
  };
}
