// The schema walked along the data before valibot sees it, for what valibot can't do: report every unknown key at every
// level (it stops at the first), read secrets, and look into sections that are absent, so that what is missing in
// them is named setting by setting and a credential finds its place in them.

import { bareNames, resolveSecret } from "./credentials.ts";
import { copyMapping, isMapping, type Mapping, newMapping, type Path, valueAt } from "./data.ts";
import type { Surroundings } from "./paths.ts";
import { alternatives, knownKeys, markOf, type Shape, settings, takesMapping, under } from "./shape.ts";
import { type Problem, unknownKeyText } from "./wording.ts";

/** What the walk found. */
export interface Survey {
  problems: Problem[];
  warnings: Problem[];
}

/** Walks `data` along the schema `root` and changes it in place: unknown keys go, secrets come in, sections that valibot would make anyway are made. */
export function survey(data: unknown, { root, surroundings }: { root: Shape; surroundings: Surroundings }): Survey {
  const problems: Problem[] = [];
  const warnings: Problem[] = [];
  const bare = bareNames(root);
  const all = settings(root).map(({ path }) => path);

  function visit(shapes: readonly Shape[], { value, path }: { value: unknown; path: Path }): void {
    const here = alternatives(shapes, value);
    if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) visit(under(here, index), { value: item, path: [...path, index] });
    } else if (isMapping(value) && here.some(takesMapping)) {
      dropUnknown(value, { here, path });
      const secrets = readSecrets(value, { here, path });
      addSections(value, here);
      for (const [key, inner] of Object.entries(value)) {
        if (!secrets.has(key)) visit(under(here, key), { value: inner, path: [...path, key] });
      }
    }
  }

  function dropUnknown(mapping: Mapping, { here, path }: { here: readonly Shape[]; path: Path }): void {
    for (const key of Object.keys(mapping)) {
      if (under(here, key).length > 0) continue;
      delete mapping[key];
      problems.push({
        path: [...path, key],
        of: "key",
        text: unknownKeyText([...path, key], { known: knownKeys(here), all }),
      });
    }
  }

  function readSecrets(mapping: Mapping, { here, path }: { here: readonly Shape[]; path: Path }): Set<string> {
    const marks = knownKeys(here).flatMap((key) => under(here, key).map(markOf));
    const keys = new Set(marks.flatMap((mark) => (mark?.kind === "secret" ? mark.key : [])));
    for (const key of keys) {
      resolveSecret({
        mapping,
        key,
        path,
        surroundings,
        bare,
        findings: {
          problem: (at, text) => problems.push({ path: at, of: "value", text }),
          warning: (at, text) => warnings.push({ path: at, of: "value", text }),
        },
      });
    }
    return keys;
  }

  visit([root], { value: data, path: [] });
  return { problems, warnings };
}

/** Makes the absent sections of a mapping: those that are required, and those whose default is a mapping. */
function addSections(mapping: Mapping, here: readonly Shape[]): void {
  const [shape, ...others] = here.filter(takesMapping);
  if (shape?.entries === undefined || others.length > 0) return;
  for (const [key, entry] of Object.entries(shape.entries)) {
    const section = key in mapping ? undefined : absentSection(entry);
    if (section !== undefined) mapping[key] = section;
  }
}

function absentSection(entry: Shape): Mapping | undefined {
  if (entry.entries !== undefined) return newMapping();
  if (!["optional", "exact_optional", "nullish"].includes(entry.type)) return undefined;
  const byDefault: unknown = typeof entry.default === "function" ? entry.default() : entry.default;
  return isMapping(byDefault) ? copyMapping(byDefault) : undefined;
}

/** The schemas at `path`, following the data where it decides between a variant's options. */
export function shapesAlong(root: Shape, { path, data }: { path: Path; data: unknown }): Shape[] {
  let shapes = [root];
  for (const [depth, step] of path.entries()) {
    shapes = under(alternatives(shapes, valueAt(data, path.slice(0, depth))), step);
  }
  return shapes;
}
