#!/usr/bin/env bun
// picket-observer: records operations, keeps statistics of them, and escalates failures that repeat.
// Reads its YAML, and the file of an overseer's corrections (<overseer_corrections>). Listens on <listen>. Writes <persist_path> and
// beside it: full segments of it, snapshot.json, escalations.jsonl and .told, reviews.jsonl, playbooks.jsonl, corrections.json, .picket/,
// observer.lock; escalations also go into an inbox (<notify>).
// Killed at any moment it loses nothing it acknowledged: an operation is in the log before it is counted or answered.

import { dirname, join } from "node:path";
import { Hono } from "hono";
import example from "./etc/observer.yaml" with { type: "text" };
import { readJson } from "./lib/body.ts";
import { cannotAppend, holdAlone, isDiskFull, makeFolder } from "./lib/files.ts";
import { type Bindings, type Health, answersOf, serve } from "./lib/http.ts";
import { type BrokenField, Refusal, refuseFields } from "./lib/refusal.ts";
import { Journal } from "./lib/journal.ts";
import type { Log } from "./lib/log.ts";
import { Registry } from "./lib/metrics.ts";
import { Books } from "./lib/observer/books.ts";
import { Clusters } from "./lib/observer/clusters.ts";
import { COMMANDS } from "./lib/observer/commands.ts";
import { Config, escalationRules } from "./lib/observer/config.ts";
import { Corrections } from "./lib/observer/corrections.ts";
import { Escalations } from "./lib/observer/escalations.ts";
import { createFigures } from "./lib/observer/figures.ts";
import { Model, sameModel } from "./lib/observer/model.ts";
import { OpLog } from "./lib/observer/op-log.ts";
import { readOperation } from "./lib/observer/operation.ts";
import { type Playbook, playbooksOf, writePlaybooks } from "./lib/observer/playbooks.ts";
import { readingRoutes } from "./lib/observer/reading.ts";
import { Recorder } from "./lib/observer/recorder.ts";
import { type Verdict, askModel, judge, readReview } from "./lib/observer/review.ts";
import { scrub } from "./lib/observer/scrub.ts";
import { type Called, type Loop, type Running, type Service, run } from "./lib/service.ts";

const USAGE = `picket-observer: records operations, and escalates failures that repeat

  mkdir -p ~/.config/picket && picket-observer example > ~/.config/picket/observer.yaml
  picket-observer --check && picket-observer
  curl -d '{"endpoint":"deploy","success":false,"error":"no route to host"}' 127.0.0.1:3219/observer/event`;

const MAX_BODY_BYTES = 4 << 20;
const MOST_OPERATIONS = 1000;

// ---------------------------------------------------------------------------------------------------------------
// The daemon

/** What the daemon's parts share. `config`, `model` and `playbooks` are replaced. */
type Observer = Awaited<ReturnType<typeof open>>;

/** Opens the log and everything beside it. */
async function open(config: Config, { log, stopping }: Service) {
  const { persist_path, durability, notify, llm, overseer_corrections } = config;
  const folder = persist_path === "" ? null : dirname(persist_path);
  if (folder === null) log.warn("persist_path is empty: operations are kept in memory only; a restart loses them");
  if (durability === "os")
    log.warn("durability is os: a power cut may lose the last operations that were acknowledged");
  if (folder !== null) makeFolder(folder, 0o750);
  const unlock = folder === null ? () => {} : holdAlone("picket-observer", join(folder, "observer.lock"));
  const journal = (name: string): Journal | null =>
    folder === null ? null : new Journal({ path: join(folder, name), durability, intents: join(folder, ".picket") });
  const clusters = new Clusters(escalationRules(config));
  const books = new Books(clusters);
  const operations = await openLog(config, books, log);
  const recorder = new Recorder(books, operations);
  recorder.scrubs = config.scrub === "on";
  const model = llm ? new Model(llm) : null;
  const escalations = new Escalations({ folder, journal: journal("escalations.jsonl"), clusters, notify, model, log });
  await escalations.replay();
  const record = recorder.record.bind(recorder);
  const metrics = new Registry();
  const steps = new Map<string, Loop>();
  return {
    config,
    log,
    stopping,
    unlock,
    books,
    operations,
    recorder,
    escalations,
    corrections: overseer_corrections ? new Corrections({ path: overseer_corrections, folder, record }) : null,
    reviews: journal("reviews.jsonl"),
    model,
    playbooks: [] as Playbook[],
    metrics,
    /** The background steps, by name. */
    steps,
    reviewed: createFigures(metrics, { books, escalations, steps }),
  };
}

