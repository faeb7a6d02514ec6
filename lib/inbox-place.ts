// Where inboxes are: files in a folder, or tables that any number of writers and readers share.

import * as v from "valibot";
import { type Secret, dataFolder, postgresUrl, secret, writableFolder } from "./config.ts";

/** Where inboxes are. */
export interface InboxPlace {
  /** The folder of the files. With a database: of what concerns this machine alone, such as locks. */
  dir: string;
  /** The database that holds them; null where they are files. */
  database: InboxDatabaseSettings | null;
}

/** What lib/postgres.ts needs to connect. */
interface InboxDatabaseSettings {
  url: string;
  password: Secret | null;
  connections: number;
  direct: string | null;
}

/** At once, and opened as they are needed. */
const CONNECTIONS = 4;

/** The schema entries of a place, to be spread into a `v.strictObject`. */
export const inboxEntries = {
  inbox_dir: v.optional(writableFolder(), () => dataFolder("inbox")),
  /** Instead of files: tables in PostgreSQL. */
  inbox: v.optional(postgresUrl()),
  ...secret("inbox_password"),
  /** The same database past a pooler, which can't keep LISTEN. */
  inbox_direct: v.optional(postgresUrl()),
};

interface Given {
  inbox_dir: string;
  inbox?: string | undefined;
  inbox_password: readonly Secret[];
  inbox_direct?: string | undefined;
}

/** The place that a configuration names. */
export function inboxPlace({
  inbox_dir: dir,
  inbox: url,
  inbox_password: [password],
  inbox_direct,
}: Given): InboxPlace {
  if (url === undefined) return { dir, database: null };
  const database = { url, password: password ?? null, connections: CONNECTIONS, direct: inbox_direct ?? null };
  return { dir, database };
}

/** A place in words, without what is secret: `/var/lib/picket/inbox/bob.inbox`, `bob at postgres://picket@db/picket`. */
export function placeName({ dir, database }: InboxPlace, recipient?: string): string {
  const inbox = recipient === undefined ? "" : database ? `${recipient} at ` : `/${recipient}.inbox`;
  return database ? `${inbox}${database.url}` : `${dir}${inbox}`;
}
