// The receiver's tables. The database behind them is sqlite.ts.
//
// Writers share commits. Each `write` hands over a piece of work, and those that wait at the same time run one after the
// other in one transaction with one sync. When a piece throws, the transaction is rolled back and runs again without that
// piece, so that its error is the caller's alone. Hence the rule: a piece of work touches nothing but its transaction,
// because it may run again. (A savepoint for each piece would avoid that, and would cost each of them two statements.)
//
// Times are milliseconds since 1970.

import { isDiskFull } from "../files.ts";
import { type Database, DatabaseError, type Queries, isBusy } from "./database.ts";
import { openSqlite } from "./sqlite.ts";

/** The most pieces of work that share a transaction. */
const LARGEST_GROUP = 256;

interface Waiting {
  work: (tx: Queries) => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

/** The open store. */
export class Store {
  /** Sees what is committed. */
  readonly read: Queries;
  readonly dir: string;
  #db: Database;
  #queue: Waiting[] = [];
  #working: Promise<void> | null = null;
  #closed = false;
  /** Why the last commit failed; null when it went well. */
  #failed: string | null = null;

  private constructor(dir: string, db: Database) {
    this.dir = dir;
    this.#db = db;
    this.read = db.read;
  }

  /**
   * Opens the store of a data folder, and makes it where it is missing.
   * @throws ConfigError when its tables are of a newer version than this program.
   */
  static async open(dir: string): Promise<Store> {
    return new Store(dir, openSqlite(dir));
  }

  /** What was found damaged; null where nothing was. */
  get damage(): string | null {
    return this.#db.damage;
  }

  /** Why it can't be relied on now: damage, or the error of the last commit; null when all is well. */
  get problem(): string | null {
    return this.damage ?? this.#failed;
  }

  /** Runs `work` in a transaction and resolves with its result once that is on disk. `work` may run again. */
  write<T>(work: (tx: Queries) => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new Error("write to the store: it is closed"));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ work, resolve: resolve as (value: unknown) => void, reject });
      // The other requests of this turn of the event loop join the transaction.
      this.#working ??= new Promise<void>((done) => setImmediate(done)).then(() => this.#drain());
    });
  }

  /** Another number after each commit of another process, such as a command's. */
  otherChanges(): Promise<number> {
    return this.#db.otherChanges();
  }

  /** Finishes the work that was handed over and closes the database. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#working) await this.#working;
    await this.#db.close();
  }

  async #drain(): Promise<void> {
    while (this.#queue.length > 0) await this.#commit(this.#queue.splice(0, LARGEST_GROUP));
    this.#working = null;
  }

  async #commit(group: Waiting[]): Promise<void> {
    while (group.length > 0) {
      const results: unknown[] = [];
      try {
        await this.#db.transaction(async (tx) => {
          for (const { work } of group) results.push(await work(tx));
        });
        this.#failed = null;
        for (const [index, { resolve }] of group.entries()) resolve(results[index]);
        return;
      } catch (error) {
        if (error instanceof DatabaseError) this.#failed = error.message;
        // A full disk, a lock or a failed commit is the same for all of them; else one piece has failed.
        const forAll = isDiskFull(error) || isBusy(error) || results.length === group.length;
        const failed = forAll ? group.splice(0) : group.splice(results.length, 1);
        for (const { reject } of failed) reject(error);
      }
    }
  }
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
