// A data folder that root copied or restored belongs to root, and the service's account can't use it. SQLite and the file system
// say no more than "unable to open database file" and "EACCES", some of it hours later.

import { accessSync, constants, existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { ownAccount } from "../config/access.ts";
import { NAME_SEGMENT } from "../config.ts";

const STORE_FILES = ["receiver.db", "receiver.db-wal", "receiver.db-shm", "receiver.lock", "index.jsonl", ".picket"];

/** @throws Error with the command that helps, where a file of the receiver's belongs to root and this account can't use it. */
export function refuseRootOwned(dataDir: string, episodes: string): void {
  if (process.geteuid?.() === 0) return;
  const hosts =
    existsSync(episodes) && !isDenied(episodes) ? readdirSync(episodes).filter((name) => NAME_SEGMENT.test(name)) : [];
  for (const [folder, names] of [
    [dataDir, STORE_FILES],
    [episodes, hosts],
  ] as const) {
    const path = [folder, ...names.map((name) => join(folder, name))].find(isDenied);
    if (path === undefined) continue;
    const username = ownAccount() ?? process.geteuid?.();
    const error = new Error(`"${path}" belongs to root, and picket-receiver runs as ${username}: it can't be used`);
    throw Object.assign(error, { hint: `sudo chown -R ${username}: "${folder}"` });
  }
}

function isDenied(path: string): boolean {
  try {
    const stats = statSync(path);
    if (stats.uid !== 0) return false;
    accessSync(path, constants.R_OK | constants.W_OK | (stats.isDirectory() ? constants.X_OK : 0));
    return false;
  } catch (error) {
    // What is missing will be made.
    return (error as NodeJS.ErrnoException).code === "EACCES";
  }
}
