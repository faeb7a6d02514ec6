// What the tests of deliveries share: the other side as a real server, events, and a collector that delivers them.

import { inboxesIn } from "../../inbox-kit.ts";
import { type Daemon, Folder, type RunOptions, runRole, startRole, until } from "../../kit.ts";

/** A message as a webhook sends it. */
export interface Got {
  id: string;
  recipient: string;
  events: { id: string; payload: string; priority: string }[];
  omitted: number;
  reminder: boolean;
}

/** The other side. It keeps what it answered with 2xx. */
export class Sink implements Disposable {
  readonly got: Got[] = [];
  /** Requests, taken or not. */
  asked = 0;
  readonly url: string;
  #server: Bun.Server<undefined>;
  /** @param answer gets the number of the request, from 1. */
  answer: (n: number, message: Got) => Response | Promise<Response>;
  constructor(answer: Sink["answer"] = () => new Response("ok"), port = 0) {
    this.answer = answer;
    this.#server = Bun.serve({
      port,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      maxRequestBodySize: 1 << 30,
      fetch: async (request) => {
        const message = (await request.json()) as Got;
        const answer = await this.answer(++this.asked, message);
        if (answer.ok) this.got.push(message);
        return answer;
      },
    });
    this.url = `http://127.0.0.1:${this.#server.port}/in`;
  }
  /** The payloads that came, in the order of the messages. */
  get payloads(): string[] {
    return this.got.flatMap(({ events }) => events.map(({ payload }) => payload));
  }
  [Symbol.dispose](): void {
    void this.#server.stop(true);
  }
}

export interface Given {
  id?: string;
  priority?: string;
  type?: string;
  sentinel?: string;
  ts?: string;
}

/** Events as the lines of an inbox. */
export function linesOf(recipient: string, payloads: string[], given: Given = {}): string {
  const [ts, from] = [new Date().toISOString(), "foreman"];
  return payloads
    .map((payload) => {
      const id = Bun.hash(`${recipient} ${payload}`).toString(16).padStart(32, "0");
      const event = { ts, id, from, to: recipient, type: "INFO", priority: "normal", ...given, payload };
      return `${JSON.stringify(event)}\n`;
    })
    .join("");
}

/** Appends events to an inbox, as any program may. */
export function append(folder: Folder, recipient: string, payloads: string[], given: Given = {}): void {
  inboxesIn(folder).append(recipient, linesOf(recipient, payloads, given));
}

/** Numbered payloads. */
export const numbered = (count: number, from = 1): string[] => Array.from({ length: count }, (_, n) => `e${n + from}`);

/** Writes the configuration: `deliver` has a line for each delivery. */
export function configure(folder: Folder, deliver: string[], more = ""): string {
  const list = deliver.map((one) => `  - ${one}\n`).join("");
  const listen = 'webhook: { listen: "127.0.0.1:0", routes: [] }';
  return folder.write("c.yaml", `agent: foreman\n${inboxesIn(folder).yaml}\n${listen}\ndeliver:\n${list}${more}\n`);
}

export async function start(folder: Folder, options: RunOptions = {}): Promise<Daemon> {
  const daemon = await startRole("collector", ["--config", folder.at("c.yaml"), "--log-level", "debug"], options);
  await daemon.url();
  return daemon;
}

export const run = (folder: Folder, ...args: string[]) =>
  runRole("collector", [...args, "--config", folder.at("c.yaml")]);

/** Waits until these payloads came, whatever else did. */
export const came = (sink: Sink, payloads: string[]) =>
  until(`${payloads.length} events were delivered`, () => {
    const got = new Set(sink.payloads);
    return payloads.every((one) => got.has(one));
  });
