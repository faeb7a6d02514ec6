// The collector's doors at random: webhooks over raw sockets and well-formed ones with strange bodies, signatures, drops.

import { expect, test } from "bun:test";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import * as fc from "fast-check";
import { SCHEMES, SignatureError, compileVerifier } from "../../lib/collector/signature.ts";
import { Secret } from "../../lib/config.ts";
import { Folder, inboxLines, startRole, until } from "../kit.ts";
import {
  INPUTS,
  PATIENCE_MS,
  TIMEOUT_MS,
  cpuMs,
  damaged,
  exchange,
  json,
  listing,
  mutated,
  prototypesUntouched,
  residentMb,
  runs,
  sample,
  sideBySide,
  statusesOf,
  strangeJson,
  text,
} from "./kit.ts";

const SECRET = "It's a Secret to Everybody";
/** What some schemes need besides a secret. */
const SETTINGS: Record<string, object> = {
  hmac: {
    header: "X-Sig",
    prefix: "v1=",
    payload: "{timestamp}.{body}",
    timestamp_header: "X-Slack-Request-Timestamp",
  },
  token: { header: "X-Gitlab-Token" },
  basic: { username: "picket" },
  query: { name: "q" },
};
const SIGNING = SCHEMES.filter((scheme) => scheme !== "none");
const ROUTES = `webhook:
  listen: 127.0.0.1:0
  routes:
    - { path: /any, recipient: bob, type: INFO, template: '{{ trunc 50 (json .) }}' }
    - { path: /when, recipient: bob, type: INFO, template: "{{ len (json .) }}", when: '{{ eq (len (json .)) 2 }}' }
    - { path: /head, recipient: [bob, eve], type: INFO, template: '{{ trunc 20 (header "X-GitHub-Event") }}{{ trunc 20 (query "q") }}' }
    - { path: "/odd/{x}", recipient: bob, type: INFO, template: x }
${SIGNING.map(
  (scheme) =>
    `    - { path: /${scheme}, recipient: bob, type: INFO, template: x, verify: ${JSON.stringify({ scheme, secret: SECRET, ...SETTINGS[scheme] })} }\n`,
).join("")}`;
const PATHS = [
  "/any",
  "/when",
  "/head",
  "/odd/{x}",
  "/nowhere",
  "/health",
  "/metrics",
  "/",
  "//any",
  "/any/",
  "/any/../any",
  ...SCHEMES.map((scheme) => `/${scheme}`),
];

const bomb = Buffer.alloc(8 << 20);
const body = fc.oneof(
  strangeJson().map((given) => Buffer.from(given)),
  mutated(
    fc.constantFrom(
      '{"a":1,"n":"x"}',
      "payload=%7B%22n%22%3A1%7D&b=%zz",
      '--b\r\ncontent-disposition: form-data; name="n"\r\n\r\nx\r\n--b--\r\n',
    ),
  ),
  fc.uint8Array({ maxLength: 100 }),
  json.map((value) => gzipSync(JSON.stringify(value) ?? "")),
  json.map((value) => deflateSync(JSON.stringify(value) ?? "")),
  json.map((value) => brotliCompressSync(JSON.stringify(value) ?? "")),
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      gzipSync(bomb),
      Bun.zstdCompressSync(bomb),
      Buffer.from("[".repeat(200_000)),
      Buffer.from(" ".repeat(300_000)),
    ),
  },
);
const ascii = fc.string({ maxLength: 40 }).map((given) => given.replaceAll(/[\r\n\0]/g, ""));
const names = fc.constantFrom(
  "Content-Type",
  "Content-Encoding",
  "Transfer-Encoding",
  "Content-Length",
  "X-Hub-Signature-256",
  "X-Forgejo-Signature",
  "X-Gitea-Signature",
  "X-Gitlab-Token",
  "X-Slack-Signature",
  "X-Slack-Request-Timestamp",
  "Stripe-Signature",
  "webhook-id",
  "webhook-timestamp",
  "webhook-signature",
  "Authorization",
  "Host",
  "X-GitHub-Delivery",
  "Idempotency-Key",
  "X-GitHub-Event",
  "X-Forwarded-For",
  "Forwarded",
  "Expect",
  "Upgrade",
  "Connection",
  "Range",
  "__proto__",
  "Cookie",
  "Content-Range",
);
const values = fc.oneof(
  ascii,
  text().map((given) => given.replaceAll(/[\r\n]/g, "")),
  fc.constantFrom(
    "gzip",
    "deflate",
    "br",
    "zstd",
    "identity",
    "chunked",
    "gzip, chunked",
    "application/json; charset=utf-16",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "0",
    "-1",
    "5",
    "99999999999999999999",
    "1, 2",
    "100-continue",
    "h2c",
    "upgrade",
    "close",
    `sha256=${"0".repeat(64)}`,
    `t=1,v1=${"0".repeat(64)}`,
    `v1,${"A".repeat(43)}=`,
    `v0=${"f".repeat(64)}`,
    "Bearer",
    "Bearer x",
    "\u00ff\u0000\u0080",
    "a".repeat(20_000),
    "999999999999",
  ),
);
const headers = fc.array(fc.tuple(names, values), { maxLength: 6 });
const method = fc.constantFrom(
  "POST",
  "POST",
  "POST",
  "POST",
  "GET",
  "PUT",
  "HEAD",
  "OPTIONS",
  "DELETE",
  "TRACE",
  "CONNECT",
  "PROPFIND",
  "post",
  "",
);

