// One delivery: looks at its inboxes, sends what is due, one message at a time, and moves the marks.
//
//   1. the message in hand is noted: killed from here on, it is sent again with the same events and the same id
//   2. the channel sends it
//   3. after a 2xx its reminders are noted, then the mark moves; killed in between, the message is sent again
//
// What fails is tried again, with the events that the message had, for ever: after a pause that doubles up to five minutes, with jitter, or after
// the answer's Retry-After; hourly where the other side refuses it (it is "held"), and at a reload. The times are those of the wall
// clock, so that a restart changes nothing.

import type { HandledIds } from "../../handled.ts";
import type { Inboxes } from "../../inboxes.ts";
import { type Log, errorChain, seldom } from "../../log.ts";
import { derivedId } from "../../outbox.ts";
import type { ReadEvent } from "../../reader.ts";
import { cut } from "../../text.ts";
import { type Next, type Reminder, type Waiting, MINUTE_MS, countSent, nextMessage } from "./batch.ts";
import { type Channel, isHeld } from "./channel.ts";
import { ALL, type DeliverySettings } from "./config.ts";
import { type Lane, openLane } from "./lane.ts";
import { type State, parseState } from "./state.ts";

const HOUR_MS = 60 * MINUTE_MS;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 5 * MINUTE_MS;
/** At a stop: how long a message under way may take. */
const GRACE_MS = 800;
/** So many open events are sent again, the newest; and of each so many characters. */
const MOST_REMINDERS = 200;
const REMINDER_CHARACTERS = 2000;

export interface SenderContext {
  inboxes: Inboxes;
  log: Log;
  /** Puts it into a recipient's inbox that a delivery is held. */
  tell: (held: { delivery: string; recipient: string; since: number; text: string }) => Promise<void>;
}

export interface Settings {
  settings: DeliverySettings;
  channel: Channel;
}

export type Sender = ReturnType<typeof createSender>;

