// What a host's lists take from agents in other languages. The rest of a report's shape: receiver/report.test.ts.

import { expect, test } from "bun:test";
import * as v from "valibot";
import { HOST_LISTS, METRICS, Report } from "../lib/report.ts";

const hostOf = (host: Record<string, unknown>) =>
  v.parse(Report, { recorded_at: "2026-01-31T12:00:00Z", host: { metrics: {}, ...host } }).host;

test("what doesn't fit in a host's lists is left out, and costs no report", () => {
  for (const list of Object.keys(HOST_LISTS) as (keyof typeof HOST_LISTS)[]) {
    for (const [given, taken] of [
      [undefined, null],
      [null, null],
      ["text", null],
      [{}, []],
      [{ "/": { name: "/" } }, null],
      [[null, 7, "text", [], {}, { name: "", mount: "", chip: "", device: "" }], []],
    ]) {
      expect([list, given, hostOf({ [list]: given })[list]]).toEqual([list, given, taken as never]);
    }
    const many = Array.from({ length: 5000 }, () => ({ name: "a", mount: "a", chip: "a", device: "a" }));
    expect(hostOf({ [list]: many })[list]!.length).toBeLessThanOrEqual(128);
  }
});

test("an odd value in a host's list is unknown", () => {
  const disks = [
    {
      mount: "/srv",
      used_gb: "1.5",
      total_gb: null,
      used_percent: 101,
      read_only: "no",
      fstype: "x".repeat(99),
      more: 1,
    },
  ];
  const empty = { used_gb: null, total_gb: null, used_percent: null, inodes_used_percent: null, read_only: null };
  expect(hostOf({ disks }).disks).toEqual([
    { mount: "/srv", device: null, ...empty, used_gb: 1.5, fstype: "x".repeat(32) },
  ]);
  const metrics = { cpu_percent: 3, swap_used_mb: -1, load_average_5: "0.5", cpu_steal_percent: [], swap_total_mb: 7 };
  expect(hostOf({ metrics }).metrics).toMatchObject({
    cpu_percent: 3,
    swap_used_mb: null,
    load_average_5: 0.5,
    load_average_15: null,
    cpu_steal_percent: null,
    swap_total_mb: 7,
  });
  expect(METRICS).not.toContain("swap_used_mb");
});
