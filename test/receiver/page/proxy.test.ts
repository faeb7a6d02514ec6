// The page behind the proxies that docs/page.md shows: real ones, over TLS.

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, ROOT, certificates, freePort, have, until } from "../../kit.ts";
import { Hub, report } from "../kit.ts";

const can = have("openssl", "the page behind a proxy");

/** The last site of etc/Caddyfile, uncommented. */
function caddy(folder: Folder, port: number, hub: Hub): string[] {
  const text = readFileSync(join(ROOT, "etc/Caddyfile"), "utf8");
  const site = text
    .slice(text.indexOf("# picket.example.com"))
    .replaceAll(/^# /gm, "")
    .replace(
      "picket.example.com {",
      `https://localhost:${port} {\n\ttls ${folder.at("server.pem")} ${folder.at("server.key")}`,
    )
    .replace("127.0.0.1:18791", new URL(hub.url).host);
  const options = `{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system ${folder.at("storage")}\n}\n`;
  return ["caddy", "run", "--adapter", "caddyfile", "--config", folder.write("Caddyfile", options + site)];
}

/** The server of docs/page.md, and otherwise nginx's defaults. */
function nginx(folder: Folder, port: number, hub: Hub): string[] {
  const [, block = ""] = /```nginx\n([^]*?)```/.exec(readFileSync(join(ROOT, "docs/page.md"), "utf8")) ?? [];
  const site = block
    .replace("listen 443", `listen 127.0.0.1:${port}`)
    .replace(/\/etc\/ssl\/\S+\.pem/, folder.at("server.pem"))
    .replace(/\/etc\/ssl\/\S+\.key/, folder.at("server.key"))
    .replace("127.0.0.1:18791", new URL(hub.url).host);
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder.at(name)};`)
    .join(" ");
  const config = `daemon off; master_process off; pid ${folder.at("pid")}; error_log ${folder.at("error.log")};
events {}
http { access_log off; ${temporary} ${site} }`;
  return ["nginx", "-p", folder.path, "-c", folder.write("nginx.conf", config)];
}

test.each([
  ["Caddy", "caddy", caddy],
  ["nginx", "nginx", nginx],
] as const)(
  "behind %s a browser logs in, follows the page, and sends forms; agents' doors are shut",
  async (...row) => {
    const [, program, command] = row;
    if (!can || !have(program, "the page behind it")) return;
    using folder = new Folder();
    await certificates(folder);
    await using hub = await Hub.start({ more: "auth: { token: ours }\ntrusted_proxies: [127.0.0.1]" });
    const port = freePort();
    const front = `https://localhost:${port}`;
    const env = { ...process.env, HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path };
    const proxy = Bun.spawn(command(folder, port, hub), { stdout: "ignore", stderr: "ignore", env });
    const stop = new AbortController();
    const tls = { ca: Bun.file(folder.at("ca.pem")) };
    const ask = (path: string, init: RequestInit = {}) =>
      fetch(front + path, { redirect: "manual", signal: stop.signal, tls, ...init });
    const accept = "text/html";
    try {
      const first = await until("the proxy is there", () => ask("/", { headers: { accept } }).catch(() => null));
      expect([first.status, first.headers.get("location")]).toEqual([303, "/login?next=%2F"]);
      const form = { method: "POST", body: new URLSearchParams({ token: "ours" }) };
      expect((await ask("/login", form)).status).toBe(403);
      const done = await ask("/login", { ...form, headers: { origin: front } });
      const [set = ""] = done.headers.getSetCookie();
      expect([done.status, set]).toEqual([303, expect.stringMatching(/; HttpOnly; SameSite=Strict; Secure$/)]);
      const headers = { cookie: set.split(";")[0]!, accept, origin: front };
      expect(await (await ask("/", { headers })).text()).toContain("web-1");

      const stream = await ask("/live?of=/", { headers });
      let got = "";
      const reading = (async () => {
        for await (const chunk of stream.body!.pipeThrough(new TextDecoderStream())) got += chunk;
      })().catch(() => {});
      await until("it follows", () => got.includes("event: hello"));
      await hub.report();
      await until("the report is shown", () => got.includes("event: update"));

      const authorization = `Bearer ${hub.tokens.get("web-1")}`;
      for (const [method, path] of [
        ["POST", "/v1/host-report"],
        ["POST", "/agent/telemetry"],
        ["POST", "/v1/ping"],
        ["PUT", "/v1/host-health/web-1"],
      ] as const) {
        const answer = await ask(path, { method, headers: { authorization }, body: JSON.stringify(report()) });
        expect([path, [403, 404].includes(answer.status)]).toEqual([path, true]);
      }
      expect((await ask("/logout", { method: "POST", headers, body: new URLSearchParams() })).status).toBe(303);
      await reading;
      expect((await ask("/", { headers })).status).toBe(303);
    } finally {
      stop.abort();
      proxy.kill("SIGKILL");
      await proxy.exited;
    }
  },
);
