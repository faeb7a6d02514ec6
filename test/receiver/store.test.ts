// The store's promises: who waits together shares a transaction, an error is its caller's alone, parameters go by their number.

import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { copyFileSync, renameSync, rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import type { Queries } from "../../lib/database.ts";
import { Store, getNote, setNote } from "../../lib/receiver/store.ts";
import { Folder, inboxLines, until } from "../kit.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { Hub } from "./kit.ts";
import { testOnFile as test } from "./store-kit.ts";

const note = (key: string) => (tx: Queries) => setNote(tx, key, "here");

test("a piece of work that throws costs the others nothing, and leaves nothing", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  const given = await Promise.allSettled([
    store.write(note("first")),
    store.write(async (tx) => {
      await setNote(tx, "broken", "half");
      throw new Error("its own mistake");
    }),
    store.write(note("second")),
    store.write((tx) => tx.run("INSERT INTO nowhere VALUES ($1)", [1])),
    store.write((tx) => tx.run("UPDATE meta SET value = 'there' WHERE key IN ('first', 'second', 'third')")),
    store.write(note("third")),
  ]);
  expect(given.map((one) => (one.status === "fulfilled" ? one.value : (one.reason as Error).message))).toEqual([
    undefined,
    "its own mistake",
    undefined,
    "the store fails: no such table: nowhere (SQLITE_ERROR)",
    2,
    undefined,
  ]);
  const notes = await Promise.all(["first", "broken", "second", "third"].map((key) => getNote(store.read, key)));
  expect(notes).toEqual(["there", null, "there", "here"]);
  expect(store.problem).toBeNull();
  await store.close();
});

const programs = postgresPrograms("pieces of many hosts in one transaction");

test.if(programs !== null)(
  "pieces of many hosts run at the same time, those of one host in turn, and one that fails fails alone",
  async () => {
    await using server = await Postgres.start(programs!, { fsync: "off" });
    using folder = new Folder();
    const store = await Store.open({ data_dir: folder.path, store: server.database(), store_connections: 3 });
    const hosts = Array.from({ length: 10 }, (_, n) => n + 1);
    await store.write(async (tx) => {
      const add = "INSERT INTO hosts (id, name, status, created_at) VALUES ($1, $2, 'online', 0)";
      for (const id of hosts) await tx.run(add, [id, `host-${id}`]);
    });
    let running = 0;
    let most = 0;
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, (_, n) =>
        store.write(
          async (tx) => {
            const id = (n % hosts.length) + 1;
            most = Math.max(most, ++running);
            try {
              const { heard_ms } = (await tx.one<{ heard_ms: number }>("SELECT heard_ms FROM hosts WHERE id = $1", [
                id,
              ]))!;
              if (n % 50 === 17) throw new Error(`piece ${n}`);
              if (n % 50 === 23) await tx.run("INSERT INTO hosts (name) VALUES (NULL)");
              await tx.run("UPDATE hosts SET heard_ms = $1 WHERE id = $2", [heard_ms + 1, id]);
            } finally {
              running--;
            }
            return n;
          },
          [(n % hosts.length) + 1],
        ),
      ),
    );
    expect(most).toBe(hosts.length);
    const failures = outcomes.flatMap((one, n) => (one.status === "rejected" ? [[n, String(one.reason)]] : []));
    const nulls = expect.stringContaining("null value in column");
    const expected = [0, 50, 100, 150].flatMap((n) => [
      [n + 17, `Error: piece ${n + 17}`],
      [n + 23, nulls],
    ]);
    expect(failures).toEqual(expected);
    const rows = await store.read.all<{ id: number; heard_ms: number }>("SELECT id, heard_ms FROM hosts ORDER BY id");
    expect(rows.map(({ id, heard_ms }) => [id, heard_ms])).toEqual(
      hosts.map((id) => [id, [8, 4].includes(id) ? 16 : 20]),
    );
    await store.close();
  },
);

test("writes that wait at the same time share one transaction", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  const other = new Database(folder.at("receiver.db"));
  // Changes with every commit of another connection.
  const version = () => other.query<{ data_version: number }, []>("PRAGMA data_version").get()!.data_version;
  // The tables themselves.
  other.run("PRAGMA wal_checkpoint(TRUNCATE)");
  const before = version();
  await Promise.all(Array.from({ length: 100 }, (_, n) => store.write(note(`n${n}`))));
  const log = other.query<{ log: number }, []>("PRAGMA wal_checkpoint(PASSIVE)").get()!.log;
  expect(version()).not.toBe(before);
  // A hundred transactions would have written a hundred pages at least.
  expect(log).toBeLessThan(50);
  other.close();
  await store.close();
});

