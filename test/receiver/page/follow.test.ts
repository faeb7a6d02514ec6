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
    async fetch({ url, headers, signal }) {
      const { pathname, search } = new URL(url);
      const { accept = "" } = Object.fromEntries(headers);
      const answer = await fetch(hub.address + pathname + search, { headers: { accept }, signal }).catch(() => null);
      if (!answer && accept === "text/html") isRefused = true;
      if (!answer) return new Response("", { status: 502 });
      return new Response(untilCut(answer), {
        status: answer.status,
        headers: { "content-type": answer.headers.get("content-type")! },
      });
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

async function* untilCut({ body }: Response): AsyncGenerator<Uint8Array> {
  try {
    yield* body!;
  } catch {
    // The receiver was ended.
  }
}
