// Plain data as a configuration holds it: lists, scalars, and mappings without a prototype, so that no key of a file
// ("__proto__", "constructor") is ever anything but data.

/** The way to a value: keys and list indexes. */
export type Path = readonly (string | number)[];

/** Keys and values. */
export type Mapping = Record<string, unknown>;

/** An empty mapping, without a prototype. */
export function newMapping(): Mapping {
  const mapping: Mapping = Object.create(null);
  return mapping;
}

/** Whether a value is a mapping: an object that is no list. */
export function isMapping(value: unknown): value is Mapping {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What stands under a key or at an index; undefined when there is nothing, or nothing that could hold it. */
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

/** A copy of a mapping, all the way down. */
export function copyMapping(mapping: Mapping): Mapping {
  const copy = newMapping();
  for (const [key, value] of Object.entries(mapping)) copy[key] = copied(value);
  return copy;
}

function copied(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(copied);
  return isMapping(value) ? copyMapping(value) : value;
}
