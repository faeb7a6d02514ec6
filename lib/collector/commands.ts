// The commands at the collector's command line: append an event, show events and deliveries, hand events to a coding agent.

import { resolve } from "node:path";
import { eventWriter } from "../event-writer.ts";
import { inboxPlace } from "../inbox-place.ts";
import { EVENT_TYPES, PRIORITIES, completeEvent } from "../inbox.ts";
import { printable } from "../text.ts";
import type { Command } from "../service.ts";
import { type Config, DAEMON_ONLY } from "./config.ts";
import { DELIVER_COMMANDS } from "./deliver-commands.ts";
import { SHOWN, deliveryList } from "./deliveries.ts";
import { doctor } from "./doctor.ts";
import { HOOK_COMMANDS } from "./hook.ts";
import { type Context, READING, asRecipient, atLeastOne, configOf, oneOf } from "./inbox-command.ts";
import { READER_COMMANDS } from "./reader-commands.ts";

/** `ping RECIPIENT TEXT`: appends one event and prints its id. */
async function ping(
  context: Context<{ type?: string; priority?: string; from?: string; sentinel?: string }>,
): Promise<void> {
  const { args, positionals } = context;
  const [to = "", given = ""] = positionals;
  const type = oneOf("--type", args.type ?? "INFO", EVENT_TYPES);
  const priority = oneOf("--priority", args.priority || "normal", PRIORITIES);
  const recipient = asRecipient(to);
  const payload = given === "-" ? (await context.stdin()).replace(/\r?\n$/, "") : given;
  const config = await configOf(context, recipient, args.from === undefined ? DAEMON_ONLY : READING);
  const place = inboxPlace(config);
  const inbox = await eventWriter(place, { durability: config.durability, dedupeHours: 0 });
  const sentinel = args.sentinel ? resolve(args.sentinel) : undefined;
  const event = completeEvent({ from: args.from ?? config.agent, to: recipient, type, priority, payload, sentinel });
  await inbox.deliver(event);
  await inbox.close();
  await place.database?.close();
  context.print(event.id);
}

/** `deliveries`: shows the last ones, the newest last. */
async function deliveries(context: Context<{ failed?: boolean; json?: boolean; limit?: string }>): Promise<void> {
  const { args, log, print } = context;
  const limit = atLeastOne("--limit", args.limit ?? `${SHOWN}`);
  const place = inboxPlace(await context.loadConfig(DAEMON_ONLY));
  const all = await deliveryList(place).read();
  await place.database?.close();
  const records = all.filter(({ status }) => !args.failed || status >= 400).slice(-limit);
  const inbox = place.database?.url ?? place.dir;
  if (records.length === 0) log.info(args.failed ? "no failed deliveries" : "no deliveries", { inbox });
  for (const record of records) {
    const { ts, route, status, reason, size, id } = record;
    const words = [ts, status, route, size === undefined ? "" : `${size} bytes`, id, reason];
    print(args.json ? JSON.stringify(record) : printable(words.filter(Boolean).join(" ")));
  }
}

/** The commands, as data. */
export const COMMANDS = {
  doctor,
  ping: {
    summary: "append one event to an inbox",
    usage: `usage: picket-collector ping RECIPIENT TEXT [--type TYPE] [--priority PRIORITY] [--from NAME] [--sentinel PATH]

  TEXT        "-" reads it from stdin
  --type      ${EVENT_TYPES.join(", ")} (default INFO)
  --priority  ${PRIORITIES.join(", ")} (default normal)
  --from      who writes (default: the configuration's agent)
  --sentinel  readers hold the event back until this path exists

example: picket-collector ping bob "the build is green"`,
    run: ping,
  },
  ...READER_COMMANDS,
  ...HOOK_COMMANDS,
  mcp: {
    summary: "serve an inbox to a coding agent's session over MCP, on stdin and stdout",
    usage: `usage: picket-collector mcp [--channel] [--as NAME]

  --as        whose inbox (default: $PICKET_IDENTITY, $PING_AGENT_IDENTITY, or the name in $CLAUDE_HOME/ping-agent or ~/.ping-agent)
  --channel   push each new event into the session: for clients with Claude Code's channels

A client starts it and ends it. Set it up there, for example:

example: claude mcp add picket --env PICKET_IDENTITY=bob -- picket-collector mcp`,
    run: async (context) => (await import("./mcp.ts")).mcp(context),
  },
  deliveries: {
    summary: "show the last deliveries over webhooks, and why some failed",
    usage: `usage: picket-collector deliveries [--failed] [--limit N] [--json]

  --failed    only those that were refused
  --limit     at most so many, the newest (default ${SHOWN})
  --json      one line of JSON a delivery: ts, status, size, id, route, reason

example: picket-collector deliveries --failed --limit 20`,
    run: deliveries,
  },
  ...DELIVER_COMMANDS,
} satisfies Record<string, Command<Config>>;
