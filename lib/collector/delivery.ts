// The sender's own id of a delivery: it stays the same when the delivery is sent again.

/**
 * Headers that carry it, first match wins: `webhook-id` leads, because its scheme signs it, so that a captured delivery can't be
 * made a new one by adding a header. Standard Webhooks and GitLab's signing token send `webhook-id`, GitLab
 * `Idempotency-Key` since 17.4. GitLab's two UUIDs are none: `X-Gitlab-Webhook-UUID` is another one with each attempt,
 * and different events share an `X-Gitlab-Event-UUID`.
 */
const HEADERS = ["webhook-id", "X-GitHub-Delivery", "X-Forgejo-Delivery", "X-Gitea-Delivery", "Idempotency-Key"];

/**
 * The delivery's id, or null when none is given. What can't be one, being longer than 200 characters or not printable
 * ASCII, counts as not given; the next header is asked.
 */
export function deliveryId(header: (name: string) => string | null | undefined): string | null {
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
