// Follows a file to which an overseer appends corrections, one a line; each becomes an operation once.
//
// corrections.json has the position and is written after the log. A line's id is made of its file's generation, its offset and its text,
// and the log takes each id once: after a kill between the two writes the lines are read again and nothing is added.
// lib/cursor.ts handles half a line, rotation and truncation. A file that an editor saves anew counts as another one,
// unless it begins with all that was read of the former.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { Cursor, type Line, Position, partialPosition, unread } from "../cursor.ts";
import { writeWhole } from "../files.ts";
import { type Operation, readOperation } from "./operation.ts";

const STATE_FILE = "corrections.json";
/** A longer line is cut. */
const LONGEST_LINE = 1 << 20;
/** Limits of what is recorded at once. */
const MOST_LINES = 500;
const MOST_BYTES = 2 << 20;

const State = v.object({ files: v.array(Position) });

/** The state that 0.1.0 wrote. */
const OldState = v.object({
  current: v.nullable(v.number()),
  files: v.array(
    v.object({
      ...v.pick(Position, ["inode", "generation", "offset", "head", "tail"]).entries,
      /** The file is no longer read. */
      done: v.boolean(),
    }),
  ),
});

interface CorrectionsOptions {
  path: string;
  /** The folder of corrections.json; null keeps the position in memory only. */
  folder: string | null;
  /** Records the operations whose ids are new. */
  record: (operations: Operation[]) => Promise<void>;
}

/** `alive` is called after each batch; `signal` ends the pass. */
interface Pass {
  alive?: () => void;
  signal?: AbortSignal;
}

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

  /** Records the new lines. @throws when a file can't be read or the log can't be written; the next pass continues there. */
  async pass({ alive = () => {}, signal }: Pass = {}): Promise<void> {
    let operations: Operation[] = [];
    let bytes = 0;
    await this.#cursor.read({
      signal,
      begin: () => {
        // Files that lie beside it at the first pass are older: they are not read.
        if (this.#cursor.positions.length === 0) this.#cursor.positions = [unread()];
        // A new file's generation is saved before it becomes part of an id.
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

/** A correction as an operation: a JSON object keeps its fields, any other line is text. It is a success unless it says otherwise. */
function operationOf({ bytes, start, end, generation, offset }: Line): Operation {
  const id = `correction:${generation}:${offset}:${Bun.hash.wyhash(bytes.subarray(start, end)).toString(16)}`;
  // A power cut may leave zeros.
  const text = bytes
    .toString("utf8", start, end)
    .replace(/^[\0\uFEFF]+/, "")
    .replace(/\r$/, "");
  const asText = { success: true, output_summary: text };
  for (const fields of [objectOf(text) ?? asText, asText]) {
    const given = { endpoint: "overseer_correction", ...fields, id, source: "overseer_correction" };
    const read = readOperation(given, Date.now());
    if ("operation" in read) return read.operation;
  }
  throw new Error("a correction is no operation");
}

function objectOf(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
