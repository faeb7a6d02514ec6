// The observer's log: lines that are no operation, rotation, and what else happens to the file.
// Not tested here: crashes, power cuts and full disks (e2e/observer-faults.test.ts).

import { describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { isRoot } from "../e2e/disk.ts";
import { ROOT, runRole, until } from "../kit.ts";
import { type Op, Observer, failure, lines } from "./kit.ts";

test("lines that another program wrote into the log are completed, or skipped as malformed", async () => {
  await using observer = new Observer();
  const line = { timestamp: "2026-01-31T12:00:00Z", endpoint: "x", source: "mcp", success: false, duration_ms: 1 };
  const lines = [
    line,
    { ...line, input_summary: 5 },
    { ...line, output_summary: null, error: null },
    { ...line, error: { code: 5 } },
    { ...line, sig_hash: 7 },
    { ...line, id: 9 },
    { ...line, timestamp: "yesterday" },
    { ...line, success: true },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", role: null, city: "Graz" },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", role: 5 },
    { ...line, success: true, source: "scenario", input_summary: "", output_summary: "", count: "many" },
  ];
  await Bun.write(observer.log, lines.map((one) => `${JSON.stringify(one)}\n`).join(""));
  await observer.up();
  const daemon = observer.daemon;
  expect(await daemon.said("log read")).toContain("malformed=7");
  const { total, failures, recent_scenario_ops } = await observer.get<{
    total: number;
    failures: number;
    recent_scenario_ops: object[];
  }>("/observer/stats");
  expect([total, failures]).toEqual([4, 2]);
  const { timestamp, endpoint, success, duration_ms } = { ...line, success: true };
  expect(recent_scenario_ops).toEqual([{ timestamp, endpoint, success, duration_ms, city: "Graz" }]);
  const { clusters } = await observer.get<{ clusters: { last_at: string; count: number }[] }>("/observer/clusters");
  expect(clusters).toMatchObject([{ count: 2, last_at: "2026-01-31T12:00:00.000Z" }]);
  const shown = await runRole("observer", ["tail", "--config", observer.config]);
  expect(shown.stdout.split("\n").length - 1).toBe(total);
});

test("something else at the path of the log makes the observer unhealthy until it is removed", async () => {
  await using observer = await Observer.start();
  const told = async () => (await observer.post("/observer/event", `{"endpoint":"x"}`)).status;
  const health = async () => (await fetch(`${observer.url}/observer/health`)).status;
  expect([await told(), await health()]).toEqual([200, 200]);
  rmSync(observer.log);
  mkdirSync(observer.log);
  expect([await told(), await health()]).toEqual([500, 503]);
  expect((await observer.get<{ total: number }>("/observer/stats")).total).toBe(1);
  rmdirSync(observer.log);
  expect([await health(), await told()]).toEqual([200, 200]);
});

test.skipIf(!isRoot)("a log that can't be renamed loses no count, and is rotated once it can", async () => {
  await using observer = new Observer();
  const total = async () => (await observer.get<{ total: number }>("/observer/stats")).total;
  const fill = async (operations: number) => {
    const one = { endpoint: "x", success: true, output_summary: "x".repeat(2000) };
    const body = JSON.stringify(Array.from({ length: operations }, () => one));
    expect((await observer.post("/observer/event", body)).status).toBe(200);
  };
  observer.configure("rotate_mb: 1\n");
  await observer.up();
  const first = observer.daemon;
  await fill(10);
  // As a container does that is given the file alone.
  await Bun.$`mount --bind ${observer.log} ${observer.log}`;
  try {
    await fill(990);
    await first.said("EBUSY");
    // What comes now is in no snapshot, as if the next look were far away.
    const snapshot = await Bun.file(join(observer.data, "snapshot.json")).text();
    await fill(50);
    await first.kill("SIGKILL");
    await Bun.write(join(observer.data, "snapshot.json"), snapshot);
  } finally {
    await Bun.$`umount ${observer.log}`;
  }
  observer.configure("rotate_mb: 1\n");
  await observer.up();
  const second = observer.daemon;
  expect(await total()).toBe(1050);
  await until("the log is rotated", () => existsSync(join(observer.data, "ops.000001.jsonl")));
  await fill(1);
  await second.kill("SIGKILL");
  observer.configure("rotate_mb: 1\n");
  await observer.up();
  expect(await total()).toBe(1051);
});

