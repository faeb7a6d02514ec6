// `pause NAME DURATION` and `resume NAME`, for hosts and for jobs.

import type { Whose } from "./alerts.ts";
import type { Queries } from "../database.ts";
import { time } from "./hosts.ts";
import { pause, pauseEnd, resume } from "./pause.ts";
import { type Context, change } from "./store-command.ts";

/** Finds the host or job of a name. @throws UsageError. */
type Find = (tx: Queries, name: string) => Promise<Whose>;

export async function pauseCommand(context: Context<{ reason?: string }>, find: Find): Promise<void> {
  const until = pauseEnd(context.positionals[1] ?? "");
  await change(context, async (tx, name) => {
    await pause(tx, await find(tx, name), { until, reason: context.args.reason ?? null });
    return `${name}: paused until ${time(until)}: no events; what is still wrong then is told then`;
  });
}

export const resumeCommand = (context: Context, find: Find): Promise<void> =>
  change(context, async (tx, name) =>
    (await resume(tx, await find(tx, name))) ? `${name}: its pause is over` : `${name}: was not paused`,
  );
