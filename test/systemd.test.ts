// What a service tells systemd, received on real datagram sockets from child processes, from source and compiled.
// Not tested here: systemd itself (test/e2e), a receiver whose queue is full.

import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMicroseconds } from "../lib/ffi.ts";
import { listen } from "./fixtures/service/manager.ts";
import { endAll, place, start, until } from "./fixtures/service/start.ts";

const folder = mkdtempSync(join(tmpdir(), "picket-systemd-"));
const binary = join(folder, "picket-tiny");
const closers: (() => void)[] = [];

beforeAll(async () => {
  const flags = ["--compile", "--no-compile-autoload-dotenv", "--no-compile-autoload-bunfig"];
  const script = join(import.meta.dir, "fixtures/service/tiny.ts");
  const define = ["--define", 'PICKET_COMMIT="abc1234"'];
  const build = Bun.spawn([process.execPath, "build", ...flags, ...define, script, "--outfile", binary], {
    stdout: "ignore",
    stderr: "pipe",
  });
  expect({ code: await build.exited, err: await build.stderr.text() }).toMatchObject({ code: 0 });
});

afterEach(() => {
  endAll();
  for (const close of closers.splice(0)) close();
});

afterAll(() => rmSync(folder, { recursive: true }));

let sockets = 0;

/** A service manager on a path, or on an abstract name, and the environment it gives its service. */
function manage(kind: "path" | "abstract" = "path", more: Record<string, string> = {}) {
  const name = kind === "path" ? join(folder, `notify-${sockets++}`) : `@picket-test-${process.pid}-${sockets++}`;
  const manager = listen(name);
  closers.push(() => manager.close());
  const messages = (): string[] => manager.messages();
  const all = (): string => messages().join(" | ");
  const has = (line: string): boolean => messages().some((message) => message.split("\n").includes(line));
  return {
    env: { NOTIFY_SOCKET: name, ...more },
    messages,
    all,
    count: (line: string): number => messages().filter((message) => message.split("\n").includes(line)).length,
    hears: (line: string): Promise<void> =>
      until(
        () => has(line),
        () => `${line} among ${all()}`,
      ),
  };
}

function ticks(err: string): number {
  return err.match(/ tick /g)?.length ?? 0;
}

test("READY=1 with the status comes once main has returned, not before, and STOPPING=1 last", async () => {
  const { file, open } = place({ mode: "slow-start" });
  const manager = manage();
  const daemon = start(["--config", file], { env: manager.env });
  await daemon.says("starting slowly");
  expect(manager.messages()).toEqual([]);
  open();
  await manager.hears("READY=1");
  expect(manager.messages()[0]).toBe("READY=1\nSTATUS=tiny is fine");
  await daemon.says("serving");
  daemon.signal("SIGTERM");
  expect((await daemon.ends()).code).toBe(0);
  expect(manager.messages().at(-1)).toBe("STOPPING=1");
});

test.each(["path", "abstract"] as const)("a compiled program tells a socket with a name of kind %s", async (kind) => {
  const { file } = place();
  const manager = manage(kind, { WATCHDOG_USEC: "100000" });
  const daemon = start(["--config", file], { env: manager.env, binary });
  await manager.hears("READY=1");
  await manager.hears("WATCHDOG=1");
  daemon.signal("SIGTERM");
  expect((await daemon.ends()).code).toBe(0);
  expect(manager.messages().at(-1)).toBe("STOPPING=1");
});

test("a compiled program knows its commit and prints the unit for its own path", async () => {
  expect((await start(["--version"], { binary }).ends()).out).toContain("(commit abc1234, ");
  const { out } = await start(["unit"], { binary }).ends();
  expect(out).toContain(`\nExecStart=${binary}\n`);
});

test("source and compiled program understand the same command line", async () => {
  for (const args of [["--type", "ACK", "ping", "bob", "hi"], ["--chekc"], ["host", "--help"], ["refused"]]) {
    expect(await start(args, { binary }).ends()).toEqual(await start(args).ends());
  }
});

test("WATCHDOG=1 keeps coming from the waiting of a loop whose next pass is far away", async () => {
  const { file } = place({ every: 3600 });
  const manager = manage("path", { WATCHDOG_USEC: "60000" });
  const daemon = start(["--config", file, "--log-level", "debug"], { env: manager.env });
  await until(() => manager.count("WATCHDOG=1") >= 4, manager.all);
  await daemon.says(" tick ");
  expect(ticks(daemon.err())).toBe(1);
});

