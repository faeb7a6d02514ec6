// Decides that a host is silent: the dead-man's switch.
//
//   pending → online → (2 intervals without a report) stale → (4) offline → (a report) online
//
// Silence is counted in the receiver's own running time, `ran`: milliseconds by the monotonic clock, over all starts of the daemon.
// It stands still while the receiver is down, stopped or asleep and while the store fails; setting the wall clock doesn't move it.
// Each report stores it at its host (`heard_ms`).
//
// Of several receivers on one store, the one that leads (`Store.leads`) counts, and leaves the alive mark each second with the time
// by the database's clock. The others read it each second and count on from it, for three seconds at most. A new leader goes on from
// the mark: the time between two leaders is no host's silence. For a moment there may be two, where one lost its connection or was
// stopped: a mark that is ahead of one's own stays, and every transition is claimed.
//
// The wall clock is compared with `line`, the time that the last look makes expect. A clock that is further from it than a
// report may be from the clock is doubted: either the receiver was away for long, or the clock is wrong. Until it agrees with
// the line again, or has run for a week, nothing is deleted for its age and no report is refused for its time alone.
//
// A conditional update makes each transition, so that a report at the same moment either prevents it or ends it.

import type { Log } from "../log.ts";
import { duration } from "../text.ts";
import { close, raise } from "./alerts.ts";
import { note } from "./events.ts";
import type { Status } from "./hosts.ts";
import type { Queries } from "../database.ts";
import { AHEAD_MS, BEHIND_MS } from "./report.ts";
import { type Store, getNote, setNote } from "./store.ts";

/** The longest time between two looks, in milliseconds. */
export const LOOK_MS = 1000;
/** Longer than this between two looks is an absence. */
const ABSENCE_MS = 3 * LOOK_MS;
/** The greatest age of the alive mark, and of one that other receivers count on from. */
const MARK_MS = { alone: 5000, shared: LOOK_MS / 2 };
const WEEK_MS = 7 * 86_400_000;
const STALE_AFTER = 2;
/** After so many intervals without a report a host is offline. */
export const OFFLINE_AFTER = 4;

interface Watched {
  id: number;
  name: string;
  status: Status;
  heard_ms: number;
  interval: number;
  offline_is_fine: 0 | 1;
}

/** What a pass found. */
interface PresencePass {
  /** Milliseconds until something may be due. */
  next: number;
  /** How many hosts changed. */
  changed: number;
  /** Whether more hosts will be offline soon, unless they report. */
  sinking: boolean;
}

/** The alive mark, which the next start goes on from. */
interface Life {
  ran: number;
  line: number;
  /** `ran` when the doubt began; null while the clock is believed. */
  doubted: number | null;
  /** The time of the mark by the database's clock. */
  at?: number;
}

/** Watches over the hosts of a store. */
export class Presence {
  #store: Store;
  #log: Log;
  #life: Life = { ran: 0, line: 0, doubted: null };
  /** Whether this receiver leads. */
  #leads = false;
  /** performance.now() of the last look, this receiver's or the leader's. */
  #looked = Number.NEGATIVE_INFINITY;
  /** performance.now() of the last alive mark. */
  #marked = Number.NEGATIVE_INFINITY;
  /** How far the clock was ahead of the line at the last look. */
  #off = 0;
  /** Whether the clock is doubted because it was set while the receiver ran. */
  #wasSet = false;
  #backAt = Date.now();
  /** `ran` at the last request with a host's token that was not taken: a sign of life all the same. The alive mark keeps it. */
  #heard = new Map<number, number>();
  /** performance.now() when the store last failed a request before its host was known. */
  #failed = Number.NEGATIVE_INFINITY;

  constructor(store: Store, log: Log) {
    this.#store = store;
    this.#log = log;
  }

