// Reports that want to do harm, come late, slowly or twice.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { inboxLines, until } from "../kit.ts";
import { TELLS_SOON, Hub, container, report, statuses } from "./kit.ts";

type Row = Record<string, unknown>;

describe("reports that want to do harm", () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  });
  afterAll(() => hub[Symbol.asyncDispose]());

  test("lists that are too long are refused by their length, nested and endless values by what they are", async () => {
    const fields = async (more: Row) => {
      const answer = await hub.report(report(more));
      const { fields: all } = (await answer.json()) as { fields: { field: string }[] };
      return [answer.status, all.map(({ field }) => field)];
    };
    let deep: unknown = 1;
    for (let n = 0; n < 5000; n++) deep = [deep];
    const many = Array.from({ length: 500_000 }, () => 0);
    expect(await fields({ guests: many })).toEqual([422, ["guests"]]);
    expect(await fields({ containers: many })).toEqual([422, ["containers"]]);
    expect(await fields({ storage_targets: many })).toEqual([422, ["storage_targets"]]);
    const odd = [container("a", { labels: { x: deep } }), container("b", { ports: [deep] }), container("c")];
    expect((await hub.report(report({ containers: odd }))).status).toBe(200);
    const { containers: shown } = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
    expect(shown.map(({ name }) => name)).toEqual(["c"]);
    await hub.daemon.said(/left out of a report.*containers\[1\].ports/);
    const endless = JSON.stringify(report())
      .replace('"load_average":0.5', '"load_average":1e999')
      .replace('"cpu_temp_c":41.5', '"cpu_temp_c":-1e999');
    const answer = await hub.report(endless);
    const { fields: named } = (await answer.json()) as { fields: { field: string }[] };
    expect(named.map(({ field }) => field)).toEqual(["host.metrics.load_average", "host.metrics.cpu_temp_c"]);
    const health = await fetch(`${hub.url}/v1/host-health/web-1`, {
      method: "PUT",
      headers: hub.bearer(),
      body: JSON.stringify(deep),
    });
    expect(health.status).toBe(422);
    const polluting = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}';
    expect(
      (
        await hub.report(
          JSON.stringify(report({ containers: [container("a", { labels: 0 })] })).replace(
            '"labels":0',
            `"labels":${polluting}`,
          ),
        )
      ).status,
    ).toBe(200);
    expect((await hub.report()).status).toBe(200);
  });

  test("one that comes slowly and is overtaken is a sign of life, and turns nothing back", async () => {
    const { hostname, port } = new URL(hub.url);
    const old = JSON.stringify(report({ containers: [container("old")] }));
    const socket = connect(Number(port), hostname);
    let answer = "";
    socket.on("data", (chunk) => (answer += chunk.toString()));
    const head = `POST /v1/host-report HTTP/1.1\r\nHost: x\r\nAuthorization: ${hub.bearer()["authorization"]}\r\nContent-Length: ${Buffer.byteLength(old)}\r\n\r\n`;
    socket.write(head + old.slice(0, 50));
    await until("it is in flight", async () =>
      (await (await fetch(`${hub.url}/metrics`)).text()).includes("in_flight 2"),
    );
    await Bun.sleep(5);
    expect((await hub.report(report({ containers: [container("new")] }))).status).toBe(200);
    const before = await hub.get<{ last_seen_at: string; last_recorded_at: string }>("/v1/hosts/web-1");
    await Bun.sleep(5);
    socket.write(old.slice(50));
    await until("it is answered", () => answer.startsWith("HTTP/1.1 200"));
    socket.destroy();
    const after = await hub.get<{ last_seen_at: string; last_recorded_at: string; containers: Row[] }>(
      "/v1/hosts/web-1",
    );
    expect(after.last_recorded_at).toBe(before.last_recorded_at);
    expect(Date.parse(after.last_seen_at)).toBeGreaterThan(Date.parse(before.last_seen_at));
    expect(after.containers.filter((one) => one["gone_at"] === null).map((one) => one["name"])).toEqual(["new"]);
  });
});

