// Episodes in a folder. An episode is `<host>/<episode>.tar.zst`. An upload:
//
//   1. bytes go to `<host>/.<episode>.tar.zst.<random>.partial`, beside the target and so on the same file system
//   2. the file is synced, then linked to its name: link(2) fails where the name is taken, a rename would replace it
//   3. the partial name is removed, and the folder is synced: the name survives a power cut
//
// Killed before 2 it leaves a partial file, which the next start or the hourly sweep removes. Killed after 2 the episode is whole.

import {
  type Stats,
  existsSync,
  linkSync,
  lstatSync,
  readdirSync,
  renameSync,
  rmSync,
  rmdirSync,
  statSync,
  unlinkSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { NAME_SEGMENT } from "../config.ts";
import { inheritOwner, makeFolder, syncFolder } from "../files.ts";
import type { Log } from "../log.ts";
import type { EpisodeKey, EpisodeStore, StoredEpisode, Upload } from "./episodes.ts";

/** A sync begins each time so many bytes are written, so that the last sync is short. */
const SYNC_EVERY_BYTES = 64 << 20;
/** Chunks of the network are gathered into writes of this size. */
const WRITE_BYTES = 1 << 20;
const SUFFIX = ".tar.zst";

/** Episodes as files in a folder. */
export class EpisodeFolder implements EpisodeStore {
  readonly path: string;
  /** Partial files that are being written by this process. */
  #open = new Set<string>();

  constructor(path: string) {
    this.path = path;
  }

  async upload(key: EpisodeKey): Promise<Upload> {
    const folder = join(this.path, key.host);
    makeFolder(folder, 0o750);
    const target = this.#path(key);
    const partial = join(folder, `.${key.episode}${SUFFIX}.${randomBytes(6).toString("hex")}.partial`);
    this.#open.add(partial);
    const file = await open(partial, "wx", 0o640).catch((error: Error) => {
      this.#open.delete(partial);
      throw error;
    });
    const writer = new FileWriter(file);
    inheritOwner(partial);
    const finish = async (): Promise<void> => {
      if (!this.#open.delete(partial)) return;
      await writer.close();
      if (existsSync(partial)) unlinkSync(partial);
    };
    return {
      at: target,
      write: (chunk) => writer.write(chunk),
      async commit() {
        await writer.sync();
        const placed = place(partial, target);
        await finish();
        if (placed) syncFolder(folder);
        return placed ? "stored" : "taken";
      },
      abort: finish,
    };
  }

  async find(key: EpisodeKey): Promise<StoredEpisode | null> {
    const at = this.#path(key);
    const found = look(at);
    return found?.isFile() ? { ...key, size: found.size, modifiedAt: found.mtimeMs, at } : null;
  }

  async sync({ host, at }: StoredEpisode): Promise<void> {
    const file = await open(at, "r");
    try {
      await file.sync();
    } finally {
      await file.close();
    }
    syncFolder(join(this.path, host));
  }

  open({ at }: Pick<StoredEpisode, "at">): Blob {
    return Bun.file(at);
  }

  body({ at }: StoredEpisode, start: number, end: number): Blob {
    return Bun.file(at).slice(start, end);
  }

  async *list(): AsyncIterable<StoredEpisode> {
    for (const host of this.#hosts()) {
      for (const name of this.#files(host).toSorted()) {
        const episode = name.slice(0, -SUFFIX.length);
        const found = await this.find({ host, episode });
        if (found) yield found;
      }
    }
  }

  async has(host: string): Promise<boolean> {
    return this.#files(host).length > 0;
  }

  async move(from: string, to: string): Promise<void> {
    const [old, fresh] = [join(this.path, from), join(this.path, to)];
    if (!look(old)) return;
    if (lstatSync(old).isSymbolicLink() && !existsSync(fresh)) {
      renameSync(old, fresh);
      return syncFolder(this.path);
    }
    makeFolder(fresh, 0o750);
    for (const name of this.#files(from)) {
      const [source, target] = [join(old, name), join(fresh, name)];
      // Where the name is taken: by a move that was killed, or by another process just now.
      if (!look(source) || (!place(source, target) && look(source)?.ino !== look(target)?.ino)) continue;
      rmSync(source, { force: true });
    }
    syncFolder(fresh);
    // Partial files keep the folder.
    if (look(old) && readdirSync(old).length === 0) rmdirSync(old);
    syncFolder(this.path);
  }

  async remove<K extends EpisodeKey>(keys: readonly K[], note: (gone: K[]) => Promise<void>): Promise<void> {
    const folders = new Set<string>();
    for (const key of keys) {
      const path = this.#path(key);
      if (!look(path)) continue;
      unlinkSync(path);
      folders.add(dirname(path));
    }
    for (const folder of folders) syncFolder(folder);
    // An upload may have brought one back.
    await note(keys.filter((key) => !look(this.#path(key))));
  }

  async prepare(log: Log): Promise<void> {
    makeFolder(this.path, 0o750);
    await this.sweep(log);
  }

  async sweep(log: Log): Promise<void> {
    let swept = 0;
    const failures: unknown[] = [];
    // A folder that belongs to root, for example, stops neither the rest of the sweep nor the start.
    const attempt = <T>(work: () => T): T | undefined => {
      try {
        return work();
      } catch (error) {
        failures.push(error);
        return undefined;
      }
    };
    for (const host of this.#hosts()) {
      const folder = join(this.path, host);
      for (const name of attempt(() => readdirSync(folder)) ?? []) {
        const path = join(folder, name);
        if (!name.startsWith(".") || !name.endsWith(".partial") || this.#open.has(path)) continue;
        attempt(() => {
          if (!lstatSync(path).isFile()) return;
          unlinkSync(path);
          swept++;
        });
      }
    }
    if (swept > 0) log.info("swept unfinished uploads", { files: swept });
    if (failures.length > 0)
      log.warn("unfinished uploads can't be swept", { error: failures[0], times: failures.length });
  }

  #path({ host, episode }: EpisodeKey): string {
    return join(this.path, host, `${episode}${SUFFIX}`);
  }

  /** The names of a host's files that are episodes. */
  #files(host: string): string[] {
    const folder = join(this.path, host);
    const names = existsSync(folder) ? readdirSync(folder) : [];
    return names.filter((name) => name.endsWith(SUFFIX) && NAME_SEGMENT.test(name.slice(0, -SUFFIX.length)));
  }

  /** The folders of hosts. Links to folders count, since uploads follow them; other names (`lost+found`) don't. */
  #hosts(): string[] {
    if (!existsSync(this.path)) return [];
    const names = readdirSync(this.path).filter((name) => NAME_SEGMENT.test(name));
    return names.filter((name) => look(join(this.path, name))?.isDirectory()).toSorted();
  }
}

/** The file at a path; undefined for a missing file and a dangling link. */
function look(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ELOOP") return undefined;
    throw error;
  }
}

/** Gives a file its name, unless the name is taken. The old name may remain. */
function place(partial: string, target: string): boolean {
  try {
    linkSync(partial, target);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") return false;
    // exFAT and some network file systems have no hard links. Nothing in this process runs between the check and the rename.
    if (code !== "EPERM" && code !== "ENOTSUP" && code !== "EOPNOTSUPP" && code !== "ENOSYS") throw error;
    if (existsSync(target)) return false;
    renameSync(partial, target);
    return true;
  }
}

/** Writes one file in large pieces: one is written while the next is gathered. */
class FileWriter {
  #file: FileHandle;
  #buffer = Buffer.allocUnsafe(WRITE_BYTES);
  #spare = Buffer.allocUnsafe(WRITE_BYTES);
  #filled = 0;
  #unsynced = 0;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<void> = Promise.resolve();

  constructor(file: FileHandle) {
    this.#file = file;
  }

  async write(chunk: Uint8Array): Promise<void> {
    let at = 0;
    while (at < chunk.length) {
      const part = chunk.subarray(at, at + WRITE_BYTES - this.#filled);
      this.#buffer.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === WRITE_BYTES) await this.#flush();
    }
  }

  async sync(): Promise<void> {
    await this.#flush();
    await this.#writing;
    await this.#syncing;
    await this.#file.sync();
  }

  async close(): Promise<void> {
    await this.#writing.catch(() => {});
    await this.#syncing.catch(() => {});
    await this.#file.close();
  }

  /** Writes the buffer after the one before it is written: two are in memory at most. */
  async #flush(): Promise<void> {
    await this.#writing;
    const full = this.#buffer.subarray(0, this.#filled);
    [this.#buffer, this.#spare] = [this.#spare, this.#buffer];
    this.#filled = 0;
    this.#writing = this.#put(full);
    // The next flush awaits it and throws its error.
    this.#writing.catch(() => {});
  }

  async #put(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at);
      at += bytesWritten;
    }
    this.#unsynced += bytes.length;
    if (this.#unsynced < SYNC_EVERY_BYTES) return;
    this.#unsynced = 0;
    // Writing goes on meanwhile, and waits where the disk is a whole step behind.
    await this.#syncing;
    this.#syncing = this.#file.datasync();
    this.#syncing.catch(() => {});
  }
}
