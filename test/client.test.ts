// The client through real sockets. Not tested here: what each of its users makes of an answer.

import { describe, expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Ask, type HttpError, type Peer, TransportError, openClient } from "../lib/client.ts";
import { Secret } from "../lib/secret.ts";
import { BehindProxy, Folder, ROOT, certificates, have } from "./kit.ts";

type Answer = (request: Request) => Response | Promise<Response>;

/** A server, and a client of it. */
function serve(answer: Answer, options: object = {}) {
  const server = Bun.serve({ hostname: "127.0.0.1", port: 0, idleTimeout: 0, ...options, fetch: answer });
  const url = `${"tls" in options ? "https" : "http"}://127.0.0.1:${server.port}`;
  return {
    url,
    ask: (peer: Partial<Peer> = {}, ask: Partial<Ask> = {}) =>
      openClient({ url, timeoutMs: 30_000, largestAnswer: 1 << 20, ...peer }).ask({ what: "try", path: "/x", ...ask }),
    [Symbol.dispose]: () => void server.stop(true),
  };
}

/** What an attempt throws. */
const failure = <E = Error>(attempt: Promise<unknown>) =>
  attempt.then(
    () => new Error("it was answered") as E,
    (error: E) => error,
  );

const never = () => new Promise<Response>(() => {});

test("a request is sent with the client's headers and its own; JSON comes back parsed, anything else doesn't", async () => {
  using server = serve(async (request) => {
    const { method, url } = request;
    const { a, b, "content-type": type } = Object.fromEntries(request.headers);
    const sent = await request.text();
    return sent === "" ? new Response("<p>") : Response.json({ method, path: new URL(url).pathname, a, b, type, sent });
  });
  const posted = await server.ask({ headers: { a: "1", b: "1" } }, { method: "POST", headers: { b: "2" }, json: [7] });
  const expected = { method: "POST", path: "/x", a: "1", b: "2", type: "application/json", sent: "[7]" };
  expect([posted.status, posted.json, posted.body]).toEqual([200, expected, expected]);
  const got = await server.ask();
  expect([got.status, got.json, got.body]).toEqual([200, undefined, {}]);
});

test("an answer that breaks off is named in plain words", async () => {
  const data = (socket: Bun.Socket) => void socket.end('HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"a":');
  using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data } });
  const url = `http://127.0.0.1:${server.port}`;
  const error = await failure(
    openClient({ url, timeoutMs: 30_000, largestAnswer: 1 << 20 }).ask({ what: "try", path: "/x" }),
  );
  expect(error.message).toBe(`try: no answer from ${url}: ECONNRESET: The socket connection was closed unexpectedly`);
});

describe("time", () => {
  test.each<[string, Answer]>([
    ["an answer that never begins", never],
    [
      "an answer that never ends",
      () => new Response(new ReadableStream({ start: (out) => out.enqueue(new Uint8Array(10)) })),
    ],
  ])("%s: the time limit ends it", async (_, answer) => {
    using server = serve(answer);
    const error = await failure(server.ask({}, { timeoutMs: 200 }));
    expect(error).toMatchObject({ name: "TransportError", late: true });
    expect(error.message).toBe(`try: no answer from ${server.url}: timed out after 0.2 s`);
  });

  test("the caller's signal ends it, with its own reason", async () => {
    const stop = new AbortController();
    const reason = new Error("enough");
    using server = serve(() => {
      stop.abort(reason);
      return never();
    });
    expect(await failure(server.ask({}, { signal: stop.signal, timeoutMs: null }))).toBe(reason);
  });
});

test("an answer over the size limit is aborted, also if it is small while compressed", async () => {
  const spaces = new Uint8Array(64 << 10).fill(32);
  const endless = () => new Response(new ReadableStream({ pull: (out) => out.enqueue(spaces) }));
  const bomb = () => new Response(Bun.gzipSync(new Uint8Array(64 << 20)), { headers: { "content-encoding": "gzip" } });
  for (const answer of [endless, bomb]) {
    using server = serve(answer);
    const error = await failure(server.ask());
    expect(error.message).toBe(`try: no answer from ${server.url}: the answer is over 1 MiB`);
    expect(error).toMatchObject({ name: "TransportError", late: false });
  }
});

