// Letting requests in, reports and what comes of them, through real sockets, against source and binary.
// Not tested here: mTLS (receiver-tls.test.ts), episodes, time going by.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Folder, TARGETS, inboxLines, runRole, until } from "./kit.ts";
import { Hub, archive, container, report } from "./receiver/kit.ts";

type Row = Record<string, unknown>;

describe.each(TARGETS)("%s", (target) => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({ target, hosts: ["web-1", "web-2"], more: "rate_limit_per_minute: 1000" });
  }, 60_000);
  afterAll(() => hub[Symbol.asyncDispose]());

  test("a report is answered with the control envelope, the other door with nothing", async () => {
    const answer = await hub.report();
    expect(answer.status).toBe(200);
    expect(answer.headers.get("set-cookie")).toBeNull();
    expect(await answer.json()).toEqual({
      poll_interval_seconds: 60,
      blocked: false,
      desired_generation: 0,
      has_signed_ops: false,
    });
    const telemetry = await hub.report(report(), { path: "/agent/telemetry" });
    expect([telemetry.status, await telemetry.text(), telemetry.headers.get("set-cookie")]).toEqual([204, "", null]);
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({
      id: "web-1",
      status: "online",
      interval_seconds: 60,
      agent_version: "0.1.0",
      facts: { cpu_count: 4, os: "Debian GNU/Linux 12" },
      metrics: { cpu_percent: 12.5, load_average: 0.5 },
      alerts: [],
    });
  });

  test("refusals: 401 without a body or a hint, 405, 404, 413, 400", async () => {
    const post = (headers: Record<string, string>) =>
      fetch(`${hub.url}/v1/host-report`, { method: "POST", headers, body: "{}" });
    const answers = await Promise.all([
      post({}),
      post({ authorization: "Basic x" }),
      post({ authorization: "Bearer pk_short" }),
      post({ authorization: `Bearer pk_${"A".repeat(40)}` }),
    ]);
    const seen = await Promise.all(
      answers.map(async (one) => [
        one.status,
        await one.text(),
        one.headers.get("set-cookie"),
        one.headers.get("www-authenticate"),
      ]),
    );
    expect(seen).toEqual(Array.from({ length: 4 }, () => [401, "", null, "Bearer"]));
    await until("it was logged", () => hub.daemon.log.join("\n").includes("reason=invalid_token"));
    const wrong = await fetch(`${hub.url}/v1/host-report`, { headers: hub.bearer() });
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect((await fetch(`${hub.url}/v1/nothing`)).status).toBe(404);
    expect((await hub.report("{")).status).toBe(400);
    const large = await hub.report(`{"x":"${"x".repeat(4 << 20)}"}`);
    expect([large.status, await large.json()]).toEqual([413, expect.objectContaining({ code: "too_large" })]);
  });

  test("every broken field is named", async () => {
    const answer = await hub.report(
      report({
        host: {
          metrics: { cpu_percent: 101, memory_used_mb: 1.5, uptime_seconds: -1, load_average: "1" },
          facts: { cpu_count: 0, os: "x".repeat(81) },
        },
        containers: [
          container("a"),
          { ...container("b"), container_id: undefined, name: 5, health_status: "x".repeat(17) },
        ],
        guests: [{ vmid: "x", kind: "docker", status: "off" }],
        cloudflared: { status: "on" },
        storage_targets: {},
      }),
    );
    expect(answer.status).toBe(422);
    const { fields, code } = (await answer.json()) as { code: string; fields: { field: string }[] };
    expect(code).toBe("invalid_report");
    expect(fields.map(({ field }) => field).toSorted()).toEqual([
      "cloudflared.status",
      "containers[1].container_id",
      "containers[1].health_status",
      "containers[1].name",
      "guests[0].kind",
      "guests[0].status",
      "guests[0].vmid",
      "host.facts.cpu_count",
      "host.facts.os",
      "host.metrics.cpu_percent",
      "host.metrics.load_average",
      "host.metrics.memory_used_mb",
      "host.metrics.uptime_seconds",
      "storage_targets",
    ]);
  });

  test("recorded_at lies within an hour before and five minutes after now", async () => {
    const status = async (recorded_at: unknown, more: Row = {}) =>
      (await hub.report({ ...report(), recorded_at, ...more })).status;
    const ago = (seconds: number) => new Date(Date.now() - seconds * 1000).toISOString();
    for (const wrong of [
      0,
      false,
      true,
      [],
      {},
      null,
      undefined,
      "",
      "today",
      "2026-01-01",
      "2026-01-01T00:00:00",
      Date.now(),
    ]) {
      expect([wrong, await status(wrong)]).toEqual([wrong, 422]);
    }
    expect(await status(ago(86_400))).toBe(422);
    expect(await status(ago(3602))).toBe(422);
    // Half a minute within the limit: so long a request may be on its way on a busy machine.
    expect(await status(ago(3570))).toBe(200);
    expect(await status(ago(-290))).toBe(200);
    expect(await status(ago(-360))).toBe(422);
    expect(await status(ago(10).replace("Z", "+00:00"))).toBe(200);
    // With sent_at that one is in the window, and recorded_at may be old.
    expect(await status(ago(86_300), { sent_at: ago(0) })).toBe(200);
    expect(await status(ago(86_500), { sent_at: ago(0) })).toBe(422);
    expect(await status(ago(86_300), { sent_at: ago(3700) })).toBe(422);
    expect(await status(ago(10), { sent_at: 5 })).toBe(422);
  });

  test("the token's host is the host: another host_id is 403, the right one is taken", async () => {
    expect((await hub.report(report({ host_id: "web-2" }))).status).toBe(403);
    expect((await hub.report(report({ host_id: "web-1" }))).status).toBe(200);
    expect((await hub.ship("x", await archive("x"), { to: "web-2" })).status).toBe(403);
    const health = await fetch(`${hub.url}/v1/host-health/web-2`, { method: "PUT", headers: hub.bearer(), body: "{}" });
    expect(health.status).toBe(403);
  });

  test("what is null or absent overwrites no fact; unknown fields are ignored", async () => {
    await hub.report(report({ host: { metrics: {}, facts: { kernel: "6.1", cpu_count: 8 } } }), { host: "web-2" });
    await hub.report(
      report({ host: { metrics: {}, facts: { cpu_count: null, os: "Debian" } }, novelty: { deep: [1] } }),
      { host: "web-2" },
    );
    expect(await hub.get("/v1/hosts/web-2")).toMatchObject({ facts: { kernel: "6.1", cpu_count: 8, os: "Debian" } });
  });

  test("containers and guests are kept per host, with their figures; who is absent is gone and stays known", async () => {
    const guests = [
      {
        vmid: "101",
        name: "db",
        kind: "lxc",
        status: "running",
        spec: { cores: 2, memory_mb: 512, disk_gb: 8 },
        controller_version: "",
      },
      { vmid: 102, kind: "qemu" },
    ];
    await hub.report(
      report({ containers: [container("nginx"), container("db", { metrics: { memory_usage_mb: 5 } })], guests }),
    );
    await hub.report(report({ containers: [container("nginx")] }), { host: "web-2" });
    await hub.report(
      report({
        containers: [container("nginx", { status: "Up 4 hours" })],
        guests: [{ vmid: 101, kind: "lxc", status: "stopped" }],
      }),
    );
    // No list is no news: Docker could not be asked.
    await hub.report(report());
    const { containers, guests: shown } = await hub.get<{ containers: Row[]; guests: Row[] }>("/v1/hosts/web-1");
    expect(containers).toMatchObject([
      { name: "nginx", status: "Up 4 hours", gone_at: null, metrics: { memory_usage_mb: 50, memory_percent: 16.67 } },
      { name: "db", gone_at: expect.any(String), metrics: null },
    ]);
    expect(shown).toMatchObject([
      { vmid: 101, status: "stopped", spec: { cores: 2 }, gone_at: null },
      { vmid: 102, status: "unknown", spec: null, gone_at: expect.any(String) },
    ]);
    expect(
      hub.rows<Row>(
        "SELECT COUNT(*) AS n FROM containers WHERE container_id = (SELECT container_id FROM containers WHERE id = 1)",
      ),
    ).toEqual([{ n: 2 }]);
  });

  test("501 containers are too many; a container's id twice is one", async () => {
    const many = Array.from({ length: 501 }, (_, n) => container(`c${n}`));
    expect((await hub.report(report({ containers: many }), { host: "web-2" })).status).toBe(422);
    expect((await hub.report(report({ containers: [...many.slice(0, 499), many[0]] }), { host: "web-2" })).status).toBe(
      200,
    );
    expect((await hub.report(report({ containers: [] }), { host: "web-2" })).status).toBe(200);
  });

  test("ping tells which host one is, and the doctor's result is shown to the operator", async () => {
    const pong = await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer() });
    expect([pong.status, await pong.json()]).toEqual([200, { host: "web-1", time: expect.stringMatching(/Z$/) }]);
    const put = (body: string) =>
      fetch(`${hub.url}/v1/host-health/web-1`, { method: "PUT", headers: hub.bearer(), body });
    expect((await put("{")).status).toBe(400);
    expect((await put(JSON.stringify({ x: "x".repeat(65_536) }))).status).toBe(413);
    expect((await put('{"checks":[{"name":"clock","state":"green"}]}')).status).toBe(204);
    expect(await hub.get("/v1/host-health/web-1")).toMatchObject({
      host: "web-1",
      health: { checks: [{ name: "clock" }] },
    });
    expect(await hub.get("/v1/host-health")).toMatchObject({ health: [{ host: "web-1" }] });
    expect((await fetch(`${hub.url}/v1/host-health/web-2`)).status).toBe(404);
  });

  test("an agent's token reads nothing", async () => {
    for (const path of ["/v1/hosts", "/v1/hosts/web-1", "/v1/events", "/v1/episodes", "/v1/host-health/web-1"]) {
      expect([path, (await fetch(hub.url + path, { headers: hub.bearer() })).status]).toEqual([path, 401]);
    }
    // A proxy on this machine doesn't make its clients local.
    expect((await fetch(`${hub.url}/v1/hosts`, { headers: { "x-forwarded-for": "203.0.113.5" } })).status).toBe(403);
  });

  test("no token is anywhere but in its hash", async () => {
    await hub.report("{");
    const token = hub.tokens.get("web-1")!;
    const files = readdirSync(hub.data, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
    const holding = files.filter((entry) => readFileSync(join(entry.parentPath, entry.name)).includes(token.slice(3)));
    expect(holding).toEqual([]);
    expect(hub.daemon.log.join("\n")).not.toContain(token.slice(3));
    const { stdout, stderr } = await hub.run("--check", "--print");
    expect(stdout + stderr).not.toContain("pk_");
    expect((await hub.run("token", "list")).stdout).not.toContain("pk_");
  });
});

