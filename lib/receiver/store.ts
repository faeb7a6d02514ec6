// The receiver's tables: one SQLite file in WAL mode, through Bun.SQL.
//
// Writers share commits. Each `write` hands over a piece of work; whatever waits at the same time runs one after the other
// in one transaction with one sync (`synchronous=FULL`: a commit is on disk). If one of them throws, the transaction is
// rolled back and each is done again in a transaction of its own, so that nobody pays for another's mistake. Hence the rule:
// a piece of work touches nothing but its transaction, because it may run twice.
//
// Bun.SQL has one connection to a SQLite file, and a statement outside an open transaction would join it and vanish with its
// rollback. So reading has a connection of its own, which sees what is committed. Other processes (the commands) write to
// the same file; SQLite's lock serialises them. Waiting for it holds the event loop, so it is waited for in short steps with
// sleep between them.
//
// Times are milliseconds since 1970.

import { chmodSync, existsSync } from "node:fs";
import { join } from "node:path";
import { SQL } from "bun";
import { ConfigError } from "../config.ts";
import { cannotWrite, deniedHint, inheritOwner, makeFolder } from "../files.ts";
import { MIGRATIONS } from "./schema.ts";

/** How many pieces of work share a transaction at most. */
const LARGEST_GROUP = 256;
/** How long another process's transaction is waited for, in milliseconds. */
const BUSY_MS = 5000;
/** So long the wait may hold the event loop at a time: the rest of it is spent asleep. */
const BUSY_STEP_MS = 20;

/** What a parameter may be. */
export type Value = string | number | null;

/** Statements with `$1`-style parameters. A statement is prepared each time: its text may be put together. */
export interface Queries {
  /** All rows. */
  all<T>(text: string, values?: readonly Value[]): Promise<T[]>;
  /** The first row. */
  one<T>(text: string, values?: readonly Value[]): Promise<T | undefined>;
  /** Runs a statement; gives how many rows it changed. */
  run(text: string, values?: readonly Value[]): Promise<number>;
}

interface Waiting {
  work: (tx: Queries) => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

/** Where the tables of a data folder lie. */
export function storeFile(dir: string): string {
  return join(dir, "receiver.db");
}

/** The open store. Errors for want of room have the code `ENOSPC`. */
export class Store {
  /** Sees what is committed. */
  readonly read: Queries;
  readonly dir: string;
  #writer: SQL;
  #reader: SQL;
  #queue: Waiting[] = [];
  #working: Promise<void> | null = null;
  #closed = false;
  /** Why the last commit failed; null when it went well. */
  problem: string | null = null;

  private constructor(dir: string, writer: SQL, reader: SQL) {
    this.dir = dir;
    this.#writer = writer;
    this.#reader = reader;
    this.read = queries(reader);
  }

  /**
   * Opens the store of a data folder; makes folder and tables where they are missing, and brings older tables up to date.
   * @throws ConfigError when the tables are of a newer version than this program.
   */
  static async open(dir: string): Promise<Store> {
    const file = storeFile(dir);
    const fresh = !existsSync(file);
    makeFolder(dir, 0o750);
    const writer = new SQL({ adapter: "sqlite", filename: file });
    try {
      await writer.unsafe(`PRAGMA busy_timeout=${BUSY_MS}`);
      // SQLite gives its other files the same mode and owner.
      if (fresh) chmodSync(file, 0o640);
      if (fresh) inheritOwner(file);
      await writer.unsafe("PRAGMA journal_mode=WAL");
      await writer.unsafe("PRAGMA synchronous=FULL");
      await writer.unsafe("PRAGMA foreign_keys=ON");
      // What a burst made the log grow to is given back.
      await writer.unsafe("PRAGMA journal_size_limit=67108864");
      await migrate(writer, file);
    } catch (error) {
      await writer.close();
      if (error instanceof ConfigError) throw error;
      throw Object.assign(new Error(`open "${file}"`, { cause: worded(error, dir) }), {
        hint: deniedHint((error as { code?: string }).code),
      });
    }
    await writer.unsafe(`PRAGMA busy_timeout=${BUSY_STEP_MS}`);
    const reader = new SQL({ adapter: "sqlite", filename: file, readonly: true });
    await reader.unsafe(`PRAGMA busy_timeout=${BUSY_MS}`);
    return new Store(dir, writer, reader);
  }

