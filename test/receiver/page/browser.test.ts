// The pages in a real browser: each page that links lead to, of a homelab and of a fleet where everything is wrong and hostile.

import { expect } from "bun:test";
import type { Page } from "playwright-core";
import { faultsOf, inBrowser, tooWide } from "../../browser.ts";
import { until } from "../../kit.ts";
import { Hub, report } from "../kit.ts";
import { Observer } from "../../observer/kit.ts";
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
  await page.locator("#host-pi", { hasText: "fine" }).waitFor();
  await page.locator("#host-nas", { hasText: "fine" }).waitFor();
  expect(await page.evaluate("window.isTheSame")).toBe(true);
});

for (const script of [true, false]) {
  browserTest(`a host is paused and resumed ${script ? "with" : "without"} script`, async (open) => {
    await using hub = await Hub.start({ hosts: ["nas"] });
    await hub.report(report({ interval_seconds: 3600 }), { host: "nas" });
    await using page = await open(`${hub.url}/hosts/nas`, { script });
    await page.getByLabel("Raise no events for").selectOption("2 hours");
    await page.getByLabel("because of").fill("a new disk");
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByText("a new disk").waitFor();
    await page.goto(hub.url);
    await page.locator("#host-nas", { hasText: "paused" }).waitFor();
    await page.goto(`${hub.url}/hosts/nas`);
    await page.getByRole("button", { name: "Resume" }).click();
    await until("its pause is over", async () => {
      await page.goto(hub.url);
      return page.locator("#host-nas", { hasText: "fine" }).isVisible();
    });
  });
}

browserTest(
  "a page prints dark on white, without what only a screen needs, whatever the screen's colours",
  async (open) => {
    await using hub = await seedHomelab();
    await using page = await open(hub.url, { dark: true });
    for (const path of ["/", "/hosts/nas"]) {
      await page.goto(hub.url + path);
      await page.emulateMedia({ media: "print", colorScheme: "dark" });
      // The width of A4 with its margins.
      await page.setViewportSize({ width: 718, height: 1000 });
      expect(await tooWide(page)).toEqual([]);
      expect(await faultsOf(page, "color-contrast")).toEqual([]);
      const seen = `[...document.querySelectorAll("body > header, form, button")].filter((one) => one.checkVisibility()).length`;
      const background = "getComputedStyle(document.body).backgroundColor";
      expect(await page.evaluate(`[${seen}, ${background}]`)).toEqual([0, "rgb(255, 255, 255)"]);
      await page.emulateMedia({ media: "screen" });
    }
  },
);

browserTest("axe finds nothing serious, by day and by night, and no page scrolls sideways", async (open) => {
  await using observer = await observing();
  await using hub = await seedHomelab(observer);
  await using page = await open(hub.url);
  await eachPage(page, hub.url, async () => {
    const faults = await faultsOf(page);
    await page.emulateMedia({ colorScheme: "dark" });
    faults.push(...(await faultsOf(page, "color-contrast")));
    await page.emulateMedia({ colorScheme: "light" });
    return [...faults, ...(await cutOff(page))];
  });
});

browserTest("the same without the pages' script", async (open) => {
  await using observer = await observing();
  await using hub = await seedHomelab(observer);
  await using page = await open(hub.url, { script: false });
  await eachPage(page, hub.url, async () => [...(await faultsOf(page)), ...(await cutOff(page))]);
});

browserTest("hostile texts are text on each page, and leave its layout alone", async (open) => {
  const text = hostile();
  await using observer = await observing(text);
  await using hub = await seedWrong({ text, ...observer });
  await using page = await open(hub.url);
  await eachPage(page, hub.url, async () => {
    expect(await page.title()).not.toBe("taken");
    expect(await page.locator("body script, img, h1:text-is('out')").count()).toBe(0);
    return cutOff(page);
  });
});

/** An observer with a failure, and what tells a receiver of it. */
async function observing(text = (harmless: string) => harmless) {
  const observer = await Observer.start();
  const timestamp = new Date().toISOString();
  const failure = {
    endpoint: text("deploy").slice(0, 200),
    success: false,
    error: text("no route"),
    source: "workflow",
    input_summary: text("release=17"),
    timestamp,
  };
  await observer.record(failure);
  return { more: `observer: { url: "${observer.url}" }`, [Symbol.asyncDispose]: () => observer[Symbol.asyncDispose]() };
}

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
