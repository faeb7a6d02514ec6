// The commands of jobs.

import { type Command, UsageError } from "../service.ts";
import { columns, duration, printable, printableLines, span } from "../text.ts";
import type { Whose } from "./alerts.ts";
import type { Config } from "./config.ts";
import type { Queries } from "../database.ts";
import { time } from "./hosts.ts";
import {
  DEFAULTS,
  type Job,
  addJob,
  findJob,
  listJobs,
  newPingKey,
  pingKey,
  removeJob,
  setJob,
  stateOf,
} from "./jobs.ts";
import { type TakenPing, listPings } from "./jobs-ping.ts";
import { type ScheduleFlags, readSchedule, readSpan, scheduleText } from "./jobs-schedule.ts";
import { jobView, pingView } from "./jobs-view.ts";
import { pauseCommand, resumeCommand } from "./pause-commands.ts";
import { LOCAL_URL, checkUrl, publicUrl } from "./public-url.ts";
import type { Store } from "./store.ts";
import { type Context, change, table, withStore } from "./store-command.ts";

interface Flags extends ScheduleFlags {
  grace?: string;
}

/** Prints the URL below /ping/ that `give` makes, and nothing else on stdout: a script takes it from there. */
async function printUrl(context: Context<{ url?: string }>, give: (tx: Queries) => Promise<string>): Promise<void> {
  const { url: given } = context.args;
  checkUrl(given);
  const print = async (store: Store, config: Config): Promise<void> => {
    const [path, { url, isLocal }] = await store.write(
      async (tx) => [await give(tx), await publicUrl(tx, config, given)] as const,
    );
    context.print(`${url}/ping/${path}`);
    if (isLocal) context.log.info(LOCAL_URL);
  };
  await withStore(context, print, { make: true });
}

async function add(context: Context<Flags & { url?: string }>): Promise<void> {
  const [name = ""] = context.positionals;
  const { grace } = context.args;
  const schedule = await readSchedule(context.args);
  if (!schedule) throw new UsageError("say when the job is expected", 'such as --every 24h, or --schedule "0 3 * * *"');
  const grace_ms = grace === undefined ? DEFAULTS.grace_ms : readSpan("grace", grace);
  await printUrl(context, async (tx) => (await addJob(tx, name, { ...schedule, grace_ms, now: Date.now() })).uuid);
}

const key = (context: Context<{ url?: string; new?: boolean }>): Promise<void> =>
  printUrl(context, async (tx) => (context.args.new ? null : await pingKey(tx)) ?? newPingKey(tx));

async function list(context: Context<{ json?: boolean }>): Promise<void> {
  await withStore(context, async (store, config) => {
    const jobs = await listJobs(store.read);
    if (context.args.json) return context.print(printable(JSON.stringify(jobs.map(jobView))));
    if (jobs.length === 0) return context.print(`no jobs in "${config.data_dir}" yet: picket-receiver job add NAME`);
    const rows = jobs.map((job) => [
      job.name,
      stateText(job),
      time(job.last_ping_at) ?? "never",
      tookText(job),
      time(job.due_at) ?? "-",
      expectedText(job),
    ]);
    context.print(table(["JOB", "STATUS", "LAST PING", "TOOK", "NEXT", "EXPECTED"], rows));
  });
}

function stateText(job: Job): string {
  const { paused_until, pause_reason: reason } = job;
  if (paused_until === null) return stateOf(job);
  return printable(`paused until ${time(paused_until)}${reason === null ? "" : `: ${reason}`}`);
}

const tookText = ({ last_duration_ms: ms }: Job): string => (ms === null ? "-" : duration(ms));

const expectedText = (job: Job): string => `${scheduleText(job)}, grace ${span(job.grace_ms)}`;

async function show(context: Context<{ json?: boolean }>): Promise<void> {
  await withStore(context, async (store, config) => {
    const job = await findJob(store.read, context.positionals[0] ?? "");
    const pings = await listPings(store.read, job.id);
    const { url } = await publicUrl(store.read, config);
    const address = `${url}/ping/${job.uuid}`;
    if (context.args.json) {
      const shown = { ...jobView(job), url: address, last_pings: pings.map(pingView) };
      return context.print(printable(JSON.stringify(shown)));
    }
    const since = job.down_at === null ? "" : ` since ${time(job.down_at)}`;
    const rows = [
      ["status", `${stateText(job)}${since}`],
      ["url", address],
      ["expected", `${expectedText(job)}${job.due_at === null ? "" : `; next ${time(job.due_at)}`}`],
      [
        "last ping",
        `${time(job.last_ping_at) ?? "never"}${job.last_duration_ms === null ? "" : `, took ${tookText(job)}`}`,
      ],
      ...(job.started_at === null ? [] : [["started", time(job.started_at)]]),
    ];
    context.print([table([job.name, ""], rows), "", ...pingLines(pings.toReversed())].join("\n"));
  });
}

