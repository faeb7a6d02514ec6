import { expect, test } from "bun:test";
import { readQuiet } from "../../../lib/collector/deliver/quiet.ts";

test("quiet hours follow the wall clock of their zone, past midnight and across the changes of summer time", () => {
  const cases: [hours: string, at: string, quiet: boolean][] = [
    ["22:00-07:00 Europe/Berlin", "2026-01-10T20:59:59Z", false],
    ["22:00-07:00 Europe/Berlin", "2026-01-10T21:00:00Z", true],
    ["22:00-07:00 Europe/Berlin", "2026-01-11T05:59:59Z", true],
    ["22:00-07:00 Europe/Berlin", "2026-01-11T06:00:00Z", false],
    // Summer: an hour earlier in UTC.
    ["22:00-07:00 Europe/Berlin", "2026-07-10T19:59:59Z", false],
    ["22:00-07:00 Europe/Berlin", "2026-07-10T20:00:00Z", true],
    ["22:00-07:00 Europe/Berlin", "2026-07-11T05:00:00Z", false],
    // The night of 29 March has no 02:30, that of 25 October has it twice.
    ["22:00-07:00 Europe/Berlin", "2026-03-29T04:59:59Z", true],
    ["22:00-07:00 Europe/Berlin", "2026-03-29T05:00:00Z", false],
    ["22:00-07:00 Europe/Berlin", "2026-10-25T05:59:59Z", true],
    ["22:00-07:00 Europe/Berlin", "2026-10-25T06:00:00Z", false],
    ["02:00-02:30 Europe/Berlin", "2026-03-29T01:15:00Z", false],
    ["02:00-02:30 Europe/Berlin", "2026-10-25T00:15:00Z", true],
    ["02:00-02:30 Europe/Berlin", "2026-10-25T01:15:00Z", true],
    ["9:00-17:30 America/New_York", "2026-01-10T14:00:00Z", true],
    ["9:00-17:30 America/New_York", "2026-01-10T22:30:00Z", false],
    ["00:00-06:00 UTC", "2026-01-10T00:00:00Z", true],
    ["00:00-06:00 UTC", "2026-01-10T23:59:59Z", false],
  ];
  for (const [hours, at, quiet] of cases)
    expect(`${hours} ${at} ${readQuiet(hours).holds(Date.parse(at))}`).toBe(`${hours} ${at} ${quiet}`);
});

test("hours that can't be read are refused, and say why", () => {
  expect(() => readQuiet("22-7")).toThrow("expected hours and a time zone");
  expect(() => readQuiet("24:00-07:00 UTC")).toThrow("expected hours and a time zone");
  expect(() => readQuiet("07:00-07:00 UTC")).toThrow("begins when it ends");
  expect(() => readQuiet("22:00-07:00 Europe/Nowhere")).toThrow('"Europe/Nowhere" is not a time zone');
  expect(JSON.stringify(readQuiet("22:00-07:00"))).toBe('"22:00-07:00"');
});
