// Following a log that is renamed at the worst moments: each operation once, in its order.
// The command itself, beside a real observer: observer.test.ts.

import { expect, test } from "bun:test";
import { appendFileSync, mkdirSync, renameSync } from "node:fs";
import type { Operation } from "../../lib/observer/operation.ts";
import { LogTail } from "../../lib/observer/tail.ts";
import { Folder } from "../kit.ts";

/** A log that is written and rotated by hand, and what a follower was shown of it. */
function setUp(folder: Folder) {
  const path = folder.at("ops.jsonl");
  const tail = new LogTail(path);
  const shown: string[] = [];
  const show = ({ endpoint }: Operation) => void shown.push(endpoint);
  let segments = 0;
  return {
    tail,
    shown,
    record: (...endpoints: string[]) =>
      appendFileSync(path, endpoints.map((endpoint) => `${JSON.stringify({ endpoint, success: true })}\n`).join("")),
    rotate: () => renameSync(path, folder.at(`ops.${String(++segments).padStart(6, "0")}.jsonl`)),
    newest: async (limit: number) => (await tail.newest(limit)).forEach(show),
    /** `during` is called when the first of what is new is shown. */
    look: async (during: () => void = () => {}) => {
      let told = false;
      await tail.read((operation) => {
        show(operation);
        if (!told) during();
        told = true;
      });
    },
  };
}

test("rotated at once and again after a look at which there was no log", async () => {
  using folder = new Folder();
  const { shown, record, rotate, newest, look } = setUp(folder);
  record("a", "b");
  await newest(1);
  rotate();
  await look();
  record("c");
  rotate();
  record("d");
  await look();
  rotate();
  record("e");
  rotate();
  await look();
  expect(shown).toEqual(["b", "c", "d", "e"]);
});

test("rotated while the rest of the former segment is read", async () => {
  using folder = new Folder();
  const { shown, record, rotate, newest, look } = setUp(folder);
  record("a");
  await newest(5);
  record("b");
  rotate();
  record("c", "d");
  await look(() => {
    record("e");
    rotate();
    record("f");
  });
  await look();
  record("g");
  await look();
  expect(shown).toEqual(["a", "b", "c", "d", "e", "f", "g"]);
});

test("the newest operations also come from the segment before, and never more than the limit", async () => {
  using folder = new Folder();
  const { shown, record, rotate, newest, look } = setUp(folder);
  record("a", "b");
  rotate();
  record("c", "d");
  rotate();
  record("e");
  await newest(2);
  await look();
  expect(shown).toEqual(["d", "e"]);
});

test("no log yet, then one; a folder in its place is named in the error", async () => {
  using folder = new Folder();
  const { tail, shown, record, newest, look } = setUp(folder);
  await newest(3);
  await look();
  record("a");
  await look();
  expect(shown).toEqual(["a"]);
  mkdirSync(folder.at("odd"));
  const odd = new LogTail(folder.at("odd"));
  expect(await odd.newest(1).catch(String)).toContain(`${folder.at("odd")}": not a regular file`);
  expect(await tail.newest(1)).toMatchObject([{ endpoint: "a" }]);
});
