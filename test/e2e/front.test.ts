// All four roles behind the example Caddyfile: a real Caddy, real agents with client certificates, and what they do when
// somebody in between is killed; client certificates that Caddy refuses.
// Not tested: certificates that Caddy gets by itself; other proxies.
// PICKET_FRONT_EPISODE_MIB is the size of the episodes (100).

import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Caddy, caller, startCaddy } from "../front-kit.ts";
import { type Daemon, Folder, certificates, freePort, have, inboxLines, runRole, startRole, until } from "../kit.ts";
import { Observer, lines } from "../observer/kit.ts";
import { Hub, archive, report, uploadHeaders } from "../receiver/kit.ts";

const EPISODE_BYTES = Number(process.env["PICKET_FRONT_EPISODE_MIB"] ?? 100) << 20;

const COMMIT = "c".repeat(40);

/** An agent that reaches the receiver through Caddy, with this certificate or none. */
class Host {
  readonly config: string;
  readonly #folder: Folder;

  constructor(folder: Folder, url: string, token: string, certificate: string | null = "client") {
    this.#folder = folder;
    mkdirSync(folder.at("episodes"), { recursive: true });
    const identity = certificate
      ? `, client_cert_file: ${folder.at(`${certificate}.pem`)}, client_key_file: ${folder.at(`${certificate}.key`)}`
      : "";
    this.config = folder.write(
      `agent-${certificate}.yaml`,
      `receiver: { url: "${url}", token: ${token}, ca_file: ${folder.at("ca.pem")}${identity} }
data_dir: ${folder.at("agent")}
interval_seconds: 1
docker: { enabled: false }
ship: { episodes_dir: ${folder.at("episodes")}, scan_seconds: 1 }
`,
    );
  }

  start(): Promise<Daemon> {
    return startRole("agent", ["--config", this.config, "--log-level", "debug"], { target: "binary" });
  }

