// Escalations: a cluster that is due is written down once for each level, then told to an inbox (lib/outbox.ts).
//
//   escalations.jsonl   the escalations in order; the next start reads from it what was escalated already
//   escalations.told    the id of the last one that was told: the outbox's mark
//
// An escalation's id is derived from the cluster, the begin of its spell or run (spells.ts), and the level.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import * as v from "valibot";
import { duration } from "../text.ts";
import { writeWhole } from "../files.ts";
import type { Journal } from "../journal.ts";
import type { Log } from "../log.ts";
import {
  type Notify,
  type Outbox,
  type OutboxEvent,
  REMEMBERED_HOURS,
  type Untold,
  createOutbox,
  derivedId,
} from "../outbox.ts";
import { replay } from "../replay.ts";
import type { Cluster, Clusters } from "./clusters.ts";
import { fingerprintOf } from "./fingerprint.ts";
import type { Answer, Model } from "./model.ts";
import { type Counted, LEVELS, type Level } from "./spells.ts";

const time = v.pipe(
  v.string(),
  v.check((text) => !Number.isNaN(Date.parse(text))),
);

/** A line of escalations.jsonl. */
const Escalation = v.object({
  /** When it was escalated. */
  ts: time,
  id: v.pipe(v.string(), v.minLength(1)),
  fingerprint: v.pipe(v.string(), v.minLength(1)),
  /** 1, 10 or 100 times the threshold. */
  level: v.picklist(LEVELS),
  endpoint: v.string(),
  shape: v.string(),
  /** Failures of this spell or run, and of the cluster as a whole. */
  count: v.number(),
  total: v.optional(v.number()),
  /** No success of the endpoint lies between them. */
  in_a_row: v.optional(v.boolean()),
  /** The first failure, and the last one so far. */
  first_at: time,
  last_at: time,
  by_source: v.optional(v.record(v.string(), v.number())),
  examples: v.array(v.object({ error: v.optional(v.string()), output_summary: v.optional(v.string()) })),
  /** A model's diagnosis; null without one. */
  diagnosis: v.nullish(v.string(), null),
  /** Why a configured model gave no diagnosis. */
  diagnosis_failed: v.optional(v.string()),
});
type Escalation = v.InferOutput<typeof Escalation>;

interface EscalationOptions {
  /** The folder of its files, and its journal there; null: in memory only. */
  folder: string | null;
  journal: Journal | null;
  clusters: Clusters;
  /** The inbox that is told. */
  notify: Notify | undefined;
  model: Model | null;
  log: Log;
}

/** An older escalation is not told any more, in milliseconds: the inbox may soon forget its id. */
const STALE_MS = (REMEMBERED_HOURS - 24) * 3_600_000;
const LARGEST_DIAGNOSIS = 2000;
/** The number of a cluster's escalations that are remembered. */
const MOST_REMEMBERED = 16;
/** When the last failure is older than this, in milliseconds, the text says when it was. */
const OLD_MS = 3_600_000;

const SYSTEM = `You are the on-call engineer. You are shown failures of one operation that belong together. In at most three sentences
say what most likely causes them and what to check first. No preamble.`;

/** Escalates each cluster once for each level. */
export class Escalations {
  #options: EscalationOptions;
  #outbox: Outbox;
  /** The last escalations of each cluster. */
  #last = new Map<string, { level: Level; firstAt: number; lastAt: number }[]>();
  #untold: Escalation[] = [];
  /** The number of escalations since the start. */
  count = 0;

  constructor(options: EscalationOptions) {
    this.#options = options;
    this.#outbox = createOutbox(options.notify, { from: "observer", log: options.log });
  }

  /** Reads the escalations so far. */
  async replay(): Promise<void> {
    const { folder, journal } = this.#options;
    if (folder === null || journal === null) return;
    const mark = join(folder, "escalations.told");
    const told = existsSync(mark) ? readFileSync(mark, "utf8").trim() : null;
    const record = (value: unknown): void => {
      const line = v.safeParse(Escalation, value);
      if (!line.success) return;
      const { id, ts } = line.output;
      this.#remember(line.output);
      if (Date.now() - Date.parse(ts) < STALE_MS) this.#untold.push(line.output);
      if (id === told) this.#untold = [];
    };
    await replay({ path: journal.path, record });
  }

