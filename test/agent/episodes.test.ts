// The folders of a host's episodes: what is found, ignored and removed.

import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { FakeHub, Lab, canBePowerless, powerless, refusal } from "./kit.ts";
import { isRoot } from "../e2e/disk.ts";
import { listen } from "../fixtures/service/manager.ts";
import { Folder, until } from "../kit.ts";

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
    expect([code, stdout]).toEqual([6, "scanned=2 shipped=1 transient=0 conflicts=0 fatal=1\n"]);
    expect(stderr).toContain('episode "hidden" can\'t be shipped: make it readable');
  });
});

test("what can't be shipped stays, and is named by --once, the doctor and the status line", async () => {
  using place = new Lab(new FakeHub());
  for (const id of ["2026-01-31T12:00:00", "with space", "-dash", ".hidden"]) place.episode(id);
  const [episodes, elsewhere] = [place.folder.at("episodes"), place.folder.at("bigdisk")];
  mkdirSync(join(elsewhere, "linked"), { recursive: true });
  writeFileSync(join(elsewhere, "linked/done.marker"), "");
  writeFileSync(join(elsewhere, "linked/data.bin"), "data");
  symlinkSync("../bigdisk/linked", join(episodes, "relative"));
  symlinkSync(join(elsewhere, "linked"), join(episodes, "absolute"));
  mkdirSync(join(episodes, "dangling"));
  symlinkSync("nowhere", join(episodes, "dangling/done.marker"));
  const odd = Buffer.concat([Buffer.from(`${episodes}/`), Buffer.from([0x62, 0xff])]);
  mkdirSync(odd);
  writeFileSync(Buffer.concat([odd, Buffer.from("/done.marker")]), "");
  place.episode("good");
  const before = place.in("episodes").filter((id) => id !== "good");
  const { code, stdout, stderr } = await place.once();
  expect([code, stdout]).toEqual([6, "scanned=9 shipped=1 transient=0 conflicts=0 fatal=8\n"]);
  expect([place.in("episodes"), place.in("shipped")]).toEqual([before, ["good"]]);
  expect(readFileSync(join(elsewhere, "linked/data.bin"), "utf8")).toBe("data");
  const doctor = await place.run(["doctor"]);
  expect(doctor.code).toBe(2);
  for (const id of before) {
    expect(stderr).toContain(`episode "${id}" can't be shipped: `);
    expect(doctor.stdout).toContain(`"${id}" can't be shipped`);
  }
  const manager = listen(place.folder.at("notify"));
  try {
    await using agent = await place.start({
      env: { NOTIFY_SOCKET: place.folder.at("notify"), WATCHDOG_USEC: "3000000" },
    });
    await agent.said("can't be shipped");
    await until("the status line says so", () =>
      manager.messages().some((one) => /STATUS=8 episodes can't be shipped; /.test(one)),
    );
  } finally {
    manager.close();
  }
});

test("links and odd entries within an episode: nothing outside is read or written, and the agent never waits for them", async () => {
  const sent: Buffer[] = [];
  const hub = new FakeHub({
    ".tar.zst": async (request) => {
      sent.push(Buffer.from(Bun.zstdDecompressSync(await request.arrayBuffer())));
      return refusal(400);
    },
  });
  using place = new Lab(hub);
  const folder = place.episode("odd", { "data.txt": "data" }, null);
  const outside = place.folder.write("outside.txt", "not for the archive");
  for (const [name, target] of [
    ["relative", "data.txt"],
    ["out", outside],
    ["up", "../../outside.txt"],
    ["loop", "loop"],
    ["nowhere", "nothing"],
    ["folder", "/etc"],
    ["quarantine_reason.json", outside],
  ])
    symlinkSync(target!, join(folder, name!));
  linkSync(join(folder, "data.txt"), join(folder, "hard"));
  for (const pipe of ["pipe", "meta.json"]) expect(Bun.spawnSync(["mkfifo", join(folder, pipe)]).exitCode).toBe(0);
  const socket = Bun.listen({ unix: join(folder, "socket"), socket: { data() {} } });
  const { code, stdout, stderr } = await place.once();
  socket.stop(true);
  expect([code, stdout]).toEqual([6, "scanned=1 shipped=0 transient=0 conflicts=0 fatal=1\n"]);
  expect(sent[0]!.includes("data")).toBe(true);
  expect(sent[0]!.includes("not for the archive")).toBe(false);
  for (const name of ["out ->", "up ->", "folder ->"]) expect(stderr).toContain(`odd/${name}`);
  for (const name of ["relative", "loop", "nowhere"]) expect(stderr).not.toContain(`odd/${name} ->`);
  for (const name of ["pipe", "meta.json", "socket"])
    expect(stderr).toMatch(new RegExp(`odd/${name}"?.*neither a file`));
  expect(readFileSync(outside, "utf8")).toBe("not for the archive");
  expect((await place.run(["quarantine", "list"])).stdout).toMatch(/^odd {2}400 /);
});

test.skipIf(!isRoot)(
  "no free inodes are seen by the doctor, --once and the status line, and nothing is lost",
  async () => {
    using folder = new Folder();
    const disk = folder.at("disk");
    mkdirSync(disk);
    await Bun.$`mount -t tmpfs -o size=20m,nr_inodes=60 none ${disk}`;
    try {
      using place = new Lab(new FakeHub(), { under: disk });
      place.episode("ep-1");
      const fillers: string[] = [];
      try {
        for (let n = 0; n < 60; n++) {
          const filler = place.folder.at(`filler-${n}`);
          writeFileSync(filler, "");
          fillers.push(filler);
        }
      } catch {
        // full
      }
      const { code, stdout } = await place.run(["doctor"]);
      expect([code, stdout]).toEqual([
        2,
        expect.stringMatching(/^red +space .* 0 % of the inodes free\n +fix: df -i/m),
      ]);
      const failed = await place.once();
      expect([failed.code === 0, failed.stderr]).toEqual([false, expect.stringContaining("ENOSPC")]);
      const manager = listen(folder.at("notify"));
      try {
        await using _agent = await place.start({ env: { NOTIFY_SOCKET: folder.at("notify") } });
        await until("the status line says so", () =>
          manager.messages().some((one) => one.includes("STATUS=DISK FULL: no inodes left")),
        );
        for (const filler of fillers) rmSync(filler);
        await until("it is shipped", () => place.in("shipped").length === 1);
      } finally {
        manager.close();
      }
    } finally {
      await Bun.$`umount -l ${disk}`.nothrow();
    }
  },
);

test("a folder of the four that is a link works; one that leads nowhere is a red check", async () => {
  using place = new Lab(new FakeHub());
  for (const name of ["real-outbox", "real-shipped"]) mkdirSync(place.folder.at(name));
  symlinkSync("real-outbox", place.folder.at("outbox"));
  symlinkSync(place.folder.at("real-shipped"), place.folder.at("shipped"));
  place.episode("ep-1");
  expect([(await place.once()).code, place.in("real-shipped")]).toEqual([0, ["ep-1"]]);
  rmSync(place.folder.at("quarantine"), { recursive: true });
  symlinkSync("nowhere", place.folder.at("quarantine"));
  const { code, stdout } = await place.run(["doctor"]);
  expect([code, stdout]).toEqual([
    2,
    expect.stringMatching(/^red +rights .*quarantine +is a link that leads nowhere/m),
  ]);
});

/** Runs in a mount namespace of its own, after `script` has made its mounts; `$1` is the lab's folder. */
const mounted = (place: Lab, script: string) => [
  "unshare",
  "-m",
  "sh",
  "-ec",
  `cd "$1"; shift; ${script}; exec "$@"`,
  "sh",
  place.folder.path,
];

describe.skipIf(!isRoot)("on several mounts", () => {
  const BINDS = "for d in episodes outbox shipped quarantine; do mkdir -p $d; mount --bind $d $d; done";
  const OVERLAY =
    "mkdir -p over; mount -t tmpfs none over; mkdir -p over/up over/work shipped; mount -t overlay overlay -o lowerdir=episodes,upperdir=over/up,workdir=over/work episodes";

  /** An episode with all that a copy has to keep. */
  function rich(place: Lab, id: string, mib = 3): void {
    const folder = place.episode(id, { "data.bin": randomBytes(mib << 20) });
    writeFileSync(Buffer.concat([Buffer.from(`${folder}/`), Buffer.from([0x62, 0xff])]), "no UTF-8");
    mkdirSync(join(folder, "sub"), { mode: 0o750 });
    symlinkSync("../data.bin", join(folder, "sub/link"));
    chmodSync(join(folder, "data.bin"), 0o640);
    utimesSync(join(folder, "data.bin"), 1_600_000_000, 1_600_000_000);
    chownSync(join(folder, "data.bin"), 1234, 1234);
  }

  const listing = (folder: string) =>
    Bun.spawnSync([
      "sh",
      "-c",
      `cd '${folder}' && find . -printf '%P %y %m %U %T@ %s %l\\n' | grep -av '^sub d\\|^ d\\|quarantine_reason' | sed 's/\\.[0-9]\\{10\\} / /' | sort; sha256sum data.bin`,
    ]).stdout.toString();

  test.each([
    ["bind mounts", BINDS],
    ["an overlay", OVERLAY],
    ["the episode is a mount", "mount --bind episodes/ep-1 episodes/ep-1; mkdir -p shipped"],
  ])("%s: an episode is uploaded once, copied whole and removed", async (kind, script) => {
    const hub = new FakeHub();
    using place = new Lab(hub, { more: "host_id: web-1\n" });
    rich(place, "ep-1");
    const before = listing(place.folder.at("episodes/ep-1"));
    const wrap = mounted(place, script);
    const check = 'for i in 1 2; do "$@"; echo "code $?"; done; find episodes outbox';
    const { stdout, stderr } = await place.once({ wrap: [...wrap, "sh", "-c", check, "sh"] });
    expect([stdout, stderr]).toEqual([
      expect.stringMatching(/shipped=1 .*\ncode 0\nscanned=0 .*\ncode 0\nepisodes\n(episodes\/ep-1\n)?outbox\n$/),
      expect.stringContaining("shipped"),
    ]);
    expect(hub.asked).toEqual(["/v1/episodes/web-1/ep-1.tar.zst"]);
    expect(listing(place.folder.at("shipped/ep-1"))).toBe(before);
    expect(place.in("shipped")).toEqual(["ep-1"]);
    expect(stderr.includes("are on another mount")).toBe(kind !== "the episode is a mount");
    if (kind !== "bind mounts") return;
    const doctor = await place.run(["doctor"], { wrap });
    expect(doctor.stdout).toMatch(
      /^green +episodes +.*copied, because another mount holds .*shipped and .*quarantine$/m,
    );
  });

  test("a read-only mount: it is uploaded once, and no copy is left by any try", async () => {
    const hub = new FakeHub();
    using place = new Lab(hub, { more: "host_id: web-1\n" });
    rich(place, "ep-1");
    const script =
      "mkdir -p outbox shipped quarantine; mount --bind episodes episodes; mount -o remount,ro,bind episodes";
    for (let n = 0; n < 3; n++) {
      const { code, stderr } = await place.once({ wrap: mounted(place, script) });
      expect([code, stderr]).toEqual([5, expect.stringContaining("EROFS")]);
    }
    expect([hub.asked.length, place.in("episodes"), place.in("shipped")]).toEqual([1, ["ep-1"], []]);
  });

  test("a tmpfs: quarantine and back", async () => {
    let status = 400;
    const hub = new FakeHub({ ".tar.zst": () => (status === 201 ? Response.json({}, { status }) : refusal(status)) });
    using place = new Lab(hub, { more: "host_id: web-1\n" });
    mkdirSync(place.folder.at("quarantine"));
    await Bun.$`mount -t tmpfs none ${place.folder.at("quarantine")}`;
    try {
      rich(place, "ep-1");
      const before = listing(place.folder.at("episodes/ep-1"));
      expect((await place.once()).code).toBe(6);
      expect([listing(place.folder.at("quarantine/ep-1")), place.in("episodes")]).toEqual([before, []]);
      expect((await place.run(["quarantine", "retry", "ep-1"])).code).toBe(0);
      expect([listing(place.folder.at("episodes/ep-1")), place.in("quarantine")]).toEqual([before, []]);
      status = 201;
      expect([(await place.once()).code, hub.asked.length]).toEqual([0, 2]);
    } finally {
      await Bun.$`umount -l ${place.folder.at("quarantine")}`.nothrow();
    }
  });

  test("no space where it is copied to: it isn't uploaded again, and moves once there is", async () => {
    const hub = new FakeHub();
    using place = new Lab(hub, { more: "host_id: web-1\n" });
    const shipped = place.folder.at("shipped");
    mkdirSync(shipped);
    await Bun.$`mount -t tmpfs -o size=1m none ${shipped}`;
    try {
      rich(place, "ep-1");
      for (let n = 0; n < 3; n++) {
        const { code, stderr } = await place.once();
        expect([code, stderr]).toEqual([5, expect.stringContaining("ENOSPC")]);
        expect([hub.asked.length, place.in("episodes"), place.in("shipped")]).toEqual([1, ["ep-1"], []]);
      }
      await Bun.$`mount -o remount,size=20m ${shipped}`;
      // Another one of the same name is not the one that was accepted.
      expect([(await place.once()).code, hub.asked.length, place.in("shipped")]).toEqual([0, 1, ["ep-1"]]);
      place.episode("ep-1");
      expect([(await place.once()).code, hub.asked.length, place.in("shipped")]).toEqual([0, 2, ["ep-1", "ep-1.2"]]);
      expect(place.in("outbox")).toEqual([]);
    } finally {
      await Bun.$`umount -l ${shipped}`.nothrow();
    }
  });

  test("kill -9 while episodes are copied: each arrives, whole, and nothing is left over", async () => {
    const hub = new FakeHub();
    using place = new Lab(hub, { more: "host_id: web-1\n" });
    const shipped = place.folder.at("shipped");
    mkdirSync(shipped);
    await Bun.$`mount -t tmpfs none ${shipped}`;
    try {
      const before = new Map<string, string>();
      for (let n = 0; n < 5; n++) {
        // Large, so that a copy is under way when it is looked for, on a busy machine, too.
        rich(place, `ep-${n}`, 48);
        before.set(`ep-${n}`, listing(place.folder.at(`episodes/ep-${n}`)));
      }
      let copying = 0;
      for (let kills = 0; kills < 30 && place.in("episodes").length > 0; kills++) {
        await using agent = await place.start();
        await until("it copies, or all is shipped", () => {
          return place.in("shipped").some((name) => name.endsWith(".copying")) || place.in("episodes").length === 0;
        });
        await agent.kill("SIGKILL");
        if (place.in("shipped").some((name) => name.endsWith(".copying"))) copying++;
      }
      expect(copying).toBeGreaterThan(0);
      expect((await place.once()).code).toBe(0);
      expect([place.in("episodes"), place.in("outbox")]).toEqual([[], []]);
      for (const [id, listed] of before) expect([id, listing(join(shipped, id))]).toEqual([id, listed]);
      expect(place.in("shipped").filter((name) => name.startsWith("."))).toEqual([]);
    } finally {
      await Bun.$`umount -l ${shipped}`.nothrow();
    }
  });
});

test("what a crash leaves of a copy is removed", async () => {
  using place = new Lab(new FakeHub());
  const left = ["shipped/.a.copying", "quarantine/.b.copying", "episodes/.c.moved", "episodes/.d.copying"];
  for (const folder of left) {
    mkdirSync(place.folder.at(folder, "sub"), { recursive: true });
    writeFileSync(place.folder.at(folder, "done.marker"), "");
  }
  expect((await place.once()).stdout).toBe("scanned=0 shipped=0 transient=0 conflicts=0 fatal=0\n");
  expect(left.filter((folder) => existsSync(place.folder.at(folder)))).toEqual([]);
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