  /**
   * One pass; null where another receiver leads. The first must run before any report comes.
   * @param options.now milliseconds since 1970.
   * @param options.interval seconds between reports for a host that was told none yet.
   */
  async pass({ now, interval }: { now: number; interval: number }): Promise<PresencePass | null> {
    const led = this.#leads;
    const leads = await this.#store.leads().catch((error: unknown) => {
      this.#leads = false;
      throw error;
    });
    if (!leads) {
      this.#leads = false;
      await this.#follow();
      return null;
    }
    if (!led) await this.#resume(now);
    this.#leads = true;
    await this.#look({ now, interval, first: !led });
    // Those that are silent, or will be before the next look.
    const watched = await this.#store.read.all<Watched>(
      `SELECT id, name, status, heard_ms, COALESCE(told_interval, $1) AS interval, offline_is_fine FROM hosts
       WHERE status IN ('online', 'stale') AND paused_until IS NULL AND heard_ms <= $2 - COALESCE(told_interval, $1) * $3`,
      [interval, Math.floor(this.#life.ran) + LOOK_MS, STALE_AFTER * 1000],
    );
    let next = LOOK_MS;
    let sinking = false;
    const falls: Promise<number>[] = [];
    for (const host of watched) {
      const silence = this.#life.ran - Math.max(host.heard_ms, this.#heard.get(host.id) ?? 0);
      const stale = STALE_AFTER * host.interval * 1000;
      const offline = OFFLINE_AFTER * host.interval * 1000;
      if (silence >= offline || (silence >= stale && host.status === "online")) {
        const fall = { host, now, silence, offline: silence >= offline };
        falls.push(this.#store.write((tx) => fallSilent(tx, fall), [host.id]));
      }
      // Hosts that fall silent together cross the line within an interval.
      if (silence >= stale && silence < offline && offline - silence <= interval * 1000) sinking = true;
      const due = silence < stale ? stale - silence : offline - silence;
      if (due > 0) next = Math.min(next, due);
    }
    // Together, so that they share transactions: one by one a large fleet would take so long that the next pass saw an absence.
    const fallen = await Promise.allSettled(falls);
    const failed = fallen.find((fall) => fall.status === "rejected");
    if (failed) throw failed.reason;
    const changed = fallen.reduce((sum, fall) => sum + (fall.status === "fulfilled" ? fall.value : 0), 0);
    return { next, changed, sinking };
  }

  /** Whether this receiver does the work that one of all does. */
  get leads(): boolean {
    return this.#leads;
  }

  /** The running time now. */
  async ran(): Promise<number> {
    // This receiver was stopped for a while, and others went on; or none leads now.
    if (!this.#store.isFile && performance.now() - this.#looked >= ABSENCE_MS) await this.#follow();
    return this.#ran;
  }

  get #ran(): number {
    return Math.floor(this.#life.ran + Math.min(performance.now() - this.#looked, ABSENCE_MS));
  }

  /** A request with this host's token came, and was not taken. */
  heard(host: number): void {
    this.#heard.set(host, this.#ran);
  }

  /** The store failed a request whose host is unknown: no host counts as silent while such requests come. */
  storeFailed(): void {
    this.#failed = performance.now();
  }

  /** When the receiver last came back from an absence, or began: silence before that says nothing. */
  get backAt(): number {
    return this.#backAt;
  }

  /** Whether the clock may be wrong; one that was set since the last look, too. */
  get clockDoubted(): boolean {
    const { doubted, line } = this.#life;
    return doubted !== null || !agrees(Date.now() - line - (performance.now() - this.#looked));
  }

  /** The time that pauses end by: a clock that was set meanwhile doesn't count. */
  get pauseClock(): number {
    return this.#wasSet ? Math.floor(this.#life.line) : Date.now();
  }

  /** Leaves the alive mark, where this receiver leads, and the signs of life that no report has left. */
  async mark(): Promise<void> {
    const heard = [...this.#heard];
    const life = this.#leads ? { ...this.#life, at: await this.#store.clock() } : null;
    if (life === null && heard.length === 0 && this.#store.problem === null) return;
    await this.#store.write(
      async (tx) => {
        if (life && ((await readLife(tx))?.ran ?? 0) <= life.ran) await setNote(tx, "alive", JSON.stringify(life));
        // While the store fails a balancer sends nothing: this is how it is noticed that it works again.
        if (!life) await tx.run("UPDATE meta SET value = value WHERE key = 'alive'");
        for (const [host, ran] of heard)
          await tx.run("UPDATE hosts SET heard_ms = $1 WHERE id = $2 AND heard_ms < $1", [ran, host]);
      },
      heard.map(([host]) => host),
    );
    for (const [host, ran] of heard) if (this.#heard.get(host) === ran) this.#heard.delete(host);
    this.#marked = performance.now();
  }

  /** Counts on from the leader's mark. */
  async #follow(): Promise<void> {
    await this.mark();
    const [life, clock] = await Promise.all([readLife(this.#store.read), this.#store.clock()]);
    this.#life = life ?? { ran: 0, line: Date.now(), doubted: null };
    this.#looked = performance.now() - Math.max(0, clock - (life?.at ?? clock));
  }

  /** Goes on from the alive mark. */
  async #resume(now: number): Promise<void> {
    const { read } = this.#store;
    const line = Number((await getNote(read, "alive_at")) ?? now);
    this.#life = (await readLife(read)) ?? { ran: 0, line, doubted: null };
    // Reports may have come after the mark.
    const newest = await read.one<{ ran: number | null }>("SELECT MAX(heard_ms) AS ran FROM hosts");
    this.#life.ran = Math.max(this.#life.ran, newest?.ran ?? 0);
    [this.#off, this.#wasSet] = [0, false];
    this.#looked = performance.now();
  }

  /** Counts the running time since the last look, and compares the clock with it. `first`: this receiver did not lead before. */
  async #look({ now, interval, first }: { now: number; interval: number; first: boolean }): Promise<void> {
    const here = performance.now();
    const gap = here - this.#looked;
    const away = gap >= ABSENCE_MS;
    this.#looked = here;
    const life = this.#life;
    if (!away && here - this.#failed >= STALE_AFTER * interval * 1000) life.ran += gap;
    life.line += away ? 0 : gap;
    const off = now - life.line;
    const moved = off - this.#off;
    const was = life.doubted;
    if (!agrees(off)) life.doubted ??= life.ran;
    if (!agrees(off) && !first && !away) this.#wasSet = true;
    if (agrees(off) || life.ran - life.doubted! >= WEEK_MS) {
      life.doubted = null;
      life.line = now;
      this.#wasSet = false;
    }
    this.#off = now - life.line;
    if (Math.abs(moved) >= LOOK_MS) {
      this.#backAt = now;
      this.#logMove(Math.round(moved / 1000), was);
    }
    const markMs = MARK_MS[this.#store.isFile ? "alone" : "shared"];
    if (here - this.#marked >= markMs || Math.abs(moved) >= LOOK_MS || was !== life.doubted) await this.mark();
  }

  #logMove(seconds: number, was: number | null): void {
    const { doubted } = this.#life;
    if (doubted === null && was === null) this.#log.info("was away: that time is no host's silence", { seconds });
    else if (doubted === null) this.#log.info("the clock is right again", { seconds });
    else {
      const what =
        "was away for long, or the clock is wrong: until it is right or has run for a week, nothing is deleted";
      this.#log.warn(what, { seconds });
    }
  }
}

/**
 * How long ago the daemon last marked that it runs, in milliseconds: a few seconds while it does, infinite where it never has. 0 where the
 * mark can't be compared with the clock.
 */
export async function silenceOf(db: Queries, now: number): Promise<number> {
  const life = await readLife(db);
  if (life === null) return Infinity;
  return life.doubted === null ? Math.max(0, now - life.line) : 0;
}

async function readLife(db: Queries): Promise<Life | null> {
  const text = await getNote(db, "alive");
  return text === null ? null : (JSON.parse(text) as Life);
}

/** Whether a clock that is so far ahead of the line, in milliseconds, is believed. */
function agrees(off: number): boolean {
  return off >= -AHEAD_MS && off <= BEHIND_MS;
}

/** Moves a host to stale or offline; 0 where a report came first. */
async function fallSilent(
  tx: Queries,
  { host, now, silence, offline }: { host: Watched; now: number; silence: number; offline: boolean },
): Promise<number> {
  const claim = await tx.run("UPDATE hosts SET status = $1 WHERE id = $2 AND status = $3 AND heard_ms = $4", [
    offline ? "offline" : "stale",
    host.id,
    host.status,
    host.heard_ms,
  ]);
  if (claim === 0) return 0;
  const { id, name, interval } = host;
  const text = (state: string) =>
    `${name} is ${state}: no report for ${duration(silence)} (every ${interval} s expected)`;
  if (host.status === "online") {
    // Known to the log and to readers of events, but not worth a line in the inbox: a reboot takes as long.
    const stale = { host: id, type: "host.stale", text: text("stale"), at: now } as const;
    if (await raise(tx, stale)) await note(tx, { ...stale, severity: "warning", quiet: true });
  }
  if (!offline || host.offline_is_fine) return 1;
  // One silence is one open alert: offline replaces stale.
  await close(tx, { host: id, types: ["host.stale"], at: now });
  const figures = { silent_ms: Math.round(silence) };
  await raise(tx, { host: id, type: "host.offline", text: text("offline"), at: now, figures });
  return 1;
}