test("one loop that hangs ends WATCHDOG=1, however busy the others are", async () => {
  const { file, open } = place({ mode: "hanging", every: 0.01 });
  // A second: a loop that a busy machine keeps waiting for less doesn't seem to hang. Told it would be every quarter of that.
  const manager = manage("path", { WATCHDOG_USEC: "1000000" });
  const daemon = start(["--config", file, "--log-level", "debug"], { env: manager.env });
  await until(() => manager.count("WATCHDOG=1") >= 3, manager.all);
  open();
  await daemon.says("hangs now");
  await daemon.says("loop hangs: the watchdog is left to run out loop=hanging");
  const fed = manager.count("WATCHDOG=1");
  const ticked = ticks(daemon.err());
  await until(() => ticks(daemon.err()) > ticked + 100, daemon.err);
  expect(manager.count("WATCHDOG=1")).toBe(fed);
  expect(daemon.err().match(/loop hangs/g)?.length).toBe(1);
});

test("a watchdog meant for another process is none of ours", async () => {
  const { file } = place({ every: 0.01 });
  const manager = manage("path", { WATCHDOG_USEC: "60000", WATCHDOG_PID: "1" });
  const daemon = start(["--config", file, "--log-level", "debug"], { env: manager.env });
  await until(() => ticks(daemon.err()) > 20, daemon.err);
  expect(manager.count("READY=1")).toBe(1);
  expect(manager.count("WATCHDOG=1")).toBe(0);
});

test("a role without loops is kept alive by its event loop", async () => {
  const { file } = place({ mode: "no-loop" });
  const manager = manage("path", { WATCHDOG_USEC: "60000" });
  start(["--config", file], { env: manager.env });
  await until(() => manager.count("WATCHDOG=1") >= 3, manager.all);
});

test("a reload is RELOADING=1 with the time of systemd's clock, then READY=1 with the new status, which says what is not in effect", async () => {
  const { file, write } = place();
  const manager = manage();
  const daemon = start(["--config", file], { env: manager.env });
  await manager.hears("READY=1");
  for (const [settings, status] of [
    [{ name: "other" }, "STATUS=other is fine"],
    [{ name: 7 }, "STATUS=old configuration: 1 error; other is fine"],
    [{ name: 7, every: "often" }, "STATUS=old configuration: 2 errors; other is fine"],
    [{ name: "third", gate: "elsewhere" }, "STATUS=restart needed: gate; third is fine"],
    [{ name: "third" }, "STATUS=third is fine"],
  ] as const) {
    write(settings);
    const seen = manager.messages().length;
    const before = monotonicMicroseconds() ?? 0n;
    daemon.signal("SIGHUP");
    await until(() => manager.messages().slice(seen).join("\n").includes("READY=1"), manager.all);
    const after = monotonicMicroseconds() ?? 0n;
    const [reloading, ready] = manager
      .messages()
      .slice(seen)
      .filter((message) => /READY|RELOADING/.test(message));
    const [, time = "0"] = /^RELOADING=1\nMONOTONIC_USEC=(\d+)$/.exec(reloading ?? "") ?? [];
    expect(BigInt(time) >= before && BigInt(time) <= after).toBe(true);
    expect(ready).toBe(`READY=1\n${status}`);
  }
});

test("systemd's variables are not handed down", async () => {
  const env = { NOTIFY_SOCKET: "/nonexistent/notify", WATCHDOG_USEC: "60000", WATCHDOG_PID: "1", KEPT: "1" };
  const { out } = await start(["environment"], { env }).ends();
  const names = out.split("\n");
  expect(names).toContain("KEPT");
  expect(names.filter((name) => /NOTIFY|WATCHDOG/.test(name))).toEqual([]);
});

const deaf: [why: string, env: Record<string, string>][] = [
  ["nobody listens there", { NOTIFY_SOCKET: "/nonexistent/notify", WATCHDOG_USEC: "60000" }],
  ["the name is too long", { NOTIFY_SOCKET: `/${"x".repeat(200)}` }],
  ["there is no JIT for bun:ffi", { NOTIFY_SOCKET: "/nonexistent/notify", BUN_JSC_useJIT: "0" }],
];

test.each(deaf)("a daemon that can't tell systemd, because %s, serves with one warning", async (_, env) => {
  const { file } = place({ every: 0.01 });
  const daemon = start(["--config", file, "--log-level", "debug"], { env });
  await until(() => ticks(daemon.err()) > 10, daemon.err);
  daemon.signal("SIGTERM");
  const { code, err } = await daemon.ends();
  expect(code).toBe(0);
  expect(err.match(/ warn .*systemd can't be notified/g)?.length).toBe(1);
});

test("without NOTIFY_SOCKET all of it is silent, a watchdog's period included", async () => {
  const { file } = place({ every: 0.01 });
  const daemon = start(["--config", file, "--log-level", "debug"], { env: { WATCHDOG_USEC: "60000" } });
  await until(() => ticks(daemon.err()) > 10, daemon.err);
  expect(daemon.err()).not.toContain("warn");
});
