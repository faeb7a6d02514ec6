// Settings from environment variables, on top of what the file says.
//
// PICKET_<ROLE>_<KEY>, with "__" between levels and list indexes as levels: PICKET_COLLECTOR_WEBHOOK__ROUTES__0__RECIPIENT.
// The schema decides how a value is read: where it takes text the value is the text ("123" stays text), everything else
// is YAML, whole lists and mappings too. A variable that is set to nothing is set: it means empty text, or YAML's nothing.
// Only a short form that is set to nothing isn't: it stands for what is required, and what is required and empty is missing.

import { resolve } from "node:path";
import { nearest } from "../nearest.ts";
import { child, isMapping, type Mapping, newMapping, type Path, put } from "./data.ts";
import { readDocument } from "./document.ts";
import {
  alternatives,
  knownKeys,
  markOf,
  type Shape,
  settings,
  takesList,
  takesMapping,
  under,
  words,
} from "./shape.ts";

/** A variable of another name for one setting: `{ PICKET_URL: { path: ["receiver", "url"] } }`. With `lenient`, a value that does not fit is a warning, and as if it were not set. */
export type ShortForms = Readonly<Record<string, { path: readonly string[]; lenient?: boolean }>>;

/** A variable and the setting it is for. */
export interface Override {
  variable: string;
  path: Path;
  /** The setting's schemas. */
  shapes: Shape[];
  text: string;
}

/** `PICKET_COLLECTOR_`, what this role's variables start with. */
export function variablePrefix(role: string): string {
  return `PICKET_${role.toUpperCase()}_`;
}

/** The variable for the setting at `path`: its short form where it has one. */
export function variableFor(path: Path, { prefix, shortForms }: { prefix: string; shortForms: ShortForms }): string {
  const name = path.join(".");
  const short = Object.entries(shortForms).find(([, form]) => form.path.join(".") === name);
  return short?.[0] ?? prefix + path.map(level).join("__");
}

function level(step: string | number): string {
  return String(step).toUpperCase();
}

/**
 * The overrides that `env` holds, in the order in which they are to be applied (a whole mapping before what lies in it,
 * list items in their order), and the variables with the prefix that name no setting. A role's own name wins over a short form.
 */
export function readOverrides(options: {
  env: Record<string, string | undefined>;
  prefix: string;
  shortForms: ShortForms;
  root: Shape;
}): { overrides: Override[]; unknown: { variable: string; text: string }[] } {
  const { env, prefix, shortForms, root } = options;
  const overrides = new Map<string, Override>();
  const unknown: { variable: string; text: string }[] = [];
  for (const [variable, { path, lenient = false }] of Object.entries(shortForms)) {
    const text = env[variable];
    if (text !== undefined && (text !== "" || lenient))
      overrides.set(path.join("."), { variable, path, shapes: shapesAt(root, path), text });
  }
  for (const [variable, text] of Object.entries(env)) {
    if (text === undefined || !variable.startsWith(prefix)) continue;
    const found = resolveName(variable.slice(prefix.length), root);
    if (found === null) unknown.push({ variable, text: unknownText(variable, { prefix, root }) });
    else overrides.set(found.path.join("."), { variable, ...found, text });
  }
  const inOrder = [...overrides.values()].toSorted((a, b) => comparePaths(a.path, b.path));
  return { overrides: inOrder, unknown };
}

function shapesAt(root: Shape, path: Path): Shape[] {
  let shapes = [root];
  for (const step of path) shapes = under(alternatives(shapes), step);
  return shapes;
}

function resolveName(name: string, root: Shape): { path: Path; shapes: Shape[] } | null {
  const path: (string | number)[] = [];
  let shapes = [root];
  for (const segment of name.split("__")) {
    const here = alternatives(shapes);
    const index = /^(0|[1-9]\d{0,5})$/.test(segment) && here.some(takesList) ? Number(segment) : null;
    const key = index ?? knownKeys(here).find((known) => level(known) === segment) ?? segment.toLowerCase();
    shapes = segment === "" || (index === null && segment !== segment.toUpperCase()) ? [] : under(here, key);
    if (shapes.length === 0) return null;
    path.push(key);
  }
  return { path, shapes };
}

function unknownText(variable: string, { prefix, root }: { prefix: string; root: Shape }): string {
  const given = variable.slice(prefix.length);
  // list indexes as in the given name, so that they don't count as differences
  const indexes = given.split("__").filter((segment) => /^\d+$/.test(segment));
  const names = settings(root).map(({ path }) => {
    const left = [...indexes];
    return path.map((step) => (typeof step === "number" ? (left.shift() ?? "0") : level(step))).join("__");
  });
  const near = nearest(given, names);
  return near === undefined ? "unknown variable" : `unknown variable, did you mean "${prefix}${near}"?`;
}

