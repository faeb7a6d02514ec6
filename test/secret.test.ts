import { expect, test } from "bun:test";
import { inspect } from "node:util";
import { createLog } from "../lib/log.ts";
import { Secret, secretEquals, without } from "../lib/secret.ts";

const VALUE = "pk_s3cret-value";

test("only reveal() gives the value, whichever way a secret is printed", () => {
  const secret = new Secret(VALUE);
  const lines: string[] = [];
  for (const json of [false, true]) {
    const log = createLog({ role: "collector", json, level: "info", write: (line) => lines.push(line) });
    log.info("loaded", { secret, nested: { list: [secret] } });
  }
  const printed = [
    String(secret),
    ["in a text:", secret].join(" "),
    secret.toString(),
    JSON.stringify({ secret, list: [secret] }),
    Bun.inspect({ secret }),
    inspect({ secret }, { showHidden: true, depth: 9 }),
    Object.entries(secret).join(),
    ...lines,
  ];
  expect(printed.join("\n")).not.toContain("s3cret");
  expect(printed.filter((text) => text.includes("[redacted]"))).toHaveLength(8);
  expect(secret.reveal()).toBe(VALUE);
});

test("a given value is equal when it is one of the listed secrets, as text or as bytes", () => {
  const secrets = [new Secret("old"), new Secret("naïve ✓")];
  expect(secretEquals("old", secrets)).toBe(true);
  expect(secretEquals("naïve ✓", secrets)).toBe(true);
  expect(secretEquals(new TextEncoder().encode("naïve ✓"), secrets)).toBe(true);
});

test("other values, other lengths and the empty text are refused, and so is everything when no secret is listed", () => {
  const secrets = [new Secret("old"), new Secret("new")];
  for (const given of ["", "ol", "oldd", "OLD", "old\n", new Uint8Array()])
    expect(secretEquals(given, secrets)).toBe(false);
  expect(secretEquals("old", [])).toBe(false);
  expect(secretEquals("", [])).toBe(false);
});

test("what others say is repeated without the secrets in it", () => {
  const secrets = [new Secret("pk_0123456789"), new Secret("t"), new Secret("")];
  expect(without(secrets, "that pk_0123456789, twice: pk_0123456789")).toBe("that [redacted], twice: [redacted]");
});
