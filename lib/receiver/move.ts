// Moves the store of this machine to PostgreSQL, while the receiver runs.
//
// A pass over a table reads the rows of both sides in the order of their keys, and writes those that differ. So the first run copies
// all, one that was killed is continued, and a later one brings what came since. A second pass over each table must find no difference.
// Both read one snapshot of this machine's store, which is not changed.
//
// The last run has to be made with the receiver stopped: agents keep their reports meanwhile. To undo the move, don't switch.
//
// A note in the target (`moved`) names the store that is copied into it, and its alive mark (presence.ts). Each transaction looks at
// it: where the mark is another one, a receiver has run on the target, and nothing is written over what it took.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { isPostgres } from "../config.ts";
import type { Queries, Value } from "../database.ts";
import { holdAlone } from "../files.ts";
import { type Command, UsageError } from "../service.ts";
import type { Config } from "./config.ts";
import { type EpisodeKey, openEpisodes } from "./episodes.ts";
import { deleteHost } from "./hosts.ts";
import { removeJob } from "./jobs.ts";
import { moveEpisodes } from "./move-episodes.ts";
import { DAY_MS, partitionPass } from "./partitions.ts";
import { isS3 } from "./s3-settings.ts";
import { type SnapshotRows, inSnapshot, storeFile } from "./sqlite.ts";
import { Store, getNote, setNote } from "./store.ts";
import { type Context, many } from "./store-command.ts";

/** So many rows are read, and written, at once. */
const PAGE = 2000;
const NOTE = "moved";
/** Notes that are one side's own. */
const OWN_NOTES = `'${NOTE}', 'schema_version', 'index_place'`;
/** Rows that others refer to, and how they are removed with those. */
const REMOVE: Record<string, (tx: Queries, name: string) => Promise<void>> = { hosts: deleteHost, jobs: removeJob };

type Row = Record<string, Value>;

/** A table that both sides have. */
interface Table {
  name: string;
  /** Its columns, with their types in PostgreSQL. */
  columns: { name: string; type: string }[];
  /** The columns of its primary key. */
  key: string[];
  /** Whether a trigger gives new rows another number. */
  numbers: boolean;
}

interface Moving {
  rows: SnapshotRows;
  target: Store;
  /** The random name of this machine's store. */
  store: string;
  /** Called now and then. */
  progress: (table: string, rows: number) => void;
}

/** `move --to URL`. */
async function move(context: Context<{ to?: string; episodes?: string }>): Promise<number> {
  const { to = "", episodes: bucket } = context.args;
  if (!isPostgres(to)) throw new UsageError("nothing says where to", "give --to postgres://USER@HOST/DATABASE");
  if (bucket !== undefined && !isS3(bucket))
    throw new UsageError(`--episodes "${bucket}" is no bucket`, "such as --episodes s3://BUCKET/PREFIX");
  const config = await context.loadConfig();
  const { data_dir } = config;
  if (!existsSync(storeFile(data_dir))) throw new UsageError(`there is no store in "${data_dir}"`);
  const unlock = holdStopped(data_dir);
  const source = await Store.open({ data_dir });
  const target = await Store.open({ ...config, store: to });
  try {
    const progress = saidNow(context);
    const moving = { target, store: await nameOf(source), progress };
    const all = await inSnapshot(storeFile(data_dir), (rows) => moveTables({ rows, ...moving }));
    context.print(`${many(all.rows, "row")} in ${many(all.tables, "table")}: ${all.written} written, all compared`);
    const left = await moveFiles({ context, config, source, target, progress }, { to, bucket });
    if (left > 0) return 1;
    context.print(howToSwitch({ to, bucket, isRunning: unlock === null }));
    return 0;
  } finally {
    await target.close();
    await source.close();
    unlock?.();
  }
}

