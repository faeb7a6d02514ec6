// What stands in front of the receiver (and the observer), and what it asks: client certificates by itself and by a real Caddy,
// the version gate with Forgejo (its answers over a real socket) and git (a real clone).

import { describe, expect, test } from "bun:test";
import { mkdirSync, renameSync } from "node:fs";
import { caller, startCaddy } from "../front-kit.ts";
import { PATIENCE_MS, exchange, statusesOf } from "../fuzz/kit.ts";
import { Folder, certificates, have, startRole, until } from "../kit.ts";
import { Hub, archive, report, uploadHeaders } from "./kit.ts";

test("a Host that is none opens no door: what the operator reads isn't had by the name of an agent's door", async () => {
  await using hub = await Hub.start({ more: "auth: { token: operators }" });
  for (const [target, host, status] of [
    ["/v1/hosts", "x", 401],
    ["/a/v1/ping?:xyz/v1/hosts", "a b", 400],
    ["/a/v1/ping?:xyz/v1/hosts", "", 400],
    ["/v1/ping?:xyz/v1/hosts", "x", 405],
    ["/v1/ping#:xyz/v1/hosts", "x", 401],
  ] as const) {
    const answer = await exchange(hub.url, Buffer.from(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\n\r\n`), PATIENCE_MS);
    expect([target, host, statusesOf(answer ?? "")]).toEqual([target, host, [status]]);
    expect(answer).not.toContain("web-1");
  }
});

describe.skipIf(!have("openssl", "client certificates of the receiver"))("client certificates", () => {
  test("none, a foreign one and an expired one are refused, the right one is let in, and a token is asked for all the same", async () => {
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
  }, 60_000);

  const withCaddy = test.skipIf(!have("caddy", "the example Caddyfile"));

  withCaddy(
    "the example Caddyfile does the same, streams episodes, and lets nobody read",
    async () => {
      using folder = new Folder();
      await certificates(folder);
      await using hub = await Hub.start({ more: "trusted_proxies: [127.0.0.1]" });
      await using caddy = startCaddy(folder, { receiver: hub.url });
      const call = caller(folder, caddy.url);
      const post = { method: "POST", body: JSON.stringify(report()), headers: hub.bearer() };
      await until("Caddy lets the right one in", async () => (await call("client", "/v1/host-report", post)) === 200);
      for (const name of [null, "foreign", "expired"])
        expect([name, await call(name, "/v1/host-report", post)]).toEqual([name, "refused"]);
      expect(await call("client", "/v1/host-report", { ...post, headers: {} })).toBe(401);
      const bytes = await archive("through Caddy");
      const put = { method: "PUT", body: bytes, headers: { ...hub.bearer(), ...uploadHeaders(bytes) } };
      expect(await call("client", "/v1/episodes/web-1/caddy.tar.zst", put)).toBe(201);
      for (const path of ["/v1/hosts", "/health", "/metrics", "/v1/episodes/web-1/caddy.tar.zst"])
        expect([path, await call("client", path)]).toEqual([path, 404]);
    },
    60_000,
  );

  withCaddy(
    "and leads to the observer under /v1/observer alone, where its token is asked for, too",
    async () => {
      using folder = new Folder();
      await certificates(folder);
      const config = `listen: 127.0.0.1:0\npersist_path: ${folder.at("observer", "ops.jsonl")}\nauth: { token: tell-me }\ntrusted_proxies: [127.0.0.1]\n`;
      await using observer = await startRole("observer", ["--config", folder.write("observer.yaml", config)]);
      const url = await observer.url();
      await using caddy = startCaddy(folder, { observer: url });
      const call = caller(folder, caddy.url);
      const headers = { authorization: "Bearer tell-me" };
      const post = { method: "POST", body: '{"endpoint":"deploy"}', headers };
      await until(
        "Caddy lets the right one in",
        async () => (await call("client", "/v1/observer/stats", { headers })) === 200,
      );
      expect(await call("client", "/v1/observer/event", post)).toBe(200);
      expect(await call("client", "/v1/observer/event", { ...post, headers: {} })).toBe(401);
      for (const name of [null, "foreign", "expired"])
        expect([name, await call(name, "/v1/observer/event", post)]).toEqual([name, "refused"]);
      for (const path of ["/observer/event", "/observer/stats", "/v1/observer", "/health", "/metrics"])
        expect([path, await call("client", path, path.endsWith("event") ? post : { headers })]).toEqual([path, 404]);
      const stats = await fetch(`${url}/observer/stats`, { headers });
      expect(await stats.json()).toMatchObject({ total: 1, successes: 1 });
    },
    60_000,
  );
});

describe.skipIf(!have("git", "the version gate"))("the version gate", () => {
  const REMEDIATION = `cd /opt/lab && git pull && sudo ./install.sh  # "quoted", ü`;

  /** A repository with so many commits; gives them, newest first. */
  async function repository(
    folder: Folder,
    commits: number,
  ): Promise<{ path: string; commit: () => Promise<string>; list: () => Promise<string[]> }> {
    const path = folder.at("repo");
    mkdirSync(path);
    const git = async (...args: string[]) =>
      (await Bun.$`git -C ${path} -c user.name=t -c user.email=t@example.org ${args}`.quiet()).stdout.toString().trim();
    await git("init", "-q", "-b", "main");
    const commit = async () => {
      await git("commit", "-q", "--allow-empty", "-m", "x");
      return git("rev-parse", "HEAD");
    };
    for (let n = 0; n < commits; n++) await commit();
    return { path, commit, list: async () => (await git("log", "--format=%H")).split("\n") };
  }

  /** What Forgejo's API answers, in pages of 50, over a real socket. */
  function forgejo(commits: () => string[]) {
    let up = true;
    const asked: string[] = [];
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch(request) {
        const url = new URL(request.url);
        asked.push(`${request.headers.get("authorization")} ${url.pathname}${url.search}`);
        if (!up) return new Response("gone", { status: 502 });
        const limit = Number(url.searchParams.get("limit"));
        const page = Number(url.searchParams.get("page"));
        const shown = commits().slice((page - 1) * limit, page * limit);
        return Response.json(
          shown.map((sha) => ({
            url: `https://git.example/api/v1/repos/lab/code/git/commits/${sha}`,
            sha,
            created: "2026-01-31T12:00:00Z",
            commit: { message: "x" },
            parents: [],
          })),
        );
      },
    });
    return {
      url: `http://127.0.0.1:${server.port}`,
      asked,
      set: (on: boolean) => (up = on),
      [Symbol.dispose]: () => void server.stop(true),
    };
  }

  const ship = async (hub: Hub, episode: string, commit: string | null) => {
    const answer = await hub.ship(episode, await archive(episode), { headers: { "x-code-commit": commit } });
    return {
      status: answer.status,
      body: (await answer.json()) as Record<string, unknown>,
      retry: answer.headers.get("retry-after"),
    };
  };
  const gate = (lines: string) =>
    `rate_limit_per_minute: 10000\nversion_gate:\n  enabled: true\n  window: 60\n  remediation: ${JSON.stringify(REMEDIATION)}\n${lines}`;

  test("git: in the window, outside it, missing, malformed; what is said word for word; reports are not gated", async () => {
    using folder = new Folder();
    const repo = await repository(folder, 61);
    await using hub = await Hub.start({ more: gate(`  repo_path: ${repo.path}`) });
    const all = await repo.list();
    expect((await ship(hub, "newest", all[0]!)).status).toBe(201);
    expect((await ship(hub, "oldest", all[59]!)).status).toBe(201);
    expect(await ship(hub, "older", all[60]!)).toMatchObject({
      status: 412,
      body: { remediation: REMEDIATION, your_commit: all[60], head_commit: all[0] },
    });
    expect(await ship(hub, "none", null)).toMatchObject({
      status: 400,
      body: { remediation: REMEDIATION, field: "X-Code-Commit" },
    });
    expect(await ship(hub, "bad", "HEAD")).toMatchObject({
      status: 400,
      body: { remediation: REMEDIATION, field: "X-Code-Commit" },
    });
    expect((await hub.report()).status).toBe(200);
    expect(await hub.get("/health")).toMatchObject({ version_gate: "git" });
    expect(await (await fetch(`${hub.url}/metrics`)).text()).toContain('picket_version_gate_source{source="git"} 1');
    await hub.daemon.said("source=git");
    // A commit that lands is let in within the time that a list is kept.
    const landed = await repo.commit();
    await until("the new commit is let in", async () => (await ship(hub, "landed", landed)).status === 201);
    // The clone goes away: the last good list stays, and says so.
    renameSync(repo.path, `${repo.path}.away`);
    await until("it says so", async () => {
      await ship(hub, "landed", landed);
      return (await hub.get<{ version_gate: string }>("/health")).version_gate === "kept";
    });
    expect((await ship(hub, "kept", landed)).status).toBe(201);
    expect((await ship(hub, "older", all[60]!)).status).toBe(412);
  }, 60_000);

  test("Forgejo, page by page, with its token; git where it is away; back again", async () => {
    using folder = new Folder();
    const repo = await repository(folder, 3);
    const extra = Array.from({ length: 70 }, (_, n) => n.toString(16).padStart(40, "f"));
    using hub1 = forgejo(() => extra);
    await using hub = await Hub.start({
      more: gate(`  repo_path: ${repo.path}\n  forgejo: { url: "${hub1.url}", repo: lab/code, token: forge-secret }`),
    });
    expect((await ship(hub, "a", extra[59]!)).status).toBe(201);
    expect((await ship(hub, "b", extra[60]!)).status).toBe(412);
    expect(hub1.asked.slice(0, 2)).toEqual([
      expect.stringContaining("token forge-secret /api/v1/repos/lab/code/commits?limit=50&page=1"),
      expect.stringContaining("page=2"),
    ]);
    hub1.set(false);
    const [head = ""] = await repo.list();
    await until("git is asked", async () => (await ship(hub, "c", head)).status === 201);
    expect(await hub.get("/health")).toMatchObject({ version_gate: "git" });
    hub1.set(true);
    await until("Forgejo is asked again", async () => (await ship(hub, "d", extra[0]!)).status === 201);
    expect(hub.daemon.log.join("\n")).not.toContain("forge-secret");
  }, 60_000);

  test("both away from the start: 503, so that agents wait; then the first list opens it", async () => {
    using folder = new Folder();
    await using hub = await Hub.start({
      more: gate(`  repo_path: ${folder.at("repo")}\n  forgejo: { url: "http://127.0.0.1:9", repo: lab/code }`),
    });
    expect(await ship(hub, "a", "a".repeat(40))).toMatchObject({
      status: 503,
      retry: "5",
      body: { code: "no_commit_list" },
    });
    expect(await hub.get("/health")).toMatchObject({ version_gate: "none" });
    const repo = await repository(folder, 1);
    const [head = ""] = await repo.list();
    await until("it opens", async () => (await ship(hub, "a", head)).status === 201);
  }, 60_000);
});

describe.skipIf(!have("promtool", "the receiver's metrics"))("metrics", () => {
  test("promtool has nothing to say, and no sample comes twice", async () => {
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
