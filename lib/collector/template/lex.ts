// Splits a template into text and actions, and actions into tokens, as Go does. Syntax that Go refuses is refused.

import { JsonNumber } from "../numbers.ts";
import { ESCAPES, formatFloat } from "./printf.ts";

/** A template that can't be compiled or rendered; the message ends with the place in the template. */
export class TemplateError extends Error {
  override name = "TemplateError";
}

/** Throws a TemplateError for an offset in the template. */
export function fail(source: string, message: string, at: number): never {
  const before = source.slice(0, at);
  const [line, column] = [before.split("\n").length, at - before.lastIndexOf("\n")];
  throw new TemplateError(`${message} (line ${line}, column ${column} of the template)`);
}

/** `at`: offset in the template. */
export interface Token {
  type: "field" | "variable" | "word" | "number" | "char" | "string" | "dot" | "space" | "symbol" | "end";
  text: string;
  at: number;
}

/** Literal text, or the tokens of an action. */
export type Piece = { text: string } | { tokens: Tokens; at: number };

/** Splits a template. Throws TemplateError. */
export function* pieces(source: string): Generator<Piece> {
  for (let at = 0, trim = false; ;) {
    const open = source.indexOf("{{", at);
    let text = source.slice(at, open < 0 ? source.length : open);
    if (trim) text = text.replace(/^[ \t\r\n]+/, "");
    const trimBefore = open >= 0 && /^-[ \t\r\n]/.test(source.slice(open + 2, open + 4));
    if (trimBefore) text = text.replace(/[ \t\r\n]+$/, "");
    if (text) yield { text };
    if (open < 0) return;
    const inside = open + (trimBefore ? 3 : 2);
    const comment = trimBefore ? /^[ \t\r\n]+\/\*/ : /^\/\*/;
    if (comment.test(source.slice(inside, inside + 64))) {
      ({ end: at, trim } = skipComment(source, inside));
      continue;
    }
    const action = lex(source, inside);
    yield { tokens: new Tokens(source, action.tokens, open), at: open };
    ({ end: at, trim } = action);
  }
}

function skipComment(source: string, inside: number): { end: number; trim: boolean } {
  const close = source.indexOf("*/", inside);
  if (close < 0) fail(source, "unclosed comment", inside);
  const ended = /^(?:[ \t\r\n]-)?\}\}/.exec(source.slice(close + 2, close + 6));
  if (!ended) return fail(source, "comment ends before closing delimiter", close);
  return { end: close + 2 + ended[0].length, trim: ended[0].length > 2 };
}

const TOKEN =
  /(?<space>[ \t\r\n]+)|(?<field>\.[\p{L}_][\p{L}\p{Nd}_]*)|(?<number>[+-]?(?:\.\d|\d)(?:[\p{L}\p{Nd}_.]|(?<=[eEpP])[+-])*)|(?<dot>\.)|(?<variable>\$[\p{L}\p{Nd}_]*)|(?<word>[\p{L}_][\p{L}\p{Nd}_]*)|(?<string>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)|(?<char>'(?:[^'\\\n]|\\[^\n])+')|(?<symbol>:=|=|\||\(|\)|,)/uy;

function lex(source: string, start: number): { tokens: Token[]; end: number; trim: boolean } {
  const tokens: Token[] = [];
  for (let at = start; ;) {
    if (source.startsWith("}}", at)) return { tokens, end: at + 2, trim: false };
    if (/^[ \t\r\n]-\}\}/.test(source.slice(at, at + 4))) return { tokens, end: at + 4, trim: true };
    if (at >= source.length) fail(source, "unclosed action", start);
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(source);
    if (!match) return fail(source, unlexable(source[at]!), at);
    let [text] = match;
    // The space before a trim marker is part of the marker.
    if (match.groups!["space"] !== undefined && source.startsWith("-}}", at + text.length)) {
      if (text.length === 1) continue;
      text = text.slice(0, -1);
    }
    const type = Object.entries(match.groups!).find(([, value]) => value !== undefined)![0] as Token["type"];
    tokens.push({ type, text, at });
    at += text.length;
  }
}

function unlexable(character: string): string {
  if (character === '"') return "unterminated quoted string";
  if (character === "`") return "unterminated raw quoted string";
  if (character === "'") return "unterminated character constant";
  return `unexpected ${JSON.stringify(character)} in an action`;
}

/** The keywords that begin an action. */
export const CONTROLS: ReadonlySet<string> = new Set(
  "if else end range with define template block break continue".split(" "),
);