export function createSender({ inboxes, log, tell }: SenderContext, first: Settings) {
  let { settings, channel } = first;
  const { name } = settings;
  const lanes = new Map<string, Lane>();
  const handled = new Map<string, HandledIds>();
  const rare = seldom(log);
  const figures = { delivered: 0, failed: 0 };
  const place = inboxes.delivery(name);
  let state = parseState(null);
  /** What `hold` gave last: whether this process sends. */
  let held = 0;
  /** What a reload gave; it counts from the next turn on. */
  let given: Settings | null = null;
  const closing = new AbortController();
  let busy: Promise<boolean> | null = null;
  let sending: { lane: Lane | undefined; stop: AbortController } | null = null;
  /** Moves the mark behind what was delivered, where that has failed: it isn't sent again for that. */
  let owed: (() => Promise<unknown>) | null = null;
  let next: Next = { kind: "wait", until: 0, why: "" };

  /** Looks whether this process sends. Where it begins to, it goes on from what another has noted. */
  async function takeOver(): Promise<boolean> {
    const before = held;
    held = await place.hold();
    if (held === 0 || held === before) return held > 0;
    state = parseState(await place.read());
    for (const lane of lanes.values()) lane.close();
    lanes.clear();
    return true;
  }

  /** Changes the state; where it can't be written, it counts all the same. */
  async function keep(change: Partial<State>): Promise<void> {
    state = { ...state, ...change };
    try {
      await place.write(`${JSON.stringify(state)}\n`);
    } catch (error) {
      rare.error("state", "the state of a delivery can't be written", { delivery: name, error });
    }
  }

  /** Takes over what a reload gave, and opens the lanes of inboxes that are new. */
  async function open(): Promise<void> {
    if (given !== null) {
      await channel.close?.();
      ({ settings, channel } = given);
      given = null;
      const recipients = await recipientsOf(inboxes, settings);
      for (const lane of lanes.values()) {
        lane.close();
        // A recipient that is configured again begins anew.
        if (!recipients.includes(lane.recipient)) await lane.forget();
      }
      lanes.clear();
    }
    // What is there already when it begins isn't sent; an inbox that appears later is new as a whole.
    const begins = !Bun.deepEquals(state.recipients.toSorted(), settings.recipients.toSorted());
    for (const recipient of await recipientsOf(inboxes, settings)) {
      if (lanes.has(recipient)) continue;
      const lane = openLane({
        inboxes,
        delivery: name,
        recipient,
        min: settings.min,
        warn: (text) => rare.warn(text, text),
      });
      // One that can't be read holds up no other, and is sent as a whole once it can.
      try {
        if (!(await lane.isBegun())) await lane.begin(begins ? "now" : "start");
        lanes.set(recipient, lane);
      } catch (error) {
        lane.close();
        rare.error(recipient, "inbox not read", { delivery: name, recipient, error });
      }
    }
    if (begins) await keep({ recipients: settings.recipients });
  }

  async function look(now: number): Promise<void> {
    for (const lane of lanes.values()) {
      try {
        if (await lane.isMoved()) await keep({ in_hand: null, failing: tryNow() });
        await lane.look(now);
      } catch (error) {
        rare.error(lane.recipient, "inbox not read", { delivery: name, recipient: lane.recipient, error });
      }
    }
    const { reminders } = state;
    for (const recipient of new Set(reminders.map((one) => one.recipient))) await handledOf(recipient).refresh();
    const isOpen = (one: Reminder): boolean => lanes.has(one.recipient) && (one.at > now || !isHandled(one));
    const open = settings.remind_minutes === undefined ? [] : reminders.filter(isOpen);
    if (open.length < reminders.length) await keep({ reminders: open });
  }

  const handledOf = (recipient: string): HandledIds =>
    handled.getOrInsertComputed(recipient, () => inboxes.handled(recipient));
  const isHandled = ({ recipient, event }: Reminder): boolean => handledOf(recipient).has(event.id);
  const tryNow = (): State["failing"] => state.failing && { ...state.failing, next_at: 0 };

  /** Looks, and sends one message if one is due. Gives whether it did something. */
  async function turn(): Promise<boolean> {
    const now = Date.now();
    try {
      if (!(await takeOver())) return false;
      await open();
      if (owed && !isPaused(state, now)) {
        await owed();
        owed = null;
      }
      await look(now);
      next = decide({ settings, state, waiting: [...lanes.values()].map((lane) => lane.waiting()), now });
      if (next.kind === "wait") return false;
      await send(next, now);
    } catch (error) {
      if (!closing.signal.aborted) await failed(error, null);
    }
    return true;
  }

  async function send(what: Exclude<Next, { kind: "wait" }>, now: number): Promise<void> {
    const { recipient } = what;
    const lane = lanes.get(recipient);
    const batch = what.kind === "events" ? await gather(lane!, what, now) : reminderOf(what, state);
    if (batch === null || (await place.hold()) !== held) return;
    const { id, events, count } = batch;
    const stop = new AbortController();
    sending = { lane, stop };
    try {
      const reminder = what.kind === "reminder";
      const message = { id, recipient, events, omitted: count - events.length, reminder };
      const answer = await channel.send(message, AbortSignal.any([closing.signal, stop.signal]));
      if (!/^\d+$/.test(answer)) log.warn("delivery is incomplete", { delivery: name, answer });
    } catch (error) {
      if (!closing.signal.aborted && !stop.signal.aborted) await failed(error, recipient);
      return;
    } finally {
      sending = null;
    }
    if (what.kind === "events") figures.delivered += count;
    await delivered(recipient, events);
    owed = batch.accept;
    await owed();
    owed = null;
    state = { ...state, in_hand: null };
  }

  async function gather(lane: Lane, { recipient, urgentOnly, all }: Next & { kind: "events" }, now: number) {
    const { in_hand: before } = state;
    const isSame = before?.recipient === recipient && before.urgent_only === urgentOnly;
    const batch = await lane.gather({ urgentOnly, all, count: isSame ? before.count : null, now });
    await keep({ in_hand: batch && { recipient, urgent_only: urgentOnly, count: batch.count } });
    return batch;
  }

  /** Notes a message that was taken, and what of it is sent again. */
  async function delivered(recipient: string, events: ReadEvent[]): Promise<void> {
    const { failing, sent, reminders } = state;
    if (failing) log.info("delivery works again", { delivery: name, after: failing.tries });
    const now = Date.now();
    const at = now + (settings.remind_minutes ?? 0) * MINUTE_MS;
    const again = settings.remind_minutes === undefined ? [] : events.filter(isReminded);
    const ids = new Set(again.map(({ id }) => id));
    const fresh = again.map((event) => ({
      recipient,
      at,
      event: { ...event, payload: cut(event.payload, REMINDER_CHARACTERS) },
    }));
    const others = reminders.filter((one) => one.recipient !== recipient || !ids.has(one.event.id));
    await keep({ sent: countSent(sent, now), failing: null, reminders: [...others, ...fresh].slice(-MOST_REMINDERS) });
  }

  async function failed(error: unknown, recipient: string | null): Promise<void> {
    const held = isHeld(error);
    const now = Date.now();
    const { since = now, tries = 0, told = false } = state.failing ?? {};
    const text = errorChain(error);
    const pause = held ? HOUR_MS : Math.max(backoff(tries), retryAfterOf(error));
    const failing = { since, error: text, tries: tries + 1, next_at: now + pause, held, told };
    figures.failed++;
    const fields = { delivery: name, error: text, retry_in_seconds: Math.round(pause / 1000) };
    if (held && !state.failing?.held) log.error("delivery held: the other side refuses it", fields);
    else if (tries === 0) log.warn("delivery failed, it is tried again", fields);
    else log.debug("delivery failed again", { ...fields, tries });
    await keep({ failing });
    if (!held || told || recipient === null) return;
    try {
      await tell({
        delivery: name,
        recipient,
        since,
        text: `delivery ${name} is held: ${text}; picket-collector deliver test ${name}`,
      });
      await keep({ failing: { ...failing, told: true } });
    } catch (problem) {
      rare.error("tell", "the inbox doesn't say that a delivery is held", { delivery: name, error: problem });
    }
  }

  /** `deliver skip` leaves out what is being sent; and another process may send it, where this one stood still. */
  async function stopWhereMoved({ lane, stop }: NonNullable<typeof sending>): Promise<void> {
    if ((await place.hold()) !== held || (await lane?.isMoved())) stop.abort();
  }

  return {
    name,
    figures,
    /** Opens its inboxes: what comes from here on is delivered. */
    async begin(): Promise<void> {
      if (!(await takeOver())) return;
      await open();
      await keep({ failing: tryNow() });
    },
    /** Begins a turn unless one is under way. `ended` is called after one that did something. */
    pass(ended: () => void): void {
      if (sending) stopWhereMoved(sending).catch(() => {});
      busy ??= turn().then((more) => {
        busy = null;
        if (more) ended();
        return more;
      });
    },
    /** In how many milliseconds it wants to look again. */
    pauseMs: (now: number): number => (busy !== null || next.kind !== "wait" ? Infinity : next.until - now),
    /** Takes other settings over, and tries again what failed. */
    async configure(fresh: Settings): Promise<void> {
      given = fresh;
      if (held > 0) await keep({ failing: tryNow() });
    },
    standing: () => (held > 0 ? standingOf({ settings, state, lanes: [...lanes.values()], now: Date.now() }) : STANDBY),
    /** Waits a moment for what is under way, then aborts it: it stays undelivered. */
    async close(): Promise<void> {
      const late = setTimeout(() => closing.abort(), GRACE_MS);
      await busy;
      clearTimeout(late);
      await channel.close?.();
      for (const lane of lanes.values()) lane.close();
      if (held > 0) await keep({});
      await place.release();
    },
    /** Removes what it keeps: a delivery that is configured again begins anew. */
    async forget(): Promise<void> {
      for (const lane of lanes.values()) await lane.forget();
      await place.remove();
    },
  };
}

