// What the commands share that write or read an inbox.

import { NAME_SEGMENT, besideService } from "../config.ts";
import { eventWriter } from "../event-writer.ts";
import { inboxPlace } from "../inbox-place.ts";
import { inboxPath } from "../inbox.ts";
import { openInboxes } from "../inboxes.ts";
import { type CommandContext, UsageError } from "../service.ts";
import { DEDUPE_HOURS } from "./answer.ts";
import { type Config, DAEMON_ONLY } from "./config.ts";

export type Context<A = object> = CommandContext<Config, A>;

/** A reader names no sender, so an inbox can be read where there is no collector. */
export const READING = [...DAEMON_ONLY, "agent"];

/** The configuration without what the daemon alone needs. Logs when the recipient's inbox is another than the system service's. */
export async function configOf(
  { loadConfig, log }: Context<unknown>,
  recipient: string,
  unused = READING,
): Promise<Config> {
  const config = await loadConfig(unused);
  const inbox = inboxPath(config.inbox_dir, recipient);
  const system = config.inbox === undefined && besideService("inbox", inbox);
  if (system) log.warn("this is your own inbox; for the system service's use sudo", { inbox, system });
  return config;
}

/** Opens the inboxes of a configuration for as long as the command runs. @param patienceMs how long a database that is away is waited for. */
export async function openPlace({ log, signal }: Context<unknown>, config: Config, patienceMs?: number) {
  const place = inboxPlace(config);
  const inboxes = await openInboxes(place, { log, signal, patienceMs });
  return {
    inboxes,
    /** What writes answers. */
    writer: () => eventWriter(place, { durability: config.durability, dedupeHours: DEDUPE_HOURS }),
    async [Symbol.asyncDispose](): Promise<void> {
      await inboxes[Symbol.asyncDispose]();
      await place.database?.close();
    },
  };
}

export function oneOf<const T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw new UsageError(`${flag} "${value}" is not one of ${allowed.join(", ")}`);
  return found;
}

export function asRecipient(name: string, what = "recipient"): string {
  if (NAME_SEGMENT.test(name)) return name;
  throw new UsageError(
    `${what} "${name}" is not a valid name`,
    "1 to 128 letters, digits, dots, dashes and underscores, starting with a letter or digit",
  );
}

export function atLeastOne(flag: string, value: string): number {
  if (/^[1-9]\d{0,8}$/.test(value)) return Number(value);
  throw new UsageError(`${flag} "${value}" is not a whole number of 1 or more`);
}
