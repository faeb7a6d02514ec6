// What depends on the time of day: the daemon's clock is libfaketime's, and jumps.

import { expect, test } from "bun:test";
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { type Daemon, Folder, freePort, until } from "../../kit.ts";
import { Clock, faketime } from "../../receiver/kit.ts";
import { Sink, append, came, configure, linesOf, numbered, start } from "./kit.ts";

const library = faketime("deliveries by the clock");
const HOUR = 3600;

/** The machine's time, and how far it is from the next 12:00 UTC. */
const toNoon = (): number => (36 * HOUR - ((Date.now() / 1000) % (24 * HOUR))) % (24 * HOUR);

async function waiting(daemon: Daemon, count: number): Promise<void> {
  const url = await daemon.url();
  await until(`${count} events wait`, async () => {
    const { deliver } = (await (await fetch(`${url}/health`)).json()) as { deliver: { hub: { waiting: number } } };
    return deliver.hub.waiting === count;
  });
}

test.skipIf(!library)("an hour without the other side: what waited comes in order, as few messages", async () => {
  using folder = new Folder();
  const clock = new Clock(folder, library!);
  const port = freePort();
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "http://127.0.0.1:${port}/in" } }`]);
  await using daemon = await start(folder, { env: clock.env });
  append(folder, "ops", numbered(3));
  await daemon.said("delivery failed, it is tried again");
  append(folder, "ops", numbered(500, 4));
  await waiting(daemon, 503);
  using sink = new Sink(undefined, port);
  clock.offset(HOUR);
  await came(sink, numbered(503));
  expect(sink.payloads).toEqual(numbered(503));
  expect(sink.got.length).toBeLessThan(5);
});

test.skipIf(!library)("quiet hours let urgent events through; the rest is one message afterwards", async () => {
  using folder = new Folder();
  using sink = new Sink();
  const clock = new Clock(folder, library!);
  clock.offset(toNoon());
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, quiet: "11:00-13:00 UTC" }`]);
  await using daemon = await start(folder, { env: clock.env });
  append(folder, "ops", ["a", "b"]);
  append(folder, "ops", ["fire"], { priority: "urgent" });
  await came(sink, ["fire"]);
  append(folder, "ops", ["c"]);
  append(folder, "ops", ["flood"], { priority: "urgent" });
  await came(sink, ["flood"]);
  await waiting(daemon, 3);
  expect(await daemon.kill()).toBe(0);
  await using again = await start(folder, { env: clock.env });
  await waiting(again, 3);
  clock.offset(toNoon() + 2 * HOUR);
  await came(sink, ["a", "b", "c"]);
  expect(sink.got.map(({ events }) => events.map(({ payload }) => payload))).toEqual([
    ["fire"],
    ["flood"],
    ["a", "b", "c"],
  ]);
});

