import { expect, test } from "bun:test";
import * as v from "valibot";
import { WebhookSettings, openWebhook } from "../../../lib/collector/deliver/webhook.ts";

test("a webhook is sent as JSON with the message's id", async () => {
  let got: { key: string | null; body: unknown } | undefined;
  using server = Bun.serve({
    port: 0,
    async fetch(request) {
      got = { key: request.headers.get("idempotency-key"), body: await request.json() };
      return new Response("ok");
    },
  });
  const channel = openWebhook(v.parse(WebhookSettings, { url: `http://127.0.0.1:${server.port}/in` }));
  const event = {
    ts: "2026-11-28T10:00:00.000Z",
    id: "e1",
    from: "foreman",
    to: "ops",
    type: "INFO",
    priority: "urgent",
    payload: "hello",
  };
  const message = { id: "m1", recipient: "ops", events: [event], omitted: 2, reminder: false };
  expect(await channel.send(message, AbortSignal.timeout(5000))).toBe("200");
  expect(got).toMatchObject({
    key: "m1",
    body: { id: "m1", title: "ops: 3 events (1 urgent)", events: [event], omitted: 2 },
  });
});
