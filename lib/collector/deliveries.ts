// The last deliveries over webhooks, for people: when, to which route, with what answer and why; never the body.
//
//   <inbox_dir>/.picket/deliveries.jsonl        the newest ones, up to 1 MiB
//   <inbox_dir>/.picket/deliveries.1.jsonl      the file before it
//   inbox_webhooks                              where inboxes are tables: those of all collectors
//
// Nothing depends on them, so they may get lost: they are written at most ten times a second, up to a thousand at a time, and never
// synced.

import { renameSync, statSync } from "node:fs";
import { join } from "node:path";
import { textArray } from "../database.ts";
import { deniedHint } from "../files.ts";
import type { InboxDatabase } from "../inbox-database.ts";
import type { InboxPlace } from "../inbox-place.ts";
import { statePath } from "../inbox.ts";
import { Journal } from "../journal.ts";
import { replay } from "../replay.ts";
import { cut } from "../text.ts";

/** So many are shown. A line has less than 1 KiB, so that a full file holds them. */
export const SHOWN = 1000;
const FULL_BYTES = 1 << 20;
const WRITE_MS = 100;
const RECENT_MS = 600_000;
/** So many refused deliveries are counted, at least. */
const COUNTED = 50_000;

/** One line of the list. */
export interface DeliveryRecord {
  ts: string;
  route: string;
  status: number;
  /** Why there is no new event. */
  reason?: string;
  /** Bytes of the body; absent where it wasn't read and its length wasn't announced. */
  size?: number;
  /** The event's id. */
  id?: string;
}

/** Where the list is. */
interface List {
  append(lines: string[]): Promise<void>;
  /** The last ones, the newest last. Throws with a hint where they may not be read. */
  read(): Promise<DeliveryRecord[]>;
  close(): Promise<void>;
}

export const deliveryList = ({ dir, database }: InboxPlace): List =>
  database === null ? listInFiles(dir) : listInTable(database);

/** Keeps the list, and counts what was refused. */
export class Deliveries {
  #list: List;
  #waiting: DeliveryRecord[] = [];
  #timer: Timer | null = null;
  #writtenAt = 0;
  /** When the last ones were refused, by `performance.now()`. */
  #refusedAt: number[] = [];

  constructor(list: List) {
    this.#list = list;
  }

  note(record: DeliveryRecord): void {
    if (record.status >= 400) this.#refusedAt.push(performance.now());
    if (this.#refusedAt.length > 2 * COUNTED) this.#refusedAt.splice(0, COUNTED);
    this.#waiting.push(record);
    if (this.#waiting.length > 2 * SHOWN) this.#waiting.splice(0, SHOWN);
    const wait = Math.max(0, this.#writtenAt + WRITE_MS - performance.now());
    this.#timer ??= setTimeout(() => void this.#write(), wait);
  }

  /** How many were refused within the last ten minutes. */
  get refused(): number {
    const oldest = performance.now() - RECENT_MS;
    return this.#refusedAt.filter((at) => at > oldest).length;
  }

  /** Writes what waits, and closes. */
  async close(): Promise<void> {
    if (this.#timer) clearTimeout(this.#timer);
    await this.#write();
    await this.#list.close();
  }

  async #write(): Promise<void> {
    this.#timer = null;
    this.#writtenAt = performance.now();
    const lines = this.#waiting.splice(0).slice(-SHOWN).map(asLine);
    try {
      await this.#list.append(lines);
    } catch {
      // A full disk, or a database that is away, is what the inbox itself reports.
    }
  }
}

function asLine({ route, reason, ...rest }: DeliveryRecord): string {
  return JSON.stringify({ ...rest, route: cut(route, 200), reason: reason && cut(reason, 300) });
}

function listInFiles(inboxDir: string): List {
  const [older, path] = ["deliveries.1.jsonl", "deliveries.jsonl"].map((name) => join(statePath(inboxDir), name)) as [
    string,
    string,
  ];
  const journal = new Journal({ path, durability: "os", intents: null });
  const inode = () => statSync(older, { throwIfNoEntry: false })?.ino;
  return {
    async append(lines) {
      const { size } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0 };
      if (size >= FULL_BYTES) renameSync(path, older);
      await journal.appendAll(lines);
    },
    async read() {
      const records: DeliveryRecord[] = [];
      try {
        const before = inode();
        for (const one of [older, path]) {
          await replay({ path: one, record: (value) => records.push(value as DeliveryRecord) });
        }
        // A file that was put aside meanwhile was missed.
        return inode() === before ? records.slice(-SHOWN) : await this.read();
      } catch (error) {
        const { code = "" } = error as NodeJS.ErrnoException;
        throw Object.assign(new Error(`read "${path}"`, { cause: error }), { hint: deniedHint(code) });
      }
    },
    close: () => journal.close(),
  };
}

function listInTable(database: InboxDatabase): List {
  let untrimmed = SHOWN;
  return {
    async append(lines) {
      const { read } = await database.open();
      await read.run("INSERT INTO inbox_webhooks (line) SELECT unnest($1::text[])", [textArray(lines)]);
      untrimmed += lines.length;
      if (untrimmed < SHOWN) return;
      untrimmed = 0;
      await read.run("DELETE FROM inbox_webhooks WHERE id <= (SELECT max(id) FROM inbox_webhooks) - $1", [SHOWN]);
    },
    async read() {
      const { read } = await database.open();
      const newest = "SELECT line FROM inbox_webhooks ORDER BY id DESC LIMIT $1";
      const rows = await read.all<{ line: string }>(newest, [SHOWN]);
      return rows.map(({ line }) => JSON.parse(line) as DeliveryRecord).toReversed();
    },
    close: async () => {},
  };
}
