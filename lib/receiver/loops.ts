// The receiver's loops. Of several receivers on one store the one that leads does their work, see presence.ts; each looks every second
// whether that is itself.

import { announce } from "./announce.ts";
import type { Config } from "./config.ts";
import type { EpisodeStore } from "./episodes.ts";
import type { News } from "./events.ts";
import { type Counted, countAll, health } from "./figures.ts";
import { beat } from "./heartbeat.ts";
import { retentionPass, rollupPass } from "./history.ts";
import type { createJobWatch } from "./jobs-watch.ts";
import { endPauses } from "./pause.ts";
import { LOOK_MS } from "./presence.ts";
import { settleRenames } from "./rename.ts";
import { shrink } from "./shrink.ts";
import { quietPass } from "./upload-alerts.ts";
import type { LoopOptions, Service } from "../service.ts";

/** What the loops work on. `config` is replaced by a reload. */
export interface Looping extends Counted {
  config: Config;
  episodes: EpisodeStore;
  watchJobs: ReturnType<typeof createJobWatch>;
  news: News;
}

interface Loops {
  service: Service;
  /** Tells the inbox what waits. */
  tellEvents: LoopOptions["pass"];
  /** Folders that must be writable. */
  folders: () => string[];
}

/** Adds the loops. `watch` has run once before. */
export function startLoops(receiver: Looping, { service, tellEvents, folders }: Loops): void {
  const { store, news, presence, episodes } = receiver;
  const { log, stopping } = service;
  let due = 0;
  const watching = service.loop({
    name: "presence",
    every: () => Math.max(due, 20) / 1000,
    async pass() {
      due = 1000;
      due = await watch(receiver);
    },
  });
  const ofOne = (name: string, seconds: number, pass: LoopOptions["pass"]) =>
    service.loop({
      name,
      every: () => seconds,
      pass: async (alive) => {
        if (presence.leads) await pass(alive);
      },
    });
  const tell = ofOne("tell", 5, tellEvents);
  news.on("event", () => {
    watching.wake();
    tell.wake();
  });
  ofOne("rollups", 30, async (alive) => {
    while ((await rollupPass(store, { now: Date.now(), alive })) && !stopping.aborted);
  });
  const { heartbeat, inbox } = receiver.figures;
  // One that can't tell what happens is of no use, although it takes all that comes (/health).
  const works = async (): Promise<boolean> => inbox.problem === null && (await health(receiver, folders())).ok;
  const heart = { works, last: heartbeat, signal: stopping };
  ofOne("heartbeat", 60, () => beat({ urls: receiver.config.heartbeat_url, ...heart }));
  service.loop({ name: "figures", every: () => 5, pass: () => countAll(receiver) });
  ofOne("hourly", 3600, async (alive) => {
    if (!presence.clockDoubted) {
      await retentionPass(store, { now: Date.now(), alive, retention: receiver.config.retention });
    }
    await shrink(store, { alive, signal: stopping });
    await episodes.sweep(log, alive);
  });
  ofOne("uploads", 300, async () => {
    await settleRenames(receiver);
    if ((await quietPass(store, { now: Date.now(), since: presence.backAt })) > 0) news.emit("event");
  });
}

/** Looks which hosts and jobs have fallen silent, and tells what changed; gives the milliseconds until the next look. */
export async function watch({ config, presence, watchJobs, news, store }: Looping): Promise<number> {
  const now = Date.now();
  const interval = config.poll_interval_seconds;
  const found = await presence.pass({ now, interval });
  if (found === null) return LOOK_MS;
  const { next, changed, sinking } = found;
  const ran = await presence.ran();
  const { backAt } = presence;
  await endPauses(store, presence.pauseClock);
  await watchJobs({ now, ran, backAt });
  const told = await announce(store, { now, ran, interval, remindHours: config.alerts.remind_hours, sinking });
  if (told + changed > 0) news.emit("event");
  return next;
}
