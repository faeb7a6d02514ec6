// The commands of the episodes: their index, and their removal.

import { NAME_SEGMENT } from "../config.ts";
import { type Command, UsageError } from "../service.ts";
import { printable, readDuration, readSize, size as asSize } from "../text.ts";
import type { Config } from "./config.ts";
import { type Check, rebuild, verify } from "./episode-check.ts";
import { type EpisodeKey, openEpisodes } from "./episodes.ts";
import { chosen, remove } from "./removal.ts";
import type { Store } from "./store.ts";
import { type Context, many, withStore } from "./store-command.ts";

/** Opens the index for one command, which logs now and then how many episodes it has looked at. */
export function withIndex<T>(
  context: Context,
  work: (check: Check & { store: Store }, looked: () => number) => Promise<T>,
): Promise<T> {
  return withStore(context, async (store, config) => {
    let looked = 0;
    let logged = performance.now();
    const progress = (): void => {
      looked++;
      if (performance.now() - logged < 5000) return;
      logged = performance.now();
      context.log.info("looking", { episodes: looked });
    };
    const { index, episodes } = await openEpisodes(config, store);
    try {
      return await work({ store, index, episodes, signal: context.signal, progress }, () => looked);
    } finally {
      await index.close();
    }
  });
}

async function rebuildIndex(context: Context): Promise<void> {
  const made = await withIndex(context, rebuild);
  for (const { host, episode } of made) context.print(printable(`${host}/${episode}: line made`));
  context.print(made.length === 0 ? "nothing was missing" : `${many(made.length, "missing line")} made`);
}

function verifyIndex(context: Context): Promise<number> {
  return withIndex(context, async (check, looked) => {
    let differences = 0;
    for await (const { host, episode, what, detail } of verify(check)) {
      differences++;
      context.print(printable(`${host}/${episode}: ${what}: ${detail}`));
    }
    const result = differences === 0 ? "all as the index says" : many(differences, "difference");
    context.print(`${many(looked(), "episode")}, ${result}`);
    return differences === 0 ? 0 : 1;
  });
}

function exportIndex(context: Context): Promise<void> {
  return withIndex(context, async ({ index }) => {
    for await (const row of index.all(null, true)) context.print(JSON.stringify(row));
  });
}

type Pruning = Context<{
  keep?: string;
  quota?: string;
  host?: string;
  missing?: boolean;
  "dry-run"?: boolean;
  json?: boolean;
}>;

/** `episodes rm HOST/EPISODE…`. */
function removeEpisodes(context: Context<{ json?: boolean }>): Promise<number> {
  const keys = context.positionals.map((name): EpisodeKey => {
    const [host = "", episode = "", ...rest] = name.split("/");
    if (rest.length === 0 && [host, episode].every((part) => NAME_SEGMENT.test(part))) return { host, episode };
    throw new UsageError(`"${name}" is not an episode's name`, "HOST/EPISODE, as in GET /v1/episodes");
  });
  return withIndex(context, async (check) => {
    const removed = await shown(context, remove(check, keys), "removed");
    const has = ({ host, episode }: EpisodeKey) => removed.some((one) => one.host === host && one.episode === episode);
    const absent = keys.filter((key) => !has(key));
    for (const { host, episode } of absent) context.log.error(`there is no episode "${host}/${episode}"`);
    return absent.length === 0 ? 0 : 1;
  });
}

/** `episodes prune`. */
async function pruneEpisodes(context: Pruning): Promise<void> {
  const { keep, quota, host = null, missing = false, "dry-run": dry } = context.args;
  if (keep === undefined && quota === undefined && !missing) {
    throw new UsageError("nothing says which episodes", "give --keep 30d, --quota 50g or --missing");
  }
  const age = keep === undefined ? null : asked("keep", keep, readDuration(keep));
  const most = quota === undefined ? null : asked("quota", quota, readSize(quota));
  const before = age === null ? null : new Date(Date.now() - age).toISOString();
  await withIndex(context, async (check) => {
    if (missing && (await check.episodes.list()[Symbol.asyncIterator]().next()).done) {
      throw new UsageError("the folder of the episodes is empty: is its file system mounted?");
    }
    const rule = { host, before, quota: most, missing };
    await shown(context, dry ? chosen(check, rule) : remove(check, chosen(check, rule)), dry ? "to remove" : "removed");
  });
}

function asked(flag: string, text: string, value: number | null): number {
  if (value !== null) return value;
  throw new UsageError(
    `--${flag} "${text}" is not understood`,
    "such as --keep 30d (s, m, h, d) or --quota 50g (k, m, g, t)",
  );
}

/** Prints what was removed, or would be. */
async function shown(
  context: Context<{ json?: boolean }>,
  all: AsyncIterable<EpisodeKey & { size: number }>,
  what: string,
): Promise<EpisodeKey[]> {
  const list: (EpisodeKey & { size: number })[] = [];
  for await (const { host, episode, size } of all) {
    list.push({ host, episode, size });
    if (!context.args.json) context.print(printable(`${host}/${episode}  ${asSize(size)}`));
  }
  const bytes = list.reduce((sum, { size }) => sum + size, 0);
  if (context.args.json) context.print(JSON.stringify({ episodes: list, bytes, removed: what === "removed" }));
  else context.print(`${many(list.length, "episode")} ${what}, ${asSize(bytes)}`);
  return list;
}

/** The commands, as data. */
export const EPISODE_COMMANDS = {
  "index rebuild": {
    summary: "make the index lines that are missing, from the episodes themselves",
    usage:
      "usage: picket-receiver index rebuild\n\nSafe while the daemon runs.\n\nexample: picket-receiver index rebuild",
    run: rebuildIndex,
  },
  "index verify": {
    summary: "hash every episode again and say what differs from the index",
    usage:
      "usage: picket-receiver index verify\n\nExit code 1 when something differs. Safe while the daemon runs.\n\nexample: picket-receiver index verify",
    run: verifyIndex,
  },
  "index export": {
    summary: "print the index, a line of JSON an episode",
    usage: `usage: picket-receiver index export

The lines are those of index.jsonl, ordered by received_at, with those of removed episodes.

example: picket-receiver index export > index.jsonl`,
    run: exportIndex,
  },
  "episodes rm": {
    summary: "remove episodes, and note it in the index",
    usage: `usage: picket-receiver episodes rm HOST/EPISODE… [--json]

Safe while the daemon runs. Also notes an episode whose file you removed by hand. The same bytes are taken again, others are not.
Exit code 1 when there is no such episode.

example: picket-receiver episodes rm web-1/ep-17`,
    run: removeEpisodes,
  },
  "episodes prune": {
    summary: "remove old episodes, or the oldest above a quota, and note it in the index",
    usage: `usage: picket-receiver episodes prune [--keep AGE] [--quota SIZE] [--missing] [--host HOST] [--dry-run] [--json]

  --keep      remove what was received longer ago: 12h, 30d
  --quota     remove the oldest until the rest has this size: 500m, 50g (k, m, g, t; 1024 each)
  --missing   note those whose files you removed by hand
  --host      only this host's episodes
  --dry-run   only show them

Safe while the daemon runs.

example: picket-receiver episodes prune --keep 30d --dry-run`,
    run: pruneEpisodes,
  },
} satisfies Record<string, Command<Config>>;
