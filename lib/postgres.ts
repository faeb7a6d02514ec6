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
// A sequence gives numbers in the order of the inserts, not of the commits: who reads "after number 7" would miss a number that is
// committed late. Tables that are read so have a trigger (`IN_ORDER`) that takes a lock until the commit, and then the number.

import { type Database, DatabaseError, type Hint, type Queries, type Scope, type Value } from "./database.ts";
import { ConfigError } from "./config.ts";
import type { Secret } from "./secret.ts";

/** Milliseconds since 1970. */
const CLOCK = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS now";

/** Where a database is, and how it is used. */
export interface PostgresSettings {
  /** postgres://USER@HOST[:PORT]/DATABASE, without a password. */
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

/** SQL of a function for triggers: gives a table's row its number in the order of the commits. Its arguments: the lock's name and the column of the number. */
export const IN_ORDER = `CREATE FUNCTION picket_in_order() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended(TG_TABLE_NAME, 0));
  NEW.id := nextval(pg_get_serial_sequence(TG_TABLE_NAME, 'id'));
  RETURN NEW;
END $$`;

/**
 * Connects, makes the tables where they are missing and migrates older ones.
 * @throws ConfigError when they are of a newer version than this program, DatabaseError where the server doesn't answer.
 */
export async function openPostgres(settings: PostgresSettings, tables: Tables): Promise<Database> {
  const pool = connect(settings, settings.url, settings.connections);
  const direct = connect(settings, settings.direct ?? settings.url, 2);
  try {
    await migrate(direct, tables);
  } catch (error) {
    await Promise.allSettled([pool.close({ timeout: 0 }), direct.close({ timeout: 0 })]);
    throw error instanceof ConfigError ? error : worded(error);
  }
  return databaseOf({ pool, direct, connections: settings.connections }, tables);
}

function connect({ password }: PostgresSettings, url: string, max: number): Bun.SQL {
  const { hostname, port, username, pathname } = new URL(url);
  return new Bun.SQL({
    adapter: "postgres",
    hostname: hostname.replace(/^\[|\]$/g, ""),
    port: Number(port || 5432),
    username: decodeURIComponent(username),
    password: password?.reveal() ?? process.env["PGPASSWORD"] ?? "",
    database: decodeURIComponent(pathname.slice(1)),
    max,
    bigint: true,
    connectionTimeout: 5,
  });
}

function databaseOf(
  { pool, direct, connections }: { pool: Bun.SQL; direct: Bun.SQL; connections: number },
  { name, lock: lockScope }: Tables,
): Database {
  const listeners = new Set<(what: Hint) => void>();
  const channel = `picket_${name}`;
  const own = crypto.randomUUID();
  let changes = 0;
  let leader: Bun.ReservedSQL | null = null;
  const listening = direct.listen(channel, (text: string) => {
    const [what, from] = text.split(" ");
    if (from === own) return;
    changes++;
    for (const listener of listeners) listener(what as Hint);
  });
  listening.catch(() => {});
  return {
    read: queries(pool),
    isShared: true,
    atOnce: Math.max(1, connections - 1),
    damage: null,
    async transaction(work, scope) {
      const connection = await attempt(() => pool.reserve());
      const tx = queries(connection);
      try {
        await tx.run("BEGIN");
        await lock(tx, { name, scope, lockScope });
        await work(tx);
        await tx.run("COMMIT");
      } catch (error) {
        await tx.run("ROLLBACK").catch(() => {});
        throw error;
      } finally {
        await connection.release();
      }
    },
    async skip(tx, table, numbers) {
      const sequence = "pg_get_serial_sequence($1, 'id')";
      await tx.one(`SELECT setval(${sequence}, nextval(${sequence}) + $2)`, [table, numbers]);
    },
    async otherChanges() {
      return changes;
    },
    async leads() {
      leader ??= await attempt(() => direct.reserve());
      try {
        const [row] = await leader.unsafe("SELECT pg_try_advisory_lock(hashtextextended($1, 1)) AS leads", [channel]);
        return row.leads as boolean;
      } catch (error) {
        await leader.release().catch(() => {});
        leader = null;
        throw worded(error);
      }
    },
    async clock() {
      return (await this.read.one<{ now: number }>(CLOCK))!.now;
    },
    hint(what) {
      void pool.unsafe("SELECT pg_notify($1, $2)", [channel, `${what} ${own}`]).catch(() => {});
    },
    onHint: (listener) => void listeners.add(listener),
    async close() {
      await leader?.release();
      await Promise.allSettled([pool.close({ timeout: 5 }), direct.close({ timeout: 0 })]);
    },
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

function queries(sql: Bun.SQL | Bun.ReservedSQL): Queries {
  const ask = (text: string, values: readonly Value[]) => attempt(() => sql.unsafe(text, values as Value[]));
  return {
    async all<T>(text: string, values: readonly Value[] = []) {
      const rows = (await ask(text, values)) as Record<string, unknown>[];
      for (const row of rows) {
        for (const key in row) if (typeof row[key] === "bigint") row[key] = Number(row[key]);
      }
      return rows as T[];
    },
    async one<T>(text: string, values: readonly Value[] = []) {
      return (await this.all<T>(text, values))[0];
    },
    async run(text, values = []) {
      return ((await ask(text, values)) as { count: number }).count;
    },
  };
}

async function attempt<T>(work: () => PromiseLike<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw worded(error);
  }
}

/** An error of the engine's, or of the way to it, in our words. */
function worded(error: unknown): Error {
  if (error instanceof DatabaseError) return error;
  const { code = "", errno = "", message } = error as { code?: string; errno?: string; message: string };
  const state = errno;
  if (state === "53100")
    return new DatabaseError(`write to the store: no space left at the database: ${message}`, "ENOSPC");
  // 08: connection; 57P01 to 57P05: the server ends or starts; 53300: too many connections; 25006: it has become a standby.
  if (/^(08|57P|53300|25006)/.test(state) || /CONNECTION|TIMEOUT|ECONN|ENOTFOUND|EAI_/i.test(code))
    return new DatabaseError(`the database is away: ${message}`, "EAWAY");
  // What ran at the same time: the same again works.
  if (/^(40001|40P01|55P03)$/.test(state)) return new DatabaseError(`the database is busy: ${message}`, "EBUSY");
  return new DatabaseError(`the database fails: ${message} (${state || code})`);
}

async function migrate(direct: Bun.SQL, { name, steps }: Tables): Promise<void> {
  await direct.begin(async (tx) => {
    await tx.unsafe("SELECT pg_advisory_xact_lock(hashtextextended('picket_schema', 0))");
    await tx.unsafe("CREATE TABLE IF NOT EXISTS picket_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL)");
    const [row] = await tx.unsafe("SELECT version FROM picket_schema WHERE name = $1", [name]);
    const found = Number(row?.version ?? 0);
    if (found > steps.length) {
      const known = `version ${found}, this program knows ${steps.length}`;
      throw new ConfigError([`the ${name}'s tables are of a newer picket (${known}): run that one`]);
    }
    if (found === steps.length) return;
    for (const statement of steps.slice(found).flat()) await tx.unsafe(statement);
    const set = "ON CONFLICT (name) DO UPDATE SET version = excluded.version";
    await tx.unsafe(`INSERT INTO picket_schema (name, version) VALUES ($1, $2) ${set}`, [name, steps.length]);
  });
}
