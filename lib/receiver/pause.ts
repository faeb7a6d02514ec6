// A paused host or job raises no events: somebody works on it. What goes wrong meanwhile opens a muted alert, and the end of the pause
// tells those that are still open. Silence is not looked at (presence.ts, jobs-watch.ts); after the pause it counts as a whole. The
// recovery of what was told before the pause is told at once.

import { type EventType, type Whose, note } from "./alerts.ts";
import type { Queries } from "./database.ts";
import type { Store } from "./store.ts";

/** The table and the `alerts` column of a host, or of a job. */
const placeOf = ({ host, job }: Whose) =>
  host === undefined ? (["jobs", "job", job] as const) : (["hosts", "host", host] as const);

/** Pauses a host or a job until a time, or moves the end of its pause. */
export async function pause(
  tx: Queries,
  whose: Whose,
  { until, reason }: { until: number; reason: string | null },
): Promise<void> {
  const [table, , id] = placeOf(whose);
  await tx.run(`UPDATE ${table} SET paused_until = $1, pause_reason = $2 WHERE id = $3`, [until, reason, id]);
}

/** Lets a pause end now; false where there is none. The daemon does the rest (`endPauses`). */
export async function resume(tx: Queries, whose: Whose): Promise<boolean> {
  const [table, , id] = placeOf(whose);
  return (await tx.run(`UPDATE ${table} SET paused_until = 0 WHERE id = $1 AND paused_until IS NOT NULL`, [id])) > 0;
}

/** Ends the pauses that are over; gives the number of events that this stored. */
export async function endPauses(store: Store, now: number): Promise<number> {
  const over = await store.read.all<{ host: number | null; job: number | null }>(
    `SELECT id AS host, NULL AS job FROM hosts WHERE paused_until <= $1
     UNION ALL SELECT NULL, id FROM jobs WHERE paused_until <= $1`,
    [now],
  );
  let told = 0;
  for (const { host, job } of over) {
    told += await store.write((tx) => endPause(tx, host === null ? { job: job! } : { host }, now));
  }
  return told;
}

async function endPause(tx: Queries, whose: Whose, now: number): Promise<number> {
  const [table, column, id] = placeOf(whose);
  const muted = await tx.all<{ type: EventType; subject: string; text: string }>(
    `SELECT type, subject, text FROM alerts WHERE ${column} = $1 AND muted = 1 AND closed_at IS NULL ORDER BY id`,
    [id],
  );
  for (const { type, subject, text } of muted) {
    await note(tx, { ...whose, type, ...(subject === "" ? {} : { subject }), text, at: now });
  }
  await tx.run(`UPDATE alerts SET muted = 0 WHERE ${column} = $1`, [id]);
  await tx.run(`UPDATE ${table} SET paused_until = NULL, pause_reason = NULL WHERE id = $1`, [id]);
  return muted.length;
}
