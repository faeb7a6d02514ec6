// Compiles a template in one pass: the parser returns closures that render what it has read. The rules are those of Go's text/template/parse.

import { nearest } from "../../nearest.ts";
import { FUNCTIONS, type Value, field, isTrue, typeName } from "./functions.ts";
import { JsonNumber } from "../numbers.ts";
import { show } from "./printf.ts";
import { type Evaluate, type Render, entriesOf, spend, spendOn, write } from "./render.ts";
import { Reader, type Term } from "./source.ts";

const KEYWORD = /(?:if|else|end|range|with|define|template|block|break|continue)(?![\p{L}\p{Nd}_])/uy;
const DECLARED = /(\$[\p{L}\p{Nd}_]*)[ \t\r\n]*(?:,[ \t\r\n]*(\$[\p{L}\p{Nd}_]*)[ \t\r\n]*)?(:?=)/uy;
const FIELD = /\.([\p{L}_][\p{L}\p{Nd}_]*)/uy;
const BAR = /\|/y;
const CLOSING = /\)/y;
/** What may follow an operand. */
const BOUNDARY = /[ \t\r\n|)]|\}\}/y;
const NAMES: ReadonlySet<string> = new Set([...FUNCTIONS.keys(), "and", "or"]);

/** Compiles a template. Throws TemplateError. */
export function compile(source: string): Render {
  return new Compiler(source).compile();
}

/** A part of a command. A function that comes first takes the parts after it as its arguments. */
type Operand = { at: number } & (
  | { kind: "function"; name: string }
  | { kind: "value" | "literal" | "nil"; evaluate: Evaluate }
);

/** The nodes up to an `{{end}}` or `{{else}}`. */
interface Body {
  render: Render;
  /** They write only white space. */
  blank: boolean;
  /** What ended them; an `{{else}}` is read up to that word. */
  ended: { word: "end" | "else"; at: number } | null;
}

/** A pipeline, and the slots of the variables that it declares or sets. */
interface Pipe {
  evaluate: Evaluate;
  slots: number[];
}

class Compiler {
  #reader: Reader;
  #defined = new Map<string, Body>();
  /** The templates that are called, and where. */
  #called = new Map<string, number>();
  /** The variables in scope. A variable's place here is its slot in a rendering. */
  #variables = ["$"];
  #ranges = 0;

  constructor(source: string) {
    this.#reader = new Reader(source);
  }

  compile(): Render {
    const { render, ended } = this.#body(true);
    if (ended) this.#reader.fail(`unexpected {{${ended.word}}}`, ended.at);
    for (const [name, at] of this.#called) {
      if (!this.#defined.has(name)) this.#reader.fail(`template "${name}" is not defined`, at);
    }
    return render;
  }

  #body(top: boolean): Body {
    const renders: Render[] = [];
    let blank = true;
    for (;;) {
      const { text, action } = this.#reader.text();
      if (text) renders.push((state) => write(state, text));
      blank &&= text.trim() === "";
      if (action === null) return { render: sequence(renders), blank, ended: null };
      const word = this.#keyword();
      if (word === "end" || word === "else") {
        if (word === "end") this.#reader.finish("{{end}}");
        return { render: sequence(renders), blank, ended: { word, at: action } };
      }
      const render = this.#node(word, { top, at: action });
      if (render) renders.push(render);
      blank &&= render === null;
    }
  }

