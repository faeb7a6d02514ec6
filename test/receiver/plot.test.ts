// Figures in words, and the marks of axes. Plots themselves: page/host.test.ts.

import { expect, test } from "bun:test";
import { marksOf, sizedOf, worded } from "../../lib/receiver/plot.ts";

test("figures have their unit, and no digits that say nothing", () => {
  expect([worded(0.44, "%"), worded(12.5, "%"), worded(100, "%")]).toEqual(["0.4 %", "13 %", "100 %"]);
  expect([worded(512, "MB"), worded(1536, "MB"), worded(0, "bytes/s")]).toEqual(["512 MB", "1.5 GB", "0 bytes/s"]);
  expect([worded(0.5, ""), worded(41.5, "°C")]).toEqual(["0.50", "42 °C"]);
  expect([sizedOf(2 ** 30, 2 ** 32), sizedOf(2 ** 20, 2 ** 30)]).toEqual(["1 of 4 GB", "1 MB of 1 GB"]);
});

test("an axis has room for its values, and round marks", () => {
  const cases = [
    [
      [0, 100, "%"],
      [0, 25, 50, 75, 100],
    ],
    [
      [0, 3, "%"],
      [0, 1, 2, 3],
    ],
    [
      [0, 0, "%"],
      [0, 1],
    ],
    [
      [38.2, 51.5, "°C"],
      [35, 40, 45, 50, 55],
    ],
    [
      [0, 1.7, ""],
      [0, 0.5, 1, 1.5, 2],
    ],
    [
      [0, 900, "MB"],
      [0, 512, 1024],
    ],
    [
      [0, 3500, "MB"],
      [0, 1024, 2048, 3072, 4096],
    ],
    [[0, 3 * 2 ** 20, "bytes/s"], [0, 1, 2, 3].map((n) => n * 2 ** 20)],
  ] as const;
  for (const [[low, high, unit], marks] of cases) expect(marksOf(low, high, unit)).toEqual([...marks]);
});
