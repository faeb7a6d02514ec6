// Escalations while their inbox is changed by a reload.

import { describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Journal } from "../../lib/journal.ts";
import { createLog } from "../../lib/log.ts";
import { Clusters } from "../../lib/observer/clusters.ts";
import { Escalations } from "../../lib/observer/escalations.ts";
import { readOperation } from "../../lib/observer/operation.ts";
import { Folder, inboxLines, until } from "../kit.ts";
import { type Op, Observer, ago, failure, twoCycles } from "./kit.ts";

test("a reload that changes the inbox during delivery loses no escalation", async () => {
  using folder = new Folder();
  const rules = { threshold: 1, windowMs: 60_000, cooldownMs: 60_000, consecutive: 0 };
  const clusters = new Clusters(rules);
  const names = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma".split(
    " ",
  );
  for (const endpoint of names) {
    const read = readOperation({ endpoint, success: false, error: "no" }, Date.now());
    if ("operation" in read) clusters.add(read.operation);
  }
  await clusters.analyze();
  const inbox = (name: string) => ({ inbox_dir: folder.at(name), recipient: "ops" });
  const escalations = new Escalations({
    folder: folder.path,
    journal: new Journal({ path: folder.at("escalations.jsonl"), durability: "disk", intents: folder.at(".picket") }),
    clusters,
    notify: inbox("old"),
    model: null,
    log: createLog({ role: "test", json: false, level: "error", write: () => {} }),
  });
  const signal = new AbortController().signal;
  const pass = escalations.pass({ signal }).catch(() => {});
  await until("the first is told", () => inboxLines(folder.at("old"), "ops").length > 0);
  escalations.configure({ notify: inbox("new"), model: null });
  await pass;
  await escalations.pass({ signal });
  const told = [...inboxLines(folder.at("old"), "ops"), ...inboxLines(folder.at("new"), "ops")];
  const ids = new Set(told.map(({ source }) => source));
  expect(ids.size).toBe(names.length);
  await escalations.close();
});

test("failures whose time lies ahead are escalated once, however much later the log is read again", async () => {
  await using observer = new Observer();
  await observer.up();
  const first = observer.daemon;
  const ahead = { endpoint: "x", success: false, error: "no", timestamp: "2999-01-01T00:00:00Z", id: "1" };
  const post = async (...ids: string[]) => {
    const body = JSON.stringify(ids.map((id) => ({ ...ahead, id })));
    expect((await observer.post("/observer/event", body)).status).toBe(200);
  };
  await post("1", "2", "3");
  const file = join(observer.data, "escalations.jsonl");
  const escalated = async () => (await Bun.file(file).text()).split("\n").length - 1;
  await until("an escalation", async () => existsSync(file) && (await escalated()) === 1);
  await first.kill("SIGKILL");
  // As if all of it were three days ago.
  const now = new Date().toISOString().slice(0, 10);
  const then = new Date(Date.now() - 3 * 86_400_000).toISOString().slice(0, 10);
  for (const path of [observer.log, file]) await Bun.write(path, (await Bun.file(path).text()).replaceAll(now, then));
  await observer.up();
  const { events } = await observer.get<{ events: { timestamp: string; id: string }[] }>("/observer/events");
  expect(events.map(({ timestamp }) => timestamp)).toEqual(Array.from({ length: 3 }, () => ahead.timestamp));
  type Steps = { steps: { escalate: { passes: number } } };
  await until("two looks", async () => (await observer.get<Steps>("/observer/health")).steps.escalate.passes > 2);
  expect(await escalated()).toBe(1);
});

