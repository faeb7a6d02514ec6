// What all pages have in common: headers, assets, and the stream of what changes. Looked at without a browser.

import { expect, test } from "bun:test";
import { Hub } from "../kit.ts";
import { follow } from "./stream.ts";

test("a page loads and runs nothing from elsewhere, and its assets may be kept", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  const page = await fetch(hub.url);
  expect(page.status).toBe(200);
  expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
  expect(page.headers.get("cache-control")).toBe("no-store");
  const html = await page.text();
  expect(html).toStartWith("<!doctype html><html");
  expect(html).toContain("nas");
  const assets = [...html.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)].map(([, path]) => path!);
  expect(assets.map((path) => path.replace(/.*\./, "")).toSorted()).toEqual(["css", "js"]);
  for (const path of assets) {
    const asset = await fetch(hub.url + path);
    expect([asset.status, asset.headers.get("cache-control")]).toEqual([200, "public, max-age=31536000, immutable"]);
  }
  expect((await fetch(`${hub.url}/hosts/none`)).status).toBe(404);
});

test("an open page is sent the regions that changed, in their order", async () => {
  await using hub = await Hub.start({ hosts: ["nas"] });
  const events = follow(hub.url, "/");
  expect((await events.next()).value!.event).toBe("hello");
  await hub.addHost("a-new-one");
  const { value } = await events.next();
  expect(value!.event).toBe("update");
  expect(Object.keys(value!.data.regions)).toContain("host-a-new-one");
  expect(value!.data.lists["hosts"]).toContain("host-a-new-one");
  await events.return();
});
