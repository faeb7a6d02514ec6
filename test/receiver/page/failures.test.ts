// /failures, looked at without a browser: a real observer, and between it and the receiver a proxy that counts, delays or breaks.

import { expect, test } from "bun:test";
import { until } from "../../kit.ts";
import { Observer } from "../../observer/kit.ts";
import { Hub } from "../kit.ts";
import { follow } from "./stream.ts";

const TOKEN = "the-observer's-operator";

/** Stands for the observer. */
function startProxy(observer: Observer) {
  const seen = { asked: 0, hangs: false, says: null as string | null };
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      seen.asked++;
      if (seen.hangs) await new Promise((gone) => request.signal.addEventListener("abort", gone));
      if (seen.says !== null) return new Response(seen.says);
      const { pathname, search } = new URL(request.url);
      const asked = fetch(observer.url + pathname + search, { headers: request.headers });
      return asked.catch(() => new Response("gone", { status: 502 }));
    },
  });
  return { seen, url: `http://127.0.0.1:${server.port}`, [Symbol.dispose]: () => void server.stop(true) };
}

const failure = (endpoint: string, error: string, agoHours = 0) => ({
  endpoint,
  success: false,
  error,
  source: "workflow",
  input_summary: "release=17",
  timestamp: new Date(Date.now() - agoHours * 3_600_000).toISOString(),
});

async function page(hub: Hub, path: string): Promise<string> {
  return (await fetch(hub.url + path)).text();
}

/** The states of the list, in order, and what stands in the link. */
const states = (html: string) => [...html.matchAll(/<li [^>]*>.*?<b>(\w+)<\/b>/gs)].map(([, state]) => state);
const linked = (html: string) => /href="\/failures"[^>]*>Failures(?:<span class="count"> (\d+))?/.exec(html);

async function reload(hub: Hub, more: string): Promise<void> {
  const before = hub.daemon.log.length;
  hub.configure(more);
  hub.daemon.child.kill("SIGHUP");
  await until("it is reloaded", () => hub.daemon.log.slice(before).some((line) => line.includes("reloaded")));
}

test("failures, those to be seen to first, and their examples; what is new reaches an open page, and so does the observer's end", async () => {
  await using observer = await Observer.start({ more: `auth: { token: "${TOKEN}" }` });
  observer.post = (path, body) =>
    fetch(observer.url + path, {
      method: "POST",
      body: JSON.stringify(body),
      headers: { authorization: `Bearer ${TOKEN}` },
    });
  const refused = (n: number) => failure("deploy", `no route to 10.0.0.7 after ${n} s`);
  await observer.record(
    failure("old", "gone", 72),
    failure("backup", "no space", 30),
    failure("backup", "no space", 2),
  );
  await observer.record(...[1, 2, 3].map(refused));
  await observer.record(failure("<b>eve</b>", `<script>"\u202e\u001b ${"A".repeat(5000)} end`));
  using proxy = startProxy(observer);

  await using hub = await Hub.start({ hosts: [] });
  expect(linked(await page(hub, "/"))).toBeNull();
  expect((await fetch(`${hub.url}/failures`)).status).toBe(404);
  const settings = `observer: { url: "${proxy.url}", token_file: ${hub.folder.write("token", TOKEN)} }`;
  await reload(hub, settings);
  const list = await page(hub, "/failures");
  expect(states(list)).toEqual(["escalated", "new", "known", "quiet"]);
  expect(list).toContain("1 failure is escalated, 1 is new");
  expect(linked(list)![1]).toBe("2");
  for (const raw of ["<script>", "<b>eve", "\u001b", "\u202e"]) expect(list).not.toContain(raw);
  expect(list).toContain("&lt;b&gt;eve&lt;/b&gt;");
  // However many look.
  await Promise.all(Array.from({ length: 10 }, (_, n) => page(hub, n % 2 ? "/" : "/failures")));
  expect(proxy.seen.asked).toBe(1);

  const [, path] = /href="(\/failures\/[^"]+)"/.exec(list)!;
  const one = await page(hub, path!);
  expect(one.match(/id="example-\d/g)).toHaveLength(3);
  expect(one).toContain("no route to 10.0.0.7 after 3 s");
  expect(one).toContain("workflow 3; first");
  const unknown = await fetch(`${hub.url}/failures/f2%3Anone%2F..%3Fx`);
  expect([unknown.status, await unknown.text()]).toEqual([404, expect.stringContaining("knows no failure")]);

  await using open = follow(hub.url, "/failures");
  const updated = async (text: string) => {
    for (;;) {
      const { data } = (await open.next()).value!;
      if (data.regions?.["headline"]?.includes(text)) return data.regions;
    }
  };
  await observer.record(failure("restore", "no tape"));
  expect(Object.values(await updated("2 are new")).join("")).toContain("no tape");
  await observer.daemon.kill();
  await updated("What fails now is not known");
  const after = await page(hub, "/failures");
  expect(states(after)).toHaveLength(5);
  expect(after).toContain("What it said");
});

test("an observer that hangs, refuses the token or is none is said so, and holds up no other page", async () => {
  await using observer = await Observer.start({ more: `auth: { token: "${TOKEN}" }` });
  using proxy = startProxy(observer);
  proxy.seen.hangs = true;
  const settings = (token: string) => `observer: { url: "${proxy.url}", token: "${token}" }`;
  await using hub = await Hub.start({ hosts: [], more: settings("wrong") });
  const late = page(hub, "/failures");
  await until("the observer is asked", () => proxy.seen.asked === 1);
  const others = await Promise.all(["/", "/alerts", "/inbox"].map((path) => page(hub, path)));
  expect(others.map((html) => linked(html)?.[0])).toEqual(others.map(() => expect.stringContaining("Failures")));
  // No more were asked, and the first still waits.
  expect(await Promise.race([late, Promise.resolve("waits")])).toBe("waits");
  expect(await late).toContain("timed out after 3 s");

  proxy.seen.hangs = false;
  await reload(hub, settings("also wrong"));
  const refused = await page(hub, "/failures");
  expect(refused).toMatch(/answered 401: .*set &quot;observer.token_file&quot;/);
  expect(refused).not.toContain("also wrong");
  for (const [says, expected] of [
    ["[]", "answer is not"],
    ['{"clusters":[{}]}', "answer is not"],
    ['{"clusters":[{"fingerprint":"f9:1","count":"many","last_at":7}]}', "No failure is new"],
  ] as const) {
    proxy.seen.says = says;
    await reload(hub, settings(expected));
    expect(await page(hub, "/failures")).toContain(expected);
  }
  // A token goes nowhere in the clear.
  hub.configure('observer: { url: "http://198.51.100.7:3219", token: secret }');
  const { code, stderr } = await hub.run("--check");
  expect([code, stderr]).toEqual([78, expect.stringContaining("observer.url")]);
});
