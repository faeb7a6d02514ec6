// How values print: Go's fmt.Sprint, Sprintln and Sprintf. Every numeric verb takes any number, because JSON has only one kind;
// lists and maps print as compact JSON. The verbs %c, %U and %q of a number and argument indexes (%[1]d) don't exist here: they print
// the mark that Go prints for an unknown verb, `%!c(int=65)`.

import { JsonNumber, type Numeric, compactJson, isNumber } from "../numbers.ts";

/** A value as text: lists and maps as compact JSON, a missing value or null as `nothing`. */
export function show(value: unknown, nothing = "<no value>"): string {
  if (typeof value === "string") return value;
  if (value === undefined || value === null) return nothing;
  if (typeof value === "boolean" || isNumber(value)) return String(value);
  return compactJson(value);
}

const plain = (value: unknown): string => show(value, "<nil>");

/** From this power of ten on, Go's %v writes an exponent. */
const SHORTEST_DIGITS = 6;

/** A float64 as Go's %v prints it: the shortest digits that identify it, with an exponent below 1e-4 and from 1e6. */
export function formatFloat(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+Inf" : "-Inf";
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const exponential = value.toExponential();
  const power = Number(exponential.slice(exponential.indexOf("e") + 1));
  return power < -4 || power >= SHORTEST_DIGITS ? twoDigits(exponential) : String(value);
}

/** Go writes at least two digits of an exponent. */
function twoDigits(text: string): string {
  return text.replace(/e([+-])(\d)$/, "e$10$2");
}

/** fmt.Sprint: a space between two operands if neither is a string. */
export function print(args: unknown[]): string {
  const isText = (at: number) => at < 0 || typeof args[at] === "string";
  return args.map((arg, at) => (isText(at) || isText(at - 1) ? plain(arg) : ` ${plain(arg)}`)).join("");
}

/** fmt.Sprintln: a space between all operands, a line break at the end. */
export function println(args: unknown[]): string {
  return `${args.map((arg) => plain(arg)).join(" ")}\n`;
}

/** The flags `-+# 0` of a verb, its width and its precision. */
interface Spec {
  flags: string;
  width: number | null;
  precision: number | null;
}

