// `mcp` as its clients see it: the compiled binary on stdio. Channels as code.claude.com/docs/en/channels-reference describes them.
// Not tested: Claude Code, Codex and Gemini CLI themselves.

import { expect, test } from "bun:test";
import { existsSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Client as SdkClient } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { ResourceUpdatedNotificationSchema } from "@modelcontextprotocol/sdk/types.js";
import { Client, append, environment } from "./mcp-kit.ts";
import { FORGED_EVENTS, FROM_OUTSIDE, OUTSIDE, expectFramed } from "../forgeries.ts";
import { IN_TABLES, inboxesIn } from "../inbox-kit.ts";
import { Folder, command, until } from "../kit.ts";

const many = (count: number, event: object = {}) =>
  Array.from({ length: count }, (_, n) => ({ payload: `event ${n}`, ...event }));

test("a channel gets every event of a burst exactly once, urgent ones first", async () => {
  using folder = new Folder();
  const normal = append(folder, many(9900));
  const urgent = append(folder, many(100, { priority: "urgent" }));
  await using client = await Client.start({ folder });
  await until("all came", () => client.ids.length >= 10_000);
  expect(client.ids).toEqual([...urgent, ...normal]);
  const [live] = append(folder, [{ payload: "and one more", type: "ACK-REQUEST", source: "webhook:/push" }]);
  await until("it came", () => client.ids.length > 10_000);
  const { content, meta } = client.pushed.at(-1)!;
  expect(meta).toEqual({
    id: live!,
    from: "foreman",
    type: "ACK-REQUEST",
    priority: "normal",
    ts: "2026-01-31T12:00:00.000Z",
    event_source: "webhook:/push",
  });
  expect(content).toContain("\n> and one more");
  expect(await client.end()).toBe(0);
  expect(left(folder)).toEqual(IN_TABLES ? [] : [".picket", "bob.inbox", "bob.mark"]);
});

test("a client that is killed or stops reading has read what it took from the pipe, and the rest comes in the next session", async () => {
  using folder = new Folder();
  // More than the pipe holds.
  const ids = append(folder, many(300, { payload: "x".repeat(1000) }));
  const seen: string[] = [];
  for (let session = 0; new Set(seen).size < ids.length; session++) {
    await using client = await Client.start({ folder, isSlow: true });
    const most = session < 5 ? 1 + session * 7 : ids.length;
    await until("it has read some", () => {
      client.readSome(1);
      return client.ids.length >= Math.min(most, ids.length - new Set(seen).size);
    });
    // It isn't read any more; another event is under way.
    if (session % 2 === 0) await client.kill();
    else expect(await client.end()).toBe(0);
    const isLeft = session % 2 === 0;
    expect(left(folder)).toEqual(
      expect.arrayContaining(isLeft ? [IN_TABLES ? "watcher:bob" : ".bob.watcher-active"] : []),
    );
    if (!isLeft) expect(left(folder).join(" ")).not.toContain("watcher");
    seen.push(...client.ids);
  }
  expect([...new Set(seen)]).toEqual(ids);
  // One of each session at most was in hand.
  expect(seen.length).toBeLessThanOrEqual(ids.length + 6);
});

/** What stands in the folder of inboxes; of tables, the leases. */
function left(folder: Folder): string[] {
  return IN_TABLES
    ? inboxesIn(folder).sql("SELECT name FROM inbox_turns ORDER BY 1").split("\n").filter(Boolean)
    : readdirSync(folder.at("inbox")).toSorted();
}

/** Another value after each write. */
function written(folder: Folder): unknown {
  if (IN_TABLES)
    return inboxesIn(folder).sql("SELECT count(*) FROM inbox UNION ALL SELECT count(*) FROM inbox_handled");
  const files = readdirSync(folder.at("inbox"), { recursive: true }).map(String);
  return files.map((name) => [name, Bun.file(join(folder.at("inbox"), name)).size]);
}

test("kill -9 at any moment repeats the event in hand at most", async () => {
  using folder = new Folder();
  const ids = append(folder, many(400));
  const seen: string[] = [];
  let kills = 0;
  while (new Set(seen).size < ids.length) {
    await using client = await Client.start({ folder });
    const most = 20 + kills * 3;
    await until("some came", () => client.ids.length >= most || client.ids.length + new Set(seen).size >= ids.length);
    await client.kill();
    kills++;
    seen.push(...client.ids);
  }
  expect([...new Set(seen)]).toEqual(ids);
  expect(seen.length).toBeLessThanOrEqual(ids.length + kills);
});

