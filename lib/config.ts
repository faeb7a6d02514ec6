// Configuration: a YAML file, the environment and credentials become one typed object, or every error at once with its line.
//
// How an error gets its line: every check names the setting by its path, such as ["webhook", "routes", 0, "type"], and
// `locate` below turns the path into a place.
//   a value from the file       config/document.ts knows where each value begins: FILE:LINE:COL
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

import { isUtf8 } from "node:buffer";
import { createReadStream, statSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import type * as v from "valibot";
import { stringify } from "yaml";
import { copyMapping, isMapping, type Path } from "./config/data.ts";
import { type Document, NO_DOCUMENT, type Place, readDocument } from "./config/document.ts";
import { applyEnvironment, type ShortForms, variableFor } from "./config/environment.ts";
import { type Surroundings, surroundingsOf } from "./config/paths.ts";
import { survey } from "./config/survey.ts";
import { isSensitive, keyPath, type Problem, problemsOf, UNWORDED } from "./config/wording.ts";
import { Secret } from "./secret.ts";

export { type Cidr, cidr, holding, isLoopback, unmapped } from "./config/cidr.ts";
export { secret } from "./config/credentials.ts";
export type { ShortForms } from "./config/environment.ts";
export {
  httpUrl,
  integer,
  type Listen,
  listen,
  listenAddress,
  NAME_SEGMENT,
  nameSegment,
  number,
  rule,
  seconds,
} from "./config/fields.ts";
export { dataFolder, ownDataFolder, path } from "./config/paths.ts";
export { restart, restartKeys, restartToSwitch, untilRestart } from "./config/restart.ts";
export type { Problem } from "./config/wording.ts";
export { Secret, secretEquals } from "./secret.ts";

const LARGEST_FILE = 1 << 20;

/** The configuration is invalid: exit code 78. `problems` has each as `FILE:LINE:COL: key.path[2].name: what is wrong`, or `VARIABLE: key.path: …`; the message is all of them, one a line. */
export class ConfigError extends Error {
  readonly exitCode: number = 78;
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.name = "ConfigError";
    this.problems = problems;
  }
}

/** No configuration file, and settings that are required are not in the environment either: exit code 2. The problems name the variables to set and, last, the files looked for. */
export class MissingSettings extends ConfigError {
  override readonly exitCode = 2;

  constructor(problems: readonly string[]) {
    super(problems);
    this.name = "MissingSettings";
  }
}

/** A configuration that is in order. */
export interface Loaded<T> {
  config: T;
  /** The file it came from, as it was named; null when everything came from the environment. */
  file: string | null;
  /** What is not wrong but should not stay: secret files that others can read, variables that were passed over. */
  warnings: string[];
}

interface LoadOptions<S> {
  /** `collector`: names the files to look for and the variables. */
  role: string;
  schema: S;
  /** The file given by --config: no other is looked for, and it must exist. */
  file?: string;
  /** Default: the process's. HOME, XDG_CONFIG_HOME and CREDENTIALS_DIRECTORY count too. */
  env?: Record<string, string | undefined>;
  /** Variables of another name: the agent's PICKET_URL. */
  shortForms?: ShortForms;
}

/**
 * Reads, completes and checks a role's configuration. Throws ConfigError with everything that is wrong, or
 * MissingSettings. No error and no warning holds the value of a secret.
 */
export async function loadConfig<S extends v.GenericSchema>(
  options: LoadOptions<S>,
): Promise<Loaded<v.InferOutput<S>>> {
  const { role, schema, shortForms = {} } = options;
  const env = { ...(options.env ?? process.env) };
  const looked = options.file === undefined ? standardFiles(role, env) : [options.file];
  const file = options.file ?? looked.find(exists) ?? null;
  const document = file === null ? NO_DOCUMENT : await readFile(file);
  const surroundings = surroundingsOf(env, file === null ? process.cwd() : dirname(resolve(file)));
  const naming = { prefix: `PICKET_${role.toUpperCase()}_`, shortForms };
  const warnings: string[] = [];
  for (;;) {
    const examined = examine(schema, { file, document, env, surroundings, ...naming });
    const lenient = examined.problems.filter(({ variable = "" }) => shortForms[variable]?.lenient);
    if (lenient.length === 0) {
      if (examined.problems.length > 0) throw failure(examined.problems, { file, looked, ...naming });
      return { config: examined.value, file, warnings: [...warnings, ...examined.warnings.map(line)] };
    }
    // Once more without the variables that may be wrong.
    for (const problem of lenient) {
      warnings.push(`${line(problem)}: passed over`);
      delete env[problem.variable ?? ""];
    }
  }
}

function standardFiles(role: string, env: Record<string, string | undefined>): string[] {
  const xdg = env["XDG_CONFIG_HOME"] ?? "";
  // The XDG specification: a relative path is to be ignored.
  const home = isAbsolute(xdg) ? xdg : join(env["HOME"] || homedir(), ".config");
  return [join(home, "picket", `${role}.yaml`), `/etc/picket/${role}.yaml`];
}

/** Whether a file is there; one in a folder that may not be looked into isn't. */
function exists(file: string): boolean {
  try {
    statSync(file);
    return true;
  } catch {
    return false;
  }
}

