// Episodes that are removed: by name, by age, by quota, by hand; beside uploads, and killed in the middle.

import { expect, test } from "bun:test";
import { renameSync, rmSync, unlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { command, until } from "../kit.ts";
import { Hub, bytesOf, fileOf, filesOf, indexLines } from "./kit.ts";
import { onFile, storeEnv } from "./store-kit.ts";

const ALL_WELL = /, all as the index says\n$/;

async function shipped(hub: Hub, names: string[], host = "web-1"): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const all = new Map(names.map((name) => [name, bytesOf(1000)]));
  for (const [name, bytes] of all) expect((await hub.ship(name, bytes, { host })).status).toBe(201);
  return all;
}

/** Makes episodes so many days old in the index, a file as an editor saves it. */
function age(hub: Hub, days: Record<string, number>): void {
  const path = join(hub.data, "index.jsonl");
  const lines = indexLines(hub).map((line) => {
    const old = days[String(line["episode"])];
    const received_at = new Date(Date.now() - (old ?? 0) * 86_400_000).toISOString();
    return old === undefined ? line : { ...line, received_at };
  });
  if (!onFile) {
    return hub.change((db) => {
      for (const { episode, received_at, ...line } of lines) {
        const values = [String(received_at), JSON.stringify({ received_at, episode, ...line }), String(episode)];
        db.run("UPDATE episodes SET received_at = ?, line = ? WHERE episode = ?", values);
      }
    });
  }
  writeFileSync(`${path}.new`, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  renameSync(`${path}.new`, path);
}

test("removed episodes are noted: `index verify` finds no difference, the same bytes are taken again, others never", async () => {
  await using hub = await Hub.start();
  const all = await shipped(hub, ["one", "two", "three"]);
  const removed = await hub.run("episodes", "rm", "web-1/one", "web-1/two");
  expect([removed.code, removed.stdout]).toEqual([
    0,
    "web-1/one  1000 bytes\nweb-1/two  1000 bytes\n2 episodes removed, 2.0 KB\n",
  ]);
  expect(filesOf(hub)).toEqual(["three.tar.zst"]);
  expect(indexLines(hub).at(-1)).toMatchObject({ episode: "two", size: 1000, removed_at: expect.any(String) });
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: expect.stringMatching(ALL_WELL) });
  expect(await hub.get("/v1/episodes")).toMatchObject({ episodes: [{ episode: "three" }] });
  expect(await hub.get("/health")).toMatchObject({ episodes: 1, episode_bytes: 1000 });
  const again = await hub.run("episodes", "rm", "web-1/one", "--json");
  expect([again.code, JSON.parse(again.stdout)]).toEqual([1, { episodes: [], bytes: 0, removed: true }]);
  expect((await hub.ship("one", bytesOf(1000))).status).toBe(409);
  expect((await hub.ship("one", all.get("one")!)).status).toBe(201);
  expect((await hub.ship("one", all.get("one")!)).status).toBe(200);
  expect((await hub.run("index", "rebuild")).stdout).toBe("nothing was missing\n");
  for (const name of ["web-1", "../x/y", "web-1/a/b"]) expect((await hub.run("episodes", "rm", name)).code).toBe(2);
  // A file that was brought back by hand. An object of a removed episode is swept.
  if (!onFile) return;
  writeFileSync(join(hub.data, "episodes/web-1/two.tar.zst"), all.get("two")!);
  expect((await hub.run("index", "verify")).stdout).toContain(
    "web-1/two: missing line: the index says that it was removed",
  );
  expect((await hub.run("index", "rebuild")).stdout).toContain("web-1/two: line made");
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: expect.stringMatching(ALL_WELL) });
});

test("pruning takes the old, or the oldest above a quota, of one host or all; a dry run nothing", async () => {
  await using hub = await Hub.start({ hosts: ["web-1", "nas"] });
  await shipped(hub, ["a", "b", "c"]);
  await shipped(hub, ["d", "e"], "nas");
  age(hub, { a: 40, b: 20, d: 50, e: 10 });
  const prune = async (...rule: string[]) => {
    const { code, stdout, stderr } = await hub.run("episodes", "prune", "--json", ...rule);
    if (code !== 0) return [code, stderr];
    return (JSON.parse(stdout) as { episodes: { episode: string }[] }).episodes.map(({ episode }) => episode);
  };
  for (const rule of [[], ["--keep", "30"], ["--quota", "much"]]) expect((await prune(...rule))[0]).toBe(2);
  expect(await prune("--keep", "30d", "--dry-run")).toEqual(["d", "a"]);
  expect(await prune("--quota", "2k", "--dry-run")).toEqual(["d", "a", "b"]);
  expect(await prune("--keep", "30d", "--host", "nas")).toEqual(["d"]);
  expect(await prune("--keep", "60d", "--quota", "3k")).toEqual(["a"]);
  expect(await prune("--quota", "1000", "--host", "web-1")).toEqual(["b"]);
  expect([filesOf(hub), filesOf(hub, "nas")]).toEqual([["c.tar.zst"], ["e.tar.zst"]]);
  unlinkSync(fileOf(hub, "c"));
  expect((await hub.run("index", "verify")).stdout).toContain("picket-receiver episodes rm web-1/c");
  expect(await prune("--missing")).toEqual(["c"]);
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: expect.stringMatching(ALL_WELL) });
  rmSync(dirname(fileOf(hub, "e", { host: "nas" })), { recursive: true });
  expect(await prune("--missing")).toEqual([2, expect.stringContaining("is its file system mounted?")]);
});

test("a prune that is killed during uploads is finished by the next one", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  // More than one batch; a bucket takes longer for each.
  const names = Array.from({ length: onFile ? 600 : 250 }, (_, n) => `old-${n}`);
  const bytes = bytesOf(200);
  for (let n = 0; n < names.length; n += 50) {
    await Promise.all(names.slice(n, n + 50).map((name) => hub.ship(name, bytes)));
  }
  expect(indexLines(hub).length).toBe(names.length);
  const cmd = [...(await command("receiver", "source")), "episodes", "prune", "--quota", "0", "--config", hub.config];
  const pruning = Bun.spawn(cmd, { stdout: "ignore", stderr: "ignore", env: { ...process.env, ...storeEnv } });
  // Sent again while they are being removed: each is there with its line afterwards, or gone and noted.
  const again = (async () => {
    for (let n = 0; n < 100; n++) await hub.ship(names[n]!, bytes);
  })();
  await until("some are gone", () => filesOf(hub).length < names.length - 40);
  pruning.kill("SIGKILL");
  await pruning.exited;
  await again;
  expect((await hub.run("episodes", "prune", "--missing")).code).toBe(0);
  // One whose line says that it was removed, where the kill came just before it was added again.
  expect((await hub.run("index", "rebuild")).code).toBe(0);
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: expect.stringMatching(ALL_WELL) });
  expect((await hub.run("episodes", "prune", "--quota", "0")).code).toBe(0);
  // What the kill left in a bucket is swept a day later.
  if (onFile) expect(filesOf(hub)).toEqual([]);
  expect(await hub.get("/health")).toMatchObject({ episodes: 0 });
});
