// When failures of one cluster are due for escalation. There are two counts of them, each with the levels 1, 10 and 100:
//
//   spell   failures without a silence of `cooldown` between them: `threshold` of them within `window` reach level 1,
//           10 and 100 times as many in the spell reach the next levels
//   run     failures without a success of their endpoint between them, however far apart: `consecutive` of them reach level 1
//
// Former spells and runs stay listed with the level that they reached. So it doesn't matter when the escalations look, nor in which
// order the failures come in: only the operations, their own times and (for runs) their order in the log decide.

import * as v from "valibot";

/** When a cluster is escalated. */
export interface EscalationRules {
  threshold: number;
  windowMs: number;
  cooldownMs: number;
  /** 0: runs are not escalated. */
  consecutive: number;
}

export const LEVELS = [1, 10, 100] as const;
/** By how many times the threshold it was reached. */
export type Level = (typeof LEVELS)[number];

export const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
/** A time in milliseconds since 1970. */
export const Instant = v.pipe(v.number(), v.minValue(-8.64e15), v.maxValue(8.64e15));

/** Failures that are counted together. */
const Counted = v.object({
  begin: Instant,
  end: Instant,
  count: Count,
  /** The highest level that was reached. */
  reached: v.picklist([0, ...LEVELS]),
});
export type Counted = v.InferOutput<typeof Counted>;

/** `recent`: times of the newest failures, ascending; at most twice `threshold` of them. */
export const Spell = v.object({ ...Counted.entries, recent: v.array(v.number()) });
export type Spell = v.InferOutput<typeof Spell>;

/** `after`: the number of the success that it follows. */
export const Run = v.object({ ...Counted.entries, after: Count });
export type Run = v.InferOutput<typeof Run>;

/** Of this many spells or runs the oldest are dropped, those without a level first. */
const MOST = 8;

/** Counts a failure in the spell that it falls into, and raises its level. */
export function countInSpell(spells: Spell[], at: number, rules: EscalationRules): void {
  const { threshold, windowMs, cooldownMs } = rules;
  let spell = spells.findLast(({ begin, end }) => at - end < cooldownMs && begin - at < cooldownMs);
  if (spell === undefined) keep(spells, (spell = { ...startingAt(at), recent: [] }));
  extend(spell, at);
  const { recent } = spell;
  const place = recent.findLastIndex((time) => time <= at) + 1;
  recent.splice(place, 0, at);
  const isDense = recent.some((time, first) => {
    const last = first + threshold - 1;
    return first <= place && place <= last && last < recent.length && recent[last]! - time <= windowMs;
  });
  if (recent.length > 2 * threshold) recent.splice(0, recent.length - 2 * threshold);
  if (isDense || spell.reached > 0) spell.reached = levelAt(spell.count / threshold) || 1;
}

/** Counts a failure in the run that follows the success of this number, and raises its level. */
export function countInRun(
  runs: Run[],
  { at, after }: { at: number; after: number },
  { consecutive }: EscalationRules,
): void {
  if (consecutive === 0) return;
  let run = runs.at(-1);
  if (run?.after !== after) keep(runs, (run = { ...startingAt(at), after }));
  extend(run, at);
  run.reached = levelAt(run.count / consecutive);
}

function startingAt(at: number): Counted {
  return { begin: at, end: at, count: 0, reached: 0 };
}

function extend(counted: Counted, at: number): void {
  counted.count++;
  counted.begin = Math.min(counted.begin, at);
  counted.end = Math.max(counted.end, at);
}

function keep<T extends Counted>(list: T[], added: T): void {
  list.push(added);
  if (list.length <= MOST) return;
  const index = list.findIndex(({ reached }) => reached === 0);
  list.splice(index < 0 || index === MOST ? 0 : index, 1);
}

function levelAt(times: number): Level | 0 {
  return LEVELS.findLast((level) => times >= level) ?? 0;
}