test("figures that took their time are no report from a queue", async () => {
  // More than half an interval; the host is online for two of them.
  await using hub = await Hub.start({ more: "poll_interval_seconds: 10" });
  expect((await hub.report(report({ sent_at: new Date().toISOString() }, 9000))).status).toBe(200);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
});

test("reports as other agents write them are taken, without the containers and guests that are odd", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000" });
  const now = () => new Date().toISOString();
  const times = [
    now().replace("Z", "+0000"),
    now().replace("Z", ""),
    now().replace("Z", "+00"),
    now().replace("T", " ").replace(".", ","),
    `${now().slice(0, 19)} UTC`,
  ];
  for (const recorded_at of times) {
    expect([recorded_at, (await hub.report({ ...report(), recorded_at })).status]).toEqual([recorded_at, 200]);
  }
  const odd = {
    ...report(),
    host: {
      metrics: { cpu_percent: "12.5", memory_used_mb: "4096", load_average: null, uptime_seconds: "60" },
      facts: [],
    },
    interval_seconds: "60",
    containers: [
      container("php", { labels: [], ports: {}, metrics: [], status: "Up About a minute (health: starting)" }),
      { ...container("null"), image_tag: null, labels: null, ports: null, metrics: null, started_at: null },
      { ...container("odd"), name: null },
      container("text", { metrics: { memory_usage_mb: "50", memory_limit_mb: "200" } }),
      "no container",
    ],
    guests: [
      { vmid: "101", kind: "lxc", name: null, status: null, spec: [] },
      { vmid: 102, kind: "jail" },
    ],
    cloudflared: { status: null },
    storage_targets: {},
    audit_tail: null,
  };
  expect((await hub.report(odd, { path: "/agent/telemetry" })).status).toBe(204);
  for (const field of ["containers\\[2\\].name", "containers\\[4\\]", "guests\\[1\\].kind"]) {
    await hub.daemon.said(new RegExp(`left out of a report.*${field}`));
  }
  const shown = await hub.get<{ metrics: Row; containers: Row[]; guests: Row[] }>("/v1/hosts/web-1");
  expect(shown.metrics).toMatchObject({ cpu_percent: 12.5, memory_used_mb: 4096, uptime_seconds: 60 });
  expect(shown.containers).toMatchObject([
    { name: "php", labels: {}, ports: [], status: "Up About a minute (health: start" },
    { name: "null", labels: null },
    { name: "text", metrics: { memory_percent: 25 } },
  ]);
  expect(shown.guests).toMatchObject([{ vmid: 101, status: "unknown" }]);
  // One that turns odd is not gone for that.
  const turned = [{ ...container("php"), name: null }, { ...container("null") }];
  expect((await hub.report(report({ containers: turned }))).status).toBe(200);
  const after = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
  expect(after.containers.filter(({ gone_at: at }) => at === null).map(({ name }) => name)).toEqual(["php", "null"]);
  // Anything else that is wrong still costs the report, and all that is wrong is named.
  const refused = await hub.report({ ...odd, cloudflared: 5 });
  expect(((await refused.json()) as { fields: Row[] }).fields.map(({ field }) => field)).toEqual([
    "containers[2].name",
    "containers[4]",
    "guests[1].kind",
    "cloudflared",
  ]);
});

