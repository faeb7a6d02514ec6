// A service that takes messages over HTTP.

import * as v from "valibot";
import { HttpError, type Ask, openClient } from "../../client.ts";
import { type Problem, Secret, readableFile, secret } from "../../config.ts";
import { cut, printable } from "../../text.ts";
import { Refused } from "./message.ts";

const TIMEOUT_MS = 30_000;
const LARGEST_ANSWER = 1 << 20;
const LONGEST_REASON = 200;
/** Statuses below 500 after which the same request is tried again soon: timeout, too early, too many requests. */
const SOON = new Set([408, 425, 429]);

/** Where a service is. The URL is a credential: with most services its path, or a topic's name, is all that is needed to write there. */
export const serviceEntries = {
  ...secret("url"),
  /** Certificates to trust, instead of the system's authorities. */
  ca_file: v.optional(readableFile()),
};

/** What is wrong with the URL of a service; never the URL itself. */
export function* urlProblems({ url }: { url: readonly Secret[] }): Generator<Problem> {
  if (url.length > 1) yield { path: ["url"], text: "expected one URL" };
  for (const one of url) {
    const text = one.reveal();
    const parsed = /^https?:\/\/[^/?#]/i.test(text) ? URL.parse(text) : null;
    if (parsed === null) yield { path: ["url"], text: 'expected an http or https URL, such as "https://hub.example"' };
    else if (parsed.username !== "" || parsed.password !== "" || parsed.hash !== "")
      yield { path: ["url"], text: "expected a URL without user name, password and #" };
  }
}

interface ServiceOptions {
  /** Stands in errors: `ntfy`. */
  name: string;
  url: Secret;
  secrets: readonly Secret[];
  ca_file?: string | undefined;
}

interface Telling extends Omit<Ask, "what" | "path"> {
  path?: string | undefined;
  query?: Record<string, string> | undefined;
}

export type Answer = Awaited<ReturnType<ReturnType<typeof openClient>["ask"]>>;

/** Opens it. A path is appended to that of the URL, whose query stays. @throws Error when the certificates can't be read. */
export function openService({ name, url, secrets, ca_file }: ServiceOptions) {
  const { origin, protocol, pathname, search } = new URL(url.reveal());
  const client = openClient({
    url: origin,
    secrets: [new Secret(pathname + search), new Secret(pathname), ...secrets],
    timeoutMs: TIMEOUT_MS,
    largestAnswer: LARGEST_ANSWER,
    // The status decides: a message that was taken is not sent again because of a long page.
    cutsAnswer: true,
    ca_file,
    // To private addresses only.
    allow_http: protocol === "http:",
  });
  return {
    /** @throws TransportError, Refused; the signal's reason if it was aborted. */
    async tell({ path = "", query = {}, ...ask }: Telling): Promise<Answer> {
      const base = path === "" ? pathname : pathname.replace(/\/+$/, "");
      const parameters = [search.slice(1), String(new URLSearchParams(query))].filter(Boolean).join("&");
      try {
        return await client.ask({
          method: "POST",
          ...ask,
          what: name,
          path: base + path + (parameters && `?${parameters}`),
        });
      } catch (error) {
        throw error instanceof HttpError ? refusedBy(name, error) : error;
      }
    },
  };
}

function refusedBy(name: string, { status, given, body, retryAfter, message }: HttpError): Refused {
  const reason = reasonOf(given);
  const later = SOON.has(status) || status >= 500;
  const text = reason === "" ? message : `${name}: answered ${status}: ${reason}`;
  return new Refused(text, { status, later, retryAfter: retryAfter ?? waitIn(body) });
}

/** What an answer says in words: the field that holds it has another name with each service. A page of HTML says nothing. */
export function reasonOf(given: unknown): string {
  if (typeof given === "string") return /^\s*</.test(given) ? "" : cut(printable(given.trim()), LONGEST_REASON);
  const { errorDescription, description, message, error, errors } = (given ?? {}) as Record<string, unknown>;
  const inner = (error as { message?: unknown } | undefined)?.message;
  const all = [
    errorDescription,
    description,
    message,
    inner,
    error,
    Array.isArray(errors) ? errors.join(", ") : errors,
  ];
  return reasonOf(all.find((one) => typeof one === "string") ?? "");
}

/** Seconds to wait, where the body says it: Discord, Telegram, Matrix. */
function waitIn(body: Record<string, unknown>): number | null {
  const { retry_after, parameters, retry_after_ms } = body;
  const inner = (parameters as { retry_after?: unknown } | undefined)?.retry_after;
  const wait = [retry_after, inner, typeof retry_after_ms === "number" ? retry_after_ms / 1000 : null].find(
    (one) => typeof one === "number",
  );
  return typeof wait === "number" && wait >= 0 ? Math.min(wait, 3600) : null;
}
