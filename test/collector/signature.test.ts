// Signatures of webhooks. Signed here by node:crypto, verified there by Bun's own hasher.
// Not tested: that comparisons take the same time whatever differs (a measurement, not a test).

import { type Hmac, createHmac } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import examples from "@octokit/webhooks-examples/api.github.com/index.json";
import { deliveryId } from "../../lib/collector/delivery.ts";
import { SCHEMES, SignatureError, type Verify, compileVerifier } from "../../lib/collector/signature.ts";
import { Secret } from "../../lib/secret.ts";

const PAYLOADS = join(import.meta.dir, "fixtures/payloads");
const KEY = "a secret of 32 characters, or so";
const OTHER = "another secret, the one before it";
const NOW = Date.parse("2026-03-02T18:05:00Z");
const SECOND = NOW / 1000;
const BODY = Buffer.from('{"text":"Größe ≤ 3 😀"}');

type Init = Record<string, string> | [string, string][];

/** The schemes that have no settings of their own, and aren't another's name. */
type Scheme = Exclude<Verify["scheme"], "none" | "gitea" | "svix" | "hmac" | "token" | "basic" | "query">;

interface Request extends Omit<Verify, "secret"> {
  headers: Init;
  query?: string;
  body?: Uint8Array | string;
  secrets?: readonly string[];
  now?: number;
}

/** Why a request is refused; null when it isn't. */
function judge({ headers, query, body = BODY, secrets = [KEY], now = NOW, ...verify }: Request): string | null {
  const verifier = compileVerifier({ ...verify, secret: secrets.map((secret) => new Secret(secret)) });
  try {
    verifier(asked(headers, query), now)(Buffer.from(body));
    return null;
  } catch (error) {
    if (error instanceof SignatureError) return error.message;
    throw error;
  }
}

const asked = (init: Init, query?: string) => {
  const [headers, parameters] = [new Headers(init), new URLSearchParams(query)];
  return { header: (name: string) => headers.get(name), query: (name: string) => parameters.get(name) };
};

function hmac(key: string | Buffer, encoding: "hex" | "base64", ...parts: (string | Uint8Array)[]): string {
  const hash = createHmac("sha256", key);
  for (const part of parts) hash.update(part);
  return hash.digest(encoding);
}

type Sign = (body: Uint8Array | string, key?: string, time?: number | string) => Record<string, string>;

/** What each product sends beside the body. */
const SIGN: Record<Scheme, Sign> = {
  github: (body, key = KEY) => ({ "X-Hub-Signature-256": `sha256=${hmac(key, "hex", body)}` }),
  forgejo: (body, key = KEY) => ({ "X-Forgejo-Signature": hmac(key, "hex", body) }),
  gitlab: (_body, key = KEY) => ({ "X-Gitlab-Token": key }),
  slack: (body, key = KEY, time = SECOND) => ({
    "X-Slack-Signature": `v0=${hmac(key, "hex", `v0:${time}:`, body)}`,
    "X-Slack-Request-Timestamp": `${time}`,
  }),
  stripe: (body, key = KEY, time = SECOND) => ({
    "Stripe-Signature": `t=${time},v1=${hmac(key, "hex", `${time}.`, body)},v0=${"0".repeat(64)}`,
  }),
  standard: (body, key = KEY, time = SECOND) => ({
    "webhook-id": "msg_1",
    "webhook-timestamp": `${time}`,
    "webhook-signature": `v1,${hmac(key, "base64", `msg_1.${time}.`, body)}`,
  }),
  bearer: (_body, key = KEY) => ({ Authorization: `Bearer ${key}` }),
};

const ALL = Object.keys(SIGN) as (keyof typeof SIGN)[];
const SIGNED = ["github", "forgejo", "slack", "stripe", "standard"] as const;
const HEX = ["github", "forgejo", "slack", "stripe"] as const;
const TIMED = ["slack", "stripe", "standard"] as const;
const NAMES = {
  github: "X-Hub-Signature-256",
  forgejo: "X-Forgejo-Signature",
  gitlab: "X-Gitlab-Token",
  slack: "X-Slack-Signature",
  stripe: "Stripe-Signature",
  standard: "webhook-signature",
  bearer: "Authorization",
} as const;

