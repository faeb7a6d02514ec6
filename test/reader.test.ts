// What is new to a reader: by its own mark, in bounded turns, in its order.

import { expect, test } from "bun:test";
import { readFileSync, renameSync } from "node:fs";
import { type NewOptions, readNew } from "../lib/reader.ts";
import { IN_TABLES, TestInboxes } from "./inbox-kit.ts";
import { Folder } from "./kit.ts";

interface Written {
  urgent?: boolean;
  sentinel?: string;
}

class Inbox extends TestInboxes {
  readonly warnings: string[] = [];
  #inboxes = this.open();
  write(payload: string, { urgent, sentinel }: Written = {}): void {
    const priority = urgent ? "urgent" : "normal";
    this.append("bob", `${JSON.stringify({ payload, priority, sentinel })}\n`);
  }
  /** One turn, in which `take` events are handed over; the others stay new. */
  async turn(options: Partial<NewOptions> = {}, take = Infinity): Promise<string> {
    const warn = (message: string) => this.warnings.push(message);
    const { events, more, done } = await readNew({
      inboxes: await this.#inboxes,
      recipient: "bob",
      reader: "agent",
      warn,
      ...options,
    });
    await done(take);
    return events.map(({ payload }) => payload).join("") + (more ? "+" : "");
  }
}

test("each reader has its own mark, which a look doesn't move", async () => {
  using folder = new Folder();
  await using inbox = new Inbox(folder, "");
  for (const payload of "abc") inbox.write(payload);
  expect(await inbox.turn({ reader: "person", peek: true })).toBe("abc");
  expect(await inbox.turn({ reader: "desk" })).toBe("abc");
  inbox.write("d");
  for (const [reader, shown] of [
    ["agent", "abcd"],
    ["person", "abcd"],
    ["desk", "d"],
  ] as const) {
    expect([reader, await inbox.turn({ reader })]).toEqual([reader, shown]);
    expect([reader, await inbox.turn({ reader })]).toEqual([reader, ""]);
  }
});

test("a turn has at most so many events, urgent first or as they stand in the file; all come, each once", async () => {
  for (const [options, turns] of [
    [{ limit: 2 }, ["CE+", "Fa+", "bd+", "g"]],
    [{ limit: 2, order: "file" }, ["ab+", "Cd+", "EF+", "g"]],
    [{ limit: 100 }, ["CEFabdg"]],
    [{ limit: 2, only: ({ priority }) => priority === "urgent" }, ["CE+", "F"]],
    [{ limit: 7, peek: true }, ["CEFabdg", "CEFabdg"]],
  ] as [Partial<NewOptions>, string[]][]) {
    using folder = new Folder();
    await using inbox = new Inbox(folder, "");
    for (const payload of "abCdEFg") inbox.write(payload, { urgent: /[A-Z]/.test(payload) });
    const seen: string[] = [];
    for (const _turn of turns) seen.push(await inbox.turn(options));
    expect(seen).toEqual(turns);
    // What was refused is still new to another.
    if (options.only) expect(await inbox.turn()).toBe("abdg");
    else if (!options.peek) expect(await inbox.turn(options)).toBe("");
  }
});

test("what waits for its sentinel takes no place, and comes once, wherever the inbox was moved meanwhile", async () => {
  using folder = new Folder();
  await using inbox = new Inbox(folder, "");
  const [go, come] = [folder.at("go"), folder.at("come")];
  const turn = (options = {}) => inbox.turn({ limit: 3, ...options });
  inbox.write("A", { sentinel: go, urgent: true });
  for (const payload of "bcd") inbox.write(payload);
  inbox.write("e", { sentinel: come });
  inbox.write("f");
  expect([await turn(), await turn(), await turn()]).toEqual(["bcd+", "f", ""]);
  // The mark moved on past both.
  const mark = IN_TABLES ? inbox.sql("SELECT line FROM inbox_marks") : readFileSync(folder.at("bob.mark"), "utf8");
  expect(mark).toMatch(/"shown":\{\},"held":\{"\d+":3,"\d+":2\}/);
  for (let n = 1; n <= 6; n++) {
    if (!IN_TABLES) renameSync(folder.at("bob.inbox"), folder.at(`bob.${n}`));
    inbox.write(`${n}`);
    expect(await turn()).toBe(`${n}`);
  }
  folder.write("go", "");
  inbox.write("G", { urgent: true });
  expect([await turn({ limit: 1 }), await turn({ limit: 1 }), await turn()]).toEqual(["A+", "G+", ""]);
  folder.write("come", "");
  expect([await turn(), await turn()]).toEqual(["e", ""]);
  expect(inbox.warnings.filter((one) => one.includes("held back 3 times"))).toHaveLength(2);
});

test("a line that is no event is warned of once, also while events before it stay new", async () => {
  using folder = new Folder();
  await using inbox = new Inbox(folder, "");
  inbox.write("a");
  inbox.append("bob", "rubbish\n");
  expect([await inbox.turn({}, 0), await inbox.turn({}, 0), await inbox.turn()]).toEqual(["a", "a", "a"]);
  expect(inbox.warnings).toEqual([expect.stringMatching(/at byte (36|\d): not JSON/)]);
});
