// The commands that show and acknowledge alerts.

import { type Command, UsageError } from "../service.ts";
import { cut, printable } from "../text.ts";
import { acknowledge, alertOf, listAlerts } from "./alerts.ts";
import type { Config } from "./config.ts";
import { time } from "./hosts.ts";
import { type Context, change, table, withStore } from "./store-command.ts";

/** The most alerts that are shown. */
const MOST = 1000;

/** `alerts`. */
function show(context: Context<{ all?: boolean; json?: boolean }>): Promise<void> {
  return withStore(context, async (store) => {
    const { all, json } = context.args;
    const rows = await listAlerts(store.read, { open: all ? null : true, limit: MOST });
    if (json) return context.print(printable(JSON.stringify(rows.map(alertOf))));
    if (rows.length === 0) return context.print(all ? "no alerts" : "no open alerts");
    const shown = rows.map((row) => [
      String(row.id),
      row.severity,
      time(row.opened_at),
      row.closed_at === null ? (row.acknowledged_at === null ? "open" : acknowledgedText(row)) : time(row.closed_at),
      printable(cut(row.text, 200)),
    ]);
    context.print(table(["ID", "SEVERITY", "SINCE", "UNTIL", "WHAT"], shown));
  });
}

const acknowledgedText = ({ acknowledged_by: by }: { acknowledged_by: string | null }): string =>
  by === null ? "acknowledged" : printable(`acknowledged by ${by}`);

/** `alerts ack ID`. */
async function ack(context: Context<{ by?: string }>): Promise<void> {
  await change(context, async (tx, id) => {
    const by = context.args.by ?? null;
    const known = /^\d{1,15}$/.test(id) && (await acknowledge(tx, { id: Number(id), by, at: Date.now() }));
    if (!known) throw new UsageError(`there is no open alert "${id}"`, "picket-receiver alerts shows them");
    return `alert ${id}: acknowledged; it gets no reminders`;
  });
}

/** The commands, as data. */
export const ALERT_COMMANDS = {
  alerts: {
    summary: "show what is wrong now",
    usage: `usage: picket-receiver alerts [--all] [--json]

  --all   those that are over, too; the newest ${MOST} at most

example: picket-receiver alerts`,
    run: show,
  },
  "alerts ack": {
    summary: "acknowledge an alert: it gets no reminders",
    usage: `usage: picket-receiver alerts ack ID [--by NAME]

example: picket-receiver alerts ack 17 --by bob`,
    run: ack,
  },
} satisfies Record<string, Command<Config>>;
