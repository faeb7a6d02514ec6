// How long lists are read: by an index that gives their order, without those rows that are not shown.

import { expect } from "bun:test";
import { Folder } from "../kit.ts";
import { testOnFile } from "./store-kit.ts";
import { listAlerts } from "../../lib/receiver/alerts.ts";
import type { Queries } from "../../lib/database.ts";
import { openIndexFile } from "../../lib/receiver/episode-index-file.ts";
import { eventsBefore, numberAt } from "../../lib/receiver/events.ts";
import { runsOf } from "../../lib/receiver/job-runs.ts";
import { Store } from "../../lib/receiver/store.ts";

testOnFile("a page of a list reads its own rows: each filter has an index", async () => {
  using folder = new Folder();
  const store = await Store.open({ data_dir: folder.path });
  const plans = async (ask: (db: Queries) => Promise<unknown>): Promise<string[]> => {
    const found: string[] = [];
    const explain = async (text: string, values?: readonly (string | number | null)[]) => {
      const steps = await store.read.all<{ detail: string }>(`EXPLAIN QUERY PLAN ${text}`, values);
      found.push(...steps.map(({ detail }) => detail));
    };
    const all = async (...of: Parameters<typeof explain>) => (await explain(...of), []);
    const one = async (...of: Parameters<typeof explain>) => (await explain(...of), undefined);
    await ask({ ...store.read, all, one });
    return found;
  };
  const filters = [
    {},
    { before: 5 },
    { host: "nas" },
    { job: "certs" },
    { type: "disk.high" },
    { severity: "critical" },
    { host: "nas", severity: "critical", type: "disk.high", before: 5 },
  ];
  for (const filter of filters) {
    const events = await plans((db) => eventsBefore(db, { ...filter, limit: 101 }));
    expect([filter, events.filter((step) => /TEMP B-TREE|SCAN (?!e$)/.test(step))]).toEqual([filter, []]);
    if (Object.keys(filter).length > 0)
      expect([filter, events]).not.toEqual([filter, expect.arrayContaining(["SCAN e"])]);
    const open = await plans((db) => listAlerts(db, { ...filter, before: null, open: true, limit: 101 }));
    // Open ones are few, and sorted.
    expect([filter, open.filter((step) => step === "SCAN a")]).toEqual([filter, []]);
    const closed = await plans((db) => listAlerts(db, { ...filter, open: false, limit: 101 }));
    const isByRow = Object.keys(filter).length === 0;
    expect([filter, closed.includes("SCAN a")]).toEqual([filter, isByRow]);
  }
  expect((await plans((db) => numberAt(db, 5))).join()).toMatch(/^SEARCH events USING COVERING INDEX events_at/);
  for (const [host, name] of [
    [null, "episodes_received"],
    ["nas", "episodes_of_host"],
  ] as const) {
    const found = await plans((read) =>
      openIndexFile({ dir: folder.path, read } as Store).before({ host, before: null, limit: 10 }),
    );
    expect(found.filter((step) => step.includes(" episodes "))).toEqual([
      expect.stringContaining(`SEARCH episodes USING INDEX ${name} (`),
    ]);
  }
  const runs = await plans((db) => runsOf(db, [], { now: 0, most: 20 }));
  expect(runs.filter((step) => step.startsWith("SCAN")).every((step) => step.startsWith("SCAN j "))).toBe(true);
  await store.close();
});
