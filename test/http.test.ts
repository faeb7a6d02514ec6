// Bodies, errors, TLS, the end: through the collector, over real sockets. Who may connect: guard.test.ts.
// Not tested here: idle time-outs and thousands of connections.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, renameSync } from "node:fs";
import { connect } from "node:net";
import { raw, start } from "./http-kit.ts";
import { type Daemon, Folder, certificates, freePort, have, inboxLines, runRole, until } from "./kit.ts";
import { Observer } from "./observer/kit.ts";
import { Hub } from "./receiver/kit.ts";

describe("requests that go wrong", () => {
  let folder: Folder;
  let daemon: Daemon;
  let url: string;
  beforeAll(async () => {
    folder = new Folder();
    daemon = await start(folder, "");
    url = await daemon.url();
  });
  afterAll(async () => {
    await daemon[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  test("/health and /metrics know GET and HEAD only", async () => {
    for (const path of ["/health", "/metrics"]) {
      const refused = await fetch(url + path, { method: "POST" });
      expect([refused.status, refused.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
      expect((await fetch(url + path, { method: "HEAD" })).status).toBe(200);
    }
  });

  test("a body in an encoding that isn't known is 415", async () => {
    const headers = { "content-encoding": "br" };
    expect((await fetch(`${url}/open`, { method: "POST", body: "{}", headers })).status).toBe(415);
  });

  test("a body announced as too large is refused before it is sent", async () => {
    const answer = await raw(url, "POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n", /\}/);
    expect(answer).toStartWith("HTTP/1.1 413");
    expect(answer).toContain('"code":"too_large"');
  });

  test("a sender that goes on after its 413 doesn't fill the memory", async () => {
    const resident = () =>
      Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${daemon.child.pid}/status`, "utf8"))![1]) / 1024;
    const before = resident();
    const chunk = Buffer.alloc(1 << 20, 0x20);
    const stream = new ReadableStream({
      async start(controller) {
        for (let n = 0; n < 300; n++) {
          controller.enqueue(chunk);
          await new Promise((done) => setImmediate(done));
        }
        controller.close();
      },
    });
    const answer = await fetch(`${url}/open`, { method: "POST", body: stream }).catch((error: Error) => error);
    if (answer instanceof Response) expect(answer.status).toBe(413);
    expect(resident() - before).toBeLessThan(150);
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });

  test("a sender that cuts off in the middle leaves nothing behind but its connection's end", async () => {
    const { hostname, port } = new URL(url);
    const errors = daemon.log.filter((line) => line.includes(" error ")).length;
    await new Promise<void>((done) => {
      const socket = connect(Number(port), hostname, () => {
        socket.write('POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"n":', () => socket.destroy());
      });
      socket.on("close", () => done());
    });
    expect((await fetch(`${url}/open`, { method: "POST", body: `{"n":1}` })).status).toBe(202);
    expect(daemon.log.filter((line) => line.includes(" error ")).length).toBe(errors);
    await until("no request is in flight", async () =>
      (await (await fetch(`${url}/metrics`)).text()).includes("picket_http_requests_in_flight 1"),
    );
  });

  const lines = (): number => inboxLines(folder.at("inbox"), "bob").length;
  /** The statuses that come back for some bytes, and how many events they made. */
  const sent = async (text: string, enough = /\r\n\r\n[^]*(\}|$)/): Promise<[string, number]> => {
    const before = lines();
    const answer = await raw(url, text, enough);
    return [[...answer.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => status).join(" "), lines() - before];
  };
  const post = (version: string, host: string, path = "/open"): string =>
    `POST ${path} HTTP/${version}\r\n${host}Content-Length: 7\r\n\r\n{"n":1}`;

  test("a request without Host, or with an empty one, is served; one with an invalid Host is 400", async () => {
    expect(await sent(post("1.0", ""))).toEqual(["202", 1]);
    expect(await sent(post("1.0", "Host:\r\n"))).toEqual(["202", 1]);
    expect(await sent(post("1.1", "Host:\r\n"))).toEqual(["202", 1]);
    expect(await sent(post("1.0", "", "http://example.org/open"))).toEqual(["202", 1]);
    for (const host of ["größe.example", "[fe80::1%25eth0]:80", "a_b:80", "x.:80"])
      expect([host, await sent(post("1.1", `Host: ${host}\r\n`))]).toEqual([host, ["202", 1]]);
    expect(await sent(post("1.1", ""))).toEqual(["400", 0]);
    for (const host of ["a b", "x/y", "x?", "u@x"])
      expect([host, await sent(post("1.1", `Host: ${host}\r\n`))]).toEqual([host, ["400", 0]]);
  });

  test("what Bun's parser takes for an error behind a body is refused before anything is written", async () => {
    const one = post("1.1", "Host: x\r\n");
    const chunked = 'POST /open HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{"n":1}\r\n0\r\n\r\n';
    const never = /$^/;
    for (const text of [`${one}\r\n`, `${one}\n`, `${one}\r\n${one}`, `${chunked}\r\n`])
      expect([text, await sent(text, never)]).toEqual([text, ["400", 0]]);
    // The connection ends without an answer: the sender sends both again.
    for (const text of [one + one, chunked + chunked]) expect([text, await sent(text, never)]).toEqual([text, ["", 0]]);
    await daemon.said("reason=cut_off");
    for (const text of [`\r\n${one}`, one.replace("Host: x", "Host: x\r\nX-Long: a\r\n b")])
      expect([text, await sent(text, never)]).toEqual([text, ["400", 0]]);
    expect(await sent(one.replace("Host: x", `Host: x\r\nX-Long: ${"a".repeat(17_000)}`), never)).toEqual(["431", 0]);
    expect(await sent(one.replaceAll("\r\n", "\n"), never)).toEqual(["505", 0]);
    const upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk";
    expect(await sent(one.replace("Host: x", `Host: x\r\n${upgrade}`))).toEqual(["202", 1]);
    expect(await sent(one.replace("Host: x", "Host: x\r\nConnection: close") + one, never)).toEqual(["202", 1]);
  });

  test.skipIf(!have("caddy", "a proxy that understands bytes behind a body"))("Caddy in front cures it", async () => {
    const port = freePort();
    const site = `{\n\tadmin off\n\tauto_https off\n}\nhttp://127.0.0.1:${port} {\n\treverse_proxy ${url}\n}\n`;
    const cmd = ["caddy", "run", "--config", folder.write("Caddyfile", site), "--adapter", "caddyfile"];
    const env = { ...process.env, HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path };
    const caddy = Bun.spawn(cmd, { env, stdout: "ignore", stderr: "ignore" });
    const front = `http://127.0.0.1:${port}`;
    try {
      await until("Caddy is there", () => fetch(`${front}/nowhere`).catch(() => null));
      const one = post("1.1", "Host: 127.0.0.1\r\nAuthorization: Bearer theirs\r\n", "/signed");
      const twice = /("id"[^]*){2}/;
      for (const [text, statuses] of [
        [`${one}\r\n`, ["202"]],
        [`${one}\n`, ["202"]],
        [one + one, ["202", "202"]],
        [`${one}\r\n${one}`, ["202", "202"]],
        [one.replace("1.1", "1.0"), ["202"]],
        [one.replaceAll("\r\n", "\n"), ["202"]],
      ] as const) {
        const before = lines();
        const answer = await raw(front, text, statuses.length > 1 ? twice : /"id"/);
        expect([text, answer.match(/(?<=HTTP\/1\.\d )\d+/g)]).toEqual([text, [...statuses]]);
        expect(lines() - before).toBe(statuses.length);
      }
    } finally {
      caddy.kill("SIGKILL");
      await caddy.exited;
    }
  });

  test.skipIf(!have("promtool", "promtool check metrics"))(
    "promtool has nothing to say about the metrics, and no sample comes twice",
    async () => {
      const text = await (await fetch(`${url}/metrics`)).text();
      const run = Bun.spawn(["promtool", "check", "metrics"], {
        stdin: Buffer.from(text),
        stdout: "pipe",
        stderr: "pipe",
      });
      expect((await new Response(run.stdout).text()) + (await new Response(run.stderr).text())).toBe("");
      expect(await run.exited).toBe(0);
      const samples = text
        .split("\n")
        .filter((line) => line !== "" && !line.startsWith("#"))
        .map((line) => line.slice(0, line.lastIndexOf(" ")));
      expect(new Set(samples).size).toBe(samples.length);
    },
  );
});

describe.skipIf(!have("openssl", "TLS"))("TLS", () => {
  test("serves; a renewed certificate is taken over by SIGHUP; client certificates are demanded", async () => {
    using folder = new Folder();
    await certificates(folder);
    const read = (name: string) => readFileSync(folder.at(name), "utf8");
    const ca = read("ca.pem");
    await using daemon = await start(
      folder,
      `tls: { cert_file: ${folder.at("server.pem")}, key_file: ${folder.at("server.key")}, client_ca_file: ${folder.at("ca.pem")} }\n`,
    );
    const url = (await daemon.url()).replace("http:", "https:");
    const get = (name: string | null) =>
      fetch(`${url}/health`, {
        tls: { ca, ...(name ? { cert: read(`${name}.pem`), key: read(`${name}.key`) } : {}) },
        keepalive: false,
      } as RequestInit).then(
        ({ status }) => status,
        () => "refused",
      );
    expect(await get("client")).toBe(200);
    for (const name of [null, "foreign", "expired"]) expect(`${name}: ${await get(name)}`).toBe(`${name}: refused`);

    const serial = async () => {
      const target = url.replace("https://", "");
      const shown =
        await Bun.$`sh -c ${`openssl s_client -connect ${target} -cert ${folder.at("client.pem")} -key ${folder.at("client.key")} </dev/null 2>/dev/null | openssl x509 -noout -serial`}`
          .nothrow()
          .quiet();
      return shown.stdout.toString();
    };
    const before = await serial();
    expect(before).toStartWith("serial=");
    renameSync(folder.at("renewed.pem"), folder.at("server.pem"));
    renameSync(folder.at("renewed.key"), folder.at("server.key"));
    daemon.child.kill("SIGHUP");
    await daemon.said("configuration reloaded");
    // A connection that the old listener was about to take is reset, and shows none.
    await until("the new certificate is served", async () => {
      const now = await serial();
      return now.startsWith("serial=") && now !== before;
    });
    expect(await get("client")).toBe(200);
    expect(await get("foreign")).toBe("refused");
  });

  test("files that are not what they are named, or don't belong together, are configuration errors, at a reload too", async () => {
    using folder = new Folder();
    await certificates(folder);
    const tls = ([cert, key, ca]: readonly [string, string, string]) =>
      `tls: { cert_file: ${folder.at(cert)}, key_file: ${folder.at(key)}, client_ca_file: ${folder.at(ca)} }\n`;
    await using daemon = await start(folder, tls(["server.pem", "server.key", "ca.pem"]));
    await daemon.url();
    const config = readFileSync(folder.at("c.yaml"), "utf8");
    for (const [files, problem] of [
      [["server.pem", "renewed.key", "ca.pem"], 'renewed.key" is not the key of "'],
      [["server.key", "server.key", "ca.pem"], 'server.key" is not a certificate in PEM format'],
      [["server.pem", "server.pem", "ca.pem"], 'server.pem" is not a private key in PEM format'],
      [["server.pem", "server.key", "ca.key"], "tls.client_ca_file: "],
      [["server.pem", "none", "ca.pem"], "tls.key_file: does not exist"],
    ] as const) {
      const text = config.replace(/^tls: .*\n/m, tls(files));
      expect((await runRole("collector", ["--check", "--config", folder.write("new.yaml", text)])).code).toBe(78);
      folder.write("c.yaml", text);
      daemon.child.kill("SIGHUP");
      await daemon.said(problem);
    }
    expect(daemon.child.exitCode).toBe(null);
  });
});

test("a stop lets what is in flight finish", async () => {
  using folder = new Folder();
  await using daemon = await start(folder, "");
  const url = await daemon.url();
  const { hostname, port } = new URL(url);
  let answer = "";
  const socket = connect(Number(port), hostname, () =>
    socket.write('POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"n'),
  );
  socket.on("data", (chunk) => (answer += chunk.toString()));
  await until("the request is in flight", async () =>
    (await (await fetch(`${url}/metrics`)).text()).includes("in_flight 2"),
  );
  const stopped = daemon.kill("SIGTERM");
  socket.write('":1}');
  expect(await stopped).toBe(0);
  // What it sent before its end may still have to be read here.
  await until("the connection is closed", () => socket.closed);
  expect(answer).toStartWith("HTTP/1.1 202");
});

describe("paths", () => {
  /** As it is written on the wire: fetch resolves dots by itself. */
  const status = async (
    url: string,
    method: string,
    path: string,
    headers: Record<string, string>,
  ): Promise<string> => {
    const all = Object.entries({ host: "x", "content-length": "2", connection: "close", ...headers });
    const head = all.map(([name, value]) => `${name}: ${value}\r\n`).join("");
    return (await raw(url, `${method} ${path} HTTP/1.1\r\n${head}\r\n{}`, /$^/)).slice(9, 12);
  };

  test("that mean a door are it, and a path that is nearly one is 404: neither says anything of the token", async () => {
    await using hub = await Hub.start({ more: "auth: { token: ours }\nrate_limit_per_minute: 1000" });
    for (const path of [
      "/v1/ping",
      "//v1/ping",
      "/v1//ping",
      "/./v1/ping",
      "/x/../v1/ping",
      "/%76%31/ping",
      "/v1/ping?a=//b",
    ])
      expect([path, await status(hub.url, "POST", path, hub.bearer())]).toEqual([path, "200"]);
    for (const path of ["/v1/ping/", "/%2Fv1/ping", "/v1%2fping", "/V1/Ping", "/v1/host-report/", "/agent//telemetry/"])
      expect([path, await status(hub.url, "POST", path, hub.bearer())]).toEqual([path, "404"]);
    expect(await status(hub.url, "PUT", "/v1//episodes/web-1/a.tar.zst", hub.bearer())).toBe("400");
    expect(await status(hub.url, "GET", "/v1/ping", hub.bearer())).toBe("405");
    // The operator's routes stay closed, however they are written.
    for (const path of ["/v1/hosts", "//v1/hosts", "/v1/ping/../hosts", "/v1/ping%2f..%2fhosts", "/v1/host%73"])
      expect([path, await status(hub.url, "GET", path, hub.bearer())]).toEqual([path, "401"]);
    for (const path of ["/v1/hosts", "//v1//hosts", "/v1/host%73"])
      expect([path, await status(hub.url, "GET", path, { authorization: "Bearer ours" })]).toEqual([path, "200"]);
  });

  test("of collector and observer are compared in the same form", async () => {
    using folder = new Folder();
    await using collector = await start(folder, "auth: { token: ours }\n");
    const theirs = { authorization: "Bearer theirs" };
    for (const path of ["/signed", "//signed", "/./signed", "/%73igned", "/open/../signed", "/signed#x"])
      expect([path, await status(await collector.url(), "POST", path, theirs)]).toEqual([path, "202"]);
    await using observer = await Observer.start();
    for (const path of ["/observer/stats", "//observer/stats", "/v1//observer/./stats", "/observer/%73tats"])
      expect([path, await status(observer.url, "GET", path, {})]).toEqual([path, "200"]);
    for (const path of ["/observer/stats/", "/observer%2Fstats"])
      expect([path, await status(observer.url, "GET", path, {})]).toEqual([path, "404"]);
  });
});
