// What a collector remembers of deliveries over days, with a clock that the test sets: through the writer of inboxes, for no
// program is started for days.

import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { InboxWriter, completeEvent } from "../lib/inbox.ts";
import { Folder, inboxLines } from "./kit.ts";

const HOUR = 3_600_000;

test("an id is remembered for its hours, across a start too; old files of ids go, and one that can't go harms nothing", async () => {
  using folder = new Folder();
  let now = Date.parse("2026-01-31T01:00:00Z");
  const errors: Error[] = [];
  const open = async () => {
    const writer = new InboxWriter({
      dir: folder.path,
      durability: "os",
      dedupeHours: 24,
      now: () => now,
      onLedgerError: (error) => errors.push(error),
    });
    await writer.open();
    return writer;
  };
  const deliver = (writer: InboxWriter, id: string) =>
    writer.deliverOnce({
      ...completeEvent({ from: "a", to: "bob", type: "INFO", priority: "normal", payload: id, source: "webhook:/x" }),
      ts: new Date(now).toISOString(),
      id,
    });
  const files = () => readdirSync(folder.at(".picket")).filter((name) => name.startsWith("delivered-"));
  let writer = await open();
  expect([await deliver(writer, "a"), await deliver(writer, "a")]).toEqual(["written", "already"]);
  now += 23.9 * HOUR;
  await writer.close();
  writer = await open();
  expect(await deliver(writer, "a")).toBe("already");
  now += 0.2 * HOUR;
  expect(await deliver(writer, "a")).toBe("written");
  // A folder of that name is nobody's: it can't be removed, and no delivery fails of it.
  mkdirSync(folder.at(".picket", "delivered-20260101T000000Z.jsonl"));
  writeFileSync(folder.at(".picket", "delivered-20260102T000000Z.jsonl"), "");
  for (const day of [1, 2, 3, 4]) {
    now += 24 * HOUR;
    expect(await deliver(writer, `on day ${day}`)).toBe("written");
  }
  await writer.close();
  expect(files().toSorted()).toEqual([
    "delivered-20260101T000000Z.jsonl",
    "delivered-20260204T000000Z.jsonl",
    "delivered-20260205T000000Z.jsonl",
  ]);
  expect(errors.length).toBeGreaterThan(0);
  expect(inboxLines(folder.path, "bob").map(({ payload }) => payload)).toEqual([
    "a",
    "a",
    "on day 1",
    "on day 2",
    "on day 3",
    "on day 4",
  ]);
});
