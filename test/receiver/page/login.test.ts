// Who sees the pages: over real sockets, with real cookies, behind real proxies.

import { expect, test } from "bun:test";
import { raw } from "../../http-kit.ts";
import { Folder } from "../../kit.ts";
import { Hub, faketime, report, startAt } from "../kit.ts";
import { onFile } from "../store-kit.ts";

const TOKEN = "the-operators-own-token";

interface Asked {
  cookie?: string;
  headers?: Record<string, string>;
  /** Posted as a form. */
  form?: Record<string, string>;
}

/** Asks as a browser does. */
function ask(url: string, { cookie, headers = {}, form }: Asked = {}): Promise<Response> {
  return fetch(url, {
    redirect: "manual",
    headers: {
      accept: "text/html,*/*",
      ...(cookie === undefined ? {} : { cookie }),
      ...(form ? { origin: new URL(url).origin } : {}),
      ...headers,
    },
    ...(form ? { method: "POST", body: new URLSearchParams(form) } : {}),
  });
}

const cookieOf = (response: Response): string => response.headers.getSetCookie()[0]?.split(";")[0] ?? "";

async function logIn(url: string, token = TOKEN): Promise<string> {
  const answer = await ask(`${url}/login`, { form: { token } });
  expect(answer.status).toBe(303);
  return cookieOf(answer);
}

test("a browser is asked for the token once, and comes to the page that it wanted", async () => {
  await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
  const first = await ask(`${hub.url}/?tag=lab`);
  expect([first.status, first.headers.get("location")]).toEqual([303, "/login?next=%2F%3Ftag%3Dlab"]);
  const form = await ask(hub.url + first.headers.get("location")!);
  const html = await form.text();
  expect(form.status).toBe(200);
  expect(html).not.toContain("web-1");
  const [, style] = /href="(\/assets\/[^"]+\.css)"/.exec(html)!;
  expect((await ask(hub.url + style)).status).toBe(200);
  const none = await ask(`${hub.url}/assets/none`);
  expect([none.status, await none.json()]).toEqual([404, expect.objectContaining({ code: "not_found" })]);
  const done = await ask(`${hub.url}/login?next=%2F%3Ftag%3Dlab`, { form: { token: ` ${TOKEN}\n` } });
  expect([done.status, done.headers.get("location")]).toEqual([303, "/?tag=lab"]);
  expect(done.headers.getSetCookie()).toEqual([
    expect.stringMatching(/^picket_[\da-f]{8}=[^;]+; Path=\/; Max-Age=2592000; HttpOnly; SameSite=Strict$/),
  ]);
  const cookie = cookieOf(done);
  for (const path of ["/", "/v1/hosts", "/health"])
    expect([path, (await ask(hub.url + path, { cookie: `other=1; ${cookie}` })).status]).toEqual([path, 200]);
  expect(hub.daemon.log.join("\n")).not.toContain(TOKEN);
});

test("after the login a browser stays at this receiver, whatever the address says", async () => {
  await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
  const cases: [next: string, to: string][] = [
    ["/hosts/nas?range=day", "/hosts/nas?range=day"],
    ["https://example.org/", "/"],
    ["//example.org/", "/"],
    ["/\\example.org/", "/"],
    ["/\t/example.org/", "/"],
    ["/.//example.org/", "/example.org/"],
    ["javascript:alert(1)", "/"],
    ["http://page.example.org", "/"],
    ["", "/"],
  ];
  for (const [next, to] of cases) {
    const done = await ask(`${hub.url}/login?next=${encodeURIComponent(next)}`, { form: { token: TOKEN } });
    expect([next, done.status, done.headers.get("location")]).toEqual([next, 303, to]);
  }
  // A browser that has a session isn't asked again.
  const again = await ask(`${hub.url}/login?next=/alerts`, { cookie: await logIn(hub.url) });
  expect([again.status, again.headers.get("location")]).toEqual([303, "/alerts"]);
  // Behind a link on another website it keeps the cookie back, until a page of this receiver asks, once.
  const { host } = new URL(hub.url);
  const linked: [asksAgain: boolean, headers: Record<string, string>][] = [
    [true, { "sec-fetch-site": "cross-site" }],
    [true, { referer: "http://home.example.org/" }],
    [false, { "sec-fetch-site": "none" }],
    [false, { "sec-fetch-site": "same-origin", referer: "http://home.example.org/" }],
    [false, { referer: `http://${host}/` }],
    [false, {}],
  ];
  for (const [asksAgain, headers] of linked) {
    const { headers: given } = await ask(`${hub.url}/login?next=/alerts`, { headers });
    const refresh = asksAgain ? "0;url=/login?next=%2Falerts&again=1" : null;
    expect([headers, given.get("refresh")]).toEqual([headers, refresh]);
    const second = await ask(`${hub.url}/login?next=/alerts&again=1`, { headers });
    expect([second.status, second.headers.get("refresh")]).toEqual([200, null]);
  }
});