async function main(config: Config, service: Service): Promise<Running<Config>> {
  const observer = await open(config, service);
  const { books, operations, recorder, escalations, log, metrics } = observer;
  startSteps(observer, service);
  const server = serve({
    role: "observer",
    listen: config.listen,
    connection: config,
    answer: answersOf(createApp(observer)),
    log,
    metrics,
    health: () => health(observer),
  });
  log.info("ready", {
    listen: String(server.address),
    log: config.persist_path || "none",
    operations: books.tally.stats.total,
    clusters: books.clusters.size,
  });
  return {
    status: () => statusLine(observer),
    troubles: () => troublesOf(observer),
    reload(next) {
      // The step that may fail comes first: a rejected reload changes nothing.
      server.reload(next);
      observer.config = next;
      operations.rotateBytes = next.rotate_mb * (1 << 20);
      recorder.scrubs = next.scrub === "on";
      books.clusters.rules = escalationRules(next);
      // The hourly budget continues unless the model is another one.
      if (!sameModel(next.llm, config.llm)) observer.model = next.llm ? new Model(next.llm) : null;
      escalations.configure({ notify: next.notify, model: observer.model });
      config = next;
    },
    async stop() {
      await server.stop();
      observer.corrections?.close();
      await operations.close();
      await observer.reviews?.close();
      await escalations.close();
      observer.unlock();
    },
  };
}

async function openLog(config: Config, books: Books, log: Log): Promise<OpLog> {
  const began = performance.now();
  let logged = 0;
  const operations = await OpLog.open({
    path: config.persist_path === "" ? null : config.persist_path,
    rotateBytes: config.rotate_mb * (1 << 20),
    durability: config.durability,
    books,
    malformed(file, line, reason) {
      if (logged++ < 10) log.warn("line of the log skipped: it is not an operation", { file, line, reason });
    },
  });
  await books.clusters.analyze();
  const { applied, malformed, skipped } = operations.opened;
  if (malformed > 10) log.warn("lines of the log skipped: picket-observer check shows them", { malformed });
  log.info("log read", { applied, malformed, segments_known: skipped, ms: Math.round(performance.now() - began) });
  return operations;
}

function statusLine({ books: { tally, clusters } }: Observer): string {
  const { total, failures } = tally.stats;
  return `${total} operations, ${failures} failed; ${clusters.size} clusters`;
}

function troublesOf(observer: Observer): (string | null)[] {
  const { waiting } = observer.escalations;
  return [
    unwritable(observer),
    waiting > 0 ? `${waiting} escalations wait for the inbox` : null,
    observer.model?.failing ?? null,
  ];
}

/** Why no operation can be logged now; null when one can. */
function unwritable({ config }: Observer): string | null {
  return config.persist_path === "" ? null : cannotAppend(config.persist_path);
}

// ---------------------------------------------------------------------------------------------------------------
// The background steps: each is a loop, so that a step that throws or hangs stops no other

function startSteps(observer: Observer, service: Service): void {
  const { operations, books, escalations, corrections, steps } = observer;
  const { clusters, tally } = books;
  const cycle = () => observer.config.cycle_seconds;
  const step = (name: string, every: () => number, pass: (alive: () => void) => Promise<void>) => {
    const loop = service.loop({ name, every, pass });
    steps.set(name, loop);
    return loop;
  };
  step("corrections", cycle, async (alive) => corrections?.pass({ alive, signal: service.stopping }));
  const escalate = step("escalate", cycle, (alive) => escalations.pass({ signal: service.stopping, alive }));
  step("analyze", cycle, async (alive) => {
    const news = clusters.fullness > 0;
    await clusters.analyze(alive);
    if (news) escalate.wake();
  });
  step(
    "playbooks",
    () => 5 * cycle(),
    async (alive) => {
      observer.playbooks = await playbooksOf(tally.newest(), alive);
      const { persist_path } = observer.config;
      if (persist_path !== "") writePlaybooks(dirname(persist_path), observer.playbooks);
    },
  );
  step("rotate", cycle, async (alive) => {
    if (!operations.full) return;
    // Requests that record wait during a rotation, so sort the failures before it.
    await clusters.analyze(alive);
    await operations.rotate();
  });
}

