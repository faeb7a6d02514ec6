// What an observer knows of failures, for the pages. It is asked at most every five seconds, however many pages are open, and not at all while
// none is. Its last answer is shown at once and renewed meanwhile: a slow observer delays no page but the first that shows its failures.

import * as v from "valibot";
import { HttpError } from "../client.ts";
import { type PeerSettings, openPeer } from "../peer.ts";

const TIMEOUT_MS = 3000;
const LARGEST_ANSWER = 16 << 20;
/** An older answer is renewed. */
const OLD_MS = 5000;
/** A page waits until an answer as old as this is renewed. */
const STALE_MS = 30_000;
/** Failures that are listed, the latest. */
export const MOST_LISTED = 200;
/** So many answers are kept, of the list and of single failures. */
const MOST_KEPT = 50;
const RECENT_MS = 24 * 3_600_000;

const count = v.fallback(v.number(), 0);
const text = v.fallback(v.string(), "");
const Cluster = v.object({
  fingerprint: v.string(),
  endpoint: text,
  /** The error's text without what differs. */
  shape: text,
  count,
  first_at: text,
  last_at: text,
  by_source: v.fallback(v.record(v.string(), v.number()), {}),
  /** How often it was escalated. */
  level: count,
});
export type Cluster = v.InferOutput<typeof Cluster>;

const Clusters = v.object({ clusters: v.array(Cluster), total: count });

/** A failure in full. */
const Failure = v.object({
  ...Cluster.entries,
  /** Why its failures belong together. */
  why: text,
  examples: v.fallback(
    v.array(
      v.object({ timestamp: text, source: text, error: text, input_summary: text, output_summary: text, id: text }),
    ),
    [],
  ),
});
export type Failure = v.InferOutput<typeof Failure>;

/** What an observer has answered. */
export interface Known<T> {
  /** Null where it never has, or has no such thing. */
  value: T | null;
  /** When it last did, in milliseconds since 1970; 0 for never. */
  at: number;
  /** Why it does not now; null where it does. */
  problem: string | null;
}

export type State = "escalated" | "new" | "known" | "quiet";

/** How a failure stands. What did not fail for a day is quiet, whether it was escalated or not. */
export function stateOf({ level, first_at, last_at }: Cluster, now: number): State {
  const isRecent = (time: string): boolean => now - Date.parse(time) < RECENT_MS;
  if (!isRecent(last_at)) return "quiet";
  return level > 0 ? "escalated" : isRecent(first_at) ? "new" : "known";
}

export type Failures = ReturnType<typeof openFailures>;

/** @param settings the present ones of the observer; undefined where none is asked. */
export function openFailures(settings: () => PeerSettings | undefined, stopping: AbortSignal) {
  let [observer, changes] = [openObserver(settings()), 0];

  function openObserver(of: PeerSettings | undefined) {
    let ask: ReturnType<typeof openPeer> | null = null;
    const remembered = new Map<string, ReturnType<typeof remember>>();
    const get = async (path: string): Promise<Record<string, unknown> | null> => {
      const limits = { timeoutMs: TIMEOUT_MS, largestAnswer: LARGEST_ANSWER };
      ask ??= openPeer(of!, { program: "picket-receiver", role: "observer", ...limits });
      return ask({ path: `/observer/${path}`, signal: stopping }).catch((error: unknown) => {
        if (error instanceof HttpError && error.status === 404 && error.body["code"] === "unknown_cluster") return null;
        throw error;
      });
    };
    return {
      of,
      about<T>(path: string, schema: v.GenericSchema<unknown, T>) {
        if (remembered.size >= MOST_KEPT) remembered.clear();
        const one = remembered.getOrInsertComputed(path, () =>
          remember(
            () => get(path),
            schema,
            () => changes++,
          ),
        );
        return one as ReturnType<typeof remember<T>>;
      },
    };
  }
  function about<T>(path: string, schema: v.GenericSchema<unknown, T>) {
    // After a reload another one may be asked.
    if (observer.of !== settings()) observer = openObserver(settings());
    return observer.about(path, schema);
  }
  const list = () => about(`clusters?limit=${MOST_LISTED}`, Clusters);

  return {
    isThere: (): boolean => settings() !== undefined,
    list: () => list().look(),
    one: (fingerprint: string) => about(`clusters/${encodeURIComponent(fingerprint)}`, Failure).look(),
    /** How many are to be seen to, as far as is known. Waits for nothing. */
    count: (now: number): number =>
      (list().now().value?.clusters ?? []).filter((one) => /escalated|new/.test(stateOf(one, now))).length,
    /** Another number after each change. Waits for nothing. */
    version(): number {
      if (settings()) list().now();
      return changes;
    },
  };
}

/** An answer that is kept, and renewed where it is old. */
function remember<T>(
  get: () => Promise<Record<string, unknown> | null>,
  schema: v.GenericSchema<unknown, T>,
  changed: () => void,
) {
  let known: Known<T> = { value: null, at: 0, problem: null };
  let [asked, under] = [Number.NEGATIVE_INFINITY, null as Promise<void> | null];

  async function renew(): Promise<void> {
    const before = JSON.stringify([known.value, known.problem]);
    try {
      const answer = await get();
      const parsed = answer && v.safeParse(schema, answer);
      if (parsed?.success === false) throw new Error('the answer is not an observer\'s: see "observer.url"');
      known = { value: parsed?.output ?? null, at: Date.now(), problem: null };
    } catch (error) {
      known = { ...known, problem: problemOf(error) };
    }
    [asked, under] = [performance.now(), null];
    if (JSON.stringify([known.value, known.problem]) !== before) changed();
  }
  const age = () => performance.now() - asked;
  const now = (): Known<T> => {
    if (age() > OLD_MS) under ??= renew();
    return known;
  };
  return {
    now,
    async look(): Promise<Known<T>> {
      if (age() > STALE_MS) await (under ??= renew());
      return now();
    },
  };
}

function problemOf(error: unknown): string {
  const { message } = error as Error;
  const isRefused = error instanceof HttpError && error.refusesCredentials;
  return isRefused ? `${message}; set "observer.token_file" to the token of its operator` : message;
}
