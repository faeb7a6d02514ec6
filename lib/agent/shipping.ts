// Ships finished episodes: packs each, sends it, and moves it by the answer (lib/agent/episodes.ts has the folders).
//
//   201, 200                       shipped
//   400 412 413 422                quarantine
//   409                            stays and is logged once: an operator decides
//   401 403 404                    logged; all shipping waits, then retries
//   429 503 507 other 5xx, none    stays, retried with backoff; Retry-After is obeyed
//   not the receiver's answer      the same, whatever its status: a proxy's 413, a captive portal's 200
//
// A bad episode never stops the others. The heartbeat is another loop.

import { createWriteStream, existsSync, renameSync, rmSync, statSync } from "node:fs";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import { createZstdCompress } from "node:zlib";
import { HttpError, TransportError } from "../client.ts";
import { syncFolder } from "../files.ts";
import { type Log, errorChain, type Seldom, seldom } from "../log.ts";
import type { EpisodeFolders } from "./episodes.ts";
import { type Hub, refused } from "./hub.ts";
import { tarOf } from "./tar.ts";

/** First and longest pause after a failure, in milliseconds. */
const SHORTEST_PAUSE_MS = 2000;
const LONGEST_PAUSE_MS = 300_000;
/** An upload without progress is aborted after this long; the answer may take longer, because the receiver syncs the archive. */
const STUCK_MS = 60_000;
const SLOW_ANSWER_MS = 300_000;
/** How often a running upload feeds the watchdog: it has timeouts, so the loop doesn't hang. */
const ALIVE_MS = 1000;
/** The compressor's output chunks, in bytes; zlib's default of 16 KiB is much slower. */
const COMPRESSED_CHUNK = 1 << 18;

/** Counts of a pass: `transient` and `conflicts` stay where they are, `fatal` is in quarantine, `invalid` can't be shipped (a name, a link). */
type Shipped = Record<Outcome | "scanned" | "invalid", number>;
type Outcome = "shipped" | "transient" | "conflicts" | "fatal";

interface ShippingOptions {
  folders: EpisodeFolders;
  hub: Hub;
  /** The name in the upload's path: the token's host. */
  host: () => Promise<string>;
  log: Log;
  signal: AbortSignal;
}

/** The key of all shipping, beside the ids of episodes. */
const ALL = "";

/** Ships, and remembers what has to wait. */
export class Shipping {
  #options: ShippingOptions;
  /** Final answers to archives that are still here, by id and the archive's time: these aren't sent again. */
  #decided = new Map<string, HttpError>();
  #last: Shipped | null = null;
  /** Times are by `performance.now()`, so that setting the clock doesn't lengthen a wait. */
  #waits = new Map<string, { failures: number; until: number; status: number | undefined }>();
  /** Foreign answers in a row: a single one may be about its episode, such as a proxy's limit; more are about the way. */
  #foreign = 0;
  #seldom: Seldom;
  #alive = () => {};

  constructor(options: ShippingOptions) {
    this.#options = options;
    this.#seldom = seldom(options.log);
  }

