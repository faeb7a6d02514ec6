// Renames a host. Its history, tokens and alerts refer to its number. Episodes are stored under their host's name:
//
//   1. one transaction changes the name and keeps the former one as an alias: the agent may go on using it
//   2. a line of the index moves the host's episodes to the new name; an index that is a table does it in 1
//   3. each file gets its new name, then loses the old one; objects of a bucket stay
//   4. the alias is marked as settled
//
// After a kill the daemon, or the same command, continues there. An upload that began under the former name ends under it: the
// index reads its line as one of the new name (episode-index.ts), and the daemon's next pass moves its file.

import { UsageError } from "../command-line.ts";
import { NAME_SEGMENT } from "../config.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import type { EpisodeStore } from "./episodes.ts";
import { findHost, freeName } from "./hosts.ts";
import type { Store } from "./store.ts";

/** What a renaming works on. */
export interface Renaming {
  store: Store;
  index: EpisodeIndex;
  episodes: EpisodeStore;
}

/** Renames a host; `from` may be a name that it had before. */
export async function renameHost(renaming: Renaming, from: string, to: string): Promise<void> {
  const { store, index, episodes } = renaming;
  if (!NAME_SEGMENT.test(to)) {
    throw new UsageError(`"${to}" is not a valid name`, "letters, digits, dots, dashes and underscores");
  }
  const { name } = await findHost(store.read, from);
  // Otherwise it was renamed before, and its episodes are still being moved.
  if (name !== to) {
    if (await episodes.has(to)) {
      const what = `there are episodes of a former host "${to}"`;
      throw new UsageError(
        what,
        `picket-receiver episodes prune --host ${to} --quota 0 removes them; or choose another name`,
      );
    }
    await store.write(async (tx) => {
      const host = await findHost(tx, from);
      await freeName(tx, to, host.id);
      await tx.run("UPDATE hosts SET name = $1 WHERE id = $2", [to, host.id]);
      await tx.run("INSERT INTO host_aliases (name, host) VALUES ($1, $2)", [host.name, host.id]);
      await index.renaming(tx, host.name, to);
    });
  }
  await settleRenames(renaming);
}

/** Finishes what renamings left, and moves the files of uploads that ended under a former name. */
export async function settleRenames({ store, index, episodes }: Renaming): Promise<void> {
  const aliases = await store.read.all<{ former: string; name: string; settled_at: number | null }>(
    "SELECT a.name AS former, h.name, a.settled_at FROM host_aliases a JOIN hosts h ON h.id = a.host",
  );
  for (const { former, name, settled_at } of aliases) {
    if (settled_at === null) await index.rename(former, name);
    await episodes.move(former, name);
    if (settled_at !== null) continue;
    await store.write((tx) => tx.run("UPDATE host_aliases SET settled_at = $1 WHERE name = $2", [Date.now(), former]));
  }
}
