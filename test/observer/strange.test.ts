// What nobody sends on purpose: each of it once stopped the observer, or was answered wrongly.

import { describe, expect, test } from "bun:test";
import { appendFileSync, existsSync, mkdirSync, rmSync, rmdirSync, writeFileSync } from "node:fs";
import { isRoot } from "../e2e/disk.ts";
import { BehindProxy, type Daemon, Folder, runRole, startRole, until } from "../kit.ts";

/** Deeper than what can be written. */
const DEPTH = 200_000;

class Lab implements AsyncDisposable {
  readonly folder = new Folder();
  #daemon: Daemon | null = null;
  url = "";

  get log(): string {
    return this.folder.at("data", "ops.jsonl");
  }
  async start(more = ""): Promise<Daemon> {
    this.configure(more);
    this.#daemon = await startRole("observer", ["--config", this.folder.at("observer.yaml")]);
    this.url = await this.#daemon.url();
    return this.#daemon;
  }
  configure(more: string): void {
    const config = `listen: 127.0.0.1:0\npersist_path: ${this.log}\ncycle_seconds: 0.1\ndurability: os\n${more}`;
    this.folder.write("observer.yaml", config);
  }
  async get<T>(path: string): Promise<T> {
    return (await fetch(`${this.url}${path}`)).json() as Promise<T>;
  }
  post(path: string, body: string): Promise<Response> {
    return fetch(`${this.url}${path}`, { method: "POST", body });
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

test("lines of the log that somebody else wrote are completed, or skipped as malformed", async () => {
  await using lab = new Lab();
  const line = { timestamp: "2026-01-31T12:00:00Z", endpoint: "x", source: "mcp", success: false, duration_ms: 1 };
  const lines = [
    line,
    { ...line, input_summary: 5 },
    { ...line, output_summary: null, error: null },
    { ...line, error: { code: 5 } },
    { ...line, sig_hash: 7 },
    { ...line, id: 9 },
    { ...line, timestamp: "yesterday" },
    { ...line, success: true },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", role: null, city: "Graz" },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", role: 5 },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", count: "many" },
  ];
  await Bun.write(lab.log, lines.map((one) => `${JSON.stringify(one)}\n`).join(""));
  const daemon = await lab.start();
  expect(await daemon.said("log read")).toContain("malformed=7");
  const { total, failures, recent_scenario_ops } = await lab.get<{
    total: number;
    failures: number;
    recent_scenario_ops: object[];
  }>("/observer/stats");
  expect([total, failures]).toEqual([4, 2]);
  const { timestamp, endpoint, success, duration_ms } = { ...line, success: true };
  expect(recent_scenario_ops).toEqual([{ timestamp, endpoint, success, duration_ms, city: "Graz" }]);
  const { clusters } = await lab.get<{ clusters: { last_at: string; count: number }[] }>("/observer/clusters");
  expect(clusters).toMatchObject([{ count: 2, last_at: "2026-01-31T12:00:00.000Z" }]);
  const shown = await runRole("observer", ["tail", "--config", lab.folder.at("observer.yaml")]);
  expect(shown.stdout.split("\n").length - 1).toBe(total);
}, 60_000);

describe("an operation", () => {
  test("nested too deep to be written is refused, and spoils no other of its array", async () => {
    await using lab = new Lab();
    await lab.start();
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
    await using lab = new Lab();
    await lab.start();
    const error = "endpoint: is required";
    const alone = await lab.post("/observer/event", `{"success":true}`);
    expect(alone.status).toBe(400);
    expect(await alone.json()).toMatchObject({ error, fields: [{ field: "endpoint", error: "is required" }] });
    expect(await (await lab.post("/observer/event", `[{}]`)).json()).toMatchObject([{ accepted: false, error }]);
  }, 60_000);

  test("with an endless number is refused", async () => {
    await using lab = new Lab();
    await lab.start();
    for (const field of ["duration_ms", "audit_duration_ms", "count"]) {
      const answer = await lab.post("/observer/event", `{"endpoint":"x","${field}":1e999}`);
      expect(answer.status).toBe(422);
      expect(await answer.json()).toMatchObject({ field });
    }
  }, 60_000);

  test("of numbers that grow when they are written is counted after a restart, too", async () => {
    await using lab = new Lab();
    const first = await lab.start();
    const body = `{"endpoint":"x","more":[${"1e20,".repeat(800_000)}1]}`;
    expect((await lab.post("/observer/event", body)).status).toBe(200);
    await first.kill("SIGKILL");
    const second = await lab.start();
    expect((await lab.get<{ total: number }>("/observer/stats")).total).toBe(1);
    expect(await second.said("log read")).toContain("malformed=0");
    const { stdout } = await runRole("observer", ["tail", "--config", lab.folder.at("observer.yaml")]);
    expect(stdout).toContain("mcp");
  }, 60_000);

  test("with long texts keeps the answers of /stats and /clusters short", async () => {
    await using lab = new Lab();
    await lab.start();
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

test("the ring is asked since a time, not since a number", async () => {
  await using lab = new Lab();
  await lab.start();
  const status = async (since: string) => (await fetch(`${lab.url}/observer/events?since=${since}`)).status;
  for (const time of ["2026-01-31", "2026-01-31T12:00:00Z", ""]) expect(await status(time)).toBe(200);
  for (const none of ["5", "1700000000", "Jan 5", "2026-13-45", "-1"]) expect(await status(none)).toBe(400);
}, 60_000);

test("a review that is a list, or whose figures are one, is refused in words", async () => {
  await using lab = new Lab();
  await lab.start();
  for (const [body, error] of [
    ["[]", "expected a JSON object"],
    ["5", "expected a JSON object"],
    [`{"grounding_stats":[]}`, "grounding_stats: expected an object"],
  ] as const) {
    const answer = await lab.post("/observer/review", body);
    expect(answer.status).toBe(422);
    expect(await answer.json()).toMatchObject({ error, code: "invalid_review" });
  }
  expect(existsSync(lab.folder.at("data", "reviews.jsonl"))).toBe(false);
}, 60_000);

test("failures whose time lies ahead are escalated once, however much later the log is read again", async () => {
  await using lab = new Lab();
  const first = await lab.start();
  const ahead = { endpoint: "x", success: false, error: "no", timestamp: "2999-01-01T00:00:00Z", id: "1" };
  const post = async (...ids: string[]) => {
    const body = JSON.stringify(ids.map((id) => ({ ...ahead, id })));
    expect((await lab.post("/observer/event", body)).status).toBe(200);
  };
  await post("1", "2", "3");
  const file = lab.folder.at("data", "escalations.jsonl");
  const escalated = async () => (await Bun.file(file).text()).split("\n").length - 1;
  await until("an escalation", async () => existsSync(file) && (await escalated()) === 1);
  await first.kill("SIGKILL");
  // As if all of it were three days ago.
  const now = new Date().toISOString().slice(0, 10);
  const then = new Date(Date.now() - 3 * 86_400_000).toISOString().slice(0, 10);
  for (const path of [lab.log, file]) await Bun.write(path, (await Bun.file(path).text()).replaceAll(now, then));
  await lab.start();
  const { events } = await lab.get<{ events: { timestamp: string; id: string }[] }>("/observer/events");
  expect(events.map(({ timestamp }) => timestamp)).toEqual(Array.from({ length: 3 }, () => ahead.timestamp));
  type Steps = { steps: { escalate: { passes: number } } };
  await until("two looks", async () => (await lab.get<Steps>("/observer/health")).steps.escalate.passes > 2);
  expect(await escalated()).toBe(1);
}, 60_000);

test("a log in whose place something else lies makes it unhealthy until it is gone", async () => {
  await using lab = new Lab();
  await lab.start();
  const told = async () => (await lab.post("/observer/event", `{"endpoint":"x"}`)).status;
  const health = async () => (await fetch(`${lab.url}/observer/health`)).status;
  expect([await told(), await health()]).toEqual([200, 200]);
  rmSync(lab.log);
  mkdirSync(lab.log);
  expect([await told(), await health()]).toEqual([500, 503]);
  expect((await lab.get<{ total: number }>("/observer/stats")).total).toBe(1);
  rmdirSync(lab.log);
  expect([await health(), await told()]).toEqual([200, 200]);
}, 60_000);

test("a correction nested too deep is kept as text, and those after it are taken", async () => {
  await using lab = new Lab();
  const file = lab.folder.at("corrections.jsonl");
  writeFileSync(file, `{"more":${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}}\n{"endpoint":"next"}\n`);
  await lab.start(`overseer_corrections: ${file}\n`);
  const total = async () => (await lab.get<{ total: number }>("/observer/stats")).total;
  await until("both are recorded", async () => (await total()) === 2);
  appendFileSync(file, `{"endpoint":"last"}\n`);
  await until("and a third", async () => (await total()) === 3);
}, 60_000);

test("a key that is changed in its file is used after a reload", async () => {
  const keys: (string | null)[] = [];
  await using lab = new Lab();
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request) {
      keys.push(request.headers.get("authorization"));
      const content = `{"verdict":"accept","confidence":1,"notes":""}`;
      return Response.json({ choices: [{ message: { content } }] });
    },
  });
  try {
    lab.folder.write("key", "first-key\n");
    const llm = `llm: { url: "http://127.0.0.1:${server.port}", model: m, api_key_file: ${lab.folder.at("key")} }\n`;
    const daemon = await lab.start(llm);
    await lab.post("/observer/review", "{}");
    lab.folder.write("key", "second-key\n");
    daemon.child.kill("SIGHUP");
    await until("the new key", async () => {
      await lab.post("/observer/review", "{}");
      return keys.includes("Bearer second-key");
    });
    expect(keys[0]).toBe("Bearer first-key");
  } finally {
    await server.stop(true);
  }
}, 60_000);

test.skipIf(!isRoot)(
  "a log that can't be renamed loses no count, and is rotated once it can",
  async () => {
    await using lab = new Lab();
    const total = async () => (await lab.get<{ total: number }>("/observer/stats")).total;
    const fill = async (operations: number) => {
      const one = { endpoint: "x", success: true, output_summary: "x".repeat(2000) };
      const body = JSON.stringify(Array.from({ length: operations }, () => one));
      expect((await lab.post("/observer/event", body)).status).toBe(200);
    };
    const first = await lab.start("rotate_mb: 1\n");
    await fill(10);
    // As a container does that is given the file alone.
    await Bun.$`mount --bind ${lab.log} ${lab.log}`;
    try {
      await fill(990);
      await first.said("EBUSY");
      // What comes now is in no snapshot, as if the next look were far away.
      const snapshot = await Bun.file(lab.folder.at("data", "snapshot.json")).text();
      await fill(50);
      await first.kill("SIGKILL");
      await Bun.write(lab.folder.at("data", "snapshot.json"), snapshot);
    } finally {
      await Bun.$`umount ${lab.log}`;
    }
    const second = await lab.start("rotate_mb: 1\n");
    expect(await total()).toBe(1050);
    await until("the log is rotated", () => existsSync(lab.folder.at("data", "ops.000001.jsonl")));
    await fill(1);
    await second.kill("SIGKILL");
    await lab.start("rotate_mb: 1\n");
    expect(await total()).toBe(1051);
  },
  60_000,
);

test("a proxy in the environment never sees what goes to a model on this machine", async () => {
  await using model = new BehindProxy({});
  using folder = new Folder();
  const config = folder.write(
    "observer.yaml",
    `listen: 127.0.0.1:0\npersist_path: ""\nllm: { url: "${model.url}", model: m, api_key: secret }\n`,
  );
  await using observer = await startRole("observer", ["--config", config], { env: model.env });
  const body = JSON.stringify({ file_path: "a", model: "m", response: "b", source_content: "c" });
  const review = await fetch(`${await observer.url()}/observer/review`, { method: "POST", body });
  expect([review.status, model.seen]).toEqual([200, ["server"]]);
});
