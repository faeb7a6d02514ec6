// Plain data as a configuration holds it: lists, scalars, and mappings. Mappings have no prototype, so that the keys
// "__proto__" and "constructor" are keys like all others.

/** The way to a value: keys and list indexes. */
export type Path = readonly (string | number)[];

export type Mapping = Record<string, unknown>;

export function newMapping(): Mapping {
  const mapping: Mapping = Object.create(null);
  return mapping;
}

export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The value under a key or at an index; undefined when there is none. */
export function child(value: unknown, step: string | number): unknown {
  if (Array.isArray(value)) return typeof step === "number" ? value[step] : undefined;
  return isMapping(value) && Object.hasOwn(value, step) ? value[step] : undefined;
}

/** The value at `path`, undefined when there is none. */
export function valueAt(data: unknown, path: Path): unknown {
  return path.reduce(child, data);
}

/** Puts a value under a key of a mapping or at an index of a list. Returns false when `container` is not what the step needs. */
export function put(container: unknown, step: string | number, value: unknown): boolean {
  if (Array.isArray(container) && typeof step === "number") container[step] = value;
  else if (isMapping(container) && typeof step === "string") container[step] = value;
  else return false;
  return true;
}
