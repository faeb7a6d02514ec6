// Go's text/template for data that came as JSON: compiled once into closures, then only read.
//
// Where it differs from Go, on purpose:
//   - a number prints as it stood in the JSON (12345678, not 1.2345678e+07), compares with any number literal, counts as a
//     position for index and slice, and fits every verb of printf that takes numbers
//   - a list or map prints as compact JSON
//   - a chain through a missing or null key is a missing value as a whole; Go stops with an error at null
//   - strings are text: \xff in a literal is the character U+00FF, not a byte
//   - printf has no %c, %U and argument indexes (`%[1]d`), and numbers have no hexadecimal fractions
//   - no methods, no `call`; `__proto__` and `constructor` are missing keys; output is capped
// More than Go 1.19: json, default, lower, upper, trim, join, trunc, header, query.

import { JsonNumber } from "./numbers.ts";
import { FUNCTIONS, type Asked, type Value, field, isTrue, show, typeName } from "./template/functions.ts";
import {
  type CommandNode,
  type Node,
  type Operand,
  type Pipe,
  TemplateError,
  parse,
  placeOf,
} from "./template/parse.ts";

export { TemplateError } from "./template/parse.ts";

/** Longer output is refused, in bytes. */
export const MAX_OUTPUT_BYTES = 64 << 10;
/** `{{template}}` within `{{template}}`, at most so deep. */
const MAX_CALLS = 100;
/** Steps of loops and calls a rendering may take: nested loops over a large body stay bounded. */
const MAX_STEPS = 200_000;
/** Characters and elements that its loops and functions may go through: a value that doubles with each step stays bounded, too. */
const MAX_WORK = 16 << 20;

/** What a rendering may ask besides its data, and what a missing key means. */
export interface RenderContext extends Asked {
  /** `zero`: it prints `<no value>`. `error`: the rendering fails. */
  missing: "zero" | "error";
}

/** A compiled template. */
export interface Template {
  /** The text for this data. Throws TemplateError. */
  render(data: unknown, context: RenderContext): string;
  /** The source it was compiled from. */
  toJSON(): string;
}

/** State of one rendering. */
interface State {
  out: string;
  root: Value;
  dot: Value;
  variables: Map<string, { value: Value }>;
  context: RenderContext;
  calls: number;
  steps: number;
  work: number;
}

type Evaluate = (state: State) => Value;
/** Renders a node; `break` and `continue` travel up to their loop. */
type Render = (state: State) => undefined | "break" | "continue";

const NAMES: ReadonlySet<string> = new Set([...FUNCTIONS.keys(), "and", "or"]);

/** Compiles a template. Throws TemplateError with line and column where Go's parser refuses it, too. */
export function compileTemplate(source: string): Template {
  const compile = (): Render => {
    const { nodes, defined } = parse(source, NAMES);
    const compiler = new Compiler(source);
    for (const [name, body] of defined) compiler.define(name, body);
    return compiler.list(nodes);
  };
  const render = notTooDeep(source, compile);
  return {
    toJSON: () => source,
    render(data, context) {
      const variables = new Map([["$", { value: data }]]);
      const state: State = { out: "", root: data, dot: data, variables, context, calls: 0, steps: 0, work: 0 };
      notTooDeep(source, () => render(state));
      if (state.out.length * 3 > MAX_OUTPUT_BYTES && Buffer.byteLength(state.out) > MAX_OUTPUT_BYTES) {
        tooLong(source, 0);
      }
      return state.out;
    },
  };
}

/** The entries of maps in their order: a loop within a loop goes through the same map for each turn. */
const SORTED = new WeakMap<object, [Value, Value][]>();

function tooLong(source: string, at: number): never {
  throw new TemplateError(`the output is over ${MAX_OUTPUT_BYTES} bytes`, placeOf(source, at));
}

/** Gives what `work` gives. What runs out of stack is nested too deeply: a fault of the template or the data like any other. */
function notTooDeep<T>(source: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (error instanceof RangeError) throw new TemplateError("nested too deeply", placeOf(source, 0));
    throw error;
  }
}

class Compiler {
  #source: string;
  #templates = new Map<string, Render>();

