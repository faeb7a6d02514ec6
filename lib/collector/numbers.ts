// JSON whose numbers keep their text: 12345678901234567890, 1.0 and 1e3 print as the sender wrote them.

import { DEEPEST, isNestedDeeper } from "../json.ts";

/** A number that would print differently as a plain one. */
export class JsonNumber {
  readonly text: string;
  readonly value: number;

  constructor(text: string) {
    this.text = text;
    this.value = Number(text);
  }

  toString(): string {
    return this.text;
  }

  toJSON(): unknown {
    return rawJSON(this.text);
  }
}

const { rawJSON } = JSON as unknown as { rawJSON: (text: string) => unknown };

/**
 * Finds a number that a plain one may not keep: one with a fraction, an exponent, 16 digits or more, or a sign. A colon after a digit
 * is part of a time of day in a text. Takes 3 µs for 7 KB; other forms of this pattern take up to 13.
 */
const UNUSUAL = /(?:(?<!\d):|[,[])\s*(?:\d+(?:[.eE]|\d{15})|-\d)/;

/** An escape within a JSON text: a surrogate pair, half of one (the group), or any other. */
const ESCAPE = /\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)/gs;

/**
 * Parses JSON. Numbers keep their text; where each would print unchanged anyway, JSON.parse is enough. Half of a surrogate pair becomes U+FFFD.
 * @throws SyntaxError, and RangeError for what is nested too deeply; never anything else.
 */
export function readJson(given: string): unknown {
  const text = /\\u[dD][89a-fA-F]/.test(given) ? given.replace(ESCAPE, (all, half) => (half ? "\\ufffd" : all)) : given;
  const plain = /^\s*[[{]/.test(text) && !UNUSUAL.test(text);
  const value: unknown = plain ? JSON.parse(text) : JSON.parse(text, keepText);
  if (isNestedDeeper(value, DEEPEST)) throw new RangeError(`nested more than ${DEEPEST} levels deep`);
  return value;
}

function keepText(_key: string, value: unknown, context?: { source?: string }): unknown {
  if (typeof value !== "number" || context?.source === undefined) return value;
  return String(value) === context.source ? value : new JsonNumber(context.source);
}

export type Numeric = number | JsonNumber;

export function isNumber(value: unknown): value is Numeric {
  return typeof value === "number" || value instanceof JsonNumber;
}

/** Compact JSON with its numbers unchanged. */
export function compactJson(value: unknown): string {
  return JSON.stringify(value) ?? "null";
}