  #keyword(): string | undefined {
    this.#reader.skip();
    return this.#reader.take(KEYWORD)?.[0];
  }

  /** Compiles a node; null for a definition, which renders nothing. */
  #node(word: string | undefined, { top, at }: { top: boolean; at: number }): Render | null {
    const reader = this.#reader;
    switch (word) {
      case "if":
      case "with":
      case "range":
        return this.#control(word, at);
      case "define": {
        if (!top) reader.fail("unexpected {{define}}: templates are defined at the top", at);
        const name = reader.name("define clause");
        reader.finish("define clause");
        this.#define(name, at);
        return null;
      }
      case "block":
      case "template":
        return this.#call(word, at);
      case "break":
      case "continue":
        reader.finish(`{{${word}}}`);
        if (this.#ranges === 0) reader.fail(`{{${word}}} outside {{range}}`, at);
        return () => word;
      default: {
        const pipe = this.#pipe("command");
        const evaluate = valueOf(pipe);
        // Declaring or setting a variable prints nothing.
        if (pipe.slots.length > 0) return (state, dot) => void evaluate(state, dot);
        return (state, dot) => write(state, show(evaluate(state, dot)));
      }
    }
  }

  #call(word: "block" | "template", at: number): Render {
    const reader = this.#reader;
    const name = reader.name(`${word} clause`);
    const hasPipe = word === "block" || !reader.ends();
    const dot = hasPipe ? valueOf(this.#pipe(`${word} clause`)) : () => undefined;
    if (!hasPipe) reader.finish("template clause");
    if (word === "block") this.#define(name, at);
    if (!this.#called.has(name)) this.#called.set(name, at);
    return (state, outer) => {
      const value = dot(state, outer);
      spend(state, at);
      const { slots } = state;
      state.slots = [value];
      // It may be defined further down.
      this.#defined.get(name)!.render(state, value);
      state.slots = slots;
      return undefined;
    };
  }

  #control(kind: "if" | "with" | "range", at: number): Render {
    const scope = this.#variables.length;
    const pipe = this.#pipe(kind);
    if (kind === "range") this.#ranges++;
    const { render: body, ended } = this.#body(false);
    // The `else` of a range is outside its loop.
    if (kind === "range") this.#ranges--;
    const otherwise = this.#otherwise(kind, ended, at);
    this.#variables.length = scope;
    if (kind === "range") return loop({ pipe, body, otherwise, at });
    const evaluate = valueOf(pipe);
    return (state, dot) => {
      const value = evaluate(state, dot);
      return isTrue(value) ? body(state, kind === "if" ? dot : value) : otherwise(state, dot);
    };
  }

  #otherwise(kind: "if" | "with" | "range", ended: Body["ended"], at: number): Render {
    const noEnd = () => this.#reader.fail(`unexpected end of the template: {{${kind}}} has no {{end}}`, at);
    if (!ended) return noEnd();
    if (ended.word === "end") return () => undefined;
    const next = this.#keyword();
    if (kind !== "range" && next === kind) return this.#control(kind, ended.at);
    if (next) this.#reader.fail(`unexpected "${next}" in {{else}}`, ended.at);
    this.#reader.finish("{{else}}");
    const { render, ended: last } = this.#body(false);
    if (!last) return noEnd();
    if (last.word === "else") this.#reader.fail("expected {{end}}, found {{else}}", last.at);
    return render;
  }

  /** Compiles the body of a definition; it can't see the variables around it. */
  #define(name: string, at: number): void {
    const [variables, ranges] = [this.#variables, this.#ranges];
    [this.#variables, this.#ranges] = [["$"], 0];
    const body = this.#body(true);
    if (!body.ended)
      this.#reader.fail(`unexpected end of the template: the definition of "${name}" has no {{end}}`, at);
    if (body.ended?.word === "else") this.#reader.fail("unexpected {{else}}", body.ended.at);
    [this.#variables, this.#ranges] = [variables, ranges];
    const former = this.#defined.get(name);
    if (!former || former.blank) this.#defined.set(name, body);
    else if (!body.blank) this.#reader.fail(`the template "${name}" is defined twice`, at);
  }

  // Pipelines

  /** The pipeline up to the end of its action, and the variables before it. */
  #pipe(context: string): Pipe {
    const at = this.#reader.skip();
    const [, first, second, sign] = this.#reader.take(DECLARED) ?? [];
    const names = [first, second].filter((name) => name !== undefined);
    if (names.length > 1 && context !== "range") this.#reader.fail(`too many declarations in ${context}`, at);
    const known = sign === "=" ? names.map((name) => this.#slot(name, at)) : null;
    const evaluate = this.#commands(context, at);
    this.#reader.finish(context);
    return { evaluate, slots: known ?? names.map((name) => this.#variables.push(name) - 1) };
  }

  /** The slot of a variable; an inner one hides an outer one of its name. */
  #slot(name: string, at: number): number {
    const slot = this.#variables.lastIndexOf(name);
    return slot < 0 ? this.#reader.fail(`undefined variable "${name}"`, at) : slot;
  }

  /** Commands with `|` between them; the value of one is the last argument of the next. */
  #commands(context: string, at: number): Evaluate {
    let evaluate: Evaluate | null = null;
    // Go accepts a `|` at the end of a pipeline.
    do evaluate = this.#command(context, evaluate, at);
    while (this.#reader.take(BAR) && !this.#reader.ends());
    return evaluate;
  }

  #command(context: string, piped: Evaluate | null, at: number): Evaluate {
    const reader = this.#reader;
    reader.skip();
    const operands: Operand[] = [];
    for (let operand = this.#operand(); operand; operand = this.#operand()) {
      operands.push(operand);
      if (!reader.sees(BOUNDARY)) reader.unexpected("operand");
      reader.skip();
    }
    const [first, ...rest] = operands;
    if (!first) return reader.ends() ? reader.fail(`missing value for ${context}`, at) : reader.unexpected(context);
    if (first.kind === "function")
      return this.#function(first, [...rest.map((one) => this.#value(one)), ...(piped ? [piped] : [])]);
    if (rest.length > 0 || piped) reader.fail("only functions take arguments", first.at);
    if (first.kind === "nil") reader.fail("nil is not a command", first.at);
    return first.evaluate;
  }

  #value(operand: Operand): Evaluate {
    return operand.kind === "function" ? this.#function(operand, []) : operand.evaluate;
  }

  #function({ name, at }: { name: string; at: number }, args: Evaluate[]): Evaluate {
    const fn = FUNCTIONS.get(name);
    const { min, max } = fn ?? { min: 1, max: Number.POSITIVE_INFINITY };
    if (args.length < min || args.length > max) {
      const want = min === max ? `${min}` : max === Number.POSITIVE_INFINITY ? `at least ${min}` : `${min} to ${max}`;
      this.#reader.fail(`wrong number of arguments for ${name}: want ${want}, found ${args.length}`, at);
    }
    if (!fn) return shortCut(name === "or", args);
    return (state, dot) => {
      const values = args.map((arg) => arg(state, dot));
      spendOn(state, values, at);
      let result: Value;
      try {
        result = fn.call(values, state.context);
      } catch (error) {
        return state.fail(`error calling ${name}: ${(error as Error).message}`, at);
      }
      // These two return a value that was counted before.
      if (name !== "index" && name !== "default") spendOn(state, [result], at);
      return result;
    };
  }

  /** A term with the fields after it. */
  #operand(): Operand | null {
    const reader = this.#reader;
    const term = reader.term();
    if (!term) return null;
    const operand = this.#term(term);
    const names: string[] = [];
    for (let field = reader.take(FIELD); field; field = reader.take(FIELD)) names.push(field[1]!);
    if (names.length === 0) return operand;
    if (operand.kind === "literal" || operand.kind === "nil")
      reader.fail(`unexpected .${names[0]} after ${JSON.stringify(term.text)}`, term.at);
    return { kind: "value", evaluate: fieldsOf(this.#value(operand), names, term.at), at: term.at };
  }

  #term(term: Term): Operand {
    const reader = this.#reader;
    const { type, text, at } = term;
    switch (type) {
      case "field":
        // `#operand` takes this field with those after it.
        reader.at = at;
        return { kind: "value", evaluate: (_state, dot) => dot, at };
      case "dot":
        if (reader.sees(FIELD)) reader.fail("unexpected . after .", at);
        return { kind: "value", evaluate: (_state, dot) => dot, at };
      case "variable": {
        const slot = this.#slot(text, at);
        return { kind: "value", evaluate: (state) => state.slots[slot], at };
      }
      case "paren": {
        const evaluate = this.#commands("parenthesized pipeline", reader.skip());
        if (!reader.take(CLOSING)) reader.fail("unclosed left paren", at);
        return { kind: "value", evaluate, at };
      }
      case "word":
        return this.#word(text, at);
      default: {
        const value = reader.valueOf(term);
        return { kind: "literal", evaluate: () => value, at };
      }
    }
  }

  #word(text: string, at: number): Operand {
    if (text === "nil") return { kind: "nil", evaluate: () => null, at };
    if (text === "true" || text === "false") return { kind: "literal", evaluate: () => text === "true", at };
    if (NAMES.has(text)) return { kind: "function", name: text, at };
    const near = nearest(text, NAMES);
    return this.#reader.fail(`function "${text}" is not defined${near ? `, did you mean "${near}"?` : ""}`, at);
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Closures

