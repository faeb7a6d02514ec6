// A source of a report: something that may fail, answer late or never. It delays no report for longer than WAIT_MS, and while an
// answer is pending it isn't asked again: a thread or a process that hangs stays the only one.

import { errorChain } from "../log.ts";

/** Logs what a report lacks; `kind` limits repetitions. */
export type Warn = (kind: string, text: string) => void;

/** Notes why a source has no answer; null when it has one. */
export type Note = (what: string, why: string | null) => void;

/** How long a report waits for an answer. */
const WAIT_MS = 2000;

/** What can't be read now, by source. Each trouble is logged once, until the source answers again. */
export function createTroubles(warn: Warn): { note: Note; troubles: ReadonlyMap<string, string> } {
  const troubles = new Map<string, string>();
  return {
    troubles,
    note(what, why) {
      if (why === null) troubles.delete(what);
      else if (troubles.get(what) !== why) {
        troubles.set(what, why);
        warn(what, `${what} not read: ${why}`);
      }
    },
  };
}

/**
 * Asks `ask`. Null where it fails or doesn't answer in time.
 * @param what names the source.
 */
export function source<A extends unknown[], T>(
  what: string,
  ask: (...given: A) => Promise<T> | T,
  note: Note,
): (...given: A) => Promise<T | null> {
  let pending = false;
  const answer = async (given: A): Promise<T | null> => {
    pending = true;
    try {
      const answered = await ask(...given);
      note(what, null);
      return answered;
    } catch (error) {
      note(what, errorChain(error));
      return null;
    } finally {
      pending = false;
    }
  };
  return async (...given) => {
    if (pending) return null;
    const { promise: late, resolve } = Promise.withResolvers<null>();
    const timer = setTimeout(() => {
      note(what, `no answer within ${WAIT_MS / 1000} s`);
      resolve(null);
    }, WAIT_MS);
    try {
      return await Promise.race([answer(given), late]);
    } finally {
      clearTimeout(timer);
    }
  };
}
