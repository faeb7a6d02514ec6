// The observer: what is recorded, counted, shown, escalated and judged, by a real process over real sockets.
// Not tested here: crashes, power cuts and full disks (e2e/observer-faults.test.ts), corrections and playbooks (files of their own),
// a real language model (recorded and broken answers over a socket instead).

import { beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, TARGETS, command, have, runRole, until } from "./kit.ts";
import { type Op, Witness, failure, lines } from "./observer/kit.ts";

const HOUR = 3_600_000;

// Compiling takes longer than a test may, where this file is the first to ask for it.
beforeAll(() => command("observer", "binary"), 180_000);

/** A time so many hours and minutes ago, as operations have it. */
const ago = (hours: number, minutes = 0) => new Date(Date.now() - hours * HOUR - minutes * 60_000).toISOString();

describe.each(TARGETS)("%s", (target) => {
  test("three good and two failed of two sources are counted exactly, also after kill -9", async () => {
    await using witness = await Witness.start({ target });
    for (let n = 0; n < 3; n++)
      await witness.record({ endpoint: "a", success: true, source: "scenario", duration_ms: n });
    for (let n = 0; n < 2; n++) await witness.record({ endpoint: "b", ok: false, error: "no" });
    const stats = await witness.stats();
    expect(Object.keys(stats)).toEqual(["total", "successes", "failures", "by_source", "recent_scenario_ops"]);
    expect(stats).toMatchObject({ total: 5, successes: 3, failures: 2, by_source: { scenario: 3, mcp: 2 } });
    expect(stats.recent_scenario_ops.map(({ duration_ms }) => duration_ms)).toEqual([2, 1, 0]);
    await witness.again("SIGKILL");
    expect(await witness.stats()).toEqual(stats);
    expect(await witness.get("/v1/observer/stats")).toEqual(stats);
    expect(await witness.daemon.kill()).toBe(0);
  }, 60_000);
});

test("valid, corrupt, valid lines: two applied, one said, the file untouched; check names the line", async () => {
  await using witness = new Witness();
  mkdirSync(witness.data);
  const text = `{"endpoint":"a","success":true}\n{"endpoint":"a","succ\n{"endpoint":"b","success":false,"error":"x"}\n`;
  writeFileSync(witness.log, text);
  await witness.up();
  expect(await witness.stats()).toMatchObject({ total: 2, successes: 1, failures: 1 });
  expect(await witness.daemon.said("log read")).toContain("applied=2 malformed=1");
  expect(await witness.daemon.said("skipped")).toContain("line=2");
  expect(readFileSync(witness.log, "utf8")).toBe(text);
  const check = await witness.run("check");
  expect([check.code, check.stdout]).toEqual([1, `${witness.log}:2: not JSON\n2 operations, 1 malformed lines\n`]);
});

test("JSON that is no operation is skipped and counted as well; a torn last line is closed and counted once", async () => {
  await using witness = new Witness();
  mkdirSync(witness.data);
  writeFileSync(
    witness.log,
    `[]\n7\n{"endpoint":" "}\n{"endpoint":"a","source":"who"}\n\n{"endpoint":"whole","success":true}`,
  );
  await witness.up();
  expect(await witness.daemon.said("log read")).toContain("applied=1 malformed=4");
  await witness.record({ endpoint: "next", success: true });
  expect(await witness.stats()).toMatchObject({ total: 2 });
  await witness.again();
  expect(await witness.stats()).toMatchObject({ total: 2 });
  expect(readFileSync(witness.log, "utf8")).toContain('{"endpoint":"whole","success":true}\n{"timestamp"');
});

