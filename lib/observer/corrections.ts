// Follows a file to which an overseer appends its corrections, one a line; each becomes an operation once.
//
// What the file may do meanwhile, and what is made of it:
//
//   it grows, also by half a line      whole lines are taken, the rest waits for its line break
//   it is renamed, a new one is made   the old one is followed on under any name, and without one for a while, since its writer may
//                                      still have it open; the new one is read from its beginning, whatever is in it
//   it is rotated more than once       files with the name and a number (or a date) behind it that were not there at the last look
//   between two looks                  are read too, oldest first
//   it is truncated, or written anew   it is another file from then on: all of it is new
//   it is replaced by, or rewritten as, a copy of itself with other lines added, changed or taken out (an editor saves, a rotation
//                                      copies and truncates): a file that begins as before, or most of whose lines are known,
//                                      is a copy; of that only what is not known is taken
//
// Each line gets an id from its file's generation, its text, and how often that text came before in that file. The log takes
// an id once, so that whoever is killed between recording and remembering reads again and adds nothing. Copies share their
// generation. What is remembered lies in corrections.json: of each file its inode, generation, how far it was read and a print of
// that; it is written after the log. Without it the generation is found again by the ids of the file's first lines, as long as
// those are remembered (the newest million operations).
//
// What can't be told apart: a file that was truncated, or replaced with nothing left of the old one, and now begins as before
// counts as a copy: a line that was meant to be the same once more is not taken again.

import { closeSync, existsSync, fstatSync, readFileSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join } from "node:path";
import * as v from "valibot";
import { openToRead, writeWhole } from "../files.ts";
import { type Line, Repeats, beginsAlike, fits, printOf, readLines } from "./line-file.ts";
import { type Operation, readOperation } from "./operation.ts";

const STATE_FILE = "corrections.json";
/** Renamed files that are followed on. */
const MOST_FORMER = 4;
/** Files that are remembered even where they are not seen. */
const MOST_REMEMBERED = 100;
/** For so long after its last line a file without a name is kept open. */
const NAMELESS_MS = 600_000;
/** Clocks of file systems may be this far off. */
const CLOCK_MS = 60_000;
/** So many known lines make a copy, or half of what was taken if that is less. */
const KNOWN_LINES = 10;
/** Generations among which a file is looked for when nothing is remembered. */
const GENERATIONS = 1000;
const SAMPLE = 50;

const wholeNumber = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const Followed = v.object({
  inode: v.number(),
  /** 0: it was there before it could be ours. */
  generation: wholeNumber,
  /** It is left alone. */
  done: v.boolean(),
  offset: wholeNumber,
  head: v.string(),
  tail: v.string(),
  /** Lines taken. */
  lines: wholeNumber,
});
type Followed = v.InferOutput<typeof Followed>;

const State = v.object({
  /** The last generation given out. */
  generations: wholeNumber,
  /** The inode that the path had at the last look; null before there was a file. */
  current: v.nullable(v.number()),
  /** Milliseconds since 1970: when it was looked last. */
  looked: v.number(),
  files: v.array(Followed),
});
type State = v.InferOutput<typeof State>;

export interface CorrectionsOptions {
  path: string;
  /** Where corrections.json lies; null remembers nothing across restarts. */
  folder: string | null;
  /** Records operations that were not recorded yet. */
  record: (operations: Operation[]) => Promise<void>;
  /** Whether an id was recorded. */
  known: (id: string) => boolean;
}

/** During a pass: signs of life, and whether it has to end. */
interface Pass {
  alive?: () => void;
  signal?: AbortSignal;
}

interface Place {
  path: string;
  inode: number;
  modified: number;
}

/** The one who follows. */
export class Corrections {
  #options: CorrectionsOptions;
  #state: State | null;
  /** Files that are open, by inode, and how often each text came in what was taken; null until that was read again. */
  #open = new Map<number, { fd: number; seen: Repeats | null }>();

  constructor(options: CorrectionsOptions) {
    this.#options = options;
    this.#state = options.folder === null ? null : readState(options.folder);
  }

