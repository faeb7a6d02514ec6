// Gives free pages of the store back to the file system: those of deleted hosts, and of a shorter retention.

import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../log.ts";
import { notify } from "../systemd.ts";
import { size } from "../text.ts";
import { type PageCounts, checkpoint, pageCounts, rewriteToShrink } from "./sqlite.ts";
import type { Store } from "./store.ts";

/** So many pages a step: a report waits some 10 ms for one. */
const STEP_PAGES = 500;
const PAUSE_MS = 100;
/** So many free pages stay, or a tenth: they are used again soon. */
const SLACK_PAGES = 1000;
/** A store of 0.1.0 is rewritten once, where it is small or this part of it is free. */
const SMALL_BYTES = 64 << 20;
const WORTHWHILE = 0.25;
/** A slow disk rewrites so many bytes a second. */
const SLOWEST = 10 << 20;

function isWorthwhile({ pages, free }: PageCounts): boolean {
  return free > SLACK_PAGES && free > pages / 10;
}

/** Frees pages in steps, between which other work on the store goes on. */
export async function shrink(
  store: Store,
  { alive, signal }: { alive: () => void; signal: AbortSignal },
): Promise<void> {
  if (!store.isFile) return;
  const step = (): Promise<boolean> =>
    store.write(async (tx) => {
      const counts = await pageCounts(tx);
      if (!counts.shrinks || !isWorthwhile(counts)) return false;
      await tx.run(`PRAGMA incremental_vacuum(${STEP_PAGES})`);
      return true;
    });
  let steps = 0;
  while (!signal.aborted && (await step())) {
    steps++;
    alive();
    await sleep(PAUSE_MS, undefined, { signal }).catch(() => {});
  }
  if (steps > 0) checkpoint(store.dir);
}

/** Makes a store of 0.1.0 one that shrinks, where that is worth its time: 25 s a gigabyte. For a start, before anything else uses it. */
export async function makeShrinkable(store: Store, log: Log): Promise<void> {
  if (!store.isFile) return;
  const { shrinks, pages, free, pageSize } = await pageCounts(store.read);
  const bytes = pages * pageSize;
  if (shrinks || (bytes > SMALL_BYTES && free / pages < WORTHWHILE)) return;
  log.info("rewriting the store, so that it can shrink", { size: size(bytes) });
  notify(`EXTEND_TIMEOUT_USEC=${Math.ceil(bytes / SLOWEST) * 1_000_000 + 60_000_000}`);
  try {
    rewriteToShrink(store.dir);
  } catch (error) {
    log.warn("the store can't be rewritten: it stays as large as it was", { error });
  }
}
