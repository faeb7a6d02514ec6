// What the store keeps, by its configuration, and that its file shrinks again.

import { Database } from "bun:sqlite";
import { expect } from "bun:test";
import { mkdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { ROOT, until } from "../kit.ts";
import { Hub } from "./kit.ts";
import { testOnFile as test } from "./store-kit.ts";

const HOUR_MS = 3_600_000;

/** Fills the store's file with 30 MB, and frees them. */
function swell(hub: Hub): void {
  using db = new Database(join(hub.data, "receiver.db"));
  db.run("CREATE TABLE ballast (text TEXT)");
  db.run(
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000) INSERT INTO ballast SELECT hex(randomblob(500)) FROM n",
  );
  db.run("DROP TABLE ballast");
  db.run("PRAGMA wal_checkpoint(TRUNCATE)");
}

test("a store of 0.1.0 is rewritten once; from then on free pages go back to the file system beside the reports", async () => {
  await using hub = new Hub({ more: "rate_limit_per_minute: 1000000" });
  mkdirSync(hub.folder.at("former"));
  const tar = Bun.zstdDecompressSync(readFileSync(join(ROOT, "test/upgrade/0.1.0.tar.zst")));
  Bun.spawnSync(["tar", "-C", hub.folder.at("former"), "-xf", "-"], { stdin: tar });
  Bun.spawnSync(["cp", "-r", hub.folder.at("former/receiver"), hub.data]);
  const size = () => statSync(join(hub.data, "receiver.db")).size;
  swell(hub);
  expect(size()).toBeGreaterThan(30_000_000);
  await hub.addHost("pi");
  await hub.up();
  expect(hub.daemon.log.filter((line) => line.includes("rewriting the store")).length).toBe(1);
  await until("it has shrunk", () => size() < 5_000_000);
  await hub.daemon.kill();
  swell(hub);
  await hub.up();
  while (size() > 10_000_000) expect((await hub.report(undefined, { host: "pi" })).status).toBe(200);
  expect(hub.daemon.log.filter((line) => line.includes("rewriting the store")).length).toBe(0);
});

test("retention is configured: what is older goes, and what is needed for the next grain must be kept", async () => {
  await using hub = new Hub({ more: "retention: { raw_hours: 30, event_days: 2 }" });
  await hub.addHost("web-1");
  const ages = [47, 31, 29, 1];
  hub.change((db) => {
    for (const hours of ages) {
      db.run("INSERT INTO host_samples (host, at) VALUES (1, ?)", [Date.now() - hours * HOUR_MS]);
      db.run(
        "INSERT INTO events (at, type, severity, host, text, told_at) VALUES (?, 'host.stale', 'warning', 1, '', 1)",
        [Date.now() - hours * 2 * HOUR_MS],
      );
    }
  });
  const kept = () => [hub.rows("SELECT 1 FROM host_samples").length, hub.rows("SELECT 1 FROM events").length];
  await hub.up();
  await until("the old ones are gone", () => kept()[0] === 2);
  await until("the old events, too", () => kept()[1] === 1);
  const cases: [more: string, problem: string][] = [
    ["retention: { raw_hours: 20 }", 'retention.raw_hours: must cover "backfill_hours" (24) and an hour'],
    ["retention: { raw_hours: 72, ten_minute_days: 2 }", 'retention.ten_minute_days: must cover "raw_hours" (72)'],
    ["retention: { hourly_days: 29 }", 'retention.hourly_days: must cover "ten_minute_days" (30)'],
    ["retention: { raw_hour: 29 }", "raw_hours"],
  ];
  for (const [more, problem] of cases) {
    hub.configure(more);
    expect(await hub.run("--check")).toMatchObject({ code: 78, stderr: expect.stringContaining(problem) });
  }
  // A reload takes effect at once.
  hub.configure("retention: { raw_hours: 48 }");
  hub.daemon.child.kill("SIGHUP");
  await hub.daemon.said("configuration reloaded");
});
