// The HTTP client for all peers: the hub, the Docker Engine, Proxmox, Forgejo, a language model.
//
//   a timeout and a size limit: the peer may be broken, or another program than expected
//   no redirects: the credentials go only to the configured address
//   no proxy for loopback addresses: a proxy from the environment would read the token
//   no secrets in answers and errors, even if the answer repeats them
//   a pinned certificate is checked before a byte of the request is sent
//   plain http, where it is allowed, goes to private addresses only: the name is resolved, and the address that was judged is used
//
// Errors, and whether a retry helps:
//
//   TransportError            name, network, TLS or timeout: retry
//   HttpError, `foreign`      a proxy's, a firewall's or a captive portal's answer, whatever its status: retry later
//   HttpError, `later`        401, 403, 404, 408, 429, 5xx: retry later; callers obey Retry-After
//   HttpError, not `later`    the peer rejects this request: a retry won't help

import { lookup } from "node:dns/promises";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { type TLSSocket, connect } from "node:tls";
import { isLoopback, isPrivate } from "./config.ts";
import { errorChain } from "./log.ts";
import { type Pem, readPem } from "./pem.ts";
import { type Secret, without } from "./secret.ts";
import { tlsFailure, tlsHint } from "./tls-failure.ts";

/** An error keeps this much of an answer that isn't JSON, in characters. */
const LONGEST_PAGE = 4096;
/** The longest Retry-After, in seconds: a date may come from a wrong clock. */
const LONGEST_WAIT = 3600;

export interface Peer {
  /** A request's path is appended. */
  url: string;
  /** A unix socket to connect to instead. */
  unix?: string;
  headers?: Record<string, string>;
  /** Removed from each answer and error. */
  secrets?: readonly Secret[];
  timeoutMs: number;
  /** The longest answer in bytes, whole MiB. */
  largestAnswer: number;
  /** A longer answer is cut instead of refused. */
  cutsAnswer?: boolean;
  /** Certificates to trust, instead of the system's authorities. */
  ca_file?: string | undefined;
  client_cert_file?: string | undefined;
  client_key_file?: string | undefined;
  /** SHA-256 of the certificate to trust, instead of any authority: hex, with or without colons. */
  fingerprint?: string | undefined;
  /** http is allowed, but towards private addresses only. */
  allow_http?: boolean | undefined;
  /** Recognizes an answer of the peer itself; all others are `foreign`. */
  own?: { whose: string; is: (answer: RawAnswer) => boolean };
}

export interface Ask {
  /** Names the request in errors: "report", "ship ep-1". */
  what: string;
  /** GET unless given. */
  method?: "GET" | "POST" | "PUT";
  path: string;
  headers?: Record<string, string>;
  body?: Bun.BodyInit;
  /** Sent as the body, as JSON. */
  json?: unknown;
  signal?: AbortSignal | undefined;
  /** Replaces the client's timeout; null for none. */
  timeoutMs?: number | null;
}

export type Client = ReturnType<typeof openClient>;

/** No answer. */
export class TransportError extends Error {
  override name = "TransportError";
  /** It timed out. */
  readonly late: boolean;

  constructor(message: string, { late = false }: { late?: boolean } = {}) {
    super(message);
    this.late = late;
  }
}

/** An answer with any other status. */
export class HttpError extends Error {
  override name = "HttpError";
  readonly status: number;
  /** Something on the way has answered, not the peer. */
  readonly foreign: boolean;
  /** Its JSON body; empty if there is none. */
  readonly body: Record<string, unknown>;
  /** Its body: JSON, else the beginning of its text (a proxy's error page, for one). */
  readonly given: unknown;
  /** Its Retry-After in seconds, an hour at most. */
  readonly retryAfter: number | null;
  /** The peer's time, in milliseconds since 1970. */
  readonly serverTime: number | null;

  /** @param foreign where the answer is not the peer's: from where it seems to be. */
  constructor(what: string, { status, reason, headers, text }: RawAnswer, foreign: string | null = null) {
    const json = parse(text);
    const body = asMapping(json);
    const message = [body["error"], body["message"]].find((one) => typeof one === "string");
    const why =
      foreign !== null || message === undefined ? reason && ` ${reason}` : `: ${message.slice(0, LONGEST_PAGE)}`;
    super(`${what}: answered ${status}${why}${foreign ?? ""}`);
    this.status = status;
    this.foreign = foreign !== null;
    this.body = body;
    this.given = json ?? text.slice(0, LONGEST_PAGE);
    this.retryAfter = retryAfter(headers);
    this.serverTime = serverTime(headers);
  }

  get refusesCredentials(): boolean {
    return !this.foreign && (this.status === 401 || this.status === 403);
  }

