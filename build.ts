#!/usr/bin/env bun
// Compiles picket.ts, and each role's script by itself, into binaries.
//
//   bun run build                        dist/picket and dist/picket-<role> for this machine
//   bun run build linux-arm64 …          dist/<target>/picket and dist/<target>/picket-<role>
//   bun run build --only picket          dist/picket alone
//   bun run build --outdir DIR
//
// Bun takes the runtime of another target from the npm registry. Version and commit are written in (lib/version.ts);
// SHA256SUMS lies beside the binaries.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { nearest } from "./lib/nearest.ts";
import { version } from "./package.json";

/** Each binary's name, and the script that it is made of. */
const PROGRAMS = {
  picket: "picket.ts",
  "picket-collector": "collector.ts",
  "picket-agent": "agent.ts",
  "picket-receiver": "receiver.ts",
  "picket-observer": "observer.ts",
};
type Program = keyof typeof PROGRAMS;
const isProgram = (name: string): name is Program => Object.hasOwn(PROGRAMS, name);
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
      only: { type: "string" },
      help: { type: "boolean", short: "h" },
    },
    allowPositionals: true,
  });
  if (values.help) {
    console.log(
      `usage: bun run build [--outdir DIR] [--only PROGRAM] [TARGET …]\n\nprograms: ${Object.keys(PROGRAMS).join(", ")} (default: all)\ntargets: ${TARGETS.join(", ")} (default: this machine)`,
    );
    return 0;
  }
  const programs = values.only === undefined ? (Object.keys(PROGRAMS) as Program[]) : [values.only].filter(isProgram);
  if (programs.length === 0) return unknown("program", values.only!, Object.keys(PROGRAMS));
  const stray = positionals.find((name) => !TARGETS.includes(name));
  if (stray !== undefined) return unknown("target", stray, TARGETS);
  const commit = commitOf();
  const { outdir } = values;
  if (positionals.length === 0) return (await buildAll(programs, { outdir, target: null, commit })) ? 0 : 1;
  let good = true;
  for (const target of positionals) {
    good = (await buildAll(programs, { outdir: join(outdir, target), target, commit })) && good;
  }
  return good ? 0 : 1;
}

function unknown(what: string, name: string, known: string[]): number {
  const near = nearest(name, known);
  console.error(`build: error: unknown ${what} "${name}"`);
  console.error(near ? `hint: did you mean "${near}"?` : `hint: use one of ${known.join(", ")}`);
  return 2;
}

interface For {
  outdir: string;
  /** One of TARGETS; null is this machine. */
  target: string | null;
  commit: string;
}

/** The programs for one target, and their sums; false when one could not be built. */
async function buildAll(programs: Program[], { outdir, target, commit }: For): Promise<boolean> {
  mkdirSync(outdir, { recursive: true });
  const sums: string[] = [];
  for (const program of programs) {
    const outfile = join(outdir, program);
    // The compiler would write through a link to another program.
    rmSync(outfile, { force: true });
    const problem = compile(program, { outfile, target, commit });
    if (problem !== null) {
      console.error(`build: ${program}${target ? ` for ${target}` : ""}: ${problem}`);
      return false;
    }
    const hash = new Bun.CryptoHasher("sha256").update(await Bun.file(outfile).arrayBuffer()).digest("hex");
    sums.push(`${hash}  ${program}\n`);
    console.log(`built ${outfile}`);
  }
  writeFileSync(join(outdir, "SHA256SUMS"), sums.join(""));
  return true;
}

/** Runs Bun's compiler; returns its error, or null. */
function compile(
  program: Program,
  { outfile, target, commit }: { outfile: string; target: string | null; commit: string },
): string | null {
  const run = Bun.spawnSync(
    [
      process.execPath,
      "build",
      "--compile",
      // Otherwise a binary reads .env and bunfig.toml from the folder that it is started in.
      "--no-compile-autoload-dotenv",
      "--no-compile-autoload-bunfig",
      // The code is parsed at build time, which halves the time to start. Top-level await then needs the ESM format.
      "--bytecode",
      "--format=esm",
      "--minify-syntax",
      // A piece for each role, so that only the chosen one's is loaded.
      ...(program === "picket" ? ["--splitting"] : []),
      ...(target ? [`--target=bun-${target}`] : []),
      `--define=PICKET_VERSION=${JSON.stringify(version)}`,
      `--define=PICKET_COMMIT=${JSON.stringify(commit)}`,
      `--outfile=${outfile}`,
      join(import.meta.dir, PROGRAMS[program]),
    ],
    { cwd: dirname(outfile), stdout: "pipe", stderr: "pipe", env: process.env },
  );
  if (run.exitCode === 0) return null;
  return `${run.stderr.toString()}${run.stdout.toString()}`.trim() || `bun build ended with ${run.exitCode}`;
}

/** The commit's short hash, with `-dirty` when files differ from it; "unknown" without git. */
function commitOf(): string {
  const git = (...args: string[]) => {
    try {
      const run = Bun.spawnSync(["git", ...args], { cwd: import.meta.dir, stdout: "pipe", stderr: "ignore" });
      return run.exitCode === 0 ? run.stdout.toString().trim() : null;
    } catch {
      return null;
    }
  };
  // A copy without its own repository may lie in another one.
  if (git("rev-parse", "--show-prefix") !== "") return "unknown";
  const commit = git("rev-parse", "--short=10", "HEAD");
  if (!commit) return "unknown";
  return git("status", "--porcelain", "--untracked-files=no") ? `${commit}-dirty` : commit;
}

process.exit(await main());
