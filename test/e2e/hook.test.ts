// The prompt hook as a coding agent calls it: a child process in a folder of somebody's project, the prompt as JSON on stdin,
// a budget after which it is killed, and what it prints goes into the agent's context.
// Not tested: the agents themselves. How long a call takes is told in the output, and no test fails by it.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, command, runRole } from "../kit.ts";

const LIMIT = 10_000;
/** Agents give a second or two; a busy machine gets more here. */
const BUDGET_MS = 30_000;
/** As such agents send it; a long prompt is more than a pipe holds. */
const PROMPT = JSON.stringify({
  session_id: "3f0c",
  cwd: "/srv/lab",
  hook_event_name: "UserPromptSubmit",
  prompt: "x".repeat(300_000),
});

let folder: Folder;
let inbox: string;
let binary: string;
let milliseconds: number[] = [];

beforeAll(async () => {
  [binary = ""] = await command("collector", "binary");
});
beforeEach(() => {
  folder = new Folder();
  inbox = folder.at("inbox");
  mkdirSync(folder.at(".config", "picket"), { recursive: true });
  mkdirSync(folder.at("project"));
  mkdirSync(inbox, { recursive: true });
  configure("agent: foreman\ninbox_dir: ~/inbox\ndrop_folder: { path: ~/incoming }\n");
});
afterEach(() => folder[Symbol.dispose]());
afterAll(() => {
  const sorted = milliseconds.toSorted((a, b) => a - b);
  console.log(
    `${sorted.length} calls of the hook: median ${sorted[sorted.length >> 1]?.toFixed(0)} ms, longest ${sorted.at(-1)?.toFixed(0)} ms`,
  );
});

function configure(text: string): void {
  writeFileSync(folder.at(".config", "picket", "collector.yaml"), text);
}

/** Appends events as any program may. */
function tell(payloads: string[], recipient = "bob"): void {
  const lines = payloads.map((payload) => JSON.stringify({ from: "foreman", type: "INFO", payload }));
  writeFileSync(join(inbox, `${recipient}.inbox`), `${lines.join("\n")}\n`, { flag: "a" });
}

interface Call {
  args?: string[];
  env?: Record<string, string>;
  /** What the shell does with stdout. */
  redirect?: string;
  budget?: number;
}

function environment(more: Record<string, string> = {}): Record<string, string> {
  return { PATH: "/usr/bin:/bin", HOME: folder.path, PICKET_IDENTITY: "bob", ...more };
}

