// One drop, however its file is touched between two looks: what a real producer does within microseconds, here between two
// given steps. The folder as a whole is tested through the collector (collector.test.ts, e2e/syncthing.test.ts).

import { expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { DropFolder } from "../../lib/collector/drop-folder.ts";
import { createLog } from "../../lib/log.ts";
import { configuration, drop, payloads } from "./kit.ts";
import { IN_TABLES, inboxesIn } from "../inbox-kit.ts";
import { Folder, inboxLines, runRole, startRole, until } from "../kit.ts";

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
    stateFolder: folder.at("state"),
    settleMs: () => settleMs,
    figures: { delivered: 0, dead_letters: 0, waiting: 0, errors: 0 },
    log: createLog({ role: "collector", json: false, level: "error", write: () => {} }),
    now,
    delivered: { remember: () => {}, rememberedAt: () => undefined },
    deliver(_drop, { id }) {
      ids.push(id);
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

test("a drop that is overwritten while it is delivered is another drop, which the next pass delivers", async () => {
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

test("a drop that grows is neither rejected nor delivered until it is whole, however long that takes", async () => {
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

test("in a Syncthing folder a file that has just changed waits for its mtime; elsewhere it is delivered at once", async () => {
  using folder = new Folder();
  // The clock of the drop folder stands at the file's last change.
  let now = 0;
  using drop = dropped(folder, { now: () => now });
  now = Math.ceil(statSync(drop.path).ctimeMs);
  mkdirSync(folder.at(".stfolder"));
  const next = await drop.pass();
  expect(drop.left()).toEqual(["a.json"]);
  now += next;
  await drop.pass();
  expect(drop.left()).toEqual([]);
  rmSync(folder.at(".stfolder"), { recursive: true });
  writeFileSync(drop.path, OTHER);
  now = Math.ceil(statSync(drop.path).ctimeMs);
  await drop.pass();
  expect(drop.left()).toEqual([]);
  expect(drop.ids.length).toBe(2);
});

test("a drop that waits for its inbox is retried, also if its pause ends during a pass", async () => {
  using folder = new Folder();
  let isFull = true;
  const full = () => {
    if (isFull) throw new Error("no space left on the device");
  };
  using drop = dropped(folder, { during: full });
  const backoff = await drop.pass();
  isFull = false;
  const next = await drop.pass(() => Bun.sleepSync(backoff + 100));
  expect(drop.left()).toEqual(["a.json"]);
  expect(next).toBeFinite();
  await drop.pass();
  expect(drop.left()).toEqual([]);
});

test("a drop that can't be deleted is delivered once, delays no other, and is deleted when it can be", async () => {
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
      `agent: a\n${inboxesIn(folder).yaml}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: 0 }\ndrop_folder: { path: ${folder.at("in")}, poll_fallback_seconds: 1 }\n`,
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

test("a drop that a killed collector delivered isn't delivered again, however short deliveries are remembered", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  const isTaken = () => readdirSync(folder.at("drops")).every((name) => name.startsWith("."));
  {
    await using daemon = await startRole("collector", ["--config", file]);
    await daemon.url();
    drop(folder, "a.json", "bob", 1_700_000_000);
    await until("it is delivered", () => payloads(folder, "bob").length === 1 && isTaken());
    await daemon.kill("SIGKILL");
  }
  // As if it had been killed before deleting it.
  drop(folder, "a.json", "bob", 1_700_000_000);
  drop(folder, "b.json", "bob", 1_700_000_001);
  await using daemon = await startRole("collector", ["--config", file]);
  await daemon.url();
  await until("both are taken", isTaken);
  expect(payloads(folder, "bob")).toEqual(["a.json", "b.json"]);
  expect(existsSync(folder.at("drops", ".dead-letter"))).toBe(false);
});

test("a file that Syncthing brings again with another mtime is the same drop, also after a restart; one written later is another drop", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  writeFileSync(file, readFileSync(file, "utf8").replace("dedupe_hours: 0", "dedupe_hours: 24"));
  mkdirSync(folder.at("drops", ".stfolder"));
  const isTaken = () => readdirSync(folder.at("drops")).every((name) => name.startsWith("."));
  {
    await using daemon = await startRole("collector", ["--config", file]);
    await daemon.url();
    drop(folder, "a.json", "bob");
    await until("it is delivered", () => payloads(folder, "bob").length === 1 && isTaken());
    drop(folder, "a.json", "bob", 1_700_000_000);
    await until("what was brought again is taken", isTaken);
    await daemon.kill("SIGTERM");
  }
  await using daemon = await startRole("collector", ["--config", file]);
  await daemon.url();
  drop(folder, "a.json", "bob", 1_700_000_001);
  await until("what was brought again after the restart is taken", isTaken);
  drop(folder, "b.json", "bob", 1_700_000_001);
  drop(folder, "a.json", "bob");
  await until("the others are delivered", () => payloads(folder, "bob").length === 3 && isTaken());
  expect(payloads(folder, "bob").filter((name) => name === "a.json")).toHaveLength(2);
});

test.skipIf(IN_TABLES)(
  "drops for others don't wait for an inbox that can't be written, nor for a file that can't be moved",
  async () => {
    using folder = new Folder();
    mkdirSync(folder.at("inbox", "bob.inbox"), { recursive: true });
    const file = configuration(folder, "");
    folder.write("drops/.dead-letter", "not a folder");
    await using daemon = await startRole("collector", ["--config", file]);
    await daemon.url();
    drop(folder, "1.json", "bob");
    folder.write("drops/bad.json", "not JSON");
    await daemon.said("drops stay: the inbox can't be written recipient=bob");
    await daemon.said("moved to .dead-letter file=bad.json");
    // The pauses grow: a recipient that had to wait for bob's, too, would come after his next failure.
    const failures = () => daemon.log.filter((line) => line.includes("recipient=bob")).length;
    await until("the third failure", () => failures() >= 3);
    const before = failures();
    drop(folder, "2.json", "eve");
    await until("eve's is delivered", () => payloads(folder, "eve").length === 1);
    expect(failures()).toBe(before);
    rmSync(folder.at("inbox", "bob.inbox"), { recursive: true });
    await daemon.said(/drops go on: the inbox can be written again recipient=bob/);
    rmSync(folder.at("drops", ".dead-letter"));
    await until("the bad one is moved", () => existsSync(folder.at("drops", ".dead-letter", "bad.json")));
    expect(payloads(folder, "bob")).toEqual(["1.json"]);
  },
);

test("a second collector for the same drop folder doesn't start, and one after a killed one does", async () => {
  using folder = new Folder();
  const file = configuration(folder);
  await using first = await startRole("collector", ["--config", file]);
  await first.url();
  const { code, stderr } = await runRole("collector", ["--config", file]);
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/another picket-collector.*\nhint: is the service running\?/),
  ]);
  await first.kill("SIGKILL");
  await using next = await startRole("collector", ["--config", file]);
  await next.url();
});
