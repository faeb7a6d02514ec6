// PostgreSQL as a database that several processes share, on Bun.SQL. All that is its own is here, and in the tables that are given to
// `openPostgres`.
//
// Bigints come as numbers, as from SQLite: times are milliseconds, which have 41 bits.
//
// Transactions are READ COMMITTED. What SQLite's one writer gives for nothing is made of locks:
//
//   scope null       the exclusive lock of these tables: it waits for all others, and they for it
//   scope of some    the same lock, shared, then one of each that it names (`lock` of the tables), in an order, so that two never wait
//                    for each other
//
// What dies is noticed here, too. A statement that isn't answered within ANSWER_MS costs its connection: the kernel would wait for a quarter
// of an hour, or for ever where the server stands still. The other way round, the server ends a session that is silent for SILENT_MS in a
// transaction, or as the leader: a process that stands still keeps no lock.
//
// A sequence gives numbers in the order of the inserts, not of the commits: who reads "after number 7" would miss a number that is
// committed late. Tables that are read so have a trigger (`IN_ORDER`) that takes a lock until the commit, and then the number.

import { readFileSync } from "node:fs";
import { type Database, DatabaseError, type Hint, type Queries, type Scope, type Value, isAway } from "./database.ts";
import { ConfigError } from "./config.ts";
import { RefusedCredentials } from "./exit.ts";
import type { Secret } from "./secret.ts";

/** How long a connection may take, and how long a free one is waited for. */
const CONNECT_MS = 5000;
/** How long a statement may take. */
const ANSWER_MS = 30_000;
/** How long a step of a migration may take, and others wait for it. */
const MIGRATION_MS = 3_600_000;
/** How long a lock is waited for. */
const LOCK_MS = 15_000;
/** How long a session that holds a lock may be silent. */
const SILENT_MS = 5000;
/** A connection is closed after so many idle seconds, before a firewall forgets it. */
const IDLE_S = 60;
/** How soon a first attempt to listen is repeated. */
const RELISTEN_MS = 1000;
/** How often a transaction runs that runs into others. */
const TRIES = 4;

// A pooler in transaction mode keeps no settings of a session. Without an answer to this nothing else will be answered.
const BEGIN = `BEGIN; SET LOCAL lock_timeout = ${LOCK_MS}; SET LOCAL idle_in_transaction_session_timeout = ${SILENT_MS}`;

/** Milliseconds since 1970. */
const CLOCK = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now";

const LEAD = `SELECT set_config('idle_session_timeout', $2, false), pg_try_advisory_lock(hashtextextended($1, 1)) AS leads`;

/** Where a database is, and how it is used. */
export interface PostgresSettings {
  /** postgres://USER@HOST[:PORT]/DATABASE[?sslmode=…&sslrootcert=…], without a password. */
  url: string;
  /** Null: that of PGPASSWORD, or none. */
  password: Secret | null;
  /** Connections at once, besides the one that holds locks and listens. */
  connections: number;
  /** The same database past a pooler: what is kept by a session (locks, LISTEN) goes there. Null: `url`. */
  direct: string | null;
}

/** Tables that are made and migrated together. */
export interface Tables {
  /** Names them in `picket_schema`, in the locks and in the channel of the hints. */
  name: string;
  /** `steps[n]` brings version n to version n + 1. A step that was released is never changed. */
  steps: readonly (readonly string[])[];
  /** Locks what a scope names, until the end of the transaction and in an order. `$1` is the scope, as an array in text. */
  lock: string;
}

/** SQL of a function for triggers: gives a table's row its number, in the column `id`, in the order of the commits. */
export const IN_ORDER = `CREATE FUNCTION picket_in_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(TG_TABLE_NAME, 0));
  NEW.id := nextval(pg_get_serial_sequence(TG_TABLE_NAME, 'id'));
  RETURN NEW;
END $$`;

/**
 * Connects, makes the tables where they are missing and migrates older ones.
 * @throws ConfigError when they are of a newer version than this program; RefusedCredentials; DatabaseError, `EAWAY` where the server doesn't answer.
 */
