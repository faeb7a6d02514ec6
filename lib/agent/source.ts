// A source of a report: something that may fail, answer late or never. It delays no report for longer than WAIT_MS, and while an
// answer is pending it isn't asked again: a thread or a process that hangs stays the only one.

import { errorChain } from "../log.ts";

/** Logs what a report lacks; `kind` limits repetitions. */
export type Warn = (kind: string, text: string) => void;

/** How long a report waits for an answer. */
export const WAIT_MS = 2000;

/**
 * Asks `ask`. Null where it fails or doesn't answer in time, which is logged once, until it answers again.
 * @param what names the source in the log.
 */
export function source<A extends unknown[], T>(
  what: string,
  ask: (...given: A) => Promise<T> | T,
  warn: Warn,
): (...given: A) => Promise<T | null> {
  let pending = false;
  let said = "";
  const give = (why: string): null => {
    if (why !== said) warn(what, `${what} not read: ${why}`);
    said = why;
    return null;
  };
  const answer = async (given: A): Promise<T | null> => {
    pending = true;
    try {
      const answered = await ask(...given);
      said = "";
      return answered;
    } catch (error) {
      return give(errorChain(error));
    } finally {
      pending = false;
    }
  };
  return async (...given) => {
    if (pending) return null;
    const { promise: late, resolve } = Promise.withResolvers<null>();
    const timer = setTimeout(() => resolve(give(`no answer within ${WAIT_MS / 1000} s`)), WAIT_MS);
    try {
      return await Promise.race([answer(given), late]);
    } finally {
      clearTimeout(timer);
    }
  };
}
