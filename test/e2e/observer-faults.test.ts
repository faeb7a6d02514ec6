// What the observer promises when things break: kill -9, a power cut, a full disk. Real processes, real file systems.
// Not tested: what a disk loses that says "synced" and isn't; file systems other than ext4 and tmpfs.
// PICKET_FAULT_EVENTS sets how many operations come in during the kills (5000; `bun run test:long` 20000).

import { describe, expect, test } from "bun:test";
import { existsSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, freePort, until } from "../kit.ts";
import { type Op, Observer, lines } from "../observer/kit.ts";
import { Disk, canCut, isRoot, smallDisk } from "./disk.ts";

const EVENTS = Number(process.env["PICKET_FAULT_EVENTS"] ?? 5000);
const CAUSES = 12;
const LEAST_KILLS = 20;

/** Operation n: every third one fails, for one of a few causes. */
function operation(n: number): Op {
  const id = `op-${n}`;
  if (n % 3 > 0)
    return { id, endpoint: "works", success: true, source: "scenario", input_summary: "x".repeat(n % 400) };
  return {
    id,
    endpoint: `fails ${String.fromCodePoint(97 + (n % CAUSES))}`,
    success: false,
    error: `no route to host ${n}`,
  };
}

/** Posts until it is acknowledged, as a sender that retries does; gives whether it was. */
async function deliver(url: string, body: Op | Op[], signal: AbortSignal): Promise<boolean> {
  while (!signal.aborted) {
    try {
      const answer = await fetch(`${url}/observer/event`, {
        method: "POST",
        body: JSON.stringify(body),
        signal: AbortSignal.any([signal, AbortSignal.timeout(5000)]),
      });
      await answer.arrayBuffer();
      if (answer.status === 200) return true;
    } catch {
      // The daemon is away: that is what retries are for.
    }
    await Bun.sleep(5);
  }
  return false;
}

/** All operations of a data folder, segments included; none of its lines may be torn but those that nobody was told of. */
function recorded(data: string): Op[] {
  const names = readdirSync(data).filter((name) => /^ops(\.\d+)?\.jsonl$/.test(name));
  return names.flatMap((name) => lines(join(data, name)));
}

test("kill -9 at random moments: each acknowledged operation is there once and counted, and each cause is escalated once a level", async () => {
  await using observer = new Observer({ target: "binary", port: freePort(), more: "rotate_mb: 1\ncycle_seconds: 0.1" });
  await observer.up();
  const { url } = observer;
  const finished = new AbortController();
  let kills = 0;
  const killer = (async () => {
    while (!finished.signal.aborted) {
      // Longer with time: on a busy machine one that lives so short a time may record next to nothing.
      await Bun.sleep(20 + Math.random() * (300 + 20 * Math.max(0, kills - LEAST_KILLS)));
      if (finished.signal.aborted) break;
      await observer.again("SIGKILL");
      kills++;
    }
  })();
  let next = 0;
  const enough = () => next >= EVENTS && kills >= LEAST_KILLS;
  const sender = async (many: boolean) => {
    while (!enough()) {
      const from = next;
      next += many ? 1 + Math.floor(Math.random() * 20) : 1;
      const some = Array.from({ length: next - from }, (_, n) => operation(from + n));
      expect(await deliver(url, many ? some : some[0]!, AbortSignal.timeout(120_000))).toBe(true);
      await Bun.sleep(20);
    }
  };
  await Promise.all([
    ...Array.from({ length: 24 }, () => sender(false)),
    ...Array.from({ length: 4 }, () => sender(true)),
  ]);
  finished.abort();
  await killer;
  await observer.again("SIGKILL");
  const ids = recorded(observer.data).map(({ id }) => id as string);
  expect([ids.length, new Set(ids).size]).toEqual([next, next]);
  const failures = Array.from({ length: next }, (_, n) => n).filter((n) => n % 3 === 0).length;
  expect(await observer.stats()).toMatchObject({ total: next, failures });
  // Several levels may be reached between two looks; none is told twice, and the last one is told of each.
  const causes = new Set(Array.from({ length: CAUSES }, (_, n) => n * 3).map((n) => n % CAUSES)).size;
  await until("each cause is told", () => new Set(observer.told().map(({ source }) => source)).size === causes);
  await until("at its last level", () => {
    const last = new Map(observer.escalations().map(({ fingerprint, level }) => [fingerprint, level]));
    return [...last.values()].every((level) => level === 100);
  });
  const levels = observer.escalations().map(({ fingerprint, level }) => `${String(fingerprint)} ${String(level)}`);
  expect(levels.length).toBe(new Set(levels).size);
  await until("all are told", () => observer.told().length === levels.length);
  await observer.again("SIGKILL");
  expect(observer.told().length).toBe(levels.length);
  // Killed so soon each time that it never came to it, it rotates now.
  const rotated = () => readdirSync(observer.data).filter((name) => /\.\d{6}\.jsonl$/.test(name)).length;
  const segments = await until("the log is rotated", rotated);
  console.log(`${kills} kills, ${next} operations, ${segments} rotations, ${levels.length} escalations`);
});