test("a redirect isn't followed: the credentials go to the configured address alone", async () => {
  const asked: string[] = [];
  using other = serve((request) => {
    asked.push(request.headers.get("authorization") ?? "");
    return Response.json({});
  });
  using server = serve(() => Response.redirect(other.url, 307));
  const error = await failure<HttpError>(server.ask({ headers: { authorization: "Bearer x" } }));
  expect([error.name, error.status, error.later, asked]).toEqual(["HttpError", 307, false, []]);
});

test("secrets are in no error and no answer, also where the other side repeats them", async () => {
  const token = "pk_0123456789";
  const secrets = [new Secret(token)];
  const shown = (error: unknown) => Bun.inspect(error) + String(error);
  using page = serve((request) => new Response(`you sent ${request.headers.get("authorization")}`, { status: 502 }));
  const refused = await failure<HttpError>(page.ask({ secrets, headers: { authorization: token } }));
  expect([refused.given, shown(refused).includes(token)]).toEqual(["you sent [redacted]", false]);
  using json = serve(() => Response.json({ error: `bad token ${token}` }, { status: 401, statusText: token }));
  const unknown = await failure<HttpError>(json.ask({ secrets }));
  expect([unknown.message, shown(unknown).includes(token)]).toEqual(["try: answered 401: bad token [redacted]", false]);
  using echo = serve(() => Response.json({ token }));
  expect((await echo.ask({ secrets })).json).toEqual({ token: "[redacted]" });
  const away = await failure(echo.ask({ secrets, unix: `/nowhere/${token}` }));
  expect([away.name, shown(away).includes(token)]).toEqual(["TransportError", false]);
});

test("an error has the status, the peer's message, its body and its time", async () => {
  const date = "Sun, 01 Mar 2026 12:00:00 GMT";
  const answers: [Response, string, unknown][] = [
    [
      Response.json({ error: "no such host" }, { status: 404 }),
      "answered 404: no such host",
      { error: "no such host" },
    ],
    [Response.json({ message: "gone" }, { status: 500 }), "answered 500: gone", { message: "gone" }],
    [new Response("<p>", { status: 502 }), "answered 502 Bad Gateway", "<p>"],
    [new Response("x".repeat(9999), { status: 400 }), "answered 400 Bad Request", "x".repeat(4096)],
  ];
  for (const [answer, said, given] of answers) {
    answer.headers.set("date", date);
    using server = serve(() => answer);
    const error = await failure<HttpError>(server.ask());
    expect(error.message).toBe(`try: ${said}`);
    expect(error).toMatchObject({ given, serverTime: Date.parse(date), retryAfter: null });
  }
});

test("whether a retry may help", async () => {
  const later = async (status: number) => {
    using server = serve(() => new Response(null, { status }));
    return (await failure<HttpError>(server.ask())).later;
  };
  for (const status of [401, 403, 404, 408, 429, 500, 502, 503, 507])
    expect([status, await later(status)]).toEqual([status, true]);
  for (const status of [304, 400, 409, 412, 413, 422]) expect([status, await later(status)]).toEqual([status, false]);
});

test.each<[string | null, number | null]>([
  [null, null],
  ["7", 7],
  ["soon", null],
  ["99999999999999999999", 3600],
  ["Fri, 31 Dec 9999 23:59:59 GMT", 3600],
  ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
])("Retry-After: %s means %p seconds", async (header, seconds) => {
  using server = serve(
    () => new Response(null, { status: 503, headers: header === null ? {} : { "retry-after": header } }),
  );
  expect((await failure<HttpError>(server.ask())).retryAfter).toBe(seconds);
});

test("a proxy in the environment sees no requests to this machine, and all others", async () => {
  await using behind = new BehindProxy({ here: true });
  const ask = async (url: string) => {
    const cmd = [process.execPath, join(ROOT, "test/fixtures/client/ask.ts"), url];
    const child = Bun.spawn(cmd, { env: { ...process.env, ...behind.env }, stdout: "pipe" });
    return (await new Response(child.stdout).text()).trim();
  };
  expect([await ask(behind.url), behind.seen]).toEqual(['{"here":true}', ["server"]]);
  expect([await ask("http://hub.invalid"), behind.seen]).toEqual(['{"here":true}', ["server", "proxy"]]);
});

