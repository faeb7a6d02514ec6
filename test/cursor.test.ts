// The cursor: whatever happens to a file between two looks, and whenever its reader is killed, no line is skipped.
// The real readers: inbox.test.ts, observer/tail.test.ts, observer/corrections.test.ts, receiver/episodes.test.ts.
// Not tested here: a file system of a network, and one that doesn't know when a file was made.

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  existsSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { Cursor, type Position, fits, openFile, positionAt, readOn, startOf } from "../lib/cursor.ts";
import { Folder } from "./kit.ts";

/** A file that is followed, and everything that was read of it. */
class Followed implements Disposable {
  readonly folder = new Folder();
  readonly path = this.folder.at("log.jsonl");
  readonly seen: string[] = [];
  #cursor = this.#open();

  #open(positions: readonly Position[] = []): Cursor {
    const cursor = new Cursor({ path: this.path, numberInside: true });
    cursor.positions = positions;
    return cursor;
  }
  /** Reads on, and gives what is new. */
  async look(): Promise<string[]> {
    const fresh: string[] = [];
    await this.#cursor.read({ visit: ({ bytes, start, end }) => void fresh.push(bytes.toString("utf8", start, end)) });
    this.seen.push(...fresh);
    return fresh;
  }
  /** What is left of a reader that ends: its positions, as JSON. */
  restart(): void {
    const kept = JSON.stringify(this.#cursor.positions);
    this.#cursor.close();
    this.#cursor = this.#open(JSON.parse(kept) as Position[]);
  }
  at(name: string): string {
    return this.folder.at(name);
  }
  append(text: string, name = "log.jsonl"): void {
    appendFileSync(this.at(name), text);
  }
  write(text: string, name = "log.jsonl"): void {
    writeFileSync(this.at(name), text);
  }
  rename(from: string, to: string): void {
    renameSync(this.at(from), this.at(to));
  }
  [Symbol.dispose](): void {
    this.#cursor.close();
    this.folder[Symbol.dispose]();
  }
}

const LONG = "x".repeat(10_000);