describe("escalation", () => {
  const three = ["a 1", "a 2", "a 3"].map((error) => failure("deploy", error));

  test("two failures don't escalate, three do, once; also across restarts between the second and the third and after the third", async () => {
    await using observer = await Observer.start();
    await observer.record(three[0]!);
    await observer.record(three[1]!);
    await twoCycles(observer);
    expect(observer.escalations()).toEqual([]);
    await observer.again("SIGKILL");
    await twoCycles(observer);
    expect(observer.escalations()).toEqual([]);
    await observer.record(three[2]!);
    await observer.daemon.kill("SIGKILL");
    await observer.up();
    await until("it is told", () => observer.told().length > 0);
    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      await observer.again(signal);
      await observer.record(failure("deploy", "a 4"));
      await twoCycles(observer);
    }
    expect(observer.escalations()).toMatchObject([
      {
        level: 1,
        endpoint: "deploy",
        shape: "a <num>",
        count: 3,
        total: 3,
        by_source: { workflow: 3 },
        diagnosis: null,
      },
    ]);
    const [told, ...more] = observer.told();
    expect(more).toEqual([]);
    expect(told).toMatchObject({
      from: "observer",
      to: "ops",
      priority: "normal",
      type: "INFO",
      payload: expect.stringContaining("deploy keeps failing: 3 failures within"),
    });
    expect(told!["id"]).toBe(observer.escalations()[0]!["id"] as string);
  });

  test("10 and 100 times the threshold escalate again, urgently; successes and other causes don't count", async () => {
    await using observer = await Observer.start();
    await observer.record(...three);
    await until("the first", () => observer.escalations().length === 1);
    await observer.record(...Array.from({ length: 26 }, (_, n) => failure("deploy", `a ${n}`)));
    await observer.record({ endpoint: "deploy", success: true }, failure("deploy", "quite another thing"));
    await twoCycles(observer);
    expect(observer.escalations().length).toBe(1);
    await observer.record(failure("deploy", "a 30"));
    await until("ten times", () => observer.escalations().length === 2);
    await observer.record(...Array.from({ length: 270 }, (_, n) => failure("deploy", `a ${n}`)));
    await until("a hundred times", () => observer.told().length === 3);
    await observer.record(...Array.from({ length: 1000 }, (_, n) => failure("deploy", `a ${n}`)));
    await twoCycles(observer);
    expect(observer.escalations().map(({ level, count }) => [level, count])).toEqual([
      [1, 3],
      [10, 30],
      [100, 300],
    ]);
    expect(observer.told().map(({ priority }) => priority)).toEqual(["normal", "urgent", "urgent"]);
  });

  test("failures further apart than the window don't escalate; after a day of silence it begins anew", async () => {
    await using observer = await Observer.start();
    for (const minutes of [200, 160, 120, 80, 40])
      await observer.record(failure("slow", "x", { timestamp: ago(0, minutes) }), { endpoint: "slow", success: true });
    await twoCycles(observer);
    expect(observer.escalations()).toEqual([]);
    // Three within half an hour, two days ago; silence for a day and a half; three more.
    for (const minutes of [0, 10, 29]) await observer.record(failure("again", "y", { timestamp: ago(48, -minutes) }));
    await until("the first", () => observer.escalations().length === 1);
    await observer.record({ endpoint: "again", success: true });
    for (const minutes of [0, 31]) await observer.record(failure("again", "y", { timestamp: ago(46, -minutes) }));
    await twoCycles(observer);
    expect(observer.escalations().length).toBe(1);
    await observer.again("SIGKILL");
    for (const minutes of [10, 5]) await observer.record(failure("again", "y", { timestamp: ago(0, minutes) }));
    await twoCycles(observer);
    expect(observer.escalations().length).toBe(1);
    await observer.record(failure("again", "y"));
    await until("the second", () => observer.escalations().length === 2);
    await observer.again();
    await twoCycles(observer);
    expect(observer.escalations().map(({ level, count, total }) => [level, count, total])).toEqual([
      [1, 3, 3],
      [1, 3, 8],
    ]);
  });

  test("a full, missing or foreign inbox delays it, nothing is lost, and requests go on", async () => {
    await using observer = new Observer();
    writeFileSync(observer.inbox, "a file where the folder should be");
    await observer.up();
    await observer.record(...three);
    await until("it is written", () => observer.escalations().length === 1);
    type Health = { escalations_waiting: number; steps: Record<string, { failures: number; last_error?: string }> };
    const health = () => observer.get<Health>("/health");
    await until("the step fails", async () => (await health()).steps["escalate"]!.failures > 1);
    expect(await health()).toMatchObject({ escalations_waiting: 1, steps: { analyze: { failures: 0 } } });
    const metrics = await (await fetch(`${observer.url}/metrics`)).text();
    expect(metrics).toMatch(/picket_step_failures\{step="escalate"\} [1-9]/);
    await observer.again("SIGKILL");
    await observer.record({ endpoint: "goes on", success: true });
    unlinkSync(observer.inbox);
    await until("it is told", () => existsSync(observer.inbox) && observer.told().length === 1);
    await observer.again();
    await twoCycles(observer);
    expect(observer.told().length).toBe(1);
  });

  test("failures with the same sig_hash form one cluster, whatever their text", async () => {
    await using observer = await Observer.start();
    await observer.record(
      failure("a", "one", { sig_hash: "s1" }),
      failure("b", "two", { sig_hash: "s1" }),
      failure("c", "three", { sig_hash: "s1" }),
    );
    const { clusters } = await observer.get<{ clusters: Op[] }>("/observer/clusters");
    expect(clusters).toMatchObject([{ fingerprint: "sig:s1", count: 3, level: 1 }]);
    expect(await observer.get<Op>("/observer/clusters/sig:s1")).toMatchObject({
      parts: { by: "sig_hash" },
      examples: [{ error: "three" }, {}, {}],
    });
    expect((await fetch(`${observer.url}/observer/clusters/f1:0`)).status).toBe(404);
  });
});

