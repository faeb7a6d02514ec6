// Deliveries under load while the collector is killed, the other side fails, and the inbox is rotated.
//
// PICKET_FAULT_SECONDS: twice as many kills (8; `bun run test:long` 120). PICKET_FAULT_EVENTS of 20000 and more has a million events wait
// while the memory is measured (100,000).

import { expect, test } from "bun:test";
import { appendFileSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { Sink, append, came, configure, numbered, start } from "../collector/deliver/kit.ts";
import { IN_TABLES } from "../inbox-kit.ts";
import { Folder, until } from "../kit.ts";
import { isRoot, smallDisk } from "./disk.ts";

const KILLS = 2 * Number(process.env["PICKET_FAULT_SECONDS"] ?? 4);
const WAITING = Number(process.env["PICKET_FAULT_EVENTS"]) >= 20_000 ? 1_000_000 : 100_000;

test("killed at random, every event is delivered at least once and in order; only a message in hand is repeated, with its id", async () => {
  using folder = new Folder();
  // It takes some time, and fails now and then, also after it has taken the message.
  const taken: { id: string; events: string[] }[] = [];
  using sink = new Sink(async (n, { id, events }) => {
    await Bun.sleep(Math.random() * 4);
    if (n % 29 === 3) return new Response("no", { status: 503, headers: { "retry-after": "0" } });
    taken.push({ id, events: events.map(({ payload }) => payload) });
    return n % 29 === 11 ? new Response("no", { status: 500 }) : new Response("ok");
  });
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, max_per_hour: 1000000 }`]);
  let written = 0;
  const write = (count: number) => {
    append(folder, "ops", numbered(count, written + 1));
    written += count;
  };
  for (let kills = 0; kills < KILLS; kills++) {
    await using daemon = await start(folder);
    const end = taken.length + 1 + Math.floor(Math.random() * 12);
    await until("it is time to be killed", () => {
      if (Math.random() < 0.5) write(1 + Math.floor(Math.random() * 5));
      return taken.length >= end;
    });
    if (Math.random() < 0.5) await Bun.sleep(Math.random() * 5);
    await daemon.kill("SIGKILL");
    if (!IN_TABLES && Math.random() < 0.3)
      renameSync(folder.at("inbox/ops.inbox"), folder.at(`inbox/ops.inbox-${Date.now()}`));
  }
  await using _last = await start(folder);
  write(1);
  await until("the last one", () => taken.some(({ events }) => events.includes(`e${written}`)));
  const unique = new Map(taken.map(({ id, events }) => [id, events]));
  expect([...unique.values()].flat()).toEqual(numbered(written));
  // A repeat comes right behind the message that it repeats.
  const repeats = taken.filter(({ id }, n) => taken.findIndex((one) => one.id === id) < n);
  for (const one of repeats) expect(taken[taken.indexOf(one) - 1]!.id).toBe(one.id);
});

test(`${WAITING} events that wait take no memory, and come in order`, async () => {
  using folder = new Folder();
  let isUp = false;
  using sink = new Sink(() => (isUp ? new Response("ok") : new Response("no", { status: 503 })));
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, max_per_hour: 1000000 }`]);
  await using daemon = await start(folder);
  const residentMb = () =>
    Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.child.pid}/status`, "utf8"))![1]) / 1024;
  const before = residentMb();
  let most = 0;
  for (let n = 0; n < WAITING; n += 10_000) append(folder, "ops", numbered(10_000, n + 1));
  const url = await daemon.url();
  await until("all of them are counted", async () => {
    most = Math.max(most, residentMb());
    return (await (await fetch(`${url}/metrics`)).text()).includes(`waiting_events{delivery="hub"} ${WAITING}\n`);
  });
  isUp = true;
  let [next, messages] = [1, 0];
  daemon.child.kill("SIGHUP");
  await until("all of them came", () => {
    most = Math.max(most, residentMb());
    for (const { events } of sink.got.splice(0)) {
      messages++;
      for (const { payload } of events) if (payload === `e${next}`) next++;
    }
    return next > WAITING;
  });
  console.log(`${WAITING} waiting: from ${Math.round(before)} to ${Math.round(most)} MB, in ${messages} messages`);
  expect(messages).toBeLessThan(WAITING / 1000 + 10);
  expect(most - before).toBeLessThan(150);
});

test.skipIf(!isRoot || IN_TABLES)(
  "on a full disk what was delivered isn't sent again, and it goes on when there is room",
  async () => {
    using folder = new Folder();
    await using disk = await smallDisk(folder, "256k");
    symlinkSync(disk.path, folder.at("inbox"));
    using sink = new Sink();
    configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" } }`]);
    await using daemon = await start(folder);
    append(folder, "ops", ["a"]);
    await came(sink, ["a"]);
    await until("the mark moved", async () => {
      const { deliver } = (await (await fetch(`${await daemon.url()}/health`)).json()) as {
        deliver: { hub: { waiting: number } };
      };
      return deliver.hub.waiting === 0;
    });
    // Room for events only: what has no block of its own can't grow.
    append(folder, "ops", ["b".repeat(6000)], { sentinel: folder.at("ready") });
    const fill = folder.at("inbox/fill");
    expect(() => {
      for (;;) appendFileSync(fill, "x".repeat(4096));
    }).toThrow("ENOSPC");
    append(folder, "ops", ["c"]);
    await came(sink, ["c"]);
    await daemon.said(/delivery failed, it is tried again.*ENOSPC/);
    await daemon.said(/delivery failed again.*ENOSPC/);
    expect(sink.payloads).toEqual(["a", "c"]);
    rmSync(fill);
    append(folder, "ops", ["d"]);
    await came(sink, ["d"]);
    expect(sink.payloads).toEqual(["a", "c", "d"]);
  },
);
