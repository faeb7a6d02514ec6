// The stdio transport of the Model Context Protocol: one JSON-RPC message a line, requests on stdin, answers and notifications on stdout.
//
// tmcp brings a transport of its own. This one differs where events would be lost or a session would hang:
//
//   a message counts as sent when the client has read it, not when it was buffered: `send` waits for the pipe to be empty
//   requests are answered side by side: one that waits for an event doesn't hold up the others
//   notifications/cancelled aborts the signal that its request's handler was given, and no answer follows
//   a line that isn't a message is answered with an error instead of nothing

import { once } from "node:events";
import { isReadOut } from "../ffi.ts";

/** What a request's handler finds in `server.ctx.custom`. */
export interface Asked extends Record<string, unknown> {
  /** Aborted when the client cancels the request, or is gone. */
  signal: AbortSignal;
  /** Told whether the client has read the answer. */
  answered?: (isRead: boolean) => void;
}

/** What answers messages: tmcp's McpServer. */
interface Server {
  receive: (message: never, context: { custom: Asked }) => unknown;
}

interface Message {
  jsonrpc: "2.0";
  id?: string | number | null;
  method?: string;
  params?: Record<string, unknown>;
  result?: unknown;
  error?: { code: number; message: string };
}

/** A client that is reading has read within so long; one that isn't is looked at ever more seldom. In milliseconds. */
const SPIN_MS = 2;
const SLOWEST_LOOK_MS = 100;
const NEWLINE = 0x0a;

/** Serves stdin until it ends, or `signal` is aborted. */
export function openStdio(server: Server, signal: AbortSignal) {
  const under = new Map<string | number, AbortController>();
  const over = new AbortController();
  const gone = AbortSignal.any([signal, over.signal]);
  let writing: Promise<boolean> = Promise.resolve(true);
  let giveUp = (): void => {};
  const ready = Promise.withResolvers<void>();
  gone.addEventListener("abort", () => giveUp());
  process.stdout.on("error", () => over.abort());

  /** Sends one message. @returns whether the client has read it; false when it is gone. */
  async function send(message: Message): Promise<boolean> {
    const text = `${JSON.stringify(message)}\n`;
    const written = writing.then(() => {
      if (gone.aborted) return false;
      return new Promise<boolean>((resolve) => {
        giveUp = () => resolve(false);
        process.stdout.write(text, (error) => resolve(!error));
      });
    });
    writing = written;
    return (await written) && isRead(gone);
  }

  async function receive(message: Message): Promise<void> {
    const { id, method, params } = message;
    if (method === "notifications/initialized") ready.resolve();
    if (method === "notifications/cancelled") under.get(params?.["requestId"] as string)?.abort();
    const own = new AbortController();
    const isRequest = method !== undefined && id !== undefined && id !== null;
    if (isRequest) under.set(id, own);
    const custom: Asked = { signal: AbortSignal.any([own.signal, gone]) };
    let isRead = false;
    try {
      const answer = await server.receive(message as never, { custom });
      const isWanted = answer !== null && answer !== undefined && !own.signal.aborted;
      isRead = isWanted && (await send(answer as Message));
    } finally {
      custom.answered?.(isRead);
      if (isRequest) under.delete(id);
    }
  }

  function take(line: Buffer): void {
    if (line.length === 0) return;
    let message: unknown;
    try {
      message = JSON.parse(line.toString("utf8"));
    } catch (error) {
      void send(failure(-32700, `not JSON: ${(error as Error).message}`));
      return;
    }
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      void send(failure(-32600, "not a JSON-RPC message"));
      return;
    }
    receive(message as Message).catch((error: unknown) => {
      const { id, method } = message as Message;
      if (method !== undefined) void send({ ...failure(-32603, (error as Error).message), id: id ?? null });
    });
  }

  /** Reads stdin; resolves when it ends. */
  async function listen(): Promise<void> {
    let rest: Buffer[] = [];
    process.stdin.on("data", (chunk: Buffer) => {
      let start = 0;
      for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
        take(Buffer.concat([...rest, chunk.subarray(start, end)]));
        rest = [];
        start = end + 1;
      }
      if (start < chunk.length) rest.push(chunk.subarray(start));
    });
    for (const end of ["end", "close", "error"]) process.stdin.on(end, () => over.abort());
    if (!gone.aborted) await once(gone, "abort");
  }

  return {
    send,
    listen,
    /** Resolves when the client is ready for notifications. */
    ready: ready.promise,
    /** Aborted when the client is gone. */
    gone,
  };
}

function failure(code: number, message: string): Message {
  return { jsonrpc: "2.0", id: null, error: { code, message } };
}

/** Waits until the client has read everything that was written. @returns false when it is gone before that. */
async function isRead(gone: AbortSignal): Promise<boolean> {
  const begun = performance.now();
  for (let pause = 1; ; pause = Math.min(pause * 2, SLOWEST_LOOK_MS)) {
    for (;;) {
      // Where that can't be known (a file, another system) what was written counts.
      const is = isReadOut(1) ?? true;
      if (is || gone.aborted) return is;
      if (performance.now() - begun > SPIN_MS) break;
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Bun.sleep(pause);
  }
}
