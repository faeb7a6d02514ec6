// Not tested: a stderr that is full for more than a second (the line is given up).

import { describe, expect, spyOn, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createLog, errorChain, type Fields, type Level, seldom } from "../lib/log.ts";
import { Folder, ROOT } from "./kit.ts";

function lines(json: boolean, write: (log: ReturnType<typeof createLog>) => void, level: Level = "debug"): string[] {
  const written: string[] = [];
  write(createLog({ role: "collector", json, level, write: (line) => written.push(line) }));
  return written;
}

const text = (msg: string, fields?: Fields): string => lines(false, (log) => log.info(msg, fields)).join("\n");
const json = (msg: string, fields?: Fields): unknown =>
  JSON.parse(lines(true, (log) => log.info(msg, fields)).join("\n"));

const eachLevel = (log: ReturnType<typeof createLog>): void => {
  log.debug("a");
  log.info("b");
  log.warn("c");
  log.error("d");
};

test("a text line has the UTC time, the padded level, role, message and fields", () => {
  const line = text("ready", { listen: "127.0.0.1:18790", routes: 3, tls: false, store: null, skipped: undefined });
  expect(line).toMatch(
    /^\d\d:\d\d:\d\d info {2}collector ready listen=127\.0\.0\.1:18790 routes=3 tls=false store=null$/,
  );
});

test("a JSON line has ts, level, role, msg, then the fields, in this order", () => {
  const [line = ""] = lines(true, (log) => log.warn("slow", { ms: 12, who: "bob", list: [1, { a: null }] }));
  expect(line).toMatch(
    /^\{"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","level":"warn","role":"collector","msg":"slow","ms":12,"who":"bob","list":\[1,\{"a":null\}\]\}$/,
  );
});

test("what is below the level is not written", () => {
  expect(lines(false, eachLevel, "warn").map((line) => line.slice(9))).toEqual([
    "warn  collector c",
    "error collector d",
  ]);
  expect(lines(false, eachLevel)).toHaveLength(4);
});

test.each([
  ["two words", '"two words"'],
  ["", '""'],
  ['say "hi"', String.raw`"say \"hi\""`],
  ["a=b", '"a=b"'],
  ["line\nbreak", String.raw`"line\nbreak"`],
  ["\u001b[31mred", String.raw`"\u001b[31mred"`],
  ["next\u2028line", String.raw`"next\u2028line"`],
  ["\u0085\u009b", String.raw`"\u0085\u009b"`],
  ["naïve", "naïve"],
])("in text a value of %p is written as %s", (value, written) => {
  expect(text("m", { k: value })).toEndWith(` k=${written}`);
});

test("no message, field or value makes a second line, or reaches the terminal's control sequences", () => {
  const nasty = "a\nb\rc\u2028d\u0085e\u001b[2J\u0000\u202ef";
  for (const asJson of [false, true]) {
    const written = lines(asJson, (log) => log.error(nasty, { [nasty]: nasty, nested: { [nasty]: [nasty] } }));
    expect(written).toHaveLength(1);
    expect(written[0]).not.toMatch(/[\p{Cc}\u2028\u2029\u202e]/u);
  }
  expect(json(nasty, { [nasty]: nasty })).toMatchObject({ msg: nasty, [nasty]: nasty });
});

test("an error shows the messages of its whole chain", () => {
  const error = new Error("append failed", { cause: new Error("write", { cause: "disk full" }) });
  expect(text("stopped", { error })).toEndWith(' error="append failed: write: disk full"');
  expect(json("stopped", { error, list: [error] })).toMatchObject({
    error: "append failed: write: disk full",
    list: ["append failed: write: disk full"],
  });
});

test("a chain that bites its tail, a nameless error and an aggregate have an end", () => {
  const loop = new Error("round");
  loop.cause = loop;
  expect(errorChain(loop)).toBe(Array.from({ length: 8 }, () => "round").join(": "));
  expect(errorChain(new TypeError())).toBe("TypeError");
  expect(errorChain(new AggregateError([new Error("a"), "b"], "both"))).toBe("both (a; b)");
  expect(errorChain({ code: 7 })).toBe('{"code":7}');
});

test("values that JSON has no word for neither throw nor lose the line", () => {
  const circle: Record<string, unknown> = {};
  circle["self"] = circle;
  const fields = { big: 10n, not: Number.NaN, circle, date: new Date(0), of: { big: 10n }, call: () => 1 };
  expect(json("m", fields)).toMatchObject({
    big: "10",
    not: "NaN",
    circle: "[unprintable]",
    date: "1970-01-01T00:00:00.000Z",
    of: { big: "10" },
    call: "[function]",
  });
});

