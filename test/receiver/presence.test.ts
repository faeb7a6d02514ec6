// The dead-man's switch, with the clock of a real receiver set by libfaketime; history, rollups and retention likewise.
// Not tested here: a machine that sleeps (its clock jumps, which is).

import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, inboxLines, until } from "../kit.ts";
import { Clock, Hub, archive, container, faketime, report } from "./kit.ts";

const library = faketime("the receiver's clock");

type Row = Record<string, string>;

/** A receiver whose clock the test sets, with hosts that have reported. */
async function start(folder: Folder, hosts: string[], more = ""): Promise<{ hub: Hub; clock: Clock }> {
  const clock = new Clock(folder, library!);
  const hub = new Hub({ env: clock.env, more: `rate_limit_per_minute: 100000\n${more}` });
  await hub.addHost(hosts[0]!);
  // The others in one go: a process each would take its time.
  addHosts(hub, hosts.slice(1));
  await hub.up();
  return { hub, clock };
}

function addHosts(hub: Hub, names: string[]): void {
  const db = new Database(join(hub.data, "receiver.db"));
  for (const name of names) {
    const token = `pk_${Buffer.from(crypto.getRandomValues(new Uint8Array(20))).toString("hex")}`;
    const sha256 = new Bun.CryptoHasher("sha256").update(token).digest("hex");
    const [{ id }] = db
      .query("INSERT INTO hosts (name, status, created_at) VALUES (?, 'pending', 0) RETURNING id")
      .all(name) as [{ id: number }];
    db.query("INSERT INTO tokens (host, sha256, created_at) VALUES (?, ?, 0)").run(id, sha256);
    hub.tokens.set(name, token);
  }
  db.close();
}

/** A report as of the receiver's clock. */
async function reportAt(hub: Hub, seconds: number, host = "web-1", more: Record<string, unknown> = {}): Promise<void> {
  const answer = await hub.report(report(more, -seconds * 1000), { host });
  if (answer.status !== 200) throw new Error(await answer.text());
}

function statuses(hub: Hub): Record<string, string> {
  const rows = hub.rows<{ name: string; status: string }>("SELECT name, status FROM hosts");
  return Object.fromEntries(rows.map(({ name, status }) => [name, status]));
}

