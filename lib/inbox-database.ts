// The database that holds inboxes, as the writers and readers of a process share it.

import type { Database } from "./database.ts";
import { errorChain } from "./log.ts";
import type { PostgresSettings } from "./postgres.ts";

/** Hears that the inbox of a recipient may have changed. */
type Listener = (recipient: string) => void;

export interface InboxDatabase {
  /** Its address, without a password. */
  readonly url: string;
  /** Connects and makes the tables, where that isn't done yet. Errors are those of `openPostgres`; the next call tries again. */
  open(): Promise<Database>;
  /** Why it can't be used now, in words; null where it can. */
  problem(): Promise<string | null>;
  /** Says that inboxes have changed: in this process, and to the others. */
  changed(recipients: Iterable<string>): void;
  /** Hears of changes, by whatever process: a hint, which may get lost. Gives what ends it. */
  onChange(listener: Listener): () => void;
  close(): Promise<void>;
}

/** Connects to nothing until it is asked. */
export function inboxDatabase(settings: PostgresSettings): InboxDatabase {
  const listeners = new Set<Listener>();
  let opening: Promise<Database> | null = null;
  const tell: Listener = (recipient) => {
    for (const listener of listeners) listener(recipient);
  };
  const connect = async (): Promise<Database> => {
    // Evaluated only where it is used.
    const [{ openPostgres }, { INBOX_TABLES }] = await Promise.all([
      import("./postgres.ts"),
      import("./inbox-tables.ts"),
    ]);
    const database = await openPostgres(settings, INBOX_TABLES);
    database.onHint(tell);
    return database;
  };
  const open = (): Promise<Database> =>
    (opening ??= connect().catch((error: unknown) => {
      opening = null;
      throw error;
    }));
  return {
    url: settings.url,
    open,
    async problem() {
      try {
        await (await open()).read.one("SELECT 1");
        return null;
      } catch (error) {
        return errorChain(error);
      }
    },
    changed(recipients) {
      for (const recipient of recipients) {
        tell(recipient);
        void opening?.then((database) => database.hint(recipient)).catch(() => {});
      }
    },
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    async close() {
      const database = await opening?.catch(() => null);
      opening = null;
      await database?.close();
    },
  };
}