/** Moves the episodes, or says that they stay; gives how many could not be moved. */
async function moveFiles(
  {
    context,
    config,
    source,
    target,
    progress,
  }: Pick<Moving, "target" | "progress"> & { context: Context; config: Config; source: Store },
  { to, bucket }: { to: string; bucket: string | undefined },
): Promise<number> {
  const { episodes: place } = config;
  const folder = place === undefined || isS3(place) ? undefined : place;
  const from = await openEpisodes({ ...config, store: "sqlite", episodes: folder }, source);
  try {
    if (bucket === undefined) {
      const { episodes } = await from.index.totals();
      if (episodes > 0)
        context.print(`${many(episodes, "episode")} not copied: --episodes s3://BUCKET/PREFIX copies them`);
      return 0;
    }
    const there = await openEpisodes({ ...config, store: to, episodes: bucket }, target);
    let left = 0;
    const failed = ({ host, episode }: EpisodeKey, why: string): void => {
      left++;
      context.log.error(`${host}/${episode} can't be copied: ${why}`);
    };
    const { signal } = context;
    const places = { from: { ...from, store: source }, to: { ...there, store: target } };
    const all = await moveEpisodes({ ...places, signal, progress, failed });
    context.print(`${many(all.episodes, "episode")}: ${all.sent} sent, each hashed`);
    return left;
  } finally {
    await from.index.close();
  }
}

/** Keeps the receiver from being started; null where it runs. */
function holdStopped(data_dir: string): (() => void) | null {
  try {
    return holdAlone("picket-receiver", join(data_dir, "receiver.lock"));
  } catch {
    return null;
  }
}

function howToSwitch({
  to,
  bucket,
  isRunning,
}: {
  to: string;
  bucket: string | undefined;
  isRunning: boolean;
}): string {
  const settings = `  store: ${to}${bucket === undefined ? "" : `\n  episodes: ${bucket}`}`;
  if (!isRunning) return `To switch, set this in the configuration, and start the receiver:\n${settings}`;
  const again = `picket-receiver move --to ${to}${bucket === undefined ? "" : ` --episodes ${bucket}`}`;
  return `The receiver is running: another run brings what it takes from now on. To switch:
  systemctl stop picket-receiver    # agents keep their reports meanwhile
  ${again}
and set this in the configuration before you start it again:
${settings}`;
}

function saidNow({ log }: Context): Moving["progress"] {
  let logged = performance.now();
  return (table, rows) => {
    if (performance.now() - logged < 5000) return;
    logged = performance.now();
    log.info("copying", { table, rows });
  };
}

/** The random name that a store has for its events; made where its receiver never ran. */
async function nameOf(source: Store): Promise<string> {
  const known = await getNote(source.read, "instance");
  const name = known ?? crypto.randomUUID();
  if (known === null) await source.write((tx) => setNote(tx, "instance", name));
  return name;
}

/** Brings all tables of the target up to the snapshot. */
async function moveTables(moving: Moving): Promise<{ tables: number; rows: number; written: number }> {
  const { rows, target } = moving;
  await claim(moving);
  const days = [...rows<{ day: number }>(`SELECT DISTINCT at / ${DAY_MS} AS day FROM host_samples`)];
  const others = days.map(({ day }) => day);
  await target.write((tx) => partitionPass(tx, { now: Date.now(), before: 0, others }));
  const tables = await tablesOf(target.read, rows);
  const all = { tables: tables.length, rows: 0, written: 0 };
  for (const table of tables) {
    const { differences } = await pass(moving, table, (change) => write(moving, table, change));
    const { rows: found } = await pass(moving, table, ({ put, drop }) => {
      const count = put.length + drop.length;
      throw new Error(
        `table "${table.name}": ${many(count, "row")} differ from their copies: is another program writing there?`,
      );
    });
    all.rows += found;
    all.written += differences;
  }
  await followNumbers(moving, tables);
  return all;
}

/** Notes whose the target is. @throws UsageError where it is another's. */
async function claim({ target, store }: Moving): Promise<void> {
  await target.write(async (tx) => {
    const note = await getNote(tx, NOTE);
    const used = await tx.one("SELECT 1 FROM meta UNION ALL SELECT 1 FROM hosts UNION ALL SELECT 1 FROM jobs LIMIT 1");
    if (note === null && !used) return setNote(tx, NOTE, JSON.stringify({ store, alive: null }));
    if (note !== null && (JSON.parse(note) as { store: string }).store === store) return mustBeUnused(tx);
    throw new UsageError("the database has the store of another receiver", "give one that is empty");
  });
}