describe("the order of checks", () => {
  test("the 61st request within 60 s is 429, others have their own allowance, refused ones don't spend", async () => {
    await using hub = await Hub.start({ hosts: ["web-1", "web-2"] });
    const ping = (host: string) => fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer(host) });
    for (let n = 0; n < 60; n++) expect((await ping("web-1")).status).toBe(200);
    const used = () =>
      hub.rows<{ last_used_at: number }>("SELECT last_used_at FROM tokens ORDER BY id")[0]!.last_used_at;
    const before = used();
    for (let n = 0; n < 5; n++) {
      const refused = await ping("web-1");
      expect(refused.status).toBe(429);
      expect(Number(refused.headers.get("retry-after"))).toBeWithin(1, 61);
      expect(await refused.json()).toMatchObject({ code: "rate_limited" });
    }
    expect(used()).toBe(before);
    expect((await ping("web-2")).status).toBe(200);
    await hub.daemon.said("reason=rate_limited");
    expect(hub.daemon.log.filter((line) => line.includes("reason=rate_limited")).length).toBe(1);
  });

  test("an unknown token costs no read of the body; 401 stamps nothing, 422 does", async () => {
    await using hub = await Hub.start();
    const { hostname, port } = new URL(hub.url);
    const answer = await new Promise<string>((resolve, reject) => {
      const socket = connect(Number(port), hostname, () =>
        socket.write(
          `POST /v1/host-report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pk_${"0".repeat(40)}\r\nContent-Length: 4000000\r\n\r\n`,
        ),
      );
      socket.on("data", (chunk) => {
        resolve(chunk.toString());
        socket.destroy();
      });
      socket.on("error", reject);
    });
    expect(answer).toStartWith("HTTP/1.1 401");
    const used = () => hub.rows<{ last_used_at: number | null }>("SELECT last_used_at FROM tokens")[0]!.last_used_at;
    expect(used()).toBeNull();
    expect((await hub.report({})).status).toBe(422);
    expect(used()).not.toBeNull();
  });

  test("with bind_fingerprint the first sender keeps the token until a rebind", async () => {
    await using hub = await Hub.start({ more: "auth: { bind_fingerprint: true }" });
    const ping = (agent: string) =>
      fetch(`${hub.url}/v1/ping`, { method: "POST", headers: { ...hub.bearer(), "user-agent": agent } });
    const first = await Promise.all([ping("a"), ping("a"), ping("a")]);
    expect(first.map(({ status }) => status)).toEqual([200, 200, 200]);
    const other = await ping("b");
    expect([other.status, await other.text()]).toEqual([401, ""]);
    await hub.daemon.said("reason=fingerprint_mismatch");
    expect((await hub.run("host", "rebind", "web-1")).code).toBe(0);
    expect((await ping("b")).status).toBe(200);
    expect((await ping("a")).status).toBe(401);
  });

  test("the operator's token reads, and opens no door of the agents'", async () => {
    await using hub = await Hub.start({ more: "auth: { token: operator }" });
    const operator = { authorization: "Bearer operator" };
    expect((await fetch(`${hub.url}/v1/hosts`)).status).toBe(401);
    expect((await fetch(`${hub.url}/v1/hosts`, { headers: hub.bearer() })).status).toBe(401);
    expect((await fetch(`${hub.url}/v1/hosts`, { headers: operator })).status).toBe(200);
    expect((await fetch(`${hub.url}/health`, { headers: operator })).status).toBe(200);
    expect((await fetch(`${hub.url}/health`)).status).toBe(401);
    expect((await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: operator })).status).toBe(401);
    expect((await hub.report()).status).toBe(200);
  });
});

