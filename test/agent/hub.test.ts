// What stands between an agent and its receiver: middle boxes, redirects, plain http, TLS; and a host_id that is wrong.

import { describe, expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { FakeHub, Lab, ENVELOPE, waiting } from "./kit.ts";
import { Folder, certificates, have, until } from "../kit.ts";
import { Hub, faketime } from "../receiver/kit.ts";

const page = (title: string) => `<!doctype html><html><title>${title}</title><p>No.</html>`;
const html = { "content-type": "text/html", server: "edge" };

describe("an answer that is not the receiver's own", () => {
  /** The name, the answer, and what is said of it. */
  const FOREIGN: [string, () => Response, RegExp][] = [
    [
      "a firewall's page",
      () => new Response(page("Blocked"), { status: 403, headers: html }),
      /403 .*server "edge", page "Blocked"/,
    ],
    [
      "a login",
      () => new Response(null, { status: 401, headers: { "www-authenticate": "Basic realm=x" } }),
      /answered 401/,
    ],
    ["a bare 401", () => new Response(null, { status: 401 }), /answered 401/],
    ["a gateway's JSON", () => Response.json({ message: "Forbidden" }, { status: 403 }), /answered 403/],
    ["an API's JSON", () => Response.json({ error: "no", code: 1020 }, { status: 400 }), /answered 400/],
    ["a proxy's limit", () => new Response(page("413 Too Large"), { status: 413, headers: html }), /answered 413/],
    ["422 without a code", () => Response.json({ error: "no" }, { status: 422 }), /answered 422/],
    ["409 as text", () => new Response("Conflict", { status: 409 }), /answered 409/],
    ["412 as text", () => new Response("Precondition Failed", { status: 412 }), /answered 412/],
    ["no such site", () => new Response(page("Not Found"), { status: 404, headers: html }), /answered 404/],
    ["a captive portal", () => new Response(page("Welcome"), { headers: html }), /answered 200 .*page "Welcome"/],
    ["an empty 200", () => new Response(null, { status: 200 }), /answered 200/],
    ["a list", () => Response.json([]), /answered 200/],
    ["a bad gateway", () => new Response(page("Bad Gateway"), { status: 502, headers: html }), /answered 502/],
    [
      "a redirect",
      () => Response.redirect("https://new.example/v1/x", 301),
      /301 .*redirects to "https:\/\/new.example\/v1\/x"/,
    ],
  ];

  const LIKE_OURS: typeof FOREIGN = [
    ["another API's 200", () => Response.json({ status: "ok" }), /answered 200, but without/],
    ["204", () => new Response(null, { status: 204 }), /answered 204, but without/],
  ];

  test.each([...FOREIGN, ...LIKE_OURS])("%s: nothing moves or is lost, and it is said", async (_, answer, said) => {
    let away = true;
    const either = (own: () => Response) => () => (away ? answer() : own());
    const hub = new FakeHub({
      ".tar.zst": either(() => Response.json({}, { status: 201 })),
      "/v1/host-report": either(() => Response.json(ENVELOPE)),
    });
    using lab = new Lab(hub, { more: "host_id: web-1\ninterval_seconds: 0.2\n" });
    lab.episode("ep-1");
    const once = await lab.once();
    expect([once.code, once.stdout]).toEqual([5, "scanned=1 shipped=0 transient=1 conflicts=0 fatal=0\n"]);
    expect(once.stderr).toMatch(said);
    expect([lab.in("episodes"), lab.in("quarantine"), lab.in("shipped")]).toEqual([["ep-1"], [], []]);
    // A daemon's first report decides about its start.
    await using agent = await lab.start();
    await agent.said(said);
    await until("the report waits", () => waiting(lab.folder).length > 0);
    away = false;
    await until("all of it has arrived", () => waiting(lab.folder).length === 0 && lab.in("shipped").length === 1);
    expect(agent.child.exitCode).toBeNull();
  });

  test("ping and the doctor say what answers, and from where", async () => {
    for (const [, answer, said] of FOREIGN) {
      using lab = new Lab(new FakeHub({ "/v1/ping": answer }));
      const [ping, doctor] = await Promise.all([lab.run(["ping"]), lab.run(["doctor"])]);
      expect([ping.code, ping.stderr]).toEqual([1, expect.stringMatching(said)]);
      expect([doctor.code, doctor.stdout]).toEqual([2, expect.stringMatching(/^red +token +not tested: /m)]);
      expect(doctor.stdout).toMatch(said);
    }
  });

  test("one episode that a proxy refuses doesn't hold up the others; when all are refused, not all are sent", async () => {
    let refused = /big/;
    const limit = ({ url }: Request) =>
      refused.test(url) ? new Response(page("413"), { status: 413 }) : Response.json({}, { status: 201 });
    const hub = new FakeHub({ ".tar.zst": limit });
    using lab = new Lab(hub, { more: "host_id: web-1\n" });
    for (const id of ["a-big", "b", "c"]) lab.episode(id);
    expect((await lab.once()).stdout).toBe("scanned=3 shipped=2 transient=1 conflicts=0 fatal=0\n");
    refused = /./;
    for (const id of ["d", "e", "f"]) lab.episode(id);
    hub.asked.length = 0;
    expect((await lab.once()).stdout).toBe("scanned=4 shipped=0 transient=4 conflicts=0 fatal=0\n");
    expect(hub.asked.length).toBe(2);
  });

  test("an upload's 200 counts only with the archive's SHA-256", async () => {
    for (const answer of [{ ok: true }, { sha256: "0".repeat(64), size: 1 }]) {
      using lab = new Lab(new FakeHub({ ".tar.zst": () => Response.json(answer) }), { more: "host_id: web-1\n" });
      lab.episode("ep-1");
      expect([(await lab.once()).code, lab.in("episodes")]).toEqual([5, ["ep-1"]]);
    }
  });
});

test("the receiver moves: the old address redirects, and after a reload with the new one everything arrives", async () => {
  await using moved = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  const token = moved.tokens.get("web-1")!;
  const old = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url }) => Response.redirect(moved.url + new URL(url).pathname, 308),
  });
  using lab = new Lab(`http://127.0.0.1:${old.port}`, { token, more: "interval_seconds: 0.2\nprotocol: telemetry\n" });
  lab.episode("ep-1");
  await using agent = await lab.start();
  const said = await agent.said("redirects to");
  expect(said).toContain(`"${moved.url}/agent/telemetry"; if the receiver has moved, set its new URL`);
  await agent.said(/episode "ep-1" not shipped: .*redirects to/);
  await until("reports wait", () => waiting(lab.folder).length > 1);
  const before = waiting(lab.folder).length;
  writeFileSync(lab.config, readFileSync(lab.config, "utf8").replace(/url: "[^"]+"/, `url: "${moved.url}"`));
  agent.child.kill("SIGHUP");
  await until("all of it has arrived", () => waiting(lab.folder).length === 0 && lab.in("shipped").length === 1);
  expect(moved.rows<{ n: number }>("SELECT COUNT(*) AS n FROM host_samples")[0]!.n).toBeGreaterThan(before);
  await old.stop(true);
});

