// The one reader of an `mcp` process: new events go to a tool that waits for one, or else are pushed to the client.
//
// Both, and `read_inbox`, read with the mark of `agent`, one turn at a time. An event counts as read when the client has read
// the message that it is in (mcp-stdio.ts): a kill before that repeats this event, and no other.

import type { Priority } from "../inbox.ts";
import type { Inboxes } from "../inboxes.ts";
import { type ReadEvent, follow, readEvents, readNew } from "../reader.ts";
import { fit } from "./fit.ts";
import type { Asked } from "./mcp-stdio.ts";

/** How often the inbox is looked at besides the watch, where a sentinel may appear or a renamed inbox may grow. */
const WANTED_MS = 1000;
/** More open events than fit into a text. */
const MOST_OPEN = 200;

interface Options {
  inboxes: Inboxes;
  recipient: string;
  /** Told of malformed lines, and of events that wait long for their sentinel. */
  warn: (message: string) => void;
  /** Pushes an event to the client; false when the client is gone. Null: nothing is pushed. */
  push: ((event: ReadEvent) => Promise<boolean>) | null;
  /** Called when the inbox has changed. */
  changed: () => void;
}

type Turn = Awaited<ReturnType<typeof readNew>>;

interface Look {
  limit: number;
  /** They stay new. */
  peek: boolean;
  /** The text of an answer, and how many of the events are in it. `more`: others are new, too. */
  fit: (events: ReadEvent[], more: boolean) => { text: string; count: number };
}

/** A tool that waits for an event. */
interface Waiter {
  min: Priority;
  asked: Asked;
  take: (event: ReadEvent) => void;
}

export type McpInbox = ReturnType<typeof openMcpInbox>;

export function openMcpInbox({ inboxes, recipient, warn, push, changed }: Options) {
  const source = { inboxes, recipient, reader: "agent", warn };
  const cursor = inboxes.cursor(recipient);
  const waiters = new Set<Waiter>();
  let isPushing = false;
  let seen: string | null = null;
  let last: Promise<unknown> = Promise.resolve();

  /** Does one thing after the other: a turn ends before the next one begins. */
  function queue<T>(work: () => Promise<T>): Promise<T> {
    const mine = last.then(work);
    last = mine.catch(() => {});
    return mine;
  }

  const isWanted = (): boolean => isPushing || waiters.size > 0;
  const look = () => queue(pass);

  /** Hands events over until there are none, or nothing wants them. @returns whether only a change of the inbox brings more. */
  async function pass(): Promise<boolean> {
    await tellChange();
    for (;;) {
      if (!isWanted()) return false;
      const turn = await readNew(source, cursor);
      try {
        if (await handOver(turn)) continue;
        return turn.events.length + turn.waiting === 0 && !cursor.isBehind;
      } finally {
        await turn.done();
      }
    }
  }

  async function tellChange(): Promise<void> {
    const now = await inboxes.version(recipient);
    if (seen !== null && now !== seen) changed();
    seen = now;
  }

  /** @returns whether there may be more to hand over. */
  async function handOver({ events, handedOver }: Turn): Promise<boolean> {
    for (const event of events) {
      const waiter = [...waiters].find(({ min }) => min === "normal" || event.priority === min);
      if (!waiter && !isPushing) return false;
      const isRead = waiter ? await give(waiter, event) : await push!(event);
      // A tool that was cancelled leaves the event to the next turn.
      if (!isRead) return waiter !== undefined;
      // Another process took the turn over: what it has shown isn't new any more.
      if (!(await handedOver())) break;
    }
    return events.length > 0;
  }

  /** Answers a waiting tool. @returns whether the client has read the answer. */
  function give({ asked, take }: Waiter, event: ReadEvent): Promise<boolean> {
    const isRead = answerOf(asked);
    take(event);
    return isRead;
  }

  return {
    recipient,
    /** Watches the inbox until `signal` is aborted. */
    async watch(signal: AbortSignal): Promise<void> {
      await follow(source, signal, look, () => (isWanted() ? WANTED_MS : inboxes.idleMs));
      await last;
      cursor.close();
    },
    /** From now on events are pushed, where they are to be. */
    startPushing(): void {
      isPushing = push !== null;
      // What fails now fails again at the next look of `watch`.
      look().catch(() => {});
    },
    /** New events as the text of an answer. */
    read(asked: Asked, { limit, peek, fit }: Look): Promise<string> {
      const { promise, resolve, reject } = Promise.withResolvers<string>();
      const work = async (): Promise<void> => {
        const turn = await readNew({ ...source, limit, peek }, cursor);
        let count = 0;
        try {
          const fitted = fit(turn.events, turn.more);
          const isRead = answerOf(asked);
          resolve(fitted.text);
          if ((await isRead) && !peek) count = fitted.count;
        } finally {
          await turn.done(count);
        }
      };
      queue(work).catch(reject);
      return promise;
    },
    /** The newest open events as text, urgent ones first: those that are not handled. */
    async open(): Promise<string> {
      const handled = inboxes.handled(recipient);
      await handled.refresh();
      const own = inboxes.cursor(recipient);
      const kept: ReadEvent[] = [];
      let isMore = false;
      await readEvents(own, { ...source, warn: () => {} }, (event) => {
        if (handled.has(event.id)) return;
        kept.push(event);
        if (kept.length <= MOST_OPEN) return;
        isMore = true;
        const normal = kept.findIndex(({ priority }) => priority !== "urgent");
        kept.splice(Math.max(0, normal), 1);
      });
      own.close();
      const isUrgent = ({ priority }: ReadEvent): number => Number(priority === "urgent");
      const ordered = kept.toSorted((a, b) => isUrgent(b) - isUrgent(a));
      return fit(ordered, { recipient, what: "open", isMore, rest: `in: picket-collector read ${recipient} --open` })
        .text;
    },
    /** The first new event of at least this priority; null when the time is over, or the request was cancelled. */
    next(asked: Asked, { min, timeoutMs }: { min: Priority; timeoutMs: number }): Promise<ReadEvent | null> {
      const { promise, resolve, reject } = Promise.withResolvers<ReadEvent | null>();
      const settle = (event: ReadEvent | null): void => {
        waiters.delete(waiter);
        clearTimeout(timer);
        resolve(event);
      };
      const waiter: Waiter = { min, asked, take: settle };
      const timer = setTimeout(settle, timeoutMs, null);
      asked.signal.addEventListener("abort", () => settle(null), { once: true });
      waiters.add(waiter);
      look().catch(reject);
      return promise;
    },
  };
}

/** Resolves when the request was answered: whether the client has read that. */
function answerOf(asked: Asked): Promise<boolean> {
  return new Promise((resolve) => (asked.answered = resolve));
}
