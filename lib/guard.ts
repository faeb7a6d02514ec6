// Who may connect: which addresses, with which token, and whose address a request has behind a proxy.

import { hostname } from "node:os";
import { isIP } from "node:net";
import * as v from "valibot";
import {
  type Listen,
  cidr,
  holding,
  isLoopback,
  readableFile,
  restartToSwitch,
  rule,
  secret,
  unmapped,
} from "./config.ts";
import { judgePem } from "./pem.ts";
import { Refusal } from "./refusal.ts";
import { secretEquals } from "./secret.ts";

/** The schema entries of `auth`, for a role that adds some of its own. */
export const authEntries = { ...secret("token"), allowed_ips: v.optional(v.array(cidr()), []) };

/** The schema entries that say who may connect, the same for every role that listens. */
export const connectionEntries = {
  auth: v.optional(v.strictObject(authEntries), {}),
  tls: restartToSwitch(
    v.optional(
      v.pipe(
        v.strictObject({
          cert_file: readableFile(),
          key_file: readableFile(),
          client_ca_file: v.optional(readableFile()),
        }),
        // A server whose files are not what they are named, or don't belong together, doesn't start.
        rule(({ cert_file: cert, key_file: key, client_ca_file: ca }) => {
          const settings = { cert: "cert_file", key: "key_file", ca: "client_ca_file" };
          return judgePem({ cert, key, ca }).wrong.map(({ name, text }) => ({ path: [settings[name]], text }));
        }),
      ),
    ),
  ),
  /** `X-Forwarded-For` is trusted from these proxies. */
  trusted_proxies: v.optional(v.array(cidr()), []),
};

/** What `connectionEntries` gives. */
export type Connection = v.InferOutput<v.StrictObjectSchema<typeof connectionEntries, undefined>>;

/** Why a server with these settings must not start, and what to set; null when it may. */
export function whoMayConnect(settings: Pick<Connection, "auth" | "tls"> & { listen: Listen }): string | null {
  const { listen, auth, tls } = settings;
  const guarded = auth.token.length > 0 || auth.allowed_ips.length > 0 || tls?.client_ca_file !== undefined;
  if (guarded || isLoopback(listen.host)) return null;
  return `anyone who reaches ${String(listen)} could connect: set "auth.token_file", "auth.allowed_ips" or "tls.client_ca_file", or listen on 127.0.0.1`;
}

/**
 * What lets a request in besides the token: `own`, credentials of its own (a webhook's signature, an agent's token), which stand for the token;
 * `none`, where anyone may send unless there is a token; `local`, where this machine may unless there is a token.
 */
export type CredentialsOf = (pathname: string, method: string) => "own" | "none" | "local" | null;

/** What the guard asks of a request's connection, where it matters. */
interface Peer {
  ip: () => string;
  isForwarded: () => boolean;
}

const PROXY_HEADERS =
  /^(?:forwarded|via|x-(?:original-)?forwarded(?:-.+)?|(?:.+-)?(?:client|connecting|real|remote|originating)-(?:ip|addr))$/;

