// What a webhook delivers: the sender's own id of the delivery, and its data.

import { decodeUtf8 } from "../json.ts";
import { readJson } from "./numbers.ts";

/**
 * A path in the form in which paths are compared: dot segments resolved, slashes that follow each other joined, and each segment
 * percent-encoded alike (RFC 3986, section 6.2.2), so that `/größe`, `/gr%c3%b6ße` and `//größe` are one path. `%2F` stays apart from `/`,
 * a slash at the end and the case of letters count, and nothing is a pattern.
 */
export function comparable(path: string): string {
  const { pathname } = new URL(`http://host${path}`);
  const segments = pathname.replace(/\/{2,}/g, "/").split("/");
  return segments.map((segment) => encodeURIComponent(decoded(segment))).join("/");
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** What a request says besides its body. A character of a header is a byte of what was sent, as in the Fetch standard. */
export interface Asked {
  header: (name: string) => string | null | undefined;
  query: (name: string) => string | null | undefined;
}

/**
 * Headers that carry it, first match wins: `webhook-id` leads, because its scheme signs it, so that a captured delivery can't be
 * made a new one by adding a header; so does Svix with `svix-id`. Standard Webhooks and GitLab's signing token send `webhook-id`, GitLab
 * `Idempotency-Key` since 17.4. GitLab's two UUIDs are none: `X-Gitlab-Webhook-UUID` is another one with each attempt,
 * and different events share an `X-Gitlab-Event-UUID`.
 */
const HEADERS = [
  "webhook-id",
  "svix-id",
  "X-GitHub-Delivery",
  "X-Forgejo-Delivery",
  "X-Gitea-Delivery",
  "X-Gogs-Delivery",
  "Idempotency-Key",
];

/**
 * The delivery's id, or null when none is given. What can't be one, being longer than 200 characters or not printable
 * ASCII, counts as not given; the next header is asked.
 */
export function deliveryId(header: Asked["header"]): string | null {
  for (const name of HEADERS) {
    const value = header(name)?.trim();
    if (value && /^[\x20-\x7e]{1,200}$/.test(value)) return value;
  }
  return null;
}

/** The event id of a delivery on a route: 32 lower-case hex digits. The lengths keep different pairs apart. */
export function eventId(route: string, delivery: string): string {
  return new Bun.CryptoHasher("sha256").update(`${route.length}:${route}:${delivery}`).digest("hex").slice(0, 32);
}

// The body: JSON, or a form as browsers, Slack and GitHub send it

const FORM = /^\s*(?:application\/x-www-form-urlencoded|multipart\/form-data)\b/i;

/** The body is neither JSON nor a form that can be read; the message says what is wrong with it. */
export class PayloadError extends Error {}

/**
 * The data a template sees. An empty body is an empty object. Of a form the fields become keys, a field that comes
 * several times a list; a field `payload` that holds JSON becomes the data itself. JSON that is called a form is JSON. Throws PayloadError.
 */
export function parsePayload(body: Uint8Array, contentType: string | undefined): unknown {
  if (body.length === 0) return {};
  if (contentType === undefined || !FORM.test(contentType)) return parseText(decode(body));
  // `curl -d '{"a":1}'` says that it is a form. A form that begins with a brace would have it encoded.
  const json = body[0] === 0x7b || body[0] === 0x5b ? tryJson(decode(body)) : undefined;
  return json ?? parseForm(body, contentType);
}

function decode(body: Uint8Array): string {
  try {
    return decodeUtf8(body);
  } catch (error) {
    throw new PayloadError(`the body is ${(error as Error).message}`);
  }
}

function parseText(text: string): unknown {
  try {
    return readJson(text);
  } catch (error) {
    throw new PayloadError(`the body is not JSON: ${(error as Error).message}`);
  }
}

async function parseForm(body: Uint8Array, contentType: string): Promise<unknown> {
  let form: FormData;
  try {
    form = (await new Response(body, { headers: { "content-type": contentType } }).formData()) as FormData;
  } catch (error) {
    throw new PayloadError(`the body is not the form it says it is: ${(error as Error).message}`);
  }
  const payload = form.get("payload");
  if (typeof payload === "string") {
    const data = tryJson(payload);
    if (data !== undefined) return data;
  }
  // Without a prototype: a field may be named like anything.
  const fields = Object.create(null) as Record<string, string | string[]>;
  // In one pass: `getAll` looks through all fields for each name.
  for (const [name, value] of form.entries() as Iterable<[string, string | File]>) {
    // Of an uploaded file only the name is of use in a line of text.
    const given = typeof value === "string" ? value : value.name;
    const before = fields[name];
    if (before === undefined) fields[name] = given;
    else if (typeof before === "string") fields[name] = [before, given];
    else before.push(given);
  }
  return fields;
}

function tryJson(text: string): unknown {
  try {
    return readJson(text);
  } catch {
    return undefined;
  }
}
