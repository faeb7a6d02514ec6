// The database that holds inboxes, as the writers and readers of a process share it.

import { setTimeout as sleep } from "node:timers/promises";
import type { Database } from "./database.ts";
import { errorChain } from "./log.ts";
import { atMostEvery } from "./loop.ts";
import type { PostgresSettings } from "./postgres.ts";

/** Other processes hear at most once in so many milliseconds. */
const HINT_MS = 20;
/** How long an answer may take that it works. */
const CHECK_MS = 5000;
/** Of so many inboxes they hear only that some have changed. */
const MOST_NAMED = 20;
const ANY = "*";

/** Hears that the inbox of a recipient, or any (null), may have changed. */
type Listener = (recipient: string | null) => void;

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
    database.onHint((names) => {
      for (const name of names?.split(",") ?? [ANY]) tell(name === ANY ? null : name);
    });
    return database;
  };
  const changed = new Set<string>();
  const hint = atMostEvery(HINT_MS, () => {
    const names = changed.size > MOST_NAMED ? ANY : [...changed].join(",");
    changed.clear();
    if (names !== "") void opening?.then((database) => database.hint(names)).catch(() => {});
  });
  const open = (): Promise<Database> =>
    (opening ??= connect().catch((error: unknown) => {
      opening = null;
      throw error;
    }));
  return {
    url: settings.url,
    open,
    async problem() {
      const answer = open().then(({ read }) => read.one("SELECT 1"));
      try {
        // A server that stands still doesn't answer.
        const late = sleep(CHECK_MS, undefined, { ref: false }).then(() => "no answer from the database");
        return await Promise.race([answer.then(() => null), late]);
      } catch (error) {
        return errorChain(error);
      }
    },
    changed(recipients) {
      for (const recipient of recipients) {
        tell(recipient);
        changed.add(recipient);
      }
      hint();
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
