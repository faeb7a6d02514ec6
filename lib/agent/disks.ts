// The space of the configured mount points, added up. A file system counts once, however often it is mounted; btrfs subvolumes
// and the data sets of one ZFS pool share their space.
//
// Who answers statfs(2) decides how it is asked. A local file system answers from memory. A server (NFS, SMB, FUSE) may never
// answer, and a thread that waits for it can't be ended, not even by the process' end: that is asked by a process of its own,
// stat(1). Until it answers, its mount has no figures and isn't asked again.

import { readFileSync, readlinkSync, statfsSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { errorChain } from "../log.ts";

/** Bytes of a file system or of memory. */
export interface Space {
  total: number;
  used: number;
}

/** A line of /proc/self/mountinfo, see proc(5). */
interface Mount {
  type: string;
  source: string;
  /** Major and minor number of the file system. */
  device: string;
}

type MountTable = Map<string, Mount>;

/** A configured path, and what is mounted there. */
interface Place {
  path: string;
  mount: Mount | undefined;
  /** A server answers for it. */
  isRemote: boolean;
}

interface DisksOptions {
  root: string;
  mounts: readonly string[];
  /** Logs a mount without figures. */
  warn: (kind: string, text: string) => void;
  /** A local file system's space. */
  space?: (path: string) => Space;
}

const LOCAL = new RegExp(
  `^(ext[234]|xfs|btrfs|zfs|bcachefs|f2fs|jfs|reiserfs|nilfs2|vfat|msdos|exfat|ntfs3?|hfs|hfsplus|ufs|iso9660|udf|squashfs|erofs|
  overlay|aufs|tmpfs|ramfs|rootfs|devtmpfs|ubifs|jffs2)$`.replace(/\s/g, ""),
);
/** How long a report waits for the servers. */
const SERVER_MS = 2000;
const MOST_LINKS = 40;

export class Disks {
  #options: Required<DisksOptions>;
  #places: Place[] | null = null;
  /** Mounts of servers that have not answered yet. */
  #asked = new Set<string>();
  /** The servers' answers for this report. */
  #answers = new Map<string, Space>();

  constructor(options: DisksOptions) {
    this.#options = { space: localSpace, ...options };
  }

  /** Asks the servers for their space. */
  async ask(): Promise<void> {
    this.#places = placesOf(this.#options);
    this.#answers.clear();
    const remote = this.#places.filter(({ isRemote }) => isRemote);
    if (remote.length === 0) return;
    const answers = remote.filter(({ path }) => !this.#asked.has(path)).map(({ path }) => this.#askServer(path));
    await Promise.race([Promise.all(answers), sleep(SERVER_MS, undefined, { ref: false })]);
    for (const { path } of remote) if (this.#asked.has(path)) this.#warn(path, "its server does not answer");
  }

  async #askServer(path: string): Promise<void> {
    this.#asked.add(path);
    try {
      this.#answers.set(path, await remoteSpace(path));
    } catch (error) {
      this.#warn(path, errorChain(error));
    } finally {
      this.#asked.delete(path);
    }
  }

  /** The sum; null if no mount has figures. */
  read(): Space | null {
    const pools = new Map<string, Map<string, Space>>();
    for (const place of (this.#places ??= placesOf(this.#options))) {
      const space = this.#space(place);
      if (!space) continue;
      const { pool, member } = identityOf(place);
      pools.set(pool, (pools.get(pool) ?? new Map<string, Space>()).set(member, space));
    }
    const sums = [...pools.values()].map((members) => spaceOfPool([...members.values()]));
    if (sums.length === 0) return null;
    return sums.reduce((sum, { total, used }) => ({ total: sum.total + total, used: sum.used + used }));
  }

  #space({ path, isRemote }: Place): Space | null {
    if (isRemote && !this.#answers.has(path)) return null;
    try {
      const space = this.#answers.get(path) ?? this.#options.space(path);
      if (space.used >= 0 && space.used <= space.total) return space;
      this.#warn(path, `${space.used} of ${space.total} bytes used can't be right`);
    } catch (error) {
      this.#warn(path, errorChain(error));
    }
    return null;
  }

  #warn(path: string, why: string): void {
    this.#options.warn(`disk ${path}`, `disk "${path}" has no figures: ${why}`);
  }
}

function placesOf({ mounts, root }: DisksOptions): Place[] {
  const table = mountTable(root);
  return mounts.map((path) => {
    const mount = mountOf(path, table);
    // Without the root file system nothing here works anyway.
    return { path, mount, isRemote: path !== "/" && isRemote(mount) };
  });
}

function isRemote(mount: Mount | undefined): boolean {
  return mount !== undefined && !LOCAL.test(mount.type);
}

/** Mount points and what is mounted there; of several mounts at one place the last one shows. Empty if it can't be read. */
function mountTable(root: string): MountTable {
  let text = "";
  try {
    text = readFileSync(join(root, "proc/self/mountinfo"), "utf8");
  } catch {
    // Then each path is a local file system of its own.
  }
  const lines = text.matchAll(/^\d+ \d+ (\S+) \S+ (\S+) .*? - (\S+) (\S+)/gm);
  const plain = (name: string) =>
    name.replace(/\\(\d{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
  return new Map(
    [...lines].map(([, device = "", point = "", type = "", source = ""]) => [plain(point), { device, type, source }]),
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

/** What shares its space, and what of it counts once. A data set of ZFS is named POOL/NAME. */
function identityOf({ path, mount }: Place): { pool: string; member: string } {
  if (!mount) return { pool: path, member: path };
  const { type, source, device } = mount;
  return { pool: type === "zfs" ? `zfs ${source.split("/")[0]}` : device, member: device };
}

/** A data set's size is what it uses and what the pool has free. */
function spaceOfPool(members: Space[]): Space {
  const used = members.reduce((sum, one) => sum + one.used, 0);
  return { used, total: used + Math.max(...members.map((one) => one.total - one.used)) };
}

function localSpace(path: string): Space {
  const { blocks, bfree, bsize, frsize } = statfsSync(path);
  return { total: blocks * (frsize || bsize), used: (blocks - bfree) * (frsize || bsize) };
}

/** @throws Error when the path doesn't exist, or when there is no stat(1). */
async function remoteSpace(path: string): Promise<Space> {
  const command = ["stat", "-f", "-c", "%S %b %f", "--", path];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "pipe", stdin: "ignore" });
  child.unref();
  const [text, trouble] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  const [size = Number.NaN, blocks = Number.NaN, free = Number.NaN] = text.trim().split(" ").map(Number);
  if (text.trim() === "" || Number.isNaN(free)) throw new Error(trouble.trim() || "stat(1) gives no figures");
  return { total: blocks * size, used: (blocks - free) * size };
}
