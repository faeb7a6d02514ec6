// Not tested here: the power cut and the full disk (test/e2e), and what a network file system does with flock and leases.

import { describe, expect, test } from "bun:test";
import { appendFileSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Journal, findTornLine, healFolder } from "../lib/journal.ts";
import { replay } from "../lib/replay.ts";
import { Folder, until } from "./kit.ts";

function open(folder: Folder, name = "a.inbox"): Journal {
  return new Journal({ path: folder.at("in", name), durability: "disk", intents: folder.at("in", ".picket") });
}

function lines(folder: Folder, name = "a.inbox"): string[] {
  return readFileSync(folder.at("in", name), "utf8").split("\n").filter(Boolean);
}

describe("appending", () => {
  test("folder and file are made, private, and the lines keep their order", async () => {
    using folder = new Folder();
    const journal = open(folder);
    await Promise.all(Array.from({ length: 500 }, (_, n) => journal.append(`{"n":${n}}`)));
    expect(lines(folder)).toEqual(Array.from({ length: 500 }, (_, n) => `{"n":${n}}`));
    expect(statSync(folder.at("in")).mode & 0o777).toBe(0o755);
    expect(statSync(folder.at("in", "a.inbox")).mode & 0o777).toBe(0o600);
    await journal.close();
  });

  test("the mode of an existing file is left alone", async () => {
    using folder = new Folder();
    const journal = open(folder, "x");
    await journal.append("{}");
    writeFileSync(folder.at("in", "b.inbox"), "", { mode: 0o640 });
    const second = open(folder, "b.inbox");
    await second.append("{}");
    expect(statSync(folder.at("in", "b.inbox")).mode & 0o777).toBe(0o640);
    await Promise.all([journal.close(), second.close()]);
  });

  test("a torn last line never swallows the next event", async () => {
    using folder = new Folder();
    const journal = open(folder);
    await journal.append(`{"n":1}`);
    appendFileSync(folder.at("in", "a.inbox"), `{"n":`);
    await journal.append(`{"n":2}`);
    expect(lines(folder)).toEqual([`{"n":1}`, `{"n":`, `{"n":2}`]);
    await journal.close();
  });

  test("a renamed, a removed and a truncated file are found anew", async () => {
    using folder = new Folder();
    const journal = open(folder);
    await journal.append(`{"n":1}`);
    renameSync(folder.at("in", "a.inbox"), folder.at("in", "taken"));
    await journal.append(`{"n":2}`);
    expect(lines(folder)).toEqual([`{"n":2}`]);
    rmSync(folder.at("in", "a.inbox"));
    await journal.append(`{"n":3}`);
    expect(lines(folder)).toEqual([`{"n":3}`]);
    truncateSync(folder.at("in", "a.inbox"), 0);
    await journal.append(`{"n":4}`);
    expect(lines(folder)).toEqual([`{"n":4}`]);
    truncateSync(folder.at("in", "a.inbox"), 3);
    await journal.append(`{"n":5}`);
    expect(lines(folder)).toEqual([`{"n`, `{"n":5}`]);
    rmSync(folder.at("in"), { recursive: true });
    await journal.append(`{"n":6}`);
    expect(lines(folder)).toEqual([`{"n":6}`]);
    await journal.close();
  });

  test("a folder in the file's place is an error, and the journal goes on when it is gone", async () => {
    using folder = new Folder();
    const journal = open(folder);
    await open(folder, "other").append("{}");
    await Bun.$`mkdir ${folder.at("in", "a.inbox")}`;
    expect(journal.append("{}")).rejects.toThrow();
    await journal.settled();
    rmSync(folder.at("in", "a.inbox"), { recursive: true });
    await journal.append(`{"n":1}`);
    expect(lines(folder)).toEqual([`{"n":1}`]);
    await journal.close();
  });

  test("whoever waits for what was appended doesn't wait for what comes after it", async () => {
    using folder = new Folder();
    const journal = open(folder);
    let appended = 0;
    const seen: number[] = [];
    const goOn = async () => {
      while (seen.length === 0 && appended < 2000) await journal.append(`{"n":${appended++}}`);
    };
    // The second begins while the first one's line is written: from then on one of both always waits.
    const first = goOn();
    await new Promise<void>((done) => setImmediate(done));
    const second = goOn();
    void journal.settled().then(() => seen.push(lines(folder).length));
    await Promise.all([first, second]);
    expect(seen[0]).toBeLessThan(100);
    await journal.close();
  });

  test("zeros that a power cut left at the end are taken away, and readers take them for blanks", async () => {
    using folder = new Folder();
    const before = open(folder);
    await before.append(`{"n":1}`);
    await before.close();
    const path = folder.at("in", "a.inbox");
    appendFileSync(path, Buffer.alloc(10_000));
    const journal = open(folder);
    await journal.append(`{"n":2}`);
    expect(lines(folder)).toEqual([`{"n":1}`, `{"n":2}`]);
    await journal.close();
    appendFileSync(path, Buffer.concat([Buffer.alloc(5000), Buffer.from(`{"n":3}\n`)]));
    const records: unknown[] = [];
    await replay({ path, record: (value) => records.push(value), malformed: (_, reason) => records.push(reason) });
    expect(records).toEqual([{ n: 1 }, { n: 2 }, { n: 3 }]);
  });

  test("a line break inside a line is refused", () => {
    using folder = new Folder();
    expect(open(folder).append("a\nb")).rejects.toThrow("line break");
  });
});

