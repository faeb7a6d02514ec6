// The commands at the observer's command line. They read the log itself, so they work beside a running daemon and without one.

import { besideService } from "../config.ts";
import { printable, printableLines } from "../text.ts";
import { type Command, type CommandContext, UsageError } from "../service.ts";
import { type Config, escalationRules } from "./config.ts";
import { doctor } from "./doctor.ts";
import { Clusters } from "./clusters.ts";
import { readAll, readLog, segmentsOf } from "./op-log.ts";
import type { Operation } from "./operation.ts";
import { detailsOf, summaryOf } from "./reading.ts";
import { Books } from "./books.ts";
import { LogTail } from "./tail.ts";

const SHOWN = 20;
const LOOK_MS = 250;

type Context<A = object> = CommandContext<Config, A>;

/** The configuration and the log's path. @throws UsageError when operations are kept in memory only. */
async function logOf(context: Context): Promise<{ path: string; config: Config }> {
  const config = await context.loadConfig(["llm", "notify", "auth", "tls", "trusted_proxies"]);
  if (config.persist_path === "") {
    throw new UsageError("there is no log: persist_path is empty", "ask the daemon: GET /observer/stats");
  }
  const system = besideService("observer", config.persist_path);
  if (system)
    context.log.warn("this is your own log; for the system service's use sudo", { log: config.persist_path, system });
  return { path: config.persist_path, config };
}

/** The figures of the whole log. */
async function booksOf(context: Context): Promise<Books> {
  const { path, config } = await logOf(context);
  const books = new Books(new Clusters(escalationRules(config)));
  await readAll(path, { books, malformed: () => {} });
  await books.clusters.analyze();
  return books;
}

/** `stats`. */
async function stats(context: Context<{ json?: boolean }>): Promise<void> {
  const { tally } = await booksOf(context);
  if (context.args.json) return context.print(printable(JSON.stringify(tally.stats)));
  const { total, successes, failures, by_source, recent_scenario_ops } = tally.stats;
  const sources = Object.entries(by_source).map(([source, count]) => `  ${source.padEnd(20)} ${count}`);
  const scenarios = recent_scenario_ops.map(({ timestamp, endpoint, success }) =>
    printable(`  ${timestamp}  ${success ? "ok    " : "failed"}  ${endpoint}`),
  );
  context.print(
    [
      `operations  ${total}`,
      `succeeded   ${successes}`,
      `failed      ${failures}`,
      ...(sources.length > 0 ? ["by source", ...sources] : []),
      ...(scenarios.length > 0 ? ["recent scenarios", ...scenarios] : []),
    ].join("\n"),
  );
}

/** `clusters [FINGERPRINT]`. */
async function clusters(context: Context<{ json?: boolean }>): Promise<void> {
  const books = await booksOf(context);
  const [fingerprint] = context.positionals;
  if (fingerprint !== undefined) {
    const cluster = books.clusters.get(fingerprint);
    if (!cluster) throw new UsageError(`no failure has the fingerprint "${fingerprint}"`, "picket-observer clusters");
    return context.print(printableLines(JSON.stringify(detailsOf(cluster), null, context.args.json ? 0 : 2)));
  }
  const list = books.clusters.list();
  if (context.args.json) return context.print(printable(JSON.stringify({ clusters: list.map(summaryOf) })));
  if (list.length === 0) return context.print("no failures");
  for (const { fingerprint: id, count, last_at, endpoint, shape, level } of list.map(summaryOf)) {
    const escalated = level > 0 ? ` (escalated: ${level}×)` : "";
    const cause = `${endpoint}: ${shape.slice(0, 100)}`;
    context.print(printable(`${id.padEnd(19)}  ${String(count).padStart(7)}  ${last_at}  ${cause}${escalated}`));
  }
}

/** `tail [--follow]`: the newest operations. */
async function tail(context: Context<{ follow?: boolean; json?: boolean; limit?: string }>): Promise<void> {
  const { args } = context;
  const limit = args.limit === undefined ? SHOWN : Number(args.limit);
  if (!Number.isInteger(limit) || limit < 0)
    throw new UsageError(`--limit "${args.limit}" is not a whole number of 0 or more`);
  const { path } = await logOf(context);
  const show = (operation: Operation) =>
    context.print(printable(args.json ? JSON.stringify(operation) : lineOf(operation)));
  const log = new LogTail(path);
  for (const operation of await log.newest(limit)) show(operation);
  while (args.follow && !context.signal.aborted) {
    await Bun.sleep(LOOK_MS);
    await log.read(show);
  }
}

function lineOf({ timestamp, source, endpoint, success, duration_ms, error, output_summary }: Operation): string {
  const text = (error ?? output_summary).replace(/\s+/g, " ").slice(0, 160);
  return `${timestamp}  ${success ? "ok    " : "failed"}  ${source.padEnd(8)}  ${endpoint}  ${duration_ms} ms${text ? `  ${text}` : ""}`;
}

/** `check`: each line of the log that is no operation. */
async function check(context: Context): Promise<number> {
  const { path } = await logOf(context);
  let applied = 0;
  let malformed = 0;
  for (const file of [...segmentsOf(path).map((segment) => segment.path), path]) {
    const seen = await readLog(
      file,
      () => {},
      (_, line, reason) => context.print(printable(`${file}:${line}: ${reason}`)),
    );
    applied += seen.applied;
    malformed += seen.malformed;
  }
  context.print(`${applied} operations, ${malformed} malformed lines`);
  return malformed > 0 ? 1 : 0;
}

export const COMMANDS = {
  doctor,
  stats: {
    summary: "show how many operations there were, by outcome and source",
    usage: "usage: picket-observer stats [--json]\n\nexample: picket-observer stats",
    run: stats,
  },
  clusters: {
    summary: "show failures with the same cause, or one of these clusters with examples",
    usage: `usage: picket-observer clusters [FINGERPRINT] [--json]

example: picket-observer clusters f2:0123456789abcdef`,
    run: clusters,
  },
  tail: {
    summary: "show the newest operations, and follow the log",
    usage: `usage: picket-observer tail [--follow] [--limit N] [--json]

  --follow   keep showing operations as they are recorded
  --limit    how many of the newest (${SHOWN})

example: picket-observer tail --follow`,
    run: tail,
  },
  check: {
    summary: "read the whole log and report each line that is not an operation",
    usage: `usage: picket-observer check

Exit code 1 when there is such a line.

example: picket-observer check`,
    run: check,
  },
} satisfies Record<string, Command<Config>>;
