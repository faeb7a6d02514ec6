// Clusters under load: long work runs in slices, and requests are answered meanwhile.

import { expect, test } from "bun:test";
import { Clusters } from "../../lib/observer/clusters.ts";
import { OpLog } from "../../lib/observer/op-log.ts";
import { type Operation, readOperation } from "../../lib/observer/operation.ts";
import { Books } from "../../lib/observer/books.ts";
import { Recorder } from "../../lib/observer/recorder.ts";
import { until } from "../kit.ts";
import { Observer } from "./kit.ts";

const RULES = { threshold: 3, windowMs: 60_000, cooldownMs: 3_600_000, consecutive: 0 };

/** Failures of which no two have the same text. */
function failures(count: number): Operation[] {
  return Array.from({ length: count }, (_, index) => {
    const read = readOperation({ endpoint: "x", success: false, error: `job ${index} has failed` }, Date.now());
    if ("broken" in read) throw new Error("no operation");
    return read.operation;
  });
}

test("requests are answered while playbooks are made of long texts", async () => {
  await using observer = await Observer.start({ more: "durability: os" });
  const long = "connection refused to host 17 at path /var/lib/x ".repeat(300);
  const operations = Array.from({ length: 250 }, () => ({ endpoint: "x", success: true, input_summary: long }));
  for (let part = 0; part < 4; part++) await observer.record(...operations);
  type Steps = { steps: { playbooks: { running_for_seconds: number } } };
  await until("an answer in the middle of a pass", async () => {
    const { steps } = await observer.get<Steps>("/observer/health");
    return steps.playbooks.running_for_seconds > 0;
  });
});

test("a full queue of failures is sorted in small parts, and each failure is counted", async () => {
  const clusters = new Clusters(RULES);
  for (const failure of failures(25_000)) clusters.add(failure);
  expect(clusters.fullness).toBeLessThan(1);
  expect(clusters.fullness).toBeGreaterThan(0.95);
  await clusters.analyze();
  expect(clusters.list().map(({ count }) => count)).toEqual([25_000]);
});

test("recording waits while failures come faster than they are sorted", async () => {
  const books = new Books(new Clusters(RULES));
  const log = await OpLog.open({ path: null, rotateBytes: 1, durability: "os", books, malformed: () => {} });
  const recorder = new Recorder(books, log);
  await recorder.record(failures(12_000));
  expect(books.clusters.fullness).toBeLessThanOrEqual(0.25);
  expect(books.tally.stats.total).toBe(12_000);
});
