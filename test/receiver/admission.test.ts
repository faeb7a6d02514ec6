// Who is let in through an agent's doors, and what is checked first. Client certificates, here by the receiver itself.
// Not tested here: the same behind Caddy (e2e/front.test.ts).

import { describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { PATIENCE_MS, exchange, statusesOf } from "../fuzz/kit.ts";
import { caller } from "../front-kit.ts";
import { Folder, certificates, have, until } from "../kit.ts";
import { Hub, archive, report, sha256, statuses } from "./kit.ts";

test("an invalid Host header does not open the operator's routes under an agent's route", async () => {
  await using hub = await Hub.start({ more: "auth: { token: operators }" });
  for (const [target, host, status] of [
    ["/v1/hosts", "x", 401],
    ["/a/v1/ping?:xyz/v1/hosts", "a b", 400],
    ["/a/v1/ping?:xyz/v1/hosts", "", 401],
    ["/v1/ping?:xyz/v1/hosts", "", 405],
    ["/v1/ping?:xyz/v1/hosts", "x", 405],
    ["/v1/ping#:xyz/v1/hosts", "x", 405],
  ] as const) {
    const answer = await exchange(hub.url, Buffer.from(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), PATIENCE_MS);
    expect([target, host, statusesOf(answer ?? "")]).toEqual([target, host, [status]]);
    expect(answer).not.toContain("web-1");
  }
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
    // Uploads have an allowance of their own.
    expect((await hub.ship("ep", await archive("x"))).status).toBe(201);
    await hub.daemon.said("reason=rate_limited");
    expect(hub.daemon.log.filter((line) => line.includes("reason=rate_limited")).length).toBe(1);
  });

  test("uploads over their allowance leave reports alone, and a report over its own is a sign of life", async () => {
    await using hub = await Hub.start({
      hosts: ["web-1", "web-2"],
      more: "poll_interval_seconds: 1\nrate_limit_per_minute: 5",
    });
    const bytes = await archive("x");
    for (let n = 0; n < 6; n++) expect((await hub.ship(`ep-${n}`, bytes)).status).toBe(n < 5 ? 201 : 429);
    for (const host of ["web-1", "web-2"]) expect((await hub.report(report(), { host })).status).toBe(200);
    const answers = new Set<number>();
    await until("the silent one is offline", async () => {
      answers.add((await hub.report()).status);
      return statuses(hub)["web-2"] === "offline";
    });
    expect([...answers]).toEqual([200, 429]);
    expect(statuses(hub)["web-1"]).toBe("online");
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
    // An upgrade of the program is no other sender.
    await hub.run("host", "rebind", "web-1");
    for (const agent of ["nas agent 1.2.9 (build:7)", "nas agent v1.10-rc.1 (build:8)"])
      expect((await ping(agent)).status).toBe(200);
    await hub.run("host", "rebind", "web-1");
    for (const agent of ["picket-agent/0.1.0", "picket-agent/0.2.0+abc1234"])
      expect((await ping(agent)).status).toBe(200);
    expect((await ping("curl/8.1")).status).toBe(401);
    // Bound by a receiver that counted the version: the agent may be upgraded together with the receiver.
    await hub.daemon.kill();
    const former = sha256(Buffer.from("127.0.0.1|picket-agent/0.1.0"));
    hub.change((db) => {
      db.run("UPDATE tokens SET fingerprint = ?", [former]);
      db.run("UPDATE hosts SET agent_version = '0.1.0'");
    });
    await hub.up();
    expect((await ping("curl/8.1")).status).toBe(401);
    expect((await ping("picket-agent/0.2.0")).status).toBe(200);
    expect((await ping("picket-agent/0.3.0")).status).toBe(200);
  });

  test("the operator's token reads, and is refused on the agents' routes", async () => {
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

test("a client whose X-Forwarded-For has no address does not count as local", async () => {
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

test.skipIf(!have("openssl", "client certificates of the receiver"))(
  "client certificates: none, a foreign one and an expired one are refused, the right one is let in, and a token is asked for all the same",
  async () => {
    using folder = new Folder();
    await certificates(folder);
    await using hub = await Hub.start({
      more: `tls: { cert_file: ${folder.at("server.pem")}, key_file: ${folder.at("server.key")}, client_ca_file: ${folder.at("ca.pem")} }`,
    });
    const call = caller(folder, hub.url.replace("http:", "https:"));
    const post = { method: "POST", body: JSON.stringify(report()), headers: hub.bearer() };
    for (const name of [null, "foreign", "expired"])
      expect([name, await call(name, "/v1/host-report", post)]).toEqual([name, "refused"]);
    expect(await call("client", "/v1/host-report", post)).toBe(200);
    expect(await call("client", "/v1/host-report", { ...post, headers: {} })).toBe(401);
  },
);
