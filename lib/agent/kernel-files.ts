// Files that the kernel makes: /proc and /sys. One that can't be read is null.

import { join } from "node:path";
import { namesIn, textOf } from "../files.ts";

/** The files of one report: several figures are in the same file, and /proc/stat is long on a machine with many CPUs. */
export interface KernelFiles {
  text(path: string): string | null;
  /** A folder's names in any order; empty if it can't be read. */
  names(path: string): string[];
}

const byNumber = new Intl.Collator("en", { numeric: true }).compare;

/** `hwmon2` before `hwmon10`. Names are sorted only where their order shows: that takes longer than reading them. */
export const inOrder = (names: string[]): string[] => names.toSorted(byNumber);

/** @param root the folder of proc/, sys/ and etc/: "/" except in tests. */
export function openKernelFiles(root: string): KernelFiles {
  const texts = new Map<string, string | null>();
  return {
    text(path) {
      const known = texts.get(path);
      if (known !== undefined) return known;
      const text = textOf(join(root, path));
      texts.set(path, text);
      return text;
    },
    names: (path) => namesIn(join(root, path)),
  };
}

/** Whether another file is mounted over one of /proc, as LXC's lxcfs does: then it tells of the container. */
export function isFaked(files: KernelFiles, name: string): boolean {
  return files.text("proc/self/mountinfo")?.includes(` /proc/${name} `) ?? false;
}

/** The number that a text begins with. */
export function numberIn(text: string | null | undefined): number | null {
  const found = /^\s*(-?\d+(?:\.\d+)?)/.exec(text ?? "")?.[1];
  return found === undefined ? null : Number(found);
}

/** The number of a line `name  123` or `name: 123 kB`. */
export function fieldIn(text: string | null, name: string): number | null {
  const found = new RegExp(`^${name}:? +(\\d+)(?: kB)?$`, "m").exec(text ?? "")?.[1];
  return found === undefined ? null : Number(found);
}

/** A share in percent with one decimal; null of nothing. */
export function asPercent(part: number, whole: number): number | null {
  return whole > 0 ? oneDecimal(Math.min(100, (part / whole) * 100)) : null;
}

export function oneDecimal(value: number): number {
  return Math.round(value * 10) / 10;
}
