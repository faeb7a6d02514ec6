// Backups beside a loaded daemon, and their restoration: whole, killed, refused, undone.

import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { ROOT, command, inboxLines, until } from "../kit.ts";
import { Hub, TELLS_SOON, bytesOf, container, report } from "./kit.ts";
import { testOnFile as test } from "./store-kit.ts";

const WELL = { code: 0, stdout: expect.stringMatching(/, all as the index says\n$/) };

/** Reports until `stop` is called; gives how many were taken. */
function load(hub: Hub): { stop: () => Promise<number> } {
  const stop = new AbortController();
  const send = async (): Promise<number> => {
    let taken = 0;
    while (!stop.signal.aborted) taken += (await hub.report()).status === 200 ? 1 : 0;
    return taken;
  };
  const all = Promise.all([send(), send(), send(), send()]);
  return {
    async stop() {
      stop.abort();
      return (await all).reduce((sum, one) => sum + one, 0);
    },
  };
}

/** The former stores, oldest first. */
const asides = (hub: Hub): string[] =>
  readdirSync(hub.data)
    .filter((name) => name.includes(".before-"))
    .toSorted();

test("a backup beside a loaded daemon is restored: hosts, history and index; the former store can be put back", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000000" });
  const file = hub.folder.at("backup.db");
  for (const name of ["one", "two"]) expect((await hub.ship(name, bytesOf(1000))).status).toBe(201);
  await hub.run("episodes", "rm", "web-1/two");
  await hub.run("host", "add", "pi");
  const loaded = load(hub);
  const made = await hub.run("backup", file, "--episodes");
  expect(made).toMatchObject({ code: 0, stdout: expect.stringMatching(/backup\.db: .* KB, 2 hosts, checked\n$/) });
  expect(await loaded.stop()).toBeGreaterThan(10);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(await hub.run("backup", file)).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("never overwritten"),
  });
  expect(await hub.run("restore", file)).toMatchObject({ code: 1, stderr: expect.stringContaining("systemctl stop") });
  await hub.addHost("late");
  await hub.daemon.kill();

  rmSync(join(hub.data, "index.jsonl"));
  const restored = await hub.run("restore", file);
  expect([restored.code, restored.stdout]).toEqual([
    0,
    expect.stringMatching(/^restored: 2 hosts as of .*Z, \d+s ago;/),
  ]);
  expect(restored.stdout).toContain("late: its token is newer than the backup");
  await hub.up();
  expect((await hub.report()).status).toBe(200);
  expect((await hub.report(report(), { host: "late" })).status).toBe(401);
  expect(await hub.get("/v1/episodes")).toMatchObject({ episodes: [{ episode: "one" }] });
  expect((await hub.ship("two", bytesOf(1000))).status).toBe(409);
  expect(await hub.run("index", "verify")).toMatchObject(WELL);
  await hub.daemon.kill();
  const undo = /restore (\S+)\n$/.exec(restored.stdout)![1]!;
  expect((await hub.run("restore", undo)).stdout).toContain("restored: 3 hosts;");
  await hub.up();
  expect((await hub.report(report(), { host: "late" })).status).toBe(200);
});

test("after a restore new events reach the inbox, also those whose numbers were delivered before", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const told = () => inboxLines(hub.inbox, "ops").length;
  const ill = async (name: string, lines: number) => {
    const body = report({ interval_seconds: 3600, containers: [container(name, { health_status: "unhealthy" })] });
    expect((await hub.report(body)).status).toBe(200);
    await until(`${name} is told`, () => told() === lines);
  };
  await hub.report(report({ interval_seconds: 3600 }));
  await hub.run("backup", hub.folder.at("b.db"));
  await ill("app", 1);
  await ill("db", 2);
  await hub.daemon.kill();
  expect((await hub.run("restore", hub.folder.at("b.db"))).code).toBe(0);
  await hub.up();
  await ill("app", 3);
  await ill("db", 4);
});

