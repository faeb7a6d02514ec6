// The outbox: told in order, at least once; an inbox takes each event once. By itself, and through a receiver and its store.

import { describe, expect, test } from "bun:test";
import { renameSync, writeFileSync } from "node:fs";
import { createLog } from "../lib/log.ts";
import { type Untold, createOutbox, derivedId } from "../lib/outbox.ts";
import { IN_TABLES, inboxesIn } from "./inbox-kit.ts";
import { Folder, inboxLines, until } from "./kit.ts";
import { Hub, statuses } from "./receiver/kit.ts";

const log = createLog({ role: "test", json: false, level: "error", write: () => {} });
const alive = () => {};
const failure = (pass: Promise<void>) =>
  pass.then(
    () => null,
    (error: Error) => error.message,
  );

/** A source of these events, with its mark in memory. */
function sourceOf(texts: string[]) {
  const source = {
    told: 0,
    /** Called before each mark. */
    beforeMark: (_text: string): void => {},
    untold: async (): Promise<Untold[]> =>
      texts.slice(source.told, source.told + 2).map((text) => ({
        event: {
          id: derivedId(text),
          ts: new Date().toISOString(),
          urgent: text === "urgent",
          text,
          source: `test:${text}`,
        },
        mark: async () => {
          source.beforeMark(text);
          source.told = texts.indexOf(text) + 1;
        },
      })),
  };
  return source;
}

describe("an outbox and an inbox", () => {
  const payloads = (folder: Folder) => inboxLines(folder.at("inbox"), "ops").map(({ payload }) => payload);
  const start = (folder: Folder, { untold }: ReturnType<typeof sourceOf>, recipient = "ops") => {
    const outbox = createOutbox({ inbox_dir: folder.at("inbox"), recipient }, { from: "me", log });
    return { close: () => outbox.close(), pass: () => outbox.pass(untold, alive) };
  };

  test("each event is a line, in order", async () => {
    using folder = new Folder();
    const source = sourceOf(["one", "urgent", "three"]);
    const outbox = start(folder, source);
    await outbox.pass();
    await outbox.close();
    expect(source.told).toBe(3);
    expect(inboxLines(folder.at("inbox"), "ops")).toEqual(
      ["one", "urgent", "three"].map((text) => ({
        ts: expect.any(String),
        id: derivedId(text),
        from: "me",
        to: "ops",
        type: "INFO",
        priority: text === "urgent" ? "urgent" : "normal",
        payload: text,
        source: `test:${text}`,
      })),
    );
  });

  test("killed between telling and marking it tells again, and the inbox takes it once", async () => {
    using folder = new Folder();
    const source = sourceOf(["one", "two", "three"]);
    for (const text of ["one", "two", "three"]) {
      // Each life ends when its event was told and is not marked.
      source.beforeMark = (marked) => {
        if (marked === text) throw new Error("killed");
      };
      const outbox = start(folder, source);
      expect(await failure(outbox.pass())).toBe("killed");
      await outbox.close();
    }
    source.beforeMark = () => {};
    const outbox = start(folder, source);
    await outbox.pass();
    await outbox.close();
    expect(source.told).toBe(3);
    expect(payloads(folder)).toEqual(["one", "two", "three"]);
  });

  test("an inbox that can't be written delays events, loses none and keeps their order", async () => {
    using folder = new Folder();
    writeFileSync(folder.at("inbox"), "a file where the folder should be");
    const source = sourceOf(["one", "two", "three"]);
    const outbox = start(folder, source);
    for (let times = 0; times < 3; times++) expect(await failure(outbox.pass())).toBe("tell the inbox");
    expect(source.told).toBe(0);
    renameSync(folder.at("inbox"), folder.at("away"));
    await outbox.pass();
    await outbox.close();
    expect(payloads(folder)).toEqual(["one", "two", "three"]);
  });

  test("a pass whose outbox is closed ends after its present event: another outbox tells the rest", async () => {
    using folder = new Folder();
    const source = sourceOf(["one", "two", "three"]);
    const former = start(folder, source);
    let closing: Promise<void> | undefined;
    source.beforeMark = () => void (closing ??= former.close());
    await former.pass();
    await closing;
    expect(payloads(folder)).toEqual(["one"]);
    const next = start(folder, source, "others");
    await next.pass();
    await next.close();
    expect(inboxLines(folder.at("inbox"), "others").map(({ payload }) => payload)).toEqual(["two", "three"]);
  });

  test("without an inbox events count as told", async () => {
    const source = sourceOf(["one", "two"]);
    await createOutbox(undefined, { from: "me", log }).pass(source.untold, alive);
    expect(source.told).toBe(2);
  });
});

test("a receiver whose inbox can't be written delays what is told and loses nothing; what was told but not noted is not told twice", async () => {
  await using hub = new Hub({ more: "poll_interval_seconds: 1" });
  const sql = (text: string) => inboxesIn(hub.folder).sql(text);
  if (IN_TABLES) sql("ALTER TABLE inbox RENAME TO elsewhere");
  else writeFileSync(hub.inbox, "a file where the folder should be");
  await hub.addHost("web-1");
  await hub.up();
  await hub.report();
  await until("offline", () => statuses(hub)["web-1"] === "offline");
  await hub.daemon.said("pass failed");
  await hub.daemon.kill("SIGKILL");
  if (IN_TABLES) sql("ALTER TABLE elsewhere RENAME TO inbox");
  else renameSync(hub.inbox, `${hub.inbox}.away`);
  await hub.up();
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 1);
  await hub.daemon.kill("SIGKILL");
  hub.change((db) => db.run("UPDATE events SET told_at = NULL"));
  await hub.up();
  const untold = () => hub.rows<{ n: number }>("SELECT COUNT(*) AS n FROM events WHERE told_at IS NULL")[0]!.n;
  await until("it is noted", () => untold() === 0);
  expect(inboxLines(hub.inbox, "ops").length).toBe(1);
});
