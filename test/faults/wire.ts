// Requests as bytes, for clients that break off, write slowly, or don't read.

import { type Socket, connect } from "node:net";
import { once } from "node:events";

/** A request, before it is sent. */
export interface Request {
  method: string;
  path: string;
  headers?: Record<string, string>;
  body?: string | Uint8Array;
}

/** What goes over the wire (RFC 9112). */
export function bytesOf({ method, path, headers = {}, body = "" }: Request): Buffer {
  const content = Buffer.from(body as string);
  const all = { host: "x", "content-length": String(content.length), ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`), content]);
}

/** A connection; null when there is none to be had. */
export async function dial(port: number): Promise<Socket | null> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  try {
    await once(socket, "connect");
    return socket;
  } catch {
    return null;
  }
}

/** The status that is answered; 0 when the connection ends or so many seconds pass before. */
export function statusOf(socket: Socket, seconds: number): Promise<number> {
  return new Promise((resolve) => {
    let said = "";
    const timer = setTimeout(() => resolve(0), seconds * 1000);
    const done = (status: number) => {
      clearTimeout(timer);
      resolve(status);
    };
    socket.on("data", (chunk) => {
      said += chunk.toString("latin1");
      const status = /^HTTP\/1\.1 (\d{3}) /.exec(said)?.[1];
      if (status) done(Number(status));
    });
    socket.on("close", () => done(0));
  });
}

/** Sends a request on a connection of its own; gives the status, 0 for no answer. */
export async function exchange(port: number, bytes: Buffer, seconds = 5): Promise<number> {
  const socket = await dial(port);
  if (!socket) return 0;
  socket.write(bytes);
  const status = await statusOf(socket, seconds);
  socket.destroy();
  return status;
}
