// Loops by themselves, in this process. Failures, the watchdog and stopping stand in service.test.ts and systemd.test.ts.

import { expect, test } from "bun:test";
import { createLog } from "../lib/log.ts";
import { createLoops } from "../lib/loop.ts";
import { until } from "./fixtures/service/start.ts";

function setup() {
  const stop = new AbortController();
  const log = createLog({ role: "test", json: false, level: "error", write: () => {} });
  const loops = createLoops({ log, stopping: stop.signal, watchdogMs: null, sign: () => {} });
  return { loops, end: (): Promise<void> => (stop.abort(), loops.ended()) };
}

test("wakes during a pass make one more afterwards, wakes between passes one each", async () => {
  const { loops, end } = setup();
  const gate = Promise.withResolvers<void>();
  const loop = loops.loop({ name: "a", every: () => 3600, pass: () => gate.promise });
  expect(loop.stats()).toEqual({ passes: 0, failures: 0, last_pass_at: null, running_for_seconds: 0 });
  loops.start();
  for (let n = 0; n < 5; n++) loop.wake();
  await until(
    () => loop.stats().running_for_seconds > 0,
    () => "a running pass",
  );
  gate.resolve();
  await until(
    () => loop.stats().passes === 2 && loop.stats().running_for_seconds === 0,
    () => "two passes",
  );
  loop.wake();
  await until(
    () => loop.stats().passes === 3,
    () => "a third pass",
  );
  await end();
  expect(loop.stats().passes).toBe(3);
});

test("a loop that a first pass adds runs as one loop", async () => {
  const { loops, end } = setup();
  let most = 0;
  let now = 0;
  const inner = {
    name: "inner",
    every: () => 0.001,
    async pass(): Promise<void> {
      most = Math.max(most, ++now);
      await Bun.sleep(1);
      now--;
    },
  };
  let added: ReturnType<typeof loops.loop> | undefined;
  loops.loop({
    name: "outer",
    every: () => 3600,
    async pass() {
      added = loops.loop(inner);
    },
  });
  loops.start();
  await until(
    () => (added?.stats().passes ?? 0) >= 10,
    () => "passes of the added loop",
  );
  await end();
  expect(most).toBe(1);
});

test("a loop whose passes take no time leaves room for others", async () => {
  const { loops, end } = setup();
  const loop = loops.loop({ name: "eager", every: () => 1e-9, pass: () => Promise.resolve() });
  loops.start();
  await until(
    () => loop.stats().passes > 10,
    () => "passes",
  );
  await end();
});