describe.skipIf(!library)("with a clock that is set", () => {
  test("ten minutes of the receiver's own absence alarm nobody among 200 hosts; the one that stays silent afterwards does", async () => {
    using folder = new Folder();
    const hosts = Array.from({ length: 200 }, (_, n) => `host-${n}`);
    const { hub, clock } = await start(folder, hosts, "poll_interval_seconds: 4");
    await using _ = hub;
    await Promise.all(hosts.map((host) => reportAt(hub, 0, host)));
    await hub.daemon.kill("SIGKILL");
    clock.offset(600);
    await hub.up();
    // The last mark that it was alive is up to five seconds old, and a start takes its time.
    await hub.daemon.said(/was away.*seconds=(59\d|6\d\d)/);
    expect(new Set(Object.values(statuses(hub)))).toEqual(new Set(["online"]));
    await until(
      "the silent one is offline",
      async () => {
        await Promise.all(hosts.slice(1).map((host) => reportAt(hub, 600, host)));
        return statuses(hub)["host-0"] === "offline";
      },
      45,
    );
    expect(Object.values(statuses(hub)).filter((status) => status === "online").length).toBe(199);
    await until("it is told", () => inboxLines(hub.inbox, "ops").length >= 2);
    expect(inboxLines(hub.inbox, "ops").map(({ source }) => source)).toEqual([
      "receiver:host.stale",
      "receiver:host.offline",
    ]);
  }, 120_000);

  test.each([3600, 86_400, -3600, -86_400])(
    "a clock that jumps by %d s alarms nobody, and the switch goes on",
    async (jump) => {
      using folder = new Folder();
      const { hub, clock } = await start(folder, ["web-1", "web-2"], "poll_interval_seconds: 2");
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
    60_000,
  );

  test("after the clock was set back a host that reports once more and falls silent is told in time", async () => {
    using folder = new Folder();
    const { hub, clock } = await start(folder, ["web-1"], "poll_interval_seconds: 1");
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
  }, 120_000);

  test("a receiver that is stopped for a while (SIGSTOP) alarms nobody for that", async () => {
    using folder = new Folder();
    const { hub, clock } = await start(folder, ["web-1"], "poll_interval_seconds: 60");
    await using _ = hub;
    await reportAt(hub, 0);
    hub.daemon.child.kill("SIGSTOP");
    clock.offset(1800);
    hub.daemon.child.kill("SIGCONT");
    await hub.daemon.said(/was away.*seconds=18\d\d/);
    expect(statuses(hub)).toEqual({ "web-1": "online" });
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
  }, 120_000);

  test("uploads that are refused for half an hour are told, those a day apart are not; so are unusual pauses, but not the receiver's own", async () => {
    using folder = new Folder();
    const { hub, clock } = await start(folder, ["web-1"], "poll_interval_seconds: 86400");
    await using _ = hub;
    const bytes = await archive("x");
    const alerts = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    const refuse = async () =>
      expect((await hub.ship("bad", bytes, { headers: { "x-schema-version": "9" } })).status).toBe(400);
    await reportAt(hub, 0);
    await refuse();
    clock.offset(2 * 86_400);
    await refuse();
    expect(await alerts()).toEqual([]);
    clock.offset(2 * 86_400 + 1900);
    await refuse();
    expect(await alerts()).toEqual(["host.uploads_failing"]);
    let at = 2 * 86_400 + 2000;
    for (let n = 0; n < 6; n++, at += 600) {
      clock.offset(at);
      expect((await hub.ship(`good-${n}`, bytes)).status).toBe(201);
    }
    expect(await alerts()).toEqual([]);
    // Away for five hours: what was quiet meanwhile says nothing.
    await hub.daemon.kill("SIGKILL");
    at += 5 * 3600;
    clock.offset(at);
    await hub.up();
    await until("it was looked", async () => (await hub.get<{ uptime_sec: number }>("/health")).uptime_sec >= 1);
    expect(await alerts()).toEqual([]);
  }, 120_000);

  test("samples that wait for their rollup outlive a long absence", async () => {
    using folder = new Folder();
    const { hub, clock } = await start(folder, ["web-1"]);
    await using _ = hub;
    await reportAt(hub, 0);
    await hub.daemon.kill("SIGKILL");
    clock.offset(3 * 86_400);
    await hub.up();
    const rolled = () => hub.rows<{ metrics: string }>("SELECT metrics FROM host_rollups WHERE step = 86400");
    await until("the day is rolled up", () => rolled().length === 1);
    expect(JSON.parse(rolled()[0]!.metrics)).toMatchObject({ cpu_percent: [12.5, 12.5, 12.5, 1] });
  }, 120_000);

  test("samples become rollups, late ones too; old grains go, and a page over a year reads hundreds of rows", async () => {
    using folder = new Folder();
    const { hub, clock } = await start(folder, ["web-1"]);
    await using _ = hub;
    const day = 86_400;
    const hourStart = Math.ceil(Date.now() / 3_600_000) * 3600 - Math.floor(Date.now() / 1000);
    const send = async (at: number, cpu: number, usage: number, more = {}) => {
      const body = report(
        {
          host: { metrics: { cpu_percent: cpu } },
          containers: [container("app", { metrics: { memory_usage_mb: usage, memory_limit_mb: 100 } })],
        },
        -at * 1000,
      );
      expect((await hub.report({ ...body, ...more })).status).toBe(200);
    };
    clock.offset(hourStart + 30);
    for (const [n, cpu] of [10, 20, 60].entries()) await send(hourStart + n * 5, cpu, cpu);
    clock.offset(hourStart + 3700);
    const hours = () => hub.rows<{ metrics: string }>("SELECT metrics FROM host_rollups WHERE step = 3600");
    await hub.daemon.kill();
    await hub.up();
    await until("the hour is rolled up", () => hours().length === 1);
    expect(JSON.parse(hours()[0]!.metrics)).toEqual({ cpu_percent: [10, 30, 60, 3] });
    // A late one makes it anew.
    await send(hourStart + 20, 100, 100, { sent_at: new Date(Date.now() + (hourStart + 3700) * 1000).toISOString() });
    await hub.daemon.kill();
    await hub.up();
    await until("the hour is made anew", () => hours()[0]!.metrics.includes("100"));
    expect(JSON.parse(hours()[0]!.metrics)).toEqual({ cpu_percent: [10, 47.5, 100, 4] });
    const iso = (seconds: number) => new Date(Date.now() + seconds * 1000).toISOString();
    const page = (query: string) =>
      hub.get<{ points: { min: number; mean: number; max: number }[]; step_seconds: number }>(
        `/v1/hosts/web-1/history?${query}`,
      );
    const range = `from=${iso(hourStart - 60)}&to=${iso(hourStart + 3600)}`;
    expect((await page(`metric=cpu_percent&${range}&points=1`)).points).toMatchObject([
      { min: 10, mean: 47.5, max: 100 },
    ]);
    expect((await page(`metric=cpu_percent&${range}&points=10000`)).points.length).toBe(4);
    expect((await page(`metric=memory_percent&container=app&${range}&points=1`)).points).toMatchObject([
      { min: 10, max: 100 },
    ]);
    // Three days later the samples are gone, after a year and a day the rest.
    clock.offset(hourStart + 3 * day);
    await hub.daemon.kill();
    await hub.up();
    await until("raw samples are gone", () => hub.rows("SELECT 1 FROM host_samples").length === 0);
    await until("the day is rolled up", () => hub.rows("SELECT 1 FROM host_rollups WHERE step = 86400").length === 1);
    expect(
      (await page(`metric=cpu_percent&from=${iso(hourStart - day)}&to=${iso(hourStart + 3 * day)}`)).points,
    ).toMatchObject([{ mean: 47.5 }]);
    expect(
      (await page(`metric=cpu_percent&from=${iso(hourStart - 360 * day)}&to=${iso(hourStart + 3 * day)}`)).step_seconds,
    ).toBeGreaterThan(86_400);
    clock.offset(hourStart + 368 * day);
    await hub.daemon.kill();
    await hub.up();
    await until(
      "rollups are gone",
      () => hub.rows("SELECT 1 FROM host_rollups").length + hub.rows("SELECT 1 FROM workload_rollups").length === 0,
    );
    const bad = async (query: string) => (await fetch(`${hub.url}/v1/hosts/web-1/history?${query}`)).status;
    expect([
      await bad("metric=nothing"),
      await bad("from=never"),
      await bad("points=0"),
      await bad("container=none"),
    ]).toEqual([400, 400, 400, 404]);
  }, 120_000);
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
  await hub.report();
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", alerts: [] });
  await until("all is told", () => inboxLines(hub.inbox, "ops").length >= 3);
  const lines = inboxLines(hub.inbox, "ops");
  expect(lines.map(({ from, to, type, priority, source }) => [from, to, type, priority, source])).toEqual([
    ["receiver", "ops", "INFO", "normal", "receiver:host.stale"],
    ["receiver", "ops", "INFO", "urgent", "receiver:host.offline"],
    ["receiver", "ops", "INFO", "normal", "receiver:host.recovered"],
  ]);
  expect(lines[1]!["payload"]).toMatch(/^web-1 is offline: no report for \d\ds \(every 3 s expected\)$/);
  expect(lines[2]!["payload"]).toMatch(/^web-1 is back after \d\ds$/);
  const { events } = await hub.get<{ events: Row[] }>("/v1/events");
  expect(events.map(({ type, severity }) => [type, severity])).toEqual([
    ["host.stale", "warning"],
    ["host.offline", "critical"],
    ["host.recovered", "info"],
  ]);
}, 60_000);

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
  const events = () => hub.rows("SELECT 1 FROM events").length;
  await until("each event is one line", () => inboxLines(hub.inbox, "ops").length === events());
}, 60_000);

test("an inbox that can't be written delays what is told and loses nothing; what was told but not noted is not told twice", async () => {
  await using hub = new Hub({ more: "poll_interval_seconds: 1" });
  writeFileSync(hub.inbox, "a file where the folder should be");
  await hub.addHost("web-1");
  await hub.up();
  await hub.report();
  await until("offline", () => statuses(hub)["web-1"] === "offline");
  await hub.daemon.said("pass failed");
  await hub.daemon.kill("SIGKILL");
  renameSync(hub.inbox, `${hub.inbox}.away`);
  await hub.up();
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 2);
  await hub.daemon.kill("SIGKILL");
  const db = new Database(join(hub.data, "receiver.db"));
  db.run("UPDATE events SET told_at = NULL");
  db.close();
  await hub.up();
  const untold = () => hub.rows<{ n: number }>("SELECT COUNT(*) AS n FROM events WHERE told_at IS NULL")[0]!.n;
  await until("it is noted", () => untold() === 0);
  expect(inboxLines(hub.inbox, "ops").length).toBe(2);
}, 60_000);

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
}, 60_000);
