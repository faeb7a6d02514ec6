// A reader's mark: which events of an inbox it was shown; and its turn, since two processes may read for one reader.
//
//   <inbox_dir>/<recipient>.mark                      of the reader `agent` (hook, wait, mcp)
//   <inbox_dir>/.picket/<reader>@<recipient>.mark     of each other: `person` (read --new), one that `--reader` names, `deliver:NAME`
//
// The first line is JSON, { files: [{ …position, shown, held }] }, for the file at the path and the renamed ones before it that are still followed.
// Every line before the position was shown, but for those in `held`, which wait for their sentinel; `shown` names those
// behind it that were shown (urgent ones come first). A line is its offset and a hash: an inbox that was rewritten can't pass for one that was shown.
// Each event that is handed over adds a line `<generation> <offset> <hash>`: one write(2), no sync. At the end of a turn the mark is replaced
// by rename, and synced. So a reader that is killed repeats the event in hand at most; a power cut repeats those of one turn.
//
// 0.1.0 had one mark, { offset, print, shown, held }, for agent and person. Each goes on from it: the agent's reader leaves a link for the person's.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { type Cursor, type Line, Position, partialPosition } from "./cursor.ts";
import { flock, hasLibc } from "./ffi.ts";
import { inheritOwner, makeFolder, writeWhole } from "./files.ts";
import { inboxPath, statePath } from "./inbox.ts";

/** Whose mark it is. `reader` is `agent`, `person`, or another name. */
export interface Reader {
  dir: string;
  recipient: string;
  reader: string;
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

export function markPath({ dir, recipient, reader }: Reader): string {
  inboxPath(dir, recipient);
  return reader === "agent" ? join(dir, `${recipient}.mark`) : join(statePath(dir), `${reader}@${recipient}.mark`);
}

export interface StoredMark {
  path: string;
  /** "" where there is none. */
  text: string;
  files: MarkFile[];
}

/** What is stored of a reader. */
export function readMark(reader: Reader): StoredMark {
  const path = markPath(reader);
  const textAt = (file: string): string => (existsSync(file) ? readFileSync(file, "utf8") : "");
  // The agent's first: its reader makes the link before it replaces a mark of 0.1.0.
  const agents = textAt(markPath({ ...reader, reader: "agent" }));
  const own = textAt(path);
  const text = own === "" && reader.reader === "person" && isOld(agents) ? agents : own;
  return { path, text, files: parseMark(text) };
}

function isOld(text: string): boolean {
  return text.startsWith("{") && !text.startsWith('{"files"');
}

interface OpenMark {
  reader: Reader;
  stored: StoredMark;
  /** Where the files were read from. */
  starts: readonly Position[];
  turn: Turn;
}

/** The mark during a turn: what is shown is added to what was shown before. */
export function openMark({ reader, stored, starts, turn }: OpenMark) {
  const { path, text } = stored;
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
  let fd = -1;
  const replaceBy = (replacement: MarkFile[]): void => {
    const fresh = `${JSON.stringify({ files: replacement })}\n`;
    if (fresh === text || !turn.isOurs()) return;
    if (reader.reader === "agent" && isOld(text)) keepForPerson(reader);
    writeWhole(path, fresh, 0o600);
  };
  return {
    isShown,
    /** The lines before the positions that wait. */
    heldLines: (cursor: Cursor): Line[] =>
      files.flatMap(({ generation, offset, held }) => {
        const before = Object.keys(held)
          .map(Number)
          .filter((at) => at < offset);
        return before.map((at) => cursor.lineAt(generation, at)).filter((line) => line !== null);
      }),
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
    /** Adds it to the file, for a reader that is killed before the end. False: the turn was taken over, and nothing is noted. */
    note(spot: Spot): boolean {
      if (!turn.isOurs()) return false;
      if (fd < 0) {
        replaceBy(files);
        fd = openSync(path, constants.O_WRONLY | constants.O_APPEND);
      }
      writeSync(fd, `${spot.generation} ${spot.offset} ${spot.hash}\n`);
      show(fileOf(spot.generation), spot);
      return true;
    },
    /** Moves the positions to what was left, or where the cursor is. `always`: also where there is nothing to remember. */
    close(cursor: Cursor, always: boolean): void {
      if (fd >= 0) closeSync(fd);
      const ends = cursor.positions.map((end): MarkFile => {
        const file = fileOf(end.generation);
        const first = left.get(end.generation);
        // What was rewritten meanwhile is not what was read: then the mark stays.
        const position = first === undefined ? end : (cursor.back(end.generation, first) ?? file);
        const behind = Object.entries(file.shown).filter(([offset]) => Number(offset) >= position.offset);
        return { ...position, shown: Object.fromEntries(behind), held: file.held };
      });
      if (always || ends.length + text.length > 0) replaceBy(ends);
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

/** A person who has no mark of its own yet goes on from that of 0.1.0. */
function keepForPerson(reader: Reader): void {
  const path = markPath({ ...reader, reader: "person" });
  if (!existsSync(path)) linkSync(markPath(reader), path);
}

// ---------------------------------------------------------------------------------------------------------------
// Turns

/** One process at a time reads for a reader. */
export interface Turn {
  /** Whether no other process has taken it over. */
  isOurs: () => boolean;
  end: () => void;
}

const LOOK_MS = 50;
const STANDS_STILL_MS = 5000;

/**
 * Waits for the reader's turn. Turns are short: a process that holds one for five seconds is stopped, or nothing takes what it prints, and mustn't
 * stop the others. Its lock file is replaced by another, which it sees before it notes the next event.
 */
export async function takeTurn({ dir, recipient, reader }: Reader): Promise<Turn> {
  inboxPath(dir, recipient);
  if (existsSync(dir)) makeFolder(statePath(dir), 0o700);
  if (!existsSync(dir) || !hasLibc()) return { isOurs: () => true, end: () => {} };
  const path = join(statePath(dir), `${reader === "agent" ? recipient : `${reader}@${recipient}`}.reader`);
  let holder = 0;
  for (let waited = 0; ; waited += LOOK_MS) {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    const { ino } = fstatSync(fd);
    const isOurs = (): boolean => statSync(path, { throwIfNoEntry: false })?.ino === ino;
    if (flock(fd) && isOurs()) {
      inheritOwner(path);
      return { isOurs, end: () => closeSync(fd) };
    }
    closeSync(fd);
    if (ino !== holder) waited = 0;
    holder = ino;
    if (waited >= STANDS_STILL_MS) rmSync(path, { force: true });
    else await Bun.sleep(LOOK_MS);
  }
}