/** What a request may be answered; 501 and 505 are Bun's own, for what is hardly HTTP. */
const ALLOWED = new Set([
  100, 200, 202, 204, 400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 417, 426, 431, 501, 505,
]);

test(
  "no webhook, however it is written, makes the collector fail, hang or write anywhere but in its folder",
  async () => {
    using folder = new Folder();
    const config = folder.write("c.yaml", `agent: a\ninbox_dir: ${folder.at("inbox")}\ndurability: os\n${ROUTES}`);
    await using daemon = await startRole("collector", ["--config", config]);
    const url = await daemon.url();
    const before = listing(folder.path, [folder.at("inbox")]);
    const raw = fc
      .record({
        method,
        path: fc.oneof(fc.constantFrom(...PATHS), ascii),
        headers,
        body,
        length: fc.boolean(),
        chunked: fc.boolean(),
      })
      .map(({ method: verb, path, headers: more, body: bytes, length, chunked }) => {
        const framing = chunked
          ? "Transfer-Encoding: chunked\r\n"
          : length
            ? `Content-Length: ${bytes.length}\r\n`
            : "";
        const head = `${verb} ${path} HTTP/1.1\r\nHost: x\r\n${more.map(([name, value]) => `${name}: ${value}\r\n`).join("")}${framing}\r\n`;
        const content = chunked
          ? Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n0\r\n\r\n")])
          : bytes;
        return Buffer.concat([Buffer.from(head, "latin1"), content]);
      });
    const wrong: unknown[] = [];
    const judge = async (bytes: Uint8Array): Promise<void> => {
      const answer = await exchange(url, bytes, PATIENCE_MS, 20);
      const statuses = statusesOf(answer ?? "");
      if (answer === null || statuses.some((status) => !ALLOWED.has(status)))
        wrong.push({ sent: Buffer.from(bytes).toString("latin1").slice(0, 600), answer: answer?.slice(0, 300) });
    };
    await sideBySide(sample(raw, 0.5), 32, judge);
    await sideBySide(sample(mutated(raw), 0.5), 32, judge);
    expect(wrong).toEqual([]);
    expect(listing(folder.path, [folder.at("inbox")])).toEqual(before);
    expect((await fetch(`${url}/health`)).status).toBe(200);
    // Whether one of them is taken for eve is chance; that it goes to nobody else is not.
    const inboxes = readdirSync(folder.at("inbox")).filter((name) => name !== ".picket");
    expect(["bob.inbox", "eve.inbox"]).toEqual(expect.arrayContaining(inboxes));
    for (const name of inboxes) inboxLines(folder.at("inbox"), name.replace(".inbox", ""));
    expect(await residentMb(daemon.child.pid)).toBeLessThan(600);
  },
  TIMEOUT_MS * 2,
);

