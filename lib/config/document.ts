// YAML text into plain data, with the place of every value; or every error in the text, with its place.
//
// The text is YAML 1.2 (core schema): one document, text keys, no key twice, no tags. An alias must not contain itself,
// and aliases must not multiply into more values than a configuration can have ("billion laughs").

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
  spots: Spot;
}

/** Where a value and its key begin, or the variable that they came from, and the same for what the value holds. */
export interface Spot {
  key: Place;
  value: Place;
  variable?: string;
  inside: Map<string | number, Spot>;
}

/**
 * The spot of the value at `path`. For what is not there: the nearest thing around it, so a missing key is placed at its mapping. What an alias
 * stands for is placed where it was written.
 */
export function spotAt(top: Spot, path: Path): Spot {
  const [step, ...rest] = path;
  const next = step === undefined ? undefined : top.inside.get(step);
  return next === undefined ? top : spotAt(next, rest);
}

/** The most values of a document, aliases followed. */
const MOST_VALUES = 100_000;

/** After so many errors of syntax the others are consequences. */
const MOST_ERRORS = 20;

const START: Place = { line: 1, col: 1 };

/** An empty document: used when there is no file. */
export function noDocument(problems: Document["problems"] = []): Document {
  return { problems, spots: { key: START, value: START, inside: new Map() } };
}

/** Reads YAML text. Never throws for what the text contains. */
export function readDocument(text: string): Document {
  const lineCounter = new LineCounter();
  const at = (offset: number): Place => lineCounter.linePos(offset);
  try {
    const parsed = parseDocument(text, {
      lineCounter,
      uniqueKeys: true,
      stringKeys: true,
      strict: true,
      schema: "core",
      resolveKnownTags: false,
      prettyErrors: false,
      logLevel: "error", // with "silent" a second document goes unnoticed
    });
    const errors = [...parsed.errors, ...parsed.warnings].slice(0, MOST_ERRORS);
    if (errors.length === 0) return convert(parsed.contents, at);
    const begun = unclosed(parsed.contents);
    const lines = text.split("\n");
    const problems = new Map<string, Document["problems"][number]>();
    for (const error of errors) {
      const opening = openingOf(error, begun);
      const place = at(opening?.offset ?? error.pos[0]);
      const said = opening?.text ?? syntaxText(error, lines[place.line - 1] ?? "");
      const name = `${place.line} ${said}`;
      if (!problems.has(name)) problems.set(name, { ...place, text: said });
    }
    return noDocument([...problems.values()]);
  } catch (error) {
    if (error instanceof Refused) return noDocument([{ ...at(error.offset), text: error.message }]);
    // The parser or the conversion ran out of stack.
    return noDocument([{ ...START, text: TOO_DEEP }]);
  }
}

class Refused extends Error {
  readonly offset: number;
  constructor(node: Node, message: string) {
    super(message);
    this.offset = startOf(node);
  }
}