  /** The request itself is not rejected: the same one may succeed later. */
  get later(): boolean {
    return this.foreign || this.refusesCredentials || [404, 408, 429].includes(this.status) || this.status >= 500;
  }
}

export interface RawAnswer {
  status: number;
  reason: string;
  headers: Headers;
  text: string;
}

/** A client for one peer. Reads the certificates. @throws Error when one can't be read. */
export function openClient(peer: Peer) {
  const { url, unix, secrets = [], timeoutMs, own } = peer;
  const certificates = certificatesOf(peer);
  const send =
    peer.fingerprint === undefined
      ? overFetch(peer, certificates)
      : overPinned(peer, { certificates, fingerprint: peer.fingerprint });
  return {
    url,
    /** Gives an answer with a status from 200 to 299, from the peer itself. @throws TransportError, HttpError; the signal's reason if it was aborted. */
    async ask({ what, method = "GET", path, headers, body, json, signal, timeoutMs: limit = timeoutMs }: Ask) {
      using late = deadline(limit);
      let answer: RawAnswer;
      try {
        answer = await send(url + path, {
          method,
          headers: {
            ...peer.headers,
            ...(json === undefined ? {} : { "content-type": "application/json" }),
            ...headers,
          },
          body: json === undefined ? body : JSON.stringify(json),
          signal: signal ? AbortSignal.any([signal, late.signal]) : late.signal,
        });
      } catch (error) {
        signal?.throwIfAborted();
        const cause = late.signal.aborted ? errorChain(late.signal.reason) : plain(errorChain(error));
        const why = (unix === undefined && (await tlsFailure(error, { url: new URL(url), certificates }))) || cause;
        const message = without(secrets, `${what}: no answer from ${unix ?? url}: ${why}`);
        throw new TransportError(message, { late: late.signal.aborted });
      }
      answer.text = without(secrets, answer.text);
      answer.reason = without(secrets, answer.reason);
      if (own && !own.is(answer)) {
        throw new HttpError(
          what,
          answer,
          without(secrets, `, but the answer is not ${own.whose}${origin(answer, url)}`),
        );
      }
      if (answer.status < 200 || answer.status > 299) throw new HttpError(what, answer);
      const { status, headers: given } = answer;
      const value = parse(answer.text);
      // `json` is undefined if the body isn't JSON; `body` is empty unless it is an object.
      return { status, headers: given, text: answer.text, json: value, body: asMapping(value) };
    },
  };
}

/** Where a foreign answer seems to come from, and what fixes it. */
function origin({ headers, text }: RawAnswer, url: string): string {
  const location = headers.get("location");
  if (location !== null) return `: it redirects to "${location}"; if the receiver has moved, set its new URL`;
  const [, title] = /<title[^>]*>\s*([^<]{1,100})/i.exec(text) ?? [];
  const signs = Object.entries({ server: headers.get("server"), via: headers.get("via"), page: title?.trim() });
  const known = signs.flatMap(([name, sign]) => (sign ? [`${name} "${sign}"`] : []));
  return ` (${[url, ...known].join(", ")})${tlsHint(text)}`;
}

