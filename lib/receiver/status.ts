// `status`: the first page in a terminal. Colours, shapes and lines of three hours are for a terminal alone; elsewhere it is plain text.
//
// With --watch it has the terminal's second screen to itself, and draws over what it drew before, within a synchronized update where the
// terminal knows that (mode 2026): nothing flickers. It reads the store anew each time, so that a restored one is seen.

import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isPostgres } from "../config.ts";
import { type Command, UsageError } from "../service.ts";
import { cut, printable, roughly } from "../text.ts";
import type { Config } from "./config.ts";
import { type Fleet, type FleetHost, type FleetJob, SHAPES, type Trouble, fleetOf } from "./fleet.ts";
import { time } from "./hosts.ts";
import { silenceOf } from "./presence.ts";
import type { Spark } from "./sparks.ts";
import { storeFile } from "./sqlite.ts";
import { type Context, many, withStore } from "./store-command.ts";
import { Store } from "./store.ts";

/** Between two looks, in milliseconds. */
const EVERY_MS = 2000;
/** The most of a text that came from a host. */
const MOST_TEXT = 300;
/** What is wrong with one host: `alerts` shows the rest. */
const MOST_TROUBLES = 4;
/** The receiver marks every five seconds that it runs. */
const SILENT_MS = 20_000;

const COLOURS = { bad: 31, warn: 33, ok: 32, off: 2, bold: 1, command: 36 } as const;
/** The alert that a figure is high. */
const HIGH = {
  disk_percent: "disk.high",
  cpu_percent: "cpu.high",
  memory_percent: "memory.high",
  temperature_c: "temperature.high",
} as const;
const SEVERITIES = { critical: "bad", warning: "warn", info: undefined } as const;
const BLOCKS = "▁▂▃▄▅▆▇█";

