// An operation that needs nothing filled in is read without the schema: that must give the same as the schema does.

import { describe, expect, test } from "bun:test";
import { readOperation } from "../../lib/observer/operation.ts";
import { runRole } from "../kit.ts";
import { DEPTH, Witness } from "./kit.ts";

const NOW = 1_780_000_000_000;

const PLAIN = { endpoint: "deploy", source: "scenario", input_summary: "to eu-1" };

/** The same through the schema: blanks around a source are its business. */
function throughSchema(data: object) {
  const { source } = data as { source: unknown };
  return readOperation(typeof source === "string" ? { ...data, source: ` ${source} ` } : data, NOW);
}

const CASES: Record<string, object> = {
  "the least": PLAIN,
  "every field": {
    ...PLAIN,
    id: "op-1",
    timestamp: "2026-01-31T12:00:00Z",
    success: false,
    ok: true,
    duration_ms: 12,
    audit_duration_ms: 13,
    output_summary: "none",
    one_liner: "nothing",
    error: "no route to host",
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
  },
  "other names": { ...PLAIN, ok: true, audit_duration_ms: 5, one_liner: "done" },
  "an error alone": { ...PLAIN, error: "no" },
  "a blank error": { ...PLAIN, error: "  ", id: "" },
  nulls: { ...PLAIN, id: null, error: null, city: null, timestamp: null, duration_ms: null, unknown: null },
  "unknown fields": { ...PLAIN, tags: ["a"], deep: { a: 1 }, 7: "seven" },
  "names of Object.prototype": JSON.parse('{"__proto__":{"a":1},"constructor":1,"prototype":2,"toString":3}') as object,
  "half a surrogate pair": { ...PLAIN, input_summary: "\ud800" },
  "no input_summary": { endpoint: "deploy", source: "mcp" },
  "a blank endpoint": { ...PLAIN, endpoint: " " },
  "a long endpoint": { ...PLAIN, endpoint: "x".repeat(4097) },
  "a long id": { ...PLAIN, id: "x".repeat(257) },
  "no time": { ...PLAIN, timestamp: "yesterday" },
  "a time that is none": { ...PLAIN, timestamp: "2026-13-41T12:00:00Z" },
  "a negative duration": { ...PLAIN, duration_ms: -1 },
  "another negative duration": { ...PLAIN, audit_duration_ms: -1 },
  "an unknown source": { ...PLAIN, source: "elsewhere" },
  "a source that is no text": { ...PLAIN, source: 1 },
};

// Each known field with what it can't be.
for (const name of Object.keys(CASES["every field"]!)) CASES[`${name} is a list`] = { ...PLAIN, [name]: [] };

describe("an operation is read the same with and without the schema:", () => {
  test.each(Object.entries(CASES))("%s", (_name, fields) => {
    const data = { ...PLAIN, ...fields };
    for (const name of ["__proto__", "constructor"]) {
      if (Object.hasOwn(fields, name)) Object.defineProperty(data, name, { value: 1, enumerable: true });
    }
    const read = readOperation(data, NOW);
    const other = throughSchema(data);
    expect(read).toStrictEqual(other);
    expect(JSON.stringify(read)).toBe(JSON.stringify(other));
  });
});

describe("an operation", () => {
  test("nested too deep to be written is refused, and spoils no other of its array", async () => {
    await using lab = await Witness.start();
    const deep = `{"endpoint":"x","more":${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}}`;
    const alone = await lab.post("/observer/event", deep);
    expect(alone.status).toBe(422);
    const answers = (await (
      await lab.post("/observer/event", `[{"endpoint":"a"},${deep},{"endpoint":"b"}]`)
    ).json()) as {
      accepted: boolean;
    }[];
    expect(answers.map(({ accepted }) => accepted)).toEqual([true, false, true]);
    expect((await lab.get<{ total: number }>("/observer/stats")).total).toBe(2);
  }, 60_000);

  test("without an endpoint is told that it is required, alone and in an array", async () => {
    await using lab = await Witness.start();
    const error = "endpoint: is required";
    const alone = await lab.post("/observer/event", `{"success":true}`);
    expect(alone.status).toBe(400);
    expect(await alone.json()).toMatchObject({ error, fields: [{ field: "endpoint", error: "is required" }] });
    expect(await (await lab.post("/observer/event", `[{}]`)).json()).toMatchObject([{ accepted: false, error }]);
  }, 60_000);

  test("with an endless number is refused", async () => {
    await using lab = await Witness.start();
    for (const field of ["duration_ms", "audit_duration_ms", "count"]) {
      const answer = await lab.post("/observer/event", `{"endpoint":"x","${field}":1e999}`);
      expect(answer.status).toBe(422);
      expect(await answer.json()).toMatchObject({ field });
    }
  }, 60_000);

  test("of numbers that grow when they are written is counted after a restart, too", async () => {
    await using lab = new Witness();
    await lab.up();
    const first = lab.daemon;
    const body = `{"endpoint":"x","more":[${"1e20,".repeat(800_000)}1]}`;
    expect((await lab.post("/observer/event", body)).status).toBe(200);
    await first.kill("SIGKILL");
    await lab.up();
    const second = lab.daemon;
    expect((await lab.get<{ total: number }>("/observer/stats")).total).toBe(1);
    expect(await second.said("log read")).toContain("malformed=0");
    const { stdout } = await runRole("observer", ["tail", "--config", lab.config]);
    expect(stdout).toContain("mcp");
  }, 60_000);

  test("with long texts keeps the answers of /stats and /clusters short", async () => {
    await using lab = await Witness.start();
    const long = "x".repeat(1 << 20);
    const more = { source: "scenario", endpoint: "x", success: false };
    for (const field of ["role", "city", "event_kind", "sig_hash"])
      expect((await lab.post("/observer/event", JSON.stringify({ ...more, [field]: long }))).status).toBe(200);
    const stats = await lab.get<{ recent_scenario_ops: { role?: string }[] }>("/observer/stats");
    expect(JSON.stringify(stats).length).toBeLessThan(50_000);
    expect(stats.recent_scenario_ops[3]!.role).toStartWith("xxx");
    expect(JSON.stringify(await lab.get("/observer/clusters")).length).toBeLessThan(50_000);
  }, 60_000);
});
