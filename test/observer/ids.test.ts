// The ids that were recorded: what is remembered, what is forgotten, and that a snapshot carries them.

import { expect, test } from "bun:test";
import { RecentIds } from "../../lib/observer/ids.ts";

test("the newest million are remembered, and after two million the oldest are forgotten", () => {
  const ids = new RecentIds();
  for (let n = 0; n < 2_000_001; n++) ids.add(`op-${n}`);
  expect(ids.has("op-2000000")).toBe(true);
  expect(ids.has("op-1000001")).toBe(true);
  expect(ids.has("op-0")).toBe(false);
  expect(ids.has("op-2000001")).toBe(false);
});

test("a snapshot carries them", () => {
  const ids = new RecentIds();
  for (let n = 0; n < 1000; n++) ids.add(`op-${n}`);
  const copy = new RecentIds();
  copy.import(ids.export());
  for (let n = 0; n < 1000; n++) expect(copy.has(`op-${n}`)).toBe(true);
  expect(copy.has("op-1000")).toBe(false);
});

test("a snapshot of 0.1.0 is read, and one that was cut off is read as far as it goes", () => {
  const written = "/BjeFPzwI381o0PlWNO8SGCTGXSWJ5tZ";
  const ids = new RecentIds();
  ids.import(written);
  expect(["op-1", "op-2", "ü"].map((id) => ids.has(id))).toEqual([true, true, true]);
  const cut = new RecentIds();
  cut.import(written.slice(0, 12));
  expect(["op-1", "op-2", "ü"].filter((id) => cut.has(id))).toEqual(["op-2"]);
});
