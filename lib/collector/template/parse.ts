// Go's template syntax, from text to a tree. The rules are those of Go's text/template/parse: what it refuses is refused.

import { nearest } from "../../nearest.ts";
import { JsonNumber } from "../numbers.ts";
import { formatFloat } from "./printf.ts";

/** A template that can't be compiled or rendered. `line` and `column` count from 1 within the template's text. */
export class TemplateError extends Error {
  override name = "TemplateError";
  readonly line: number;
  readonly column: number;

  constructor(message: string, place: { line: number; column: number }) {
    super(`${message} (line ${place.line}, column ${place.column} of the template)`);
    this.line = place.line;
    this.column = place.column;
  }
}

/** An argument: what can stand in a command. `at` is the offset in the text. */
export type Operand =
  | { kind: "dot"; at: number }
  | { kind: "nil"; at: number }
  | { kind: "literal"; value: string | boolean | number | bigint | JsonNumber; at: number }
  | { kind: "field"; names: string[]; at: number }
  | { kind: "variable"; name: string; names: string[]; at: number }
  | { kind: "function"; name: string; at: number }
  | { kind: "chain"; pipe: Pipe; names: string[]; at: number };

export interface CommandNode {
  operands: Operand[];
  at: number;
}

/** A pipeline, with the variables it declares or sets. */
export interface Pipe {
  variables: string[];
  assign: boolean;
  commands: CommandNode[];
  at: number;
}

export type Node =
  | { kind: "text"; text: string }
  | { kind: "action"; pipe: Pipe; at: number }
  | { kind: "if" | "with" | "range"; pipe: Pipe; body: Node[]; otherwise: Node[] | null; at: number }
  | { kind: "template"; name: string; pipe: Pipe | null; at: number }
  | { kind: "break" | "continue"; at: number };

/** A template's own nodes, and those of the templates it defines. */
interface Tree {
  nodes: Node[];
  defined: Map<string, Node[]>;
}

interface Token {
  type: "field" | "variable" | "word" | "number" | "char" | "string" | "dot" | "space" | "symbol" | "end";
  text: string;
  at: number;
}

type Piece = { text: string } | { tokens: Token[]; at: number };

const SPACE = " \t\r\n";
const KEYWORDS: ReadonlySet<string> = new Set([
  "if",
  "else",
  "end",
  "range",
  "with",
  "define",
  "template",
  "block",
  "break",
  "continue",
  "nil",
  "true",
  "false",
]);
/** Deeper nesting than anybody writes, and shallower than the stack. */
const MAX_DEPTH = 200;

/** Parses a template. Throws TemplateError. */
export function parse(source: string, functions: ReadonlySet<string>): Tree {
  return new Parser(source, functions).parse();
}

/** Where an offset lies. */
export function placeOf(source: string, at: number): { line: number; column: number } {
  const before = source.slice(0, at);
  return { line: before.split("\n").length, column: at - before.lastIndexOf("\n") };
}

// ---------------------------------------------------------------------------------------------------------------
// Text and actions, trim markers, comments

function* pieces(source: string, fail: (message: string, at: number) => never): Generator<Piece> {
  let at = 0;
  let trimNext = false;
  for (;;) {
    const open = source.indexOf("{{", at);
    let text = source.slice(at, open < 0 ? source.length : open);
    if (trimNext) text = text.replace(/^[ \t\r\n]+/, "");
    if (open < 0) {
      if (text) yield { text };
      return;
    }
    const trimBefore = source[open + 2] === "-" && SPACE.includes(source[open + 3] ?? "x");
    if (trimBefore) text = text.replace(/[ \t\r\n]+$/, "");
    if (text) yield { text };
    const inside = open + (trimBefore ? 3 : 2);
    const comment = /^[ \t\r\n]*\/\*/.exec(
      trimBefore ? source.slice(inside, inside + 64) : source.slice(inside, inside + 2),
    );
    if (comment) {
      ({ at, trimNext } = afterComment(source, inside, fail));
      continue;
    }
    const { tokens, end, trim } = lex(source, inside, fail);
    yield { tokens, at: open };
    at = end;
    trimNext = trim;
  }
}

