// The dead-man's switch, with the clock of a real receiver set by libfaketime.
// Not tested here: a machine that sleeps (its clock jumps, which is).

import { describe, expect, test } from "bun:test";
import { closeSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Folder, have, inboxLines, until } from "../kit.ts";
import { Hub, container, faketime, report, reportAt, startAt, statuses } from "./kit.ts";
import { testOnFile } from "./store-kit.ts";

const library = faketime("the receiver's clock");

type Row = Record<string, string>;

describe.skipIf(!library)("with a clock that is set", () => {
  test("ten minutes of the receiver's own absence alarm nobody among 200 hosts; the one that stays silent afterwards does", async () => {
    using folder = new Folder();
    const hosts = Array.from({ length: 200 }, (_, n) => `host-${n}`);
    const { hub, clock } = await startAt(folder, library!, hosts, "poll_interval_seconds: 4");
    await using _ = hub;
    await Promise.all(hosts.map((host) => reportAt(hub, 0, host)));
    await hub.daemon.kill("SIGKILL");
    clock.offset(600);
    await hub.up();
    // The last mark that it was alive is up to five seconds old, and a start takes its time.
    await hub.daemon.said(/was away.*seconds=(59\d|6\d\d)/);
    expect(new Set(Object.values(statuses(hub)))).toEqual(new Set(["online"]));
    await until("the silent one is offline", async () => {
      await Promise.all(hosts.slice(1).map((host) => reportAt(hub, 600, host)));
      return statuses(hub)["host-0"] === "offline";
    });
    expect(Object.values(statuses(hub)).filter((status) => status === "online").length).toBe(199);
    await until("it is told", () => inboxLines(hub.inbox, "ops").length >= 1);
    expect(inboxLines(hub.inbox, "ops").map(({ source }) => source)).toEqual(["receiver:host.offline"]);
  });

  test.each([3600, 86_400, -3600, -86_400])(
    "a clock that jumps by %d s alarms nobody, and the switch goes on",
    async (jump) => {
      using folder = new Folder();
      const { hub, clock } = await startAt(folder, library!, ["web-1", "web-2"], "poll_interval_seconds: 2");
      await using _ = hub;
      await Promise.all([reportAt(hub, 0), reportAt(hub, 0, "web-2")]);
      clock.offset(jump);
      await hub.daemon.said("was away");
      expect(statuses(hub)).toEqual({ "web-1": "online", "web-2": "online" });
      // One goes on reporting by the new clock, the other doesn't.
      await until("the silent one is stale", async () => {
        await reportAt(hub, jump);
        return statuses(hub)["web-2"] !== "online";
      });
      expect(statuses(hub)["web-1"]).toBe("online");
      const types = hub.rows<{ type: string; host: number }>("SELECT type, host FROM events");
      expect(types.every(({ host }) => host === 2)).toBe(true);
    },
  );

  test.each([3, -3, 740, -740])(
    "a start with the clock %d days off deletes nothing, alarms nobody, loses no report and logs it once",
    async (days) => {
      using folder = new Folder();
      const { hub, clock } = await startAt(folder, library!, ["web-1", "web-2"], "poll_interval_seconds: 2");
      await using _ = hub;
      const ill = { containers: [container("app", { health_status: "unhealthy" })] };
      await hub.report(report(ill));
      await hub.report(report(), { host: "web-2" });
      await until("it is told", () => inboxLines(hub.inbox, "ops").length === 1);
      // Its silence goes on from here when the receiver is back.
      await hub.report(report(ill));
      await hub.daemon.kill();
      hub.change((db) => {
        const hour = Math.floor(Date.now() / 3_600_000);
        const insert = db.query("INSERT INTO host_rollups VALUES (1, 3600, ?, '{\"cpu_percent\":[1,2,3,60]}')");
        for (let n = 2; n < 8000; n++) insert.run((hour - n) * 3_600_000);
      });
      const tables = ["host_samples", "workload_samples", "host_rollups", "containers", "alerts", "tokens"];
      const rows = () => tables.map((table) => hub.rows<{ n: number }>(`SELECT COUNT(*) AS n FROM ${table}`)[0]!.n);
      const before = rows();
      clock.offset(days * 86_400);
      await hub.up();
      const heard = async () => {
        const answer = await hub.report(report(ill));
        expect([answer.status, await answer.json()]).toEqual([503, expect.objectContaining({ code: "clock" })]);
      };
      await until("who sends nothing is offline, who is refused for the time is not", async () => {
        await heard();
        return statuses(hub)["web-2"] === "offline";
      });
      expect(statuses(hub)["web-1"]).toBe("online");
      const wrong = () => hub.daemon.log.filter((line) => line.includes("the clock is wrong")).length;
      expect(wrong()).toBe(1);
      // The host's own clock is as wrong when it is the same machine.
      await reportAt(hub, days * 86_400, "web-1", ill);
      clock.offset(0);
      await hub.daemon.said("the clock is right again");
      expect((await hub.report(report(ill))).status).toBe(200);
      expect((await hub.get<{ containers: Row[] }>("/v1/hosts/web-1")).containers[0]).toMatchObject({ name: "app" });
      // A stop waits for the passes under way.
      await hub.daemon.kill();
      await hub.up();
      await hub.daemon.kill();
      const after = rows();
      expect(tables.filter((_, n) => after[n]! < before[n]!)).toEqual([]);
      const told = hub.rows<{ type: string; host: number }>("SELECT type, host FROM events ORDER BY id");
      expect(told.filter(({ host }) => host === 1)).toEqual([{ type: "container.unhealthy", host: 1 }]);
      expect(hub.daemon.log.filter((line) => line.includes("the clock"))).toEqual([]);
    },
  );

  test("after the clock was set back a host that reports once more and falls silent is told in time", async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"], "poll_interval_seconds: 1");
    await using _ = hub;
    clock.offset(600);
    await hub.daemon.said("was away");
    await reportAt(hub, 600);
    clock.offset(0);
    // Reports that come before anybody has looked at the clock, and after.
    for (let n = 0; n < 3; n++) await reportAt(hub, 0);
    await hub.daemon.said(/was away.*seconds=-/);
    await reportAt(hub, 0);
    const seen = await hub.get<{ last_seen_at: string; containers: Row[] }>("/v1/hosts/web-1");
    expect(Math.abs(Date.parse(seen.last_seen_at) - Date.now())).toBeLessThan(60_000);
    await until("stale", () => statuses(hub)["web-1"] !== "online");
  });

  test("a clock that is set while it runs costs no report, and a restart forgets no sign of life", async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"], "poll_interval_seconds: 1");
    await using _ = hub;
    await hub.report();
    clock.offset(-3 * 86_400);
    const start = performance.now();
    await until("it was refused for longer than a host may be silent", async () => {
      const answer = await hub.report();
      expect([answer.status, await answer.json()]).toEqual([503, expect.objectContaining({ code: "clock" })]);
      return performance.now() - start > 4500;
    });
    await hub.daemon.kill();
    clock.offset(0);
    await hub.up();
    expect((await hub.report()).status).toBe(200);
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
  });

  test("a clock that is set while it runs ends no pause; resume does", async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"], "poll_interval_seconds: 5");
    await using _ = hub;
    await hub.report();
    expect((await hub.run("host", "pause", "web-1", "1h")).code).toBe(0);
    clock.offset(3 * 86_400);
    await hub.daemon.said("the clock is wrong");
    const ran = () =>
      hub.rows<{ n: number }>("SELECT json_extract(value, '$.ran') AS n FROM meta WHERE key = 'alive'")[0]!.n;
    const before = ran();
    await until("it has looked again", () => ran() > before + 2000);
    const paused = () => hub.rows<{ until: number | null }>("SELECT paused_until AS until FROM hosts")[0]!.until;
    expect([paused() !== null, hub.rows("SELECT * FROM events")]).toEqual([true, []]);
    expect((await hub.run("host", "resume", "web-1")).code).toBe(0);
    await until("the pause is over", () => paused() === null);
  });

  test("a receiver that is stopped for a while (SIGSTOP) alarms nobody for that", async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"], "poll_interval_seconds: 60");
    await using _ = hub;
    await reportAt(hub, 0);
    hub.daemon.child.kill("SIGSTOP");
    clock.offset(1800);
    hub.daemon.child.kill("SIGCONT");
    await hub.daemon.said(/was away.*seconds=18\d\d/);
    expect(statuses(hub)).toEqual({ "web-1": "online" });
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
  });
});

