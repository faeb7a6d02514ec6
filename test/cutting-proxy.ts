// A proxy on the loopback that breaks things: it cuts connections at a byte, or lets bytes through slowly.

import { type Server, type Socket, connect, createServer } from "node:net";
import { once } from "node:events";

/** Hands bytes on in both directions, until so many of a connection's have gone to the server: then both ends are cut. */
export class CuttingProxy implements Disposable {
  /** How many bytes of a connection reach the server. */
  cutAfter = Number.POSITIVE_INFINITY;
  /** Asked for each new connection where it is set; else `cutAfter` holds. */
  nextCut: (() => number) | null = null;
  /** The same for the bytes that come back: what was asked for is done, and its answer is lost. */
  nextAnswerCut: (() => number) | null = null;
  /** So many bytes at a time, a few milliseconds apart, in both directions; 0 is as they come. */
  trickle = 0;
  readonly port: number;
  #server: Server;
  #sockets = new Set<Socket>();

  private constructor(server: Server) {
    this.#server = server;
    this.port = (server.address() as { port: number }).port;
  }

  /** One that listens. */
  static async to(port: number): Promise<CuttingProxy> {
    const server = createServer({ allowHalfOpen: false });
    await once(server.listen(0, "127.0.0.1"), "listening");
    const proxy = new CuttingProxy(server);
    server.on("connection", (client) => proxy.#take(client, connect(port, "127.0.0.1")));
    return proxy;
  }

  #take(client: Socket, server: Socket): void {
    const left = this.nextCut?.() ?? this.cutAfter;
    const answers = this.nextAnswerCut?.() ?? Number.POSITIVE_INFINITY;
    const cut = () => {
      client.resetAndDestroy();
      server.destroy();
    };
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", () => {});
      socket.on("close", () => this.#sockets.delete(socket));
    }
    client.on("close", () => server.destroy());
    server.on("close", () => client.end());
    if (left === 0) return cut();
    const asked = upTo(left);
    const answered = upTo(answers);
    void this.#hand(client, server, asked).then(() => asked.over() && server.end(cut));
    void this.#hand(server, client, answered).then(() => answered.over() && cut());
  }

  /** Copies what is allowed of each chunk, until it is over. */
  async #hand(
    from: Socket,
    to: Socket,
    { allow, over }: { allow: (chunk: Buffer) => Buffer; over: () => boolean },
  ): Promise<void> {
    try {
      for await (const chunk of from as AsyncIterable<Buffer>) {
        const step = this.trickle || chunk.length;
        const part = allow(chunk);
        for (let at = 0; at < part.length; at += step) {
          if (!to.write(part.subarray(at, at + step))) await once(to, "drain");
          if (this.trickle) await Bun.sleep(2);
        }
        if (over()) return;
      }
    } catch {
      // An end is gone: the other follows it.
    }
  }

  /** Cuts all that are open now. */
  cutAll(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  [Symbol.dispose](): void {
    this.#server.close();
    this.cutAll();
  }
}

/** Allows so many bytes. */
function upTo(left: number) {
  return {
    allow(chunk: Buffer): Buffer {
      const part = chunk.subarray(0, Math.min(left, chunk.length));
      left -= part.length;
      return part;
    },
    over: () => left === 0,
  };
}
