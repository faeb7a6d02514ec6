// The observer: what is recorded, counted and shown, by a real process over real sockets.
// Not tested here: crashes, power cuts and full disks (e2e/observer-faults.test.ts), and what has a file of its own in test/observer.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, TARGETS, have, runRole, until } from "./kit.ts";
import { type Op, Observer, ago, failure, lines } from "./observer/kit.ts";

describe.each(TARGETS)("%s", (target) => {
  test("three good and two failed of two sources are counted exactly, also after kill -9", async () => {
    await using observer = await Observer.start({ target });
    for (let n = 0; n < 3; n++)
      await observer.record({ endpoint: "a", success: true, source: "scenario", duration_ms: n });
    for (let n = 0; n < 2; n++) await observer.record({ endpoint: "b", ok: false, error: "no" });
    const stats = await observer.stats();
    expect(Object.keys(stats)).toEqual(["total", "successes", "failures", "by_source", "recent_scenario_ops"]);
    expect(stats).toMatchObject({ total: 5, successes: 3, failures: 2, by_source: { scenario: 3, mcp: 2 } });
    expect(stats.recent_scenario_ops.map(({ duration_ms }) => duration_ms)).toEqual([2, 1, 0]);
    await observer.again("SIGKILL");
    expect(await observer.stats()).toEqual(stats);
    expect(await observer.get("/v1/observer/stats")).toEqual(stats);
    expect(await observer.daemon.kill()).toBe(0);
  });
});

test("of 2,500 the ring holds the newest 2,000, the totals say 2,500; of 15 scenarios the newest ten, in order", async () => {
  await using observer = await Observer.start();
  for (let from = 0; from < 2500; from += 500) {
    await observer.record(...Array.from({ length: 500 }, (_, n) => ({ endpoint: `e${from + n}`, success: true })));
  }
  expect(await observer.stats()).toMatchObject({ total: 2500 });
  const { events, ring_size } = await observer.get<{ events: Op[]; ring_size: number }>("/observer/events");
  expect([ring_size, events.length, events[0]!["endpoint"], events.at(-1)!["endpoint"]]).toEqual([
    2000,
    2000,
    "e2499",
    "e500",
  ]);
  for (let n = 0; n < 15; n++) {
    const optional =
      n % 2 ? { event_kind: "fill", role: "welder", city: "Toledo", state: "OH", count: n, staffer_id: "s1" } : {};
    await observer.record({
      endpoint: `s${n}`,
      success: true,
      source: "scenario",
      duration_ms: n,
      timestamp: ago(0, n),
      ...optional,
    });
  }
  const { recent_scenario_ops: scenarios } = await observer.stats();
  expect(scenarios.map(({ endpoint }) => endpoint)).toEqual(Array.from({ length: 10 }, (_, n) => `s${14 - n}`));
  expect(Object.keys(scenarios[0]!)).toEqual(["timestamp", "endpoint", "success", "duration_ms"]);
  expect(scenarios[1]).toMatchObject({
    kind: "fill",
    role: "welder",
    city: "Toledo",
    state: "OH",
    count: 13,
    staffer_id: "s1",
  });
  const health = await observer.get<Op>("/observer/health");
  expect(health).toMatchObject({ ring_size: 2000 });
});

