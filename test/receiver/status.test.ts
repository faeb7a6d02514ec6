// `status` as a script reads it, and on terminals of several widths: real ones, by Bun.spawn.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { command, until } from "../kit.ts";
import { Hub, container, report } from "./kit.ts";
import { testOnFile } from "./store-kit.ts";

const FULL = { mount: "/srv", device: "/dev/sdb1", fs: "ext4", used_bytes: 92e9, total_bytes: 100e9, used_percent: 92 };
const EVIL = "db \u001b[2J\u202e日本";

let hub: Hub;
beforeAll(async () => {
  hub = await Hub.start({ hosts: ["nas", "pi", "web-1"] });
  const host = { ...(report()["host"] as object), disks: [FULL] };
  const all = (more = {}) => [EVIL, "a", "b", "c", "d"].map((name) => container(name, more));
  await hub.report(report({ host, containers: all() }), { host: "nas" });
  const containers = all({ state: "exited", status: "Exited (137) 2 minutes ago" });
  await hub.report(report({ host, containers }), { host: "nas" });
  await hub.report(report(), { host: "pi" });
  await hub.run("host", "pause", "pi", "2h", "--reason", "new disk");
  const url = (await hub.run("job", "add", "backup", "--every", "1d")).stdout.trim();
  await fetch(`${hub.url}${new URL(url).pathname}/fail`, { method: "POST" });
  await until("the events are there", async () =>
    JSON.stringify(await hub.get("/v1/events")).includes("backup failed"),
  );
});
afterAll(() => hub[Symbol.asyncDispose]());

/** Runs it on a terminal. */
async function onTerminal(args: string[], { cols = 80, rows = 40, env = {} } = {}) {
  const decoder = new TextDecoder();
  let out = "";
  const child = Bun.spawn([...(await command("receiver", "source")), "status", ...args, "--config", hub.config], {
    env: { ...process.env, TERM: "xterm", NO_COLOR: undefined, ...env },
    terminal: { cols, rows, data: (_, bytes) => void (out += decoder.decode(bytes, { stream: true })) },
  });
  return {
    child,
    out: () => out,
    frames: () =>
      out
        .split("\u001b[H")
        .slice(1)
        .map((frame) => frame.split("\u001b[?2026l")[0]!),
  };
}

const plain = (text: string) => Bun.stripANSI(text).split(/\r?\n/);

