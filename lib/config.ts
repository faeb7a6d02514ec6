// Configuration: a YAML file, the environment and credentials into one typed object, or every error at once with its place.
//
// Knows no role: a role's valibot schema says which keys there are, their defaults and their rules. The steps:
//   1. the file: --config, else $XDG_CONFIG_HOME/picket/<role>.yaml, else /etc/picket/<role>.yaml; none is fine too
//   2. its text into plain data with places (config/document.ts)
//   3. the environment on top (config/environment.ts)
//   4. the schema walked along the data: unknown keys out, secrets in (config/credentials.ts)
//   5. valibot: defaults, values, rules (config/fields.ts has the building blocks)
// Steps 3 to 5 collect what is wrong instead of stopping at it; only text that is no YAML ends it at once.

import type { FileHandle } from "node:fs/promises";
import { open, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import type * as v from "valibot";
import { stringify } from "yaml";
import { copyMapping, isMapping, type Path } from "./config/data.ts";
import { type Document, emptyDocument, type Place, readDocument } from "./config/document.ts";
import {
  applyOverrides,
  Origins,
  readOverrides,
  type ShortForms,
  variableFor,
  variablePrefix,
} from "./config/environment.ts";
import { type Surroundings, surroundingsOf } from "./config/paths.ts";
import { type Shape, shapeOf } from "./config/shape.ts";
import { shapesAlong, survey } from "./config/survey.ts";
import { isSensitive, keyPath, type Problem, problemsOf, UNWORDED } from "./config/wording.ts";
import { Secret } from "./secret.ts";

export { type Cidr, cidr, holding, isLoopback, unmapped } from "./config/cidr.ts";
export { secret } from "./config/credentials.ts";
export type { ShortForms } from "./config/environment.ts";
export {
  type Broken,
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

export interface LoadOptions<S> {
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
  const source = await findSource(looked, { required: options.file !== undefined });
  const { file } = source;
  const surroundings = surroundingsOf(env, file === null ? process.cwd() : dirname(resolve(file)));
  const prefix = variablePrefix(role);
  const warnings: string[] = [];
  for (;;) {
    const examined = examine(schema, { source, env, prefix, shortForms, surroundings });
    const lenient = examined.findings.filter(({ variable = "" }) => shortForms[variable]?.lenient);
    if (lenient.length === 0) {
      if (examined.findings.length > 0) throw failure(examined.findings, { file, looked, prefix, shortForms });
      return { config: examined.value, file, warnings: [...warnings, ...examined.warnings] };
    }
    // once more without the variables that may be wrong
    for (const finding of lenient) {
      warnings.push(`${line(finding)}: passed over`);
      delete env[finding.variable ?? ""];
    }
  }
}

function standardFiles(role: string, env: Record<string, string | undefined>): string[] {
  const xdg = env["XDG_CONFIG_HOME"] ?? "";
  // the XDG specification: a relative path is to be ignored
  const home = isAbsolute(xdg) ? xdg : join(env["HOME"] || homedir(), ".config");
  return [join(home, "picket", `${role}.yaml`), `/etc/picket/${role}.yaml`];
}

interface Source {
  file: string | null;
  document: Document;
}

/** The first of `files` that is there. A folder that may not be looked into counts as empty, unless the file is `required`. */
async function findSource(files: readonly string[], { required }: { required: boolean }): Promise<Source> {
  for (const file of files) {
    try {
      if (!required) await stat(file);
    } catch {
      continue;
    }
    const document = await readDocumentFile(file);
    if (document.faults.length > 0) {
      throw new ConfigError(document.faults.map(({ line, col, text }) => `${file}:${line}:${col}: ${text}`));
    }
    if (document.value !== undefined && !isMapping(document.value)) {
      throw new ConfigError([`${file}:1:1: expected a mapping ("key: value" lines)`]);
    }
    return { file, document };
  }
  return { file: null, document: emptyDocument() };
}

async function readDocumentFile(file: string): Promise<Document> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(file);
    if ((await handle.stat()).isDirectory()) throw new ConfigError([`${file}: is a folder, expected a YAML file`]);
    const bytes = await readAtMost(handle, LARGEST_FILE + 1);
    if (bytes.length > LARGEST_FILE)
      throw new ConfigError([`${file}: is over ${LARGEST_FILE} bytes, which no configuration is`]);
    return readDocument(decode(bytes, file));
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    throw new ConfigError([
      `${file}: ${code === "ENOENT" || code === "ENOTDIR" ? "does not exist" : `cannot be read: ${code}`}`,
    ]);
  } finally {
    await handle?.close();
  }
}