/** An error of `fetch` without its advice for programmers. */
function plain(text: string): string {
  return text.replaceAll(
    /[.:]? ?(For more information, pass `verbose: true`|Was there a typo in|Is the computer able|Does the server speak TLS|fetching ")[^:]*/g,
    "",
  );
}

interface Outgoing {
  method: string;
  headers: Record<string, string>;
  body: Bun.BodyInit | undefined;
  signal: AbortSignal;
}

type Transport = (url: string, request: Outgoing) => Promise<RawAnswer>;

/** Fields of `tls` options; null if no certificates are configured. @throws Error when one is invalid: `fetch` would blame the URL. */
function certificatesOf({ ca_file: ca, client_cert_file: cert, client_key_file: key }: Peer): Pem | null {
  const pem = readPem({ ca, cert, key });
  return Object.keys(pem).length === 0 ? null : pem;
}

function overFetch({ url, unix, largestAnswer, cutsAnswer, allow_http }: Peer, tls: Pem | null): Transport {
  const { protocol, hostname } = new URL(url);
  const direct = isLoopback(hostname) || (allow_http === true && protocol === "http:");
  const judged = direct && unix === undefined && !isLoopback(hostname);
  const fixed = {
    redirect: "manual",
    ...(unix === undefined ? {} : { unix }),
    ...(tls ? { tls } : {}),
    // Bun accepts false for no proxy; its types don't.
    ...(direct ? { proxy: false as unknown as string } : {}),
  } as const;
  return async (address, { body, headers: given, ...request }) => {
    const target = judged ? await privateTarget(address) : { address, host: {} };
    const answer = await fetch(target.address, {
      ...fixed,
      ...request,
      headers: { ...given, ...target.host },
      ...(body === undefined ? {} : { body }),
    });
    const { status, statusText: reason, headers } = answer;
    return { status, reason, headers, text: await textOf(answer.body, largestAnswer, cutsAnswer) };
  };
}

/** The URL with a private address in place of the name, and the name as Host. @throws Error when the name has no private address. */
async function privateTarget(address: string): Promise<{ address: string; host: Record<string, string> }> {
  const url = new URL(address);
  const { host } = url;
  const name = url.hostname.replace(/^\[|\]$/g, "");
  const found = await lookup(name, { all: true, order: "ipv4first" });
  const usable = found.find((one) => isPrivate(one.address));
  if (!usable) {
    const known = found.map((one) => one.address).join(", ");
    throw new Error(`"${name}" is ${known}: "allow_http" is for private addresses only; set the URL to https://`);
  }
  url.hostname = usable.family === 6 ? `[${usable.address}]` : usable.address;
  return { address: url.href, host: { host } };
}

/**
 * Connects, checks the fingerprint, and only then sends the request: `fetch` calls `checkServerIdentity` only for certificates
 * that an authority has signed.
 */
function overPinned(
  peer: Peer,
  { certificates: tls, fingerprint }: { certificates: Pem | null; fingerprint: string },
): Transport {
  return async (address, { method, headers, body, signal }) => {
    const url = new URL(address);
    const bytes = body === undefined ? undefined : await new Response(body).bytes();
    const socket = await connectPinned(url, { ...tls, fingerprint, signal });
    try {
      const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
      httpRequest(
        {
          method,
          host: url.hostname,
          path: url.pathname + url.search,
          headers: { ...headers, host: url.host, connection: "close" },
          createConnection: () => socket,
          signal,
        },
        resolve,
      )
        .on("error", reject)
        .end(bytes);
      const answer = await promise;
      const { statusCode: status = 0, statusMessage: reason = "" } = answer;
      const fields = Object.entries(answer.headers).map(([name, value]): [string, string] => [name, String(value)]);
      return { status, reason, headers: new Headers(fields), text: await textOf(answer, peer.largestAnswer) };
    } finally {
      socket.destroy();
    }
  };
}

async function connectPinned(
  url: URL,
  { fingerprint, signal, ...tls }: Pem & { fingerprint: string; signal: AbortSignal },
): Promise<TLSSocket> {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect({ ...tls, host, port: Number(url.port || 443), rejectUnauthorized: false }, resolve);
  const stop = () => reject(signal.reason as Error);
  socket.on("error", reject);
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  try {
    await promise;
    const shown = socket.getPeerCertificate().fingerprint256;
    const plain = (text: string) => text.replaceAll(":", "").toLowerCase();
    if (plain(shown) !== plain(fingerprint)) {
      throw new Error(`its certificate has the fingerprint ${shown}, not the configured one`);
    }
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** A signal that times out after `ms`; null for never. Unlike AbortSignal.timeout its timer ends with the request, so an idle agent sleeps. */
export function deadline(ms: number | null): Disposable & { signal: AbortSignal } {
  const stop = new AbortController();
  const late = () => stop.abort(new DOMException(`timed out after ${ms! / 1000} s`, "TimeoutError"));
  const timer = ms === null ? undefined : setTimeout(late, ms);
  return { signal: stop.signal, [Symbol.dispose]: () => clearTimeout(timer) };
}

/** Runs `work` for each item, at most `atOnce` at a time. @returns the results in order. */
export async function eachOf<T, R>(all: readonly T[], atOnce: number, work: (one: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = all.entries();
  const worker = async (): Promise<void> => {
    for (const [index, one] of queue) results[index] = await work(one);
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, all.length) }, worker));
  return results;
}

/** A body as UTF-8 text. @throws Error when it is longer than `most` bytes or incomplete. */
async function textOf(body: AsyncIterable<Uint8Array> | null, most: number, cuts = false): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of body ?? []) {
    bytes += chunk.length;
    if (bytes > most && cuts) break;
    if (bytes > most) throw new Error(`the answer is over ${most >> 20} MiB`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function asMapping(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}

/** The Date header (RFC 9110, section 6.6.1), in milliseconds since 1970. */
export function serverTime(headers: Headers): number | null {
  const at = Date.parse(headers.get("date") ?? "");
  return Number.isNaN(at) ? null : at;
}

/** RFC 9110, section 10.2.3: seconds or a date. */
function retryAfter(headers: Headers): number | null {
  const given = headers.get("retry-after")?.trim();
  if (given === undefined) return null;
  const seconds = /^\d+$/.test(given) ? Number(given) : (Date.parse(given) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? null : Math.min(Math.max(0, seconds), LONGEST_WAIT);
}
