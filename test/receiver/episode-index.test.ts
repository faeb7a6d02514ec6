// The index of all episodes: torn, foreign and repeated lines, a replaced file, rebuilding and verifying.

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { Database } from "bun:sqlite";
import { join } from "node:path";
import { until } from "../kit.ts";
import {
  Hub,
  archive,
  begin,
  bytesOf,
  fileOf,
  filesOf,
  forgetEpisodes,
  indexLines,
  sha256,
  uploadHeaders,
} from "./kit.ts";
import { onFile, testOnFile } from "./store-kit.ts";

type Row = Record<string, unknown>;

/** What doesn't belong into an episodes folder, and what a full one is made of. */
function litter(episodes: string, elsewhere: string, bytes: Uint8Array): void {
  for (const folder of ["lost+found", "web-1/.copy.partial", "web-1/folder.tar.zst"]) {
    mkdirSync(join(episodes, folder), { recursive: true });
  }
  mkdirSync(Buffer.concat([Buffer.from(join(episodes, "w")), Buffer.from([0xff])]));
  symlinkSync("round.tar.zst", join(episodes, "web-1", "round.tar.zst"));
  symlinkSync("round", join(episodes, "round"));
  writeFileSync(join(episodes, "web-1", "two words.tar.zst"), bytes);
  writeFileSync(join(episodes, "web-1", ".left.tar.zst.0123456789ab.partial"), "");
  // A host whose episodes lie on another disk.
  mkdirSync(elsewhere);
  symlinkSync(elsewhere, join(episodes, "web-2"));
  writeFileSync(join(elsewhere, "there.tar.zst"), bytes);
  writeFileSync(join(elsewhere, ".left.tar.zst.0123456789ab.partial"), "");
}

testOnFile("other files in the episodes folder do not stop the start, the sweep, rebuild and verify", async () => {
  await using hub = new Hub();
  await hub.addHost("web-1");
  const bytes = await archive("whole");
  litter(join(hub.data, "episodes"), hub.folder.at("elsewhere"), bytes);
  await hub.up();
  await hub.daemon.said("swept unfinished uploads files=2");
  expect((await hub.ship("new", bytes)).status).toBe(201);
  expect(await hub.run("index", "rebuild")).toMatchObject({
    code: 0,
    stdout: "web-2/there: line made\n1 missing line made\n",
  });
  expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: "2 episodes, all as the index says\n" });
});

