// From a Hono app to a listening, guarded, measured server. A request passes, in this order, and before a byte of its body is read:
//
//   address allowed? (403) → token right? (401) → /health, /metrics → the app (404, 405, or its answer)
//
// Handlers throw `Refusal`; whatever else they throw is a 500 that tells the client nothing and the log everything.
// Bun's own traps that this file is about: `maxRequestBodySize` answers a bare 413, so bodies are bounded here;
// `server.reload` keeps the old certificate, so a renewed one is served by a second socket on the same port.

import { accessSync, constants, readFileSync } from "node:fs";
import { type Context, Hono } from "hono";
import * as v from "valibot";
import {
  type Cidr,
  type Listen,
  cidr,
  holding,
  isLoopback,
  unmapped,
  listenAddress,
  path,
  restartToSwitch,
  secret,
} from "./config.ts";
import { type Log, seldom } from "./log.ts";
import { type Counter, type Histogram, Registry, processMetrics } from "./metrics.ts";
import { type Secret, secretEquals } from "./secret.ts";

/** How long requests in flight may take to finish after a stop, in milliseconds. */
const STOP_MS = 1500;
/** A connection on which nothing comes for so long is closed, in seconds. */
const IDLE_SECONDS = 30;
const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/** The path of a file that is there and can be read. */
function readable() {
  return v.pipe(
    path(),
    v.rawCheck(({ dataset, addIssue }) => {
      if (!dataset.typed) return;
      try {
        accessSync(dataset.value, constants.R_OK);
      } catch (error) {
        addIssue({ message: `can't be read: ${(error as NodeJS.ErrnoException).code}` });
      }
    }),
  );
}

/** The schema entries of `auth`, for a role that adds some of its own. */
export const authEntries = { ...secret("token"), allowed_ips: v.optional(v.array(cidr()), []) };

/** The schema entries that say who may connect, the same for every role that listens. */
export const connectionEntries = {
  auth: v.optional(v.strictObject(authEntries), {}),
  tls: restartToSwitch(
    v.optional(v.strictObject({ cert_file: readable(), key_file: readable(), client_ca_file: v.optional(readable()) })),
  ),
  /** Whose X-Forwarded-For is believed. */
  trusted_proxies: v.optional(v.array(cidr()), []),
};

/** What `connectionEntries` gives. */
export interface Connection {
  auth: { token: Secret[]; allowed_ips: Cidr[] };
  tls?: { cert_file: string; key_file: string; client_ca_file?: string | undefined } | undefined;
  trusted_proxies: Cidr[];
}

/** Why a server with these settings must not start, and what to set; null when it may. */
export function whoMayConnect({
  listen,
  auth,
  tls,
}: Pick<Connection, "auth" | "tls"> & { listen: Listen }): string | null {
  const guarded = auth.token.length > 0 || auth.allowed_ips.length > 0 || tls?.client_ca_file !== undefined;
  if (guarded || isLoopback(listen.host)) return null;
  return `anybody who reaches ${String(listen)} could connect: set "auth.token_file", "auth.allowed_ips" or "tls.client_ca_file", or listen on 127.0.0.1`;
}

/** An answer that refuses: JSON `{error, code, …extra}`, or nothing but the status where `empty` says so. */
export class Refusal extends Error {
  readonly status: number;
  readonly code: string;
  readonly extra: Record<string, unknown>;
  readonly headers: Record<string, string>;
  readonly empty: boolean;
  readonly log: Record<string, unknown>;

  constructor(
    status: number,
    code: string,
    message: string,
    more: {
      extra?: Record<string, unknown>;
      headers?: Record<string, string>;
      empty?: boolean;
      /** Fields for the log alone. */
      log?: Record<string, unknown>;
    } = {},
  ) {
    super(message);
    this.status = status;
    this.code = code;
    this.extra = more.extra ?? {};
    this.headers = more.headers ?? {};
    this.empty = more.empty ?? false;
    this.log = more.log ?? {};
  }

  /** The answer itself. */
  response(): Response {
    if (this.empty) return new Response(null, { status: this.status, headers: this.headers });
    return Response.json(
      { error: this.message, code: this.code, ...this.extra },
      { status: this.status, headers: this.headers },
    );
  }
}

