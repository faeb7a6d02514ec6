// Ships finished episodes: packs, sends, and puts each where its answer says (lib/agent/episodes.ts has the places).
//
//   201, 200              shipped            409   stays, told once: a human decides
//   400 412 413 422       quarantine         401 403 404   everything holds, said, tried again
//   429 503 507, other 5xx, no answer        stays, tried again later (Retry-After obeyed)
//
// One bad episode never stops the others; the heartbeat is another loop.

import { createWriteStream, existsSync, renameSync, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { pipeline } from "node:stream/promises";
import { Readable, Transform } from "node:stream";
import { createZstdCompress } from "node:zlib";
import { HttpError, TransportError } from "../client.ts";
import { syncFolder } from "../files.ts";
import { type Log, errorChain, type Seldom, seldom } from "../log.ts";
import type { EpisodePlaces } from "./episodes.ts";
import type { Hub } from "./hub.ts";
import { tarOf } from "./tar.ts";

/** First and longest pause after trouble, in milliseconds. */
const SHORTEST_PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 300_000;
/** An upload that doesn't move for so long is given up; the answer may take longer, the receiver has to sync. */
const STUCK_MS = 60_000;
const SLOW_ANSWER_MS = 300_000;
/** How often an upload that is waited for is a sign of life: it ends by itself, so the loop it belongs to doesn't hang. */
const SIGN_MS = 1000;
/** Bytes that the compressor gives at a time; with zlib's own 16 KiB a large part of the time goes into handing them on. */
const COMPRESSED_CHUNK = 1 << 18;

/** What a pass did: `transient` and `conflicts` stay where they are, `fatal` is in quarantine. */
interface Shipped {
  scanned: number;
  shipped: number;
  transient: number;
  conflicts: number;
  fatal: number;
}

type Outcome = Exclude<keyof Shipped, "scanned">;

interface ShippingOptions {
  places: EpisodePlaces;
  hub: Hub;
  /** The name in the path: the token's host. */
  host: () => Promise<string>;
  log: Log;
  signal: AbortSignal;
}

/** Ships, and remembers what has to wait. */
export class Shipping {
  #options: ShippingOptions;
  #hashes = new Map<string, string>();
  /** Conflicts that were told, by id and the archive's time. */
  #conflicts = new Set<string>();
  /** Until when, by `performance.now()`: a clock that is set must not make a pause of seconds one of a day. */
  #pauses = new Map<string, { failures: number; until: number }>();
  /** Everything holds until then, by the same clock. */
  #holdUntil = 0;
  #holds = 0;
  #seldom: Seldom;

  constructor(options: ShippingOptions) {
    this.#options = options;
    this.#seldom = seldom(options.log);
  }

  /** One pass over what is finished. */
  async pass({ alive = () => {} }: { alive?: () => void } = {}): Promise<Shipped> {
    const { places, log, signal } = this.#options;
    const done: Shipped = { scanned: 0, shipped: 0, transient: 0, conflicts: 0, fatal: 0 };
    places.make();
    places.sweep((path, error) => this.#seldom.warn(`left ${path}`, `"${path}" not removed: ${errorChain(error)}`));
    const finished = places.finished((name, remedy) =>
      this.#seldom.warn(`odd ${name}`, `episode "${name}" can't be shipped: ${remedy}`),
    );
    for (const id of finished) {
      if (signal.aborted) break;
      done.scanned++;
      const now = performance.now();
      if (now < this.#holdUntil || now < (this.#pauses.get(id)?.until ?? 0)) {
        done.transient++;
        continue;
      }
      alive();
      done[await this.#one(id, alive)]++;
    }
    if (done.shipped + done.fatal > 0) log.info("episodes", { ...done });
    return done;
  }

  async #one(id: string, alive: () => void): Promise<Outcome> {
    const { places, log } = this.#options;
    const archive = places.archive(id);
    let release: (() => void) | null = null;
    try {
      release = places.hold(id);
      if (release === null) return "transient";
      if (!existsSync(archive)) await this.#pack(id, archive, alive);
      if (this.#conflicts.has(conflictOf(id, archive))) return "conflicts";
      await this.#send(id, archive, alive);
      places.ship(id);
      this.#forget(id);
      log.info("episode shipped", { episode: id });
      return "shipped";
    } catch (error) {
      return this.#judge(id, archive, error);
    } finally {
      release?.();
    }
  }

  /** Where an episode goes that wasn't taken. Trouble in putting it there (a folder that can't be written) is its own alone. */
  #judge(id: string, archive: string, error: unknown): Outcome {
    try {
      return this.#place(id, archive, error);
    } catch (inPlacing) {
      this.#pause(id);
      this.#seldom.warn(`place ${id}`, `episode "${id}" not put into quarantine: ${errorChain(inPlacing)}`);
      return "transient";
    }
  }

  /** Packs a folder into its archive. What can't be packed whole goes at once: on a full disk it would leave no room for the others. */
  async #pack(id: string, archive: string, alive: () => void): Promise<void> {
    const { places } = this.#options;
    const partial = `${archive}.partial`;
    try {
      const sha256 = await this.#write(id, partial, alive);
      renameSync(partial, archive);
      syncFolder(places.outbox);
      this.#hashes.set(id, sha256);
    } catch (error) {
      rmSync(partial, { force: true });
      throw error;
    }
  }

  /** Writes what is to be an archive, and syncs it. @returns its SHA-256. */
  async #write(id: string, partial: string, alive: () => void): Promise<string> {
    const { places, log, signal } = this.#options;
    const hasher = new Bun.CryptoHasher("sha256");
    const hashing = new Transform({
      transform(chunk: Buffer, _, done) {
        hasher.update(chunk);
        done(null, chunk);
      },
    });
    const skipped = (path: string, why: string) => log.warn("left out of the archive", { path, why });
    const tar = Readable.from(eachAlive(tarOf(`${places.episodes}/${id}`, id, skipped), alive), { objectMode: false });
    await pipeline(
      tar,
      createZstdCompress({ chunkSize: COMPRESSED_CHUNK }),
      hashing,
      createWriteStream(partial, { mode: 0o600 }),
      { signal },
    );
    const file = await open(partial, "r");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    return hasher.digest("hex");
  }

  async #send(id: string, archive: string, alive: () => void): Promise<void> {
    const { hub, host, places, signal } = this.#options;
    const sha256 = this.#hashes.get(id) ?? (await hashOf(archive, alive));
    const commit = places.commit(id);
    const watch = new Watch(signal, alive);
    try {
      const name = await host();
      await hub.ask({
        method: "PUT",
        path: `/v1/episodes/${name}/${id}.tar.zst`,
        what: `ship ${id}`,
        timeoutMs: null,
        signal: watch.signal,
        body: watch.through(Bun.file(archive).stream()),
        headers: {
          "content-type": "application/zstd",
          // Said beforehand, what is too large is refused before it is sent; and not every server takes a body in chunks.
          "content-length": String(statSync(archive).size),
          "x-content-sha256": sha256,
          "x-schema-version": "1",
          ...(commit === null ? {} : { "x-code-commit": commit }),
        },
      });
    } catch (error) {
      if (watch.stuck) throw new TransportError(`ship ${id}: the upload did not move for too long`);
      throw error;
    } finally {
      watch.end();
    }
  }

  #place(id: string, archive: string, error: unknown): Outcome {
    const { places, log, signal } = this.#options;
    if (signal.aborted) return "transient";
    if (!(error instanceof HttpError)) {
      this.#pause(id);
      this.#seldom.warn(
        error instanceof TransportError ? "transport" : `pack ${id}`,
        `episode "${id}" not shipped: ${errorChain(error)}`,
      );
      return "transient";
    }
    const { status, body, given } = error;
    if (status === 409) {
      this.#conflicts.add(conflictOf(id, archive));
      log.error("conflict: the receiver has other bytes under this name; it stays here until somebody decides", {
        episode: id,
      });
      return "conflicts";
    }
    if ([400, 412, 413, 422].includes(status)) {
      places.putAway(id, { status, body: given, time: new Date().toISOString() });
      this.#forget(id);
      log.error("episode put into quarantine", { episode: id, status, error: body["error"] });
      const { remediation } = body;
      if (status === 412)
        log.error(`what to do on this host: ${typeof remediation === "string" ? remediation : "update the code"}`);
      return "fatal";
    }
    if (status === 401 || status === 403 || status === 404) {
      this.#hold(error.retryAfter);
      this.#seldom.error("hold", `${error.message}: all shipping holds`);
      return "transient";
    }
    // 429 and the like are about all of them, not about this one.
    if (error.retryAfter !== null) this.#hold(error.retryAfter);
    else this.#pause(id);
    this.#seldom.warn(String(status), error.message);
    return "transient";
  }

  #pause(id: string): void {
    const failures = (this.#pauses.get(id)?.failures ?? 0) + 1;
    this.#pauses.set(id, { failures, until: performance.now() + backoff(failures) });
  }

  #hold(seconds: number | null): void {
    this.#holds++;
    this.#holdUntil = performance.now() + (seconds === null ? backoff(this.#holds) : seconds * 1000);
  }

  #forget(id: string): void {
    this.#holds = 0;
    this.#hashes.delete(id);
    this.#pauses.delete(id);
  }
}

