// Operations and reviews at random: through their readers in this process, and through the door of a real observer.

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import * as v from "valibot";
import { Clusters } from "../../lib/observer/clusters.ts";
import { endpointShape, fingerprintOf, shapeOf } from "../../lib/observer/fingerprint.ts";
import { objectIn } from "../../lib/observer/model.ts";
import { isRecorded, readOperation } from "../../lib/observer/operation.ts";
import { playbooksOf } from "../../lib/observer/playbooks.ts";
import { detailsOf, summaryOf } from "../../lib/observer/reading.ts";
import { Books, BooksState } from "../../lib/observer/books.ts";
import { Observer } from "../observer/kit.ts";
import {
  PATIENCE_MS,
  TIMEOUT_MS,
  cpuMs,
  damaged,
  exchange,
  json,
  mutated,
  prototypesUntouched,
  residentMb,
  runs,
  sample,
  sideBySide,
  statusesOf,
  strangeJson,
  text,
} from "./kit.ts";

const RIGHT = {
  id: "x",
  timestamp: "2026-01-31T12:00:00Z",
  endpoint: "deploy",
  source: "workflow",
  success: false,
  duration_ms: 12,
  input_summary: "in",
  output_summary: "out",
  error: 'HTTP 500 at /srv/x/y.ts:12:3: "x" not found',
  staffer_id: "s",
  sig_hash: null,
  role: "r",
  count: 3,
  rescue_attempted: true,
  task_class: "t",
  model: { name: "m" },
};
const REVIEW = {
  file_path: "/x",
  model: "m",
  response: "r",
  source_content: "s",
  grounding_stats: { total: 10, grounded: 4, groundedPct: 40 },
  attempt: 2,
};
const RULES = { threshold: 3, windowMs: 60_000, cooldownMs: 3_600_000, consecutive: 3 };

/** Text such as errors are, and such as makes patterns go back and forth. */
const trouble = fc.oneof(
  text(),
  fc
    .array(
      fc.oneof(
        text(),
        fc.constantFrom(
          "Traceback (most recent call last)\n",
          '  File "x", line 3\n',
          " at f (x.ts:1:2)\n",
          "\u001b[31m",
          '{"error":"',
          "HTTP 429",
          "://",
          "0x",
          "::",
          "a.",
          "/a",
          "'",
          '"',
          "1:",
          "2026-01-31T12:00:00Z",
          "<title>",
          "<html",
          "=(",
          "contains (",
          " -> ",
          "@",
        ),
      ),
      { maxLength: 20 },
    )
    .map((parts) => parts.join("")),
  fc
    .tuple(
      fc.constantFrom(
        "a",
        "0",
        "/",
        "'",
        '"',
        "\\",
        "(",
        "[",
        ":",
        "-",
        ".",
        " ",
        "\n",
        "a.",
        "/a",
        "0:",
        "f0",
        "<a",
        "@a",
        "é",
        "\u001b[",
      ),
      fc.integer({ min: 1, max: 20_000 }),
    )
    .map(([piece, times]) => piece.repeat(times)),
);

