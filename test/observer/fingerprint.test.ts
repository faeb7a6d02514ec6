// Fingerprints of failures: what has one cause has one fingerprint, what has another has another.
// Not tested: texts in other languages than English, and programs that quote nothing and number everything.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "bun:test";
import { parse } from "yaml";
import { endpointShape, fingerprintOf, shapeOf } from "../../lib/observer/fingerprint.ts";

const ENDPOINT = "mcp.search";
const GROUPS = Object.entries(
  parse(readFileSync(join(import.meta.dir, "fixtures/fingerprint/error-texts.yaml"), "utf8")) as Record<
    string,
    string[]
  >,
);

function of(error: string): string {
  return fingerprintOf({ endpoint: ENDPOINT, error }).fingerprint;
}

describe("the table of error texts", () => {
  test("has enough groups and texts", () => {
    expect(GROUPS.length).toBeGreaterThanOrEqual(100);
    expect(GROUPS.flatMap(([, texts]) => texts).length).toBeGreaterThanOrEqual(200);
  });

  test.each(GROUPS)("%s is one cause", (_name, texts) => {
    const shapes = new Set(texts.map((text) => shapeOf(text)));
    expect([...shapes]).toHaveLength(1);
    expect(new Set(texts.map(of)).size).toBe(1);
  });

  test("no two groups have the same fingerprint", () => {
    const owners = new Map<string, string>();
    const clashes: string[] = [];
    for (const [name, texts] of GROUPS) {
      for (const text of texts) {
        const owner = owners.get(of(text));
        if (owner !== undefined && owner !== name) clashes.push(`${owner} = ${name}: ${shapeOf(text)}`);
        owners.set(of(text), name);
      }
    }
    expect(clashes).toEqual([]);
  });
});

