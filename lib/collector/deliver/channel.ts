// The channels of a delivery: one of them is set.

import * as v from "valibot";
import type { Channel } from "./message.ts";
import { EmailSettings, openEmail } from "./email.ts";
import { NtfySettings, openNtfy } from "./ntfy.ts";
import { WebhookSettings, openWebhook } from "./webhook.ts";

export { type Channel, type Message, Refused, isHeld } from "./message.ts";

/** The settings of a delivery that name its channel; exactly one has to be there. */
export const channelEntries = {
  ntfy: v.optional(NtfySettings),
  webhook: v.optional(WebhookSettings),
  email: v.optional(EmailSettings),
};
export const CHANNELS = Object.keys(channelEntries) as (keyof typeof channelEntries)[];
type ChannelSettings = v.InferOutput<v.StrictObjectSchema<typeof channelEntries, undefined>>;

/** Opens the channel that is set. Connects to nothing yet. @throws Error when a certificate can't be read. */
export function openChannel({ ntfy, webhook, email }: ChannelSettings): Channel {
  if (ntfy) return openNtfy(ntfy);
  if (webhook) return openWebhook(webhook);
  if (email) return openEmail(email);
  throw new Error(`open a delivery: set one of ${CHANNELS.join(", ")}`);
}