  /** Takes what is new. Throws when a file can't be read, or the log not be written: a later pass goes on from there. */
  async pass(pass: Pass = {}): Promise<void> {
    const { path } = this.#options;
    const looked = Date.now();
    const here = placeOf(path);
    const rotated = rotatedFiles(path);
    const state = (this.#state ??= this.#begin(rotated));
    await this.#takeFormer(here, pass);
    await this.#takeMissed(rotated, pass);
    if (here) await this.#takeCurrent(here, rotated, pass);
    this.#forget(here, rotated);
    state.looked = looked;
    if (!here && existsSync(path)) throw new Error(`follow "${path}": not a regular file`);
  }

  close(): void {
    for (const { fd } of this.#open.values()) closeSync(fd);
    this.#open.clear();
  }

  /** What lies beside the file at the very first look is older. */
  #begin(rotated: Place[]): State {
    const state = { generations: 0, current: null, looked: Date.now(), files: rotated.map(leftAlone) };
    this.#save(state);
    return state;
  }

  /** What was appended to files that have another name by now, or none. */
  async #takeFormer(here: Place | null, pass: Pass): Promise<void> {
    for (const followed of this.#state!.files) {
      if (followed.done || followed.inode === here?.inode) continue;
      const fd = this.#open.get(followed.inode)?.fd ?? this.#reopen(followed);
      if (fd !== null && fits(fd, followed)) await this.#take(fd, followed, pass);
    }
  }

  /** After a restart, under whatever name it has. */
  #reopen({ inode }: Followed): number | null {
    const folder = dirname(this.#options.path);
    if (!existsSync(folder)) return null;
    for (const name of readdirSync(folder)) {
      const place = placeOf(join(folder, name));
      if (place?.inode === inode) return this.#openFile(place);
    }
    return null;
  }

  /** Files that came and were renamed since the last look. */
  async #takeMissed(rotated: Place[], pass: Pass): Promise<void> {
    const state = this.#state!;
    for (const place of rotated) {
      if (this.#knows(place)) continue;
      const fd = this.#openFile(place);
      // A copy may just have been begun: with a line it can be told whose.
      if (fd === null || readLines(fd, 0).length === 0) continue;
      // What was not changed since holds nothing that is new: somebody put an old file back.
      if (place.modified < state.looked - CLOCK_MS) {
        this.#put(leftAlone(place));
        continue;
      }
      const copied = state.files.findLast((file) => this.#isCopy(fd, file));
      await this.#take(fd, this.#follow(place.inode, copied?.generation ?? ++state.generations), pass);
    }
  }

  #knows({ inode, path }: Place): boolean {
    const followed = this.#state!.files.find((file) => file.inode === inode);
    if (!followed) return false;
    return withFile(path, (fd) => fits(fd, followed)) ?? true;
  }

