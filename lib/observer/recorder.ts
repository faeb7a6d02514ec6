// Records operations: into the log first, then into the figures; each id once.

import type { Books } from "./books.ts";
import type { OpLog } from "./op-log.ts";
import type { Operation } from "./operation.ts";
import { scrub } from "./scrub.ts";

/** Above this part of its limit the queue of failures slows down those who record. */
const CROWDED = 1 / 4;
/** Fields that are not scrubbed: an id is compared, the others are checked. */
const VERBATIM: ReadonlySet<string> = new Set(["id", "timestamp", "source"]);

/** Writes operations into the log, each id once. */
export class Recorder {
  /** Whether secrets in texts are replaced. */
  scrubs = true;
  #books: Books;
  #log: OpLog;
  /** Ids that are being written, each with its write: a duplicate waits for that. */
  #underWay = new Map<string, Promise<void>>();

  constructor(books: Books, log: OpLog) {
    this.#books = books;
    this.#log = log;
  }

  /**
   * Records the operations whose ids are new; resolves when all of them are durable and counted. Waits while the queue of
   * failures that need a fingerprint is too long.
   * @throws the file system's error; then none was recorded.
   */
  async record(given: readonly Operation[]): Promise<void> {
    const operations = this.scrubs ? given.map((operation) => scrub(operation, VERBATIM)) : given;
    let sorted = this.#sort(operations);
    // Should one of the writes under way fail, its operations are ours to record.
    for (; sorted.others.length > 0; sorted = this.#sort(operations)) await Promise.allSettled(sorted.others);
    if (sorted.fresh.length > 0) await this.#write(sorted.fresh, sorted.ids);
    const { clusters } = this.#books;
    if (clusters.fullness > CROWDED) await clusters.analyze(undefined, CROWDED);
  }

  /** The operations to write, their ids, and the writes under way that have some of the rest. */
  #sort(operations: readonly Operation[]): { fresh: Operation[]; ids: Set<string>; others: Promise<void>[] } {
    const ids = new Set<string>();
    const others: Promise<void>[] = [];
    const fresh = operations.filter(({ id }) => {
      if (id === undefined) return true;
      if (ids.has(id) || this.#books.ids.has(id)) return false;
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
