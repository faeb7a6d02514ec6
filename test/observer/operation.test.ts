// Operations as they come in: what is filled in, what is kept, and what is refused with which words.

import { describe, expect, test } from "bun:test";
import { isRecorded, readOperation } from "../../lib/observer/operation.ts";
import { runRole } from "../kit.ts";
import { DEPTH, Observer } from "./kit.ts";

const NOW = 1_780_000_000_000;
const PLAIN = { endpoint: "deploy", source: "scenario", input_summary: "to eu-1" };
const READ = {
  timestamp: new Date(NOW).toISOString(),
  endpoint: "deploy",
  source: "scenario",
  success: true,
  duration_ms: 0,
  output_summary: "",
  input_summary: "to eu-1",
};
const EVERY = {
  id: "op-1",
  timestamp: "2026-01-31T12:00:00Z",
  endpoint: "deploy",
  source: "scenario",
  success: false,
  duration_ms: 12,
  output_summary: "none",
  error: "no route to host",
  input_summary: "to eu-1",
  staffer_id: "st-1",
  sig_hash: "abc",
  event_kind: "fill",
  role: "welder",
  city: "Toledo",
  state: "OH",
  count: 3,
  rescue_attempted: true,
  rescue_succeeded: false,
  task_class: "matching",
};

function operationOf(data: unknown): unknown {
  const read = readOperation(data, NOW);
  if ("broken" in read) throw new Error(JSON.stringify(read.broken));
  expect(isRecorded(JSON.parse(JSON.stringify(read.operation)))).toBe(true);
  return read.operation;
}

describe("an operation is read:", () => {
  test.each<[string, object, object]>([
    ["the least", { endpoint: "deploy" }, { ...READ, source: "mcp", input_summary: "" }],
    ["what is left out is filled in", PLAIN, READ],
    ["every field", EVERY, EVERY],
    ["the real names count", { ...EVERY, ok: true, audit_duration_ms: 13, one_liner: "nothing" }, EVERY],
    [
      "other names",
      { ...PLAIN, ok: false, audit_duration_ms: 5, one_liner: "done" },
      { ...READ, success: false, duration_ms: 5, output_summary: "done" },
    ],
    ["an error alone is a failure", { ...PLAIN, error: "no" }, { ...READ, success: false, error: "no" }],
    ["what Go writes for no time is none", { ...PLAIN, timestamp: "0001-01-01T00:00:00Z" }, READ],
    ["a blank error and id are none", { ...PLAIN, error: "  ", id: "", timestamp: "" }, READ],
    [
      "null is left out, but for unknown fields",
      { ...PLAIN, id: null, error: null, city: null, timestamp: null, duration_ms: null, source: null, unknown: null },
      { ...READ, source: "mcp", unknown: null },
    ],
    ["unknown fields are kept", { ...PLAIN, tags: ["a"], deep: { a: 1 } }, { ...READ, tags: ["a"], deep: { a: 1 } }],
    ["blanks around a source go", { ...PLAIN, source: " inbox " }, { ...READ, source: "inbox" }],
    ["half a surrogate pair is replaced", { ...PLAIN, input_summary: "\ud800" }, { ...READ, input_summary: "\ufffd" }],
    [
      "a time that lies ahead is kept beside the time it came in",
      { ...PLAIN, timestamp: "2126-01-31T12:00:00Z", observed_at: "2000-01-01T00:00:00Z" },
      { ...READ, timestamp: "2126-01-31T12:00:00Z", observed_at: READ.timestamp },
    ],
  ])("%s", (_what, data, expected) => {
    expect(operationOf(data)).toStrictEqual(expected);
  });

  test("names that reach the prototype are dropped", () => {
    const text = '{"endpoint":"deploy","__proto__":{"a":1},"constructor":1,"prototype":2,"toString":3}';
    const operation = operationOf(JSON.parse(text)) as object;
    expect(Object.keys(operation).filter((name) => !Object.hasOwn(READ, name))).toEqual(["toString"]);
    expect(Object.getPrototypeOf(operation)).toBe(Object.prototype);
  });
});

