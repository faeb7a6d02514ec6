// The demonstration, from source, without curl: the story up to its end, and nothing left behind however it ends.

import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, until } from "./kit.ts";

function start(folder: Folder, ...args: string[]) {
  const child = Bun.spawn([process.execPath, join(ROOT, "picket.ts"), "try", ...args], {
    env: { PATH: "/nonexistent", HOME: "/nonexistent", TMPDIR: folder.path, PICKET_URL: "http://127.0.0.1:1" },
    stdout: "pipe",
    stderr: "pipe",
  });
  let out = "";
  void (async () => {
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) out += chunk;
  })();
  return {
    out: () => out,
    err: () => child.stderr.text(),
    says: (text: string) => until(`the demonstration says "${text}"`, () => out.includes(text), 60),
    end: (signal: NodeJS.Signals): Promise<number> => {
      child.kill(signal);
      return child.exited;
    },
    exited: child.exited,
  };
}

test("all four have their part in it; Ctrl-C ends it and leaves nothing behind", async () => {
  using folder = new Folder();
  const demo = start(folder);
  await demo.says("Ctrl-C ends it");
  for (const part of [
    "push to lab/rollouts by mona: refs/heads/main",
    "hello from a file",
    "episode shipped episode=ep-1",
    "web-1 is offline: no report for 8s",
    "backup keeps failing: 3 failures",
  ]) {
    expect(demo.out()).toContain(part);
  }
  const addresses = [...demo.out().matchAll(/running, listening on (\S+)/g)].map(
    ([, address]) => `http://${address}/health`,
  );
  expect(addresses).toHaveLength(3);
  for (const address of addresses) expect((await fetch(address)).status).toBe(200);
  expect(await demo.end("SIGINT")).toBe(130);
  expect(await demo.err()).toBe("");
  for (const address of addresses) expect(await fetch(address).catch(() => "refused")).toBe("refused");
  expect(readdirSync(folder.path)).toEqual([]);
});

test("a signal in the middle of it ends it as well", async () => {
  using folder = new Folder();
  const demo = start(folder, "--once");
  await demo.says("a receiver with one host");
  expect(await demo.end("SIGTERM")).toBe(143);
  expect(readdirSync(folder.path)).toEqual([]);
});

test("a flag that it doesn't know is wrong usage", async () => {
  using folder = new Folder();
  const demo = start(folder, "--twice");
  expect([await demo.exited, await demo.err()]).toEqual([
    2,
    'picket: error: unexpected argument "--twice"\nhint: picket try --help shows how it is called\n',
  ]);
});
