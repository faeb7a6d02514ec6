// Who sent a webhook: the signature schemes of the products that send them.
//
//   github    X-Hub-Signature-256: sha256=<hex>            docs.github.com, "Validating webhook deliveries"
//   forgejo   X-Forgejo-Signature or X-Gitea-Signature: <hex>
//   gitlab    X-Gitlab-Token: <the secret itself>
//   slack     X-Slack-Signature: v0=<hex> over "v0:<timestamp>:<body>"
//   stripe    Stripe-Signature: t=<timestamp>,v1=<hex>[,v1=…] over "<timestamp>.<body>"
//   standard  webhook-signature: v1,<base64>[ v1,…] over "<id>.<timestamp>.<body>"   standardwebhooks.com
//   bearer    Authorization: Bearer <the secret itself>
//
// Comparisons take the same time whatever differs. Several secrets may be valid at once, for rotation.

import { timingSafeEqual } from "node:crypto";
import { type Secret, secretEquals } from "../secret.ts";

/** The schemes a route may name; `none` says in so many words that anybody may send. */
export const SCHEMES = ["github", "forgejo", "gitlab", "slack", "stripe", "standard", "bearer", "none"] as const;
export type Scheme = (typeof SCHEMES)[number];

/** How far a signed timestamp may be from now, in seconds, either way. */
const TOLERANCE_SECONDS = 300;

export type Header = (name: string) => string | null | undefined;

export interface Verifier {
  /** What can be said without the body: null, or why the request is refused. */
  early(header: Header, nowMs: number): string | null;
  /** Null when the signature is good, else why not, in words without any secret. */
  verify(header: Header, body: Uint8Array, nowMs: number): string | null;
}

/** A verifier for a scheme and its secrets. Throws a plain Error for a secret that can't be one of this scheme. */
export function compileVerifier({ scheme, secrets }: { scheme: Scheme; secrets: readonly Secret[] }): Verifier {
  if (scheme === "none") return { early: () => null, verify: () => null };
  if (secrets.length === 0 || secrets.some((secret) => secret.reveal() === "")) throw new Error("the secret is empty");
  if (scheme === "gitlab") return shared("X-Gitlab-Token", secrets, (value) => value);
  if (scheme === "bearer") return shared("Authorization", secrets, (value) => /^Bearer +(.+)$/i.exec(value)?.[1]);
  return signed(scheme, secrets);
}

/** Schemes that send the secret itself. */
function shared(name: string, secrets: readonly Secret[], token: (value: string) => string | undefined): Verifier {
  const early: Verifier["early"] = (header) => {
    const value = header(name);
    if (!value) return `${name} is missing`;
    const given = token(value);
    if (given === undefined) return `${name} is malformed`;
    return secretEquals(given, secrets) ? null : `${name} does not match`;
  };
  return { early, verify: (header, _body, nowMs) => early(header, nowMs) };
}

/** What a signature header says: which signatures, and what was signed before the body. */
interface Claim {
  name: string;
  signatures: Buffer[];
  prefix: string;
  /** Seconds since 1970. */
  timestamp?: number;
}

type Reader = (header: Header) => Claim | string;