test("a file that is no backup, a damaged one and one of a newer version change nothing", async () => {
  await using hub = await Hub.start();
  const file = hub.folder.at("b.db");
  for (let n = 0; n < 50; n++) await hub.report(report({ containers: [container(`c-${n}`)] }));
  expect((await hub.run("backup", file)).code).toBe(0);
  await hub.daemon.kill();
  const bytes = readFileSync(file);
  const damaged = Buffer.from(bytes).fill(0x55, 8192, bytes.length - 4096);
  const newer = hub.folder.write("newer.db", bytes);
  new Database(newer).run("UPDATE meta SET value = '999' WHERE key = 'schema_version'");
  const before = readFileSync(join(hub.data, "receiver.db"));
  const cases: [file: string, code: number, what: string][] = [
    [hub.folder.at("none.db"), 2, "does not exist"],
    [hub.folder.write("text.db", "hello"), 1, "is not a store of picket-receiver"],
    [hub.folder.write("empty.db", ""), 1, "is not a store of picket-receiver"],
    [hub.folder.write("damaged.db", damaged), 1, "damaged"],
    [newer, 78, "newer.db: its tables are of a newer picket-receiver"],
  ];
  for (const [path, code, what] of cases) {
    expect(await hub.run("restore", path)).toMatchObject({ code, stderr: expect.stringContaining(what) });
  }
  expect(readFileSync(join(hub.data, "receiver.db")).equals(before)).toBe(true);
  expect(readdirSync(hub.data).filter((name) => /before|restoring/.test(name))).toEqual([]);
  // A damaged store is put aside with its log.
  writeFileSync(join(hub.data, "receiver.db"), damaged);
  writeFileSync(join(hub.data, "receiver.db-wal"), "what a damaged store may have beside it");
  expect(await hub.run("restore", file)).toMatchObject({ code: 0 });
  await hub.up();
  expect((await hub.report()).status).toBe(200);
});

test("backup and restore are killed at any moment: no half backup, and one of the two stores", async () => {
  await using hub = await Hub.start();
  await hub.report();
  const db = new Database(join(hub.data, "receiver.db"));
  db.run("CREATE TABLE ballast (id INTEGER PRIMARY KEY, text TEXT)");
  db.run(
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO ballast SELECT i, hex(randomblob(500)) FROM n",
  );
  db.close();
  const kill = async (after: () => boolean, ...args: string[]): Promise<void> => {
    const cmd = [...(await command("receiver", "source")), ...args, "--config", hub.config];
    const child = Bun.spawn(cmd, { stdout: "ignore", stderr: "ignore" });
    await until("it is under way", () => after() || child.exitCode !== null);
    child.kill("SIGKILL");
    await child.exited;
  };
  const file = hub.folder.at("b.db");
  await kill(() => existsSync(`${file}.partial`) && statSync(`${file}.partial`).size > 1e6, "backup", file);
  expect(existsSync(file)).toBe(false);
  expect(await hub.run("backup", file)).toMatchObject({ code: 0 });
  await hub.addHost("late");
  await hub.daemon.kill();
  for (const after of [() => existsSync(join(hub.data, "receiver.db.restoring")), () => asides(hub).length > 0]) {
    await kill(after, "restore", file);
    const names = hub.rows<{ name: string }>("SELECT name FROM hosts ORDER BY name").map(({ name }) => name);
    expect([["late", "web-1"], ["web-1"]]).toContainEqual(names);
  }
  expect((await hub.run("restore", file)).code).toBe(0);
  expect(hub.rows("SELECT name FROM hosts")).toEqual([{ name: "web-1" }]);
});

test("a backup on a full disk fails with that reason, and leaves no file", async () => {
  await using hub = await Hub.start();
  expect(await hub.run("backup", hub.folder.at("no/such/b.db"))).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("ENOENT"),
  });
  await hub.daemon.kill();
  // A store of version 0.1.0, from its folder.
  const tar = Bun.zstdDecompressSync(readFileSync(join(ROOT, "test/upgrade/0.1.0.tar.zst")));
  mkdirSync(hub.folder.at("former"));
  Bun.spawnSync(["tar", "-C", hub.folder.at("former"), "-xf", "-"], { stdin: tar });
  expect((await hub.run("restore", hub.folder.at("former/receiver/receiver.db"))).stdout).toContain("restored: ");
  expect(hub.rows("PRAGMA auto_vacuum")).toEqual([{ auto_vacuum: 2 }]);
  // A copy of the store's file itself is taken, too.
  renameSync(join(hub.data, asides(hub)[0]!), hub.folder.at("copy.db"));
  chmodSync(hub.folder.at("copy.db"), 0o440);
  expect((await hub.run("restore", hub.folder.at("copy.db"))).stdout).toContain("restored: 1 host;");
  await hub.up();
  expect((await hub.report()).status).toBe(200);
});