function sequence(renders: Render[]): Render {
  if (renders.length === 1) return renders[0]!;
  return (state, dot) => {
    for (const render of renders) {
      const left = render(state, dot);
      if (left) return left;
    }
    return undefined;
  };
}

/** Evaluates a pipeline and sets its variables. */
function valueOf({ evaluate, slots }: Pipe): Evaluate {
  if (slots.length === 0) return evaluate;
  return (state, dot) => {
    const value = evaluate(state, dot);
    for (const slot of slots) state.slots[slot] = value;
    return value;
  };
}

/** `range`: sets its variables in every iteration. */
function loop({ pipe, body, otherwise, at }: { pipe: Pipe; body: Render; otherwise: Render; at: number }): Render {
  const evaluate = valueOf(pipe);
  const [first, second] = pipe.slots;
  return (state, dot) => {
    const entries = entriesOf(state, evaluate(state, dot), at);
    spendOn(state, [entries], at);
    if (entries.length === 0) return otherwise(state, dot);
    for (const [key, value] of entries) {
      spend(state, at);
      if (first !== undefined) state.slots[first] = second === undefined ? value : key;
      if (second !== undefined) state.slots[second] = value;
      if (body(state, value) === "break") break;
    }
    return undefined;
  };
}

/** The fields `.a.b` of a value. Behind a missing or null key all is missing. */
function fieldsOf(from: Evaluate, names: string[], at: number): Evaluate {
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

/** `and` and `or` stop at the argument that decides. */
function shortCut(isOr: boolean, args: Evaluate[]): Evaluate {
  return (state, dot) => {
    let value: Value;
    for (const arg of args) {
      value = arg(state, dot);
      if (isTrue(value) === isOr) break;
    }
    return value;
  };
}