  /** One pass over the finished episodes. */
  async pass({ alive = () => {} }: { alive?: () => void } = {}): Promise<Shipped> {
    const { folders, log, signal } = this.#options;
    this.#alive = alive;
    const done: Shipped = { scanned: 0, shipped: 0, transient: 0, conflicts: 0, fatal: 0, invalid: 0 };
    folders.make();
    if (!this.#last) this.#nameMounts();
    folders.sweep((path, error) => this.#seldom.warn(`sweep ${path}`, `"${path}" not removed: ${errorChain(error)}`));
    const { ids, invalid } = folders.finished();
    done.invalid = invalid.size;
    for (const [name, fix] of invalid)
      this.#seldom.warn(`invalid ${name}`, `episode "${name}" can't be shipped: ${fix}`);
    // What failed most often comes last, so that it doesn't hold up the others.
    const failures = (id: string) => this.#waits.get(id)?.failures ?? 0;
    for (const id of ids.toSorted((a, b) => failures(a) - failures(b))) {
      if (signal.aborted) break;
      done.scanned++;
      alive();
      done[this.#hasToWait(ALL) || this.#hasToWait(id) ? "transient" : await this.#shipOne(id)]++;
    }
    if (done.shipped + done.fatal > 0) log.info("episodes", { ...done });
    return (this.#last = done);
  }

  #nameMounts(): void {
    const { folders, log } = this.#options;
    const others = folders.otherMounts();
    if (others.length > 0) log.info("episodes are copied: these folders are on another mount", { folders: others });
  }

  /** What is wrong, for the status line. */
  get troubles(): string[] {
    const { invalid = 0, conflicts = 0 } = this.#last ?? {};
    const counts = { "can't be shipped": invalid, "in conflict": conflicts };
    const some = Object.entries(counts).flatMap(([what, n]) =>
      n > 0 ? [`${n} ${n === 1 ? "episode" : "episodes"} ${what}`] : [],
    );
    return this.#hasToWait(ALL) ? [...some, `shipping waits: answered ${this.#waits.get(ALL)?.status}`] : some;
  }

  /** Forgets what had to wait: the receiver may be another one now. */
  retryAll(): void {
    this.#waits.clear();
    this.#decided.clear();
    this.#foreign = 0;
  }

  async #shipOne(id: string): Promise<Outcome> {
    const { folders, log } = this.#options;
    let lock: Disposable | null = null;
    try {
      lock = folders.lock(id);
      if (!lock) return "transient";
      if (!folders.isAccepted(id)) {
        if (!existsSync(folders.archive(id))) await this.#pack(id);
        const decided = this.#decided.get(this.#keyOf(id));
        if (decided) return decided.status === 409 ? "conflicts" : await this.#quarantine(id, decided);
        await this.#send(id);
        folders.accept(id);
      }
      await folders.ship(id, this.#alive);
      this.#forget(id);
      log.info("episode shipped", { episode: id });
      return "shipped";
    } catch (error) {
      return await this.#failed(id, error);
    } finally {
      lock?.[Symbol.dispose]();
    }
  }

  /** Packs a folder into its archive. A partial archive is removed at once: on a full disk the other episodes need the space. */
  async #pack(id: string): Promise<void> {
    const { folders, log, signal } = this.#options;
    const partial = `${folders.archive(id)}.partial`;
    const skipped = (path: string, why: string) => log.warn("not in the archive", { path, why });
    const tar = eachAlive(tarOf(`${folders.episodes}/${id}`, id, skipped), this.#alive);
    try {
      await pipeline(
        Readable.from(tar, { objectMode: false }),
        createZstdCompress({ chunkSize: COMPRESSED_CHUNK }),
        createWriteStream(partial, { mode: 0o600, flush: true }),
        { signal },
      );
      renameSync(partial, folders.archive(id));
      syncFolder(folders.outbox);
    } catch (error) {
      rmSync(partial, { force: true });
      throw error;
    }
  }

  async #send(id: string): Promise<void> {
    const { hub, host, folders, signal } = this.#options;
    const archive = Bun.file(folders.archive(id));
    const sha256 = await hashOf(archive, this.#alive);
    const commit = folders.commit(id);
    const name = await host();
    using upload = watchUpload(signal, this.#alive);
    const { status, body } = await hub.ask({
      method: "PUT",
      path: `/v1/episodes/${name}/${id}.tar.zst`,
      what: `ship ${id}`,
      timeoutMs: null,
      signal: upload.signal,
      body: upload.through(archive.stream()),
      headers: {
        "content-type": "application/zstd",
        // Lets the receiver reject a large archive before it is sent; and not every server takes a chunked body.
        "content-length": String(archive.size),
        "x-content-sha256": sha256,
        "x-schema-version": "1",
        ...(commit === null ? {} : { "x-code-commit": commit }),
      },
    });
    // The folder moves, and is removed some day: another program's 200 must not do that.
    const { sha256: stored = status === 201 ? sha256 : undefined } = body;
    if (stored !== sha256)
      throw new TransportError(`ship ${id}: answered ${status}, but without this archive's sha256`);
  }

  /** Logs a failure and decides what becomes of the episode. */
  async #failed(id: string, error: unknown): Promise<Outcome> {
    const { log, signal } = this.#options;
    if (signal.aborted) return "transient";
    if (!(error instanceof HttpError)) {
      this.#wait(id);
      const kind = error instanceof TransportError ? "transport" : `pack ${id}`;
      this.#seldom.warn(kind, `episode "${id}" not shipped: ${errorChain(error)}`);
      return "transient";
    }
    const { status, foreign, message } = error;
    this.#foreign = foreign ? this.#foreign + 1 : 0;
    if (foreign) {
      this.#wait(id);
      if (error.retryAfter !== null || this.#foreign > 1) this.#wait(ALL, error);
      this.#seldom.warn(`foreign ${status}`, `episode "${id}" not shipped: ${message}`);
    } else if (status === 409) {
      this.#decided.set(this.#keyOf(id), error);
      log.error("conflict: the receiver has other bytes under this name; rename or remove the episode", {
        episode: id,
      });
      return "conflicts";
    } else if ([400, 412, 413, 422].includes(status)) {
      return this.#quarantine(id, error);
    } else if ([401, 403, 404].includes(status)) {
      this.#wait(ALL, error);
      const fix = error.refusesCredentials ? `; ${refused(error).fix}` : "";
      this.#seldom.error("hold", `${message}: all shipping waits${fix}`);
    } else {
      // Retry-After is about all uploads, not about this one.
      this.#wait(error.retryAfter === null ? id : ALL, error);
      this.#seldom.warn(String(status), message);
    }
    return "transient";
  }

  /** Moves an episode to quarantine. If it can't be moved, only this episode waits. */
  async #quarantine(id: string, rejection: HttpError): Promise<Outcome> {
    const { folders, log } = this.#options;
    const { status, body, given } = rejection;
    const key = this.#keyOf(id);
    try {
      await folders.quarantineEpisode(id, { status, body: given }, this.#alive);
      this.#decided.delete(key);
    } catch (error) {
      this.#decided.set(key, rejection);
      this.#wait(id);
      this.#seldom.warn(`quarantine ${id}`, `episode "${id}" not put into quarantine: ${errorChain(error)}`);
      return "transient";
    }
    this.#forget(id);
    const { error, remediation } = body;
    log.error("episode put into quarantine", { episode: id, status, error });
    if (status === 412) log.error(`fix: ${typeof remediation === "string" ? remediation : "update the code"}`);
    return "fatal";
  }

  #keyOf(id: string): string {
    return `${id} ${statSync(this.#options.folders.archive(id), { throwIfNoEntry: false })?.mtimeMs ?? 0}`;
  }

  #hasToWait(what: string): boolean {
    return performance.now() < (this.#waits.get(what)?.until ?? 0);
  }

  /** Lets an episode, or all, wait: as long as the answer says, else with backoff. */
  #wait(what: string, answer?: HttpError): void {
    const failures = (this.#waits.get(what)?.failures ?? 0) + 1;
    const seconds = answer?.retryAfter ?? null;
    const until = performance.now() + (seconds === null ? backoff(failures) : seconds * 1000);
    this.#waits.set(what, { failures, until, status: answer?.status });
  }

  #forget(id: string): void {
    for (const what of [ALL, id]) this.#waits.delete(what);
    this.#foreign = 0;
  }
}

/** Exponential backoff in milliseconds, with jitter, so that many hosts don't retry at the same time. */
function backoff(failures: number): number {
  const most = Math.min(SHORTEST_PAUSE_MS * 2 ** (failures - 1), LONGEST_PAUSE_MS);
  return most * (0.5 + Math.random() / 2);
}

async function hashOf(file: Bun.BunFile, alive: () => void): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of eachAlive(file.stream(), alive)) hasher.update(chunk);
  return hasher.digest("hex");
}

/** The same chunks, each feeding the watchdog: a large folder takes longer than its period. */
async function* eachAlive<T>(chunks: AsyncIterable<T>, alive: () => void): AsyncGenerator<T> {
  for await (const chunk of chunks) {
    alive();
    yield chunk;
  }
}

/** Aborts an upload that makes no progress; until then it feeds the watchdog, however long the upload takes. */
function watchUpload(outer: AbortSignal, alive: () => void) {
  const stop = new AbortController();
  let deadline = performance.now() + STUCK_MS;
  const timer = setInterval(() => {
    alive();
    if (performance.now() >= deadline) stop.abort(new TransportError("the upload made no progress"));
  }, ALIVE_MS);
  return {
    signal: AbortSignal.any([outer, stop.signal]),
    async *through(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const chunk of chunks) {
        deadline = performance.now() + STUCK_MS;
        yield chunk;
      }
      deadline = performance.now() + SLOW_ANSWER_MS;
    },
    [Symbol.dispose]: () => clearInterval(timer),
  };
}