/** What happens to a file of which `a` and `b` were read, and what is new then. */
const CASES: [what: string, happens: (file: Followed) => void, fresh: string[]][] = [
  ["nothing", () => {}, []],
  ["a line is appended", (file) => file.append("c\n"), ["c"]],
  ["half a line is appended", (file) => file.append("c"), []],
  ["a line of many pieces", (file) => file.append(`${"c".repeat(1 << 20)}\nd\n`), ["c".repeat(1 << 20), "d"]],
  ["empty lines", (file) => file.append("\n\nc\n"), ["", "", "c"]],
  ["it is renamed", (file) => file.rename("log.jsonl", "taken"), []],
  ["it is renamed with a rest", (file) => (file.append("c\n"), file.rename("log.jsonl", "taken")), ["c"]],
  [
    "it is renamed, a shorter one comes",
    (file) => (file.append("c\n"), file.rename("log.jsonl", "log.jsonl.1"), file.write("d\n")),
    ["c", "d"],
  ],
  [
    "it is renamed, a longer one comes",
    (file) => (file.rename("log.jsonl", "taken"), file.write(`c ${LONG}\nd\n`)),
    [`c ${LONG}`, "d"],
  ],
  [
    "it is renamed, one that begins alike comes",
    (file) => (file.rename("log.jsonl", "taken"), file.write("a\nb\nc\n")),
    ["a", "b", "c"],
  ],
  [
    "it is renamed, and appended to afterwards",
    (file) => (file.rename("log.jsonl", "taken"), file.write("d\n"), file.append("c\n", "taken")),
    ["c", "d"],
  ],
  [
    "it is rotated twice",
    (file) => {
      file.rename("log.jsonl", "log.jsonl.1");
      file.write("c\n");
      file.rename("log.jsonl.1", "log.jsonl.2");
      file.rename("log.jsonl", "log.jsonl.1");
      file.write("d\n");
    },
    ["c", "d"],
  ],
  [
    "it is rotated three times by numbers that grow, and the last has not begun",
    (file) => {
      for (const n of [1, 2, 3]) {
        file.rename("log.jsonl", `log.00000${n}.jsonl`);
        if (n < 3) file.write(`${n}\n`);
      }
    },
    ["1", "2"],
  ],
  [
    "it is rotated twice by date",
    (file) => {
      file.rename("log.jsonl", "log.jsonl-20260130");
      file.write("c\n");
      file.rename("log.jsonl", "log.jsonl-20260131");
      file.write("d\n");
    },
    ["c", "d"],
  ],
  [
    "a rotation that is older lies beside it",
    (file) => (file.write("older\n", "log.jsonl.7"), file.rename("log.jsonl", "log.jsonl.1"), file.write("c\n")),
    ["c"],
  ],
  [
    "what is no rotation of it lies beside it",
    (file) => (file.write("other\n", "log.jsonl.new"), file.rename("log.jsonl", "log.jsonl.1"), file.write("c\n")),
    ["c"],
  ],
  ["it is truncated", (file) => truncateSync(file.path, 0), []],
  ["it is truncated, less is written", (file) => (truncateSync(file.path, 0), file.append("c\n")), ["c"]],
  ["it is truncated, as much is written", (file) => (truncateSync(file.path, 0), file.append("c\nd\n")), ["c", "d"]],
  [
    "it is truncated, more is written",
    (file) => (truncateSync(file.path, 0), file.append("c\nd\ne\n")),
    ["c", "d", "e"],
  ],
  ["a line is put in front, in place", (file) => file.write("z\na\nb\n"), ["z", "a", "b"]],
  ["a line is taken out, others come", (file) => file.write("b\nc\nd\n"), ["b", "c", "d"]],
  [
    "it is copied and truncated",
    (file) => {
      file.append("c\n");
      copyFileSync(file.path, file.at("log.jsonl.1"));
      truncateSync(file.path, 0);
      file.append("d\n");
    },
    ["c", "d"],
  ],
  [
    "a copy with more takes its place",
    (file) => (file.write("a\nb\nc\n", "copy"), file.rename("copy", "log.jsonl")),
    ["c"],
  ],
  [
    "another file takes its place",
    (file) => (file.write(`c\nd ${LONG}\n`, "other"), file.rename("other", "log.jsonl")),
    ["c", `d ${LONG}`],
  ],
  ["it is removed", (file) => rmSync(file.path), []],
  ["it is removed, another one comes", (file) => (rmSync(file.path), file.write("c\nd\ne\n")), ["c", "d", "e"]],
];

describe.each([
  ["by a reader that goes on", false],
  ["by one that starts again", true],
])("read on %s", (_, restarts) => {
  test.each(CASES)("%s", async (_what, happens, fresh) => {
    using file = new Followed();
    file.write("a\nb\n");
    expect(await file.look()).toEqual(["a", "b"]);
    if (restarts) file.restart();
    happens(file);
    expect(await file.look()).toEqual(fresh);
    if (restarts) file.restart();
    expect(await file.look()).toEqual([]);
    if (existsSync(file.path) && !readFileSync(file.path, "utf8").endsWith("c")) {
      file.append("later\n");
      expect(await file.look()).toEqual(["later"]);
    }
  });

  test("a file that was empty, got lines, and was renamed", async () => {
    using file = new Followed();
    file.write("");
    expect(await file.look()).toEqual([]);
    if (restarts) file.restart();
    file.append("a\n");
    file.rename("log.jsonl", "taken");
    file.write("b\n");
    expect(await file.look()).toEqual(["a", "b"]);
  });

  test("a change in the first bytes of much that was read, followed by more", async () => {
    using file = new Followed();
    const lines = Array.from({ length: 2000 }, (_line, n) => `line ${n}\n`);
    file.write(lines.join(""));
    await file.look();
    if (restarts) file.restart();
    file.write(["LINE 0\n", ...lines.slice(1), "more\n"].join(""));
    expect(await file.look()).toHaveLength(2001);
  });
});

