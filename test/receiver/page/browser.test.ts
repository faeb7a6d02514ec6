// The pages in a real browser: each page that links lead to, of a homelab and of a fleet where everything is wrong and hostile.

import { expect } from "bun:test";
import type { Page } from "playwright-core";
import { faultsOf, inBrowser, tooWide } from "../../browser.ts";
import { Hub, report } from "../kit.ts";
import { hostile, seedHomelab, seedWrong } from "./seed.ts";

const browserTest = inBrowser("the pages in a browser");

browserTest("the first page shows a host that goes silent, and one that reports, without a reload", async (open) => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: "poll_interval_seconds: 1" });
  await hub.report(report(), { host: "nas" });
  await using page = await open(hub.url);
  await page.evaluate("window.isTheSame = true");
  await page.locator("#host-pi", { hasText: "pending" }).waitFor();
  await page.locator("#host-nas", { hasText: "offline" }).waitFor();
  await hub.report(report({ interval_seconds: 3600 }), { host: "nas" });
  await hub.report(report({ interval_seconds: 3600 }), { host: "pi" });
  await page.locator("#host-pi", { hasText: /fine|online/ }).waitFor();
  await page.locator("#host-nas", { hasText: /fine|online/ }).waitFor();
  expect(await page.evaluate("window.isTheSame")).toBe(true);
});

for (const script of [true, false]) {
  browserTest(`a token logs you in, and you may log out, ${script ? "with" : "without"} script`, async (open) => {
    await using hub = await Hub.start({ more: 'auth: { token: "op_example" }' });
    await using page = await open(`${hub.url}/alerts`, { script, expected: /401/ });
    const logIn = async (token: string) => {
      await page.getByLabel("token").fill(token);
      await page.getByRole("button", { name: "Log in" }).click();
    };
    await logIn("op_another");
    await page.getByRole("alert").waitFor();
    expect([...(await faultsOf(page)), ...(await cutOff(page))]).toEqual([]);
    await logIn("op_example");
    await page.waitForURL(`${hub.url}/alerts`);
    await page.getByRole("button", { name: "Log out" }).click();
    await page.getByLabel("token").waitFor();
    await page.goto(hub.url);
    expect(new URL(page.url()).pathname).toBe("/login");
  });
}

browserTest("axe finds nothing serious, by day and by night, and no page scrolls sideways", async (open) => {
  await using hub = await seedHomelab();
  await using page = await open(hub.url, { expected: /404/ });
  await eachPage(page, hub.url, async () => {
    const faults = await faultsOf(page);
    await page.emulateMedia({ colorScheme: "dark" });
    faults.push(...(await faultsOf(page, "color-contrast")));
    await page.emulateMedia({ colorScheme: "light" });
    return [...faults, ...(await cutOff(page))];
  });
});

browserTest("the same without the pages' script", async (open) => {
  await using hub = await seedHomelab();
  await using page = await open(hub.url, { script: false, expected: /404/ });
  await eachPage(page, hub.url, async () => [...(await faultsOf(page)), ...(await cutOff(page))]);
});

browserTest("hostile texts are text on each page, and leave its layout alone", async (open) => {
  await using hub = await seedWrong(["nas", "pi"], hostile());
  await using page = await open(hub.url, { expected: /404/ });
  await eachPage(page, hub.url, async () => {
    expect(await page.title()).not.toContain("taken");
    expect(await page.locator("body script, img, h1:text-is('out')").count()).toBe(0);
    return cutOff(page);
  });
});

/** Goes to each kind of page that links lead to, from the first one on. @param look gives what is wrong with one. */
async function eachPage(page: Page, start: string, look: () => Promise<string[]>): Promise<void> {
  const wrong: Record<string, string[]> = {};
  const seen = new Set<string>();
  const waiting = ["/"];
  for (let path = waiting.shift(); path !== undefined; path = waiting.shift()) {
    const { pathname, searchParams } = new URL(path, start);
    const [, first, ...rest] = pathname.split("/");
    const kind = `/${first}${"/…".repeat(rest.length)}?${[...searchParams.keys()].join("&")}`;
    if (seen.has(kind)) continue;
    seen.add(kind);
    const answer = await page.goto(start + path);
    if (answer?.status() === 404) continue;
    if (answer?.status() !== 200) wrong[path] = [`it answers ${answer?.status()}`];
    waiting.push(...(await page.evaluate<string[]>(LINKS)));
    const found = await look();
    if (found.length > 0) wrong[path] = found;
  }
  expect(wrong).toEqual({});
}

/** Links within the site, but not to what is downloaded. */
const LINKS = `[...document.querySelectorAll("a[href^='/']:not([download])")].map((one) => one.getAttribute("href"))`;

/** What doesn't fit on a phone, a desk or a wall. */
async function cutOff(page: Page): Promise<string[]> {
  const found: string[] = [];
  for (const width of [360, 2560, 1280]) {
    await page.setViewportSize({ width, height: 900 });
    found.push(...(await tooWide(page)).map((what) => `at ${width} px: ${what}`));
  }
  return found;
}
