// The functions of Go's text/template, and ours. A value is undefined (missing), null, boolean, number, JsonNumber, string, array or
// object. Functions throw plain Errors; the caller adds the place.

import { JsonNumber, type Numeric, compactJson, isNumber, readJson } from "../numbers.ts";
import type { Asked } from "../delivery.ts";
import { print, println, printf, show } from "./printf.ts";

export type Value = unknown;

interface Fn {
  min: number;
  max: number;
  call: (args: Value[], asked: Asked & { body: () => string }) => Value;
}

const MANY = Number.POSITIVE_INFINITY;

/** `and` and `or` are not here: they evaluate their arguments one by one (Go since 1.18). */
export const FUNCTIONS: ReadonlyMap<string, Fn> = new Map<string, Fn>([
  ["not", { min: 1, max: 1, call: ([value]) => !isTrue(value) }],
  ["eq", { min: 1, max: MANY, call: ([first, ...others]) => eq(first, others) }],
  ["ne", { min: 2, max: 2, call: ([a, b]) => !eq(a, [b]) }],
  ["lt", { min: 2, max: 2, call: ([a, b]) => compare(a, b) < 0 }],
  ["le", { min: 2, max: 2, call: ([a, b]) => compare(a, b) <= 0 }],
  ["gt", { min: 2, max: 2, call: ([a, b]) => compare(a, b) > 0 }],
  ["ge", { min: 2, max: 2, call: ([a, b]) => compare(a, b) >= 0 }],
  ["len", { min: 1, max: 1, call: ([value]) => length(value) }],
  ["index", { min: 1, max: MANY, call: ([value, ...keys]) => keys.reduce(index, value) }],
  ["slice", { min: 1, max: 4, call: ([value, ...bounds]) => slice(value, bounds) }],
  ["print", { min: 0, max: MANY, call: (args) => print(args) }],
  ["printf", { min: 1, max: MANY, call: ([format, ...args]) => printf(text(format, "printf"), args) }],
  ["println", { min: 0, max: MANY, call: (args) => println(args) }],
  ["html", { min: 0, max: MANY, call: (args) => escapeHtml(join(args)) }],
  ["js", { min: 0, max: MANY, call: (args) => escapeJs(join(args)) }],
  ["urlquery", { min: 0, max: MANY, call: (args) => escapeQuery(join(args)) }],
  ["json", { min: 1, max: 1, call: ([value]) => compactJson(value) }],
  ["fromJson", { min: 1, max: 1, call: ([value]) => (typeof value === "string" ? fromJson(value) : value) }],
  ["default", { min: 2, max: 2, call: ([fallback, value]) => (isTrue(value) ? value : fallback) }],
  ["lower", { min: 1, max: 1, call: ([value]) => show(value).toLowerCase() }],
  ["upper", { min: 1, max: 1, call: ([value]) => show(value).toUpperCase() }],
  ["trim", { min: 1, max: 1, call: ([value]) => show(value).trim() }],
  ["join", { min: 2, max: 2, call: ([a, b]) => joinList(a, b) }],
  ["trunc", { min: 2, max: 2, call: ([n, value]) => truncate(n, value) }],
  ["header", { min: 1, max: 1, call: ([name], asked) => asked.header(text(name, "header")) ?? "" }],
  ["query", { min: 1, max: 1, call: ([name], asked) => asked.query(text(name, "query")) ?? "" }],
  ["body", { min: 0, max: 0, call: (_args, asked) => asked.body() }],
]);

/** Go's truth: false, 0, "", empty lists and maps, null and missing values are false. */
export function isTrue(value: Value): boolean {
  if (value === undefined || value === null || value === false || value === "") return false;
  if (typeof value === "number") return value !== 0;
  if (value instanceof JsonNumber) return value.value !== 0;
  if (Array.isArray(value)) return value.length > 0;
  return typeof value !== "object" || size(value) > 0;
}

/** How many keys a map has; counted once, because a loop may ask for the same large map in every iteration. */
function size(map: object): number {
  let known = SIZES.get(map);
  if (known === undefined) SIZES.set(map, (known = Object.keys(map).length));
  return known;
}
const SIZES = new WeakMap<object, number>();

/** The type of a value, for messages. */
export function typeName(value: Value): string {
  if (value === undefined || value === null) return "nil";
  if (isNumber(value)) return "number";
  if (Array.isArray(value)) return "list";
  return { object: "map", boolean: "bool" }[typeof value as string] ?? typeof value;
}

function fail(message: string): never {
  throw new Error(message);
}

function text(value: Value, fn: string): string {
  return typeof value === "string" ? value : fail(`${fn}: expected a string, found a ${typeName(value)}`);
}

function fromJson(value: string): Value {
  try {
    return readJson(value);
  } catch {
    fail("expected JSON, found other text");
  }
}

/** The arguments of html, js and urlquery as one text. */
function join(args: Value[]): string {
  return print(args.map((arg) => arg ?? "<no value>"));
}

// Comparing

