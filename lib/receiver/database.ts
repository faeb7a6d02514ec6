// What the store asks of a database. sqlite.ts is one.

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

/** An open database. Its errors are `DatabaseError`. */
export interface Database {
  /** Sees what is committed. */
  read: Queries;
  /** Runs `work` in a transaction that is on disk afterwards, or rolled back where it throws. One at a time. */
  transaction(work: (tx: Queries) => Promise<void>): Promise<void>;
  /** Another number after each commit of another process. */
  otherChanges(): Promise<number>;
  close(): Promise<void>;
  /** What was found damaged since it was opened, in words; null where nothing was. */
  damage: string | null;
}

/** The database failed. `ENOSPC`: no room. `EBUSY`: another process kept it locked for too long. `EDAMAGED`: what it reads is no database's. */
export class DatabaseError extends Error {
  override name = "DatabaseError";
  code: "ENOSPC" | "EBUSY" | "EDAMAGED" | undefined;
  constructor(message: string, code?: DatabaseError["code"]) {
    super(message);
    this.code = code;
  }
}

/** What the database found damaged, in words; null for other errors. */
export function damageOf(error: unknown): string | null {
  const found = [error, (error as Error).cause].find((one) => one instanceof DatabaseError && one.code === "EDAMAGED");
  return found ? (found as Error).message : null;
}

/** Another process kept the database locked for too long: try again later. */
export function isBusy(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === "EBUSY";
}
