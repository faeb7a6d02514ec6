// Records operations: into the log first, then into the figures; each id once.

import * as v from "valibot";
import { type Clusters, type Cluster, LEVELS } from "./clusters.ts";
import { RecentIds } from "./ids.ts";
import type { Books, OpLog } from "./op-log.ts";
import { type Operation, isRecorded } from "./operation.ts";
import { Tally, type TallyState } from "./tally.ts";

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const instant = v.pipe(v.number(), v.minValue(-8.64e15), v.maxValue(8.64e15));
/** What is relied on of a snapshot: one that isn't so is broken, and everything is read instead. */
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
      spell: v.looseObject({
        begin: instant,
        count,
        recent: v.array(v.number()),
        reached: v.picklist([0, ...LEVELS]),
      }),
    }),
  ),
});

interface State {
  tally: TallyState;
  ids: string;
  clusters: Cluster[];
}

/** The books: everything that is known of the log without reading it. */
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

  save(): State {
    return { tally: this.tally.state, ids: this.ids.export(), clusters: this.clusters.state };
  }

  restore(state: unknown): void {
    const { tally, ids, clusters } = v.parse(Saved, state) as unknown as State;
    this.tally.state = tally;
    this.ids.import(ids);
    this.clusters.state = clusters;
  }

  reset(): void {
    this.tally = new Tally();
    this.ids = new RecentIds();
    this.clusters.state = [];
  }
}

/** The way into the log. */
export class Recorder {
  readonly ledger: Ledger;
  #log: OpLog;
  /** Ids that are being written: whoever sends one of them again waits for the same. */
  #underWay = new Map<string, Promise<void>>();

  constructor(ledger: Ledger, log: OpLog) {
    this.ledger = ledger;
    this.#log = log;
  }

  /**
   * Records operations whose ids are not known yet; resolves when all of them are durable and counted. Where failures come quicker
   * than they can be told apart, whoever brings them waits.
   * @returns how many were recorded now. Throws what the file system says, and then none of them was.
   */
  async record(operations: readonly Operation[]): Promise<number> {
    for (;;) {
      const { fresh, ids, others } = this.#sort(operations);
      if (others.length === 0) {
        if (fresh.length > 0) await this.#write(fresh, ids);
        if (this.ledger.clusters.crowded) await this.ledger.clusters.relieve();
        return fresh.length;
      }
      // Whether they get there or not: what they leave is ours.
      await Promise.allSettled(others);
    }
  }

  /** What is to be written of these, with their ids, and whoever is writing some of the others right now. */
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