describe("commands on the store, while the daemon runs", () => {
  test("add, rotate, revoke, archive, and back", async () => {
    await using hub = await Hub.start();
    const ping = async (token: string) =>
      (await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: { authorization: `Bearer ${token}` } })).status;
    const first = hub.tokens.get("web-1")!;
    expect(await ping(first)).toBe(200);
    const rotated = await hub.run("token", "rotate", "web-1", "--url", "https://hub.example");
    expect(rotated.stdout).toMatch(
      /^export PICKET_URL=https:\/\/hub\.example\nexport PICKET_TOKEN=pk_[A-Za-z0-9]{40}\n$/m,
    );
    const second = /pk_\w+/.exec(rotated.stdout)![0];
    expect([await ping(first), await ping(second)]).toEqual([401, 200]);
    expect((await hub.run("token", "revoke", "web-1")).stdout).toBe("web-1: 1 token revoked\n");
    expect(await ping(second)).toBe(401);
    const third = /pk_\w+/.exec((await hub.run("token", "rotate", "web-1")).stdout)![0];
    expect(await ping(third)).toBe(200);
    expect((await hub.run("host", "archive", "web-1")).code).toBe(0);
    expect(await ping(third)).toBe(401);
    expect((await hub.run("token", "rotate", "web-1")).stderr).toContain("host add web-1");
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "archived" });
    expect(await ping(await hub.addHost("web-1"))).toBe(200);
    const listed = JSON.parse((await hub.run("token", "list", "--json")).stdout) as { revoked_at: string | null }[];
    expect(listed.map(({ revoked_at }) => revoked_at === null)).toEqual([false, false, false, true]);
    expect((await hub.run("host", "list")).stdout).toMatch(/^web-1 +pending/m);
  });

  test("what is wrong is said, with what can be done, and ends with 2", async () => {
    await using hub = new Hub();
    const say = async (...args: string[]) => {
      const { code, stderr } = await hub.run(...args);
      return [code, stderr];
    };
    expect(await say("host", "add", "../x")).toEqual([2, expect.stringContaining("not a valid name")]);
    expect(await say("host", "archive", "nobody")).toEqual([2, expect.stringContaining("host list shows them")]);
    await hub.addHost("web-1");
    expect(await say("host", "add", "web-1")).toEqual([2, expect.stringContaining("token rotate web-1")]);
    expect(await say("host", "set", "web-1")).toEqual([2, expect.stringContaining("--interval")]);
    expect(await say("host", "set", "web-1", "--interval", "0")).toEqual([2, expect.stringContaining("1 to 86400")]);
    expect(await say("host", "ad", "web-1")).toEqual([2, expect.stringContaining('"host add"')]);
  });

  test("a host with an interval of its own is told so by its next report", async () => {
    await using hub = await Hub.start();
    const told = async () =>
      ((await (await hub.report()).json()) as { poll_interval_seconds: number }).poll_interval_seconds;
    expect(await told()).toBe(60);
    expect((await hub.run("host", "set", "web-1", "--interval", "300")).code).toBe(0);
    expect(await told()).toBe(300);
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ interval_seconds: 300 });
    await hub.run("host", "set", "web-1", "--interval", "default");
    expect(await told()).toBe(60);
  });
});