async function readFile(file: string): Promise<Document> {
  const bytes = await readBytes(file);
  if (bytes.length > LARGEST_FILE)
    throw new ConfigError([`${file}: is over ${LARGEST_FILE} bytes, which no configuration is`]);
  const text = new TextDecoder().decode(bytes);
  if (!isUtf8(bytes)) {
    const valid = text.split("�")[0] ?? "";
    const at = `${valid.split("\n").length}:${valid.length - valid.lastIndexOf("\n")}`;
    throw new ConfigError([`${file}:${at}: not UTF-8 text`]);
  }
  const document = readDocument(text);
  if (document.problems.length > 0) {
    throw new ConfigError(
      document.problems.map((problem) => `${file}:${problem.line}:${problem.col}: ${problem.text}`),
    );
  }
  if (document.value === undefined || isMapping(document.value)) return document;
  throw new ConfigError([`${file}:1:1: expected a mapping ("key: value" lines)`]);
}

/** The bytes of a file, and no more of them than tell that it is too large: it may be a pipe without end. */
async function readBytes(file: string): Promise<Uint8Array> {
  try {
    return Buffer.concat(await Array.fromAsync<Buffer>(createReadStream(file, { end: LARGEST_FILE })));
  } catch (error) {
    const { code = "unknown error" } = error as NodeJS.ErrnoException;
    const absent = code === "ENOENT" || code === "ENOTDIR";
    if (code === "EISDIR") throw new ConfigError([`${file}: is a folder, expected a YAML file`]);
    throw new ConfigError([`${file}: ${absent ? "does not exist" : `cannot be read: ${code}`}`]);
  }
}

/** A problem and where it comes from: a variable, a place in a file, or (something is absent, and there is no file) nowhere. */
interface Located extends Problem {
  variable?: string;
  place?: Place & { file: string };
}

/** What a configuration is made from. */
interface Sources {
  file: string | null;
  document: Document;
  env: Record<string, string | undefined>;
  prefix: string;
  shortForms: ShortForms;
  surroundings: Surroundings;
}

/** Steps 3 to 5 of the header. `value` is only of use when there are no problems. */
function examine<S extends v.GenericSchema>(
  schema: S,
  { file, document, surroundings, ...variables }: Sources,
): { value: v.InferOutput<S>; problems: Located[]; warnings: Located[] } {
  const data = copyMapping(isMapping(document.value) ? document.value : {});
  const { origins, problems: misfits } = applyEnvironment(data, { ...variables, root: schema });
  const surveyed = survey(data, { root: schema, surroundings });
  // path() finds the surroundings in valibot's configuration; v.safeParse would drop them on the way.
  const config: v.Config<v.BaseIssue<unknown>> & { surroundings: Surroundings } = { message: UNWORDED, surroundings };
  const { issues = [], value } = schema["~run"]({ value: data }, config);

  const locate = (problem: Problem): Located => {
    const { path, of = "value", missing } = problem;
    const variable = origins.of(missing === true ? path.slice(0, -1) : path);
    if (variable !== undefined) return { ...problem, variable };
    return file === null ? problem : { ...problem, place: { file, ...document.place(path, of) } };
  };
  // What a variable says wrongly is not missing, too.
  const misfit = new Set(misfits.map(({ path }) => keyPath(path)));
  const problems = [...surveyed.problems, ...issues.flatMap((issue) => problemsOf(issue, { data, root: schema }))]
    .filter(({ path }) => path.length === 0 || !misfit.has(keyPath(path)))
    .map(locate);
  return { value, problems: [...problems, ...misfits], warnings: surveyed.warnings.map(locate) };
}

function line({ path, text, variable, place }: Located): string {
  const from = place === undefined ? variable : `${place.file}:${place.line}:${place.col}`;
  return [from, keyPath(path), text].filter(Boolean).join(": ");
}

/** The error to throw for these problems: in the order of the file, then the environment's. */
function failure(
  problems: readonly Located[],
  {
    file,
    looked,
    ...naming
  }: { file: string | null; looked: readonly string[]; prefix: string; shortForms: ShortForms },
): ConfigError {
  // Without a file to put a missing setting into, the variable to set.
  const remedy = ({ path, missing, place }: Located): string =>
    place === undefined && missing === true ? `: set ${variableFor(path, naming)}` : "";
  const inOrder = problems.toSorted((a, b) => rank(a.place) - rank(b.place));
  const lines = [...new Set(inOrder.map((problem) => line(problem) + remedy(problem)))];
  if (file !== null || problems.some(({ missing, variable }) => !missing && variable !== undefined)) {
    return new ConfigError(lines);
  }
  return new MissingSettings([...lines, `no configuration file (looked for ${looked.join(" and ")})`]);
}

function rank(place: Place | undefined): number {
  return place === undefined ? Number.MAX_VALUE : place.line * (LARGEST_FILE + 1) + place.col;
}

/**
 * The effective configuration, defaults included, as YAML with the keys in the schema's order. Secrets, and texts under
 * keys that sound like one, print as `[redacted]`, passwords in URLs too; what has a `toJSON` prints as that says.
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
