// What a delivery keeps beside its marks: one object, replaced whole.
//
// In a file it isn't synced: after a power cut a reminder or the count of the hour may be some seconds old. What was delivered is in the
// marks (lib/mark.ts), which are. What can't be read counts as empty, and so does what has an unknown form.

import * as v from "valibot";
import { EventLine } from "../../inbox.ts";

const State = v.object({
  /** The recipients that it has begun with; for others it begins with what comes from then on. */
  recipients: v.array(v.string()),
  /** Messages by the minute since 1970, see batch.ts. */
  sent: v.record(v.string(), v.number()),
  /** The message that was sent last and not answered yet: it is sent again with the same events, and so the same id. */
  in_hand: v.nullable(v.object({ recipient: v.string(), urgent_only: v.boolean(), count: v.number() })),
  /** Since when and why it fails; null while it works. `next_at`: when it is tried again. */
  failing: v.nullable(
    v.object({
      since: v.number(),
      error: v.string(),
      tries: v.number(),
      next_at: v.number(),
      /** The other side refuses it: it is tried hourly. */
      held: v.boolean(),
      /** An inbox was told that it is. */
      told: v.boolean(),
    }),
  ),
  /** Events that are sent again until they were handled. */
  reminders: v.array(v.object({ recipient: v.string(), at: v.number(), event: EventLine })),
});
export type State = v.InferOutput<typeof State>;

/** @param text what is kept; null where there is nothing. */
export function parseState(text: string | null): State {
  try {
    return v.parse(State, JSON.parse(text ?? ""));
  } catch {
    return { recipients: [], sent: {}, in_hand: null, failing: null, reminders: [] };
  }
}