test("a field cannot pass itself off as the line's own ts, level, role or msg", () => {
  expect(json("real", { msg: "fake", level: "error", role: "x", ts: 0 })).toMatchObject({
    msg: "real",
    level: "info",
    role: "collector",
    field_msg: "fake",
    field_level: "error",
  });
});

test("a value too long for journald is cut and says how long it was", () => {
  const line = text("m", { body: "x".repeat(100_000) });
  expect(line.length).toBeLessThan(17_000);
  expect(line).toContain("… (100000 characters)");
});

test("lines go whole to stderr, and a reader that went away does not stop the program", async () => {
  const program = `
    const { createLog } = await import(${JSON.stringify(join(ROOT, "lib/log.ts"))});
    const log = createLog({ role: "collector", json: true, level: "info" });
    for (let i = 0; i < 2000; i++) log.info("line", { i, fill: "x".repeat(200) });
    console.log("still here");`;
  const whole = Bun.spawn([process.execPath, "-e", program], { stdout: "pipe", stderr: "pipe" });
  const written = (await new Response(whole.stderr).text()).trimEnd().split("\n");
  const numbers = written.map((line) => Number(/,"i":(\d+),"fill":"x{200}"\}$/.exec(line)?.[1]));
  expect(numbers).toEqual(Array.from({ length: 2000 }, (_, i) => i));

  // standard output is the outer pipe, standard error one whose reader leaves after a line; then a closed one
  const leaving = '{ "$0" -e "$1" 2>&1 1>&3 | head -n1 >/dev/null; } 3>&1';
  for (const script of [leaving, '"$0" -e "$1" 2>&-']) {
    const child = Bun.spawn(["sh", "-c", script, process.execPath, program], { stdout: "pipe", stderr: "inherit" });
    expect(await new Response(child.stdout).text()).toBe("still here\n");
  }
});

test("where stderr is the journal, each line has its priority, as text or JSON; elsewhere none has", async () => {
  using folder = new Folder();
  const program = `
    const { createLog, writeStderr } = await import(${JSON.stringify(join(ROOT, "lib/log.ts"))});
    const log = createLog({ role: "collector", json: process.argv[1] === "json", level: "debug" });
    for (const level of ["debug", "info", "warn", "error"]) log[level]("disk full", { level, path: "/srv/a b" });
    writeStderr("picket-collector: error: no");`;
  const said = async (stream: string, format: string): Promise<string[]> => {
    const script = `JOURNAL_STREAM=${stream} exec "$0" -e "$1" "$2" 2>"$3"`;
    const log = folder.at("log");
    await Bun.$`sh -c ${script} ${process.execPath} ${program} ${format} ${log}`;
    return readFileSync(log, "utf8").trimEnd().split("\n");
  };
  const file = "$(stat -c %d:%i /proc/self/fd/2 -L)";
  const fields = (level: string) => `disk full level=${level} path="/srv/a b"`;
  expect(await said(file, "text")).toEqual([
    `<7>${fields("debug")}`,
    `<6>${fields("info")}`,
    `<4>${fields("warn")}`,
    `<3>${fields("error")}`,
    "<3>picket-collector: error: no",
  ]);
  const json = await said(file, "json");
  expect(json.map((line) => line.slice(0, 4))).toEqual(["<7>{", "<6>{", "<4>{", "<3>{", "<3>p"]);
  expect(JSON.parse(json[2]!.slice(3))).toMatchObject({ level: "warn", msg: "disk full", path: "/srv/a b" });
  expect((await said("1:1", "text"))[3]).toMatch(/^[\d:]{8} error collector disk full /);
});

describe("trouble that repeats", () => {
  test("is logged once a minute for each kind, as a warning or an error", () => {
    const lines: string[] = [];
    const rare = seldom(
      createLog({ role: "tiny", json: false, level: "debug", write: (line) => lines.push(line.slice(9)) }),
    );
    const at = spyOn(performance, "now");
    try {
      for (const ms of [0, 1, 59_999, 60_000, 60_001]) {
        at.mockReturnValue(1_000_000 + ms);
        rare.warn("disk", "full", { ms });
        rare.error("hub", "away", { ms });
      }
    } finally {
      at.mockRestore();
    }
    expect(lines).toEqual([
      "warn  tiny full ms=0",
      "error tiny away ms=0",
      "warn  tiny full ms=60000",
      "error tiny away ms=60000",
    ]);
  });

  test("of ever new kinds fills no memory: the oldest are forgotten", () => {
    let lines = 0;
    const rare = seldom(createLog({ role: "tiny", json: false, level: "debug", write: () => lines++ }));
    for (let kind = 0; kind <= 10_000; kind++) rare.warn(String(kind), "refused");
    rare.warn("10000", "refused");
    expect(lines).toBe(10_001);
    rare.warn("0", "refused");
    expect(lines).toBe(10_002);
  });
});