testOnFile(
  "a line of the index with an invalid time is skipped: it would make every pause an unusual one",
  async () => {
    await using hub = await Hub.start();
    const bytes = await archive("x");
    expect((await hub.ship("ep-1", bytes)).status).toBe(201);
    const path = join(hub.data, "index.jsonl");
    writeFileSync(path, readFileSync(path, "utf8").replace(/"received_at":"[^"]*"/, '"received_at":"yesterday"'));
    // As an editor saves it, or the table that follows the file would see nothing new.
    renameSync(path, `${path}.new`);
    copyFileSync(`${path}.new`, path);
    await until(
      "it is gone",
      async () => (await hub.get<{ episodes: unknown[] }>("/v1/episodes")).episodes.length === 0,
    );
    expect((await hub.run("index", "rebuild")).stdout).toBe("web-1/ep-1: line made\n1 missing line made\n");
  },
);

describe("the index", () => {
  test("a file without a line gets it by the sender's retry, or by `index rebuild`, with the commit of its meta.json", async () => {
    await using hub = await Hub.start();
    const [one, two] = [await archive("one"), await archive("two")];
    await hub.ship("one", one);
    await hub.ship("two", two);
    forgetEpisodes(hub);
    expect(await hub.get("/v1/episodes")).toEqual({ episodes: [] });
    // In a bucket the row is the episode.
    expect((await hub.ship("one", one)).status).toBe(onFile ? 200 : 201);
    if (onFile) expect((await hub.ship("two", await archive("other"))).status).toBe(409);
    expect(indexLines(hub)).toMatchObject([{ episode: "one" }]);
    const rebuilt = await hub.run("index", "rebuild");
    expect([rebuilt.code, rebuilt.stdout]).toEqual([0, "web-1/two: line made\n1 missing line made\n"]);
    const lines = indexLines(hub);
    // A table has them by their time.
    expect(onFile ? lines : lines.toReversed()).toMatchObject([
      { episode: "one" },
      { episode: "two", sha256: sha256(two), commit: "a".repeat(40), backfilled: true, schema: 1 },
    ]);
    expect((await hub.run("index", "rebuild")).stdout).toBe("nothing was missing\n");
    // The daemon sees what another process wrote.
    expect(await hub.get<{ episodes: Row[] }>("/v1/episodes")).toMatchObject({
      episodes: [{ episode: "two" }, { episode: "one" }],
    });
  });

  test("`index verify` finds what differs", async () => {
    await using hub = await Hub.start();
    for (const name of ["good", "changed", "shorter", "missing"]) await hub.ship(name, await archive(name));
    expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: "4 episodes, all as the index says\n" });
    const at = (name: string) => fileOf(hub, name);
    const bytes = readFileSync(at("changed"));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(at("changed"), bytes);
    writeFileSync(at("shorter"), readFileSync(at("shorter")).subarray(0, 20));
    unlinkSync(at("missing"));
    const foreign = await archive("foreign");
    writeFileSync(fileOf(hub, "foreign", { bytes: foreign }), foreign);
    const { code, stdout } = await hub.run("index", "verify");
    expect(code).toBe(1);
    for (const what of [
      "changed: other hash",
      "shorter: other size",
      "missing: missing file",
      "foreign: missing line",
      "4 episodes, 4 differences",
    ]) {
      expect(stdout).toContain(what);
    }
  });

  test("a damaged file is never answered with 200, and a lost one is only taken back with the same bytes", async () => {
    await using hub = await Hub.start();
    const bytes = await archive("precious");
    await hub.ship("precious", bytes);
    const path = fileOf(hub, "precious");
    const damaged = Buffer.from(bytes);
    damaged[damaged.length - 1]! ^= 1;
    writeFileSync(path, damaged);
    const answer = await hub.ship("precious", bytes);
    expect([answer.status, await answer.json()]).toEqual([500, expect.objectContaining({ code: "damaged" })]);
    unlinkSync(path);
    expect((await hub.ship("precious", await archive("other"))).status).toBe(409);
    expect((await hub.ship("precious", bytes)).status).toBe(201);
    expect(indexLines(hub).length).toBe(1);
    expect((await hub.run("index", "verify")).stdout).toBe("1 episode, all as the index says\n");
  });

  testOnFile("torn, foreign and repeated lines are skipped; a replaced file is read anew", async () => {
    await using hub = await Hub.start();
    await hub.ship("one", await archive("one"));
    const path = join(hub.data, "index.jsonl");
    appendFileSync(path, `nonsense\n{"host":1}\n\n${readFileSync(path, "utf8")}{"received_at":"20`);
    await hub.ship("two", await archive("two"));
    expect((await hub.get<{ episodes: Row[] }>("/v1/episodes")).episodes.map(({ episode }) => episode)).toEqual([
      "one",
      "two",
    ]);
    unlinkSync(path);
    writeFileSync(path, "");
    expect(await hub.get("/v1/episodes")).toEqual({ episodes: [] });
  });

  testOnFile("an index that is rewritten in place, longer, is read anew: old rows go, new ones come", async () => {
    await using hub = await Hub.start();
    for (const name of ["one", "two"]) await hub.ship(name, await archive(name));
    const listed = async () =>
      (await hub.get<{ episodes: Row[] }>("/v1/episodes")).episodes.map(({ episode }) => episode);
    expect(await listed()).toEqual(["one", "two"]);
    const path = join(hub.data, "index.jsonl");
    const [one, two] = readFileSync(path, "utf8").split("\n");
    const row = (episode: string) => two!.replace('"two"', `"${episode}"`);
    // The same inode: as `cp merged index.jsonl` does it.
    writeFileSync(path, ["three", "four", "two"].map((episode) => `${row(episode)}\n`).join(""));
    expect(new Set(await listed())).toEqual(new Set(["four", "three", "two"]));
    await hub.daemon.kill("SIGKILL");
    writeFileSync(path, [one, row("five"), row("six"), two].map((line) => `${line}\n`).join(""));
    await hub.up();
    expect(new Set(await listed())).toEqual(new Set(["five", "one", "six", "two"]));
    // The note of 0.1.0 knows an inode and a size.
    const { ino, size } = statSync(path);
    await hub.daemon.kill();
    const db = new Database(join(hub.data, "receiver.db"));
    db.run("UPDATE meta SET value = ? WHERE key = 'index_place'", [JSON.stringify({ inode: ino, end: size })]);
    db.close();
    appendFileSync(path, `${row("seven")}\n`);
    await hub.up();
    expect(new Set(await listed())).toEqual(new Set(["five", "one", "seven", "six", "two"]));
  });

  testOnFile("partial files of a daemon that died are swept at the start", async () => {
    await using hub = new Hub();
    await hub.addHost("web-1");
    await hub.up();
    const bytes = bytesOf(1 << 20);
    const upload = await begin(hub, "half", { length: bytes.length + 5, headers: uploadHeaders(bytes) });
    upload.socket.write(bytes);
    await until(
      "it is being written",
      () => filesOf(hub).length === 1 && statSync(join(hub.data, "episodes/web-1", filesOf(hub)[0]!)).size > 0,
    );
    await hub.daemon.kill("SIGKILL");
    upload.socket.destroy();
    expect(filesOf(hub).length).toBe(1);
    await hub.up();
    expect(filesOf(hub)).toEqual([]);
    await hub.daemon.said("swept unfinished uploads files=1");
  });
});
