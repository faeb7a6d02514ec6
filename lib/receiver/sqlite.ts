// The store's database as one SQLite file in WAL mode, on bun:sqlite. All that is SQLite's own is here and in migrations.ts:
// opening, pragmas, how parameters bind, error codes, waiting for the lock.
//
// One connection writes and one reads, because a statement sees what its own connection has not committed yet. Statements
// are prepared once for each text and kept until the file is closed.
//
// Other processes (the commands) write to the same file, and SQLite's lock serialises them. SQLite blocks the event loop
// while it waits for that lock, so the wait is made of short steps with sleep between them.

import { Database as Sqlite, type Statement, constants } from "bun:sqlite";
import { chmodSync, closeSync, existsSync, fsyncSync, openSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { ConfigError } from "../config.ts";
import { cannotWrite, deniedHint, inheritOwner, makeFolder } from "../files.ts";
import { type Database, DatabaseError, type Queries, type Value } from "../database.ts";
import { MIGRATIONS } from "./migrations.ts";

/** How long another process's transaction is waited for, in milliseconds. */
const BUSY_MS = 5000;
/** The longest that one step of this wait blocks the event loop, in milliseconds. */
const BUSY_STEP_MS = 20;

export const RESTORE_HINT = "stop the receiver, then put a backup in its place: picket-receiver restore FILE";

/** The file that holds the tables of a data folder. */
export function storeFile(dir: string): string {
  return join(dir, "receiver.db");
}

/** Whether a data folder's file is missing, or empty, as a file system may leave it after a power cut. */
export function hasNoStore(dir: string): boolean {
  return !statSync(storeFile(dir), { throwIfNoEntry: false })?.size;
}

/**
 * Opens the file of a data folder. Makes the folder and the tables where they are missing and migrates older tables.
 * @throws ConfigError when the tables are of a newer version than this program.
 */
export function openSqlite(dir: string): Database {
  const file = storeFile(dir);
  const fresh = hasNoStore(dir);
  makeFolder(dir, 0o750);
  let writer: Sqlite | undefined;
  try {
    writer = new Sqlite(file, { create: true, readwrite: true });
    writer.run(`PRAGMA busy_timeout=${BUSY_MS}`);
    // It can shrink again (shrink.ts). Has to come before the first table.
    if (fresh) writer.run("PRAGMA auto_vacuum=INCREMENTAL");
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
    const cause = worded(error, dir);
    const damaged = (cause as { code?: string }).code === "EDAMAGED";
    throw Object.assign(new Error(`open "${file}"`, { cause }), {
      hint: damaged ? RESTORE_HINT : deniedHint((error as { code?: string }).code),
    });
  }
}

/**
 * Copies a file's tables into a new file, which may be there empty: consistent while others write, without free pages, and synced.
 * @throws Error; what there is of the copy is of no use then.
 */
export function copySqlite(file: string, copy: string): void {
  try {
    using source = new Sqlite(file, { readonly: true });
    source.run(`PRAGMA busy_timeout=${BUSY_MS}`);
    // A copy of an older store can shrink, too. Where the source can, this would write to it.
    const [mode] = source.query<{ auto_vacuum: number }, []>("PRAGMA auto_vacuum").all();
    if (mode?.auto_vacuum === 0) source.run("PRAGMA auto_vacuum=INCREMENTAL");
    source.run("VACUUM INTO ?1", [copy]);
  } catch (error) {
    throw worded(error, dirname(copy));
  }
  syncFile(copy);
}

/**
 * Brings a copy's tables up to this version, changes it, and syncs it. Nothing is undone on an error.
 * @throws ConfigError when the tables are of a newer version than this program.
 */
export function alterSqlite(
  { file, name = file }: { file: string; name?: string },
  work: (run: (text: string, values?: Value[]) => void) => void,
): void {
  try {
    using db = new Sqlite(file);
    db.run("PRAGMA journal_mode=OFF");
    migrate(db, name);
    work((text, values = []) => db.run(text, values));
  } catch (error) {
    throw worded(error, dirname(file));
  }
  syncFile(file);
}

/** Reads rows of a file, one by one. @throws Error where it isn't a database. */
export function* eachRow<T>(file: string, text: string): Iterable<T> {
  using db = new Sqlite(file, { readonly: true });
  yield* db.query(text).iterate() as Iterable<T>;
}

/** Reads a file in the state when this begins, while others write to it: its log doesn't shrink meanwhile. */
export async function inSnapshot<T>(file: string, work: (rows: SnapshotRows) => Promise<T>): Promise<T> {
  using db = new Sqlite(file, { readonly: true });
  db.run("BEGIN");
  // It begins with the first read.
  db.query("SELECT 1 FROM meta").get();
  return await work(<R>(text: string) => db.prepare(text).iterate() as Iterable<R>);
}

/** Reads rows, one by one. */
export type SnapshotRows = <R>(text: string) => Iterable<R>;

/** All rows at once. */
export const readSqlite = <T>(file: string, text: string): T[] => [...eachRow<T>(file, text)];

/**
 * Writes what waits in a file's log into the file itself, so that the file alone is all of it.
 * @throws DatabaseError, also while another process has the file open.
 */
export function foldLog(file: string): void {
  alone(file, ["PRAGMA journal_mode=DELETE"]);
}

/** What of a store's file is free. */
export interface PageCounts {
  pages: number;
  free: number;
  pageSize: number;
  /** Whether free pages can be given back. */
  shrinks: boolean;
}

export async function pageCounts(db: Queries): Promise<PageCounts> {
  const [counts] = await db.all<{ pages: number; free: number; pageSize: number; mode: number }>(
    `SELECT page_count AS pages, freelist_count AS free, page_size AS pageSize, auto_vacuum AS mode
     FROM pragma_page_count, pragma_freelist_count, pragma_page_size, pragma_auto_vacuum`,
  );
  const { mode, ...rest } = counts!;
  return { ...rest, shrinks: mode !== 0 };
}

/** Rewrites a store's file as one that can shrink. @throws DatabaseError. */
export function rewriteToShrink(dir: string): void {
  alone(storeFile(dir), ["PRAGMA auto_vacuum=INCREMENTAL", "VACUUM", "PRAGMA wal_checkpoint"]);
}

/** Moves what it can from the log into the file: only then the file gets smaller. @throws DatabaseError. */
export function checkpoint(dir: string): void {
  alone(storeFile(dir), ["PRAGMA wal_checkpoint"]);
}

/** Runs what can't be part of a transaction, on a connection of its own. */
function alone(file: string, statements: string[]): void {
  try {
    using db = new Sqlite(file, { readwrite: true });
    db.run(`PRAGMA busy_timeout=${BUSY_MS}`);
    for (const statement of statements) db.run(statement);
  } catch (error) {
    throw worded(error, dirname(file));
  }
}

function syncFile(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function databaseOf(writer: Sqlite, reader: Sqlite, dir: string): Database {
  const failed = (error: unknown): Error => {
    const said = worded(error, dir);
    if (said instanceof DatabaseError && said.code === "EDAMAGED") database.damage = said.message;
    return said;
  };
  const begin = writer.prepare("BEGIN IMMEDIATE");
  const tx = prepared(writer, failed);
  const read = prepared(reader, failed);
  const isInPlace = watchPlace(writer, storeFile(dir));
  const database: Database = {
    read,
    atOnce: 1,
    damage: null,
    // One connection writes: a scope makes no difference.
    async transaction(work) {
      await beginPatiently(begin, failed);
      try {
        await work(tx);
        await tx.run("COMMIT");
        // A file without its name takes commits, too, and goes with this process.
        if (!isInPlace()) {
          const what = `"${storeFile(dir)}" was removed or replaced while the receiver used it: restart it to use what is there now`;
          database.damage = what;
          throw new DatabaseError(what, "EDAMAGED");
        }
      } catch (error) {
        // SQLite has rolled back already after some errors, such as a full disk.
        if (writer.inTransaction) writer.run("ROLLBACK");
        throw error;
      }
    },
    async skip(of, table, numbers) {
      const changed = await of.run("UPDATE sqlite_sequence SET seq = seq + $1 WHERE name = $2", [numbers, table]);
      if (changed === 0) await of.run("INSERT INTO sqlite_sequence (name, seq) VALUES ($2, $1)", [numbers, table]);
    },
    async otherChanges() {
      return (await tx.one<{ data_version: number }>("PRAGMA data_version"))!.data_version;
    },
    // The daemon has the data folder for itself.
    async leads() {
      return true;
    },
    async clock() {
      return Date.now();
    },
    hint() {},
    onHint() {},
    async close() {
      begin.finalize();
      read.close();
      tx.close();
    },
  };
  return database;
}

/** Tells whether the store is still the file that SQLite opened, and has its log: SQLite keeps both as long as it has them open. */
function watchPlace(db: Sqlite, file: string): () => boolean {
  const hasMoved = new Int32Array(2);
  return () => {
    // Each commit asks, and statSync takes 10 % of what a report does.
    db.fileControl(constants.SQLITE_FCNTL_HAS_MOVED, hasMoved);
    return hasMoved[0] === 0 && existsSync(`${file}-wal`);
  };
}

/** Tries again while another process has the lock. */
async function beginPatiently(begin: Statement, failed: (error: unknown) => Error): Promise<void> {
  for (const end = performance.now() + BUSY_MS; ;) {
    try {
      begin.run();
      return;
    } catch (error) {
      if (!isLocked(error) || performance.now() > end) throw failed(error);
      await Bun.sleep(BUSY_STEP_MS);
    }
  }
}

/** A connection's statements. */
function prepared(db: Sqlite, failed: (error: unknown) => Error): Queries & { close(): void } {
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
      throw failed(error);
    }
  };
  const none: readonly Value[] = [];
  return {
    async all<T>(text: string, values = none) {
      return using(text, (statement) => statement.all(...values) as T[]);
    },
    async one<T>(text: string, values = none) {
      return using(text, (statement) => (statement.get(...values) as T | null) ?? undefined);
    },
    async run(text, values = none) {
      return using(text, (statement) => statement.run(...values).changes);
    },
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
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB")
    return new DatabaseError(`the store in "${dir}" is damaged: ${message} (${code})`, "EDAMAGED");
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