export async function openPostgres(settings: PostgresSettings, tables: Tables): Promise<Database> {
  const pool = connect(settings, settings.url, settings.connections);
  const direct = connect(settings, settings.direct ?? settings.url, 2);
  try {
    await direct.use((ask) => migrate(ask, tables));
    if (settings.direct !== null) await pool.use((ask) => ask("SELECT 1"));
  } catch (error) {
    await Promise.all([pool.close(), direct.close()]);
    throw error;
  }
  return databaseOf({ pool, direct, connections: settings.connections }, tables);
}

/** A statement on a connection. */
type Ask = (text: string, values?: readonly Value[], ms?: number) => Promise<Rows>;
type Rows = Record<string, unknown>[] & Bun.SQL.ResultMetadata;

/** Connections to a server. */
interface Server {
  sql: Bun.SQL;
  /** Takes a connection, for which the caller is alone. `give` returns it; one that failed is not used again. */
  take(): Promise<{ ask: Ask; give(): Promise<void> }>;
  /** Runs `work` on a connection that nothing else uses meanwhile. */
  use<T>(work: (ask: Ask) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

function connect({ password, direct }: PostgresSettings, url: string, max: number): Server {
  const { hostname, port, host, username, pathname, searchParams } = new URL(url);
  const sql = new Bun.SQL({
    adapter: "postgres",
    hostname: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port || 5432),
    username: decodeURIComponent(username),
    password: password?.reveal() ?? process.env["PGPASSWORD"] ?? "",
    database: decodeURIComponent(pathname.slice(1)),
    tls: tlsOf(searchParams),
    max,
    bigint: true,
    // Behind a pooler the next statement may meet another session.
    prepare: direct === null,
    connectionTimeout: CONNECT_MS / 1000,
    idleTimeout: IDLE_S,
    connection: { application_name: "picket" },
  });
  const failed = (error: unknown): Error => worded(error, host);
  const server: Server = {
    sql,
    async take() {
      const late = new AbortController();
      const timer = setTimeout(
        () => late.abort(away(host, `no connection is free within ${CONNECT_MS / 1000} s`)),
        CONNECT_MS,
      );
      const connection = await sql
        .reserve({ signal: late.signal })
        .catch((error: unknown) => Promise.reject(failed(error)))
        .finally(() => clearTimeout(timer));
      return { ask: asking(connection, { host, failed }), give: () => connection.release() };
    },
    async use(work) {
      const held = await server.take();
      try {
        return await work(held.ask);
      } finally {
        await held.give();
      }
    },
    // What is under way has a second, such as the hint of a command that ends.
    close: () => sql.close({ timeout: 1 }).catch(() => {}),
  };
  return server;
}

/** `sslmode` and `sslrootcert` as libpq means them: a root is checked in each mode, the name in verify-full alone. */
function tlsOf(given: URLSearchParams): Bun.SQL.TLSOptions | "disable" | "prefer" | "require" {
  const [mode = "prefer", root] = [given.get("sslmode") ?? undefined, given.get("sslrootcert")];
  if (mode === "disable") return mode;
  const trusted = {
    rejectUnauthorized: true,
    ...(root === null || root === "system" ? {} : { ca: readFileSync(root) }),
  };
  if (mode === "verify-full" || root === "system") return trusted;
  if (mode === "verify-ca" || root !== null) return { ...trusted, checkServerIdentity: () => undefined };
  return mode === "require" ? mode : "prefer";
}

/** Asks on one connection, which is closed where an answer does not come. */
function asking(
  connection: Bun.ReservedSQL,
  { host, failed }: { host: string; failed: (error: unknown) => Error },
): Ask {
  return async (text, values = [], ms = ANSWER_MS) => {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      void connection.close({ timeout: 0 });
    }, ms);
    try {
      const query = connection.unsafe(text, values.map(storable));
      return (await (text === BEGIN ? query.simple() : query)) as Rows;
    } catch (error) {
      const why = isLate ? away(host, `no answer within ${ms / 1000} s`) : failed(error);
      // Such as one to a server that has become a standby.
      if (isAway(why)) void connection.close({ timeout: 0 });
      throw why;
    } finally {
      clearTimeout(timer);
    }
  };
}