test("parameters go by their number, wherever they stand and however often", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  const values = ["one", "two", 3, 4, 5, 6, 7, 8, 9, null];
  const row = await store.read.one("SELECT $2 AS two, $1 AS one, $2 AS again, $10 AS ten", values);
  expect(row).toEqual({ two: "two", one: "one", again: "two", ten: null });
  await store.close();
});

test("a lock that another program lets go in time is waited for, without holding up reading", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  const other = new Database(folder.at("receiver.db"));
  other.run("BEGIN IMMEDIATE");
  const writing = store.write(note("late"));
  for (let n = 0; n < 20; n++) {
    await Bun.sleep(10);
    expect(await getNote(store.read, "late")).toBeNull();
  }
  other.run("ROLLBACK");
  await writing;
  expect(await getNote(store.read, "late")).toBe("here");
  other.close();
  await store.close();
});

test("after closing nothing of SQLite's is left open: the log is in the file", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  await store.write(note("last"));
  await getNote(store.read, "last");
  await store.close();
  expect([
    await Bun.file(folder.at("receiver.db-wal")).exists(),
    await Bun.file(folder.at("receiver.db-shm")).exists(),
  ]).toEqual([false, false]);
  const late = await store.write(note("too late")).catch((error: Error) => error.message);
  expect(late).toBe("write to the store: it is closed");
});

test("a store that fails without a full disk is 503 at /health, too", async () => {
  // So large a file may become, in KiB: beyond it SQLite says "disk I/O error".
  const wrap = ["sh", "-c", `trap "" XFSZ; ulimit -f 300; exec "$@"`, "sh"];
  await using hub = await Hub.start({ wrap, more: "rate_limit_per_minute: 100000" });
  // Small ones to the end, so that not even the alive mark finds room.
  let answer = 200;
  await until("nothing can be stored", async () => {
    answer = (await hub.report()).status;
    return (
      answer !== 200 && (await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer() })).status === 503
    );
  });
  const health = await fetch(`${hub.url}/health`);
  expect([answer, health.status, await health.json()]).toEqual([
    503,
    503,
    expect.objectContaining({ problem: expect.stringContaining("the store fails: disk I/O error") }),
  ]);
});

test("a store whose file is removed or replaced under the daemon takes nothing more, and that is told", async () => {
  const away: [string, (file: string) => void][] = [
    ["removed", (file) => rmSync(file)],
    ["its log removed", (file) => rmSync(`${file}-wal`)],
    ["replaced", (file) => (copyFileSync(file, `${file}.copy`), renameSync(`${file}.copy`, file))],
  ];
  await Promise.all(
    away.map(async ([how, change]) => {
      await using hub = await Hub.start();
      expect([how, (await hub.report()).status]).toEqual([how, 200]);
      change(join(hub.data, "receiver.db"));
      expect([how, (await hub.report()).status]).toEqual([how, 503]);
      expect([how, (await fetch(`${hub.url}/health`)).status]).toEqual([how, 503]);
      const line = await until("it is told", () => inboxLines(hub.inbox, "ops")[0]);
      expect([how, line]).toEqual([
        how,
        expect.objectContaining({ source: "receiver:store.damaged", payload: expect.stringContaining("restart it") }),
      ]);
    }),
  );
});

test("a store that is gone or empty at a start is told, since its hosts and tokens are gone with it", async () => {
  await using hub = await Hub.start();
  const sources = () => inboxLines(hub.inbox, "ops").map(({ source }) => source);
  expect(sources()).toEqual([]);
  await hub.daemon.kill();
  truncateSync(join(hub.data, "receiver.db"));
  await hub.up();
  expect([sources(), (await hub.report()).status]).toEqual([["receiver:store.lost"], 401]);
});

test("a store that another program has locked is 503 after a while, and holds up nothing else", async () => {
  await using hub = await Hub.start();
  const { Database } = await import("bun:sqlite");
  const other = new Database(join(hub.data, "receiver.db"));
  // The daemon itself may be writing at this moment.
  other.run("PRAGMA busy_timeout=10000");
  other.run("BEGIN IMMEDIATE");
  const over = new AbortController();
  const reports = Promise.all(Array.from({ length: 5 }, () => hub.report())).finally(() => over.abort());
  // One that waits for the lock in the same thread would answer a look or two meanwhile, however long it waits.
  let looks = 0;
  for (; !over.signal.aborted; looks++) {
    await fetch(`${hub.url}/metrics`);
    await Bun.sleep(10);
  }
  const answers = await reports;
  expect(answers.map(({ status, headers }) => [status, headers.get("retry-after")])).toEqual(
    Array.from({ length: 5 }, () => [503, "5"]),
  );
  expect(looks).toBeGreaterThan(10);
  other.run("ROLLBACK");
  other.close();
  await until("it takes reports again", async () => (await hub.report()).status === 200);
});
