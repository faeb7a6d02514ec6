// Follows a file to which an overseer appends its corrections, one a line; each becomes an operation once.
//
// Where it was read to is kept in corrections.json, which is written after the log. Each line gets an id from its file's generation, its
// offset and its text, and the log takes an id once: killed between recording and remembering, it reads again and adds nothing.
// What the file may do meanwhile (half a line, rotation, truncation): see lib/cursor.ts. A file that is saved anew by an editor
// counts as another one, unless it begins with all that was read of it.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { Cursor, type Line, Position, partialPosition } from "../cursor.ts";
import { writeWhole } from "../files.ts";
import { type Operation, readOperation } from "./operation.ts";

const STATE_FILE = "corrections.json";
/** Of a longer line only the beginning is taken. */
const LONGEST_LINE = 1 << 20;
/** So much is recorded at once, in lines and in bytes. */
const MOST_LINES = 500;
const MOST_BYTES = 2 << 20;
/** Clocks of file systems go in steps of some milliseconds. */
const CLOCK_MS = 100;

const State = v.object({ files: v.array(Position) });

/** What 0.1.0 left: of each file its inode, and hashes of the bytes before the offset. */
const OldState = v.object({
  current: v.nullable(v.number()),
  files: v.array(
    v.object({
      ...v.pick(Position, ["inode", "generation", "offset", "head", "tail"]).entries,
      /** It is left alone. */
      done: v.boolean(),
    }),
  ),
});

interface CorrectionsOptions {
  path: string;
  /** Where corrections.json lies; null remembers nothing across restarts. */
  folder: string | null;
  /** Records operations that were not recorded yet. */
  record: (operations: Operation[]) => Promise<void>;
}

/** During a pass: signs of life, and whether it has to end. */
interface Pass {
  alive?: () => void;
  signal?: AbortSignal;
}

/** The one who follows. */
export class Corrections {
  #options: CorrectionsOptions;
  #cursor: Cursor;
  #saved = "";

  constructor(options: CorrectionsOptions) {
    const { path, folder } = options;
    this.#options = options;
    this.#cursor = new Cursor({ path, numberInside: true, longest: LONGEST_LINE });
    this.#cursor.positions = folder === null ? [] : readState(join(folder, STATE_FILE));
  }

  /** Takes what is new. Throws when a file can't be read, or the log not be written: a later pass goes on from there. */
  async pass({ alive = () => {}, signal }: Pass = {}): Promise<void> {
    let operations: Operation[] = [];
    let bytes = 0;
    await this.#cursor.read({
      signal,
      begin: () => {
        // What lies beside the file at the very first look is older.
        if (this.#cursor.positions.length === 0)
          this.#cursor.positions = [partialPosition({ offset: 0, generation: 0, mtime: Date.now() - CLOCK_MS })];
        // A new file's generation is remembered before it is part of an id.
        this.#save();
      },
      visit: (line) => {
        if (!isBlank(line)) operations.push(operationOf(line));
        bytes += line.length;
        return operations.length >= MOST_LINES || bytes >= MOST_BYTES;
      },
      settle: async () => {
        const batch = operations;
        operations = [];
        bytes = 0;
        await this.#options.record(batch);
        this.#save();
        alive();
      },
    });
  }

  close(): void {
    this.#cursor.close();
  }

  #save(): void {
    const { folder } = this.#options;
    const state = `${JSON.stringify({ files: this.#cursor.positions })}\n`;
    if (folder !== null && state !== this.#saved) writeWhole(join(folder, STATE_FILE), state);
    this.#saved = state;
  }
}

function readState(file: string): Position[] {
  try {
    const given: unknown = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : null;
    const old = v.safeParse(OldState, given);
    if (!old.success) return v.parse(State, given).files;
    const { current } = old.output;
    const files = old.output.files.filter(({ generation }) => generation > 0);
    const former = files.filter(({ inode, done }) => inode !== current && !done);
    return [...former, ...files.filter(({ inode }) => inode === current)].map((one) => partialPosition(one));
  } catch {
    return [];
  }
}

function isBlank({ bytes, start, end }: Line): boolean {
  return bytes.subarray(start, end).every((byte) => byte <= 0x20);
}

/** A correction as an operation: a line of JSON keeps its fields, any other is text. It counts as a success unless it says otherwise. */
function operationOf({ bytes, start, end, generation, offset }: Line): Operation {
  const id = `correction:${generation}:${offset}:${Bun.hash.wyhash(bytes.subarray(start, end)).toString(16)}`;
  // Zeros are where a power cut took something.
  const text = bytes
    .toString("utf8", start, end)
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
