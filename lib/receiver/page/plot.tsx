/** @jsxImportSource hono/jsx */
// A plot: the mean as a line, from the least to the greatest value as a band; gaps stay gaps. It is drawn here, in UTC; with a script the
// browser draws it from the same figures (browser/plots.ts).

import { type Range, RANGES } from "../host-plots.ts";
import { type Drawn, type Line, type Plot, marksOf, worded } from "../plot.ts";
import { At } from "./parts.tsx";
import { Live } from "./regions.tsx";

/** The height of what is drawn, in pixels; its width is the page's. */
const HEIGHT = 110;
/** Curves are drawn on so many units each way, and stretched. */
const [WIDE, HIGH] = [1000, 100];

const RANGE_WORDS = { hour: "Hour", "6h": "6 hours", day: "Day", week: "Week", month: "Month", year: "Year" };

/** The ranges to choose from. One that was zoomed into is none of them. */
export function Ranges({ path, range, now }: { path: string; range: Range; now: number }) {
  return (
    <nav class="ranges" aria-label="range of the plots">
      {Object.keys(RANGES).map((name) => (
        <a href={`${path}?range=${name}`} aria-current={name === range.name ? "true" : undefined}>
          {RANGE_WORDS[name as keyof typeof RANGES]}
        </a>
      ))}
      {range.name === null && (
        <span class="dim">
          <At at={range.from} now={now} /> to <At at={range.to} now={now} />
        </span>
      )}
    </nav>
  );
}

/** @param now the figure as it is, and `more` that says what it is of. */
export function Figure({ plot, now, more }: { plot: Plot; now?: string | undefined; more?: string | undefined }) {
  const { id, title, unit, at, lines, from, to, limit } = plot;
  const marks = marksFor(plot);
  const seconds = (ms: number) => ms / 1000;
  const drawn: Drawn = {
    unit,
    limit,
    lines,
    marks,
    from: seconds(from),
    to: seconds(to),
    at: at.map(seconds),
  };
  return (
    <figure class="plot">
      <Live id={`plot-${id}`} data-plot={JSON.stringify(drawn)}>
        <figcaption>
          <b>{title}</b> {now !== undefined && <span class="now">{now}</span>}
          {more !== undefined && <span class="dim"> {more}</span>}
        </figcaption>
        <Drawing plot={plot} marks={marks} />
      </Live>
    </figure>
  );
}

function Drawing({ plot, marks }: { plot: Plot; marks: number[] }) {
  const { unit, at, lines, limit, from, to } = plot;
  const [bottom, top] = [marks[0]!, marks.at(-1)!];
  const x = (ms: number) => (ms - from) / (to - from);
  const y = (value: number) => 1 - (value - bottom) / (top - bottom);
  const place = (ms: number, value: number) => `${(x(ms) * WIDE).toFixed(1)} ${(y(value) * HIGH).toFixed(1)}`;
  return (
    <svg class="drawing" role="img" aria-label={saidOf(plot)}>
      {marks.map((mark) => (
        <>
          <line class="mark" x1="0" x2="100%" y1={y(mark) * HEIGHT} y2={y(mark) * HEIGHT} />
          <text x="-6" y={y(mark) * HEIGHT + 4} text-anchor="end">
            {worded(mark, unit)}
          </text>
        </>
      ))}
      {timeMarks(from, to).map(({ ms, text }) => (
        <text x={`${(x(ms) * 100).toFixed(2)}%`} y={HEIGHT + 17} text-anchor="middle">
          {text}
        </text>
      ))}
      <svg width="100%" height={HEIGHT} viewBox={`0 0 ${WIDE} ${HIGH}`} preserveAspectRatio="none">
        {limit !== null && limit <= top && <path class="limit" d={`M0 ${y(limit) * HIGH}H${WIDE}`} />}
        {lines.map((line, n) => (
          <>
            <path class={`band line-${n}`} d={bandOf(at, line, place)} />
            <path class={`mean line-${n}`} d={curveOf(at, line, place)} />
          </>
        ))}
      </svg>
      {at.length === 0 && (
        <text class="none" x="50%" y={HEIGHT / 2 + 4} text-anchor="middle">
          No figures in this time
        </text>
      )}
    </svg>
  );
}

