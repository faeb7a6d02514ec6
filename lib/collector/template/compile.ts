// Compiles a template in one pass: the parser returns closures that render what it has read. The rules are those of Go's text/template/parse.

import { nearest } from "../../nearest.ts";
import { FUNCTIONS, type Value, isTrue } from "./functions.ts";
import { CONTROLS, type Piece, type Tokens, fail, pieces } from "./lex.ts";
import { show } from "./printf.ts";
import {
  type Evaluate,
  type Pipe,
  type Render,
  call,
  choice,
  fieldsOf,
  loop,
  sequence,
  valueOf,
  work,
  write,
} from "./render.ts";

const NAMES: ReadonlySet<string> = new Set([...FUNCTIONS.keys(), "and", "or"]);
/** More nesting than any real template has, and less than the stack allows. */
const MAX_DEPTH = 200;

/** Compiles a template. Throws TemplateError. */
export function compile(source: string): Render {
  return new Compiler(source).compile();
}

/** A part of a command. A function that comes first takes the parts after it as its arguments. */
type Operand = { at: number } & (
  | { kind: "function"; name: string }
  | { kind: "value" | "literal" | "nil"; evaluate: Evaluate }
);

/** The `{{end}}` or `{{else}}` that ends a body, with the tokens after that word. */
interface Ended {
  word: string;
  tokens: Tokens;
  at: number;
}

/** The nodes up to an `{{end}}` or `{{else}}`; `blank`: they write only white space. */
interface Body {
  render: Render;
  blank: boolean;
  ended: Ended | null;
}

class Compiler {
  #source: string;
  #pieces: Piece[];
  #next = 0;
  #defined = new Map<string, Body>();
  /** The templates that are called, and where. */
  #called = new Map<string, number>();
  /** The variables in scope. */
  #variables = ["$"];
  #ranges = 0;
  #depth = 0;

  constructor(source: string) {
    this.#source = source;
    this.#pieces = [...pieces(source)];
  }

