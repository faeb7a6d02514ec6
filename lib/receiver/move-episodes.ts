// Moves the episodes of this machine to the bucket of receivers that share a store.
//
// An episode is hashed on its way, and gets its row once its object is there: so one that has its row needs nothing more, and a run that
// was killed is continued.

import { hashOf } from "./episode-check.ts";
import type { EpisodeIndex, IndexRow } from "./episode-index.ts";
import type { EpisodeStore } from "./episodes.ts";
import type { Store } from "./store.ts";

/** So many episodes are on their way at once. */
const AT_ONCE = 4;

/** Episodes with their index, and the store that has its rows. */
interface Place {
  episodes: EpisodeStore;
  index: EpisodeIndex;
  store: Store;
}

interface MovingEpisodes {
  from: Place;
  to: Place;
  signal: AbortSignal;
  progress: (what: string, count: number) => void;
  /** Says that an episode can't be moved, and why. */
  failed: (row: IndexRow, why: string) => void;
}

/** Moves all; gives how many there are, and how many of them were sent now. */
export async function moveEpisodes(moving: MovingEpisodes): Promise<{ episodes: number; sent: number }> {
  const { from, signal, progress } = moving;
  await renameMoved(moving);
  const done = { episodes: 0, sent: 0 };
  const rows = from.index.all(null, true)[Symbol.asyncIterator]();
  const lane = async (): Promise<void> => {
    for (let next = await rows.next(); !next.done; next = await rows.next()) {
      signal.throwIfAborted();
      if (await moveOne(moving, next.value)) done.sent++;
      if (next.value.removed_at === undefined) done.episodes++;
      progress("episodes", done.episodes);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  return done;
}

/** Brings rows that have no line here any more up to date: their hosts have got other names since they were moved. */
async function renameMoved({ from, to }: MovingEpisodes): Promise<void> {
  for await (const row of to.index.all(null, true)) {
    if (await from.index.find(row)) continue;
    const { host, episode, sha256 } = row;
    const now = await from.store.read.one<{ host: string }>(
      "SELECT host FROM episodes WHERE episode = $1 AND sha256 = $2",
      [episode, sha256],
    );
    if (now && !(await to.index.find({ host: now.host, episode }))) {
      const rename = "UPDATE episodes SET host = $3 WHERE host = $1 AND episode = $2";
      await to.store.write((tx) => tx.run(rename, [host, episode, now.host]));
      continue;
    }
    const forget = "DELETE FROM episodes WHERE host = $1 AND episode = $2";
    await to.episodes.remove([row], async () => void (await to.store.write((tx) => tx.run(forget, [host, episode]))));
  }
}

/** Moves one; false where it was there, or can't be moved. */
async function moveOne({ from, to, failed }: MovingEpisodes, row: IndexRow): Promise<boolean> {
  const refuse = (why: string): false => {
    failed(row, why);
    return false;
  };
  const there = await to.index.find(row);
  if (there?.sha256 === row.sha256 && there.removed_at === row.removed_at) {
    if (row.removed_at !== undefined || (await to.episodes.find(row))?.size === row.size) return false;
  }
  const { removed_at, ...live } = row;
  if (removed_at !== undefined) {
    // What was removed before it was moved is noted, too: with another one's bytes it is refused. There never was an object.
    if (!there) await to.index.add(live, `${row.host}/${row.episode}.${row.sha256}.tar.zst`);
    await to.episodes.remove([row], async () => void (await to.index.add(row, null)));
    return false;
  }
  const stored = await from.episodes.find(row);
  // It may have been removed just now.
  if (!stored) return (await from.index.has(row)) && refuse("its file is missing");
  const upload = await to.episodes.upload(row, row.sha256);
  try {
    const sha256 = await hashOf(from.episodes.open(stored), (chunk) => upload.write(chunk));
    if (sha256 !== row.sha256) return refuse(`its hash is ${sha256}, the index says ${row.sha256}`);
    await upload.commit();
    const added = await to.index.add(row, upload.at);
    return added === "other" ? refuse("there is another one of its name") : true;
  } finally {
    await upload.abort();
  }
}