/** The same bytes but for one bit in the middle. */
function tampered(body: Uint8Array | string): Buffer {
  const bytes = Buffer.from(body);
  bytes[bytes.length >> 1]! ^= 1;
  return bytes;
}

describe("the examples that the products document", () => {
  test("GitHub", () => {
    const headers = {
      "X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    };
    const request = { scheme: "github", headers, secrets: ["It's a Secret to Everybody"] } as const;
    expect(judge({ ...request, body: "Hello, World!" })).toBeNull();
    expect(judge({ ...request, body: "Hello, World" })).toBe("X-Hub-Signature-256 does not match");
  });

  test("Slack", () => {
    const body =
      "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const headers = {
      "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
      "X-Slack-Request-Timestamp": "1531420618",
    };
    const request = { scheme: "slack", headers, secrets: ["8f742231b10e8888abcd99yyyzzz85a5"] } as const;
    expect(judge({ ...request, body, now: 1_531_420_618_000 })).toBeNull();
    expect(judge({ ...request, body: tampered(body), now: 1_531_420_618_000 })).toBe(
      "X-Slack-Signature does not match",
    );
    expect(judge({ ...request, body })).toMatch(/^the timestamp is \d+ s old, over 300 s$/);
  });

  test("Standard Webhooks, and another signature beside it in the list", () => {
    const signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"];
    for (const list of [signature, `v1,bm9ldHU= ${signature}`, `v1a,${"A".repeat(86)}== ${signature}`]) {
      const headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": list,
      };
      const request = { scheme: "standard", headers, secrets, now: 1_614_265_330_000 } as const;
      expect(judge({ ...request, body: '{"test": 2432232314}' })).toBeNull();
      expect(judge({ ...request, body: '{"test": 2432232315}' })).toBe("webhook-signature does not match");
    }
  });
});