test("of 2,500 the ring holds the newest 2,000, the totals say 2,500; of 15 scenarios the newest ten, in order", async () => {
  await using witness = await Witness.start();
  for (let from = 0; from < 2500; from += 500) {
    await witness.record(...Array.from({ length: 500 }, (_, n) => ({ endpoint: `e${from + n}`, success: true })));
  }
  expect(await witness.stats()).toMatchObject({ total: 2500 });
  const { events, ring_size } = await witness.get<{ events: Op[]; ring_size: number }>("/observer/events");
  expect([ring_size, events.length, events[0]!["endpoint"], events.at(-1)!["endpoint"]]).toEqual([
    2000,
    2000,
    "e2499",
    "e500",
  ]);
  for (let n = 0; n < 15; n++) {
    const optional =
      n % 2 ? { event_kind: "fill", role: "welder", city: "Toledo", state: "OH", count: n, staffer_id: "s1" } : {};
    await witness.record({
      endpoint: `s${n}`,
      success: true,
      source: "scenario",
      duration_ms: n,
      timestamp: ago(0, n),
      ...optional,
    });
  }
  const { recent_scenario_ops: scenarios } = await witness.stats();
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
  const health = await witness.get<Op>("/observer/health");
  expect(health).toMatchObject({ ring_size: 2000 });
});