  async #takeCurrent(here: Place, rotated: Place[], pass: Pass): Promise<void> {
    const state = this.#state!;
    const fd = this.#openFile(here);
    if (fd === null) return;
    const known = state.files.find(({ inode, generation }) => inode === here.inode && generation > 0);
    if (known && fits(fd, known)) {
      state.current = here.inode;
      known.done = false;
      return this.#take(fd, known, pass);
    }
    // An editor may just have truncated it, and be about to write it again: with a line it can be told.
    if (readLines(fd, 0).length === 0) return;
    const before = state.files.find(({ inode }) => inode === state.current);
    const renamed = before && before.inode !== here.inode && rotated.some(({ inode }) => inode === before.inode);
    const generation = state.files.every((file) => file.generation === 0)
      ? this.#generationOf(fd)
      : !renamed && this.#isCopy(fd, before)
        ? before!.generation
        : null;
    state.current = here.inode;
    await this.#take(fd, this.#follow(here.inode, generation ?? ++state.generations), pass);
  }

  /** Whether it begins as a file that was followed, or most of its lines are that one's. */
  #isCopy(fd: number, of: Followed | undefined): boolean {
    if (!of || of.generation === 0 || of.lines === 0) return false;
    return (
      beginsAlike(fd, of) || this.#mostlyKnown(readLines(fd, 0), of.generation, Math.min(KNOWN_LINES, of.lines / 2))
    );
  }

  /** Where nothing is remembered: the newest generation that knows most of its first lines; null when none does. */
  #generationOf(fd: number): number | null {
    const lines = readLines(fd, 0).slice(0, SAMPLE);
    for (let generation = GENERATIONS; generation > 0; generation--) {
      if (!this.#mostlyKnown(lines, generation, 1)) continue;
      this.#state!.generations = generation;
      return generation;
    }
    return null;
  }

  #mostlyKnown(lines: Line[], generation: number, atLeast: number): boolean {
    const seen = new Repeats();
    const texts = lines.filter(({ bytes }) => !isBlank(bytes));
    const known = texts.filter(({ bytes }) => this.#options.known(idOf(generation, bytes, seen))).length;
    return known > 0 && known >= atLeast && known * 2 >= texts.length;
  }

  /** Remembers a file from its beginning. */
  #follow(inode: number, generation: number): Followed {
    const followed = { inode, generation, done: false, offset: 0, head: "", tail: "", lines: 0 };
    this.#put(followed);
    this.#open.get(inode)!.seen = new Repeats();
    this.#save();
    return followed;
  }

  #put(followed: Followed): void {
    const state = this.#state!;
    state.files = [...state.files.filter(({ inode }) => inode !== followed.inode), followed];
  }

  /** Takes whole lines from where it stopped. */
  async #take(fd: number, followed: Followed, { alive = () => {}, signal }: Pass): Promise<void> {
    if (fstatSync(fd).size <= followed.offset) return;
    const opened = this.#open.get(followed.inode)!;
    opened.seen ??= await countedUpTo(fd, followed.offset, alive);
    const { seen } = opened;
    for (;;) {
      // Between two batches it may have been truncated, and written again: the next look tells.
      if (signal?.aborted || !fits(fd, followed)) return;
      const lines = readLines(fd, followed.offset);
      if (lines.length === 0) return;
      const print = printOf(fd, lines.at(-1)!.end);
      const texts = lines.filter(({ bytes }) => !isBlank(bytes));
      const operations = texts.map(({ bytes }) => operationOf(bytes, idOf(followed.generation, bytes, seen)));
      try {
        await this.#options.record(operations);
      } catch (error) {
        // They will be read again, and have to get the same ids then.
        for (const { bytes } of texts) seen.undo(hashOf(bytes));
        throw error;
      }
      Object.assign(followed, print);
      followed.lines += texts.length;
      this.#save();
      alive();
    }
  }

  /** Lets go of files that nobody will append to any more. */
  #forget(here: Place | null, rotated: Place[]): void {
    const state = this.#state!;
    const former = state.files.filter(({ inode, done }) => !done && inode !== here?.inode && inode !== state.current);
    for (const followed of former.slice(0, -MOST_FORMER)) followed.done = true;
    const followed = new Set(state.files.flatMap(({ inode, done }) => (done ? [] : [inode])));
    for (const [inode, { fd }] of this.#open) {
      const { nlink, mtimeMs } = fstatSync(fd);
      const nameless = nlink === 0 && Date.now() - mtimeMs > NAMELESS_MS;
      if (nameless || (!followed.has(inode) && inode !== here?.inode)) this.#shut(inode);
    }
    // A folder that is read while names in it change may not show one of them: what was let go is remembered on for a while.
    const newest = new Set(state.files.slice(-MOST_REMEMBERED));
    const beside = new Set(rotated.map(({ inode }) => inode));
    state.files = state.files.filter(
      (file) =>
        newest.has(file) ||
        this.#open.has(file.inode) ||
        beside.has(file.inode) ||
        file.inode === state.current ||
        file.inode === here?.inode,
    );
  }

  #openFile({ path, inode }: Place): number | null {
    const opened = this.#open.get(inode);
    if (opened) return opened.fd;
    const fd = openToRead(path);
    // It was renamed or removed in this moment: the next look tells.
    if (fd === null) return null;
    const stats = fstatSync(fd);
    if (stats.isFile() && stats.ino === inode) {
      this.#open.set(inode, { fd, seen: null });
      return fd;
    }
    closeSync(fd);
    return null;
  }

  #shut(inode: number): void {
    const opened = this.#open.get(inode);
    if (opened) closeSync(opened.fd);
    this.#open.delete(inode);
  }

  #save(state = this.#state): void {
    const { folder } = this.#options;
    if (folder !== null) writeWhole(join(folder, STATE_FILE), `${JSON.stringify(state)}\n`);
  }
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte <= 0x20);
}