test("stale after 2 intervals, offline after 4, back with a report: events in order, lines in the inbox, alerts closed", async () => {
  // Stale for six seconds: long enough to be seen by a test that has to wait for the CPU.
  await using hub = await Hub.start({ more: "poll_interval_seconds: 3" });
  await hub.report();
  await until("stale", () => statuses(hub)["web-1"] === "stale");
  expect((await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what)).toEqual(["host.stale"]);
  await until("offline", () => statuses(hub)["web-1"] === "offline");
  expect((await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what)).toEqual([
    "host.offline",
  ]);
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 1);
  await hub.report();
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", alerts: [] });
  await until("all is told", () => inboxLines(hub.inbox, "ops").length >= 2);
  const lines = inboxLines(hub.inbox, "ops");
  expect(lines.map(({ from, to, type, priority, source }) => [from, to, type, priority, source])).toEqual([
    ["receiver", "ops", "INFO", "urgent", "receiver:host.offline"],
    ["receiver", "ops", "INFO", "normal", "receiver:host.recovered"],
  ]);
  expect(lines[0]!["payload"]).toMatch(/^web-1 is offline: no report for \d\ds \(every 3 s expected\)$/);
  expect(lines[1]!["payload"]).toMatch(/^web-1 is back after \d\ds$/);
  const { events } = await hub.get<{ events: Record<string, unknown>[] }>("/v1/events");
  expect(events.map(({ type, severity, quiet }) => [type, severity, quiet])).toEqual([
    ["host.stale", "warning", true],
    ["host.offline", "critical", false],
    ["host.recovered", "info", false],
  ]);
});