/** What the app finds as `c.env`. */
export interface Bindings {
  /** The client's address: the peer's, or what a trusted proxy says. */
  ip: () => string;
  /** How long nothing may come or go on this request's connection before it is closed, in seconds; 0 is for ever. */
  idle: (seconds: number) => void;
}

/** What `/health` says: 200 or 503, and the figures. */
export interface Health {
  ok: boolean;
  figures: Record<string, unknown>;
}

export interface ServeOptions {
  role: string;
  listen: Listen;
  connection: Connection;
  app: Hono<{ Bindings: Bindings }>;
  log: Log;
  metrics: Registry;
  health: () => Health | Promise<Health>;
  /** Requests that are let in by something of their own (a webhook's signature): the token isn't asked for. */
  bearsOwnCredentials?: (pathname: string, method: string) => boolean;
}

/** A running server. */
export interface Server {
  /** Where it listens; the port is the real one. */
  address: Listen;
  /** Takes over who may connect, and renewed certificates, without dropping a connection. Throws, and changes nothing, when a certificate is invalid. */
  reload(connection: Connection): void;
  /** Takes nothing new, lets what is in flight finish, and closes. */
  stop(): Promise<void>;
}

/** Starts to listen. Throws when it can't: port taken, certificate unreadable. */
export function serve(options: ServeOptions): Server {
  const { app, log } = options;
  const measure = measures(options.metrics, options.role);
  const refusals = refusalLog(log);
  let guard = createGuard(options.connection, options.bearsOwnCredentials);
  let isProxy = holding(options.connection.trusted_proxies);
  app.onError((error, c) => answerError(error, c, log));
  app.notFound((c) => notFound(app, c).response());

  const answer = async (request: Request, bindings: Bindings): Promise<Response> => {
    if (!isAbsolute(request.url))
      return new Refusal(400, "bad_host", "the Host header is not the name of a host").response();
    const pathname = pathOf(request.url);
    const refused = guard(request, pathname, bindings.ip);
    if (refused) {
      refusals(refused, bindings.ip());
      return refused.response();
    }
    if (pathname === "/health") return own(request, () => health(options));
    if (pathname === "/metrics") return own(request, () => text(options.metrics.render()));
    return app.fetch(request, bindings);
  };
  const fetch = async (request: Request, server: Bun.Server<undefined>): Promise<Response> => {
    const start = performance.now();
    measure.begin();
    const response = await answer(request, {
      ip: () => clientAddress(request, server, isProxy),
      idle: (seconds) => server.timeout(request, seconds),
    });
    measure.end(response.status, performance.now() - start);
    return response;
  };
  return listening(options, fetch, measure, (connection) => {
    isProxy = holding(connection.trusted_proxies);
    guard = createGuard(connection, options.bearsOwnCredentials);
  });
}

type Fetch = (request: Request, server: Bun.Server<undefined>) => Promise<Response>;

function listening(
  { listen, connection, log }: ServeOptions,
  fetch: Fetch,
  measure: Measure,
  adopt: (connection: Connection) => void,
): Server {
  const open = (port: number, tls: TlsFiles | null): Bun.Server<undefined> =>
    Bun.serve({
      hostname: listen.host,
      port,
      fetch,
      idleTimeout: IDLE_SECONDS,
      maxRequestBodySize: Number.MAX_SAFE_INTEGER,
      // A second socket on the same port is how a renewed certificate is taken over.
      ...(tls ? { tls, reusePort: true } : {}),
      error: (error) => {
        log.error("request failed", { error });
        return new Refusal(500, "internal", "internal error").response();
      },
    });
  let tls = readTls(connection);
  let server = opened(() => open(listen.port, tls), listen);
  const port = server.port ?? listen.port;
  return {
    address: listenAddress(listen.host, port),
    reload(next) {
      // What may fail comes first: a reload that is refused changes nothing.
      const renewed = readTls(next);
      if (renewed && JSON.stringify(renewed) !== JSON.stringify(tls)) {
        const old = server;
        server = open(port, renewed);
        tls = renewed;
        void old.stop();
        log.info("certificate renewed");
      }
      adopt(next);
    },
    async stop() {
      void server.stop();
      await Promise.race([measure.idle(), Bun.sleep(STOP_MS)]);
      await Promise.race([server.stop(true), Bun.sleep(200)]);
    },
  };
}

