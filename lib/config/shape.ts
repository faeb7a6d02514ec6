// A look into a valibot schema: which keys it has, what it takes, in words. It knows the kinds of schema that the roles'
// schemas are made of (strictObject, array, optional, union, picklist, literal and scalars, each with a pipe) and no others.

import * as v from "valibot";
import type { Path } from "./data.ts";

/** Any of those schemas, seen loosely: which of these a schema has depends on its `type`. */
export interface Shape {
  readonly type: string;
  readonly wrapped?: Shape;
  readonly default?: unknown;
  readonly pipe?: readonly (Shape | { readonly type: string; readonly metadata?: { readonly picket?: Mark } })[];
  readonly options?: readonly (Shape | string)[];
  readonly entries?: Readonly<Record<string, Shape>>;
  readonly item?: Shape;
  readonly literal?: unknown;
  readonly message?: unknown;
}

/** What a schema says of a setting that valibot doesn't ask for: how its value is read, and whether a change waits for a restart. */
export type Mark =
  | { kind: "path" }
  | { kind: "secret"; key: string }
  | { kind: "secret_file"; key: string }
  /** Every change, or only that a section appears or goes. */
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

/** What a value may be according to any of `shapes`: optional ones unwrapped, unions taken apart. */
export function alternatives(shapes: readonly Shape[]): Shape[] {
  return shapes.flatMap((shape) => {
    if (shape.wrapped !== undefined) return alternatives([shape.wrapped]);
    if (shape.type !== "union") return [shape];
    return alternatives((shape.options ?? []).filter((option) => typeof option === "object"));
  });
}

/** The keys that mappings of these shapes know. */
export function knownKeys(shapes: readonly Shape[]): string[] {
  return [...new Set(shapes.flatMap((shape) => Object.keys(shape.entries ?? {})))];
}

/** The schemas of what stands under `key` (a number: in a list). Empty when the key is unknown. */
export function under(shapes: readonly Shape[], key: string | number): Shape[] {
  return alternatives(shapes).flatMap(({ item, entries = {} }) => {
    if (typeof key === "number") return item ?? [];
    return Object.hasOwn(entries, key) ? (entries[key] ?? []) : [];
  });
}

export function shapesAt(root: Shape, path: Path): Shape[] {
  return path.reduce<Shape[]>(under, [root]);
}

export function takesMapping(shape: Shape): boolean {
  return shape.entries !== undefined;
}

export function takesList(shape: Shape): boolean {
  return shape.item !== undefined;
}

/** The words that a picklist or a literal takes; empty for any other shape. */
export function words(shape: Shape): string[] {
  if (shape.type === "literal") return [String(shape.literal)];
  return shape.type === "picklist" ? (shape.options ?? []).map(String) : [];
}

/** What the schema takes, in words: `text or a list`. */
export function describe(shapes: readonly Shape[]): string {
  const all = alternatives(shapes);
  const listed = all.flatMap(words).map((word) => JSON.stringify(word));
  // Lists and mappings first: what comes before an "or" should be short.
  const rest = all
    .filter((shape) => words(shape).length === 0)
    .toSorted((a, b) => Number(isStructure(b)) - Number(isStructure(a)))
    .map(describeOne);
  const parts = [...new Set([...(listed.length > 0 ? [joinedByOr(listed)] : []), ...rest])];
  return parts.length === 0 ? "another value" : joinedByOr(parts);
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
  if (shape.type === "boolean") return "true or false";
  return shape.type === "number" ? "a number" : "text";
}

/** Every setting of the schema that is not itself a mapping, and its schemas; in a path `0` stands for any list index. */
export function settings(root: Shape): { path: Path; shapes: Shape[] }[] {
  const visit = (shapes: Shape[], path: Path): { path: Path; shapes: Shape[] }[] => {
    const inside = knownKeys(alternatives(shapes)).flatMap((key) => visit(under(shapes, key), [...path, key]));
    const items = under(shapes, 0);
    const inItems = knownKeys(alternatives(items)).length > 0 ? visit(items, [...path, 0]) : [];
    const isSetting = path.length > 0 && !alternatives(shapes).every(takesMapping);
    return [...(isSetting ? [{ path, shapes }] : []), ...inside, ...inItems];
  };
  return visit([root], []);
}
