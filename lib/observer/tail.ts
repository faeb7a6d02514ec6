// Follows a log from another process: its newest operations, then those that are recorded later, across rotations.

import { Cursor, unread } from "../cursor.ts";
import { parseLine } from "../replay.ts";
import { LONGEST_LINE, endOf, operationOf, readLog, segmentsOf } from "./op-log.ts";
import type { Operation } from "./operation.ts";

export class LogTail {
  #path: string;
  #cursor: Cursor;

  constructor(path: string) {
    this.#path = path;
    this.#cursor = new Cursor({ path, numberInside: true, longest: LONGEST_LINE });
  }

  /** The newest operations, oldest first; `read` continues after them. */
  async newest(limit: number): Promise<Operation[]> {
    const segment = segmentsOf(this.#path).at(-1);
    // The log may be renamed at any moment; the cursor finds the segments after this one by their numbers.
    this.#cursor.positions = [segment ? endOf(segment.path) : unread()];
    const last = await newestOf(limit, (each) => this.read(each));
    // After a rotation the log is short: the rest comes from the last full segment.
    if (last.length >= limit || !segment) return last;
    const before = await newestOf(limit - last.length, (each) => readLog(segment.path, each, () => {}));
    return [...before, ...last];
  }

  /** Passes on the operations that were recorded since the last call. */
  read(each: (operation: Operation) => void): Promise<void> {
    return this.#cursor.read({
      visit(line) {
        const found = parseLine(line);
        const operation = found && "value" in found ? operationOf(found.value) : "";
        if (typeof operation !== "string") each(operation);
      },
    });
  }
}

async function newestOf(limit: number, read: (each: (operation: Operation) => void) => Promise<unknown>) {
  const newest: Operation[] = [];
  await read((operation) => {
    newest.push(operation);
    if (newest.length > limit) newest.shift();
  });
  return newest;
}