function databaseOf(
  { pool, direct, connections }: { pool: Server; direct: Server; connections: number },
  { name, lock: lockScope }: Tables,
): Database {
  const channel = `picket_${name}`;
  const own = crypto.randomUUID();
  const hints = hearing(direct, channel, own);
  let leader: ReturnType<Server["take"]> | null = null;
  const transact = (work: (tx: Queries) => Promise<void>, { scope, begun }: { scope: Scope; begun: () => void }) =>
    pool.use(async (ask) => {
      const tx = queries(ask);
      await ask(BEGIN, [], CONNECT_MS);
      begun();
      try {
        await lock(tx, { name, scope, lockScope });
        await work(tx);
      } catch (error) {
        await ask("ROLLBACK", [], CONNECT_MS).catch(() => {});
        throw error;
      }
      // Where a statement failed and `work` went on, the server rolls back and reports no error.
      const { command } = await ask("COMMIT");
      if (command !== "COMMIT") throw new DatabaseError("a statement failed: the transaction was rolled back");
    });
  return {
    read: queries((text, values) => {
      return again(
        () => pool.use((ask) => ask(text, values)),
        (error) => error instanceof Lost || error instanceof Collision,
      );
    }),
    atOnce: Math.max(1, connections - 1),
    damage: null,
    transaction(work, scope) {
      let hasBegun = false;
      const begun = () => void (hasBegun = true);
      const isVain = (error: unknown) => error instanceof Collision || (error instanceof Lost && !hasBegun);
      return again(() => transact(work, { scope, begun }), isVain);
    },
    async skip(tx, table, numbers) {
      const sequence = "pg_get_serial_sequence($1, 'id')";
      await tx.one(`SELECT setval(${sequence}, nextval(${sequence}) + $2)`, [table, numbers]);
    },
    async otherChanges() {
      return hints.count();
    },
    async leads() {
      const session = (leader ??= direct.take());
      try {
        const { ask } = await session;
        const [row] = await ask(LEAD, [channel, String(SILENT_MS)], CONNECT_MS);
        return row!["leads"] as boolean;
      } catch (error) {
        if (leader === session) leader = null;
        await session.then((held) => held.give()).catch(() => {});
        throw error;
      }
    },
    async clock() {
      return (await this.read.one<{ now: number }>(CLOCK))!.now;
    },
    hint(what) {
      void pool.use((ask) => ask("SELECT pg_notify($1, $2)", [channel, `${what} ${own}`])).catch(() => {});
    },
    onHint: hints.on,
    async close() {
      hints.close();
      await leader?.then((session) => session.give()).catch(() => {});
      await Promise.all([pool.close(), direct.close()]);
    },
  };
}

// Bun tells each failed attempt to listen again, between our log lines. The statements that fail meanwhile are logged.
console.warn = () => {};

/** Hears the hints of other processes. Bun listens again after a lost connection, but gives up where the first attempt fails. */
function hearing({ sql }: Server, channel: string, own: string) {
  const listeners = new Set<(what: Hint | null) => void>();
  let count = 0;
  let isClosed = false;
  const tell = (what: Hint | null): void => {
    count++;
    for (const listener of listeners) listener(what);
  };
  const hear = (text: string): void => {
    const [what = "", from] = text.split(" ");
    if (from !== own) tell(what);
  };
  const begin = (): void => {
    sql.listen(channel, hear, () => tell(null)).catch(() => setTimeout(() => isClosed || begin(), RELISTEN_MS));
  };
  begin();
  return {
    count: () => count,
    on: (listener: (what: Hint | null) => void) => void listeners.add(listener),
    close: () => void (isClosed = true),
  };
}

/** See the head of this file. */
async function lock(
  tx: Queries,
  { name, scope, lockScope }: { name: string; scope: Scope; lockScope: string },
): Promise<void> {
  if (scope === null) {
    await tx.one("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", [name]);
    return;
  }
  await tx.one("SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 0))", [name]);
  if (scope.length === 0) return;
  await tx.all(lockScope, [`{${[...new Set(scope)].map((one) => JSON.stringify(one)).join(",")}}`]);
}