test.skipIf(!library)("the last message of the hour counts what it doesn't show; then all waits", async () => {
  using folder = new Folder();
  using sink = new Sink();
  const clock = new Clock(folder, library!);
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, max_per_hour: 2 }`]);
  await using daemon = await start(folder, { env: clock.env });
  append(folder, "ops", ["a"]);
  await came(sink, ["a"]);
  // At once, so that no message comes between them.
  const flood = linesOf("ops", [...numbered(2500), "z"]) + linesOf("ops", ["fire"], { priority: "urgent" });
  appendFileSync(folder.at("inbox/ops.inbox"), flood);
  await until("the second message", () => sink.got.length === 2);
  append(folder, "ops", ["b"]);
  await waiting(daemon, 1);
  expect(await daemon.kill()).toBe(0);
  await using again = await start(folder, { env: clock.env });
  await waiting(again, 1);
  clock.offset(HOUR + 60);
  await came(sink, ["b"]);
  expect(sink.got).toHaveLength(3);
  expect(sink.got[1]).toMatchObject({ omitted: 1502 });
  expect(sink.got[1]!.events.map(({ payload }) => payload)).toEqual(["fire", ...numbered(999)]);
});

/** The reminders that the delivery has noted. */
function noted(folder: Folder): { at: number }[] {
  const state = folder.at("inbox/.picket/deliver:hub.json");
  return existsSync(state)
    ? (JSON.parse(readFileSync(state, "utf8")) as { reminders: { at: number }[] }).reminders
    : [];
}

test.skipIf(!library)("what is urgent or needs a response is sent again until it was handled", async () => {
  using folder = new Folder();
  using sink = new Sink();
  const clock = new Clock(folder, library!);
  configure(folder, [
    `{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, remind_minutes: 30, until: handled }`,
  ]);
  await using daemon = await start(folder, { env: clock.env });
  const id = (n: number) => String(n).repeat(32);
  append(folder, "ops", ["fire"], { priority: "urgent", id: id(1) });
  append(folder, "ops", ["well?"], { type: "NEEDS-RESPONSE", id: id(2) });
  append(folder, "ops", ["fyi"], { id: id(3) });
  await came(sink, ["fire", "well?", "fyi"]);
  const first = sink.got.length;
  await waiting(daemon, 0);
  expect(await daemon.kill()).toBe(0);
  await using again = await start(folder, { env: clock.env });
  clock.offset(31 * 60);
  const reminders = () =>
    sink.got.slice(first).map(({ reminder, events }) => [reminder, ...events.map(({ payload }) => payload)]);
  await until("a reminder", () => reminders().length > 0);
  expect(reminders()).toEqual([[true, "fire", "well?"]]);
  await until("the round is noted", () => noted(folder).every(({ at }) => at > Date.now() + 60 * 60_000));
  appendFileSync(folder.at("inbox/.picket/ops.handled"), `{"ts":"","id":"${id(1)}","by":"ack"}\n`);
  clock.offset(62 * 60);
  await until("another", () => reminders().length > 1);
  expect(reminders()[1]).toEqual([true, "well?"]);
  expect(sink.got[first]!.id).not.toBe(sink.got[first + 1]!.id);
  appendFileSync(folder.at("inbox/.picket/ops.handled"), `{"ts":"","id":"${id(2)}","by":"ack"}\n`);
  clock.offset(93 * 60);
  append(folder, "ops", ["last"]);
  await came(sink, ["last"]);
  clock.offset(124 * 60);
  append(folder, "ops", ["very last"]);
  await came(sink, ["very last"]);
  expect(reminders().filter(([reminder]) => reminder)).toHaveLength(2);
  expect(again.child.exitCode).toBeNull();
});

test.skipIf(!library)("a reminder that is repeated keeps its id, whatever comes meanwhile", async () => {
  using folder = new Folder();
  using sink = new Sink();
  const clock = new Clock(folder, library!);
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, remind_minutes: 30 }`]);
  await using daemon = await start(folder, { env: clock.env });
  append(folder, "ops", ["fire"], { priority: "urgent" });
  await came(sink, ["fire"]);
  await until("the reminder is noted", () => noted(folder).length > 0);
  const tries: string[] = [];
  sink.answer = (_, { id, reminder }) => {
    if (reminder) tries.push(id);
    return new Response("", { status: tries.length === 1 && reminder ? 503 : 200 });
  };
  clock.offset(31 * 60);
  await until("a reminder was refused", () => tries.length === 1);
  append(folder, "ops", ["flood"], { priority: "urgent" });
  await came(sink, ["flood"]);
  await until("it came again", () => tries.length === 2);
  expect(tries[0]).toBe(tries[1]);
  expect(await daemon.kill()).toBe(0);
});

test.skipIf(!library)("10,000 events in a burst with group_seconds are a handful of messages", async () => {
  using folder = new Folder();
  using sink = new Sink();
  const clock = new Clock(folder, library!);
  configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }, group_seconds: 60 }`]);
  await using daemon = await start(folder, { env: clock.env });
  for (let n = 0; n < 10; n++) append(folder, "ops", numbered(1000, n * 1000 + 1));
  await waiting(daemon, 10_000);
  expect(sink.asked).toBe(0);
  clock.offset(61);
  await came(sink, numbered(10_000));
  expect(sink.payloads).toEqual(numbered(10_000));
  expect(sink.got.length).toBeLessThanOrEqual(10);
});
