// What a report does about a source that fails, hangs, or works again.

import { expect, jest, test } from "bun:test";
import { createTroubles, source } from "../../lib/agent/source.ts";

test("a source that fails is null, and said once until it answers again", async () => {
  const said: string[] = [];
  let answer: () => number = () => 1;
  const { note, troubles } = createTroubles((_, text) => said.push(text));
  const ask = source("sensors", () => answer(), note);
  const fail = (why: string) => {
    answer = () => {
      throw new Error(why);
    };
    return ask();
  };
  expect([await ask(), await fail("gone"), await fail("gone"), await fail("worse")]).toEqual([1, null, null, null]);
  expect(said).toEqual(["sensors not read: gone", "sensors not read: worse"]);
  expect(troubles.get("sensors")).toBe("worse");
  answer = () => 2;
  expect([await ask(), troubles.size, await fail("gone")]).toEqual([2, 0, null]);
  expect(said).toHaveLength(3);
});

test("a source that hangs delays one report for two seconds, and isn't asked again until it answers", async () => {
  jest.useFakeTimers();
  try {
    const said: string[] = [];
    let asked = 0;
    let answer: (text: string) => void = () => {};
    const ask = source(
      "sensors",
      () => {
        asked++;
        return new Promise<string>((resolve) => (answer = resolve));
      },
      createTroubles((_, text) => said.push(text)).note,
    );
    const first = ask();
    jest.advanceTimersByTime(2000);
    expect(await first).toBeNull();
    expect([await ask(), await ask(), asked]).toEqual([null, null, 1]);
    expect(said).toEqual(["sensors not read: no answer within 2 s"]);
    answer("late");
    await Promise.resolve();
    await Promise.resolve();
    const next = ask();
    answer("in time");
    expect([await next, asked]).toEqual(["in time", 2]);
  } finally {
    jest.useRealTimers();
  }
});
