// From a role's answers to a listening, guarded, measured server. A request passes, in this order, and before a byte of its body is read:
//
//   address allowed? (403) → token or session right? (401) → /health, /metrics → the role (404, 405, or its answer)
//
// An answer throws `Refusal`; any other error is a 500 that tells the client nothing and the log everything.
//
// All of this stands before Hono and not in it. As middleware and routes of one app it cost 1 to 3 µs of the 35 that a
// request takes (wrk with 64 connections, collector and observer): a second handler turns Hono's call into a chain of
// promises. The collector, which looks its routes up in a map, has no Hono at all.
//
// Two traps of Bun: `maxRequestBodySize` answers a bare 413, so bodies are bounded in body.ts; `server.reload` keeps the old
// certificate, so a renewed one is served by a second socket on the same port.

import type { Hono } from "hono";
import { readOn } from "./body.ts";
import { type Listen, listenAddress } from "./config.ts";
import { isBusy } from "./database.ts";
import { type Connection, type CredentialsOf, createGuard } from "./guard.ts";
import type { Log } from "./log.ts";
import { type Counter, Registry, processMetrics } from "./metrics.ts";
import { readPem } from "./pem.ts";
import { Refusal, refusalLog, unknownPath, wrongMethod } from "./refusal.ts";

/** How long requests in flight may take to finish after a stop, in milliseconds. */
const STOP_MS = 1500;
/** A connection on which nothing comes for so long is closed, in seconds. */
const IDLE_SECONDS = 30;
/** Prometheus' text format. */
const METRICS = { headers: { "content-type": "text/plain; version=0.0.4; charset=utf-8" } };
const AWAY = new Refusal(503, "away", "the database is away or busy; try again later", {
  headers: { "retry-after": "5" },
});
const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/** What an answer can ask of its request's connection; a Hono app finds it as `c.env`. */
export interface Bindings {
  /** The client's address: the peer's, or what a trusted proxy says. */
  ip: () => string;
  /** Whether a proxy hands the request on, for a client that nothing is known of (see guard.ts). */
  isForwarded: () => boolean;
  /** Whether the client's connection is encrypted, and whether a page of this server sent a form (see guard.ts). */
  isSecure: () => boolean;
  isSameOrigin: () => boolean;
  /** Whether the request would still pass: for answers that go on. */
  mayGoOn: () => Promise<boolean>;
  /** The idle timeout of this request's connection, in seconds; 0 is none. */
  idle: (seconds: number) => void;
}

/** What `/health` says: 200 or 503, and the figures. */
export interface Health {
  ok: boolean;
  figures: Record<string, unknown>;
}

/** Answers a request that may pass, or throws a Refusal. */
export type Answer = (request: Request, bindings: Bindings) => Response | Promise<Response>;

interface ServeOptions {
  role: string;
  listen: Listen;
  connection: Connection;
  answer: Answer;
  log: Log;
  metrics: Registry;
  health: () => Health | Promise<Health>;
  credentialsOf?: CredentialsOf;
  /** What stands for a path in the log; a path may hold a secret. */
  shown?: (pathname: string) => string;
  /** Whether a request without the token has a session instead. */
  hasSession?: (request: Request) => Promise<boolean>;
  /** Told of a request to this path that the guard refused. What it gives is answered in place of the refusal. */
  refused?: (pathname: string, refusal: Refusal, request: Request) => Response | void;
}

/** A running server. */
export type Server = ReturnType<typeof serve>;

