// The pages in a real browser.

import { expect } from "bun:test";
import { faultsOf, inBrowser, tooWide } from "../../browser.ts";
import { Hub, report } from "../kit.ts";

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
  await page.locator("#host-pi", { hasText: "online" }).waitFor();
  await page.locator("#host-nas", { hasText: "online" }).waitFor();
  expect(await page.evaluate("window.isTheSame")).toBe(true);
});

for (const script of [true, false]) {
  browserTest(
    `no page has a serious fault, or scrolls sideways ${script ? "with" : "without"} its script`,
    async (open) => {
      await using hub = await Hub.start({ hosts: ["nas"] });
      for (const dark of [false, true]) {
        await using page = await open(hub.url, { script, dark });
        expect(await faultsOf(page)).toEqual([]);
        for (const width of [360, 1280, 2560]) {
          await page.setViewportSize({ width, height: 900 });
          expect([width, await tooWide(page)]).toEqual([width, []]);
        }
      }
    },
  );
}