  compile(): Render {
    const { render, ended } = this.#body(true);
    if (ended) this.#fail(`unexpected {{${ended.word}}}`, ended.at);
    for (const [name, at] of this.#called) {
      if (!this.#defined.has(name)) this.#fail(`template "${name}" is not defined`, at);
    }
    return render;
  }

  #fail(message: string, at: number): never {
    return fail(this.#source, message, at);
  }

  #body(top: boolean): Body {
    if (++this.#depth > MAX_DEPTH) this.#fail("nested too deeply", 0);
    const renders: Render[] = [];
    let blank = true;
    let ended: Ended | null = null;
    while (!ended && this.#next < this.#pieces.length) {
      const piece = this.#pieces[this.#next++]!;
      if ("text" in piece) {
        blank &&= piece.text.trim() === "";
        renders.push((state) => write(state, piece.text));
        continue;
      }
      const { tokens, at } = piece;
      const word = tokens.keyword();
      if (word === "end" || word === "else") {
        if (word === "end") tokens.finish("{{end}}");
        ended = { word, tokens, at };
      } else {
        const render = this.#node(word, tokens, { top, at });
        if (render) renders.push(render);
        blank &&= render === null;
      }
    }
    this.#depth--;
    return { render: sequence(renders), blank, ended };
  }

  /** Compiles a node; null for a definition, which renders nothing. */
  #node(word: string | null, tokens: Tokens, { top, at }: { top: boolean; at: number }): Render | null {
    switch (word) {
      case "if":
      case "with":
      case "range":
        return this.#control(word, tokens, at);
      case "define": {
        if (!top) this.#fail("unexpected {{define}}: templates are defined at the top", at);
        const name = tokens.name("define clause");
        tokens.finish("define clause");
        this.#define(name, at);
        return null;
      }
      case "block":
      case "template": {
        const name = tokens.name(`${word} clause`);
        const noPipe = word === "template" && tokens.done();
        const dot = noPipe ? () => undefined : valueOf(this.#pipe(tokens, `${word} clause`));
        if (word === "block") this.#define(name, at);
        if (!this.#called.has(name)) this.#called.set(name, at);
        return call(name, { body: () => this.#defined.get(name)!.render, dot, at });
      }
      case "break":
      case "continue":
        tokens.finish(`{{${word}}}`);
        if (this.#ranges === 0) this.#fail(`{{${word}}} outside {{range}}`, at);
        return () => word;
      default: {
        const pipe = this.#pipe(tokens, "command");
        const evaluate = valueOf(pipe);
        // Declaring or setting a variable prints nothing.
        if (pipe.variables.length > 0) return (state) => void evaluate(state);
        return (state) => write(state, show(evaluate(state)));
      }
    }
  }

  #control(kind: "if" | "with" | "range", tokens: Tokens, at: number): Render {
    const scope = this.#variables.length;
    const pipe = this.#pipe(tokens, kind);
    if (kind === "range") this.#ranges++;
    const { render: body, ended } = this.#body(false);
    // The `else` of a range is outside its loop.
    if (kind === "range") this.#ranges--;
    const otherwise = this.#otherwise(kind, ended, at);
    this.#variables.length = scope;
    return kind === "range" ? loop({ pipe, body, otherwise, at }) : choice(kind, { pipe, body, otherwise, at });
  }

  #otherwise(kind: "if" | "with" | "range", ended: Ended | null, at: number): Render {
    const noEnd = () => this.#fail(`unexpected end of the template: {{${kind}}} has no {{end}}`, at);
    if (!ended) return noEnd();
    if (ended.word === "end") return () => undefined;
    const next = ended.tokens.keyword();
    if (kind !== "range" && next === kind) return this.#control(kind, ended.tokens, ended.at);
    if (next !== null) this.#fail(`unexpected "${next}" in {{else}}`, ended.at);
    ended.tokens.finish("{{else}}");
    const { render, ended: last } = this.#body(false);
    if (!last) return noEnd();
    if (last.word === "else") this.#fail("expected {{end}}, found {{else}}", last.at);
    return render;
  }

  /** Compiles the body of a definition; it can't see the variables around it. */
  #define(name: string, at: number): void {
    const [variables, ranges] = [this.#variables, this.#ranges];
    [this.#variables, this.#ranges] = [["$"], 0];
    const body = this.#body(true);
    if (!body.ended) this.#fail(`unexpected end of the template: the definition of "${name}" has no {{end}}`, at);
    if (body.ended.word === "else") this.#fail("unexpected {{else}}", body.ended.at);
    [this.#variables, this.#ranges] = [variables, ranges];
    const former = this.#defined.get(name);
    if (!former || former.blank) this.#defined.set(name, body);
    else if (!body.blank) this.#fail(`the template "${name}" is defined twice`, at);
  }

  // Pipelines

  #pipe(tokens: Tokens, context: string): Pipe {
    const { at } = tokens.skip();
    const { variables, assign } = tokens.declared();
    if (variables.length > 1 && context !== "range") this.#fail(`too many declarations in ${context}`, at);
    if (assign) for (const name of variables) this.#known(name, at);
    const evaluate = this.#commands(tokens, context, at);
    if (!tokens.done()) tokens.unexpected(context);
    if (!assign) this.#variables.push(...variables);
    return { evaluate, variables, assign };
  }

  /** Commands with `|` between them; the value of one is the last argument of the next. */
  #commands(tokens: Tokens, context: string, at: number): Evaluate {
    if (++this.#depth > MAX_DEPTH) this.#fail("nested too deeply", at);
    let evaluate: Evaluate | null = null;
    // Go accepts a `|` at the end of a pipeline.
    do evaluate = this.#command(tokens, context, evaluate);
    while (tokens.take("|") && !tokens.done());
    this.#depth--;
    return evaluate;
  }

  #command(tokens: Tokens, context: string, piped: Evaluate | null): Evaluate {
    const { at } = tokens.skip();
    const operands: Operand[] = [];
    for (let operand = this.#operand(tokens); operand; operand = this.#operand(tokens)) {
      operands.push(operand);
      const { type, text } = tokens.peek();
      if (type !== "space" && type !== "end" && text !== "|" && text !== ")") tokens.unexpected("operand");
      tokens.skip();
    }
    const [first, ...rest] = operands;
    if (!first) return tokens.done() ? this.#fail(`missing value for ${context}`, at) : tokens.unexpected(context);
    if (first.kind === "function")
      return this.#function(first, [...rest.map((one) => this.#value(one)), ...(piped ? [piped] : [])]);
    if (rest.length > 0 || piped) this.#fail("only functions take arguments", first.at);
    if (first.kind === "nil") this.#fail("nil is not a command", first.at);
    return first.evaluate;
  }

  #value(operand: Operand): Evaluate {
    return operand.kind === "function" ? this.#function(operand, []) : operand.evaluate;
  }

  #function({ name, at }: { name: string; at: number }, args: Evaluate[]): Evaluate {
    const { min, max } = FUNCTIONS.get(name) ?? { min: 1, max: Number.POSITIVE_INFINITY };
    if (args.length < min || args.length > max) {
      const want = min === max ? `${min}` : max === Number.POSITIVE_INFINITY ? `at least ${min}` : `${min} to ${max}`;
      this.#fail(`wrong number of arguments for ${name}: want ${want}, found ${args.length}`, at);
    }
    const fn = FUNCTIONS.get(name);
    if (!fn) return shortCut(name === "or", args);
    return (state) => {
      const values = args.map((arg) => arg(state));
      work(state, values, at);
      let result: Value;
      try {
        result = fn.call(values, state.context);
      } catch (error) {
        return fail(state.source, `error calling ${name}: ${(error as Error).message}`, at);
      }
      // These two return a value that was counted before.
      if (name !== "index" && name !== "default") work(state, [result], at);
      return result;
    };
  }

  /** A term with the fields after it. */
  #operand(tokens: Tokens): Operand | null {
    const { text, at } = tokens.peek();
    const term = this.#term(tokens);
    if (!term) return null;
    const names = tokens.fields();
    if (names.length === 0) return term;
    if (term.kind === "literal" || term.kind === "nil") {
      this.#fail(`unexpected .${names[0]} after ${JSON.stringify(text)}`, at);
    }
    return { kind: "value", evaluate: fieldsOf(this.#value(term), names, at), at };
  }

  #term(tokens: Tokens): Operand | null {
    const { type, text, at } = tokens.peek();
    switch (type) {
      case "dot":
        tokens.shift();
        if (tokens.peek().type === "field") this.#fail("unexpected . after .", at);
        return { kind: "value", evaluate: (state) => state.dot, at };
      case "field":
        // `#operand` takes this field with those after it.
        return { kind: "value", evaluate: (state) => state.dot, at };
      case "variable":
        tokens.shift();
        this.#known(text, at);
        return { kind: "value", evaluate: (state) => state.variables.get(text)!.value, at };
      case "string":
      case "char":
      case "number": {
        const value = tokens.literal();
        return { kind: "literal", evaluate: () => value, at };
      }
      case "word":
        tokens.shift();
        return this.#word(text, at);
      case "symbol": {
        if (!tokens.take("(")) return null;
        const evaluate = this.#commands(tokens, "parenthesized pipeline", at);
        if (!tokens.take(")")) this.#fail("unclosed left paren", at);
        return { kind: "value", evaluate, at };
      }
      case "space":
      case "end":
        return null;
    }
  }

  #word(text: string, at: number): Operand {
    if (text === "nil") return { kind: "nil", evaluate: () => null, at };
    if (text === "true" || text === "false") return { kind: "literal", evaluate: () => text === "true", at };
    if (CONTROLS.has(text)) this.#fail(`unexpected {{${text}}} in an operand`, at);
    if (NAMES.has(text)) return { kind: "function", name: text, at };
    const near = nearest(text, NAMES);
    return this.#fail(`function "${text}" is not defined${near ? `, did you mean "${near}"?` : ""}`, at);
  }

  #known(name: string, at: number): void {
    if (!this.#variables.includes(name)) this.#fail(`undefined variable "${name}"`, at);
  }
}

/** `and` and `or` stop at the argument that decides. */
function shortCut(isOr: boolean, args: Evaluate[]): Evaluate {
  return (state) => {
    let value: Value;
    for (const arg of args) {
      value = arg(state);
      if (isTrue(value) === isOr) break;
    }
    return value;
  };
}
