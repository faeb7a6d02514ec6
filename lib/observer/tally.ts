// What the observer knows of operations without looking into its log: totals over all that was ever recorded, and the newest few.

import type { Operation, Source } from "./operation.ts";

/** So many of the newest operations are kept. */
export const RING_SIZE = 2000;
const SCENARIOS = 10;
/** An operation of more characters than this is kept shortened; the log has it whole. */
const LARGEST_KEPT = 16_384;
const LARGEST_TEXT = 2048;

/** The figures of `/observer/stats`, in this order. */
export interface Stats {
  total: number;
  successes: number;
  failures: number;
  by_source: Partial<Record<Source, number>>;
  recent_scenario_ops: ScenarioOp[];
}

/** An operation of source `scenario`; what is absent is left out. */
interface ScenarioOp {
  timestamp: string;
  endpoint: string;
  success: boolean;
  duration_ms: number;
  kind?: string;
  role?: string;
  city?: string;
  state?: string;
  count?: number;
  staffer_id?: string;
}

/** What a snapshot keeps of a tally. */
export interface TallyState {
  total: number;
  successes: number;
  by_source: Partial<Record<Source, number>>;
  /** Oldest first. */
  ring: Operation[];
  scenarios: ScenarioOp[];
}

/** Totals and the newest operations. */
export class Tally {
  #total = 0;
  #successes = 0;
  #bySource = new Map<Source, number>();
  /** Grows to RING_SIZE, then turns. */
  #ring: Operation[] = [];
  #next = 0;
  /** Newest first. */
  #scenarios: ScenarioOp[] = [];

  /** Counts one. `length`: characters of its line. */
  add(operation: Operation, length: number): void {
    this.#total++;
    if (operation.success) this.#successes++;
    this.#bySource.set(operation.source, (this.#bySource.get(operation.source) ?? 0) + 1);
    this.#ring[this.#next] = length > LARGEST_KEPT ? shortened(operation) : operation;
    this.#next = (this.#next + 1) % RING_SIZE;
    if (operation.source === "scenario") {
      this.#scenarios.unshift(scenarioOf(operation));
      if (this.#scenarios.length > SCENARIOS) this.#scenarios.pop();
    }
  }

  /** How many operations the ring holds. */
  get ringSize(): number {
    return this.#ring.length;
  }

  /** Everything ever recorded. */
  get total(): number {
    return this.#total;
  }

  get stats(): Stats {
    return {
      total: this.#total,
      successes: this.#successes,
      failures: this.#total - this.#successes,
      by_source: Object.fromEntries(this.#bySource),
      recent_scenario_ops: this.#scenarios,
    };
  }

  /** The ring, newest first. */
  *newest(): Generator<Operation> {
    const size = this.#ring.length;
    for (let back = 1; back <= size; back++) yield this.#ring[(this.#next - back + size) % size]!;
  }

  /** What a snapshot keeps. */
  get state(): TallyState {
    return {
      total: this.#total,
      successes: this.#successes,
      by_source: Object.fromEntries(this.#bySource),
      ring: [...this.newest()].toReversed(),
      scenarios: this.#scenarios,
    };
  }

  /** Takes over what a snapshot kept. */
  set state({ total, successes, by_source, ring, scenarios }: TallyState) {
    this.#total = total;
    this.#successes = successes;
    this.#bySource = new Map(Object.entries(by_source) as [Source, number][]);
    this.#ring = ring.slice(-RING_SIZE);
    this.#next = this.#ring.length % RING_SIZE;
    this.#scenarios = scenarios.slice(0, SCENARIOS);
  }
}

function scenarioOf(operation: Operation): ScenarioOp {
  const { timestamp, endpoint, success, duration_ms, event_kind, role, city, state, count, staffer_id } = operation;
  const shown: ScenarioOp = { timestamp, endpoint, success, duration_ms };
  if (event_kind !== undefined) shown.kind = cut(event_kind);
  if (role !== undefined) shown.role = cut(role);
  if (city !== undefined) shown.city = cut(city);
  if (state !== undefined) shown.state = cut(state);
  if (count !== undefined) shown.count = count;
  if (staffer_id !== undefined) shown.staffer_id = cut(staffer_id);
  return shown;
}

function cut(text: string): string {
  return text.length > LARGEST_TEXT ? `${text.slice(0, LARGEST_TEXT)}…` : text;
}

/** The same with texts cut and without what is neither text nor number, so that 2000 of them stay small. */
function shortened(operation: Operation): Operation {
  let left = LARGEST_KEPT;
  const { timestamp, endpoint, source, success, duration_ms, input_summary, output_summary, ...rest } = operation;
  // Every operation has these: they come first, so that there is room for them.
  const first = { timestamp, endpoint, source, success, duration_ms, input_summary, output_summary };
  const ordered = [...Object.entries(first), ...Object.entries(rest)];
  const fields = ordered.flatMap(([name, value]): [string, unknown][] => {
    if (typeof value === "object" || left <= 0 || name.length > 256) return [];
    const kept = typeof value === "string" ? cut(value) : value;
    left -= name.length + (typeof kept === "string" ? kept.length : 8);
    return [[name, kept]];
  });
  return { ...(Object.fromEntries(fields) as Operation), shortened: true };
}
