// What the receiver's tests do with its store behind its back: SQLite's file, or with PICKET_TEST_STORE=postgres a database and a bucket for
// each data folder, of servers for all tests of a process.

import { type Pointer, dlopen } from "bun:ffi";
import { Database } from "bun:sqlite";
import { test } from "bun:test";
import { existsSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { S3 } from "../s3.ts";

type Value = string | number | null;

/** Statements with `?` or `?1` for values, as bun:sqlite takes them. */
export interface Hand {
  run(text: string, ...values: Value[][]): void;
  query(text: string): { all(...values: Value[]): unknown[]; run(...values: Value[]): void };
}

const programs =
  process.env["PICKET_TEST_STORE"] === "postgres" ? postgresPrograms("the receiver on PostgreSQL") : null;
const server = programs === null ? null : await Postgres.start(programs, { fsync: "off" });
const s3 = server === null ? null : await S3.start();
process.on("exit", () => {
  server?.end();
  s3?.end();
});

/** Whether the store is SQLite's file. Tests of that file alone are skipped where it is not. */
export const onFile = server === null;

/** By data folder. */
const databases = new Map<string, string>();
const buckets = new Map<string, string>();
const placeIn = (data: string): string => buckets.getOrInsertComputed(data, () => s3!.place());

/** A test of SQLite's file alone. */
export const testOnFile = onFile ? test : (test.skip as typeof test);

/** What a receiver's process needs in its environment. */
export const storeEnv = s3?.env ?? {};

/** The lines of a configuration for the store of a data folder. */
export function storeLines(data: string, more: string): string {
  if (s3 === null || /^store:/m.test(more)) return "";
  const episodes = `episodes: ${placeIn(data)}`;
  return `store: ${placeOf(data).store}\n${/^episodes:/m.test(more) ? "" : episodes}\ns3: { endpoint: "${s3.endpoint}" }\n`;
}

/** Where the store of a data folder is, also for Store.open. */
export function placeOf(data: string): { data_dir: string; store: string } {
  const store = server === null ? "sqlite" : databases.getOrInsertComputed(data, () => server.database());
  return { data_dir: data, store };
}

/** The files of a host's episodes by their names, such as ep.tar.zst, and of what is not finished: in the folder, or s3rver's. */
export function episodeFiles(data: string, host: string): Map<string, string> {
  const folder = s3 === null ? join(data, "episodes", host) : join(s3.folderOf(placeIn(data)), host);
  const names = existsSync(folder) ? readdirSync(folder).toSorted() : [];
  if (s3 === null) return new Map(names.map((name) => [name, join(folder, name)]));
  const objects = names.flatMap((name) => {
    const [, episode] = /^(.+)\.[0-9a-f]{64}\.tar\.zst\._S3rver_object$/.exec(name) ?? [];
    return episode === undefined ? [] : [[`${episode}.tar.zst`, join(folder, name)] as const];
  });
  return new Map(objects);
}

/** The file of an episode's bytes. In a bucket several may have its name: `sha256` says which. */
export function episodeFile(data: string, host: string, episode: string, sha256: string | null): string {
  if (s3 === null) return join(data, "episodes", host, `${episode}.tar.zst`);
  if (sha256 === null) return episodeFiles(data, host).get(`${episode}.tar.zst`)!;
  return join(s3.folderOf(placeIn(data)), host, `${episode}.${sha256}.tar.zst._S3rver_object`);
}

/** Takes the store away from a receiver that runs, or gives it back. */
export function moveAway(data: string, isAway: boolean): void {
  const [here, aside] = [join(data, "receiver.db"), join(data, "aside.db")];
  if (server === null) return isAway ? renameSync(here, aside) : renameSync(aside, here);
  execute(data, [isAway ? "ALTER SCHEMA public RENAME TO aside" : "ALTER SCHEMA aside RENAME TO public"]);
}

/** Reads rows. */
export function rowsOf<T>(data: string, text: string): T[] {
  if (server !== null) return ask(data, text) as T[];
  using db = new Database(join(data, "receiver.db"), { readonly: true });
  db.run("PRAGMA busy_timeout=5000");
  return db.query(text).all() as T[];
}

/** Changes it in one transaction. */
export function changeStore(data: string, work: (db: Hand) => void): void {
  if (server === null) {
    using db = new Database(join(data, "receiver.db"));
    db.run("PRAGMA busy_timeout=20000");
    return db.transaction(() => work(db)).immediate();
  }
  const waiting: string[] = [];
  const run = (text: string, values: Value[] = []) => void waiting.push(filled(text, values));
  work({
    run,
    query: (text) => ({
      run: (...values) => run(text, values),
      all: (...values) => ask(data, filled(text, values), waiting.splice(0)),
    }),
  });
  execute(data, waiting);
}

function ask(data: string, text: string, before: string[] = []): unknown[] {
  const rows = `WITH rows AS (${text}) SELECT coalesce(json_agg(rows), '[]') FROM rows`;
  return JSON.parse(execute(data, [...before, rows])) as unknown[];
}

/** Runs statements in one transaction, and gives the last one's first value. By libpq, which waits: what looks into a store is not async. */
function execute(data: string, statements: string[]): string {
  const { PQconnectdb, PQexec, PQresultStatus, PQerrorMessage, PQntuples, PQgetvalue, PQclear } = libpq().symbols;
  const url = databases.get(data)!;
  const connection = connections.getOrInsertComputed(url, () => PQconnectdb(Buffer.from(`${url}\0`)));
  const result = PQexec(connection, Buffer.from(`${statements.join(";\n")}\0`));
  // 3 and 4 are errors.
  if (PQresultStatus(result) > 2)
    throw new Error(`${PQerrorMessage(connection)}\n${statements.join(";\n").slice(0, 500)}`);
  const value = PQntuples(result) > 0 ? String(PQgetvalue(result, 0, 0)) : "";
  PQclear(result);
  return value;
}

const connections = new Map<string, Pointer | bigint | null>();
const libpq = once(() =>
  dlopen("libpq.so.5", {
    PQconnectdb: { args: ["ptr"], returns: "ptr" },
    PQexec: { args: ["ptr", "ptr"], returns: "ptr" },
    PQresultStatus: { args: ["ptr"], returns: "int" },
    PQerrorMessage: { args: ["ptr"], returns: "cstring" },
    PQntuples: { args: ["ptr"], returns: "int" },
    PQgetvalue: { args: ["ptr", "int", "int"], returns: "cstring" },
    PQclear: { args: ["ptr"], returns: "void" },
  }),
);

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

function filled(text: string, values: Value[]): string {
  let next = 0;
  return text.replace(/\?(\d*)/g, (_, number: string) => {
    const value = values[number === "" ? next++ : Number(number) - 1] ?? null;
    return typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value);
  });
}
