// Checks a receiver, from its configuration to its hosts. A store's file is only read, and not migrated.

import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Check, ago, doctorCommand, examineListener, green, notifies, red, yellow } from "../doctor.ts";
import { inboxFolders } from "../inbox-place.ts";
import { errorChain } from "../log.ts";
import { isPostgres } from "../config.ts";
import type { Config } from "./config.ts";
import { episodesFolder } from "./episodes.ts";
import { readSqlite, storeFile } from "./sqlite.ts";
import { Store } from "./store.ts";
import { many } from "./store-command.ts";

function folders(config: Config): string[] {
  return [config.data_dir, episodesFolder(config), ...(config.notify ? inboxFolders(config.notify) : [])];
}

export const doctor = doctorCommand<Config>("receiver", folders, async (config) => {
  const { data_dir, notify } = config;
  const episodes = episodesFolder(config);
  const { newest, rows } = await (isPostgres(config.store) ? inDatabase(config) : inFile(data_dir, episodes));
  const lock = join(data_dir, "receiver.lock");
  const about = { ...config, folders: folders(config), owned: [data_dir, episodes], newest, lock };
  const { checks, figures } = await examineListener("receiver", about);
  const { version_gate_problem: gate, heartbeat_problem: heartbeat } = figures;
  return [
    ...checks,
    ...rows,
    ...(typeof gate !== "string" ? [] : [red("version gate", gate, "journalctl -u picket-receiver -n 50")]),
    ...(typeof heartbeat !== "string" ? [] : [yellow("heartbeat", heartbeat, "journalctl -u picket-receiver -n 50")]),
    await notifies("receiver", "events", notify),
  ];
});

interface Seen {
  newest: number | null;
  noted: number;
  waiting: number;
}
const SEEN = `SELECT (SELECT MAX(last_seen_at) FROM hosts) AS newest,
  (SELECT COUNT(*) FROM episodes WHERE removed_at IS NULL) AS noted,
  (SELECT COUNT(*) FROM events WHERE told_at IS NULL) AS waiting`;

/** The checks of the store, and the time of the newest report. */
interface Examined {
  newest: number | null;
  rows: Check[];
}

async function inFile(dir: string, episodes: string): Promise<Examined> {
  const file = storeFile(dir);
  const no = (check: Check): Examined => ({ newest: null, rows: [check] });
  if (!existsSync(file)) return no(yellow("store", `${file} is not there yet`, "picket-receiver host add NAME"));
  try {
    const found = readSqlite<{ quick_check: string }>(file, "PRAGMA quick_check(1)")[0]?.quick_check;
    if (found !== "ok") {
      const fix = "systemctl stop picket-receiver; picket-receiver restore FILE (a backup)";
      return no(red("store", `damaged: ${found}`, fix));
    }
    const { newest, noted, rows } = await contents(async (text) => readSqlite(file, text));
    return { newest, rows: [green("store", "sound"), ...rows, indexed(noted, episodes)] };
  } catch (error) {
    return no(red("store", errorChain(error), `ls -l ${dir}; see "Permissions" in docs/operations.md`));
  }
}

async function inDatabase(config: Config): Promise<Examined> {
  let store: Store | undefined;
  try {
    store = await Store.open(config);
    const [server] = await store.read.all<{ version: string }>("SELECT current_setting('server_version') AS version");
    const { newest, rows } = await contents((text) => store!.read.all(text));
    return { newest, rows: [green("store", `PostgreSQL ${server!.version} answers`), ...rows] };
  } catch (error) {
    const { host, pathname } = new URL(config.store);
    const fix = `psql -h ${host.split(":")[0]} ${pathname.slice(1)}`;
    return { newest: null, rows: [red("store", errorChain(error), fix)] };
  } finally {
    await store?.close();
  }
}

async function contents(all: <T>(text: string) => Promise<T[]>): Promise<Examined & { noted: number }> {
  const { newest, noted, waiting } = (await all<Seen>(SEEN))[0]!;
  const statuses = await all<Statuses>("SELECT status, COUNT(*) AS hosts FROM hosts GROUP BY status");
  return { newest, noted, rows: [...hosts(statuses, newest), ...told(waiting)] };
}

interface Statuses {
  status: string;
  hosts: number;
}

function hosts(statuses: Statuses[], newest: number | null): Check[] {
  const count = (status: string) => statuses.find((one) => one.status === status)?.hosts ?? 0;
  const silent = count("stale") + count("offline");
  const expected = silent + count("online");
  if (expected + count("pending") === 0) return [yellow("hosts", "none", "picket-receiver host add NAME")];
  const last = newest === null ? "none has reported yet" : `the last report ${ago(newest)}`;
  const fix = "picket-receiver host list";
  if (expected > 0 && silent === expected) return [red("hosts", `all are silent, ${last}`, fix)];
  if (silent > 0) return [yellow("hosts", `${silent} of ${expected} are silent, ${last}`, fix)];
  return [expected === 0 ? yellow("hosts", last, fix) : green("hosts", `${expected} report, ${last}`)];
}

function told(waiting: number): Check[] {
  if (waiting === 0) return [];
  return [yellow("events", `${many(waiting, "event")} not told yet`, "journalctl -u picket-receiver -p warning -n 50")];
}

/** Compares the index with the files by their number: `index verify` looks at each. */
function indexed(noted: number, folder: string): Check {
  const of = (path: string) => (existsSync(path) ? readdirSync(path, { withFileTypes: true }) : []);
  const hosts = of(folder).filter((entry) => !entry.isFile() && !entry.name.startsWith("."));
  const files = hosts.flatMap(({ name }) =>
    of(join(folder, name)).filter((entry) => !entry.name.startsWith(".") && entry.name.endsWith(".tar.zst")),
  );
  if (files.length === noted) return green("episodes", `${noted}, as in the index`);
  return yellow("episodes", `${many(files.length, "file")}, ${noted} in the index`, "picket-receiver index verify");
}
