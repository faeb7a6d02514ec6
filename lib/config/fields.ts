// The building blocks of the roles' schemas, each with a message that says what is expected.
//
// loadConfig appends ", found …" to a message that starts with "expected" (never for a secret).

import { isIP, isIPv6 } from "node:net";
import * as v from "valibot";
import type { Problem } from "./wording.ts";

/** Text that `parse` turns into a value; what `parse` throws is the message of the issue. */
export function parsed<T>(expected: string, parse: (text: string) => T): v.GenericSchema<string, T> {
  return v.pipe(
    v.string(expected),
    v.rawTransform<string, T>(({ dataset, addIssue, NEVER }) => {
      try {
        return parse(dataset.value);
      } catch (error) {
        addIssue({ message: (error as Error).message });
        return NEVER;
      }
    }),
  );
}

/** Where to listen. Prints as `host:port`, `[host]:port` for IPv6 (`toString`, `toJSON`, not enumerable). */
export interface Listen {
  readonly host: string;
  /** 0 lets the kernel choose. */
  readonly port: number;
  toString(): string;
}

/** Puts host (an IPv6 one without brackets) and port together. */
export function listenAddress(host: string, port: number): Listen {
  const text = host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
  return Object.defineProperties({ host, port }, { toString: { value: () => text }, toJSON: { value: () => text } });
}

const LISTEN = 'expected host:port, such as "127.0.0.1:8080" or "[::1]:8080"';

/** `host:port`, `[v6]:port` or `:port` (all IPv4 addresses, 0.0.0.0); a name or an address, port 0 to 65535. In YAML what starts with `[` needs quotes. */
export function listen(): v.GenericSchema<string, Listen> {
  return parsed(LISTEN, (text) => {
    const [, bracketed, plain, digits] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(\d{1,5})$/.exec(text) ?? [];
    const host = bracketed ?? (plain || "0.0.0.0");
    const isValid = bracketed === undefined ? isHost(host) : isIPv6(host);
    if (digits === undefined || Number(digits) > 65_535 || !isValid) throw new Error(LISTEN);
    return listenAddress(host, Number(digits));
  });
}

function isHost(text: string): boolean {
  if (/^[\d.]+$/.test(text)) return isIP(text) === 4;
  return text.length <= 253 && /^[a-z\d]([a-z\d-]*[a-z\d])?(\.[a-z\d]([a-z\d-]*[a-z\d])?)*\.?$/i.test(text);
}

/** A name that can be a file name: one path segment, at most 128 characters, no leading dot. */
export const NAME_SEGMENT = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** A name that can be a file name: see NAME_SEGMENT. */
export function nameSegment(): v.GenericSchema<string, string> {
  const message =
    "expected a name of 1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit";
  return v.pipe(v.string(message), v.regex(NAME_SEGMENT, message));
}

interface Bounds {
  min?: number | undefined;
  max?: number | undefined;
}

/** A duration in seconds, fractions allowed; `min` is 0 unless given. A timer can wait for about 24 days (2^31 - 1 ms). */
export function seconds({ min = 0, max = 2_147_483 }: Bounds = {}): v.GenericSchema<number, number> {
  return bounded("a number of seconds", { min, max, open: max === 2_147_483 });
}

/** A number of `unit` ("hours"), fractions allowed, within the bounds given. */
export function number({ min, max, unit }: Bounds & { unit?: string } = {}): v.GenericSchema<number, number> {
  return bounded(unit === undefined ? "a number" : `a number of ${unit}`, { min, max });
}

/** A whole number of `unit` ("bytes"), up to 2^53 - 1, within the bounds given. */
export function integer({ min, max, unit }: Bounds & { unit?: string } = {}): v.GenericSchema<number, number> {
  return bounded(unit === undefined ? "a whole number" : `a whole number of ${unit}`, { min, max, whole: true });
}

/** With `open` an upper bound, which only a timer has, is named when it is passed. */
function bounded(
  what: string,
  { min = -Infinity, max = Infinity, whole = false, open = false }: Bounds & { whole?: boolean; open?: boolean },
): v.GenericSchema<number, number> {
  const upTo = ` of ${max} or less`;
  let bounds = max === Infinity ? "" : upTo;
  if (min !== -Infinity) bounds = max === Infinity || open ? ` of ${min} or more` : ` from ${min} to ${max}`;
  const isValid = whole ? Number.isSafeInteger : Number.isFinite;
  return v.pipe(
    v.number(`expected ${what}${bounds}`),
    v.check((value) => isValid(value) && value >= min, `expected ${what}${bounds}`),
    v.check((value) => value <= max, `expected ${what}${open ? upTo : bounds}`),
  );
}

/** Whether a place is a database of an engine, and not a folder or a file. */
export const isPostgres = (place: string): boolean => /^postgres(ql)?:\/\/./.test(place);

const SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/** The address of a PostgreSQL database, with `sslmode` and `sslrootcert` as in libpq. A password would be shown with it. */
export function postgresUrl(): v.GenericSchema<string, string> {
  const expected = "expected postgres://USER@HOST/DATABASE";
  return parsed(expected, (text) => {
    const url = isPostgres(text) ? URL.parse(text) : null;
    if (!url?.username || !url.hostname || url.pathname.length < 2 || url.hash !== "") throw new Error(expected);
    if (url.password !== "") throw new Error("has a password in it: give that on its own, as a secret");
    for (const [name, value] of url.searchParams) {
      if (name !== "sslmode" && name !== "sslrootcert")
        throw new Error(`unknown parameter "${name}": expected sslmode or sslrootcert`);
      if (name === "sslmode" && !SSL_MODES.includes(value))
        throw new Error(`sslmode "${value}": expected ${SSL_MODES.slice(0, -1).join(", ")} or ${SSL_MODES.at(-1)}`);
    }
    return text;
  });
}

/** An absolute `http:` or `https:` URL without its trailing slashes. No user name or password (they would be logged with it), no query, no fragment. */
export function httpUrl(): v.GenericSchema<string, string> {
  const message = 'expected an http or https URL, such as "https://hub.example"';
  return parsed(message, (text) => {
    const url = /^https?:\/\/[^/?#]/i.test(text) ? URL.parse(text) : null;
    if (url === null) throw new Error(message);
    if (url.username !== "" || url.password !== "") {
      throw new Error("a URL with a user name or password in it: give the credential on its own");
    }
    if (/[?#]/.test(text)) throw new Error("expected a URL without ? and #");
    return url.href.replace(/\/+$/, "");
  });
}

/**
 * A rule across several keys of a mapping, as a pipe item: `v.pipe(v.strictObject({…}), rule((config) => […]))`.
 * It returns problems, with paths that start at this mapping. It runs when each value of the mapping is valid.
 */
export function rule<T>(judge: (config: T) => Iterable<Problem>): v.RawCheckAction<T> {
  return v.rawCheck<T>(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    for (const { path, text: message } of judge(dataset.value)) {
      const unused = { type: "unknown", origin: "value", input: null, value: null } as const;
      const [first, ...rest] = path.map((key) => ({ ...unused, key }));
      addIssue(first === undefined ? { message } : { message, path: [first, ...rest] });
    }
  });
}