  constructor(source: string) {
    this.#source = source;
  }

  define(name: string, body: Node[]): void {
    this.#templates.set(name, this.list(body));
  }

  list(nodes: Node[]): Render {
    const renders = nodes.map((node) => this.#node(node));
    if (renders.length === 1) return renders[0]!;
    return (state) => {
      for (const render of renders) {
        const left = render(state);
        if (left) return left;
      }
      return undefined;
    };
  }

  #fail(message: string, at: number): never {
    throw new TemplateError(message, placeOf(this.#source, at));
  }

  #write(state: State, text: string, at: number): undefined {
    state.out += text;
    if (state.out.length > MAX_OUTPUT_BYTES) tooLong(this.#source, at);
    return undefined;
  }

  #step(state: State, at: number): void {
    if (++state.steps > MAX_STEPS) this.#fail("the template takes too many steps", at);
  }

  /** Counts the values that a loop or a function goes through. */
  #work(state: State, values: readonly Value[], at: number): void {
    for (const value of values) {
      if (typeof value === "string" || Array.isArray(value)) state.work += value.length;
    }
    if (state.work > MAX_WORK) this.#fail("the template goes through too much data", at);
  }

  #node(node: Node): Render {
    switch (node.kind) {
      case "text":
        return (state) => this.#write(state, node.text, 0);
      case "action": {
        const pipe = this.#pipe(node.pipe);
        // What declares or sets a variable prints nothing.
        if (node.pipe.variables.length > 0) return (state) => void pipe(state);
        return (state) => this.#write(state, show(pipe(state)), node.at);
      }
      case "if":
      case "with":
        return this.#choice(node);
      case "range":
        return this.#range(node);
      case "template":
        return this.#call(node);
      case "break":
      case "continue":
        return () => node.kind;
    }
  }

  #choice({ kind, pipe, body, otherwise }: Extract<Node, { kind: "if" | "with" | "range" }>): Render {
    const evaluate = this.#pipe(pipe);
    const yes = this.list(body);
    const no = otherwise ? this.list(otherwise) : () => undefined;
    return (state) =>
      scoped(state, () => {
        const value = evaluate(state);
        if (!isTrue(value)) return no(state);
        return kind === "if" ? yes(state) : withDot(state, value, yes);
      });
  }

  #range({ pipe, body, otherwise, at }: Extract<Node, { kind: "if" | "with" | "range" }>): Render {
    // The loop sets the variables itself, once a turn.
    const evaluate = this.#pipe({ ...pipe, variables: [] });
    const { variables, assign } = pipe;
    const turn = this.list(body);
    const none = otherwise ? this.list(otherwise) : () => undefined;
    return (state) =>
      scoped(state, () => {
        const entries = this.#entries(evaluate(state), at);
        this.#work(state, [entries], at);
        if (entries.length === 0) return none(state);
        for (const [key, value] of entries) {
          this.#step(state, at);
          const left = scoped(state, () => {
            if (variables.length === 1) set(state, variables[0]!, value, assign);
            if (variables.length === 2) {
              set(state, variables[0]!, key, assign);
              set(state, variables[1]!, value, assign);
            }
            return withDot(state, value, turn);
          });
          if (left === "break") break;
        }
        return undefined;
      });
  }

  #entries(value: Value, at: number): [Value, Value][] {
    if (value === undefined || value === null) return [];
    if (Array.isArray(value)) return value.map((one, index) => [index, one]);
    if (typeof value !== "object" || value instanceof JsonNumber)
      return this.#fail(`range can't iterate over a ${typeName(value)}`, at);
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

  #call({ name, pipe, at }: Extract<Node, { kind: "template" }>): Render {
    const evaluate = pipe ? this.#pipe(pipe) : () => undefined;
    return (state) => {
      const body = this.#templates.get(name);
      if (!body) this.#fail(`template "${name}" is not defined`, at);
      const dot = evaluate(state);
      this.#step(state, at);
      if (state.calls >= MAX_CALLS) this.#fail(`template "${name}" calls itself too deeply`, at);
      const { variables } = state;
      state.variables = new Map([["$", { value: dot }]]);
      state.calls++;
      withDot(state, dot, body);
      state.calls--;
      state.variables = variables;
      return undefined;
    };
  }

  // Pipelines

  #pipe({ commands, variables, assign }: Pipe): Evaluate {
    let evaluate = this.#command(commands[0]!, null);
    for (const command of commands.slice(1)) evaluate = this.#command(command, evaluate);
    const [name] = variables;
    if (name === undefined) return evaluate;
    const value = evaluate;
    return (state) => set(state, name, value(state), assign);
  }

  /** A command; `piped` is what the one before it gives, as its last argument. */
  #command({ operands }: CommandNode, piped: Evaluate | null): Evaluate {
    const [first, ...rest] = operands as [Operand, ...Operand[]];
    if (first.kind === "function") return this.#function(first, rest, piped);
    if (rest.length > 0 || piped) this.#fail("can't give an argument to what is no function", first.at);
    if (first.kind === "nil") this.#fail("nil is not a command", first.at);
    return this.#operand(first);
  }

  #function(
    { name, at }: Extract<Operand, { kind: "function" }>,
    operands: Operand[],
    piped: Evaluate | null,
  ): Evaluate {
    const args = [...operands.map((operand) => this.#operand(operand)), ...(piped ? [piped] : [])];
    if (name === "and" || name === "or") return this.#shortCut(name, args, at);
    const { min, max, call } = FUNCTIONS.get(name)!;
    if (args.length < min || args.length > max) {
      const want = min === max ? `${min}` : max === Number.POSITIVE_INFINITY ? `at least ${min}` : `${min} to ${max}`;
      this.#fail(`wrong number of arguments for ${name}: want ${want}, found ${args.length}`, at);
    }
    return (state) => {
      const values = args.map((arg) => arg(state));
      this.#work(state, values, at);
      let result: Value;
      try {
        result = call(values, state.context);
      } catch (error) {
        return this.#fail(`error calling ${name}: ${(error as Error).message}`, at);
      }
      // What these give was there before.
      if (name !== "index" && name !== "default") this.#work(state, [result], at);
      return result;
    };
  }

  #shortCut(name: "and" | "or", args: Evaluate[], at: number): Evaluate {
    if (args.length === 0) this.#fail(`wrong number of arguments for ${name}: want at least 1, found 0`, at);
    return (state) => {
      let value: Value;
      for (const arg of args) {
        value = arg(state);
        if (isTrue(value) === (name === "or")) break;
      }
      return value;
    };
  }

  #operand(operand: Operand): Evaluate {
    switch (operand.kind) {
      case "dot":
        return (state) => state.dot;
      case "nil":
        return () => null;
      case "literal": {
        const { value } = operand;
        return () => value;
      }
      case "field":
        return this.#fields((state) => state.dot, operand.names, operand.at);
      case "variable": {
        const { name, names, at } = operand;
        const variable: Evaluate = (state) => state.variables.get(name)!.value;
        return names.length === 0 ? variable : this.#fields(variable, names, at);
      }
      case "chain": {
        const inner = this.#pipe(operand.pipe);
        return operand.names.length === 0 ? inner : this.#fields(inner, operand.names, operand.at);
      }
      case "function":
        return this.#function(operand, [], null);
    }
  }

  #fields(from: Evaluate, names: string[], at: number): Evaluate {
    return (state) => {
      let value = from(state);
      for (const name of names) {
        if (value === undefined || value === null) return this.#missing(state, names, at);
        if (typeof value !== "object" || Array.isArray(value) || value instanceof JsonNumber) {
          this.#fail(`can't take field ${name} of a ${typeName(value)}`, at);
        }
        value = field(value, name);
        if (value === undefined) return this.#missing(state, names, at);
      }
      return value;
    };
  }

  #missing({ context }: State, names: string[], at: number): undefined {
    if (context.missing === "error") this.#fail(`missing key: .${names.join(".")}`, at);
    return undefined;
  }
}

/** Variables declared within end with it; those set within keep their new value. */
function scoped(state: State, work: () => ReturnType<Render>): ReturnType<Render> {
  const outer = state.variables;
  state.variables = new Map(outer);
  const left = work();
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
