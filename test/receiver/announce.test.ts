// What is told of alerts: grouped, once, not too often, and after a kill.
// Time that has to pass is put into the store while the daemon is down: the running time, or how long ago an alert changed.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { MIGRATIONS } from "../../lib/receiver/migrations.ts";
import { inboxLines, until } from "../kit.ts";
import { Hub, TELLS_SOON, addHosts, container, report, runOn, statuses } from "./kit.ts";
import { testOnFile } from "./store-kit.ts";

type Row = Record<string, unknown>;

const texts = (hub: Hub): string[] => inboxLines(hub.inbox, "ops").map(({ payload }) => String(payload));
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** Reports of a host that keeps to a long interval: it is not silent soon. */
const lasting = (more: Row = {}): Row => report({ interval_seconds: 3600, ...more });
const app = (more: Row = {}): Row => lasting({ containers: [container("app", more)] });
const send = async (hub: Hub, body: Row, host = "web-1"): Promise<void> =>
  expect((await hub.report(body, { host })).status).toBe(200);

/** As if all of an hour had passed for what was told and changed. */
async function later(hub: Hub, ms: number): Promise<void> {
  await hub.daemon.kill("SIGKILL");
  runOn(hub, ms);
  await hub.up();
}

test("40 hosts that fall silent at once are one line, and so are those that come back, with a restart in the middle of each", async () => {
  await using hub = new Hub({ more: TELLS_SOON.replace("seconds: 1", "seconds: 4"), target: "binary" });
  const hosts = Array.from({ length: 40 }, (_, n) => `node-${String(n).padStart(2, "0")}`);
  await hub.addHost(hosts[0]!);
  addHosts(hub, hosts.slice(1));
  await hub.up();
  const all = () => Promise.all(hosts.map((host) => send(hub, report(), host)));
  await all();
  await hub.daemon.kill("SIGKILL");
  hub.change((db) => db.run("UPDATE hosts SET heard_ms = (SELECT MAX(heard_ms) FROM hosts) - 14500"));
  await hub.up();
  await until("some are offline", () => Object.values(statuses(hub)).includes("offline"));
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  await until("it is told", () => texts(hub).length > 0);
  const names = `${hosts.slice(0, 9).join(", ")} and 31 more`;
  expect(texts(hub)).toEqual([
    expect.stringMatching(new RegExp(`^40 hosts are offline: ${names} \\(no report for \\d\\ds\\)$`)),
  ]);
  expect(inboxLines(hub.inbox, "ops")[0]).toMatchObject({ priority: "urgent", source: "receiver:host.offline" });
  const { alerts } = await hub.get<{ alerts: Row[] }>("/v1/alerts?state=open");
  expect(alerts.map(({ type, closed_at }) => [type, closed_at])).toEqual(hosts.map(() => ["host.offline", null]));
  const back = (some: string[]) => Promise.all(some.map((host) => send(hub, lasting(), host)));
  await back(hosts.slice(20));
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  await back(hosts.slice(0, 20));
  await until("that is told", () => texts(hub).length > 1);
  expect(texts(hub)[1]).toStartWith("40 hosts are back: ");
  // Each host's silence began with an event that is in the log alone.
  const quiet = hub.rows("SELECT 1 FROM events WHERE type = 'host.stale' AND quiet = 1");
  expect([quiet.length, texts(hub).length]).toEqual([40, 2]);
  expect((await hub.get<{ alerts: Row[] }>("/v1/alerts?host=node-07&limit=1")).alerts).toEqual([
    expect.objectContaining({ host: "node-07", type: "host.offline", closed_at: expect.stringMatching(/Z$/) }),
  ]);
});

test("what changes again within an hour has to last, the sixth change is told as flapping, then nothing until it is still", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const ill = () => send(hub, app({ health_status: "unhealthy" }));
  const well = () => send(hub, app({ health_status: "healthy" }));
  const open = async () => (await hub.get<{ alerts: Row[] }>("/v1/alerts?state=open")).alerts.length;
  const seen = () =>
    until("both changes are seen", () => hub.rows("SELECT 1 FROM alerts WHERE changed_ran IS NULL").length === 0);
  const lines = ["web-1: container app is unhealthy; docker logs --tail 50 app", "web-1: container app is well again"];
  await well();
  await ill();
  await until("the first is told", () => texts(hub).length === 1);
  await well();
  await until("its end is told", () => texts(hub).length === 2);
  for (let change = 3; change <= 5; change++) {
    await (change % 2 === 0 ? well() : ill());
    await seen();
  }
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  expect(texts(hub)).toEqual(lines);
  await well();
  await until("it is told as flapping", () => texts(hub).length === 3);
  expect(texts(hub)[2]).toMatch(/^web-1: app \(container.unhealthy\) is flapping: changed 6 times in \d+s$/);
  for (let change = 7; change <= 9; change++) {
    await (change % 2 === 0 ? well() : ill());
    await seen();
  }
  expect([texts(hub).length, await open()]).toEqual([3, 1]);
  await later(hub, 31 * MINUTE_MS);
  await until("it is told to be still", () => texts(hub).length === 4);
  expect(texts(hub)[3]).toBe(`${lines[0]}, for 30m 00s now, after flapping`);
  await later(hub, 61 * MINUTE_MS);
  await well();
  await until("what comes then is told at once", () => texts(hub).length === 5);
  expect(texts(hub)[4]).toBe(lines[1]);
});

