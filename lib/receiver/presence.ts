// Who is alive: the dead-man's switch.
//
//   pending → online → (2 intervals without a report) stale → (4) offline → (a report) online
//
// The receipt of the last report decides, by this machine's clock. The receiver's own absence is nobody's silence: every
// pass leaves an alive mark, and where the next one comes much later than it should (the receiver was down, stopped, asleep,
// or the clock was set, either way) every deadline moves by that time.
//
// A transition is claimed by a conditional update, so that a report which comes at the same moment wins or is told after.

import { duration, raise } from "./alerts.ts";
import type { Status } from "./hosts.ts";
import { type Queries, type Store, getNote, setNote } from "./store.ts";

/** The alive mark is written this often, in milliseconds. */
const MARK_MS = 5000;
/** A gap from here on is an absence. */
const ABSENCE_MS = 3 * MARK_MS;
const STALE_AFTER = 2;
const OFFLINE_AFTER = 4;

interface Watched {
  id: number;
  name: string;
  status: Status;
  last_seen_at: number;
  away_ms: number;
  interval: number;
}

/** What a pass found. */
export interface PresencePass {
  /** Milliseconds until something may be due. */
  next: number;
  /** How many hosts changed. */
  changed: number;
  /** How long the receiver was away before this pass; 0 mostly, negative where the clock was set back. */
  away: number;
}

/**
 * One pass.
 * @param options.now milliseconds since 1970.
 * @param options.interval seconds between reports for a host that was told nothing yet.
 */
export async function presencePass(
  store: Store,
  { now, interval }: { now: number; interval: number },
): Promise<PresencePass> {
  const away = await keepMark(store, now);
  const watched = await store.read.all<Watched>(
    `SELECT id, name, status, last_seen_at, away_ms, COALESCE(told_interval, $1) AS interval FROM hosts
     WHERE status IN ('online', 'stale') AND last_seen_at IS NOT NULL`,
    [interval],
  );
  let next = MARK_MS;
  let changed = 0;
  for (const host of watched) {
    const silence = now - host.last_seen_at - host.away_ms;
    const period = host.interval * 1000;
    if (silence >= STALE_AFTER * period) {
      const offline = silence >= OFFLINE_AFTER * period;
      if (offline || host.status === "online")
        changed += await store.write((tx) => fallSilent(tx, { host, now, offline }));
    }
    const due = silence < STALE_AFTER * period ? STALE_AFTER * period - silence : OFFLINE_AFTER * period - silence;
    if (due > 0) next = Math.min(next, due);
    // A report may shorten a deadline without waking anybody.
    next = Math.min(next, period / 2);
  }
  return { next: Math.max(next, 20), changed, away };
}

/** Moves a host down; 0 when a report was quicker. */
async function fallSilent(
  tx: Queries,
  { host, now, offline }: { host: Watched; now: number; offline: boolean },
): Promise<number> {
  const claim = await tx.run("UPDATE hosts SET status = $1 WHERE id = $2 AND status = $3 AND last_seen_at = $4", [
    offline ? "offline" : "stale",
    host.id,
    host.status,
    host.last_seen_at,
  ]);
  if (claim === 0) return 0;
  const silence = duration(now - host.last_seen_at - host.away_ms);
  const text = (state: string) =>
    `${host.name} is ${state}: no report for ${silence} (every ${host.interval} s expected)`;
  if (host.status === "online") await raise(tx, { host: host.id, type: "host.stale", text: text("stale"), at: now });
  if (offline) await raise(tx, { host: host.id, type: "host.offline", text: text("offline"), at: now });
  return 1;
}

/** Leaves the alive mark, and gives everybody the time that the receiver was away. */
async function keepMark(store: Store, now: number): Promise<number> {
  const mark = await getNote(store.read, "alive_at");
  const gap = mark === null ? 0 : now - Number(mark);
  if (mark !== null && gap >= 0 && gap < MARK_MS) return 0;
  const away = gap < 0 || gap >= ABSENCE_MS ? gap : 0;
  await store.write(async (tx) => {
    // Only who reported before the gap is given something; the mark may be MARK_MS older than the gap's beginning.
    if (away !== 0 && (await getNote(tx, "alive_at")) === mark) {
      const [before, at] = away > 0 ? ["last_seen_at <= $2", Number(mark) + MARK_MS] : ["last_seen_at > $2", now];
      await tx.run(`UPDATE hosts SET away_ms = away_ms + $1 WHERE status IN ('online', 'stale') AND ${before}`, [
        away,
        at,
      ]);
    }
    await setNote(tx, "alive_at", String(now));
  });
  return away;
}