async function hook({ args = [], env = {}, redirect = "", budget = BUDGET_MS }: Call = {}) {
  const from = performance.now();
  const child = Bun.spawn(["sh", "-c", `exec "$0" hook "$@" ${redirect}`, binary, ...args], {
    cwd: folder.at("project"),
    env: environment(env),
    stdin: Buffer.from(PROMPT),
    stdout: "pipe",
    stderr: "pipe",
    timeout: budget,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  await child.exited;
  milliseconds.push(performance.now() - from);
  return { code: child.exitCode, stdout, stderr };
}

/** Which of the numbered events a text shows. */
function shown(...texts: string[]): string[] {
  return texts.flatMap((text) => [...text.matchAll(/^> (event-\d+)$/gm)].map(([, name]) => name!));
}

function numbered(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `event-${n}`);
}

/** All that is left to show, turn by turn. */
async function rest(): Promise<string[]> {
  const texts: string[] = [];
  for (;;) {
    const { stdout } = await hook();
    if (stdout === "") return texts;
    texts.push(stdout);
  }
}

test("what is new comes as text, at most 10,000 characters a turn, and the second time nothing", async () => {
  tell(["the build is green", '{"looks":"like JSON"}']);
  const { code, stdout, stderr } = await hook();
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toStartWith("2 new in the inbox of bob");
  expect(stdout).toContain("the build is green");
  expect(await hook()).toEqual({ code: 0, stdout: "", stderr: "" });

  tell(numbered(400));
  const turns = await rest();
  expect(turns.length).toBeGreaterThan(1);
  for (const text of turns) expect(text.length).toBeLessThanOrEqual(LIMIT);
  expect(shown(...turns)).toEqual(numbered(400));
});

test("ten at the same time show each event once, and one that is killed before it is done loses none", async () => {
  tell(numbered(300));
  const ten = await Promise.all(Array.from({ length: 10 }, () => hook()));
  expect(new Set(ten.map(({ code }) => code))).toEqual(new Set([0]));
  const texts = [...ten.map(({ stdout }) => stdout), ...(await rest())];
  expect(shown(...texts).toSorted()).toEqual(numbered(300).toSorted());

  rmSync(inbox, { recursive: true });
  mkdirSync(inbox);
  tell(numbered(300));
  const some: string[] = [];
  // Budgets around the time that a call takes: some end before it shows, some after, some in between.
  for (let budget = 4; budget < 80; budget += 4) some.push((await hook({ budget })).stdout);
  expect(new Set(shown(...some, ...(await rest())))).toEqual(new Set(numbered(300)));
});

describe("whatever happens it ends with 0", () => {
  const trouble: [string, Call, (() => void)?][] = [
    ["no inbox", { env: { PICKET_IDENTITY: "nobody" } }],
    ["no inbox folder", {}, () => rmSync(inbox, { recursive: true })],
    ["no identity", { env: { PICKET_IDENTITY: "" } }],
    ["a name that is none", { env: { PICKET_IDENTITY: "../bob" } }],
    ["a broken configuration", {}, () => configure("agent: [\n")],
    ["an unknown key in it", {}, () => configure("agent: a\nnonsense: 1\n")],
    // Root then reads the system's inboxes, which may hold some of bob's.
    ["no configuration", { env: { PICKET_IDENTITY: "pi" } }, () => rmSync(folder.at(".config"), { recursive: true })],
    [
      "a folder instead of an inbox",
      {},
      () => {
        rmSync(join(inbox, "bob.inbox"));
        mkdirSync(join(inbox, "bob.inbox"));
      },
    ],
    ["an unknown flag", { args: ["--identity", "bob"] }],
    ["a flag without its value", { args: ["--as"] }],
    ["a word too much", { args: ["bob"] }],
    ["an unknown log level", { args: ["--log-level", "loud"] }],
    ["its errors as JSON", { args: ["--json-log", "--nonsense"] }],
    ["stdout full", { redirect: ">/dev/full" }],
    ["stdout closed", { redirect: ">&-" }],
    ["stderr closed", { args: ["--nonsense"], redirect: "2>&-" }],
  ];

  test.each(trouble)("%s", async (_what, call, before = () => {}) => {
    tell(["event-1"]);
    before();
    const { code, stdout } = await hook(call);
    expect({ code, stdout }).toEqual({ code: 0, stdout: "" });
    // The caller can write all of its prompt.
    const script = `head -c 5000000 /dev/zero | "$0" hook "$@" ${call.redirect ?? ""}; echo \${PIPESTATUS[0]} >written`;
    const writer = Bun.spawn(["bash", "-c", script, binary, ...(call.args ?? [])], {
      cwd: folder.at("project"),
      env: environment(call.env),
    });
    await writer.exited;
    expect(readFileSync(folder.at("project", "written"), "utf8")).toBe("0\n");
  });

  test("and what could not be printed is still new", async () => {
    tell(["event-1"]);
    expect((await hook({ redirect: ">/dev/full" })).code).toBe(0);
    // The other end of the pipe is closed before there is anything to print.
    const script = `{ until [ -e gone ]; do sleep 0.01; done; "$0" hook; echo $? >code; } | { exec <&-; : >gone; }`;
    const piped = Bun.spawn(["sh", "-c", script, binary], { cwd: folder.at("project"), env: environment() });
    await piped.exited;
    expect(readFileSync(folder.at("project", "code"), "utf8")).toBe("0\n");
    const { stdout } = await hook();
    expect(shown(stdout)).toEqual(["event-1"]);
  });
});

test("only the hook is so: other commands say what went wrong by their code", async () => {
  const run = await runRole("collector", ["read", "hook", "--nonsense"], { target: "binary" });
  expect(run.code).toBe(2);
});
