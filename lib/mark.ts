// A reader's mark: which events of an inbox it was shown; and its turn, since two processes may read for one reader.
//
// The first line is JSON, { files: [{ …position, shown, held }] }, for the inbox and the renamed files before it that are still followed.
// Every line before the position was shown, but for those in `held`, which wait for their sentinel; `shown` names those
// behind it that were shown (urgent ones come first). A line is its offset and a hash: an inbox that was rewritten can't pass for one that was shown.
// Each event that is handed over adds a line `<generation> <offset> <hash>`. At the end of a turn the mark is replaced. So a reader that is
// killed repeats the event in hand at most.

import * as v from "valibot";
import { type Line, Position, partialPosition } from "./cursor.ts";
import type { LineCursor } from "./inboxes.ts";

/** Whose mark it is. `reader` is `agent` (hook, wait, mcp), `person` (read --new), one that `--reader` names, or `deliver:NAME`. */
export interface Reader {
  recipient: string;
  reader: string;
}

/** Where a reader's mark is kept. */
export interface MarkPlace {
  /** The mark; "" where there is none. */
  read(): Promise<string>;
  /** Another text after each change; "" where there is none. */
  version(): Promise<string>;
  forget(): Promise<void>;
  /** Waits until this process may read for the reader. */
  takeTurn(): Promise<Turn>;
}

/** One process at a time reads for a reader. One that stands still for five seconds loses its turn to another: then it notes nothing any more. */
export interface Turn {
  /** Replaces the mark; false where the turn was taken over. */
  replace(text: string): Promise<boolean>;
  /** Adds a line to the mark, which is there; false where the turn was taken over. */
  note(line: string): Promise<boolean>;
  end(): Promise<void>;
}

/** A line of an inbox, by its place and its text. */
export interface Spot {
  generation: number;
  offset: number;
  hash: string;
}

export function spotOf({ bytes, start, end, generation, offset }: Line): Spot {
  return { generation, offset, hash: Bun.hash(bytes.subarray(start, end)).toString(16) };
}

const MarkFile = v.object({
  ...Position.entries,
  /** Hashes of lines behind the position that were shown, by their offset; "" fits any line. */
  shown: v.record(v.string(), v.string()),
  /** Looks at an event that waits, by its offset. */
  held: v.record(v.string(), v.number()),
});
export type MarkFile = v.InferOutput<typeof MarkFile>;

const Mark = v.object({ files: v.array(MarkFile) });
const OldMark = v.object({
  offset: v.pipe(v.number(), v.integer(), v.minValue(0)),
  print: v.string(),
  shown: v.array(v.number()),
  held: v.record(v.string(), v.number()),
});

/** What a mark says. */
export interface StoredMark {
  /** "" where there is none. */
  text: string;
  files: MarkFile[];
}

export async function readMark(place: MarkPlace): Promise<StoredMark> {
  const text = await place.read();
  return { text, files: parseMark(text) };
}

/** The mark during a turn: what is shown is added to what was shown before. @param starts where the files were read from. */
export function openMark(stored: StoredMark, starts: readonly Position[]) {
  const files = starts.map((position): MarkFile => {
    const known = stored.files.find(({ generation }) => generation === position.generation);
    return { ...position, shown: { ...known?.shown }, held: { ...known?.held } };
  });
  const fileOf = (generation: number): MarkFile => files.find((file) => file.generation === generation)!;
  /** Of each file the first line that is left for a later turn. */
  const left = new Map<number, number>();
  const isShown = ({ generation, offset, hash }: Spot): boolean => {
    const file = fileOf(generation);
    if (offset < file.offset) return !(offset in file.held);
    return offset in file.shown && ["", hash].includes(file.shown[offset]!);
  };
  let isNoted = false;
  const replaceBy = async (replacement: MarkFile[], turn: Turn): Promise<boolean> => {
    const fresh = `${JSON.stringify({ files: replacement })}\n`;
    return fresh === stored.text || turn.replace(fresh);
  };
  return {
    isShown,
    /** The lines before the positions that wait. */
    async heldLines(cursor: LineCursor): Promise<Line[]> {
      const lines = files.flatMap(({ generation, offset, held }) => {
        const before = Object.keys(held)
          .map(Number)
          .filter((at) => at < offset);
        return before.map((at) => cursor.lineAt(generation, at));
      });
      return (await Promise.all(lines)).filter((line) => line !== null);
    },
    /** How many lines behind the positions were shown. */
    ahead: files.reduce((sum, { shown }) => sum + Object.keys(shown).length, 0),
    add: (spot: Spot): void => show(fileOf(spot.generation), spot),
    /** Counts a look at an event that waits; gives how many there were. */
    hold({ generation, offset }: Spot, most: number): number {
      const { held } = fileOf(generation);
      return (held[offset] = Math.min((held[offset] ?? 0) + 1, most));
    },
    /** Leaves a line for a later turn. */
    leave({ generation, offset }: Omit<Spot, "hash">): void {
      if (offset < fileOf(generation).offset) return;
      left.set(generation, Math.min(left.get(generation) ?? Infinity, offset));
    },
    /** Adds it to the mark at once, for a reader that is killed before the end. False: the turn was taken over, and nothing is noted. */
    async note(spot: Spot, turn: Turn): Promise<boolean> {
      isNoted ||= await replaceBy(files, turn);
      if (!isNoted || !(await turn.note(`${spot.generation} ${spot.offset} ${spot.hash}\n`))) return false;
      show(fileOf(spot.generation), spot);
      return true;
    },
    /** Moves the positions to what was left, or where the cursor is. `always`: also where there is nothing to remember. */
    async close(cursor: LineCursor, turn: Turn, always: boolean): Promise<void> {
      const ends = cursor.positions.map((end): MarkFile => {
        const file = fileOf(end.generation);
        const first = left.get(end.generation);
        // What was rewritten meanwhile is not what was read: then the mark stays.
        const position = first === undefined ? end : (cursor.back(end.generation, first) ?? file);
        const behind = Object.entries(file.shown).filter(([offset]) => Number(offset) >= position.offset);
        return { ...position, shown: Object.fromEntries(behind), held: file.held };
      });
      if (always || ends.length + stored.text.length > 0) await replaceBy(ends, turn);
    },
  };
}

function show(file: MarkFile, { offset, hash }: Spot): void {
  delete file.held[offset];
  if (offset >= file.offset) file.shown[offset] = hash;
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
      if (file) show(file, { generation: file.generation, offset: Number(offset), hash: hash! });
    }
    return files;
  } catch {
    return [];
  }
}
