// Messages, some of them from strangers, and servers that record what arrives: for the tests of the channels.

import { expect } from "bun:test";
import { asBlock } from "../../../lib/frame.ts";
import type { Message } from "../../../lib/collector/deliver/message.ts";
import { FORGED_EVENTS, expectFramed } from "../../forgeries.ts";

export const EVENT = {
  ts: "2026-11-28T10:00:00.000Z",
  id: "e1",
  from: "foreman",
  to: "ops",
  type: "INFO",
  priority: "normal",
};

export const message = (payload: string, more: Partial<Message> = {}): Message => ({
  id: "m1",
  recipient: "ops",
  events: [{ ...EVENT, source: "webhook:/note", payload }],
  omitted: 0,
  reminder: false,
  ...more,
});

export interface Got {
  method: string;
  path: string;
  headers: Headers;
  text: string;
}

/** A server that records, and answers as it is told to. */
export function service(answer: (got: Got) => Response | Promise<Response>) {
  const all: Got[] = [];
  const server = Bun.serve({
    port: 0,
    async fetch(request) {
      const { pathname, search } = new URL(request.url);
      const { method, headers } = request;
      const got = { method, headers, path: pathname + search, text: await request.text() };
      all.push(got);
      return answer(got);
    },
  });
  return { url: `http://127.0.0.1:${server.port}`, all, [Symbol.dispose]: () => void server.stop(true) };
}

/** Messages with text of strangers in each field of an event. */
export const HOSTILE = FORGED_EVENTS.map((event) => message("", { events: [{ ...EVENT, payload: "", ...event }] }));

/** Expects that a text ends with the event of a message in its frame, and that nothing in it poses as another. */
export function expectShown(text: string, { events }: Message): void {
  expect(text).toEndWith(asBlock(events[0]!));
  expectFramed(text.slice(text.indexOf("[")));
}
