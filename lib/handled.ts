// What a recipient has dealt with: the ids of events that were acknowledged, answered or marked as handled.
//
//   <inbox_dir>/.picket/<recipient>.handled     one line of JSON an id: { ts, id, by, note? }
//
// Any process may add to it, and sees what the others add.

import { closeSync, fstatSync, statSync } from "node:fs";
import { join } from "node:path";
import { takeTurn } from "./file-mark.ts";
import { openToRead, readAt } from "./files.ts";
import { inboxPath, statePath } from "./inbox.ts";
import { Journal } from "./journal.ts";
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

/** The handled ids of a recipient. `refresh` sees what other processes have added, of one id or of all; the others answer as of then. */
export interface HandledIds {
  refresh(id?: string): Promise<void>;
  has(id: string): boolean;
  /** What is known of a handled event: nothing but that it is, where it was handled long ago; null where it is not. */
  get(id: string): Handled | null;
  /** Resolves when it is stored. */
  add(id: string, handling: Handling): Promise<void>;
  /** Waits until this process alone adds to them. Gives what ends that. */
  takeTurn(): Promise<() => void | Promise<void>>;
}

/**
 * Does what an event needs (`work`), and then marks it as handled. One process at a time does so for a recipient.
 * @throws Error in words where it is handled already, and what `work` throws: then it is not marked.
 */
export async function handleOnce(handled: HandledIds, id: string, work: () => Promise<Handling>): Promise<void> {
  const end = await handled.takeTurn();
  try {
    await handled.refresh(id);
    if (handled.has(id)) throw new Error(`event "${printable(cut(id, 80))}" is handled already`);
    await handled.add(id, await work());
  } finally {
    await end();
  }
}

/** Handled ids in memory. */
export function rememberHandled() {
  // Numbers take a quarter of what texts do.
  const ids = new Set<number>();
  const notes = new Map<number, Handled>();
  return {
    take({ id, ts, by, note }: Record<string, unknown>): void {
      const number = numberOf(String(id));
      ids.add(number);
      const text = (value: unknown): string => (typeof value === "string" ? cut(value, LONGEST_NOTE) : "");
      notes.set(number, { ts: text(ts), by: text(by), note: text(note) || undefined });
      if (ids.size > MOST_IDS) ids.delete(ids.values().next().value!);
      if (notes.size > MOST_NOTES) notes.delete(notes.keys().next().value!);
    },
    has: (id: string): boolean => ids.has(numberOf(id)),
    get: (id: string): Handled | null =>
      ids.has(numberOf(id)) ? (notes.get(numberOf(id)) ?? { ts: "", by: "" }) : null,
    clear(): void {
      ids.clear();
      notes.clear();
    },
  };
}

/** The handled ids of a recipient, in a file. @param atMost so many bytes of the journal are read, the last, where it is longer at the first look. */
export function handledOf({ dir, recipient }: Inbox, atMost = Number.POSITIVE_INFINITY) {
  inboxPath(dir, recipient);
  const path = join(statePath(dir), `${recipient}.handled`);
  const known = rememberHandled();
  let [inode, offset] = [0, 0];
  const take = (line: string): void => {
    try {
      known.take(JSON.parse(line) as Record<string, unknown>);
    } catch {
      // Any program may write it.
    }
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
      known.clear();
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
    refresh: async () => refresh(),
    has(id: string): boolean {
      refresh();
      return known.has(id);
    },
    get(id: string): Handled | null {
      refresh();
      return known.get(id);
    },
    takeTurn: async () => (await takeTurn({ dir, recipient, reader: "handled" })).end,
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
