// Every reader of an inbox against five writers and every fault, judged by one rule: each mark's readers together show every event, and
// one of them twice only where a reader was killed.
// Not tested here: mcp (test/collector/mcp.test.ts) and deliveries (test/collector/deliver).

import { expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, renameSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { IN_TABLES, TestInboxes } from "../inbox-kit.ts";
import { Folder, ROOT, until } from "../kit.ts";

const WRITERS = 5;
const EACH = 80;
const RENAMES = 5;

/** An inbox, and what the readers of its marks have shown. */
class World {
  readonly of: TestInboxes;
  readonly inbox: string;
  readonly written: string[] = [];
  readonly shown: Record<string, string[]> = { agent: [], person: [] };
  readonly kills: Record<string, number> = { agent: 0, person: 0 };
  readonly #env: Record<string, string>;
  #over = false;
  constructor(folder: Folder) {
    this.of = new TestInboxes(folder);
    mkdirSync(folder.at("inbox"));
    this.inbox = folder.at("inbox", "bob.inbox");
    this.#env = {
      HOME: folder.path,
      XDG_CONFIG_HOME: folder.at("none"),
      ...this.of.env,
      PICKET_IDENTITY: "bob",
    };
  }
  start(args: string[], wrap: string[] = []) {
    const command = [...wrap, process.execPath, join(ROOT, "collector.ts"), ...args];
    return Bun.spawn(command, { env: { ...process.env, ...this.#env }, stdout: "pipe", stderr: "inherit" });
  }
  /** Reads again and again; with `kill` most of the processes are killed at some moment. */
  async read(mark: string, args: string[], kill: boolean): Promise<void> {
    while (!this.#over) {
      const child = this.start(args);
      const timer = kill && Math.random() < 0.8 ? setTimeout(() => child.kill("SIGKILL"), Math.random() * 900) : null;
      const text = await new Response(child.stdout).text();
      await child.exited;
      if (timer) clearTimeout(timer);
      if (child.signalCode) this.kills[mark]!++;
      this.shown[mark]!.push(...payloadsIn(text));
    }
  }
  end(): void {
    this.#over = true;
  }
  line(payload: string): string {
    this.written.push(payload);
    return `${JSON.stringify({ payload })}\n`;
  }
  /** Both marks have shown all that was written. */
  caughtUp(): Promise<unknown> {
    return until("all is shown", () =>
      Object.values(this.shown).every((shown) => new Set(shown).size >= this.written.length),
    );
  }
}

/** Of whole lines: a block's, or JSON. */
function payloadsIn(text: string): string[] {
  const lines = text.split("\n").slice(0, -1);
  return lines.flatMap((line) => {
    if (line.startsWith("{")) return [(JSON.parse(line) as { payload: string }).payload];
    return line.startsWith("> ") ? [line.slice(2)] : [];
  });
}

/** Appends its lines as a shell does, some of them urgent. */
function startWriter({ of, inbox }: World, name: string) {
  const append = IN_TABLES
    ? `psql -XqAtc "INSERT INTO inbox (recipient, line) VALUES ('bob', '$line')" "$0"`
    : `echo "$line" >> "$0"`;
  const script = `for i in $(seq ${EACH}); do p=normal; [ $((i % 9)) = 0 ] && p=urgent; line='{"payload":"${name}-'$i'","priority":"'$p'"}'; ${append}; [ $((i % 10)) = 0 ] && sleep 0.3; done`;
  return Bun.spawn(["bash", "-c", script, of.settings.inbox ?? inbox]);
}

test("five writers, an inbox that is renamed, truncated and replaced, readers that are killed: nothing is skipped, a kill repeats one", async () => {
  using folder = new Folder();
  const world = new World(folder);
  const { of, inbox, written, shown, kills } = world;
  const names = Array.from({ length: WRITERS }, (_writer, n) => `w${n}`);
  written.push(...names.flatMap((name) => Array.from({ length: EACH }, (_line, n) => `${name}-${n + 1}`)));
  const writers = names.map((name) => startWriter(world, name));
  const reading = [
    world.read("agent", ["wait", "--timeout", "1s"], true),
    world.read("agent", ["hook"], false),
    world.read("person", ["read", "bob", "--new", "--json"], true),
  ];
  const isOver = () => writers.every(({ exitCode }) => exitCode !== null);
  // What was renamed away before a reader's first look isn't its.
  await until("both have begun", () => Object.values(shown).every(({ length }) => length > 0));
  for (let n = 1; n <= RENAMES; n++) {
    const before = shown["person"]!.length;
    await until("more is shown", () => shown["person"]!.length > before || isOver());
    if (existsSync(inbox) && !isOver()) renameSync(inbox, `${inbox}-2026112800000${n}`);
  }
  await Promise.all(writers.map(({ exited }) => exited));
  await world.caughtUp();
  if (existsSync(inbox)) truncateSync(inbox, 0);
  of.append("bob", world.line("truncated"));
  await world.caughtUp();
  const longer = Array.from({ length: 50 }, (_line, n) => world.line(`longer-${n}`)).join("");
  if (IN_TABLES) of.append("bob", longer);
  else {
    writeFileSync(`${inbox}.new`, longer);
    renameSync(`${inbox}.new`, inbox);
  }
  await world.caughtUp();
  world.end();
  await Promise.all(reading);
  for (const mark of ["agent", "person"]) {
    expect(new Set(shown[mark])).toEqual(new Set(written));
    expect(shown[mark]!.length - written.length).toBeLessThanOrEqual(kills[mark]!);
  }
  expect(kills["agent"]! + kills["person"]!).toBeGreaterThan(2);
}, 300_000);

test("a reader whose output nothing takes loses its turn, and shows no more than what it had in hand", async () => {
  using folder = new Folder();
  const world = new World(folder);
  const count = 300;
  const payloads = Array.from({ length: count }, (_line, n) => `${n}${"x".repeat(1000)}`);
  world.of.append("bob", payloads.map((payload) => world.line(payload)).join(""));
  // Its pipe holds less than all of it, and is read late.
  const late = `"$@" | { until [ -e ${folder.at("go")} ]; do sleep 0.1; done; cat; }; exit "\${PIPESTATUS[0]}"`;
  const stuck = world.start(["read", "bob", "--new", "--json"], ["bash", "-c", late, "bash"]);
  const mark = folder.at("inbox", ".picket", "person@bob.mark");
  let noted = -1;
  await until("it stands still", async () => {
    const before = noted;
    if (IN_TABLES) noted = Number(world.of.sql("SELECT count(*) FROM inbox_marks"));
    else noted = existsSync(mark) ? readFileSync(mark, "utf8").split("\n").length : -1;
    await Bun.sleep(200);
    return noted > 2 && noted === before;
  });
  const next = payloadsIn(await new Response(world.start(["read", "bob", "--new", "--json"]).stdout).text());
  writeFileSync(folder.at("go"), "");
  const first = payloadsIn(await new Response(stuck.stdout).text());
  expect(await stuck.exited).toBe(0);
  expect(new Set([...first, ...next])).toEqual(new Set(payloads));
  expect(first.length + next.length).toBeLessThanOrEqual(count + 1);
  expect(next.length).toBeGreaterThan(0);
});
