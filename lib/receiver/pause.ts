// A paused host or job raises no events: somebody works on it. What goes wrong meanwhile opens an alert, and is told after the pause
// if it is still open (announce.ts). Silence is not looked at (presence.ts, jobs-watch.ts); after the pause it counts as a whole. The
// recovery of what was told before the pause is told at once.

import { UsageError } from "../command-line.ts";
import { readDuration } from "../text.ts";
import type { Whose } from "./alerts.ts";
import type { Queries } from "../database.ts";
import type { Store } from "./store.ts";

/** The table of a host, or of a job, and its number there. */
const placeOf = ({ host, job }: Whose) => (host === undefined ? (["jobs", job] as const) : (["hosts", host] as const));

const LONGEST_MS = 366 * 86_400_000;

/** When a pause ends that lasts so long from now on. @throws UsageError. */
export function pauseEnd(duration: string): number {
  const ms = readDuration(duration);
  if (ms === null || ms === 0) throw new UsageError(`"${duration}" is not a duration`, "such as 30m, 2h or 3d");
  if (ms > LONGEST_MS) throw new UsageError(`"${duration}" is longer than a year`);
  return Date.now() + ms;
}

/** Pauses a host or a job until a time, or moves the end of its pause. */
export async function pause(
  tx: Queries,
  whose: Whose,
  { until, reason }: { until: number; reason: string | null },
): Promise<void> {
  const [table, id] = placeOf(whose);
  await tx.run(`UPDATE ${table} SET paused_until = $1, pause_reason = $2 WHERE id = $3`, [until, reason, id]);
}

/** Lets a pause end now; false where there is none. The daemon does the rest (`endPauses`). */
export async function resume(tx: Queries, whose: Whose): Promise<boolean> {
  const [table, id] = placeOf(whose);
  return (await tx.run(`UPDATE ${table} SET paused_until = 0 WHERE id = $1 AND paused_until IS NOT NULL`, [id])) > 0;
}

/** Ends the pauses that are over. */
export async function endPauses(store: Store, now: number): Promise<void> {
  for (const table of ["hosts", "jobs"]) {
    if (!(await store.read.one(`SELECT 1 FROM ${table} WHERE paused_until <= $1`, [now]))) continue;
    await store.write((tx) =>
      tx.run(`UPDATE ${table} SET paused_until = NULL, pause_reason = NULL WHERE paused_until <= $1`, [now]),
    );
  }
}
