// Keeps open pages up to date. A browser has a stream for the page that it shows. All streams of one address share a rendering: it is made
// again when something was taken or changed, and the regions that differ are sent.
//
//   event: hello    { version }                    what the page was at this moment; a browser that shows another one fetches the page
//   event: update   { title, version, regions, lists }    the HTML of the regions that changed; the order of the lists that did
//   event: alive                                   nothing changed for a while
//
// A page is rendered at most once a second, and not so often that it takes more than a twentieth of the time.

import type { SSEStreamingApi } from "hono/streaming";
import type { Log } from "../../log.ts";
import type { News } from "../events.ts";
import type { Rendered } from "./regions.tsx";

const LEAST_MS = 1000;
/** A rendering is followed by a pause of so many times what it took. */
const PAUSE_TIMES = 20;
const ALIVE_MS = 15_000;
/** So many updates wait for a browser that takes none, one asleep for example; then its stream ends, and it fetches the page. */
const MOST_WAITING = 30;

/** A page at one moment. */
export interface Moment extends Rendered {
  title: string;
}

interface Channel {
  moment: Moment;
  /** Called after each change, and at the end. */
  listeners: Set<(update: string | null) => void>;
  /** Ends the pause between two renderings. */
  wake: () => void;
  isOver: boolean;
}

export interface Following {
  news: News;
  log: Log;
  /** Renders the page of an address (path and query). @throws where it is gone. */
  render: (address: string) => Promise<Moment>;
  /** Changes where another process changed the store. */
  changes: () => Promise<unknown>;
  stopping: AbortSignal;
}

/** Follows pages for browsers. */
export function createLive({ news, log, render, changes, stopping }: Following) {
  const channels = new Map<string, Promise<Channel>>();

  async function open(address: string): Promise<Channel> {
    // Before the first rendering: a change during it counts.
    const changed = sinceLast();
    try {
      await changed.isDirty();
      const channel: Channel = { moment: await render(address), listeners: new Set(), wake: () => {}, isOver: false };
      void follow(address, channel, changed).catch((error: unknown) =>
        log.warn("a page is no longer followed", { address, error }),
      );
      return channel;
    } catch (error) {
      changed.end();
      channels.delete(address);
      throw error;
    }
  }

  /** Tells whether anything may have changed since it was last asked. */
  function sinceLast() {
    let [isDirty, seen]: [boolean, unknown] = [false, null];
    const onChange = () => void (isDirty = true);
    news.on("change", onChange).on("event", onChange);
    return {
      async isDirty(): Promise<boolean> {
        const now = await changes();
        const is = isDirty || now !== seen;
        [isDirty, seen] = [false, now];
        return is;
      },
      end: () => void news.off("change", onChange).off("event", onChange),
    };
  }

  /** Renders as long as a stream listens. A page that can't be rendered ends its streams: the browser asks again. */
  async function follow(address: string, channel: Channel, changed: ReturnType<typeof sinceLast>): Promise<void> {
    let took = 0;
    try {
      while (!stopping.aborted) {
        await new Promise<void>((done) => {
          const timer = setTimeout(done, Math.max(LEAST_MS, PAUSE_TIMES * took));
          channel.wake = () => {
            clearTimeout(timer);
            done();
          };
        });
        if (channel.listeners.size === 0) return;
        if (!(await changed.isDirty())) continue;
        const start = performance.now();
        const before = channel.moment;
        channel.moment = await render(address);
        took = performance.now() - start;
        // Those that have nothing to send look whether they may still.
        const isSame = before.version === channel.moment.version;
        const update = isSame ? null : JSON.stringify(difference(before, channel.moment));
        for (const listener of channel.listeners) listener(update);
      }
    } finally {
      changed.end();
      channels.delete(address);
      channel.isOver = true;
      for (const listener of channel.listeners) listener(null);
    }
  }

  return {
    /** Sends what changes until the browser goes, or may no longer read. */
    async stream(address: string, out: SSEStreamingApi, mayRead: () => Promise<boolean>): Promise<void> {
      const channel = await channels.getOrInsertComputed(address, () => open(address));
      const waiting: string[] = [];
      const behind = new AbortController();
      let wake = () => {};
      const listener = (update: string | null) => {
        if (waiting.length >= MOST_WAITING) behind.abort();
        if (behind.signal.aborted) waiting.length = 0;
        else if (update !== null) waiting.push(update);
        wake();
      };
      channel.listeners.add(listener);
      try {
        await out.writeSSE({ event: "hello", data: JSON.stringify({ version: channel.moment.version }) });
        while (!out.aborted && !stopping.aborted && !channel.isOver && !behind.signal.aborted && (await mayRead())) {
          const data = waiting.shift();
          if (data !== undefined) await out.writeSSE({ event: "update", data });
          else if (!(await woken((how) => (wake = how)))) await out.writeSSE({ event: "alive", data: "" });
        }
      } finally {
        channel.listeners.delete(listener);
        if (channel.listeners.size === 0) channel.wake();
      }
    },
  };
}

/** Waits until it is woken; false where it was not for a while. */
function woken(by: (wake: () => void) => void): Promise<boolean> {
  return new Promise((done) => {
    const timer = setTimeout(done, ALIVE_MS, false);
    by(() => {
      clearTimeout(timer);
      done(true);
    });
  });
}

/** What a browser lacks that shows `before`. */
function difference(before: Moment, after: Moment) {
  const regions = [...after.regions].filter(([id, html]) => before.regions.get(id) !== html);
  const lists = [...after.lists].filter(([id, ids]) => before.lists.get(id)?.join(" ") !== ids.join(" "));
  const emptied = [...before.lists.keys()].filter((id) => !after.lists.has(id)).map((id) => [id, []] as const);
  const { title, version } = after;
  return { title, version, regions: Object.fromEntries(regions), lists: Object.fromEntries([...lists, ...emptied]) };
}
