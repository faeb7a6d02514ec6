// The inboxes in PostgreSQL (inbox-tables.ts), as their readers use them, on any number of machines.
//
// An event's offset is its `seq`. A mark has the lines of a file (mark.ts), a row each. What one process at a time may do (a reader's turn, a
// delivery, pushing events into a session) it does under a lease: a row that another process may take over once it wasn't renewed
// for five seconds by the database's clock, or at once where its holder was a process of the same machine that is no more. What is written
// under a lease is written by a statement that renews it, and so by its holder only.
//
// While the database is away everything here waits, and then goes on: each statement can run twice, as it may when a commit's answer was lost.

import { readFileSync, readlinkSync } from "node:fs";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { NAME_SEGMENT } from "./config.ts";
import { type Line, type Pass, partialPosition } from "./cursor.ts";
import { type Queries, type Value, isBusy } from "./database.ts";
import { type HandledIds, rememberHandled } from "./handled.ts";
import type { InboxDatabase } from "./inbox-database.ts";
import type { DeliveryPlace, Inboxes, LineCursor, Waiting } from "./inboxes.ts";
import type { MarkPlace, Reader } from "./mark.ts";

const RENEW_MS = 1500;
/** A lease that was renewed so recently is not another's. Below the five seconds of `RENEW`. */
const SURE_MS = 4000;
/** How often a process that waits for a turn looks. */
const LOOK_MS = 50;
/** How often it is looked whether the database is back. */
const AWAY_MS = 500;
/** So many rows are read at once, or so many bytes. */
const PAGE_ROWS = 1000;
const PAGE_BYTES = 4 << 20;

const PAGE = `SELECT seq, line FROM (
    SELECT seq, line, sum(octet_length(line)) OVER (ORDER BY seq) - octet_length(line) AS before
    FROM (SELECT seq, line FROM inbox WHERE recipient = $1 AND seq >= $2 ORDER BY seq LIMIT ${PAGE_ROWS}) AS page
  ) AS sized WHERE before < ${PAGE_BYTES} ORDER BY seq`;
// One look into the index for each recipient.
const RECIPIENTS = `WITH RECURSIVE found AS (
    (SELECT recipient FROM inbox ORDER BY recipient LIMIT 1)
    UNION ALL
    SELECT (SELECT recipient FROM inbox WHERE recipient > found.recipient ORDER BY recipient LIMIT 1)
    FROM found WHERE found.recipient IS NOT NULL
  ) SELECT recipient FROM found WHERE recipient IS NOT NULL`;
const LAST = "SELECT seq FROM inbox WHERE recipient = $1 ORDER BY seq DESC LIMIT 1";
const UNTIL = "now() + interval '5 seconds'";
const TAKE = `INSERT INTO inbox_turns (name, holder, until) VALUES ($1, $2, ${UNTIL})
  ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
  WHERE inbox_turns.until < now() OR inbox_turns.holder = excluded.holder`;
const RENEW = `UPDATE inbox_turns SET until = ${UNTIL} WHERE name = $1 AND holder = $2 RETURNING name`;
const HOLDER = "SELECT holder FROM inbox_turns WHERE name = $1";
const GIVE_BACK = "DELETE FROM inbox_turns WHERE name = $1 AND holder = $2";
const NOTE = `WITH held AS (${RENEW})
  INSERT INTO inbox_marks (recipient, reader, line) SELECT $3::text, $4::text, $5::text FROM held`;
const REPLACE = `WITH held AS (${RENEW}), gone AS (
    DELETE FROM inbox_marks WHERE recipient = $3::text AND reader = $4::text AND EXISTS (SELECT FROM held)
  ) INSERT INTO inbox_marks (recipient, reader, line) SELECT $3::text, $4::text, $5::text FROM held`;
const KEEP = `WITH held AS (${RENEW}) INSERT INTO inbox_deliveries (name, state) SELECT $3::text, $4::text FROM held
  ON CONFLICT (name) DO UPDATE SET state = excluded.state`;

/** Asks the database; waits while it is away. */
type Ask = <T>(work: (queries: Queries) => Promise<T>) => Promise<T>;