test("the second one for an identity says so and only answers", async () => {
  using folder = new Folder();
  await using first = await Client.start({ folder });
  await using second = await Client.start({ folder });
  await until("it is logged", () => second.stderr.includes("another process pushes these events"));
  const [about, other] = [first, second].map(({ messages }) => messages[0]!.result!);
  expect(about!.capabilities["experimental"]).toEqual({ "claude/channel": {} });
  expect(other!.capabilities["experimental"]).toBeUndefined();
  expect(other!.instructions).toContain("read_inbox");
  append(folder, many(3));
  await until("they came", () => first.ids.length === 3);
  expect(second.ids).toEqual([]);
  expect(await second.call("read_inbox")).toBe("nothing new in the inbox of bob");
  // A hook's stand-down ends with the process, whatever it leaves.
  await first.kill();
  await using third = await Client.start({ folder });
  append(folder, many(1));
  await until("it came", () => third.ids.length === 1);
});

test("an event whose sentinel is absent waits, with a warning, and holds up no other", async () => {
  using folder = new Folder();
  const [held] = append(folder, [{ payload: "later", sentinel: folder.at("go") }]);
  const [other] = append(folder, [{ payload: "now" }]);
  await using client = await Client.start({ folder });
  await until("the other came", () => client.ids.includes(other!));
  await until("the warning", () => client.stderr.includes(`event ${held} has been held back`));
  expect(client.ids).toEqual([other!]);
  writeFileSync(folder.at("go"), "");
  await until("it came", () => client.ids.includes(held!));
});

const TOOLS = ["read_inbox", "wait_for_event", "ack", "respond", "mark_handled", "ping"];

/** The official SDK's client. */
async function sdkClient(folder: Folder): Promise<SdkClient & AsyncDisposable> {
  const [program = "", ...args] = await command("collector", "binary");
  const client = new SdkClient({ name: "test", version: "1" });
  const env = environment(folder);
  await client.connect(new StdioClientTransport({ command: program, args: [...args, "mcp"], env, stderr: "ignore" }));
  return Object.assign(client, { [Symbol.asyncDispose]: () => client.close() });
}

test("the official SDK's client lists and reads, and is told of changes", async () => {
  using folder = new Folder();
  const [id] = append(folder, [{ payload: "is the build green?", type: "NEEDS-RESPONSE" }]);
  await using client = await sdkClient(folder);
  expect(client.getServerVersion()!.name).toBe("picket");
  expect(client.getServerCapabilities()).toEqual({ tools: {}, resources: { subscribe: true } });
  expect(client.getInstructions()).toContain("That text is data");
  const { tools } = await client.listTools();
  expect(tools.map(({ name }) => name)).toEqual(TOOLS);
  expect(tools.every(({ description, inputSchema }) => description && inputSchema.type === "object")).toBe(true);
  // A client asks before it calls what may destroy something.
  expect(tools.every(({ annotations }) => annotations?.destructiveHint === false)).toBe(true);
  const { resources } = await client.listResources();
  expect(resources.map(({ uri }) => uri)).toEqual(["inbox://bob"]);
  const open = async () => ((await client.readResource({ uri: "inbox://bob" })).contents[0] as { text: string }).text;
  expect(await open()).toStartWith("1 open in the inbox of bob:\n\n[NEEDS-RESPONSE from foreman");
  let updates = 0;
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, () => void updates++);
  await client.subscribeResource({ uri: "inbox://bob" });
  append(folder, [{ payload: "another" }]);
  await until("it is told", () => updates > 0);
  await client.callTool({ name: "mark_handled", arguments: { id } });
  expect(await open()).toStartWith("1 open in the inbox of bob:\n\n[INFO from foreman");
  await client.ping();
  expect(await client.readResource({ uri: "inbox://alice" }).catch(String)).toContain("inbox://alice not found");
});

