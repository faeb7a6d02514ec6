// The index as a table that several receivers share. The row decides which bytes an episode has, since no two have its host and name;
// `object` is where they are in the bucket (episode-bucket.ts), which stays when a host gets another name.

import type { Queries } from "../database.ts";
import { type EpisodeIndex, type IndexRow, count, lookups } from "./episode-index.ts";
import type { Store } from "./store.ts";

/** Opens the table. */
export function openIndexTable(store: Store): EpisodeIndex {
  const follow = async (): Promise<void> => {};
  return {
    ...lookups(store.read, follow),
    follow,
    // Nothing of the hosts' own rows is touched.
    add: (row, object) => store.write((tx) => (object === null ? noteRemoved(tx, row) : add(tx, row, object)), []),
    async renaming(tx, from, to) {
      // Removed ones of a former host of that name, which have no bytes.
      await tx.run(
        "DELETE FROM episodes WHERE host = $1 AND episode IN (SELECT episode FROM episodes WHERE host = $2)",
        [to, from],
      );
      await tx.run("UPDATE episodes SET host = $1 WHERE host = $2", [to, from]);
    },
    rename: async () => {},
    totals: () => count(store.read),
    close: async () => {},
  };
}

async function add(tx: Queries, row: IndexRow, object: string): Promise<"added" | "known" | "other"> {
  await tx.run("DELETE FROM stray_objects WHERE object = $1", [object]);
  // An upload may have begun before its host was renamed.
  const alias = await tx.one<{ name: string }>(
    "SELECT h.name FROM host_aliases a JOIN hosts h ON h.id = a.host WHERE a.name = $1",
    [row.host],
  );
  const named = { ...row, host: alias?.name ?? row.host };
  const { host, episode, received_at, sha256, size } = named;
  const values = [host, episode, received_at, sha256, size, object, JSON.stringify(named)];
  const inserted = await tx.run(
    `INSERT INTO episodes (host, episode, received_at, sha256, size, object, line) VALUES ($1, $2, $3, $4, $5, $6, $7)
     ON CONFLICT (host, episode) DO NOTHING`,
    values,
  );
  if (inserted > 0) return "added";
  const there = await tx.one<{ sha256: string; removed_at: string | null }>(
    "SELECT sha256, removed_at FROM episodes WHERE host = $1 AND episode = $2 FOR UPDATE",
    [host, episode],
  );
  if (there?.sha256 !== sha256) return "other";
  if (there.removed_at === null) {
    // Its object may have been lost, and was stored under its host's new name.
    await tx.run("UPDATE episodes SET object = $3 WHERE host = $1 AND episode = $2", [host, episode, object]);
    return "known";
  }
  await tx.run(
    `UPDATE episodes SET received_at = $3, sha256 = $4, size = $5, object = $6, line = $7, removed_at = NULL
     WHERE host = $1 AND episode = $2`,
    values,
  );
  return "added";
}

async function noteRemoved(tx: Queries, row: IndexRow): Promise<"added"> {
  const { host, episode, received_at, removed_at = null } = row;
  await tx.run(
    "UPDATE episodes SET removed_at = $4, line = $5 WHERE host = $1 AND episode = $2 AND received_at = $3 AND removed_at IS NULL",
    [host, episode, received_at, removed_at, JSON.stringify(row)],
  );
  return "added";
}