/** Says which address it is about, and what to do. */
function opened(open: () => Bun.Server<undefined>, listen: Listen): Bun.Server<undefined> {
  try {
    return open();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EADDRINUSE") {
      const hint = `ss -ltnp 'sport = :${listen.port}' shows it; or set "listen" to another address`;
      throw Object.assign(new Error(`listen on ${String(listen)}: another program has this port`, { cause: error }), {
        hint,
      });
    }
    throw new Error(`listen on ${String(listen)}`, { cause: error });
  }
}

interface TlsFiles {
  cert: string;
  key: string;
  ca?: string;
  requestCert?: boolean;
  rejectUnauthorized?: boolean;
}

function readTls({ tls }: Connection): TlsFiles | null {
  if (!tls) return null;
  const read = (file: string): string => {
    try {
      return readFileSync(file, "utf8");
    } catch (error) {
      throw new Error(`read "${file}" for tls`, { cause: error });
    }
  };
  const files = { cert: read(tls.cert_file), key: read(tls.key_file) };
  if (tls.client_ca_file === undefined) return files;
  return { ...files, ca: read(tls.client_ca_file), requestCert: true, rejectUnauthorized: true };
}

// ---------------------------------------------------------------------------------------------------------------
// Who may connect

type Guard = (request: Request, pathname: string, ip: () => string) => Refusal | null;

function createGuard({ auth }: Connection, bearsOwn: ServeOptions["bearsOwnCredentials"]): Guard {
  const isAllowed = holding(auth.allowed_ips);
  return (request, pathname, ip) => {
    if (auth.allowed_ips.length > 0 && !isAllowed(ip())) {
      return new Refusal(403, "address_not_allowed", "this address may not connect");
    }
    if (auth.token.length === 0 || bearsOwn?.(pathname, request.method)) return null;
    const given = bearerOf(request);
    if (given !== undefined && secretEquals(given, auth.token)) return null;
    const [code, message] =
      given === undefined
        ? ["missing_bearer_token", "a bearer token is required"]
        : ["invalid_token", "the token is wrong"];
    return new Refusal(401, code, message, { headers: { "www-authenticate": "Bearer" } });
  };
}

/** The bearer token of a request (RFC 6750, section 2.1); undefined without one. */
export function bearerOf(request: Request): string | undefined {
  return /^Bearer +(\S+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
}

/** The peer's address; behind trusted proxies the nearest hop that isn't one of them; "" where a proxy says nothing that is an address. */
function clientAddress(request: Request, server: Bun.Server<undefined>, isProxy: (ip: string) => boolean): string {
  const peer = plain(server.requestIP(request)?.address ?? "");
  if (!isProxy(peer)) return peer;
  const hops = (request.headers.get("x-forwarded-for") ?? "")
    .split(",")
    .map((hop) => hop.trim())
    .filter(Boolean);
  let client = peer;
  for (const hop of hops.toReversed()) {
    client = plain(withoutPort(hop));
    if (unmapped(client) === null) return "";
    if (!isProxy(client)) break;
  }
  return client;
}

/** Some proxies add the port: `203.0.113.5:4711`, `[2001:db8::1]:4711`. */
function withoutPort(hop: string): string {
  const [, bracketed, v4] = /^(?:\[([^\]]+)\](?::\d+)?|([\d.]+):\d+)$/.exec(hop) ?? [];
  return bracketed ?? v4 ?? hop;
}

/** A dual-stack socket reports IPv4 peers as `::ffff:10.0.0.1`. */
function plain(address: string): string {
  return address.startsWith("::ffff:") && address.includes(".") ? address.slice(7) : address;
}

/** Logs a refusal at most once a minute per address and reason. */
export function refusalLog(log: Log): (refusal: Refusal, ip: string, more?: Record<string, unknown>) => void {
  const rare = seldom(log);
  return ({ status, code, log: own }, ip, more = own) => {
    const fields = { reason: code, ip, ...more };
    if (status < 500) rare.warn(`${code} ${ip}`, "request refused", fields);
    else rare.error(`${code} ${ip}`, "request failed", fields);
  };
}

// ---------------------------------------------------------------------------------------------------------------
// Answers

/**
 * Bun gives the URL without scheme and host where the Host header is none. Then there is no telling where its path begins: this
 * file and Hono would each find another one, and the credentials of one door would open another.
 */