async function readAtMost(handle: FileHandle, limit: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(limit);
  let length = 0;
  while (length < limit) {
    const { bytesRead } = await handle.read(bytes, length, limit - length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return bytes.subarray(0, length);
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const valid = new TextDecoder().decode(bytes).split("�")[0] ?? "";
    const line = valid.split("\n").length;
    throw new ConfigError([`${file}:${line}:${valid.length - valid.lastIndexOf("\n")}: not UTF-8 text`]);
  }
}

/** Steps 3 to 5 of the header. `value` is only of use when nothing was found. */
function examine<S extends v.GenericSchema>(
  schema: S,
  options: {
    source: Source;
    env: Record<string, string | undefined>;
    prefix: string;
    shortForms: ShortForms;
    surroundings: Surroundings;
  },
): { value: v.InferOutput<S>; findings: Finding[]; warnings: string[] } {
  const { source, surroundings } = options;
  const { value: written } = source.document;
  const root = shapeOf(schema);
  const data = copyMapping(isMapping(written) ? written : {});
  const origins = new Origins();
  const { overrides, unknown } = readOverrides({ ...options, root });
  const misfits = applyOverrides(data, { overrides, origins });
  const surveyed = survey(data, { root, surroundings });
  // path() finds the surroundings in valibot's configuration; v.safeParse would drop them on the way
  const config: v.Config<v.BaseIssue<unknown>> & { surroundings: Surroundings } = { message: UNWORDED, surroundings };
  const { issues = [], value } = schema["~run"]({ value: data }, config);

  const shapes = (path: Path): Shape[] => shapesAlong(root, { path, data });
  const misfit = new Set(misfits.map(({ path }) => keyPath(path)));
  const problems = [...surveyed.problems, ...issues.flatMap((issue) => problemsOf(issue, { data, shapes }))];
  const find = (problem: Problem): Finding => locate(problem, { ...source, origins });
  const findings = [
    ...problems.filter(({ path }) => !misfit.has(keyPath(path))).map(find),
    ...misfits.map(({ variable, path, text }) => fromVariable(variable, { path, text })),
    ...unknown.map(({ variable, text }) => fromVariable(variable, { path: [], text })),
  ];
  return { value, findings, warnings: surveyed.warnings.map((warning) => line(find(warning))) };
}

/** A problem and where it comes from: a variable, a place in a file, or (something is absent, and there is no file) nowhere. */
interface Finding {
  problem: Problem;
  variable?: string;
  place?: Place & { file: string };
}

function locate(problem: Problem, { file, document, origins }: Source & { origins: Origins }): Finding {
  const { path, of, missing } = problem;
  const variable = origins.of(missing === true ? path.slice(0, -1) : path);
  if (variable !== undefined) return { problem, variable };
  return file === null ? { problem } : { problem, place: { file, ...document.place(path, of) } };
}

function fromVariable(variable: string, { path, text }: { path: Path; text: string }): Finding {
  return { variable, problem: { path, of: "value", text } };
}

function line({ problem, variable, place }: Finding): string {
  const from = place === undefined ? variable : `${place.file}:${place.line}:${place.col}`;
  return [from, keyPath(problem.path), problem.text].filter(Boolean).join(": ");
}

/** The error to throw for what was found: in the order of the file, then the environment's. */
function failure(
  findings: readonly Finding[],
  {
    file,
    looked,
    ...naming
  }: { file: string | null; looked: readonly string[]; prefix: string; shortForms: ShortForms },
): ConfigError {
  const inOrder = findings.toSorted((a, b) => rank(a.place) - rank(b.place));
  const lines = [...new Set(inOrder.map((finding) => line(finding) + remedy(finding, naming)))];
  if (file !== null) return new ConfigError(lines);
  const absent = findings.every(({ problem, variable }) => problem.missing === true || variable === undefined);
  const none = `no configuration file (looked for ${looked.join(" and ")})`;
  return absent ? new MissingSettings([...lines, none]) : new ConfigError(lines);
}

function rank(place: Place | undefined): number {
  return place === undefined ? Number.POSITIVE_INFINITY : place.line * (LARGEST_FILE + 1) + place.col;
}

/** Without a file to put a missing setting into, the variable to set. */
function remedy({ problem, place }: Finding, naming: { prefix: string; shortForms: ShortForms }): string {
  if (place !== undefined || problem.missing !== true) return "";
  return `: set ${variableFor(problem.path, naming)}`;
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
  if (typeof value === "bigint") return String(value);
  if (typeof value === "function" || typeof value === "symbol") return undefined;
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
