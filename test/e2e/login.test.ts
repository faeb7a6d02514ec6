// The login behind real proxies: Caddy with TLS, and nginx, which tells of the browser's address only what it is asked to.

import { describe, expect, test } from "bun:test";
import { Folder, certificates, freePort, have, until } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";

const TOKEN = "the-operators-own-token";
const TRUSTING = `auth: { token: ${TOKEN} }\ntrusted_proxies: [127.0.0.1]`;
const BARE = `auth: { token: ${TOKEN} }`;

/** A proxy that answers; ends with its `using` block. */
async function started(command: string[], folder: Folder, url: string) {
  const env = { ...process.env, HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path };
  const child = Bun.spawn(command, { stdout: "ignore", stderr: "ignore", env });
  await until("the proxy is there", () => asked(url, {}).catch(() => null));
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

const asked = (url: string, init: RequestInit): Promise<Response> =>
  fetch(url, { redirect: "manual", tls: { rejectUnauthorized: false }, keepalive: false, ...init } as RequestInit);

/** Logs in as a browser at this address does; what comes back. */
async function logIn(url: string, headers: Record<string, string> = {}) {
  const body = new URLSearchParams({ token: TOKEN });
  const { status, headers: given } = await asked(`${url}/login?next=/alerts`, {
    method: "POST",
    body,
    headers: { origin: url, ...headers },
  });
  const cookie = given.getSetCookie()[0] ?? "";
  return {
    status,
    location: given.get("location"),
    isSecure: cookie.endsWith("; Secure"),
    cookie: cookie.split(";")[0]!,
  };
}

test.skipIf(!have("caddy", "the login behind Caddy") || !have("openssl", "the login behind Caddy"))(
  "behind Caddy with TLS the login, forms, live pages and logout work, and the cookie is for TLS alone",
  async () => {
    using folder = new Folder();
    await certificates(folder);
    for (const more of [TRUSTING, BARE]) {
      await using hub = await Hub.start({ more });
      const [port, admin] = [freePort(), freePort()];
      const url = `https://localhost:${port}`;
      const options = `{\n\tadmin 127.0.0.1:${admin}\n\tauto_https disable_redirects\n\tstorage file_system ${folder.at("storage")}\n}\n`;
      const site = `${url} {\n\ttls ${folder.at("server.pem")} ${folder.at("server.key")}\n\treverse_proxy ${hub.url.replace("http://", "")}\n}\n`;
      const file = folder.write("Caddyfile", options + site);
      await using _ = await started(["caddy", "run", "--config", file, "--adapter", "caddyfile"], folder, url);
      const first = await asked(`${url}/hosts/web-1`, { headers: { accept: "text/html" } });
      expect([first.status, first.headers.get("location")]).toEqual([303, "/login?next=%2Fhosts%2Fweb-1"]);
      expect((await logIn(url, { origin: "https://example.org" })).status).toBe(403);
      const { cookie, ...done } = await logIn(url);
      expect(done).toEqual({ status: 303, location: "/alerts", isSecure: true });
      const live = await asked(`${url}/live?of=/`, { headers: { cookie } });
      expect(live.status).toBe(200);
      const ended = live.text().catch(String);
      const form = { method: "POST", headers: { cookie, origin: url } };
      const added = await asked(`${url}/hosts/add`, { ...form, body: new URLSearchParams({ name: "nas" }) });
      expect(added.status).toBe(200);
      const out = await asked(`${url}/logout`, { ...form, body: "" });
      expect([out.status, out.headers.get("location")]).toEqual([303, "/login"]);
      expect(await ended).toContain("event: hello");
      expect((await asked(`${url}/v1/hosts`, { headers: { cookie } })).status).toBe(401);
    }
  },
);

describe.skipIf(!have("nginx", "the login behind nginx"))("behind nginx", () => {
  const cases: [what: string, more: string, settings: string, headers: Record<string, string>, status: number][] = [
    ["that hands on the browser's Host", BARE, "proxy_set_header Host $http_host;", {}, 303],
    ["that is trusted and tells it", TRUSTING, "proxy_set_header X-Forwarded-Host $http_host;", {}, 303],
    ["a browser that says itself where a form is from", BARE, "", { "sec-fetch-site": "same-origin" }, 303],
    ["that isn't trusted and tells it", BARE, "proxy_set_header X-Forwarded-Host $http_host;", {}, 403],
    ["that hands on nothing", BARE, "", {}, 403],
    ["that hands on nothing, another website's form", BARE, "", { origin: "https://example.org" }, 403],
  ];
  for (const [what, more, settings, headers, status] of cases)
    test(`${what}: ${status}`, async () => {
      using folder = new Folder();
      await using hub = await Hub.start({ more });
      const url = `http://127.0.0.1:${freePort()}`;
      const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map((name) => `${name}_temp_path ${folder.at(name)};`)
        .join(" ");
      const config = `daemon off; master_process off; pid ${folder.at("pid")}; error_log ${folder.at("error.log")};
events {}
http { access_log off; ${temporary} server { listen ${new URL(url).host}; location / { proxy_pass ${hub.url}; ${settings}
proxy_set_header X-Forwarded-For $remote_addr; } } }`;
      await using _ = await started(
        ["nginx", "-p", folder.path, "-c", folder.write("nginx.conf", config)],
        folder,
        url,
      );
      const { cookie, status: got } = await logIn(url, headers);
      expect(got).toBe(status);
      expect((await asked(`${url}/v1/hosts`, { headers: { cookie } })).status).toBe(status === 303 ? 200 : 401);
    });
});
