// The inboxes of a folder, as their readers use them. What lies there: inbox.ts, file-mark.ts, handled.ts, watcher.ts, and
//
//   <inbox_dir>/.picket/deliver:<name>.json     what a delivery keeps beside its marks: replaced whole, not synced
//   <inbox_dir>/.picket/deliver:<name>.lock     locked by the process that sends

import { renameSync, rmSync, watch, writeFileSync } from "node:fs";
import { join } from "node:path";
import { NAME_SEGMENT } from "./config.ts";
import { Cursor } from "./cursor.ts";
import { fileMark, versionOf } from "./file-mark.ts";
import { holdAlone, inheritOwner, makeFolder, namesIn, textOf } from "./files.ts";
import { handledOf } from "./handled.ts";
import { inboxPath, statePath } from "./inbox.ts";
import type { DeliveryPlace, Inboxes } from "./inboxes.ts";
import { becomeWatcher, watcherOf } from "./watcher.ts";

const EXTENSION = ".inbox";

/** How a line of Picket's own begins. */
const OWN = /^\{"ts":"[^"\\]*","id":"([^"\\]+)"/;
const OWN_BYTES = 200;

export function fileInboxes(dir: string): Inboxes {
  const cursor = (recipient: string): Cursor => new Cursor({ path: inboxPath(dir, recipient) });
  return {
    idleMs: 5000,
    where: (recipient) => inboxPath(dir, recipient),
    async recipients() {
      const files = namesIn(dir).filter((name) => name.endsWith(EXTENSION));
      return files.map((name) => name.slice(0, -EXTENSION.length)).filter((name) => NAME_SEGMENT.test(name));
    },
    version: async (recipient) => versionOf(inboxPath(dir, recipient)),
    watch(changed) {
      makeFolder(dir, 0o755);
      const watcher = watch(dir, (_event, name) => {
        if (name === null) changed(null);
        else if (name.endsWith(EXTENSION)) changed(name.slice(0, -EXTENSION.length));
      });
      watcher.on("error", () => watcher.close());
      return () => watcher.close();
    },
    cursor,
    /** Reads all of the inbox, with flat memory. */
    async find(recipient, id, visit) {
      const reading = cursor(recipient);
      try {
        await reading.read({
          visit(line) {
            const head = line.bytes.toString("latin1", line.start, Math.min(line.end, line.start + OWN_BYTES));
            if ((OWN.exec(head)?.[1] ?? id) === id) visit(line);
          },
        });
      } finally {
        reading.close();
      }
    },
    mark: (reader) => fileMark({ dir, ...reader }),
    handled: (recipient) => handledOf({ dir, recipient }),
    watcher: async (recipient) => watcherOf({ dir, recipient }),
    becomeWatcher: (recipient) => becomeWatcher({ dir, recipient }),
    delivery: (name) => deliveryFiles(dir, name),
    [Symbol.asyncDispose]: async () => {},
  };
}

function deliveryFiles(dir: string, name: string): DeliveryPlace {
  const path = join(statePath(dir), `deliver:${name}.json`);
  let release: (() => void) | null = null;
  return {
    async hold() {
      // Two collectors would send everything twice.
      makeFolder(statePath(dir), 0o700);
      release ??= holdAlone("picket-collector", join(statePath(dir), `deliver:${name}.lock`));
      return 1;
    },
    read: async () => textOf(path),
    async write(text) {
      writeFileSync(`${path}.tmp`, text, { mode: 0o600 });
      inheritOwner(`${path}.tmp`);
      renameSync(`${path}.tmp`, path);
    },
    remove: async () => rmSync(path, { force: true }),
    release: async () => release?.(),
  };
}