const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l\x1b[A";

/** The fleet at one moment. */
interface Moment {
  fleet: Fleet;
  now: number;
  /** For how long the receiver has not run, in milliseconds. */
  silence: number;
}

/** What the output can show. */
interface Output {
  /** Columns; infinite where it isn't a terminal. */
  width: number;
  isTerminal: boolean;
  isColoured: boolean;
}

async function show(context: Context<{ watch?: boolean; json?: boolean }>): Promise<void> {
  const { watch = false, json = false } = context.args;
  if (!watch) {
    const moment = await withStore(context, (store) => look(store));
    const text = json ? jsonOf(moment) : linesOf(moment, outputOf(context)).join("\n");
    return context.print(json ? printable(text) : text);
  }
  if (json) throw new UsageError("give --watch or --json, not both");
  if (!process.stdout.isTTY || context.env["TERM"] === "dumb") {
    throw new UsageError("--watch needs a terminal that it can draw on", "picket-receiver status, without it");
  }
  await withStore(context, (_, config) => follow(context, config));
}

async function look(store: Store): Promise<Moment> {
  const now = Date.now();
  return { fleet: await fleetOf({ store }, { now }), now, silence: await silenceOf(store.read, now) };
}

/** Null where the store is missing: while a backup is put back. To open it would make one. */
async function lookAnew(config: Config): Promise<Moment | null> {
  if (!isPostgres(config.store) && !existsSync(storeFile(config.data_dir))) return null;
  const store = await Store.open(config);
  try {
    return await look(store);
  } finally {
    await store.close();
  }
}

function outputOf({ env }: Context): Output {
  const isTerminal = process.stdout.isTTY;
  const isColoured = isTerminal && !env["NO_COLOR"] && env["TERM"] !== "dumb";
  return { width: isTerminal ? sizeOf().width : Infinity, isTerminal, isColoured };
}

/** A serial console doesn't know its size. */
function sizeOf(): { width: number; rows: number } {
  const { columns, rows } = process.stdout;
  return { width: Math.max(columns || 80, 20), rows: Math.max(rows || 24, 3) };
}

async function follow(context: Context, config: Config): Promise<void> {
  const { print, signal } = context;
  const suspend = () => {
    print(LEAVE);
    process.kill(process.pid, "SIGSTOP");
  };
  let wake = new AbortController();
  const onResize = () => wake.abort();
  const onContinue = () => {
    print(ENTER);
    wake.abort();
  };
  process.on("SIGTSTP", suspend).on("SIGCONT", onContinue);
  process.stdout.on("resize", onResize);
  print(ENTER);
  try {
    while (!signal.aborted) {
      wake = new AbortController();
      const moment = await lookAnew(config);
      if (moment) print(frame(linesOf(moment, outputOf(context))));
      // Not AbortSignal.timeout: its timer keeps no process waiting, and with nothing else to wait for Bun spins.
      await sleep(EVERY_MS, undefined, { signal: AbortSignal.any([signal, wake.signal]) }).catch(() => {});
    }
  } finally {
    print(LEAVE);
    process.off("SIGTSTP", suspend).off("SIGCONT", onContinue);
    process.stdout.off("resize", onResize);
  }
}

/** What draws lines over those of the last frame; as many as fit. */
function frame(lines: string[]): string {
  const { rows, width } = sizeOf();
  const heights = lines.map((line) => Math.max(1, Math.ceil(Bun.stringWidth(line) / width)));
  let [left, shown] = [rows - 1, 0];
  while (shown < lines.length && heights[shown]! <= left) left -= heights[shown++]!;
  const rest = lines.length - shown;
  // The last line that fits says that there are more.
  const drawn = rest > 0 ? [...lines.slice(0, shown - 1), `… ${many(rest + 1, "more line")}`] : lines;
  return `\x1b[?2026h\x1b[H${drawn.join("\x1b[K\n")}\x1b[J\x1b[?2026l`;
}

// ---------------------------------------------------------------------------------------------------------------
// Lines

const TIMES = new Set(["since", "until", "at", "last_seen_at", "last_ping_at", "created_at"]);

/** The same as JSON: times in RFC 3339, figures with two decimals. */
function jsonOf({ fleet, silence }: Moment): string {
  const isRunning = silence < SILENT_MS;
  return JSON.stringify({ receiver_runs: isRunning, ...fleet }, (key, value: unknown) => {
    if (typeof value !== "number") return value;
    return TIMES.has(key) ? time(value) : Math.round(value * 100) / 100;
  });
}

type Paint = (style: keyof typeof COLOURS, text: string) => string;

function linesOf({ fleet, now, silence }: Moment, output: Output): string[] {
  const paint: Paint = (style, text) => (output.isColoured ? `\x1b[${COLOURS[style]}m${text}\x1b[0m` : text);
  const drawn = { ...output, now, paint };
  const { hosts, jobs, events, hidden } = fleet;
  const isRunning = silence < SILENT_MS;
  const silent = `the receiver does not run: this is how things were ${roughly(silence)} ago`;
  const why = silence === Infinity ? "the receiver has not run yet" : silent;
  return [
    ...(isRunning ? [] : said(why, 0, { ...drawn, style: "warn" })),
    ...said(fleet.headline, 0, { ...drawn, style: "bold" }),
    ...joined(fleet.summary, output.width).flatMap((line) => said(line, 0, { ...drawn, style: "off" })),
    ...(hosts.length === 0
      ? ["", paint("command", "picket-receiver host add NAME")]
      : ["", ...hostLines(hosts, drawn)]),
    ...(hidden.archived > 0 ? [paint("off", `${many(hidden.archived, "archived host")} hidden`)] : []),
    ...(jobs.length > 0 ? ["", ...jobLines(jobs, drawn)] : []),
    ...(events.length > 0 ? ["", paint("off", "NEWEST EVENTS")] : []),
    ...events.flatMap(({ at, severity, text }) => {
      const [first = "", ...rest] = said(text, 12, { ...drawn, style: SEVERITIES[severity] });
      return [`${paint("off", `${roughly(now - at)} ago`.padEnd(12))}${first.slice(12)}`, ...rest];
    }),
  ];
}

/** Items on as few lines as they fit on. */
function joined(items: readonly string[], width: number): string[] {
  const lines: string[] = [];
  for (const item of items) {
    const longer = `${lines.at(-1)} · ${item}`;
    if (lines.length > 0 && Bun.stringWidth(longer) <= width) lines[lines.length - 1] = longer;
    else lines.push(item);
  }
  return lines;
}

interface Drawn extends Output {
  now: number;
  paint: Paint;
}

/** A text from anywhere, as lines with an indent. */
function said(
  text: string,
  indent: number,
  { width, paint, style }: Drawn & { style?: keyof typeof COLOURS | undefined },
): string[] {
  const shown = printable(cut(text, MOST_TEXT));
  const wrapped = width === Infinity ? shown : Bun.wrapAnsi(shown, width - indent, { hard: true });
  return wrapped.split("\n").map((line) => " ".repeat(indent) + (style ? paint(style, line) : line));
}

/** From much to little: how many columns a line of three hours has, and what is left out in a narrow terminal. */
const FORMS = [
  { spark: 18, since: true, temperature: true },
  { spark: 9, since: true, temperature: true },
  { spark: 6, since: true, temperature: true },
  { spark: 0, since: true, temperature: true },
  { spark: 0, since: false, temperature: true },
  { spark: 0, since: false, temperature: false, name: 12 },
] as const;

type Form = (typeof FORMS)[number];

function hostLines(hosts: readonly FleetHost[], drawn: Drawn): string[] {
  const head = ["STATE", "HOST", "DISK", " CPU", " MEM"];
  const forms = FORMS.filter(({ spark }) => spark === 0 || drawn.isTerminal).map((form) => {
    const titles = [...head, ...(form.temperature ? ["TEMP"] : []), "SEEN"];
    return table([titles, ...hosts.map((host) => hostCells(host, form, drawn))], head.length);
  });
  const lines = forms.find((one) => one.every((line) => Bun.stringWidth(line) <= drawn.width)) ?? forms.at(-1)!;
  return [drawn.paint("off", lines[0]!), ...hosts.flatMap((host, n) => [lines[n + 1]!, ...belowOf(host, drawn)])];
}

function hostCells(host: FleetHost, form: Form, drawn: Drawn): string[] {
  const { figures, sparks, name, troubles, last_seen_at: seen } = host;
  const shown = (key: keyof typeof HIGH, unit: string) => {
    const value = figures[key];
    const text = (value === null ? "-" : `${Math.round(value)}${unit}`).padStart(4);
    const high = troubles.find(({ type }) => type === HIGH[key]);
    return high ? drawn.paint(high.look, text) : text;
  };
  const drawnOut = (key: "disk_percent" | "cpu_percent" | "memory_percent") =>
    form.spark === 0 ? shown(key, "%") : `${shown(key, "%")} ${sparkline(sparks[key], form.spark)}`;
  return [
    stateText(host, form.since, drawn),
    drawn.paint("bold", "name" in form ? Bun.sliceAnsi(name, 0, form.name, "…") : name),
    drawnOut("disk_percent"),
    drawnOut("cpu_percent"),
    drawnOut("memory_percent"),
    ...(form.temperature ? [shown("temperature_c", "°C")] : []),
    seen === null ? "never" : `${roughly(drawn.now - seen)} ago`,
  ];
}

function stateText({ look, state, since, paused }: FleetHost | FleetJob, withSince: boolean, drawn: Drawn): string {
  const { now, paint, isTerminal } = drawn;
  const word = paint(look, isTerminal ? `${SHAPES[look]} ${state}` : state);
  const more = paused ? `${roughly(paused.until - now)} more` : since === null ? "" : roughly(now - since);
  return withSince && more !== "" ? `${word} ${paint("off", more)}` : word;
}

/** What is wrong, each with its command on a line of its own: to be copied as a whole. */
function belowOf({ troubles, paused }: { troubles: Trouble[]; paused: FleetHost["paused"] }, drawn: Drawn): string[] {
  const more = troubles.length - MOST_TROUBLES;
  return [
    ...(paused?.reason ? said(paused.reason, 2, { ...drawn, style: "off" }) : []),
    ...troubles.slice(0, MOST_TROUBLES).flatMap(({ text, command, acknowledged }) => [
      ...said(acknowledged ? `${text} (acknowledged)` : text, 2, {
        ...drawn,
        style: acknowledged ? "off" : undefined,
      }),
      ...(command === null || acknowledged
        ? []
        : [`    ${drawn.paint("command", printable(cut(command, MOST_TEXT)))}`]),
    ]),
    ...(more > 0 ? [drawn.paint("off", `  ${more} more: picket-receiver alerts`)] : []),
  ];
}

const RUN_SHAPES = {
  success: ["ok", "▮"],
  fail: ["bad", "✕"],
  endless: ["bad", "✕"],
  missing: ["bad", "▯"],
  late: ["warn", "▯"],
  started: ["off", "▯"],
} as const;

function jobLines(jobs: readonly FleetJob[], drawn: Drawn): string[] {
  const { paint, isTerminal, now } = drawn;
  const rows = jobs.map((job) => [
    stateText(job, true, drawn),
    paint("bold", job.name),
    ...(isTerminal ? [job.runs.map(({ how }) => paint(RUN_SHAPES[how][0], RUN_SHAPES[how][1])).join("")] : []),
    job.schedule,
    job.last_ping_at === null ? "never" : `${roughly(now - job.last_ping_at)} ago`,
  ]);
  const [head = "", ...lines] = table([
    ["STATE", "JOB", ...(isTerminal ? ["RUNS"] : []), "EXPECTED", "LAST RUN"],
    ...rows,
  ]);
  return [paint("off", head), ...jobs.flatMap((job, n) => [fitting(lines[n]!, drawn), ...belowOf(job, drawn)])];
}

/** A line in block characters from 0 to 100 percent: the mean of what falls into each of its columns. */
function sparkline(spark: Spark, width: number): string {
  return Array.from({ length: width }, (_, n) => {
    const part = spark
      .slice((n * spark.length) / width, ((n + 1) * spark.length) / width)
      .filter((one) => one !== null);
    if (part.length === 0) return " ";
    const mean = part.reduce((sum, one) => sum + one, 0) / part.length;
    return BLOCKS[Math.min(7, Math.max(0, Math.floor((mean / 100) * 8)))];
  }).join("");
}

const fitting = (line: string, { width }: Output): string =>
  width === Infinity ? line : Bun.sliceAnsi(line, 0, width, "…");

/** Rows in columns; from the column `right` on cells end at the same place. */
function table(rows: string[][], right = Infinity): string[] {
  const widths = rows[0]!.map((_, n) => Math.max(...rows.map((row) => Bun.stringWidth(row[n]!))));
  return rows.map((row) =>
    row
      .map((cell, n) => {
        const space = " ".repeat(widths[n]! - Bun.stringWidth(cell));
        return n >= right ? space + cell : cell + space;
      })
      .join("  ")
      .trimEnd(),
  );
}

/** The command, as data. */
export const STATUS_COMMANDS = {
  status: {
    summary: "show the fleet at a glance, worst first",
    usage: `usage: picket-receiver status [--watch] [--json]

  --watch   stay, and show what changes; Ctrl-C ends it

example: picket-receiver status --watch`,
    run: show,
  },
} satisfies Record<string, Command<Config>>;
