// Removes episodes, and notes it in the index. The file is deleted first, then a line with `removed_at` is added, so that the index
// does not call an existing file removed:
//
//   killed in between      the file is missing and the index has it: the same command adds the line
//   an upload in between   the same bytes are stored again under the line that was still there: that line stays, or is added again;
//                          killed just before that, `index verify` says so, and `index rebuild` adds it
//
// A removed episode keeps its line, so other bytes under its name are refused.

import type { Check } from "./episode-check.ts";
import type { IndexRow } from "./episode-index.ts";
import type { EpisodeKey } from "./episodes.ts";

/** So many episodes share a sync. */
const BATCH = 200;

/** What removal works on. */
export type Removal = Omit<Check, "progress">;

/** Removes episodes; gives each that had a file or a line, once it is removed. */
export async function* remove(
  { index, episodes, signal }: Removal,
  keys: AsyncIterable<EpisodeKey> | Iterable<EpisodeKey>,
): AsyncIterable<EpisodeKey & { size: number }> {
  for await (const batch of batches(keys)) {
    signal.throwIfAborted();
    const removed: (EpisodeKey & { size: number; row: IndexRow | null })[] = [];
    for (const { host, episode } of batch) {
      const [row, file] = [await index.find({ host, episode }), await episodes.find({ host, episode })];
      const noted = row?.removed_at === undefined ? row : null;
      if (noted || file) removed.push({ host, episode, size: file?.size ?? 0, row: noted });
    }
    const removed_at = new Date().toISOString();
    const noted: IndexRow[] = [];
    await episodes.remove(removed, async (gone) => {
      for (const { row } of gone) if (row) noted.push(row);
      await Promise.all(noted.map((row) => index.add({ ...row, removed_at }, null)));
    });
    for (const row of noted) {
      const back = await episodes.find(row);
      if (back && (await index.find(row))?.removed_at !== undefined) {
        await index.add({ ...row, received_at: new Date().toISOString() }, back.at);
      }
    }
    yield* removed;
  }
}

async function* batches<T>(all: AsyncIterable<T> | Iterable<T>): AsyncIterable<T[]> {
  let batch: T[] = [];
  for await (const one of all) {
    batch.push(one);
    if (batch.length < BATCH) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}

/** Which episodes are pruned: one rule is enough. */
export interface Rule {
  /** One host's; null is all. */
  host: string | null;
  /** Received before this time. */
  before: string | null;
  /** The oldest, until the rest has so many bytes. */
  quota: number | null;
  /** Those without a file. */
  missing: boolean;
}

/** The episodes that a rule takes, oldest first. */
export async function* chosen({ index, episodes, signal }: Removal, rule: Rule): AsyncIterable<IndexRow> {
  const { host, before, quota, missing } = rule;
  let excess = -Infinity;
  if (quota !== null) {
    excess = -quota;
    for await (const { size } of index.all(host)) excess += size;
  }
  for await (const row of index.all(host)) {
    signal.throwIfAborted();
    const old = before !== null && row.received_at < before;
    if (!old && excess <= 0 && !missing) return;
    const isChosen = old || excess > 0 || (missing && !(await episodes.find(row)));
    excess -= row.size;
    if (isChosen) yield row;
  }
}
