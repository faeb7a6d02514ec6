// The settings of a delivery: which events of whose inboxes, through which channel, and when.

import * as v from "valibot";
import { type Problem, integer, nameSegment, number, parsed, rule, seconds } from "../../config.ts";
import { PRIORITIES } from "../../inbox.ts";
import { CHANNELS, channelEntries } from "./channel.ts";
import { QUIET, readQuiet } from "./quiet.ts";

/** All inboxes, also those that appear later. */
export const ALL = "*";

const Settings = v.strictObject({
  /** Names its marks: another name is another delivery, and begins with what comes from then on. */
  name: nameSegment(),
  recipients: v.pipe(
    v.array(v.union([v.literal(ALL), nameSegment()])),
    v.minLength(1, "expected at least one recipient"),
  ),
  /** `urgent` leaves out all others. */
  min: v.optional(v.picklist(PRIORITIES), "normal"),
  ...channelEntries,
  /** Hours in which only urgent events are sent. */
  quiet: v.optional(parsed(QUIET, readQuiet)),
  /** What comes within so long is one message. */
  group_seconds: v.optional(seconds({ max: 86_400 }), 0),
  max_per_hour: v.optional(integer({ min: 1, unit: "messages" }), 60),
  /** Urgent events, and those that need a response, are sent again this often until they were handled. */
  remind_minutes: v.optional(number({ min: 1, unit: "minutes" })),
  until: v.optional(v.literal("handled")),
});

/** One delivery. */
export type DeliverySettings = v.InferOutput<typeof Settings>;
export const DeliverySettings = v.pipe(Settings, rule(deliveryProblems));

function* deliveryProblems(settings: DeliverySettings): Generator<Problem> {
  const [first, second] = channelsOf(settings);
  if (first === undefined) yield { path: [], text: `no channel: set one of ${CHANNELS.join(", ")}` };
  if (second !== undefined) yield { path: [second], text: `given beside ${first}: set one of them, not both` };
  if (settings.until !== undefined && settings.remind_minutes === undefined)
    yield { path: ["until"], text: 'nothing is sent again: set "remind_minutes"' };
}

const channelsOf = (settings: DeliverySettings) => CHANNELS.filter((one) => settings[one] !== undefined);

/** The channel's name: `ntfy`. */
export const channelOf = (settings: DeliverySettings): string => channelsOf(settings)[0]!;

/** Names that are given twice. */
export function* takenNames(deliver: readonly DeliverySettings[]): Generator<Problem> {
  for (const [index, { name }] of deliver.entries()) {
    if (deliver.findIndex((one) => one.name === name) < index)
      yield { path: ["deliver", index, "name"], text: `"${name}" is taken already` };
  }
}
