// A file system whose statfs(2) answers what a test says, or never: a FUSE server, played on /dev/fuse by itself.
//
//   bun odd-disk.ts MOUNTPOINT     reads figures as lines of JSON, or `hang`, from stdin; says `mounted`

import { closeSync, existsSync, mkdirSync, openSync, read, writeSync } from "node:fs";
import { type Folder, until } from "../kit.ts";

interface Figures {
  bsize: number;
  frsize: number;
  blocks: number;
  bfree: number;
}

/** Needs root, and a kernel with FUSE. */
export const canMount = process.getuid?.() === 0 && existsSync("/dev/fuse") && Bun.which("mount") !== null;
if (!canMount) console.warn("skipped: file systems that don't answer (no root or no /dev/fuse)");

/** Mounts one. Its end answers all requests that still wait. */
export async function mountOddDisk(folder: Folder, name: string) {
  const at = folder.at(name);
  mkdirSync(at);
  const server = Bun.spawn([process.execPath, import.meta.path, at], { stdin: "pipe", stdout: "pipe" });
  const said = server.stdout.getReader();
  await until("it is mounted", async () => new TextDecoder().decode((await said.read()).value).includes("mounted"));
  const tell = async (what: Figures | "hang") => {
    void server.stdin.write(`${JSON.stringify(what)}\n`);
    await server.stdin.flush();
    await said.read();
  };
  return {
    path: at,
    tell,
    async [Symbol.asyncDispose]() {
      server.kill("SIGKILL");
      await server.exited;
      await Bun.$`umount -l ${at}`.quiet();
    },
  };
}

// From linux/fuse.h.
const FORGET = 2;
const GETATTR = 3;
const STATFS = 17;
const INIT = 26;
const INTERRUPT = 36;
const ENOSYS = -38;

function answer(fd: number, unique: bigint, error: number, body = Buffer.alloc(0)): void {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(16 + body.length, 0);
  head.writeInt32LE(error, 4);
  head.writeBigUInt64LE(unique, 8);
  writeSync(fd, Buffer.concat([head, body]));
}

function statfs({ bsize, frsize, blocks, bfree }: Figures) {
  const body = Buffer.alloc(80);
  for (const [n, value] of [blocks, bfree, bfree].entries()) body.writeBigUInt64LE(BigInt(value), n * 8);
  body.writeUInt32LE(bsize, 40);
  body.writeUInt32LE(255, 44);
  body.writeUInt32LE(frsize, 48);
  return body;
}

async function serve(at: string): Promise<void> {
  const fd = openSync("/dev/fuse", "r+");
  const options = "fd=3,rootmode=40755,user_id=0,group_id=0,allow_other";
  Bun.spawnSync(["mount", "-i", "-t", "fuse", "-o", options, "odd", at], {
    stdio: ["ignore", "inherit", "inherit", fd],
  });
  let figures: Figures | null = null;
  const waiting: bigint[] = [];
  const next = (): void => {
    const request = Buffer.alloc(132 << 10);
    read(fd, request, 0, request.length, null, (error, length) => {
      if (error || length === 0) return closeSync(fd);
      const opcode = request.readUInt32LE(4);
      const unique = request.readBigUInt64LE(8);
      if (opcode === INIT) {
        const body = Buffer.alloc(64);
        body.writeUInt32LE(7, 0);
        body.writeUInt32LE(31, 4);
        body.writeUInt32LE(4096, 20);
        answer(fd, unique, 0, body);
      } else if (opcode === GETATTR) {
        const body = Buffer.alloc(104);
        body.writeBigUInt64LE(1n, 16);
        body.writeUInt32LE(0o40755, 76);
        body.writeUInt32LE(2, 80);
        answer(fd, unique, 0, body);
      } else if (opcode === STATFS && figures) answer(fd, unique, 0, statfs(figures));
      else if (opcode === STATFS) waiting.push(unique);
      else if (opcode !== FORGET && opcode !== INTERRUPT) answer(fd, unique, ENOSYS);
      next();
    });
  };
  next();
  console.log("mounted");
  for await (const line of console) {
    const told = JSON.parse(line) as Figures | "hang";
    figures = told === "hang" ? null : told;
    if (figures) for (const unique of waiting.splice(0)) answer(fd, unique, 0, statfs(figures));
    console.log("told");
  }
}

if (import.meta.main) await serve(process.argv[2]!);