test.each([
  ["goes and comes back for 6 minutes each", 6, 6],
  ["goes for 4 minutes and comes back for 8", 4, 8],
])("a host that flaps for an hour is three lines, with restarts all the while: it %s", async (_what, away, back) => {
  await using hub = await Hub.start({ hosts: ["web-1", "pi"], more: TELLS_SOON, target: "binary" });
  /** A look has passed: it has seen what changed at another host. */
  const looked = async (round: string) => {
    await send(hub, app({ name: round, health_status: "unhealthy" }), "pi");
    await until("a look", () => hub.rows("SELECT 1 FROM alerts WHERE changed_ran IS NULL").length === 0);
  };
  const lasts = async (minutes: number, round: string) => {
    await later(hub, minutes * MINUTE_MS + 1000);
    await looked(round);
  };
  const silentMs = 4 * MINUTE_MS;
  for (let at = 0; at < 60; at += away + back) {
    await send(hub, report({ interval_seconds: 60 }));
    await looked(`is-back-${at}`);
    await lasts(back, `back-${at}`);
    await hub.daemon.kill("SIGKILL");
    runOn(hub, silentMs);
    hub.change((db) => db.run("UPDATE hosts SET heard_ms = heard_ms - ? WHERE name = 'web-1'", [silentMs]));
    await hub.up();
    await until("it is offline", () => statuses(hub)["web-1"] === "offline");
    await looked(`is-gone-${at}`);
    await lasts(away, `gone-${at}`);
  }
  expect(texts(hub).filter((text) => text.includes("web-1"))).toEqual([
    expect.stringContaining("web-1 is offline"),
    expect.stringContaining("web-1 is back"),
    expect.stringMatching(/^web-1 is flapping: changed [67] times in \d+m \d\ds$/),
  ]);
});

test("a critical alert is told again after a day, unless it is acknowledged", async () => {
  await using hub = await Hub.start({ hosts: ["web-1", "web-2"], more: TELLS_SOON });
  await send(hub, report());
  await until("it is told", () => texts(hub).length === 1);
  const day = 24 * 60 * MINUTE_MS;
  await later(hub, day);
  await until("it is told again", () => texts(hub).length === 2);
  expect(texts(hub)[1]).toMatch(/^still, for 1d 00h: web-1 is offline: no report for \d+s/);
  const [{ id }] = JSON.parse((await hub.run("alerts", "--json")).stdout) as [{ id: number }];
  expect((await hub.run("alerts")).stdout).toMatch(new RegExp(`^${id} +critical +\\S+Z +open +web-1 is offline`, "m"));
  expect((await hub.run("alerts", "ack", "999")).code).toBe(2);
  expect((await hub.run("alerts", "ack", String(id), "--by", "bob")).stdout).toContain("acknowledged");
  expect((await hub.run("alerts")).stdout).toContain("  acknowledged by bob  ");
  await later(hub, day);
  await send(hub, report(), "web-2");
  await until("another host is told", () => texts(hub).length === 3);
  expect(texts(hub)[2]).toContain("web-2 is offline");
  const { alerts } = await hub.get<{ alerts: Row[] }>("/v1/alerts?host=web-1");
  expect(alerts[0]).toMatchObject({ id, acknowledged_by: "bob", acknowledged_at: expect.stringMatching(/Z$/) });
  await send(hub, lasting());
  await until("its end is told", () => texts(hub).some((text) => text.includes("web-1 is back")));
  expect((await hub.run("alerts", "--all")).stdout).toMatch(new RegExp(`^${id} +critical +\\S+Z +\\S+Z +web-1`, "m"));
});

