// Looking into a valibot schema: which keys it knows, what it takes, in words. Nothing is parsed here.

import * as v from "valibot";
import { isMapping, type Path } from "./data.ts";

/** Any valibot schema, seen loosely: which of these a schema has depends on its `type`. */
export interface Shape {
  readonly type: string;
  readonly wrapped?: Shape;
  readonly default?: unknown;
  readonly pipe?: readonly (Shape | { readonly type: string; readonly metadata?: { readonly picket?: Mark } })[];
  readonly options?: readonly (Shape | string | number | bigint)[];
  readonly entries?: Readonly<Record<string, Shape>>;
  readonly rest?: Shape;
  readonly item?: Shape;
  readonly items?: readonly Shape[];
  readonly key?: unknown;
  readonly value?: Shape;
  readonly literal?: unknown;
  readonly message?: unknown;
  readonly getter?: (input: unknown) => Shape;
}

/** What this library notes on its own schemas, so that the loader knows what it meets. */
export type Mark =
  | { kind: "path" }
  | { kind: "secret"; key: string }
  | { kind: "secret_file"; key: string }
  | { kind: "restart"; of: "value" | "presence" };

/** The pipe item that puts a mark on a schema. */
export function marked<TInput>(mark: Mark): v.MetadataAction<TInput, { readonly picket: Mark }> {
  return v.metadata({ picket: mark });
}

/** The marks of a schema: its own, those of what its pipe begins with, and those of what it makes optional. */
export function marksOf({ pipe, wrapped }: Shape): Mark[] {
  const own = (pipe ?? []).flatMap((item) => ("metadata" in item ? (item.metadata?.picket ?? []) : marksOf(item)));
  return wrapped === undefined ? own : [...own, ...marksOf(wrapped)];
}

/** How the value of a setting is read: as a path or a secret; undefined for any other. */
export function markOf(shape: Shape): Exclude<Mark, { kind: "restart" }> | undefined {
  return marksOf(shape).find((mark) => mark.kind !== "restart");
}

/** A schema as a shape. */
export function shapeOf(schema: v.GenericSchema): Shape {
  return schema;
}

/**
 * What a value may be according to any of `shapes`: optional and the like unwrapped, unions, variants and intersections
 * taken apart. Where `value` tells which option of a variant is meant, only that one counts.
 */
export function alternatives(shapes: readonly Shape[], value?: unknown): Shape[] {
  return shapes.flatMap((shape) => {
    if (shape.wrapped !== undefined) return alternatives([shape.wrapped], value);
    if (shape.type === "lazy" && shape.getter !== undefined) return alternatives([shape.getter(value)], value);
    if (shape.type === "variant") return alternatives(chosen(shape, value), value);
    if (shape.type === "union" || shape.type === "intersect") {
      return alternatives(optionsOf(shape), value);
    }
    return [shape];
  });
}

function optionsOf(shape: Shape): Shape[] {
  return (shape.options ?? []).filter((option) => typeof option === "object");
}

/** The options of a variant whose discriminator takes the value's; all of them when none does. */
function chosen(variant: Shape, value: unknown): readonly Shape[] {
  const options = optionsOf(variant);
  const discriminator = String(variant.key);
  if (!isMapping(value) || !(discriminator in value)) return options;
  const fitting = options.filter((option) => {
    const entry = option.entries?.[discriminator];
    const listed = entry === undefined ? [] : alternatives([entry]).flatMap(words);
    return listed.length === 0 || listed.includes(value[discriminator]);
  });
  return fitting.length > 0 ? fitting : options;
}

/** The keys that mappings of these shapes know. */
export function knownKeys(shapes: readonly Shape[]): string[] {
  return [...new Set(shapes.flatMap((shape) => Object.keys(shape.entries ?? {})))];
}

