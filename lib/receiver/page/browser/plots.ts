// Plots of uPlot in place of the drawings of the server (../plot.tsx), from the same figures: with values at the cursor. A part of one that
// is selected becomes the range of the page, by its address.

import uPlot from "uplot";
import { type Drawn, worded } from "../../plot.ts";

const HEIGHT = 143;
/** By the element that has the figures, as JSON. */
const shown = new Map<Element, { plot: uPlot; json: string; update: (drawn: Drawn) => void }>();
const sizes = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const known = shown.get(target);
    if (known) known.plot.setSize({ width: Math.max(contentRect.width, 100), height: HEIGHT });
  }
});

/** @param goTo shows this page with another query. */
export function showPlots(within: Element, goTo: (query: string) => void): void {
  for (const [element, { plot }] of shown) {
    if (element.isConnected && plot.root.isConnected) continue;
    plot.destroy();
    sizes.unobserve(element);
    shown.delete(element);
  }
  const found = [...within.querySelectorAll<HTMLElement>("[data-plot]")];
  for (const element of within.matches("[data-plot]") ? [within as HTMLElement, ...found] : found) {
    const json = element.dataset["plot"]!;
    const known = shown.get(element);
    if (known?.json === json) continue;
    const drawn = JSON.parse(json) as Drawn;
    if (known) known.update(drawn);
    shown.set(element, { ...(known ?? draw(element, drawn, goTo)), json });
    sizes.observe(element);
  }
}

/** Canvases don't follow the colours of the style sheet by themselves. */
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const element of document.querySelectorAll("[data-plot]")) shown.get(element)?.plot.redraw();
});

function draw(element: HTMLElement, first: Drawn, goTo: (query: string) => void) {
  let drawn = first;
  const { unit, lines } = drawn;
  const colour = (name: string) => () => getComputedStyle(element).getPropertyValue(name);
  const ink = (n: number) => colour(n === 0 ? "--spark" : "--dim");
  const axis = { stroke: colour("--dim"), font: "11px system-ui, sans-serif" };
  const grid = { stroke: colour("--line"), width: 1 };
  const read = document.createElement("output");
  const plot = new uPlot(
    {
      width: Math.max(element.clientWidth, 100),
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        sync: { key: "plots", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        points: { size: 5 },
        drag: { x: true, y: false, setScale: false },
      },
      scales: {
        x: { range: () => [drawn.from, drawn.to] },
        y: { range: () => [drawn.marks[0]!, drawn.marks.at(-1)!] },
      },
      axes: [
        { ...axis, size: 27, gap: 4, grid: { show: false }, ticks: { show: false }, values: clock, space: 70 },
        {
          ...axis,
          size: 58,
          gap: 6,
          grid,
          ticks: { show: false },
          splits: () => drawn.marks,
          values: (_, splits) => splits.map((split) => worded(split, unit)),
        },
      ],
      series: [
        {},
        ...lines.flatMap((_, n) => [
          { width: 0, points: { show: false } },
          { width: 0, points: { show: false } },
          { stroke: ink(n), width: 1.4 },
        ]),
      ],
      bands: lines.map((_, n) => ({ series: [3 * n + 1, 3 * n + 2], fill: faint(ink(n)) })),
      hooks: {
        drawClear: [(self) => drawn.limit !== null && drawLimit(self, drawn.limit, colour("--bad")())],
        setCursor: [({ cursor: { idx } }) => (read.textContent = said(drawn, idx ?? null))],
        setSelect: [
          (self) => {
            const { left, width } = self.select;
            if (width < 8) return;
            const instant = (x: number) => new Date(self.posToVal(x, "x") * 1000).toISOString().slice(0, 19);
            goTo(`?from=${instant(left)}Z&to=${instant(left + width)}Z`);
            self.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          },
        ],
      },
    },
    dataOf(drawn),
    element.parentElement!,
  );
  plot.root.setAttribute("aria-hidden", "true");
  plot.over.append(read);
  const update = (next: Drawn) => {
    drawn = next;
    plot.setData(dataOf(drawn));
  };
  return { plot, update };
}

/** The greatest and the least of each line, then its mean. */
function dataOf({ at, lines }: Drawn): uPlot.AlignedData {
  return [at, ...lines.flatMap(({ min, mean, max }) => [max, min, mean])];
}

/** What is at the cursor. */
function said({ unit, from, to, at, lines }: Drawn, idx: number | null): string {
  if (idx === null || idx >= at.length || lines.every(({ mean }) => mean[idx] === null)) return "";
  const each = lines.map(({ name, min, mean, max }) => {
    if (mean[idx] === null) return null;
    const range = min[idx] === max[idx] ? "" : ` (${worded(min[idx]!, unit)} to ${worded(max[idx]!, unit)})`;
    return `${worded(mean[idx]!, unit)}${lines.length > 1 ? ` ${name}` : ""}${range}`;
  });
  return `${moment(at[idx]!, to - from)}  ${each.filter((one) => one !== null).join(", ")}`;
}

/** A band lets what is behind it through. */
function faint(colour: () => string): () => string {
  return () => `color-mix(in srgb, ${colour()} 22%, transparent)`;
}

function drawLimit(plot: uPlot, limit: number, colour: string): void {
  const { ctx, bbox } = plot;
  const y = plot.valToPos(limit, "y", true);
  if (y < bbox.top || y > bbox.top + bbox.height) return;
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.globalAlpha = 0.6;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

const DAY = 86_400;

/** The words below an axis: times, and days at midnight. */
function clock(_: uPlot, splits: number[], _axis: number, _space: number, apart: number): string[] {
  const isMidnight = (at: number) => new Date(at * 1000).getHours() + new Date(at * 1000).getMinutes() === 0;
  return splits.map((at) => (apart < DAY && !isMidnight(at) ? timeOf(at) : dayOf(at)));
}

const timeOf = (at: number) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const dayOf = (at: number) => new Date(at * 1000).toLocaleDateString([], { day: "numeric", month: "short" });

const moment = (at: number, span: number): string =>
  span > 60 * DAY ? dayOf(at) : span > DAY ? `${dayOf(at)} ${timeOf(at)}` : timeOf(at);