function segments({ data }: Observer): string[] {
  return readdirSync(data).filter((name) => /^ops\.\d{6}\.jsonl$/.test(name));
}

describe("the log", () => {
  test("rotates into numbered segments; a start reads the snapshot and what came after it; nothing is counted twice", async () => {
    await using observer = await Observer.start({ more: "rotate_mb: 1" });
    const text = "x".repeat(1000);
    let recorded = 0;
    while (segments(observer).length < 3) {
      await observer.record(
        ...Array.from({ length: 100 }, () => ({
          id: `op-${recorded++}`,
          endpoint: "e",
          success: recorded % 10 > 0,
          error: "e",
          input_summary: text,
        })),
      );
    }
    await observer.record({ id: "last", endpoint: "e", success: true, source: "scenario" });
    recorded++;
    const stats = await observer.stats();
    expect(stats.total).toBe(recorded);
    const clusters = await observer.get<{ clusters: Op[] }>("/observer/clusters");
    await observer.again("SIGKILL");
    expect(await observer.daemon.said("log read")).toContain(`segments_known=${segments(observer).length}`);
    expect(await observer.stats()).toEqual(stats);
    expect(await observer.get<{ clusters: Op[] }>("/observer/clusters")).toEqual(clusters);
    // An id of the first segment is still known.
    await observer.record({ id: "op-0", endpoint: "e", success: true });
    expect(await observer.stats()).toEqual(stats);
    const shown = await observer.run("stats", "--json");
    expect(JSON.parse(shown.stdout)).toEqual(stats);
    expect((await observer.run("check")).stdout).toContain(`${recorded} operations, 0 malformed lines`);
    // Without the snapshot, and with a broken one, all of it is read.
    for (const broken of ["", "{}", '{"version":1,"covers":1,"inode":1,"state":{"tally":7}}']) {
      await observer.daemon.kill();
      writeFileSync(join(observer.data, "snapshot.json"), broken);
      await observer.up();
      expect(await observer.stats()).toEqual(stats);
    }
  });

  test("rotates at a few kilobytes, and takes a window and a cooldown of seconds", async () => {
    await using observer = await Observer.start({
      more: "rotate_mb: 0.01\nwindow_minutes: 0.05\ncooldown_hours: 0.001",
    });
    await observer.record(...Array.from({ length: 20 }, () => ({ endpoint: "e", input_summary: "x".repeat(1000) })));
    await until("a segment", () => segments(observer).length > 0);
  });

  test("after a kill between the snapshot and the rename nothing is counted twice", async () => {
    await using observer = await Observer.start({ more: "rotate_mb: 1" });
    const large = () =>
      Array.from({ length: 100 }, () => ({ endpoint: "e", success: true, input_summary: "x".repeat(4000) }));
    while (segments(observer).length < 1) await observer.record(...large());
    await observer.daemon.kill();
    // As it was between the two renames: the new log, if there is one, is not there yet.
    const [segment] = segments(observer);
    if (existsSync(observer.log)) unlinkSync(observer.log);
    renameSync(join(observer.data, segment!), observer.log);
    const total = lines(observer.log).length;
    const shown = await observer.run("stats", "--json");
    expect(JSON.parse(shown.stdout)).toMatchObject({ total });
    await observer.up();
    expect(await observer.stats()).toMatchObject({ total });
    expect(segments(observer)).toEqual([segment!]);
    await observer.record({ endpoint: "e", success: true });
    await observer.again("SIGKILL");
    expect(await observer.stats()).toMatchObject({ total: total + 1 });
  });

  test("tail shows the newest and follows, across a rotation; stats and clusters without a daemon", async () => {
    await using observer = await Observer.start({ more: "rotate_mb: 1" });
    await observer.record(failure("deploy", "exit status 7"));
    const seen: Op[] = [];
    const follow = Bun.spawn(
      [process.execPath, join(ROOT, "observer.ts"), "tail", "--follow", "--json", "--config", observer.config],
      { stdout: "pipe", stderr: "ignore" },
    );
    void (async () => {
      let rest = "";
      for await (const chunk of follow.stdout.pipeThrough(new TextDecoderStream())) {
        const whole = (rest + chunk).split("\n");
        rest = whole.pop() ?? "";
        seen.push(...whole.map((line) => JSON.parse(line) as Op));
      }
    })();
    await until("the first is shown", () => seen.length === 1);
    let sent = 0;
    while (segments(observer).length < 2) {
      await observer.record(
        ...Array.from({ length: 50 }, () => ({
          endpoint: `n${sent++}`,
          success: true,
          input_summary: "x".repeat(4000),
        })),
      );
    }
    await until("all are shown", () => seen.length === sent + 1);
    expect(seen.slice(1).map(({ endpoint }) => endpoint)).toEqual(Array.from({ length: sent }, (_, n) => `n${n}`));
    follow.kill();
    await follow.exited;
    const table = await observer.run("clusters");
    const fingerprint = /^f2:[0-9a-f]{16}/.exec(table.stdout)![0];
    expect(table.stdout).toContain("deploy: exit status 7");
    const one = await observer.run("clusters", fingerprint);
    expect(JSON.parse(one.stdout)).toMatchObject({
      fingerprint,
      why: expect.stringContaining("same error text"),
      count: 1,
    });
    expect((await observer.run("clusters", "f2:nothing")).code).toBe(2);
    expect((await observer.run("tail", "--limit", "1")).stdout).toContain(`n${sent - 1}`);
  });
});