test("no other cookie than one that was signed for a present token lets in, and none where agents report", async () => {
  await using hub = await Hub.start({ more: `auth: { token: [${TOKEN}, the-other] }` });
  const cookie = await logIn(hub.url);
  const other = await logIn(hub.url, "the-other");
  const [name, end, id, signature] = cookie.split(/[=.]/) as [string, string, string, string];
  const status = async (given: string) => (await fetch(`${hub.url}/v1/hosts`, { headers: { cookie: given } })).status;
  expect([await status(cookie), await status(other), await status(`${name}=x; ${cookie}`)]).toEqual([200, 200, 200]);
  const forged = [
    `${name}=${end}z.${id}.${signature}`,
    `${name}=${end}.${id.replace(/^./, (first) => (first === "A" ? "B" : "A"))}.${signature}`,
    `${name}=${end}.${id}.${"A".repeat(43)}`,
    `${name}=${end}.${id}.`,
    `${name}=${end}.${id}`,
    `${name}=${TOKEN}`,
    `not_${cookie}`,
    `${name}=`,
  ];
  for (const one of forged) expect([one, await status(one)]).toEqual([one, 401]);
  const doors = [
    ["POST", "/v1/host-report"],
    ["POST", "/agent/telemetry"],
    ["POST", "/v1/ping"],
    ["PUT", "/v1/host-health/web-1"],
    ["PUT", "/v1/episodes/web-1/ep-1.tar.zst"],
  ] as const;
  for (const [method, path] of doors) {
    const body = JSON.stringify(report());
    const refused = await fetch(hub.url + path, { method, body, headers: { cookie, accept: "text/html" } });
    expect([path, refused.status, await refused.text(), refused.headers.getSetCookie()]).toEqual([path, 401, "", []]);
  }
  const taken = await fetch(`${hub.url}/v1/host-report`, {
    method: "POST",
    body: JSON.stringify(report()),
    headers: { ...hub.bearer(), cookie },
  });
  expect([taken.status, taken.headers.getSetCookie()]).toEqual([200, []]);
  // A program is refused in words of its own, with a page's path, too; and a wrong token isn't made up for by a cookie.
  const json = await fetch(`${hub.url}/hosts/web-1`);
  expect([json.status, await json.json()]).toEqual([401, expect.objectContaining({ code: "missing_bearer_token" })]);
  const wrong = await ask(`${hub.url}/`, { cookie, headers: { authorization: "Bearer wrong" } });
  expect(wrong.status).toBe(401);
});

