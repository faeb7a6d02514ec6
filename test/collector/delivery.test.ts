// Deliveries: payloads as their products send them, through signed routes of the running collector; and the ids of deliveries.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { deliveryId, eventId } from "../../lib/collector/delivery.ts";
import { raw } from "../http-kit.ts";
import { inboxesIn } from "../inbox-kit.ts";
import { type Daemon, Folder, inboxLines, startRole } from "../kit.ts";

const FIXTURES = join(import.meta.dir, "fixtures/payloads");
const SECRET = "a secret of ours";
const hex = (text: string | Uint8Array, secret = SECRET) => createHmac("sha256", secret).update(text).digest("hex");

const KEY = Buffer.from("0123456789abcdef01234567").toString("base64");
/** Routes for senders that have no scheme of their own, and other names of schemes. */
const SENDERS = {
  bitbucket: "scheme: github",
  linear: "scheme: hmac, header: Linear-Signature",
  shopify: "scheme: hmac, header: X-Shopify-Hmac-Sha256, encoding: base64",
  sha1: 'scheme: hmac, header: X-Hub-Signature, algorithm: sha1, prefix: "sha1="',
  timed:
    'scheme: hmac, header: X-Sig, algorithm: sha512, prefix: "v0=", payload: "{timestamp}.{body}", timestamp_header: X-Time',
  token: "scheme: token, header: Authorization",
  basic: "scheme: basic, username: picket",
  query: "scheme: query, name: token",
  svix: "scheme: svix",
  gitea: "scheme: gitea",
};

