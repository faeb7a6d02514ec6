// The closures that compile.ts makes a template of. Each works on the state of one rendering.

import type { Asked } from "../delivery.ts";
import { JsonNumber } from "../numbers.ts";
import { type Value, field, isTrue, typeName } from "./functions.ts";

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

function spend(state: State, amount: number, at: number): void {
  state.spent += amount;
  if (state.spent > BUDGET) state.fail("the template takes too many steps", at);
}

/** Counts the characters and elements of values. */
export function spendOn(state: State, values: readonly Value[], at: number): void {
  for (const value of values) if (typeof value === "string" || Array.isArray(value)) spend(state, value.length, at);
}

export function sequence(renders: Render[]): Render {
  if (renders.length === 1) return renders[0]!;
  return (state, dot) => {
    for (const render of renders) {
      const left = render(state, dot);
      if (left) return left;
    }
    return undefined;
  };
}

/** A pipeline, and the slots of the variables that it declares or sets. */
export interface Pipe {
  evaluate: Evaluate;
  slots: number[];
}

/** The parts of `if`, `with` and `range`. */
interface Branches {
  pipe: Pipe;
  body: Render;
  otherwise: Render;
}

/** Evaluates a pipeline and sets its variables. */
export function valueOf({ evaluate, slots }: Pipe): Evaluate {
  if (slots.length === 0) return evaluate;
  return (state, dot) => {
    const value = evaluate(state, dot);
    for (const slot of slots) state.slots[slot] = value;
    return value;
  };
}

/** `if` and `with`. */
export function choice(kind: "if" | "with", { pipe, body, otherwise }: Branches): Render {
  const evaluate = valueOf(pipe);
  return (state, dot) => {
    const value = evaluate(state, dot);
    if (!isTrue(value)) return otherwise(state, dot);
    return body(state, kind === "if" ? dot : value);
  };
}

/** `range`: sets its variables in every iteration. */
export function loop({ pipe, body, otherwise, at }: Branches & { at: number }): Render {
  const evaluate = valueOf(pipe);
  const [first, second] = pipe.slots;
  return (state, dot) => {
    const entries = entriesOf(state, evaluate(state, dot), at);
    spendOn(state, [entries], at);
    if (entries.length === 0) return otherwise(state, dot);
    for (const [key, value] of entries) {
      spend(state, STEP, at);
      if (first !== undefined) state.slots[first] = second === undefined ? value : key;
      if (second !== undefined) state.slots[second] = value;
      if (body(state, value) === "break") break;
    }
    return undefined;
  };
}

/** The sorted entries of maps, kept because an inner loop may go through the same map many times. */
const SORTED = new WeakMap<object, [Value, Value][]>();

function entriesOf(state: State, value: Value, at: number): [Value, Value][] {
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

/** `{{template}}`: looks its body up when it is called, because that may be defined further down. */
export function call({ body, dot, at }: { body: () => Render; dot: Evaluate; at: number }): Render {
  return (state, outer) => {
    const value = dot(state, outer);
    spend(state, STEP, at);
    const { slots } = state;
    state.slots = [value];
    body()(state, value);
    state.slots = slots;
    return undefined;
  };
}

/** The fields `.a.b` of a value. Behind a missing or null key all is missing. */
export function fieldsOf(from: Evaluate, names: string[], at: number): Evaluate {
  return (state, dot) => {
    let value = from(state, dot);
    for (const name of names) {
      if (value !== undefined && value !== null) {
        if (typeof value !== "object" || Array.isArray(value) || value instanceof JsonNumber)
          state.fail(`can't take field ${name} of a ${typeName(value)}`, at);
        value = field(value, name);
        if (value !== undefined) continue;
      }
      if (state.context.missing === "error") state.fail(`missing key: .${names.join(".")}`, at);
      return undefined;
    }
    return value;
  };
}