/** @throws UsageError where a receiver has run on the target. */
async function mustBeUnused(tx: Queries): Promise<void> {
  const { alive } = JSON.parse((await getNote(tx, NOTE))!) as { alive: string | null };
  if ((await getNote(tx, "alive")) === alive) return;
  const what = "a receiver has used the database since the store was moved there: nothing more is written";
  throw new UsageError(what, "to move anew, give an empty database");
}

/** The tables to copy: those that others refer to come first, the notes last. */
async function tablesOf(target: Queries, rows: SnapshotRows): Promise<Table[]> {
  const here = [
    ...rows<{ name: string }>("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"),
  ];
  const rank = (name: string): number => (name in REMOVE ? 0 : name === "meta" ? 2 : 1);
  const names = here.map(({ name }) => name).filter((name) => name !== "episodes");
  const tables: Table[] = [];
  for (const name of names.toSorted((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1))) {
    const columns = await target.all<{ name: string; type: string; place: number | null }>(
      `SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type, array_position(i.indkey::int2[], a.attnum) AS place
       FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
       WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY place, a.attnum`,
      [name],
    );
    const triggers = "SELECT 1 FROM pg_trigger WHERE tgrelid = $1::text::regclass AND NOT tgisinternal";
    tables.push({
      name,
      columns,
      key: columns.filter(({ place }) => place !== null).map((column) => column.name),
      numbers: (await target.one(triggers, [name])) !== undefined,
    });
  }
  return tables;
}

/** What of a table is to be changed in the target. */
interface Change {
  put: Row[];
  drop: Row[];
}

/** Compares a table with its copy, and hands over what differs, in parts. */
async function pass(
  { rows, target, progress }: Moving,
  { name, columns, key }: Table,
  change: (change: Change) => Promise<void>,
): Promise<{ rows: number; differences: number }> {
  const names = columns.map((column) => column.name).join(", ");
  const where = name === "meta" ? `key NOT IN (${OWN_NOTES})` : "TRUE";
  // Both sides in the order of the bytes.
  const theirKey = key.map((one) =>
    columns.find((column) => column.name === one)!.type === "text" ? `${one} COLLATE "C"` : one,
  );
  const order = theirKey.join(", ");
  const after = `(${order}) > (${key.map((_, index) => `$${index + 1}`).join(", ")})`;
  const page = (last: Row | null): Promise<Row[]> =>
    target.read.all<Row>(
      `SELECT ${names} FROM ${name} WHERE ${where}${last ? ` AND ${after}` : ""} ORDER BY ${order} LIMIT ${PAGE}`,
      last ? key.map((one) => last[one]!) : [],
    );
  let theirs = await page(null);
  let at = 0;
  const next = async (): Promise<void> => {
    if (++at < theirs.length || theirs.length < PAGE) return;
    theirs = await page(theirs.at(-1)!);
    at = 0;
  };
  let found: Change = { put: [], drop: [] };
  const done = { rows: 0, differences: 0 };
  const flush = async (least: number): Promise<void> => {
    const size = found.put.length + found.drop.length;
    if (size < least) return;
    await change(found);
    done.differences += size;
    found = { put: [], drop: [] };
  };
  for (const row of rows<Row>(`SELECT ${names} FROM ${name} WHERE ${where} ORDER BY ${key.join(", ")}`)) {
    const ours = fitting(row, columns);
    while (at < theirs.length && compare(theirs[at]!, ours, key) < 0) {
      found.drop.push(theirs[at]!);
      await next();
    }
    const other = at < theirs.length && compare(theirs[at]!, ours, key) === 0 ? theirs[at]! : null;
    if (other === null || columns.some((column) => other[column.name] !== ours[column.name])) found.put.push(ours);
    if (other) await next();
    done.rows++;
    progress(name, done.rows);
    await flush(PAGE);
  }
  while (at < theirs.length) {
    found.drop.push(theirs[at]!);
    await next();
    await flush(PAGE);
  }
  await flush(1);
  return done;
}

