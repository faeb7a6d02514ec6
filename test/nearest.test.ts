import { expect, test } from "bun:test";
import { nearest } from "../lib/nearest.ts";

const WORDS = ["recipient", "type", "template", "priority", "listen", "read", "ping"];

test.each([
  ["recipint", "recipient"],
  ["receipient", "recipient"],
  ["Recipient", "recipient"],
  ["tpye", "type"],
  ["lisetn", "listen"],
  ["pnig", "ping"],
  ["templates", "template"],
  ["reed", "read"],
])("%s was meant to be %s", (word, meant) => {
  expect(nearest(word, WORDS)).toBe(meant);
});

test.each(["", "zzz", "x", "colour", "unrelated-thing"])("%p is near nothing", (word) => {
  expect(nearest(word, WORDS)).toBeUndefined();
});

test("short words that share nothing are not near each other", () => {
  expect(nearest("up", ["ls", "rm"])).toBeUndefined();
  expect(nearest("id", ["is"])).toBe("is");
});

test("of equally near words the first wins, and an exact one before any other", () => {
  expect(nearest("bat", ["cat", "hat"])).toBe("cat");
  expect(nearest("hat", ["cat", "hat"])).toBe("hat");
});

test("with nothing to choose from there is nothing near", () => {
  expect(nearest("listen", [])).toBeUndefined();
});