describe("what senders send", () => {
  test("every example of GitHub's events is accepted, and refused with one bit changed", () => {
    let count = 0;
    for (const { examples: bodies } of examples) {
      for (const example of bodies) {
        const body = JSON.stringify(example);
        const headers = SIGN.github(body);
        expect(judge({ scheme: "github", headers, body })).toBeNull();
        expect(judge({ scheme: "github", headers, body: tampered(body) })).toBe("X-Hub-Signature-256 does not match");
        count++;
      }
    }
    expect(count).toBeGreaterThan(200);
  });

  test.each<[string, Scheme]>([
    ["forgejo-push.json", "forgejo"],
    ["forgejo-issue-comment.json", "forgejo"],
    ["gitea-push.json", "forgejo"],
    ["forgejo-push.json", "github"],
    ["gitlab-push.json", "gitlab"],
    ["gitlab-merge-request.json", "gitlab"],
    ["gitlab-pipeline.json", "gitlab"],
    ["gitlab-pipeline.json", "standard"],
    ["slack-event.json", "slack"],
    ["slack-slash-command.form", "slack"],
    ["stripe-event.json", "stripe"],
    ["standard-webhooks.json", "standard"],
    ["standard-webhooks.json", "bearer"],
  ])("%s with %s", (file, scheme) => {
    const body = readFileSync(join(PAYLOADS, file));
    const headers = SIGN[scheme](body);
    expect(judge({ scheme, headers, body })).toBeNull();
    expect(judge({ scheme, headers, body, secrets: [OTHER] })).toBe(`${NAMES[scheme]} does not match`);
    const covered = scheme !== "gitlab" && scheme !== "bearer";
    expect(judge({ scheme, headers, body: tampered(body) })).toBe(covered ? `${NAMES[scheme]} does not match` : null);
  });

  test("Forgejo's and Gitea's forms: the signature covers the JSON, not the form around it", () => {
    for (const file of ["forgejo-push.json", "gitea-push.json"]) {
      const json = readFileSync(join(PAYLOADS, file), "utf8");
      const body = new URLSearchParams({ payload: json }).toString();
      const headers = { ...SIGN.forgejo(json), "Content-Type": "application/x-www-form-urlencoded; charset=utf-8" };
      expect(judge({ scheme: "forgejo", headers, body })).toBeNull();
      const changed = body.replace("octo", "eight");
      expect(judge({ scheme: "forgejo", headers, body: changed })).toBe("X-Forgejo-Signature does not match");
    }
  });

  test("a form with fields that no signature covers is refused, and so is a form that isn't sent as one", () => {
    const json = '{"a":1}';
    const form = new URLSearchParams({ payload: json }).toString();
    const headers = { ...SIGN.forgejo(json), "Content-Type": "application/x-www-form-urlencoded" };
    for (const body of [`${form}&more=1`, `more=1&${form}`, `${form}&payload=2`, `payload=2&${form}`, ` ${form}`]) {
      expect(judge({ scheme: "forgejo", headers, body })).toBe("X-Forgejo-Signature does not match");
    }
    for (const type of [undefined, "application/json", "text/plain"]) {
      const sent = { ...SIGN.forgejo(json), ...(type && { "Content-Type": type }) };
      expect(judge({ scheme: "forgejo", headers: sent, body: form })).toBe("X-Forgejo-Signature does not match");
    }
    expect(judge({ scheme: "github", headers: { ...headers, ...SIGN.github(json) }, body: form })).not.toBeNull();
    expect(judge({ scheme: "forgejo", headers: { ...headers, ...SIGN.forgejo(form) }, body: form })).toBeNull();
  });

  test("a secret that isn't ASCII, as bytes on a wire", async () => {
    const secret = "geheïm ☃";
    const verdicts: (string | null)[] = [];
    using server = Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      fetch({ headers }) {
        for (const scheme of ["gitlab", "bearer"] as const)
          verdicts.push(judge({ scheme, headers: headers.toJSON(), secrets: [secret] }));
        return new Response();
      },
    });
    const lines = ["POST / HTTP/1.1", "Host: x", `X-Gitlab-Token: ${secret}`, `Authorization: Bearer ${secret}`];
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const socket = connect(server.port!, "127.0.0.1", () => {
      socket.write(`${lines.join("\r\n")}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
    });
    socket.on("data", () => socket.destroy());
    socket.on("close", () => resolve());
    socket.on("error", reject);
    await promise;
    expect(verdicts).toEqual([null, null]);
  });

  test("bytes that are no text, an empty body, a long secret, and a body inside a larger buffer", () => {
    const bytes = Buffer.from(Array.from({ length: 512 }, (_, n) => n & 255));
    for (const scheme of SIGNED) {
      expect(judge({ scheme, headers: SIGN[scheme](bytes), body: bytes })).toBeNull();
      expect(judge({ scheme, headers: SIGN[scheme](""), body: "" })).toBeNull();
      expect(judge({ scheme, headers: SIGN[scheme](""), body: " " })).not.toBeNull();
      const long = KEY.repeat(5);
      expect(judge({ scheme, headers: SIGN[scheme](bytes, long), body: bytes, secrets: [long] })).toBeNull();
      const inner = new Uint8Array(bytes.buffer, bytes.byteOffset + 100, 50);
      compileVerifier({ scheme, secret: [new Secret(KEY)] })(asked(SIGN[scheme](inner)), NOW)(inner);
    }
  });
});

describe.each(ALL)("%s", (scheme) => {
  const name = NAMES[scheme];

  test("a missing or empty header is named", () => {
    for (const missing of Object.keys(SIGN[scheme](BODY))) {
      const { [missing]: _, ...rest } = SIGN[scheme](BODY);
      expect(judge({ scheme, headers: rest })).toMatch(new RegExp(`${missing}.* (is|are) missing$`));
      expect(judge({ scheme, headers: { ...rest, [missing]: "" } })).toMatch(/ (is|are) missing$/);
    }
  });

  test("while secrets change, each of them is good, and no other", () => {
    const secrets = [OTHER, KEY];
    expect(judge({ scheme, secrets, headers: SIGN[scheme](BODY, KEY) })).toBeNull();
    expect(judge({ scheme, secrets, headers: SIGN[scheme](BODY, OTHER) })).toBeNull();
    expect(judge({ scheme, secrets, headers: SIGN[scheme](BODY, "a third") })).toBe(`${name} does not match`);
    for (const near of [`${KEY}x`, KEY.slice(1), KEY.toUpperCase()]) {
      expect(judge({ scheme, secrets, headers: SIGN[scheme](BODY, near) })).toBe(`${name} does not match`);
    }
  });

  test("without a secret, or with an empty one, nothing is compiled", () => {
    for (const secrets of [[], [new Secret("")], [new Secret(KEY), new Secret("")]]) {
      expect(() => compileVerifier({ scheme, secret: secrets })).toThrow("the secret is empty");
    }
  });

  test("a header that comes twice is refused, whichever is the good one", () => {
    const good = Object.entries(SIGN[scheme](BODY));
    const bad = new Map(Object.entries(SIGN[scheme](BODY, "a third", SECOND - 1)));
    for (const [twice, value] of good) {
      // The signatures of Standard Webhooks are a list, and joined they still are one.
      if (twice === "webhook-signature") continue;
      const other = bad.get(twice)!;
      for (const more of [value, other]) {
        expect(judge({ scheme, headers: [...good, [twice, more]] })).not.toBeNull();
        expect(judge({ scheme, headers: [[twice, more], ...good] })).not.toBeNull();
      }
    }
  });

  test("no reason holds a secret, or the signature that would have been good", () => {
    const good = Object.values(SIGN[scheme](BODY)).flatMap((value) => value.match(/[A-Za-z0-9+/]{40,}/g) ?? []);
    for (const headers of [{}, SIGN[scheme](BODY, "a third"), { ...SIGN[scheme](BODY), [name]: "x" }]) {
      const reason = judge({ scheme, headers })!;
      for (const hidden of [KEY, ...good]) expect(reason).not.toContain(hidden);
    }
  });
});

describe.each(SIGNED)("the signature of %s", (scheme) => {
  const name = NAMES[scheme];

  test("has its exact form, or is refused without an exception", () => {
    const good = SIGN[scheme](BODY)[name]!;
    const digest = /(?:^|v1[=,]|v0=|sha256=)([A-Za-z0-9+/]{43,64}=?)/.exec(good)![1]!;
    const bad = [
      ["nothing", "x"],
      ["shorter", good.replace(digest, digest.replace(/.=?$/, ""))],
      ["longer", good.replace(digest, `${digest}0`)],
      ["half", good.replace(digest, digest.slice(0, digest.length / 2))],
      ["foreign characters", good.replace(digest, `!${digest.slice(1)}`)],
      ["more after it", good.replace(digest, `${digest}=junk`)],
      ["not ASCII", good.replace(digest, "é".repeat(digest.length))],
      ["digest only", scheme === "forgejo" ? `sha256=${good}` : digest],
      ["another name", good.replace(/sha256|v0|v1/, "v9")],
    ] as const;
    for (const [what, value] of bad) {
      if (value === good) continue;
      const reason = judge({ scheme, headers: { ...SIGN[scheme](BODY), [name]: value } });
      expect([what, reason]).toEqual([what, expect.stringMatching(/ (is malformed|has no v1 signature)$/)]);
    }
  });

  test("another digest of the same length doesn't match, be it in the first digit or in the last", () => {
    expect(judge({ scheme, headers: SIGN[scheme](tampered(BODY)) })).toBe(`${name} does not match`);
    const good = SIGN[scheme](BODY);
    const digest = /[A-Za-z0-9+/]{43,64}/.exec(good[name]!)![0];
    const other = (digit: string) => (digit === "0" ? "4" : "0");
    // The very last digit in base64 has two bits that count for nothing.
    const last = scheme === "standard" ? -2 : -1;
    for (const at of [0, digest.length + last]) {
      const near = digest.slice(0, at) + other(digest[at]!) + digest.slice(at + 1);
      const headers = { ...good, [name]: good[name]!.replace(digest, near) };
      expect(judge({ scheme, headers })).toBe(`${name} does not match`);
    }
  });
});

test.each(HEX)("hex digits of %s may be in upper case, or mixed", (scheme) => {
  const good = SIGN[scheme](BODY);
  const [before, hex] = [
    good[NAMES[scheme]]!.replace(/[0-9a-f]{64}.*/, ""),
    /[0-9a-f]{64}/.exec(good[NAMES[scheme]]!)![0],
  ];
  for (const digits of [hex.toUpperCase(), hex.slice(0, 32).toUpperCase() + hex.slice(32)]) {
    expect(judge({ scheme, headers: { ...good, [NAMES[scheme]]: before + digits } })).toBeNull();
  }
});

describe.each(TIMED)("the time of %s", (scheme) => {
  test.each([
    [0, null],
    [300, null],
    [301, "the timestamp is 301 s old, over 300 s"],
    [-300, null],
    [-301, "the timestamp is 301 s ahead, over 300 s: a clock is wrong"],
  ])("%d s old", (age, verdict) => {
    const headers = SIGN[scheme](BODY, KEY, SECOND - age);
    expect(judge({ scheme, headers })).toBe(verdict);
    expect(judge({ scheme, headers, now: NOW + 999 })).toBe(verdict);
  });

  test("is seconds or milliseconds in digits, or RFC 3339, and nothing else, also where that is signed", () => {
    const wrong = ["0x6a", "now", "-1", "1e9", "9".repeat(20), `${SECOND}x`, "2026-03-02", "2026-13-02T18:05:00Z"];
    for (const time of [...wrong, `${SECOND}.0`, `+${SECOND}`, "2026-03-02T18:05:00"])
      expect(judge({ scheme, headers: SIGN[scheme](BODY, KEY, time) })).toBe("the timestamp is malformed");
    for (const time of [NOW, "2026-03-02T18:05:00.123Z", "2026-03-02T20:05:00+02:00"])
      expect(judge({ scheme, headers: SIGN[scheme](BODY, KEY, time) })).toBeNull();
    for (const time of [NOW - 301_000, "2026-03-02T17:59:59Z"])
      expect(judge({ scheme, headers: SIGN[scheme](BODY, KEY, time) })).toContain("301 s old");
  });

  test("is covered by the signature", () => {
    const headers = SIGN[scheme](BODY, KEY, SECOND - 600);
    for (const name of Object.keys(headers)) {
      headers[name] = headers[name]!.replaceAll(`${SECOND - 600}`, `${SECOND}`);
    }
    expect(judge({ scheme, headers })).toBe(`${NAMES[scheme]} does not match`);
  });

  test("is said before the body is read", () => {
    const verifier = compileVerifier({ scheme, secret: [new Secret(KEY)] });
    const sent = asked(SIGN[scheme]("whatever", "a third", SECOND - 301));
    expect(() => verifier(sent, NOW)).toThrow("301 s old");
  });
});

describe("forgejo", () => {
  const good = hmac(KEY, "hex", BODY);
  const bad = hmac(OTHER, "hex", BODY);

  test("Gitea's header alone is enough", () => {
    expect(judge({ scheme: "forgejo", headers: { "X-Gitea-Signature": good } })).toBeNull();
    const refused = judge({ scheme: "forgejo", headers: { "X-Gitea-Signature": bad } });
    expect(refused).toBe("X-Gitea-Signature does not match");
    expect(judge({ scheme: "forgejo", headers: { "X-Gitea-Signature": "x" } })).toBe("X-Gitea-Signature is malformed");
  });

  test("of both, Forgejo's decides", () => {
    const judged = (forgejo: string, gitea: string) =>
      judge({ scheme: "forgejo", headers: { "X-Forgejo-Signature": forgejo, "X-Gitea-Signature": gitea } });
    expect(judged(good, bad)).toBeNull();
    expect(judged(bad, good)).toBe("X-Forgejo-Signature does not match");
    expect(judged("x", good)).toBe("X-Forgejo-Signature is malformed");
    expect(judged("", good)).toBeNull();
    expect(judged("", "")).toBe("X-Forgejo-Signature and X-Gitea-Signature are missing");
  });
});

describe("stripe", () => {
  test("of several v1 signatures one has to match; other versions don't count", () => {
    const digest = hmac(KEY, "hex", `${SECOND}.`, BODY);
    const other = hmac(OTHER, "hex", `${SECOND}.`, BODY);
    const judged = (value: string) => judge({ scheme: "stripe", headers: { "Stripe-Signature": value } });
    expect(judged(`t=${SECOND},v1=${other},v1=${digest}`)).toBeNull();
    expect(judged(`v1=${digest}, t=${SECOND}`)).toBeNull();
    expect(judged(`t=${SECOND},v1=x,v1=${digest}`)).toBeNull();
    expect(judged(`t=${SECOND},v0=${digest}`)).toBe("Stripe-Signature has no v1 signature");
    expect(judged(`v1=${digest}`)).toBe("Stripe-Signature is malformed");
    expect(judged(`t=${SECOND},t=${SECOND},v1=${digest}`)).toBe("Stripe-Signature is malformed");
  });

  test("its whsec_ secret is the key as it stands", () => {
    const key = "whsec_not base64!";
    expect(judge({ scheme: "stripe", headers: SIGN.stripe(BODY, key), secrets: [key] })).toBeNull();
  });
});

describe("standard", () => {
  const raw = Buffer.from("0123456789abcdef0123456789abcdef");

  test("a whsec_ secret is base64, padded or not; another one is the key itself", () => {
    for (const key of [raw, raw.subarray(1), raw.subarray(2)]) {
      const headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": `${SECOND}`,
        "webhook-signature": `v1,${hmac(key, "base64", `msg_1.${SECOND}.`, BODY)}`,
      };
      const base64 = key.toString("base64");
      const unpadded = base64.replaceAll("=", "");
      for (const secret of [`whsec_${base64}`, `whsec_${unpadded}`, `v1,whsec_${base64}`, key.toString()]) {
        expect(judge({ scheme: "standard", headers, secrets: [secret] })).toBeNull();
      }
      expect(judge({ scheme: "standard", headers, secrets: [base64] })).toBe("webhook-signature does not match");
    }
  });

  test("a whsec_ secret that isn't base64 is refused when it is compiled, and not shown", () => {
    // What a lenient decoder makes of "A" and "=" is an empty key, with which anybody could sign.
    for (const text of [
      "",
      "A",
      "=",
      "==",
      "not base64",
      "c2Vj cmV0",
      "c2VjcmV0\n",
      "c2Vj_cmV0",
      "c2V=jcmV0",
      "c2Vjcm===",
    ]) {
      const compile = () => compileVerifier({ scheme: "standard", secret: [new Secret(`whsec_${text}`)] });
      expect(compile).toThrow(new SignatureError("what follows whsec_ is not base64"));
    }
  });

  test("the id is covered by the signature, also where it isn't ASCII", () => {
    const headers = SIGN.standard(BODY);
    expect(judge({ scheme: "standard", headers: { ...headers, "webhook-id": "msg_2" } })).not.toBeNull();
    const id = Buffer.from("mëss");
    const signature = `v1,${hmac(KEY, "base64", id, `.${SECOND}.`, BODY)}`;
    const sent = { ...headers, "webhook-id": id.toString("latin1"), "webhook-signature": signature };
    expect(judge({ scheme: "standard", headers: sent })).toBeNull();
  });
});

describe("bearer and none", () => {
  test("the word Bearer is in any case, and needed", () => {
    const judged = (value: string) => judge({ scheme: "bearer", headers: { Authorization: value } });
    expect(judged(`bearer ${KEY}`)).toBeNull();
    expect(judged(`BEARER   ${KEY}`)).toBeNull();
    for (const value of [KEY, `Basic ${KEY}`, "Bearer", `Bearer${KEY}`, `x Bearer ${KEY}`]) {
      expect(judged(value)).toBe("Authorization is malformed");
    }
  });

  test("none lets everybody in, and needs no secret", () => {
    expect(judge({ scheme: "none", headers: {}, secrets: [] })).toBeNull();
    expect(judge({ scheme: "none", headers: SIGN.github("something else") })).toBeNull();
  });
});

describe("schemes with settings, and other names of schemes", () => {
  const mac = (algorithm: string, encoding: "hex" | "base64" | "base64url", ...parts: (string | Uint8Array)[]) =>
    parts.reduce<Hmac>((hash, part) => hash.update(part), createHmac(algorithm, KEY)).digest(encoding);
  const svix = Object.entries(SIGN.standard(BODY)).map(([name, value]): [string, string] => [
    name.replace("webhook", "svix"),
    value,
  ]);
  const basic = (pair: string) => ({ Authorization: `Basic ${Buffer.from(pair).toString("base64")}` });
  const timed = {
    scheme: "hmac",
    header: "X-Sig",
    payload: "v0:{timestamp}:{body}!",
    timestamp_header: "X-Time",
  } as const;
  const GOOD: [title: string, request: Request, name: string][] = [
    ["gitea", { scheme: "gitea", headers: { "X-Gitea-Signature": mac("sha256", "hex", BODY) } }, "X-Gitea-Signature"],
    ["svix", { scheme: "svix", headers: svix }, "svix-signature"],
    ["standard by Svix's names", { scheme: "standard", headers: svix }, "svix-signature"],
    [
      "Bitbucket's header",
      { scheme: "github", headers: { "X-Hub-Signature": `sha256=${mac("sha256", "hex", BODY)}` } },
      "X-Hub-Signature",
    ],
    [
      "Linear, Sentry",
      { scheme: "hmac", header: "Linear-Signature", headers: { "linear-signature": mac("sha256", "hex", BODY) } },
      "Linear-Signature",
    ],
    [
      "Shopify",
      {
        scheme: "hmac",
        header: "X-Shopify-Hmac-Sha256",
        encoding: "base64",
        headers: { "x-shopify-hmac-sha256": mac("sha256", "base64", BODY) },
      },
      "X-Shopify-Hmac-Sha256",
    ],
    [
      "old GitHub",
      {
        scheme: "hmac",
        header: "X-Hub-Signature",
        algorithm: "sha1",
        prefix: "sha1=",
        headers: { "x-hub-signature": `sha1=${mac("sha1", "hex", BODY)}` },
      },
      "X-Hub-Signature",
    ],
    [
      "PagerDuty's list",
      {
        scheme: "hmac",
        header: "X-PagerDuty-Signature",
        prefix: "v1=",
        headers: { "x-pagerduty-signature": `v1=${"0".repeat(64)},v1=${mac("sha256", "hex", BODY)}` },
      },
      "X-PagerDuty-Signature",
    ],
    [
      "sha512 in base64url",
      {
        scheme: "hmac",
        header: "X-Sig",
        algorithm: "sha512",
        encoding: "base64url",
        headers: { "x-sig": mac("sha512", "base64url", BODY) },
      },
      "X-Sig",
    ],
    [
      "sha1 in base64",
      {
        scheme: "hmac",
        header: "X-Sig",
        algorithm: "sha1",
        encoding: "base64",
        headers: { "x-sig": mac("sha1", "base64", BODY) },
      },
      "X-Sig",
    ],
    [
      "base64 without its padding",
      {
        scheme: "hmac",
        header: "X-Sig",
        encoding: "base64",
        headers: { "x-sig": mac("sha256", "base64", BODY).replace("=", "") },
      },
      "X-Sig",
    ],
    [
      "Stripe's form under another name",
      {
        scheme: "stripe",
        header: "Mux-Signature",
        headers: { "mux-signature": SIGN.stripe(BODY)["Stripe-Signature"]! },
      },
      "Mux-Signature",
    ],
    [
      "a signed time",
      { ...timed, headers: { "x-time": `${SECOND}`, "x-sig": mac("sha256", "hex", `v0:${SECOND}:`, BODY, "!") } },
      "X-Sig",
    ],
    [
      "a token in any header",
      { scheme: "token", header: "Authorization", headers: { Authorization: KEY } },
      "Authorization",
    ],
    ["basic", { scheme: "basic", username: "picket", headers: basic(`picket:${KEY}`) }, "Authorization"],
    [
      "query",
      { scheme: "query", name: "token", headers: {}, query: `a=1&token=${encodeURIComponent(KEY)}` },
      'the parameter "token"',
    ],
  ];

  test.each(GOOD)("%s", (_title, request, name) => {
    const wrong = `${name} does not match`;
    expect(judge(request)).toBeNull();
    expect(judge({ ...request, secrets: [OTHER, KEY] })).toBeNull();
    expect(judge({ ...request, secrets: [OTHER] })).toBe(wrong);
    expect(judge({ ...request, headers: {}, query: "" })).toMatch(new RegExp(`${name}.* (is|are) missing$`));
    if (wrong.includes("-")) expect(judge({ ...request, body: tampered(BODY) })).toBe(wrong);
  });

  test("what isn't as the settings say is refused", () => {
    const headers = { "x-time": `${SECOND}`, "x-sig": mac("sha256", "hex", `v0:${SECOND}:`, BODY, "!") };
    expect(judge({ ...timed, headers, now: NOW + 301_000 })).toBe("the timestamp is 301 s old, over 300 s");
    expect(judge({ ...timed, headers: { ...headers, "x-time": `${SECOND + 1}` } })).toBe("X-Sig does not match");
    expect(judge({ scheme: "basic", username: "pocket", headers: basic(`picket:${KEY}`) })).toBe(
      "Authorization does not match",
    );
    expect(judge({ scheme: "basic", username: "picket", headers: { Authorization: `Bearer ${KEY}` } })).toBe(
      "Authorization is malformed",
    );
    expect(
      judge({ scheme: "hmac", header: "X-Sig", algorithm: "sha512", headers: { "x-sig": mac("sha256", "hex", BODY) } }),
    ).toBe("X-Sig is malformed");
    expect(judge({ scheme: "github", headers: { "X-Hub-Signature": `sha1=${mac("sha1", "hex", BODY)}` } })).toBe(
      "X-Hub-Signature is malformed",
    );
  });

  test("an id of the other kind, added to a delivery that was signed, makes no new one of it", () => {
    expect(judge({ scheme: "svix", headers: [...svix, ["webhook-id", "msg_2"]] })).toBe("webhook-timestamp is missing");
    const sent = judge({ scheme: "standard", headers: { ...SIGN.standard(BODY), "svix-id": "msg_2" } });
    expect([sent, deliveryId(asked({ "webhook-id": "msg_1", "svix-id": "msg_2" }).header)]).toEqual([null, "msg_1"]);
  });

  test("every scheme is tested here", () => {
    const tested = [...ALL, ...GOOD.map(([, { scheme }]) => scheme), "none"];
    expect([...new Set(tested)].toSorted()).toEqual([...SCHEMES].toSorted());
  });
});
