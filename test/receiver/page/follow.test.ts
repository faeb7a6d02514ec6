// Open pages when the receiver is away, in a real browser.

import { expect } from "bun:test";
import { inBrowser } from "../../browser.ts";
import { freePort, until } from "../../kit.ts";
import { Hub } from "../kit.ts";

const browserTest = inBrowser("open pages while the receiver is away");

browserTest("a page behind a proxy stays while the receiver is away, and goes on afterwards", async (open) => {
  await using hub = await Hub.start({ hosts: ["nas"], port: freePort() });
  let isRefused = false;
  const proxy = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    async fetch(request) {
      const answer = await passOn(request, hub.address).catch(() => null);
      if (!answer && request.headers.get("accept") === "text/html") isRefused = true;
      return answer ?? new Response("", { status: 502 });
    },
  });
  {
    await using page = await open(`http://127.0.0.1:${proxy.port}/`, { expected: /502|ERR_/ });
    await hub.daemon.kill();
    await page.evaluate("window.isTheSame = true");
    await until("the page was asked for", () => isRefused);
    await hub.addHost("pi");
    await hub.up();
    await page.locator("#host-pi").waitFor();
    expect(await page.evaluate("window.isTheSame")).toBe(true);
  }
  await proxy.stop(true);
});

browserTest(
  "a page says since when it is old, and goes on after a sleep that cut its connection silently",
  async (open) => {
    await using hub = await Hub.start({ hosts: ["nas"] });
    let streams = 0;
    const proxy = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      async fetch(request) {
        // The streams before the sleep are open, and nothing comes.
        if (new URL(request.url).pathname === "/live" && ++streams <= 2) {
          const silent = new ReadableStream({
            start: (out) => out.enqueue(new TextEncoder().encode(": listening\n\n")),
          });
          return new Response(silent, { headers: { "content-type": "text/event-stream" } });
        }
        return passOn(request, hub.url);
      },
    });
    {
      await using page = await open(`http://127.0.0.1:${proxy.port}/`);
      await until("the page listens", () => streams === 1);
      await page.clock.install();
      await page.reload();
      await until("the page listens again", () => streams === 2);
      await hub.addHost("pi");
      expect(await page.locator("#stale").isHidden()).toBe(true);
      await page.evaluate(
        "new MutationObserver(() => { window.said ||= document.getElementById('stale').textContent; }).observe(document.getElementById('stale'), { childList: true })",
      );
      await page.clock.fastForward(3_600_000);
      await page.locator("#host-pi").waitFor();
      expect(await page.evaluate("window.said")).toStartWith(
        "The receiver does not answer: this is how things were at ",
      );
      await page.locator("#stale").waitFor({ state: "hidden" });
    }
    await proxy.stop(true);
  },
);

/** A receiver's answer, through a proxy. */
async function passOn({ url, headers, signal }: Request, receiver: string): Promise<Response> {
  const { pathname, search } = new URL(url);
  const accept = headers.get("accept") ?? "";
  const answer = await fetch(receiver + pathname + search, { headers: { accept }, signal });
  const { status } = answer;
  return new Response(untilCut(answer), { status, headers: { "content-type": answer.headers.get("content-type")! } });
}

async function* untilCut({ body }: Response): AsyncGenerator<Uint8Array> {
  try {
    yield* body!;
  } catch {
    // The receiver was ended.
  }
}
