// What is wrong with a configuration, as sentences for its author: what is expected, and what was found.
//
// No secret gets out this way: values under keys that sound like secrets are never quoted, nor is a scalar that stands
// where a mapping or list belongs (`auth: pk_…`), nor a URL with a password in it.

import type * as v from "valibot";
import { cut } from "../text.ts";
import { nearest } from "../nearest.ts";
import { type Path, valueAt } from "./data.ts";
import { alternatives, describe, markOf, type Shape, shapesAt, takesList, takesMapping, words } from "./shape.ts";

/** Something wrong with the data: where, and what. */
export interface Problem {
  path: Path;
  text: string;
  /** It is the key that is wrong, not its value. */
  of?: "key";
  /** A setting is absent that should be there. */
  missing?: true;
}

const SENSITIVE = /token|secret|passw|passphrase|api_?key|private_?key|credential/i;

/** Whether the value at `path` is to be kept out of every text, going by its name. `…_file` holds a path, but a misplaced token too. */
export function isSensitive(path: Path): boolean {
  return path.some((step) => typeof step === "string" && SENSITIVE.test(step));
}

/** `webhook.routes[0].recipient`; a key that is not a plain name is quoted. */
export function keyPath(path: Path): string {
  return path.reduce<string>((text, step) => {
    if (typeof step === "number") return `${text}[${step}]`;
    const name = /^[\w-]{1,60}$/.test(step) ? step : quoted(step);
    return text === "" ? name : `${text}.${name}`;
  }, "");
}

/** What stands at a place, in words: a scalar quoted (unless it must not be shown), anything else by its kind. */
export function found(value: unknown, { show }: { show: boolean }): string {
  if (value === undefined || value === null) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "string") return show && !/:\/\/[^/]*@/.test(value) ? quoted(value) : "text";
  if (typeof value === "number") return show ? quoted(String(value)) : "a number";
  if (typeof value === "boolean") return show ? quoted(String(value)) : "true or false";
  return "a mapping";
}

function quoted(text: string): string {
  return JSON.stringify(cut(text, 60));
}

/** One of valibot's issues as problems: one, or several where a union's options have more to say. */
export function problemsOf(
  issue: v.BaseIssue<unknown>,
  { data, root, above = [] }: { data: unknown; root: Shape; above?: Path },
): Problem[] {
  const path = [...above, ...(issue.path ?? []).map(({ key }) => (typeof key === "number" ? key : String(key)))];
  const shapes = shapesAt(root, path);
  if (issue.path?.at(-1)?.origin === "key" && issue.input === undefined) {
    return [{ path, missing: true, text: missingText(path, shapes) }];
  }
  // In a union, an option that fails deeper down is the one that was meant.
  const options = issue.type === "union" ? (issue.issues ?? []) : [];
  const deeper = options.filter((inner) => inner.kind !== "schema" || inner.path !== undefined);
  if (deeper.length > 0) return deeper.flatMap((inner) => problemsOf(inner, { data, root, above: path }));
  const text = sentence(issue, shapes);
  if (!text.startsWith("expected ")) return [{ path, text }];
  const value = valueAt(data, path);
  const show = !isSensitive(path) && !wantsStructure(issue, shapes);
  const unquoted =
    /^(number|boolean)$/.test(typeof value) && alternatives(shapes).some(({ type }) => type === "string")
      ? " (put it in quotes)"
      : "";
  return [{ path, text: `${text}, found ${found(value, { show })}${unquoted}${suggestion(value, { show, shapes })}` }];
}

function missingText(path: Path, shapes: readonly Shape[]): string {
  const mark = shapes.map(markOf).find((one) => one?.kind === "secret");
  if (mark?.kind !== "secret") return `missing, expected ${describe(shapes)}`;
  return `missing, give it as ${mark.key}, as ${mark.key}_file or as the credential ${quoted(path.join("."))}`;
}

function wantsStructure(issue: v.BaseIssue<unknown>, shapes: readonly Shape[]): boolean {
  const scalar = alternatives(shapes).some((shape) => !takesMapping(shape) && !takesList(shape));
  return issue.kind === "schema" && !scalar;
}

/** A word that is nearly one of those that fit. */
function suggestion(value: unknown, { show, shapes }: { show: boolean; shapes: readonly Shape[] }): string {
  if (!show || typeof value !== "string") return "";
  const near = nearest(value, alternatives(shapes).flatMap(words));
  return near === undefined ? "" : `, did you mean ${JSON.stringify(near)}?`;
}

/** Stands for "the schema has no message of its own": given to valibot as the message of last resort. */
export const UNWORDED = "\0unworded";

/** The message that a role's schema gives, else one of ours for what roles take from valibot directly. */
function sentence({ kind, type, message, requirement }: v.BaseIssue<unknown>, shapes: readonly Shape[]): string {
  if (message !== UNWORDED) return message;
  if (kind === "schema") return `expected ${describe(shapes)}`;
  return type === "max_length" ? `expected at most ${String(requirement)} characters` : "expected a value that fits";
}

/** What to say about a key that is not known, given those that are, and all the schema's settings (for one that stands elsewhere). */
export function unknownKeyText(path: Path, { known, all }: { known: readonly string[]; all: readonly Path[] }): string {
  // No-break spaces, copied from a page, don't indent: they belong to the key.
  const key = String(path.at(-1)).trim();
  if (key === "<<") return 'merge keys ("<<") are not supported: write the keys out';
  const near = nearest(key, known);
  if (near !== undefined) return `unknown key, did you mean ${JSON.stringify(near)}?`;
  const here = settingName(path);
  const elsewhere = all.find((other) => other.at(-1) === key && settingName(other) !== here);
  if (elsewhere !== undefined) return `unknown key here, did you mean ${JSON.stringify(settingName(elsewhere))}?`;
  return known.length > 0 && known.length <= 20 ? `unknown key, known here: ${known.join(", ")}` : "unknown key";
}

/** The setting that a path leads to, whichever list items it goes through: `webhook.routes[].path`. */
function settingName(path: Path): string {
  return keyPath(path.map((step) => (typeof step === "number" ? 0 : step))).replaceAll("[0]", "[]");
}
