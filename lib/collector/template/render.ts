// One rendering: its state, what it may spend, and its output.

import type { Asked } from "../delivery.ts";
import { JsonNumber } from "../numbers.ts";
import { type Value, field, typeName } from "./functions.ts";

/** Longer output is cut, in bytes. */
export const MAX_OUTPUT_BYTES = 64 << 10;
const CUT = " … [cut at 64 KiB]";
/** Thrown to stop a rendering whose output is long enough. */
const FULL = new Error("the output is full");
/** What a rendering may spend: bounds nested loops over a large body, and a value that doubles in each iteration. */
const BUDGET = 16 << 20;
/** The cost of an iteration or a call; a character or element that a function goes through costs 1. */
const STEP = 80;

/** What a rendering gets besides its data. */
export interface RenderContext extends Asked {
  /** `zero`: it prints `<no value>`. `error`: the rendering fails. */
  missing: "zero" | "error";
  /** The text of the body. */
  body: () => string;
}

/** The state of one rendering. */
export interface State {
  context: RenderContext;
  out: string;
  /** The values of the variables; `$` is the first. */
  slots: Value[];
  spent: number;
  /** Throws a TemplateError for an offset in the template. */
  fail: (message: string, at: number) => never;
}

export type Evaluate = (state: State, dot: Value) => Value;
/** Renders a node; returns `break` and `continue` up to their loop. */
export type Render = (state: State, dot: Value) => undefined | "break" | "continue";

/** Renders a whole template, cut to MAX_OUTPUT_BYTES. Throws what `fail` throws. */
export function renderAll(render: Render, data: Value, { context, fail }: Pick<State, "context" | "fail">): string {
  const state: State = { context, out: "", slots: [data], spent: 0, fail };
  try {
    render(state, data);
  } catch (error) {
    if (error !== FULL) throw error;
  }
  const { out } = state;
  if (out.length * 3 <= MAX_OUTPUT_BYTES || Buffer.byteLength(out) <= MAX_OUTPUT_BYTES) return out;
  const kept = Buffer.from(out.slice(0, MAX_OUTPUT_BYTES)).subarray(0, MAX_OUTPUT_BYTES - Buffer.byteLength(CUT));
  // As a stream, the decoder leaves out the beginning of a character.
  return new TextDecoder().decode(kept, { stream: true }) + CUT;
}

export function write(state: State, text: string): undefined {
  state.out += text;
  if (state.out.length > MAX_OUTPUT_BYTES) throw FULL;
}

/** Spends what an iteration or a call costs, or `amount`. */
export function spend(state: State, at: number, amount = STEP): void {
  state.spent += amount;
  if (state.spent > BUDGET) state.fail("the template takes too many steps", at);
}

/** Counts the characters and elements of values. */
export function spendOn(state: State, values: readonly Value[], at: number): void {
  for (const value of values) if (typeof value === "string" || Array.isArray(value)) spend(state, at, value.length);
}

/** The sorted entries of maps, kept because an inner loop may go through the same map many times. */
const SORTED = new WeakMap<object, [Value, Value][]>();

export function entriesOf(state: State, value: Value, at: number): [Value, Value][] {
  if (value === undefined || value === null) return [];
  if (Array.isArray(value)) return value.map((one, index) => [index, one]);
  if (typeof value !== "object" || value instanceof JsonNumber)
    return state.fail(`range can't iterate over a ${typeName(value)}`, at);
  let entries = SORTED.get(value);
  if (!entries) {
    const keys = Object.keys(value).filter((key) => key !== "__proto__" && key !== "constructor");
    entries = keys
      .toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
      .map((key) => [key, field(value, key)]);
    SORTED.set(value, entries);
  }
  return entries;
}