function afterComment(
  source: string,
  inside: number,
  fail: (message: string, at: number) => never,
): { at: number; trimNext: boolean } {
  const close = source.indexOf("*/", inside);
  if (close < 0) fail("unclosed comment", inside);
  const rest = source.slice(close + 2);
  const ended = /^(?:[ \t\r\n]-)?\}\}/.exec(rest);
  if (!ended) return fail("comment ends before closing delimiter", close);
  return { at: close + 2 + ended[0].length, trimNext: ended[0].length > 2 };
}

const TOKEN =
  /(?<space>[ \t\r\n]+)|(?<field>\.[\p{L}_][\p{L}\p{Nd}_]*)|(?<number>[+-]?(?:\.\d|\d)(?:[\p{L}\p{Nd}_.]|(?<=[eEpP])[+-])*)|(?<dot>\.)|(?<variable>\$[\p{L}\p{Nd}_]*)|(?<word>[\p{L}_][\p{L}\p{Nd}_]*)|(?<string>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)|(?<char>'(?:[^'\\\n]|\\[^\n])+')|(?<symbol>:=|=|\||\(|\)|,)/uy;

function lex(
  source: string,
  start: number,
  fail: (message: string, at: number) => never,
): { tokens: Token[]; end: number; trim: boolean } {
  const tokens: Token[] = [];
  for (let at = start; ;) {
    if (source.startsWith("}}", at)) return { tokens, end: at + 2, trim: false };
    if (/^[ \t\r\n]-\}\}/.test(source.slice(at, at + 4))) return { tokens, end: at + 4, trim: true };
    if (at >= source.length) fail("unclosed action", start);
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(source);
    if (!match) return fail(unlexable(source, at), at);
    let [text] = match;
    // A blank before a trim marker belongs to the marker.
    if (match.groups!["space"] !== undefined && source.startsWith("-}}", at + text.length)) {
      if (text.length === 1) continue;
      text = text.slice(0, -1);
    }
    const type = Object.entries(match.groups!).find(([, value]) => value !== undefined)![0] as Token["type"];
    tokens.push({ type, text, at });
    at += text.length;
  }
}

function unlexable(source: string, at: number): string {
  const character = source[at]!;
  if (character === '"') return "unterminated quoted string";
  if (character === "`") return "unterminated raw quoted string";
  if (character === "'") return "unterminated character constant";
  return `unexpected ${JSON.stringify(character)} in an action`;
}

// ---------------------------------------------------------------------------------------------------------------

class Parser {
  #source: string;
  #functions: ReadonlySet<string>;
  #pieces: Piece[];
  #next = 0;
  #defined = new Map<string, Node[]>();
  /** Variables in scope. */
  #variables = ["$"];
  #ranges = 0;
  #depth = 0;

  constructor(source: string, functions: ReadonlySet<string>) {
    this.#source = source;
    this.#functions = functions;
    this.#pieces = [...pieces(source, (message, at) => this.#fail(message, at))];
  }

