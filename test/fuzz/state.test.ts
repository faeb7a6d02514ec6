// The files that the observer keeps for itself, as crashes, editors and other programs leave them: its log, segments, snapshot,
// escalations, corrections. Whatever is in them, it starts, and what is right in them counts.

import { expect, test } from "bun:test";
import { appendFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import * as fc from "fast-check";
import { Journal } from "../../lib/journal.ts";
import { createLog } from "../../lib/log.ts";
import { Clusters } from "../../lib/observer/clusters.ts";
import { Corrections } from "../../lib/observer/corrections.ts";
import { Escalations } from "../../lib/observer/escalations.ts";
import { OpLog } from "../../lib/observer/op-log.ts";
import { playbooksOf } from "../../lib/observer/playbooks.ts";
import { detailsOf, summaryOf } from "../../lib/observer/reading.ts";
import { Books } from "../../lib/observer/books.ts";
import { LogTail } from "../../lib/observer/tail.ts";
import { Folder } from "../kit.ts";
import { Observer, failure } from "../observer/kit.ts";
import { TIMEOUT_MS, damaged, json, mutated, prototypesUntouched, sample, strangeJson } from "./kit.ts";

const RULES = { threshold: 2, windowMs: 60_000, cooldownMs: 3_600_000, consecutive: 3 };
const now = new Date().toISOString();
const OPERATION = {
  id: "x",
  timestamp: now,
  endpoint: "deploy",
  source: "workflow",
  success: false,
  duration_ms: 1,
  input_summary: "",
  output_summary: "",
  error: "no",
  sig_hash: "s",
};
const ESCALATION = {
  ts: now,
  id: "0".repeat(32),
  fingerprint: "f1:0123456789abcdef",
  level: 1,
  endpoint: "deploy",
  shape: "no",
  count: 3,
  total: 3,
  first_at: now,
  last_at: now,
  by_source: { mcp: 3 },
  examples: [{ timestamp: now, source: "mcp", error: "e", input_summary: "", output_summary: "" }],
  diagnosis: null,
};
const SNAPSHOT = {
  version: 1,
  covers: 1,
  inode: 1,
  state: {
    tally: { total: 1, successes: 1, by_source: { mcp: 1 }, ring: [OPERATION], scenarios: [] },
    ids: "AAAAAAAAAAA=",
    clusters: [],
  },
};
const STATE = { generation: 1, inode: 1, offset: 5, head: "", tail: "" };

const line = (right: unknown): fc.Arbitrary<string> =>
  fc
    .oneof(
      { weight: 3, arbitrary: damaged(right).map((value) => JSON.stringify(value) ?? "") },
      json.map((value) => JSON.stringify(value) ?? ""),
      strangeJson(),
      mutated(fc.constant(JSON.stringify(right))).map((bytes) => Buffer.from(bytes).toString("latin1")),
    )
    .map((text) => text.replaceAll("\n", " "));
const file = (right: unknown) => fc.array(line(right), { maxLength: 5 }).map((lines) => lines.join("\n"));
const files = fc.record({
  log: file(OPERATION),
  segment: file(OPERATION),
  snapshot: fc.option(line(SNAPSHOT)),
  escalations: file(ESCALATION),
  told: fc.oneof(fc.constant(ESCALATION.id), fc.string()),
  state: line(STATE),
  corrections: file({ endpoint: "x", text: "y", success: false }),
});

const quiet = createLog({ role: "observer", json: false, level: "error", write: () => {} });
const good = JSON.stringify({ ...OPERATION, id: "good", endpoint: "the good one" });

test(
  "the observer starts with any content of its files, and keeps what comes afterwards",
  async () => {
    using folder = new Folder();
    const given = sample(files, 0.05);
    const notify = { inbox_dir: folder.at("inbox"), recipient: "ops" };
    for (const { log, segment, snapshot, escalations, told, state, corrections } of given) {
      rmSync(folder.at("data"), { recursive: true, force: true });
      rmSync(folder.at("inbox"), { recursive: true, force: true });
      mkdirSync(folder.at("data"));
      const put = (name: string, content: string) => writeFileSync(folder.at("data", name), content);
      put("ops.jsonl", `${log}\n${good}`);
      put("ops.000001.jsonl", segment);
      if (snapshot !== null) put("snapshot.json", snapshot);
      put("escalations.jsonl", `${escalations}\n`);
      put("escalations.told", told);
      put("corrections.json", state);
      put("corrections.jsonl", `${corrections}\nthe last\n`);
      const books = new Books(new Clusters(RULES));
      const operations = await OpLog.open({
        path: folder.at("data", "ops.jsonl"),
        rotateBytes: 1e9,
        durability: "os",
        books,
        malformed: () => {},
      });
      await books.clusters.analyze();
      expect([...books.tally.newest()].some(({ endpoint }) => endpoint === "the good one")).toBe(true);
      const record = async (all: readonly Parameters<Books["apply"]>[0][]) => operations.record(all);
      const reader = new Corrections({
        path: folder.at("data", "corrections.jsonl"),
        folder: folder.at("data"),
        record,
      });
      await reader.pass();
      reader.close();
      const all = new Escalations({
        folder: folder.at("data"),
        journal: new Journal({ path: folder.at("data", "escalations.jsonl"), durability: "os", intents: null }),
        clusters: books.clusters,
        notify,
        model: null,
        log: quiet,
      });
      await all.replay();
      await books.clusters.analyze();
      await all.pass({ signal: new AbortController().signal });
      expect(all.waiting).toBe(0);
      JSON.stringify([
        books.tally.stats,
        books.clusters.list().map(summaryOf),
        books.clusters.list().map(detailsOf),
        await playbooksOf(books.tally.newest()),
      ]);
      await new LogTail(folder.at("data", "ops.jsonl")).newest(10);
      await operations.rotate();
      await operations.close();
      await all.close();
    }
    prototypesUntouched();
  },
  TIMEOUT_MS * 2,
);

test(
  "a real observer starts with all of it at once, and goes on",
  async () => {
    await using observer = await Observer.start({ more: "escalation_threshold: 2" });
    await observer.record({ ...OPERATION, id: "first" });
    const given = sample(files, 0.25);
    await observer.daemon.kill("SIGKILL");
    const add = (name: string, content: string) => appendFileSync(`${observer.data}/${name}`, `${content}\n`);
    for (const { log, escalations } of given) {
      add("ops.jsonl", log);
      add("escalations.jsonl", escalations);
    }
    writeFileSync(`${observer.data}/snapshot.json`, given[0]?.snapshot ?? "{");
    writeFileSync(`${observer.data}/escalations.told`, given[0]?.told ?? "");
    await observer.up();
    const { total } = await observer.stats();
    expect(total).toBeGreaterThan(0);
    await observer.record(...Array.from({ length: 3 }, () => failure("afterwards", "no route")));
    expect((await observer.stats()).total).toBe(total + 3);
    await observer.get("/observer/clusters");
    await observer.get("/observer/events?limit=2000");
    const { stdout, code } = await observer.run("stats");
    expect([code, stdout.includes(`operations  ${total + 3}`)]).toEqual([0, true]);
    for (const args of [["tail"], ["clusters"], ["check"], ["clusters", "--json"], ["tail", "--json"]]) {
      const shown = await observer.run(...args);
      expect([args, [0, 1].includes(shown.code)]).toEqual([args, true]);
      expect(shown.stdout).not.toMatch(/(?!\n)\p{Cc}/u);
    }
  },
  TIMEOUT_MS,
);
