// The receiver's tables. The database behind them is sqlite.ts, or lib/postgres.ts.
//
// Writers share commits. Each `write` hands over a piece of work, and those that wait at the same time run one after the
// other in one transaction with one sync. When a piece throws, the transaction is rolled back and runs again without that
// piece, so that its error is the caller's alone. Hence the rule: a piece of work touches nothing but its transaction,
// because it may run again. (A savepoint for each piece would avoid that, and would cost each of them two statements.)
//
// A piece that says which host it touches (`scope`) may run beside those of other hosts, where the database can do that: in another
// transaction, or at the same time in its own. All others run alone.
//
// Times are milliseconds since 1970.

import { isDiskFull, makeFolder } from "../files.ts";
import { type Database, DatabaseError, type Hint, type Queries, type Scope, isBusy } from "../database.ts";
import { isPostgres } from "../config.ts";
import type { Config } from "./config.ts";
import { openSqlite } from "./sqlite.ts";

/** The most pieces of work that share a transaction. */
const LARGEST_GROUP = 256;

interface Waiting {
  scope: Scope;
  work: (tx: Queries) => Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

/** Where a store is. */
export type StorePlace = Pick<Config, "data_dir"> &
  Partial<Pick<Config, "store" | "store_password" | "store_connections" | "store_direct">>;

/** The open store. */
export class Store {
  /** Sees what is committed. */
  readonly read: Queries;
  readonly dir: string;
  /** Whether it is one file in `dir`; else other receivers may use it, too. */
  readonly isFile: boolean;
  #db: Database;
  #queue: Waiting[] = [];
  /** The transactions that are under way. */
  #working = new Set<Promise<void>>();
  /** Whether what is under way touches everything. */
  #isAlone = false;
  #starting = false;
  #closed = false;
  /** Why the last commit failed; null when it went well. */
  #failed: string | null = null;

  private constructor({ data_dir, store = "sqlite" }: StorePlace, db: Database) {
    this.dir = data_dir;
    this.isFile = !isPostgres(store);
    this.#db = db;
    this.read = db.read;
  }

  /**
   * Opens the store of a configuration, and makes it where it is missing.
   * @throws ConfigError when its tables are of a newer version than this program.
   */
  static async open(place: StorePlace): Promise<Store> {
    const { store: url = "sqlite", store_password = [], store_connections = 8, store_direct = null } = place;
    if (!isPostgres(url)) return new Store(place, openSqlite(place.data_dir));
    makeFolder(place.data_dir, 0o750);
    // Evaluated only where it is used.
    const [{ openPostgres }, { RECEIVER_TABLES }] = await Promise.all([
      import("../postgres.ts"),
      import("./postgres-tables.ts"),
    ]);
    const password = store_password[0] ?? null;
    const settings = { url, password, connections: store_connections, direct: store_direct };
    return new Store(place, await openPostgres(settings, RECEIVER_TABLES));
  }

  /** What was found damaged; null where nothing was. */
  get damage(): string | null {
    return this.#db.damage;
  }

  /** Why it can't be relied on now: damage, or the error of the last commit; null when all is well. */
  get problem(): string | null {
    return this.damage ?? this.#failed;
  }

