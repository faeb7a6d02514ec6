// Playbooks: what works for each endpoint that succeeded often enough among the newest operations.
//
// An operation's short fields are its configuration: who (staffer_id), what kind (task_class, role, …), with what (a model, a
// version, any unknown field). When one value of a field mostly fails and another mostly works for the same endpoint, the
// playbook proposes the second one as a refinement.

import { join } from "node:path";
import { writeWhole } from "../files.ts";
import { inSlices } from "../loop.ts";
import type { Operation } from "./operation.ts";
import { shapeOf } from "./fingerprint.ts";

export interface Playbook {
  endpoint: string;
  /** Operations of the endpoint, and how many of them succeeded. */
  count: number;
  successes: number;
  /** 0 to 1. */
  success_rate: number;
  /** Durations of the successes, in milliseconds. */
  p50_ms: number;
  p95_ms: number;
  /** The commonest shapes of the successes' inputs (see fingerprint.ts). */
  input_shapes: { shape: string; count: number }[];
  /** Fields whose commonest value differs between successes and failures. */
  changed: { field: string; in_successes: string; in_failures: string }[];
  refinements: Refinement[];
  /** RFC 3339: the newest operation. */
  last_at: string;
}

/** A value that mostly fails while another mostly works. */
interface Refinement {
  field: string;
  failing: { value: string; failures: number; count: number };
  working: { value: string; successes: number; count: number };
  text: string;
}

/** An endpoint with fewer successes has no playbook. */
const ENOUGH = 5;
const SHAPES = 3;
/** A field with more values (such as an id) or a longer value is not configuration. */
const MOST_VALUES = 20;
const LONGEST_VALUE = 64;
/** A value mostly fails, or works, when it was tried at least so often and this share failed, or succeeded. */
const TRIED = 3;
const MOSTLY = 0.8;

/** Replaces playbooks.jsonl in a folder. */
export function writePlaybooks(folder: string, playbooks: Playbook[]): void {
  writeWhole(join(folder, "playbooks.jsonl"), playbooks.map((playbook) => `${JSON.stringify(playbook)}\n`).join(""));
}

/** Fields that are not configuration. */
const NOT_CONFIGURATION = new Set([
  ..."id timestamp observed_at endpoint success duration_ms input_summary output_summary error sig_hash".split(" "),
  ..."count rescue_attempted rescue_succeeded shortened".split(" "),
]);

/**
 * The playbooks of some operations, the most used endpoint first. Works in slices.
 * @param alive is called at the end of each slice.
 */
export async function playbooksOf(operations: Iterable<Operation>, alive?: () => void): Promise<Playbook[]> {
  const turn = inSlices(alive);
  const playbooks: Playbook[] = [];
  for (const [endpoint, all] of Map.groupBy(operations, ({ endpoint: name }) => name)) {
    const successes = all.filter(({ success }) => success);
    if (successes.length >= ENOUGH) playbooks.push(await playbookOf({ endpoint, all, successes }, turn));
  }
  return playbooks.toSorted((a, b) => b.count - a.count);
}

async function playbookOf(
  { endpoint, all, successes }: { endpoint: string; all: Operation[]; successes: Operation[] },
  turn: () => Promise<void>,
): Promise<Playbook> {
  const durations = successes.map(({ duration_ms }) => duration_ms).toSorted((a, b) => a - b);
  const at = (share: number) => durations[Math.min(durations.length - 1, Math.ceil(share * durations.length) - 1)]!;
  const outcomes = await outcomesOf(all, turn);
  return {
    endpoint,
    count: all.length,
    successes: successes.length,
    success_rate: Math.round((successes.length / all.length) * 1000) / 1000,
    p50_ms: at(0.5),
    p95_ms: at(0.95),
    input_shapes: (await inputShapesOf(successes, turn)).slice(0, SHAPES),
    changed: changesOf(outcomes),
    refinements: outcomes.flatMap(({ field, values }) => refinementOf(endpoint, field, values) ?? []),
    last_at: new Date(all.reduce((last, { timestamp }) => Math.max(last, Date.parse(timestamp)), 0)).toISOString(),
  };
}

/** The commonest first. */
async function inputShapesOf(
  operations: Operation[],
  turn: () => Promise<void>,
): Promise<{ shape: string; count: number }[]> {
  const counts = new Map<string, number>();
  for (const { input_summary } of operations) {
    const shape = input_summary.trim() === "" ? null : shapeOf(input_summary);
    if (shape !== null) counts.set(shape, (counts.get(shape) ?? 0) + 1);
    await turn();
  }
  return [...counts].map(([shape, count]) => ({ shape, count })).toSorted((a, b) => b.count - a.count);
}

interface Outcome {
  value: string;
  successes: number;
  failures: number;
}

/** How often each value of each field succeeded and failed. */
async function outcomesOf(
  operations: Operation[],
  turn: () => Promise<void>,
): Promise<{ field: string; values: Outcome[] }[]> {
  const fields = new Map<string, Map<string, Outcome>>();
  for (const operation of operations) {
    for (const [field, given] of Object.entries(operation)) {
      if (NOT_CONFIGURATION.has(field) || !["string", "number", "boolean"].includes(typeof given)) continue;
      const value = String(given);
      if (value === "" || value.length > LONGEST_VALUE) continue;
      const values = fields.get(field) ?? new Map<string, Outcome>();
      fields.set(field, values);
      const outcome = values.get(value) ?? { value, successes: 0, failures: 0 };
      values.set(value, outcome);
      outcome[operation.success ? "successes" : "failures"]++;
    }
    await turn();
  }
  return [...fields]
    .filter(([, values]) => values.size > 1 && values.size <= MOST_VALUES)
    .map(([field, values]) => ({ field, values: [...values.values()] }));
}

function changesOf(outcomes: { field: string; values: Outcome[] }[]): Playbook["changed"] {
  return outcomes.flatMap(({ field, values }) => {
    const best = most(values, ({ successes }) => successes);
    const failing = most(values, ({ failures }) => failures);
    if (best.successes === 0 || failing.failures === 0 || best.value === failing.value) return [];
    return [{ field, in_successes: best.value, in_failures: failing.value }];
  });
}

function refinementOf(endpoint: string, field: string, values: Outcome[]): Refinement | null {
  const tried = values.filter(({ successes, failures }) => successes + failures >= TRIED);
  const share = ({ successes, failures }: Outcome) => successes / (successes + failures);
  const bad = tried.filter((one) => 1 - share(one) >= MOSTLY);
  const good = tried.filter((one) => share(one) >= MOSTLY);
  if (bad.length === 0 || good.length === 0) return null;
  const failing = most(bad, ({ failures }) => failures);
  const working = most(good, ({ successes }) => successes);
  const [failed, worked] = [failing.successes + failing.failures, working.successes + working.failures];
  return {
    field,
    failing: { value: failing.value, failures: failing.failures, count: failed },
    working: { value: working.value, successes: working.successes, count: worked },
    text: `${endpoint}: ${field} "${failing.value}" fails ${failing.failures} of ${failed} times, "${working.value}" works ${working.successes} of ${worked} times: use that`,
  };
}

function most<T>(all: readonly T[], figure: (one: T) => number): T {
  return all.reduce((best, one) => (figure(one) > figure(best) ? one : best));
}
