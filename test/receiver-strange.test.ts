// What nobody sends or leaves behind on purpose: each of it once stopped the receiver, or made it say what wasn't true.

import { expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, until } from "./kit.ts";
import { Hub, archive, report } from "./receiver-kit.ts";

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

test("what else lies in the episodes folder keeps nobody from starting, sweeping, rebuilding and verifying", async () => {
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

test("a git that never answers holds up neither the start nor uploads, and leaves nothing running", async () => {
  using bin = new Folder();
  // What it has started holds its pipes open, whatever becomes of itself.
  chmodSync(bin.write("git", `#!/bin/sh\nsh -c 'echo $$ >> ${bin.at("pids")}; exec sleep 600'\n`), 0o755);
  await using hub = await Hub.start({
    env: { PATH: `${bin.path}:${process.env["PATH"]}` },
    more: `version_gate: { enabled: true, repo_path: ${bin.path} }`,
  });
  expect((await hub.report(report())).status).toBe(200);
  const commit = "a".repeat(40);
  const refused = await hub.ship("ep-1", await archive("x"), { headers: { "x-code-commit": commit } });
  expect([refused.status, await hub.daemon.said("version gate")]).toEqual([
    503,
    expect.stringContaining("git gives no answer within 4 s"),
  ]);
  const pids = readFileSync(bin.at("pids"), "utf8").trim().split("\n");
  await until("its child has ended", () => !pids.some((pid) => existsSync(`/proc/${pid}/fd/0`)));
});