// ---------------------------------------------------------------------------------------------------------------
// The routes

/** All routes but /health and /metrics, under /observer and under /v1/observer. */
function createApp(observer: Observer): Hono<{ Bindings: Bindings }> {
  const routes = new Hono<{ Bindings: Bindings }>();
  routes.get("/health", () => {
    const { ok, figures } = health(observer);
    return Response.json({ status: ok ? "ok" : "failing", ...figures }, { status: ok ? 200 : 503 });
  });
  routes.post("/event", async (c) => {
    const answer = await takeEvent(observer, await readJson(c.req.raw, MAX_BODY_BYTES));
    if (observer.operations.full) observer.steps.get("rotate")?.wake();
    return Response.json(answer);
  });
  routes.post("/review", async (c) => Response.json(await review(observer, await readJson(c.req.raw, MAX_BODY_BYTES))));
  routes.route(
    "/",
    readingRoutes(observer.books, () => observer.playbooks),
  );
  const app = new Hono<{ Bindings: Bindings }>();
  app.route("/observer", routes);
  app.route("/v1/observer", routes);
  return app;
}

function health(observer: Observer): Health {
  const { books, steps, escalations } = observer;
  const broken = unwritable(observer);
  const figures = {
    ring_size: books.tally.ringSize,
    total: books.tally.stats.total,
    escalations_waiting: escalations.waiting,
    steps: Object.fromEntries([...steps].map(([name, loop]) => [name, loop.stats()])),
    ...(broken === null ? {} : { error: broken }),
  };
  return { ok: broken === null, figures };
}

/** Records one operation, or an array; an array's answer has one entry for each item. */
async function takeEvent({ recorder, books: { tally } }: Observer, data: unknown): Promise<unknown> {
  const now = Date.now();
  const items: unknown[] = Array.isArray(data) ? data : [data];
  if (items.length > MOST_OPERATIONS) {
    throw new Refusal(422, "too_many", `expected at most ${MOST_OPERATIONS} operations, found ${items.length}`);
  }
  const reads = items.map((item) => readOperation(item, now));
  await recorder.record(reads.flatMap((read) => ("operation" in read ? [read.operation] : []))).catch(notStored);
  const answers = reads.map((read) => {
    if ("broken" in read) {
      const refusal = invalid(read.broken);
      if (!Array.isArray(data)) throw refusal;
      return { accepted: false, error: refusal.message, code: refusal.code, ...refusal.extra };
    }
    const { warnings } = read;
    return { accepted: true, ring_size: tally.ringSize, ...(warnings.length > 0 ? { warnings } : {}) };
  });
  return Array.isArray(data) ? answers : answers[0];
}

/** 400 for a missing endpoint or an unknown source, 422 for any other field. */
function invalid(broken: BrokenField[]): Refusal {
  const status = broken.some(({ field }) => field === "endpoint" || field === "source") ? 400 : 422;
  return refuseFields(status, "invalid_operation", broken);
}

function notStored(error: unknown): never {
  const log = { error };
  if (isDiskFull(error)) throw new Refusal(507, "disk_full", "no space left here; send it again later", { log });
  throw new Refusal(500, "log", "the log is not writable; send it again later", { log });
}

/** Reviews an answer: by the model, or by the heuristic when the model fails. Each review is stored with its input. */
async function review({ config, model, reviews, reviewed, stopping }: Observer, data: unknown): Promise<Verdict> {
  const input = config.scrub === "on" ? scrub(readReview(data)) : readReview(data);
  let verdict = judge(input, config.review);
  if (model) {
    const asked = await askModel(input, model, stopping);
    verdict = "failed" in asked ? { ...verdict, notes: `${verdict.notes} (${asked.failed})` } : asked;
  }
  const line = JSON.stringify({ ts: new Date().toISOString(), input, ...verdict });
  await reviews?.append(line).catch(notStored);
  reviewed({ verdict: verdict.verdict, source: verdict.source }).add();
  return verdict;
}

/** Runs the role: alone, or from picket.ts. */
export const start = (called?: Called) =>
  run("observer", { usage: USAGE, schema: Config, main, commands: COMMANDS, example }, called);

if (import.meta.main) await start();
