// Playbooks of a real observer, from operations that were made to give known ones.

import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import type { Playbook } from "../../lib/observer/playbooks.ts";
import { type Daemon, Folder, startRole, until } from "../kit.ts";

type Given = Record<string, unknown>;

/** A folder with an observer whose playbooks are consolidated every half second. */
class Lab implements AsyncDisposable {
  readonly folder = new Folder();
  #daemon: Daemon | null = null;
  url = "";

  get file(): string {
    return this.folder.at("playbooks.jsonl");
  }
  async start(): Promise<void> {
    const config = `listen: 127.0.0.1:0\npersist_path: ${this.folder.at("ops.jsonl")}\ncycle_seconds: 0.1\ndurability: os\n`;
    this.#daemon = await startRole("observer", ["--config", this.folder.write("observer.yaml", config)]);
    this.url = await this.#daemon.url();
  }
  async stop(signal: NodeJS.Signals): Promise<void> {
    await this.#daemon!.kill(signal);
  }
  async get<T>(path: string): Promise<T> {
    return (await fetch(`${this.url}${path}`)).json() as Promise<T>;
  }
  async tell(operations: Given[]): Promise<void> {
    for (let at = 0; at < operations.length; at += 1000) {
      const body = JSON.stringify(operations.slice(at, at + 1000));
      const answers = (await (await fetch(`${this.url}/observer/event`, { method: "POST", body })).json()) as {
        accepted: boolean;
      }[];
      expect(answers.every(({ accepted }) => accepted)).toBe(true);
    }
  }
  /** What is served once a pass has seen everything that was told. */
  async playbooks(): Promise<Playbook[]> {
    const passes = async () =>
      (await this.get<{ steps: { playbooks: { passes: number } } }>("/health")).steps.playbooks.passes;
    const before = await passes();
    await until("two passes", async () => (await passes()) >= before + 2);
    const { playbooks } = await this.get<{ playbooks: Playbook[] }>("/observer/playbooks");
    expect(await this.get<unknown>("/v1/observer/playbooks")).toEqual({ playbooks });
    expect(written(this.file)).toEqual(playbooks);
    return playbooks;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** The file, of which each line has to be whole. */
function written(file: string): Playbook[] {
  const lines = readFileSync(file, "utf8").split("\n");
  expect(lines.pop()).toBe("");
  return lines.map((line) => JSON.parse(line) as Playbook);
}

function times(count: number, operation: Given): Given[] {
  return Array.from({ length: count }, () => operation);
}

const ok = (endpoint: string, more: Given = {}): Given => ({ endpoint, success: true, ...more });
const failed = (endpoint: string, more: Given = {}): Given => ({ endpoint, success: false, error: "no", ...more });

/** What operations give, told to an observer of their own. */
async function given(operations: Given[]): Promise<Playbook[]> {
  await using lab = new Lab();
  await lab.start();
  await lab.tell(operations);
  return await lab.playbooks();
}

describe("what a playbook says", () => {
  test("all of it, of a small day's work", async () => {
    const at = (minute: number) => `2026-01-31T12:${String(minute).padStart(2, "0")}:00.000Z`;
    const durations = [120, 10, 30, 20, 50, 40, 60, 80];
    const operations = [
      ...durations.map((duration_ms, index) =>
        ok("deploy", {
          duration_ms,
          model: "big",
          city: "Ghent",
          input_summary: index < 5 ? `release ${index} to host-${index}` : "roll back",
          timestamp: at(index),
        }),
      ),
      ...times(4, failed("deploy", { duration_ms: 9000, model: "small", city: "Ghent", timestamp: at(30) })),
      ...times(5, ok("backup", { duration_ms: 7, timestamp: at(40) })),
      ...times(4, ok("too seldom")),
      ...times(9, failed("never")),
    ];
    const [deploy, backup, ...others] = await given(operations);
    expect(others).toEqual([]);
    expect(deploy).toEqual({
      endpoint: "deploy",
      count: 12,
      successes: 8,
      success_rate: 0.667,
      p50_ms: 40,
      p95_ms: 120,
      input_shapes: [
        { shape: "release <num> to host-<num>", count: 5 },
        { shape: "roll back", count: 3 },
      ],
      changed: [{ field: "model", in_successes: "big", in_failures: "small" }],
      refinements: [
        {
          field: "model",
          failing: { value: "small", failures: 4, count: 4 },
          working: { value: "big", successes: 8, count: 8 },
          text: 'deploy: model "small" fails 4 of 4 times, "big" works 8 of 8 times: use that',
        },
      ],
      last_at: at(30),
    });
    expect(backup).toEqual({
      endpoint: "backup",
      count: 5,
      successes: 5,
      success_rate: 1,
      p50_ms: 7,
      p95_ms: 7,
      input_shapes: [],
      changed: [],
      refinements: [],
      last_at: at(40),
    });
  });

  test("nearest rank: p50 and p95 of 1 to 20, 21 and 100", async () => {
    const upTo = (endpoint: string, most: number) =>
      Array.from({ length: most }, (_, index) => ok(endpoint, { duration_ms: most - index }));
    const playbooks = await given([...upTo("20", 20), ...upTo("21", 21), ...upTo("100", 100)]);
    expect(playbooks.map(({ endpoint, p50_ms, p95_ms }) => [endpoint, p50_ms, p95_ms])).toEqual([
      ["100", 50, 95],
      ["21", 11, 20],
      ["20", 10, 19],
    ]);
  });

  test("the three commonest shapes of inputs, the commonest first", async () => {
    const words = ["one", "two", "three", "four"];
    const [playbook] = await given(
      words.flatMap((word, index) => times(5 - index, ok("x", { input_summary: `job ${word}` }))),
    );
    expect(playbook!.input_shapes).toEqual([
      { shape: "job one", count: 5 },
      { shape: "job two", count: 4 },
      { shape: "job three", count: 3 },
    ]);
  });
});

describe("the refinement", () => {
  /** The fields of which refinements are proposed, of each case's operations: every case is an endpoint of its own. */
  const fields = async (...cases: Given[][]): Promise<string[][]> => {
    const playbooks = await given(
      cases.flatMap((all, index) => all.map((one) => ({ ...one, endpoint: `case ${index}` }))),
    );
    const refined = new Map(playbooks.map(({ endpoint, refinements }) => [endpoint, refinements]));
    return cases.map((_, index) => refined.get(`case ${index}`)!.map(({ field }) => field));
  };
  const many = (successes: number, failures: number, more: Given): Given[] => [
    ...times(successes, ok("x", more)),
    ...times(failures, failed("x", more)),
  ];
  const both = (field: string, good: unknown, bad: unknown): Given[] => [
    ...many(5, 0, { [field]: good }),
    ...many(0, 3, { [field]: bad }),
  ];

  test("is proposed from three tries on, and from four in five that fail or work", async () => {
    const [good, bad, mixed] = [{ a: "good" }, { a: "bad" }, { a: "mixed" }];
    const found = await fields(
      [...many(5, 0, good), ...many(0, 3, bad)],
      [...many(5, 0, good), ...many(0, 2, bad)],
      [...many(8, 2, good), ...many(2, 8, bad)],
      [...many(7, 2, good), ...many(2, 8, bad)],
      [...many(8, 2, good), ...many(2, 7, bad)],
      [...many(2, 0, good), ...many(3, 3, mixed), ...many(0, 3, bad)],
    );
    expect(found).toEqual([["a"], [], ["a"], [], [], []]);
  });

  test("any short unknown field counts; a field with many values, a long one and a text do not", async () => {
    const spread = (values: number): Given[] => [
      ...Array.from({ length: 60 }, (_, index) => ok("x", { wide: index % (values - 1) })),
      ...times(3, failed("x", { wide: "bad" })),
    ];
    const cases: [Given[], string[]][] = [
      [spread(20), ["wide"]],
      [spread(21), []],
      [both("version", 2, 1), ["version"]],
      [both("cached", true, false), ["cached"]],
      [both("short", "g".repeat(64), "b".repeat(64)), ["short"]],
      [both("long", "g".repeat(65), "b".repeat(65)), []],
      [both("object", { deep: 1 }, { deep: 2 }), []],
      [both("output_summary", "fast", "slow"), []],
      // Names that every object has.
      [both("hasOwnProperty", "a", "b"), ["hasOwnProperty"]],
      [both("toString", "a", "b"), ["toString"]],
    ];
    expect(await fields(...cases.map(([operations]) => operations))).toEqual(cases.map(([, expected]) => expected));
  });
});

test("the last operation is the one with the latest time, in whatever zone it is written", async () => {
  const [playbook] = await given([
    ...times(4, ok("x", { timestamp: "2026-01-31T10:00:00Z" })),
    ok("x", { timestamp: "2026-01-31T11:00:00+04:00" }),
  ]);
  expect(playbook!.last_at).toBe("2026-01-31T10:00:00.000Z");
});

describe("playbooks.jsonl", () => {
  test("is never half written for a reader that polls it", async () => {
    await using lab = new Lab();
    await lab.start();
    const stop = new AbortController();
    let seen = 0;
    const sizes = new Set<number>();
    const reader = (async () => {
      while (!stop.signal.aborted) {
        if (existsSync(lab.file)) {
          const playbooks = written(lab.file);
          sizes.add(playbooks.length);
          seen++;
        }
        await Bun.sleep(0);
      }
    })();
    for (const round of [1, 2, 3]) {
      const endpoints = Array.from({ length: round * 100 }, (_, index) => `${round}-${index} ${"e".repeat(2000)}`);
      await lab.tell(endpoints.slice(0, 300).flatMap((endpoint) => times(6, ok(endpoint))));
      await lab.playbooks();
    }
    stop.abort();
    await reader;
    expect(seen).toBeGreaterThan(10);
    expect(sizes.size).toBeGreaterThan(2);
  });

  test("is whole after a kill at any moment, also with a temporary file left beside it", async () => {
    await using lab = new Lab();
    await lab.start();
    await lab.tell(Array.from({ length: 300 }, (_, index) => times(6, ok(`${index} ${"e".repeat(2000)}`))).flat());
    await lab.playbooks();
    for (let round = 0; round < 4; round++) {
      await Bun.sleep(Math.random() * 600);
      await lab.stop("SIGKILL");
      expect(written(lab.file)).toHaveLength(300);
      writeFileSync(`${lab.file}.tmp`, `{"endpoint":"half`);
      await lab.start();
      expect(await lab.playbooks()).toHaveLength(300);
      // A pass that is under way has one of its own there, for a moment.
      await until("the half file is gone", () => !existsSync(`${lab.file}.tmp`));
    }
  });
});
