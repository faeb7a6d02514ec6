// Settings from environment variables. They override the file.
//
// PICKET_<ROLE>_<KEY>, with "__" between levels and list indexes as levels: PICKET_COLLECTOR_WEBHOOK__ROUTES__0__RECIPIENT.
// The schema decides how a value is read: for a text setting it is text ("123" stays text), for all others YAML, whole
// lists and mappings too. A variable set to nothing is set: it means empty text, or YAML's null. A short form set to
// nothing is not set, unless it is lenient.

import { resolve } from "node:path";
import * as v from "valibot";
import { nearest } from "../nearest.ts";
import { child, isMapping, type Mapping, newMapping, type Path, put } from "./data.ts";
import { readDocument, type Spot } from "./document.ts";
import {
  alternatives,
  describe,
  knownKeys,
  markOf,
  type Shape,
  settings,
  shapesAt,
  takesList,
  takesMapping,
  under,
  words,
} from "./shape.ts";
import { found, type Problem } from "./wording.ts";

/** A variable of another name for one setting: `{ PICKET_URL: { path: ["receiver", "url"] } }`. A `lenient` one with an invalid value is ignored with a warning. */
export type ShortForms = Readonly<Record<string, { path: readonly string[]; lenient?: boolean }>>;

/** A variable's problem: with the setting's path, or with an empty one when it names no setting. */
type VariableProblem = Problem & { variable: string };

interface Override {
  variable: string;
  path: Path;
  shapes: Shape[];
  text: string;
  lenient?: boolean;
}

/** What a role's variables are called. */
export interface Naming {
  /** `PICKET_COLLECTOR_` */
  prefix: string;
  shortForms: ShortForms;
}

/** The variable for the setting at `path`: its short form where it has one. */
export function variableFor(path: Path, { prefix, shortForms }: Naming): string {
  const name = path.join(".");
  const short = Object.entries(shortForms).find(([, form]) => form.path.join(".") === name);
  return short?.[0] ?? prefix + path.map(level).join("__");
}

function level(step: string | number): string {
  return String(step).toUpperCase();
}