/** A line for each ping, and below it its body, set off so that no line of it passes for another ping. */
function pingLines(pings: TakenPing[]): string[] {
  const lines = columns(pings.map(pingCells)).split("\n");
  return pings.flatMap(({ body }, n) => {
    const said = body === null ? [] : printableLines(body.replace(/\r?\n$/, "")).split("\n");
    return [lines[n]!, ...said.map((line) => `  | ${line}`)];
  });
}

function pingCells({ at, kind, exit_status, duration_ms, ip, agent, rid }: TakenPing): string[] {
  const status = exit_status === null ? "" : ` (exit status ${exit_status})`;
  const took = duration_ms === null ? "" : `, took ${duration(duration_ms)}`;
  const from = `from ${[ip, agent].filter(Boolean).join(" ")}`;
  return [time(at), `${kind}${status}${took}`, from, ...(rid === null ? [] : [`run ${rid}`])].map(printable);
}

async function set(context: Context<Flags & { name?: string }>): Promise<void> {
  const { grace, name: to } = context.args;
  const schedule = await readSchedule(context.args);
  const grace_ms = grace === undefined ? undefined : readSpan("grace", grace);
  if (!schedule && grace_ms === undefined && to === undefined) {
    throw new UsageError("nothing to set", "give --every, --schedule, --grace or --name");
  }
  await change(context, async (tx, name) => {
    const job = await setJob(tx, name, { name: to, schedule, grace_ms });
    return `${job.name}: expected ${expectedText(job)}`;
  });
}

const find = async (tx: Queries, name: string): Promise<Whose> => ({ job: (await findJob(tx, name)).id });

const EXPECTED_HELP = `  --every     how long after its last success the next is expected: 5m, 24h, 7d
  --schedule  or when, as a cron expression: minute, hour, day, month, weekday
  --tz        the time zone of --schedule; default: this machine's
  --grace     how late it may be, and how long a run may take (1h for a new job)`;
const URL_HELP = "  --url       how this receiver is reached; remembered";

/** The commands, as data. */
export const JOB_COMMANDS = {
  "job add": {
    summary: "make a job and print the URL that it pings",
    usage: `usage: picket-receiver job add JOB --every DURATION [--grace DURATION] [--url URL]
       picket-receiver job add JOB --schedule CRON [--tz ZONE] [--grace DURATION] [--url URL]

${EXPECTED_HELP}
${URL_HELP}

example: picket-receiver job add backup-nas --schedule "0 3 * * *" --tz Europe/Berlin --grace 2h`,
    run: add,
  },
  "job list": {
    summary: "show all jobs",
    usage: "usage: picket-receiver job list [--json]\n\nexample: picket-receiver job list",
    run: list,
  },
  "job show": {
    summary: "show a job, its URL, its last pings and what they sent",
    usage: "usage: picket-receiver job show JOB [--json]\n\nexample: picket-receiver job show backup-nas",
    run: show,
  },
  "job set": {
    summary: "change when a job is expected, or its name",
    usage: `usage: picket-receiver job set JOB [--every DURATION | --schedule CRON [--tz ZONE]] [--grace DURATION] [--name NEW]

${EXPECTED_HELP}
  --name      another name; the URL stays

example: picket-receiver job set backup-nas --grace 4h`,
    run: set,
  },
  "job pause": {
    summary: "raise no events for a job for a while",
    usage: `usage: picket-receiver job pause JOB DURATION [--reason TEXT]

DURATION is such as 30m, 2h or 3d. The pause ends by itself; what is still wrong then is told then.

example: picket-receiver job pause backup-nas 3d --reason "new disk"`,
    run: (context: Context<{ reason?: string }>) => pauseCommand(context, find),
  },
  "job resume": {
    summary: "end a job's pause now",
    usage: "usage: picket-receiver job resume JOB\n\nexample: picket-receiver job resume backup-nas",
    run: (context: Context) => resumeCommand(context, find),
  },
  "job rm": {
    summary: "delete a job with its pings and events",
    usage:
      "usage: picket-receiver job rm JOB\n\nIts URL answers 404 from then on.\n\nexample: picket-receiver job rm backup-nas",
    run: (context: Context) =>
      change(context, async (tx, name) => {
        await removeJob(tx, name);
        return `${name}: deleted`;
      }),
  },
  "job key": {
    summary: "print the URL below which jobs are pinged by name",
    usage: `usage: picket-receiver job key [--new] [--url URL]

A ping of URL/backup-nas is one of the job "backup-nas"; with ?create=1 the job is made where there is none (every 24h, grace 1h).

  --new       make another key; the former URL answers 404 from then on
${URL_HELP}

example: picket-receiver job key`,
    run: key,
  },
} satisfies Record<string, Command<Config>>;