/** Starts to listen. Throws when it can't: port taken, certificate unreadable. */
export function serve(options: ServeOptions) {
  const { log, shown = (pathname) => pathname } = options;
  const measure = measures(options.metrics, options.role);
  const refusals = refusalLog(log);
  let guard = createGuard(options.connection, options.credentialsOf);

  const hasSession = async (request: Request, { code }: Refusal): Promise<boolean> =>
    code === "missing_bearer_token" && (await options.hasSession?.(request)) === true;
  const answer = (request: Request, bindings: Bindings): Response | Promise<Response> => {
    const pathname = pathOf(request.url);
    const refusal = guard.refusal(request, pathname, bindings);
    // Most requests have the token: nothing is awaited for them.
    return refusal ? unlessSession(refusal, request, bindings) : admitted(pathname, request, bindings);
  };
  const unlessSession = async (refusal: Refusal, request: Request, bindings: Bindings): Promise<Response> => {
    const pathname = pathOf(request.url);
    if (await hasSession(request, refusal)) return admitted(pathname, request, bindings);
    const instead = options.refused?.(pathname, refusal, request);
    if (instead) return instead;
    refusals(refusal, bindings.ip(), { path: shown(pathname) });
    throw refusal;
  };
  const admitted = (pathname: string, request: Request, bindings: Bindings): Response | Promise<Response> => {
    if (pathname === "/health") return own(request, () => health(options));
    if (pathname === "/metrics") return own(request, async () => new Response(await options.metrics.render(), METRICS));
    return options.answer(request, bindings);
  };
  const fetch = async (incoming: Request, server: Bun.Server<undefined>): Promise<Response> => {
    const start = performance.now();
    measure.begin();
    let request = incoming;
    let response: Response;
    let known: string | undefined;
    // An answer that goes on asks again, also when the connection is gone.
    const peer = () => (known ??= server.requestIP(incoming)?.address ?? "");
    const ip = () => guard.clientAddress(incoming, peer());
    const bindings: Bindings = {
      ip,
      isForwarded: () => guard.isForwarded(incoming, peer()),
      isSecure: () => guard.isSecure(incoming, peer()),
      isSameOrigin: () => guard.isSameOrigin(incoming, peer()),
      async mayGoOn() {
        const refusal = guard.refusal(request, pathOf(request.url), bindings);
        return refusal === null || hasSession(request, refusal);
      },
      idle: (seconds) => server.timeout(incoming, seconds),
    };
    try {
      request = withPathAsMeant(incoming);
      response = await answer(request, bindings);
    } catch (error) {
      if (error instanceof Refusal && request.signal.aborted) refusals(error, ip());
      response = errorResponse(error, { request, log, path: shown(pathOf(request.url)) });
    }
    if (response.status >= 400) await readOn(request, response);
    measure.end(response.status, performance.now() - start);
    return response;
  };
  return listening(options, fetch, measure, (connection) => {
    guard = createGuard(connection, options.credentialsOf);
  });
}

/**
 * The answers of a Hono app: what it has no route for is 404, or 405 where the path has other methods. Hono's own
 * methodNotAllowed is a middleware, which each request would pay for.
 */
export function answersOf(app: Hono<{ Bindings: Bindings }>): Answer {
  app.onError((error) => {
    throw error;
  });
  app.notFound((c) => {
    const allowed = METHODS.filter((method) => app.router.match(method, c.req.path)[0].length > 0);
    throw allowed.length > 0 ? wrongMethod(c.req.method, allowed.join(", ")) : unknownPath();
  });
  return (request, bindings) => app.fetch(request, bindings);
}

function errorResponse(error: unknown, { request, log, path }: { request: Request; log: Log; path: string }): Response {
  if (error instanceof Refusal) return error.response();
  if (request.signal.aborted) {
    log.debug("client went away", { path });
    return new Response(null, { status: 499 });
  }
  if (isBusy(error)) {
    log.warn("request failed", { path, error });
    return AWAY.response();
  }
  log.error("request failed", { path, error });
  return new Refusal(500, "internal", "internal error").response();
}

type Fetch = (request: Request, server: Bun.Server<undefined>) => Promise<Response>;

