// Secrets in the texts of operations and reviews. Not tested: secrets without a form or a name.

import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { scrubText } from "../../lib/observer/scrub.ts";
import { until } from "../kit.ts";
import { Observer, failure, twoCycles } from "./kit.ts";

/** Put together here, so that no scanner takes them for real ones. */
const FORMS = [
  ["gh", "p_", "a1B2c3D4e5".repeat(4)],
  ["gl", "pat-", "a1B2c3D4e5".repeat(2)],
  ["xo", "xb-", "1234567890-abcdef"],
  ["sk", "-ant-", "api03-abcdefgh"],
  ["AK", "IA", "IOSFODNN7ABCDEFG"],
  ["ey", "JhbGciOiJIUzI1NiJ9.", "eyJzdWIiOiIxIn0.c2lnbmF0dXJl"],
].map((parts) => parts.join(""));
const S = "hunter-2secret";
const TEXTS = [
  `connect postgres://shop:${S}@db.example.org/shop: refused`,
  `Authorization: Bearer ${S}`,
  `curl -H 'X-Api-Key: ${S}' failed`,
  `{"user":"bob","password":"${S}"}`,
  `{\\"access_token\\":\\"${S}\\"}`,
  `DB_PASSWORD=${S} DB_PASS=${S}`,
  `GET /x?a=1&token=${S}&b=2: 403`,
  `mysql --password ${S} -u bob`,
  `{'client_secret': '${S}'}`,
  `Set-Cookie: session=${S}; path=/`,
  `clone https://${S.replace("secret", "secret-1234")}@git.example.org/a: refused`,
  `curl -s -u bob:${S} https://example.org`,
  `mysqldump -ubob -p${S} shop`,
  `<db_password>${S}</db_password>`,
  `the password is "${S}"`,
  `body=password%3D${S}`,
  `Passwort: ${S} ist falsch, contraseña=${S}`,
  `login bob password ${S}`,
  ["post https://hooks.", "slack.com/services/T0/B0/", S].join(""),
  `-----BEGIN RSA PRIVATE KEY-----\n${S}\n-----END RSA PRIVATE KEY-----`,
];
const PLAIN = [
  "token expired for user 7",
  "Bearer token is missing",
  "Access denied for user 'a'@'b' (using password: YES)",
  "Authorization: Bearer is missing",
  "token: invalid",
  "KeyError: 'token'",
  "pass: 5, fail: 3",
  "Key (mail)=(a@b.example) already exists",
  "GET https://example.org/a?page=2 answered 500",
  "the password is wrong",
  "docker run -p 8080:80 -u 1000 app",
  "--token-file /etc/picket/token is not readable",
];

test.each([...TEXTS, ...FORMS.map((form) => `the key ${form} is wrong`)])("%s is scrubbed", (text) => {
  const clean = scrubText(text);
  expect(clean).toContain("[redacted]");
  expect([S, ...FORMS].filter((secret) => clean.includes(secret))).toEqual([]);
  expect(scrubText(clean)).toBe(clean);
});

test.each(PLAIN)("%s stays", (text) => {
  expect(scrubText(text)).toBe(text);
});

test("long texts take time in proportion to their length", () => {
  for (const unit of ["password=", "a:", "a://b:", "Bearer ", "--token ", "-----BEGIN PRIVATE KEY-----", "eyJ", "x."]) {
    expect(typeof scrubText(unit.repeat(1 << 16))).toBe("string");
  }
});

test("no secret reaches the log, the answers, the inbox or the model, unless scrubbing is off", async () => {
  const asked: string[] = [];
  using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      asked.push(await request.text());
      return Response.json({
        choices: [{ message: { content: "<think>\nThe password?\n</think>\n\nThe disk is full." } }],
      });
    },
  });
  const llm = `llm: { url: "http://127.0.0.1:${server.port}", model: m }\n`;
  await using observer = await Observer.start({ more: llm });
  await observer.record(
    ...[1, 2, 3].map(() =>
      failure("login", TEXTS[0]!, {
        id: S,
        nested: { api_key: S, list: [`token=${S}`], args: ["--password", S], secret: [{ value: S }] },
      }),
    ),
    ...[1, 2, 3].map((n) => failure("deploy", `Bearer ${S} was refused`, { id: String(n) })),
  );
  await observer.post("/observer/review", { response: `password=${S}`, source_content: TEXTS[1] });
  await until("it is told", () => observer.told().length > 0);
  await twoCycles(observer);
  const files = [...filesIn(observer.data), ...filesIn(observer.inbox)].map((file) => readFileSync(file, "utf8"));
  const answers = await Promise.all(
    ["events", "clusters"].map(async (name) => (await fetch(`${observer.url}/observer/${name}`)).text()),
  );
  const everything = [...files, ...asked, ...answers].join("\n").replaceAll(`"id":"${S}"`, "");
  expect(everything).toContain("[redacted]");
  expect(everything).not.toContain(S);
  expect(asked.length).toBeGreaterThan(1);
  expect(observer.told()[0]!["payload"]).toEndWith("\nThe disk is full.");

  observer.configure("scrub: off\n");
  await observer.again();
  await observer.record(failure("login", `password=${S}`));
  expect(readFileSync(observer.log, "utf8")).toContain(`password=${S}`);
});

function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).flatMap((entry) =>
    entry.isFile() ? [join(entry.parentPath, entry.name)] : [],
  );
}
