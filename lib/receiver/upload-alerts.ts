// Alerts of a host's uploads: refused for long, quiet for longer than usual, without their commit.

import type { Sender } from "./admission.ts";
import { duration } from "../text.ts";
import { close, raise } from "./alerts.ts";
import type { Host } from "./hosts.ts";
import type { Queries } from "../database.ts";
import type { Store } from "./store.ts";

/** When every upload is refused for this long, that is an alert. */
const FAILING_MS = 30 * 60_000;
const DAY_MS = 86_400_000;
/** The latest uploads that show what is usual; fewer than QUIET_LEAST show nothing. */
const QUIET_SAMPLES = 50;
const QUIET_LEAST = 5;
/** Quieter than usual: more than twice the longest pause, and at least an hour. */
const QUIET_FACTOR = 2;
const QUIET_MS = 60 * 60_000;

/** Stores that an upload was taken, or was here already. */
export async function uploadTaken(
  tx: Queries,
  { host }: Sender,
  { at, stamped }: { at: number; stamped: boolean },
): Promise<void> {
  await tx.run("UPDATE hosts SET last_upload_at = $1, uploads_refused_since = NULL WHERE id = $2", [at, host]);
  const over = [
    "host.uploads_failing",
    "host.uploads_silent",
    ...(stamped ? ["host.unstamped" as const] : []),
  ] as const;
  await close(tx, { host, types: over, at });
}

/** Stores that an upload was refused, and why. `unstamped`: it lacked the commit that the version gate asks for. */
export async function uploadRefused(
  tx: Queries,
  { host, name }: Sender,
  { at, why, unstamped }: { at: number; why: string; unstamped: boolean },
): Promise<void> {
  const row = await tx.one<Pick<Host, "status" | "uploads_refused_since" | "upload_refused_at">>(
    "SELECT status, uploads_refused_since, upload_refused_at FROM hosts WHERE id = $1",
    [host],
  );
  // A host that has never reported raises nothing.
  if (!row || row.status === "pending" || row.status === "archived") return;
  if (unstamped) {
    const text = `${name} sends episodes without a commit (X-Code-Commit): the version gate refuses them`;
    await raise(tx, { host, type: "host.unstamped", text, at });
  }
  // Refusals more than a day apart are separate.
  const { uploads_refused_since: first, upload_refused_at: last } = row;
  const since = first === null || last === null || at - last > DAY_MS ? at : first;
  await tx.run("UPDATE hosts SET uploads_refused_since = $1, upload_refused_at = $2 WHERE id = $3", [since, at, host]);
  if (at - since >= FAILING_MS) {
    const text = `${name}: every upload is refused for ${duration(at - since)}, lately with ${why}`;
    await raise(tx, { host, type: "host.uploads_failing", text, at });
  }
}

/**
 * Looks for hosts that shipped within a day and are quiet for longer than is usual for them.
 * @param options.since when the receiver last came back from an absence: a pause before that says nothing.
 */
export async function quietPass(store: Store, { now, since }: { now: number; since: number }): Promise<number> {
  const hosts = await store.read.all<Host>(
    "SELECT * FROM hosts WHERE status = 'online' AND last_upload_at > $1 AND last_upload_at < $2",
    [now - DAY_MS, now - QUIET_MS],
  );
  let raised = 0;
  for (const { id, name, last_upload_at: last } of hosts) {
    // Nor does a host's own absence, which has its own alert.
    const back = await store.read.one<{ at: number | null }>(
      "SELECT MAX(closed_at) AS at FROM alerts WHERE host = $1 AND type IN ('host.stale', 'host.offline')",
      [id],
    );
    const quiet = now - Math.max(last ?? now, since, back?.at ?? 0);
    if (quiet < QUIET_MS) continue;
    const usual = await longestPause(store, name);
    if (usual === null || quiet < QUIET_FACTOR * usual) continue;
    const text = `${name} has shipped nothing for ${duration(quiet)}: its longest pause lately was ${duration(usual)}`;
    if (await store.write((tx) => raise(tx, { host: id, type: "host.uploads_silent", text, at: now }), [id])) raised++;
  }
  return raised;
}

/** The longest pause between a host's latest uploads; null when there are too few to tell. */
async function longestPause({ read }: Store, name: string): Promise<number | null> {
  const rows = await read.all<{ received_at: string }>(
    "SELECT received_at FROM episodes WHERE host = $1 ORDER BY received_at DESC LIMIT $2",
    [name, QUIET_SAMPLES],
  );
  if (rows.length < QUIET_LEAST) return null;
  const times = rows.map(({ received_at: at }) => Date.parse(at));
  return Math.max(...times.slice(1).map((at, index) => times[index]! - at));
}