/** Another collector sends. */
const STANDBY = { state: "standby" as const, waiting: 0, why: "", until: null, error: null, since: null };

/** The inboxes of a delivery that are there, and those that it names. */
export async function recipientsOf(inboxes: Inboxes, { recipients }: DeliverySettings): Promise<string[]> {
  const found = recipients.includes(ALL) ? await inboxes.recipients() : [];
  return [...new Set([...recipients.filter((one) => one !== ALL), ...found])];
}

interface Situation {
  settings: DeliverySettings;
  state: State;
  waiting: Waiting[];
  now: number;
}

function decide({ settings, state, waiting, now }: Situation): Next {
  const { failing, reminders, sent } = state;
  if (isPaused(state, now)) return { kind: "wait", until: failing!.next_at, why: failing!.held ? "held" : "retry" };
  return nextMessage({ waiting, reminders, sent, rules: settings, now });
}

/** Whether what failed isn't tried again yet. A time that lies further ahead comes from a clock that was set back since. */
function isPaused({ failing }: State, now: number): boolean {
  return failing !== null && now < failing.next_at && failing.next_at - now <= 2 * HOUR_MS;
}

/** Where a delivery stands: for `/health` and `deliver list`. */
export function standingOf({ settings, state, lanes, now }: Omit<Situation, "waiting"> & { lanes: Lane[] }) {
  const all = lanes.map((lane) => lane.waiting());
  const waiting = all.reduce((sum, { urgent, normal }) => sum + urgent.count + normal.count, 0);
  const { failing } = state;
  const next = decide({ settings, state, waiting: all, now });
  return {
    state: failing === null ? ("ok" as const) : failing.held ? ("held" as const) : ("retrying" as const),
    waiting,
    /** What it waits for; "" for nothing. */
    why: next.kind === "wait" ? next.why : "",
    until: next.kind === "wait" && Number.isFinite(next.until) ? new Date(next.until).toISOString() : null,
    error: failing?.error ?? null,
    since: failing && new Date(failing.since).toISOString(),
  };
}

const isReminded = ({ id, priority, type }: ReadEvent): boolean =>
  id !== "" && (priority === "urgent" || type === "NEEDS-RESPONSE");

/** A reminder as a message. Each round has an id of its own, or the other side would take it for a repeat. */
function reminderOf({ recipient, events }: Next & { kind: "reminder" }, { reminders }: State) {
  const due = reminders.filter((one) => one.recipient === recipient && events.includes(one.event));
  const rounds = due.map(({ at, event }) => `${event.id} ${at}`);
  const accept = (): Promise<boolean> => Promise.resolve(true);
  return { events, count: events.length, id: derivedId(`reminder ${rounds.join(" ")}`), accept };
}

function backoff(tries: number): number {
  return Math.min(FIRST_PAUSE_MS * 2 ** tries, LONGEST_PAUSE_MS) * (0.5 + Math.random() / 2);
}

/** In milliseconds. */
function retryAfterOf(error: unknown): number {
  return ((error as { retryAfter?: number | null } | null)?.retryAfter ?? 0) * 1000;
}