  /** Runs `work` in a transaction and resolves with what it gave once that is on disk. `work` may run twice. */
  write<T>(work: (tx: Queries) => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new Error("write to the store: it is closed"));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ work, resolve: resolve as (value: unknown) => void, reject });
      // The rest of this tick's requests shall share the transaction.
      this.#working ??= new Promise<void>((done) => setImmediate(done)).then(() => this.#drain());
    });
  }

  /** Resolves when everything handed over so far is on disk or refused. */
  async settled(): Promise<void> {
    while (this.#working) await this.#working;
  }

  /** Finishes what is under way and closes the file. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.settled();
    await this.#reader.close();
    await this.#writer.close();
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) await this.#commit(this.#queue.splice(0, LARGEST_GROUP));
    this.#working = null;
  }

  async #commit(group: Waiting[]): Promise<void> {
    let results: unknown[] = [];
    try {
      await this.#patiently(async () => {
        results = [];
        await this.#writer.begin("immediate", async (sql) => {
          const tx = queries(sql);
          for (const { work } of group) results.push(await work(tx));
        });
      });
      this.problem = null;
    } catch (error) {
      const failure = worded(error, this.dir);
      // What a piece of work threw by itself says nothing of the store.
      if (failure !== error) this.problem = failure.message;
      // What fails for want of room or of the lock fails for each of them.
      if (group.length === 1 || isNoRoom(failure) || isBusy(failure)) {
        for (const { reject } of group) reject(failure);
        return;
      }
      for (const one of group) await this.#commit([one]);
      return;
    }
    group.forEach(({ resolve }, index) => resolve(results[index]));
  }

  /** Tries again while another process has the lock. */
  async #patiently(attempt: () => Promise<void>): Promise<void> {
    for (const end = performance.now() + BUSY_MS; ;) {
      try {
        return await attempt();
      } catch (error) {
        const { code = "" } = error as { code?: string };
        if (!code.startsWith("SQLITE_BUSY") || performance.now() > end) throw error;
        await Bun.sleep(BUSY_STEP_MS);
      }
    }
  }
}

/** Another process kept the store locked for too long: it may be tried again. */
export function isBusy(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "EBUSY";
}

function queries(sql: Pick<SQL, "unsafe">): Queries {
  const ask = (text: string, values: readonly Value[] = []) => sql.unsafe(text, values as Value[]);
  return {
    async all<T>(text: string, values?: readonly Value[]) {
      return (await ask(text, values)) as T[];
    },
    async one<T>(text: string, values?: readonly Value[]) {
      return ((await ask(text, values)) as T[])[0];
    },
    async run(text, values) {
      return ((await ask(text, values)) as { count: number | null }).count ?? 0;
    },
  };
}

/** An error of SQLite's as one of the file system's, where it means "no room". Others stay what they are. */
function worded(error: unknown, dir: string): Error {
  const { code = "", message } = error as { code?: string; message: string };
  const full = code === "SQLITE_FULL" || (code.startsWith("SQLITE_IOERR") && cannotWrite(dir)?.includes("no space"));
  if (code.startsWith("SQLITE_BUSY")) {
    const what = `another process has kept the store in "${dir}" locked for ${BUSY_MS / 1000} s`;
    return Object.assign(new Error(what), { code: "EBUSY" });
  }
  if (full) return Object.assign(new Error(`write to the store: no space left in "${dir}"`), { code: "ENOSPC" });
  if (code.startsWith("SQLITE_")) return new Error(`the store fails: ${message} (${code})`);
  return error as Error;
}

function isNoRoom(error: Error): boolean {
  return "code" in error && error.code === "ENOSPC";
}

async function migrate(sql: SQL, file: string): Promise<void> {
  await sql.begin("immediate", async (tx) => {
    await tx.unsafe("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
    const db = queries(tx);
    const row = await db.one<{ value: string }>("SELECT value FROM meta WHERE key = 'schema_version'");
    const found = Number(row?.value ?? 0);
    if (found > MIGRATIONS.length) {
      const known = `version ${found}, this program knows ${MIGRATIONS.length}`;
      throw new ConfigError([`${file}: its tables are of a newer picket-receiver (${known}): run that one`]);
    }
    for (const statement of MIGRATIONS.slice(found).flat()) await tx.unsafe(statement);
    await db.run(
      "INSERT INTO meta (key, value) VALUES ('schema_version', $1) ON CONFLICT (key) DO UPDATE SET value = $1",
      [String(MIGRATIONS.length)],
    );
  });
}

/** Reads one of the store's own notes. */
export async function getNote(db: Queries, key: string): Promise<string | null> {
  return (await db.one<{ value: string }>("SELECT value FROM meta WHERE key = $1", [key]))?.value ?? null;
}

/** Writes one of the store's own notes. */
export async function setNote(tx: Queries, key: string, value: string): Promise<void> {
  await tx.run("INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2", [
    key,
    value,
  ]);
}
