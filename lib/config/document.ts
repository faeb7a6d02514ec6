// YAML text into plain data, with the place of every value; or everything that is wrong with the text, with its places.
//
// What people write is YAML 1.2 (core schema): one document, text keys, no key twice, no tags of one's own. Aliases are
// followed, but neither into themselves nor into more values than a configuration can have ("billion laughs").

import {
  type Alias,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  type YAMLError,
} from "yaml";
import { newMapping, type Path } from "./data.ts";

/** A place in the text; both count from 1, columns in UTF-16 units. */
export interface Place {
  line: number;
  col: number;
}

/** A read document. `value` is undefined for an empty one, and of no use when there are `problems`. */
export interface Document {
  value?: unknown;
  /** What is wrong with the text itself. Never quotes a value. */
  problems: (Place & { text: string })[];
  /**
   * Where the value at `path` stands, or its key. What is not in the text is placed at the nearest thing around it that is:
   * a missing key at the mapping that it is missing in. What lies within an aliased value is placed where it was written.
   */
  place(path: Path, of: "value" | "key"): Place;
}

/** More values than this (after following aliases) are no configuration. */
const MOST_VALUES = 100_000;

/** Beyond so many errors of syntax the rest are consequences. */
const MOST_ERRORS = 20;

/** Reads YAML text. Never throws for what the text contains. */
export function readDocument(text: string): Document {
  const lineCounter = new LineCounter();
  const at = (offset: number): Place => lineCounter.linePos(offset);
  let root: Node | null;
  try {
    const parsed = parseDocument(text, {
      lineCounter,
      uniqueKeys: true,
      stringKeys: true,
      strict: true,
      schema: "core",
      resolveKnownTags: false,
      prettyErrors: false,
      logLevel: "error", // with "silent" a second document would go unnoticed
    });
    const errors = [...parsed.errors, ...parsed.warnings].slice(0, MOST_ERRORS);
    const openingOf = errors.length > 0 ? openingsOf(parsed.contents) : () => null;
    const problems = errors.map((error) => {
      const { offset, text } = openingOf(error) ?? { offset: error.pos[0], text: syntaxText(error) };
      return { ...at(offset), text };
    });
    if (problems.length > 0) return { ...NO_DOCUMENT, problems };
    root = parsed.contents;
  } catch {
    return { ...NO_DOCUMENT, problems: [{ ...START, text: TOO_DEEP }] }; // the parser ran out of stack
  }
  return convert(root, at);
}

const START: Place = { line: 1, col: 1 };

/** A document that holds nothing: what stands for the file where there is none. */
export const NO_DOCUMENT: Document = { problems: [], place: () => START };

class Refused extends Error {
  readonly node: Node;
  constructor(node: Node, message: string) {
    super(message);
    this.node = node;
  }
}

function convert(root: Node | null, at: (offset: number) => Place): Document {
  const anchors = new Map<string, Node>();
  const targets = new Map<Alias, Node>();
  const open = new Set<Node>();
  let values = 0;

  function toData(node: Node | null): unknown {
    if (node === null) return null;
    if (++values > MOST_VALUES) throw new Refused(node, `more than ${MOST_VALUES} values, aliases followed`);
    if (isAlias(node)) return toData(follow(node));
    if ("anchor" in node && node.anchor !== undefined) anchors.set(node.anchor, node);
    if (isScalar(node)) return node.value;
    open.add(node);
    let data: unknown = null;
    if (isSeq<Node | null>(node)) data = node.items.map(toData);
    if (isMap<Node, Node | null>(node)) {
      const mapping = newMapping();
      for (const { key, value } of node.items) mapping[keyText(key)] = toData(value);
      data = mapping;
    }
    open.delete(node);
    return data;
  }

  function follow(alias: Alias): Node {
    const target = anchors.get(alias.source);
    if (target === undefined) throw new Refused(alias, `alias "*${alias.source}" without an anchor before it`);
    if (open.has(target)) throw new Refused(alias, `alias "*${alias.source}" contains itself`);
    targets.set(alias, target);
    return target;
  }

  const start = (node: Node | null | undefined): Place => at(node?.range?.[0] ?? 0);
  try {
    const value = root === null || isBlank(root) ? undefined : toData(root);
    return { value, problems: [], place: (path, of) => start(locate({ root, targets, path, of })) };
  } catch (error) {
    if (error instanceof Refused) return { ...NO_DOCUMENT, problems: [{ ...start(error.node), text: error.message }] };
    if (error instanceof RangeError) return { ...NO_DOCUMENT, problems: [{ ...START, text: TOO_DEEP }] };
    throw error;
  }
}

function isBlank(node: Node): boolean {
  return isScalar(node) && node.value === null && node.source === "";
}

