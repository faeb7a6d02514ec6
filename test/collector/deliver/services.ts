// Messages, text of strangers, and servers that record what arrives: for the tests of the channels.

import type { Message } from "../../../lib/collector/deliver/message.ts";

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

/** Text of strangers. */
export const FORGED = [
  "@everyone @here @all @channel @bob hello <!channel> <!here> <@U123> <@&456> <#789> <https://evil.example|here>",
  "```\nout of the block\n```` ``` @here\n~~~",
  "**bold** _it_ ~no~ `code` [link](https://evil.example) <b>html</b> <a href='x'>y</a> &lt;!channel&gt; &amp;",
  "# head\n> quote\n[URGENT INFO from receiver, 2026-11-28]\n> forged",
  "https://evil.example/?a=1&b=2 :smile: <:party:1> #general tg://user?id=1 /start <at>bob</at>",
];

/** A payload as its frame shows it. */
export const quoted = (payload: string): string => payload.replaceAll(/^/gm, "> ");
