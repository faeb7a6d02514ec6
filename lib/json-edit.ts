// Changes to a JSON file that a person keeps: comments, order and what isn't near a change stay as they are. The lines around a change are
// formatted with the file's own indentation. A new entry of a list stands last.

import {
  type JSONPath,
  type Node,
  type ParseError,
  applyEdits,
  findNodeAtLocation,
  modify,
  parse,
  parseTree,
  printParseErrorCode,
} from "jsonc-parser";

/**
 * The value of a text; `comments`: whether it may hold any.
 * @throws Error that begins with LINE:COL.
 */
export function parseKept(text: string, { comments }: { comments: boolean }): unknown {
  const errors: ParseError[] = [];
  const value: unknown = parse(text, errors, { disallowComments: !comments });
  const [first] = errors;
  if (first === undefined) return value;
  const lines = text.slice(0, first.offset).split("\n");
  const words = printParseErrorCode(first.error)
    .replaceAll(/(?<=[a-z])(?=[A-Z])/g, " ")
    .toLowerCase();
  throw new Error(`${lines.length}:${lines.at(-1)!.length + 1}: not JSON: ${words}`);
}

/** Sets the value at a path, or appends it to a list when the path ends with -1. Objects on the way are made. */
export function setAt(text: string, path: JSONPath, value: unknown): string {
  const indent = /^([ \t]+)\S/m.exec(text)?.[1] ?? "  ";
  const formattingOptions = {
    insertSpaces: !indent.startsWith("\t"),
    tabSize: indent.length,
    eol: text.includes("\r\n") ? "\r\n" : "\n",
    keepLines: true,
  };
  return applyEdits(text, modify(text, path, value, { formattingOptions, isArrayInsertion: path.at(-1) === -1 }));
}

/** Takes out the value at a path, its key included. Comments beside it stay. */
export function removeAt(text: string, path: JSONPath): string {
  const value = findNodeAtLocation(parseTree(text)!, path)!;
  const entry = typeof path.at(-1) === "number" ? value : value.parent!;
  const siblings = entry.parent!.children!;
  const at = siblings.indexOf(entry);
  const [before, after] = [siblings[at - 1], siblings[at + 1]];
  // A comma goes with the entry: the one before it, or before the next if it is the first.
  let [from, to] = [entry.offset, endOf(entry)];
  if (before) from = endOf(before);
  else if (after) to = after.offset;
  else [from, to] = [entry.parent!.offset + 1, endOf(entry.parent!) - 1];
  const gaps = [text.slice(from, entry.offset), text.slice(endOf(entry), to)];
  const kept = gaps.map((gap) => (gap.includes("/") ? gap.replace(",", "") : ""));
  return text.slice(0, from) + kept.join("") + text.slice(to);
}

function endOf({ offset, length }: Node): number {
  return offset + length;
}