function queries(ask: (text: string, values: readonly Value[]) => Promise<Rows>): Queries {
  return {
    async all<T>(text: string, values: readonly Value[] = []) {
      const rows = await ask(text, values);
      for (const row of rows) {
        for (const key in row) if (typeof row[key] === "bigint") row[key] = Number(row[key]);
      }
      return rows as T[];
    },
    async one<T>(text: string, values: readonly Value[] = []) {
      return (await this.all<T>(text, values))[0];
    },
    async run(text, values = []) {
      return (await ask(text, values)).count;
    },
  };
}

/** A text has no U+0000 here. */
function storable(value: Value): Value {
  return typeof value === "string" && value.includes("\0") ? value.replaceAll("\0", "\ufffd") : value;
}

/** What ran at the same time was in the way of a transaction: the same again works. */
class Collision extends DatabaseError {}

/** The connection has ended: another one may work. */
class Lost extends DatabaseError {}

/** Repeats what had no effect, where `isVain` says so. */
async function again<T>(work: () => Promise<T>, isVain: (error: unknown) => boolean): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work();
    } catch (error) {
      if (!isVain(error) || tries === TRIES) throw error;
    }
  }
}

const away = (host: string, why: string): DatabaseError =>
  new DatabaseError(`the database at "${host}" is away: ${why}`, "EAWAY");

/** An error of the engine's, or of the way to it, in our words. */
function worded(error: unknown, host: string): Error {
  if (error instanceof DatabaseError) return error;
  const { code = "", errno = "", message } = error as { code?: string; errno?: string | number; message: string };
  const state = String(errno);
  // Refused credentials: 28000, 28P01.
  if (state.startsWith("28")) return new RefusedCredentials(`the database at "${host}" refuses us: ${message}`);
  if (state === "53100")
    return new DatabaseError(`write to the store: no space left at the database: ${message}`, "ENOSPC");
  if (code === "ERR_POSTGRES_CONNECTION_CLOSED" || /^57P0[12]$/.test(state))
    return new Lost(away(host, message).message, "EAWAY");
  // 08: connection; 57P01 to 57P05: the server ends or starts, or ended our session, as 25P03; 53300: too many connections; 25006: it has
  // become a standby.
  if (/^(08|57P|25P03|53300|25006)/.test(state) || /CONNECTION|TIMEOUT|ECONN|ENOTFOUND|EAI_/i.test(code))
    return away(host, message);
  if (/^(40001|40P01)$/.test(state)) return new Collision(`the database is busy: ${message}`, "EBUSY");
  // 55P03: a lock; 57014: the whole statement.
  if (/^(55P03|57014)$/.test(state)) return new DatabaseError(`the database is busy: ${message}`, "EBUSY");
  return new DatabaseError(`the database fails: ${message} (${state || code})`);
}

async function migrate(ask: Ask, { name, steps }: Tables): Promise<void> {
  await ask(BEGIN);
  await ask("SET LOCAL lock_timeout = 0");
  await ask("SELECT pg_advisory_xact_lock(hashtextextended('picket_schema', 0))", [], MIGRATION_MS);
  await ask("CREATE TABLE IF NOT EXISTS picket_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL)");
  const [row] = await ask("SELECT version FROM picket_schema WHERE name = $1", [name]);
  const found = Number(row?.["version"] ?? 0);
  if (found > steps.length) {
    const known = `version ${found}, this program knows ${steps.length}`;
    throw new ConfigError([`the ${name}'s tables are of a newer picket (${known}): run that one`]);
  }
  for (const statement of steps.slice(found).flat()) await ask(statement, [], MIGRATION_MS);
  const set = "ON CONFLICT (name) DO UPDATE SET version = excluded.version";
  if (found < steps.length)
    await ask(`INSERT INTO picket_schema (name, version) VALUES ($1, $2) ${set}`, [name, steps.length]);
  await ask("COMMIT");
}
