// The folders of a host's episodes: what is found, ignored and removed.

import { describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FakeHub, Lab, canBePowerless, powerless } from "./kit.ts";
import { until } from "../kit.ts";

describe("among the episodes", () => {
  test("a file, a circular link and a dangling link don't stop shipping", async () => {
    using place = new Lab(new FakeHub());
    place.episode("good");
    place.folder.write("episodes/README", "not an episode");
    symlinkSync("circle", place.folder.at("episodes/circle"));
    symlinkSync("/nonexistent", place.folder.at("episodes/dangling"));
    const { code, stdout, stderr } = await place.once();
    expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
    expect(stderr).not.toContain("can't be shipped");
  });

  test.skipIf(!canBePowerless)("an unreadable folder is logged, the others are shipped", async () => {
    using place = new Lab(new FakeHub());
    place.episode("good");
    chmodSync(place.episode("hidden"), 0);
    const { code, stdout, stderr } = await place.once({ wrap: powerless });
    chmodSync(place.folder.at("episodes/hidden"), 0o700);
    expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
    expect(stderr).toContain('episode "hidden" can\'t be shipped: make it readable');
  });
});

test("a folder in the outbox named like an archive doesn't stop shipping", async () => {
  using place = new Lab(new FakeHub());
  place.episode("good");
  mkdirSync(place.folder.at("outbox/odd.tar.zst/within"), { recursive: true });
  const { code, stdout, stderr } = await place.once();
  expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
  expect(stderr).toContain("odd.tar.zst");
});

test.skipIf(!canBePowerless)("old episodes are removed, even if one can't be", async () => {
  using place = new Lab(new FakeHub());
  const [days, made] = ["0.000001", Date.now()];
  for (const old of ["shipped/a-stuck/sub", "shipped/b", "quarantine/c"]) {
    mkdirSync(place.folder.at(old), { recursive: true });
    writeFileSync(place.folder.at(old, "data.txt"), "old");
  }
  chmodSync(place.folder.at("shipped/a-stuck/sub"), 0o500);
  const env = { PICKET_AGENT_SHIP__SHIPPED_KEEP_DAYS: days, PICKET_AGENT_SHIP__QUARANTINE_KEEP_DAYS: days };
  await until("a millionth of a day has passed", () => Date.now() - made > 200);
  await using agent = await place.start({ wrap: powerless, env });
  await until("b and c are gone", () => !place.in("shipped").includes("b") && place.in("quarantine").length === 0);
  expect(place.in("shipped")).toEqual(["a-stuck"]);
  await agent.said(/old episode not removed.*a-stuck/);
  chmodSync(place.folder.at("shipped/a-stuck/sub"), 0o700);
});

/** The number of files and folders that a process watches (inotify). */
function watches(pid: number): number {
  const infos = readdirSync(`/proc/${pid}/fdinfo`).map((fd) => {
    try {
      return readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8");
    } catch {
      return ""; // closed meanwhile
    }
  });
  return infos.join("\n").match(/^inotify wd/gm)?.length ?? 0;
}

test("a shipped folder is no longer watched", async () => {
  using place = new Lab(new FakeHub());
  await using agent = await place.start();
  await agent.said(" ready ");
  await until("the episodes' folder is watched", () => watches(agent.child.pid) === 1);
  for (let n = 0; n < 20; n++) mkdirSync(join(place.episode(`ep-${n}`), "sub"));
  await until("all are shipped", () => place.in("shipped").length === 20);
  await until("one folder is watched", () => watches(agent.child.pid) === 1);
});

test.each(["removed", "renamed"])("an episodes folder that is %s and created again is watched again", async (kind) => {
  using place = new Lab(new FakeHub());
  const episodes = place.folder.at("episodes");
  await using agent = await place.start();
  await agent.said(" ready ");
  await until("it is watched", () => watches(agent.child.pid) === 1);
  if (kind === "removed") rmSync(episodes, { recursive: true });
  else renameSync(episodes, place.folder.at("former"));
  mkdirSync(episodes);
  place.episode("new");
  await until("an episode of the new folder is shipped", () => {
    return place.in("shipped").length > 0 || agent.child.exitCode !== null;
  });
  expect(agent.child.exitCode).toBeNull();
});