describe("what comes in", () => {
  test("defaults, other names, unknown fields; the ring is asked by source, outcome, endpoint, time", async () => {
    await using witness = await Witness.start();
    await witness.record({ endpoint: "a" });
    await witness.record({
      endpoint: "b",
      error: "boom",
      source: "  ",
      audit_duration_ms: 7,
      one_liner: "short",
      nested: { x: [1] },
    });
    await witness.record({
      endpoint: "c",
      ok: true,
      success: false,
      duration_ms: 1,
      audit_duration_ms: 2,
      timestamp: ago(2),
      source: "inbox",
    });
    await witness.record({ endpoint: "d", success: null, error: null, source: null, staffer_id: null, own: null });
    // Programs that know no null send nothing as empty text.
    await witness.record({ endpoint: "e", timestamp: "", source: "", success: true });
    const events = async (query = "") => (await witness.get<{ events: Op[] }>(`/observer/events${query}`)).events;
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
      expect([query, (await fetch(`${witness.url}/observer/events${query}`)).status]).toEqual([query, 400]);
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
    await using witness = await Witness.start();
    const answer = await witness.post("/observer/event", operation === "text" ? '"text"' : operation);
    const said = (await answer.json()) as Op;
    expect([answer.status, said["field"]]).toEqual([status, field]);
    if (field === "source") expect(said["error"]).toContain("overseer_correction");
    expect(existsSync(witness.log) ? readFileSync(witness.log, "utf8") : "").toBe("");
  });

  test("bodies: no JSON, too large, not UTF-8, wrong method, unknown path", async () => {
    await using witness = await Witness.start();
    expect((await witness.post("/observer/event", "{nope")).status).toBe(400);
    expect((await witness.post("/observer/event", "")).status).toBe(400);
    const large = JSON.stringify({ endpoint: "a", input_summary: "x".repeat(4 << 20) });
    expect((await witness.post("/observer/event", large)).status).toBe(413);
    const bytes = new Uint8Array([0x22, 0xff, 0x22]);
    expect((await fetch(`${witness.url}/observer/event`, { method: "POST", body: bytes })).status).toBe(400);
    expect((await fetch(`${witness.url}/observer/event`)).status).toBe(405);
    expect((await fetch(`${witness.url}/observer/nothing`)).status).toBe(404);
    const fits = { endpoint: "a", input_summary: "x".repeat(4_000_000), __proto__: { polluted: 1 } };
    await witness.record(fits);
    // The log has it whole; the ring a short form.
    expect(lines(witness.log)[0]!["input_summary"]).toHaveLength(4_000_000);
    const { events } = await witness.get<{ events: Op[] }>("/observer/events");
    expect([(events[0]!["input_summary"] as string).length, events[0]!["shortened"]]).toEqual([2049, true]);
    expect(await witness.stats()).toMatchObject({ total: 1 });
  });

  test("an array is answered item by item, in order, and a bad one spoils no other; ids count once", async () => {
    await using witness = await Witness.start();
    const answer = await witness.post("/observer/event", [
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
    expect(await witness.stats()).toMatchObject({ total: 2 });
    expect(await (await witness.post("/observer/event", { endpoint: "a", id: "1" })).json()).toEqual({
      accepted: true,
      ring_size: 2,
    });
    await witness.again("SIGKILL");
    await witness.record({ endpoint: "a", id: "2" });
    // At the same time, from many.
    await Promise.all(Array.from({ length: 50 }, () => witness.record({ endpoint: "a", id: "3" })));
    expect(await witness.stats()).toMatchObject({ total: 3 });
    expect(lines(witness.log).map(({ id }) => id)).toEqual(["1", "2", "3"]);
    expect(
      (
        await witness.post(
          "/observer/event",
          Array.from({ length: 1001 }, () => ({ endpoint: "a" })),
        )
      ).status,
    ).toBe(422);
    expect(await (await witness.post("/observer/event", [])).json()).toEqual([]);
  });

  test("in memory only, said at start; a wrong configuration; another observer on the same folder", async () => {
    await using witness = await Witness.start({ more: 'persist_path: ""' });
    expect(witness.daemon.log.join("\n")).toContain("memory only");
    await witness.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
    await until("it is told", () => witness.told().length === 1);
    expect(existsSync(witness.data)).toBe(false);
    expect((await witness.run("stats")).code).toBe(2);
    await using first = await Witness.start();
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

describe("the log", () => {
  test("rotates into numbered segments; a start reads the snapshot and what came after it; nothing is counted twice", async () => {
    await using witness = await Witness.start({ more: "rotate_mb: 1" });
    const text = "x".repeat(1000);
    let recorded = 0;
    while (segments(witness).length < 3) {
      await witness.record(
        ...Array.from({ length: 100 }, () => ({
          id: `op-${recorded++}`,
          endpoint: "e",
          success: recorded % 10 > 0,
          error: "e",
          input_summary: text,
        })),
      );
    }
    await witness.record({ id: "last", endpoint: "e", success: true, source: "scenario" });
    recorded++;
    const stats = await witness.stats();
    expect(stats.total).toBe(recorded);
    const clusters = await witness.get<{ clusters: Op[] }>("/observer/clusters");
    await witness.again("SIGKILL");
    expect(await witness.daemon.said("log read")).toContain(`segments_known=${segments(witness).length}`);
    expect(await witness.stats()).toEqual(stats);
    expect(await witness.get<{ clusters: Op[] }>("/observer/clusters")).toEqual(clusters);
    // An id of the first segment is still known.
    await witness.record({ id: "op-0", endpoint: "e", success: true });
    expect(await witness.stats()).toEqual(stats);
    const shown = await witness.run("stats", "--json");
    expect(JSON.parse(shown.stdout)).toEqual(stats);
    expect((await witness.run("check")).stdout).toContain(`${recorded} operations, 0 malformed lines`);
    // Without the snapshot, and with a broken one, all of it is read.
    for (const broken of ["", "{}", '{"version":1,"covers":1,"inode":1,"state":{"tally":7}}']) {
      await witness.daemon.kill();
      writeFileSync(join(witness.data, "snapshot.json"), broken);
      await witness.up();
      expect(await witness.stats()).toEqual(stats);
    }
  }, 60_000);

  test("rotates at a few kilobytes, too, and a window and a cool-down of seconds are taken, as a trial wants them", async () => {
    await using witness = await Witness.start({
      more: "rotate_mb: 0.01\nwindow_minutes: 0.05\ncooldown_hours: 0.001",
    });
    await witness.record(...Array.from({ length: 20 }, () => ({ endpoint: "e", input_summary: "x".repeat(1000) })));
    await until("a segment", () => segments(witness).length > 0);
  });

  test("a rotation that was cut off after its snapshot is made up for, and nothing is counted twice", async () => {
    await using witness = await Witness.start({ more: "rotate_mb: 1" });
    const large = () =>
      Array.from({ length: 100 }, () => ({ endpoint: "e", success: true, input_summary: "x".repeat(4000) }));
    while (segments(witness).length < 1) await witness.record(...large());
    await witness.daemon.kill();
    // As it was between the two renames: the new log, if there is one, is not there yet.
    const [segment] = segments(witness);
    if (existsSync(witness.log)) unlinkSync(witness.log);
    renameSync(join(witness.data, segment!), witness.log);
    const total = lines(witness.log).length;
    const shown = await witness.run("stats", "--json");
    expect(JSON.parse(shown.stdout)).toMatchObject({ total });
    await witness.up();
    expect(await witness.stats()).toMatchObject({ total });
    expect(segments(witness)).toEqual([segment!]);
    await witness.record({ endpoint: "e", success: true });
    await witness.again("SIGKILL");
    expect(await witness.stats()).toMatchObject({ total: total + 1 });
  }, 60_000);

  test("tail shows the newest and follows, across a rotation; stats and clusters without a daemon", async () => {
    await using witness = await Witness.start({ more: "rotate_mb: 1" });
    await witness.record(failure("deploy", "exit status 7"));
    const seen: Op[] = [];
    const follow = Bun.spawn(
      [process.execPath, join(ROOT, "observer.ts"), "tail", "--follow", "--json", "--config", witness.config],
      { stdout: "pipe", stderr: "ignore" },
    );
    void (async () => {
      let rest = "";
      for await (const chunk of follow.stdout.pipeThrough(new TextDecoderStream())) {
        const whole = (rest + chunk).split("\n");
        rest = whole.pop() ?? "";
        seen.push(...whole.map((line) => JSON.parse(line) as Op));
      }
    })();
    await until("the first is shown", () => seen.length === 1);
    let sent = 0;
    while (segments(witness).length < 2) {
      await witness.record(
        ...Array.from({ length: 50 }, () => ({
          endpoint: `n${sent++}`,
          success: true,
          input_summary: "x".repeat(4000),
        })),
      );
    }
    await until("all are shown", () => seen.length === sent + 1, 60);
    expect(seen.slice(1).map(({ endpoint }) => endpoint)).toEqual(Array.from({ length: sent }, (_, n) => `n${n}`));
    follow.kill();
    await follow.exited;
    const table = await witness.run("clusters");
    const fingerprint = /^f1:[0-9a-f]{16}/.exec(table.stdout)![0];
    expect(table.stdout).toContain("deploy: exit status 7");
    const one = await witness.run("clusters", fingerprint);
    expect(JSON.parse(one.stdout)).toMatchObject({
      fingerprint,
      why: expect.stringContaining("same error text"),
      count: 1,
    });
    expect((await witness.run("clusters", "f1:nothing")).code).toBe(2);
    expect((await witness.run("tail", "--limit", "1")).stdout).toContain(`n${sent - 1}`);
  }, 90_000);
});

function segments({ data }: Witness): string[] {
  return readdirSync(data).filter((name) => /^ops\.\d{6}\.jsonl$/.test(name));
}

describe("escalation", () => {
  const three = ["a 1", "a 2", "a 3"].map((error) => failure("deploy", error));

  test("two no, three yes, once; across a restart between the second and the third and right after the third", async () => {
    await using witness = await Witness.start();
    await witness.record(three[0]!);
    await witness.record(three[1]!);
    await twoCycles(witness);
    expect(witness.escalations()).toEqual([]);
    await witness.again("SIGKILL");
    await twoCycles(witness);
    expect(witness.escalations()).toEqual([]);
    await witness.record(three[2]!);
    await witness.daemon.kill("SIGKILL");
    await witness.up();
    await until("it is told", () => witness.told().length > 0);
    for (const signal of ["SIGKILL", "SIGTERM"] as const) {
      await witness.again(signal);
      await witness.record(failure("deploy", "a 4"));
      await twoCycles(witness);
    }
    expect(witness.escalations()).toMatchObject([
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
    const [told, ...more] = witness.told();
    expect(more).toEqual([]);
    expect(told).toMatchObject({
      from: "observer",
      to: "ops",
      priority: "normal",
      type: "INFO",
      payload: expect.stringContaining("deploy keeps failing: 3 failures within"),
    });
    expect(told!["id"]).toBe(witness.escalations()[0]!["id"] as string);
  }, 60_000);

  test("10 and 100 times the threshold escalate again, urgently; successes and other causes don't count", async () => {
    await using witness = await Witness.start();
    await witness.record(...three);
    await until("the first", () => witness.escalations().length === 1);
    await witness.record(...Array.from({ length: 26 }, (_, n) => failure("deploy", `a ${n}`)));
    await witness.record({ endpoint: "deploy", success: true }, failure("deploy", "quite another thing"));
    await twoCycles(witness);
    expect(witness.escalations().length).toBe(1);
    await witness.record(failure("deploy", "a 30"));
    await until("ten times", () => witness.escalations().length === 2);
    await witness.record(...Array.from({ length: 270 }, (_, n) => failure("deploy", `a ${n}`)));
    await until("a hundred times", () => witness.told().length === 3);
    await witness.record(...Array.from({ length: 1000 }, (_, n) => failure("deploy", `a ${n}`)));
    await twoCycles(witness);
    expect(witness.escalations().map(({ level, count }) => [level, count])).toEqual([
      [1, 3],
      [10, 30],
      [100, 300],
    ]);
    expect(witness.told().map(({ priority }) => priority)).toEqual(["normal", "urgent", "urgent"]);
  }, 60_000);

  test("failures further apart than the window don't escalate; after a day of silence it begins anew", async () => {
    await using witness = await Witness.start();
    for (const minutes of [200, 160, 120, 80, 40])
      await witness.record(failure("slow", "x", { timestamp: ago(0, minutes) }));
    await twoCycles(witness);
    expect(witness.escalations()).toEqual([]);
    // Three within half an hour, two days ago; silence for a day and a half; three more.
    for (const minutes of [0, 10, 29]) await witness.record(failure("again", "y", { timestamp: ago(48, -minutes) }));
    await until("the first", () => witness.escalations().length === 1);
    for (const minutes of [0, 31, 62]) await witness.record(failure("again", "y", { timestamp: ago(46, -minutes) }));
    await twoCycles(witness);
    expect(witness.escalations().length).toBe(1);
    await witness.again("SIGKILL");
    for (const minutes of [10, 5]) await witness.record(failure("again", "y", { timestamp: ago(0, minutes) }));
    await twoCycles(witness);
    expect(witness.escalations().length).toBe(1);
    await witness.record(failure("again", "y"));
    await until("the second", () => witness.escalations().length === 2);
    await witness.again();
    await twoCycles(witness);
    expect(witness.escalations().map(({ level, count, total }) => [level, count, total])).toEqual([
      [1, 3, 3],
      [1, 3, 9],
    ]);
  }, 60_000);

  test("a full, missing or foreign inbox delays it, nothing is lost, and requests go on", async () => {
    await using witness = new Witness();
    writeFileSync(witness.inbox, "a file where the folder should be");
    await witness.up();
    await witness.record(...three);
    await until("it is written", () => witness.escalations().length === 1);
    type Health = { escalations_waiting: number; steps: Record<string, { failures: number; last_error?: string }> };
    const health = () => witness.get<Health>("/health");
    await until("the step fails", async () => (await health()).steps["escalate"]!.failures > 1);
    expect(await health()).toMatchObject({ escalations_waiting: 1, steps: { analyze: { failures: 0 } } });
    const metrics = await (await fetch(`${witness.url}/metrics`)).text();
    expect(metrics).toMatch(/picket_step_failures\{step="escalate"\} [1-9]/);
    await witness.again("SIGKILL");
    await witness.record({ endpoint: "goes on", success: true });
    unlinkSync(witness.inbox);
    await until("it is told", () => existsSync(witness.inbox) && witness.told().length === 1);
    await witness.again();
    await twoCycles(witness);
    expect(witness.told().length).toBe(1);
  }, 60_000);

  test("a signature of one's own groups, whatever the text", async () => {
    await using witness = await Witness.start();
    await witness.record(
      failure("a", "one", { sig_hash: "s1" }),
      failure("b", "two", { sig_hash: "s1" }),
      failure("c", "three", { sig_hash: "s1" }),
    );
    const { clusters } = await witness.get<{ clusters: Op[] }>("/observer/clusters");
    expect(clusters).toMatchObject([{ fingerprint: "sig:s1", count: 3, level: 1 }]);
    expect(await witness.get<Op>("/observer/clusters/sig:s1")).toMatchObject({
      parts: { by: "sig_hash" },
      examples: [{ error: "three" }, {}, {}],
    });
    expect((await fetch(`${witness.url}/observer/clusters/f1:0`)).status).toBe(404);
  });
});

/** Awaits two more passes of the steps that escalate. */
async function twoCycles(witness: Witness): Promise<void> {
  type Health = { steps: Record<string, { passes: number }> };
  const passes = async () => {
    const { steps } = await witness.get<Health>("/health");
    return Math.min(steps["analyze"]!.passes, steps["escalate"]!.passes);
  };
  const before = await passes();
  await until("two passes", async () => (await passes()) >= before + 2);
}

describe("reviews", () => {
  const stats = (groundedPct: number | null, more: Op = {}) => ({
    file_path: "a.ts",
    model: "m",
    response: "r",
    source_content: "s",
    attempt: 1,
    grounding_stats: { total: 10, grounded: 5, groundedPct },
    ...more,
  });

  test("the heuristic, at its limits; each review is kept with its input", async () => {
    await using witness = await Witness.start();
    const verdict = async (body: unknown) => (await (await witness.post("/observer/review", body)).json()) as Op;
    for (const [body, expected] of [
      [stats(100), "accept"],
      [stats(50), "accept"],
      [stats(49.9), "cycle"],
      [stats(20), "cycle"],
      [stats(20, { attempt: 2 }), "cycle"],
      [stats(20, { attempt: 3 }), "reject"],
      [stats(49, { attempt: 7 }), "reject"],
      [stats(19.9), "reject"],
      [stats(0), "reject"],
      [stats(null), "cycle"],
      [{ response: "x" }, "cycle"],
      [stats(null, { grounding_stats: { total: 0, grounded: 0, groundedPct: 0 } }), "cycle"],
      [stats(null, { grounding_stats: { total: 4, grounded: 3 } }), "accept"],
    ] as const) {
      const said = await verdict(body);
      expect([body, said["verdict"]]).toEqual([body, expected]);
      expect(Object.keys(said)).toEqual(["verdict", "confidence", "notes", "source"]);
      expect(said["confidence"] as number).toBeWithin(0, 1.0001);
      expect(said["source"]).toBe("heuristic");
    }
    expect((await verdict(stats(null)))["confidence"]).toBe(0.2);
    expect((await witness.post("/observer/review", { attempt: "one" })).status).toBe(422);
    expect((await witness.post("/observer/review", "nope")).status).toBe(400);
    const kept = lines(join(witness.data, "reviews.jsonl"));
    expect(kept.length).toBe(14);
    expect(kept[0]).toMatchObject({
      verdict: "accept",
      input: { file_path: "a.ts", source_content: "s", grounding_stats: { groundedPct: 100 } },
    });
  });

  /** A model server whose answer can be changed. */
  function server(answer: () => Response | Promise<Response>) {
    const asked: Op[] = [];
    let most = 0;
    let flying = 0;
    const serving = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      async fetch(request) {
        asked.push({
          path: new URL(request.url).pathname,
          key: request.headers.get("authorization"),
          ...((await request.json()) as Op),
        });
        most = Math.max(most, ++flying);
        try {
          return await answer();
        } finally {
          flying--;
        }
      },
    });
    return {
      url: `http://127.0.0.1:${serving.port}`,
      asked,
      most: () => most,
      [Symbol.dispose]: () => void serving.stop(true),
    };
  }
  const says = (content: string) => Response.json({ choices: [{ message: { role: "assistant", content } }] });

  test("a model is asked at temperature 0, its verdict counts; nonsense, errors and silence leave it to the heuristic", async () => {
    let answer: () => Response | Promise<Response> = () =>
      says('{"verdict":"reject","confidence":0.9,"notes":"invented"}');
    using llm = server(() => answer());
    const patience = (seconds: number) =>
      `llm: { url: "${llm.url}", model: m1, api_key: sk-0123456789, timeout_seconds: ${seconds}, calls_per_hour: 1000 }`;
    await using witness = await Witness.start({ more: patience(30) });
    const verdict = async () => (await (await witness.post("/observer/review", stats(100))).json()) as Op;
    expect(await verdict()).toEqual({ verdict: "reject", confidence: 0.9, notes: "invented", source: "cloud" });
    expect(llm.asked).toMatchObject([
      { path: "/v1/chat/completions", key: "Bearer sk-0123456789", model: "m1", temperature: 0 },
    ]);
    answer = () =>
      says('<think>{"verdict":"accept"}?</think>\n```json\n{"verdict": "cycle", "confidence": 0, "notes": ""}\n```');
    expect(await verdict()).toMatchObject({ verdict: "cycle", source: "cloud" });
    let calls = 2;
    for (const [broken, why] of [
      [() => new Response("no", { status: 500 }), "answers 500"],
      [() => says("I think it is fine."), "no verdict"],
      [() => says('{"verdict":"perhaps","confidence":1}'), "no verdict"],
      [() => says('{"verdict":"accept","confidence":7}'), "no verdict"],
      [() => says("x".repeat(5 << 20)), "over 1 MiB"],
      [() => new Response('{"choices":[]}'), "no message"],
      [() => new Response("<html>"), "no message"],
      [() => Response.redirect("http://127.0.0.1:9/"), "answers 302"],
      [() => new Promise<Response>(() => {}), "within 0.5 s"],
    ] as const) {
      answer = broken;
      // Whoever answers at all gets the time for it that a busy machine needs.
      if (why.startsWith("within")) {
        witness.configure(patience(0.5));
        witness.daemon.child.kill("SIGHUP");
        await witness.daemon.said("configuration reloaded");
      }
      const said = await verdict();
      expect([why, said["verdict"], said["source"]]).toEqual([why, "accept", "heuristic"]);
      expect(said["notes"]).toContain(why);
      expect([why, llm.asked.length]).toEqual([why, ++calls]);
    }
    llm[Symbol.dispose]();
    const away = await verdict();
    expect(away).toMatchObject({
      verdict: "accept",
      source: "heuristic",
      notes: expect.stringContaining("not to be had"),
    });
    expect(witness.daemon.log.join("\n") + readFileSync(join(witness.data, "reviews.jsonl"), "utf8")).not.toContain(
      "sk-0123456789",
    );
  }, 60_000);

  test("a budget an hour; one call for each review; an escalation carries a diagnosis, or says why not", async () => {
    using llm = server(() => says("The disk of the build host is full. Look at df first."));
    await using witness = await Witness.start({ more: `llm: { url: "${llm.url}/v1", model: m1, calls_per_hour: 2 }` });
    await witness.record(
      failure("build", "no space left"),
      failure("build", "no space left"),
      failure("build", "no space left"),
    );
    await until("it is told", () => witness.told().length === 1);
    expect(witness.escalations()).toMatchObject([
      { diagnosis: "The disk of the build host is full. Look at df first." },
    ]);
    expect(witness.told()[0]!["payload"]).toContain("\nThe disk of the build host is full.");
    expect(JSON.stringify(llm.asked[0])).toContain("no space left");
    const said = async () => (await (await witness.post("/observer/review", stats(60))).json()) as Op;
    expect((await said())["notes"]).toContain("no verdict");
    expect((await said())["notes"]).toContain("budget of 2 calls an hour is used up");
    await witness.record(failure("test", "red"), failure("test", "red"), failure("test", "red"));
    await until("the second is told", () => witness.told().length === 2);
    expect(witness.escalations()[1]).toMatchObject({
      diagnosis: null,
      diagnosis_failed: expect.stringContaining("budget"),
    });
    expect([llm.asked.length, llm.most()]).toEqual([2, 1]);
  }, 60_000);

  test("a model that never answers holds up neither requests nor the other steps", async () => {
    using llm = server(() => new Promise<Response>(() => {}));
    await using witness = await Witness.start({ more: `llm: { url: "${llm.url}", model: m1, timeout_seconds: 30 }` });
    await witness.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
    await until("it is asked", () => llm.asked.length === 1);
    type Health = { steps: Record<string, { passes: number; running_for_seconds: number }> };
    const steps = async () => (await witness.get<Health>("/health")).steps;
    const before = (await steps())["analyze"]!.passes;
    await until("the others go on", async () => (await steps())["analyze"]!.passes > before + 3);
    expect((await steps())["escalate"]!.running_for_seconds).toBeGreaterThan(0.3);
    expect(await (await fetch(`${witness.url}/metrics`)).text()).toMatch(
      /picket_step_running_seconds\{step="escalate"\} [1-9]|0\.[3-9]/,
    );
    await witness.record({ endpoint: "b", success: true });
    expect(await witness.daemon.kill()).toBe(0);
  }, 60_000);

  test("a model that lets one escalation wait in vain is not asked about the others of that pass; each is told before the next", async () => {
    let asked = 0;
    using llm = server(() => {
      asked++;
      return asked === 1 ? says("The disk is full.") : new Promise<Response>(() => {});
    });
    await using witness = await Witness.start({ more: `llm: { url: "${llm.url}", model: m1, timeout_seconds: 3 }` });
    const names = ["alpha", "beta", "gamma", "delta\nepsilon"];
    await witness.record(...names.flatMap((name) => [1, 2, 3].map(() => failure(name, "no"))));
    await until("a second question", () => asked === 2);
    expect(witness.told().map(({ payload }) => payload!.split("\n")[1])).toEqual(["The disk is full."]);
    await until("all are told", () => witness.told().length === 4);
    expect(asked).toBe(2);
    const late = "the model did not answer within 3 s";
    expect(witness.escalations().map((one) => one["diagnosis_failed"])).toEqual([undefined, late, late, late]);
    expect(witness.told().map(({ payload }) => payload!.split(" keeps failing")[0])).toContain("delta epsilon");
  }, 60_000);
});

test("a reload takes over thresholds and whom to tell; what can't change says so", async () => {
  await using witness = await Witness.start();
  await witness.record(failure("a", "x"), failure("a", "x"));
  witness.configure(
    `escalation_threshold: 2\nnotify: { recipient: others, inbox_dir: ${witness.inbox} }\npersist_path: ${witness.folder.at("elsewhere/ops.jsonl")}`,
  );
  witness.daemon.child.kill("SIGHUP");
  await witness.daemon.said("persist_path: a change takes effect at the next start");
  await witness.daemon.said("configuration reloaded");
  await witness.record(failure("a", "x"));
  await until("the others are told", () => existsSync(join(witness.inbox, "others.inbox")));
  expect(existsSync(witness.folder.at("elsewhere"))).toBe(false);
});

test.skipIf(!have("promtool", "the observer's metrics"))(
  "promtool finds nothing to say about the metrics",
  async () => {
    await using witness = await Witness.start();
    await witness.record(failure("a", 'with "quotes"'), { endpoint: "b", success: true });
    const text = await (await fetch(`${witness.url}/metrics`)).text();
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
  },
);

test("an array whose operation somebody else is recording waits for that, and nothing is recorded twice or not at all", async () => {
  await using witness = await Witness.start();
  const own = Array.from({ length: 200 }, (_, n) => ({ id: `op-${n}`, endpoint: "a", success: true }));
  // Each of them twice at the same time: alone, and within an array with others.
  const arrays = Array.from({ length: 10 }, (_, n) => own.slice(n * 15, n * 15 + 60));
  await Promise.all([...own.map((one) => witness.record(one)), ...arrays.map((some) => witness.record(...some))]);
  expect(await witness.stats()).toMatchObject({ total: 200 });
  expect(new Set(lines(witness.log).map(({ id }) => id)).size).toBe(200);
});

test("lines of others among the escalations harm nothing", async () => {
  await using witness = new Witness();
  mkdirSync(witness.data);
  writeFileSync(join(witness.data, "escalations.jsonl"), 'null\n7\n{"id":"x"}\nno JSON\n');
  await witness.up();
  await witness.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
  await until("it is told", () => existsSync(witness.inbox) && witness.told().length === 1);
});

test("a log that somebody else appends to, or takes away, harms nothing", async () => {
  await using witness = await Witness.start();
  await witness.record({ endpoint: "a", success: true });
  appendFileSync(witness.log, '{"endpoint":"by hand","success":true}\ntorn');
  await witness.record({ endpoint: "b", success: true });
  expect(readFileSync(witness.log, "utf8")).toMatch(/torn\n\{.*"endpoint":"b"/);
  renameSync(witness.log, `${witness.log}.away`);
  await witness.record({ endpoint: "c", success: true });
  expect(lines(witness.log).map(({ endpoint }) => endpoint)).toEqual(["c"]);
  expect(await witness.stats()).toMatchObject({ total: 3 });
});
