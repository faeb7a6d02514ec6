// Which delivery a request is: its route's path, what else it says, and the sender's own id.

import { derivedId } from "../outbox.ts";

/** What a request says besides its body. A character of a header is a byte of what was sent, as in the Fetch standard. */
export interface Asked {
  header: (name: string) => string | null | undefined;
  query: (name: string) => string | null | undefined;
}

/** What a request says; the query is read when it is asked for. */
export function askedOf({ headers, url }: Request): Asked {
  let parameters: URLSearchParams | undefined;
  return {
    header: (name) => headers.get(name),
    query(name) {
      const start = url.indexOf("?");
      parameters ??= new URLSearchParams(start < 0 ? "" : url.slice(start));
      return parameters.get(name);
    },
  };
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
  return derivedId(`${route.length}:${route}:${delivery}`);
}