  /**
   * Runs `work` in a transaction and resolves with its result once that is on disk. `work` may run again.
   * @param scope the hosts, and as numbers below zero the jobs, whose rows it reads and writes; null is everything.
   */
  write<T>(work: (tx: Queries) => Promise<T>, scope: Scope = null): Promise<T> {
    if (this.#closed) return Promise.reject(new Error("write to the store: it is closed"));
    return new Promise<T>((resolve, reject) => {
      this.#queue.push({ scope, work, resolve: resolve as (value: unknown) => void, reject });
      if (this.#starting) return;
      this.#starting = true;
      // The other requests of this turn of the event loop join the transaction.
      setImmediate(() => {
        this.#starting = false;
        this.#start();
      });
    });
  }

  /** Leaves out numbers of a table that counts up. */
  skip(tx: Queries, table: string, numbers: number): Promise<void> {
    return this.#db.skip(tx, table, numbers);
  }

  /** Another number after a commit of another process, such as a command's. */
  otherChanges(): Promise<number> {
    return this.#db.otherChanges();
  }

  /** Whether this process does the work that one of all receivers does. */
  leads(): Promise<boolean> {
    return this.#db.leads();
  }

  /** The database's clock, in milliseconds since 1970. */
  clock(): Promise<number> {
    return this.#db.clock();
  }

  /** Tells the other receivers that something has changed. */
  hint(what: Hint): void {
    this.#db.hint(what);
  }

  /** Hears the hints of other receivers. */
  onHint(listener: (what: Hint | null) => void): void {
    this.#db.onHint(listener);
  }

  /** Finishes the work that was handed over and closes the database. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#queue.length > 0 || this.#working.size > 0) {
      this.#start();
      await Promise.all(this.#working);
    }
    await this.#db.close();
  }

  /**
   * Starts transactions, as many as may run at once. What runs alone doesn't wait for the others at the database: there it would keep a
   * connection that reads need, and this process' place in the queue, should it stand still.
   */
  #start(): void {
    while (this.#queue.length > 0 && this.#working.size < this.#db.atOnce) {
      const isAlone = this.#queue[0]!.scope === null;
      if (this.#working.size > 0 && (isAlone || this.#isAlone)) return;
      this.#isAlone = isAlone;
      const commit = this.#commit(this.#nextGroup());
      this.#working.add(commit);
      void commit.finally(() => {
        this.#working.delete(commit);
        this.#start();
      });
    }
  }

  /** The first that waits, and those behind it that may share its transaction: all, or those with a scope like itself. */
  #nextGroup(): Waiting[] {
    const isShared = this.#db.atOnce > 1 && this.#queue[0]!.scope !== null;
    const end = isShared ? this.#queue.findIndex(({ scope }) => scope === null) : -1;
    return this.#queue.splice(0, Math.min(end < 0 ? this.#queue.length : end, LARGEST_GROUP));
  }

  async #commit(group: Waiting[]): Promise<void> {
    while (group.length > 0) {
      const scope = scopeOf(group);
      const run: Run = { results: [], failed: null };
      try {
        await this.#db.transaction(
          (tx) => runAll(tx, { group, run, isOrdered: scope === null || this.#db.atOnce === 1 }),
          scope,
        );
        this.#failed = null;
        for (const [index, { resolve }] of group.entries()) resolve(run.results[index]);
        return;
      } catch (error) {
        if (error instanceof DatabaseError) this.#failed = error.message;
        // A full disk, a lock or a failed commit is the same for all of them; else one piece has failed.
        const forAll = isDiskFull(error) || isBusy(error) || run.failed === null;
        for (const { reject } of forAll ? group : [run.failed!]) reject(error);
        group = forAll ? [] : group.filter((one) => one !== run.failed);
      }
    }
  }
}

/** What came of a group: the result of each piece, or the first that failed. Others may have failed for it. */
interface Run {
  results: unknown[];
  failed: Waiting | null;
}

/**
 * Runs the pieces of a group. Those of different hosts run at the same time, unless they are ordered: their statements share the way to the
 * database and back.
 */
async function runAll(tx: Queries, { group, run, isOrdered }: { group: Waiting[]; run: Run; isOrdered: boolean }) {
  let error: unknown;
  // A transaction may run again.
  Object.assign(run, { results: [], failed: null });
  /** The last piece of each host. */
  const last = new Map<number | string | null, Promise<void>>();
  const all = group.map(async (piece, index) => {
    const hosts = isOrdered ? [null] : piece.scope!;
    const before = hosts.map(async (host) => last.get(host));
    const { promise, resolve } = Promise.withResolvers<void>();
    for (const host of hosts) last.set(host, promise);
    await Promise.all(before);
    try {
      if (run.failed === null) run.results[index] = await piece.work(tx);
    } catch (why) {
      if (run.failed === null) [run.failed, error] = [piece, why];
    }
    resolve();
  });
  await Promise.all(all);
  if (run.failed !== null) throw error;
}

/** The scopes of a group together. */
function scopeOf(group: Waiting[]): Scope {
  const scopes = group.map(({ scope }) => scope);
  return scopes.includes(null) ? null : scopes.flatMap((scope) => scope!);
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
