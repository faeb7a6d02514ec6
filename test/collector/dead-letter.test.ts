// Dead letters: their names, their reasons, and files that can't be moved.

import { expect, test } from "bun:test";
import { chmodSync, chownSync, existsSync, readFileSync, readdirSync } from "node:fs";
import { AS_NOBODY, NOBODY, configuration, isRoot } from "./kit.ts";
import { Folder, have, startRole, until } from "../kit.ts";

test("a dead letter's reason has no control characters and no lines from the file's name or content", async () => {
  using folder = new Folder();
  await using daemon = await startRole("collector", ["--config", configuration(folder)]);
  await daemon.url();
  const name = "a\u001b[31m\nwhen:  never.json";
  folder.write(`drops/${name}`, JSON.stringify({ type: "\u001b]0;title\u0007", "\u001b[2J": 1 }));
  const reason = folder.at("drops", ".dead-letter", `${name}.reason`);
  await until("it is a dead letter", () => existsSync(folder.at("drops", ".dead-letter", name)));
  const lines = readFileSync(reason, "utf8").split("\n");
  expect(lines.map((line) => line.slice(0, 7))).toEqual(["what:  ", "where: ", "when:  ", ""]);
  expect(lines.join("")).not.toMatch(/\p{Cc}/u);
  expect(lines[1]).toContain("a\\u001b[31m\\u000awhen:  never.json");
});

const isRootWithSetpriv = isRoot && have("setpriv", "a file that can't be moved");

if (!isRoot) console.log("skipped: a file that can't be moved: needs root, for a file of another account");

test.skipIf(!isRootWithSetpriv)("a file that can't be moved leaves no reasons behind", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  chownSync(folder.path, NOBODY, NOBODY);
  // As in /tmp: every account may put files there, and none may move another's.
  chmodSync(folder.at("drops"), 0o1777);
  folder.write("drops/bad.json", "not JSON");
  await using daemon = await startRole("collector", ["--config", file], { wrap: AS_NOBODY });
  await daemon.url();
  await until("two failures", () => daemon.log.filter((line) => line.includes("file=bad.json")).length >= 2);
  expect(readdirSync(folder.at("drops", ".dead-letter"))).toEqual([]);
  chownSync(folder.at("drops", "bad.json"), NOBODY, NOBODY);
  await until("it is moved", () => readdirSync(folder.at("drops", ".dead-letter")).length === 2);
});
