// Recording: each id once.

import { expect, test } from "bun:test";
import { Observer, lines } from "./kit.ts";

test("an array with an operation that another request is recording waits for it, and each operation is recorded once", async () => {
  await using observer = await Observer.start();
  const own = Array.from({ length: 200 }, (_, n) => ({ id: `op-${n}`, endpoint: "a", success: true }));
  // Each of them twice at the same time: alone, and within an array with others.
  const arrays = Array.from({ length: 10 }, (_, n) => own.slice(n * 15, n * 15 + 60));
  await Promise.all([...own.map((one) => observer.record(one)), ...arrays.map((some) => observer.record(...some))]);
  expect(await observer.stats()).toMatchObject({ total: 200 });
  expect(new Set(lines(observer.log).map(({ id }) => id)).size).toBe(200);
});