describe("an operation is refused:", () => {
  test.each<[string, unknown, string, string]>([
    ["no object", "deploy", "", "expected an operation: a JSON object"],
    ["a list", [PLAIN], "", "expected an operation: a JSON object"],
    ["no endpoint", { source: "mcp" }, "endpoint", "is required"],
    ["a blank endpoint", { endpoint: " " }, "endpoint", "expected the name of what was called, found nothing"],
    ["an endpoint that is null", { endpoint: null }, "endpoint", "expected the name of what was called"],
    ["a long endpoint", { endpoint: "x".repeat(4097) }, "endpoint", "expected at most 4096 characters"],
    ["a long id", { ...PLAIN, id: "x".repeat(257) }, "id", "expected at most 256 characters"],
    ["no time", { ...PLAIN, timestamp: "yesterday" }, "timestamp", "expected a time such as 2026-01-31T12:00:00Z"],
    ["a day that is none", { ...PLAIN, timestamp: "2026-13-41T12:00:00Z" }, "timestamp", "expected a time such"],
    ["a negative duration", { ...PLAIN, duration_ms: -1 }, "duration_ms", "expected 0 or more"],
    ["a duration that is text", { ...PLAIN, audit_duration_ms: "1" }, "audit_duration_ms", "expected milliseconds"],
    ["an unknown source", { ...PLAIN, source: "elsewhere" }, "source", "expected one of mcp, scenario"],
    ["what is nested too deeply", { ...PLAIN, x: JSON.parse("[".repeat(501) + "]".repeat(501)) }, "x", "at most 500"],
  ])("%s", (_what, data, field, error) => {
    const read = readOperation(data, NOW);
    expect(read).toEqual({ broken: [{ field, error: expect.stringContaining(error) as string }] });
  });

  test.each([...Object.keys(EVERY), "ok", "audit_duration_ms", "one_liner"])("%s is a list", (field) => {
    const read = readOperation({ ...EVERY, [field]: [] }, NOW);
    expect("broken" in read && read.broken.map((one) => one.field)).toEqual([field]);
  });
});

describe("an operation", () => {
  test("nested too deep to be written is refused, and spoils no other of its array", async () => {
    await using observer = await Observer.start();
    const deep = `{"endpoint":"x","more":${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}}`;
    const alone = await observer.post("/observer/event", deep);
    expect(alone.status).toBe(422);
    const answers = (await (
      await observer.post("/observer/event", `[{"endpoint":"a"},${deep},{"endpoint":"b"}]`)
    ).json()) as {
      accepted: boolean;
    }[];
    expect(answers.map(({ accepted }) => accepted)).toEqual([true, false, true]);
    expect((await observer.get<{ total: number }>("/observer/stats")).total).toBe(2);
  });

  test("without an endpoint is rejected as incomplete, alone and in an array", async () => {
    await using observer = await Observer.start();
    const error = "endpoint: is required";
    const alone = await observer.post("/observer/event", `{"success":true}`);
    expect(alone.status).toBe(400);
    expect(await alone.json()).toMatchObject({ error, fields: [{ field: "endpoint", error: "is required" }] });
    expect(await (await observer.post("/observer/event", `[{}]`)).json()).toMatchObject([{ accepted: false, error }]);
  });

  test("with an infinite number is rejected", async () => {
    await using observer = await Observer.start();
    for (const field of ["duration_ms", "audit_duration_ms", "count"]) {
      const answer = await observer.post("/observer/event", `{"endpoint":"x","${field}":1e999}`);
      expect(answer.status).toBe(422);
      expect(await answer.json()).toMatchObject({ field });
    }
  });

  test("of numbers that grow when they are written is counted after a restart, too", async () => {
    await using observer = new Observer();
    await observer.up();
    const first = observer.daemon;
    const body = `{"endpoint":"x","more":[${"1e20,".repeat(800_000)}1]}`;
    expect((await observer.post("/observer/event", body)).status).toBe(200);
    await first.kill("SIGKILL");
    await observer.up();
    const second = observer.daemon;
    expect((await observer.get<{ total: number }>("/observer/stats")).total).toBe(1);
    expect(await second.said("log read")).toContain("malformed=0");
    const { stdout } = await runRole("observer", ["tail", "--config", observer.config]);
    expect(stdout).toContain("mcp");
  });

  test("with long texts keeps the answers of /stats and /clusters short", async () => {
    await using observer = await Observer.start();
    const long = "x".repeat(1 << 20);
    const more = { source: "scenario", endpoint: "x", success: false };
    for (const field of ["role", "city", "event_kind", "sig_hash"])
      expect((await observer.post("/observer/event", JSON.stringify({ ...more, [field]: long }))).status).toBe(200);
    const stats = await observer.get<{ recent_scenario_ops: { role?: string }[] }>("/observer/stats");
    expect(JSON.stringify(stats).length).toBeLessThan(50_000);
    expect(stats.recent_scenario_ops[3]!.role).toStartWith("xxx");
    expect(JSON.stringify(await observer.get("/observer/clusters")).length).toBeLessThan(50_000);
  });
});
