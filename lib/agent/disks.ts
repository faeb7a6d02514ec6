// The space of file systems. One counts once, however often it is mounted; btrfs subvolumes and the data sets of one ZFS pool share
// their space.
//
// Who answers statfs(2) decides how it is asked. A server (NFS, SMB, FUSE) may never answer, and a thread that waits for it can't be
// ended, not even by the process' end: that is asked by a process of its own, stat(1). A local file system answers from memory, but
// some wait for a disk that hangs: they are asked in a thread, one after the other, and by processes while that thread waits.

import { readFileSync, readlinkSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { join, resolve } from "node:path";
import { type KernelFiles, asPercent, oneDecimal } from "./kernel-files.ts";
import { type Note, source } from "./source.ts";

const GIB = 1 << 30;

/** Bytes and inodes of a file system. */
export interface Space {
  total: number;
  used: number;
  /** What users other than root may still write. */
  free: number;
  /** 0 where the file system makes them as needed. */
  inodes: number;
  freeInodes: number;
}

/** A line of /proc/self/mountinfo, see proc(5). */
interface Mount {
  point: string;
  type: string;
  source: string;
  /** Major and minor number of the file system. */
  device: string;
  /** What of the file system is mounted. */
  root: string;
  readOnly: boolean;
}

type MountTable = Map<string, Mount>;

/** A path to be asked, and what is mounted there. */
interface Place {
  path: string;
  mount: Mount | undefined;
}

interface DisksOptions {
  /** Mount points or paths; `*` and `?` stand for any text and any character, `!` in front excludes. */
  patterns: readonly string[];
  note: Note;
  /** A local file system's space. */
  space?: (path: string) => Space | Promise<Space>;
}

/** File systems with a disk below them: the ones that a pattern with a wildcard finds. */
const REAL =
  /^(ext[234]|xfs|btrfs|zfs|bcachefs|f2fs|jfs|reiserfs|nilfs2|vfat|msdos|exfat|ntfs3?|hfs|hfsplus|ufs|ubifs|jffs2|fuseblk)$/;
/** Besides these, what the kernel answers for by itself. */
const LOCAL = /^(overlay|aufs|tmpfs|ramfs|rootfs|devtmpfs|squashfs|erofs|iso9660|udf)$/;
/** Files that a container's engine mounts. */
const ENGINES_FILES = /^\/(etc\/(hosts|hostname|resolv\.conf)|dev\/termination-log)$/;
const MOST_LINKS = 40;

export class Disks {
  #options: DisksOptions;
  #sources = new Map<string, () => Promise<Space | null>>();
  /** Whether a thread waits for a local file system. */
  #waiting = false;

  constructor(options: DisksOptions) {
    this.#options = options;
  }

  /** The root's space, and a report's `host.disks`. */
  async read(files: KernelFiles) {
    const table = mountTable(files.text("proc/self/mountinfo") ?? "");
    const places = placesOf(this.#options.patterns, table);
    const root: Place = places.find(({ path }) => path === "/") ?? { path: "/", mount: table.get("/") };
    const spaces = await this.#ask(places.includes(root) ? places : [root, ...places]);
    const list = [...Map.groupBy(places, ({ path, mount }) => poolOf(mount) ?? path).values()].flatMap((members) => {
      const known = members.flatMap(({ path }) => spaces.get(path) ?? []);
      return known.length === 0 ? [] : [diskOf(members.toSorted(byRoot)[0]!, known)];
    });
    return { root: spaces.get("/") ?? null, list };
  }

  async #ask(places: Place[]): Promise<Map<string, Space>> {
    const spaces = new Map<string, Space>();
    const ask = async ({ path }: Place, isLocal: boolean) => {
      const one =
        this.#sources.get(path) ?? source(`disk "${path}"`, () => this.#space(path, isLocal), this.#options.note);
      this.#sources.set(path, one);
      const space = await one();
      if (space) spaces.set(path, space);
    };
    const inTurn = async () => {
      for (const place of places) if (!isRemote(place.mount)) await ask(place, true);
    };
    await Promise.all([inTurn(), ...places.filter(({ mount }) => isRemote(mount)).map((place) => ask(place, false))]);
    return spaces;
  }

  async #space(path: string, isLocal: boolean): Promise<Space> {
    const { space = localSpace } = this.#options;
    const given = isLocal && !this.#waiting ? await this.#inThread(() => space(path)) : await spaceByProcess(path);
    if (given.used >= 0 && given.used <= given.total) return given;
    throw new Error(`${given.used} of ${given.total} bytes used can't be right`);
  }

  async #inThread<T>(work: () => T | Promise<T>): Promise<T> {
    this.#waiting = true;
    try {
      return await work();
    } finally {
      this.#waiting = false;
    }
  }
}

/** Each mount and data set once: the one of the whole file system, else the shortest path. */
function placesOf(patterns: readonly string[], table: MountTable): Place[] {
  const excluding = patterns.filter((one) => one.startsWith("!")).map((one) => matcherOf(one.slice(1)));
  const including = patterns.filter((one) => !one.startsWith("!"));
  if (including.length === 0) including.push("*");
  const found = including.flatMap((pattern): Place[] => {
    if (!/[*?]/.test(pattern)) return [{ path: pattern, mount: mountOf(pattern, table) }];
    const matches = matcherOf(pattern);
    const all = [...table.values()].filter(isListed);
    return all.filter(({ point }) => matches(point)).map((mount) => ({ path: mount.point, mount }));
  });
  const wanted = found.filter(({ path, mount }) => !excluding.some((not) => not(path) || (mount && not(mount.point))));
  return [...Map.groupBy(wanted, ({ path, mount }) => mount?.device ?? path).values()].map(
    (mounts) => mounts.toSorted(byRoot)[0]!,
  );
}

