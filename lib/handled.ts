// What a recipient has dealt with: the ids of events that were acknowledged, answered or marked as handled.
//
//   <inbox_dir>/.picket/<recipient>.handled     one line of JSON an id: { ts, id, by, note? }
//
// Any process may add to it, and sees what the others add.

import { closeSync, fstatSync, statSync } from "node:fs";
import { join } from "node:path";
import { openToRead, readAt } from "./files.ts";
import { inboxPath, statePath } from "./inbox.ts";
import { Journal } from "./journal.ts";
import { takeTurn } from "./mark.ts";
import { cut, printable } from "./text.ts";

/** So many ids are remembered, the newest. */
const MOST_IDS = 1_000_000;
/** Of so many, what was noted, too. */
const MOST_NOTES = 1000;
/** In characters. */
const LONGEST_NOTE = 1000;
const CHUNK = 1 << 20;
const NEWLINE = 0x0a;

/** Who dealt with an event (`ack`, `respond`, …), and what was noted about it. */
export interface Handling {
  by: string;
  note?: string | undefined;
}

/** What the journal says about an event. Any program may write it: `ts` need not be a time. */
export interface Handled extends Handling {
  ts: string;
}

interface Inbox {
  dir: string;
  recipient: string;
}

/**
 * Does what an event needs (`work`), and then marks it as handled. One process at a time does so for a recipient.
 * @param handled what is known already: then not all of the journal is read.
 * @throws Error in words where it is handled already, and what `work` throws: then it is not marked.
 */
export async function handleOnce(
  { inbox, id, handled = handledOf(inbox) }: { inbox: Inbox; id: string; handled?: ReturnType<typeof handledOf> },
  work: () => Promise<Handling>,
): Promise<void> {
  const turn = await takeTurn({ ...inbox, reader: "handled" });
  try {
    if (handled.has(id)) throw new Error(`event "${printable(cut(id, 80))}" is handled already`);
    await handled.add(id, await work());
  } finally {
    turn.end();
  }
}

/** The handled ids of a recipient. @param atMost so many bytes of the journal are read, the last, where it is longer at the first look. */
export function handledOf({ dir, recipient }: Inbox, atMost = Number.POSITIVE_INFINITY) {
  inboxPath(dir, recipient);
  const path = join(statePath(dir), `${recipient}.handled`);
  // Numbers take a quarter of what texts do.
  const ids = new Set<number>();
  const notes = new Map<number, Handled>();
  let [inode, offset] = [0, 0];
  const take = (line: string): void => {
    try {
      const { id, ts, by, note } = JSON.parse(line) as Record<string, unknown>;
      const number = numberOf(String(id));
      ids.add(number);
      const text = (value: unknown): string => (typeof value === "string" ? cut(value, LONGEST_NOTE) : "");
      notes.set(number, { ts: text(ts), by: text(by), note: text(note) || undefined });
    } catch {
      return;
    }
    if (ids.size > MOST_IDS) ids.delete(ids.values().next().value!);
    if (notes.size > MOST_NOTES) notes.delete(notes.keys().next().value!);
  };
  const readOn = (fd: number, size: number): void => {
    while (offset < size) {
      const chunk = readAt(fd, offset, Math.min(CHUNK, size - offset));
      const end = chunk.lastIndexOf(NEWLINE) + 1;
      // Half a line is another process's work under way.
      if (end === 0) return;
      offset += end;
      for (const line of chunk.toString("utf8", 0, end).split("\n")) take(line);
    }
  };
  const refresh = (): void => {
    const { ino, size } = statSync(path, { throwIfNoEntry: false }) ?? { ino: 0, size: 0 };
    if (ino === inode && size === offset) return;
    if (ino !== inode || size < offset) {
      ids.clear();
      notes.clear();
      // Half a line, if that is where it begins, is no JSON.
      [inode, offset] = [ino, Math.max(0, size - atMost)];
    }
    const fd = openToRead(path);
    if (fd === null) return;
    try {
      readOn(fd, fstatSync(fd).size);
    } finally {
      closeSync(fd);
    }
  };
  return {
    has(id: string): boolean {
      refresh();
      return ids.has(numberOf(id));
    },
    /** What is known of a handled event: nothing but that it is, where it was handled long ago; null where it is not. */
    get(id: string): Handled | null {
      if (!this.has(id)) return null;
      return notes.get(numberOf(id)) ?? { ts: "", by: "" };
    },
    /** Another text after each change. */
    version(): string {
      refresh();
      return `${inode} ${offset}`;
    },
    /** Resolves when it is on disk. */
    async add(id: string, { by, note }: Handling): Promise<void> {
      const journal = new Journal({ path, durability: "disk", intents: null });
      try {
        await journal.append(JSON.stringify({ ts: new Date().toISOString(), id, by, note: note || undefined }));
      } finally {
        await journal.close();
      }
    },
  };
}

function numberOf(id: string): number {
  return Number(Bun.hash(id) & 0x1f_ffff_ffff_ffffn);
}