test("a session ends at its logout, with its token, with all others, and with it the streams", async () => {
  await using hub = await Hub.start({ more: `auth: { token: [${TOKEN}, the-other] }` });
  /** Opens streams; gives what waits for their ends. */
  const streams = async (cookie: string, paths = ["/live?of=/", "/v1/events"]) => {
    const headers = { cookie, accept: "text/event-stream" };
    const answers = await Promise.all(paths.map((path) => fetch(hub.url + path, { headers })));
    expect(answers.map(({ status }) => status)).toEqual(paths.map(() => 200));
    const ended = Promise.all(answers.map((answer) => answer.text()));
    return () => ended;
  };
  const isIn = async (cookie: string) => (await ask(`${hub.url}/`, { cookie })).status === 200;

  let [mine, theirs] = [await logIn(hub.url), await logIn(hub.url)];
  let ended = await streams(mine);
  const out = await ask(`${hub.url}/logout`, { cookie: mine, form: {} });
  expect([out.status, out.headers.get("location"), out.headers.getSetCookie()]).toEqual([
    303,
    "/login",
    [expect.stringMatching(/^picket_\w+=; Path=\/; Max-Age=0;/)],
  ]);
  await ended();
  expect([await isIn(mine), await isIn(theirs)]).toEqual([false, true]);

  mine = await logIn(hub.url);
  // The others look every 15 s whether they may go on.
  ended = await streams(mine, ["/live?of=/"]);
  const { code, stdout } = await hub.run("sessions", "end");
  expect([code, stdout]).toEqual([0, expect.stringContaining("all sessions are over")]);
  await ended();
  expect([await isIn(mine), await isIn(theirs)]).toEqual([false, false]);

  [mine, theirs] = [await logIn(hub.url), await logIn(hub.url, "the-other")];
  ended = await streams(mine);
  hub.configure("auth: { token: [a-new-one, the-other] }");
  hub.daemon.child.kill("SIGHUP");
  await ended();
  expect([await isIn(mine), await isIn(theirs)]).toEqual([false, true]);
  await hub.daemon.kill();
  await hub.up();
  expect([await isIn(mine), await isIn(theirs)]).toEqual([false, true]);
  // A backup of SQLite's file, in which a session that was ended since would be open.
  if (!onFile) return;
  expect((await hub.run("backup", hub.folder.at("b.db"))).code).toBe(0);
  await hub.daemon.kill();
  expect((await hub.run("restore", hub.folder.at("b.db"))).code).toBe(0);
  await hub.up();
  expect(await isIn(theirs)).toBe(false);
});

test("a session lasts 30 days", async () => {
  const library = faketime("a session lasts 30 days");
  if (library === null) return;
  using folder = new Folder();
  const { hub, clock } = await startAt(folder, library, ["web-1"], `auth: { token: ${TOKEN} }`);
  await using _ = hub;
  const cookie = await logIn(hub.url);
  const statusAfter = async (days: number) => {
    clock.offset(days * 86_400);
    return (await ask(`${hub.url}/v1/hosts`, { cookie })).status;
  };
  expect([await statusAfter(29.9), await statusAfter(30.1)]).toEqual([200, 401]);
});