test(
  "an operation of any shape is refused with its fields or can be counted, clustered, shown, kept and read again",
  async () => {
    const ledger = new Books(new Clusters(RULES));
    let seen = 0;
    await fc.assert(
      fc.asyncProperty(fc.oneof(damaged(RIGHT), json), async (data) => {
        const read = readOperation(data, Date.now());
        if ("broken" in read) {
          expect(read.broken.length).toBeGreaterThan(0);
          return;
        }
        const { operation } = read;
        const line = JSON.stringify(operation);
        const back: unknown = JSON.parse(line);
        expect(isRecorded(back)).toBe(true);
        expect(JSON.stringify(back)).toBe(line);
        ledger.apply(operation, line.length);
        seen++;
        if (seen % 100 === 0) {
          JSON.stringify([
            ledger.tally.stats,
            ledger.clusters.list().map(summaryOf),
            ledger.clusters.list().map(detailsOf),
          ]);
          await playbooksOf(ledger.tally.newest());
        }
      }),
      runs(),
    );
    const { total, successes, failures } = ledger.tally.stats;
    expect([total, successes + failures]).toEqual([seen, seen]);
    const copy = new Books(new Clusters(RULES));
    copy.restore(v.parse(BooksState, JSON.parse(JSON.stringify(await ledger.save()))));
    expect(copy.tally.stats).toEqual(ledger.tally.stats);
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

test(
  "a snapshot of any shape is refused, or the books go on with it",
  async () => {
    const ledger = new Books(new Clusters(RULES));
    for (const success of [true, false, false]) {
      const read = readOperation({ ...RIGHT, id: String(Math.random()), success, source: "scenario" }, Date.now());
      if ("operation" in read) ledger.apply(read.operation, 100);
    }
    const saved: unknown = JSON.parse(JSON.stringify(await ledger.save()));
    await fc.assert(
      fc.asyncProperty(fc.oneof(damaged(saved), json), async (state) => {
        const books = new Books(new Clusters(RULES));
        const found = v.safeParse(BooksState, state);
        if (found.success) books.restore(found.output);
        const read = readOperation(RIGHT, Date.now());
        if ("operation" in read) books.apply(read.operation, 100);
        await books.clusters.analyze();
        JSON.stringify([books.tally.stats, books.clusters.list().map(summaryOf), books.clusters.list().map(detailsOf)]);
        await playbooksOf(books.tally.newest());
        await books.save();
      }),
      runs(0.5),
    );
  },
  TIMEOUT_MS,
);

test(
  "a fingerprint is had of any text, in bounded time, and is the same for the same",
  () => {
    const failure = fc.record({
      endpoint: trouble,
      error: fc.option(trouble),
      output_summary: fc.option(trouble),
      sig_hash: fc.option(text()),
    });
    let slowest = 0;
    fc.assert(
      fc.property(failure, (given) => {
        const before = cpuMs();
        const { fingerprint, parts } = fingerprintOf(given);
        slowest = Math.max(slowest, cpuMs() - before);
        expect(fingerprint).toMatch(/^(?:f2:[0-9a-f]{16}$|sig:.)/s);
        expect(parts.shape.length).toBeLessThanOrEqual(512);
        expect(fingerprintOf(given).fingerprint).toBe(fingerprint);
        endpointShape(given.endpoint);
        shapeOf(given.error ?? "");
      }),
      runs(0.5),
    );
    expect(slowest).toBeLessThan(2000);
  },
  TIMEOUT_MS * 2,
);

test(
  "an object is found in what a model says, or it isn't",
  () => {
    const said = fc.oneof(
      trouble,
      fc.tuple(trouble, json, trouble).map(([before, value, after]) => `${before}${JSON.stringify(value)}${after}`),
      fc.integer({ min: 1, max: 20_000 }).map((n) => "{".repeat(n) + "}".repeat(n)),
    );
    fc.assert(
      fc.property(said, (given) => {
        const found = objectIn(given);
        if (found !== null) JSON.stringify(found);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

const ALLOWED = new Set([200, 400, 404, 405, 413, 415, 422]);
const body = fc.oneof(
  damaged(RIGHT).map((one) => JSON.stringify(one) ?? ""),
  fc.array(damaged(RIGHT), { maxLength: 5 }).map((all) => JSON.stringify(all)),
  strangeJson(),
  strangeJson().map((inner) => `{"endpoint":"x","deep":${inner}}`),
  fc.tuple(trouble, trouble).map(([endpoint, error]) => JSON.stringify({ endpoint, error, success: false })),
  mutated(fc.constant(JSON.stringify(RIGHT))),
);
const door = fc.oneof(
  fc.record({ method: fc.constant("POST"), path: fc.constantFrom("/observer/event", "/v1/observer/event"), body }),
  fc.record({
    method: fc.constant("POST"),
    path: fc.constant("/observer/review"),
    body: fc.oneof(
      damaged(REVIEW).map((one) => JSON.stringify(one) ?? ""),
      strangeJson(),
    ),
  }),
  fc.record({
    method: fc.constantFrom("GET", "PUT", "DELETE"),
    path: fc
      .tuple(
        fc.constantFrom(
          "/observer/events",
          "/observer/clusters/",
          "/observer/clusters",
          "/observer/stats",
          "/observer/playbooks",
          "/observer/health",
          "/",
        ),
        fc.array(fc.tuple(fc.constantFrom("source", "success", "endpoint", "since", "limit", "x"), text()), {
          maxLength: 3,
        }),
        fc.option(text().map((one) => encodeURIComponent(one.toWellFormed()))),
      )
      .map(
        ([path, query, more]) =>
          `${path}${more ?? ""}?${query.map(([key, value]) => `${key}=${encodeURIComponent(value.toWellFormed())}`).join("&")}`,
      ),
    body: fc.constant(""),
  }),
);

test(
  "no request makes the observer fail, and its figures are of what it accepted",
  async () => {
    await using observer = await Observer.start({ more: "escalation_threshold: 3\nrotate_mb: 8" });
    let accepted = 0;
    const wrong: unknown[] = [];
    const ids = new Set<string>();
    await sideBySide(sample(door, 1), 16, async ({ method, path, body: sent }) => {
      const answer = await fetch(observer.url + path, { method, ...(method === "GET" ? {} : { body: sent }) });
      const said = await answer.text();
      if (!ALLOWED.has(answer.status))
        wrong.push({
          method,
          path,
          body: Buffer.from(sent).toString().slice(0, 300),
          status: answer.status,
          said: said.slice(0, 300),
        });
      if (!path.endsWith("/event") || method !== "POST" || answer.status !== 200) return;
      const given: unknown = JSON.parse(Buffer.from(sent).toString());
      const answers = [JSON.parse(said)].flat() as { accepted: boolean }[];
      for (const [index, { accepted: taken }] of answers.entries()) {
        const { id } = ((Array.isArray(given) ? given[index] : given) ?? {}) as { id?: unknown };
        if (!taken || (typeof id === "string" && id !== "" && ids.has(id))) continue;
        if (typeof id === "string" && id !== "") ids.add(id);
        accepted++;
      }
    });
    expect(wrong).toEqual([]);
    const { total, successes, failures } = await observer.stats();
    expect([total, successes + failures]).toEqual([accepted, accepted]);
    const health = await observer.get<{ steps: Record<string, { errors?: number; failures?: number }> }>(
      "/observer/health",
    );
    expect(JSON.stringify(health.steps)).not.toMatch(/"(?:errors|failures|failed)":[1-9]/);
    expect(await residentMb(observer.daemon.child.pid)).toBeLessThan(700);
    await observer.again();
    expect((await observer.stats()).total).toBe(accepted);
    await observer.get("/observer/clusters");
  },
  TIMEOUT_MS * 2,
);

test(
  "bytes that are hardly HTTP are answered or cut off, and nothing fails",
  async () => {
    await using observer = await Observer.start();
    const requests = mutated(
      fc.constantFrom(
        'POST /observer/event HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n{"endpoint":"x"}',
        'POST /observer/event HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"endpoint":"x"}\r\n0\r\n\r\n',
        "GET /observer/events?limit=1&since=2026-01-01T00:00 HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET http://[::1/observer/events HTTP/1.1\r\nHost: [\r\n\r\n",
        "GET /observer/events?%zz=%&limit=%ff HTTP/1.1\r\nHost: \r\n\r\n",
        "GET //observer/events HTTP/1.0\r\n\r\n",
      ),
    );
    const wrong: unknown[] = [];
    await sideBySide(sample(requests, 0.25), 16, async (bytes) => {
      const answer = await exchange(observer.url, bytes, PATIENCE_MS, 20);
      const failed = statusesOf(answer ?? "").filter((status) => status >= 500 && status !== 505 && status !== 501);
      if (failed.length > 0) wrong.push({ sent: Buffer.from(bytes).toString("latin1"), answer });
    });
    expect(wrong).toEqual([]);
    await observer.stats();
  },
  TIMEOUT_MS * 2,
);
