// One watcher a recipient, and whether it is alive. Not tested: a machine without libc.

import { expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { becomeWatcher, watcherOf } from "../lib/watcher.ts";
import { Folder } from "./kit.ts";

const MODULE = join(import.meta.dir, "../lib/watcher.ts");

test("a recipient has one watcher at a time; the file goes with it", async () => {
  using folder = new Folder();
  const bob = { dir: folder.at("inbox"), recipient: "bob" };
  expect(watcherOf(bob)).toBeNull();
  const end = await becomeWatcher(bob);
  expect(watcherOf(bob)).toBe(process.pid);
  expect(readFileSync(folder.at("inbox", ".bob.watcher-active"), "utf8")).toBe(`${process.pid}\n`);
  expect(await becomeWatcher(bob)).toBeNull();
  const ops = await becomeWatcher({ ...bob, recipient: "ops" });
  ops!();
  end!();
  expect(watcherOf(bob)).toBeNull();
  expect(existsSync(folder.at("inbox", ".bob.watcher-active"))).toBe(false);
});

test("a watcher that was killed silences no hook, whatever process has its id now", async () => {
  using folder = new Folder();
  const bob = { dir: folder.path, recipient: "bob" };
  const script = `const { becomeWatcher } = await import(${JSON.stringify(MODULE)});
    await becomeWatcher(${JSON.stringify(bob)}); console.log("holds it"); await Bun.sleep(1e6);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
  await child.stdout.getReader().read();
  expect(watcherOf(bob)).toBe(child.pid);
  child.kill("SIGKILL");
  await child.exited;
  expect(existsSync(folder.at(".bob.watcher-active"))).toBe(true);
  folder.write(".bob.watcher-active", `${process.pid}\n`);
  expect(watcherOf(bob)).toBeNull();
  const end = await becomeWatcher(bob);
  expect(watcherOf(bob)).toBe(process.pid);
  end!();
});