/** A small generator with a seed, so that a failure can be seen again. */
function randomness(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const random = randomness(20260302);
const hex = (length: number) => Array.from({ length }, () => random(16).toString(16)).join("");
const digits = () => String(random(10 ** (1 + random(9))));
const uuid = () => `${hex(8)}-${hex(4)}-4${hex(3)}-a${hex(3)}-${hex(12)}`;
const instant = () => new Date(random(2 ** 31) * 1000 + random(1000));
const word = () => Array.from({ length: 3 + random(9) }, () => "abcdefghijklmnopqrstuvwxyz"[random(26)]).join("");

/** What may stand at a place of a template. */
const FILLINGS: Record<string, () => string> = {
  num: digits,
  id: () => [digits, uuid, () => hex(40), () => hex(64), () => hex(12)][random(5)]?.() ?? "",
  request: () => `req_0${hex(23)}`,
  time: () => [instant().toISOString(), instant().toUTCString(), instant().toISOString().slice(0, 10)][random(3)] ?? "",
  duration: () => `${random(500)}${["ms", "s", ".5s", "m3s", " seconds", "h2m3.25s"][random(6)]}`,
  size: () => `${random(999)}${[" MB", "KiB", ".5 GiB", " bytes", "B"][random(5)]}`,
  host: () =>
    [`10.${random(256)}.0.${random(256)}:${random(65536)}`, `[::${hex(4)}]:443`, "localhost:80"][random(3)] ?? "",
  path: () =>
    [`/srv/${word()}/${word()}-${digits()}`, `C:\\${word()}\\${digits()}.txt`, `~/${word()}.json`][random(3)] ?? "",
  url: () => `https://${word()}.example.org/${word()}/${digits()}?q=${word()}`,
  text: () => ["", word(), `${word()} ${digits()}`, `${word()}'s ${word()}`, uuid()][random(5)] ?? "",
};
const TEMPLATES = [
  "job {id} failed after {duration}: worker {num} lost its lease at {time}",
  'cannot open {path}: "{text}" is no number (request {request}, {num} of {num} tried)',
  "HTTP 503 from {url} after {num} tries, {size} received, next try at {time}",
  '{"error":{"code":429,"message":"slow down, try again in {duration}","request":"{request}","at":"{time}"}}',
  "{'detail': 'row {num} of table `{text}` is locked by {id}', 'status': 409}",
  "dial tcp {host}: connect: connection refused (attempt {num}, {duration})",
  "can't move {path} to {path}: {size} left, {size} needed",
  "[{time}] exit code 137 of container {id} on {host}",
];

describe("what changes from one time to the next", () => {
  test.each(TEMPLATES)("%s has one shape whatever is filled in", (template) => {
    const fill = () => template.replace(/\{([a-z]+)\}/g, (whole, name: string) => FILLINGS[name]?.() ?? whole);
    const shapes = new Map<string, string>();
    for (let round = 0; round < 500; round++) {
      const text = fill();
      shapes.set(shapeOf(text), text);
    }
    expect([...shapes].slice(0, 5)).toHaveLength(1);
  });

  test.each([
    [
      "exit code 137 of container 4a5ad6bf857f after 3m2s, see /var/log/x.log",
      "exit code 137 of container <num> after <duration>, see <path>",
    ],
    ["can't read 'a b' from ada@example.org at 2026-03-02T18:05:00Z", "can't read <str> from <email> at <time>"],
    ["gave up at 09:44:05.113", "gave up at <time>"],
    ["models.example.com answered 502 Bad Gateway", "<host> answered 502 Bad Gateway"],
    ["connect() failed (111: Connection refused)", "connect() failed (111: Connection refused)"],
    ["shop.service: code=killed, status=9/KILL", "<name>: code=killed, status=9/KILL"],
    ["ERROR 1045 (28000): no", "ERROR 1045 (<num>): no"],
    ["cannot parse report-7.json of 01ARZ3NDEKTSV4RRFFQ69G5FAV", "cannot parse <path> of <num>"],
    ["key 01HZXK3NDGKTSVWRRFFQPPGPAV lost by pod x2k4q", "key <num> lost by pod <num>"],
  ])("of %p stays %p", (text, shape) => {
    expect(shapeOf(text)).toBe(shape);
  });

  test("curly quotes, colours, line ends and composed letters make no difference", () => {
    expect(shapeOf("\u001B[1;31mcannot stat \u2018a\u2019\u001B[0m:\r\nnai\u0308ve")).toBe(
      shapeOf("cannot stat 'b':\nna\u00EFve"),
    );
  });
});

describe("the parts", () => {
  test("a signature that was given wins over the text", () => {
    const one = fingerprintOf({ endpoint: ENDPOINT, error: "boom 1", sig_hash: "9c1185a5" });
    const other = fingerprintOf({ endpoint: "mcp.fetch", error: "bang", sig_hash: " 9c1185a5 " });
    expect(one).toEqual({
      fingerprint: "sig:9c1185a5",
      parts: { by: "sig_hash", endpoint: ENDPOINT, shape: "boom <num>" },
    });
    expect(other.fingerprint).toBe(one.fingerprint);
  });

  test("a blank signature is none", () => {
    expect(fingerprintOf({ endpoint: ENDPOINT, error: "boom", sig_hash: " " }).parts.by).toBe("error");
  });

  test("without an error the summary of the output is the text, without both there is none", () => {
    const { parts } = fingerprintOf({ endpoint: ENDPOINT, error: " ", output_summary: "got 3 of 4 rows" });
    expect(parts.shape).toBe("got <num> of <num> rows");
    expect(fingerprintOf({ endpoint: ENDPOINT, error: null }).parts.shape).toBe("(no error text)");
    expect(fingerprintOf({ endpoint: ENDPOINT, error: "\u001B[0m" }).parts.shape).toBe("(no error text)");
  });

  test("the same text at another endpoint is another failure", () => {
    expect(fingerprintOf({ endpoint: "mcp.fetch", error: "boom" }).fingerprint).not.toBe(of("boom"));
  });

  test.each([
    ["mcp.search", "mcp.search"],
    ["/v1/chat/completions", "/v1/chat/completions"],
    ["GET /v1/users/123?page=2", "GET /v1/users/<num>"],
    ["https://api.example.com/v2/orders/00000000-0000-4000-8000-000000000001", "/v2/orders/<num>"],
    ["POST http://127.0.0.1:8080/v1/embeddings", "POST /v1/embeddings"],
    ["workflow:deploy-42", "workflow:deploy-<num>"],
    ["/blobs/9c1185a5c5e9fc54612808977ee8f548b2258d31/raw", "/blobs/<num>/raw"],
    ["s3.get", "s3.get"],
    [" oauth2/token ", "oauth2/token"],
  ])("the endpoint %p counts as %p", (endpoint, shape) => {
    expect(endpointShape(endpoint)).toBe(shape);
    expect(fingerprintOf({ endpoint, error: "boom" }).parts.endpoint).toBe(shape);
  });
});

// Clusters are stored by these values for years. A change of one needs a new version.
test.each([
  ["Error: connect ECONNREFUSED 127.0.0.1:41733", "f2:60baf749c31d2181"],
  ["KeyError: 'customer_41'", "f2:312be1fc401651b7"],
  ["curl: (22) The requested URL returned error: 429", "f2:201c811fe919b6de"],
  [
    '529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"req_01"}',
    "f2:6947f5e95a112bd6",
  ],
  ['ERROR:  relation "invoices_42" does not exist', "f2:b800c37589d6cd25"],
  ["", "f2:26e7ae64d834483c"],
])("f2 never regroups: %p", (error, fingerprint) => {
  expect(of(error)).toBe(fingerprint);
});

describe("texts made to be slow", () => {
  const KINDS: Record<string, string> = {
    digits: "1",
    "numbers with dots": "1.",
    "hex digits": "a0",
    "letters that may become an id": "a",
    colons: ":",
    "addresses that never end": "1:",
    slashes: "/",
    "relative paths": "a/",
    dots: "a.",
    "at signs": "a@",
    "unclosed quotes": `"a `,
    "quotes of all kinds": "'\"`a ",
    backslashes: '\\"',
    braces: '{"a":',
    spaces: " ",
    commas: ", ",
    colours: "\u001B[1",
    durations: "1m",
    arrows: "a ->",
    "page starts": "<html",
    "invalid JSON": '"a" is not valid',
    lines: "a\n",
    carets: "^ ",
    "Postgres rows": "contains (",
    "words with dashes": "a-",
  };

  function nanoseconds(text: string, times = 1): number {
    const start = Bun.nanoseconds();
    for (let time = 0; time < times; time++) shapeOf(text);
    return Bun.nanoseconds() - start;
  }

  /**
   * How many times as long the long text takes as so many short ones right before it: a busy machine holds up both. It gets
   * many tries to come below the limit.
   */
  function ratio(long: string, short: string, { times, limit }: { times: number; limit: number }): number {
    let least = Number.POSITIVE_INFINITY;
    // a floor, because microseconds say nothing
    for (let round = 0; round < 40 && least >= limit; round++) {
      const unit = Math.max(nanoseconds(short, times), 100_000 * times);
      least = Math.min(least, nanoseconds(long) / unit);
    }
    return least;
  }

  test.each(Object.entries(KINDS))("%s take time in proportion to their length", (_kind, unit) => {
    const long = unit.repeat(Math.floor((16 << 10) / unit.length));
    // eight times the length of each of eight: 1 when linear, 8 when quadratic
    expect(ratio(long, long.slice(0, 2 << 10), { times: 8, limit: 4 })).toBeLessThan(4);
  });

  test.each(Object.entries(KINDS))("a megabyte of %s takes no longer than what is read of it", (_kind, unit) => {
    const huge = unit.repeat(Math.floor((1 << 20) / unit.length));
    expect(ratio(huge, huge.slice(0, 16 << 10), { times: 1, limit: 16 })).toBeLessThan(16);
    expect(shapeOf(huge).length).toBeLessThanOrEqual(512);
  });

  test("of a long trace the end is read, where Python says what it is", () => {
    const frames = '  File "/srv/app/job.py", line 3, in load\n    load()\n'.repeat(2000);
    expect(of(`Traceback (most recent call last):\n${frames}KeyError: 'x'`)).toBe(of("KeyError: 'y'"));
  });
});
