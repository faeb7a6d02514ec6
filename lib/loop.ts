// The loops of a daemon: each calls one pass again and again, after a while or when it is woken.
//
// Signs of life. A loop gives one after every pass, when a pass calls `alive()`, and between passes from its own waiting,
// in steps of a third of the watchdog's period. A loop that hangs in a pass gives none. Only a loop's own sign ever
// leads to WATCHDOG=1, and only while no other loop has been silent for the whole period; so a single loop that hangs,
// or an event loop that stands still, lets the watchdog run out. Without a watchdog nothing wakes up for it.

import { errorChain, type Log } from "./log.ts";

/** How long a slice of `inSlices` takes. */
const SLICE_MS = 10;
/** The longest that setTimeout can wait: 2^31 - 1 ms. */
const LONGEST_WAIT_MS = 2_147_483_647;

export interface LoopOptions {
  /** What the log and the figures call it. */
  name: string;
  /** Seconds from the start of one pass to the start of the next, asked anew each time. A longer pass delays the next. */
  every: () => number;
  /** One pass. It calls `alive` at each step when it may take longer than a part of the watchdog's period. */
  pass: (alive: () => void) => Promise<void>;
}

/** Figures of a loop since its start. */
export interface LoopStats {
  passes: number;
  /** Passes that threw; they are among `passes`. */
  failures: number;
  /** The last failure's messages; left out when there was none. */
  last_error?: string;
  /** When the last pass ended, RFC 3339; null before that. */
  last_pass_at: string | null;
  /** For how long the present pass has been running; 0 between passes. */
  running_for_seconds: number;
}

export interface Loop {
  /** Asks for a pass now. During a pass it asks for one more afterwards. */
  wake(): void;
  stats(): LoopStats;
}

type Member = ReturnType<typeof createLoop>;

/**
 * An empty set of loops that end when `stopping` is aborted.
 * @param options.watchdogMs the watchdog's period; null when there is none.
 * @param options.sign is told each sign of life, and whether all loops have given one within the period.
 */
export function createLoops(options: {
  log: Log;
  stopping: AbortSignal;
  watchdogMs: number | null;
  sign: (all: boolean) => void;
}) {
  const { log, stopping, watchdogMs, sign } = options;
  const members: Member[] = [];
  const running: Promise<void>[] = [];
  let started = false;
  stopping.addEventListener("abort", () => members.forEach((member) => member.ring()));

  /** Notes a sign of life and looks at the others. */
  function mark(member: Member): void {
    member.alive = performance.now();
    if (stopping.aborted) return;
    sign(members.every((other) => lives(other, member.alive)));
  }

  function lives(member: Member, now: number): boolean {
    const silent = now - member.alive;
    const hangs = watchdogMs !== null && silent >= watchdogMs;
    if (hangs && !member.hangs) {
      log.error("loop hangs: the watchdog is left to run out", {
        loop: member.name,
        seconds: Math.round(silent / 1000),
      });
    }
    member.hangs = hangs;
    return !hangs;
  }

  function begin(fresh: Member[]): void {
    const now = performance.now();
    for (const member of fresh) member.alive = now;
    for (const member of fresh) running.push(member.turns());
  }

  return {
    /** Adds a loop; it begins with `start`, or at once after that. */
    loop: (options: LoopOptions): Loop => {
      const step = watchdogMs === null ? LONGEST_WAIT_MS : Math.min(watchdogMs / 3, LONGEST_WAIT_MS);
      const member: Member = createLoop({ ...options, log, stopping, step, mark: () => mark(member) });
      members.push(member);
      if (started) begin([member]);
      return member;
    },
    start() {
      started = true;
      begin([...members]); // a copy: a first pass may add a loop, which then begins by itself
    },
    /** The loops whose last pass failed, each with its error. */
    failing: () => members.flatMap(({ name, failing }) => (failing() === null ? [] : `${name}: ${failing()}`)),
    /** Has every waiting loop ask again how long: after `every` may have changed. */
    reconsider: () => members.forEach((member) => member.ring()),
    /** Resolves when each has ended its pass after `stopping`. */
    async ended() {
      await Promise.all(running);
    },
  };
}

