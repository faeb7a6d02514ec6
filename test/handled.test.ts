import { expect, test } from "bun:test";
import { appendFileSync, mkdirSync, renameSync } from "node:fs";
import { handledOf } from "../lib/handled.ts";
import { Folder } from "./kit.ts";

test("what one process adds the others see, whatever happens to the file", async () => {
  using folder = new Folder();
  mkdirSync(folder.at(".picket"));
  const of = { dir: folder.path, recipient: "bob" };
  const file = folder.at(".picket", "bob.handled");
  const [one, other] = [handledOf(of), handledOf(of)];
  expect(other.has("a")).toBe(false);
  await one.add("a", { by: "ack" });
  await other.add("b", { by: "mark_handled", note: "no\nneed" });
  for (const handled of [one, other, handledOf(of)])
    expect(["a", "b", "c"].map((id) => handled.has(id))).toEqual([true, true, false]);
  expect(handledOf({ ...of, recipient: "ann" }).has("a")).toBe(false);
  // A line of a process that is still writing, and one that is none.
  appendFileSync(file, 'rubbish\nnull\n{"id":"c"');
  expect(one.has("c")).toBe(false);
  appendFileSync(file, "}\n");
  expect(one.has("c")).toBe(true);
  renameSync(file, `${file}.old`);
  expect(one.has("a")).toBe(false);
  await other.add("d", { by: "ack" });
  expect([one.has("a"), one.has("d")]).toEqual([false, true]);
});

test("of a long journal the end can do", () => {
  using folder = new Folder();
  mkdirSync(folder.at(".picket"));
  const lines = Array.from({ length: 100 }, (_, n) => `{"id":"event-${n}"}\n`);
  folder.write(".picket/bob.handled", lines.join(""));
  const end = handledOf({ dir: folder.path, recipient: "bob" }, 1000);
  expect(lines.findIndex((_, n) => end.has(`event-${n}`))).toBe(45);
  folder.write(".picket/bob.handled", `${lines.join("")}{"id":"more"}\n`);
  expect([end.has("event-99"), end.has("more"), end.has("event-0")]).toEqual([true, true, false]);
});
