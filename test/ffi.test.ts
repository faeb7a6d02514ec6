// The calls through libc, against the real kernel. Datagrams stand in systemd.test.ts.
// Not tested: musl, other systems than Linux.

import { afterAll, expect, test } from "bun:test";
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { flock, monotonicMicroseconds, sendDatagram, writeLease } from "../lib/ffi.ts";
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
    import { flock, monotonicMicroseconds, sendDatagram, writeLease } from ${JSON.stringify(join(import.meta.dir, "../lib/ffi.ts"))};
    console.log(flock(1), writeLease(1), sendDatagram("@x", "x"), monotonicMicroseconds());`;
  const child = Bun.spawn([process.execPath, "-e", script], { env: { BUN_JSC_useJIT: "0" }, stdout: "pipe" });
  expect(await child.stdout.text()).toBe("false null false null\n");
  expect(await child.exited).toBe(0);
});