describe.skipIf(!canCut)("a power cut", () => {
  /** Runs under load, stops the writer, copies the device as it is, and starts on the copy. */
  async function cut(
    durability: string,
  ): Promise<{ acknowledged: number[]; found: Map<string, number>; total: number }> {
    using folder = new Folder();
    await using disk = await Disk.make(folder, 512);
    const data = join(disk.path, "observer");
    await using observer = await Observer.start({
      target: "binary",
      data,
      more: `durability: ${durability}\nrotate_mb: 1`,
    });
    const acknowledged: number[] = [];
    const enough = new AbortController();
    let next = 0;
    const sender = async () => {
      while (!enough.signal.aborted) {
        const n = next++;
        if (await deliver(observer.url, operation(n), enough.signal)) acknowledged.push(n);
      }
    };
    const senders = Array.from({ length: 16 }, sender);
    await until(
      "enough is acknowledged, and the log was rotated",
      () => acknowledged.length > 9000 && existsSync(join(data, "ops.000001.jsonl")),
    );
    observer.daemon.child.kill("SIGSTOP");
    const before = [...acknowledged];
    await using after = await disk.cut();
    enough.abort();
    await observer.daemon.kill("SIGKILL");
    await Promise.all(senders);
    await after.mount();
    await using again = await Observer.start({ target: "binary", data: join(after.path, "observer") });
    const { total } = await again.stats();
    const found = new Map<string, number>();
    await again.daemon.kill();
    const names = readdirSync(again.data).filter((name) => /^ops(\.\d+)?\.jsonl$/.test(name));
    for (const name of names) {
      const { replay } = await import("../../lib/replay.ts");
      await replay({
        path: join(again.data, name),
        record: (value) => {
          const { id } = value as { id: string };
          found.set(id, (found.get(id) ?? 0) + 1);
        },
      });
    }
    return { acknowledged: before, found, total };
  }

  test("loses nothing that was acknowledged, and the figures agree with the log", async () => {
    const { acknowledged, found, total } = await cut("disk");
    expect(acknowledged.filter((n) => found.get(`op-${n}`) !== 1)).toEqual([]);
    expect(total).toBe(found.size);
  });

  test("loses operations with `durability: os`, which shows that the test can fail", async () => {
    const { acknowledged, found } = await cut("os");
    expect(acknowledged.filter((n) => found.get(`op-${n}`) !== 1).length).toBeGreaterThan(0);
  });
});

test.skipIf(!isRoot)(
  "a full disk: 507, the figures unmoved, nothing torn, and it goes on by itself when there is room",
  async () => {
    using folder = new Folder();
    await using disk = await smallDisk(folder, "512k");
    writeFileSync(join(disk.path, "filler"), new Uint8Array(200 << 10));
    await using observer = await Observer.start({ data: join(disk.path, "observer") });
    let taken = 0;
    const statuses = new Set<number>();
    const post = async (success: boolean) => {
      const answer = await observer.post("/observer/event", {
        endpoint: "e",
        success,
        error: "x",
        input_summary: "x".repeat(5000),
      });
      statuses.add(answer.status);
      if (answer.status === 200) taken++;
      return (await answer.json()) as { code?: string };
    };
    for (let n = 0; n < 40; n++) await Promise.all([false, true, true, true].map(post));
    expect(statuses).toEqual(new Set([200, 507]));
    // What is too little for four in one write may be enough for one alone, and be no full disk yet.
    await until("one alone is refused", async () => (await post(false)).code === "disk_full");
    expect(await observer.stats()).toMatchObject({ total: taken });
    expect(lines(observer.log).length).toBe(taken);
    expect((await fetch(`${observer.url}/observer/health`)).status).toBe(503);
    expect((await fetch(`${observer.url}/health`)).status).toBe(503);
    const array = await observer.post(
      "/observer/event",
      Array.from({ length: 10 }, () => ({ endpoint: "e", success: true, input_summary: "x".repeat(9000) })),
    );
    expect(array.status).toBe(507);
    expect((await observer.post("/observer/review", { response: "x".repeat(50_000) })).status).toBe(507);
    rmSync(join(disk.path, "filler"));
    await observer.record({ endpoint: "e", success: true });
    expect(await observer.stats()).toMatchObject({ total: taken + 1 });
    expect((await fetch(`${observer.url}/observer/health`)).status).toBe(200);
    // What could not be escalated for want of room is, now.
    await until("it is escalated", () => observer.escalations().length > 0);
    await observer.again("SIGKILL");
    expect(await observer.stats()).toMatchObject({ total: taken + 1 });
  },
);