test(
  "well-formed deliveries of strange bodies are taken or refused, and as many lines are there as were taken",
  async () => {
    using folder = new Folder();
    const config = folder.write("c.yaml", `agent: a\ninbox_dir: ${folder.at("inbox")}\ndurability: os\n${ROUTES}`);
    await using daemon = await startRole("collector", ["--config", config]);
    const url = await daemon.url();
    const type = fc.constantFrom(
      "application/json",
      "application/x-www-form-urlencoded",
      "multipart/form-data; boundary=b",
      "text/plain; charset=utf-16",
      "",
    );
    const given = fc.record({
      path: fc.constantFrom("/any", "/when", "/head?q=%ff"),
      body,
      type,
      delivery: fc.option(fc.nat(50)),
    });
    const wrong: unknown[] = [];
    let taken = 0;
    const ids = new Set<string>();
    await sideBySide(sample(given), 16, async ({ path, body: bytes, type: contentType, delivery }) => {
      const answer = await fetch(url + path, {
        method: "POST",
        body: bytes,
        headers: {
          "content-type": contentType,
          ...(delivery === null ? {} : { "x-github-delivery": String(delivery) }),
        },
      });
      const said = await answer.text();
      if (![200, 202, 400, 415].includes(answer.status))
        wrong.push([path, Buffer.from(bytes).toString("latin1").slice(0, 300), answer.status, said]);
      if (answer.status !== 202) return;
      const { id } = JSON.parse(said) as { id: string };
      if (!ids.has(id)) taken++;
      ids.add(id);
    });
    expect(wrong).toEqual([]);
    expect(inboxLines(folder.at("inbox"), "bob").length).toBe(taken);
  },
  TIMEOUT_MS * 2,
);

test(
  "no header is a signature unless it is the right one",
  () => {
    const verifiers = SIGNING.map((scheme) =>
      compileVerifier({ scheme, secret: [new Secret(SECRET)], ...SETTINGS[scheme] }),
    );
    const given = fc.array(
      fc.tuple(
        names,
        fc.oneof(
          values,
          fc.constantFrom(
            `${Math.floor(Date.now() / 1000)}`,
            `t=${Math.floor(Date.now() / 1000)},v1=${"0".repeat(64)}`,
          ),
        ),
      ),
      { maxLength: 8 },
    );
    fc.assert(
      fc.property(given, fc.uint8Array({ maxLength: 60 }), fc.nat(SIGNING.length - 1), (all, bytes, index) => {
        const map = new Map(all.map(([name, value]) => [name.toLowerCase(), value]));
        const header = (name: string) => map.get(name.toLowerCase());
        const judge = () => verifiers[index]!({ header, query: header }, Date.now())(bytes);
        expect(judge).toThrow(SignatureError);
        expect(judge).not.toThrow(SECRET);
      }),
      runs(),
    );
  },
  TIMEOUT_MS,
);

const DROP = { recipient: "bob", type: "INFO", payload: "p", priority: "normal", sentinel: "" };
const dropName = fc
  .oneof(
    fc.uint8Array({ minLength: 1, maxLength: 12 }).map((bytes) => Buffer.from(bytes)),
    text().map((given) => Buffer.from(given)),
    fc
      .constantFrom("..", "a\nb", "-rf", "\u001b[2J", "a".repeat(250), "é".repeat(120), "x.reason", "con", "~")
      .map((given) => Buffer.from(given)),
  )
  .map((bytes) => Buffer.from(bytes.filter((byte) => byte !== 0x2f && byte !== 0)).subarray(0, 240));