  /** A finished episode of random bytes, which nothing makes smaller. */
  finish(id: string): void {
    mkdirSync(this.#folder.at("episodes", id));
    writeFileSync(this.#folder.at("episodes", id, "noise"), randomBytes(EPISODE_BYTES));
    writeFileSync(this.#folder.at("episodes", id, "meta.json"), JSON.stringify({ code_version: { commit: COMMIT } }));
    writeFileSync(this.#folder.at("episodes", id, "done.marker"), "");
  }

  shipped(id: string): boolean {
    return existsSync(this.#folder.at("shipped", id));
  }
}

/** What the receiver has of an episode: its rows in the index, and the bytes that its archive holds. */
function kept(hub: Hub, id: string) {
  const rows = lines(join(hub.data, "episodes", "index.jsonl"))
    .concat(lines(join(hub.data, "index.jsonl")))
    .filter(({ episode }) => episode === id);
  const archive = join(hub.data, "episodes", "web-1", `${id}.tar.zst`);
  const size = existsSync(archive) ? statSync(archive).size : 0;
  const sha256 = size > 0 ? new Bun.CryptoHasher("sha256").update(readFileSync(archive)).digest("hex") : "";
  return { rows, size, sha256 };
}

/** The upload of an episode that the receiver is writing now, once some of it is there. */
function underWay(hub: Hub, id: string): Promise<string> {
  const folder = join(hub.data, "episodes", "web-1");
  return until(`the upload of ${id} is under way`, () => {
    if (!existsSync(folder)) return "";
    const names = readdirSync(folder).filter((name) => name.includes(id) && name.endsWith(".partial"));
    return names.find((name) => (statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0) > 1 << 20);
  });
}

/** Waits for a heartbeat: it goes its own way beside the episodes, and tries again when it likes. */
async function online(hub: Hub): Promise<void> {
  const statuses = () => hub.rows<{ status: string }>("SELECT status FROM hosts").map(({ status }) => status);
  await until("its only host is online", () => statuses().join() === "online");
}

/** The most memory that a process ever had, in MiB. */
function peakMib(pid: number): number {
  return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

async function reachable(folder: Folder, caddy: Caddy): Promise<void> {
  const call = caller(folder, caddy.url);
  await until("Caddy is there", async () => (await call("client", "/nothing")) === 404);
}

const possible = have("openssl", "Caddy in front of all roles") && have("caddy", "Caddy in front of all roles");

describe.skipIf(!possible)("behind the example Caddyfile", () => {
  test("each role is reached by its own doors alone: agent, webhook and tool do their work", async () => {
    using folder = new Folder();
    await certificates(folder);
    await using hub = await Hub.start({ target: "binary", more: "trusted_proxies: [127.0.0.1]" });
    await using observer = await Observer.start({
      target: "binary",
      more: "auth: { token: tell-me }\ntrusted_proxies: [127.0.0.1]",
    });
    const config = folder.write(
      "collector.yaml",
      `agent: foreman\ninbox_dir: ${folder.at("inbox")}\ntrusted_proxies: [127.0.0.1]\nwebhook:\n  listen: 127.0.0.1:0\n  routes:\n    - { path: /forgejo/note, recipient: ops, type: INFO, template: "{{ .text }}", verify: { scheme: bearer, secret: theirs } }\n    - { path: /secret, recipient: ops, type: INFO, template: "not through Caddy", verify: { scheme: none } }\n`,
    );
    await using collector = await startRole("collector", ["--config", config], { target: "binary" });
    await using caddy = startCaddy(folder, {
      collector: await collector.url(),
      receiver: hub.url,
      observer: observer.url,
    });
    await reachable(folder, caddy);

    const token = hub.tokens.get("web-1")!;
    const host = new Host(folder, caddy.url, token);
    host.finish("large");
    const before = peakMib(caddy.pid);
    await using agent = await host.start();
    await until("the episode is shipped", () => host.shipped("large"));
    const grown = peakMib(caddy.pid) - before;
    await online(hub);
    const { rows, size, sha256 } = kept(hub, "large");
    expect(rows).toEqual([expect.objectContaining({ host: "web-1", sha256, size, commit: COMMIT })]);
    // Held back instead of streamed, it would lie in Caddy's memory.
    if (EPISODE_BYTES >= 100 << 20) expect(grown).toBeLessThan(64);
    await agent.kill();

    const hook = (path: string, init: RequestInit) => fetch(caddy.hooks + path, init).then(({ status }) => status);
    const note = { method: "POST", body: '{"text":"through Caddy"}', headers: { authorization: "Bearer theirs" } };
    expect(await hook("/forgejo/note", note)).toBe(202);
    expect(inboxLines(folder.at("inbox"), "ops").map(({ payload }) => payload)).toEqual(["through Caddy"]);
    const job = new URL((await hub.run("job", "add", "nas", "--every", "24h")).stdout.trim()).pathname;
    expect(await hook(`${job}/start`, { method: "POST", body: "through Caddy" })).toBe(200);
    for (const path of [
      "/secret",
      "/health",
      "/metrics",
      "/",
      "/v1/host-report",
      "/forgejo/note/more",
      "/v1/observer/event",
    ])
      expect([path, await hook(path, note)]).toEqual([path, 404]);

    const curl = (...args: string[]) =>
      Bun.$`curl -sS -o ${folder.at("answer")} -w %{http_code} --cacert ${folder.at("ca.pem")} ${args}`
        .nothrow()
        .text();
    const identity = ["--cert", folder.at("client.pem"), "--key", folder.at("client.key")];
    if (have("curl", "the observer by curl")) {
      const event = ["-d", '{"endpoint":"deploy"}', `${caddy.url}/v1/observer/event`];
      const bearer = ["-H", "authorization: Bearer tell-me"];
      expect(await curl(...identity, ...bearer, ...event)).toBe("200");
      expect(await curl(...identity, ...event)).toBe("401");
      expect(await curl(...bearer, ...event)).toBe("000");
      expect(await curl(...identity, ...bearer, `${caddy.url}/v1/observer/stats`)).toBe("200");
      expect(JSON.parse(readFileSync(folder.at("answer"), "utf8"))).toMatchObject({ total: 1 });
    }

    const call = caller(folder, caddy.url);
    const headers = { authorization: "Bearer tell-me" };
    for (const path of ["/", "/note", "/health", "/metrics", "/v1/hosts", "/v1/events", "/observer/stats"])
      for (const init of [{ headers }, { ...note, headers }])
        expect([path, await call("client", path, init)]).toEqual([path, 404]);
    for (const name of [null, "foreign", "expired"])
      expect([name, await call(name, "/v1/ping", { method: "POST", headers: hub.bearer() })]).toEqual([
        name,
        "refused",
      ]);
  });

  test("an agent without the right certificate gets nowhere, and says so without its token", async () => {
    using folder = new Folder();
    await certificates(folder);
    await using hub = await Hub.start({ target: "binary" });
    await using caddy = startCaddy(folder, { receiver: hub.url });
    await reachable(folder, caddy);
    const token = hub.tokens.get("web-1")!;
    const ping = (certificate: string | null) =>
      runRole("agent", ["ping", "--config", new Host(folder, caddy.url, token, certificate).config]);
    for (const certificate of [null, "foreign", "expired"]) {
      const { code, stdout, stderr } = await ping(certificate);
      expect([certificate, code]).toEqual([certificate, 1]);
      expect(stdout + stderr).not.toContain(token);
    }
    expect((await ping("client")).code).toBe(0);
  });

  test("Caddy killed, the receiver killed and the receiver away while an episode comes: it is sent again, and there once", async () => {
    using folder = new Folder();
    await certificates(folder);
    const hub = new Hub({ target: "binary", port: freePort(), more: "rate_limit_per_minute: 1000" });
    await using _ = hub;
    const token = await hub.addHost("web-1");
    await using caddy = startCaddy(folder, { receiver: hub.address });
    await reachable(folder, caddy);
    const host = new Host(folder, caddy.url, token);
    host.finish("ep-1");
    // Nobody behind Caddy: 502, and both heartbeat and episode wait.
    await using agent = await host.start();
    await agent.said("502");
    await hub.up();

    await underWay(hub, "ep-1");
    hub.daemon.child.kill("SIGSTOP");
    await caddy.kill("SIGKILL");
    hub.daemon.child.kill("SIGCONT");
    caddy.up();

    await underWay(hub, "ep-1");
    await hub.daemon.kill("SIGKILL");
    await hub.up();

    await until("the episode is shipped", () => host.shipped("ep-1"));
    const { rows, size, sha256 } = kept(hub, "ep-1");
    expect(rows).toEqual([expect.objectContaining({ host: "web-1", sha256, size })]);
    await online(hub);
    await until("nothing half is left", () =>
      readdirSync(join(hub.data, "episodes", "web-1")).every((name) => !name.endsWith(".partial")),
    );
    // An archive that is whole, and holds what the folder held.
    const listed = Bun.spawnSync(["tar", "--zstd", "-tvf", join(hub.data, "episodes", "web-1", "ep-1.tar.zst")]);
    if (have("zstd", "the archive read by tar")) expect(listed.stdout.toString()).toContain(` ${EPISODE_BYTES} `);
    expect(agent.log.join("\n")).not.toContain(token);
  });
});

describe.skipIf(!have("openssl", "client certificates of the receiver"))("client certificates", () => {
  const withCaddy = test.skipIf(!have("caddy", "the example Caddyfile"));

  withCaddy("the example Caddyfile does the same, streams episodes, and lets nobody read", async () => {
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
  });

  withCaddy("and leads to the observer under /v1/observer alone, where its token is asked for, too", async () => {
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
  });
});
