// The store's database as one SQLite file in WAL mode, on bun:sqlite. All that is SQLite's own is here and in migrations.ts:
// opening, pragmas, how parameters bind, error codes, waiting for the lock.
//
// One connection writes and one reads, because a statement sees what its own connection has not committed yet. Statements
// are prepared once for each text and kept until the file is closed.
//
// Other processes (the commands) write to the same file, and SQLite's lock serialises them. SQLite blocks the event loop
// while it waits for that lock, so the wait is made of short steps with sleep between them.

import { Database as Sqlite, type Statement } from "bun:sqlite";
import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { ConfigError } from "../config.ts";
import { cannotWrite, deniedHint, inheritOwner, makeFolder } from "../files.ts";
import { type Database, DatabaseError, type Queries, type Value } from "./database.ts";
import { MIGRATIONS } from "./migrations.ts";

/** How long another process's transaction is waited for, in milliseconds. */
const BUSY_MS = 5000;
/** The longest that one step of this wait blocks the event loop, in milliseconds. */
const BUSY_STEP_MS = 20;

/** The file that holds the tables of a data folder. */
export function storeFile(dir: string): string {
  return join(dir, "receiver.db");
}

/**
 * Opens the file of a data folder. Makes the folder and the tables where they are missing and migrates older tables.
 * @throws ConfigError when the tables are of a newer version than this program.
 */
export function openSqlite(dir: string): Database {
  const file = storeFile(dir);
  const fresh = !existsSync(file);
  makeFolder(dir, 0o750);
  let writer: Sqlite | undefined;
  try {
    writer = new Sqlite(file, { create: true, readwrite: true });
    writer.run(`PRAGMA busy_timeout=${BUSY_MS}`);
    // SQLite gives its other files the same mode and owner.
    if (fresh) chmodSync(file, 0o640);
    if (fresh) inheritOwner(file);
    writer.run("PRAGMA journal_mode=WAL");
    // A commit is on disk.
    writer.run("PRAGMA synchronous=FULL");
    writer.run("PRAGMA foreign_keys=ON");
    // The log shrinks to this size again after a burst.
    writer.run("PRAGMA journal_size_limit=67108864");
    migrate(writer, file);
    writer.run(`PRAGMA busy_timeout=${BUSY_STEP_MS}`);
    const reader = new Sqlite(file, { readonly: true });
    reader.run(`PRAGMA busy_timeout=${BUSY_MS}`);
    return databaseOf(writer, reader, dir);
  } catch (error) {
    writer?.close();
    if (error instanceof ConfigError) throw error;
    throw Object.assign(new Error(`open "${file}"`, { cause: worded(error, dir) }), {
      hint: deniedHint((error as { code?: string }).code),
    });
  }
}

function databaseOf(writer: Sqlite, reader: Sqlite, dir: string): Database {
  const written = prepared(writer, dir);
  const read = prepared(reader, dir);
  return {
    read: read.queries,
    async transaction(work) {
      await beginPatiently(writer, dir);
      try {
        await work(written.queries);
        written.exec("COMMIT");
      } catch (error) {
        // SQLite has rolled back already after some errors, such as a full disk.
        if (writer.inTransaction) writer.run("ROLLBACK");
        throw error;
      }
    },
    async close() {
      read.close();
      written.close();
    },
  };
}

/** Tries again while another process has the lock. */
async function beginPatiently(db: Sqlite, dir: string): Promise<void> {
  for (const end = performance.now() + BUSY_MS; ;) {
    try {
      db.run("BEGIN IMMEDIATE");
      return;
    } catch (error) {
      if (!isLocked(error) || performance.now() > end) throw worded(error, dir);
      await Bun.sleep(BUSY_STEP_MS);
    }
  }
}

/** A connection's statements. */
function prepared(db: Sqlite, dir: string) {
  const statements = new Map<string, Statement>();
  const using = <T>(text: string, work: (statement: Statement) => T): T => {
    try {
      let statement = statements.get(text);
      if (!statement) {
        // SQLite numbers "$2" by where it first appears, "?2" by its number.
        statement = db.prepare(text.replace(/\$(\d+)/g, "?$1"));
        statements.set(text, statement);
      }
      return work(statement);
    } catch (error) {
      throw worded(error, dir);
    }
  };
  const none: readonly Value[] = [];
  const queries: Queries = {
    async all<T>(text: string, values = none) {
      return using(text, (statement) => statement.all(...values) as T[]);
    },
    async one<T>(text: string, values = none) {
      return using(text, (statement) => (statement.get(...values) as T | null) ?? undefined);
    },
    async run(text, values = none) {
      return using(text, (statement) => statement.run(...values).changes);
    },
  };
  return {
    queries,
    exec: (text: string) => using(text, (statement) => statement.run()),
    close() {
      for (const statement of statements.values()) statement.finalize();
      statements.clear();
      db.close();
    },
  };
}

function isLocked(error: unknown): boolean {
  return (error as { code?: string }).code?.startsWith("SQLITE_BUSY") === true;
}

/** An error of SQLite's in the store's words. Other errors stay the same. */
function worded(error: unknown, dir: string): Error {
  const { code = "", message } = error as { code?: string; message: string };
  if (isLocked(error)) {
    const what = `another process has kept the store in "${dir}" locked for ${BUSY_MS / 1000} s`;
    return new DatabaseError(what, "EBUSY");
  }
  const full = code === "SQLITE_FULL" || (code.startsWith("SQLITE_IOERR") && cannotWrite(dir)?.includes("no space"));
  if (full) return new DatabaseError(`write to the store: no space left in "${dir}"`, "ENOSPC");
  if (code.startsWith("SQLITE_")) return new DatabaseError(`the store fails: ${message} (${code})`);
  return error as Error;
}

function migrate(db: Sqlite, file: string): void {
  db.transaction(() => {
    db.run("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
    const row = db.query<{ value: string }, []>("SELECT value FROM meta WHERE key = 'schema_version'").get();
    const found = Number(row?.value ?? 0);
    if (found > MIGRATIONS.length) {
      const known = `version ${found}, this program knows ${MIGRATIONS.length}`;
      throw new ConfigError([`${file}: its tables are of a newer picket-receiver (${known}): run that one`]);
    }
    for (const statement of MIGRATIONS.slice(found).flat()) db.run(statement);
    db.run("INSERT INTO meta (key, value) VALUES ('schema_version', ?1) ON CONFLICT (key) DO UPDATE SET value = ?1", [
      String(MIGRATIONS.length),
    ]);
  }).immediate();
}
