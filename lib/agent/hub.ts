// The agent's client of its hub (a receiver).

import { type Client, HttpError, TransportError, openClient } from "../client.ts";
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
  });
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
  if (error instanceof HttpError && error.refusesCredentials) {
    throw new RefusedCredentials("the receiver rejects the token", {
      cause: error,
      hint: "on the receiver: picket-receiver token list; a new one: picket-receiver token rotate HOST",
    });
  }
  throw error;
}
