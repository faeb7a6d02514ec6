// Another role that is asked: its operator's routes, over HTTP.

import * as v from "valibot";
import { type Ask, openClient } from "./client.ts";
import { type Secret, httpUrl, readableFile, rule, secret, tokenReadable } from "./config.ts";
import { build } from "./version.ts";

/** The setting that says where a role is reached: a receiver, or an observer. */
export const PeerSettings = v.pipe(
  v.strictObject({
    url: httpUrl(),
    /** The operator's; not needed where the peer lets this machine read without one. */
    ...secret("token"),
    /** Plain http towards private addresses: where a VPN encrypts, or nobody else can listen. */
    allow_http: v.optional(v.boolean(), false),
    /** Trusted instead of the system's authorities. */
    ca_file: v.optional(readableFile()),
  }),
  rule(({ url, token, allow_http }) => (token.length === 0 ? [] : tokenReadable("url", url, allow_http))),
);
export type PeerSettings = v.InferOutput<typeof PeerSettings> & { token: Secret[] };

/** Asks it as a program of ours. @throws Error when a certificate can't be read. */
export function openPeer(
  { token, ...reach }: PeerSettings,
  {
    program,
    role,
    timeoutMs,
    largestAnswer,
  }: { program: string; role: string; timeoutMs: number; largestAnswer: number },
) {
  const client = openClient({
    ...reach,
    headers: {
      "user-agent": `${program}/${build}`,
      ...(token[0] ? { authorization: `Bearer ${token[0].reveal()}` } : {}),
    },
    secrets: token,
    timeoutMs,
    largestAnswer,
  });
  /** Its JSON. @throws as `Client.ask` does. */
  return async (ask: Omit<Ask, "what">): Promise<Record<string, unknown>> =>
    (await client.ask({ what: `ask the ${role}`, ...ask })).body;
}
