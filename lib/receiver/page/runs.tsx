/** @jsxImportSource hono/jsx */
// The last runs of a job as bars, oldest first: full where it succeeded, a bar above a dot where it failed, dashed where it is missing.

import { duration } from "../../text.ts";
import type { Run } from "../job-runs.ts";

const WORDS = {
  success: "succeeded",
  fail: "failed",
  endless: "did not end",
  missing: "missing",
  late: "late",
  started: "running",
} as const;
const STEP = 9;
const WIDTH = 7;

/** @param tall its bars are as high as the runs took, and say when they were. */
export function Runs({ runs, tall = false }: { runs: readonly Run[]; tall?: boolean }) {
  if (runs.length === 0) return <span class="dim no-runs">no runs yet</span>;
  const height = tall ? 56 : 18;
  const longest = Math.max(...runs.map(({ duration_ms: ms }) => ms ?? 0));
  const bars = runs.map((run, n) => {
    const part = tall && longest > 0 ? (run.duration_ms ?? 0) / longest : 1;
    return { run, d: barOf(run, { left: n * STEP, height, part }) };
  });
  const width = runs.length * STEP - STEP + WIDTH;
  return (
    <svg
      class="bars"
      role="img"
      aria-label={runsText(runs)}
      width={width}
      height={height}
      viewBox={`0 0 ${width} ${height}`}
    >
      {tall
        ? bars.map(({ run, d }) => (
            <path class={run.how} d={d}>
              <title>{titleOf(run)}</title>
            </path>
          ))
        : [...Map.groupBy(bars, ({ run }) => run.how)].map(([how, those]) => (
            <path class={how} d={those.map(({ d }) => d).join("")} />
          ))}
    </svg>
  );
}

/** `28 succeeded, 1 failed, 2 missing` */
export function runsText(runs: readonly Run[]): string {
  const counts = Map.groupBy(runs, ({ how }) => how);
  const words = Object.entries(WORDS) as [Run["how"], string][];
  return words.flatMap(([how, word]) => (counts.has(how) ? [`${counts.get(how)!.length} ${word}`] : [])).join(", ");
}

function titleOf({ at, how, duration_ms: ms, exit_status }: Run): string {
  const status = how === "fail" && exit_status !== null ? ` with exit status ${exit_status}` : "";
  const took = ms === null ? "" : `, took ${duration(ms)}`;
  return `${new Date(at).toISOString().slice(0, 16).replace("T", " ")} UTC: ${WORDS[how]}${status}${took}`;
}

function barOf({ how }: Run, { left, height, part }: { left: number; height: number; part: number }): string {
  const box = (top: number, bottom: number, inset = 0) =>
    `M${left + inset} ${top}h${WIDTH - 2 * inset}V${bottom}h${2 * inset - WIDTH}z`;
  if (how === "missing" || how === "late" || how === "started") return box(0.5, height - 0.5, 0.5);
  if (how !== "success") return box(0, height - 7) + box(height - 5, height);
  return box(height - Math.max(4, Math.round(part * height)), height);
}
