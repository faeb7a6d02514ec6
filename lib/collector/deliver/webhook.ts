// A delivery as an HTTP request.

import * as v from "valibot";
import { openClient } from "../../client.ts";
import { Secret, secret } from "../../config.ts";
import { type Channel, type Message, textOf, titleOf } from "./message.ts";

const TIMEOUT_MS = 30_000;
const LARGEST_ANSWER = 1 << 20;

export const WebhookSettings = v.strictObject({
  /** A credential: with most services the path is all that is needed to write there. */
  ...secret("url", { required: true }),
});
type WebhookSettings = v.InferOutput<typeof WebhookSettings>;

export function openWebhook({ url: [url] }: WebhookSettings): Channel {
  const { origin, protocol, pathname, search } = new URL(url!.reveal());
  const path = pathname + search;
  const client = openClient({
    url: origin,
    secrets: [new Secret(path)],
    timeoutMs: TIMEOUT_MS,
    largestAnswer: LARGEST_ANSWER,
    // To private addresses only.
    allow_http: protocol === "http:",
  });
  return {
    async send(message, signal) {
      const headers = { "idempotency-key": message.id };
      const { status } = await client.ask({
        what: "webhook",
        method: "POST",
        path,
        headers,
        json: plainBody(message),
        signal,
      });
      return String(status);
    },
  };
}

function plainBody(message: Message) {
  const { id, recipient, events, omitted, reminder } = message;
  return { id, recipient, title: titleOf(message), text: textOf(message), omitted, reminder, events };
}
