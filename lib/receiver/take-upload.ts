// Takes an upload of an episode in, and notes at its host how it went.

import { type Sender, asRefusal, mustBe, stamp } from "./admission.ts";
import type { Config } from "./config.ts";
import type { EpisodeIndex } from "./episode-index.ts";
import type { EpisodeStore } from "./episodes.ts";
import type { Figures } from "./figures.ts";
import type { Log } from "../log.ts";
import type { Store } from "./store.ts";
import { type TakenEpisode, createTurns, episodeName, takeEpisode } from "./take-episode.ts";
import { uploadRefused, uploadTaken } from "./upload-alerts.ts";
import type { VersionGate } from "./version-gate.ts";

interface TakingUploads {
  config: () => Pick<Config, "max_episode_bytes">;
  store: Store;
  episodes: EpisodeStore;
  index: EpisodeIndex;
  gate: VersionGate;
  figures: Figures;
  /** There may be a new event. */
  news: () => void;
  log: Log;
}

const inTurn = createTurns();

/** Takes an upload, and notes at its host that it was taken or refused. @throws Refusal. */
export async function takeUpload(
  receiver: TakingUploads,
  { sender, request, host, file }: { sender: Sender; request: Request; host: string; file: string },
): Promise<TakenEpisode> {
  const { store, figures, news, log } = receiver;
  await store
    .write((tx) => stamp(tx, sender), [sender.host])
    .catch((error: Error) => log.warn("use of a token not noted", { error }));
  try {
    await mustBe(store, sender, host);
    const key = { host: sender.name, episode: episodeName(file) };
    const taking = { ...receiver, maxBytes: receiver.config().max_episode_bytes, inTurn };
    const taken = await takeEpisode(taking, key, request);
    // The episode is in its place and in the index: a failure from here on must not refuse it.
    await store
      .write((tx) => uploadTaken(tx, sender, { at: Date.now(), stamped: taken.stamped }), [sender.host])
      .catch((error: unknown) => log.warn("upload not noted at its host", { error }));
    figures.episodes(taken.outcome).add();
    if (taken.outcome === "stored") {
      figures.bytes.add(taken.size);
      log.info("episode stored", { ...key, size: taken.size });
    }
    return taken;
  } catch (error) {
    if (request.signal.aborted) throw error;
    const refusal = asRefusal(error);
    const { status, code } = refusal;
    figures.episodes("refused").add();
    // A failure on this side says nothing of the host.
    if (status < 500) {
      const refused = { at: Date.now(), why: `${status} ${code}`, unstamped: code === "unstamped" };
      await store.write((tx) => uploadRefused(tx, sender, refused), [sender.host]).catch(() => {});
      news();
    }
    throw refusal;
  }
}