const VERB = /%([-+# 0]*)(\d+|\*)?(\.(\d+|\*)?)?(.)?/gsu;
/** The widest padding. */
const MAX_WIDTH = 65_536;

/** fmt.Sprintf, with Go's marks for arguments that don't fit: `%!d(string=x)`, `%!s(MISSING)`, `%!(EXTRA int=1)`. */
export function printf(format: string, args: unknown[]): string {
  let next = 0;
  const number = (text: string | undefined): number | null => {
    if (text === undefined) return null;
    const given = text === "*" ? Number(args[next++]) : Number(text);
    return Number.isInteger(given) ? Math.min(Math.abs(given), MAX_WIDTH) : null;
  };
  const out = format.replace(VERB, (_all, flags: string, ...groups: (string | undefined)[]) => {
    const [width, point, digits, verb] = groups;
    if (verb === undefined) return "%!(NOVERB)";
    if (verb === "%") return "%";
    const spec = { flags, width: number(width), precision: point === undefined ? null : (number(digits) ?? 0) };
    return next < args.length ? one(verb, spec, args[next++]) : `%!${verb}(MISSING)`;
  });
  if (next >= args.length) return out;
  const extra = args.slice(next).map((arg) => ((arg ?? null) === null ? "<nil>" : `${goType(arg)}=${plain(arg)}`));
  return `${out}%!(EXTRA ${extra.join(", ")})`;
}

function one(verb: string, spec: Spec, value: unknown): string {
  if (verb === "T") return pad(goType(value), spec);
  if ((value ?? null) === null) return verb === "v" ? pad("<nil>", withoutZeros(spec)) : `%!${verb}(<nil>)`;
  if (typeof value === "string") return ofString(verb, spec, value) ?? misfit(verb, value);
  if (isNumber(value)) return ofNumber(verb, spec, value) ?? misfit(verb, value);
  const verbs = typeof value === "boolean" ? "tv" : "sv";
  return verbs.includes(verb) ? pad(plain(value), withoutZeros(spec)) : misfit(verb, value);
}

/** Padded with blanks, even with the flag `0`. */
function withoutZeros(spec: Spec): Spec {
  return { ...spec, flags: spec.flags.replaceAll("0", "") };
}

function misfit(verb: string, value: unknown): string {
  return `%!${verb}(${goType(value)}=${plain(value)})`;
}

function goType(value: unknown): string {
  if (value === undefined || value === null) return "<nil>";
  if (typeof value === "string") return "string";
  if (typeof value === "boolean") return "bool";
  if (isNumber(value)) return Number.isInteger(Number(value)) ? "int" : "float64";
  return Array.isArray(value) ? "[]interface {}" : "map[string]interface {}";
}

function ofString(verb: string, spec: Spec, value: string): string | null {
  const { flags, precision } = spec;
  const cut = precision === null ? value : Array.from(value).slice(0, precision).join("");
  if (verb === "s" || (verb === "v" && !flags.includes("#"))) return pad(cut, spec);
  if (verb === "v") return pad(quote(cut, ""), spec);
  if (verb === "q") return pad(quote(cut, flags), spec);
  if (verb !== "x" && verb !== "X") return null;
  const bytes = Buffer.from(value).subarray(0, precision ?? undefined);
  const mark = flags.includes("#") && bytes.length > 0 ? "0x" : "";
  const digits = bytes.toString("hex");
  const hex = mark + (flags.includes(" ") ? digits.replace(/..(?!$)/g, `$& ${mark}`) : digits);
  return pad(verb === "X" ? hex.toUpperCase() : hex, spec);
}

function ofNumber(verb: string, spec: Spec, value: Numeric): string | null {
  if (verb === "v" || verb === "s") {
    if (verb === "v" && Number.isInteger(Number(value)) && !(value instanceof JsonNumber))
      return ofInteger("d", spec, BigInt(value));
    return pad(sign(plain(value), spec), spec);
  }
  if ("eEfFgG".includes(verb)) return ofFloat(verb, spec, Number(value));
  const integer = asInteger(value);
  return integer === null ? null : ofInteger(verb, spec, integer);
}

function asInteger(value: Numeric): bigint | null {
  if (value instanceof JsonNumber && /^-?\d{1,400}$/.test(value.text)) return BigInt(value.text);
  const number = Number(value);
  return Number.isInteger(number) ? BigInt(number) : null;
}

const BASES: Record<string, number> = { d: 10, b: 2, o: 8, O: 8, x: 16, X: 16 };
const PREFIXES: Record<string, string> = { b: "0b", o: "0", x: "0x", X: "0X" };

function ofInteger(verb: string, spec: Spec, value: bigint): string | null {
  const base = BASES[verb];
  if (base === undefined) return null;
  let digits = (value < 0n ? -value : value).toString(base);
  if (verb === "X") digits = digits.toUpperCase();
  if (spec.precision !== null)
    digits = spec.precision === 0 && value === 0n ? "" : digits.padStart(spec.precision, "0");
  const prefix = verb === "O" ? "0o" : spec.flags.includes("#") ? (PREFIXES[verb] ?? "") : "";
  const signed = sign((value < 0n ? "-" : "") + prefix + digits, spec);
  return pad(signed, spec.precision === null ? spec : withoutZeros(spec));
}

function ofFloat(verb: string, spec: Spec, value: number): string {
  if (!Number.isFinite(value)) return pad(sign(formatFloat(value), spec), withoutZeros(spec));
  const lower = verb.toLowerCase();
  const digits = Math.min(spec.precision ?? 6, 100);
  let text = general(value, spec.precision);
  if (lower === "e") text = twoDigits(rounded(value, "toExponential", digits));
  if (lower === "f") text = rounded(value, "toFixed", digits);
  if (Object.is(value, -0)) text = `-${text.replace(/^-/, "")}`;
  return pad(sign(verb === lower ? text : text.toUpperCase(), spec), spec);
}

/** As JavaScript rounds, but a tie goes to the even digit, as in Go. */
function rounded(value: number, form: "toFixed" | "toExponential", digits: number): string {
  // From there on toFixed gives an exponent.
  if (form === "toFixed" && Math.abs(value) >= 1e21)
    return `${BigInt(value)}${digits > 0 ? `.${"0".repeat(digits)}` : ""}`;
  const text = value[form](digits);
  const [exact = "", power] = value[form](100).split("e");
  const point = exact.indexOf(".");
  const kept = exact.slice(0, digits === 0 ? point : point + 1 + digits);
  const isTie = /^50*$/.test(exact.slice(point + 1 + digits));
  // With another power it was rounded up to the next power of ten.
  return isTie && Number(kept.at(-1)) % 2 === 0 && text.split("e")[1] === power ? text.replace(/^[^e]+/, kept) : text;
}

/** %g: the shortest form, or as many digits as the precision says; with an exponent below 1e-4 and from the precision. */
function general(value: number, precision: number | null): string {
  if (value === 0) return "0";
  if (precision === null) return formatFloat(value);
  const digits = Math.min(Math.max(precision, 1), 100);
  const [mantissa = "", exponent = ""] = rounded(value, "toExponential", digits - 1).split("e");
  const power = Number(exponent);
  const short = (text: string): string => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
  if (power < -4 || power >= digits) return twoDigits(`${short(mantissa)}e${exponent}`);
  return short(rounded(value, "toFixed", Math.min(Math.max(0, digits - 1 - power), 100)));
}

function sign(text: string, { flags }: Spec): string {
  if (text.startsWith("-") || text.startsWith("+")) return text;
  return (flags.includes("+") ? "+" : flags.includes(" ") ? " " : "") + text;
}

function pad(text: string, { width, flags }: Spec): string {
  const missing = (width ?? 0) - Array.from(text).length;
  if (missing <= 0) return text;
  if (flags.includes("-")) return text + " ".repeat(missing);
  if (!flags.includes("0")) return " ".repeat(missing) + text;
  const [, head = "", rest = ""] = /^([+\- ]?(?:0[xXbo])?)(.*)$/s.exec(text)!;
  return head + "0".repeat(missing) + rest;
}

/** The escapes of Go's strings, by their letter. */
export const ESCAPES = new Map(
  Object.entries({ a: "\x07", b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", v: "\v", "\\": "\\" }),
);
const LETTERS = new Map([...ESCAPES, ['"', '"'] as const].map(([letter, character]) => [character, letter]));

/** strconv.Quote; with `+` in ASCII only, with `#` between backquotes where that is possible. */
function quote(value: string, flags: string): string {
  if (flags.includes("#") && !/[`\p{Cc}]/u.test(value.replaceAll("\t", ""))) return `\`${value}\``;
  const body = value.replace(/["\\]|(?! )[\p{C}\p{Z}]|[^\0-\x7f]/gu, (c) => {
    if (LETTERS.has(c)) return `\\${LETTERS.get(c)}`;
    const code = c.codePointAt(0)!;
    if (code > 0x7f && !flags.includes("+") && !/[\p{C}\p{Z}]/u.test(c)) return c;
    const [letter, digits]: [string, number] =
      code < 0x20 || code === 0x7f ? ["x", 2] : code > 0xffff ? ["U", 8] : ["u", 4];
    return `\\${letter}${code.toString(16).padStart(digits, "0")}`;
  });
  return `"${body}"`;
}
