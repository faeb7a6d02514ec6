// The sender's own id of a delivery: it stays the same when the delivery is sent again.

/** Headers that carry it, first match wins. GitLab sends `Idempotency-Key`, Standard Webhooks `webhook-id`. */
const HEADERS = ["X-GitHub-Delivery", "X-Forgejo-Delivery", "X-Gitea-Delivery", "webhook-id", "Idempotency-Key"];

/** The delivery's id, or null: none given, or none that can be one (1 to 200 printable ASCII characters). */
export function deliveryId(header: (name: string) => string | null | undefined): string | null {
  for (const name of HEADERS) {
    const value = header(name)?.trim();
    if (value) return /^[\x21-\x7e]{1,200}$/.test(value) ? value : null;
  }
  return null;
}

/** The event id of a delivery on a route: 32 lower-case hex digits. The lengths keep different pairs apart. */
export function eventId(route: string, delivery: string): string {
  return new Bun.CryptoHasher("sha256").update(`${route.length}:${route}:${delivery}`).digest("hex").slice(0, 32);
}