/** Reads the tokens of one action from left to right. */
export class Tokens {
  #source: string;
  #tokens: Token[];
  #next = 0;
  #end: Token;

  constructor(source: string, tokens: Token[], at: number) {
    this.#source = source;
    this.#tokens = tokens;
    this.#end = { type: "end", text: "}}", at: tokens.at(-1)?.at ?? at };
  }

  peek(): Token {
    return this.#tokens[this.#next] ?? this.#end;
  }

  shift(): Token {
    const token = this.peek();
    this.#next++;
    return token;
  }

  /** Skips spaces; returns the next token. */
  skip(): Token {
    while (this.peek().type === "space") this.#next++;
    return this.peek();
  }

  take(symbol: string): boolean {
    const { type, text } = this.peek();
    if (type !== "symbol" || text !== symbol) return false;
    this.#next++;
    return true;
  }

  done(): boolean {
    return this.skip().type === "end";
  }

  unexpected(context: string): never {
    const { text, at } = this.peek();
    return fail(this.#source, `unexpected ${JSON.stringify(text)} in ${context}`, at);
  }

  finish(context: string): void {
    if (!this.done()) this.unexpected(context);
  }

  /** Takes the keyword if the action begins with one. */
  keyword(): string | null {
    const { type, text } = this.skip();
    if (type !== "word" || !CONTROLS.has(text)) return null;
    this.#next++;
    return text;
  }

  /** Takes a quoted name. */
  name(context: string): string {
    if (this.skip().type !== "string") this.unexpected(`${context}: expected a quoted name`);
    return this.literal() as string;
  }

  literal(): string | number | bigint | JsonNumber {
    const token = this.shift();
    return literal(token, (message) => fail(this.#source, message, token.at));
  }

  /** Takes the fields that follow without a space: `.a.b`. */
  fields(): string[] {
    const names: string[] = [];
    while (this.peek().type === "field") names.push(this.shift().text.slice(1));
    return names;
  }

  /** Takes `$a :=`, `$a =`, `$a, $b :=` or `$a, $b =` if the action begins with it. */
  declared(): { variables: string[]; assign: boolean } {
    const start = this.#next;
    const variables: string[] = [];
    while (this.skip().type === "variable" && variables.length < 2) {
      variables.push(this.shift().text);
      this.skip();
      if (this.take(":=")) return { variables, assign: false };
      if (this.take("=")) return { variables, assign: true };
      if (!this.take(",")) break;
    }
    this.#next = start;
    return { variables: [], assign: false };
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Literals

function literal({ type, text }: Token, bad: (message: string) => never): string | number | bigint | JsonNumber {
  if (type === "number") return numberOf(text) ?? bad(`bad number syntax: ${JSON.stringify(text)}`);
  if (text.startsWith("`")) return text.slice(1, -1).replaceAll("\r", "");
  const value = unquote(text.slice(1, -1), text[0]!);
  if (value === null) return bad(`invalid syntax in ${text}`);
  if (type === "string") return value;
  const [character = "", ...others] = value;
  return others.length === 0 ? character.codePointAt(0)! : bad(`malformed character constant: ${text}`);
}

const INTEGER = /^(?:0[xX](?:_?[\da-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?\d)*)$/;
const FLOAT = /^(?=.*[.eE])(?:\d(?:_?\d)*\.?(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:[eE][+-]?\d(?:_?\d)*)?$/;

/** The value of a Go number literal; null for other text, and for hexadecimal floats. Integers beyond 2^53 stay exact. */
function numberOf(text: string): number | bigint | JsonNumber | null {
  const sign = text.startsWith("-") ? -1 : 1;
  const given = text.replace(/^[+-]/, "");
  const digits = given.replaceAll("_", "").toLowerCase();
  if (INTEGER.test(given)) {
    const value = BigInt(sign) * BigInt(digits.replace(/^0(?=\d)/, "0o"));
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }
  const value = FLOAT.test(given) ? sign * Number(digits) : Number.NaN;
  // Go prints a float in its own form, not as the literal was written.
  return Number.isFinite(value) ? new JsonNumber(formatFloat(value)) : null;
}

/** The value of a Go string or character literal, given without its quotes; null for an unknown escape. */
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
      else if (ESCAPES.has(escape)) return ESCAPES.get(escape)!;
      valid = false;
      return "";
    },
  );
  return valid ? value : null;
}
