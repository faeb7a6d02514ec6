// The demonstration, from source, without curl: the story up to its end, and nothing left behind however it ends.

import { expect, test } from "bun:test";
import { chmodSync, mkdirSync, readFileSync, readdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { isRoot } from "./e2e/disk.ts";
import { Folder, ROOT, until } from "./kit.ts";
import { postgresPrograms } from "./postgres.ts";

const MODULES = join(ROOT, "node_modules/.bin");

/** `programs`: all that it finds. */
function start(folder: Folder, args: string[], programs: string[] = []) {
  const bin = programs.length > 0 ? folder.at("bin") : "/nonexistent";
  for (const program of programs) {
    mkdirSync(bin, { recursive: true });
    symlinkSync(Bun.which(program, { PATH: `${process.env["PATH"]}:${MODULES}` })!, join(bin, program));
  }
  const child = Bun.spawn([process.execPath, join(ROOT, "picket.ts"), "try", ...args], {
    env: { PATH: bin, HOME: "/nonexistent", TMPDIR: folder.path, PICKET_URL: "http://127.0.0.1:1" },
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
    says: (text: string) =>
      until(`the demonstration says "${text}"`, async () => {
        if (child.exitCode !== null) throw new Error(`it has ended: ${await child.stderr.text()}`);
        return out.includes(text);
      }),
    end: (signal: NodeJS.Signals): Promise<number> => {
      child.kill(signal);
      return child.exited;
    },
    exited: child.exited,
    /** Where a test fails in the middle. */
    async [Symbol.asyncDispose]() {
      child.kill();
      await child.exited;
    },
  };
}

test("all four have their part in it; Ctrl-C ends it and leaves nothing behind", async () => {
  using folder = new Folder();
  await using demo = start(folder, []);
  await demo.says("Ctrl-C ends it");
  for (const part of [
    "push to lab/rollouts by mona: refs/heads/main",
    "hello from a file",
    "episode shipped episode=ep-1",
    "backup is down: no ping for",
    "(not here, it needs root and a system that can: mount",
    "web-1 is offline: no report for 8s",
    "backup keeps failing: 3 failures",
    "[ops (urgent): web-1 is offline",
    "$ picket collector wait --as ops --min urgent\n2 new in the inbox of ops",
    "at the next prompt its hook adds the rest",
  ]) {
    expect(demo.out()).toContain(part);
  }
  const addresses = [...demo.out().matchAll(/running, listening on (\S+)/g)].map(
    ([, address]) => `http://${address}/health`,
  );
  expect(addresses).toHaveLength(3);
  const [, page = ""] = /your turn: the page\n(http:\S+)\n/.exec(demo.out())!;
  expect(await (await fetch(page)).text()).toMatch(/offline<.*web-1/);
  expect(await (await fetch(`${page}/failures`)).text()).toContain("1 failure is escalated");
  for (const address of addresses) expect((await fetch(address)).status).toBe(200);
  expect(await demo.end("SIGINT")).toBe(130);
  expect(await demo.err()).toBe("");
  for (const address of addresses) expect(await fetch(address).catch(() => "refused")).toBe("refused");
  expect(readdirSync(folder.path)).toEqual([]);
});

test.skipIf(!isRoot)("as root it also fills a disk, and unmounts it whenever it is ended", async () => {
  using folder = new Folder();
  await using demo = start(folder, [], ["mount", "umount"]);
  await demo.says("web-1 is offline");
  expect(demo.out()).toMatch(/disk is 9\d % full; du -xh /);
  expect(await demo.end("SIGTERM")).toBe(143);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(folder.path);
  expect(readdirSync(folder.path)).toEqual(["bin"]);
});

test("a signal in the middle of it ends it as well", async () => {
  using folder = new Folder();
  await using demo = start(folder, ["--once"]);
  await demo.says("a receiver with one host");
  expect(await demo.end("SIGTERM")).toBe(143);
  expect(readdirSync(folder.path)).toEqual([]);
});

test.skipIf(postgresPrograms("the demonstration of several receivers") === null)(
  "with --scale each kind of process is killed, and all that was acknowledged is there once",
  async () => {
    using folder = new Folder();
    // PostgreSQL's account has to get into it.
    chmodSync(folder.path, 0o711);
    await using demo = start(folder, ["--scale"], ["s3rver", "id", "setpriv"]);
    await demo.says("Ctrl-C ends it");
    for (const part of ["leads now", "kill -QUIT postgres", "> nas is offline", "1 episode, all as the index says"]) {
      expect(demo.out()).toContain(part);
    }
    expect(demo.out().match(/^ {3}yes: /gm)).toHaveLength(3);
    const [, page = ""] = /the page, .*\n(http:\S+)\n/.exec(demo.out())!;
    expect(await (await fetch(page)).text()).toMatch(/offline<.*nas/);
    expect(await demo.end("SIGINT")).toBe(130);
    expect(await demo.err()).toBe("");
    expect(readdirSync(folder.path)).toEqual(["bin"]);
  },
);

test("--scale names what is missing", async () => {
  using folder = new Folder();
  await using demo = start(folder, ["--scale"]);
  expect([await demo.exited, await demo.err()]).toEqual([1, expect.stringMatching(/^picket: error: .*\nhint: .*\n$/)]);
});

test("a flag that it doesn't know is wrong usage", async () => {
  using folder = new Folder();
  await using demo = start(folder, ["--twice"]);
  expect([await demo.exited, await demo.err()]).toEqual([
    2,
    'picket: error: unexpected argument "--twice"\nhint: picket try --help shows how it is called\n',
  ]);
});