/** Doubling, and somewhere in its upper half, so that many hosts don't come back at once. */
function backoff(failures: number): number {
  const most = Math.min(SHORTEST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS);
  return most * (0.5 + Math.random() / 2);
}

function conflictOf(id: string, archive: string): string {
  return `${id} ${statSync(archive, { throwIfNoEntry: false })?.mtimeMs ?? 0}`;
}

async function hashOf(path: string, alive: () => void): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of eachAlive(Bun.file(path).stream(), alive)) hasher.update(chunk);
  return hasher.digest("hex");
}

/** The same chunks, each a sign of life: a large folder takes longer than the watchdog waits. */
async function* eachAlive<T>(chunks: AsyncIterable<T>, alive: () => void): AsyncGenerator<T> {
  for await (const chunk of chunks) {
    alive();
    yield chunk;
  }
}

/** Gives an upload up that doesn't move; until then it lives, however long it takes. */
class Watch {
  readonly #stop = new AbortController();
  readonly #alive: () => void;
  #timer: Timer;
  stuck = false;
  readonly signal: AbortSignal;

  constructor(outer: AbortSignal, alive: () => void) {
    this.#alive = alive;
    this.signal = AbortSignal.any([outer, this.#stop.signal]);
    this.#timer = this.#arm(STUCK_MS);
  }

  async *through(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      this.#again(STUCK_MS);
      yield chunk;
    }
    this.#again(SLOW_ANSWER_MS);
  }

  end(): void {
    clearTimeout(this.#timer);
  }

  #again(ms: number): void {
    this.#alive();
    clearTimeout(this.#timer);
    this.#timer = this.#arm(ms);
  }

  #arm(ms: number): Timer {
    return setTimeout(
      () => {
        this.#alive();
        if (ms > SIGN_MS) {
          this.#timer = this.#arm(ms - SIGN_MS);
          return;
        }
        this.stuck = true;
        this.#stop.abort();
      },
      Math.min(ms, SIGN_MS),
    );
  }
}