test(
  "every drop ends as one line or as a dead letter with its reason, and nothing else is touched",
  async () => {
    using folder = new Folder();
    for (const name of ["drops", "stage", "inbox"]) mkdirSync(folder.at(name));
    const outside = folder.write("outside.json", JSON.stringify({ ...DROP, payload: "from outside" }));
    const config = folder.write(
      "c.yaml",
      `agent: a\ninbox_dir: ${folder.at("inbox")}\ndurability: os\ndrop_folder: { path: ${folder.at("drops")}, settle_ms: 20, poll_fallback_seconds: 1 }\n`,
    );
    const content = fc.oneof(
      damaged(DROP).map((value) => Buffer.from(JSON.stringify(value) ?? "")),
      strangeJson().map((given) => Buffer.from(given)),
      mutated(fc.constant(JSON.stringify(DROP))),
      fc.constantFrom(
        Buffer.alloc(0),
        Buffer.from("\ufeff{}"),
        Buffer.alloc(2 << 20, 0x20),
        Buffer.from(JSON.stringify({ ...DROP, recipient: "../eve" })),
        Buffer.from(JSON.stringify({ ...DROP, recipient: "/etc/x" })),
      ),
    );
    const kind = fc.constantFrom("file", "file", "file", "file", "file", "file", "link", "folder");
    const mtime = fc.constantFrom(null, null, null, 0, -1, 4_000_000_000, 1e13, -1e13);
    const drops = sample(fc.record({ name: dropName, content, kind, mtime }), 0.5);
    await using daemon = await startRole("collector", ["--config", config]);
    await daemon.said("ready");
    const before = listing(folder.path, [folder.at("drops"), folder.at("inbox")]);
    let put = 0;
    for (const [index, { name, content: bytes, kind: what, mtime: at }] of drops.entries()) {
      const staged = folder.at("stage", String(index));
      if (what === "file") writeFileSync(staged, bytes);
      if (what === "link") symlinkSync(outside, staged);
      if (what === "folder") mkdtempSync(folder.at("stage", "f"));
      const from =
        what === "folder"
          ? folder.at(
              "stage",
              readdirSync(folder.at("stage")).find((one) => one.startsWith("f"))!,
            )
          : staged;
      if (at !== null && what === "file") utimesSync(from, at, at);
      // A number before the name: a drop that replaced another one would be one less.
      const target = Buffer.concat([Buffer.from(folder.at("drops", `${index}`)), name, Buffer.from(".json")]);
      renameSync(from, target);
      put++;
    }
    const left = () =>
      readdirSync(folder.at("drops"), { encoding: "buffer" }).filter((name) => name.toString() !== ".dead-letter")
        .length;
    // A dead letter costs three syncs: on a busy disk a tenth of a second and more.
    await until("no drop is left", () => left() === 0, 30 + drops.length / 8);
    const lines = inboxLines(folder.at("inbox"), "bob");
    const dead = existsSync(folder.at("drops", ".dead-letter"))
      ? readdirSync(folder.at("drops", ".dead-letter"), { encoding: "latin1" })
      : [];
    const reasons = dead.filter((name) => name.endsWith(".reason") && dead.includes(name.slice(0, -".reason".length)));
    const all = readdirSync(folder.at("inbox")).filter((name) => name.endsWith(".inbox"));
    const delivered = all.reduce(
      (sum, name) => sum + inboxLines(folder.at("inbox"), name.slice(0, -".inbox".length)).length,
      0,
    );
    expect(delivered + reasons.length).toBe(put);
    expect(dead.length).toBe(2 * reasons.length);
    expect(lines.filter(({ payload }) => payload === "from outside")).toEqual([]);
    expect(listing(folder.path, [folder.at("drops"), folder.at("inbox")])).toEqual(before);
    expect(all.every((name) => /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.inbox$/.test(name))).toBe(true);
    expect(daemon.child.exitCode).toBeNull();
    expect(await residentMb(daemon.child.pid)).toBeLessThan(600);
    prototypesUntouched();
  },
  TIMEOUT_MS * 3,
);

test("what is sent to a form's door costs no more than it is large", async () => {
  using folder = new Folder();
  const config = folder.write("c.yaml", `agent: a\ninbox_dir: ${folder.at("inbox")}\n${ROUTES}`);
  await using daemon = await startRole("collector", ["--config", config]);
  const url = await daemon.url();
  const fields = Array.from({ length: 100_000 }, (_, n) => `k${n}=${n % 10}`).join("&");
  const same = "a=1&".repeat(250_000);
  const parts = `--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n`.repeat(18_000);
  for (const [type, sent] of [
    ["application/x-www-form-urlencoded", fields.slice(0, 1 << 20)],
    ["application/x-www-form-urlencoded", same],
    ["multipart/form-data; boundary=b", `${parts}--b--\r\n`],
    ["application/json", `{"n":${"9".repeat(1_000_000)}}`],
    ["application/json", `[${"1e5,".repeat(200_000)}1]`],
    ["application/json", `[${'{"":'.repeat(400)}1${"}".repeat(400)}]`],
    ["application/json", `{${Array.from({ length: 60_000 }, (_, n) => `"k${n}":0`).join(",")}}`],
  ] as const) {
    const before = cpuMs(daemon.child.pid);
    const answer = await fetch(`${url}/any`, { method: "POST", body: sent, headers: { "content-type": type } });
    expect([type, [202, 400, 413].includes(answer.status)]).toEqual([type, true]);
    expect(cpuMs(daemon.child.pid) - before).toBeLessThan(5000);
  }
  expect(INPUTS).toBeGreaterThan(0);
});