function eq(first: Value, others: Value[]): boolean {
  comparable(first);
  if (others.length === 0) fail("eq: missing argument for comparison");
  return others.some((other) => {
    comparable(other);
    if (isNumber(first) && isNumber(other)) return compareNumbers(first, other) === 0;
    const [a, b] = [first ?? null, other ?? null];
    if (a === null || b === null) return a === b;
    if (typeof a !== typeof b) fail(`incompatible types for comparison: ${typeName(a)} and ${typeName(b)}`);
    return a === b;
  });
}

function comparable(value: Value): void {
  if (typeof value === "object" && value !== null && !(value instanceof JsonNumber)) {
    fail(`a ${typeName(value)} can't be compared`);
  }
}

function compare(a: Value, b: Value): number {
  if (isNumber(a) && isNumber(b)) return compareNumbers(a, b);
  if (typeof a === "string" && typeof b === "string") return Buffer.compare(Buffer.from(a), Buffer.from(b));
  for (const value of [a, b]) {
    if (!isNumber(value) && typeof value !== "string") fail(`invalid type for comparison: ${typeName(value)}`);
  }
  fail(`incompatible types for comparison: ${typeName(a)} and ${typeName(b)}`);
}

function compareNumbers(a: Numeric, b: Numeric): number {
  const [x, y] = [exactly(a), exactly(b)];
  return x < y ? -1 : x > y ? 1 : 0;
}

/** Integers beyond 2^53 stay exact. */
function exactly(value: Numeric): number | bigint {
  if (!(value instanceof JsonNumber)) return value;
  return /^-?\d{16,400}$/.test(value.text) ? BigInt(value.text) : value.value;
}

// Lists, maps, strings

function length(value: Value): number {
  if (typeof value === "string") return Buffer.byteLength(value);
  if (Array.isArray(value)) return value.length;
  if (typeof value === "object" && value !== null && !(value instanceof JsonNumber)) return size(value);
  fail(`len of a ${typeName(value)}`);
}

/** A field of a map; undefined when it is missing. `__proto__` and `constructor` are always missing. */
export function field(map: object, name: string): Value {
  if (name === "__proto__" || name === "constructor" || !Object.hasOwn(map, name)) return undefined;
  return (map as Record<string, Value>)[name];
}

function index(value: Value, key: Value): Value {
  if (value === undefined || value === null) fail("can't index a missing value");
  if (Array.isArray(value)) return value[within(key, value.length - 1, "index")] as Value;
  if (typeof value === "string") {
    const bytes = Buffer.from(value);
    return bytes[within(key, bytes.length - 1, "index")];
  }
  if (typeof value !== "object" || value instanceof JsonNumber) fail(`can't index a ${typeName(value)}`);
  if (typeof key !== "string") fail(`a map has strings as keys, not a ${typeName(key)}`);
  return field(value, key);
}

function within(key: Value, most: number, what: string): number {
  const at = wholeNumber(key) ?? fail(`${what}: can't use a ${typeName(key)} as a position`);
  return at >= 0 && at <= most ? at : fail(`${what} out of range: ${at}`);
}

function wholeNumber(value: Value): number | null {
  const number = isNumber(value) ? Number(exactly(value)) : Number.NaN;
  return Number.isInteger(number) ? number : null;
}

function slice(value: Value, bounds: Value[]): Value {
  const isText = typeof value === "string";
  if (!isText && !Array.isArray(value)) fail(`slice of a ${typeName(value)}`);
  if (isText && bounds.length === 3) fail("can't slice a string with three positions");
  const whole = isText ? Buffer.from(value) : (value as Value[]);
  const [from = 0, to = whole.length, cap = whole.length] = bounds.map((bound) => within(bound, whole.length, "slice"));
  if (from > to || to > cap) fail(`slice: invalid positions ${from} > ${to}`);
  return isText ? (whole as Buffer).toString("utf8", from, to) : (whole as Value[]).slice(from, to);
}

function joinList(a: Value, b: Value): string {
  const [list, separator] = Array.isArray(a) ? [a as Value[], b] : [b, a];
  if (list === undefined || list === null) return "";
  if (!Array.isArray(list)) fail(`join: expected a list, found a ${typeName(list)}`);
  return list.map((one) => show(one)).join(text(separator, "join"));
}

/** The first N characters, or the last ones for a negative N. */
function truncate(n: Value, value: Value): string {
  const count = wholeNumber(n) ?? fail(`trunc: expected a whole number, found a ${typeName(n)}`);
  const characters = Array.from(show(value));
  return (count < 0 ? characters.slice(count) : characters.slice(0, count)).join("");
}

// Escaping, as Go does it

const HTML: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\uFFFD" };

function escapeHtml(value: string): string {
  return value.replace(/[&<>"'\0]/g, (c) => HTML[c] ?? `&#${c.charCodeAt(0)};`);
}

/** Characters that aren't printable become one escape per code point in capitals, as in Go's JSEscape. */
function escapeJs(value: string): string {
  return value.replace(/[\\'"<>&=]|(?! )[\p{C}\p{Z}]/gu, (c) => {
    if ("\\'\"".includes(c)) return `\\${c}`;
    return `\\u${c.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")}`;
  });
}

function escapeQuery(value: string): string {
  return encodeURIComponent(value.toWellFormed())
    .replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`)
    .replaceAll("%20", "+");
}
