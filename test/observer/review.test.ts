// Reviews: by the heuristic, and by a model (recorded and broken answers over a socket).

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "../kit.ts";
import { type Op, Observer, failure, lines } from "./kit.ts";

test("a review that is a list, or has a list as its figures, is rejected with a reason", async () => {
  await using observer = await Observer.start();
  for (const [body, error] of [
    ["[]", "expected a JSON object"],
    ["5", "expected a JSON object"],
    [`{"grounding_stats":[]}`, "grounding_stats: expected a JSON object"],
  ] as const) {
    const answer = await observer.post("/observer/review", body);
    expect(answer.status).toBe(422);
    expect(await answer.json()).toMatchObject({ error, code: "invalid_review" });
  }
  expect(existsSync(join(observer.data, "reviews.jsonl"))).toBe(false);
});

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
    await using observer = await Observer.start();
    const verdict = async (body: unknown) => (await (await observer.post("/observer/review", body)).json()) as Op;
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
    expect((await observer.post("/observer/review", { attempt: "one" })).status).toBe(422);
    expect((await observer.post("/observer/review", "nope")).status).toBe(400);
    const kept = lines(join(observer.data, "reviews.jsonl"));
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

  test("a model is asked at temperature 0 and its verdict counts; after an invalid answer, an error or a timeout the heuristic judges", async () => {
    let answer: () => Response | Promise<Response> = () =>
      says('{"verdict":"reject","confidence":0.9,"notes":"invented"}');
    using llm = server(() => answer());
    const patience = (seconds: number) =>
      `llm: { url: "${llm.url}", model: m1, api_key: sk-0123456789, timeout_seconds: ${seconds}, calls_per_hour: 1000 }`;
    await using observer = await Observer.start({ more: patience(30) });
    const verdict = async () => (await (await observer.post("/observer/review", stats(100))).json()) as Op;
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
        observer.configure(patience(0.5));
        observer.daemon.child.kill("SIGHUP");
        await observer.daemon.said("configuration reloaded");
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
      notes: expect.stringContaining("the model is unreachable"),
    });
    expect(observer.daemon.log.join("\n") + readFileSync(join(observer.data, "reviews.jsonl"), "utf8")).not.toContain(
      "sk-0123456789",
    );
  });

  test("a budget an hour; one call for each review; an escalation carries a diagnosis, or says why not", async () => {
    using llm = server(() => says("The disk of the build host is full. Look at df first."));
    await using observer = await Observer.start({
      more: `llm: { url: "${llm.url}/v1", model: m1, calls_per_hour: 2 }`,
    });
    await observer.record(
      failure("build", "no space left"),
      failure("build", "no space left"),
      failure("build", "no space left"),
    );
    await until("it is told", () => observer.told().length === 1);
    expect(observer.escalations()).toMatchObject([
      { diagnosis: "The disk of the build host is full. Look at df first." },
    ]);
    expect(observer.told()[0]!["payload"]).toContain("\nThe disk of the build host is full.");
    expect(JSON.stringify(llm.asked[0])).toContain("no space left");
    const said = async () => (await (await observer.post("/observer/review", stats(60))).json()) as Op;
    expect((await said())["notes"]).toContain("no verdict");
    expect((await said())["notes"]).toContain("budget of 2 calls an hour is used up");
    await observer.record(failure("test", "red"), failure("test", "red"), failure("test", "red"));
    await until("the second is told", () => observer.told().length === 2);
    expect(observer.escalations()[1]).toMatchObject({
      diagnosis: null,
      diagnosis_failed: expect.stringContaining("budget"),
    });
    expect([llm.asked.length, llm.most()]).toEqual([2, 1]);
  });

  test("a model that never answers holds up neither requests nor the other steps", async () => {
    using llm = server(() => new Promise<Response>(() => {}));
    await using observer = await Observer.start({ more: `llm: { url: "${llm.url}", model: m1, timeout_seconds: 30 }` });
    await observer.record(failure("a", "x"), failure("a", "x"), failure("a", "x"));
    await until("it is asked", () => llm.asked.length === 1);
    type Health = { steps: Record<string, { passes: number; running_for_seconds: number }> };
    const steps = async () => (await observer.get<Health>("/health")).steps;
    const before = (await steps())["analyze"]!.passes;
    await until("the others go on", async () => (await steps())["analyze"]!.passes > before + 3);
    expect((await steps())["escalate"]!.running_for_seconds).toBeGreaterThan(0.3);
    expect(await (await fetch(`${observer.url}/metrics`)).text()).toMatch(
      /picket_step_running_seconds\{step="escalate"\} [1-9]|0\.[3-9]/,
    );
    await observer.record({ endpoint: "b", success: true });
    expect(await observer.daemon.kill()).toBe(0);
  });

  test("after a timeout the model is not asked again in that pass; each escalation is delivered before the next", async () => {
    let asked = 0;
    using llm = server(() => {
      asked++;
      return asked === 1 ? says("The disk is full.") : new Promise<Response>(() => {});
    });
    await using observer = await Observer.start({ more: `llm: { url: "${llm.url}", model: m1, timeout_seconds: 3 }` });
    const names = ["alpha", "beta", "gamma", "delta\nepsilon"];
    await observer.record(...names.flatMap((name) => [1, 2, 3].map(() => failure(name, "no"))));
    await until("a second question", () => asked === 2);
    expect(observer.told().map(({ payload }) => payload!.split("\n")[1])).toEqual(["The disk is full."]);
    await until("all are told", () => observer.told().length === 4);
    expect(asked).toBe(2);
    const late = "the model did not answer within 3 s";
    expect(observer.escalations().map((one) => one["diagnosis_failed"])).toEqual([undefined, late, late, late]);
    expect(observer.told().map(({ payload }) => payload!.split(" keeps failing")[0])).toContain("delta epsilon");
  });
});