export function tableInboxes(database: InboxDatabase, waiting: Waiting): Inboxes {
  const ask = askerOf(database, waiting);
  const leases = new Set<Lease>();
  const renewing = setInterval(() => {
    for (const lease of leases) lease.renew().catch(() => {});
  }, RENEW_MS);
  renewing.unref();
  /** A lease that is renewed. */
  const lasting = (name: string): Lease => {
    const lease = openLease(ask, name);
    leases.add(lease);
    return lease;
  };
  const watcherName = (recipient: string): string => `watcher:${recipient}`;
  return {
    where: (recipient) => `${recipient} at ${database.url}`,
    idleMs: 1000,
    async recipients() {
      const rows = await ask((queries) => queries.all<{ recipient: string }>(RECIPIENTS));
      return rows.map(({ recipient }) => recipient).filter((name) => NAME_SEGMENT.test(name));
    },
    version: (recipient) => lastOf(ask, recipient).then(String),
    watch(changed) {
      // Where it isn't there yet, the next question opens it.
      database.open().catch(() => {});
      return database.onChange(changed);
    },
    cursor: (recipient) => openCursor(ask, recipient),
    async find(recipient, id, visit) {
      const text = "SELECT seq, line FROM inbox WHERE recipient = $1 AND (id = $2 OR id LIKE $3) ORDER BY seq";
      // An id that was given twice has a number behind it.
      const values = [recipient, id, `${id.replace(/[\\%_]/g, String.raw`\$&`)}@%`];
      const rows = await ask((queries) => queries.all<Row>(text, values));
      for (const row of rows) visit(lineOf(row));
      // What another program has inserted may have its id in the line alone, or none.
      if (rows.length === 0) await openCursor(ask, recipient).read({ visit });
    },
    mark: (reader) => tableMark(ask, reader),
    handled: (recipient) => tableHandled(ask, recipient),
    async watcher(recipient) {
      const text = "SELECT holder FROM inbox_turns WHERE name = $1 AND until > now()";
      const row = await ask((queries) => queries.one<{ holder: string }>(text, [watcherName(recipient)]));
      return row === undefined ? null : row.holder.split(" ")[0]!;
    },
    async becomeWatcher(recipient) {
      const lease = lasting(watcherName(recipient));
      return (await lease.hold()) === 0 ? null : lease.end;
    },
    delivery: (name) => tableDelivery(ask, name, lasting(`deliver:${name}`)),
    async [Symbol.asyncDispose]() {
      clearInterval(renewing);
    },
  };
}

function askerOf(database: InboxDatabase, { log, signal, patienceMs = Infinity }: Waiting): Ask {
  let isAway = false;
  return async (work) => {
    for (const begun = performance.now(); ;) {
      try {
        const answer = await work((await database.open()).read);
        if (isAway) log?.info("the database is back", { inbox: database.url });
        isAway = false;
        return answer;
      } catch (error) {
        if (!isBusy(error) || signal?.aborted || performance.now() - begun >= patienceMs) throw error;
        if (!isAway) log?.warn("waiting for the database", { inbox: database.url, error });
        isAway = true;
      }
      await sleep(AWAY_MS, undefined, { signal }).catch(() => {});
    }
  };
}

// ---------------------------------------------------------------------------------------------------------------
// Events

interface Row {
  seq: number;
  line: string;
}

function lineOf({ seq, line }: Row): Line {
  const bytes = Buffer.from(line);
  return { bytes, start: 0, end: bytes.length, length: bytes.length, offset: seq, generation: 1 };
}

/** The number of a recipient's last event; 0 where there is none. */
async function lastOf(ask: Ask, recipient: string): Promise<number> {
  return (await ask((queries) => queries.one<Row>(LAST, [recipient])))?.seq ?? 0;
}

function openCursor(ask: Ask, recipient: string): LineCursor {
  let offset = 0;
  const page = (from: number): Promise<Row[]> => ask((queries) => queries.all<Row>(PAGE, [recipient, from]));
  const positionAt = (at: number) => partialPosition({ offset: at });
  return {
    get positions() {
      return [positionAt(offset)];
    },
    set positions(given) {
      offset = given.at(-1)?.offset ?? 0;
    },
    isBehind: false,
    far: 1000,
    async read({ begin, visit, signal }: Pass) {
      await begin?.();
      for (;;) {
        const rows = signal?.aborted ? [] : await page(offset);
        if (rows.length === 0) return;
        for (const row of rows) {
          offset = row.seq + 1;
          if (visit(lineOf(row)) === true) return;
        }
      }
    },
    async skip() {
      offset = (await lastOf(ask, recipient)) + 1;
    },
    back: (_generation, at) => positionAt(at),
    async lineAt(_generation, at) {
      const text = "SELECT seq, line FROM inbox WHERE recipient = $1 AND seq = $2";
      const row = await ask((queries) => queries.one<Row>(text, [recipient, at]));
      return row ? lineOf(row) : null;
    },
    close() {},
  };
}

// ---------------------------------------------------------------------------------------------------------------
// Leases

interface Lease {
  /** Takes it, or has it still: a number that is another one each time it is taken anew. 0: another process has it. */
  hold: () => Promise<number>;
  /** Whether it was still held, and is for five more seconds. */
  renew: () => Promise<boolean>;
  /** Runs a statement that renews it: its first parameters are the lease's name and holder. False where it was taken over. */
  write: (text: string, values: Value[]) => Promise<boolean>;
  end: () => Promise<void>;
}

