// The receiver's own heartbeat: while it works it fetches `heartbeat_url` each minute, the job of another receiver or of Healthchecks.
// The URL is a credential: neither it nor its path is in an error.

import { openClient } from "../client.ts";
import { keepProblem } from "./figures.ts";
import { Secret } from "../secret.ts";

const TIMEOUT_MS = 10_000;

interface Heart {
  urls: readonly Secret[];
  /** Whether the receiver can do its work now. */
  works: () => Promise<boolean>;
  /** Keeps why the last one didn't arrive. */
  last: { problem: string | null };
  signal: AbortSignal;
}

/** One beat. @throws TransportError, HttpError. */
export async function beat({ urls, works, last, signal }: Heart): Promise<void> {
  if (urls.length > 0 && !(await works())) return;
  await keepProblem(last, () => fetchAll(urls, signal));
}

async function fetchAll(urls: readonly Secret[], signal: AbortSignal): Promise<void> {
  await Promise.all(
    urls.map((secret) => {
      const url = new URL(secret.reveal());
      const { href, protocol, pathname, search } = url;
      const client = openClient({
        url: href,
        secrets: [secret, ...[href, pathname + search, pathname].map((text) => new Secret(text))],
        timeoutMs: TIMEOUT_MS,
        largestAnswer: 1 << 20,
        // To private addresses only.
        allow_http: protocol === "http:",
      });
      return client.ask({ what: "heartbeat", path: "", signal });
    }),
  );
}
