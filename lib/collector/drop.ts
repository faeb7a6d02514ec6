// One drop: a file `{"recipient","type","payload"}`, read as it was when the folder was scanned. Nothing here changes the file.
// Names are bytes: a folder may hold names that aren't UTF-8.

import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { createHash } from "node:crypto";
import * as v from "valibot";
import { NAME_SEGMENT } from "../config.ts";
import { EVENT_TYPES, PRIORITIES } from "../inbox.ts";
import { parseJson } from "../json.ts";
import { joined } from "./dead-letter.ts";

/** Larger drops are invalid. */
const MAX_DROP_BYTES = 1 << 20;
const EXPECTED = `a drop is {"recipient","type","payload"} and optionally "priority", "sentinel"`;

const Drop = v.strictObject(
  {
    recipient: v.pipe(
      v.string(),
      v.regex(
        NAME_SEGMENT,
        "not a valid name: letters, digits and . _ - only, 128 at most, starting with a letter or digit",
      ),
    ),
    type: v.picklist(EVENT_TYPES),
    payload: v.string(),
    priority: v.optional(v.picklist(["", ...PRIORITIES])),
    sentinel: v.optional(v.string()),
  },
  EXPECTED,
);

/** What a drop says. */
export type Drop = v.InferOutput<typeof Drop>;

/** A file as the scan found it. */
export interface Entry {
  name: Buffer;
  stats: BigIntStats;
}

/** What a file turns out to be. `gone`: also when another file has its name now. `changing`: written to since the scan. */
export type Judgement =
  | { kind: "drop"; drop: Drop; id: string; contentId: string }
  /** `mayGrow`: it may be half written; it is invalid if it stays like this. */
  | { kind: "invalid"; reason: string; mayGrow: boolean }
  | { kind: "gone" | "changing" };

/** Reads and judges a file. Throws an error of the file system when the file can't be read to its end. */
export function judge(folder: string, entry: Entry): Judgement {
  const { name, stats } = entry;
  if (!stats.isFile()) return { kind: "invalid", reason: `not a regular file but ${kindOf(stats)}`, mayGrow: false };
  if (stats.size > MAX_DROP_BYTES)
    return { kind: "invalid", reason: `${stats.size} bytes: over the limit of ${MAX_DROP_BYTES}`, mayGrow: true };
  const content = contentOf(folder, entry);
  if (!Buffer.isBuffer(content)) return content;
  const drop = parseDrop(content);
  if (typeof drop === "string") return { kind: "invalid", reason: drop, mayGrow: true };
  return { kind: "drop", drop, id: dropId(name, content, stats.mtimeNs), contentId: dropId(name, content, null) };
}

/** Whether a file is the drop with this id, except for its mtime: Syncthing sets it after the rename, `cp -p` after the last byte. */
export function isSameDrop(folder: string, { name, stats }: Entry, { id, mtimeNs }: { id: string; mtimeNs: bigint }) {
  const content = contentOf(folder, { name, stats });
  return Buffer.isBuffer(content) && dropId(name, content, mtimeNs) === id;
}

function contentOf(folder: string, { name, stats }: Entry): Buffer | Judgement {
  let fd: number;
  try {
    // O_NOFOLLOW and O_NONBLOCK: it may have become a link or a FIFO since the scan.
    fd = openSync(joined(folder, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ELOOP" || code === "ENXIO") return { kind: "gone" };
    return { kind: "invalid", reason: `can't be read: ${message}`, mayGrow: true };
  }
  try {
    const now = fstatSync(fd, { bigint: true });
    if (!now.isFile() || now.ino !== stats.ino) return { kind: "gone" };
    if (now.size !== stats.size || now.mtimeNs !== stats.mtimeNs) return { kind: "changing" };
    const content = Buffer.alloc(Number(stats.size));
    let got = 0;
    for (let n = -1; got < content.length && n !== 0; got += n)
      n = readSync(fd, content, got, content.length - got, got);
    return content.subarray(0, got);
  } finally {
    closeSync(fd);
  }
}

/** The drop, or what is wrong with it. */
function parseDrop(content: Buffer): Drop | string {
  let value: unknown;
  try {
    value = parseJson(content);
  } catch (error) {
    return (error as Error).message;
  }
  const parsed = v.safeParse(Drop, value);
  if (parsed.success) return parsed.output;
  const problems = parsed.issues.map((issue) => {
    const where = v.getDotPath(issue);
    return where ? `${where}: ${issue.message}` : issue.message;
  });
  return [...new Set(problems)].join("; ");
}

/** The id of a drop's event: a file with the same name, content and mtime is the same event. Null leaves the mtime out. */
function dropId(name: Buffer, content: Buffer, mtimeNs: bigint | null): string {
  const hash = createHash("sha256");
  hash.update(`${name.length}:`).update(name).update(`:${mtimeNs}:`).update(content);
  return hash.digest("hex").slice(0, 32);
}

function kindOf(stats: BigIntStats): string {
  if (stats.isSymbolicLink()) return "a link";
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a FIFO";
  return stats.isSocket() ? "a socket" : "a device";
}