/** Judges requests before a byte of their body is read. */
export function createGuard({ auth, tls, trusted_proxies }: Connection, credentialsOf: CredentialsOf = () => null) {
  const isAllowed = holding(auth.allowed_ips);
  const isProxy = holding(trusted_proxies);
  return {
    /** Why the request may not pass; null when it may. */
    refusal(request: Request, pathname: string, { ip, isForwarded }: Peer): Refusal | null {
      if (auth.allowed_ips.length > 0 && !isAllowed(ip())) {
        return new Refusal(403, "address_not_allowed", "this address may not connect");
      }
      const credentials = credentialsOf(pathname, request.method);
      if (credentials === "own") return null;
      if (auth.token.length === 0) {
        if (credentials === "local") return notLocal(request, { ip, isForwarded });
        if (credentials === "none" || !isForwarded()) return null;
        const what =
          'this came through a proxy, and nothing here says who may send it: set "auth.token_file", or "verify" of a webhook';
        return new Refusal(403, "forwarded", what);
      }
      const given = bearerOf(request);
      if (given !== undefined && secretEquals(given, auth.token)) return null;
      const headers = { "www-authenticate": "Bearer" };
      return given === undefined
        ? new Refusal(401, "missing_bearer_token", "a bearer token is required", { headers })
        : new Refusal(401, "invalid_token", "the token is wrong", { headers });
    },
    /** The client's address: the peer's; behind trusted proxies the nearest hop that isn't one of them; "" where a proxy says nothing that is an address. */
    clientAddress(request: Request, peer: string): string {
      let client = unmapped(peer) ?? "";
      if (!isProxy(client)) return client;
      const hops = (request.headers.get("x-forwarded-for") ?? "").split(",").map((hop) => hop.trim());
      for (const hop of hops.filter(Boolean).toReversed()) {
        client = unmapped(withoutPort(hop)) ?? "";
        if (!isProxy(client)) break;
      }
      return client;
    },
    /** Whether a proxy hands the request on, unless it is a trusted one and its client is on this machine or in `allowed_ips`. */
    isForwarded(request: Request, peer: string): boolean {
      const { headers } = request;
      if (![...headers.keys()].some((name) => PROXY_HEADERS.test(name))) return false;
      const isTold = isProxy(unmapped(peer) ?? "") && headers.has("x-forwarded-for") && !headers.has("forwarded");
      return !isTold || (auth.allowed_ips.length === 0 && !isLoopback(this.clientAddress(request, peer)));
    },
    /** Whether the client's connection is encrypted: the one to here, or to a proxy, as a trusted one or the browser itself says. */
    isSecure({ headers }: Request, peer: string): boolean {
      const told = isProxy(unmapped(peer) ?? "") ? (headers.get("x-forwarded-proto") ?? "") : "";
      return tls !== undefined || /^https\b/i.test(told) || /^https:/i.test(headers.get("origin") ?? "");
    },
    /**
     * Whether a page of this server sent a form, and no other website. Every browser says which one did: in `Sec-Fetch-Site` (W3C Fetch
     * Metadata) where the connection can be trusted, else in `Origin`. That one is compared with the name under which the browser reached
     * this server; its scheme is only known to the proxy that ends TLS.
     */
    isSameOrigin({ headers }: Request, peer: string): boolean {
      const site = headers.get("sec-fetch-site");
      if (site !== null) return site === "same-origin";
      const origin = URL.parse(headers.get("origin") ?? "");
      const names = ["host", ...(isProxy(unmapped(peer) ?? "") ? ["x-forwarded-host"] : [])];
      const hosts = names.map((name) => URL.parse(`${origin?.protocol}//${headers.get(name) ?? ""}`)?.host);
      return origin !== null && hosts.includes(origin.host);
    },
  };
}

/**
 * Without a token only this machine passes: no client that a proxy on it forwards, and no website that its browser shows. Such a one could
 * give its own name the address 127.0.0.1 (DNS rebinding), so the name has to be this machine's.
 */
function notLocal({ headers }: Request, { ip, isForwarded }: Peer): Refusal | null {
  if (headers.has("authorization")) {
    const challenge = { headers: { "www-authenticate": "Bearer" } };
    return new Refusal(401, "invalid_token", "a host's token reads nothing", challenge);
  }
  if (isForwarded() || !isLoopback(ip())) {
    return new Refusal(403, "local_only", 'only this machine may read: set "auth.token_file" for others');
  }
  const host = headers.get("host") ?? "";
  const name = URL.parse(`http://${host}`)?.hostname ?? "";
  const isOwn = isLoopback(name) || isIP(name.replace(/^\[|\]$/g, "")) > 0 || name.endsWith(".localhost");
  if (isOwn || host === "" || name === hostname().toLowerCase()) return null;
  const what = `"${host}" is not the name of this machine: use "localhost", or set "auth.token_file"`;
  return new Refusal(403, "foreign_host", what);
}

/** The bearer token of a request (RFC 6750, section 2.1); undefined without one. */
export function bearerOf(request: Request): string | undefined {
  return /^Bearer +(\S+)$/i.exec(request.headers.get("authorization") ?? "")?.[1];
}

/** Some proxies add the port: `203.0.113.5:4711`, `[2001:db8::1]:4711`. */
function withoutPort(hop: string): string {
  const [, bracketed, v4] = /^(?:\[([^\]]+)\](?::\d+)?|([\d.]+):\d+)$/.exec(hop) ?? [];
  return bracketed ?? v4 ?? hop;
}