test("a host whose every report is refused is told as that, not as silent; so is the first one that is taken", async () => {
  await using hub = await Hub.start({
    hosts: ["web-1", "web-2", "web-3"],
    more: "poll_interval_seconds: 1\nrate_limit_per_minute: 100000",
  });
  await hub.report();
  await hub.report(report(), { host: "web-2" });
  const wrong = report({ host: { metrics: { cpu_percent: 100.1 } } });
  await until("it is told", async () => {
    expect((await hub.report(wrong)).status).toBe(422);
    // It has never reported anything else.
    expect((await hub.report("{", { host: "web-3" })).status).toBe(400);
    return inboxLines(hub.inbox, "ops").length >= 2;
  });
  expect(statuses(hub)).toEqual({ "web-1": "online", "web-2": "offline", "web-3": "pending" });
  const events = hub.rows<{ type: string; host: number; text: string }>("SELECT type, host, text FROM alerts");
  expect(events.filter(({ host }) => host === 2).map(({ type }) => type)).toEqual(["host.stale", "host.offline"]);
  for (const [host, why] of [
    [1, "host.metrics.cpu_percent: expected a number from 0 to 100"],
    [3, "the body is not JSON"],
  ] as const) {
    const event = events.find((one) => one.host === host);
    expect(event).toMatchObject({ type: "host.reports_refused", text: expect.stringContaining(why) });
  }
  expect((await hub.run("host", "list")).stdout).toMatch(/web-1 +online +refused: host.metrics.cpu_percent: expected/);
  expect((await hub.get<{ hosts: Row[] }>("/v1/hosts")).hosts[0]).toMatchObject({
    refused: { why: expect.stringContaining("cpu_percent") },
  });
  expect((await hub.report()).status).toBe(200);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ refused: null, alerts: [] });
  await until("that is told", () =>
    inboxLines(hub.inbox, "ops").some((line) =>
      /web-1: its reports are taken again after \ds/.test(line["payload"] ?? ""),
    ),
  );
});

test("a host that keeps to a longer interval than it is told is not silent sooner, through both doors", async () => {
  await using hub = await Hub.start({
    hosts: ["web-1", "web-2", "web-3"],
    more: "poll_interval_seconds: 1\nrate_limit_per_minute: 1000",
  });
  const answer = await hub.report(report({ interval_seconds: 3600 }));
  expect(await answer.json()).toMatchObject({ poll_interval_seconds: 1 });
  await hub.report(report({ interval_seconds: 3600 }), { host: "web-2", path: "/agent/telemetry" });
  await hub.report(report(), { host: "web-3" });
  await until("the other is offline", () => statuses(hub)["web-3"] === "offline");
  expect(statuses(hub)).toMatchObject({ "web-1": "online", "web-2": "online" });
  expect((await hub.run("host", "list")).stdout).toMatch(/web-1 .* 3600 s/);
});

test("two machines that take turns with one token are told; a reboot and a new address are not", async () => {
  await using hub = await Hub.start({
    hosts: ["web-1", "web-2", "web-3"],
    more: `trusted_proxies: [127.0.0.1]\n${TELLS_SOON}`,
  });
  const send = async (host: string, { boot, ip }: { boot?: string; ip: string }) => {
    const facts = boot === undefined ? {} : { boot_at: boot };
    const headers = { ...hub.bearer(host), "x-forwarded-for": ip };
    const body = JSON.stringify(report({ interval_seconds: 3600, host: { metrics: {}, facts } }));
    expect((await fetch(`${hub.url}/v1/host-report`, { method: "POST", headers, body })).status).toBe(200);
  };
  const types = (host: number) => hub.rows<{ type: string }>(`SELECT type FROM alerts WHERE host = ${host}`);
  const [a, b] = ["2026-11-01T10:00:00.000Z", "2026-11-02T10:00:00.000Z"];
  // A reboot, a new address, and the second that the boot moves when a clock is set.
  for (const boot of [a, "2026-11-01T10:00:01.000Z", a, b, b, "2026-11-02T09:59:59.000Z"]) {
    await send("web-1", { boot, ip: boot === a ? "10.0.0.5" : "10.0.0.6" });
  }
  for (const ip of ["10.0.0.5", "2001:db8::5", "10.0.0.5", "10.0.0.7", "10.0.0.7"]) await send("web-2", { ip });
  expect([...types(1), ...types(2)]).toEqual([]);
  await send("web-1", { boot: a, ip: "10.0.0.5" });
  await send("web-1", { boot: b, ip: "10.0.0.6" });
  for (const ip of ["10.0.0.5", "10.0.0.6", "10.0.0.5"]) await send("web-3", { ip });
  expect([...types(1), ...types(3)]).toEqual([{ type: "host.twins" }, { type: "host.twins" }]);
  await until("it is told", () => inboxLines(hub.inbox, "ops").length > 0);
  const [first] = hub.rows<{ text: string }>("SELECT text FROM alerts");
  expect(first!.text).toContain(`10.0.0.6, booted ${b}; 10.0.0.5, booted ${a}`);
});
