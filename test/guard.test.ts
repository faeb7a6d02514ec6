// Who may connect, through the collector, over real sockets.

import { describe, expect, test } from "bun:test";
import { ROUTES, raw, start } from "./http-kit.ts";
import { Folder, runRole, startRole } from "./kit.ts";
import { Observer } from "./observer/kit.ts";
import { Hub } from "./receiver/kit.ts";

describe("a token", () => {
  test("is asked for everywhere but where a signature stands in, before a byte of the body is read", async () => {
    using folder = new Folder();
    await using daemon = await start(folder, "auth: { token: ours }\n");
    const url = await daemon.url();
    const status = async (path: string, init: RequestInit = {}) => (await fetch(url + path, init)).status;
    const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
    const post = (token: string) => ({ method: "POST", body: `{"n":1}`, ...bearer(token) });
    expect(await status("/health")).toBe(401);
    expect(await status("/metrics", bearer("wrong"))).toBe(401);
    expect(await status("/health", bearer("ours"))).toBe(200);
    expect(await status("/open", post("wrong"))).toBe(401);
    expect(await status("/open", post("ours"))).toBe(202);
    expect(await status("/signed", post("theirs"))).toBe(202);
    expect(await status("/signed", post("ours"))).toBe(401);
    expect(await status("/nowhere")).toBe(401);
    const answer = await raw(url, "POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n", /\}/);
    expect(answer).toStartWith("HTTP/1.1 401");
    expect(answer).toContain('"code":"missing_bearer_token"');
    await daemon.said("missing_bearer_token");
    expect(daemon.log.filter((line) => line.includes("missing_bearer_token")).length).toBe(1);
    expect(daemon.log.join("\n")).not.toContain("ours");
  });
});

describe("addresses", () => {
  test("outside the list are refused; X-Forwarded-For counts only from a trusted proxy", async () => {
    using folder = new Folder();
    const from = (url: string, forwarded?: string) =>
      fetch(`${url}/health`, forwarded === undefined ? {} : { headers: { "x-forwarded-for": forwarded } });
    {
      await using daemon = await start(folder, "auth: { allowed_ips: [10.0.0.0/8] }\n");
      const url = await daemon.url();
      const refused = await from(url);
      expect([refused.status, await refused.json()]).toEqual([
        403,
        { error: expect.any(String), code: "address_not_allowed" },
      ]);
      expect((await from(url, "10.1.2.3")).status).toBe(403);
    }
    await using daemon = await start(
      folder,
      "auth: { allowed_ips: [10.0.0.0/8] }\ntrusted_proxies: [127.0.0.1, 192.168.0.0/16]\n",
      "127.0.0.1:0",
      "",
    );
    const url = await daemon.url();
    expect((await from(url, "10.1.2.3")).status).toBe(200);
    expect((await from(url, "10.1.2.3, 192.168.1.1")).status).toBe(200);
    expect((await from(url, "10.1.2.3, 8.8.8.8")).status).toBe(403);
    expect((await from(url, "rubbish")).status).toBe(403);
    expect((await from(url)).status).toBe(403);
    // The address of a proxy that isn't trusted says nothing of its clients.
    await using other = await start(
      folder,
      "auth: { allowed_ips: [127.0.0.1] }\ntrusted_proxies: [192.168.0.0/16]\n",
      "127.0.0.1:0",
      "",
    );
    expect([(await from(await other.url())).status, (await from(await other.url(), "10.1.2.3")).status]).toEqual([
      200, 403,
    ]);
  });
});

