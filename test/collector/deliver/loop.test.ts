import { expect, test } from "bun:test";
import { once } from "node:events";
import { mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import { CuttingProxy } from "../../cutting-proxy.ts";
import { IN_TABLES, inboxesIn } from "../../inbox-kit.ts";
import { Folder, until } from "../../kit.ts";
import { type Got, Sink, append, came, configure, numbered, run, start } from "./kit.ts";

const to = (sink: Sink, more = ""): string =>
  `{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" }${more} }`;

test("a delivery begins with what comes, and goes on where it was after a restart", async () => {
  using folder = new Folder();
  using sink = new Sink();
  append(folder, "ops", ["old 1", "old 2"]);
  configure(folder, [to(sink)]);
  {
    await using daemon = await start(folder);
    append(folder, "ops", ["a", "b"]);
    await came(sink, ["a", "b"]);
    // A stop lets what is under way end.
    expect(await daemon.kill()).toBe(0);
  }
  append(folder, "ops", ["c"]);
  await using _again = await start(folder);
  await came(sink, ["c"]);
  append(folder, "ops", ["d"]);
  await came(sink, ["d"]);
  expect(sink.payloads).toEqual(["a", "b", "c", "d"]);
});

test('"*" is every inbox, also one that appears later, and `min: urgent` leaves out the rest', async () => {
  using folder = new Folder();
  using all = new Sink();
  using urgent = new Sink();
  append(folder, "bob", ["old"]);
  configure(folder, [
    `{ name: all, recipients: ["*"], webhook: { url: "${all.url}" } }`,
    `{ name: urgent, recipients: ["*"], min: urgent, webhook: { url: "${urgent.url}" } }`,
  ]);
  await using _daemon = await start(folder);
  append(folder, "bob", ["b"]);
  append(folder, "eve", ["e1"], { priority: "urgent" });
  append(folder, "eve", ["e2"]);
  await came(all, ["b", "e1", "e2"]);
  await came(urgent, ["e1"]);
  expect(urgent.payloads).toEqual(["e1"]);
  expect(all.payloads.toSorted()).toEqual(["b", "e1", "e2"]);
});

test.skipIf(IN_TABLES)(
  "an inbox that can't be read holds up no other, neither at the start nor when it appears",
  async () => {
    using folder = new Folder();
    using sink = new Sink();
    mkdirSync(folder.at("inbox/bad.inbox"), { recursive: true });
    configure(folder, [`{ name: hub, recipients: ["*"], webhook: { url: "${sink.url}" } }`]);
    await using daemon = await start(folder);
    append(folder, "ops", ["a"]);
    await came(sink, ["a"]);
    mkdirSync(folder.at("inbox/worse.inbox"));
    await daemon.said(/inbox not read.*recipient=worse/);
    append(folder, "ops", ["b"]);
    await came(sink, ["b"]);
    expect(daemon.log.filter((line) => line.includes("inbox not read"))).toHaveLength(2);
    expect(daemon.log.join("\n")).not.toContain("delivery failed");
    rmdirSync(folder.at("inbox/worse.inbox"));
    append(folder, "worse", ["c"]);
    await came(sink, ["c"]);
  },
);

test("a server that fails in every way gets every event, in order, and knows repeats by their id", async () => {
  using folder = new Folder();
  const later = (status: number, headers = {}) => new Response("no", { status, headers });
  using second = new Sink((n) => (n % 2 === 1 ? later(500) : new Response("ok")));
  using tooMany = new Sink((n) => (n === 1 ? later(429, { "retry-after": "1" }) : new Response("ok")));
  using unread = new Sink();
  // One is cut off in its request, one while it reads the answer: the message was taken by then.
  using cutting = await CuttingProxy.to(Number(new URL(unread.url).port));
  cutting.nextCut = () => (unread.asked === 0 ? 300 : Infinity);
  using half = new Sink();
  using halves = await answerHalf(half);
  const urls = { second: second.url, many: tooMany.url, cut: `http://127.0.0.1:${cutting.port}/in`, half: halves.url };
  configure(
    folder,
    Object.entries(urls).map(([name, url]) => `{ name: ${name}, recipients: [ops], webhook: { url: "${url}" } }`),
  );
  await using daemon = await start(folder);
  append(folder, "ops", numbered(2));
  for (const name of Object.keys(urls))
    await daemon.said(new RegExp(`delivery failed, it is tried again.*delivery=${name}`));
  cutting.nextCut = null;
  append(folder, "ops", numbered(3, 3));
  for (const sink of [second, tooMany, unread, half]) {
    await came(sink, numbered(5));
    const unique = new Map(sink.got.map((message): [string, Got] => [message.id, message]));
    expect([...unique.values()].flatMap(({ events }) => events.map(({ payload }) => payload))).toEqual(numbered(5));
  }
  expect(half.got[0]).toEqual(half.got[1]);
});

/** Hands requests on, and breaks off in the middle of the first answer. */
async function answerHalf(sink: Sink): Promise<Disposable & { url: string }> {
  let broken = false;
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = Buffer.concat(await Array.fromAsync(request as AsyncIterable<Buffer>));
    await fetch(sink.url, { method: "POST", body });
    if (broken) response.end("ok");
    else {
      response.writeHead(200, { "content-length": "100" });
      response.write("half");
      setImmediate(() => response.socket?.destroy());
    }
    broken = true;
  };
  const server = createServer((request, response) => void answer(request, response));
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as { port: number };
  return { url: `http://127.0.0.1:${port}/in`, [Symbol.dispose]: () => void server.close() };
}