/** A snapshot of ZFS is mounted as POOL/NAME@SNAPSHOT while it is looked at. */
function isListed({ type, point, source }: Mount): boolean {
  return REAL.test(type) && !ENGINES_FILES.test(point) && !(type === "zfs" && source.includes("@"));
}

/** First what is mounted there as a whole; of several, the shortest path. */
function byRoot(a: Place, b: Place): number {
  const rank = ({ path, mount }: Place) =>
    (mount && mount.point !== path ? 2 : 0) + (mount && mount.root !== "/" ? 1 : 0);
  return rank(a) - rank(b) || a.path.length - b.path.length;
}

function matcherOf(pattern: string): (text: string) => boolean {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  const regex = new RegExp(`^${source}$`);
  return (text) => regex.test(text);
}

/** A data set of ZFS is named POOL/NAME. */
function poolOf(mount: Mount | undefined): string | null {
  return mount?.type === "zfs" ? `zfs ${mount.source.split("/")[0]}` : null;
}

/** A data set's size is what it uses and what the pool has free. */
function diskOf({ path, mount }: Place, members: Space[]) {
  const used = members.reduce((sum, one) => sum + one.used, 0);
  const [{ inodes, freeInodes }] = members as [Space];
  const isPool = mount?.type === "zfs";
  return {
    mount: path,
    device: mount ? (isPool ? mount.source.split("/")[0]! : mount.source) : null,
    fstype: mount?.type ?? null,
    used_gb: oneDecimal(used / GIB),
    total_gb: oneDecimal((used + Math.max(...members.map((one) => one.total - one.used))) / GIB),
    // As df has it: what is reserved for root is no free space.
    used_percent: asPercent(used, used + Math.max(...members.map(({ free }) => free))),
    inodes_used_percent: isPool ? null : asPercent(inodes - freeInodes, inodes),
    read_only: mount?.readOnly ?? null,
  };
}

function isRemote(mount: Mount | undefined): boolean {
  if (mount === undefined) return false;
  return mount.type === "fuseblk" || !(REAL.test(mount.type) || LOCAL.test(mount.type));
}

/** Of several mounts at one place the last one shows. */
function mountTable(text: string): MountTable {
  const lines = text.matchAll(/^\d+ \d+ (\S+) (\S+) (\S+) \S+ .*?- (\S+) (\S+) (\S+)/gm);
  const plain = (name: string) =>
    name.replace(/\\(\d{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
  return new Map(
    [...lines].map(([, device = "", root = "", at = "", type = "", from = "", options = ""]) => {
      // A mount's own options are also those of the agent's sandbox; the file system's are at the end.
      const readOnly = /^ro(,|$)/.test(options);
      return [plain(at), { point: plain(at), root, device, type, source: plain(from), readOnly }];
    }),
  );
}

/** The mount that a path lies on. Links are followed here, up to a server: the kernel would ask it for them. */
function mountOf(path: string, table: MountTable): Mount | undefined {
  let found = table.get("/");
  let at = "/";
  let links = 0;
  const rest = path.split("/").filter(Boolean);
  while (rest.length > 0) {
    const next = join(at, rest.shift()!);
    const mount = table.get(next);
    if (isRemote(mount)) return mount;
    const link = mount || links > MOST_LINKS ? null : linkAt(next);
    if (link === null) {
      at = next;
      found = mount ?? found;
    } else {
      links++;
      rest.unshift(...resolve(at, link).split("/").filter(Boolean));
      at = "/";
      found = table.get("/");
    }
  }
  return found;
}

function linkAt(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch {
    return null;
  }
}

async function localSpace(path: string): Promise<Space> {
  const { blocks, bfree, bavail, bsize, frsize, files, ffree } = await statfs(path);
  return spaceOf({ size: frsize || bsize, blocks, free: bfree, available: bavail, inodes: files, freeInodes: ffree });
}

/** @throws Error when the path doesn't exist, or when there is no stat(1). */
/**
 * Asks whether a folder can be looked at: a thread that looks at one whose server doesn't answer never comes back.
 * Nothing is asked of a local file system.
 */
export function serverOf(folder: string, note: Note): () => Promise<boolean> {
  const ask = source(
    `folder "${folder}"`,
    () =>
      spaceByProcess(folder)
        .catch(() => null)
        .then(() => true),
    note,
  );
  return async () =>
    !isRemote(mountOf(folder, mountTable(readFileSync("/proc/self/mountinfo", "utf8")))) || (await ask()) === true;
}

async function spaceByProcess(path: string): Promise<Space> {
  const command = ["stat", "-f", "-c", "%S %b %f %a %c %d", "--", path];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", stdin: "ignore" });
  child.unref();
  const [text, trouble] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const [size, blocks, free, available, inodes, freeInodes] = text.trim().split(" ").map(Number);
  if (size === undefined || freeInodes === undefined) throw new Error(trouble.trim() || "stat(1) gives no figures");
  return spaceOf({ size, blocks: blocks!, free: free!, available: available!, inodes: inodes!, freeInodes });
}

type Blocks = Record<"size" | "blocks" | "free" | "available" | "inodes" | "freeInodes", number>;

function spaceOf({ size, blocks, free, available, inodes, freeInodes }: Blocks): Space {
  return { total: blocks * size, used: (blocks - free) * size, free: available * size, inodes, freeInodes };
}