function convert(root: Node | null, at: (offset: number) => Place): Document {
  /** The nodes by anchor; null while the conversion is inside the node. */
  const anchors = new Map<string, Node | null>();
  let values = 0;

  function toData(node: Node | null, spot: Spot): unknown {
    if (node === null) return null;
    if (++values > MOST_VALUES) throw new Refused(node, `more than ${MOST_VALUES} values, aliases followed`);
    if (isAlias(node)) return toData(follow(node), spot);
    if (isScalar(node) && /^\S*\{\{/.test(node.comment ?? ""))
      throw new Refused(node, `text ends at " #", which begins a comment: quote it`);
    const anchor = "anchor" in node ? node.anchor : undefined;
    if (anchor !== undefined) anchors.set(anchor, null);
    const data = isScalar(node) ? node.value : contentOf(node, spot.inside);
    if (anchor !== undefined && anchors.get(anchor) === null) anchors.set(anchor, node);
    return data;
  }

  function contentOf(node: Node, inside: Spot["inside"]): unknown {
    const add = (step: string | number, spot: Omit<Spot, "inside">): Spot => {
      const added = { ...spot, inside: new Map() };
      inside.set(step, added);
      return added;
    };
    if (isSeq<Node | null>(node)) {
      return node.items.map((item, index) => {
        const value = at(startOf(item ?? node));
        return toData(item, add(index, { key: value, value }));
      });
    }
    const mapping = newMapping();
    if (!isMap<Node, Node | null>(node)) return mapping;
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : String(key);
      // With nothing written after the colon, the key is the better place.
      const valueAt = value === null || isBlank(value) ? key : value;
      mapping[name] = toData(value, add(name, { key: at(startOf(key)), value: at(startOf(valueAt)) }));
    }
    return mapping;
  }

  function follow(alias: Alias): Node {
    const target = anchors.get(alias.source);
    if (target === undefined) throw new Refused(alias, `alias "*${alias.source}" without an anchor before it`);
    if (target === null) throw new Refused(alias, `alias "*${alias.source}" contains itself`);
    return target;
  }

  const start = at(startOf(root));
  const spots: Spot = { key: start, value: start, inside: new Map() };
  const value = root === null || isBlank(root) ? undefined : toData(root, spots);
  return { value, problems: [], spots };
}

function startOf(node: Node | null): number {
  return node?.range?.[0] ?? 0;
}

function isBlank(node: Node): boolean {
  return isScalar(node) && node.value === null && node.source === "";
}

/** Where quoted texts and flow collections begin, from the outside in, by their sign and the offset of their end. */
function unclosed(root: Node | null): Map<string, number[]> {
  const begun = new Map<string, number[]>();
  // A stack instead of the library's `visit`, which takes the square of the depth.
  const left = [root];
  for (let node = left.pop(); node !== undefined; node = left.pop()) {
    if (node === null || isAlias(node)) continue;
    const sign = signOf(node);
    if (sign !== undefined && node.range) {
      const [start, end] = node.range;
      const starts = begun.get(`${sign}${end}`);
      if (starts === undefined) begun.set(`${sign}${end}`, [start]);
      else starts.push(start);
    }
    if (isSeq<Node | null>(node)) left.push(...node.items);
    if (isMap<Node, Node | null>(node)) left.push(...node.items.flatMap(({ key, value }) => [key, value]));
  }
  return begun;
}

function signOf(node: Node): string | undefined {
  if (isScalar(node)) return { QUOTE_DOUBLE: '"', QUOTE_SINGLE: "'" }[String(node.type)];
  if (isSeq(node) || isMap(node)) return node.flow === true ? (isSeq(node) ? "[" : "{") : undefined;
  return undefined;
}

/**
 * The parser reports what is not closed where it gave up, often at the end of the file: the beginning is the better place.
 * Returns null for errors of another kind.
 */
function openingOf(error: YAMLError, begun: Map<string, number[]>): { offset: number; text: string } | null {
  const [, quote, bracket] = /^Missing closing (["'])quote|end with a ([\]}])$/.exec(error.message) ?? [];
  const sign = quote ?? (bracket === "]" ? "[" : "{");
  // Several may end at the same offset: the parser reports them from the inside out.
  const offset = begun.get(`${sign}${error.pos[0]}`)?.pop();
  if (offset === undefined) return null;
  const hint = quote === undefined ? " (or what it holds is not indented, or a # in it begins a comment)" : "";
  return { offset, text: `a ${sign} that is never closed${hint}` };
}

const TAG = "a tag (!…) is not allowed here (text that starts with ! needs quotes)";
const TOO_DEEP = "nested too deeply to be read";

const SYNTAX: Partial<Record<YAMLError["code"], string>> = {
  BAD_ALIAS: "an alias or anchor without a proper name",
  BAD_COLLECTION_TYPE: TAG,
  BAD_DIRECTIVE: "an unknown %directive",
  BAD_DQ_ESCAPE: "an escape that double quotes do not know (write \\\\ for a backslash, or use single quotes)",
  BAD_SCALAR_START: "text that starts with @, ` or % needs quotes",
  BLOCK_AS_IMPLICIT_KEY: 'a second ": " on one line (text that contains ": " needs quotes)',
  DUPLICATE_KEY: "a key that is already in this mapping",
  MULTIPLE_DOCS: 'a second document (one "---" too many)',
  MULTIPLE_TAGS: TAG,
  NON_STRING_KEY: "a key that is not text",
  RESOURCE_EXHAUSTION: TOO_DEEP,
  TAG_RESOLVE_FAILED: TAG,
};

/** The parser's error on this line in our words. The parser's own text may quote a piece of the file, and that piece may be a token. */
function syntaxText(error: YAMLError, line: string): string {
  const [indentation = ""] = /^\s*/.exec(line) ?? [];
  if (indentation.includes("\t")) return "a tab in the indentation: use spaces";
  if (/:\s+(?=[^'"\s#]).*\{\{/.test(line)) return "text that holds {{ needs quotes, such as '{{ .name }}'";
  const known = SYNTAX[error.code];
  if (known !== undefined) return known;
  if (/^Implicit (map )?keys need/.test(error.message)) return 'a line without ": " (a space follows the colon)';
  if (error.message.startsWith("Unexpected scalar at node end")) {
    return "text goes on after its end: put all of it in single quotes, and write '' for a ' inside";
  }
  // What follows a colon or stands in quotes may be from the file.
  const text = error.message.replace(/\s*[:"`].*/s, "");
  return `not valid YAML: ${text.charAt(0).toLowerCase()}${text.slice(1)}`;
}
