// The version gate: its list from a real git clone, and from Forgejo by its answers over a real socket.

import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { Folder, have, until } from "../kit.ts";
import { Hub, archive, report } from "./kit.ts";

test("a git that never answers holds up neither the start nor uploads, and leaves no process", async () => {
  using bin = new Folder();
  // What it has started holds its pipes open, whatever becomes of itself.
  chmodSync(bin.write("git", `#!/bin/sh\nsh -c 'echo $$ >> ${bin.at("pids")}; exec sleep 600'\n`), 0o755);
  await using hub = await Hub.start({
    env: { PATH: `${bin.path}:${process.env["PATH"]}` },
    more: `version_gate: { enabled: true, repo_path: ${bin.path} }`,
  });
  expect((await hub.report(report())).status).toBe(200);
  const commit = "a".repeat(40);
  const refused = await hub.ship("ep-1", await archive("x"), { headers: { "x-code-commit": commit } });
  expect([refused.status, await hub.daemon.said("version gate")]).toEqual([
    503,
    expect.stringContaining("git did not answer within 4 s"),
  ]);
  const pids = readFileSync(bin.at("pids"), "utf8").trim().split("\n");
  await until("its child has ended", () => !pids.some((pid) => existsSync(`/proc/${pid}/fd/0`)));
});

test.skipIf(!have("git", "a gate after a reload"))(
  "/health names the source of the commits right after a reload, before the first upload",
  async () => {
    using folder = new Folder();
    const git = (...args: string[]) =>
      Bun.$`git -c user.name=a -c user.email=a@example.org -C ${folder.path} ${args}`.quiet();
    await git("init");
    await git("commit", "--allow-empty", "-m", "first");
    await using hub = await Hub.start();
    hub.configure(`version_gate: { enabled: true, repo_path: ${folder.path} }`);
    hub.daemon.child.kill("SIGHUP");
    await hub.daemon.said("configuration reloaded");
    expect(await hub.get("/health")).toMatchObject({ version_gate: "git" });
  },
);

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

  test("git: in the window, outside it, missing, malformed, each with its exact answer; reports are not gated", async () => {
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
  });

  test("Forgejo, page by page, with its token; git while it is unreachable; Forgejo again", async () => {
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
  });

  test("both sources unreachable from the start: 503, so that agents wait; then the first list opens it", async () => {
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
  });
});
