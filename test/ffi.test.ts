// The calls through libc, against the real kernel. Datagrams stand in systemd.test.ts.
// Not tested: musl, other systems than Linux.

import { afterAll, expect, test } from "bun:test";
import { dlopen } from "bun:ffi";
import { closeSync, constants, mkdtempSync, openSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flock, isReadOut, monotonicMicroseconds, sendDatagram, writeLease } from "../lib/ffi.ts";
import { until } from "./fixtures/service/start.ts";

const folder = mkdtempSync(join(tmpdir(), "picket-ffi-"));
afterAll(() => rmSync(folder, { recursive: true }));

let files = 0;

function file(): string {
  const path = join(folder, `file-${files++}`);
  writeFileSync(path, "content\n");
  return path;
}

test("a lock excludes every other opening of the file until it is closed", () => {
  const path = file();
  const [first, second] = [openSync(path, "r+"), openSync(path, "r+")];
  expect(flock(first)).toBe(true);
  expect(flock(first)).toBe(true);
  expect(flock(second)).toBe(false);
  closeSync(first);
  expect(flock(second)).toBe(true);
  expect(flock(first)).toBe(false);
});

test("a lease is granted to the only opening, and whoever comes meanwhile waits for its release", async () => {
  const path = file();
  const fd = openSync(path, "r+");
  const other = openSync(path, "r");
  expect(writeLease(fd)).toBe(null);
  closeSync(other);
  const release = writeLease(fd);
  expect(release).toBeFunction();
  const reader = Bun.spawn(["cat", path], { stdout: "pipe" });
  // The kernel marks a lease that somebody waits for as breaking.
  await until(
    () => Bun.spawnSync(["grep", "-c", "LEASE *BREAKING", "/proc/locks"]).exitCode === 0,
    () => "a broken lease",
  );
  expect(reader.exitCode).toBe(null);
  release?.();
  expect(await reader.exited).toBe(0);
  expect(await reader.stdout.text()).toBe("content\n");
  closeSync(fd);
});

test("the clock is the kernel's monotonic one, not the process's", () => {
  const first = monotonicMicroseconds() ?? 0n;
  expect(first).toBeGreaterThan(BigInt(Math.ceil(process.uptime())) * 1_000_000n);
  expect(monotonicMicroseconds() ?? 0n).toBeGreaterThanOrEqual(first);
});

test("a datagram to nobody, or to a name that is none, is not sent", () => {
  for (const name of ["/nonexistent/socket", "@picket-nobody", "@", "", "x".repeat(108)]) {
    expect(sendDatagram(name, "READY=1")).toBe(false);
  }
});

test("where bun:ffi has no JIT, everything says no and nothing throws", async () => {
  const script = `
    import { flock, isReadOut, monotonicMicroseconds, sendDatagram, writeLease } from ${JSON.stringify(join(import.meta.dir, "../lib/ffi.ts"))};
    console.log(flock(1), writeLease(1), sendDatagram("@x", "x"), monotonicMicroseconds());`;
  const child = Bun.spawn([process.execPath, "-e", script], { env: { BUN_JSC_useJIT: "0" }, stdout: "pipe" });
  expect(await child.stdout.text()).toBe("false null false null\n");
  expect(await child.exited).toBe(0);
});

test("what was written to a pipe or a socket counts as read when the other end has read all of it", async () => {
  await Bun.$`mkfifo ${join(folder, "fifo")}`;
  const reader = openSync(join(folder, "fifo"), constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(join(folder, "fifo"), "w");
  const { socketpair } = dlopen("libc.so.6", {
    socketpair: { args: ["i32", "i32", "i32", "ptr"], returns: "i32" },
  }).symbols;
  const pair = new Int32Array(2);
  expect(socketpair(1, 1, 0, pair)).toBe(0);
  const ends = { pipe: [reader, writer], socket: [pair[0]!, pair[1]!] } as const;
  for (const [from, to] of Object.values(ends)) {
    expect(isReadOut(to)).toBe(true);
    writeSync(to, "hello");
    expect(isReadOut(to)).toBe(false);
    readSync(from, Buffer.alloc(3));
    expect(isReadOut(to)).toBe(false);
    readSync(from, Buffer.alloc(3));
    expect(isReadOut(to)).toBe(true);
    writeSync(to, "lost");
    closeSync(from);
    expect(isReadOut(to)).toBe(false);
    closeSync(to);
  }
  const plain = openSync(file(), "r+");
  expect(isReadOut(plain)).toBe(null);
  closeSync(plain);
});