test("what begins and ends before it is told is an alert and no event; a look that is killed tells it once", async () => {
  await using hub = await Hub.start({ more: "poll_interval_seconds: 8\nrate_limit_per_minute: 100000" });
  await send(hub, app({ health_status: "healthy" }));
  await send(hub, app({ health_status: "unhealthy" }));
  await send(hub, app({ health_status: "healthy" }));
  await send(hub, app({ state: "exited", status: "Exited (1)" }));
  for (let kills = 0; kills < 3; kills++) {
    await hub.daemon.kill("SIGKILL");
    await hub.up();
  }
  await until("it is told", () => texts(hub).length > 0);
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  await send(hub, app({ health_status: "healthy" }));
  await until("its end is told", () => texts(hub).length > 1);
  expect(texts(hub)).toEqual([
    "web-1: container app has stopped (Exited (1)); docker logs --tail 50 app",
    "web-1: container app is well again",
  ]);
  const { alerts } = await hub.get<{ alerts: Row[] }>("/v1/alerts?state=closed");
  expect(alerts.map(({ type }) => type)).toEqual(["container.stopped", "container.unhealthy"]);
  expect(hub.rows("SELECT type FROM events ORDER BY id")).toEqual([
    { type: "container.stopped" },
    { type: "container.recovered" },
  ]);
});

test("alerts can be asked for by host and state; a wrong question is 400", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  await send(hub, app({ health_status: "unhealthy" }));
  const { alerts } = await hub.get<{ alerts: Row[] }>("/v1/alerts");
  expect(alerts).toEqual([
    {
      id: 1,
      host: "web-1",
      job: null,
      type: "container.unhealthy",
      subject: "app",
      what: "container.unhealthy app",
      severity: "warning",
      text: "web-1: container app is unhealthy; docker logs --tail 50 app",
      figures: null,
      opened_at: expect.stringMatching(/Z$/),
      closed_at: null,
      acknowledged_at: null,
      acknowledged_by: null,
    },
  ]);
  for (const [query, status] of [
    ["state=odd", 400],
    ["limit=0", 400],
    ["host=nas", 404],
  ] as const) {
    expect([query, (await fetch(`${hub.url}/v1/alerts?${query}`)).status]).toEqual([query, status]);
  }
});

test("an end that is not told joins no group of ends that are", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const all = (state: string, names: string[]) =>
    lasting({ containers: names.map((name) => container(name, { state, labels: {} })) });
  await send(hub, all("running", ["app", "db"]));
  await send(hub, all("exited", ["app", "db"]));
  await until("both are told", () => texts(hub).length === 1);
  await send(hub, all("running", ["app"]));
  await until("one is well", () => texts(hub).length === 2);
  expect(texts(hub)[1]).toBe("web-1: container app is well again");
});

test("a container and a pool's kind may have the name of what every object has", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  for (const started of [1, 2, 3, 4]) {
    const started_at = `2026-01-31T12:0${started}:00Z`;
    const named = ["constructor", "__proto__"].map((name) => container(name, { started_at, labels: {} }));
    const host = { ...(report()["host"] as Row), pools: [{ name: "tank", kind: "__proto__", state: "online" }] };
    await send(hub, lasting({ host, containers: named }));
  }
  await until("it is told", () => texts(hub).length === 1);
  expect(texts(hub)[0]).toContain("2 containers restart again and again: web-1: __proto__, web-1: constructor");
});

testOnFile("a store of before: what was told is told no more, and how long it has been is right", async () => {
  await using hub = new Hub({ more: TELLS_SOON });
  mkdirSync(hub.data);
  const now = Date.now();
  hub.change((db) => {
    db.run("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)");
    for (const step of MIGRATIONS.slice(0, 3).flat()) db.run(step);
    const alive = JSON.stringify({ ran: 5 * DAY_MS, line: now, doubted: null });
    db.run("INSERT INTO meta VALUES ('schema_version', '3'), ('alive', ?)", [alive]);
    db.run(
      `INSERT INTO hosts (id, name, status, created_at, last_seen_at, heard_ms, told_interval, extras) VALUES
       (1, 'nas', 'offline', 0, 0, 0, 60, '{"backups":[7]}'), (2, 'pi', 'online', 0, ?1, ?2, 3600, '{}')`,
      [now, 5 * DAY_MS],
    );
    db.run(
      `INSERT INTO alerts (host, what, severity, text, opened_at, muted) VALUES
       (1, 'host.offline', 'critical', 'nas is offline', ?1, 0), (2, 'container.unhealthy app', 'warning', 'app is ill', ?1, 1)`,
      [now - HOUR_MS],
    );
    db.run(
      "INSERT INTO events (at, type, severity, host, text, told_at) VALUES (1, 'x', 'info', 2, 'waits', NULL), (1, 'x', 'info', 2, 'told', 0)",
    );
  });
  await hub.up();
  expect(await hub.get("/v1/hosts/nas")).toMatchObject({ backups: [7] });
  await until("what waits is told", () => texts(hub).length === 2);
  await later(hub, DAY_MS);
  await until("it is told again", () => texts(hub).length === 3);
  expect(texts(hub)).toEqual(["waits", "app is ill", expect.stringMatching(/^still, for 1d 01h: nas is offline/)]);
});
