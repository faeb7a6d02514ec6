// A value that must never be seen: it prints as [redacted] wherever it is put, and is compared in constant time.

import { createHash, timingSafeEqual } from "node:crypto";

const REDACTED = "[redacted]";

/** Wraps a token, key or password. `reveal()` is the only way to the value; every way of printing gives `[redacted]`. */
export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** The value itself: for a header or an HMAC key, never for text that is kept or shown. */
  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  /** What `Bun.inspect` and `console.log` show: the symbol is the one that both Bun and `node:util` look for. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return REDACTED;
  }
}

/** What is shorter is guessed sooner than found in a log, and would tear any text apart. */
const SHORTEST_SOUGHT = 8;

/** Another's text without the secrets (of at least 8 characters) that it may repeat: an error page that shows the request, for one. */
export function without(secrets: readonly Secret[], text: string): string {
  const values = secrets.map((secret) => secret.reveal()).filter((value) => value.length >= SHORTEST_SOUGHT);
  return values.reduce((rest, value) => rest.replaceAll(value, REDACTED), text);
}

/**
 * Whether `given` is one of `secrets`; text counts as its UTF-8 bytes. No secrets listed means no.
 *
 * The time taken tells nothing about the values: SHA-256 digests are compared (`timingSafeEqual` throws on different
 * lengths, and lengths are telling), and every listed secret is looked at, also after a match.
 */
export function secretEquals(given: string | Uint8Array, secrets: readonly Secret[]): boolean {
  const digest = sha256(given);
  let equal = false;
  for (const secret of secrets) {
    const same = timingSafeEqual(digest, sha256(secret.reveal()));
    equal = same || equal;
  }
  return equal;
}

function sha256(value: string | Uint8Array): Buffer {
  return createHash("sha256").update(value).digest();
}
