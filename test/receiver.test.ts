// The receiver through its front door, as the script and as the compiled binary: reports, what is refused, the configuration.
// Not tested here: client certificates (receiver/admission.test.ts), episodes, time going by (files of their own).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Folder, TARGETS, certificates, have, runRole, until } from "./kit.ts";
import { Hub, archive, container, report } from "./receiver/kit.ts";
import { testOnFile } from "./receiver/store-kit.ts";

type Row = Record<string, unknown>;

describe.each(TARGETS)("%s", (target) => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({ target, hosts: ["web-1", "web-2"], more: "rate_limit_per_minute: 1000" });
  });
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
          metrics: { cpu_percent: 101, memory_used_mb: 1.5, uptime_seconds: -1, load_average: "high" },
          facts: { cpu_count: 0, os: "x".repeat(81) },
        },
        containers: [
          container("a"),
          { ...container("b"), container_id: undefined, name: 5, health_status: "x".repeat(17) },
        ],
        guests: [{ vmid: "x", kind: "docker", status: "off" }],
        cloudflared: { status: "on" },
        storage_targets: { a: 1 },
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

  test("ping answers with the token's host, and the doctor's result is shown to the operator", async () => {
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

test("a host on the telemetry route gets no interval, and is judged by the one that it sends", async () => {
  await using hub = await Hub.start();
  const interval = async () => (await hub.get<{ interval_seconds: number }>("/v1/hosts/web-1")).interval_seconds;
  await hub.report(report({ interval_seconds: 300 }), { path: "/agent/telemetry" });
  expect(await interval()).toBe(300);
  // Told another, it still says that it keeps to its own.
  await hub.report(report({ interval_seconds: 300 }));
  expect(await interval()).toBe(300);
  await hub.report(report({ interval_seconds: 10 }));
  expect(await interval()).toBe(60);
});

test("what a client sends can't fill the log", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 10000" });
  for (let n = 0; n < 50; n++) {
    const containers = Array.from({ length: n + 1 }, (_, c) => (c < n ? container(`c${c}`) : 0));
    expect((await hub.report(report({ containers, cloudflared: 5 }))).status).toBe(422);
  }
  await hub.daemon.said("invalid_report");
  expect(hub.daemon.log.filter((line) => line.includes("invalid_report")).length).toBe(1);
});

describe("the configuration", () => {
  test.each([
    ["listen: 0.0.0.0:1", 'set "auth.token_file"'],
    ["store: mysql://x/y", 'expected "sqlite" or postgres://'],
    ["episodes: s3://bucket/x", 'a bucket needs "store: postgres://'],
    ["version_gate: { enabled: true }", 'set "forgejo", "repo_path" or both'],
    ["rate_limit_per_minute: 0", "1 or more"],
    ["notify: {}", "recipient"],
    ["notify: { recipient: a/b }", "expected a name"],
    ["poll_interval_second: 5", "poll_interval_seconds"],
    ["version_gate: { forgejo: { url: 'ftp://x', repo: nothing } }", "OWNER/NAME"],
  ])("%s is refused with 78 and a sentence", async (line, sentence) => {
    using folder = new Folder();
    const { code, stderr } = await runRole("receiver", ["--check", "--config", folder.write("c.yaml", `${line}\n`)]);
    expect([code, stderr]).toEqual([78, expect.stringContaining(sentence)]);
  });

  testOnFile("tables of a newer version are refused with 78", async () => {
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

  testOnFile("a reload applies limits; a setting that needs a restart is logged", async () => {
    await using hub = await Hub.start();
    hub.configure("poll_interval_seconds: 120\nepisodes: elsewhere");
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    await hub.daemon.said("episodes: a change takes effect at the next start");
    expect(await (await hub.report()).json()).toMatchObject({ poll_interval_seconds: 120 });
  });
});

test.skipIf(!have("openssl", "a refused reload"))(
  "a reload that is refused for its certificate takes over nothing",
  async () => {
    using folder = new Folder();
    await certificates(folder);
    const use = (what: string, as: string) => copyFileSync(folder.at(what), folder.at(as));
    use("server.pem", "now.pem");
    use("server.key", "now.key");
    const tls = `tls: { cert_file: ${folder.at("now.pem")}, key_file: ${folder.at("now.key")} }`;
    await using hub = await Hub.start({ more: `${tls}\nauth: { token: before }` });
    const url = hub.url.replace("http:", "https:");
    const hosts = async (token: string) => {
      const headers = { authorization: `Bearer ${token}` };
      const ca = readFileSync(folder.at("ca.pem"), "utf8");
      return (await fetch(`${url}/v1/hosts`, { headers, tls: { ca } })).status;
    };
    expect(await hosts("before")).toBe(200);
    // The renewal has written the certificate, and not the key yet.
    use("renewed.pem", "now.pem");
    hub.configure(`${tls}\nauth: { token: after }\nrate_limit_per_minute: 1`);
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration refused: the former one stays");
    expect([await hosts("before"), await hosts("after")]).toEqual([200, 401]);
    const ping = () =>
      fetch(`${url}/v1/ping`, { method: "POST", headers: hub.bearer(), tls: { rejectUnauthorized: false } });
    expect([(await ping()).status, (await ping()).status]).toEqual([200, 200]);
    use("renewed.key", "now.key");
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    expect([await hosts("before"), await hosts("after")]).toEqual([401, 200]);
  },
);

describe.skipIf(!have("promtool", "the receiver's metrics"))("metrics", () => {
  test("promtool accepts the metrics, and no sample comes twice", async () => {
    await using hub = await Hub.start();
    await hub.report();
    await hub.ship("x", await archive("x"));
    const text = await (await fetch(`${hub.url}/metrics`)).text();
    const run = Bun.spawn(["promtool", "check", "metrics"], {
      stdin: Buffer.from(text),
      stdout: "pipe",
      stderr: "pipe",
    });
    expect((await new Response(run.stdout).text()) + (await new Response(run.stderr).text())).toBe("");
    const samples = text
      .split("\n")
      .filter((line) => line !== "" && !line.startsWith("#"))
      .map((line) => line.slice(0, line.lastIndexOf(" ")));
    expect(new Set(samples).size).toBe(samples.length);
  });
});