function createLoop(options: LoopOptions & { log: Log; stopping: AbortSignal; step: number; mark: () => void }) {
  const { name, every, pass, log, stopping, step, mark } = options;
  const failures = createFailures(name, log);
  let passes = 0;
  let lastPassAt: string | null = null;
  let runningSince: number | null = null;
  let wakes = 0;
  let ring: (() => void) | undefined;

  async function turns(): Promise<void> {
    while (!stopping.aborted) {
      const start = performance.now();
      wakes = 0;
      await onePass(start);
      await rest(start);
    }
  }

  async function onePass(start: number): Promise<void> {
    runningSince = start;
    try {
      await pass(mark);
      failures.over();
    } catch (error) {
      // A pass that was told to stop and says so didn't fail.
      if (!toldToStop(error, stopping)) failures.add(error);
    }
    passes++;
    lastPassAt = new Date().toISOString();
    runningSince = null;
  }

  /** Waits for the next pass; gives others a turn even when there is nothing to wait for. */
  async function rest(start: number): Promise<void> {
    const left = (): number => (wakes > 0 || stopping.aborted ? 0 : start + periodMs() - performance.now());
    do {
      mark();
      await pause(Math.min(Math.max(left(), 0), step));
    } while (left() > 0);
  }

  function periodMs(): number {
    const seconds = every();
    if (!(seconds > 0)) throw new RangeError(`loop ${name} cannot run every ${seconds} seconds`);
    return seconds * 1000;
  }

  async function pause(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    ring = resolve;
    await promise;
    clearTimeout(timer);
  }

  return {
    name,
    /** performance.now() of the last sign of life. */
    alive: 0,
    hangs: false,
    turns,
    ring: () => ring?.(),
    /** The error of the last pass; null when it succeeded. */
    failing: failures.now,
    wake() {
      wakes++;
      ring?.();
    },
    stats: (): LoopStats => ({
      passes,
      ...failures.stats(),
      last_pass_at: lastPassAt,
      running_for_seconds: runningSince === null ? 0 : (performance.now() - runningSince) / 1000,
    }),
  };
}

/**
 * The one place where failed passes are logged and counted. What repeats is logged at its 1st, 10th, 100th … time, so a
 * loop that fails at full rate can't fill the journal.
 */
function createFailures(loop: string, log: Log) {
  let failures = 0;
  let lastError: string | undefined;
  let lastShape = "";
  let repeated = 0;
  return {
    add(error: unknown): void {
      const message = errorChain(error);
      // A number in it (a port, an offset, a time) doesn't make it another failure.
      const shape = message.replace(/\d+/g, "#");
      repeated = repeated > 0 && shape === lastShape ? repeated + 1 : 1;
      lastShape = shape;
      lastError = message;
      failures++;
      if (!/^10*$/.test(String(repeated))) return;
      log.error("pass failed", { loop, error: message, times: repeated, failures });
      if (error instanceof Error && error.stack) log.debug(error.stack, { loop });
    },
    over(): void {
      if (repeated > 0) log.info("pass succeeds again", { loop, after: repeated, failures });
      repeated = 0;
    },
    now: () => (repeated > 0 ? (lastError ?? null) : null),
    stats: (): Pick<LoopStats, "failures" | "last_error"> =>
      lastError === undefined ? { failures } : { failures, last_error: lastError },
  };
}

/** Whether an error only says that something ended because `stopping` told it to. */
export function toldToStop(error: unknown, stopping: AbortSignal): boolean {
  return stopping.aborted && (error === stopping.reason || (error instanceof Error && error.name === "AbortError"));
}

/**
 * Splits a long computation into slices, so that requests are answered meanwhile: await the returned function between its steps.
 * @param alive is called at the end of each slice.
 */
export function inSlices(alive: () => void = () => {}): () => Promise<void> {
  let end = performance.now() + SLICE_MS;
  return async () => {
    if (performance.now() < end) return;
    alive();
    await new Promise<void>((next) => setImmediate(next));
    end = performance.now() + SLICE_MS;
  };
}

/** Does the work at the first call, and once for all that come within `ms` after it. */
export function atMostEvery(ms: number, work: () => void): () => void {
  let isResting = false;
  let isDue = false;
  return function call() {
    isDue = isResting;
    if (isResting) return;
    isResting = true;
    work();
    setTimeout(() => {
      isResting = false;
      if (isDue) call();
    }, ms).unref();
  };
}
