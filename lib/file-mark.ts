// A mark (mark.ts) as a file, and the turns of its readers.
//
//   <inbox_dir>/<recipient>.mark                      of the reader `agent` (hook, wait, mcp)
//   <inbox_dir>/.picket/<reader>@<recipient>.mark     of each other: `person` (read --new), one that `--reader` names, `deliver:NAME`
//
// A note is one write(2), no sync. At the end of a turn the mark is replaced by rename, and synced. So a power cut repeats the events of one turn.
//
// 0.1.0 had one mark, { offset, print, shown, held }, for agent and person. Each goes on from it: the agent's reader leaves a link for the person's.

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  linkSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { flock, hasLibc } from "./ffi.ts";
import { inheritOwner, makeFolder, writeWhole } from "./files.ts";
import { inboxPath, statePath } from "./inbox.ts";
import type { MarkPlace, Reader, Turn } from "./mark.ts";

interface FileReader extends Reader {
  dir: string;
}

export function markPath({ dir, recipient, reader }: FileReader): string {
  inboxPath(dir, recipient);
  return reader === "agent" ? join(dir, `${recipient}.mark`) : join(statePath(dir), `${reader}@${recipient}.mark`);
}

/** The mark of a reader. */
export function fileMark(reader: FileReader): MarkPlace {
  const path = markPath(reader);
  return {
    async read() {
      // The agent's first: its reader makes the link before it replaces a mark of 0.1.0.
      const agents = textAt(markPath({ ...reader, reader: "agent" }));
      const own = textAt(path);
      return own === "" && reader.reader === "person" && isOld(agents) ? agents : own;
    },
    version: async () => versionOf(path),
    forget: async () => rmSync(path, { force: true }),
    async takeTurn() {
      const { isOurs, end } = await takeTurn(reader);
      return turnOf({ path, isOurs, end }, reader);
    },
  };
}

/** What a file is now: another text after each change; "" where it is missing. */
export function versionOf(path: string): string {
  const stats = statSync(path, { throwIfNoEntry: false });
  return stats ? `${stats.ino} ${stats.size} ${stats.mtimeMs}` : "";
}

const textAt = (file: string): string => (existsSync(file) ? readFileSync(file, "utf8") : "");

function turnOf({ path, isOurs, end }: { path: string } & FileTurn, reader: FileReader): Turn {
  let fd = -1;
  const shut = (): void => {
    if (fd >= 0) closeSync(fd);
    fd = -1;
  };
  return {
    async replace(text) {
      shut();
      if (!isOurs()) return false;
      if (reader.reader === "agent" && isOld(textAt(path))) keepForPerson(reader);
      writeWhole(path, text, 0o600);
      return true;
    },
    async note(line) {
      if (!isOurs()) return false;
      if (fd < 0) fd = openSync(path, constants.O_WRONLY | constants.O_APPEND);
      writeSync(fd, line);
      return true;
    },
    async end() {
      shut();
      end();
    },
  };
}

function isOld(text: string): boolean {
  return text.startsWith("{") && !text.startsWith('{"files"');
}

/** A person who has no mark of its own yet goes on from that of 0.1.0. */
function keepForPerson(reader: FileReader): void {
  const path = markPath({ ...reader, reader: "person" });
  if (!existsSync(path)) linkSync(markPath(reader), path);
}

interface FileTurn {
  /** Whether no other process has taken it over. */
  isOurs: () => boolean;
  end: () => void;
}

const LOOK_MS = 50;
const STANDS_STILL_MS = 5000;

/**
 * Waits for the reader's turn. Turns are short: a process that holds one for five seconds is stopped, or nothing takes what it prints, and mustn't
 * stop the others. Its lock file is replaced by another, which it sees before it notes the next event.
 */
export async function takeTurn({ dir, recipient, reader }: FileReader): Promise<FileTurn> {
  inboxPath(dir, recipient);
  if (existsSync(dir)) makeFolder(statePath(dir), 0o700);
  if (!existsSync(dir) || !hasLibc()) return { isOurs: () => true, end: () => {} };
  const path = join(statePath(dir), `${reader === "agent" ? recipient : `${reader}@${recipient}`}.reader`);
  let holder = 0;
  for (let waited = 0; ; waited += LOOK_MS) {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
    const { ino } = fstatSync(fd);
    const isOurs = (): boolean => statSync(path, { throwIfNoEntry: false })?.ino === ino;
    if (flock(fd) && isOurs()) {
      inheritOwner(path);
      return { isOurs, end: () => closeSync(fd) };
    }
    closeSync(fd);
    if (ino !== holder) waited = 0;
    holder = ino;
    if (waited >= STANDS_STILL_MS) rmSync(path, { force: true });
    else await Bun.sleep(LOOK_MS);
  }
}
