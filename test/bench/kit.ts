// What the measurements share: medians, programs started and stopped, wrk, versions.

import { dlopen, ptr } from "bun:ffi";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Subprocess } from "bun";
import { freePort } from "../kit.ts";

export { freePort };

export const ROOT = join(import.meta.dir, "../..");

/** One line of docs/benchmarks.md. */
export interface Row {
  what: string;
  figure: string;
  /** Ratio to the peer or limit of the same run. */
  ratio?: string;
  aim?: string;
}

/** A section of docs/benchmarks.md. */
export interface Section {
  title: string;
  command: string;
  text: string;
  rows: Row[];
}

export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function percentile(values: number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor((p / 100) * sorted.length))]!;
}

/** `12,345` */
export function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** A folder for one measurement, gone afterwards. On the disk, not in a tmpfs: the syncs have to be real. */
export async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(process.env["PICKET_BENCH_DIR"] ?? tmpdir(), "picket-bench-"));
  try {
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Starts a program, waits until `ready` answers, runs `work`, and ends it. */
export async function withProgram<T>(
  cmd: string[],
  ready: (child: Subprocess) => Promise<unknown>,
  work: (child: Subprocess) => Promise<T>,
  env: Record<string, string> = {},
): Promise<T> {
  const child = Bun.spawn(cmd, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "ignore",
    cwd: ROOT,
    env: { ...process.env, ...env },
  });
  try {
    for (let tries = 0; ; tries++) {
      if (child.exitCode !== null) throw new Error(`${cmd.join(" ")} ended with ${child.exitCode}`);
      if (
        await ready(child).then(
          () => true,
          () => false,
        )
      )
        break;
      if (tries > 2000) throw new Error(`${cmd.join(" ")} is not ready`);
      await Bun.sleep(5);
    }
    return await work(child);
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

export interface Load {
  url: string;
  body: string;
  headers: Record<string, string>;
  seconds: number;
  connections?: number;
  folder: string;
  /** A header whose value is new for each request. */
  unique?: string;
}

/** Requests a second that wrk gets answered with 2xx; throws when others come. */
export async function wrk({ url, body, headers, seconds, connections = 64, folder, unique }: Load): Promise<number> {
  const script = join(folder, "post.lua");
  writeFileSync(join(folder, "body"), body);
  const lines = [
    `wrk.method = "POST"`,
    `local file = io.open("${join(folder, "body")}", "rb")`,
    `wrk.body = file:read("*a")`,
    ...Object.entries(headers).map(([name, value]) => `wrk.headers["${name}"] = "${value}"`),
  ];
  if (unique) {
    lines.push(`local n = 0`, `local run = os.time() .. "-" .. math.random(1e9)`);
    lines.push(`request = function() n = n + 1; wrk.headers["${unique}"] = run .. "-" .. n; return wrk.format() end`);
  }
  writeFileSync(script, lines.join("\n"));
  const run = Bun.spawn(["wrk", "-t1", `-c${connections}`, `-d${seconds}s`, "-s", script, url], { stdout: "pipe" });
  const text = await new Response(run.stdout).text();
  const bad = /Non-2xx or 3xx responses: (\d+)/.exec(text);
  if (bad) throw new Error(`${url}: ${bad[1]} refused:\n${text}`);
  return Number(/Requests\/sec:\s+([\d.]+)/.exec(text)?.[1]);
}

/** Resident memory of a process in MiB. */
export async function residentMiB(pid: number): Promise<number> {
  const status = await Bun.file(`/proc/${pid}/status`).text();
  return Number(/VmRSS:\s+(\d+)/.exec(status)![1]) / 1024;
}

/** What resident memory a process had at most, in MiB; null when it has ended. */
export function peakMiB(pid: number): number | null {
  try {
    const peak = /VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
    return peak === undefined ? null : Number(peak) / 1024;
  } catch {
    return null;
  }
}

/** CPU seconds of a process so far: user and system, all its threads, also those that have ended. */
export function cpuSeconds(pid: number): number {
  const time = new BigInt64Array(2);
  // What clock_getcpuclockid(3) gives for a process; /proc/PID/stat counts in hundredths of a second.
  if (clock().symbols.clock_gettime((~pid << 3) | 2, ptr(time)) !== 0)
    throw new Error(`no CPU clock of process ${pid}`);
  return Number(time[0]) + Number(time[1]) / 1e9;
}

let opened: ReturnType<typeof openClock> | undefined;

function clock() {
  return (opened ??= openClock());
}

function openClock() {
  return dlopen("libc.so.6", { clock_gettime: { args: ["i32", "ptr"], returns: "i32" } });
}

/**
 * Runs curl; throws unless the answer has one of these statuses. Gives the seconds it took.
 * @param from a shell pipeline whose output curl gets as its input.
 */
export async function curl(args: string[], good: string[], from?: string): Promise<number> {
  const cmd = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{time_total}", "-H", "Expect:", ...args];
  const run = Bun.spawn(from === undefined ? cmd : ["bash", "-c", `set -o pipefail; ${from} | "$@"`, "bash", ...cmd], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const [status = "", seconds = ""] = (await new Response(run.stdout).text()).split(" ");
  if (!good.includes(status)) throw new Error(`curl ${args.at(-1)}: ${status}`);
  if ((await run.exited) !== 0) throw new Error(`${from ?? "curl"} ended with ${run.exitCode}`);
  return Number(seconds);
}

/** An nginx that takes files by PUT and keeps them in `dav/` of this folder, while `work` runs with its address. */
export async function withWebDav<T>(folder: string, work: (url: string) => Promise<T>): Promise<T> {
  const port = freePort();
  mkdirSync(join(folder, "dav"), { mode: 0o777 });
  const config = join(folder, "nginx.conf");
  writeFileSync(
    config,
    `${process.getuid?.() === 0 ? "user root;\n" : ""}daemon off; worker_processes 1; pid ${folder}/nginx.pid; error_log ${folder}/error.log;
events {}
http { access_log off; client_max_body_size 0; client_body_temp_path ${folder}/body;
  server { listen 127.0.0.1:${port}; root ${folder}/dav; location / { dav_methods PUT; create_full_put_path on; } } }
`,
  );
  const url = `http://127.0.0.1:${port}`;
  return withProgram(
    ["nginx", "-c", config, "-p", folder],
    () => fetch(url),
    () => work(url),
  );
}

const RECEIVER = join(ROOT, "dist/picket-receiver");

/** The compiled receiver with its data in `data/` of this folder, while `work` runs with its address and a token of host "bench". */
export async function withReceiver<T>(folder: string, work: (url: string, token: string) => Promise<T>): Promise<T> {
  const port = freePort();
  const config = join(folder, "receiver.yaml");
  writeFileSync(config, `listen: 127.0.0.1:${port}\ndata_dir: ${folder}/data\n`);
  const added = Bun.spawnSync([RECEIVER, "host", "add", "bench", "--config", config]).stdout.toString();
  const token = /pk_\w+/.exec(added)![0];
  const url = `http://127.0.0.1:${port}`;
  return withProgram(
    [RECEIVER, "--config", config, "--log-level", "warn"],
    () => fetch(`${url}/health`),
    () => work(url, token),
  );
}