describe("what comes in", () => {
  test("defaults, other names, unknown fields; the ring is asked by source, outcome, endpoint, time", async () => {
    await using observer = await Observer.start();
    await observer.record({ endpoint: "a" });
    await observer.record({
      endpoint: "b",
      error: "boom",
      source: "  ",
      audit_duration_ms: 7,
      one_liner: "short",
      nested: { x: [1] },
    });
    await observer.record({
      endpoint: "c",
      ok: true,
      success: false,
      duration_ms: 1,
      audit_duration_ms: 2,
      timestamp: ago(2),
      source: "inbox",
    });
    await observer.record({ endpoint: "d", success: null, error: null, source: null, staffer_id: null, own: null });
    // Programs that know no null send nothing as empty text.
    await observer.record({ endpoint: "e", timestamp: "", source: "", success: true });
    const events = async (query = "") => (await observer.get<{ events: Op[] }>(`/observer/events${query}`)).events;
    const [e, d, c, b, a] = await events();
    expect(e).toMatchObject({ timestamp: expect.stringMatching(/^\d{4}-.*Z$/), source: "mcp" });
    expect(a).toMatchObject({
      endpoint: "a",
      success: true,
      source: "mcp",
      duration_ms: 0,
      input_summary: "",
      output_summary: "",
    });
    expect(Math.abs(Date.now() - Date.parse(a!["timestamp"] as string))).toBeLessThan(60_000);
    expect(b).toMatchObject({
      success: false,
      source: "mcp",
      duration_ms: 7,
      output_summary: "short",
      nested: { x: [1] },
    });
    expect(c).toMatchObject({ success: false, duration_ms: 1 });
    expect(d).toMatchObject({ success: true, own: null });
    expect(d).not.toHaveProperty("staffer_id");
    const names = async (query: string) => (await events(query)).map(({ endpoint }) => endpoint);
    expect(await names("?success=false")).toEqual(["c", "b"]);
    expect(await names("?source=inbox")).toEqual(["c"]);
    expect(await names("?endpoint=a")).toEqual(["a"]);
    expect(await names(`?since=${ago(1)}`)).toEqual(["e", "d", "b", "a"]);
    expect(await names("?limit=2")).toEqual(["e", "d"]);
    for (const query of ["?limit=0", "?limit=x", "?success=yes", "?source=who", "?since=then", "?sorce=mcp"])
      expect([query, (await fetch(`${observer.url}/observer/events${query}`)).status]).toEqual([query, 400]);
  });

  test.each([
    [{ endpoint: "  " }, 400, "endpoint"],
    [{}, 400, "endpoint"],
    [{ endpoint: 7 }, 400, "endpoint"],
    [{ endpoint: "a", source: "who" }, 400, "source"],
    [{ endpoint: "a", success: "yes" }, 422, "success"],
    [{ endpoint: "a", duration_ms: -1 }, 422, "duration_ms"],
    [{ endpoint: "a", duration_ms: "7" }, 422, "duration_ms"],
    [{ endpoint: "a", timestamp: "yesterday" }, 422, "timestamp"],
    [{ endpoint: "a", count: "1" }, 422, "count"],
    [{ endpoint: "a", error: { message: "x" } }, 422, "error"],
    [{ endpoint: "a", rescue_attempted: 1 }, 422, "rescue_attempted"],
    [{ endpoint: "a", id: "x".repeat(300) }, 422, "id"],
    ["text", 422, ""],
    [null, 422, ""],
  ])("%p is refused", async (operation, status, field) => {
    await using observer = await Observer.start();
    const answer = await observer.post("/observer/event", operation === "text" ? '"text"' : operation);
    const said = (await answer.json()) as Op;
    expect([answer.status, said["field"]]).toEqual([status, field]);
    if (field === "source") expect(said["error"]).toContain("overseer_correction");
    expect(existsSync(observer.log) ? readFileSync(observer.log, "utf8") : "").toBe("");
  });

  test("bodies: no JSON, too large, not UTF-8, wrong method, unknown path", async () => {
    await using observer = await Observer.start();
    expect((await observer.post("/observer/event", "{nope")).status).toBe(400);
    expect((await observer.post("/observer/event", "")).status).toBe(400);
    const large = JSON.stringify({ endpoint: "a", input_summary: "x".repeat(4 << 20) });
    expect((await observer.post("/observer/event", large)).status).toBe(413);
    const bytes = new Uint8Array([0x22, 0xff, 0x22]);
    expect((await fetch(`${observer.url}/observer/event`, { method: "POST", body: bytes })).status).toBe(400);
    expect((await fetch(`${observer.url}/observer/event`)).status).toBe(405);
    expect((await fetch(`${observer.url}/observer/nothing`)).status).toBe(404);
    const fits = { endpoint: "a", input_summary: "x".repeat(4_000_000), __proto__: { polluted: 1 } };
    await observer.record(fits);
    // The log has it whole; the ring a short form.
    expect(lines(observer.log)[0]!["input_summary"]).toHaveLength(4_000_000);
    const { events } = await observer.get<{ events: Op[] }>("/observer/events");
    expect([(events[0]!["input_summary"] as string).length, events[0]!["shortened"]]).toEqual([2049, true]);
    expect(await observer.stats()).toMatchObject({ total: 1 });
  });

  test("an array is answered item by item, in order, and a bad one spoils no other; ids count once", async () => {
    await using observer = await Observer.start();
    const answer = await observer.post("/observer/event", [
      { endpoint: "a", id: "1" },
      { endpoint: "" },
      { endpoint: "a", id: "1" },
      { endpoint: "b", source: "who" },
      { endpoint: "c", success: 7 },
      "no",
      { endpoint: "d", id: "2" },
    ]);
    const items = (await answer.json()) as Op[];
    expect(answer.status).toBe(200);
    expect(items.map((item) => item["accepted"])).toEqual([true, false, true, false, false, false, true]);
    expect(items.map((item) => item["field"])).toEqual([
      undefined,
      "endpoint",
      undefined,
      "source",
      "success",
      "",
      undefined,
    ]);
    expect(await observer.stats()).toMatchObject({ total: 2 });
    expect(await (await observer.post("/observer/event", { endpoint: "a", id: "1" })).json()).toEqual({
      accepted: true,
      ring_size: 2,
    });
    await observer.again("SIGKILL");
    await observer.record({ endpoint: "a", id: "2" });
    // At the same time, from many.
    await Promise.all(Array.from({ length: 50 }, () => observer.record({ endpoint: "a", id: "3" })));
    expect(await observer.stats()).toMatchObject({ total: 3 });
    expect(lines(observer.log).map(({ id }) => id)).toEqual(["1", "2", "3"]);
    expect(
      (
        await observer.post(
          "/observer/event",
          Array.from({ length: 1001 }, () => ({ endpoint: "a" })),
        )
      ).status,
    ).toBe(422);
    expect(await (await observer.post("/observer/event", [])).json()).toEqual([]);
  });

  test("in memory only, which is logged; a wrong configuration; another observer on the same folder", async () => {
    await using observer = await Observer.start({ more: 'persist_path: ""' });
    expect(observer.daemon.log.join("\n")).toContain("memory only");
    await observer.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
    await until("it is told", () => observer.told().length === 1);
    expect(existsSync(observer.data)).toBe(false);
    expect((await observer.run("stats")).code).toBe(2);
    await using first = await Observer.start();
    const second = await first.run();
    expect([second.code, second.stderr]).toEqual([1, expect.stringContaining("another picket-observer uses")]);
    using folder = new Folder();
    const wrong = await runRole("observer", [
      "--check",
      "--config",
      folder.write(
        "c.yaml",
        "listen: 0.0.0.0:1\nllm: { url: http://llm.example, model: m, api_key: k }\nreview: { accept_from: 1, reject_below: 2 }\n",
      ),
    ]);
    expect(wrong.code).toBe(78);
    for (const text of ["listen", "llm.url", "review.reject_below"]) expect(wrong.stderr).toContain(text);
  });
});