test("a unix socket; errors name it", async () => {
  using folder = new Folder();
  const unix = folder.at("engine.sock");
  const server = Bun.serve({ unix, fetch: (request) => Response.json(new URL(request.url).pathname) });
  const client = (socket: string) =>
    openClient({ url: "http://engine", unix: socket, timeoutMs: 30_000, largestAnswer: 1 << 20 });
  expect((await client(unix).ask({ what: "try", path: "/y" })).json).toBe("/y");
  await server.stop(true);
  const gone = await failure(client(folder.at("none.sock")).ask({ what: "try", path: "/y" }));
  expect(gone).toBeInstanceOf(TransportError);
  expect(gone.message).toContain(`no answer from ${folder.at("none.sock")}: `);
});

describe.skipIf(!have("openssl", "the client's TLS"))("TLS", () => {
  test("the request leaves only towards the certificate that is trusted: by an authority, or by its fingerprint", async () => {
    using folder = new Folder();
    await certificates(folder);
    const bodies: string[] = [];
    const tls = { cert: readFileSync(folder.at("server.pem")), key: readFileSync(folder.at("server.key")) };
    using server = serve(
      async (request) => {
        bodies.push(`${request.method} ${await request.text()} ${request.headers.get("authorization")}`);
        return Response.json({ path: new URL(request.url).pathname }, { status: 200 });
      },
      { tls },
    );
    const fingerprint = (name: string) => new X509Certificate(readFileSync(folder.at(name))).fingerprint256;
    const real = fingerprint("server.pem");
    const post = (peer: Partial<Peer>) =>
      server.ask({ ...peer, headers: { authorization: "x" } }, { method: "POST", body: "hello" });
    for (const peer of [{}, { ca_file: folder.at("foreign-ca.pem") }, { fingerprint: fingerprint("foreign.pem") }]) {
      expect(await failure(post(peer))).toBeInstanceOf(TransportError);
    }
    expect((await failure(post({ fingerprint: fingerprint("foreign.pem") }))).message).toContain(real);
    expect(bodies).toEqual([]);
    for (const peer of [
      { ca_file: folder.at("ca.pem") },
      { fingerprint: real },
      { fingerprint: real.replaceAll(":", "").toLowerCase() },
    ]) {
      expect((await post(peer)).json).toEqual({ path: "/x" });
      expect(bodies.splice(0)).toEqual(["POST hello x"]);
    }
  });

  test("a client certificate is shown, over a pinned connection, too", async () => {
    using folder = new Folder();
    await certificates(folder);
    const read = (name: string) => readFileSync(folder.at(name));
    const tls = { cert: read("server.pem"), key: read("server.key"), ca: read("ca.pem"), requestCert: true };
    using server = serve(() => Response.json("in"), { tls: { ...tls, rejectUnauthorized: true } });
    const own = { client_cert_file: folder.at("client.pem"), client_key_file: folder.at("client.key") };
    const { fingerprint256: fingerprint } = new X509Certificate(read("server.pem"));
    for (const trust of [{ ca_file: folder.at("ca.pem") }, { fingerprint }]) {
      expect(await failure(server.ask(trust))).toBeInstanceOf(TransportError);
      expect((await server.ask({ ...trust, ...own })).json).toBe("in");
    }
  });

  test("a pinned connection has the same limits: time, size, the caller's signal", async () => {
    using folder = new Folder();
    await certificates(folder);
    const tls = { cert: readFileSync(folder.at("server.pem")), key: readFileSync(folder.at("server.key")) };
    const { fingerprint256: fingerprint } = new X509Certificate(tls.cert);
    let answer: Answer = never;
    using server = serve((request) => answer(request), { tls });
    expect(await failure(server.ask({ fingerprint, timeoutMs: 300 }))).toMatchObject({ late: true });
    answer = () => new Response("x".repeat(2 << 20));
    expect((await failure(server.ask({ fingerprint }))).message).toContain("the answer is over 1 MiB");
    answer = () => new Response("no", { status: 503, statusText: "down for now", headers: { "retry-after": "9" } });
    expect(await failure(server.ask({ fingerprint }))).toMatchObject({ status: 503, retryAfter: 9 });
    const silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const url = `https://127.0.0.1:${silent.port}`;
    expect(await failure(server.ask({ fingerprint, url, timeoutMs: 200 }))).toMatchObject({ late: true });
    expect(await failure(server.ask({ fingerprint, url }, { signal: AbortSignal.timeout(50) }))).toMatchObject({
      name: "TimeoutError",
    });
    silent.stop(true);
  });
});
