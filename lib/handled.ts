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

/** So many ids are remembered, the newest. */
const MOST_IDS = 1_000_000;
const CHUNK = 1 << 20;
const NEWLINE = 0x0a;

/** Who dealt with an event (`ack`, `respond`, …), and what was noted about it. */
export interface Handling {
  by: string;
  note?: string | undefined;
}

/** The handled ids of a recipient. */
export function handledOf({ dir, recipient }: { dir: string; recipient: string }) {
  inboxPath(dir, recipient);
  const path = join(statePath(dir), `${recipient}.handled`);
  // Numbers take a quarter of what texts do.
  const ids = new Set<number>();
  let [inode, offset] = [0, 0];
  const take = (line: string): void => {
    try {
      ids.add(numberOf(String((JSON.parse(line) as { id?: unknown }).id)));
    } catch {
      return;
    }
    if (ids.size > MOST_IDS) ids.delete(ids.values().next().value!);
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
      [inode, offset] = [ino, 0];
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
