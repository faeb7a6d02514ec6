// The compiled program for tests, built once for all test processes: in node_modules/.cache/picket-test/KEY, where KEY stands for
// the sources. The first one that needs it builds it into a folder of its own and renames that; the others wait for its lock, which
// the kernel takes back when its owner dies. PICKET_TEST_BINARIES names a folder of binaries to test instead, also
// by tests that otherwise run the scripts.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from "node:fs";
import { join } from "node:path";
import { holdAlone } from "../lib/files.ts";

const ROOT = join(import.meta.dir, "..");
const CACHE = join(ROOT, "node_modules/.cache/picket-test");
const ROLES = ["collector", "agent", "receiver", "observer"];
/** Builds that are kept: a run may still use the one before. */
const KEPT = 2;

let found: Promise<string> | null = null;

/** The folder that holds picket-<role>. */
export function binaries(): Promise<string> {
  found ??= locate();
  return found;
}

async function locate(): Promise<string> {
  const given = process.env["PICKET_TEST_BINARIES"];
  if (given) return given;
  const folder = join(CACHE, sources());
  if (existsSync(folder)) return folder;
  mkdirSync(CACHE, { recursive: true });
  const release = await lock();
  try {
    if (!existsSync(folder)) await build(folder);
  } finally {
    release();
  }
  return folder;
}

async function lock(): Promise<() => void> {
  for (;;) {
    try {
      return holdAlone("build", join(CACHE, "lock"));
    } catch {
      await Bun.sleep(50);
    }
  }
}

/** What the binary is made of, as a hash: every file outside the folders that it can't come from, and the commit that is written in. */
function sources(): string {
  const hasher = new Bun.CryptoHasher("sha256");
  hasher.update(Bun.version);
  if (Bun.which("git"))
    hasher.update(Bun.spawnSync(["git", "rev-parse", "HEAD"], { cwd: ROOT, stderr: "ignore" }).stdout);
  // Two patterns: Bun finds nothing for "{*,…}".
  const names = ["*", "{lib,etc}/**/*"].flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: ROOT })]);
  for (const name of names.toSorted()) {
    hasher.update(`\0${name}\0`);
    hasher.update(readFileSync(join(ROOT, name)));
  }
  return hasher.digest("hex").slice(0, 16);
}

async function build(folder: string): Promise<void> {
  const fresh = mkdtempSync(join(CACHE, "building-"));
  const building = Bun.spawn([process.execPath, "build.ts", "--outdir", fresh, "--only", "picket"], {
    cwd: ROOT,
    stderr: "pipe",
    stdout: "ignore",
  });
  const said = await new Response(building.stderr).text();
  if ((await building.exited) !== 0) throw new Error(`build failed: ${said}`);
  for (const role of ROLES) symlinkSync("picket", join(fresh, `picket-${role}`));
  renameSync(fresh, folder);
  const changed = (name: string) => statSync(join(CACHE, name)).mtimeMs;
  const folders = readdirSync(CACHE).filter((name) => name !== "lock");
  for (const name of folders.toSorted((a, b) => changed(b) - changed(a)).slice(KEPT))
    rmSync(join(CACHE, name), { recursive: true });
}
