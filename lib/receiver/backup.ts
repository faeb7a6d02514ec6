// Backups of the store, and their restoration.
//
// A backup is a consistent copy of the database in one file, checked before it gets its name. It contains tokens as hashes, and the
// index of the episodes with --episodes; never the episodes.
//
// Restoring needs a stopped receiver:
//
//   1. the backup is checked, copied beside the store, and brought up to this version's tables
//   2. the former store gets a second name, beside it
//   3. the copy is renamed over it: killed at any moment, there is the former store or the restored one
//
// The restored store gets another random name for its events (alerts.ts), so that an inbox takes none for one that it has already.

import { copyFileSync, existsSync, linkSync, renameSync, rmSync, statSync, writeFileSync, chmodSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { holdAlone, inheritOwner, makeFolder, syncFolder, writeWhole } from "../files.ts";
import { type Command, UsageError } from "../service.ts";
import { duration, size as asSize } from "../text.ts";
import type { Config } from "./config.ts";
import { isBusy } from "../database.ts";
import { isPostgres } from "../config.ts";
import { withIndex } from "./episode-commands.ts";
import { time } from "./hosts.ts";
import { alterSqlite, copySqlite, eachRow, foldLog, readSqlite, storeFile } from "./sqlite.ts";
import { type Context, many } from "./store-command.ts";

/** @throws UsageError where the store is no file. */
function mustBeFile({ store }: Config, hint: string): void {
  if (isPostgres(store)) throw new UsageError(`the store is not a file: it is ${store}`, hint);
}

/** `backup FILE`. */
async function backup(context: Context<{ episodes?: boolean }>): Promise<void> {
  const { episodes = false } = context.args;
  mustBeFile(await context.loadConfig(), "PostgreSQL's own: pg_dump --format=custom --file=FILE DATABASE");
  const file = resolve(context.positionals[0] ?? "");
  if (existsSync(file))
    throw new UsageError(`"${file}" exists already`, "backups are never overwritten: choose another name");
  await withIndex(context, async ({ store, index }) => {
    if (episodes) await index.follow();
    const source = storeFile(store.dir);
    context.log.info("copying the store", { size: asSize(statSync(source).size) });
    const partial = `${file}.partial`;
    try {
      rmSync(partial, { force: true });
      writeFileSync(partial, "", { mode: 0o600 });
      copySqlite(source, partial);
      alterSqlite({ file: partial }, (run) => {
        run("INSERT INTO meta (key, value) VALUES ('backup', ?1)", [JSON.stringify({ at: Date.now(), episodes })]);
        if (episodes) return;
        run("DELETE FROM episodes");
        run("DELETE FROM meta WHERE key = 'index_place'");
        run("PRAGMA incremental_vacuum");
      });
      context.log.info("checking the copy");
      mustBeSound(partial);
      if (existsSync(file)) throw new Error(`"${file}" exists by now`);
      renameSync(partial, file);
      syncFolder(dirname(file));
    } catch (error) {
      rmSync(partial, { force: true });
      throw error;
    }
    context.print(`${file}: ${asSize(statSync(file).size)}, ${hostsIn(file)}, checked`);
  });
}

function hostsIn(file: string): string {
  return many(readSqlite(file, "SELECT id FROM hosts").length, "host");
}

/** @throws Error where a file is not a whole store. */
function mustBeSound(file: string): void {
  let found: string | undefined;
  try {
    hostsIn(file);
    found = readSqlite<{ integrity_check: string }>(file, "PRAGMA integrity_check(1)")[0]?.integrity_check;
  } catch (cause) {
    throw new Error(`"${file}" is not a store of picket-receiver`, { cause });
  }
  if (found !== "ok") throw new Error(`"${file}" is damaged: ${found}`);
}

/** A backup's own note; a plain copy of the store's file has none. */
interface Backup {
  at: number | null;
  episodes: boolean;
}

/** `restore FILE`. */
async function restore(context: Context): Promise<void> {
  const config = await context.loadConfig();
  mustBeFile(config, "PostgreSQL's own: pg_restore --dbname=DATABASE FILE");
  const { data_dir } = config;
  const file = resolve(context.positionals[0] ?? "");
  if (!existsSync(file)) throw new UsageError(`"${file}" does not exist`);
  makeFolder(data_dir, 0o750);
  const unlock = holdStopped(data_dir);
  try {
    mustBeSound(file);
    const store = storeFile(data_dir);
    const fresh = `${store}.restoring`;
    const about = prepare(file, fresh);
    // Before the rename: a store without an index file forgets its episodes.
    if (about.episodes) makeIndex(fresh, join(data_dir, "index.jsonl"));
    const former = putAside(store);
    const lost = former === null ? [] : lostTokens(former, fresh);
    renameSync(fresh, store);
    syncFolder(data_dir);
    const age = about.at === null ? "" : ` as of ${time(about.at)}, ${duration(Date.now() - about.at)} ago`;
    context.print(`restored: ${hostsIn(store)}${age}; start the service: systemctl start picket-receiver`);
    for (const host of lost)
      context.print(`${host}: its token is newer than the backup: picket-receiver host add or token rotate ${host}`);
    if (former !== null)
      context.print(`the former store is ${former}; to undo this: picket-receiver restore ${former}`);
  } finally {
    unlock();
  }
}

function holdStopped(data_dir: string): () => void {
  try {
    return holdAlone("picket-receiver", join(data_dir, "receiver.lock"));
  } catch (error) {
    throw Object.assign(error as Error, { hint: "stop it first: systemctl stop picket-receiver" });
  }
}

/** Copies a backup beside the store and makes a store of it. @throws ConfigError when it is of a newer version. */
function prepare(file: string, fresh: string): Backup {
  rmSync(fresh, { force: true });
  try {
    copySqlite(file, fresh);
    const [row] = readSqlite<{ value: string }>(fresh, "SELECT value FROM meta WHERE key = 'backup'");
    // Sessions that were ended since stay so.
    const own = "DELETE FROM meta WHERE key IN ('backup', 'instance', 'sessions')";
    alterSqlite({ file: fresh, name: file }, (run) => run(own));
    chmodSync(fresh, 0o640);
    inheritOwner(fresh);
    return row ? (JSON.parse(row.value) as Backup) : { at: null, episodes: false };
  } catch (error) {
    rmSync(fresh, { force: true });
    throw error;
  }
}

/** Gives the former store a second name; null where there is none. */
function putAside(store: string): string | null {
  if (!existsSync(store)) return null;
  const aside = `${store}.before-${new Date().toISOString().replaceAll(/[:.]/g, "-")}`;
  try {
    foldLog(store);
  } catch (error) {
    if (isBusy(error)) throw error;
    // It is damaged: its log moves with it, so that it isn't read as the restored store's.
    if (existsSync(`${store}-wal`)) renameSync(`${store}-wal`, `${aside}-wal`);
  }
  for (const suffix of ["-wal", "-shm"]) rmSync(store + suffix, { force: true });
  try {
    linkSync(store, aside);
  } catch {
    copyFileSync(store, aside);
    inheritOwner(aside);
  }
  return aside;
}

/** The hosts whose present token the restored store doesn't know. */
function lostTokens(former: string, fresh: string): string[] {
  const active = `SELECT h.name, t.sha256 FROM tokens t JOIN hosts h ON h.id = t.host WHERE t.revoked_at IS NULL`;
  try {
    const known = new Set(readSqlite<{ sha256: string }>(fresh, active).map(({ sha256 }) => sha256));
    const tokens = readSqlite<{ name: string; sha256: string }>(former, active);
    return tokens.filter(({ sha256 }) => !known.has(sha256)).map(({ name }) => name);
  } catch {
    // The former store is damaged.
    return [];
  }
}

/** Writes the index that a backup has, unless there is one: that is newer. */
function makeIndex(from: string, path: string): void {
  if (existsSync(path)) return;
  const rows = eachRow<{ line: string }>(from, "SELECT line FROM episodes ORDER BY received_at");
  writeWhole(
    path,
    Iterator.from(rows).map(({ line }) => `${line}\n`),
    0o600,
  );
}

/** The commands, as data. */
export const BACKUP_COMMANDS = {
  backup: {
    summary: "copy the store into one file, also while the daemon runs",
    usage: `usage: picket-receiver backup FILE [--episodes]

  --episodes   with the index of the episodes; copy the episodes themselves with any tool, they never change

Never overwrites a file. The copy is checked before it gets its name.

example: picket-receiver backup /var/backups/receiver-$(date +%F).db --episodes`,
    run: backup,
  },
  restore: {
    summary: "put a backup in the store's place; the former store stays beside it",
    usage: `usage: picket-receiver restore FILE

Stop the daemon first. A backup of an older version is updated, one of a newer version refused. Hosts that were added since, and
tokens that were made since, are gone. Events may be told again.

example: picket-receiver restore /var/backups/receiver-2026-11-28.db`,
    run: restore,
  },
} satisfies Record<string, Command<Config>>;