/** What other programs replace: `${NAME}`, `$NAME`, `$(…)`, `%NAME%`, `env:NAME`, `{env.NAME}`, `!env NAME`, `{{ env "NAME" }}`. */
const PLACEHOLDER =
  /\$\{\w|^\$[A-Za-z_(]|^%\w+%$|^env:\w+$|^\{(env\.|\$)\w+\}$|^!(env|secret|vault) |^\{\{ *(env|getenv|secret)\b/i;

/** A warning for each text that waits to be replaced, with the variable to set. Never quotes the text: a password may begin with $. */
export function placeholders(data: unknown, naming: Naming & { root: Shape }, path: Path = []): Problem[] {
  if (Array.isArray(data)) return data.flatMap((item, index) => placeholders(item, naming, [...path, index]));
  if (isMapping(data)) {
    return Object.entries(data).flatMap(([key, inner]) => placeholders(inner, naming, [...path, key]));
  }
  if (typeof data !== "string" || !PLACEHOLDER.test(data)) return [];
  const marks = shapesAt(naming.root, path).map(markOf);
  const file = marks.some((mark) => mark?.kind === "secret") ? `, or give it as "${path.at(-1)}_file"` : "";
  const text = `nothing is replaced in this text: set the variable ${variableFor(path, naming)} instead${file}`;
  return [{ path, text }];
}

/**
 * Puts what `env` overrides into `data` and `spots` (changed in place): a whole mapping before its members, list items in order.
 * Overriding a secret in one of its forms (`token`, `token_file`) removes the other form that the file has.
 */
export function applyEnvironment(
  data: Mapping,
  { env, root, spots, ...naming }: Naming & { env: Record<string, string | undefined>; root: Shape; spots: Spot },
): { problems: VariableProblem[]; warnings: VariableProblem[] } {
  const warnings: VariableProblem[] = [];
  const { overrides, problems } = readOverrides(env, { root, ...naming });
  for (const { lenient, ...override } of overrides) {
    const { path, variable, shapes } = override;
    const outcome = readValue(override.text, shapes);
    if (lenient && !("value" in outcome && v.is(shapes[0] as v.GenericSchema, outcome.value))) {
      const text = `expected ${describe(shapes)}, found ${found(override.text, { show: true })}: ignored`;
      warnings.push({ path, variable, text });
      continue;
    }
    const text = "problem" in outcome ? outcome.problem : place(data, { override, value: outcome.value, spots });
    if (text !== null) problems.push({ path, variable, text });
  }
  return { problems, warnings };
}

/** The overrides in the order in which they apply, and the variables with the prefix that name no setting. A variable with the prefix wins over a short form. */
function readOverrides(
  env: Record<string, string | undefined>,
  { prefix, shortForms, root }: Naming & { root: Shape },
): { overrides: Override[]; problems: VariableProblem[] } {
  const overrides = new Map<string, Override>();
  const problems: VariableProblem[] = [];
  for (const [variable, { path, lenient = false }] of Object.entries(shortForms)) {
    const text = env[variable];
    if (text === undefined || (text === "" && !lenient)) continue;
    overrides.set(path.join("."), { variable, path, shapes: shapesAt(root, path), text, lenient });
  }
  for (const [variable, text] of Object.entries(env)) {
    if (text === undefined || !variable.startsWith(prefix)) continue;
    const named = resolveName(variable.slice(prefix.length), root);
    if (named === null) problems.push({ variable, path: [], text: unknownText(variable, { prefix, root }) });
    else overrides.set(named.path.join("."), { variable, ...named, text });
  }
  return { overrides: [...overrides.values()].toSorted((a, b) => comparePaths(a.path, b.path)), problems };
}

function resolveName(name: string, root: Shape): { path: Path; shapes: Shape[] } | null {
  const path: (string | number)[] = [];
  let shapes = [root];
  for (const segment of name.split("__")) {
    const here = alternatives(shapes);
    const index = /^(0|[1-9]\d{0,5})$/.test(segment) && here.some(takesList) ? Number(segment) : undefined;
    const key = index ?? knownKeys(here).find((known) => level(known) === segment);
    if (key === undefined) return null;
    shapes = under(here, key);
    path.push(key);
  }
  return { path, shapes };
}

function unknownText(variable: string, { prefix, root }: { prefix: string; root: Shape }): string {
  const given = variable.slice(prefix.length);
  // List indexes are copied from the given name, so that they don't count as differences.
  const indexes = given.split("__").filter((segment) => /^\d+$/.test(segment));
  const names = settings(root).map(({ path }) => {
    const left = [...indexes];
    return path.map((step) => (typeof step === "number" ? (left.shift() ?? "0") : level(step))).join("__");
  });
  const near = nearest(given, names);
  return near === undefined ? "unknown variable" : `unknown variable, did you mean "${prefix}${near}"?`;
}

function comparePaths(a: Path, b: Path): number {
  for (const [depth, left] of a.entries()) {
    const right = b[depth];
    if (left === right) continue;
    if (typeof left === "number" && typeof right === "number") return left - right;
    return String(left) < String(right ?? "") ? -1 : 1;
  }
  return a.length - b.length;
}

/** Sets one value, and creates the mappings and lists that hold it. Returns why it can't. */
function place(
  data: Mapping,
  { override, value, spots }: { override: Override; value: unknown; spots: Spot },
): string | null {
  const { path, variable } = override;
  let inside: unknown = data;
  let spot = spots;
  for (const [depth, step] of path.entries()) {
    if (Array.isArray(inside) && typeof step === "number" && step > inside.length) {
      return `the list has only ${inside.length} ${inside.length === 1 ? "entry" : "entries"}: indexes have no gaps`;
    }
    const last = depth === path.length - 1;
    const present = child(inside, step) ?? undefined;
    const content = last ? value : (present ?? (typeof path[depth + 1] === "number" ? [] : newMapping()));
    if (!put(inside, step, content)) {
      return `cannot be set: what should hold it is not a ${typeof step === "number" ? "list" : "mapping"}`;
    }
    if (last) dropOtherForm(inside, override, spot);
    const isSet = last || present === undefined;
    const fresh: Spot = { ...spot, ...(isSet ? { variable } : {}), inside: new Map() };
    const next = isSet ? fresh : (spot.inside.get(step) ?? fresh);
    spot.inside.set(step, next);
    spot = next;
    inside = content;
  }
  return null;
}

function dropOtherForm(container: unknown, { shapes }: Override, { inside }: Spot): void {
  const mark = shapes.map(markOf).find((found) => found !== undefined);
  if (mark === undefined || mark.kind === "path") return;
  const other = mark.kind === "secret" ? `${mark.key}_file` : mark.key;
  if (isMapping(container) && inside.get(other)?.variable === undefined) delete container[other];
}

/** A variable's text as the value that the schemas ask for. */
function readValue(text: string, shapes: readonly Shape[]): { value: unknown } | { problem: string } {
  const all = alternatives(shapes);
  const isText = all.some((shape) => shape.type === "string");
  const isFlow = (text.startsWith("[") && all.some(takesList)) || (text.startsWith("{") && all.some(takesMapping));
  if (!isFlow && isText) return { value: fromWorkingDirectory(text, shapes) };
  if (!isFlow && all.every((shape) => words(shape).length > 0)) return { value: text };
  const { value = null, problems } = readDocument(text);
  const [problem] = problems;
  if (problem === undefined) return { value };
  if (isText) return { value: text };
  return { problem: `${problem.text} (line ${problem.line}, column ${problem.col} of the variable)` };
}

/** A relative path in a variable starts at the working directory, not at the file's folder. */
function fromWorkingDirectory(text: string, shapes: readonly Shape[]): string {
  const isPath = shapes.some((shape) => markOf(shape)?.kind === "path");
  return isPath && text !== "" && !text.startsWith("~") && !text.includes("\0") ? resolve(text) : text;
}
