// Configuration: a YAML file, the environment and credentials become one typed object, or every error at once with its line.
//
// How an error gets its line: every check names the setting by its path, such as ["webhook", "routes", 0, "type"], and
// `examine` below turns the path into a place.
//   a value from the file       config/document.ts keeps where each value begins: FILE:LINE:COL
//   a value from a variable     config/environment.ts notes which variable set it: the variable's name
//   a missing setting           the place of the mapping that lacks it; without a file, the variable to set
//   text that isn't YAML        config/document.ts, the place of the syntax error; nothing else is checked then
//
// The steps of `loadConfig`, which knows no role (a role's valibot schema has the keys, defaults and rules):
//   1. the file: --config, else $XDG_CONFIG_HOME/picket/<role>.yaml, else /etc/picket/<role>.yaml, else none
//   2. config/document.ts: YAML into plain data
//   3. config/environment.ts: variables override it
//   4. config/survey.ts: unknown keys removed and reported, secrets read (config/credentials.ts)
//   5. valibot: defaults, values and rules (config/fields.ts has the building blocks, config/wording.ts the sentences)

import { createReadStream, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import type * as v from "valibot";
import { stringify } from "yaml";
import { isMapping, newMapping, type Path } from "./config/data.ts";
import { type Document, noDocument, type Place, readDocument, spotAt } from "./config/document.ts";
import { applyEnvironment, type Naming, placeholders, type ShortForms, variableFor } from "./config/environment.ts";
import { type Judge, NO_JUDGE, unreadable } from "./config/access.ts";
import { type Surroundings, surroundingsOf } from "./config/paths.ts";
import { survey } from "./config/survey.ts";
import { isSensitive, keyPath, type Problem, problemsOf, UNWORDED } from "./config/wording.ts";
import { decodeText } from "./json.ts";
import { Secret } from "./secret.ts";

export { type Cidr, cidr, holding, isLoopback, isPrivate, unmapped } from "./config/cidr.ts";
export { secret, tokenReadable } from "./config/credentials.ts";
export type { ShortForms } from "./config/environment.ts";
export {
  httpUrl,
  integer,
  isPostgres,
  type Listen,
  listen,
  listenAddress,
  NAME_SEGMENT,
  nameSegment,
  number,
  parsed,
  postgresUrl,
  rule,
  seconds,
} from "./config/fields.ts";
export { besideService, dataFolder, path, readableFile, writable, writableFolder } from "./config/paths.ts";
export { restart, restartToSwitch, untilRestart } from "./config/restart.ts";
export type { Problem } from "./config/wording.ts";
export { Secret, secretEquals } from "./secret.ts";

const LARGEST_FILE = 1 << 20;

/**
 * The configuration is invalid (exit code 78), or there is no file and a required setting is not in the environment either (2).
 * `problems` has each as `FILE:LINE:COL: key.path[2].name: what is wrong`, or `VARIABLE: key.path: …`; the message has one a line.
 */
export class ConfigError extends Error {
  override name = "ConfigError";
  readonly problems: readonly string[];
  readonly exitCode: 2 | 78;

  constructor(problems: readonly string[], exitCode: 2 | 78 = 78) {
    super(problems.join("\n"));
    this.problems = problems;
    this.exitCode = exitCode;
  }
}

export interface Loaded<T> {
  config: T;
  /** The file it came from; null without one. */
  file: string | null;
  /** Secret files that others can read, lenient variables that were ignored. */
  warnings: string[];
}

interface LoadOptions<S> {
  /** `collector`: names the files to look for and the variables. */
  role: string;
  schema: S;
  /** The file given by --config: no other is looked for, and it must exist. */
  file?: string | undefined;
  /** HOME, XDG_CONFIG_HOME and CREDENTIALS_DIRECTORY count too. */
  env?: Record<string, string | undefined>;
  shortForms?: ShortForms | undefined;
  /** Who is to be able to read and write what it names. */
  judge?: Judge;
  /** Sections that the caller doesn't use: errors in them don't count. */
  unused?: readonly string[] | undefined;
}

/**
 * Reads, completes and checks a role's configuration. No error and no warning holds the value of a secret.
 * @throws ConfigError with everything that is wrong.
 */
export async function loadConfig<S extends v.GenericSchema>({
  role,
  schema,
  file: given,
  env = process.env,
  shortForms = {},
  judge = NO_JUDGE,
  unused = [],
}: LoadOptions<S>): Promise<Loaded<v.InferOutput<S>>> {
  const candidates = given === undefined ? standardFiles(role, env) : [given];
  const file = given ?? candidates.find(exists) ?? null;
  const document = file === null ? noDocument() : await readFile(file, judge);
  const naming = { prefix: `PICKET_${role.toUpperCase()}_`, shortForms };
  const { value, warnings, ...examined } = examine(schema, { file, document, env, naming, judge });
  const problems = examined.problems.filter(({ path }) => !unused.includes(String(path[0])));
  if (problems.length === 0) return { config: value, file, warnings: warnings.map(line) };

  // Without a file to put a missing setting into, the variable to set.
  const lines = problems
    .toSorted((a, b) => rank(a) - rank(b))
    .map((problem) => line(problem) + (isNowhere(problem) ? `: set ${variableFor(problem.path, naming)}` : ""));
  const unique = [...new Set(lines)];
  const isWrong = problems.some(({ missing, variable }) => !missing && variable !== undefined);
  if (file !== null || isWrong) throw new ConfigError(unique);
  throw new ConfigError([...unique, `no configuration file (looked for ${candidates.join(" and ")})`], 2);
}

function standardFiles(role: string, env: Record<string, string | undefined>): string[] {
  const xdg = env["XDG_CONFIG_HOME"] ?? "";
  // The XDG specification says to ignore a relative path.
  const home = isAbsolute(xdg) ? xdg : join(env["HOME"] || homedir(), ".config");
  return [join(home, "picket", `${role}.yaml`), `/etc/picket/${role}.yaml`];
}

/** Whether a file exists; false too in a home folder that can't be searched. */
function exists(file: string): boolean {
  try {
    statSync(file);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EACCES" && file.startsWith("/etc/");
  }
}

/** The text of a file in UTF-8, or in UTF-16 with a byte order mark, as some editors save it. */
function textOf(file: string, bytes: Uint8Array): string {
  try {
    return decodeText(bytes);
  } catch {
    const valid = new TextDecoder().decode(bytes).split("�")[0] ?? "";
    const at = `${valid.split("\n").length}:${valid.length - valid.lastIndexOf("\n")}`;
    throw new ConfigError([`${file}:${at}: not UTF-8 text`]);
  }
}

async function readFile(file: string, judge: Judge): Promise<Document> {
  const bytes = await readBytes(file, judge);
  if (bytes.length > LARGEST_FILE)
    throw new ConfigError([`${file}: is over ${LARGEST_FILE} bytes, which no configuration is`]);
  const document = readDocument(textOf(file, bytes));
  if (document.problems.length > 0) {
    throw new ConfigError(
      document.problems.map((problem) => `${file}:${problem.line}:${problem.col}: ${problem.text}`),
    );
  }
  if (document.value === undefined || isMapping(document.value)) return document;
  throw new ConfigError([`${file}:1:1: expected a mapping ("key: value" lines)`]);
}

/** A file's first LARGEST_FILE + 1 bytes: it may be a pipe without end. */
async function readBytes(file: string, judge: Judge): Promise<Uint8Array> {
  try {
    return Buffer.concat(await Array.fromAsync<Buffer>(createReadStream(file, { end: LARGEST_FILE })));
  } catch (error) {
    const { code = "unknown error" } = error as NodeJS.ErrnoException;
    if (code === "EISDIR") throw new ConfigError([`${file}: is a folder, expected a YAML file`]);
    throw new ConfigError([`${file}: ${unreadable(file, code, judge)}`]);
  }
}

/** A problem and where it comes from: a variable, a place in the file, or neither (a setting is missing and there is no file). */
interface Located extends Problem {
  variable?: string;
  place?: Place & { file: string };
}

/** Steps 3 to 5 of the header. `value` is of no use when there are problems. */
function examine<S extends v.GenericSchema>(
  schema: S,
  sources: {
    file: string | null;
    document: Document;
    env: Record<string, string | undefined>;
    naming: Naming;
    judge: Judge;
  },
): { value: v.InferOutput<S>; problems: Located[]; warnings: Located[] } {
  const { file, document, env, naming, judge } = sources;
  const data = isMapping(document.value) ? document.value : newMapping();
  const waiting = placeholders(data, { root: schema, ...naming });
  const overridden = applyEnvironment(data, { env, root: schema, spots: document.spots, ...naming });
  const surroundings = surroundingsOf(env, { base: file === null ? process.cwd() : dirname(resolve(file)), judge });
  const surveyed = survey(data, { root: schema, surroundings });
  // path() finds the surroundings in valibot's configuration; v.safeParse would drop them on the way.
  const config: v.Config<v.BaseIssue<unknown>> & { surroundings: Surroundings } = { message: UNWORDED, surroundings };
  const { issues = [], value } = schema["~run"]({ value: data }, config);

  const locate = (problem: Problem): Located => {
    const { variable, ...spot } = spotAt(document.spots, problem.path);
    if (variable !== undefined) return { ...problem, variable };
    return file === null ? problem : { ...problem, place: { file, ...spot[problem.of ?? "value"] } };
  };
  // A setting whose variable is invalid isn't reported as missing too.
  const reported = new Set(overridden.problems.map(({ path }) => keyPath(path)));
  const problems = [...surveyed.problems, ...issues.flatMap((issue) => problemsOf(issue, { data, root: schema }))]
    .filter(({ path }) => path.length === 0 || !reported.has(keyPath(path)))
    .map(locate);
  const wrong = [...problems, ...overridden.problems];
  const unexpanded = waiting.map(locate);
  return {
    value,
    // A text that waits to be replaced may be the cause.
    problems: wrong.length > 0 ? [...wrong, ...unexpanded] : [],
    warnings: [...overridden.warnings, ...unexpanded, ...surveyed.warnings.map(locate)],
  };
}

function line({ path, text, variable, place }: Located): string {
  const from = place === undefined ? variable : `${place.file}:${place.line}:${place.col}`;
  return [from, keyPath(path), text].filter(Boolean).join(": ");
}

function isNowhere({ missing, place }: Located): boolean {
  return missing === true && place === undefined;
}

/** The order of the file, then the environment's. */
function rank({ place }: Located): number {
  return place === undefined ? Number.MAX_VALUE : place.line * (LARGEST_FILE + 1) + place.col;
}

/**
 * The effective configuration, defaults included, as YAML in the schema's order. Secrets, texts under keys that sound like
 * one, and passwords in URLs print as `[redacted]`.
 */
export function printConfig(config: unknown): string {
  return stringify(printable(config, []), { lineWidth: 0 });
}

function printable(value: unknown, path: Path): unknown {
  if (value instanceof Secret) return String(value);
  if (Array.isArray(value)) return value.map((item, index) => printable(item, [...path, index]));
  if (typeof value === "string") return shown(value, path);
  if (!isMapping(value)) return value;
  const { toJSON } = value;
  if (typeof toJSON === "function") return printable(toJSON.call(value), path);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, printable(inner, [...path, key])]));
}

function shown(text: string, path: Path): string {
  const key = path.findLast((step) => typeof step === "string");
  if (key !== undefined && !key.endsWith("_file") && isSensitive([key])) return String(new Secret(text));
  return text.replace(/(:\/\/[^\s/:@]*):.*@/, "$1:[redacted]@");
}
