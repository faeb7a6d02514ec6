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
  close(): Promise<void>;
}

/** The database failed. `ENOSPC`: no room. `EBUSY`: another process kept it locked for too long. */
export class DatabaseError extends Error {
  override name = "DatabaseError";
  code: "ENOSPC" | "EBUSY" | undefined;
  constructor(message: string, code?: "ENOSPC" | "EBUSY") {
    super(message);
    this.code = code;
  }
}

/** Another process kept the database locked for too long: try again later. */
export function isBusy(error: unknown): boolean {
  return error instanceof DatabaseError && error.code === "EBUSY";
}