function hashOf(bytes: Buffer): bigint {
  return Bun.hash.wyhash(bytes);
}

function idOf(generation: number, bytes: Buffer, seen: Repeats): string {
  const hash = hashOf(bytes);
  return `correction:${generation}:${hash.toString(16)}:${seen.add(hash)}`;
}

/** A correction as an operation: a line of JSON keeps its fields, any other is text. It counts as a success unless it says otherwise. */
function operationOf(bytes: Buffer, id: string): Operation {
  // Zeros are where a power cut took something.
  const text = bytes
    .toString("utf8")
    .replace(/^[\0\uFEFF]+/, "")
    .replace(/\r$/, "");
  const now = Date.now();
  const fixed = { id, source: "overseer_correction" };
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    given = null;
  }
  if (typeof given === "object" && given !== null && !Array.isArray(given)) {
    const read = readOperation({ endpoint: "overseer_correction", ...given, ...fixed }, now);
    if ("operation" in read) return read.operation;
  }
  const read = readOperation({ ...fixed, endpoint: "overseer_correction", success: true, output_summary: text }, now);
  if ("operation" in read) return read.operation;
  throw new Error("a correction is no operation");
}

function readState(folder: string): State | null {
  const file = join(folder, STATE_FILE);
  if (!existsSync(file)) return null;
  try {
    return v.parse(State, JSON.parse(readFileSync(file, "utf8")));
  } catch {
    return null;
  }
}

/** A regular file; null when there is none. */
function placeOf(path: string): Place | null {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats?.isFile() ? { path, inode: stats.ino, modified: stats.mtimeMs } : null;
}

/** Files beside it that a rotation named: `NAME.1`, `NAME-20260131`, `STEM-20260131.EXT`; the one that was changed first comes first. */
function rotatedFiles(path: string): Place[] {
  const folder = dirname(path);
  const name = basename(path);
  const extension = extname(name);
  const stem = basename(name, extension);
  const number = String.raw`[.-]\d[\d.T_-]*`;
  const pattern = new RegExp(
    `^(?:${RegExp.escape(name)}${number}|${RegExp.escape(stem)}${number}${RegExp.escape(extension)})$`,
  );
  return (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((other) => (pattern.test(other) ? (placeOf(join(folder, other)) ?? []) : []))
    .toSorted((a, b) => a.modified - b.modified);
}

function leftAlone({ path, inode }: Place): Followed {
  const print = withFile(path, (fd) => printOf(fd, fstatSync(fd).size)) ?? { offset: 0, head: "", tail: "" };
  return { inode, generation: 0, done: true, lines: 0, ...print };
}

function withFile<T>(path: string, use: (fd: number) => T): T | null {
  const fd = openToRead(path);
  if (fd === null) return null;
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** How often each line came within the part that was taken. Others get their turn meanwhile. */
async function countedUpTo(fd: number, offset: number, alive: () => void): Promise<Repeats> {
  const seen = new Repeats();
  for (let at = 0; at < offset;) {
    const lines = readLines(fd, at, offset);
    if (lines.length === 0) break;
    for (const { bytes } of lines) if (!isBlank(bytes)) seen.add(hashOf(bytes));
    at = lines.at(-1)!.end;
    alive();
    await new Promise<void>((next) => setImmediate(next));
  }
  return seen;
}
