// What the tests of `mcp` share: a client as the public description of channels has it, and one that reads only when it is told to.

import { closeSync, constants, openSync, readSync } from "node:fs";
import type { Subprocess } from "bun";
import { inboxesIn } from "../inbox-kit.ts";
import { type Folder, command, until } from "../kit.ts";

export interface Message {
  id?: number;
  method?: string;
  params?: { content: string; meta: Record<string, string>; uri?: string };
  result?: Result;
  error?: { code: number; message: string };
}

export interface Result {
  content: { type: string; text: string }[];
  isError?: boolean;
  contents: { text: string }[];
  capabilities: Record<string, unknown>;
  instructions: string;
}

export interface Start {
  folder: Folder;
  args?: string[];
  env?: Record<string, string>;
  /** It reads stdout only by `readSome`: through a FIFO. */
  isSlow?: boolean;
}

/** The environment of a client: an inbox in the folder, and nothing of the machine's own configuration. */
export function environment(folder: Folder, more: Record<string, string> = {}): Record<string, string> {
  return { PATH: "/usr/bin:/bin", HOME: folder.path, PICKET_IDENTITY: "bob", ...inboxesIn(folder).env, ...more };
}

/** Appends events as any program may; gives their ids. */
export function append(folder: Folder, events: Record<string, unknown>[], recipient = "bob"): string[] {
  const whole = events.map((event) => ({
    ts: "2026-01-31T12:00:00.000Z",
    id: crypto.randomUUID().replaceAll("-", ""),
    from: "foreman",
    to: recipient,
    type: "INFO",
    priority: "normal",
    ...event,
  }));
  inboxesIn(folder).append(recipient, whole.map((event) => `${JSON.stringify(event)}\n`).join(""));
  return whole.map(({ id }) => id);
}

/** A client of `picket-collector mcp`. */
export class Client implements AsyncDisposable {
  readonly messages: Message[] = [];
  child!: Subprocess<"pipe", "pipe", "pipe">;
  stderr = "";
  #fifo = -1;
  #rest = "";
  #asked = 0;

  static async start({ folder, args = ["--channel"], env = {}, isSlow = false }: Start): Promise<Client> {
    const client = new Client();
    const words = [...(await command("collector", "binary")), "mcp", ...args];
    let out: "pipe" | number = "pipe";
    if (isSlow) {
      const fifo = folder.at("stdout");
      await Bun.$`mkfifo ${fifo}`.quiet().nothrow();
      client.#fifo = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK);
      out = openSync(fifo, "w");
    }
    const child = Bun.spawn(words, {
      env: environment(folder, env),
      cwd: folder.path,
      stdin: "pipe",
      stdout: out,
      stderr: "pipe",
    });
    if (typeof out === "number") closeSync(out);
    client.child = child;
    if (!isSlow) void client.#follow();
    void client.#log();
    await client.ask("initialize", {
      protocolVersion: "2025-11-25",
      capabilities: {},
      clientInfo: { name: "test", version: "1" },
    });
    client.tell("notifications/initialized");
    return client;
  }

  tell(method: string, params: object = {}, id?: number): void {
    void this.child.stdin.write(
      `${JSON.stringify({ jsonrpc: "2.0", ...(id === undefined ? {} : { id }), method, params })}\n`,
    );
    void this.child.stdin.flush();
  }

  /** Sends a request; gives its number. */
  send(method: string, params: object = {}): number {
    this.tell(method, params, ++this.#asked);
    return this.#asked;
  }

  async answer(id: number): Promise<Message> {
    return until(`request ${id} is answered`, () => {
      if (this.child.exitCode !== null) throw new Error(`it ended with ${this.child.exitCode}: ${this.stderr}`);
      if (this.#fifo >= 0) this.readSome(1);
      return this.messages.find((message) => message.id === id);
    });
  }

  async ask(method: string, params: object = {}): Promise<Message> {
    return this.answer(this.send(method, params));
  }

  /** The text of a tool's answer, after "error: " where it is one. */
  async call(name: string, args: object = {}): Promise<string> {
    const { result } = await this.ask("tools/call", { name, arguments: args });
    return `${result!.isError ? "error: " : ""}${result!.content[0]!.text}`;
  }

  /** The notifications of the channel so far. */
  get pushed(): { content: string; meta: Record<string, string> }[] {
    return this.messages.filter(({ method }) => method === "notifications/claude/channel").map(({ params }) => params!);
  }

  get ids(): string[] {
    return this.pushed.map(({ meta }) => meta["id"]!);
  }

  /** Reads what is there, at most so many messages. */
  readSome(most: number): void {
    const byte = Buffer.alloc(1);
    let line = this.#rest;
    for (let count = 0; count < most;) {
      try {
        if (readSync(this.#fifo, byte) === 0) break;
      } catch {
        break;
      }
      if (byte[0] !== 0x0a) line += byte.toString("latin1");
      else {
        this.messages.push(JSON.parse(Buffer.from(line, "latin1").toString()) as Message);
        line = "";
        count++;
      }
    }
    this.#rest = line;
  }

  /** Closes stdin; gives the exit code. */
  async end(): Promise<number> {
    await this.child.stdin.end();
    return this.child.exited;
  }

  async kill(): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.exited;
  }

  async #follow(): Promise<void> {
    for await (const chunk of this.child.stdout.pipeThrough(new TextDecoderStream())) {
      const lines = (this.#rest + chunk).split("\n");
      this.#rest = lines.pop() ?? "";
      for (const line of lines) this.messages.push(JSON.parse(line) as Message);
    }
  }

  async #log(): Promise<void> {
    for await (const chunk of this.child.stderr.pipeThrough(new TextDecoderStream())) this.stderr += chunk;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    if (this.#fifo >= 0) closeSync(this.#fifo);
  }
}
