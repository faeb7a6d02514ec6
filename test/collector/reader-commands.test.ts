// read --peek, --reader, --open; wait; ack: through the front door.
// Not tested: an inbox of a million lines (test/bench has figures).

import { expect, test } from "bun:test";
import { closeSync, constants, existsSync, openSync, readSync, rmSync } from "node:fs";
import { IN_TABLES, TestInboxes } from "../inbox-kit.ts";
import { Folder, type Outcome, command, runRole, until } from "../kit.ts";

class Box {
  readonly inboxes: TestInboxes;
  readonly env: Record<string, string>;
  constructor(folder: Folder) {
    this.inboxes = new TestInboxes(folder);
    this.env = {
      HOME: folder.path,
      XDG_CONFIG_HOME: folder.at("none"),
      ...this.inboxes.env,
      PICKET_IDENTITY: "bob",
    };
  }
  write(...events: Record<string, string>[]): void {
    const full = events.map((event) => ({
      id: event["payload"],
      from: "ops",
      type: "INFO",
      priority: "normal",
      ...event,
    }));
    this.inboxes.append("bob", full.map((event) => `${JSON.stringify(event)}\n`).join(""));
  }
  run(...args: string[]): Promise<Outcome> {
    return runRole("collector", args, { env: this.env });
  }
  /** The payloads that a command shows, one letter each. */
  async shown(...args: string[]): Promise<string> {
    const { stdout } = await this.run(...args);
    return [...stdout.matchAll(/^(?:> |.*INFO.*: )(\w)$/gm)].map(([, letter]) => letter).join("");
  }
}

test("read: a look moves nothing, each name sees every event once, and what is handled isn't open", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  box.write({ payload: "a" }, { payload: "B", priority: "urgent" }, { payload: "c" });
  for (const [args, letters] of [
    ["--new --peek", "Bac"],
    ["--new --peek --limit 2", "Ba"],
    ["--new", "Bac"],
    ["--new --peek", ""],
    ["--new --reader desk", "Bac"],
    ["--new --reader desk", ""],
    ["--open", "aBc"],
  ] as const) {
    expect([args, await box.shown("read", "bob", ...args.split(" "))]).toEqual([args, letters]);
  }
  expect(await box.shown("hook")).toBe("Bac");
  expect(await box.run("ack", "B", "c")).toMatchObject({ code: 0 });
  expect(await box.shown("read", "bob", "--open")).toBe("a");
  expect(await box.shown("read", "bob", "--open", "--limit", "1")).toBe("a");
  const wrong = ["--peek", "--reader x", "--new --peek --follow", "--new --open", "--new --reader ../x"];
  const codes = wrong.map(async (args) => [args, (await box.run("read", "bob", ...args.split(" "))).code]);
  expect(await Promise.all(codes)).toEqual(wrong.map((args) => [args, 2]));
});

test("ack tells the sender, names the id, and marks it; otherwise it says why and writes nothing", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  box.write({ payload: "a" }, { payload: "b" }, { payload: "held", sentinel: folder.at("go") });
  box.inboxes.append("bob", '{"payload":"by hand"}\n{"payload":"say \\"id\\":\\"b\\""}\n');
  box.inboxes.append("ann", '{"id":"anns","payload":"x"}\n');
  expect(await box.run("ack", "a")).toEqual({ code: 0, stdout: "a: acknowledged to ops\n", stderr: "" });
  const told = box.inboxes.lines("ops");
  expect(told).toEqual([
    expect.objectContaining({ from: "bob", to: "ops", type: "INFO", payload: "acknowledged a: a" }),
  ]);
  for (const [id, why] of [
    ["a", 'event "a" is handled already'],
    ["anns", 'there is no event "anns" in the inbox of bob'],
    ["held", 'there is no event "held"'],
    ["\u001b[2J", 'there is no event "\\u001b[2J"'],
  ] as const) {
    const { code, stderr } = await box.run("ack", "--", id);
    expect([code, stderr]).toEqual([1, expect.stringContaining(why)]);
  }
  expect((await box.run("ack", "nonsense", "b")).code).toBe(1);
  expect(box.inboxes.lines("ops").map(({ payload }) => payload)).toEqual(["acknowledged a: a", "acknowledged b: b"]);
  // A line without an id has one that is made of it.
  const id = /INFO ([0-9a-f]{32}): by hand/.exec((await box.run("read", "bob")).stdout)![1]!;
  expect(await box.run("ack", id)).toMatchObject({ code: 0, stdout: expect.stringContaining("has no inbox") });
  // One that was killed between answer and mark begins again; several at once write one answer.
  if (IN_TABLES) box.inboxes.sql("DELETE FROM inbox_handled");
  else rmSync(folder.at("inbox", ".picket", "bob.handled"));
  expect((await box.run("ack", "b")).code).toBe(0);
  expect(box.inboxes.lines("ops")).toHaveLength(2);
  box.write({ payload: "c" });
  const codes = (await Promise.all(Array.from({ length: 4 }, () => box.run("ack", "c")))).map(({ code }) => code);
  expect(codes.toSorted((a, b) => a - b)).toEqual([0, 1, 1, 1]);
  expect(box.inboxes.lines("ops")).toHaveLength(3);
});

