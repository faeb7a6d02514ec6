// Senders for demonstrations of failures. They behave as those in the field: what is not acknowledged is sent again, under the same id.

import { type Ask, openClient } from "../client.ts";

/** Where to send to, and the token of each host that reports. */
export interface Targets {
  collector: string;
  secret: string;
  receiver: string;
  tokens: Map<string, string>;
}

export type Traffic = ReturnType<typeof openTraffic>;

/** A note goes to the collector, and a report of a host to the receiver, one after the other. */
export function openTraffic({ collector, secret, receiver, tokens }: Targets) {
  /** Notes 1 to `notes` are acknowledged; so is what `reported` has of each host. */
  const figures = { notes: 0, reports: 0, again: 0, reported: new Map<string, string>() };
  const stop = new AbortController();
  const common = { timeoutMs: 5000, largestAnswer: 1 << 20 };
  const hooks = openClient({ url: `http://${collector}`, headers: { "X-Token": secret }, ...common });
  const hub = openClient({ url: `http://${receiver}`, ...common });

  async function untilAcknowledged(client: typeof hub, request: Ask): Promise<void> {
    for (;;) {
      try {
        await client.ask({ method: "POST", ...request });
        return;
      } catch {
        figures.again++;
        await Bun.sleep(200);
      }
    }
  }
  async function sendNotes(): Promise<void> {
    while (!stop.signal.aborted) {
      const note = figures.notes + 1;
      const headers = { "Idempotency-Key": `note-${note}` };
      await untilAcknowledged(hooks, { what: "a note", path: "/note", headers, json: { text: `note ${note}` } });
      figures.notes = note;
      await Bun.sleep(50);
    }
  }
  async function report(host: string): Promise<void> {
    while (!stop.signal.aborted && tokens.has(host)) {
      const recorded = new Date().toISOString();
      const json = { recorded_at: recorded, interval_seconds: 2, host: { metrics: { load_average: 1 } } };
      const headers = { Authorization: `Bearer ${tokens.get(host)}` };
      await untilAcknowledged(hub, { what: "a report", path: "/v1/host-report", headers, json });
      figures.reports++;
      figures.reported.set(host, recorded);
      await Bun.sleep(1000);
    }
  }
  const working = Promise.all([sendNotes(), ...[...tokens.keys()].map(report)]);
  return {
    figures,
    /** This host sends no more reports. */
    silence: (host: string): void => void tokens.delete(host),
    /** Stops once what is under way is acknowledged. */
    async close(): Promise<void> {
      stop.abort();
      await working;
    },
  };
}
