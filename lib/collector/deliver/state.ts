// What a delivery keeps beside its marks: <inbox_dir>/.picket/deliver:<name>.json, one object, replaced whole.
//
// It isn't synced: after a power cut a reminder or the count of the hour may be some seconds old. What was delivered is in the
// marks (lib/mark.ts), which are. A file that can't be read counts as an empty one, and so does one of an unknown form.

import { join } from "node:path";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import * as v from "valibot";
import { inheritOwner, textOf } from "../../files.ts";
import { EventLine, statePath } from "../../inbox.ts";

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

const fileOf = (inboxDir: string, name: string): string => join(statePath(inboxDir), `deliver:${name}.json`);

export function readState(inboxDir: string, name: string): State {
  try {
    return v.parse(State, JSON.parse(textOf(fileOf(inboxDir, name)) ?? ""));
  } catch {
    return { recipients: [], sent: {}, in_hand: null, failing: null, reminders: [] };
  }
}

/** Errors are those of the file system. */
export function writeState(inboxDir: string, name: string, state: State): void {
  const path = fileOf(inboxDir, name);
  writeFileSync(`${path}.tmp`, `${JSON.stringify(state)}\n`, { mode: 0o600 });
  inheritOwner(`${path}.tmp`);
  renameSync(`${path}.tmp`, path);
}

export function removeState(inboxDir: string, name: string): void {
  rmSync(fileOf(inboxDir, name), { force: true });
}
