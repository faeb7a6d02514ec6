// A server in place of ntfy's, for demonstrations.

export type Phone = ReturnType<typeof openPhone>;

/** It keeps what comes, as a phone would show it. */
export function openPhone() {
  const notifications: string[] = [];
  const server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const title = request.headers.get("title") ?? "";
      // What isn't ASCII comes in the form of RFC 2047.
      const [, encoded] = /^=\?UTF-8\?B\?(.*)\?=$/.exec(title) ?? [];
      const shown = encoded === undefined ? title : Buffer.from(encoded, "base64").toString();
      notifications.push(`[${shown}]\n${await request.text()}\n`);
      return Response.json({ event: "message" });
    },
  });
  return { url: new URL("/ops", server.url).href, notifications, [Symbol.dispose]: () => void server.stop(true) };
}
