// The figures that follow from the log of operations. A snapshot keeps them, so that a start needn't read all of the log.

import * as v from "valibot";
import { type Clusters, ClustersState } from "./clusters.ts";
import { RecentIds } from "./ids.ts";
import type { Operation } from "./operation.ts";
import { Tally, TallyState } from "./tally.ts";

/** The figures as a snapshot has them. When a part of it is wrong, the snapshot is ignored and the whole log is read. */
export const BooksState = v.object({ tally: TallyState, ids: v.string(), ...ClustersState.entries });
type BooksState = v.InferOutput<typeof BooksState>;

/** All figures that follow from the log. */
export class Books {
  readonly tally = new Tally();
  readonly ids = new RecentIds();
  readonly clusters: Clusters;

  constructor(clusters: Clusters) {
    this.clusters = clusters;
  }

  /** Counts an operation of the log. `length`: characters of its line. */
  apply(operation: Operation, length: number): void {
    this.tally.add(operation, length);
    if (operation.id !== undefined) this.ids.add(operation.id);
    this.clusters.add(operation);
  }

  async save(): Promise<BooksState> {
    await this.clusters.analyze();
    return { tally: this.tally.state, ids: this.ids.export(), ...this.clusters.state };
  }

  /** Goes on from a snapshot; for books that are still empty. */
  restore({ tally, ids, ...clusters }: BooksState): void {
    this.tally.state = tally;
    this.ids.import(ids);
    this.clusters.state = clusters;
  }
}
