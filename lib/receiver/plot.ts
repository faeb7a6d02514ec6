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
export interface Drawn extends Omit<Plot, "id" | "title" | "low" | "high"> {
  marks: number[];
}

const MIB = 2 ** 20;

/** A value with its unit: `12 %`, `1.4 GB`, `0.52`. */
export function worded(value: number, unit: Unit): string {
  if (unit === "MB") return sized(value * MIB);
  if (unit === "bytes/s") return `${sized(value)}/s`;
  const digits = unit === "" ? 2 : value < 10 && unit === "%" ? 1 : 0;
  const text = value.toFixed(digits).replace(/\.0$/, "");
  return unit === "" ? text : `${text} ${unit}`;
}

/** `412 GB`, `1.4 TB`: without a zero after the point. */
export const sized = (bytes: number): string => size(bytes).replace(".0 ", " ");

/** `412 of 456 GB`; with both units where they differ. */
export function sizedOf(part: number, whole: number): string {
  const [of, unit] = sized(whole).split(" ");
  const [used, other] = sized(part).split(" ");
  return unit === other ? `${used} of ${of} ${unit}` : `${used} ${other} of ${of} ${unit}`;
}

/** The marks of an axis that has room for these values: from its lower end to its upper one. */
export function marksOf(low: number, high: number, unit: Unit): number[] {
  const step = niceStep((high - low) / 4, unit);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(Math.ceil(high / step - 1e-9), first + 1);
  return Array.from({ length: last - first + 1 }, (_, n) => Number(((first + n) * step).toPrecision(12)));
}

/** 1, 2, 5, 10 and so on, and quarters of a percentage; sizes within their own thousand, which is 1024. */
function niceStep(least: number, unit: Unit): number {
  const isSize = unit === "MB" || unit === "bytes/s";
  const thousand = isSize ? 1024 ** Math.max(0, Math.floor(Math.log2(Math.max(least, 1)) / 10)) : 1;
  const rough = Math.max(least / thousand, unit === "" ? 0.05 : 1);
  const ten = 10 ** Math.floor(Math.log10(rough) + 1e-9);
  const found = [1, 2, ...(unit === "%" ? [2.5] : []), 5, 10].find((one) => one * ten >= rough - 1e-9)! * ten;
  // So that the marks above it are whole ones of the next unit.
  return (isSize && found >= 500 ? found * 1.024 : found) * thousand;
}
