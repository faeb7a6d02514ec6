// Writes events into the inboxes' tables (inbox-tables.ts).
//
// Writers share commits: what waits while a statement runs is the next one, which is a transaction of its own. The database decides what was
// delivered before: an id is there once for a recipient, whichever process writes. An id whose window is over makes room for a new
// event, by another name; a drop's has no window.
//
// A statement that fails because the database is away may have been committed all the same. Its events are refused, and the sender's next
// attempt finds their ids.

import { type Database, DatabaseError, isBusy, textArray } from "./database.ts";
import { type Delivery, type InboxEvent, type InboxOptions, formatEvent, isDrop } from "./inbox.ts";
import type { EventWriter } from "./event-writer.ts";
import type { InboxDatabase } from "./inbox-database.ts";

/** The most events that share a commit, and the most characters of their lines. */
const LARGEST_GROUP = 1000;
const LONGEST_GROUP = 4 << 20;

/** How long an event may wait for its commit. */
const LATE_MS = 10_000;
const HOUR_MS = 3_600_000;
/** Other ids are remembered at least this long. */
const REMEMBERED_MS = 600_000;

// In the order of the recipients: two writers never wait for each other.
const APPEND = `INSERT INTO inbox (recipient, id, at, line)
  SELECT recipient, id, $4::bigint, line
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS given (recipient, id, line, n)
  ORDER BY recipient COLLATE "C", n
  ON CONFLICT (recipient, id) DO NOTHING RETURNING recipient, id`;

const FORGET = `UPDATE inbox SET id = id || '@' || seq
  WHERE (recipient, id) IN (SELECT * FROM unnest($1::text[], $2::text[])) AND at < $3 RETURNING recipient, id`;

const REMEMBER = `INSERT INTO inbox_remembered (recipient, id, at) VALUES ($1, $2, $3)
  ON CONFLICT (recipient, id) DO UPDATE SET at = excluded.at`;

interface Waiting {
  event: InboxEvent;
  line: string;
  once: boolean;
  resolve: (delivery: Delivery) => void;
  reject: (error: unknown) => void;
}

export function tableWriter(
  database: InboxDatabase,
  { dedupeHours: hours, now = Date.now, onLedgerError = () => {} }: Omit<InboxOptions, "dir">,
): EventWriter {
  let dedupeHours = hours;
  const queue: Waiting[] = [];
  /** By key, when. */
  const remembered = new Map<string, number>();
  let writing: Promise<void> | null = null;
  /** What was handed over last: it is settled last. */
  let last: Promise<unknown> = Promise.resolve();
  let problem: string | null = null;
  const oldest = (): number => now() - Math.max(dedupeHours * HOUR_MS, REMEMBERED_MS);

  function write(event: InboxEvent, once: boolean): Promise<Delivery> {
    const { promise, resolve, reject } = Promise.withResolvers<Delivery>();
    const one: Waiting = { event, line: formatEvent(event), once, resolve, reject };
    queue.push(one);
    writing ??= writeAll().finally(() => (writing = null));
    // A server that stands still is away, too. What it was not asked yet is not written later.
    const late = setTimeout(() => {
      const at = queue.indexOf(one);
      if (at >= 0) queue.splice(at, 1);
      reject(new DatabaseError(`the database at ${database.url} does not answer`, "EAWAY"));
    }, LATE_MS);
    return (last = promise.finally(() => clearTimeout(late)));
  }

  async function writeAll(): Promise<void> {
    // The other requests of this turn of the event loop join the first.
    await new Promise((done) => setImmediate(done));
    while (queue.length > 0) {
      const group = nextGroup(queue);
      try {
        const db = await database.open();
        const written = new Set(await append(db, group, now()));
        problem = null;
        database.changed(new Set([...written].map(({ event }) => event.to)));
        for (const one of group) one.resolve(!one.once || written.has(one) ? "written" : "already");
      } catch (error) {
        problem = (error as Error).message;
        // The others would only wait for the same answer.
        for (const { reject } of [...group, ...(isBusy(error) ? queue.splice(0) : [])]) reject(error);
      }
    }
  }

  /** Gives those that were not there already. */
  async function append(db: Database, group: Waiting[], at: number): Promise<Waiting[]> {
    const lines = group.map(({ line }) => line);
    const found = await db.read.all<Key>(APPEND, [...keysOf(group), textArray(lines), at]);
    const [written, others] = partition(group, found);
    const old = others.filter(({ event, once }) => once && !isDrop(event));
    if (old.length === 0) return written;
    const forgotten = await db.read.run(FORGET, [...keysOf(old), at - dedupeHours * HOUR_MS]);
    return forgotten === 0 ? written : [...written, ...(await append(db, old, at))];
  }

  return {
    async open() {
      const { read } = await database.open();
      const found = await read.all<Key & { at: number }>("SELECT * FROM inbox_remembered WHERE at >= $1", [oldest()]);
      for (const one of found) remembered.set(keyOf(one), one.at);
    },
    deliver: async (event) => void (await write(event, false)),
    deliverOnce: (event) => write(event, true),
    remember(recipient, id) {
      remembered.set(keyOf({ recipient, id }), now());
      for (const [key, at] of remembered) {
        if (at >= oldest()) break;
        remembered.delete(key);
      }
      const note = async (): Promise<void> => {
        const { read } = await database.open();
        await read.run("DELETE FROM inbox_remembered WHERE at < $1", [oldest()]);
        await read.run(REMEMBER, [recipient, id, now()]);
      };
      // As the ledger of files: no reason for a delivery to fail.
      note().catch(onLedgerError);
    },
    rememberedAt(recipient, id) {
      const at = remembered.get(keyOf({ recipient, id }));
      return at !== undefined && at >= oldest() ? at : undefined;
    },
    async settled() {
      await last.catch(() => {});
    },
    get problem() {
      return problem;
    },
    async check() {
      problem = await database.problem();
    },
    async close() {
      await writing;
    },
    get dedupeHours() {
      return dedupeHours;
    },
    set dedupeHours(changed) {
      dedupeHours = changed;
    },
  };
}

/** Takes the first that wait. */
function nextGroup(queue: Waiting[]): Waiting[] {
  let characters = 0;
  const end = queue.findIndex(({ line }, n) => n === LARGEST_GROUP || (characters += line.length) > LONGEST_GROUP);
  return queue.splice(0, end < 0 ? queue.length : Math.max(end, 1));
}

interface Key {
  recipient: string;
  id: string;
}

const keyOf = ({ recipient, id }: Key): string => `${recipient}/${id}`;

/** Those of a group that were found, each key once, and the others. */
function partition(group: Waiting[], found: Key[]): [Waiting[], Waiting[]] {
  const keys = new Set(found.map(keyOf));
  const isFound = ({ event: { to: recipient, id } }: Waiting): boolean => keys.delete(keyOf({ recipient, id }));
  const all = group.map((one) => ({ one, found: isFound(one) }));
  const those = (which: boolean): Waiting[] => all.filter((each) => each.found === which).map(({ one }) => one);
  return [those(true), those(false)];
}

/** Recipients and ids, for `unnest`. */
const keysOf = (group: Waiting[]): [string, string] => [
  textArray(group.map(({ event }) => event.to)),
  textArray(group.map(({ event }) => event.id)),
];
