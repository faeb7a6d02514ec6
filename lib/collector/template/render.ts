// The closures that compile.ts makes a template of. Each works on the state of one rendering.

import type { Asked } from "../delivery.ts";
import { JsonNumber } from "../numbers.ts";
import { type Value, field, isTrue, typeName } from "./functions.ts";
import { fail } from "./lex.ts";

/** Longer output is cut, in bytes. */
export const MAX_OUTPUT_BYTES = 64 << 10;
const CUT = " … [cut at 64 KiB]";
/** Thrown to stop a rendering whose output is long enough. */
const FULL = new Error("the output is full");
/** How deep templates may call each other. */
const MAX_CALLS = 100;
/** Iterations and calls in one rendering: bounds nested loops over a large body. */
const MAX_STEPS = 200_000;
/** Characters and elements that the loops and functions of one rendering may go through: bounds a value that doubles in each iteration. */
const MAX_WORK = 16 << 20;

/** What a rendering gets besides its data. */
export interface RenderContext extends Asked {
  /** `zero`: it prints `<no value>`. `error`: the rendering fails. */
  missing: "zero" | "error";
  /** The text of the body. */
  body: () => string;
}

/** The state of one rendering. */
export interface State {
  source: string;
  context: RenderContext;
  out: string;
  dot: Value;
  variables: Map<string, { value: Value }>;
  calls: number;
  steps: number;
  work: number;
}

export type Evaluate = (state: State) => Value;
/** Renders a node; returns `break` and `continue` up to their loop. */
export type Render = (state: State) => undefined | "break" | "continue";

/** Renders a whole template, cut to MAX_OUTPUT_BYTES. Throws TemplateError. */
export function renderAll(source: string, render: Render, data: Value, context: RenderContext): string {
  const variables = new Map([["$", { value: data }]]);
  const state: State = { source, context, out: "", dot: data, variables, calls: 0, steps: 0, work: 0 };
  try {
    render(state);
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

function step(state: State, at: number): void {
  if (++state.steps > MAX_STEPS) fail(state.source, "the template takes too many steps", at);
}

/** Counts the characters and elements of values. */
export function work(state: State, values: readonly Value[], at: number): void {
  for (const value of values) if (typeof value === "string" || Array.isArray(value)) state.work += value.length;
  if (state.work > MAX_WORK) fail(state.source, "the template goes through too much data", at);
}

export function sequence(renders: Render[]): Render {
  if (renders.length === 1) return renders[0]!;
  return (state) => {
    for (const render of renders) {
      const left = render(state);
      if (left) return left;
    }
    return undefined;
  };
}

/** A pipeline and the variables that it declares or sets. */
export interface Pipe {
  evaluate: Evaluate;
  variables: string[];
  assign: boolean;
}

/** The parts of `if`, `with` and `range`. */
export interface Branches {
  pipe: Pipe;
  body: Render;
  otherwise: Render;
  at: number;
}

/** Evaluates a pipeline and sets its variable. */
export function valueOf({ evaluate, variables: [name], assign }: Pipe): Evaluate {
  return name === undefined ? evaluate : (state) => set(state, name, evaluate(state), assign);
}

/** `if` and `with`. */
export function choice(kind: "if" | "with", { pipe, body, otherwise }: Branches): Render {
  const evaluate = valueOf(pipe);
  return (state) =>
    scoped(state, () => {
      const value = evaluate(state);
      if (!isTrue(value)) return otherwise(state);
      return kind === "if" ? body(state) : withDot(state, value, body);
    });
}

/** `range`: sets its variables in every iteration. */
export function loop({ pipe: { evaluate, variables, assign }, body, otherwise, at }: Branches): Render {
  const [first, second] = variables;
  return (state) =>
    scoped(state, () => {
      const entries = entriesOf(state, evaluate(state), at);
      work(state, [entries], at);
      if (entries.length === 0) return otherwise(state);
      for (const [key, value] of entries) {
        step(state, at);
        const left = scoped(state, () => {
          if (first !== undefined) set(state, first, second === undefined ? value : key, assign);
          if (second !== undefined) set(state, second, value, assign);
          return withDot(state, value, body);
        });
        if (left === "break") break;
      }
      return undefined;
    });
}

/** The sorted entries of maps, kept because an inner loop may go through the same map many times. */
const SORTED = new WeakMap<object, [Value, Value][]>();

function entriesOf({ source }: State, value: Value, at: number): [Value, Value][] {
  if (value === undefined || value === null) return [];
  if (Array.isArray(value)) return value.map((one, index) => [index, one]);
  if (typeof value !== "object" || value instanceof JsonNumber)
    return fail(source, `range can't iterate over a ${typeName(value)}`, at);
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
export function call(name: string, { body, dot, at }: { body: () => Render; dot: Evaluate; at: number }): Render {
  return (state) => {
    const value = dot(state);
    step(state, at);
    if (state.calls >= MAX_CALLS) fail(state.source, `template "${name}" calls itself too deeply`, at);
    const { variables } = state;
    state.variables = new Map([["$", { value }]]);
    state.calls++;
    withDot(state, value, body());
    state.calls--;
    state.variables = variables;
    return undefined;
  };
}

/** The fields `.a.b` of a value. Behind a missing or null key all is missing. */
export function fieldsOf(from: Evaluate, names: string[], at: number): Evaluate {
  if (names.length === 0) return from;
  return (state) => {
    let value = from(state);
    for (const name of names) {
      if (value !== undefined && value !== null) {
        if (typeof value !== "object" || Array.isArray(value) || value instanceof JsonNumber) {
          fail(state.source, `can't take field ${name} of a ${typeName(value)}`, at);
        }
        value = field(value, name);
        if (value !== undefined) continue;
      }
      if (state.context.missing === "error") fail(state.source, `missing key: .${names.join(".")}`, at);
      return undefined;
    }
    return value;
  };
}

/** Variables that are declared within end with it; those that are set keep their new value. */
function scoped(state: State, render: () => ReturnType<Render>): ReturnType<Render> {
  const outer = state.variables;
  state.variables = new Map(outer);
  const left = render();
  state.variables = outer;
  return left;
}

function withDot(state: State, dot: Value, render: Render): ReturnType<Render> {
  const outer = state.dot;
  state.dot = dot;
  const left = render(state);
  state.dot = outer;
  return left;
}

function set(state: State, name: string, value: Value, assign: boolean): Value {
  const variable = state.variables.get(name);
  if (assign && variable) variable.value = value;
  else state.variables.set(name, { value });
  return value;
}