function keyText(key: Node): string {
  return isScalar(key) ? String(key.value) : String(key);
}

function locate(options: {
  root: Node | null;
  targets: Map<Alias, Node>;
  path: Path;
  of: "value" | "key";
}): Node | null {
  const { root, targets, path, of } = options;
  let value = root;
  for (const [depth, step] of path.entries()) {
    const inside: Node | null = isAlias(value) ? (targets.get(value) ?? null) : value;
    let key: Node | null = null;
    let next: Node | null = null;
    if (isMap<Node, Node | null>(inside)) {
      const pair = inside.items.find((item) => keyText(item.key) === step);
      if (pair === undefined) return value;
      key = pair.key;
      // nothing written after the colon: its key is the better place
      next = pair.value === null || isBlank(pair.value) ? pair.key : pair.value;
    } else if (isSeq<Node | null>(inside) && typeof step === "number") {
      next = inside.items[step] ?? null;
    }
    if (next === null) return value;
    if (of === "key" && depth === path.length - 1) return key ?? next;
    value = next;
  }
  return value;
}

/**
 * What is not closed the parser reports where it gave up, often at the end of the file: where it begins is the better
 * place. Returns each error's beginning, or null for errors of another kind.
 */
function openingsOf(root: Node | null): (error: YAMLError) => { offset: number; text: string } | null {
  const begun = unfinished(root);
  return (error) => {
    const [, quote, bracket] = /^Missing closing (["'])quote|end with a ([\]}])$/.exec(error.message) ?? [];
    const sign = quote ?? (bracket === "]" ? "[" : "{");
    // several may have been given up at the same place: the parser reports them from the inside out
    const offset = begun.get(`${sign}${error.pos[0]}`)?.pop();
    if (offset === undefined) return null;
    const hint = quote === undefined ? " (or what it holds is not indented)" : "";
    return { offset, text: `a ${sign} that is never closed${hint}` };
  };
}

/** Where quoted texts and flow collections begin, from the outside in, by their sign and the offset of their end. */
function unfinished(root: Node | null): Map<string, number[]> {
  const begun = new Map<string, number[]>();
  const left = [root];
  for (let node = left.pop(); node !== undefined; node = left.pop()) {
    if (node === null || isAlias(node)) continue;
    const sign = signOf(node);
    if (sign !== null && node.range) {
      const name = `${sign}${node.range[1]}`;
      const beginnings = begun.get(name) ?? [];
      beginnings.push(node.range[0]);
      begun.set(name, beginnings);
    }
    if (isSeq<Node | null>(node)) left.push(...node.items);
    if (isMap<Node, Node | null>(node)) left.push(...node.items.flatMap(({ key, value }) => [key, value]));
  }
  return begun;
}

function signOf(node: Node): string | null {
  if (isScalar(node)) return node.type === "QUOTE_DOUBLE" ? '"' : node.type === "QUOTE_SINGLE" ? "'" : null;
  if (isSeq(node)) return node.flow === true ? "[" : null;
  return isMap(node) && node.flow === true ? "{" : null;
}

const TAG = "a tag (!…) is not allowed here (text that starts with ! needs quotes)";
const TOO_DEEP = "nested too deeply to be read";

const SYNTAX: Partial<Record<YAMLError["code"], string>> = {
  BAD_ALIAS: "an alias or anchor without a proper name",
  BAD_COLLECTION_TYPE: TAG,
  BAD_DIRECTIVE: "a %directive that is not known",
  BAD_DQ_ESCAPE: "an escape that double quotes do not know (write \\\\ for a backslash, or use single quotes)",
  BAD_SCALAR_START: "text that starts with @ or ` needs quotes",
  BLOCK_AS_IMPLICIT_KEY: 'a second ": " on one line (text that contains ": " needs quotes)',
  DUPLICATE_KEY: "a key that is already in this mapping",
  MULTIPLE_DOCS: 'a second document (one "---" too many)',
  MULTIPLE_TAGS: TAG,
  NON_STRING_KEY: "a key that is not text",
  RESOURCE_EXHAUSTION: TOO_DEEP,
  TAB_AS_INDENT: "a tab in the indentation: use spaces",
  TAG_RESOLVE_FAILED: TAG,
};

/** The parser's errors in the words of this house. Its own texts may quote a piece of the file, and that piece may be a token. */
function syntaxText(error: YAMLError): string {
  const known = SYNTAX[error.code];
  if (known !== undefined) return known;
  // what is left speaks of YAML's own signs; what follows a colon or stands in quotes may be from the file, a secret even
  const text = error.message.replace(/\s*[:"`].*/s, "");
  return `not valid YAML: ${text.charAt(0).toLowerCase()}${text.slice(1)}`;
}
