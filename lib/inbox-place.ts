// Where inboxes are: files in a folder, or tables that any number of writers and readers share.

import * as v from "valibot";
import { type Secret, dataFolder, postgresUrl, secret, writableFolder } from "./config.ts";
import { type InboxDatabase, inboxDatabase } from "./inbox-database.ts";

export interface InboxPlace {
  /** The folder of the files. With a database: of what concerns this machine alone, such as locks. */
  dir: string;
  /** What holds them; null where they are files. Its maker closes it. */
  database: InboxDatabase | null;
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

/** What a configuration says of its inboxes. */
export interface InboxSettings {
  inbox_dir: string;
  inbox?: string | undefined;
  inbox_password?: readonly Secret[] | undefined;
  inbox_direct?: string | undefined;
}

/** The place that a configuration names. */
export function inboxPlace(settings: InboxSettings): InboxPlace {
  const { inbox_dir: dir, inbox: url, inbox_password: passwords = [], inbox_direct: direct = null } = settings;
  const password = passwords[0] ?? null;
  const database = url === undefined ? null : inboxDatabase({ url, password, connections: CONNECTIONS, direct });
  return { dir, database };
}

/** The folder that is written to for inboxes; none where they are tables. */
export const inboxFolders = ({ inbox, inbox_dir }: InboxSettings): string[] => (inbox === undefined ? [inbox_dir] : []);