test("a wrong host_id is named by ping, the doctor and the log", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using lab = new Lab(hub.url, { token: hub.tokens.get("web-1")!, more: "host_id: web-9\n" });
  lab.episode("ep-1");
  const [ping, doctor, once] = [await lab.run(["ping"]), await lab.run(["doctor"]), await lab.once()];
  const wrong = '"host_id" is "web-9", but the token belongs to "web-1"';
  expect([ping.code, ping.stderr]).toEqual([1, expect.stringContaining(`${wrong}\nhint: remove "host_id"`)]);
  expect([doctor.code, doctor.stdout]).toEqual([2, expect.stringContaining(wrong)]);
  expect([once.code, once.stderr]).toEqual([5, expect.stringContaining('remove "host_id" from the configuration')]);
  expect([lab.in("episodes"), lab.in("quarantine")]).toEqual([["ep-1"], []]);
});

test("plain http goes to private addresses only, where it is allowed: a name is judged when it is used", async () => {
  using folder = new Folder();
  const check = async (url: string, allowed: boolean) => {
    using lab = new Lab(url);
    const text = readFileSync(lab.config, "utf8");
    if (allowed) writeFileSync(lab.config, text.replace("receiver: {", "receiver: { allow_http: true,"));
    const { code, stderr } = await lab.run(["--check"]);
    return [code, stderr] as const;
  };
  for (const host of [
    "10.1.2.3",
    "172.16.0.1",
    "172.31.9.9",
    "192.168.1.5",
    "100.64.0.1",
    "100.127.255.254",
    "169.254.1.1",
    "[fd00::1]",
    "[fe80::1]",
    "hub.lan",
  ]) {
    expect([host, await check(`http://${host}:18791`, true)]).toEqual([host, [0, ""]]);
    expect([host, await check(`http://${host}:18791`, false)]).toEqual([
      host,
      [78, expect.stringContaining("allow_http: true")],
    ]);
  }
  for (const host of ["203.0.113.5", "172.32.0.1", "100.128.0.1", "11.0.0.1", "[2001:db8::1]", "[::ffff:8.8.8.8]"]) {
    expect([host, await check(`http://${host}`, true)]).toEqual([
      host,
      [78, expect.stringContaining("for private addresses only")],
    ]);
  }
  // A network and an /etc/hosts of this test alone.
  if (process.getuid?.() !== 0 || !have("ip", "names of receivers over http")) return;
  folder.write("hosts", "127.0.0.1 localhost\n203.0.113.5 public.test\n10.9.8.7 private.test\n");
  folder.write(
    "server.ts",
    `Bun.serve({ port: 18791, hostname: "10.9.8.7", fetch: (request) => Response.json({ host: request.headers.get("host") }) });
     await Bun.write("${folder.at("up")}", "");`,
  );
  const script = `cd ${folder.path} && mount --bind hosts /etc/hosts && ip link set lo up && ip addr add 10.9.8.7/32 dev lo || exit 99
    rm -f up; ${process.execPath} server.ts & until [ -e up ]; do sleep 0.02; done; cd /; "$@"; code=$?; kill $!; exit $code`;
  const ask = async (name: string, args: string[]) => {
    using lab = new Lab(`http://${name}:18791`);
    writeFileSync(lab.config, readFileSync(lab.config, "utf8").replace("receiver: {", "receiver: { allow_http: true,"));
    return await lab.run(args, {
      wrap: ["unshare", "-mn", "sh", "-c", script, "sh"],
      env: { http_proxy: "http://127.0.0.1:9" },
    });
  };
  expect(await ask("private.test", ["ping"])).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('"private.test:18791"'),
  });
  expect((await ask("private.test", ["doctor"])).stdout).toMatch(/^green +tls +no TLS \("allow_http"\)/m);
  const { code, stderr } = await ask("public.test", ["ping"]);
  expect([code, stderr]).toEqual([
    1,
    expect.stringContaining('"public.test" is 203.0.113.5: "allow_http" is for private addresses only'),
  ]);
});

