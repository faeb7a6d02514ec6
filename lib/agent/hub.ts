// The agent's client of its hub (a receiver).

import { type Client, HttpError, type RawAnswer, TransportError, openClient } from "../client.ts";
import { RefusedCredentials } from "../service.ts";
import { build } from "../version.ts";
import type { Config } from "./config.ts";

/** Longer than any answer of a receiver, in bytes. */
const LARGEST_ANSWER = 1 << 20;

export type Hub = Pick<Client, "ask">;

/** Reads the certificates. @throws Error when one can't be read. */
export function openHub({ token, timeout_seconds, ...reach }: Config["receiver"]): Client {
  return openClient({
    ...reach,
    headers: { "user-agent": `picket-agent/${build}`, authorization: `Bearer ${token[0]?.reveal() ?? ""}` },
    secrets: token,
    timeoutMs: timeout_seconds * 1000,
    largestAnswer: LARGEST_ANSWER,
    own: { whose: "a receiver's", is: isReceivers },
  });
}

/**
 * Whether the receiver itself has answered. Only then an answer decides about credentials, quarantine or a conflict; pages of
 * firewalls, proxies and captive portals are trouble on the way, whatever their status.
 */
function isReceivers({ status, headers, text }: RawAnswer): boolean {
  if (status === 204) return true;
  if (status === 401 && text === "") return /^Bearer\b/i.test(headers.get("www-authenticate") ?? "");
  try {
    const body = JSON.parse(text) as Record<string, unknown> | null;
    if (typeof body !== "object" || body === null || Array.isArray(body)) return false;
    const { code } = body;
    return status < 300 || (typeof code === "string" && /^[a-z][a-z_]+$/.test(code));
  } catch {
    return false;
  }
}

/** Asks who this is: tests the way, the token and the clock, and writes nothing. `skewMs`: how far our clock is ahead; null when that isn't known. */
export async function ping(hub: Hub, signal: AbortSignal) {
  const before = Date.now();
  const { body } = await hub.ask({ method: "POST", path: "/v1/ping", what: "ping", signal });
  const there = Date.parse(String(body["time"]));
  return { body, skewMs: Number.isNaN(there) ? null : (before + Date.now()) / 2 - there };
}

/** Why a configured `host_id` is not the token's host; null when it is. `answer` is that of a ping. */
export function wrongHost(configured: string | undefined, answer: Record<string, unknown>): string | null {
  const { host, former_names: former } = answer;
  if (configured === undefined || configured === host) return null;
  if (Array.isArray(former) && former.includes(configured)) return null;
  return `"host_id" is "${configured}", but the token belongs to "${String(host)}"`;
}

/**
 * The host name in an upload's path: the configured one, else the token's, requested once from the receiver.
 * @throws TransportError also for an answer such as 400: it isn't about the upload, so that must not end up in quarantine.
 */
export function hostOf(hub: Hub, configured: string | undefined): () => Promise<string> {
  let known = configured;
  const what = "ask for this host's name";
  return async () => {
    if (known !== undefined) return known;
    const { body } = await hub.ask({ method: "POST", path: "/v1/ping", what }).catch((error: unknown) => {
      throw error instanceof HttpError && !error.later ? new TransportError(error.message) : error;
    });
    const { host } = body;
    if (typeof host !== "string") throw new TransportError(`${what}: the answer has no "host": set "host_id"`);
    known = host;
    return host;
  };
}

/** Turns refused credentials into exit code 3: another start won't help. */
export function exitIfRefused(error: unknown): never {
  if (!(error instanceof HttpError) || !error.refusesCredentials) throw error;
  const { what, fix } = refused(error);
  throw new RefusedCredentials(`the receiver rejects ${what}`, { cause: error, hint: fix });
}

/** What a receiver's 401 or 403 is about, and what fixes it. */
export function refused({ body }: HttpError): { what: string; fix: string } {
  if (body["code"] === "not_your_host") return { what: '"host_id"', fix: 'remove "host_id" from the configuration' };
  if (body["code"] === "address_not_allowed")
    return { what: "this host's address", fix: 'on the receiver: add it to "auth.allowed_ips"' };
  return {
    what: "the token",
    fix: "on the receiver: picket-receiver token list; a new one: picket-receiver token rotate HOST",
  };
}
