// Reports that could not be sent: they wait on disk, within bounds, and arrive in their order.

import { describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { ENVELOPE, FakeHub, Lab, canBePowerless, configure, powerless, start, waiting } from "./kit.ts";
import { Folder, until } from "../kit.ts";

describe("a data folder that can't be written", () => {
  test("while the receiver is unreachable: the agent logs lost reports, and goes on", async () => {
    const hub = new FakeHub({ "/v1/host-report": () => new Response(null, { status: 503 }) });
    using place = new Lab(hub, { more: "interval_seconds: 0.2\n" });
    place.folder.write("agent", "a file where the folder should be");
    await using agent = await place.start();
    await agent.said(" ready ");
    await agent.said("a report could be neither sent nor queued");
    await until("it goes on", () => hub.asked.filter((path) => path === "/v1/host-report").length > 3);
    expect(agent.log.join("\n")).not.toContain("pass failed");
    expect(await agent.kill()).toBe(0);
  });

  test.skipIf(!canBePowerless)("a report that has arrived is sent once even if its file can't be removed", async () => {
    const arrived: string[] = [];
    const hub = new FakeHub({
      "/v1/host-report": async (request) => {
        const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
        if (sent_at !== undefined) arrived.push(recorded_at);
        return Response.json(ENVELOPE);
      },
    });
    using place = new Lab(hub);
    mkdirSync(place.folder.at("agent/queue"), { recursive: true });
    const times = [3, 2, 1].map((minutes) => new Date(Date.now() - minutes * 60_000).toISOString());
    for (const recorded_at of times)
      place.folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
    chmodSync(place.folder.at("agent/queue"), 0o500);
    await using _ = await place.start({ wrap: powerless });
    await until("all have arrived", () => arrived.length >= 3);
    chmodSync(place.folder.at("agent/queue"), 0o700);
    expect(arrived).toEqual(times);
  });
});

test.each([2048, 4096])("a queue of %d MiB holds more than one sample", async (mebibytes) => {
  const hub = new FakeHub({ "/v1/host-report": () => new Response(null, { status: 503 }) });
  using place = new Lab(hub, { more: `interval_seconds: 0.2\nqueue_max_mb: ${mebibytes}\n` });
  await using _ = await place.start();
  await until("three wait", () => place.in("agent/queue").length >= 3);
});

test("a full queue is logged, with the number of dropped reports", async () => {
  using folder = new Folder();
  const answer = () => new Response(null, { status: 500 });
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  const config = configure(folder, `http://127.0.0.1:${server.port}`, "t", "queue_max_mb: 1\n");
  mkdirSync(folder.at("agent/queue"), { recursive: true });
  folder.write("agent/queue/1700000000000.json", JSON.stringify({ fill: "x".repeat(1 << 20) }));
  await using agent = await start(config);
  await agent.said("the queue is full: 1 reports dropped");
  expect(waiting(folder)).not.toContain("1700000000000.json");
  await agent.kill();
  await server.stop(true);
});

test("the queue is limited in bytes, and the oldest reports are dropped first and counted", async () => {
  using folder = new Folder();
  const { Backlog } = await import("../../lib/agent/backlog.ts");
  const backlog = new Backlog(join(folder.path, "queue"), 1000);
  for (let n = 0; n < 20; n++)
    backlog.add({ recorded_at: new Date(1_700_000_000_000 + n * 1000).toISOString(), fill: "x".repeat(100) } as never);
  expect(backlog.count).toBeLessThan(8);
  expect(backlog.dropped).toBe(20 - backlog.count);
  // A report of an earlier time (the clock was set back) comes first; one of the same millisecond is kept, too.
  backlog.remove(backlog.oldest!);
  backlog.remove(backlog.oldest!);
  for (const at of [1_600_000_000_000, 1_700_000_019_000]) backlog.add({ recorded_at: new Date(at).toISOString() });
  const order = (queue: InstanceType<typeof Backlog>) => {
    const times: number[] = [];
    for (let next = queue.oldest; next; next = queue.oldest) {
      times.push(next.recordedAt);
      queue.remove(next);
    }
    return times;
  };
  const again = new Backlog(backlog.dir, 1000);
  expect([again.count, readdirSync(backlog.dir).length]).toEqual([backlog.count, backlog.count]);
  const times = order(again);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect(times.slice(-2)).toEqual([1_700_000_019_000, 1_700_000_019_001]);
  expect(times[0]).toBe(1_600_000_000_000);
});