describe("containers", () => {
  test("what gets worse or better is an event, an alert and a line in the inbox, once", async () => {
    await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000" });
    const send = async (more: Row) =>
      expect((await hub.report(report({ containers: [container("app", more)] }))).status).toBe(200);
    await send({ health_status: "starting" });
    await send({ health_status: "unhealthy" });
    await send({ health_status: "unhealthy", status: "Up 5 hours (unhealthy)" });
    const open = async () =>
      (await hub.get<{ alerts: { what: string }[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    expect(await open()).toEqual(["container.unhealthy app"]);
    await send({ state: "exited", status: "Exited (137) 1 second ago", health_status: null });
    expect(await open()).toEqual(["container.unhealthy app", "container.stopped app"]);
    await send({ health_status: "starting" });
    expect((await open()).length).toBe(2);
    await send({ health_status: "healthy" });
    expect(await open()).toEqual([]);
    await send({ state: "exited" });
    // Taken away: nobody's trouble any more.
    expect((await hub.report(report({ containers: [] }))).status).toBe(200);
    expect(await open()).toEqual([]);
    await until("all is told", () => inboxLines(hub.inbox, "ops").length === 4);
    expect(inboxLines(hub.inbox, "ops").map(({ payload, source }) => [payload, source])).toEqual([
      ["web-1: container app is unhealthy", "receiver:container.unhealthy"],
      ["web-1: container app has stopped (Exited (137) 1 second ago)", "receiver:container.stopped"],
      ["web-1: container app is well again", "receiver:container.recovered"],
      ["web-1: container app has stopped (Up 3 hours)", "receiver:container.stopped"],
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
    expect(await fields({ containers: [container("a", { labels: { x: deep } })] })).toEqual([
      422,
      ["containers[0].labels"],
    ]);
    expect(await fields({ containers: [container("a", { ports: [deep] })] })).toEqual([422, ["containers[0].ports"]]);
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

test("a host on the telemetry door is told nothing, and judged by the interval that it says", async () => {
  await using hub = await Hub.start();
  const interval = async () => (await hub.get<{ interval_seconds: number }>("/v1/hosts/web-1")).interval_seconds;
  await hub.report(report({ interval_seconds: 300 }), { path: "/agent/telemetry" });
  expect(await interval()).toBe(300);
  await hub.report(report({ interval_seconds: 300 }));
  expect(await interval()).toBe(60);
});

test("figures that took their time are no report from a queue", async () => {
  // More than half an interval; the host is online for two of them.
  await using hub = await Hub.start({ more: "poll_interval_seconds: 10" });
  expect((await hub.report(report({ sent_at: new Date().toISOString() }, 9000))).status).toBe(200);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
});

test("who says no address in X-Forwarded-For is nobody on this machine", async () => {
  await using hub = await Hub.start({ more: "trusted_proxies: [127.0.0.1]" });
  const status = async (forwarded: string) =>
    (await fetch(`${hub.url}/v1/hosts`, { headers: { "x-forwarded-for": forwarded } })).status;
  for (const outside of [
    "203.0.113.5",
    "203.0.113.5:4711",
    "[2001:db8::1]:99",
    "unknown",
    "127.0.0.1, 203.0.113.5:1",
  ]) {
    expect([outside, await status(outside)]).toEqual([outside, 403]);
  }
  expect((await fetch(`${hub.url}/v1/hosts`, { headers: { forwarded: "for=203.0.113.5" } })).status).toBe(403);
  for (const here of ["127.0.0.1", "127.0.0.1:5000", "[::1]:5000"])
    expect([here, await status(here)]).toEqual([here, 200]);
});

test("a store that another program has locked is 503 after a while, and holds up nothing else", async () => {
  await using hub = await Hub.start();
  const { Database } = await import("bun:sqlite");
  const other = new Database(join(hub.data, "receiver.db"));
  other.run("BEGIN IMMEDIATE");
  const over = new AbortController();
  const reports = Promise.all(Array.from({ length: 5 }, () => hub.report())).finally(() => over.abort());
  // One that waits for the lock in the same thread would answer a look or two meanwhile, however long it waits.
  let looks = 0;
  for (; !over.signal.aborted; looks++) {
    await fetch(`${hub.url}/metrics`);
    await Bun.sleep(10);
  }
  const answers = await reports;
  expect(answers.map(({ status, headers }) => [status, headers.get("retry-after")])).toEqual(
    Array.from({ length: 5 }, () => [503, "5"]),
  );
  expect(looks).toBeGreaterThan(10);
  other.run("ROLLBACK");
  other.close();
  await until("it takes reports again", async () => (await hub.report()).status === 200);
}, 60_000);

test("what a client sends can't fill the log", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 10000" });
  for (let n = 0; n < 50; n++) {
    const containers = Array.from({ length: n + 1 }, (_, c) => (c < n ? container(`c${c}`) : 0));
    expect((await hub.report(report({ containers }))).status).toBe(422);
  }
  await hub.daemon.said("invalid_report");
  expect(hub.daemon.log.filter((line) => line.includes("invalid_report")).length).toBe(1);
});

test("reports sent twice are one sample", async () => {
  await using hub = await Hub.start();
  const body = report({ containers: [container("app")] });
  await Promise.all([hub.report(body), hub.report(body), hub.report(body)]);
  expect(hub.rows("SELECT COUNT(*) AS n FROM host_samples")).toEqual([{ n: 1 }]);
  expect(hub.rows("SELECT COUNT(*) AS n FROM workload_samples")).toEqual([{ n: 1 }]);
});

test("events come as a stream, from where one stopped", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000" });
  const send = (state: string) => hub.report(report({ containers: [container("app", { state })] }));
  await send("running");
  await send("exited");
  const stop = new AbortController();
  const listen = async (got: string[], since?: string) => {
    const headers: Record<string, string> = {
      accept: "text/event-stream",
      ...(since ? { "last-event-id": since } : {}),
    };
    const answer = await fetch(`${hub.url}/v1/events`, { headers, signal: stop.signal });
    expect(answer.headers.get("content-type")).toStartWith("text/event-stream");
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) got.push(chunk);
  };
  const news: string[] = [];
  const listening = listen(news).catch(() => {});
  await until("it listens", () => news.join("").includes(": listening"));
  await send("running");
  await until("the news is there", () => news.join("").includes("container.recovered"));
  expect(news.join("")).not.toContain("container.stopped");
  const all: string[] = [];
  const again = listen(all, "0").catch(() => {});
  await until("all of it is there", () => all.join("").includes("container.recovered"));
  expect(all.join("")).toMatch(/id: 1\n?.*event: container\.stopped|event: container\.stopped[^]*id: 1/);
  stop.abort();
  await Promise.all([listening, again]);
  expect(await hub.get("/v1/events?limit=1")).toMatchObject({
    events: [{ type: "container.recovered", severity: "info", host: "web-1" }],
    next: 2,
  });
  expect(await hub.get("/v1/events?since=1")).toMatchObject({ events: [{ id: 2 }] });
  // A stream that is open doesn't keep the daemon from stopping.
  expect(await hub.daemon.kill()).toBe(0);
});

describe("the configuration", () => {
  test.each([
    ["listen: 0.0.0.0:1", 'set "auth.token_file"'],
    ["store: postgres://x/y", 'expected "sqlite"'],
    ["episodes: s3://bucket/x", "expected a folder"],
    ["version_gate: { enabled: true }", 'set "forgejo", "repo_path" or both'],
    ["rate_limit_per_minute: 0", "1 or more"],
    ["notify: {}", "recipient"],
    ["notify: { recipient: a/b }", "expected a name"],
    ["polling: 5", "poll_interval_seconds"],
    ["version_gate: { forgejo: { url: 'ftp://x', repo: nothing } }", "OWNER/NAME"],
  ])("%s is refused with 78 and a sentence", async (line, sentence) => {
    using folder = new Folder();
    const { code, stderr } = await runRole("receiver", ["--check", "--config", folder.write("c.yaml", `${line}\n`)]);
    expect([code, stderr]).toEqual([78, expect.stringContaining(sentence)]);
  });

  test("tables of a newer version are refused with 78", async () => {
    await using hub = new Hub();
    await hub.addHost("web-1");
    const { Database } = await import("bun:sqlite");
    const db = new Database(join(hub.data, "receiver.db"));
    db.run("UPDATE meta SET value = '99' WHERE key = 'schema_version'");
    db.close();
    const { code, stderr } = await hub.run();
    expect([code, stderr]).toEqual([78, expect.stringContaining("newer picket-receiver")]);
  });

  test("a second daemon on the same data is refused", async () => {
    await using hub = await Hub.start();
    const { code, stderr } = await hub.run();
    expect([code, stderr]).toEqual([1, expect.stringContaining("another picket-receiver uses")]);
  });

  test("a reload takes over limits; what can't change says so", async () => {
    await using hub = await Hub.start();
    hub.configure("poll_interval_seconds: 120\nepisodes: elsewhere");
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    await hub.daemon.said("episodes: a change takes effect at the next start");
    expect(await (await hub.report()).json()).toMatchObject({ poll_interval_seconds: 120 });
  });
});
