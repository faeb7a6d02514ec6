// Text for people: what comes from outside made fit for a terminal, sizes and spans of time, tables.

/**
 * Characters that steer a terminal, turn the direction of text, fake a line, or can't be seen: text may be hidden in them. What makes an
 * emoji stays: one variation selector, and a joiner between two of them.
 */
const STEERS =
  /(?!(?<=[\p{ExtPict}\p{EMod}\ufe0f])\u200d\p{ExtPict})[[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{DI}]--\ufe0f]|(?<=\ufe0f)\ufe0f/gv;

function escaped(character: string): string {
  return character.replace(/[^]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** The text with such characters written as `\u001b`; line breaks and tabs, too. */
export function printable(text: string): string {
  return text.toWellFormed().replace(STEERS, escaped);
}

/** The same, but line breaks and tabs stay. */
export function printableLines(text: string): string {
  return text
    .toWellFormed()
    .replace(STEERS, (character) => (character === "\n" || character === "\t" ? character : escaped(character)));
}

/** At most so many characters of a text; `…` marks that it was longer. */
export function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)}…` : text;
}

const MS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const BYTES = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

/** `30m`, `2h`, `90d` in milliseconds; null for other text. */
export function readDuration(text: string): number | null {
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  return unit === undefined ? null : Number(count) * MS[unit as keyof typeof MS];
}

/** `500m`, `50g`, `1.5t` in bytes (`k` is 1024); null for other text. */
export function readSize(text: string): number | null {
  const [, count, unit] = /^(\d{1,15}(?:\.\d+)?)([kmgt]?)b?$/i.exec(text) ?? [];
  return unit === undefined ? null : Math.floor(Number(count) * BYTES[unit.toLowerCase() as keyof typeof BYTES]);
}

/** `1.4 GB`, `12 KB`, `7 bytes`: 1024 of each are one of the next. */
export function size(bytes: number): string {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  const unit = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${(bytes / 1024 ** unit).toFixed(unit === 0 ? 0 : 1)} ${units[unit]}`;
}

/** `40 s`, `2 min`, `5 h`, `3 days`: milliseconds, roughly. */
export function roughly(ms: number): string {
  const units = [
    [86_400_000, "days", 2],
    [MS.h, "h", 1.5],
    [MS.m, "min", 1.5],
  ] as const;
  const [unit, name] = units.find(([size, , least]) => ms >= least * size) ?? [MS.s, "s"];
  return `${Math.max(0, Math.round(ms / unit))} ${name}`;
}

/** A text as one word of a shell's command line. */
export function shellWord(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** `4m 02s`, `3h 05m`, `2d 04h`, `12s`: milliseconds as their two largest units. */
export function duration(ms: number): string {
  const total = Math.max(0, Math.floor(ms / 1000));
  const two = (n: number) => String(n).padStart(2, "0");
  const [days, hours, minutes, seconds] = [
    Math.floor(total / 86_400),
    Math.floor((total % 86_400) / 3600),
    Math.floor((total % 3600) / 60),
    total % 60,
  ];
  if (days > 0) return `${days}d ${two(hours)}h`;
  if (hours > 0) return `${hours}h ${two(minutes)}m`;
  return minutes > 0 ? `${minutes}m ${two(seconds)}s` : `${seconds}s`;
}

/** The same without a second unit that is zero: `1d`, `2h`, `1m`; for a span that was set. */
export const span = (ms: number): string => duration(ms).replace(/ 00?[hms]$/, "");

/** Rows of cells as lines of text, each column as wide as its longest cell. */
export function columns(rows: string[][]): string {
  const widths: number[] = [];
  for (const row of rows) for (const [n, cell] of row.entries()) widths[n] = Math.max(widths[n] ?? 0, cell.length);
  return rows
    .map((row) =>
      row
        .map((cell, n) => cell.padEnd(widths[n]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