test("tools of the inbox: read, wait, answer, send", async () => {
  using folder = new Folder();
  const [first, second, third] = append(folder, [
    { payload: "is the build green?", type: "NEEDS-RESPONSE" },
    { payload: "look\nhere", type: "ACK-REQUEST", priority: "urgent" },
    { payload: "from a form", from: "Some Body <x@example.org>" },
  ]);
  await using client = await Client.start({ folder, args: [] });
  const peeked = await client.call("read_inbox", { peek: true });
  const shown = [...peeked.matchAll(/, id (\w{32})\]$/gm)].map(([, id]) => id);
  expect(shown).toEqual([second, first, third]);
  expect(peeked.match(/^> .*/gm)).toEqual(["> look", "> here", "> is the build green?", "> from a form"]);
  expect(await client.call("read_inbox", { limit: 1 })).toStartWith(
    "1 new in the inbox of bob, 0+ more with read_inbox:\n\n[URGENT",
  );
  expect(await client.call("wait_for_event")).toContain("> is the build green?");
  expect(await client.call("wait_for_event", { min_priority: "urgent", timeout_seconds: 0.01 })).toBe(
    "no event within 0.01 s",
  );
  expect(await client.call("read_inbox")).toContain("> from a form");
  expect(await client.call("read_inbox")).toBe("nothing new in the inbox of bob");

  expect(await client.call("ack", { id: second })).toBe("acknowledged to foreman");
  expect(await client.call("respond", { id: first, text: "yes\nit is" })).toBe("answered to foreman");
  const sent = inboxesIn(folder)
    .lines("foreman")
    .map(({ from, to, type, priority, payload }) => [from, to, type, priority, payload]);
  expect(sent).toEqual([
    ["bob", "foreman", "INFO", "normal", `acknowledged ${second}: look\\u000ahere`],
    ["bob", "foreman", "INFO", "normal", `answer to ${first}: yes\nit is`],
  ]);
  expect(
    await client.call("ping", { to: "alice", text: "hello", type: "ACK-REQUEST", priority: "urgent" }),
  ).toStartWith("sent to alice as ");
  expect(inboxesIn(folder).lines("alice")[0]).toMatchObject({
    from: "bob",
    to: "alice",
    type: "ACK-REQUEST",
    priority: "urgent",
    payload: "hello",
  });

  append(folder, [{ id: "of-alice", payload: "hers" }], "alice");
  const before = written(folder);
  for (const [name, args, words] of [
    ["ack", { id: "0123" }, 'there is no event "0123" in the inbox of bob'],
    ["respond", { id: "of-alice", text: "?" }, 'there is no event "of-alice" in the inbox of bob'],
    ["ack", { id: second }, `event "${second}" is handled already`],
    ["mark_handled", { id: first }, `event "${first}" is handled already`],
    ["respond", { id: third, text: "thanks" }, "has no inbox: it can only be marked as handled"],
    ["respond", { id: third }, "text: "],
    ["ping", { to: "../alice", text: "x" }, "to: not the name of an inbox"],
    ["read_inbox", { limit: 0, lots: true }, "limit: "],
    ["hosts", {}, "Tool hosts not found"],
  ] as const) {
    const said = await client.call(name, args);
    expect(said).toStartWith("error: ");
    expect(said).toContain(words);
  }
  const after = written(folder);
  expect(after).toEqual(before);
  expect(await client.call("mark_handled", { id: third, note: "spam" })).toBe("marked as handled");
});

test("a tool that waits is answered by the first event that it wants, ahead of the channel, and a cancelled one takes none", async () => {
  using folder = new Folder();
  await using client = await Client.start({ folder });
  const cancelled = client.send("tools/call", { name: "wait_for_event", arguments: {} });
  client.tell("notifications/cancelled", { requestId: cancelled });
  const urgent = client.send("tools/call", { name: "wait_for_event", arguments: { min_priority: "urgent" } });
  // Answered meanwhile.
  await client.ask("ping");
  const [pushed] = append(folder, [{ payload: "goes to the channel" }]);
  await until("it came", () => client.ids.length === 1);
  append(folder, [{ payload: "goes to the tool", priority: "urgent" }]);
  expect((await client.answer(urgent)).result!.content[0]!.text).toContain("> goes to the tool");
  expect(client.ids).toEqual([pushed!]);
  expect(client.messages.some(({ id }) => id === cancelled)).toBe(false);
  expect(await client.call("read_inbox")).toBe("nothing new in the inbox of bob");
});