  /** Takes over what a reload may change. */
  configure(changed: Pick<EscalationOptions, "notify" | "model">): void {
    const moved = JSON.stringify(changed.notify) !== JSON.stringify(this.#options.notify);
    this.#options = { ...this.#options, ...changed };
    if (!moved) return;
    const former = this.#outbox;
    this.#outbox = createOutbox(changed.notify, { from: "observer", log: this.#options.log });
    former.close().catch((error: unknown) => this.#options.log.warn("the former inbox is not closed", { error }));
  }

  /** The number that the inbox doesn't have yet. */
  get waiting(): number {
    return this.#untold.length;
  }

  /** Escalates clusters that are due, and tells what waits. Throws where it can't: a later pass does it. */
  async pass({ signal, alive = () => {} }: { signal: AbortSignal; alive?: () => void }): Promise<void> {
    const ask = asker(() => this.#options.model, signal);
    const untold = async (): Promise<Untold[]> => this.#waiting();
    for (const cluster of this.#options.clusters.list()) {
      const { fingerprint, spells, runs } = cluster;
      for (const counted of [...spells, ...runs]) {
        if (counted.reached <= this.#levelOf(fingerprint, counted)) continue;
        alive();
        await this.#escalate(cluster, counted, ask);
        // The next one may wait long for its diagnosis. If this fails, the pass below tries again and throws.
        await this.#outbox.pass(untold, alive).catch(() => {});
      }
    }
    await this.#outbox.pass(untold, alive);
  }

  async close(): Promise<void> {
    await this.#options.journal?.close();
    await this.#outbox.close();
  }

  /** The highest level at which failures of that time were escalated; 0 for none. After a long silence the levels begin again. */
  #levelOf(fingerprint: string, { begin, end }: Counted): Level | 0 {
    const { cooldownMs } = this.#options.clusters.rules;
    const near = (this.#last.get(fingerprint) ?? []).filter(
      ({ firstAt, lastAt }) => begin < lastAt + cooldownMs && end > firstAt - cooldownMs,
    );
    return LEVELS.findLast((level) => near.some((last) => last.level >= level)) ?? 0;
  }

  #remember({ fingerprint, level, first_at, last_at, endpoint, examples }: Escalation): void {
    // A cluster of 0.1.0 is known under its fingerprint of today, too: its failures may be read from the log again.
    const again = fingerprint.startsWith("f1:") && examples[0] ? [fingerprintOf({ endpoint, ...examples[0] })] : [];
    for (const name of [fingerprint, ...again.map((found) => found.fingerprint)]) {
      const last = this.#last.get(name) ?? [];
      last.push({ level, firstAt: Date.parse(first_at), lastAt: Date.parse(last_at) });
      this.#last.set(name, last.slice(-MOST_REMEMBERED));
    }
  }

  async #escalate(cluster: Cluster, counted: Counted, ask: Ask): Promise<void> {
    const { log } = this.#options;
    const { fingerprint, parts, count, by_source, examples } = cluster;
    const { begin, end, reached: level } = counted;
    if (level === 0) return;
    const diagnosed = await diagnose(cluster, counted.count, ask);
    const escalation: Escalation = {
      ts: new Date().toISOString(),
      id: derivedId(`${fingerprint} ${begin} ${level}`),
      fingerprint,
      level,
      endpoint: parts.endpoint,
      shape: parts.shape,
      count: counted.count,
      total: count,
      ...("after" in counted ? { in_a_row: true } : {}),
      first_at: new Date(begin).toISOString(),
      last_at: new Date(end).toISOString(),
      by_source,
      examples,
      ...diagnosed,
    };
    await this.#options.journal?.append(JSON.stringify(escalation));
    this.#remember(escalation);
    this.#untold.push(escalation);
    this.count++;
    log.warn(textOf(escalation), { fingerprint, level });
  }

  #waiting(): Untold[] {
    return this.#untold.map((escalation) => ({
      event: eventOf(escalation),
      mark: async () => {
        const { folder } = this.#options;
        if (folder !== null) writeWhole(join(folder, "escalations.told"), `${escalation.id}\n`);
        this.#untold.shift();
      },
    }));
  }
}

/** Asks the model; null without one. */
type Ask = (question: string) => Promise<Answer | null>;

/** After one answer that came too late it asks no more: the other escalations must not come minutes late. */
function asker(model: () => Model | null, signal: AbortSignal): Ask {
  let away: Answer | null = null;
  return async (question) => {
    const answer = away ?? (await model()?.ask(SYSTEM, question, signal)) ?? null;
    if (answer !== null && "late" in answer) away = answer;
    return answer;
  };
}

async function diagnose(
  { parts, examples }: Cluster,
  count: number,
  ask: Ask,
): Promise<Pick<Escalation, "diagnosis" | "diagnosis_failed">> {
  const shown = examples.map(({ timestamp, input_summary, output_summary, error }) =>
    JSON.stringify({ timestamp, input_summary, output_summary, error }),
  );
  const answer = await ask(`${parts.endpoint} failed ${count} times:\n${shown.join("\n")}`);
  if (answer === null) return { diagnosis: null };
  if ("failed" in answer) return { diagnosis: null, diagnosis_failed: answer.failed };
  return { diagnosis: answer.text.trim().slice(0, LARGEST_DIAGNOSIS) };
}

/** In words, on one line. */
function textOf({
  ts,
  endpoint,
  count,
  first_at,
  last_at,
  in_a_row,
  examples,
  shape,
  fingerprint,
}: Escalation): string {
  const [first, last] = [Date.parse(first_at), Date.parse(last_at)];
  const span = last - first < 1000 ? "a second" : duration(last - first);
  const old = Date.parse(ts) - last > OLD_MS ? `, the last on ${last_at.slice(0, 16).replace("T", " ")} UTC` : "";
  const row = in_a_row ? " in a row" : "";
  const error = (examples[0]?.error || examples[0]?.output_summary || shape).replace(/\s+/g, " ").slice(0, 300);
  const name = endpoint.replace(/\s+/g, " ");
  return `${name} keeps failing: ${count} failures${row} within ${span}${old}: ${error} (picket-observer clusters ${fingerprint})`;
}

function eventOf(escalation: Escalation): OutboxEvent {
  const { ts, id, level, diagnosis, fingerprint } = escalation;
  return {
    id,
    ts,
    urgent: level >= 10,
    text: `${textOf(escalation)}${diagnosis === null ? "" : `\n${diagnosis}`}`,
    source: `observer:${fingerprint}`,
  };
}
