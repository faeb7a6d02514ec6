// One daemon a data folder: a second one would take the first one's work for what a dead one left behind.

import { closeSync, openSync } from "node:fs";
import { dirname } from "node:path";
import { flock, hasLibc } from "./ffi.ts";
import { inheritOwner } from "./files.ts";

/**
 * Holds `file` locked for as long as this process lives, or until what is given is called.
 * @throws Error with a hint when another process holds it.
 */
export function holdAlone(program: string, file: string): () => void {
  const fd = openSync(file, "a", 0o600);
  inheritOwner(file);
  if (hasLibc() && !flock(fd, "exclusive")) {
    closeSync(fd);
    const hint = "is the service running? give this one a folder of its own";
    throw Object.assign(new Error(`another ${program} uses "${dirname(file)}"`), { hint });
  }
  return () => closeSync(fd);
}