describe("a writer killed in the middle of a line", () => {
  const batch = Buffer.from(
    ["01", "02", "03"]
      .map((n) => `{"ts":"2026-01-01T00:00:00.000Z","id":"${n}","payload":"${"p".repeat(40)}"}\n`)
      .join(""),
  );
  const other = `{"ts":"2026-01-01T00:00:00.000Z","id":"99","payload":"of another"}\n`;
  const healed = (region: Buffer): string => {
    const torn = findTornLine(region, batch);
    if (torn) region.fill(0x0a, torn.start, torn.end);
    return region.toString();
  };

  test("at every byte: what is left are whole lines, ours up to the tear and those of the others", () => {
    for (let cut = 0; cut <= batch.length; cut++) {
      for (const [before, after] of [
        ["", ""],
        [other, ""],
        ["", other],
        [other, other],
        [other + other, other + other],
      ]) {
        const region = Buffer.concat([Buffer.from(before!), batch.subarray(0, cut), Buffer.from(after!)]);
        const left = healed(region).split("\n").filter(Boolean);
        const whole = batch.subarray(0, cut).toString().split("\n").slice(0, -1).filter(Boolean).length;
        const lost = cut > 0 && batch[cut - 1] !== 0x0a && batch[cut] === 0x0a && after !== "";
        // Cut exactly before its line break, a line and the next one stand on one line: nothing of ours is "torn", but
        // the other's line has to be whole.
        const foreign = left.filter((line) => `${line}\n` === other).length;
        expect(`${cut}: ${foreign}`).toBe(`${cut}: ${(before! + after!).split("\n").length - 1}`);
        for (const line of left) JSON.parse(line);
        expect(left.length - foreign).toBeGreaterThanOrEqual(whole);
        expect(lost || left.length - foreign <= whole + 1).toBe(true);
      }
    }
  });

  test("a batch that is whole is left alone", () => {
    expect(findTornLine(Buffer.from(other + batch.toString() + other), batch)).toBeNull();
    expect(findTornLine(Buffer.from(other), batch)).toBeNull();
    expect(findTornLine(Buffer.alloc(0), batch)).toBeNull();
  });

  test("kill -9 again and again, beside a writer with >>: every acknowledged line is there once, none is torn", async () => {
    using folder = new Folder();
    const path = folder.at("j.jsonl");
    const shell = Bun.spawn(
      [
        "sh",
        "-c",
        `n=0; while [ ! -e "${folder.at("stop")}" ]; do n=$((n+1)); echo "{\\"id\\":\\"sh-$n\\"}" >> "${path}"; [ $((n % 100)) != 0 ] || sleep 0.01; done; echo $n`,
      ],
      { stdout: "pipe" },
    );
    const acknowledged: string[] = [];
    for (let round = 0; round < 25; round++) {
      const child = Bun.spawn(
        [process.execPath, join(import.meta.dir, "fixtures/journal/appender.ts"), path, `r${round}`],
        { stdout: "pipe" },
      );
      let out = "";
      const reading = (async () => {
        for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) out += chunk;
      })();
      const batches = 3 + Math.floor(Math.random() * 200);
      await until("some batches are acknowledged", () => out.split("\n").length > batches);
      child.kill("SIGKILL");
      await child.exited;
      await reading;
      const count = Number(out.split("\n").at(-2));
      for (let n = 0; n < count; n++) acknowledged.push(`r${round}-${n}`);
    }
    writeFileSync(folder.at("stop"), "");
    const shells = Number(await new Response(shell.stdout).text());
    healFolder(folder.at(".intents"), folder.path);
    const seen = new Map<string, number>();
    const malformed: number[] = [];
    await replay({
      path,
      malformed: ({ number }) => malformed.push(number),
      record: (value) => {
        const { id } = value as { id: string };
        seen.set(id, (seen.get(id) ?? 0) + 1);
      },
    });
    expect(malformed).toEqual([]);
    expect(acknowledged.filter((id) => seen.get(id) !== 1)).toEqual([]);
    expect(Array.from({ length: shells }, (_, n) => seen.get(`sh-${n + 1}`)).filter((times) => times !== 1)).toEqual(
      [],
    );
  });
});

describe("replay", () => {
  test("valid, corrupt, empty and torn lines are told apart, with their places", async () => {
    using folder = new Folder();
    const path = folder.write("log", `{"n":1}\n\nnot json\n{"n":2}\n{"n":`);
    const records: unknown[] = [];
    const read = async (from: number) => {
      records.length = 0;
      await replay({
        path,
        from,
        record: (value, line) => records.push([line, value]),
        malformed: (line, reason) => records.push([line, reason]),
      });
      return records;
    };
    expect(await read(0)).toEqual([
      [{ number: 1, length: 7 }, { n: 1 }],
      [{ number: 3, length: 8 }, "not JSON"],
      [{ number: 4, length: 7 }, { n: 2 }],
    ]);
    expect(await read(18)).toEqual([[{ number: 1, length: 7 }, { n: 2 }]]);
    expect(await read(26)).toEqual([]);
  });

  test("a line over the limit is malformed, and those around it are read", async () => {
    using folder = new Folder();
    const path = folder.write("log", `{"n":1}\n"${"x".repeat(3_000_000)}"\n{"n":2}\n`);
    const records: unknown[] = [];
    await replay({
      path,
      maxLine: 1000,
      record: (value) => records.push(value),
      malformed: (_, reason) => records.push(reason),
    });
    expect(records).toEqual([{ n: 1 }, "longer than 1000 bytes", { n: 2 }]);
  });

  test("a missing file is an empty one", async () => {
    expect(await replay({ path: "/nonexistent/journal", record: () => expect.unreachable() })).toBeUndefined();
  });
});
