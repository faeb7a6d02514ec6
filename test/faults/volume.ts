// A file system that stays at one place while its device is filled, fails, or loses its power. An ext4 image, and root.

import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { type Folder, until } from "../kit.ts";

const FILLER = "filler";

/** One such file system. */
export class Volume implements AsyncDisposable {
  readonly path: string;
  #image: string;

  private constructor(folder: Folder) {
    this.#image = folder.at("device");
    this.path = folder.at("volume");
    mkdirSync(this.path);
  }

  /** An empty one, mounted. No blocks are kept back for root, whom the roles run as here. */
  static async make(folder: Folder, megabytes: number): Promise<Volume> {
    const volume = new Volume(folder);
    await Bun.$`truncate -s ${megabytes}M ${volume.#image} && mkfs.ext4 -q -m 0 ${volume.#image}`.quiet();
    await volume.#mount();
    return volume;
  }

  /** What a power cut leaves takes its place: the device as it is now, without anything that was not written back. */
  async cutPower(writersGone: () => Promise<void>): Promise<void> {
    const after = `${this.#image}.after`;
    await Bun.$`cp --sparse=always ${this.#image} ${after}`.quiet();
    await writersGone();
    await this.#unmount();
    renameSync(after, this.#image);
    await this.#mount();
  }

  /** An error of the device: from now on nothing can be written, as `errors=remount-ro` has it. */
  async fail(): Promise<void> {
    try {
      writeFileSync(`/sys/fs/ext4/${basename(await this.#device())}/trigger_fs_error`, "1");
    } catch {
      // That can't be written any more, either.
    }
    await Bun.$`findmnt -no OPTIONS ${this.path} | grep -q ro`.quiet();
  }

  /** What an operator does then: nobody uses it, it is checked, and mounted again. */
  async mend(): Promise<void> {
    await this.#unmount();
    const { exitCode } = await Bun.$`e2fsck -p ${this.#image}`.quiet().nothrow();
    // 1: errors were mended.
    if (exitCode > 1) throw new Error(`e2fsck: ${exitCode}`);
    await this.#mount();
  }

  /** Leaves no room. */
  async fill(): Promise<void> {
    const filler = join(this.path, FILLER);
    const { bavail, bsize } = statfsSync(this.path);
    await Bun.$`fallocate -l ${Math.floor(bavail * 0.97) * bsize} ${filler}`.quiet().nothrow();
    await Bun.$`dd if=/dev/zero of=${filler}.rest bs=64k`.quiet().nothrow();
    await Bun.$`dd if=/dev/zero of=${filler}.last bs=1k`.quiet().nothrow();
  }

  /** Gives the room back. */
  free(): void {
    for (const name of [FILLER, `${FILLER}.rest`, `${FILLER}.last`]) rmSync(join(this.path, name), { force: true });
  }

  /** Keeps what is on it for whoever wants to look. */
  keep(to: string): void {
    copyFileSync(this.#image, to);
  }

  async #mount(): Promise<void> {
    await Bun.$`mount -o loop,errors=remount-ro ${this.#image} ${this.path}`.quiet();
  }

  /** Resolves when the kernel has let go of the file system: mounted before that, the device would still have its error. */
  async #unmount(): Promise<void> {
    const state = `/sys/fs/ext4/${basename(await this.#device())}`;
    // A process that was just killed may hold it for a moment.
    for (let tries = 0; ; tries++) {
      const { exitCode, stderr } = await Bun.$`umount ${this.path}`.quiet().nothrow();
      if (exitCode === 0) break;
      if (tries === 100) throw new Error(`umount: ${stderr.toString()}`);
      await Bun.sleep(20);
    }
    // So may a mount namespace that was just made with a copy of all mounts (e2e/booted.sh, e2e/docker.test.ts).
    await until("the file system is gone", () => !existsSync(state));
  }

  async #device(): Promise<string> {
    return (await Bun.$`findmnt -no SOURCE ${this.path}`.text()).trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Bun.$`umount -l ${this.path}`.quiet().nothrow();
  }
}
