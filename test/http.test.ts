// Bodies, errors, TLS, the end: through the collector, over real sockets. Who may connect: guard.test.ts.
// Not tested here: idle time-outs and thousands of connections.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readFileSync, renameSync } from "node:fs";
import { connect } from "node:net";
import { raw, start } from "./http-kit.ts";
import { type Daemon, Folder, certificates, have, until } from "./kit.ts";

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