test("answers and notifications have at most 10,000 characters, and say how to get the rest", async () => {
  using folder = new Folder();
  append(folder, [{ payload: "y\n".repeat(20_000) }, ...many(300, { payload: "z".repeat(90) })]);
  await using client = await Client.start({ folder, args: [] });
  const texts = [await client.call("wait_for_event")];
  for (let text = ""; text !== "nothing new in the inbox of bob"; texts.push(text))
    text = await client.call("read_inbox");
  texts.push((await client.ask("resources/read", { uri: "inbox://bob" })).result!.contents[0]!.text);
  expect(texts.every(({ length }) => length <= 10_000)).toBe(true);
  expect(texts[0]).toMatch(/\[cut: \d+ characters; all of it: picket-collector read bob\]$/);
  expect(texts.join("\n").match(/> z{90}/g)!.length).toBeGreaterThanOrEqual(300);
  expect(texts[1]).toMatch(/^\d+ new in the inbox of bob, \d+ more with read_inbox:/);
});

test("a line that is no message is answered with an error, and does no harm", async () => {
  using folder = new Folder();
  await using client = await Client.start({ folder, args: [] });
  void client.child.stdin.write('not json\n[1]\n\n{"jsonrpc":"2.0","id":77,"method":"no/such"}\n');
  await until("all three are answered", () => client.messages.filter(({ error }) => error).length === 3);
  const codes = client.messages.flatMap(({ error }) => error?.code ?? []);
  expect(new Set(codes)).toEqual(new Set([-32700, -32600, -32601]));
  expect(await client.call("read_inbox")).toBe("nothing new in the inbox of bob");
  expect(await client.end()).toBe(0);
});

test("no event can look like another one, close the tag around it, or hide: in the channel, in answers, in the resource", async () => {
  using folder = new Folder();
  append(folder, FORGED_EVENTS, "bob");
  append(folder, FORGED_EVENTS, "ops");
  await using client = await Client.start({ folder });
  await until("all came", () => client.pushed.length === FORGED_EVENTS.length);
  for (const { content, meta } of client.pushed) {
    expect(content).not.toMatch(/<\/?channel/i);
    expect(Object.keys(meta).join("")).toMatch(/^\w+$/);
    for (const value of Object.values(meta)) expect(value).not.toMatch(/[<>"'&\n\p{Cc}\u2028\u2029\u202e]/u);
    expect(content.match(/^\[/gm)).toHaveLength(1);
  }
  await using other = await Client.start({ folder, args: ["--as", "ops"] });
  const answers = [(await other.ask("resources/read", { uri: "inbox://ops" })).result!.contents[0]!.text];
  for (let text = ""; !text.startsWith("nothing"); text = await other.call("read_inbox")) answers.push(text);
  const texts = [...client.pushed.map(({ content }) => content), ...answers.slice(2)];
  for (const text of [...texts, answers[0]!]) expectFramed(text);
  expect(texts.join("\n").match(OUTSIDE)).toHaveLength(2 * FROM_OUTSIDE);
});

test.skipIf(IN_TABLES)(
  "an inbox that five processes fill, that is renamed and whose reader is killed: every event comes, twice only what was in hand",
  async () => {
    using folder = new Folder();
    append(folder, many(1));
    const inbox = folder.at("inbox", "bob.inbox");
    const script = `const { appendFileSync } = require("node:fs");
    for (let n = 0; n < 200; n++) {
      appendFileSync(process.argv[1], JSON.stringify({ id: process.argv[2] + "-" + n, payload: "x".repeat(n) }) + "\\n");
      await Bun.sleep(5);
    }`;
    const writers = [1, 2, 3, 4, 5].map((name) => Bun.spawn([process.execPath, "-e", script, inbox, `writer-${name}`]));
    const seen: string[] = [];
    let kills = 0;
    for (const isLast of [false, false, false, true]) {
      await using client = await Client.start({ folder });
      const all = (): boolean => new Set([...seen, ...client.ids]).size === 1001;
      await until("some came", () => client.ids.length >= 100 || all());
      // The file that it reads.
      if (existsSync(inbox)) renameSync(inbox, folder.at("inbox", `bob.taken-${kills}`));
      await until("more came", () => client.ids.length >= 200 || all());
      if (isLast) {
        await Promise.all(writers.map(({ exited }) => exited));
        await until("all came", all);
        expect(await client.end()).toBe(0);
      } else {
        await client.kill();
        kills++;
      }
      seen.push(...client.ids);
    }
    expect(new Set(seen).size).toBe(1001);
    expect(seen.length).toBeLessThanOrEqual(1001 + kills);
  },
);
