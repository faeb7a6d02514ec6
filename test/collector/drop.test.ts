// What files of the drop folder become, through the collector: events, a dead letter with its reason, or a line in the log.

import { expect, test } from "bun:test";
import {
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmdirSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { hasLibc } from "../../lib/ffi.ts";
import { IN_TABLES } from "../inbox-kit.ts";
import { Folder, have, startRole, until } from "../kit.ts";
import { AS_NOBODY, NOBODY, configuration, drop, isRoot, payloads } from "./kit.ts";

const one = (payload: string, more = "") => `{"recipient":"bob","type":"INFO","payload":"${payload}"${more}}`;

/** A file's name and content, and the payloads it becomes, or the reason why it is a dead letter. */
const FILES: [string, string | Uint8Array, string[] | string][] = [
  ["mark.json", `\ufeff${one("a byte order mark")}`, ["a byte order mark"]],
  ["wide.json", Buffer.from(`\ufeff${one("größe 😀")}`, "utf16le"), ["größe 😀"]],
  ["wide-be.json", Buffer.from(`\ufeff${one("big")}`, "utf16le").swap16(), ["big"]],
  ["upper.JSON", one("upper"), ["upper"]],
  ["zeros.json", one("padded") + "\0".repeat(4000), ["padded"]],
  ["nulls.json", one("nulls", ',"priority":null,"sentinel":null'), ["nulls"]],
  ["list.json", `[${one("first")},\n${one("second")}]`, ["first", "second"]],
  ["list-of-one.json", `[${one("alone")}]`, ["alone"]],
  ["lines.json", `${one("line 1")}\r\n\r\n${one("line 2")}\n${one("line 1")}`, ["line 1", "line 2", "line 1"]],
  ["wide-lines.json", Buffer.from(`\ufeff${one("w1")}\r\n${one("w2")}\r\n`, "utf16le"), ["w1", "w2"]],
  ["none.json", "[]", "a list without a drop"],
  ["nested.json", `[[${one("x")}]]`, "[0]: a drop is {"],
  ["bad-item.json", `[${one("no")},{"recipient":"bob"}]`, '[1]: "type" is missing; [1]: "payload" is missing'],
  ["bad-line.json", `${one("no")}\n\n${one("no", ",")}`, "line 3: not JSON"],
  ["comma.json", one("no", ","), "what:  not JSON"],
  ["number.json", "5", 'a drop is {"recipient","type","payload"}, found "5"'],
  [
    "type.json",
    '{"recipient":"bob","type":"info","payload":"x"}',
    '"type" is "info", expected one of INFO, NEEDS-RESPONSE',
  ],
  ["payload.json", '{"recipient":"bob","type":"INFO","payload":{"a":1}}', '"payload" is a mapping, expected text'],
  ["priority.json", one("no", ',"priority":"high"'), '"priority" is "high", expected normal or urgent'],
  [
    "name.json",
    '{"recipient":"bob@example.org","type":"INFO","payload":"x"}',
    '"recipient" is "bob@example.org", expected a name',
  ],
  [
    "typo.json",
    '{"recipent":"bob","type":"INFO","payload":"x"}',
    '"recipient" is missing; "recipent" is unknown, did you mean "recipient"?',
  ],
  [
    "event.json",
    '{"ts":"x","to":"bob","type":"INFO","payload":"x"}',
    '"recipient" is missing; "ts" is unknown; "to" is unknown',
  ],
  ["proto.json", one("no", ',"__proto__":{}'), '"__proto__" is unknown'],
  ["many.json", `[${Array.from({ length: 1000 }, () => '{"type":"INFO","payload":"x"}').join(",")}]`, "; and 990 more"],
];

test("a file becomes its events, or a dead letter whose reason names each wrong field", async () => {
  using folder = new Folder();
  await using daemon = await startRole("collector", ["--config", configuration(folder)]);
  await daemon.url();
  for (const [name, content] of FILES) renameSync(folder.write("staged", content), folder.at("drops", name));
  await until("no file is left", () => readdirSync(folder.at("drops")).every((name) => name.startsWith(".")));
  const expected = FILES.flatMap(([, , becomes]) => (Array.isArray(becomes) ? becomes : []));
  expect(payloads(folder, "bob").map(String).toSorted()).toEqual(expected.toSorted());
  for (const [name, , becomes] of FILES) {
    if (typeof becomes !== "string") continue;
    const reason = readFileSync(folder.at("drops", ".dead-letter", `${name}.reason`), "utf8");
    expect([name, reason]).toEqual([name, expect.stringContaining(becomes)]);
  }
});

test.skipIf(IN_TABLES)(
  "a file of several drops that waits for one of their inboxes repeats no event, also after a crash",
  async () => {
    using folder = new Folder();
    const file = configuration(folder);
    mkdirSync(folder.at("inbox", "eve.inbox"), { recursive: true });
    const lines = [one("1"), one("for eve").replace("bob", "eve"), one("2"), one("1")];
    renameSync(folder.write("staged", lines.join("\n")), folder.at("drops", "a.json"));
    for (let crash = 0; crash < 2; crash++) {
      await using daemon = await startRole("collector", ["--config", file]);
      await daemon.said("drops stay: the inbox can't be written recipient=eve");
      await daemon.said("drops stay: the inbox can't be written recipient=eve retry_in_seconds=2");
      expect(existsSync(folder.at("drops", "a.json"))).toBe(true);
      await daemon.kill("SIGKILL");
    }
    rmdirSync(folder.at("inbox", "eve.inbox"));
    await using daemon = await startRole("collector", ["--config", file]);
    await daemon.url();
    await until("the file is gone", () => !existsSync(folder.at("drops", "a.json")));
    expect(payloads(folder, "bob")).toEqual(["1", "2", "1"]);
    expect(payloads(folder, "eve")).toEqual(["for eve"]);
  },
);

if (!hasLibc()) console.log("skipped: files that are open for writing: needs libc");

test.skipIf(!hasLibc())(
  "a file isn't rejected while a program writes it, and files with other names are logged once",
  async () => {
    using folder = new Folder();
    await using daemon = await startRole("collector", ["--config", configuration(folder)]);
    await daemon.url();
    folder.write("drops/readme.txt", "x");
    folder.write("drops/part.json.tmp", "x");
    const files = ["one.json", "lines.json", "line.json"].map((name) => ({
      name,
      fd: openSync(folder.at("drops", name), "w"),
    }));
    writeSync(files[0]!.fd, one("slow upload").slice(0, 20));
    // What is there is complete, but it is no file yet.
    writeSync(files[1]!.fd, `${one("first")}\n${one("second")}\n`);
    writeSync(files[2]!.fd, `${one("a first line")}\n`);
    for (const { name } of files) await daemon.said(`a program has it open for writing file=${name}`);
    writeSync(files[0]!.fd, one("slow upload").slice(20));
    writeSync(files[1]!.fd, `${one("third")}\n`);
    writeSync(files[2]!.fd, `${one("a second line")}\n`);
    for (const { fd } of files) closeSync(fd);
    await until("they are delivered", () => payloads(folder, "bob").length === 6);
    expect(payloads(folder, "bob").map(String).toSorted()).toEqual([
      "a first line",
      "a second line",
      "first",
      "second",
      "slow upload",
      "third",
    ]);
    expect(existsSync(folder.at("drops", ".dead-letter"))).toBe(false);
    folder.write("drops/other.txt", "x");
    await daemon.said("files=other.txt");
    expect(daemon.log.filter((line) => line.includes("the name of a drop ends in .json"))).toHaveLength(2);
    expect(daemon.log.join("\n")).not.toContain(".tmp");
  },
);

const asAnother = isRoot && have("setpriv", "a file of another account");
if (!isRoot) console.log("skipped: a file of another account: needs root");

test.skipIf(!asAnother)("a line of another account's file may be the first of several", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  writeFileSync(file, readFileSync(file, "utf8").replace("settle_ms: 50", "settle_ms: 600000"));
  for (const path of [folder.path, folder.at("drops")]) chownSync(path, NOBODY, NOBODY);
  await using daemon = await startRole("collector", ["--config", file], { wrap: AS_NOBODY });
  await daemon.url();
  folder.write("drops/a.json", `${one("a first line")}\n`);
  drop(folder, "b.json", "bob");
  await until("the younger one is delivered", () => payloads(folder, "bob").length > 0);
  expect(payloads(folder, "bob")).toEqual(["b.json"]);
});
