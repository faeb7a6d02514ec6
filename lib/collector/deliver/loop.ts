// The loop of all deliveries: looks at their inboxes, and lets each send by itself, so that one that hangs or fails holds up no other.
//
// A look is a few calls of stat(2), or a query. It comes when the inboxes say that one has changed, when a pause has ended, and each second,
// which also sees a mark that was moved (`deliver skip`), sentinels, and a clock that was set.

import type { EventWriter } from "../../event-writer.ts";
import type { Inboxes } from "../../inboxes.ts";
import type { Log } from "../../log.ts";
import type { Registry } from "../../metrics.ts";
import { derivedId } from "../../outbox.ts";
import type { Service } from "../../service.ts";
import { openChannel } from "./channel.ts";
import type { DeliverySettings } from "./config.ts";
import { failingSource } from "./lane.ts";
import { type Sender, type Settings, createSender } from "./sender.ts";

const LOOK_MS = 1000;
/** Many events that come at once are one look. */
const GATHER_MS = 10;

interface Context {
  inbox: EventWriter;
  inboxes: Inboxes;
  /** The `from` of events. */
  agent: () => string;
  log: Log;
  metrics: Registry;
  service: Pick<Service, "loop">;
}

/** Opens the channels of a configuration. @throws Error where one can't be opened. */
export const openChannels = (deliver: readonly DeliverySettings[]): Settings[] =>
  deliver.map((settings) => ({ settings, channel: openChannel(settings) }));

/** Starts the deliveries: what comes from now on is delivered, and what waited before. */
export async function startDeliveries(
  first: readonly DeliverySettings[],
  { inbox, inboxes, agent, log, metrics, service }: Context,
) {
  const senders = new Map<string, Sender>();
  let endWatching: (() => void) | null = null;
  let soon: Timer | null = null;

  const tell: Parameters<typeof createSender>[0]["tell"] = async ({
    delivery,
    recipient: to,
    since,
    text: payload,
  }) => {
    const source = failingSource(delivery);
    const event = {
      ts: new Date().toISOString(),
      id: derivedId(`${source} ${to} ${since}`),
      from: agent(),
      to,
      source,
    };
    await inbox.deliverOnce({ ...event, type: "INFO", priority: "urgent", payload });
  };
  const context = { inboxes, log, tell };

  async function take(all: Settings[]): Promise<void> {
    const names = new Set(all.map(({ settings }) => settings.name));
    for (const [name, sender] of senders) {
      if (names.has(name)) continue;
      senders.delete(name);
      await sender.close();
      await sender.forget();
    }
    for (const one of all) {
      const known = senders.get(one.settings.name);
      if (known) await known.configure(one);
      else await begin(one);
    }
    watchInboxes();
  }

  async function begin(one: Settings): Promise<void> {
    const sender = createSender(context, one);
    await sender.begin();
    senders.set(sender.name, sender);
  }

  /** Watches while there is a delivery. The watch is a hint: what it misses is seen a second later. */
  function watchInboxes(): void {
    if (senders.size === 0) return;
    try {
      endWatching ??= inboxes.watch(() => (soon ??= setTimeout(wake, GATHER_MS)));
    } catch (error) {
      log.warn("inboxes can't be watched; polling only", { error });
    }
  }

  function wake(): void {
    soon = null;
    loop.wake();
  }

  function pauseMs(): number {
    if (senders.size === 0) return Infinity;
    const now = Date.now();
    return Math.max(Math.min(LOOK_MS, ...senders.values().map((sender) => sender.pauseMs(now))), GATHER_MS);
  }

  await take(openChannels(first));
  const loop = service.loop({
    name: "deliver",
    every: () => pauseMs() / 1000,
    async pass() {
      for (const sender of senders.values()) sender.pass(() => loop.wake());
    },
  });
  const each = <T>(figure: (sender: Sender) => T) =>
    [...senders.values()].map((one) => [{ delivery: one.name }, figure(one)] as [{ delivery: string }, T]);
  metrics.counted("picket_delivered_events_total", "Events delivered, by delivery.", () =>
    each((one) => one.figures.delivered),
  );
  metrics.counted("picket_delivery_failures_total", "Messages that were not taken, by delivery.", () =>
    each((one) => one.figures.failed),
  );
  metrics.gauge("picket_delivery_waiting_events", "Events that wait to be delivered.", () =>
    each((one) => one.standing().waiting),
  );
  metrics.gauge("picket_delivery_held", "1 while the other side refuses a delivery.", () =>
    each((one) => Number(one.standing().state === "held")),
  );

  return {
    /** Takes over other deliveries; what failed is tried again. */
    async reload(all: Settings[]): Promise<void> {
      await take(all);
      loop.wake();
    },
    /** Where each stands, by name. */
    standing: () =>
      Object.fromEntries(senders.values().map((one) => [one.name, { ...one.standing(), ...one.figures }])),
    troubles: () =>
      [...senders.values()].map((one) => {
        const { state, waiting } = one.standing();
        return state === "ok" || state === "standby" ? null : `delivery ${one.name} ${state}, ${waiting} waiting`;
      }),
    /** How many events were delivered. */
    delivered: () => senders.values().reduce((sum, { figures }) => sum + figures.delivered, 0),
    async stop(): Promise<void> {
      endWatching?.();
      if (soon !== null) clearTimeout(soon);
      await Promise.all(senders.values().map((one) => one.close()));
    },
  };
}
