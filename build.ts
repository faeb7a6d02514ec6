#!/usr/bin/env bun
// Compiles every role script at the top of the project into one binary each.
//
//   bun run build                        dist/picket-<role> for this machine
//   bun run build linux-arm64 …          dist/<target>/picket-<role>
//   bun run build --outdir DIR
//
// Bun takes the runtime of another target from the npm registry. Version and commit are written in (lib/version.ts);
// SHA256SUMS lies beside the binaries.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { nearest } from "./lib/nearest.ts";
import { version } from "./package.json";

const ROLES = ["collector", "agent", "receiver", "observer"].filter((role) =>
  existsSync(join(import.meta.dir, `${role}.ts`)),
);
const TARGETS = [
  "linux-x64",
  "linux-x64-baseline",
  "linux-x64-musl",
  "linux-arm64",
  "linux-arm64-musl",
  "darwin-x64",
  "darwin-arm64",
];

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: {
      outdir: { type: "string", default: join(import.meta.dir, "dist") },
      help: { type: "boolean", short: "h" },
    },
    allowPositionals: true,
  });
  if (values.help) {
    console.log(
      `usage: bun run build [--outdir DIR] [TARGET …]\n\ntargets: ${TARGETS.join(", ")} (default: this machine)`,
    );
    return 0;
  }
  for (const target of positionals.filter((name) => !TARGETS.includes(name))) {
    const near = nearest(target, TARGETS);
    console.error(
      `build: error: unknown target "${target}"${near ? `\nhint: did you mean "${near}"?` : `: one of ${TARGETS.join(", ")}`}`,
    );
    return 2;
  }
  const commit = commitOf();
  if (positionals.length === 0) return (await buildAll(values.outdir, null, commit)) ? 0 : 1;
  let good = true;
  for (const target of positionals) good = (await buildAll(join(values.outdir, target), target, commit)) && good;
  return good ? 0 : 1;
}

/** All roles for one target; false when one could not be built. */
async function buildAll(outdir: string, target: string | null, commit: string): Promise<boolean> {
  mkdirSync(outdir, { recursive: true });
  const sums: string[] = [];
  for (const role of ROLES) {
    const outfile = join(outdir, `picket-${role}`);
    const problem = compile(role, { outfile, target, commit });
    if (problem !== null) {
      console.error(`build: picket-${role}${target ? ` for ${target}` : ""}: ${problem}`);
      return false;
    }
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(outfile).arrayBuffer()).digest("hex");
    sums.push(`${hash}  ${basename(outfile)}\n`);
    console.log(`built ${outfile}`);
  }
  writeFileSync(join(outdir, "SHA256SUMS"), sums.join(""));
  return true;
}

/** Runs Bun's compiler; gives what it complained about. */
function compile(
  role: string,
  { outfile, target, commit }: { outfile: string; target: string | null; commit: string },
): string | null {
  const run = Bun.spawnSync(
    [
      process.execPath,
      "build",
      "--compile",
      // Otherwise a binary reads .env and bunfig.toml from wherever it is started.
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      // Parsed at build time: half the time to start. Top-level await needs the ESM format with it.
      "--bytecode",
      "--format=esm",
      "--minify-syntax",
      ...(target ? [`--target=bun-${target}`] : []),
      `--define=PICKET_VERSION=${JSON.stringify(version)}`,
      `--define=PICKET_COMMIT=${JSON.stringify(commit)}`,
      `--outfile=${outfile}`,
      join(import.meta.dir, `${role}.ts`),
    ],
    { cwd: dirname(outfile), stdout: "pipe", stderr: "pipe", env: process.env },
  );
  if (run.exitCode === 0) return null;
  return `${run.stderr.toString()}${run.stdout.toString()}`.trim() || `bun build ended with ${run.exitCode}`;
}

/** The commit's short hash, with `-dirty` where files differ from it; "unknown" without git. */
function commitOf(): string {
  const git = (...args: string[]) => {
    try {
      const run = Bun.spawnSync(["git", ...args], { cwd: import.meta.dir, stdout: "pipe", stderr: "ignore" });
      return run.exitCode === 0 ? run.stdout.toString().trim() : null;
    } catch {
      return null;
    }
  };
  const commit = git("rev-parse", "--short=10", "HEAD");
  if (!commit) return "unknown";
  return git("status", "--porcelain", "--untracked-files=no") ? `${commit}-dirty` : commit;
}

process.exit(await main());
