// The way to the receiver: one place that knows its address, its token and its certificates.
//
// Errors are typed: TransportError where there was no answer, HttpError where there was one that refuses. Neither ever
// holds the token, even where an answer repeats it; redirects are not followed, so that it goes nowhere else.

import { readFileSync } from "node:fs";
import { textOf } from "../body.ts";
import { directly } from "../direct.ts";
import { type Secret, without } from "../secret.ts";
import { errorChain } from "../log.ts";
import { RefusedCredentials } from "../service.ts";
import { version } from "../version.ts";

/** So much is kept of an answer that isn't JSON, in characters. */
const LONGEST_PAGE = 4096;
/** No receiver says as much, in bytes: whoever goes on and on is somebody else. */
const LARGEST_ANSWER = 1 << 20;
/** Nobody makes a host silent for longer than this with a Retry-After, in seconds: a date may come from a clock that is wrong. */
const LONGEST_WAIT = 3600;

/** How the receiver is reached. */
export interface HubSettings {
  url: string;
  token: Secret[];
  ca_file?: string | undefined;
  client_cert_file?: string | undefined;
  client_key_file?: string | undefined;
  timeout_seconds: number;
}

/** No answer: name, network, TLS, time-out. */
export class TransportError extends Error {
  override name = "TransportError";
}

/** An answer that refuses. */
export class HttpError extends Error {
  override name = "HttpError";
  readonly status: number;
  /** Its JSON body where it had one. */
  readonly body: Record<string, unknown>;
  /** Its body as it came: JSON, else text (a proxy's page, for one), cut where it is long. */
  readonly given: unknown;
  /** Seconds to wait, where it says so. */
  readonly retryAfter: number | null;
  /** What time it is there, in milliseconds since 1970. */
  readonly serverTime: number | null;

  constructor(
    what: string,
    answer: { status: number; text: string; retryAfter: number | null; serverTime: number | null },
  ) {
    const given = parse(answer.text);
    const body = asMapping(given);
    const said = typeof body["error"] === "string" ? `: ${body["error"]}` : "";
    super(`${what}: ${answer.status}${said}`);
    this.status = answer.status;
    this.body = body;
    this.given = given;
    this.retryAfter = answer.retryAfter;
    this.serverTime = answer.serverTime;
  }

  /** The credentials were refused. */
  get refusesCredentials(): boolean {
    return this.status === 401 || this.status === 403;
  }

  /** It is about whoever asks and when, not about what was sent: refused credentials, no such door, too much, trouble over there. */
  get holdsAll(): boolean {
    return this.refusesCredentials || this.status === 404 || this.status === 429 || this.status >= 500;
  }
}

export interface HubRequest {
  method: "GET" | "POST" | "PUT";
  path: string;
  /** What is being done, for errors: "report", "ship ep-1". */
  what: string;
  headers?: Record<string, string>;
  body?: BodyInit | undefined;
  signal?: AbortSignal;
  /** No time-out of the whole: for what takes as long as it takes. */
  patient?: boolean;
}

/** What takes requests to a receiver. */
export interface Sender {
  /** Sends a request. @throws TransportError, HttpError. */
  send(request: HubRequest): Promise<{ status: number; body: Record<string, unknown>; headers: Headers }>;
}

/** The receiver, as an agent sees it. */
export interface Hub extends Sender {
  readonly url: string;
}

type BodyInit = Bun.BodyInit;

/** Reads the certificates. Throws when one can't be read. */
export function openHub(settings: HubSettings): Hub {
  const { url, token, timeout_seconds } = settings;
  const tls = tlsOf(settings);
  return {
    url,
    async send({ method, path, what, headers = {}, body, signal, patient = false }) {
      const signals = [signal, patient ? undefined : AbortSignal.timeout(timeout_seconds * 1000)].filter(
        (one) => one !== undefined,
      );
      let answer: Response;
      let text: string;
      try {
        answer = await fetch(url + path, {
          method,
          headers: {
            "user-agent": `picket-agent/${version}`,
            ...headers,
            authorization: `Bearer ${token[0]?.reveal() ?? ""}`,
          },
          redirect: "manual",
          ...(body === undefined ? {} : { body }),
          ...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
          ...(tls ? { tls } : {}),
          ...directly(url),
        });
        text = without(token, await textOf(answer.body, LARGEST_ANSWER));
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new TransportError(`${what}: no answer from ${url}: ${errorChain(error)}`);
      }
      if (answer.status < 200 || answer.status > 299) {
        throw new HttpError(what, {
          status: answer.status,
          text,
          retryAfter: retryAfter(answer.headers),
          serverTime: serverTime(answer.headers),
        });
      }
      return { status: answer.status, body: asMapping(parse(text)), headers: answer.headers };
    },
  };
}

function tlsOf({ ca_file, client_cert_file, client_key_file }: HubSettings) {
  if (!ca_file && !client_cert_file) return null;
  const read = (file: string | undefined) => (file === undefined ? undefined : readFileSync(file, "utf8"));
  const [ca, cert, key] = [read(ca_file), read(client_cert_file), read(client_key_file)];
  return { ...(ca ? { ca } : {}), ...(cert ? { cert } : {}), ...(key ? { key } : {}) };
}

/** JSON as its value, else the text. */
function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text.slice(0, LONGEST_PAGE);
  }
}

function asMapping(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

/** RFC 9110, section 6.6.1: what a server's Date says. */
export function serverTime(headers: Headers): number | null {
  const at = Date.parse(headers.get("date") ?? "");
  return Number.isNaN(at) ? null : at;
}

/** RFC 9110, section 10.2.3: seconds or a date. An hour at most. */
function retryAfter(headers: Headers): number | null {
  const given = headers.get("retry-after");
  if (given === null) return null;
  if (/^\d+$/.test(given.trim())) return Math.min(Number(given), LONGEST_WAIT);
  const at = Date.parse(given);
  return Number.isNaN(at) ? null : Math.min(Math.max(0, (at - Date.now()) / 1000), LONGEST_WAIT);
}

/**
 * The name in an upload's path: what is configured, else what the receiver calls the token's host. Asked once.
 * @throws TransportError also where the receiver refuses to say (400, for one): that is nothing against an upload, which was not sent.
 */
export function hostOf(hub: Sender, configured: string | undefined): () => Promise<string> {
  let known = configured;
  const what = "ask for this host's name";
  return async () => {
    if (known !== undefined) return known;
    const { body } = await hub.send({ method: "POST", path: "/v1/ping", what }).catch((error: unknown) => {
      throw error instanceof HttpError && !error.holdsAll ? new TransportError(error.message) : error;
    });
    const { host } = body;
    if (typeof host !== "string") throw new TransportError(`${what}: the receiver doesn't say: set "host_id"`);
    known = host;
    return host;
  };
}

/** Makes of refused credentials what ends a program with 3: a wrong token shows at once, and starting again won't help. */
export function refusedAtOnce(error: unknown): never {
  if (error instanceof HttpError && error.refusesCredentials) {
    throw new RefusedCredentials("the receiver refuses this token", {
      cause: error,
      hint: "on the receiver: picket-receiver token list; a new one: picket-receiver token rotate HOST",
    });
  }
  throw error;
}
