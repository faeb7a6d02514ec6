// A plot: what it shows, its figures in words, and its axis. Shared by the server and the browser.

import { size } from "../text.ts";

export type Unit = "%" | "MB" | "bytes/s" | "°C" | "";

/** Values at the times of a plot; null where nothing was measured. */
export interface Line {
  name: string;
  min: (number | null)[];
  mean: (number | null)[];
  max: (number | null)[];
}

export interface Plot {
  id: string;
  title: string;
  unit: Unit;
  /** What the axis has room for at least; null follows the values. */
  low: number | null;
  high: number | null;
  /** An alert above it. */
  limit: number | null;
  from: number;
  to: number;
  /** Milliseconds since 1970: the middle of what each point stands for. */
  at: number[];
  lines: Line[];
}

/** What the browser draws, with the marks of the axis: a Plot with times in seconds. */
export interface Drawn extends Omit<Plot, "id" | "low" | "high"> {
  marks: number[];
}

const MIB = 2 ** 20;

/** A value with its unit: `12 %`, `1.4 GB`, `0.52`. */
export function worded(value: number, unit: Unit): string {
  if (unit === "MB") return size(value * MIB);
  if (unit === "bytes/s") return `${size(value)}/s`;
  const digits = unit === "" ? 2 : value < 10 && unit === "%" ? 1 : 0;
  const text = value.toFixed(digits).replace(/\.0$/, "");
  return unit === "" ? text : `${text} ${unit}`;
}

/** The ends of an axis that has room for these values, and its marks. */
export function axisOf(low: number, high: number, unit: Unit): { bottom: number; top: number; marks: number[] } {
  const step = niceStep((high - low) / 3, unit);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  const marks = Array.from({ length: last - first + 1 }, (_, n) => Number(((first + n) * step).toPrecision(12)));
  return { bottom: marks[0]!, top: marks.at(-1)!, marks };
}

/** 1, 2, 5, 10 and so on; of bytes within their own thousand, which is 1024. */
function niceStep(least: number, unit: Unit): number {
  const isSize = unit === "MB" || unit === "bytes/s";
  const thousand = isSize ? 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(least, 1)) / 10)) : 1;
  const rough = Math.max(least / thousand, isSize ? 1 : unit === "" ? 0.05 : 1);
  const ten = 10 ** Math.floor(Math.log10(rough) + 1e-9);
  return [1, 2, 5, 10].find((one) => one * ten >= rough - 1e-9)! * ten * thousand;
}