function marksFor({ low, high, lines, unit, limit }: Plot) {
  const values = lines.flatMap(({ min, max }) => [...min, ...max]).filter((value) => value !== null);
  const greatest = Math.max(high ?? -Infinity, ...values);
  // A limit is shown where it isn't far away.
  const near = limit !== null && greatest > limit / 2 ? [limit] : [];
  const least = Math.min(low ?? Infinity, ...values);
  const start = Number.isFinite(least) ? least : 0;
  return marksOf(start, Math.max(greatest, start, ...near), unit);
}

type Place = (ms: number, value: number) => string;

/** Runs of neighbours without a gap. */
function runsOf(at: number[], { mean }: Line): number[][] {
  const runs: number[][] = [[]];
  for (const n of at.keys()) {
    if (mean[n] === null) runs.push([]);
    else runs.at(-1)!.push(n);
  }
  return runs.filter((run) => run.length > 0);
}

function curveOf(at: number[], line: Line, place: Place): string {
  // A point alone is a dot: a line of no length with round ends.
  const curve = (run: number[]) => run.map((n) => place(at[n]!, line.mean[n]!)).join("L");
  return runsOf(at, line)
    .map((run) => `M${curve(run)}${run.length === 1 ? "h0" : ""}`)
    .join("");
}

function bandOf(at: number[], line: Line, place: Place): string {
  return runsOf(at, line)
    .map((run) => {
      const over = run.map((n) => place(at[n]!, line.max[n]!));
      const under = run.toReversed().map((n) => place(at[n]!, line.min[n]!));
      return `M${[...over, ...under].join("L")}Z`;
    })
    .join("");
}

/** The plot in words, for those who don't see it. */
function saidOf({ title, unit, lines }: Plot): string {
  const each = lines.map(({ name, min, mean, max }) => {
    const known = (values: (number | null)[]) => values.filter((value) => value !== null);
    const means = known(mean);
    if (means.length === 0) return "no figures in this time";
    const average = means.reduce((sum, value) => sum + value, 0) / means.length;
    const [least, most] = [Math.min(...known(min)), Math.max(...known(max))];
    const range = `${worded(least, unit)} to ${worded(most, unit)}, ${worded(average, unit)} on average`;
    return lines.length === 1 ? range : `${name} ${range}`;
  });
  return `${title}: ${each.join("; ")}`;
}

const [MINUTE, HOUR, DAY] = [60_000, 3_600_000, 86_400_000];
const STEPS = [
  ...[1, 5, 10, 30].map((n) => n * MINUTE),
  ...[1, 2, 4, 6, 12].map((n) => n * HOUR),
  ...[1, 2, 5, 10, 30, 61, 122].map((n) => n * DAY),
];

/** At most seven times of the clock, or days, in UTC; none so near an end that its text is cut. */
function timeMarks(from: number, to: number): { ms: number; text: string }[] {
  const step = STEPS.find((one) => (to - from) / one <= 7) ?? STEPS.at(-1)!;
  const first = Math.ceil((from + (to - from) / 30) / step) * step;
  const count = Math.max(0, Math.floor((to - (to - from) / 30 - first) / step) + 1);
  return Array.from({ length: count }, (_, n) => first + n * step).map((ms) => {
    const [, month, day, time] = /^....-(..)-(..)T(.....)/.exec(new Date(ms).toISOString())!;
    return { ms, text: step < DAY && time !== "00:00" ? time! : `${Number(day)} ${MONTHS[Number(month) - 1]}` };
  });
}

const MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(" ");
