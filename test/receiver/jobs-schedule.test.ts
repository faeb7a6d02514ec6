// When a job is expected, across both changes of summer time.

import { expect, test } from "bun:test";
import { expectedAfter } from "../../lib/receiver/jobs-schedule.ts";

const cron = (text: string, tz: string) => ({ every_ms: null, cron: text, tz });

test.each<[cron: string, tz: string, pings: string, expected: string[]]>([
  ["0 3 * * *", "Europe/Berlin", "2026-01-10T02:20Z", ["2026-01-11T02:00Z", "2026-01-12T02:00Z"]],
  // Summer time begins: 02:00 is 03:00. The skipped 02:30 comes at 03:00, as cron runs it, and once.
  ["0 3 * * *", "Europe/Berlin", "2026-03-28T02:20Z", ["2026-03-29T01:00Z", "2026-03-30T01:00Z"]],
  ["30 2 * * *", "Europe/Berlin", "2026-03-28T02:20Z", ["2026-03-29T01:00Z", "2026-03-30T00:30Z"]],
  ["*/30 * * * *", "Europe/Berlin", "2026-03-29T00:31Z", ["2026-03-29T01:00Z", "2026-03-29T01:30Z"]],
  ["0 0 * * 0", "Europe/Berlin", "2026-03-23T00:00Z", ["2026-03-28T23:00Z", "2026-04-04T22:00Z"]],
  // It ends: 03:00 is 02:00 again. The second 02:30 doesn't count, intervals go on.
  ["30 2 * * *", "Europe/Berlin", "2026-10-24T02:20Z", ["2026-10-25T00:30Z", "2026-10-26T01:30Z"]],
  ["30 2 * * *", "Europe/Berlin", "2026-10-25T01:10Z", ["2026-10-26T01:30Z"]],
  ["0 3 * * *", "Europe/Berlin", "2026-10-24T02:20Z", ["2026-10-25T02:00Z", "2026-10-26T02:00Z"]],
  [
    "*/30 * * * *",
    "Europe/Berlin",
    "2026-10-25T00:01Z",
    ["2026-10-25T00:30Z", "2026-10-25T01:00Z", "2026-10-25T01:30Z"],
  ],
  ["0 * * * *", "Europe/Berlin", "2026-10-24T23:05Z", ["2026-10-25T00:00Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"]],
  // Elsewhere: at midnight, by half an hour, never.
  ["15 0 * * *", "America/Santiago", "2026-09-05T05:00Z", ["2026-09-06T04:00Z", "2026-09-07T03:15Z"]],
  ["15 2 * * *", "Australia/Lord_Howe", "2026-10-02T16:00Z", ["2026-10-03T15:30Z", "2026-10-04T15:15Z"]],
  ["0 3 * * *", "UTC", "2026-03-28T04:00Z", ["2026-03-29T03:00Z", "2026-03-30T03:00Z"]],
  // A ping a little early, by a clock that is ahead, is that time's.
  ["0 3 * * *", "UTC", "2026-03-28T02:59:30Z", ["2026-03-29T03:00Z"]],
  ["0 3 29 2 *", "UTC", "2026-03-01T00:00Z", ["2028-02-29T03:00Z"]],
])('"%s" in %s, pinged %s', async (text, tz, pinged, expected) => {
  let at = Date.parse(pinged);
  const found: number[] = [];
  while (found.length < expected.length) found.push((at = (await expectedAfter(cron(text, tz), at))!));
  expect(found.map((ms) => new Date(ms).toISOString())).toEqual(expected.map((iso) => new Date(iso).toISOString()));
});

test("so long after the last ping, whatever the clocks of the place do", async () => {
  const at = Date.parse("2026-03-28T12:00Z");
  expect(await expectedAfter({ every_ms: 86_400_000, cron: null, tz: null }, at)).toBe(at + 86_400_000);
});