test("a reload applies thresholds and the recipient; a setting that needs a restart is logged", async () => {
  await using observer = await Observer.start();
  await observer.record(failure("a", "x"), failure("a", "x"));
  observer.configure(
    `escalation_threshold: 2\nnotify: { recipient: others, inbox_dir: ${observer.inbox} }\npersist_path: ${observer.folder.at("elsewhere/ops.jsonl")}`,
  );
  observer.daemon.child.kill("SIGHUP");
  await observer.daemon.said("persist_path: a change takes effect at the next start");
  await observer.daemon.said("configuration reloaded");
  await observer.record(failure("a", "x"));
  await until("the others are told", () => existsSync(join(observer.inbox, "others.inbox")));
  expect(existsSync(observer.folder.at("elsewhere"))).toBe(false);
});

test.skipIf(!have("promtool", "the observer's metrics"))("promtool accepts the metrics", async () => {
  await using observer = await Observer.start();
  await observer.record(failure("a", 'with "quotes"'), { endpoint: "b", success: true });
  const text = await (await fetch(`${observer.url}/metrics`)).text();
  const check = Bun.spawn(["promtool", "check", "metrics"], {
    stdin: new Blob([text]),
    stdout: "pipe",
    stderr: "pipe",
  });
  expect((await new Response(check.stdout).text()) + (await new Response(check.stderr).text())).toBe("");
  const samples = text
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"))
    .map((line) => line.replace(/ \S+$/, ""));
  expect(new Set(samples).size).toBe(samples.length);
});

test("events?since= takes a time, not a number", async () => {
  await using observer = await Observer.start();
  const status = async (since: string) => (await fetch(`${observer.url}/observer/events?since=${since}`)).status;
  for (const time of ["2026-01-31", "2026-01-31T12:00:00Z", ""]) expect(await status(time)).toBe(200);
  for (const none of ["5", "1700000000", "Jan 5", "2026-13-45", "-1"]) expect(await status(none)).toBe(400);
});