  parse(): Tree {
    const { nodes, ended } = this.#list(true);
    if (ended) this.#fail(`unexpected {{${ended.word}}}`, ended.at);
    return { nodes, defined: this.#defined };
  }

  #fail(message: string, at: number): never {
    throw new TemplateError(message, placeOf(this.#source, at));
  }

  /** Nodes up to `{{end}}` or `{{else}}`, which is handed back, or to the end of the text. */
  #list(top: boolean): { nodes: Node[]; ended: { word: string; tokens: Tokens; at: number } | null } {
    if (++this.#depth > MAX_DEPTH) this.#fail("nested too deeply", 0);
    const nodes: Node[] = [];
    while (this.#next < this.#pieces.length) {
      const piece = this.#pieces[this.#next++]!;
      if ("text" in piece) {
        nodes.push({ kind: "text", text: piece.text });
        continue;
      }
      const tokens = new Tokens(piece.tokens, piece.at, (message, at) => this.#fail(message, at));
      const word = tokens.keyword();
      if (word === "end" || word === "else") {
        if (word === "end") tokens.finish("{{end}}");
        this.#depth--;
        return { nodes, ended: { word, tokens, at: piece.at } };
      }
      const node = this.#node(word, tokens, { top, at: piece.at });
      if (node) nodes.push(node);
    }
    this.#depth--;
    return { nodes, ended: null };
  }

  #node(word: string | null, tokens: Tokens, { top, at }: { top: boolean; at: number }): Node | null {
    switch (word) {
      case "if":
      case "with":
      case "range":
        return this.#control(word, tokens, at);
      case "define":
        return this.#define(tokens, { top, at });
      case "block":
        return this.#block(tokens, at);
      case "template": {
        const name = tokens.string("template clause");
        const pipe = tokens.done() ? null : this.#pipe(tokens, "template clause");
        return { kind: "template", name, pipe, at };
      }
      case "break":
      case "continue":
        tokens.finish(`{{${word}}}`);
        if (this.#ranges === 0) this.#fail(`{{${word}}} outside {{range}}`, at);
        return { kind: word, at };
      default:
        return { kind: "action", pipe: this.#pipe(tokens, "command"), at };
    }
  }

  #control(kind: "if" | "with" | "range", tokens: Tokens, at: number): Node {
    const scope = this.#variables.length;
    const pipe = this.#pipe(tokens, kind);
    if (kind === "range") this.#ranges++;
    const { nodes: body, ended } = this.#list(false);
    // `else` of a range isn't in its loop any more.
    if (kind === "range") this.#ranges--;
    const otherwise = this.#otherwise(kind, ended, at);
    this.#variables.length = scope;
    return { kind, pipe, body, otherwise, at };
  }

  #otherwise(
    kind: "if" | "with" | "range",
    ended: { word: string; tokens: Tokens; at: number } | null,
    at: number,
  ): Node[] | null {
    if (!ended) return this.#fail(`unexpected end of the template: {{${kind}}} has no {{end}}`, at);
    if (ended.word === "end") return null;
    const { tokens } = ended;
    if (kind === "if" && tokens.keyword() === "if") return [this.#control("if", tokens, ended.at)];
    tokens.finish("{{else}}");
    const rest = this.#list(false);
    if (!rest.ended) return this.#fail(`unexpected end of the template: {{${kind}}} has no {{end}}`, at);
    if (rest.ended.word === "else") this.#fail("expected {{end}}, found {{else}}", rest.ended.at);
    return rest.nodes;
  }

  #define(tokens: Tokens, { top, at }: { top: boolean; at: number }): null {
    if (!top) this.#fail("unexpected {{define}}: templates are defined at the top", at);
    const name = tokens.string("define clause");
    tokens.finish("define clause");
    this.#body(name, at);
    return null;
  }

  #block(tokens: Tokens, at: number): Node {
    const name = tokens.string("block clause");
    const pipe = this.#pipe(tokens, "block clause");
    this.#body(name, at);
    return { kind: "template", name, pipe, at };
  }

  /** The body of a definition: a template of its own, which sees no variable of where it stands. */
  #body(name: string, at: number): void {
    const [variables, ranges] = [this.#variables, this.#ranges];
    this.#variables = ["$"];
    this.#ranges = 0;
    const { nodes, ended } = this.#list(true);
    if (!ended) this.#fail(`unexpected end of the template: the definition of "${name}" has no {{end}}`, at);
    if (ended.word === "else") this.#fail("unexpected {{else}}", ended.at);
    [this.#variables, this.#ranges] = [variables, ranges];
    const former = this.#defined.get(name);
    if (former && !isEmpty(former)) {
      if (!isEmpty(nodes)) this.#fail(`the template "${name}" is defined twice`, at);
      return;
    }
    this.#defined.set(name, nodes);
  }

  // Pipelines

  #pipe(tokens: Tokens, context: string): Pipe {
    const at = tokens.at();
    const { variables, assign } = this.#declaration(tokens, context);
    const pipe = this.#commands(tokens, { context, at, closing: false });
    if (!assign) this.#variables.push(...variables);
    return { ...pipe, variables, assign };
  }

  #declaration(tokens: Tokens, context: string): { variables: string[]; assign: boolean } {
    const first = tokens.declared();
    if (!first) return { variables: [], assign: false };
    if (first.names.length > 1 && context !== "range") this.#fail(`too many declarations in ${context}`, first.at);
    if (first.assign) for (const name of first.names) this.#known(name, first.at);
    return { variables: first.names, assign: first.assign };
  }