test("a script gets words without colours and shapes, or the same as JSON", async () => {
  const { code, stdout } = await hub.run("status");
  expect(code).toBe(0);
  expect(stdout).toMatch(/^1 of 3 hosts and 1 of 1 job need you\n/);
  expect(stdout.match(/[^\x20-\x7e\n日本·°]/g)).toBeNull();
  for (const line of [
    /^warning \d+ s +nas +92% +13% +25% +42°C +\d+ s ago$/m,
    /^ {2}\/srv is 92 % full.*\n {4}du -xh \/srv \| sort -h \| tail$/m,
    /^ {2}container db \\u001b\[2J\\u202e日本 has stopped/m,
    /^ {2}2 more: picket-receiver alerts$/m,
    /^pending \d+ s +web-1 +- +- +- +- +never$/m,
    /^paused 2 h more +pi .*\n {2}new disk$/m,
    /^down \d+ s +backup +every 1d +\d+ s ago$/m,
    /^\d+ s ago +backup failed; /m,
  ]) {
    expect(stdout).toMatch(line);
  }
  expect(stdout.indexOf(" nas ")).toBeLessThan(stdout.indexOf(" pi "));
  const json = JSON.parse((await hub.run("status", "--json")).stdout) as Record<string, unknown>;
  expect(json).toMatchObject({
    receiver_runs: true,
    headline: "1 of 3 hosts and 1 of 1 job need you",
    hosts: [
      {
        name: "nas",
        state: "warning",
        figures: { disk_percent: 92, memory_percent: 25 },
        last_seen_at: expect.stringMatching(/^2.*Z$/),
      },
      { name: "web-1", last_seen_at: null },
      { name: "pi", paused: { until: expect.stringMatching(/Z$/), reason: "new disk" } },
    ],
    jobs: [{ name: "backup", state: "down", runs: [{ at: expect.stringMatching(/Z$/), how: "fail" }] }],
  });
});

test.each([120, 80, 60])("a terminal of %i columns gets lines that fit, with shapes and colours", async (cols) => {
  const { child, out } = await onTerminal([], { cols });
  expect(await child.exited).toBe(0);
  expect(out()).toContain("\u001b[33m▲ warning\u001b[0m");
  const lines = plain(out());
  expect(lines.filter((line) => Bun.stringWidth(line) > cols)).toEqual([]);
  expect(out()).toMatch(/\[33m 92%/);
  expect(lines.join("\n").includes("[2J")).toBe(true);
  expect(out()).not.toContain("\u001b[2J");
  expect(/% [ ▁▂▃▄▅▆▇█]*[▁▂▃▄▅▆▇█]/.test(lines.join("\n"))).toBe(cols > 60);
});

test("NO_COLOR leaves the shapes", async () => {
  const { child, out } = await onTerminal([], { env: { NO_COLOR: "1" } });
  expect(await child.exited).toBe(0);
  expect(out()).toContain("▲ warning");
  expect(out()).not.toContain("\u001b");
});

test("--watch draws in place what changes, follows the window, and gives the screen back", async () => {
  const { child, out, frames } = await onTerminal(["--watch"], { rows: 12 });
  await until("it has drawn", () => frames().length > 0);
  expect(plain(frames()[0]!)).toHaveLength(11);
  expect(frames()[0]).toMatch(/… \d+ more lines/);
  await hub.report(report(), { host: "web-1" });
  child.terminal!.resize(60, 50);
  await until("it shows the report", () => /fine.*web-1/.test(Bun.stripANSI(frames().at(-1)!)));
  const lines = plain(frames().at(-1)!);
  expect(lines.filter((line) => Bun.stringWidth(line) > 60)).toEqual([]);
  expect(lines.join("\n")).toContain("NEWEST EVENTS");
  // Nothing is wiped before it is drawn anew.
  expect(out()).not.toContain("\u001b[2J");
  child.terminal!.write("\u0003");
  expect(await child.exited).toBe(0);
  expect(out().trim()).toEndWith("\u001b[?25h\u001b[?1049l\u001b[A");
});

testOnFile(
  "--watch draws on a terminal that doesn't know its size, and makes no store while it is missing",
  async () => {
    const { child, out, frames } = await onTerminal(["--watch"], { cols: 0, rows: 0 });
    await until("it has drawn", () => frames().length > 0);
    const lines = plain(frames()[0]!);
    expect([lines.length, lines.every((line) => Bun.stringWidth(line) <= 80)]).toEqual([23, true]);
    const store = join(hub.data, "receiver.db");
    await hub.daemon.kill();
    renameSync(store, `${store}.away`);
    child.kill("SIGCONT");
    await until("it looks again", () => out().split("\u001b[?1049h").length > 2);
    child.terminal!.write("\u0003");
    expect([await child.exited, existsSync(store)]).toEqual([0, false]);
    renameSync(`${store}.away`, store);
    await hub.up();
  },
);

test("it says where the receiver does not run", async () => {
  await hub.daemon.kill();
  hub.change((db) => {
    const [{ value }] = db.query("SELECT value FROM meta WHERE key = 'alive'").all() as [{ value: string }];
    const life = JSON.parse(value) as { line: number };
    db.query("UPDATE meta SET value = ? WHERE key = 'alive'").run(JSON.stringify({ ...life, line: life.line - 7.2e6 }));
  });
  expect((await hub.run("status")).stdout).toStartWith(
    "the receiver does not run: this is how things were 2 h ago\n1 of",
  );
  hub.change((db) => db.query("DELETE FROM meta WHERE key = 'alive'").run());
  expect((await hub.run("status")).stdout).toStartWith("the receiver has not run yet\n");
  expect(JSON.parse((await hub.run("status", "--json")).stdout)).toMatchObject({ receiver_runs: false });
});

test("wrong usage ends with 2", async () => {
  for (const [args, said] of [
    [["--watch"], "--watch needs a terminal"],
    [["--watch", "--json"], "give --watch or --json, not both"],
  ] as const) {
    expect(await hub.run("status", ...args)).toMatchObject({ code: 2, stderr: expect.stringContaining(said) });
  }
});