test("five wrong tokens in a minute from one address wait, the right one with them", async () => {
  await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }\ntrusted_proxies: [127.0.0.1]` });
  const attempt = (token: string, from = "203.0.113.5") =>
    ask(`${hub.url}/login?next=/alerts`, { form: { token }, headers: { "x-forwarded-for": from } });
  // At once: no more are judged than one after the other.
  const guesses = await Promise.all(Array.from({ length: 9 }, (_, at) => attempt(`guess-${at}`)));
  expect(guesses.filter(({ status }) => status === 401)).toHaveLength(5);
  const waits = await attempt(TOKEN);
  expect(waits.status).toBe(429);
  expect(Number(waits.headers.get("retry-after"))).toBeWithin(1, 61);
  const html = await waits.text();
  expect(html).toMatch(/5 wrong tokens came from this address within a minute: try again in \d+ s/);
  expect(html).toContain('action="/login?next=%2Falerts"');
  expect((await attempt(TOKEN, "203.0.113.6")).status).toBe(303);
  await hub.daemon.said(/reason=rate_limited ip=203.0.113.5 path=\/login/);
  expect(hub.daemon.log.join("\n")).not.toContain("guess-");
});

test("a form is taken from this receiver's own pages alone", async () => {
  await using hub = await Hub.start({ more: `auth: { token: ${TOKEN} }\ntrusted_proxies: [127.0.0.1]` });
  const { host, origin } = new URL(hub.url);
  const cases: [taken: boolean, headers: Record<string, string>][] = [
    [true, { origin }],
    [true, { origin: `https://${host}` }],
    [true, { origin: "https://hub.example.org", host: "HUB.example.org:443" }],
    [true, { origin: "null", "sec-fetch-site": "same-origin" }],
    [
      true,
      { origin: "https://hub.example.org", "x-forwarded-host": "hub.example.org", "x-forwarded-for": "127.0.0.1" },
    ],
    [false, { origin: "" }],
    [false, { origin: "null" }],
    [false, { origin: "http://null" }],
    [false, { origin: "http://example.org" }],
    [false, { origin: `http://${host}.example.org` }],
    [false, { origin: "http://127.0.0.1:1" }],
    [false, { origin, "sec-fetch-site": "cross-site" }],
    [false, { origin, "sec-fetch-site": "same-site" }],
    [false, { origin, "sec-fetch-site": "none" }],
  ];
  for (const [isTaken, headers] of cases) {
    const answer = await ask(`${hub.url}/login`, { form: { token: TOKEN }, headers });
    expect([headers, answer.status]).toEqual([headers, isTaken ? 303 : 403]);
    expect(answer.headers.getSetCookie()).toHaveLength(isTaken ? 1 : 0);
    const cookie = await logIn(hub.url);
    const out = await ask(`${hub.url}/logout`, { cookie, form: {}, headers });
    expect([headers, out.status]).toEqual([headers, isTaken ? 303 : 403]);
    expect([headers, (await ask(hub.url, { cookie })).status]).toEqual([headers, isTaken ? 303 : 200]);
  }
  // Without Origin at all, with too much of a body, and with one that is no form.
  const post = (init: RequestInit) => fetch(`${hub.url}/login`, { method: "POST", redirect: "manual", ...init });
  expect((await post({ body: new URLSearchParams({ token: TOKEN }) })).status).toBe(403);
  expect((await post({ body: `token=${"A".repeat(70_000)}`, headers: { origin } })).status).toBe(413);
  expect((await post({ body: "token", headers: { origin, "content-type": "text/plain" } })).status).toBe(400);
});

test("the cookie is for TLS alone where the browser's connection is one", async () => {
  await using trusting = await Hub.start({ more: `auth: { token: ${TOKEN} }\ntrusted_proxies: [127.0.0.1]` });
  await using other = await Hub.start({ more: `auth: { token: ${TOKEN} }` });
  const https = { "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.5" };
  const cases: [secure: boolean, url: string, headers: Record<string, string>][] = [
    [false, trusting.url, {}],
    [true, trusting.url, https],
    [false, trusting.url, { ...https, "x-forwarded-proto": "http" }],
    [false, other.url, https],
    // A proxy that isn't named as trusted: the browser says it.
    [true, other.url, { origin: other.url.replace("http:", "https:") }],
  ];
  for (const [isSecure, url, headers] of cases) {
    const [set] = (await ask(`${url}/login`, { form: { token: TOKEN }, headers })).headers.getSetCookie();
    expect([headers, set!.endsWith("; Secure")]).toEqual([headers, isSecure]);
  }
});

test("without a token this machine alone sees the pages, by its own names", async () => {
  await using hub = await Hub.start();
  const { port } = new URL(hub.url);
  const statusOf = async (path: string, host: string, more = "") => {
    const answer = await raw(hub.url, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n${more}\r\n`, /^HTTP[^]*\r\n\r\n/);
    return Number(answer.split(" ")[1]);
  };
  for (const path of ["/", "/v1/hosts", "/live?of=/"]) {
    for (const name of ["127.0.0.1", "localhost", "[::1]", "picket.localhost"])
      expect([path, name, await statusOf(path, `${name}:${port}`)]).toEqual([path, name, 200]);
    // Another website gave its name this machine's address (DNS rebinding).
    for (const name of ["example.org", "127.0.0.1.example.org", "localhost.example.org"])
      expect([path, name, await statusOf(path, `${name}:${port}`)]).toEqual([path, name, 403]);
    expect(await statusOf(path, "localhost", "X-Forwarded-For: 127.0.0.1\r\n")).toBe(403);
  }
  const login = await ask(`${hub.url}/login?next=/alerts`);
  expect([login.status, login.headers.get("location")]).toEqual([303, "/alerts"]);
  expect(await (await ask(hub.url)).text()).not.toContain("Log out");
});
