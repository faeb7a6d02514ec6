// `hook` at each event of a client: what it prints is what the client's documentation allows, and what it can't hand over stays new.
// Not tested here: that the clients show it to their model (tried by hand against a model on loopback; see docs/readers.md).

import { expect, test } from "bun:test";
import * as v from "valibot";
import { TestInboxes } from "../inbox-kit.ts";
import { DEFAULT_TARGET, Folder, command, runRole } from "../kit.ts";

const PLAIN = v.pipe(v.string(), v.startsWith("1 new in the inbox of bob:\n"));
const json = <S extends v.GenericSchema>(schema: S) => v.pipe(v.string(), v.parseJson(), schema);
const context = (name: string) =>
  json(
    v.strictObject({
      hookSpecificOutput: v.strictObject({ hookEventName: v.literal(name), additionalContext: PLAIN }),
    }),
  );
const BLOCK = json(v.strictObject({ decision: v.literal("block"), reason: PLAIN }));

class Box {
  readonly inboxes: TestInboxes;
  readonly env: Record<string, string>;
  constructor(folder: Folder) {
    this.inboxes = new TestInboxes(folder);
    this.env = { HOME: folder.path, PICKET_COLLECTOR_AGENT: "ops", ...this.inboxes.env };
  }
  hook(stdin?: unknown, ...args: string[]) {
    const text = typeof stdin === "object" ? JSON.stringify(stdin) : (stdin as string | undefined);
    const options = text === undefined ? {} : { stdin: text };
    return runRole("collector", ["hook", "--as", "bob", ...args], { env: this.env, ...options });
  }
  tell(payload: string, more = {}) {
    this.inboxes.append("bob", `${JSON.stringify({ from: "ops", type: "INFO", payload, ...more })}\n`);
  }
}

const session = { session_id: "s", transcript_path: "/t.jsonl", cwd: "/" };
const call = (hook_event_name: string, more = {}) => ({ ...session, hook_event_name, ...more });
const JSON_ONLY = ["--format", "json"];

type Case = [what: string, stdin: unknown, form: v.GenericSchema, ...args: string[]];
const urgent = { priority: "urgent" };
const ENDS = ["Stop", "SubagentStop", "AfterAgent"];

test.concurrent("each event is answered in its form, once", async () => {
  const cases: Case[] = [
    ["a prompt", call("UserPromptSubmit", { prompt: "x".repeat(500_000) }), PLAIN],
    ["a session's start", call("SessionStart", { source: "startup" }), PLAIN],
    ["no stdin", undefined, PLAIN],
    ["text", "hello\n", PLAIN],
    ["a subagent's start", call("SubagentStart", { agent_id: "a" }), context("SubagentStart")],
    ["Gemini CLI's start", call("SessionStart", { timestamp: "2026-11-28T11:30:43.660Z" }), context("SessionStart")],
    ...["PreToolUse", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "UserPromptExpansion", "Setup"].map(
      (name): Case => [name, call(name), context(name)],
    ),
    ...["BeforeAgent", "AfterTool", "SessionStart", "UserPromptSubmit"].map((name): Case => [
      name,
      call(name),
      context(name),
      ...JSON_ONLY,
    ]),
    ...ENDS.map((name): Case => [name, call(name, { stop_hook_active: false }), BLOCK]),
  ];
  using folder = new Folder();
  const box = new Box(folder);
  for (const [what, stdin, form, ...args] of cases) {
    box.tell("hello", ENDS.includes(what) ? urgent : {});
    const { code, stdout } = await box.hook(stdin, ...args);
    const [issue] = v.safeParse(form, stdout).issues ?? [];
    expect([what, code, issue && `${issue.message}: ${stdout}`]).toEqual([what, 0, undefined]);
  }
  expect((await box.hook()).stdout).toBe("");
});

test.concurrent("where a client can't take the events they stay new", async () => {
  const calls: [stdin: unknown, ...args: string[]][] = [
    ...["Notification", "PreCompact", "SessionEnd", "BeforeTool", "BeforeModel", "new", "__proto__"].map(
      (name): [unknown] => [call(name)],
    ),
    ...ENDS.map((name): [unknown] => [call(name, { stop_hook_active: true })]),
    [call("PostToolUse", { agent_id: "a" })],
    ["hello", ...JSON_ONLY],
    [{ prompt: "hi" }],
    ["[]"],
    ['{"hook_event_name":"PostTo'],
    [call("UserPromptSubmit"), "--format", "xml"],
    [call("UserPromptSubmit"), "--nonsense"],
  ];
  using folder = new Folder();
  const box = new Box(folder);
  box.tell("hello", urgent);
  for (const [stdin, ...args] of calls) {
    const { code, stdout } = await box.hook(stdin, ...args);
    expect([stdin, args, code, stdout]).toEqual([stdin, args, 0, ""]);
  }
  expect((await box.hook()).stdout).toContain("> hello");
});

test.concurrent("the end of a turn hands over what can't wait, and leaves the rest new", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  box.tell("a");
  box.tell("b", { type: "NEEDS-RESPONSE" });
  box.tell("c");
  box.tell("d", urgent);
  const shown = (text: string) => [...text.matchAll(/> (\w)/g)].map(([, one]) => one).join("");
  expect(shown((await box.hook(call("Stop", { stop_hook_active: false }))).stdout)).toBe("db");
  expect(shown((await box.hook(call("PostToolUse"))).stdout)).toBe("ac");
});

test.concurrent("what is printed has 10,000 bytes at most, what JSON escapes included", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  for (const text of ['"\n'.repeat(9000), "я".repeat(9000), "😀".repeat(9000)]) {
    for (const stdin of [call("PostToolUse"), call("UserPromptSubmit")]) {
      box.tell(text);
      const { stdout } = await box.hook(stdin);
      expect(stdout).toContain("[cut: ");
      expect(stdout).not.toContain("\ufffd");
      expect(Buffer.byteLength(stdout)).toBeGreaterThan(9900);
      expect(Buffer.byteLength(stdout)).toBeLessThanOrEqual(10_000);
    }
  }
});

test.concurrent("it stands down while a watcher pushes the events", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  box.tell("hello");
  await using inboxes = box.inboxes;
  const end = await (await inboxes.open()).becomeWatcher("bob");
  expect((await box.hook(call("UserPromptSubmit"))).stdout).toBe("");
  await end!();
  expect((await box.hook(call("UserPromptSubmit"))).stdout).toContain("> hello");
});

test.concurrent("a client that leaves stdin open is answered once it has sent a whole value", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  box.tell("hello");
  const words = await command("collector", DEFAULT_TARGET);
  const child = Bun.spawn([...words, "hook", "--as", "bob"], {
    env: { ...process.env, ...box.env },
    stdin: "pipe",
    stdout: "pipe",
  });
  void child.stdin.write(JSON.stringify(call("PostToolUse")));
  void child.stdin.flush();
  expect(await new Response(child.stdout).text()).toContain("> hello");
  expect(await child.exited).toBe(0);
});