test("wait prints what it is asked for and ends; what it passes over stays new, to the agent alone", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  expect(await box.run("wait", "--timeout", "0s")).toEqual({ code: 124, stdout: "", stderr: "" });
  const cmd = [...(await command("collector", "source")), "wait", "--min", "urgent"];
  await using child = Bun.spawn(cmd, { env: { ...process.env, ...box.env }, stdout: "pipe", stderr: "inherit" });
  await until("it has looked", () =>
    IN_TABLES ? box.inboxes.sql("SELECT id FROM inbox_marks") : existsSync(folder.at("inbox", ".picket", "bob.reader")),
  );
  box.write({ payload: "a" }, { payload: "b", type: "ACK-REQUEST" });
  box.write({ payload: "C", priority: "urgent" });
  expect(await new Response(child.stdout).text()).toMatch(
    /^1 new in the inbox of bob:\n\n\[URGENT INFO from ops.*\n> C\n$/,
  );
  expect(await child.exited).toBe(0);
  expect(await box.run("wait", "--timeout", "0s", "--min", "urgent")).toMatchObject({ code: 124, stdout: "" });
  expect(await box.run("wait", "--type", "ACK-REQUEST")).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("> b"),
  });
  box.write({ payload: "D", priority: "urgent", sentinel: folder.at("go") });
  expect(await box.shown("wait", "--as", "bob")).toBe("a");
  const waiting = box.shown("wait");
  folder.write("go", "");
  expect(await waiting).toBe("D");
  expect(await box.shown("hook")).toBe("");
  expect(await box.shown("read", "bob", "--new")).toBe("CDa");
  const wrong = ["--timeout soon", "--min high", "--type info", "--as ../x"];
  const codes = wrong.map(async (args) => [args, (await box.run("wait", ...args.split(" "))).code]);
  expect(await Promise.all(codes)).toEqual(wrong.map((args) => [args, 2]));
});

test("a reader that is killed with its output full leaves the next one the event in hand, and none before it", async () => {
  using folder = new Folder();
  const box = new Box(folder);
  const ids = Array.from({ length: 40 }, (_id, index) => `n${index}`);
  box.write(...ids.map((id) => ({ id, payload: "x".repeat(10_000) })));
  expect(Bun.spawnSync(["mkfifo", folder.at("pipe")]).exitCode).toBe(0);
  const fd = openSync(folder.at("pipe"), constants.O_RDWR | constants.O_NONBLOCK);
  let text = "";
  const chunk = Buffer.alloc(16 << 10);
  const take = (): boolean => {
    try {
      text += chunk.toString("latin1", 0, readSync(fd, chunk));
      return true;
    } catch {
      // EAGAIN: nothing is in the pipe.
      return false;
    }
  };
  const cmd = [...(await command("collector", "source")), "read", "bob", "--new", "--json"];
  // It opens the pipe itself: Bun makes a descriptor that a child inherits a blocking one.
  const env = { ...process.env, ...box.env, PIPE: folder.at("pipe") };
  await using child = Bun.spawn(["sh", "-c", 'exec "$@" >"$PIPE"', "sh", ...cmd], { env, stderr: "inherit" });
  const whole = (): string[] => [...text.matchAll(/"id":"(n\d+)".*\n/g)].map(([, id]) => id!);
  await until("half of it was taken", () => (take(), whole().length >= 20));
  child.kill("SIGKILL");
  await child.exited;
  while (take());
  closeSync(fd);
  const [first, next] = [whole(), (await box.run("read", "bob", "--new")).stdout.match(/(?<= )n\d+(?=:)/g)!];
  expect([...new Set([...first, ...next])]).toEqual(ids);
  expect(first.length + next.length - ids.length).toBeLessThanOrEqual(1);
});