const READERS: Record<"github" | "forgejo" | "slack" | "stripe" | "standard", Reader> = {
  github: (header) => hexClaim("X-Hub-Signature-256", header("X-Hub-Signature-256"), "sha256="),
  forgejo(header) {
    const forgejo = header("X-Forgejo-Signature");
    // Forgejo sends both; the one named after itself decides.
    return forgejo
      ? hexClaim("X-Forgejo-Signature", forgejo, "")
      : hexClaim("X-Forgejo-Signature or X-Gitea-Signature", header("X-Gitea-Signature"), "");
  },
  slack(header) {
    const claim = hexClaim("X-Slack-Signature", header("X-Slack-Signature"), "v0=");
    if (typeof claim === "string") return claim;
    const timestamp = header("X-Slack-Request-Timestamp");
    if (!timestamp) return "X-Slack-Request-Timestamp is missing";
    return { ...claim, prefix: `v0:${timestamp}:`, timestamp: seconds(timestamp) };
  },
  stripe(header) {
    const value = header("Stripe-Signature");
    if (!value) return "Stripe-Signature is missing";
    const fields = value.split(",").map((field) => field.trim().split("=", 2) as [string, string | undefined]);
    const timestamp = fields.find(([key]) => key === "t")?.[1];
    const signatures = fields.flatMap(([key, hex]) => (key === "v1" && isHex(hex) ? [Buffer.from(hex, "hex")] : []));
    if (!timestamp || signatures.length === 0) return "Stripe-Signature is malformed";
    return { name: "Stripe-Signature", signatures, prefix: `${timestamp}.`, timestamp: seconds(timestamp) };
  },
  standard(header) {
    const [id, timestamp, value] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map((name) => header(name));
    if (!id || !timestamp || !value) return "webhook-id, webhook-timestamp or webhook-signature is missing";
    const signatures = value
      .split(" ")
      .flatMap((one) => (one.startsWith("v1,") ? [Buffer.from(one.slice(3), "base64")] : []));
    if (signatures.length === 0) return "webhook-signature is malformed";
    return { name: "webhook-signature", signatures, prefix: `${id}.${timestamp}.`, timestamp: seconds(timestamp) };
  },
};

function signed(scheme: keyof typeof READERS, secrets: readonly Secret[]): Verifier {
  const keys = secrets.map((secret) => (scheme === "standard" ? standardKey(secret) : Buffer.from(secret.reveal())));
  const read = READERS[scheme];
  const judge = (header: Header, nowMs: number): Claim | string => {
    const claim = read(header);
    if (typeof claim === "string" || claim.timestamp === undefined) return claim;
    if (Number.isNaN(claim.timestamp)) return "the timestamp is malformed";
    const off = nowMs / 1000 - claim.timestamp;
    if (off > TOLERANCE_SECONDS) return `the timestamp is ${Math.round(off)} s old, over ${TOLERANCE_SECONDS} s`;
    if (off < -TOLERANCE_SECONDS) return `the timestamp is ${Math.round(-off)} s ahead: a clock is wrong`;
    return claim;
  };
  return {
    early(header, nowMs) {
      const claim = judge(header, nowMs);
      return typeof claim === "string" ? claim : null;
    },
    verify(header, body, nowMs) {
      const claim = judge(header, nowMs);
      if (typeof claim === "string") return claim;
      return keys.some((key) => matches(key, claim, body)) ? null : `${claim.name} does not match`;
    },
  };
}

function matches(key: Buffer, { prefix, signatures }: Claim, body: Uint8Array): boolean {
  const hmac = new Bun.CryptoHasher("sha256", key);
  if (prefix !== "") hmac.update(prefix);
  const expected = hmac.update(body).digest();
  return signatures.some((given) => given.length === expected.length && timingSafeEqual(given, expected));
}

function hexClaim(name: string, value: string | null | undefined, prefix: string): Claim | string {
  if (!value) return `${name} is missing`;
  const hex = value.startsWith(prefix) ? value.slice(prefix.length) : "";
  if (!isHex(hex)) return `${name} is malformed`;
  return { name, signatures: [Buffer.from(hex, "hex")], prefix: "" };
}

function isHex(text: string | undefined): text is string {
  return text !== undefined && /^[0-9a-fA-F]{64}$/.test(text);
}

function seconds(text: string): number {
  return /^\d{1,12}$/.test(text) ? Number(text) : Number.NaN;
}

/** `whsec_` is followed by the key in base64; anything else is the key itself. */
function standardKey(secret: Secret): Buffer {
  const text = secret.reveal();
  if (!text.startsWith("whsec_")) return Buffer.from(text);
  const base64 = text.slice("whsec_".length);
  if (!/^[A-Za-z0-9+/]+={0,2}$/.test(base64)) throw new Error("what follows whsec_ is not base64");
  return Buffer.from(base64, "base64");
}