/** A row as PostgreSQL takes it: no fractions of milliseconds, no NUL in a text. */
function fitting(row: Row, columns: Table["columns"]): Row {
  const fit = ({ name, type }: Table["columns"][number]): Value => {
    const value = row[name] ?? null;
    if (typeof value === "number") return type === "bigint" ? Math.round(value) : value;
    return typeof value === "string" ? value.replaceAll("\0", "\ufffd") : value;
  };
  return Object.fromEntries(columns.map((column) => [column.name, fit(column)]));
}

/** By the key: numbers, and texts by their bytes. */
function compare(a: Row, b: Row, key: readonly string[]): number {
  for (const name of key) {
    const [one, other] = [a[name]!, b[name]!];
    if (one === other) continue;
    if (typeof one === "number") return one - (other as number);
    return Buffer.compare(Buffer.from(one), Buffer.from(other as string));
  }
  return 0;
}

/** Changes rows of the target. */
async function write({ target, store }: Moving, table: Table, { put, drop }: Change): Promise<void> {
  const { name, columns, key, numbers } = table;
  const given = `json_populate_recordset(NULL::${name}, $1::text::json)`;
  await target.write(async (tx) => {
    await mustBeUnused(tx);
    if (numbers) await tx.run(`ALTER TABLE ${name} DISABLE TRIGGER USER`);
    const remove = REMOVE[name];
    if (remove) for (const row of drop) await remove(tx, row["name"] as string);
    else if (drop.length > 0) {
      const same = key.map((one) => `t.${one} = given.${one}`).join(" AND ");
      await tx.run(`DELETE FROM ${name} t USING ${given} given WHERE ${same}`, [JSON.stringify(drop)]);
    }
    const rest = columns.map((column) => column.name).filter((one) => !key.includes(one));
    const update = rest.map((one) => `${one} = excluded.${one}`).join(", ");
    await tx.run(
      `INSERT INTO ${name} SELECT * FROM ${given} ON CONFLICT (${key.join(", ")}) DO ${update ? `UPDATE SET ${update}` : "NOTHING"}`,
      [JSON.stringify(put)],
    );
    if (numbers) await tx.run(`ALTER TABLE ${name} ENABLE TRIGGER USER`);
    if (name === "meta") await setNote(tx, NOTE, JSON.stringify({ store, alive: await getNote(tx, "alive") }));
  });
}

/** New rows get numbers after those that were given, also after those of rows that are deleted. */
async function followNumbers({ rows, target }: Moving, tables: Table[]): Promise<void> {
  const given = new Map(
    [...rows<{ name: string; seq: number }>("SELECT name, seq FROM sqlite_sequence")].map(({ name, seq }) => [
      name,
      seq,
    ]),
  );
  await target.write(async (tx) => {
    await mustBeUnused(tx);
    for (const { name } of tables.filter(({ columns }) => columns.some((column) => column.name === "id"))) {
      const last = `GREATEST((SELECT MAX(id) FROM ${name}), $1::bigint, 1)`;
      await tx.one(`SELECT setval(pg_get_serial_sequence('${name}', 'id'), ${last})`, [given.get(name) ?? 0]);
    }
  });
}

/** The command, as data. */
export const MOVE_COMMANDS = {
  move: {
    summary: "copy the store to PostgreSQL and the episodes to a bucket, also while the daemon runs",
    usage: `usage: picket-receiver move --to URL [--episodes BUCKET]

  --to         postgres://USER@HOST/DATABASE: an empty database, or one where this was begun before
  --episodes   s3://BUCKET/PREFIX

Copies what is not there yet, compares every row with its copy, and hashes every episode that it sends. Run it as often as you want;
the last time with the daemon stopped, then change the configuration. What is on this machine is not changed: to undo this, don't
change the configuration. The password, and the bucket's endpoint and credentials, are those of the configuration or the environment.

example: picket-receiver move --to postgres://picket@db.example.org/picket --episodes s3://picket/episodes`,
    run: move,
  },
} satisfies Record<string, Command<Config>>;