function listening(
  { listen, connection, log }: ServeOptions,
  fetch: Fetch,
  measure: ReturnType<typeof measures>,
  adopt: (connection: Connection) => void,
) {
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
    /** The port is the real one. */
    address: listenAddress(listen.host, port),
    /** Takes over who may connect, and renewed certificates, without dropping a connection. Throws, and changes nothing, when a certificate is invalid. */
    reload(next: Connection): void {
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
    /** Takes nothing new, lets what is in flight finish, and closes. */
    async stop(): Promise<void> {
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

type TlsFiles = NonNullable<ReturnType<typeof readTls>>;

function readTls({ tls }: Connection) {
  if (!tls) return null;
  const { cert_file: cert, key_file: key, client_ca_file: ca } = tls;
  const demanding = ca === undefined ? {} : { requestCert: true, rejectUnauthorized: true };
  return { ...readPem({ cert, key, ca }), ...demanding };
}

// ---------------------------------------------------------------------------------------------------------------
// Answers

const PLAIN = /^https?:\/\/[^/]+(?:\/[\w.~-]+)*\/?(?:\?|$)/;

/** What a Host may consist of (RFC 3986, section 3.2.2), or a name in another script. */
const HOST = /^[\w.~!$&'()*+,;=%:[\]\x80-\xff-]*$/;

/**
 * The request with its path in the form in which paths are compared, so that guard and role see the same one. Without a Host (HTTP/1.0,
 * or an empty one) Bun gives the path alone as URL, and with an invalid one, too. Throws Refusal 400 for that.
 */
function withPathAsMeant(request: Request): Request {
  const { url } = request;
  if (PLAIN.test(url)) return request;
  const isAbsolute = url.startsWith("http://") || url.startsWith("https://");
  if (!isAbsolute && !HOST.test(request.headers.get("host") ?? "")) {
    throw new Refusal(400, "bad_host", "the Host header is not the name of a host");
  }
  const target = isAbsolute ? url.replace(/^https?:\/\/[^/?#]*/, "") : url;
  const query = /\?[^#]*/.exec(target)?.[0] ?? "";
  return new Request(`http://localhost${comparable(target)}${query}`, request);
}

/**
 * A path in the form in which paths are compared: dot segments resolved, slashes that follow each other joined, and each segment
 * percent-encoded alike (RFC 3986, section 6.2.2), so that `/größe`, `/gr%c3%b6ße` and `//größe` are one path. `%2F` stays apart from `/`,
 * a slash at the end and the case of letters count, and nothing is a pattern.
 */
export function comparable(path: string): string {
  // The target of CONNECT is no path.
  const { pathname } = new URL(`http://host${path.startsWith("/") ? path : `/${path}`}`);
  const segments = pathname.replace(/\/{2,}/g, "/").split("/");
  return segments.map((segment) => encodeURIComponent(decoded(segment))).join("/");
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment.replace(/%[\da-f]{2}/g, (escape) => escape.toUpperCase());
  }
}

/** The path of a request that a role answers. Quicker than `new URL`, which every request would pay for. */
export function pathOf(url: string): string {
  const start = url.indexOf("/", url.indexOf("://") + 3);
  if (start < 0) return "/";
  const end = url.indexOf("?", start);
  return end < 0 ? url.slice(start) : url.slice(start, end);
}

function own(request: Request, answer: () => Response | Promise<Response>): Response | Promise<Response> {
  if (request.method !== "GET" && request.method !== "HEAD") throw wrongMethod(request.method, "GET, HEAD");
  return answer();
}

async function health({ health: ask, log }: ServeOptions): Promise<Response> {
  try {
    const { ok, figures } = await ask();
    return Response.json(figures, { status: ok ? 200 : 503 });
  } catch (error) {
    if (isBusy(error)) return AWAY.response();
    log.error("health check failed", { error });
    return new Refusal(503, "unhealthy", "the health check failed").response();
  }
}

// ---------------------------------------------------------------------------------------------------------------
// Figures

function measures(registry: Registry, role: string) {
  processMetrics(registry, role);
  const requests = registry.counters("picket_http_requests_total", "Requests answered, by status code.");
  const seconds = registry.histogram(
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
    end(status: number, ms: number) {
      let counter = byStatus.get(status);
      if (!counter) byStatus.set(status, (counter = requests({ code: String(status) })));
      counter.add();
      seconds.observe(ms / 1000);
      if (--inFlight === 0) idle?.();
    },
    /** Resolves when no request is in flight. */
    async idle() {
      if (inFlight > 0) await new Promise<void>((done) => (idle = done));
    },
  };
}