function isAbsolute(url: string): boolean {
  return url.startsWith("http://") || url.startsWith("https://");
}

/** The path of an absolute URL, as it was sent. Quicker than `new URL`, which every request would pay for. */
export function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  if (start < 0) return "/";
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}

/** 405 with `Allow`. */
export function wrongMethod(method: string, allow: string): Refusal {
  return new Refusal(405, "method_not_allowed", `${method} is not possible here, only ${allow}`, {
    headers: { allow },
  });
}

/** 404. */
export function unknownPath(): Refusal {
  return new Refusal(404, "not_found", "nothing is served at this path");
}

function notFound(app: Hono<{ Bindings: Bindings }>, c: Context): Refusal {
  const allowed = METHODS.filter((method) => app.router.match(method, c.req.path)[0].length > 0);
  return allowed.length > 0 ? wrongMethod(c.req.method, allowed.join(", ")) : unknownPath();
}

function answerError(error: unknown, c: Context, log: Log): Response {
  if (error instanceof Refusal) return error.response();
  if (c.req.raw.signal.aborted) {
    log.debug("client went away", { path: c.req.path });
    return new Response(null, { status: 499 });
  }
  log.error("request failed", { path: c.req.path, error });
  return new Refusal(500, "internal", "internal error").response();
}

async function own(request: Request, answer: () => Response | Promise<Response>): Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") return wrongMethod(request.method, "GET, HEAD").response();
  return answer();
}

async function health({ health: ask, log }: ServeOptions): Promise<Response> {
  try {
    const { ok, figures } = await ask();
    return Response.json(figures, { status: ok ? 200 : 503 });
  } catch (error) {
    log.error("health check failed", { error });
    return new Refusal(503, "unhealthy", "the health check failed").response();
  }
}

function text(body: string): Response {
  return new Response(body, { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } });
}

// ---------------------------------------------------------------------------------------------------------------
// Bodies

/** The whole body. Throws Refusal 413 over `cap` bytes, before reading where Content-Length says so, and 415 for an encoded body. */
export function readBody(request: Request, cap: number): Promise<Uint8Array> {
  const encoding = request.headers.get("content-encoding");
  if (encoding !== null && encoding !== "" && encoding.toLowerCase() !== "identity") {
    throw new Refusal(
      415,
      "content_encoding",
      `content-encoding "${encoding}" is not understood: send the body as it is`,
    );
  }
  const length = request.headers.get("content-length");
  if (length === null) return readChunks(request, cap);
  if (Number(length) > cap) throw tooLarge(cap);
  return request.bytes();
}

async function readChunks(request: Request, cap: number): Promise<Uint8Array> {
  if (!request.body) return new Uint8Array();
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of request.body as AsyncIterable<Uint8Array>) {
    size += chunk.length;
    if (size > cap) throw tooLarge(cap);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

function tooLarge(cap: number): Refusal {
  return new Refusal(413, "too_large", `the body is over ${cap} bytes`, {
    extra: { limit_bytes: cap },
    headers: { connection: "close" },
  });
}

// ---------------------------------------------------------------------------------------------------------------
// Figures

interface Measure {
  begin(): void;
  end(status: number, ms: number): void;
  /** Resolves when no request is in flight. */
  idle(): Promise<void>;
}

function measures(registry: Registry, role: string): Measure {
  processMetrics(registry, role);
  const requests = registry.counters("picket_http_requests_total", "Requests answered, by status code.");
  const seconds: Histogram = registry.histogram(
    "picket_http_request_seconds",
    "Time from request to answer.",
    [0.001, 0.005, 0.025, 0.1, 0.5, 2, 10],
  );
  let inFlight = 0;
  let idle: (() => void) | null = null;
  registry.gauge("picket_http_requests_in_flight", "Requests that wait for their answer.", () => inFlight);
  const byStatus = new Map<number, Counter>();
  return {
    begin() {
      inFlight++;
    },
    end(status, ms) {
      let counter = byStatus.get(status);
      if (!counter) byStatus.set(status, (counter = requests({ code: String(status) })));
      counter.add();
      seconds.observe(ms / 1000);
      if (--inFlight === 0) idle?.();
    },
    idle() {
      return inFlight === 0 ? Promise.resolve() : new Promise((done) => (idle = done));
    },
  };
}
