// A start that waits for what comes back by itself.

import { setTimeout as sleep } from "node:timers/promises";
import { isAway } from "./database.ts";
import { isDiskFull } from "./files.ts";
import { errorChain, seldom } from "./log.ts";
import type { Service } from "./service.ts";

/** How often it tries again. */
const LOOK_MS = 1000;

/**
 * Repeats a step of the start while the disk is full, or the database is away. Systemd restarts a unit a few times only: a daemon that ended
 * here would stay down afterwards.
 */
export async function oncePossible<T>({ log, stopping, waits }: Service, step: () => Promise<T>): Promise<T> {
  const rare = seldom(log);
  for (;;) {
    try {
      return await step();
    } catch (error) {
      const [isFull, text] = [isFullAt(error), errorChain(error)];
      if (!isFull && !isAway(error)) throw error;
      waits(isFull ? `DISK FULL: ${text}` : `waits: ${text}`);
      rare.warn("start", `the start waits${isFull ? " until there is room" : ""}: ${text}`);
    }
    await sleep(LOOK_MS, undefined, { signal: stopping });
  }
}

const isFullAt = (error: unknown): boolean => isDiskFull(error) || isDiskFull((error as Error).cause);