function comparePaths(a: Path, b: Path): number {
  for (let depth = 0; depth < Math.min(a.length, b.length); depth++) {
    const [left = "", right = ""] = [a[depth], b[depth]];
    if (left === right) continue;
    if (typeof left === "number" && typeof right === "number") return left - right;
    return String(left) < String(right) ? -1 : 1;
  }
  return a.length - b.length;
}

/** Where every value that came from the environment came from. */
export class Origins {
  readonly #variables = new Map<string, string>();

  /** Notes that everything at and under `path` came from `variable`, unless it is noted already. */
  note(path: Path, variable: string): void {
    const name = JSON.stringify(path);
    if (!this.#variables.has(name)) this.#variables.set(name, variable);
  }

  /** Whether a variable names exactly this setting. */
  has(path: Path): boolean {
    return this.#variables.has(JSON.stringify(path));
  }

  /** The variable that the value at `path`, or what it lies in, came from. */
  of(path: Path): string | undefined {
    for (let length = path.length; length > 0; length--) {
      const variable = this.#variables.get(JSON.stringify(path.slice(0, length)));
      if (variable !== undefined) return variable;
    }
    return undefined;
  }
}

/**
 * Puts the overrides into `data` (changed in place) and notes where each came from. A secret that is overridden in one
 * of its forms (`token`, `token_file`) loses what the file says in the other. Returns what is wrong with the values.
 */
export function applyOverrides(
  data: Mapping,
  { overrides, origins }: { overrides: readonly Override[]; origins: Origins },
): { path: Path; variable: string; text: string }[] {
  const problems: { path: Path; variable: string; text: string }[] = [];
  for (const override of overrides) {
    const { path, variable } = override;
    const outcome = readValue(override.text, override.shapes);
    origins.note(path, variable);
    const text = "problem" in outcome ? outcome.problem : place(data, { override, value: outcome.value, origins });
    if (text !== null) problems.push({ path, variable, text });
  }
  return problems;
}

/** Sets one value, making the mappings and lists on the way to it. Returns what stands in its way. */
function place(
  data: Mapping,
  { override, value, origins }: { override: Override; value: unknown; origins: Origins },
): string | null {
  const { path, variable, shapes } = override;
  let inside: unknown = data;
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
    if (!last && present === undefined) origins.note(path.slice(0, depth + 1), variable);
    if (last) dropOtherForm(inside, { path, shapes, origins });
    inside = content;
  }
  return null;
}

function dropOtherForm(
  container: unknown,
  { path, shapes, origins }: { path: Path; shapes: Shape[]; origins: Origins },
): void {
  const mark = shapes.map(markOf).find((found) => found !== undefined);
  if (mark === undefined || mark.kind === "path") return;
  const other = mark.kind === "secret" ? `${mark.key}_file` : mark.key;
  if (isMapping(container) && !origins.has([...path.slice(0, -1), other])) delete container[other];
}

/** A variable's text as the value that the schemas ask for. */
function readValue(text: string, shapes: readonly Shape[]): { value: unknown } | { problem: string } {
  const all = alternatives(shapes);
  const free = all.some((shape) => shape.type === "string");
  const listed = all.flatMap(words);
  const flow = (text.startsWith("[") && all.some(takesList)) || (text.startsWith("{") && all.some(takesMapping));
  if (!flow) {
    if (free) return { value: fromWorkingDirectory(text, shapes) };
    if (listed.includes(text) || all.every(takesOnlyWords)) return { value: text };
  }
  const { value, faults } = readDocument(text);
  const [fault] = faults;
  if (fault === undefined) return { value: value === undefined ? null : value };
  return free
    ? { value: text }
    : { problem: `${fault.text} (line ${fault.line}, column ${fault.col} of the variable)` };
}

function takesOnlyWords(shape: Shape): boolean {
  const listed = words(shape);
  return listed.length > 0 && listed.every((word) => typeof word === "string");
}

/** A relative path in a variable was written by somebody who stood in the working directory, not beside the file. */
function fromWorkingDirectory(text: string, shapes: readonly Shape[]): string {
  const isPath = shapes.some((shape) => markOf(shape)?.kind === "path");
  return isPath && text !== "" && !text.startsWith("~") && !text.includes("\0") ? resolve(text) : text;
}