test("the inode of an empty inbox that was removed is no reason to read another file", async () => {
  using file = new Followed();
  file.write("");
  await file.look();
  file.restart();
  rmSync(file.path);
  // The file system gives the inode to the next file, mostly.
  for (let n = 0; n < 20; n++) file.write("not ours\n", `other${n}`);
  file.write("ours\n");
  expect(await file.look()).toEqual(["ours"]);
});

test("half a line waits for its line break, across a restart and a rename", async () => {
  using file = new Followed();
  file.write("a\nhal");
  expect(await file.look()).toEqual(["a"]);
  file.restart();
  file.append("f\n");
  file.rename("log.jsonl", "taken");
  file.write("b\n");
  expect(await file.look()).toEqual(["half", "b"]);
});

test("a renamed file is still read while its writer has not noticed", async () => {
  using file = new Followed();
  file.write("a\n");
  await file.look();
  file.rename("log.jsonl", "taken");
  file.write("b\n");
  await file.look();
  for (const line of ["c", "d"]) {
    file.append(`${line}\n`, "taken");
    file.append(`${line}${line}\n`);
    file.restart();
    expect(await file.look()).toEqual([line, line + line]);
  }
});

test.each([
  ["a folder", "mkdir"],
  ["a FIFO", "mkfifo"],
])("%s in its place is an error, not a wait, and reading goes on after it", async (_, make) => {
  using file = new Followed();
  file.write("a\n");
  await file.look();
  file.append("b\n");
  file.rename("log.jsonl", "taken");
  Bun.spawnSync([make, file.path]);
  expect(await file.look().catch(String)).toContain(`read "${file.path}": not a regular file`);
  rmSync(file.path, { recursive: true });
  file.write("c\n");
  expect(await file.look()).toEqual(["b", "c"]);
});

test("a piece is read again when it could not be settled, and the positions stay before it", async () => {
  using folder = new Folder();
  const path = folder.write("log", "a\nb\nc\n");
  const cursor = new Cursor({ path });
  const read: string[] = [];
  let fails = true;
  const visit = ({ bytes, start, end }: { bytes: Buffer; start: number; end: number }) => {
    read.push(bytes.toString("utf8", start, end));
    return read.length === 2;
  };
  const pass = () =>
    cursor.read({
      visit,
      settle: async () => {
        if (fails) throw new Error("the disk is full");
      },
    });
  expect(await pass().catch(String)).toContain("the disk is full");
  expect(cursor.positions[0]?.offset).toBe(0);
  fails = false;
  await pass();
  expect(read).toEqual(["a", "b", "a", "b", "c"]);
  cursor.close();
});

test("a visitor that ends the reading gets each line once, whole and with its own offset", async () => {
  using folder = new Folder();
  const lines = Array.from({ length: 3000 }, (_, n) => `line ${n} ${"x".repeat(1000)}`);
  folder.write("log", lines.map((line) => `${line}\n`).join(""));
  const fd = openFile(folder.at("log"))!;
  const seen: string[] = [];
  let position = startOf(fd);
  for (let before = -1; position.offset > before;) {
    before = position.offset;
    const visit = ({ bytes, start, end, offset }: { bytes: Buffer; start: number; end: number; offset: number }) => {
      if (seen.length % 3 === 0) expect(offset).toBe(before);
      return seen.push(bytes.toString("utf8", start, end)) % 3 === 0;
    };
    position = (await readOn(fd, position, { visit }))!;
  }
  expect(seen).toEqual(lines);
  closeSync(fd);
});

