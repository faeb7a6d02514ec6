// The pictures of README and docs: the fleet and a host of a homelab, by day and by night.
//   bun run screenshots        half as large where pngquant is installed

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { startBrowser } from "../../browser.ts";
import { ROOT, until } from "../../kit.ts";
import { seedHomelab, spread } from "./seed.ts";

const FOLDER = join(ROOT, "docs/screenshots");
const SHOTS = { fleet: { path: "/", height: 620 }, host: { path: "/hosts/nas", height: 790 } };

mkdirSync(FOLDER, { recursive: true });
await using hub = await seedHomelab();
await until(
  "all alerts are told",
  () => hub.rows("SELECT 1 FROM events").length === hub.rows("SELECT 1 FROM alerts").length,
);
spread(hub, 7);
await using browser = await startBrowser();
for (const colorScheme of ["light", "dark"] as const) {
  const context = await browser.newContext({
    colorScheme,
    locale: "en-GB",
    timezoneId: "UTC",
  });
  const page = await context.newPage();
  for (const [name, { path, height }] of Object.entries(SHOTS)) {
    await page.setViewportSize({ width: 1280, height });
    await page.goto(hub.url + path, { waitUntil: "load" });
    await page.screenshot({ path: join(FOLDER, `${name}-${colorScheme}.png`) });
  }
}
const files = [...new Bun.Glob("*.png").scanSync({ cwd: FOLDER, absolute: true })];
if (Bun.which("pngquant")) await Bun.$`pngquant --force --ext .png --speed 1 ${files}`;
