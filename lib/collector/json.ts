// JSON with its numbers as they stood: 12345678901234567890, 1.0 and 1e3 print as the sender wrote them.

import { DEEPEST, isNestedDeeper } from "../json.ts";

/** A number whose text says more than its value. Numbers that print as they stood are plain numbers. */
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
    return rawJson(this.text);
  }
}

interface Json5 {
  rawJSON?: (text: string) => unknown;
}
const rawJson = (text: string): unknown => (JSON as Json5).rawJSON?.(text) ?? Number(text);

/** Something that a plain number can't keep: a fraction, an exponent, more digits than 15, minus zero. */
const UNUSUAL = /[[:,]\s*(?:-?\d+(?:[.eE]|\d{16})|-0\s*[,\]}])|^\s*-?\d/;

/**
 * Data that came as JSON, in two readings. `plain` has plain numbers and costs one JSON.parse. `exact` has the numbers as
 * they stood, and is read only when somebody looks at a number: most templates don't.
 */
export interface Data {
  plain: unknown;
  exact: () => unknown;
}

/** Data without a text of its own, such as a form's fields. */
export function dataOf(plain: unknown): Data {
  return { plain, exact: () => plain };
}

/** Reads JSON. Throws SyntaxError, and RangeError for what is nested too deeply; never anything else. */
export function readJson(text: string): Data {
  const plain: unknown = JSON.parse(text);
  if (mayBeNestedDeeper(text, DEEPEST) && isNestedDeeper(plain, DEEPEST)) {
    throw new RangeError(`nested more than ${DEEPEST} levels deep`);
  }
  let exact: unknown;
  return {
    plain,
    exact() {
      if (exact !== undefined) return exact;
      exact = UNUSUAL.test(text) ? parseJson(text) : plain;
      return exact;
    },
  };
}

/** Whether a JSON text has so many brackets that it may be: quick, so that only few values have to be looked through. */
function mayBeNestedDeeper(text: string, most: number): boolean {
  let left = most;
  for (const bracket of ["[", "{"]) {
    for (let at = text.indexOf(bracket); at >= 0 && left >= 0; at = text.indexOf(bracket, at + 1)) left--;
  }
  return left < 0;
}

/** Parses JSON with its numbers as they stood. Throws as `readJson` does. */
export function parseJson(text: string): unknown {
  return JSON.parse(text, (_key, value: unknown, context?: { source?: string }) => {
    if (typeof value !== "number" || context?.source === undefined) return value;
    return String(value) === context.source ? value : new JsonNumber(context.source);
  });
}

/** Compact JSON, numbers as they stood. */
export function compactJson(value: unknown): string {
  return JSON.stringify(value) ?? "null";
}