test("a position that is taken while reading equals one that is taken of the file", async () => {
  using folder = new Folder();
  for (const size of [1, 100, 4095, 4096, 4097, 9000, 700_000, 2_500_000]) {
    const lines = `${"x".repeat(size - 1)}\n`;
    const path = folder.write("log", `${lines}${"y".repeat(size)}\nzz\ntorn`);
    const fd = openFile(path)!;
    let visited = 0;
    const first = await readOn(fd, startOf(fd), { visit: () => ++visited === 1, piecemeal: true });
    expect([size, first]).toEqual([size, positionAt(fd, size)]);
    const last = await readOn(fd, first!, { visit: () => {} });
    expect([size, last]).toEqual([size, positionAt(fd, 2 * size + 4)]);
    expect(fits(fd, last!)).toBe(true);
    writeFileSync(path, `${lines}${"y".repeat(size)}\nZz\ntorn and longer`);
    expect(fits(fd, last!)).toBe(false);
  }
});

/** Numbers from a seed: the same ones in every run. */
function chance(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test("5,000 random acts of a writer, and a reader that is killed at any moment: no line is skipped, none comes twice but the one in hand", async () => {
  const any = chance(20_260_131);
  let kills = 0;
  let repeats = 0;
  for (let round = 0; round < 50; round++) {
    using folder = new Folder();
    const path = folder.at("log");
    let next = 0;
    let taken = 0;
    const times = new Map<string, number>();
    /** What a reader that is killed leaves. */
    let kept: Position[] = [];
    let cursor = new Cursor({ path });
    const line = () => `${next++}${"-".repeat(any(4) === 0 ? any(6000) : any(20))}\n`;
    const lines = () => Array.from({ length: 1 + any(5) }, line).join("");
    const look = async (killed: boolean): Promise<void> => {
      let left = killed ? any(6) : Infinity;
      const hand = (text: string): boolean => {
        times.set(text, (times.get(text) ?? 0) + 1);
        if (left-- === 0) throw new Error("killed");
        return true;
      };
      try {
        await cursor.read({
          visit: ({ bytes, start, end }) => hand(bytes.toString("utf8", start, end)),
          settle: async () => void (kept = structuredClone(cursor.positions)),
        });
        kept = structuredClone(cursor.positions);
      } catch (error) {
        if ((error as Error).message !== "killed") throw error;
        kills++;
      }
      if (!killed) return;
      cursor.close();
      cursor = new Cursor({ path });
      cursor.positions = structuredClone(kept);
    };
    const rotate = (): void => {
      for (let n = taken; n > 0; n--) renameSync(`${path}.${n}`, `${path}.${n + 1}`);
      taken++;
      renameSync(path, `${path}.1`);
    };
    // Nothing is known of a file before the first look.
    appendFileSync(path, lines());
    await look(false);
    for (let act = 0; act < 100; act++) {
      const there = existsSync(path);
      const kind = any(12);
      if ([6, 9].includes(kind) && there) {
        // A name that tells nothing is found by what is known of the file: so it was seen before, but not to its end.
        await look(false);
        appendFileSync(path, lines());
      }
      if (kind < 5) appendFileSync(path, lines());
      else if (kind === 5 && there) rotate();
      else if (kind === 6 && there) renameSync(path, folder.at(`taken-${act}`));
      else if (kind === 7 && there) {
        // What nobody had read is lost with it: so it is read first.
        await look(false);
        truncateSync(path, 0);
        if (any(2) === 0) appendFileSync(path, lines());
      } else if (kind === 8 && there) {
        await look(false);
        writeFileSync(path, lines() + lines());
      } else if (kind === 9) {
        writeFileSync(folder.at("fresh"), lines());
        if (there) renameSync(path, folder.at(`taken-${act}`));
        renameSync(folder.at("fresh"), path);
      } else await look(any(2) === 0);
    }
    await look(false);
    cursor.close();
    const numbers = new Set([...times.keys()].map((text) => Number.parseInt(text)));
    for (let n = 0; n < next; n++) expect([round, n, numbers.has(n)]).toEqual([round, n, true]);
    repeats += [...times.values()].reduce((sum, count) => sum + count - 1, 0);
  }
  console.log(`cursor: ${kills} kills, ${repeats} lines twice`);
  expect(kills).toBeGreaterThan(100);
  expect(repeats).toBe(kills);
});
