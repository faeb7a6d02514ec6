// A template as it is read, from left to right: literal text, and within actions the terms of Go's syntax. What Go refuses is refused.

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

const SPACES = /[ \t\r\n]*/y;
const OPEN = /\{\{(?:-(?=[ \t\r\n]))?/y;
const CLOSE = /(?:(?<=[ \t\r\n])-)?\}\}/y;
const OPEN_COMMENT = /(?:(?<=-)[ \t\r\n]+)?\/\*/y;
const CLOSE_COMMENT = /(?:[ \t\r\n]-)?\}\}/y;
const TERM =
  /(?<field>\.[\p{L}_][\p{L}\p{Nd}_]*)|(?<number>[+-]?(?:\.\d|\d)(?:[\p{L}\p{Nd}_.]|(?<=[eEpP])[+-])*)|(?<dot>\.)|(?<variable>\$[\p{L}\p{Nd}_]*)|(?<word>[\p{L}_][\p{L}\p{Nd}_]*)|(?<string>"(?:[^"\\\n]|\\[^\n])*"|`[^`]*`)|(?<char>'(?:[^'\\\n]|\\[^\n])+')|(?<paren>\()/uy;
/** `at`: offset in the template. */
export interface Term {
  type: "field" | "number" | "dot" | "variable" | "word" | "string" | "char" | "paren";
  text: string;
  at: number;
}

/** A place in a template. */
export class Reader {
  readonly source: string;
  at = 0;
  /** The action before ended in ` -}}`. */
  #trims = false;

  constructor(source: string) {
    this.source = source;
  }

  fail(message: string, at = this.at): never {
    return fail(this.source, message, at);
  }

  /** Takes what a sticky pattern matches here; null when it doesn't. */
  take(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.source);
    if (match) this.at = pattern.lastIndex;
    return match;
  }

  /** Whether a sticky pattern matches here. */
  sees(pattern: RegExp): boolean {
    pattern.lastIndex = this.at;
    return pattern.test(this.source);
  }

  /** Skips spaces; returns the place behind them. */
  skip(): number {
    this.take(SPACES);
    return this.at;
  }

  /** Takes the text up to the next action, and opens that one; `action` is its place, null at the end of the template. */
  text(): { text: string; action: number | null } {
    let all = "";
    for (;;) {
      const action = this.source.indexOf("{{", this.at);
      let text = this.source.slice(this.at, action < 0 ? undefined : action);
      if (this.#trims) text = text.replace(/^[ \t\r\n]+/, "");
      if (action < 0) return { text: all + text, action: null };
      this.at = action;
      if (this.take(OPEN)![0].endsWith("-")) text = text.replace(/[ \t\r\n]+$/, "");
      all += text;
      if (!this.#comment()) return { text: all, action };
    }
  }

  #comment(): boolean {
    if (!this.take(OPEN_COMMENT)) return false;
    const end = this.source.indexOf("*/", this.at);
    if (end < 0) this.fail("unclosed comment");
    this.at = end + 2;
    if (!this.#close(CLOSE_COMMENT)) this.fail("comment ends before closing delimiter", end);
    return true;
  }

  #close(pattern: RegExp): boolean {
    const closed = this.take(pattern);
    this.#trims = closed !== null && closed[0].length > 2;
    return closed !== null;
  }

  /** Whether the action ends here. */
  ends(): boolean {
    this.skip();
    return this.sees(CLOSE);
  }

  /** Takes the end of the action. `context` names in errors what should end here. */
  finish(context: string): void {
    this.skip();
    if (!this.#close(CLOSE)) this.unexpected(context);
  }

  unexpected(context: string): never {
    const { at } = this;
    if (at >= this.source.length) return this.fail("unclosed action");
    const [text] = (this.take(TERM) ?? this.take(/[^]/uy))!;
    const isOpen = /^["'`]$/.test(text);
    return this.fail(isOpen ? "unterminated quoted string" : `unexpected ${JSON.stringify(text)} in ${context}`, at);
  }

  /** Takes a term; null when there is none. */
  term(): Term | null {
    const { at } = this;
    const match = this.take(TERM);
    if (!match) return null;
    const [type] = Object.entries(match.groups!).find(([, value]) => value !== undefined)!;
    return { type: type as Term["type"], text: match[0], at };
  }

  /** Takes a quoted name. */
  name(context: string): string {
    const at = this.skip();
    const term = this.term();
    if (term?.type === "string") return this.valueOf(term) as string;
    this.at = at;
    return this.unexpected(`${context}: expected a quoted name`);
  }

  /** The value of a literal. */
  valueOf({ type, text, at }: Term): string | number | JsonNumber {
    if (type === "number") return numberOf(text) ?? this.fail(`bad number syntax: ${JSON.stringify(text)}`, at);
    if (text.startsWith("`")) return text.slice(1, -1).replaceAll("\r", "");
    const value = unquote(text.slice(1, -1), text[0]!);
    if (value === null) return this.fail(`invalid syntax in ${text}`, at);
    if (type === "string") return value;
    const [character = "", ...others] = value;
    return others.length === 0 ? character.codePointAt(0)! : this.fail(`malformed character constant: ${text}`, at);
  }
}

const INTEGER = /^(?:0[xX](?:_?[\da-fA-F])+|0[bB](?:_?[01])+|0[oO]?(?:_?[0-7])+|0|[1-9](?:_?\d)*)$/;
const FLOAT = /^(?=.*[.eE])(?:\d(?:_?\d)*\.?(?:\d(?:_?\d)*)?|\.\d(?:_?\d)*)(?:[eE][+-]?\d(?:_?\d)*)?$/;

/** The value of a Go number literal; null for other text, and for hexadecimal floats. Integers beyond 2^53 stay exact. */
function numberOf(text: string): number | JsonNumber | null {
  const sign = text.startsWith("-") ? -1 : 1;
  const given = text.replace(/^[+-]/, "");
  const digits = given.replaceAll("_", "").toLowerCase();
  if (INTEGER.test(given)) {
    const value = BigInt(sign) * BigInt(digits.replace(/^0(?=\d)/, "0o"));
    return Number.isSafeInteger(Number(value)) ? Number(value) : new JsonNumber(String(value));
  }
  const value = FLOAT.test(given) ? sign * Number(digits) : Number.NaN;
  // Go prints a float in its own form, not as the literal was written.
  return Number.isFinite(value) ? new JsonNumber(formatFloat(value)) : null;
}

/** The value of a Go string or character literal, given without its quotes; null for an unknown escape. */
function unquote(inside: string, quote: string): string | null {
  let valid = true;
  const value = inside.replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{3})|(.))/gs,
    (_all, byte?: string, four?: string, eight?: string, octal?: string, letter?: string) => {
      const hex = byte ?? four ?? eight;
      const code = hex === undefined ? Number.parseInt(octal ?? "", 8) : Number.parseInt(hex, 16);
      const isCharacter = code <= (octal === undefined ? 0x10ffff : 255) && !(code >= 0xd800 && code <= 0xdfff);
      const escaped = isCharacter ? String.fromCodePoint(code) : letter === quote ? quote : ESCAPES.get(letter ?? "");
      valid &&= escaped !== undefined;
      return escaped ?? "";
    },
  );
  return valid ? value : null;
}
