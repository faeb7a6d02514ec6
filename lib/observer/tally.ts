// What the observer keeps of operations in memory: totals over all that were ever recorded, and the newest ones.

import * as v from "valibot";
import { cut } from "../text.ts";
import { type Operation, isRecorded } from "./operation.ts";
import { Count } from "./spells.ts";

/** The number of newest operations that are kept. */
export const RING_SIZE = 2000;
const SCENARIOS = 10;
/** An operation with more characters than this is shortened in memory; the log has all of it. */
const LARGEST_KEPT = 16_384;
const LARGEST_TEXT = 2048;

/** An operation of source `scenario`. */
const ScenarioOp = v.looseObject({ timestamp: v.string(), endpoint: v.string(), success: v.boolean() });
type ScenarioOp = v.InferOutput<typeof ScenarioOp>;

/** What a snapshot keeps of a tally. */
export const TallyState = v.object({
  total: Count,
  successes: Count,
  by_source: v.record(v.string(), Count),
  /** Oldest first. */
  ring: v.array(v.custom<Operation>(isRecorded)),
  scenarios: v.array(ScenarioOp),
});
type TallyState = v.InferOutput<typeof TallyState>;

/** Totals and the newest operations. */
export class Tally {
  /** Scenarios are newest first. */
  #counts: Omit<TallyState, "ring"> = { total: 0, successes: 0, by_source: {}, scenarios: [] };
  /** Grows to RING_SIZE; then the newest replaces the oldest, at `#next`. */
  #ring: Operation[] = [];
  #next = 0;

  /** Counts an operation. `length`: characters of its line in the log. */
  add(operation: Operation, length: number): void {
    const { by_source, scenarios } = this.#counts;
    this.#counts.total++;
    if (operation.success) this.#counts.successes++;
    by_source[operation.source] = (by_source[operation.source] ?? 0) + 1;
    this.#ring[this.#next] = length > LARGEST_KEPT ? shortened(operation) : operation;
    this.#next = (this.#next + 1) % RING_SIZE;
    if (operation.source === "scenario") {
      scenarios.unshift(scenarioOf(operation));
      if (scenarios.length > SCENARIOS) scenarios.pop();
    }
  }

  /** How many operations the ring holds. */
  get ringSize(): number {
    return this.#ring.length;
  }

  /** The figures of `/observer/stats`. */
  get stats() {
    const { total, successes, by_source, scenarios } = this.#counts;
    return { total, successes, failures: total - successes, by_source, recent_scenario_ops: scenarios };
  }

  /** The ring, newest first. */
  *newest(): Generator<Operation> {
    const size = this.#ring.length;
    for (let back = 1; back <= size; back++) yield this.#ring[(this.#next - back + size) % size]!;
  }

  get state(): TallyState {
    return { ...this.#counts, ring: [...this.newest()].toReversed() };
  }

  set state({ ring, ...counts }: TallyState) {
    this.#counts = counts;
    this.#ring = ring.slice(-RING_SIZE);
    this.#next = this.#ring.length % RING_SIZE;
  }
}

function scenarioOf(operation: Operation): ScenarioOp {
  const { timestamp, endpoint, success, duration_ms, event_kind, role, city, state, count, staffer_id } = operation;
  const short = (text: string | undefined) => text && cut(text, LARGEST_TEXT);
  return {
    timestamp,
    endpoint,
    success,
    duration_ms,
    kind: short(event_kind),
    role: short(role),
    city: short(city),
    state: short(state),
    count,
    staffer_id: short(staffer_id),
  };
}

/** The operation with texts cut and without lists and maps, so that 2000 of them stay small. */
function shortened(operation: Operation): Operation {
  let left = LARGEST_KEPT;
  const { timestamp, endpoint, source, success, duration_ms, input_summary, output_summary, ...rest } = operation;
  // Every operation has these fields: they come first, so that there is room for them.
  const first = { timestamp, endpoint, source, success, duration_ms, input_summary, output_summary };
  const ordered = [...Object.entries(first), ...Object.entries(rest)];
  const fields = ordered.flatMap(([name, value]): [string, unknown][] => {
    if (typeof value === "object" || left <= 0 || name.length > 256) return [];
    const kept = typeof value === "string" ? cut(value, LARGEST_TEXT) : value;
    left -= name.length + (typeof kept === "string" ? kept.length : 8);
    return [[name, kept]];
  });
  return { ...(Object.fromEntries(fields) as Operation), shortened: true };
}