function openLease(ask: Ask, name: string): Lease {
  let holder = "";
  let [taken, surely] = [0, 0];
  async function write(text: string, values: Value[]): Promise<boolean> {
    const now = performance.now();
    const isHeld = holder !== "" && (await ask((queries) => queries.run(text, [name, holder, ...values]))) > 0;
    if (isHeld) surely = now + SURE_MS;
    return isHeld;
  }
  const renew = (): Promise<boolean> => write(RENEW, []);
  let holding: Promise<number> | null = null;
  async function hold(): Promise<number> {
    if (performance.now() < surely || (await renew())) return taken;
    holder = `${process.pid}@${hostname()} ${machine()} ${crypto.randomUUID()}`;
    if ((await write(TAKE, [])) || ((await bury()) && (await write(TAKE, [])))) return ++taken;
    holder = "";
    return 0;
  }
  /** Ends the lease of a process that is no more; false where it may be there. */
  async function bury(): Promise<boolean> {
    const row = await ask((queries) => queries.one<{ holder: string }>(HOLDER, [name]));
    if (row && !isGone(row.holder)) return false;
    if (row) await ask((queries) => queries.run(GIVE_BACK, [name, row.holder]));
    return true;
  }
  return {
    write,
    renew,
    hold: () => (holding ??= hold().finally(() => (holding = null))),
    async end() {
      const values = [name, holder];
      [holder, surely] = ["", 0];
      // If the database is away, it ends by itself.
      if (values[1] !== "") await ask((queries) => queries.run(GIVE_BACK, values)).catch(() => {});
    },
  };
}

/** Names what a process id counts in: a boot of a kernel, and a namespace. "" where that isn't known. */
function machine(): string {
  try {
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()}/${readlinkSync("/proc/self/ns/pid")}`;
  } catch {
    return "";
  }
}

/** Whether a lease's holder is certainly no more. */
function isGone(holder: string): boolean {
  const [who, on] = holder.split(" ");
  if (on === "" || on !== machine()) return false;
  try {
    process.kill(Number.parseInt(who!, 10), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ESRCH";
  }
}

// ---------------------------------------------------------------------------------------------------------------
// What readers have seen and done

/** Waits until no other process has the lease. */
async function takeLease(ask: Ask, name: string): Promise<Lease> {
  const lease = openLease(ask, name);
  while ((await lease.hold()) === 0) await Bun.sleep(LOOK_MS);
  return lease;
}

function tableMark(ask: Ask, { recipient, reader }: Reader): MarkPlace {
  const key = [recipient, reader];
  return {
    async read() {
      const text = "SELECT line FROM inbox_marks WHERE recipient = $1 AND reader = $2 ORDER BY id";
      const rows = await ask((queries) => queries.all<{ line: string }>(text, key));
      return rows.map(({ line }) => line).join("");
    },
    async version() {
      const text = "SELECT max(id) AS id FROM inbox_marks WHERE recipient = $1 AND reader = $2";
      const row = await ask((queries) => queries.one<{ id: number | null }>(text, key));
      return String(row?.id ?? "");
    },
    async forget() {
      await ask((queries) => queries.run("DELETE FROM inbox_marks WHERE recipient = $1 AND reader = $2", key));
    },
    async takeTurn() {
      const { write, end } = await takeLease(ask, `turn:${reader}@${recipient}`);
      return {
        replace: (text) => write(REPLACE, [...key, text]),
        note: (line) => write(NOTE, [...key, line]),
        end,
      };
    },
  };
}

function tableHandled(ask: Ask, recipient: string): HandledIds {
  const known = rememberHandled();
  let seen = 0;
  const found = async (more: string, value: Value): Promise<Record<string, unknown>[]> => {
    const text = `SELECT * FROM inbox_handled WHERE recipient = $1 AND ${more} ORDER BY seq LIMIT ${PAGE_ROWS}`;
    const rows = await ask((queries) => queries.all<Record<string, unknown>>(text, [recipient, value]));
    for (const row of rows) known.take(row);
    return rows;
  };
  return {
    has: known.has,
    get: known.get,
    async refresh(id) {
      if (id !== undefined) return void (await found("id = $2", id));
      for (let more = true; more;) {
        const rows = await found("seq > $2", seen);
        more = rows.length === PAGE_ROWS;
        seen = (rows.at(-1)?.["seq"] as number | undefined) ?? seen;
      }
    },
    async add(id, { by, note }) {
      const text = `INSERT INTO inbox_handled (recipient, id, ts, by, note) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (recipient, id) DO NOTHING`;
      const values = [recipient, id, new Date().toISOString(), by, note || null];
      await ask((queries) => queries.run(text, values));
    },
    takeTurn: async () => (await takeLease(ask, `handled:${recipient}`)).end,
  };
}

function tableDelivery(ask: Ask, name: string, lease: Lease): DeliveryPlace {
  return {
    hold: lease.hold,
    async read() {
      const text = "SELECT state FROM inbox_deliveries WHERE name = $1";
      const row = await ask((queries) => queries.one<{ state: string }>(text, [name]));
      return row?.state ?? null;
    },
    async write(text) {
      // Where it was taken over, the other one's state counts.
      await lease.write(KEEP, [name, text]);
    },
    async remove() {
      await ask((queries) => queries.run("DELETE FROM inbox_deliveries WHERE name = $1", [name]));
    },
    release: lease.end,
  };
}
