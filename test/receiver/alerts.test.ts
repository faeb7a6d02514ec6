// What gets worse or better on a host: an event, an alert, a line in the inbox, once.

import { describe, expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { inboxLines, until } from "../kit.ts";
import { Hub, TELLS_SOON, container, report } from "./kit.ts";
import { testOnFile } from "./store-kit.ts";

type Row = Record<string, unknown>;

describe("containers", () => {
  test("what gets worse or better is an event, an alert and a line in the inbox, once", async () => {
    await using hub = await Hub.start({ more: TELLS_SOON });
    const send = async (more: Row) => {
      const body = report({ interval_seconds: 3600, containers: [container("app", more)] });
      expect((await hub.report(body)).status).toBe(200);
    };
    const told = (lines: number) => until("it is told", () => inboxLines(hub.inbox, "ops").length === lines);
    await send({ health_status: "starting" });
    await send({ health_status: "unhealthy" });
    await send({ health_status: "unhealthy", status: "Up 5 hours (unhealthy)" });
    const open = async () =>
      (await hub.get<{ alerts: { what: string }[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    expect(await open()).toEqual(["container.unhealthy app"]);
    await told(1);
    await send({ state: "exited", status: "Exited (137) 1 second ago", health_status: null });
    expect(await open()).toEqual(["container.unhealthy app", "container.stopped app"]);
    await send({ health_status: "starting" });
    expect((await open()).length).toBe(2);
    await told(2);
    // One recovery of both.
    await send({ health_status: "healthy" });
    expect(await open()).toEqual([]);
    await told(3);
    await send({ state: "exited" });
    expect(await open()).toEqual(["container.stopped app"]);
    // Taken away: that closes its alerts.
    expect((await hub.report(report({ interval_seconds: 3600, containers: [] }))).status).toBe(200);
    expect(await open()).toEqual([]);
    await hub.daemon.kill();
    expect(inboxLines(hub.inbox, "ops").map(({ payload, source }) => [payload, source])).toEqual([
      ["web-1: container app is unhealthy; docker logs --tail 50 app", "receiver:container.unhealthy"],
      [
        "web-1: container app has stopped (Exited (137) 1 second ago); docker logs --tail 50 app",
        "receiver:container.stopped",
      ],
      ["web-1: container app is well again", "receiver:container.recovered"],
    ]);
  });

  test("one that comes back unhealthy after a stop is told, and a renamed one leaves no alert behind", async () => {
    await using hub = await Hub.start();
    const send = (more: Row) => hub.report(report({ containers: [{ ...container("one"), ...more }] }));
    const open = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    await send({ health_status: "healthy" });
    await send({ health_status: "unhealthy", state: "exited" });
    await send({ health_status: "unhealthy" });
    expect(await open()).toEqual(["container.stopped one", "container.unhealthy one"]);
    await send({ health_status: "unhealthy", name: "two" });
    await send({ health_status: "healthy", name: "two" });
    expect(await open()).toEqual([]);
  });

  test("what restarts in a loop is told once, what has done its work or was replaced is no trouble", async () => {
    const running = (more: Row = {}) => container("app", { started_at: "2026-11-01T10:00:00Z", ...more });
    const anew = (n: number) => running({ container_id: `id-${n}` });
    const task = (id: string, more: Row) =>
      container(`web.1.${id}`, { labels: { "com.docker.swarm.task.name": `web.1.${id}` }, ...more });
    const exited = (code: number) => ({ state: "exited", status: `Exited (${code}) 5 seconds ago` });
    const waiting = running({ state: "restarting", status: "Restarting (1) 3 seconds ago" });
    const at = (minute: number) => running({ started_at: `2026-11-01T10:0${minute}:00Z` });
    const restarting = ["container.restarting"];
    const flap = ["container.stopped", "container.recovered"];
    const tables: [string, Row[][], string[], string[]][] = [
      [
        "waits for a restart in three reports",
        [[running()], [waiting], [waiting], [running()], [waiting], [waiting]],
        restarting,
        restarting,
      ],
      ["was started anew each time", [[at(1)], [at(2)], [at(3)], [at(4)]], restarting, restarting],
      ["is made anew each time", [[anew(1)], [anew(2)], [anew(3)], [anew(4)]], restarting, restarting],
      [
        "ends and starts, by an agent that doesn't say when",
        ["Exited (1)", "Exited (137)", "exited", "x"].flatMap((status, n) => [
          [running({ state: n < 2 ? "running" : "Running", started_at: null })],
          [running({ state: ["exited", "Exited", "stopped", "dead"][n]!, started_at: null, status })],
        ]),
        [...flap, ...flap, ...flap, "container.restarting", "container.stopped"],
        ["container.restarting", "container.stopped"],
      ],
      ["was restarted twice", [[at(1)], [at(2)], [at(2)], [at(3)]], [], []],
      [
        "works now and then",
        [[at(1)], [running(exited(0))], [at(2)], [running(exited(0))], [at(3)], [running(exited(0))], [at(4)]],
        [],
        [],
      ],
      ["ends with 0", [[running()], [running(exited(0))]], [], []],
      [
        "fails, then ends with 0",
        [[running()], [running(exited(1))], [running(exited(0))]],
        ["container.stopped", "container.recovered"],
        [],
      ],
      [
        "is paused",
        [[running()], [running({ state: "paused", status: "Up 2 days (Paused)" })]],
        ["container.stopped"],
        ["container.stopped"],
      ],
      ["task replaced before", [[task("a", {})], [task("a", exited(1)), task("b", {})]], [], []],
      [
        "task replaced later",
        [[task("a", {})], [task("a", exited(1))], [task("a", exited(1)), task("b", {})]],
        ["container.stopped", "container.recovered"],
        [],
      ],
      [
        "replaced under its name",
        [[running()], [running(exited(1))], [running({ container_id: "other" })]],
        ["container.stopped", "container.recovered"],
        [],
      ],
    ];
    const hosts = tables.map((_, n) => `host-${n}`);
    await using hub = await Hub.start({ more: TELLS_SOON, hosts });
    for (const [n, [what, reports, events, open]] of tables.entries()) {
      const host = hosts[n]!;
      for (const containers of reports) {
        expect((await hub.report(report({ interval_seconds: 60, containers }), { host })).status).toBe(200);
      }
      const sql = `SELECT type, recovery FROM alerts WHERE host = ${n + 1} ORDER BY id`;
      const rows = hub.rows<{ type: string; recovery: string | null }>(sql);
      const types = rows.flatMap(({ type, recovery }) => [type, ...(recovery === null ? [] : ["container.recovered"])]);
      expect([what, types]).toEqual([what, events]);
      const { alerts } = await hub.get<{ alerts: { what: string }[] }>(`/v1/hosts/${host}`);
      expect([what, alerts.map((one) => one.what.split(" ")[0])]).toEqual([what, open]);
    }
    const told = (what: RegExp) =>
      until(String(what), () => inboxLines(hub.inbox, "ops").some(({ payload }) => what.test(payload ?? "")));
    await told(/again and again.*host-1: app|host-1: container app restarts/);
    // Still for ten minutes: it is over.
    await hub.daemon.kill();
    hub.change((db) => db.run("UPDATE hosts SET restarts = '{\"app\":[-600001]}' WHERE name = 'host-1'"));
    await hub.up();
    const still = report({ interval_seconds: 60, containers: [at(4)] });
    expect((await hub.report(still, { host: "host-1" })).status).toBe(200);
    expect(await hub.get("/v1/hosts/host-1")).toMatchObject({ alerts: [] });
    await told(/host-1: container app no longer restarts/);
  });

  test("a late report leaves samples and changes nothing of the present", async () => {
    await using hub = await Hub.start();
    await hub.report(report({ containers: [container("app")] }));
    const before = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
    const late = report(
      {
        containers: [container("app", { state: "exited" }), container("old")],
        sent_at: new Date().toISOString(),
        host: { metrics: { cpu_percent: 99 }, facts: { os: "older" } },
      },
      7_200_000,
    );
    expect((await hub.report(late)).status).toBe(200);
    const after = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
    expect({ ...after, containers: after.containers.filter((one) => one["gone_at"] === null) }).toEqual(before);
    const { points } = await hub.get<{ points: { max: number }[] }>("/v1/hosts/web-1/history?metric=cpu_percent");
    expect(points.map(({ max }) => max)).toEqual([99, 12.5]);
  });
});

testOnFile(
  "after a backup is copied back every event is told, and a reader that is ahead or in between misses none",
  async () => {
    await using hub = await Hub.start({ more: TELLS_SOON });
    const file = join(hub.data, "receiver.db");
    type Page = { events: { id: number; subject: string }[]; next: number; reset?: boolean };
    const page = (since: number | string) => hub.get<Page>(`/v1/events?since=${encodeURIComponent(since)}`);
    const subjects = ({ events }: Page) => events.map(({ subject }) => subject);
    const ill = async (...names: string[]) => {
      for (const name of names) {
        const containers = [container(name, { health_status: "unhealthy" })];
        expect((await hub.report(report({ interval_seconds: 3600, containers }))).status).toBe(200);
        const text = `web-1: container ${name} is unhealthy; docker logs --tail 50 ${name}`;
        await until("it is told", () => inboxLines(hub.inbox, "ops").some(({ payload }) => payload === text));
      }
    };
    await ill("app-1");
    await hub.daemon.kill();
    copyFileSync(file, hub.folder.at("copy.db"));
    await hub.up();
    await ill("app-2", "app-3", "app-4");
    const { events, next } = await page(0);
    expect(subjects({ events, next })).toEqual(["app-1", "app-2", "app-3", "app-4"]);
    await hub.daemon.kill();
    copyFileSync(hub.folder.at("copy.db"), file);
    await hub.up();
    expect(await page(next)).toMatchObject({ events: [{ subject: "app-1" }], next: 1, reset: true });
    const stop = new AbortController();
    const headers = { accept: "text/event-stream", "last-event-id": String(next) };
    const stream = await fetch(`${hub.url}/v1/events`, { headers, signal: stop.signal });
    let got = "";
    const listening = (async () => {
      for await (const chunk of stream.body!.pipeThrough(new TextDecoderStream())) got += chunk;
    })().catch(() => {});
    await ill("db-1", "db-2", "db-3", "db-4");
    await until("the stream has all", () => got.includes('"subject":"db-4"'));
    expect(got).toContain(`event: reset\ndata: {"since":${next},"newest":1}`);
    for (const name of ["app-1", "db-1", "db-2", "db-3", "db-4"]) expect(got).toContain(`"subject":"${name}"`);
    // Of the numbers that were lost none is another event's, also where there are as many events again.
    for (const { id } of events.slice(1))
      expect(subjects(await page(id)).slice(-4)).toEqual(["db-1", "db-2", "db-3", "db-4"]);
    const newest = (await page(1)).events.at(-1)!.id;
    expect(await page(new Date().toISOString())).toEqual({ events: [], next: newest });
    expect(await page(newest)).toEqual({ events: [], next: newest });
    expect(new Set(inboxLines(hub.inbox, "ops").map(({ id }) => id)).size).toBe(8);
    stop.abort();
    await listening;
  },
);

test("what a setting switches off is over, and not told", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const send = (health_status: string) =>
    hub.report(report({ interval_seconds: 3600, containers: [container("app", { health_status })] }));
  const doctor = () =>
    fetch(`${hub.url}/v1/host-health/web-1`, {
      method: "PUT",
      headers: { ...hub.bearer(), "content-type": "application/json" },
      body: JSON.stringify({ checks: [{ name: "space", state: "red", detail: "2 % free" }] }),
    });
  await send("healthy");
  await send("unhealthy");
  await doctor();
  await until("both are told", () => inboxLines(hub.inbox, "ops").length === 2);
  const set = (...settings: string[]) =>
    hub.run("host", "set", "web-1", ...settings.flatMap((one) => ["--alert", one]));
  expect((await set("containers=off", "doctor=off")).code).toBe(0);
  await send("unhealthy");
  await doctor();
  expect((await hub.get<{ alerts: Row[] }>("/v1/alerts?state=open")).alerts).toEqual([]);
  await until("the end is noted", () => hub.rows("SELECT 1 FROM told WHERE ended IS NOT NULL").length === 2);
  expect(inboxLines(hub.inbox, "ops").length).toBe(2);
});

test("a host that is brought back begins anew: what is wrong is told, and no refusal of before counts", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const send = () =>
    hub.report(report({ interval_seconds: 3600, containers: [container("app", { health_status: "unhealthy" })] }));
  await send();
  await until("it is told", () => inboxLines(hub.inbox, "ops").length === 1);
  expect((await hub.report({ host: 1 })).status).toBe(422);
  await hub.run("host", "archive", "web-1");
  await hub.addHost("web-1");
  expect(hub.rows("SELECT refused, machines FROM hosts")).toEqual([{ refused: null, machines: null }]);
  await send();
  await until("it is told again", () => inboxLines(hub.inbox, "ops").length === 2);
});
