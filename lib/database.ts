// What is asked of a database: receiver/sqlite.ts is one file, postgres.ts an engine that several processes share.

/** A parameter. */
export type Value = string | number | null;

/** Statements with `$1`-style parameters. Each text is prepared once and kept: put values into parameters, not into texts. */
export interface Queries {
  /** All rows. */
  all<T>(text: string, values?: readonly Value[]): Promise<T[]>;
  /** The first row. */
  one<T>(text: string, values?: readonly Value[]): Promise<T | undefined>;
  /** Runs a statement and gives the number of rows that it changed. */
  run(text: string, values?: readonly Value[]): Promise<number>;
}

/** What a transaction reads and writes: hosts by their numbers and jobs by theirs below zero, or recipients of inboxes; null is everything. What names others may run beside it. */
export type Scope = readonly (number | string)[] | null;

/** What another process says has changed, in one word: `event` or `change` in a store, in inboxes the recipients. */
export type Hint = string;

/** An open database. Its errors are `DatabaseError`. */
export interface Database {
  /** Sees what is committed. */
  read: Queries;
  /** How many transactions may run at once. */
  readonly atOnce: number;
  /**
   * Runs `work` in a transaction that is on disk afterwards, or rolled back where it throws; it may run again. Those whose scopes overlap
   * run one after the other, also those of other processes.
   */
  transaction(work: (tx: Queries) => Promise<void>, scope: Scope): Promise<void>;
  /** Leaves out numbers of a table that counts up, in a transaction. */
  skip(tx: Queries, table: string, numbers: number): Promise<void>;
  /** Another number after a commit of another process: after each, or soon after some. */
  otherChanges(): Promise<number>;
  /**
   * Whether this process does the work that is done by one of all: ask each second. Once true it stays so, until the database has seen nothing
   * of this process for some seconds; after that one call throws.
   */
  leads(): Promise<boolean>;
  /** Its clock, in milliseconds since 1970: the same for all processes. */
  clock(): Promise<number>;
  /** Tells the other processes that something has changed. It may get lost: the tables are the truth. */
  hint(what: Hint): void;
  /** Hears the hints of other processes; null where some may have been lost. */
  onHint(listener: (what: Hint | null) => void): void;
  close(): Promise<void>;
  /** What was found damaged since it was opened, in words; null where nothing was. */
  damage: string | null;
}

/**
 * The database failed. `ENOSPC`: no room. `EBUSY`: another process kept it locked for too long. `EDAMAGED`: what it reads is no
 * database's. `EAWAY`: it does not answer; whether a commit was made is unknown then.
 */
export class DatabaseError extends Error {
  override name = "DatabaseError";
  code: "ENOSPC" | "EBUSY" | "EDAMAGED" | "EAWAY" | undefined;
  constructor(message: string, code?: DatabaseError["code"]) {
    super(message);
    this.code = code;
  }
}

/** Texts as a parameter, which PostgreSQL casts: `$1::text[]`. */
export const textArray = (texts: readonly string[]): string =>
  `{${texts.map((text) => `"${text.replace(/["\\]/g, "\\$&")}"`).join(",")}}`;

/** What the database found damaged, in words; null for other errors. */
export function damageOf(error: unknown): string | null {
  const found = [error, (error as Error).cause].find((one) => one instanceof DatabaseError && one.code === "EDAMAGED");
  return found ? (found as Error).message : null;
}

/** It does not answer. */
export const isAway = (error: unknown): boolean => error instanceof DatabaseError && error.code === "EAWAY";

/** Another process kept the database locked for too long, or it is away: try again later. */
export function isBusy(error: unknown): boolean {
  return error instanceof DatabaseError && (error.code === "EBUSY" || error.code === "EAWAY");
}
