// The file of corrections, followed by a real observer. What is counted is what its log has, line by line.
// Not tested here: file systems of a network, and clocks that are set while files are renamed.

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import type { LoopStats } from "../../lib/loop.ts";
import { isRoot, smallDisk } from "../e2e/disk.ts";
import { type Daemon, Folder, startRole, until } from "../kit.ts";
import { DEPTH, Observer } from "./kit.ts";

interface Recorded {
  id: string;
  source: string;
  endpoint: string;
  success: boolean;
  output_summary: string;
  n?: number;
  [more: string]: unknown;
}

/** A folder with an observer that follows `corrections.jsonl`. */
class Lab implements AsyncDisposable {
  readonly folder: Folder;
  readonly file: string;
  readonly data: string;
  #daemon: Daemon | null = null;
  url = "";

  constructor(data?: string) {
    this.folder = new Folder();
    mkdirSync(this.folder.at("lab"));
    this.file = this.folder.at("lab", "corrections.jsonl");
    this.data = data ?? this.folder.at("data");
    this.folder.write(
      "observer.yaml",
      `listen: 127.0.0.1:0\npersist_path: ${this.data}/ops.jsonl\noverseer_corrections: ${this.file}\ncycle_seconds: 0.1\ndurability: os\n`,
    );
  }
  /** An observer that has recorded so many corrections. */
  static async thatRead(count: number): Promise<Lab> {
    const lab = new Lab();
    writeFileSync(lab.file, lines(0, count));
    await lab.start();
    await lab.records(count);
    return lab;
  }
  get daemon(): Daemon {
    return this.#daemon!;
  }
  beside(name: string): string {
    return this.folder.at("lab", name);
  }
  async start(): Promise<void> {
    this.#daemon = await startRole("observer", ["--config", this.folder.at("observer.yaml")]);
    this.url = await this.#daemon.url();
  }
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    await this.daemon.kill(signal);
  }
  async get<T>(path: string): Promise<T> {
    return (await fetch(`${this.url}${path}`)).json() as Promise<T>;
  }
  async total(): Promise<number> {
    return (await this.get<{ total: number }>("/observer/stats")).total;
  }
  /** The background steps, as /health shows them. */
  async steps(): Promise<Record<string, LoopStats>> {
    return (await this.get<{ steps: Record<string, LoopStats> }>("/health")).steps;
  }
  async passes(): Promise<number> {
    return (await this.steps())["corrections"]!.passes;
  }
  /** The ring, newest first. */
  async events(): Promise<Recorded[]> {
    const path = "/observer/events?source=overseer_correction&limit=2000";
    return (await this.get<{ events: Recorded[] }>(path)).events;
  }
  /** Two whole passes from now on. */
  async looked(): Promise<void> {
    const before = await this.passes();
    await until("two more passes", async () => (await this.passes()) >= before + 2);
  }
  /** What the log has, in its order. */
  recorded(): Recorded[] {
    return readFileSync(`${this.data}/ops.jsonl`, "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  }
  /** Awaits as many operations, then sees that there are no more. */
  async records(count: number): Promise<Recorded[]> {
    await until(`${count} operations`, async () => (await this.total()) >= count);
    await this.looked();
    expect(await this.total()).toBe(count);
    const recorded = this.recorded();
    expect(recorded).toHaveLength(count);
    expect(recorded.every(({ source }) => source === "overseer_correction")).toBe(true);
    return recorded;
  }
  /** The same for lines that `lines` made: each number once. */
  async numbers(...expected: number[]): Promise<void> {
    const recorded = await this.records(expected.length);
    expect(recorded.map(({ n }) => n).toSorted((a, b) => a! - b!)).toEqual(expected);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** Lines with the numbers from `from` to before `to`. */
function lines(from: number, to: number): string {
  return numbers(from, to)
    .map((n) => `${JSON.stringify({ n, endpoint: "staffing", success: false, note: "größer 漢字 🦊" })}\n`)
    .join("");
}

function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** Appends bytes in pieces of any size, in another process, as a slow writer does; ends when all is written. */
function writer(file: string, bytes: Buffer, largest: number) {
  const script = `
    const { appendFileSync } = require("node:fs");
    const bytes = require("node:fs").readFileSync(0);
    for (let at = 0; at < bytes.length;) {
      const end = at + 1 + Math.floor(Math.random() * ${largest});
      appendFileSync(${JSON.stringify(file)}, bytes.subarray(at, end));
      at = end;
      if (Math.random() < 0.2) Bun.sleepSync(1);
    }`;
  return Bun.spawn([process.execPath, "-e", script], { stdin: bytes, stdout: "ignore", stderr: "inherit" });
}

describe("a file that grows", () => {
  test("thousands of lines in pieces cut anywhere are each recorded once, in their order", async () => {
    await using lab = new Lab();
    await lab.start();
    await writer(lab.file, Buffer.from(lines(0, 5000)), 300).exited;
    const recorded = await lab.records(5000);
    expect(recorded.map(({ n }) => n)).toEqual(numbers(0, 5000));
    expect(recorded.every(({ note }) => note === "größer 漢字 🦊")).toBe(true);
    expect((await lab.events()).map(({ n }) => n)).toEqual(numbers(3000, 5000).toReversed());
  });

  test("half a line waits for its line break, also across a restart", async () => {
    await using lab = new Lab();
    const line = Buffer.from(lines(1, 2));
    writeFileSync(lab.file, Buffer.concat([Buffer.from(lines(0, 1)), line.subarray(0, 52)]));
    await lab.start();
    await lab.numbers(0);
    await lab.stop();
    await lab.start();
    await lab.numbers(0);
    appendFileSync(lab.file, line.subarray(52));
    await lab.numbers(0, 1);
    expect(lab.recorded()[1]!["note"]).toBe("größer 漢字 🦊");
  });

  test("each of several identical lines counts, also across a restart and a kill", async () => {
    await using lab = new Lab();
    writeFileSync(lab.file, "use b, not a\n".repeat(3));
    await lab.start();
    await lab.records(3);
    await lab.stop();
    appendFileSync(lab.file, "use b, not a\n".repeat(2));
    await lab.start();
    await lab.records(5);
    await lab.stop("SIGKILL");
    await lab.start();
    appendFileSync(lab.file, "use b, not a\n");
    await lab.records(6);
  });

  test("100,000 lines at once", async () => {
    await using lab = new Lab();
    await lab.start();
    writeFileSync(lab.file, lines(0, 100_000));
    const recorded = await lab.records(100_000);
    expect(recorded.map(({ n }) => n)).toEqual(numbers(0, 100_000));
  });

  test("the file and its folder may appear later", async () => {
    await using lab = new Lab();
    rmSync(dirname(lab.file), { recursive: true });
    await lab.start();
    await lab.looked();
    mkdirSync(dirname(lab.file));
    await lab.looked();
    appendFileSync(lab.file, lines(0, 3));
    await lab.numbers(0, 1, 2);
    expect((await lab.steps())["corrections"]!.failures).toBe(0);
  });
});

describe("a file that is renamed", () => {
  test("what is appended to the old one afterwards is recorded, and the new one from its beginning", async () => {
    await using lab = await Lab.thatRead(10);
    renameSync(lab.file, lab.beside("corrections.jsonl.1"));
    appendFileSync(lab.beside("corrections.jsonl.1"), lines(10, 12));
    writeFileSync(lab.file, lines(20, 22));
    await lab.records(14);
    // Its writer has not noticed yet.
    appendFileSync(lab.beside("corrections.jsonl.1"), lines(12, 14));
    await lab.numbers(...numbers(0, 14), 20, 21);
    await lab.stop();
    appendFileSync(lab.beside("corrections.jsonl.1"), lines(14, 15));
    await lab.start();
    await lab.numbers(...numbers(0, 15), 20, 21);
  });

  test("each of several identical lines of the new one counts", async () => {
    await using lab = new Lab();
    writeFileSync(lab.file, "same\n".repeat(3));
    await lab.start();
    await lab.records(3);
    renameSync(lab.file, lab.beside("corrections.jsonl.1"));
    writeFileSync(lab.file, "same\n".repeat(4));
    await lab.records(7);
  });

  test("the old one may be deleted right after", async () => {
    await using lab = await Lab.thatRead(10);
    appendFileSync(lab.file, lines(10, 12));
    renameSync(lab.file, lab.beside("old"));
    rmSync(lab.beside("old"));
    writeFileSync(lab.file, lines(20, 22));
    await lab.numbers(...numbers(0, 12), 20, 21);
  });

  for (const [what, running] of [
    ["between two looks", true],
    ["while it is down", false],
  ] as const) {
    test(`several times ${what}`, async () => {
      await using lab = new Lab();
      // Was there before, and is none of ours.
      writeFileSync(lab.beside("corrections.jsonl.9"), lines(900, 905));
      writeFileSync(lab.file, lines(0, 10));
      await lab.start();
      await lab.records(10);
      if (running) lab.daemon.child.kill("SIGSTOP");
      else await lab.stop();
      appendFileSync(lab.file, lines(10, 12));
      for (const round of [1, 2, 3]) {
        for (const number of numbers(1, round).toReversed())
          renameSync(lab.beside(`corrections.jsonl.${number}`), lab.beside(`corrections.jsonl.${number + 1}`));
        renameSync(lab.file, lab.beside("corrections.jsonl.1"));
        writeFileSync(lab.file, lines(round * 100, round * 100 + 5));
      }
      if (running) lab.daemon.child.kill("SIGCONT");
      else await lab.start();
      await lab.numbers(...numbers(0, 12), ...numbers(100, 105), ...numbers(200, 205), ...numbers(300, 305));
    });
  }

  test("with a date in its name, and compressed at once", async () => {
    await using lab = await Lab.thatRead(10);
    appendFileSync(lab.file, lines(10, 11));
    renameSync(lab.file, lab.beside("corrections-20260131.jsonl"));
    writeFileSync(lab.beside("corrections.jsonl-20260130.gz"), Bun.gzipSync(Buffer.from(lines(500, 505))));
    writeFileSync(lab.file, lines(20, 22));
    await lab.numbers(...numbers(0, 11), 20, 21);
  });

  test("an old rotation that is put back is not read again", async () => {
    await using lab = await Lab.thatRead(10);
    writeFileSync(lab.beside("corrections.jsonl.3"), lines(800, 810));
    renameSync(lab.file, lab.beside("corrections.jsonl.1"));
    writeFileSync(lab.file, lines(10, 12));
    copyFileSync(lab.beside("corrections.jsonl.1"), lab.beside("corrections.jsonl.5"));
    await lab.numbers(...numbers(0, 12));
    writeFileSync(lab.beside("corrections.jsonl.8"), lines(900, 910));
    renameSync(lab.beside("corrections.jsonl.1"), lab.beside("corrections.jsonl.2"));
    renameSync(lab.file, lab.beside("corrections.jsonl.1"));
    writeFileSync(lab.file, lines(12, 14));
    await lab.numbers(...numbers(0, 14));
  });
});

test("a file that appears beside it, while it stays in place, is not read", async () => {
  await using lab = await Lab.thatRead(10);
  writeFileSync(lab.beside("corrections.jsonl.1"), "");
  await lab.looked();
  appendFileSync(lab.beside("corrections.jsonl.1"), lines(0, 10));
  writeFileSync(lab.beside("corrections.jsonl.2"), lines(20, 22));
  await lab.looked();
  appendFileSync(lab.file, lines(10, 11));
  await lab.numbers(...numbers(0, 11));
});

describe("a file that is truncated", () => {
  test.each([
    ["shorter", lines(100, 103), [100, 101, 102]],
    ["longer", lines(100, 150), numbers(100, 150)],
  ] as const)("%s content is new", async (_, content, fresh) => {
    await using lab = await Lab.thatRead(10);
    truncateSync(lab.file, 0);
    appendFileSync(lab.file, content);
    await lab.numbers(...numbers(0, 10), ...fresh);
    await lab.stop();
    await lab.start();
    await lab.numbers(...numbers(0, 10), ...fresh);
  });

  test("another file in which some of the old lines come again: all of its lines count", async () => {
    await using lab = await Lab.thatRead(100);
    writeFileSync(lab.file, lines(100, 130) + lines(0, 20));
    await lab.records(150);
  });

  test("written again with the same beginning between two looks, it is the same file; what follows is new", async () => {
    await using lab = await Lab.thatRead(10);
    lab.daemon.child.kill("SIGSTOP");
    truncateSync(lab.file, 0);
    appendFileSync(lab.file, lines(0, 12));
    lab.daemon.child.kill("SIGCONT");
    await lab.numbers(...numbers(0, 12));
  });

  test("what was appended before it was copied and truncated is read from the copy", async () => {
    await using lab = await Lab.thatRead(10);
    lab.daemon.child.kill("SIGSTOP");
    appendFileSync(lab.file, lines(10, 15));
    copyFileSync(lab.file, lab.beside("corrections.jsonl.1"));
    truncateSync(lab.file, 0);
    appendFileSync(lab.file, lines(20, 22));
    lab.daemon.child.kill("SIGCONT");
    await lab.numbers(...numbers(0, 15), 20, 21);
  });
});

describe("a file that is saved by an editor", () => {
  const saved = `${lines(0, 50)}${lines(51, 100)}`;
  for (const [way, save] of [
    [
      "by rename",
      (file: string, content: string) => (writeFileSync(`${file}~`, content), renameSync(`${file}~`, file)),
    ],
    ["in place", (file: string, content: string) => writeFileSync(file, content)],
  ] as const) {
    test(`${way}, with more lines: only those are recorded`, async () => {
      await using lab = await Lab.thatRead(100);
      lab.daemon.child.kill("SIGSTOP");
      save(lab.file, lines(0, 103));
      lab.daemon.child.kill("SIGCONT");
      await lab.numbers(...numbers(0, 103));
    });

    test(`${way}, with a change before the end: it is another file, all of its lines count`, async () => {
      await using lab = await Lab.thatRead(100);
      lab.daemon.child.kill("SIGSTOP");
      save(lab.file, saved);
      lab.daemon.child.kill("SIGCONT");
      await lab.records(199);
      appendFileSync(lab.file, lines(900, 902));
      await lab.records(201);
    });
  }
});

describe("lines", () => {
  test("JSON objects keep their fields, all else is text", async () => {
    await using lab = new Lab();
    const long = `"${"x".repeat(3 << 20)}"`;
    const given: (string | Buffer)[] = [
      `{"endpoint":"deploy","success":false,"source":"mcp","id":"mine","error":"no","depth":{"a":[1]}}`,
      "plain words",
      `["an","array"]`,
      "42",
      `{"success":"perhaps"}`,
      `{"endpoint":"  "}`,
      `{"half":`,
      `{"__proto__":{"success":false},"constructor":1,"kept":2}`,
      `\uFEFF{"bom":true}`,
      `{"crlf":true}\r`,
      "text\r",
      "",
      "   \r",
      Buffer.alloc(4000),
      Buffer.concat([Buffer.alloc(5), Buffer.from(`{"after":"zeros"}`)]),
      Buffer.from([0xff, 0xfe, 0x41]),
      long,
      `{"last":true}`,
    ];
    writeFileSync(lab.file, Buffer.concat(given.map((line) => Buffer.concat([Buffer.from(line), Buffer.from("\n")]))));
    await lab.start();
    const [first, ...recorded] = await lab.records(given.length - 3);
    expect(first).toMatchObject({ endpoint: "deploy", success: false, error: "no", depth: { a: [1] } });
    expect(first!.id).toStartWith("correction:1:");
    const [words, array, number, wrong, blank, half, proto, bom, crlf, text, zeros, bytes, cut, last] = recorded;
    expect(recorded.every(({ endpoint, success }) => endpoint === "overseer_correction" && success)).toBe(true);
    expect([words, array, number, wrong, blank, half].map((one) => one!.output_summary)).toEqual([
      "plain words",
      `["an","array"]`,
      "42",
      `{"success":"perhaps"}`,
      `{"endpoint":"  "}`,
      `{"half":`,
    ]);
    expect(proto).toMatchObject({ kept: 2 });
    expect(bom).toMatchObject({ bom: true });
    expect(crlf).toMatchObject({ crlf: true });
    expect(text!.output_summary).toBe("text");
    expect(zeros).toMatchObject({ after: "zeros" });
    expect(bytes!.output_summary).toBe("\uFFFD\uFFFDA");
    expect(cut!.output_summary).toHaveLength(1 << 20);
    expect(last).toMatchObject({ last: true });
    // The answer stays small: the log has the long one whole.
    expect(JSON.stringify(await lab.events()).length).toBeLessThan(100_000);
  });
});

describe("what is in the way", () => {
  test.each([
    ["a folder", "mkdir"],
    ["a FIFO", "mkfifo"],
  ])("%s in its place is an error that harms nobody else, and ends with it", async (_, make) => {
    await using lab = new Lab();
    await Bun.$`${make} ${lab.file}`;
    await lab.start();
    expect(await lab.daemon.said("not a regular file")).toContain("corrections");
    await lab.looked();
    const { corrections, ...others } = await lab.steps();
    expect(corrections!.failures).toBeGreaterThan(0);
    expect(corrections!.last_error).toContain("not a regular file");
    expect(Object.values(others).map(({ failures }) => failures)).toEqual([0, 0, 0, 0]);
    const metrics = await (await fetch(`${lab.url}/metrics`)).text();
    expect(metrics).toMatch(/picket_step_failures\{step="corrections"\} [1-9]/);
    const posted = await fetch(`${lab.url}/observer/event`, { method: "POST", body: `{"endpoint":"x"}` });
    expect(posted.status).toBe(200);
    await Bun.$`rm -r ${lab.file}`;
    writeFileSync(lab.file, lines(0, 3));
    await until("the lines are recorded", async () => (await lab.total()) === 4);
  });

  test.skipIf(!isRoot)("a full disk: later all of them once", async () => {
    using outer = new Folder();
    await using disk = await smallDisk(outer, "2m");
    await using lab = new Lab(`${disk.path}/data`);
    await lab.start();
    writeFileSync(lab.file, lines(0, 100));
    await lab.records(100);
    await Bun.$`sh -c ${`head -c 4m /dev/zero > ${disk.path}/ballast`}`.nothrow().quiet();
    appendFileSync(lab.file, lines(100, 2000));
    await until("a pass fails", async () => (await lab.steps())["corrections"]!.failures > 2);
    const before = await lab.total();
    expect(before).toBeLessThan(2000);
    rmSync(`${disk.path}/ballast`);
    await lab.numbers(...numbers(0, 2000));
    // Those that had to be tried again have the ids that they have when they are read anew.
    await lab.stop("SIGKILL");
    rmSync(`${lab.data}/corrections.json`);
    await lab.start();
    await lab.numbers(...numbers(0, 2000));
  });

  test("a damaged or removed state: what the log knows is not recorded again, what follows is", async () => {
    await using lab = await Lab.thatRead(10);
    const all = numbers(0, 10);
    let next = 400;
    for (const damage of ["remove", "{", "{}", `{"generations":"x"}`, "\0".repeat(100)]) {
      await lab.stop("SIGKILL");
      const state = `${lab.data}/corrections.json`;
      if (damage === "remove") rmSync(state);
      else writeFileSync(state, damage);
      appendFileSync(lab.file, lines(next, next + 2));
      all.push(next, next + 1);
      next += 2;
      await lab.start();
      await lab.numbers(...all);
    }
  });
});

test("corrections.json of 0.1.0: nothing is recorded twice, the rest of a renamed file is recorded", async () => {
  await using lab = await Lab.thatRead(10);
  await lab.stop();
  const state = JSON.parse(readFileSync(`${lab.data}/corrections.json`, "utf8")) as {
    files: Record<string, unknown>[];
  };
  const { inode, offset, head, tail } = state.files[0]!;
  const file = { inode, generation: 3, done: false, offset, head, tail, lines: 10 };
  const left = { ...file, inode: 1, generation: 0, done: true };
  writeFileSync(
    `${lab.data}/corrections.json`,
    JSON.stringify({ generations: 3, current: inode, looked: Date.now(), files: [left, file] }),
  );
  appendFileSync(lab.file, lines(10, 12));
  renameSync(lab.file, lab.beside("taken"));
  writeFileSync(lab.file, lines(20, 22));
  await lab.start();
  await lab.numbers(...numbers(0, 12), 20, 21);
});

test("killed 40 times at any moment, while lines come and the file is renamed: each line once", async () => {
  await using lab = new Lab();
  let next = 0;
  let rotated = 0;
  const append = (most: number) => {
    const to = next + 1 + Math.floor(Math.random() * most);
    appendFileSync(lab.file, lines(next, to));
    next = to;
  };
  // There is a file to be renamed, even if chance has no line come in the first rounds.
  append(10);
  for (let round = 0; round < 40; round++) {
    await lab.start();
    const turns = Math.floor(Math.random() * 12);
    for (let turn = 0; turn < turns; turn++) {
      append(300);
      await Bun.sleep(Math.random() * 20);
    }
    if (round % 5 === 4) {
      // None is ever deleted: killed this often it may lie many files behind.
      for (const number of numbers(1, rotated + 1).toReversed())
        renameSync(lab.beside(`corrections.jsonl.${number}`), lab.beside(`corrections.jsonl.${number + 1}`));
      rotated++;
      renameSync(lab.file, lab.beside("corrections.jsonl.1"));
      append(50);
      await Bun.sleep(Math.random() * 60);
    }
    await lab.stop("SIGKILL");
  }
  await lab.start();
  // On a slow machine most of them are still to be read.
  await until("all lines", async () => (await lab.total()) >= next, 200);
  await lab.numbers(...numbers(0, next));
  console.log(`killed 40 times: ${next} lines, each once`);
}, 500_000);

test("a correction nested too deep is kept as text, and those after it are recorded", async () => {
  await using observer = new Observer();
  const file = observer.folder.at("corrections.jsonl");
  writeFileSync(file, `{"more":${"[".repeat(DEPTH)}${"]".repeat(DEPTH)}}\n{"endpoint":"next"}\n`);
  observer.configure(`overseer_corrections: ${file}\n`);
  await observer.up();
  const total = async () => (await observer.get<{ total: number }>("/observer/stats")).total;
  await until("both are recorded", async () => (await total()) === 2);
  appendFileSync(file, `{"endpoint":"last"}\n`);
  await until("and a third", async () => (await total()) === 3);
});
