/** @jsxImportSource hono/jsx */
// Three hours of a figure as a small line. A page has hundreds of them: their paths are short.

import type { Spark } from "../sparks.ts";

/** The width of a step, and the height of the drawing. One digit and two keep a path short. */
const STEP = 9;
const HEIGHT = 45;

/** @param most what the top stands for; the bottom is `least`. */
export function SparkLine({ points, least = 0, most = 100 }: { points: Spark; least?: number; most?: number }) {
  const heights = points.map((value) =>
    value === null ? null : Math.round(HEIGHT * (1 - Math.min(1, Math.max(0, (value - least) / (most - least))))),
  );
  return (
    <svg viewBox={`0 0 ${STEP * (points.length - 1)} ${HEIGHT}`} aria-hidden="true">
      <path d={pathOf(heights)} />
    </svg>
  );
}

/** Lines from point to point, relative ones; a level stretch is one line, and a gap begins another. */
function pathOf(heights: readonly (number | null)[]): string {
  let path = "";
  let before: number | null = null;
  let level = 0;
  const flat = () => {
    if (level > 0) path += `h${level * STEP}`;
    level = 0;
  };
  for (const [at, height] of heights.entries()) {
    if (height !== null && height === before) level++;
    else {
      flat();
      if (height !== null) path += before === null ? `M${at * STEP} ${height}` : `l${STEP} ${height - before}`;
    }
    before = height;
  }
  flat();
  return path.replaceAll(" -", "-");
}