test("valid, corrupt, valid lines: two applied, one logged, the file unchanged; check names the line", async () => {
  await using observer = new Observer();
  mkdirSync(observer.data);
  const text = `{"endpoint":"a","success":true}\n{"endpoint":"a","succ\n{"endpoint":"b","success":false,"error":"x"}\n`;
  writeFileSync(observer.log, text);
  await observer.up();
  expect(await observer.stats()).toMatchObject({ total: 2, successes: 1, failures: 1 });
  expect(await observer.daemon.said("log read")).toContain("applied=2 malformed=1");
  expect(await observer.daemon.said("skipped")).toContain("line=2");
  expect(readFileSync(observer.log, "utf8")).toBe(text);
  const check = await observer.run("check");
  expect([check.code, check.stdout]).toEqual([1, `${observer.log}:2: not JSON\n2 operations, 1 malformed lines\n`]);
});

test("JSON that is no operation is skipped and counted as well; a torn last line is closed and counted once", async () => {
  await using observer = new Observer();
  mkdirSync(observer.data);
  writeFileSync(
    observer.log,
    `[]\n7\n{"endpoint":" "}\n{"endpoint":"a","source":"who"}\n\n{"endpoint":"whole","success":true}`,
  );
  await observer.up();
  expect(await observer.daemon.said("log read")).toContain("applied=1 malformed=4");
  await observer.record({ endpoint: "next", success: true });
  expect(await observer.stats()).toMatchObject({ total: 2 });
  await observer.again();
  expect(await observer.stats()).toMatchObject({ total: 2 });
  expect(readFileSync(observer.log, "utf8")).toContain('{"endpoint":"whole","success":true}\n{"timestamp"');
});

test("another program may append to the log or remove it", async () => {
  await using observer = await Observer.start();
  await observer.record({ endpoint: "a", success: true });
  appendFileSync(observer.log, '{"endpoint":"by hand","success":true}\ntorn');
  await observer.record({ endpoint: "b", success: true });
  expect(readFileSync(observer.log, "utf8")).toMatch(/torn\n\{.*"endpoint":"b"/);
  renameSync(observer.log, `${observer.log}.away`);
  await observer.record({ endpoint: "c", success: true });
  expect(lines(observer.log).map(({ endpoint }) => endpoint)).toEqual(["c"]);
  expect(await observer.stats()).toMatchObject({ total: 3 });
});
