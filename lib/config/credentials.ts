// Where secrets come from: written in place (`token`), a file (`token_file`), or a systemd credential.
//
// One secret, one source: in place and by file at once is an error. Neither: the credential named after the whole key
// ("auth.token"; list indexes as numbers) in $CREDENTIALS_DIRECTORY, then the one named after the bare key ("token").
// The bare name serves only the first setting of that name in the schema: an agent's hub token must not end up at
// another service because both keys are called "token".

import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { isIP } from "node:net";
import { join } from "node:path";
import * as v from "valibot";
import { decodeText } from "../json.ts";
import { Secret } from "../secret.ts";
import type { Mapping, Path } from "./data.ts";
import { unreadable } from "./access.ts";
import { isLoopback, isPrivate } from "./cidr.ts";
import { resolvePath, type Surroundings } from "./paths.ts";
import { marked, markOf, type Shape, settings } from "./shape.ts";
import { found, type Problem } from "./wording.ts";

const LARGEST_SECRET = 65_536;

/** How a secret is written in a configuration: one, or several for rotation. */
type SecretSchema = v.GenericSchema<string | string[], Secret[]>;

/**
 * The schema entries of a secret, to be spread into a `v.strictObject`: `{ ...secret("token", { required: true }) }`
 * takes `token` or `token_file` or a systemd credential, each one or a list, and gives `token: Secret[]`: all of them,
 * empty when it is optional and absent. `token_file` is no part of the result.
 *
 * `loadConfig` reads the files and credentials; parsed by valibot alone, the schema knows only the value in place.
 */
export function secret<const K extends string>(key: K): Record<K, v.OptionalSchema<SecretSchema, readonly []>>;
export function secret<const K extends string>(key: K, options: { required: true }): Record<K, SecretSchema>;
export function secret(key: string, options?: { required: true }): Record<string, v.GenericSchema> {
  const value = v.pipe(
    v.union([v.string(), v.array(v.string())]),
    marked({ kind: "secret", key }),
    v.transform((given) => (Array.isArray(given) ? given : [given]).map((text) => new Secret(text))),
  );
  // never parsed: loadConfig takes it out; it is here so that the key is known
  const file = v.optional(v.pipe(v.union([v.string(), v.array(v.string())]), marked({ kind: "secret_file", key })));
  return { [key]: options?.required === true ? value : v.optional(value, []), [`${key}_file`]: file };
}

/** A token goes to another machine only encrypted, or to a private address where that is allowed. A name is judged at each request. */
export function tokenReadable(key: string, url: string, allowHttp?: boolean): Problem[] {
  const { protocol, hostname } = new URL(url);
  if (protocol === "https:" || isLoopback(hostname)) return [];
  const address = hostname.replace(/^\[|\]$/g, "");
  if (allowHttp === true && (isIP(address) === 0 || isPrivate(address))) return [];
  const more = {
    true: `: "allow_http" is for private addresses only, and "${address}" is public`,
    false: ': only https, or http to this machine; in a private network or VPN: "allow_http: true"',
    undefined: ": only https, or http to this machine",
  }[String(allowHttp) as "true"];
  return [{ path: [key], text: `http would send the token unencrypted${more}` }];
}

/** Which setting a bare credential name serves: key → the setting's path with list indexes as 0. */
type BareNames = ReadonlyMap<string, string>;

/** The first setting of each secret's name in the schema. */
export function bareNames(root: Shape): BareNames {
  const names = new Map<string, string>();
  for (const { path, shapes } of settings(root)) {
    const mark = shapes.map(markOf).find(Boolean);
    if (mark?.kind === "secret" && !names.has(mark.key)) names.set(mark.key, path.join("."));
  }
  return names;
}

interface Sought {
  mapping: Mapping;
  key: string;
  path: Path;
  surroundings: Surroundings;
  bare: BareNames;
  problems: Problem[];
  warnings: Problem[];
}

/**
 * Puts the texts of the secret `key` into `mapping[key]` (a list), whichever way they are given, and takes
 * `mapping[key_file]` out. Leaves the key absent when there is none. Adds to problems and warnings; none quotes a value.
 */
