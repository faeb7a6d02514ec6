// /inbox, looked at without a browser: the real commands of the collector beside it.

import { expect, test } from "bun:test";
import { appendFileSync, mkdirSync, readFileSync, renameSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { IN_TABLES, inboxesIn } from "../../inbox-kit.ts";
import { runRole } from "../../kit.ts";
import { Hub } from "../kit.ts";
import { follow } from "./stream.ts";

/** A receiver with an inbox to write to. */
class Inbox {
  readonly hub: Hub;
  readonly path: string;
  constructor(hub: Hub) {
    this.hub = hub;
    this.path = join(hub.inbox, "ops.inbox");
    mkdirSync(join(hub.inbox, ".picket"), { recursive: true });
  }
  write(...events: Record<string, string>[]): void {
    this.append(events.map(lineOf).join(""));
  }
  append(lines: string): void {
    inboxesIn(this.hub.folder).append("ops", lines);
  }
  /** A command of the collector. */
  run(...args: string[]) {
    const env = { HOME: this.hub.folder.path, XDG_CONFIG_HOME: "/none", ...inboxesIn(this.hub.folder).env };
    return runRole("collector", args, { env: { ...env, PICKET_IDENTITY: "ops" } });
  }
  async page(): Promise<string> {
    return (await fetch(`${this.hub.url}/inbox`)).text();
  }
  mark(id: string): Promise<Response> {
    const headers = { "content-type": "application/x-www-form-urlencoded", origin: this.hub.url };
    const body = new URLSearchParams({ id }).toString();
    return fetch(`${this.hub.url}/inbox/handled`, { method: "POST", headers, body, redirect: "manual" });
  }
}

function lineOf(event: Record<string, string>): string {
  const ts = new Date().toISOString();
  const full = { ts, id: `id-${event["payload"]}`, from: "bob", to: "ops", type: "INFO", priority: "normal" };
  return `${JSON.stringify({ ...full, ...event })}\n`;
}

/** Each event of a page or a region: the list that it is in, and its text. */
async function linesOf(html: string): Promise<[list: string, text: string][]> {
  const found: [string, string][] = [];
  await new HTMLRewriter()
    .on("li[data-live]", { element: (li) => void found.push([li.getAttribute("data-live")!, ""]) })
    .on("li[data-live] *", { text: ({ text }) => void (found.at(-1)![1] += text) })
    .transform(new Response(html))
    .text();
  return found;
}

const openOf = (html: string) => /<span class="count"> (\d+)</.exec(/href="\/inbox".*?<\/a>/.exec(html)![0])?.[1];

test("the inbox's page shows what is open, urgent first, and who handled what; other processes' changes reach it while it is open", async () => {
  await using hub = await Hub.start({ hosts: [] });
  const inbox = new Inbox(hub);
  expect(await inbox.page()).toContain("No event is open");
  inbox.write({ payload: "a" }, { payload: "b", priority: "urgent" }, { payload: "c" }, { payload: "d" });
  const page = await inbox.page();
  // A state, a text, its sender.
  const shown = (await linesOf(page)).map(([, text]) => /(urgent|open)(.)bob/.exec(text)?.slice(1).join(" "));
  expect(shown).toEqual(["urgent b", "open d", "open c", "open a"]);
  expect(page).toContain("4 events are open, 1 of them urgent");
  expect(openOf(page)).toBe("4");

  await using open = follow(hub.url, "/inbox");
  const next = async () => (await open.next()).value!;
  expect((await next()).event).toBe("hello");
  const updated = async (has: string, list: string) => {
    for (;;) {
      const { event, data } = await next();
      const lines = await linesOf(Object.values(data?.regions ?? {}).join(""));
      if (event === "update" && lines.some(([of, text]) => of === list && text.includes(has))) return data;
    }
  };
  // By the collector's command, by the form, by a program that appends, and as Syncthing brings a file.
  expect((await inbox.run("ack", "id-b")).code).toBe(0);
  expect((await updated("acknowledged", "handled-events")).title).toBe("3 events are open");
  expect((await inbox.mark("id-a")).status).toBe(303);
  if (!IN_TABLES) {
    const journal = readFileSync(join(hub.inbox, ".picket/ops.handled"), "utf8").trim().split("\n");
    expect(JSON.parse(journal[1]!)).toMatchObject({ id: "id-a", by: "page" });
  }
  await updated("on this page", "handled-events");
  expect((await inbox.run("read", "ops", "--open", "--json")).stdout.match(/id-./g)).toEqual(["id-c", "id-d"]);
  inbox.write({ payload: "e" });
  await updated("e", "open-events");
  if (IN_TABLES) inbox.write({ payload: "from another host" });
  else {
    const all = readFileSync(inbox.path, "utf8") + lineOf({ payload: "from another host" });
    renameSync(hub.folder.write("synced", all), inbox.path);
  }
  await updated("another host", "open-events");

  for (const [id, status, text] of [
    ["id-a", 409, "is handled already"],
    ["none", 404, "not among the newest"],
  ] as const) {
    const answer = await inbox.mark(id);
    expect([answer.status, await answer.text()]).toEqual([status, expect.stringContaining(text)]);
  }
  expect((await inbox.run("ack", "id-a")).stderr).toContain("is handled already");
});

test("what strangers write is text, a long one is folded, and what is no event, or waits for a file, is not shown", async () => {
  await using hub = await Hub.start({ hosts: [] });
  const inbox = new Inbox(hub);
  const there = hub.folder.at("there");
  inbox.write(
    { payload: `<script>alert("1")</script> & \u202egnp.exe`, from: "<b>eve</b>", id: '"><i>' },
    { payload: `${"A".repeat(10_000)} end`, type: "\u001b[31m", ts: "yesterday" },
    { payload: `${"word ".repeat(3000)} end` },
    { payload: "later", sentinel: there },
  );
  inbox.append("rubbish\n[]\n");
  if (!IN_TABLES) appendFileSync(inbox.path, '{"payload":"half a line');
  const page = await inbox.page();
  for (const raw of ["<script>", "<b>eve", "<i>", "\u001b", "\u202e", "half a line", "later"])
    expect(page).not.toContain(raw);
  expect(page).toContain("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; \\u202egnp.exe");
  expect(page).toContain("2 lines are not an event");
  expect(openOf(page)).toBe("3");
  expect(page.match(/<summary>.*?<\/summary>/gs)!.map(({ length }) => length < 600)).toEqual([true, true]);
  expect(page).toContain("AAA end");
  expect(page).toContain("The rest of 14.7 KB is not shown");
  writeFileSync(there, "");
  expect(await inbox.page()).toContain("later");
  expect((await inbox.mark('"><i>')).status).toBe(303);
});

test.skipIf(IN_TABLES)("of an inbox of a gigabyte the end is read, once", async () => {
  await using hub = await Hub.start({ hosts: [] });
  const inbox = new Inbox(hub);
  writeFileSync(inbox.path, "");
  truncateSync(inbox.path, 1 << 30);
  appendFileSync(inbox.path, "\n");
  const some = Array.from({ length: 700 }, (_, n) => ({ payload: `event ${n}` }));
  inbox.write(...some);
  const read = () => Number(/^rchar: (\d+)$/m.exec(readFileSync(`/proc/${hub.daemon.child.pid}/io`, "utf8"))![1]);
  await fetch(`${hub.url}/`);
  const before = read();
  for (let n = 0; n < 5; n++) {
    const page = await inbox.page();
    expect(await linesOf(page)).toHaveLength(100);
    expect(page).toContain("The newest 500 events; older ones: picket-collector read ops --open");
  }
  expect(statSync(inbox.path).size).toBeGreaterThan(1 << 30);
  expect(read() - before).toBeLessThan(8 << 20);
});

test("an inbox that can't be read is said so, and the other pages are there", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  const inbox = new Inbox(hub);
  if (IN_TABLES) inboxesIn(hub.folder).sql("ALTER TABLE inbox RENAME TO away");
  else mkdirSync(inbox.path);
  expect(await inbox.page()).toContain(IN_TABLES ? "does not exist" : "not a regular file");
  expect(await (await fetch(hub.url)).text()).toContain("nas");
});
