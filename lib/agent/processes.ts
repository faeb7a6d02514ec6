// The processes that use the most CPU and memory, from /proc/PID/stat, see proc_pid_stat(5). A look at 100 processes takes as much
// CPU as a whole report: it is repeated every five minutes, and the CPU use is that of the time between.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { namesIn, textOf } from "../files.ts";
import { oneDecimal } from "./kernel-files.ts";

const MIB = 1 << 20;
const MOST = 5;
const AGAIN_MS = 5 * 60_000 - 1000;
/** PF_KTHREAD in linux/sched.h. */
const KERNEL_THREAD = 0x00200000;

/** Kernel threads use no memory and hardly any CPU: after a look at them they are left out, until their numbers may be others'. */
const LOOKS_WITHOUT_THREADS = 12;

interface Process {
  pid: number;
  /** The kernel's name: at most 15 characters, never a command line. */
  name: string;
  /** 100 are one CPU. */
  cpu_percent: number;
  memory_mb: number;
}

/** @param clock milliseconds. */
export function createProcesses(root: string, clock: () => number) {
  const { pageBytes, ticksPerSecond } = unitsOf(root);
  /** CPU time so far, by number and beginning: another process may get the number. */
  let before = new Map<string, number>();
  let looked = clock();
  let looks = 0;
  let latest: Process[] | null = null;
  const threads = new Set<string>();
  look();

  function look(): Process[] {
    const seconds = (clock() - looked) / 1000;
    const now = new Map<string, number>();
    const all: Process[] = [];
    if (looks++ % LOOKS_WITHOUT_THREADS === 0) threads.clear();
    for (const pid of pidsOf(root)) {
      const text = threads.has(pid) ? "" : statOf(root, pid);
      const end = text.lastIndexOf(")");
      if (end < 0) continue;
      // state ppid pgrp session tty tpgid flags minflt cminflt majflt cmajflt utime stime … starttime vsize rss
      const fields = text.slice(end + 2).split(" ", 22);
      if ((Number(fields[6]) & KERNEL_THREAD) !== 0) {
        threads.add(pid);
        continue;
      }
      const key = `${pid} ${fields[19]}`;
      const ticks = Number(fields[11]) + Number(fields[12]);
      now.set(key, ticks);
      all.push({
        pid: Number(pid),
        name: text.slice(text.indexOf("(") + 1, end),
        cpu_percent: oneDecimal(((ticks - (before.get(key) ?? 0)) / ticksPerSecond / seconds) * 100),
        memory_mb: oneDecimal((Number(fields[21]) * pageBytes) / MIB),
      });
    }
    before = now;
    looked = clock();
    return all;
  }

  return {
    /** A report's `host.processes`: the largest by CPU, then by memory; null if /proc can't be read. */
    read(): Process[] | null {
      if (latest && clock() - looked < AGAIN_MS) return latest;
      const all = look();
      const byCpu = all.filter((one) => one.cpu_percent > 0).toSorted((a, b) => b.cpu_percent - a.cpu_percent);
      const byMemory = all.toSorted((a, b) => b.memory_mb - a.memory_mb);
      latest = [...new Set([...byCpu.slice(0, MOST), ...byMemory.slice(0, MOST)])];
      return latest.length > 0 ? latest : null;
    },
  };
}

function pidsOf(root: string): string[] {
  return namesIn(join(root, "proc")).filter((name) => name[0]! >= "1" && name[0]! <= "9");
}

/** Empty for one that has ended. */
function statOf(root: string, pid: string): string {
  return textOf(join(root, "proc", pid, "stat")) ?? "";
}

/** Sizes that the kernel was built with, from the vector that it hands each program, see getauxval(3). */
function unitsOf(root: string): { pageBytes: number; ticksPerSecond: number } {
  const units = { pageBytes: 4096, ticksPerSecond: 100 };
  try {
    const vector = new BigUint64Array(new Uint8Array(readFileSync(join(root, "proc/self/auxv"))).buffer);
    for (let n = 0; n < vector.length; n += 2) {
      if (vector[n] === 6n) units.pageBytes = Number(vector[n + 1]);
      if (vector[n] === 17n) units.ticksPerSecond = Number(vector[n + 1]);
    }
  } catch {
    // What nearly all kernels have.
  }
  return units;
}
