// A stranger with curl: the roles run with the example configurations behind a real Caddy with the example Caddyfile, and nothing
// that is sent from outside reaches an inbox or a store, and nothing is read.
// Not tested: certificates that Caddy gets by itself; other proxies.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Folder, ROOT, certificates, freePort, have, startRole, until } from "../kit.ts";

const possible = ["openssl", "caddy", "curl"].map((program) => have(program, "a stranger's curl")).every(Boolean);

const ROUTES = [
  "/note",
  "/forgejo/push",
  "/v1/host-report",
  "/agent/telemetry",
  "/v1/ping",
  "/v1/host-health/web-1",
  "/v1/episodes/web-1/ep-1.tar.zst",
  "/v1/hosts",
  "/v1/events",
  "/v1/observer/event",
  "/v1/observer/review",
  "/v1/observer/stats",
  "/observer/event",
  "/observer/stats",
  "/health",
  "/metrics",
  "/",
];
/** The same path, written in another way. */
const WRITTEN = [
  (path: string) => path,
  (path: string) => `/${path}`,
  (path: string) => `/.${path}`,
  (path: string) => `/forgejo/..${path}`,
  (path: string) => `/forgejo/..%2f${path.slice(1)}`,
  (path: string) => `/forgejo/%2e%2e${path}`,
  (path: string) => `/v1/observer/..${path}`,
  (path: string) => path.replace(/[a-z]/, (letter) => `%${letter.charCodeAt(0).toString(16)}`),
  (path: string) => `${path}?x=/forgejo/push`,
  (path: string) => path.replace(/^\//, "\\"),
];
const FORGED = [
  [],
  ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: 127.0.0.1", "X-Forwarded-Proto: https"],
  ["Forwarded: for=127.0.0.1;host=localhost", "X-Real-IP: 127.0.0.1", "Client-IP: 127.0.0.1"],
  [
    "Connection: close, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto",
    "X-Original-URL: /note",
    "X-Rewrite-URL: /note",
  ],
  ["Authorization: Bearer ", "X-HTTP-Method-Override: GET", "Cookie: token=x"],
];
interface Try {
  path: string;
  headers: string[];
}
/** So many tries a curl: a program for each takes longer than what it asks. */
const BATCH = 20;
/** A body that each of the routes would take. */
const BODY = JSON.stringify({
  text: "hi",
  endpoint: "deploy",
  success: false,
  error: "x",
  host: { metrics: { cpu_percent: 1 } },
});

describe.skipIf(!possible)("a stranger's curl", () => {
  const folder = new Folder();
  const daemons: Daemon[] = [];
  const urls: Record<string, string> = {};
  const port = possible ? freePort() : 0;
  let caddy: Bun.Subprocess;

  beforeAll(async () => {
    if (!possible) return;
    await certificates(folder);
    mkdirSync(folder.at("incoming"));
    const inbox = folder.at("inbox");
    const env = {
      PICKET_COLLECTOR_WEBHOOK__LISTEN: "127.0.0.1:0",
      PICKET_COLLECTOR_INBOX_DIR: inbox,
      PICKET_COLLECTOR_DROP_FOLDER__PATH: folder.at("incoming"),
      PICKET_RECEIVER_LISTEN: "127.0.0.1:0",
      PICKET_RECEIVER_DATA_DIR: folder.at("receiver"),
      PICKET_RECEIVER_NOTIFY__INBOX_DIR: inbox,
      PICKET_OBSERVER_LISTEN: "127.0.0.1:0",
      PICKET_OBSERVER_PERSIST_PATH: folder.at("observer", "ops.jsonl"),
      PICKET_OBSERVER_NOTIFY__INBOX_DIR: inbox,
      PICKET_OBSERVER_CYCLE_SECONDS: "0.2",
      PICKET_OBSERVER_ESCALATION_THRESHOLD: "1",
    };
    for (const role of ["collector", "receiver", "observer"]) {
      const daemon = await startRole(role, ["--config", join(ROOT, "etc", `${role}.yaml`)], { env });
      daemons.push(daemon);
      urls[role] = await daemon.url();
    }
    const bare = (role: string) => urls[role]!.replace("http://", "");
    const certificate = `tls ${folder.at("server.pem")} ${folder.at("server.key")}`;
    const text = readFileSync(join(ROOT, "etc/Caddyfile"), "utf8")
      .replace("tls {", `${certificate} {`)
      .replace("hooks.example.com {", `https://hooks.example.com:${port} {\n\t${certificate}`)
      .replace("hub.example.com {", `https://hub.example.com:${port} {`)
      .replace("/etc/picket/ca.pem", folder.at("ca.pem"))
      .replaceAll("127.0.0.1:18790", bare("collector"))
      .replaceAll("127.0.0.1:18791", bare("receiver"))
      .replaceAll("127.0.0.1:3219", bare("observer"));
    const options = `{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system ${folder.at("storage")}\n}\n`;
    const file = folder.write("Caddyfile", options + text);
    const own = { ...process.env, HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path };
    caddy = Bun.spawn(["caddy", "run", "--config", file, "--adapter", "caddyfile"], {
      stdout: "ignore",
      stderr: "ignore",
      env: own,
    });
    await until("Caddy is there", async () => {
      const [seen] = await statuses("hooks", [{ path: "/nothing", headers: [] }]);
      return seen![0] === "404";
    });
  });
  afterAll(async () => {
    caddy?.kill("SIGKILL");
    await caddy?.exited;
    for (const daemon of daemons) await daemon[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  /** What curl is answered with, for each: to a POST, a GET and a PUT. "000" is no answer. */
  const statuses = async (site: string, tries: Try[]): Promise<string[][]> => {
    const at = `${site}.example.com`;
    const one = ({ path, headers }: Try, ...method: string[]) => [
      "--next",
      "-sk",
      "-o",
      "/dev/null",
      "-w",
      "%{http_code} ",
      "--path-as-is",
      "--http1.1",
      "-m",
      "20",
      "--resolve",
      `${at}:${port}:127.0.0.1`,
      ...headers.flatMap((header) => ["-H", header]),
      ...method,
      `https://${at}:${port}${path}`,
    ];
    const all = tries.flatMap((each) => [one(each, "-d", BODY), one(each), one(each, "-X", "PUT", "-d", BODY)]).flat();
    const cmd = ["curl", ...all.slice(1)];
    const text = await new Response(Bun.spawn(cmd, { stdout: "pipe", stderr: "ignore" }).stdout).text();
    const seen = text.trim().split(" ");
    return tries.map((_, n) => seen.slice(3 * n, 3 * n + 3));
  };

  /** What lies in inboxes and stores. */
  const kept = async () => ({
    inbox: existsSync(folder.at("inbox"))
      ? readdirSync(folder.at("inbox")).filter((name) => name.endsWith(".inbox"))
      : [],
    hosts: ((await (await fetch(`${urls["receiver"]}/v1/hosts`)).json()) as { hosts: unknown[] }).hosts,
    episodes: readdirSync(folder.at("receiver", "episodes")),
    operations: ((await (await fetch(`${urls["observer"]}/observer/stats`)).json()) as { total: number }).total,
  });
  const NOTHING = { inbox: [], hosts: [], episodes: [], operations: 0 };

  test("is refused at every route, however it is written and whatever it claims", async () => {
    const answered: string[] = [];
    let tried = 0;
    const batches = ["hooks", "hub"].flatMap((site) => {
      const host = `Host: ${site === "hooks" ? "hub" : "hooks"}.example.com:${port}`;
      const tries = ROUTES.flatMap((route) =>
        WRITTEN.flatMap((written) => {
          const all = written === WRITTEN[0] ? [...FORGED, [host], ["Host: localhost"]] : FORGED.slice(0, 2);
          return all.map((headers) => ({ path: written(route), headers }));
        }),
      );
      return Array.from({ length: Math.ceil(tries.length / BATCH) }, (_, n) => ({
        site,
        tries: tries.slice(n * BATCH, (n + 1) * BATCH),
      }));
    });
    for (const { site, tries } of batches) {
      for (const [n, seen] of (await statuses(site, tries)).entries()) {
        const { path, headers } = tries[n]!;
        tried += seen.length;
        // The hub asks for a certificate before it hears anything. curl itself refuses some of the paths.
        const right = site === "hub" ? /^000$/ : /^(4\d\d|000)$/;
        const isRefused = seen.length === 3 && seen.every((status) => right.test(status));
        if (!isRefused) answered.push(`${site} ${path} ${headers.join(", ")}: ${seen.join(" ")}`);
      }
    }
    expect(answered).toEqual([]);
    expect(tried).toBeGreaterThan(1000);
    expect(await kept()).toEqual(NOTHING);
  });

  test("through a proxy that hands everything on, nothing is had either", async () => {
    const headers = { "x-forwarded-for": "203.0.113.5" };
    for (const [role, url] of Object.entries(urls))
      for (const path of ROUTES)
        for (const init of [
          { headers },
          { headers, method: "POST", body: BODY },
          { headers, method: "PUT", body: BODY },
        ]) {
          const { status } = await fetch(url + path, init);
          expect([role, path, status >= 400 && status < 500 ? "refused" : status]).toEqual([role, path, "refused"]);
        }
    expect(await kept()).toEqual(NOTHING);
  });

  test("while on this machine the example note arrives", async () => {
    expect((await fetch(`${urls["collector"]}/note`, { method: "POST", body: '{"text":"hi"}' })).status).toBe(202);
    expect((await kept()).inbox).toEqual(["ops.inbox"]);
  });
});