test("a delivery that hangs, and one that is refused, hold up no other and no webhook", async () => {
  using folder = new Folder();
  using hanging = new Sink(() => new Promise<Response>(() => {}));
  using refusing = new Sink(() => new Response("gone", { status: 410 }));
  using well = new Sink();
  configure(folder, [
    `{ name: hangs, recipients: [ops], webhook: { url: "${hanging.url}" } }`,
    `{ name: refused, recipients: [ops], webhook: { url: "${refusing.url}" } }`,
    `{ name: well, recipients: [ops], webhook: { url: "${well.url}" } }`,
  ]);
  await using daemon = await start(folder);
  const url = await daemon.url();
  append(folder, "ops", ["a"]);
  const told = await until("the inbox says that one is held", () => inboxesIn(folder).lines("ops")[1]);
  expect(told).toMatchObject({ from: "foreman", priority: "urgent", source: "collector:delivery.failing:refused" });
  expect(told["payload"]).toMatch(
    /^delivery refused is held: webhook: answered 410.*; picket-collector deliver test refused$/,
  );
  append(folder, "ops", ["b"]);
  await came(well, ["a", told["payload"]!, "b"]);
  // The other side has an event before the collector has its answer.
  const health = await until("all is delivered", async () => {
    const said = (await (await fetch(`${url}/health`)).json()) as { deliver: Record<string, Record<string, unknown>> };
    return said.deliver["well"]!["delivered"] === 3 && said.deliver["refused"]!["waiting"] === 2 && said;
  });
  expect(health.deliver["refused"]).toMatchObject({
    state: "held",
    waiting: 2,
    failed: 1,
    error: expect.stringContaining("answered 410") as string,
  });
  expect(health.deliver["well"]).toMatchObject({ state: "ok", waiting: 0, delivered: 3, error: null });
  const metrics = await (await fetch(`${url}/metrics`)).text();
  for (const line of ['held{delivery="refused"} 1', 'held{delivery="hangs"} 0', 'waiting_events{delivery="refused"} 2'])
    expect(metrics).toContain(`picket_delivery_${line}\n`);
  expect(metrics).toContain('picket_delivered_events_total{delivery="well"} 3\n');
  expect(metrics).toContain('picket_delivery_failures_total{delivery="refused"} 1\n');
  const { stdout } = await run(folder, "deliver", "list");
  expect(stdout).toMatch(/^refused +webhook +ops +held +2 +held, until .*: webhook: answered 410/m);
  expect(stdout).toMatch(/^well +webhook +ops +ok +0$/m);
  const { stdout: examined } = await run(folder, "doctor");
  expect(examined).toMatch(
    /delivery refused +is held: .*answered 410.*; it began .*\n.*picket-collector deliver test refused/,
  );
  // A reload tries again, and tells it once; what it says about itself it leaves out.
  daemon.child.kill("SIGHUP");
  await until("it is refused again", () => refusing.asked === 2);
  await daemon.said(/delivery failed again.*delivery=refused/);
  expect(inboxesIn(folder).lines("ops")).toHaveLength(3);
  refusing.answer = () => new Response("ok");
  daemon.child.kill("SIGHUP");
  await came(refusing, ["a", "b"]);
  expect(refusing.payloads).toEqual(["a", "b"]);
  await daemon.said(/delivery works again.*delivery=refused/);
  // A stop doesn't wait for the one that hangs; its event stays undelivered.
  expect(await daemon.kill()).toBe(0);
  expect(daemon.log.join(" ")).not.toContain("stopped before everything had ended");
  hanging.answer = () => new Response("ok");
  await using _again = await start(folder);
  await came(hanging, ["a", told["payload"]!, "b"]);
  // Those that are one message begin with the urgent one.
  expect(hanging.payloads.toSorted()).toEqual(["a", "b", told["payload"]!]);
});