export function resolveSecret(sought: Sought): void {
  const { mapping, key, path, problems } = sought;
  const fileKey = `${key}_file`;
  const [inPlace, byFile] = [mapping[key], mapping[fileKey]];
  delete mapping[fileKey];
  if (inPlace !== undefined && byFile !== undefined) {
    problems.push({ path: [...path, fileKey], text: `given beside ${key}: set one of them, not both` });
    mapping[key] = [];
  } else if (inPlace !== undefined) {
    mapping[key] = texts(inPlace, { path: [...path, key], what: "text", problems }).map(({ text }) => text.trim());
  } else if (byFile !== undefined) {
    const files = texts(byFile, { path: [...path, fileKey], what: "a path", problems });
    mapping[key] = files.flatMap((file) => fromFile(file, sought) ?? []);
  } else {
    const credential = fromCredential(sought);
    if (credential !== null) mapping[key] = [credential];
  }
}

/** One text or a list of them, each with its place; what is neither is a problem. */
function texts(
  value: unknown,
  { path, what, problems }: { path: Path; what: string; problems: Problem[] },
): { text: string; at: Path }[] {
  const listed = Array.isArray(value) ? (value as unknown[]) : [value];
  if (listed.length === 0) {
    problems.push({ path, text: `expected ${what} or a list of at least one, found an empty list` });
  }
  return listed.flatMap((text, index) => {
    const at = Array.isArray(value) ? [...path, index] : path;
    if (typeof text === "string" && text.trim() !== "") return [{ text, at }];
    const unquoted = typeof text === "number" || typeof text === "boolean" ? " (put it in quotes)" : "";
    const wrong = typeof text === "string" ? "an empty one" : found(text, { show: false }) + unquoted;
    problems.push({ path: at, text: `expected ${what}, found ${wrong}` });
    return [];
  });
}

function fromFile({ text: given, at }: { text: string; at: Path }, sought: Sought): string | null {
  const { surroundings, problems, warnings } = sought;
  const { credentials } = surroundings;
  if (credentials !== null && !given.includes("/") && !given.startsWith("~")) {
    const outcome = readSecret(join(credentials, given));
    if ("text" in outcome) return outcome.text;
    if (!outcome.absent) {
      problems.push({ path: at, text: `the credential of this name ${outcome.problem}` });
      return null;
    }
  }
  const file = resolvePath(given, surroundings);
  const outcome = readSecret(file);
  // A token may stand here by mistake: only what looks like a path is repeated.
  const name = /^(\/|~\/|\.{1,2}\/)/.test(given) ? file : "the file named here";
  if ("problem" in outcome) {
    // One that is there, but may not be read, is a file.
    const { absent, code, problem } = outcome;
    const why = code !== undefined && !(absent && name !== file) ? unreadable(file, code, surroundings.judge) : problem;
    problems.push({ path: at, text: `${absent ? name : file} ${why}` });
    return null;
  }
  if ((outcome.mode & 0o066) !== 0) {
    const mode = (outcome.mode & 0o777).toString(8).padStart(4, "0");
    warnings.push({ path: at, text: `${file} is open to others than its owner (mode ${mode}): chmod 600 ${file}` });
  }
  return outcome.text;
}

function fromCredential({ key, path, surroundings, bare, problems }: Sought): string | null {
  if (surroundings.credentials === null) return null;
  const full = [...path, key];
  const names = [full.join(".")];
  const setting = full.map((step) => (typeof step === "number" ? 0 : step)).join(".");
  if (bare.get(key) === setting && !names.includes(key)) names.push(key);
  for (const name of names) {
    const outcome = readSecret(join(surroundings.credentials, name));
    if ("text" in outcome) return outcome.text;
    if (!outcome.absent) {
      problems.push({ path: full, text: `the credential ${JSON.stringify(name)} ${outcome.problem}` });
      return null;
    }
  }
  return null;
}

/** A secret's file, without the white space and the byte order mark around the secret. Only a regular file is read, and opening it never waits (a FIFO's would). */
function readSecret(
  file: string,
): { text: string; mode: number } | { problem: string; absent: boolean; code?: string } {
  let fd: number | undefined;
  try {
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (!stat.isFile()) return { absent: false, problem: "is not a regular file" };
    if (stat.size > LARGEST_SECRET) return { absent: false, problem: `is over ${LARGEST_SECRET} bytes` };
    const bytes = readFileSync(fd);
    const text = decodeText(bytes).trim();
    return text === "" ? { absent: false, problem: "is empty" } : { text, mode: stat.mode };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === undefined) return { absent: false, problem: `is ${message} text` };
    const absent = code === "ENOENT" || code === "ENOTDIR";
    return { absent, code, problem: absent ? "does not exist" : `cannot be read: ${code}` };
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
