// A file of the drop folder: one drop `{"recipient","type","payload"}`, a list of them, or one a line; read as it was when the folder
// was scanned. Nothing here changes the file.
// Names are bytes: a folder may hold names that aren't UTF-8.

import { type BigIntStats, closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import * as v from "valibot";
import { NAME_SEGMENT } from "../config.ts";
import { found } from "../config/wording.ts";
import { isOpenForWriting } from "../ffi.ts";
import { EVENT_TYPES, PRIORITIES } from "../inbox.ts";
import { decodeText } from "../json.ts";
import { derivedId } from "../outbox.ts";
import { nearest } from "../nearest.ts";
import { cut } from "../text.ts";
import { joined } from "./dead-letter.ts";

/** Larger drops are invalid. */
const MAX_DROP_BYTES = 1 << 20;
const MOST_PROBLEMS = 10;

const A_NAME = "a name of letters, digits and . _ - only, 128 at most, starting with a letter or digit";

/** The messages say what is expected. */
const Drop = v.object({
  recipient: v.pipe(v.string(A_NAME), v.regex(NAME_SEGMENT, A_NAME)),
  type: v.picklist(EVENT_TYPES, `one of ${EVENT_TYPES.join(", ")}`),
  payload: v.string("text"),
  priority: v.nullish(v.picklist(["", ...PRIORITIES], PRIORITIES.join(" or "))),
  sentinel: v.nullish(v.string("a path")),
});
const FIELDS = Object.keys(Drop.entries);

/** What a drop says. */
export type Drop = v.InferOutput<typeof Drop>;

/** A file as the scan found it. */
export interface Found {
  name: Buffer;
  stats: BigIntStats;
}

/** What a file holds. `isOpen`: another process has it open for writing, as far as that can be known. */
export type Judged =
  /** `mayGrow`: it has lines, and there may be more to come. */
  | { kind: "drops"; drops: Drop[]; id: string; contentId: string; mayGrow: boolean; isOpen: boolean }
  /** `mayGrow`: it may be half written; it is invalid if it stays like this. */
  | { kind: "invalid"; reason: string; mayGrow: boolean; isOpen: boolean };

/** `gone`: also when another file has its name now. `changing`: written to since the scan. */
type Unread = "gone" | "changing";

function invalid(reason: string, { mayGrow = true, isOpen = false } = {}): Judged {
  return { kind: "invalid", reason, mayGrow, isOpen };
}

/** Reads and judges a file. Throws an error of the file system when the file can't be read to its end. */
export function judge(folder: string, found: Found): Judged | Unread {
  const { name, stats } = found;
  if (!stats.isFile()) return invalid(`not a regular file but ${kindOf(stats)}`, { mayGrow: false });
  if (stats.size > MAX_DROP_BYTES) return invalid(`${stats.size} bytes: over the limit of ${MAX_DROP_BYTES}`);
  const read = contentOf(folder, found);
  if (typeof read === "string" || "kind" in read) return read;
  const { content, isOpen } = read;
  const parsed = parseDrops(content);
  if (typeof parsed === "string") return invalid(parsed, { isOpen: isOpen === true });
  const [id, contentId] = [dropId(name, content, stats.mtimeNs), dropId(name, content, null)];
  const { drops, form } = parsed;
  // Where the kernel doesn't tell whether it is being written, a line may be the first of several.
  const mayGrow = form === "lines" || (form === "line" && isOpen === null);
  return { kind: "drops", drops, mayGrow, id, contentId, isOpen: isOpen === true };
}

/** The id of each event of a file. */
export function eventIds({ drops, id }: { drops: Drop[]; id: string }): string[] {
  if (drops.length === 1) return [id];
  return drops.map((_, n) => derivedId(`${id}:${n}`));
}

/** Whether a file is the drop with this id, except for its mtime: Syncthing sets it after the rename, `cp -p` after the last byte. */
export function isSameDrop(folder: string, found: Found, { id, mtimeNs }: { id: string; mtimeNs: bigint }) {
  const read = contentOf(folder, found);
  return typeof read === "object" && "content" in read && dropId(found.name, read.content, mtimeNs) === id;
}

function contentOf(
  folder: string,
  { name, stats }: Found,
): { content: Buffer; isOpen: boolean | null } | Judged | Unread {
  let fd: number;
  try {
    // O_NOFOLLOW and O_NONBLOCK: it may have become a link or a FIFO since the scan.
    fd = openSync(joined(folder, name), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ELOOP" || code === "ENXIO") return "gone";
    return invalid(`can't be read: ${message}`);
  }
  try {
    const now = fstatSync(fd, { bigint: true });
    if (!now.isFile() || now.ino !== stats.ino) return "gone";
    if (now.size !== stats.size || now.mtimeNs !== stats.mtimeNs) return "changing";
    return { content: readFileSync(fd).subarray(0, Number(stats.size)), isOpen: isOpenForWriting(fd) };
  } finally {
    closeSync(fd);
  }
}

/** The drops, or what is wrong with them. A file that was allocated before it was written may end in zeros. */
function parseDrops(content: Buffer): { drops: Drop[]; form: "whole" | "line" | "lines" } | string {
  let text: string;
  try {
    text = decodeText(content).replace(/\0+$/, "");
  } catch (error) {
    return (error as Error).message;
  }
  if (text.trim() === "") return "empty, not JSON";
  const values = valuesIn(text);
  if (typeof values === "string") return values;
  const problems = values.flatMap(({ value, place }) => problemsOf(value).map((problem) => place + problem));
  if (values.length === 0) problems.push("a list without a drop");
  const more = problems.length - MOST_PROBLEMS;
  if (more > 0) problems.splice(MOST_PROBLEMS, more, `and ${more} more`);
  if (problems.length > 0) return problems.join("; ");
  const drops = values.map(({ value }) => v.parse(Drop, value));
  if (values.some(({ place }) => place.startsWith("line"))) return { drops, form: "lines" };
  return { drops, form: /^[^\n]+\n$/.test(text) ? "line" : "whole" };
}

/** The values of a file with their places, or why it has none. */
function valuesIn(text: string): { value: unknown; place: string }[] | string {
  try {
    const value: unknown = JSON.parse(text);
    if (!Array.isArray(value)) return [{ value, place: "" }];
    return value.map((item: unknown, n) => ({ value: item, place: `[${n}]: ` }));
  } catch (error) {
    const lines = text
      .split("\n")
      .flatMap((line, n) => (line.trim() === "" ? [] : [{ line, place: `line ${n + 1}: ` }]));
    const values: { value: unknown; place: string }[] = [];
    for (const { line, place } of lines) {
      try {
        values.push({ value: JSON.parse(line), place });
      } catch (inner) {
        // Without one good line these are no lines of JSON.
        const [at, cause] = values.length > 0 ? [place, inner] : ["", error];
        return `${at}not JSON: ${(cause as Error).message}`;
      }
    }
    return values;
  }
}

function problemsOf(value: unknown): string[] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [`a drop is {"recipient","type","payload"}, found ${found(value, { show: true })}`];
  }
  const unknown = Object.keys(value).filter((key) => !FIELDS.includes(key));
  const { issues = [] } = v.safeParse(Drop, value);
  const wrong = issues.map(({ path, input, message }) => {
    const field = `"${String(path?.[0].key)}"`;
    return input === undefined
      ? `${field} is missing`
      : `${field} is ${found(input, { show: true })}, expected ${message}`;
  });
  const strange = unknown.map((key) => {
    const near = nearest(key, FIELDS);
    return `${JSON.stringify(cut(key, 60))} is unknown${near === undefined ? "" : `, did you mean "${near}"?`}`;
  });
  return [...wrong, ...strange];
}

/** The id of a file: with the same name, content and mtime it is the same drop. Null leaves the mtime out. */
function dropId(name: Buffer, content: Buffer, mtimeNs: bigint | null): string {
  return derivedId(Buffer.concat([Buffer.from(`${name.length}:`), name, Buffer.from(`:${mtimeNs}:`), content]));
}

function kindOf(stats: BigIntStats): string {
  if (stats.isSymbolicLink()) return "a link";
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a FIFO";
  return stats.isSocket() ? "a socket" : "a device";
}