let folder: Folder;
let daemon: Daemon;
let url: string;
beforeAll(async () => {
  folder = new Folder();
  // As editors on Windows and block scalars in YAML leave them.
  folder.write("secret", `\ufeff${SECRET} \r\n\n`);
  folder.write("whsec", `v1,whsec_${KEY}\n`);
  const schemes = ["github", "forgejo", "gitlab", "slack", "stripe", "standard", "bearer"];
  const route = (scheme: string) =>
    `    - { path: /${scheme}, recipient: ${scheme}, type: INFO, template: "{{ trunc 200 (json .) }}", verify: { scheme: ${scheme}, secret_file: secret } }\n`;
  const config = `agent: a
${inboxesIn(folder).yaml}
webhook:
  listen: 127.0.0.1:0
  routes:
${schemes.map(route).join("")}
${Object.entries(SENDERS)
  .map(
    ([name, verify]) =>
      `    - { path: /${name}, recipient: senders, type: INFO, template: ${name}, verify: { secret_file: ${name === "svix" ? "whsec" : "secret"}, ${verify} } }\n`,
  )
  .join("")}
    - path: /events
      recipient: events
      type: INFO
      template: '{{ header "X-GitHub-Event" }} {{ .action }} {{ .repository.full_name }}'
      verify: { scheme: github, secret: [new, "${SECRET}\\n"] }
    - path: /push
      recipient: push
      type: INFO
      template: "push to {{ .repository.full_name }} by {{ .pusher.login }}: {{ len .commits }} commit(s){{ range .commits }}\\n- {{ .message | trim }}{{ end }}"
      verify: { scheme: forgejo, secret_file: secret }
`;
  daemon = await startRole("collector", ["--config", folder.write("c.yaml", config)]);
  url = await daemon.url();
});
afterAll(async () => {
  await daemon[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

async function send(path: string, body: string, headers: Record<string, string>): Promise<number> {
  return (await fetch(url + path, { method: "POST", body, headers })).status;
}

test("every example of GitHub's lands once, also when it is sent again", async () => {
  const all = examples.flatMap(({ name, examples: payloads }) =>
    payloads.map((payload: unknown) => ({ name, body: JSON.stringify(payload) })),
  );
  expect(all.length).toBeGreaterThan(150);
  const sendAll = () =>
    Promise.all(
      all.map(({ name, body }, at) =>
        send("/events", body, {
          "content-type": "application/json",
          "x-github-event": name,
          "x-github-delivery": `d-${at}`,
          "x-hub-signature-256": `sha256=${hex(body)}`,
        }),
      ),
    );
  expect(new Set(await sendAll())).toEqual(new Set([202]));
  expect(new Set(await sendAll())).toEqual(new Set([202]));
  const expected = all.map(({ name, body }) => {
    const { action, repository } = JSON.parse(body) as { action?: string; repository?: { full_name: string } };
    return `${name} ${action ?? "<no value>"} ${repository?.full_name ?? "<no value>"}`;
  });
  expect(
    inboxLines(folder.at("inbox"), "events")
      .map(({ payload }) => payload!)
      .toSorted(),
  ).toEqual(expected.toSorted());
});

/** The headers that say who sent a body, as each product writes them. */
function signatures(file: string, body: string): [scheme: string, headers: Record<string, string>] {
  const now = Math.floor(Date.now() / 1000);
  if (file.startsWith("forgejo")) return ["forgejo", { "x-forgejo-signature": hex(body) }];
  if (file.startsWith("gitea")) return ["forgejo", { "x-gitea-signature": hex(body) }];
  if (file.startsWith("gitlab")) return ["gitlab", { "x-gitlab-token": SECRET }];
  if (file.startsWith("slack"))
    return [
      "slack",
      { "x-slack-request-timestamp": String(now), "x-slack-signature": `v0=${hex(`v0:${now}:${body}`)}` },
    ];
  if (file.startsWith("stripe")) return ["stripe", { "stripe-signature": `t=${now},v1=${hex(`${now}.${body}`)}` }];
  const signature = createHmac("sha256", SECRET).update(`msg_1.${now}.${body}`).digest("base64");
  return [
    "standard",
    { "webhook-id": "msg_1", "webhook-timestamp": String(now), "webhook-signature": `v1,${signature}` },
  ];
}

const FILES = readdirSync(FIXTURES).filter((name) => !name.endsWith(".md"));

test.each(FILES)("%s lands when it is signed, and is refused when it isn't or was changed", async (file) => {
  const body = readFileSync(join(FIXTURES, file), "utf8");
  const type = file.endsWith(".json") ? "application/json" : "application/x-www-form-urlencoded";
  const [scheme, headers] = signatures(file, body);
  const before = inboxLines(folder.at("inbox"), scheme).length;
  expect(await send(`/${scheme}`, body, { "content-type": type, ...headers })).toBe(202);
  expect(await send(`/${scheme}`, body, { "content-type": type })).toBe(401);
  if (scheme !== "gitlab") expect(await send(`/${scheme}`, `${body} `, { "content-type": type, ...headers })).toBe(401);
  const lines = inboxLines(folder.at("inbox"), scheme);
  expect(lines.length).toBe(before + 1);
  expect(lines.at(-1)!["payload"]).toStartWith("{");
});

test("a route's header, algorithm and encoding verify senders that have no scheme of their own", async () => {
  const hmac = (algorithm: string, encoding: "hex" | "base64", ...parts: string[]) =>
    createHmac(algorithm, SECRET).update(parts.join("")).digest(encoding);
  const now = `${Math.floor(Date.now() / 1000)}`;
  const body = '{"a":1}';
  const standard = `v1,${createHmac("sha256", Buffer.from(KEY, "base64")).update(`msg_2.${now}.${body}`).digest("base64")}`;
  const cases: [path: string, headers: Record<string, string>][] = [
    ["/bitbucket", { "x-hub-signature": `sha256=${hex(body)}` }],
    ["/linear", { "linear-signature": hex(body) }],
    ["/shopify", { "x-shopify-hmac-sha256": hmac("sha256", "base64", body) }],
    ["/sha1", { "x-hub-signature": `sha1=${hmac("sha1", "hex", body)}` }],
    ["/timed", { "x-sig": `v0=${hmac("sha512", "hex", `${now}.${body}`)}`, "x-time": now }],
    ["/token", { authorization: SECRET }],
    ["/basic", { authorization: `Basic ${Buffer.from(`picket:${SECRET}`).toString("base64")}` }],
    ["/query?token=a+secret+of+ours", {}],
    ["/svix", { "svix-id": "msg_2", "svix-timestamp": now, "svix-signature": standard }],
    ["/gitea", { "x-gitea-signature": hex(body) }],
  ];
  for (const [path, headers] of cases) {
    expect([path, await send(path, body, headers)]).toEqual([path, 202]);
    expect([path, await send(path.replace(/\?.*/, "?token=x"), body, {})]).toEqual([path, 401]);
    const wrong = Object.fromEntries(Object.keys(headers).map((name) => [name, "x"]));
    expect([path, await send(path.replace(/\?.*/, ""), body, wrong)]).toEqual([path, 401]);
  }
  expect(inboxLines(folder.at("inbox"), "senders").length).toBe(cases.length);
  // Some clients sign in only after they were asked to.
  const asked = await fetch(`${url}/basic`, { method: "POST", body });
  expect(asked.headers.get("www-authenticate")).toBe('Basic realm="picket"');
});

test("a path matches its route however RFC 3986 lets it be written", async () => {
  using own = new Folder();
  const paths = [
    "/größe",
    "/hook/{id}",
    "/a%2Fb",
    "/hook/:id",
    "/all/*",
    "/u/@me+1,2",
    "/a|b",
    '/a"b',
    "/base/hook",
    "/Case",
    "/caf%E9",
  ];
  const routes = paths.map((path, n) => ({ path, recipient: `r${n}`, type: "INFO", template: "x", name: `n${n}` }));
  const config = { agent: "a", ...inboxesIn(own).settings, webhook: { listen: "127.0.0.1:0", routes } };
  await using collector = await startRole("collector", ["--config", own.write("c.yaml", JSON.stringify(config))]);
  const base = await collector.url();
  const SENT: [target: string, path: string | null][] = [
    ["/gr%C3%B6%C3%9Fe", "/größe"],
    ["/gr%c3%b6%c3%9fe?x=1", "/größe"],
    ["/größe", "/größe"],
    ["/hook/{id}", "/hook/{id}"],
    ["/hook/%7Bid%7d", "/hook/{id}"],
    ["/a%2fb", "/a%2Fb"],
    ["/a/b", null],
    ["/hook/:id", "/hook/:id"],
    ["/hook/%3Aid", "/hook/:id"],
    ["/hook/7", null],
    ["/all/*", "/all/*"],
    ["/all/x", null],
    ["/u/%40me%2B1%2C2", "/u/@me+1,2"],
    ["/a|b", "/a|b"],
    ["/a%7Cb", "/a|b"],
    ["/a%22b", '/a"b'],
    ["//base/hook", "/base/hook"],
    ["/base//hook", "/base/hook"],
    ["/x/../base/./hook#top", "/base/hook"],
    ["/base%2Dx/%2e%2e/base/h%6Fok", "/base/hook"],
    ["http://elsewhere.example/base/hook", "/base/hook"],
    ["/base/hook/", null],
    ["/base/hook%zz", null],
    ["/case", null],
    ["/caf%e9", "/caf%E9"],
  ];
  for (const [target, path] of SENT) {
    const before = path === null ? 0 : inboxLines(own.at("inbox"), `r${paths.indexOf(path)}`).length;
    const request = `POST ${target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`;
    const answer = await raw(base, request, /\r\n\r\n/);
    expect([target, answer.slice(9, 12)]).toEqual([target, path === null ? "404" : "202"]);
    if (path === null) continue;
    const lines = inboxLines(own.at("inbox"), `r${paths.indexOf(path)}`);
    expect([target, lines.length, lines.at(-1)!["source"]]).toEqual([
      target,
      before + 1,
      `webhook:n${paths.indexOf(path)}`,
    ]);
  }
});

test("a Forgejo push reads as its template says", async () => {
  const file = FILES.find((name) => name.startsWith("forgejo") && name.includes("push"))!;
  const body = readFileSync(join(FIXTURES, file), "utf8");
  const push = JSON.parse(body) as {
    repository: { full_name: string };
    pusher: { login: string };
    commits: { message: string }[];
  };
  expect(await send("/push", body, { "content-type": "application/json", "x-forgejo-signature": hex(body) })).toBe(202);
  const head = `push to ${push.repository.full_name} by ${push.pusher.login}: ${push.commits.length} commit(s)`;
  expect(inboxLines(folder.at("inbox"), "push").at(-1)!["payload"]).toBe(
    [head, ...push.commits.map(({ message }) => `- ${message.trim()}`)].join("\n"),
  );
});

describe("the id of a delivery", () => {
  const idOf = (init: Record<string, string> | [string, string][]) => {
    const headers = new Headers(init);
    return deliveryId((name) => headers.get(name));
  };
  const NAMES_IN_ORDER = [
    "webhook-id",
    "svix-id",
    "X-GitHub-Delivery",
    "X-Forgejo-Delivery",
    "X-Gitea-Delivery",
    "X-Gogs-Delivery",
    "Idempotency-Key",
  ];

  test("comes from the first header that has one", () => {
    for (const [index, name] of NAMES_IN_ORDER.entries()) {
      expect(idOf({ [name]: `id of ${name}` })).toBe(`id of ${name}`);
      const later = Object.fromEntries(NAMES_IN_ORDER.slice(index).map((one) => [one, one]));
      expect(idOf(later)).toBe(name);
    }
    expect(idOf({})).toBeNull();
    expect(deliveryId(() => undefined)).toBeNull();
  });

  test("isn't taken from GitLab's headers that don't stay the same, or aren't one delivery's own", () => {
    expect(idOf({ "X-Gitlab-Event-UUID": "1", "X-Gitlab-Webhook-UUID": "2", "X-Request-Id": "3" })).toBeNull();
  });

  test("is trimmed, and 1 to 200 printable characters; otherwise the next header is asked", () => {
    expect(deliveryId((name) => (name === "webhook-id" ? "  an id\t" : null))).toBe("an id");
    expect(idOf({ "webhook-id": "x".repeat(200) })).toBe("x".repeat(200));
    for (const bad of ["", "   ", "x".repeat(201), "a\u0001b", "a\u007f", "é", "a\u00a0b"]) {
      expect(deliveryId((name) => (name === "X-GitHub-Delivery" ? bad : null))).toBeNull();
      const next = (name: string) => (name === "X-GitHub-Delivery" ? bad : name === "Idempotency-Key" ? "good" : null);
      expect(deliveryId(next)).toBe("good");
    }
  });

  test("from a header that comes twice is both together, the same when the request comes again", () => {
    const twice: [string, string][] = [
      ["webhook-id", "a"],
      ["webhook-id", "b"],
    ];
    expect(idOf(twice)).toBe("a, b");
  });
});

describe("the id of a delivery's event", () => {
  test("is 32 hex digits, the same for the same route and delivery", () => {
    const id = eventId("/forgejo/push", "f6266f16-1bf3-46a5-9ea4-602e06ead473");
    expect(id).toMatch(/^[0-9a-f]{32}$/);
    expect(eventId("/forgejo/push", "f6266f16-1bf3-46a5-9ea4-602e06ead473")).toBe(id);
    // A changed encoding would append what older versions appended already.
    expect(eventId("/a", "1")).toBe(new Bun.CryptoHasher("sha256").update("2:/a:1").digest("hex").slice(0, 32));
  });

  test("differs for every other pair, also where the two run together to the same text", () => {
    const parts = [
      "/",
      "/a",
      "/a:",
      "/a:b",
      "/1:/a",
      "a",
      ":a",
      ":",
      "b",
      "b:c",
      "/a/2:b",
      "ä",
      "😀",
      "1",
      "11",
      "/11",
    ];
    const pairs = parts.flatMap((route) => parts.map((delivery) => eventId(route, delivery)));
    expect(new Set(pairs).size).toBe(parts.length ** 2);
  });
});