test("foreign lines in escalations.jsonl are skipped", async () => {
  await using observer = new Observer();
  mkdirSync(observer.data);
  writeFileSync(join(observer.data, "escalations.jsonl"), 'null\n7\n{"id":"x"}\nno JSON\n');
  await observer.up();
  await observer.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
  await until("it is told", () => existsSync(observer.inbox) && observer.told().length === 1);
});

describe("escalations are the same whenever the step looks, and in which order failures come:", () => {
  const HOUR = 60;
  /** A failure of the backup, or a success, so many minutes ago. */
  const backup = (minutes: number, success = false): Op => ({
    ...failure("backup", "the connection was closed", { timestamp: ago(0, minutes) }),
    ...(success ? { success, error: undefined } : {}),
  });
  const days = (count: number, from: number): Op[] =>
    Array.from({ length: count }, (_, index) => backup((from - index) * 24 * HOUR));
  const old = [5, 4, 3, 2, 1].map((minutes) => backup(3 * 24 * HOUR + minutes));
  const cases: [what: string, batches: Op[][], ...expected: [level: number, count: number, begin: Op][]][] = [
    ["an old spell and a new failure in one array", [[...old, backup(0)]], [1, 5, old[0]!]],
    ["the same in two requests", [old, [backup(0)]], [1, 5, old[0]!]],
    ["the new failure first", [[backup(0), ...old]], [1, 5, old[0]!]],
    ["the newest first", [[backup(0), backup(1), backup(2)]], [1, 3, backup(2)]],
    ["one a night, without a success between", [days(2, 9), days(1, 7), days(6, 6)], [1, 3, backup(9 * 24 * HOUR)]],
    ["every 31 minutes", [Array.from({ length: 9 }, (_, i) => backup(31 * (9 - i)))], [1, 9, backup(31 * 9)]],
    // Ten at once: the step may look after any ten.
    [
      "30 nights",
      [days(10, 30), days(10, 20), days(9, 10), days(1, 1)],
      [1, 10, backup(30 * 24 * HOUR)],
      [10, 30, backup(30 * 24 * HOUR)],
    ],
    ["every second night", [days(4, 8).flatMap((op) => [op, { endpoint: "backup", success: true }])]],
    [
      "three nights, a success, three nights",
      [days(3, 9), [backup(5 * 24 * HOUR, true), ...days(3, 4)]],
      [1, 3, backup(9 * 24 * HOUR)],
      [1, 3, backup(4 * 24 * HOUR)],
    ],
  ];

  test.each(cases)("%s", async (_, batches, ...expected) => {
    await using observer = await Observer.start();
    for (const batch of batches) {
      await observer.record(...batch);
      await twoCycles(observer);
    }
    await observer.again("SIGKILL");
    await twoCycles(observer);
    expect(observer.escalations().map(({ level, count, first_at }) => [level, count, minuteOf(first_at)])).toEqual(
      expected.map(([level, count, begin]) => [level, count, minuteOf(begin["timestamp"])]),
    );
  });

  test("the text says how long it took, whether in a row, and when, if that is long ago", async () => {
    await using observer = await Observer.start();
    const nights = days(3, 9);
    await observer.record(...nights, failure("now", "x"), failure("now", "x"), failure("now", "x"));
    await until("both are told", () => observer.told().length === 2);
    const texts = observer.told().map(({ payload }) => payload);
    const last = String(nights.at(-1)!["timestamp"]).slice(0, 16).replace("T", " ");
    expect(texts).toContainEqual(
      expect.stringContaining(`backup keeps failing: 3 failures in a row within 2d 00h, the last on ${last} UTC: the`),
    );
    expect(texts).toContainEqual(expect.stringContaining("now keeps failing: 3 failures within a second: x"));
  });

  test("a cluster that is nearly due stays while thousands of single failures push others out", async () => {
    await using observer = await Observer.start({ more: "durability: os" });
    await observer.record(backup(2), backup(1));
    for (let part = 0; part < 12; part++) {
      const names = Array.from({ length: 1000 }, (_, index) => letters(part * 1000 + index));
      await observer.record(...names.map((name) => failure("import", `no such city as ${name} here`)));
    }
    await observer.record(backup(0));
    await until("it is told", () => observer.told().some(({ payload }) => payload!.startsWith("backup keeps failing")));
  });
});

/** The time without its seconds: `ago` is reckoned from now. */
function minuteOf(time: unknown): number {
  return Math.round(Date.parse(String(time)) / 60_000 / 10);
}

/** A word of its own for each number. */
function letters(number: number): string {
  return number.toString(26).replace(/./g, (digit) => String.fromCharCode(97 + Number.parseInt(digit, 26)));
}
