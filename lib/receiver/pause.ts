// A paused host raises no events: somebody works on it. What goes wrong meanwhile opens a muted alert, and the end of the pause
// tells those that are still open. Silence is not looked at (presence.ts); after the pause it counts as a whole. The recovery of
// what was told before the pause is told at once.

import { UsageError } from "../command-line.ts";
import { type EventType, note } from "./alerts.ts";
import type { Queries } from "./database.ts";
import { findHost } from "./hosts.ts";
import type { Store } from "./store.ts";

/** Pauses a host until a time, or moves the end of its pause. */
export async function pauseHost(
  tx: Queries,
  name: string,
  { until, reason }: { until: number; reason: string | null },
): Promise<void> {
  const host = await findHost(tx, name);
  if (host.status === "archived") throw new UsageError(`host "${name}" is archived: it raises no events`);
  await tx.run("UPDATE hosts SET paused_until = $1, pause_reason = $2 WHERE id = $3", [until, reason, host.id]);
}

/** Lets a pause end now; false where there is none. The daemon does the rest (`endPauses`). */
export async function resumeHost(tx: Queries, name: string, now: number): Promise<boolean> {
  const { id } = await findHost(tx, name);
  return (await tx.run("UPDATE hosts SET paused_until = $1 WHERE id = $2 AND paused_until IS NOT NULL", [now, id])) > 0;
}

/** Ends the pauses that are over; gives the number of events that this stored. */
export async function endPauses(store: Store, now: number): Promise<number> {
  const over = await store.read.all<{ id: number }>("SELECT id FROM hosts WHERE paused_until <= $1", [now]);
  let told = 0;
  for (const { id } of over) told += await store.write((tx) => endPause(tx, id, now));
  return told;
}

async function endPause(tx: Queries, host: number, now: number): Promise<number> {
  const muted = await tx.all<{ type: EventType; subject: string; text: string }>(
    "SELECT type, subject, text FROM alerts WHERE host = $1 AND muted = 1 AND closed_at IS NULL ORDER BY id",
    [host],
  );
  for (const { type, subject, text } of muted) {
    await note(tx, { host, type, ...(subject === "" ? {} : { subject }), text, at: now });
  }
  await tx.run("UPDATE alerts SET muted = 0 WHERE host = $1", [host]);
  await tx.run("UPDATE hosts SET paused_until = NULL, pause_reason = NULL WHERE id = $1", [host]);
  return muted.length;
}
