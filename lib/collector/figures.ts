// What a collector says of itself: figures for /metrics and /health, and what is wrong.

import type { EventWriter } from "../event-writer.ts";
import type { Health } from "../http.ts";
import type { Registry } from "../metrics.ts";
import type { Config } from "./config.ts";
import type { Deliveries } from "./deliveries.ts";
import type { startDeliveries } from "./deliver/loop.ts";
import type { DropFigures } from "./drop-folder.ts";

export type Figures = ReturnType<typeof createFigures>;

/** What is asked. */
interface Asked {
  config: Config;
  inbox: EventWriter;
  deliveries: Deliveries;
  outgoing: Awaited<ReturnType<typeof startDeliveries>>;
  figures: Figures;
}

export function createFigures(metrics: Registry) {
  const drops: DropFigures = { delivered: 0, dead_letters: 0, waiting: 0, errors: 0 };
  metrics.counted("picket_drops_total", "Drops delivered.", () => drops.delivered);
  metrics.counted("picket_dead_letters_total", "Drops moved to .dead-letter.", () => drops.dead_letters);
  metrics.gauge("picket_drops_waiting", "Drops that stay because the inbox can't be written.", () => drops.waiting);
  return {
    drops,
    received: metrics.counter("picket_webhooks_received_total", "Deliveries to known routes."),
    emitted: metrics.counter("picket_events_total", "Events written to an inbox, durable."),
    errors: metrics.counter("picket_webhook_errors_total", "Requests to known routes that were refused (4xx, 5xx)."),
    filtered: metrics.counter("picket_webhooks_filtered_total", "Deliveries that `when` did not let through."),
    duplicates: metrics.counter("picket_duplicates_total", "Deliveries and drops that had been delivered before."),
  };
}

/** `/health`: whether the inbox can be written now, and the figures. */
export async function health({ figures, inbox, config, outgoing }: Asked): Promise<Health> {
  await inbox.check();
  const { problem } = inbox;
  return {
    ok: problem === null,
    figures: {
      received: figures.received.value,
      emitted: figures.emitted.value,
      errors: figures.errors.value,
      uptime_sec: Math.floor(process.uptime()),
      filtered: figures.filtered.value,
      duplicates: figures.duplicates.value,
      ...(config.drop_folder ? { drops: figures.drops } : {}),
      ...(config.deliver.length > 0 ? { deliver: outgoing.standing() } : {}),
      durability: config.durability,
      ...(problem === null ? {} : { problem }),
    },
  };
}

export function troublesOf({ inbox, deliveries, outgoing, figures }: Asked): (string | null)[] {
  const { waiting } = figures.drops;
  return [
    inbox.problem,
    deliveries.refused > 0 ? `${deliveries.refused} deliveries refused in 10 min` : null,
    waiting > 0 ? `${waiting} drops waiting` : null,
    ...outgoing.troubles(),
  ];
}

export function statusLine({ figures, outgoing, config }: Asked): string {
  const { dead_letters } = figures.drops;
  const dead = dead_letters > 0 ? `, ${dead_letters} dead letters` : "";
  const sent = config.deliver.length > 0 ? `, ${outgoing.delivered()} delivered` : "";
  return `${figures.emitted.value} events, ${figures.errors.value} errors${dead}${sent}`;
}