test("a host that comes back in the same second as its alarm ends online, both events in order", async () => {
  await using hub = await Hub.start({ more: "poll_interval_seconds: 2\nrate_limit_per_minute: 100000" });
  await hub.report();
  for (let round = 1; round <= 3; round++) {
    await until("it fell", () => statuses(hub)["web-1"] !== "online");
    // Reports rain while the switch may still be falling.
    await Promise.all(Array.from({ length: 20 }, () => hub.report()));
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", alerts: [] });
  }
  const types = hub.rows<{ type: string }>("SELECT type FROM events ORDER BY id").map(({ type }) => type);
  for (const [index, type] of types.entries()) {
    const last = types[index - 1] ?? "host.recovered";
    if (type === "host.stale") expect(last).toBe("host.recovered");
    else if (type === "host.offline") expect(last).toBe("host.stale");
    else expect(last).toMatch(/stale|offline/);
  }
  expect(types.filter((type) => type === "host.recovered").length).toBe(3);
  // It falls again meanwhile: as many lines as there are events by then.
  const events = () => hub.rows("SELECT 1 FROM events WHERE quiet = 0").length;
  await until("each event is one line", () => inboxLines(hub.inbox, "ops").length === events());
});

testOnFile("a damaged page of the store is 503 and told as that, and no host is told offline for it", async () => {
  await using hub = await Hub.start({ more: "poll_interval_seconds: 1\nrate_limit_per_minute: 1000" });
  await hub.report();
  await hub.daemon.kill();
  const [index] = hub.rows<{ page: number }>(
    "SELECT rootpage AS page FROM sqlite_master WHERE name = 'sqlite_autoindex_tokens_1'",
  );
  const [{ page_size: size }] = hub.rows<{ page_size: number }>("PRAGMA page_size") as [{ page_size: number }];
  const fd = openSync(join(hub.data, "receiver.db"), "r+");
  writeSync(fd, crypto.getRandomValues(new Uint8Array(size)), 0, size, (index!.page - 1) * size);
  closeSync(fd);
  await hub.up();
  const start = performance.now();
  await until("reports have come for longer than a host may be silent", async () => {
    const answer = await hub.report();
    expect([answer.status, await answer.json()]).toEqual([503, expect.objectContaining({ code: "store" })]);
    return performance.now() - start > 6000;
  });
  expect(statuses(hub)).toEqual({ "web-1": "online" });
  const health = await fetch(`${hub.url}/health`);
  expect([health.status, await health.json()]).toEqual([
    503,
    expect.objectContaining({ problem: expect.stringContaining("damaged") }),
  ]);
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 1);
  await hub.daemon.kill();
  await hub.up();
  expect((await hub.report()).status).toBe(503);
  await hub.daemon.said("the store is damaged");
  expect(inboxLines(hub.inbox, "ops").map(({ source, priority }) => [source, priority])).toEqual([
    ["receiver:store.damaged", "urgent"],
  ]);
  // A file that is no database at all.
  await hub.daemon.kill();
  writeFileSync(join(hub.data, "receiver.db"), crypto.getRandomValues(new Uint8Array(9000)));
  const { code, stderr } = await hub.run("host", "list");
  expect([code, stderr]).toEqual([1, expect.stringContaining("picket-receiver restore FILE")]);
});