test("a skip is obeyed while a message hangs, and no second collector sends the same", async () => {
  using folder = new Folder();
  using sink = new Sink(() => new Promise<Response>(() => {}));
  configure(folder, [to(sink)]);
  await using daemon = await start(folder);
  append(folder, "ops", ["a", "b"]);
  await until("the message hangs", () => sink.asked);
  const { stdout } = await run(folder, "deliver", "list", "--json");
  expect(JSON.parse(stdout)).toMatchObject([{ name: "hub", channel: "webhook", waiting: 2, state: "ok" }]);
  expect(await run(folder, "deliver", "skip", "hub")).toMatchObject({ code: 0, stdout: "hub: 2 events skipped\n" });
  sink.answer = () => new Response("ok");
  append(folder, "ops", ["c"]);
  await came(sink, ["c"]);
  expect(sink.payloads).toEqual(["c"]);
  // It was broken off, not waited for.
  expect(daemon.log.join(" ")).not.toContain("delivery failed");
  if (IN_TABLES) return;
  const second = await run(folder);
  expect(second).toMatchObject({ code: 1, stderr: expect.stringContaining("another picket-collector uses") as string });
});

test("`deliver test` says what the other side answers, and writes into no inbox", async () => {
  using folder = new Folder();
  using sink = new Sink();
  append(folder, "ops", ["a"]);
  configure(folder, [to(sink)]);
  const test = (name: string) => run(folder, "deliver", "test", name);
  expect(await test("hub")).toEqual({
    code: 0,
    stdout: expect.stringMatching(/^webhook: 200 in \d+ ms\n$/) as string,
    stderr: "",
  });
  expect(sink.payloads).toEqual(["a test of the delivery hub"]);
  expect(inboxesIn(folder).lines("ops")).toHaveLength(1);
  sink.answer = () => new Response("no", { status: 401 });
  expect(await test("hub")).toMatchObject({ code: 3, stderr: expect.stringContaining("answered 401") as string });
  expect(await test("hup")).toMatchObject({ code: 2, stderr: expect.stringContaining("one of hub") as string });
});

test("a reload adds, changes and removes deliveries", async () => {
  using folder = new Folder();
  using first = new Sink();
  using second = new Sink();
  using third = new Sink();
  configure(folder, [to(first)]);
  await using daemon = await start(folder);
  let reloads = 0;
  const reload = async (deliver: string[]) => {
    configure(folder, deliver);
    daemon.child.kill("SIGHUP");
    reloads++;
    await until(
      "it is reloaded",
      () => daemon.log.filter((line) => line.includes("configuration reloaded")).length === reloads,
    );
  };
  append(folder, "ops", ["a"]);
  await came(first, ["a"]);
  const other = to(third).replace("hub", "other");
  await reload([to(second), other]);
  append(folder, "ops", ["b"]);
  await came(second, ["b"]);
  await came(third, ["b"]);
  await reload([other]);
  append(folder, "ops", ["c"]);
  await came(third, ["c"]);
  await reload([to(second), other]);
  append(folder, "ops", ["d"]);
  await came(second, ["d"]);
  await came(third, ["d"]);
  expect([first.payloads, second.payloads, third.payloads]).toEqual([["a"], ["b", "d"], ["b", "c", "d"]]);
});

test("an event waits for its sentinel, also across a restart, and holds up no other", async () => {
  using folder = new Folder();
  using sink = new Sink();
  configure(folder, [to(sink)]);
  const sentinel = folder.at("ready");
  {
    await using daemon = await start(folder);
    append(folder, "ops", ["held"], { sentinel });
    append(folder, "ops", ["a"]);
    await came(sink, ["a"]);
    append(folder, "ops", ["b"]);
    await came(sink, ["b"]);
    expect(await daemon.kill()).toBe(0);
  }
  append(folder, "ops", ["c"]);
  await using daemon = await start(folder);
  await came(sink, ["c"]);
  await daemon.said(`waits for its sentinel "${sentinel}"`);
  writeFileSync(sentinel, "");
  await came(sink, ["held"]);
  expect(sink.payloads).toEqual(["a", "b", "c", "held"]);
});
