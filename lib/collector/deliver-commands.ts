// The commands of deliveries. They read and move the marks themselves, whether the daemon runs or not: it sees a mark that was moved within a second.

import { type Command, type CommandContext, RefusedCredentials, UsageError } from "../service.ts";
import { randomId } from "../inbox.ts";
import type { Inboxes } from "../inboxes.ts";
import { columns, printable } from "../text.ts";
import { type Config, DAEMON_ONLY } from "./config.ts";
import { Refused, openChannel } from "./deliver/channel.ts";
import { type DeliverySettings, channelOf } from "./deliver/config.ts";
import { type Lane, openLane } from "./deliver/lane.ts";
import { recipientsOf, standingOf } from "./deliver/sender.ts";
import { openPlace } from "./inbox-command.ts";
import { parseState } from "./deliver/state.ts";

type Context<A = object> = CommandContext<Config, A>;

/** The configuration with the deliveries, and without what they don't need. */
const load = (context: Context): Promise<Config> => context.loadConfig(DAEMON_ONLY.filter((key) => key !== "deliver"));

async function named(context: Context): Promise<{ config: Config; settings: DeliverySettings }> {
  const [name = ""] = context.positionals;
  const config = await load(context);
  const settings = config.deliver.find((one) => one.name === name);
  if (settings) return { config, settings };
  const known = config.deliver.map((one) => one.name).join(", ");
  throw new UsageError(
    `there is no delivery "${name}"`,
    known ? `one of ${known}` : 'set "deliver" in the configuration',
  );
}

/** Opens the lanes of a delivery, and counts what waits in them. */
async function withLanes<T>(
  inboxes: Inboxes,
  settings: DeliverySettings,
  work: (lanes: Lane[]) => T | Promise<T>,
): Promise<T> {
  const { name: delivery, min } = settings;
  const open = (recipient: string): Lane => openLane({ inboxes, delivery, recipient, min, warn: () => {} });
  const lanes = (await recipientsOf(inboxes, settings)).map(open);
  try {
    for (const lane of lanes) if (await lane.isBegun()) await lane.look(Date.now());
    return await work(lanes);
  } finally {
    for (const lane of lanes) lane.close();
  }
}

async function list(context: Context<{ json?: boolean }>): Promise<void> {
  const config = await load(context);
  if (config.deliver.length === 0) return context.print('no deliveries: set "deliver" in the configuration');
  await using place = await openPlace(context, config);
  const { inboxes } = place;
  const all = [];
  for (const settings of config.deliver) {
    const { name, recipients, min } = settings;
    const state = parseState(await inboxes.delivery(name).read());
    const standing = await withLanes(inboxes, settings, (lanes) =>
      standingOf({ settings, state, lanes, now: Date.now() }),
    );
    all.push({ name, channel: channelOf(settings), recipients, min, ...standing });
  }
  if (context.args.json) return context.print(printable(JSON.stringify(all)));
  const rows = all.map(({ name, channel, recipients, state, waiting, why, until, error }) => {
    const waits = why === "" ? "" : `${why}${until ? `, until ${until.slice(0, 19)}Z` : ""}`;
    return [name, channel, recipients.join(", "), state, String(waiting), [waits, error].filter(Boolean).join(": ")];
  });
  context.print(printableTable([["DELIVERY", "CHANNEL", "RECIPIENTS", "STATE", "WAITING", "WHY"], ...rows]));
}

const printableTable = (rows: string[][]): string => columns(rows.map((row) => row.map(printable)));

async function test(context: Context): Promise<void> {
  const { config, settings } = await named(context);
  const { name } = settings;
  await using place = await openPlace(context, config);
  const { inboxes } = place;
  const [recipient = "ops"] = await recipientsOf(inboxes, settings);
  const id = randomId();
  const payload = `a test of the delivery ${name}`;
  const event = {
    ts: new Date().toISOString(),
    id,
    from: config.agent,
    to: recipient,
    type: "INFO",
    priority: "normal",
    payload,
  };
  const channel = openChannel(settings);
  const began = performance.now();
  try {
    const answer = await channel.send({ id, recipient, events: [event], omitted: 0, reminder: false }, context.signal);
    context.print(`${channelOf(settings)}: ${answer} in ${Math.round(performance.now() - began)} ms`);
  } catch (cause) {
    // 530 and 535: of an SMTP server (RFC 4954, section 6).
    const isRefused = cause instanceof Refused && [401, 403, 530, 535].includes(cause.status);
    throw isRefused ? new RefusedCredentials("the other side refuses the credentials", { cause }) : cause;
  } finally {
    await channel.close?.();
  }
}

async function skip(context: Context): Promise<void> {
  const { config, settings } = await named(context);
  const { name } = settings;
  await using place = await openPlace(context, config);
  const { inboxes } = place;
  const skipped = await withLanes(inboxes, settings, async (lanes) => {
    let count = 0;
    for (const lane of lanes) {
      const { urgent, normal } = lane.waiting();
      count += urgent.count + normal.count;
      await lane.begin("now");
    }
    return count;
  });
  context.print(`${name}: ${skipped} events skipped`);
}

/** The commands, as data. */
export const DELIVER_COMMANDS = {
  "deliver list": {
    summary: "show where each delivery stands, and what waits",
    usage: `usage: picket-collector deliver list [--json]

example: picket-collector deliver list`,
    run: list,
  },
  "deliver test": {
    summary: "send a test over a delivery's channel",
    usage: `usage: picket-collector deliver test NAME

Prints what the other side answers. Needs no daemon, and no inbox gets an event.

example: picket-collector deliver test phone`,
    run: test,
  },
  "deliver skip": {
    summary: "leave out what waits for a delivery",
    usage: `usage: picket-collector deliver skip NAME

The events stay in the inbox. A daemon that runs goes on from there within a second.

example: picket-collector deliver skip phone`,
    run: skip,
  },
} satisfies Record<string, Command<Config>>;
