// The hub (a receiver), as an agent asks it.

import { type Client, HttpError, TransportError, openClient } from "../client.ts";
import { RefusedCredentials } from "../service.ts";
import { build } from "../version.ts";
import type { Config } from "./config.ts";

/** Longer than any answer of a receiver, in bytes. */
const LARGEST_ANSWER = 1 << 20;

/** What takes requests to a receiver. */
export type Hub = Pick<Client, "ask">;

/** @throws Error when a certificate can't be read. */
export function openHub({ token, timeout_seconds, ...reach }: Config["receiver"]): Client {
  return openClient({
    ...reach,
    headers: { "user-agent": `picket-agent/${build}`, authorization: `Bearer ${token[0]?.reveal() ?? ""}` },
    secrets: token,
    timeoutMs: timeout_seconds * 1000,
    largestAnswer: LARGEST_ANSWER,
  });
}

/**
 * The name in an upload's path: the configured one, else what the receiver calls the token's host. Asked once.
 * @throws TransportError also where the receiver refuses to say (400, for one): that says nothing about an upload, which was not sent.
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
    if (typeof host !== "string") throw new TransportError(`${what}: the receiver doesn't say: set "host_id"`);
    known = host;
    return host;
  };
}

/** Ends the program with 3 on refused credentials: a wrong token shows at once, and another start won't help. */
export function refusedAtOnce(error: unknown): never {
  if (error instanceof HttpError && error.refusesCredentials) {
    throw new RefusedCredentials("the receiver refuses this token", {
      cause: error,
      hint: "on the receiver: picket-receiver token list; a new one: picket-receiver token rotate HOST",
    });
  }
  throw error;
}
