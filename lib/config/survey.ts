// Walks the schema along the data before valibot sees it, for what valibot can't do: report every unknown key at every
// level (valibot stops at the first), read secrets, and look into absent sections, so that each setting missing in them
// is named and a credential can fill it.

import { bareNames, resolveSecret } from "./credentials.ts";
import { isMapping, type Mapping, newMapping, type Path } from "./data.ts";
import type { Surroundings } from "./paths.ts";
import { alternatives, knownKeys, markOf, type Shape, settings, takesMapping, under } from "./shape.ts";
import { type Problem, unknownKeyText } from "./wording.ts";

/**
 * Walks `data` along the schema `root` and changes it in place: removes unknown keys, reads secrets, and creates the absent
 * sections that are required or have a default.
 */
export function survey(
  data: unknown,
  { root, surroundings }: { root: Shape; surroundings: Surroundings },
): { problems: Problem[]; warnings: Problem[] } {
  const problems: Problem[] = [];
  const warnings: Problem[] = [];
  const bare = bareNames(root);
  const all = settings(root).map(({ path }) => path);

  function visit(shapes: readonly Shape[], { value, path }: { value: unknown; path: Path }): void {
    const here = alternatives(shapes).filter(takesMapping);
    if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) visit(under(shapes, index), { value: item, path: [...path, index] });
    } else if (isMapping(value) && here.length > 0) {
      dropUnknown(value, { here, path });
      const secrets = here.flatMap(({ entries = {} }) => Object.values(entries).flatMap(secretOf));
      for (const key of secrets) resolveSecret({ mapping: value, key, path, surroundings, bare, problems, warnings });
      addSections(value, here);
      for (const [key, inner] of Object.entries(value)) {
        if (!secrets.includes(key)) visit(under(here, key), { value: inner, path: [...path, key] });
      }
    }
  }

  function dropUnknown(mapping: Mapping, { here, path }: { here: readonly Shape[]; path: Path }): void {
    for (const key of Object.keys(mapping)) {
      if (under(here, key).length > 0) continue;
      delete mapping[key];
      const text = unknownKeyText([...path, key], { known: knownKeys(here), all });
      problems.push({ path: [...path, key], of: "key", text });
    }
  }

  visit([root], { value: data, path: [] });
  return { problems, warnings };
}

function secretOf(entry: Shape): string[] {
  const mark = markOf(entry);
  return mark?.kind === "secret" ? [mark.key] : [];
}

/** Creates the absent sections of a mapping: those that are required, and those whose default is a mapping. */
function addSections(mapping: Mapping, here: readonly Shape[]): void {
  for (const [key, entry] of here.flatMap(({ entries = {} }) => Object.entries(entries))) {
    if (key in mapping) continue;
    if (takesMapping(entry)) mapping[key] = newMapping();
    else if (isMapping(entry.default)) mapping[key] = structuredClone(entry.default);
  }
}