test("archived and pending hosts raise nothing", async () => {
  await using hub = await Hub.start({ more: "poll_interval_seconds: 1", hosts: ["web-1", "web-2", "web-3"] });
  await hub.report();
  await hub.report(report(), { host: "web-2" });
  // The command may take longer to start than web-2 may be silent: while it runs nobody looks.
  await hub.daemon.kill("SIGKILL");
  await hub.run("host", "archive", "web-2");
  await hub.up();
  await until("web-1 is offline", () => statuses(hub)["web-1"] === "offline");
  expect(statuses(hub)).toEqual({ "web-1": "offline", "web-2": "archived", "web-3": "pending" });
  expect(hub.rows("SELECT DISTINCT host FROM events")).toEqual([{ host: 1 }]);
});

test.skipIf(!have("strace", "a fleet that falls silent at once"))(
  "a fleet that falls silent at once is no absence of the receiver's, however slow its disk",
  async () => {
    await using hub = new Hub();
    await hub.addHost("web-0");
    hub.change((db) => {
      const insert = db.query(
        "INSERT INTO hosts (name, status, created_at, last_seen_at, told_interval) VALUES (?, 'online', 0, ?, 2)",
      );
      for (let n = 1; n <= 150; n++) insert.run(`web-${n}`, Date.now());
    });
    await hub.up();
    // Each sync takes as long as on a disk that turns.
    const slow = ["trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=30000"];
    const strace = Bun.spawn([
      "strace",
      "-f",
      "-qq",
      "-o",
      "/dev/null",
      "-e",
      ...slow,
      "-p",
      String(hub.daemon.child.pid),
    ]);
    try {
      const silent = () => hub.rows<{ hosts: number }>("SELECT COUNT(*) AS hosts FROM hosts WHERE status = 'offline'");
      await until("all are offline", () => silent()[0]?.hosts === 150);
      expect(hub.daemon.log.filter((line) => line.includes("was away"))).toEqual([]);
    } finally {
      strace.kill();
      await strace.exited;
    }
  },
);