describe.skipIf(!have("openssl", "trouble with TLS"))(
  "trouble with TLS is named with the setting that fixes it",
  () => {
    const read = (folder: Folder, name: string) => readFileSync(folder.at(name), "utf8");

    test("certificates and ports", async () => {
      using folder = new Folder();
      await certificates(folder);
      await Bun.$`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout self.key -out self.pem -days 2 -subj /CN=self -addext subjectAltName=IP:127.0.0.1`
        .cwd(folder.path)
        .quiet();
      await Bun.$`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout other.key -out other.pem -days 2 -subj /CN=other -addext subjectAltName=DNS:other.example`
        .cwd(folder.path)
        .quiet();
      const serve = (name: string, more: object = {}) =>
        Bun.serve({
          port: 0,
          hostname: "127.0.0.1",
          tls: { cert: read(folder, `${name}.pem`), key: read(folder, `${name}.key`), ...more },
          fetch: () => Response.json({ host: "web-1" }),
        });
      const demanding = serve("server", { ca: read(folder, "ca.pem"), requestCert: true, rejectUnauthorized: true });
      const plain = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: () => Response.json({}) });
      const ca = `ca_file: ${folder.at("ca.pem")}`;
      const client = (name: string, key = name) =>
        `client_cert_file: ${folder.at(`${name}.pem`)}, client_key_file: ${folder.at(`${key}.key`)}`;
      const cases: [
        scheme: string,
        server: { port: number | undefined; stop(now: boolean): Promise<void> },
        settings: string,
        said: string,
      ][] = [
        ["https", serve("server"), "", 'issued by "ca", which this host doesn\'t trust: set "ca_file"'],
        ["https", serve("server"), `ca_file: ${folder.at("foreign-ca.pem")}`, '"ca_file" doesn\'t hold'],
        ["https", serve("self"), "", 'is self-signed: set "ca_file" to a copy of it'],
        [
          "https",
          serve("other"),
          `ca_file: ${folder.at("other.pem")}`,
          'is for DNS:other.example, not for "127.0.0.1"',
        ],
        ["https", serve("expired"), ca, "its certificate expired on"],
        ["https", demanding, ca, 'requires a client certificate: set "client_cert_file" and "client_key_file"'],
        ["https", demanding, `${ca}, ${client("foreign")}`, 'reject "client_cert_file"'],
        ["https", demanding, `${ca}, ${client("client", "foreign")}`, "is not the key of"],
        [
          "https",
          serve("server"),
          `ca_file: ${folder.write("no.pem", "nonsense")}`,
          'no.pem" is not a certificate in PEM format',
        ],
        ["https", plain, ca, "the port doesn't speak TLS: set the URL to http://"],
        ["http", serve("server"), ca, "the port speaks TLS: set the URL to https://"],
        ["https", { port: 9, stop: async () => {} }, ca, "no answer from https://127.0.0.1:9: "],
      ];
      for (const [scheme, server, settings, said] of cases) {
        using lab = new Lab(`${scheme}://127.0.0.1:${server.port}`);
        writeFileSync(
          lab.config,
          read(lab.folder, "agent.yaml").replace("receiver: {", `receiver: { ${settings}${settings && ","}`),
        );
        const { code, stderr } = await lab.run(["ping"]);
        expect([said, code, stderr]).toEqual([said, 1, expect.stringContaining(said)]);
        expect(stderr).not.toMatch(/fetch|verbose|typo|Is the computer/);
      }
      for (const [, server] of cases) await server.stop(true);
    });

    const library = faketime("a certificate that isn't valid yet");
    test.skipIf(library === null)("a certificate that isn't valid yet", async () => {
      using folder = new Folder();
      await Bun.$`openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout a.key -out a.pem -days 2 -subj /CN=a -addext subjectAltName=IP:127.0.0.1`
        .cwd(folder.path)
        .env({ ...process.env, LD_PRELOAD: library!, FAKETIME: "+100d" })
        .quiet();
      const server = Bun.serve({
        port: 0,
        hostname: "127.0.0.1",
        tls: { cert: read(folder, "a.pem"), key: read(folder, "a.key") },
        fetch: () => Response.json({}),
      });
      using lab = new Lab(`https://127.0.0.1:${server.port}`);
      writeFileSync(
        lab.config,
        read(lab.folder, "agent.yaml").replace("receiver: {", `receiver: { ca_file: ${folder.at("a.pem")},`),
      );
      expect((await lab.run(["ping"])).stderr).toContain("its certificate is not valid before");
      await server.stop(true);
    });

    test("a proxy that requires a client certificate, or TLS, says so in a page", async () => {
      for (const [text, said] of [
        ["<title>400 No required SSL certificate was sent</title>", '"client_cert_file" and "client_key_file"'],
        ["Client sent an HTTP request to an HTTPS server.", "the port speaks TLS: set the URL to https://"],
        [
          "<title>400 The plain HTTP request was sent to HTTPS port</title>",
          "the port speaks TLS: set the URL to https://",
        ],
      ] as const) {
        using lab = new Lab(new FakeHub({ "/v1/ping": () => new Response(text, { status: 400 }) }));
        expect((await lab.run(["ping"])).stderr).toContain(said);
      }
    });
  },
);
