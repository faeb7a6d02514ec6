// Records operations: into the log first, then into the figures; each id once.

import * as v from "valibot";
import type { Clusters } from "./clusters.ts";
import { RecentIds } from "./ids.ts";
import type { Books, OpLog } from "./op-log.ts";
import { type Operation, isRecorded } from "./operation.ts";
import { scrub } from "./scrub.ts";
import { LEVELS } from "./spells.ts";
import { Tally } from "./tally.ts";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const instant = v.pipe(v.number(), v.minValue(-8.64e15), v.maxValue(8.64e15));
const counted = { begin: instant, count, reached: v.picklist([0, ...LEVELS]) };
const recent = v.array(v.number());
/** The parts of a snapshot that the code relies on. When one is wrong, the snapshot is ignored and the whole log is read. */
const Saved = v.object({
  tally: v.object({
    total: count,
    successes: count,
    by_source: v.record(v.string(), count),
    ring: v.array(v.custom(isRecorded)),
    scenarios: v.array(v.looseObject({ timestamp: v.string(), endpoint: v.string() })),
  }),
  ids: v.string(),
  clusters: v.array(
    v.looseObject({
      fingerprint: v.string(),
      parts: v.looseObject({ endpoint: v.string(), shape: v.string() }),
      count,
      first_at: instant,
      last_at: instant,
      by_source: v.record(v.string(), count),
      examples: v.array(v.looseObject({ error: v.string(), output_summary: v.string() })),
      spell: v.optional(v.looseObject({ ...counted, recent })),
      spells: v.optional(v.array(v.looseObject({ ...counted, end: instant, recent }))),
      runs: v.optional(v.array(v.looseObject({ ...counted, end: instant, after: count }))),
    }),
  ),
  successes: v.optional(v.record(v.string(), count), {}),
});

/** All figures that follow from the log. */
export class Ledger implements Books {
  tally = new Tally();
  ids = new RecentIds();
  readonly clusters: Clusters;

  constructor(clusters: Clusters) {
    this.clusters = clusters;
  }

  apply(operation: Operation, length: number): void {
    this.tally.add(operation, length);
    if (operation.id !== undefined) this.ids.add(operation.id);
    this.clusters.add(operation);
  }

  save() {
    return { tally: this.tally.state, ids: this.ids.export(), ...this.clusters.state };
  }

  restore(state: unknown): void {
    const { tally, ids, ...clusters } = v.parse(Saved, state) as unknown as ReturnType<Ledger["save"]>;
    this.tally.state = tally;
    this.ids.import(ids);
    this.clusters.state = clusters;
  }

  reset(): void {
    this.tally = new Tally();
    this.ids = new RecentIds();
    this.clusters.state = { clusters: [], successes: {} };
  }
}

/** Fields that are not scrubbed: an id is compared, the others are checked. */
const VERBATIM: ReadonlySet<string> = new Set(["id", "timestamp", "source"]);

/** Writes operations into the log, each id once. */
export class Recorder {
  readonly ledger: Ledger;
  /** Whether secrets in texts are replaced. */
  scrubs = true;
  #log: OpLog;
  /** Ids that are being written, each with its write: a duplicate waits for that. */
  #underWay = new Map<string, Promise<void>>();

  constructor(ledger: Ledger, log: OpLog) {
    this.ledger = ledger;
    this.#log = log;
  }

  /**
   * Records the operations whose ids are new; resolves when all of them are durable and counted. Waits while the queue of
   * failures that need a fingerprint is too long.
   * @returns how many were recorded. @throws the file system's error; then none was recorded.
   */
  async record(given: readonly Operation[]): Promise<number> {
    const operations = this.scrubs ? given.map((operation) => scrub(operation, VERBATIM)) : given;
    for (;;) {
      const { fresh, ids, others } = this.#sort(operations);
      if (others.length === 0) {
        if (fresh.length > 0) await this.#write(fresh, ids);
        await this.ledger.clusters.relieve();
        return fresh.length;
      }
      // Should one of these writes fail, its operations are ours to record.
      await Promise.allSettled(others);
    }
  }

  /** The operations to write, their ids, and the writes under way that have some of the rest. */
  #sort(operations: readonly Operation[]): { fresh: Operation[]; ids: Set<string>; others: Promise<void>[] } {
    const ids = new Set<string>();
    const others: Promise<void>[] = [];
    const fresh = operations.filter(({ id }) => {
      if (id === undefined) return true;
      if (ids.has(id) || this.ledger.ids.has(id)) return false;
      const under = this.#underWay.get(id);
      if (under) others.push(under);
      else ids.add(id);
      return !under;
    });
    return { fresh, ids, others };
  }

  async #write(operations: Operation[], ids: Set<string>): Promise<void> {
    const work = this.#log.record(operations);
    for (const id of ids) this.#underWay.set(id, work);
    try {
      await work;
    } finally {
      for (const id of ids) this.#underWay.delete(id);
    }
  }
}
