// What is told to an inbox: late where it can't be written, and never twice.

import { expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inboxLines, until } from "../kit.ts";
import { Hub, statuses } from "./kit.ts";

test("an inbox that can't be written delays what is told and loses nothing; what was told but not noted is not told twice", async () => {
  await using hub = new Hub({ more: "poll_interval_seconds: 1" });
  writeFileSync(hub.inbox, "a file where the folder should be");
  await hub.addHost("web-1");
  await hub.up();
  await hub.report();
  await until("offline", () => statuses(hub)["web-1"] === "offline");
  await hub.daemon.said("pass failed");
  await hub.daemon.kill("SIGKILL");
  renameSync(hub.inbox, `${hub.inbox}.away`);
  await hub.up();
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 2);
  await hub.daemon.kill("SIGKILL");
  const db = new Database(join(hub.data, "receiver.db"));
  db.run("UPDATE events SET told_at = NULL");
  db.close();
  await hub.up();
  const untold = () => hub.rows<{ n: number }>("SELECT COUNT(*) AS n FROM events WHERE told_at IS NULL")[0]!.n;
  await until("it is noted", () => untold() === 0);
  expect(inboxLines(hub.inbox, "ops").length).toBe(2);
}, 60_000);
