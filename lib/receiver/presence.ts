// Decides that a host is silent: the dead-man's switch.
//
//   pending → online → (2 intervals without a report) stale → (4) offline → (a report) online
//
// The receipt of the last report counts, by this machine's clock. The receiver's own absence counts as no host's silence: it
// stores an alive mark, and when time has passed without the receiver (it was down, stopped or asleep, or the clock was set
// forward or back), every deadline moves by that time.
//
// A conditional update makes each transition, so that a report at the same moment either prevents it or ends it.

import type { Log } from "../log.ts";
import { duration } from "../text.ts";
import { close, raise } from "./alerts.ts";
import type { Status } from "./hosts.ts";
import type { Queries } from "./database.ts";
import { type Store, getNote, setNote } from "./store.ts";

/** The longest time between two looks, in milliseconds. */
const LOOK_MS = 1000;
/** Longer than this between two looks is an absence. */
const ABSENCE_MS = 3 * LOOK_MS;
/** The greatest age of the alive mark. */
const MARK_MS = 5000;
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
interface PresencePass {
  /** Milliseconds until something may be due. */
  next: number;
  /** How many hosts changed. */
  changed: number;
}

/** Watches over the hosts of a store. */
export class Presence {
  #store: Store;
  #log: Log;
  /** When the last look was; null before the first. */
  #looked: number | null = null;
  #marked = 0;
  /** When the receiver last came back from an absence, or began. */
  #backAt = Date.now();
  /** When a report came last that could not be stored, by host: it is a sign of life all the same. */
  #heard = new Map<number, number>();

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.#log = log;
  }

  /**
   * One pass. The first must run before any report comes.
   * @param options.now milliseconds since 1970.
   * @param options.interval seconds between reports for a host that was told none yet.
   */
  async pass({ now, interval }: { now: number; interval: number }): Promise<PresencePass> {
    const away = await this.#giveBack(now);
    if (away !== 0) this.#backAt = now;
    else if (now - this.#marked >= MARK_MS) await this.mark(now);
    this.#looked = now;
    const watched = await this.#store.read.all<Watched>(
      `SELECT id, name, status, last_seen_at, away_ms, COALESCE(told_interval, $1) AS interval FROM hosts
       WHERE status IN ('online', 'stale') AND last_seen_at IS NOT NULL AND paused_until IS NULL`,
      [interval],
    );
    let next = LOOK_MS;
    const falls: Promise<number>[] = [];
    for (const host of watched) {
      const silence = Math.min(now - host.last_seen_at - host.away_ms, now - (this.#heard.get(host.id) ?? 0));
      const stale = STALE_AFTER * host.interval * 1000;
      const offline = OFFLINE_AFTER * host.interval * 1000;
      if (silence >= offline || (silence >= stale && host.status === "online")) {
        falls.push(this.#store.write((tx) => fallSilent(tx, { host, now, silence, offline: silence >= offline })));
      }
      const due = silence < stale ? stale - silence : offline - silence;
      if (due > 0) next = Math.min(next, due);
    }
    // Together, so that they share transactions: one by one a large fleet would take so long that the next pass saw an absence.
    const fallen = await Promise.allSettled(falls);
    const failed = fallen.find((fall) => fall.status === "rejected");
    if (failed) throw failed.reason;
    const changed = fallen.reduce((sum, fall) => sum + (fall.status === "fulfilled" ? fall.value : 0), 0);
    return { next, changed };
  }

  /** A host's report came, but could not be stored. */
  heard(host: number, at: number): void {
    this.#heard.set(host, at);
  }

  /** When the receiver last came back from an absence, or began: silence before that says nothing. */
  get backAt(): number {
    return this.#backAt;
  }

  /** Leaves the alive mark. */
  async mark(now: number): Promise<void> {
    await this.#store.write((tx) => setNote(tx, "alive_at", String(now)));
    this.#marked = now;
  }

  /** Moves all deadlines by the time that the receiver was away, and gives that time. */
  async #giveBack(now: number): Promise<number> {
    const first = this.#looked === null;
    const before = this.#looked ?? Number((await getNote(this.#store.read, "alive_at")) ?? now);
    const gap = now - before;
    if (gap >= 0 && !first && gap < ABSENCE_MS) return 0;
    if (gap === 0) return 0;
    await this.#store.write(async (tx) => {
      if (gap > 0) {
        // At the start no host has reported since. Later only hosts count that were last seen before the gap.
        await tx.run(
          "UPDATE hosts SET away_ms = away_ms + $1 WHERE status IN ('online', 'stale') AND last_seen_at <= $2",
          [gap, first ? now : before + LOOK_MS],
        );
      } else {
        // Moves receipts to this clock, except those of reports since the clock was set.
        await tx.run("UPDATE hosts SET last_seen_at = last_seen_at + $1 WHERE last_seen_at > $2 OR last_seen_at < $3", [
          gap,
          now,
          first ? now : now - 2 * LOOK_MS,
        ]);
      }
      // In the same transaction: a receiver that is killed in between must not give the time twice.
      await setNote(tx, "alive_at", String(now));
    });
    for (const [host, at] of this.#heard) this.#heard.set(host, at + gap);
    this.#marked = now;
    if (Math.abs(gap) >= 1000)
      this.#log.info("was away: every deadline moves by that", { seconds: Math.round(gap / 1000) });
    return gap;
  }
}

/** Moves a host to stale or offline; 0 where a report came first. */
async function fallSilent(
  tx: Queries,
  { host, now, silence, offline }: { host: Watched; now: number; silence: number; offline: boolean },
): Promise<number> {
  const claim = await tx.run("UPDATE hosts SET status = $1 WHERE id = $2 AND status = $3 AND last_seen_at = $4", [
    offline ? "offline" : "stale",
    host.id,
    host.status,
    host.last_seen_at,
  ]);
  if (claim === 0) return 0;
  const text = (state: string) =>
    `${host.name} is ${state}: no report for ${duration(silence)} (every ${host.interval} s expected)`;
  if (host.status === "online") await raise(tx, { host: host.id, type: "host.stale", text: text("stale"), at: now });
  // One silence is one open alert: offline replaces stale.
  if (offline) await close(tx, { host: host.id, types: ["host.stale"], at: now });
  if (offline) await raise(tx, { host: host.id, type: "host.offline", text: text("offline"), at: now });
  return 1;
}
