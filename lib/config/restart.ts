// Settings that can't change while a daemon runs: the schema says which, and a reload keeps their former values.

import * as v from "valibot";
import { isMapping, type Path } from "./data.ts";
import { keyPath } from "./wording.ts";
import { alternatives, marked, marksOf, type Shape } from "./shape.ts";

/** A setting of which a change takes effect at the next start. */
export function restart<const S extends v.GenericSchema>(schema: S) {
  return v.pipe(schema, marked({ kind: "restart", of: "value" }));
}

/** A section that is switched on or off at the next start; what it holds may change before. */
export function restartToSwitch<const S extends v.GenericSchema>(schema: S) {
  return v.pipe(schema, marked({ kind: "restart", of: "presence" }));
}

/**
 * What of the configuration `next` takes effect at once: `next` with the values of `former` where a change waits for a
 * restart, and a message for each such change. Old and new values together may break a rule that each configuration
 * keeps: the token goes, but the old address, which others reach, stays. Then there are `problems`: refuse `next`.
 */
export function untilRestart<C>(
  schema: v.GenericSchema<unknown, C>,
  { former, next }: { former: C; next: C },
): { config: C; messages: string[]; problems: string[] } {
  const messages: string[] = [];
  const visit = (shape: Shape, { old, given, path }: { old: unknown; given: unknown; path: Path }): unknown => {
    const of = marksOf(shape).find((mark) => mark.kind === "restart")?.of;
    if (of === "value" && JSON.stringify(old) !== JSON.stringify(given)) {
      messages.push(`${keyPath(path)}: a change takes effect at the next start`);
      return old;
    }
    if (of === "presence" && (old === undefined) !== (given === undefined)) {
      messages.push(
        `${keyPath(path)}: switching it ${given === undefined ? "off" : "on"} takes effect at the next start`,
      );
      return old;
    }
    if (!isMapping(old) || !isMapping(given)) return given;
    const merged = { ...given };
    for (const [key, entry] of entriesOf(shape)) {
      if (!(key in old || key in given)) continue;
      merged[key] = visit(entry, { old: old[key], given: given[key], path: [...path, key] });
    }
    return merged;
  };
  const config = visit(schema, { old: former, given: next, path: [] }) as C;
  return { config, messages, problems: messages.length > 0 ? brokenRules(schema, config) : [] };
}

/** The rules of the whole configuration (see `rule`), asked again. */
function brokenRules(schema: v.GenericSchema & Shape, config: unknown): string[] {
  const rules = (schema.pipe ?? []).filter(
    (item) => item.type === "raw_check",
  ) as unknown as v.RawCheckAction<unknown>[];
  return rules.flatMap((rule) => {
    const { issues = [] } = rule["~run"]({ typed: true, value: config }, {});
    return issues.map((issue) => [v.getDotPath(issue), issue.message].filter(Boolean).join(": "));
  });
}

/** The settings of a mapping; what is no mapping, and a choice between several, has none. */
function entriesOf(shape: Shape): [string, Shape][] {
  const [only, ...others] = alternatives([shape]);
  return others.length === 0 ? Object.entries(only?.entries ?? {}) : [];
}
