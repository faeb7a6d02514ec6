// File systems to break: an ext4 image whose power is cut, a tmpfs that is full. Needs root.

import { mkdirSync } from "node:fs";
import { Folder, have } from "../kit.ts";

export const isRoot = process.getuid?.() === 0;
/** Whether power can be cut here. */
export const canCut = isRoot && have("mkfs.ext4", "power cut");
if (!isRoot) console.log("skipped: power cuts, full and read-only disks: mounting needs root");

/** An ext4 file system in a file. */
export class Disk implements AsyncDisposable {
  readonly path: string;
  #folder: Folder;
  #image: string;
  #mounted = false;

  private constructor(folder: Folder, image: string) {
    this.#folder = folder;
    this.#image = image;
    this.path = `${image}.mount`;
    mkdirSync(this.path);
  }

  /** An empty one, mounted. */
  static async make(folder: Folder, megabytes: number): Promise<Disk> {
    const disk = new Disk(folder, folder.at("disk"));
    const image = folder.at("disk");
    await Bun.$`truncate -s ${megabytes}M ${image} && mkfs.ext4 -q ${image}`.quiet();
    await disk.#mount();
    return disk;
  }

  /** What a power cut leaves: the device as it is now, without anything that was not written back. Mounted by itself. */
  async cut(): Promise<Disk> {
    const copy = new Disk(this.#folder, this.#folder.at("disk-after-the-cut"));
    await Bun.$`cp --sparse=always ${this.#image} ${copy.#image}`.quiet();
    return copy;
  }

  async #mount(): Promise<void> {
    await Bun.$`mount -o loop ${this.#image} ${this.path}`.quiet();
    this.#mounted = true;
  }

  /** Mounts what `cut` gave. */
  mount(): Promise<void> {
    return this.#mount();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#mounted) await Bun.$`umount -l ${this.path}`.quiet().nothrow();
    this.#mounted = false;
  }
}

/** A tmpfs of that size (`256k`), mounted at a new folder. */
export async function smallDisk(folder: Folder, size: string): Promise<{ path: string } & AsyncDisposable> {
  const path = folder.at("small");
  mkdirSync(path);
  await Bun.$`mount -t tmpfs -o size=${size} tmpfs ${path}`.quiet();
  return {
    path,
    async [Symbol.asyncDispose]() {
      await Bun.$`umount -l ${path}`.quiet().nothrow();
    },
  };
}
