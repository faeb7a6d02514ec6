// Who is let in through an agent's doors, decided before a byte of the body is read:
//
//   no bearer token → 401 · unknown, revoked, malformed, or its host archived → 401
//   → over the allowance → 429 · bound to another sender → 401 → let in, `last_used_at` stamped
//
// A 401 has no body and says nothing of which it was; the log does. Only who is let in spends of the allowance.

import { createHash } from "node:crypto";
import { Refusal, bearerOf } from "../http.ts";
import { hashToken, isToken } from "./hosts.ts";
import { RateLimit } from "./rate-limit.ts";
import type { Queries } from "./database.ts";
import type { Store } from "./store.ts";

/** A host that was let in. */
export interface Guest {
  /** The host's number and name. */
  host: number;
  name: string;
  token: number;
  /** When it was let in. */
  at: number;
}

export interface AdmissionOptions {
  store: Store;
  perMinute: number;
  /** Whether a token belongs to whoever uses it first. */
  bind: boolean;
  /** Milliseconds since 1970. */
  now: () => number;
}

interface Found {
  token: number;
  host: number;
  name: string;
  fingerprint: string | null;
}

/** The door. */
export class Admission {
  #options: AdmissionOptions;
  #limit: RateLimit;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#limit = new RateLimit(options.perMinute);
  }

  /** Takes over what a reload changed. */
  configure(settings: { perMinute: number; bind: boolean }): void {
    this.#options = { ...this.#options, ...settings };
    this.#limit.perMinute = settings.perMinute;
  }

  /** Lets a request in. @throws Refusal 401, 429. */
  async letIn(request: Request, ip: string): Promise<Guest> {
    const { store, bind, now } = this.#options;
    const bearer = bearerOf(request);
    if (bearer === undefined) throw unauthorized("missing_bearer_token");
    const found = isToken(bearer) ? await findToken(store, bearer) : undefined;
    if (!found) throw unauthorized("invalid_token");
    const at = now();
    const wait = this.#limit.wait(found.token, at);
    if (wait > 0) throw tooMany(wait, found.name);
    const sender = bind ? fingerprintOf(request, ip) : null;
    if (sender !== null && found.fingerprint !== null && found.fingerprint !== sender)
      throw unauthorized("fingerprint_mismatch", found.name);
    this.#limit.take(found.token, at);
    if (sender !== null && found.fingerprint === null) await this.#bind(found, sender);
    return { host: found.host, name: found.name, token: found.token, at };
  }

  /** The first of two that come at once binds the token. */
  async #bind({ token, name }: Found, sender: string): Promise<void> {
    const { store } = this.#options;
    const changed = await store.write((tx) =>
      tx.run("UPDATE tokens SET fingerprint = $1 WHERE id = $2 AND (fingerprint IS NULL OR fingerprint = $1)", [
        sender,
        token,
      ]),
    );
    if (changed === 0) throw unauthorized("fingerprint_mismatch", name);
  }
}

/** Notes that a token was used. */
export async function stamp(tx: Queries, { token, at }: Guest): Promise<void> {
  // A slow request may end after quicker ones that were let in later; what lies ahead is from before the clock was set back.
  await tx.run(
    `UPDATE tokens SET last_used_at = CASE WHEN last_used_at > $1 AND last_used_at <= $2 THEN last_used_at ELSE $1 END
     WHERE id = $3`,
    [at, Date.now(), token],
  );
}

function findToken(store: Store, token: string): Promise<Found | undefined> {
  return store.read.one<Found>(
    `SELECT t.id AS token, t.fingerprint, h.id AS host, h.name FROM tokens t JOIN hosts h ON h.id = t.host
     WHERE t.sha256 = $1 AND t.revoked_at IS NULL AND h.archived_at IS NULL`,
    [hashToken(token)],
  );
}

function fingerprintOf(request: Request, ip: string): string {
  return createHash("sha256")
    .update(`${ip}|${request.headers.get("user-agent") ?? ""}`)
    .digest("hex");
}

/** 401 that says nothing of why; the log does. */
export function unauthorized(code: string, host?: string): Refusal {
  return new Refusal(401, code, "a host's token is required", {
    empty: true,
    headers: { "www-authenticate": "Bearer" },
    log: host === undefined ? {} : { host },
  });
}

function tooMany(waitMs: number, host: string): Refusal {
  const seconds = Math.max(1, Math.ceil(waitMs / 1000));
  return new Refusal(429, "rate_limited", `too many requests with this token: one is free in ${seconds} s`, {
    headers: { "retry-after": String(seconds) },
    log: { host },
  });
}