  #commands(tokens: Tokens, options: { context: string; at: number; closing: boolean }): Pipe {
    if (++this.#depth > MAX_DEPTH) this.#fail("nested too deeply", options.at);
    const commands: CommandNode[] = [];
    for (;;) {
      tokens.skip();
      commands.push(this.#command(tokens, options));
      tokens.skip();
      // Go lets a pipeline end with a bar.
      if (!tokens.take("|") || (!options.closing && tokens.done())) break;
    }
    if (options.closing && !tokens.take(")")) this.#fail("unclosed left paren", options.at);
    if (!options.closing && !tokens.done())
      this.#fail(`unexpected ${JSON.stringify(tokens.peek().text)} in ${options.context}`, tokens.at());
    for (const { operands, at } of commands.slice(1)) {
      if (operands[0]!.kind === "literal" || operands[0]!.kind === "dot" || operands[0]!.kind === "nil") {
        this.#fail("a literal or dot can't take what is piped into it", at);
      }
    }
    this.#depth--;
    return { variables: [], assign: false, commands, at: options.at };
  }

  #command(tokens: Tokens, { context }: { context: string }): CommandNode {
    const at = tokens.at();
    const operands: Operand[] = [];
    for (;;) {
      tokens.skip();
      const operand = this.#operand(tokens);
      if (!operand) break;
      operands.push(operand);
      if (!tokens.peekIs("space", "|", ")", "end")) {
        this.#fail(`unexpected ${JSON.stringify(tokens.peek().text)} in operand`, tokens.at());
      }
    }
    if (operands.length === 0)
      this.#fail(
        tokens.done()
          ? `missing value for ${context}`
          : `unexpected ${JSON.stringify(tokens.peek().text)} in ${context}`,
        at,
      );
    return { operands, at };
  }

  #operand(tokens: Tokens): Operand | null {
    const token = tokens.peek();
    const operand = this.#term(tokens, token);
    if (!operand) return null;
    const names = tokens.fields();
    if (names.length === 0) return operand;
    if (operand.kind === "field" || operand.kind === "variable" || operand.kind === "chain") {
      operand.names.push(...names);
      return operand;
    }
    if (operand.kind === "function") {
      const pipe = {
        variables: [],
        assign: false,
        commands: [{ operands: [operand], at: operand.at }],
        at: operand.at,
      };
      return { kind: "chain", pipe, names, at: operand.at };
    }
    return this.#fail(`unexpected .${names[0]} after ${JSON.stringify(token.text)}`, token.at);
  }

  #term(tokens: Tokens, token: Token): Operand | null {
    const { at, text } = token;
    switch (token.type) {
      case "dot":
        tokens.shift();
        if (tokens.peek().type === "field") this.#fail("unexpected . after .", at);
        return { kind: "dot", at };
      case "field":
        tokens.shift();
        return { kind: "field", names: [text.slice(1)], at };
      case "variable":
        tokens.shift();
        this.#known(text, at);
        return { kind: "variable", name: text, names: [], at };
      case "string":
      case "char":
      case "number":
        tokens.shift();
        return { kind: "literal", value: literal(token, (message) => this.#fail(message, at)), at };
      case "word":
        tokens.shift();
        return this.#word(text, at);
      case "symbol":
        if (text !== "(") return null;
        tokens.shift();
        return {
          kind: "chain",
          pipe: this.#commands(tokens, { context: "parenthesized pipeline", at, closing: true }),
          names: [],
          at,
        };
      case "space":
      case "end":
        return null;
    }
  }

  #word(text: string, at: number): Operand {
    if (text === "nil") return { kind: "nil", at };
    if (text === "true" || text === "false") return { kind: "literal", value: text === "true", at };
    if (KEYWORDS.has(text)) this.#fail(`unexpected {{${text}}} in an operand`, at);
    if (this.#functions.has(text)) return { kind: "function", name: text, at };
    const near = nearest(text, this.#functions);
    return this.#fail(`function "${text}" is not defined${near ? `, did you mean "${near}"?` : ""}`, at);
  }

  #known(name: string, at: number): void {
    if (!this.#variables.includes(name)) this.#fail(`undefined variable "${name}"`, at);
  }
}

/** The tokens of one action, read from the left. */
class Tokens {
  #tokens: Token[];
  #next = 0;
  #end: Token;
  #fail: (message: string, at: number) => never;

  constructor(tokens: Token[], at: number, fail: (message: string, at: number) => never) {
    this.#tokens = tokens;
    this.#end = { type: "end", text: "}}", at: tokens.at(-1)?.at ?? at };
    this.#fail = fail;
  }

  peek(): Token {
    return this.#tokens[this.#next] ?? this.#end;
  }

  shift(): Token {
    const token = this.peek();
    this.#next++;
    return token;
  }

  at(): number {
    return this.peek().at;
  }

  skip(): void {
    while (this.peek().type === "space") this.#next++;
  }

  take(symbol: string): boolean {
    if (this.peek().type !== "symbol" || this.peek().text !== symbol) return false;
    this.#next++;
    return true;
  }

  peekIs(...what: string[]): boolean {
    const { type, text } = this.peek();
    return what.includes(type) || (type === "symbol" && what.includes(text));
  }

  done(): boolean {
    this.skip();
    return this.peek().type === "end";
  }

  finish(context: string): void {
    if (!this.done()) this.#fail(`unexpected ${JSON.stringify(this.peek().text)} in ${context}`, this.at());
  }

  /** Takes the action's keyword, when it begins with one that controls. */
  keyword(): string | null {
    this.skip();
    const { type, text } = this.peek();
    if (type !== "word" || !KEYWORDS.has(text) || ["nil", "true", "false"].includes(text)) return null;
    this.#next++;
    return text;
  }

  string(context: string): string {
    this.skip();
    const token = this.shift();
    if (token.type !== "string")
      this.#fail(`unexpected ${JSON.stringify(token.text)} in ${context}: expected a quoted name`, token.at);
    return literal(token, (message) => this.#fail(message, token.at)) as string;
  }

  /** Fields that follow without a blank: `.a.b`. */
  fields(): string[] {
    const names: string[] = [];
    while (this.peek().type === "field") names.push(this.shift().text.slice(1));
    return names;
  }

  /** `$a :=`, `$a =`, `$a, $b :=`, `$a, $b =`; null when the action doesn't begin with one. */
  declared(): { names: string[]; assign: boolean; at: number } | null {
    const start = this.#next;
    const at = this.at();
    const names: string[] = [];
    for (;;) {
      this.skip();
      if (this.peek().type !== "variable") break;
      names.push(this.shift().text);
      this.skip();
      if (this.take(":=")) return { names, assign: false, at };
      if (this.take("=")) return { names, assign: true, at };
      if (!this.take(",") || names.length > 1) break;
    }
    this.#next = start;
    return null;
  }
}

function isEmpty(nodes: Node[]): boolean {
  return nodes.every((node) => node.kind === "text" && node.text.trim() === "");
}

// ---------------------------------------------------------------------------------------------------------------
// Literals

function literal({ type, text }: Token, fail: (message: string) => never): string | number | bigint | JsonNumber {
  if (type === "number") return numberOf(text) ?? fail(`bad number syntax: ${JSON.stringify(text)}`);
  if (text.startsWith("`")) return text.slice(1, -1).replaceAll("\r", "");
  const value = unquote(text.slice(1, -1), text[0]!);
  if (value === null) return fail(`invalid syntax in ${text}`);
  if (type === "string") return value;
  const code = value.codePointAt(0)!;
  return value.length === (code > 0xffff ? 2 : 1) ? code : fail(`malformed character constant: ${text}`);
}

/** Go's number literals, without hexadecimal floats; null when it is none. Integers beyond 2^53 stay exact. */
function numberOf(text: string): number | bigint | JsonNumber | null {
  const sign = text.startsWith("-") ? -1 : 1;
  const digits = text.replace(/^[+-]/, "");
  if (
    !/^(?:0[xX]_?|0[bB]_?|0[oO]_?)?[\da-fA-F]+(?:_[\da-fA-F]+)*(?:\.|[eEpP]|$)|^\.\d/.test(digits) &&
    !/^[\d.]/.test(digits)
  )
    return null;
  if (/__|_$|^_|_\.|\._|_[eEpP]/.test(digits)) return null;
  const plain = digits.replaceAll("_", "");
  if (
    digits.includes("_") &&
    !/^(?:0[xXbBoO]_?)?[\da-fA-F]+(?:_[\da-fA-F]+)*(?:\.[\d_]*)?(?:[eE][+-]?[\d_]+)?$/.test(digits)
  )
    return null;
  if (/^(?:0[xX][\da-fA-F]+|0[bB][01]+|0[oO][0-7]+)$/.test(plain))
    return exact(BigInt(plain.toLowerCase()) * BigInt(sign));
  if (/^0[0-7]+$/.test(plain)) return exact(BigInt(`0o${plain.slice(1)}`) * BigInt(sign));
  if (/^(?:0|[1-9]\d*)$/.test(plain)) return exact(BigInt(plain) * BigInt(sign));
  if (/^\d+$/.test(plain)) return null;
  if (/^(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(plain)) return float(Number(plain) * sign);
  return null;
}

/** A float prints as Go prints it, whatever the literal looked like. */
function float(value: number): JsonNumber | null {
  return Number.isFinite(value) ? new JsonNumber(formatFloat(value)) : null;
}

function exact(value: bigint): number | bigint {
  return value >= BigInt(Number.MIN_SAFE_INTEGER) && value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(value) : value;
}

const ESCAPES: Record<string, string> = { a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v", "\\": "\\" };

/** The inside of a Go string or character literal; null when an escape is none of Go's. */
function unquote(inside: string, quote: string): string | null {
  let valid = true;
  const value = inside.replace(
    /\\(x[\da-fA-F]{2}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|[0-7]{3}|.)/gs,
    (_all, escape: string) => {
      if (/^[xuU]./.test(escape)) {
        const code = Number.parseInt(escape.slice(1), 16);
        if (code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff)) return String.fromCodePoint(code);
      } else if (/^[0-7]{3}$/.test(escape)) {
        const code = Number.parseInt(escape, 8);
        if (code <= 255) return String.fromCharCode(code);
      } else if (escape === quote) return quote;
      else if (escape in ESCAPES) return ESCAPES[escape]!;
      valid = false;
      return "";
    },
  );
  return valid ? value : null;
}
