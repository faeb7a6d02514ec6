// One drop, however its file is touched between two looks: what a real producer does within microseconds, here between two
// given steps. The folder as a whole is tested through the collector (collector.test.ts, e2e/syncthing.test.ts).

import { expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { DropFolder } from "../../lib/collector/drop-folder.ts";
import { createLog } from "../../lib/log.ts";
import { Folder, inboxLines, startRole, until } from "../kit.ts";

const DROP = '{"recipient":"bob","type":"INFO","payload":"x"}';
const OTHER = '{"recipient":"bob","type":"INFO","payload":"y"}';

/** A drop folder with one drop in it; `during` happens between its delivery and its deletion. */
function dropped(
  folder: Folder,
  { now = Date.now, during = (_path: string) => {}, content = DROP, settleMs = 0 } = {},
) {
  mkdirSync(folder.at("in"), { recursive: true });
  const path = folder.write("in/a.json", content);
  const ids: string[] = [];
  const drops = new DropFolder({
    path: folder.at("in"),
    settleMs,
    agent: "foreman",
    log: createLog({ role: "collector", json: false, level: "error", write: () => {} }),
    now,
    deliver(event) {
      ids.push(event.id);
      if (ids.length === 1) during(path);
      return Promise.resolve();
    },
  });
  return {
    path,
    ids,
    pass: (alive = () => {}) => drops.pass(alive, () => {}, new AbortController().signal),
    left: () => readdirSync(folder.at("in")).filter((name) => !name.startsWith(".")),
    [Symbol.dispose]: () => drops.close(),
  };
}

test("a drop that gets its mtime while it is delivered is one drop", async () => {
  using folder = new Folder();
  using drop = dropped(folder, { during: (path) => utimesSync(path, 1_700_000_000, 1_700_000_000) });
  await drop.pass();
  await drop.pass();
  expect(drop.ids.length).toBe(1);
  expect(drop.left()).toEqual([]);
});

test("one that is written over meanwhile is another, and stays for the next pass", async () => {
  using folder = new Folder();
  // With an mtime of its own: two writes within one tick of the kernel's clock may have the same.
  const over = (path: string) => {
    writeFileSync(path, OTHER);
    utimesSync(path, 1_700_000_000, 1_700_000_000);
  };
  using drop = dropped(folder, { during: over });
  await drop.pass();
  expect(drop.left()).toEqual(["a.json"]);
  await drop.pass();
  expect(new Set(drop.ids).size).toBe(2);
  expect(drop.left()).toEqual([]);
});

test("one that still grows isn't judged, however long that takes, and is delivered when it is whole", async () => {
  using folder = new Folder();
  const [settleMs, piece] = [5, 10];
  using drop = dropped(folder, { content: "", settleMs });
  for (let at = 0; at < DROP.length; at += piece) {
    await drop.pass();
    expect(drop.left()).toEqual(["a.json"]);
    // Each look finds it changed since the last one, which was longer ago than it has to be still.
    appendFileSync(drop.path, DROP.slice(at, at + piece));
    await Bun.sleep(2 * settleMs);
  }
  await drop.pass();
  expect([drop.ids.length, drop.left(), existsSync(folder.at("in", ".dead-letter"))]).toEqual([1, [], false]);
});

test("where Syncthing is, a file that changed just now waits for its mtime; elsewhere it is taken at once", async () => {
  using folder = new Folder();
  // The clock of the drop folder stands at the file's last change.
  let now = 0;
  using drop = dropped(folder, { now: () => now });
  now = Math.ceil(statSync(drop.path).ctimeMs);
  mkdirSync(folder.at(".stfolder"));
  const next = await drop.pass();
  expect(drop.left()).toEqual(["a.json"]);
  now += next!;
  await drop.pass();
  expect(drop.left()).toEqual([]);
  rmSync(folder.at(".stfolder"), { recursive: true });
  writeFileSync(drop.path, OTHER);
  now = Math.ceil(statSync(drop.path).ctimeMs);
  await drop.pass();
  expect(drop.left()).toEqual([]);
  expect(drop.ids.length).toBe(2);
});

test("one that is held back until the inbox is tried again is tried again, also when that time comes during the pass", async () => {
  using folder = new Folder();
  let isFull = true;
  const full = () => {
    if (isFull) throw new Error("no space left on the device");
  };
  using drop = dropped(folder, { during: full });
  const backoff = (await drop.pass())!;
  isFull = false;
  const next = await drop.pass(() => Bun.sleepSync(backoff + 100));
  expect(drop.left()).toEqual(["a.json"]);
  expect(next).not.toBeNull();
  await drop.pass();
  expect(drop.left()).toEqual([]);
});

test("one that can't be deleted is delivered once, others go on, and it goes when it can", async () => {
  using folder = new Folder();
  mkdirSync(folder.at("in"));
  const stuck = folder.write("in/stuck.json", DROP);
  const immutable = (sign: "+" | "-") => Bun.spawnSync(["chattr", `${sign}i`, stuck]).exitCode === 0;
  if (Bun.which("chattr") === null || !immutable("+")) {
    console.log("skipped: a drop that can't be deleted: needs root, chattr and a file system that has it");
    return;
  }
  try {
    const config = folder.write(
      "collector.yaml",
      // What is forgotten at once would be delivered by each pass.
      `agent: a\ninbox_dir: ${folder.at("inbox")}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: 0 }\ndrop_folder: { path: ${folder.at("in")}, poll_fallback_seconds: 1 }\n`,
    );
    await using daemon = await startRole("collector", ["--config", config]);
    await daemon.said(/not deleted: it stays, and is not delivered again.*stuck\.json/);
    for (const name of ["b", "c", "d"]) {
      folder.write(`in/.${name}`, JSON.stringify({ recipient: name, type: "INFO", payload: name }));
      renameSync(folder.at("in", `.${name}`), folder.at("in", `${name}.json`));
      await until(`${name} is delivered`, () => inboxLines(folder.at("inbox"), name).length === 1);
    }
    expect(immutable("-")).toBe(true);
    await until("it is deleted", () => !existsSync(stuck));
    expect(inboxLines(folder.at("inbox"), "bob").length).toBe(1);
  } finally {
    immutable("-");
  }
});