describe("what a proxy hands on", () => {
  const OPEN = `    - { path: /anyone, recipient: bob, type: INFO, template: x, verify: { scheme: none } }\n`;
  const HEADERS = [
    "X-Forwarded-For: 127.0.0.1",
    "X-Forwarded-Host: x",
    "Forwarded: for=127.0.0.1",
    "X-Real-IP: 127.0.0.1",
  ];
  const MORE = [
    "Via: 1.1 x",
    "CF-Connecting-IP: ::1",
    "True-Client-IP: 127.0.0.1",
    "X-Cluster-Client-IP: ::1",
    "X-Forwarded-Proto: https",
  ];
  const from = (text: string) => Object.fromEntries([text.split(": ") as [string, string]]);

  test("reaches no route without verify, nor anything else that no credentials guard, and the log says so", async () => {
    using folder = new Folder();
    await using daemon = await start(folder, OPEN);
    const url = await daemon.url();
    const post = (path: string, headers: Record<string, string>) =>
      fetch(url + path, { method: "POST", body: `{"n":1}`, headers });
    for (const header of [...HEADERS, ...MORE]) {
      const refused = await post("/open", from(header));
      expect([header, refused.status, await refused.json()]).toEqual([
        header,
        403,
        { error: expect.stringContaining("verify"), code: "forwarded" },
      ]);
      expect((await fetch(`${url}/health`, { headers: from(header) })).status).toBe(403);
      expect((await post("/anyone", from(header))).status).toBe(202);
      expect((await post("/signed", { ...from(header), authorization: "Bearer theirs" })).status).toBe(202);
    }
    expect((await post("/open", {})).status).toBe(202);
    await daemon.said(/warn .*reason=forwarded.* path=\/open/);
  });

  test("reads nothing of receiver and observer without a token, unless a trusted proxy names this machine", async () => {
    for (const role of [Hub, Observer]) {
      const paths = role === Hub ? ["/v1/hosts", "/health", "/metrics"] : ["/observer/stats", "/health"];
      await using strict = await role.start({});
      for (const path of paths)
        for (const header of [...HEADERS, ...MORE])
          expect([path, header, (await fetch(strict.url + path, { headers: from(header) })).status]).toEqual([
            path,
            header,
            403,
          ]);
      await using trusting = await role.start({ more: "trusted_proxies: [127.0.0.1]" });
      for (const path of paths) {
        const status = async (header: string) => (await fetch(trusting.url + path, { headers: from(header) })).status;
        for (const header of ["X-Forwarded-For: 203.0.113.5", "X-Forwarded-For: unknown", ...HEADERS.slice(1)])
          expect([path, header, await status(header)]).toEqual([path, header, 403]);
        expect([path, await status("X-Forwarded-For: 127.0.0.1"), await status("Accept: */*")]).toEqual([
          path,
          200,
          200,
        ]);
      }
    }
  });

  test("makes a route without verify a configuration error", async () => {
    using folder = new Folder();
    const config = folder.write(
      "c.yaml",
      `agent: a\ninbox_dir: ${folder.path}\ntrusted_proxies: [127.0.0.1]\nwebhook:\n${ROUTES}${OPEN}`,
    );
    const { code, stderr } = await runRole("collector", ["--check", "--config", config]);
    expect(code).toBe(78);
    expect(stderr).toContain(`${config}:6:7: webhook.routes[0]: anyone who reaches one of`);
    expect(stderr).not.toContain("routes[1]");
    expect(stderr).not.toContain("routes[2]");
  });
});

test("on another address than loopback, a route without verify keeps it from starting, and the sentence says what to do", async () => {
  using folder = new Folder();
  const config = folder.write(
    "c.yaml",
    `agent: a\ninbox_dir: ${folder.path}\nwebhook:\n  listen: 0.0.0.0:0\n${ROUTES}`,
  );
  const { code, stderr } = await runRole("collector", ["--check", "--config", config]);
  expect(code).toBe(78);
  expect(stderr).toContain(`${config}:6:7: webhook.routes[0]:`);
  expect(stderr).toContain("verify: { scheme: none }");
  const bare = folder.write("c.yaml", `agent: a\ninbox_dir: ${folder.path}\nwebhook: { listen: "0.0.0.0:0" }\n`);
  const outcome = await runRole("collector", ["--config", bare]);
  expect([outcome.code, outcome.stderr]).toEqual([78, expect.stringContaining('set "auth.token_file"')]);
});

test("a reload that would leave an open door is refused: the address waits for a restart, the token doesn't", async () => {
  using folder = new Folder();
  const write = (listen: string, more: string) =>
    folder.write("c.yaml", `agent: a\ninbox_dir: ${folder.at("inbox")}\nwebhook: { listen: "${listen}" }\n${more}`);
  await using daemon = await startRole("collector", ["--config", write("0.0.0.0:0", "auth: { token: ours }\n")]);
  const url = (await daemon.url()).replace("0.0.0.0", "127.0.0.1");
  write("127.0.0.1:0", "");
  daemon.child.kill("SIGHUP");
  await daemon.said("webhook.listen: a change takes effect at the next start");
  await daemon.said("webhook.listen: anyone who reaches 0.0.0.0:0 could connect");
  await daemon.said("the former one stays");
  expect((await fetch(`${url}/health`)).status).toBe(401);
});