/** The schemas of what stands under `key` (a number: in a list). Empty when the key is unknown. */
export function under(shapes: readonly Shape[], key: string | number): Shape[] {
  return shapes.flatMap((shape) => {
    if (typeof key === "number") return shape.item ?? shape.items?.[key] ?? (shape.items && shape.rest) ?? [];
    if (shape.entries !== undefined && Object.hasOwn(shape.entries, key)) return shape.entries[key] ?? [];
    if (["__proto__", "prototype", "constructor"].includes(key)) return []; // valibot skips these without a word
    if (shape.type === "loose_object") return { type: "any" };
    if (shape.type === "object_with_rest") return shape.rest ?? [];
    return shape.type === "record" ? (shape.value ?? []) : [];
  });
}

/** Whether the shape is a mapping's. */
export function takesMapping(shape: Shape): boolean {
  return shape.entries !== undefined || shape.type === "record";
}

/** Whether the shape is a list's. */
export function takesList(shape: Shape): boolean {
  return shape.item !== undefined || shape.items !== undefined;
}

/** The words (or numbers) a picklist, enum, literal or the discriminator of a variant takes; empty for any other shape. */
export function words(shape: Shape): unknown[] {
  if (shape.type === "literal") return [shape.literal];
  if (shape.type === "picklist" || shape.type === "enum") return [...(shape.options ?? [])];
  if (shape.type !== "variant") return shape.wrapped === undefined ? [] : words(shape.wrapped);
  const discriminator = String(shape.key);
  const entries = alternatives([shape]).map((option) => option.entries?.[discriminator]);
  return [...new Set(entries.flatMap((entry) => (entry === undefined ? [] : alternatives([entry]).flatMap(words))))];
}

/** What the schema takes, in words: `text or a list`. */
export function describe(shapes: readonly Shape[]): string {
  const all = alternatives(shapes);
  const listed = all.flatMap(words);
  // lists and mappings first: what comes before an "or" should be short
  const rest = all
    .filter((shape) => words(shape).length === 0)
    .toSorted((a, b) => Number(isStructure(b)) - Number(isStructure(a)))
    .map(describeOne);
  const parts = [...new Set([...(listed.length > 0 ? [oneOf(listed)] : []), ...rest])];
  return parts.length === 0 ? "another value" : joinedByOr(parts);
}

/** `"a", "b" or "c"`. */
export function oneOf(listed: readonly unknown[]): string {
  return joinedByOr([...new Set(listed)].map((word) => JSON.stringify(String(word))));
}

function isStructure(shape: Shape): boolean {
  return takesMapping(shape) || takesList(shape);
}

function joinedByOr(parts: readonly string[]): string {
  return parts.length <= 1 ? parts.join("") : `${parts.slice(0, -1).join(", ")} or ${parts.at(-1)}`;
}

function describeOne(shape: Shape): string {
  if (typeof shape.message === "string" && shape.message.startsWith("expected ")) return shape.message.slice(9);
  if (takesMapping(shape)) return "a mapping";
  if (takesList(shape)) return "a list";
  if (shape.type === "string") return "text";
  if (shape.type === "number" || shape.type === "bigint") return "a number";
  if (shape.type === "boolean") return "true or false";
  return shape.type === "null" ? "nothing" : "another value";
}

/** Every setting of the schema that is not itself a mapping with known keys; in a path `0` stands for any list index. */
export function settings(root: Shape): { path: Path; mark: ReturnType<typeof markOf> }[] {
  const found = new Map<string, { path: Path; mark: ReturnType<typeof markOf> }>();
  const visit = (shapes: readonly Shape[], path: Path): void => {
    const all = alternatives(shapes);
    const keys = knownKeys(all);
    const name = path.join(".");
    const plain = keys.length === 0 || all.some((shape) => !takesMapping(shape));
    if (path.length > 0 && plain && !found.has(name)) found.set(name, { path, mark: shapes.map(markOf).find(Boolean) });
    if (path.length >= 8) return; // a schema that contains itself
    for (const key of keys) visit(under(all, key), [...path, key]);
    const items = under(all, 0);
    if (items.some((item) => knownKeys(alternatives([item])).length > 0)) visit(items, [...path, 0]);
  };
  visit([root], []);
  return [...found.values()];
}
