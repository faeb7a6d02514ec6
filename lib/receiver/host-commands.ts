// The commands of a host's later life: its settings, another name, a pause, its end.

import { type Command, UsageError } from "../service.ts";
import { size as asSize } from "../text.ts";
import { type OwnSettings, changeSettings, settingsText } from "./alert-settings.ts";
import { close } from "./alerts.ts";
import type { Config } from "./config.ts";
import type { Queries } from "../database.ts";
import { withIndex } from "./episode-commands.ts";
import type { EpisodeKey } from "./episodes.ts";
import { archiveHost, changeTags, deleteHost, findActiveHost, findHost, setInterval } from "./hosts.ts";
import { pauseCommand, resumeCommand } from "./pause-commands.ts";
import { type Removal, remove } from "./removal.ts";
import { renameHost } from "./rename.ts";
import { type Context, change, many } from "./store-command.ts";

/** `host set HOST`. */
async function set(context: Context<SetArgs>): Promise<void> {
  const { interval, alert = [], "offline-is-fine": fine, "offline-is-alert": alarming } = context.args;
  const { tag: add = [], untag: remove = [] } = context.args;
  const isTagged = add.length + remove.length > 0;
  if (interval === undefined && alert.length === 0 && !fine && !alarming && !isTagged) {
    throw new UsageError(
      "nothing to set",
      "give --interval SECONDS, --tag TAG, --alert KEY=VALUE or --offline-is-fine",
    );
  }
  if (fine && alarming) throw new UsageError("give --offline-is-fine or --offline-is-alert, not both");
  const seconds = interval === undefined || interval === "default" ? null : Number(interval);
  if (seconds !== null && !(Number.isInteger(seconds) && seconds >= 1 && seconds <= 86_400)) {
    throw new UsageError(`--interval "${interval}" is not a whole number of seconds from 1 to 86400`);
  }
  await change(context, async (tx, name) => {
    const host = await findActiveHost(tx, name);
    if (interval !== undefined) await setInterval(tx, name, seconds);
    const own = changeSettings(JSON.parse(host.alert_settings ?? "{}") as OwnSettings, alert);
    const settings = {
      alert_settings: Object.keys(own).length === 0 ? null : JSON.stringify(own),
      offline_is_fine: fine ? 1 : alarming ? 0 : host.offline_is_fine,
    } as const;
    await tx.run("UPDATE hosts SET alert_settings = $1, offline_is_fine = $2 WHERE id = $3", [
      settings.alert_settings,
      settings.offline_is_fine,
      host.id,
    ]);
    const tags = isTagged ? await changeTags(tx, host, { add, remove }) : [];
    if (fine) await close(tx, { host: host.id, types: ["host.offline"], at: Date.now() });
    const every = seconds === null ? "as often as all others" : `every ${seconds} s`;
    const said = [
      ...(interval === undefined ? [] : [every]),
      ...(alert.length > 0 || fine || alarming ? [`alerts: ${settingsText(settings) || "as for all others"}`] : []),
    ];
    const tagged = isTagged ? [`tags: ${tags.join(" ") || "none"}`] : [];
    const settled = said.length > 0 ? [`${said.join("; ")}, from its next report on`] : [];
    return `${name}: ${[...tagged, ...settled].join("; ")}`;
  });
}

interface SetArgs {
  interval?: string;
  alert?: string[];
  tag?: string[];
  untag?: string[];
  "offline-is-fine"?: boolean;
  "offline-is-alert"?: boolean;
}

/** `host rename OLD NEW`. */
function rename(context: Context): Promise<void> {
  const [from = "", to = ""] = context.positionals;
  return withIndex(context, async (check) => {
    await renameHost(check, from, to);
    context.print(
      `${to}: was ${from}; its history, token and episodes are the same. Its agent may keep host_id: ${from}`,
    );
  });
}

/** `host delete HOST`. */
function deleteIt(context: Context<{ yes?: boolean; episodes?: boolean }>): Promise<void> {
  const { yes = false, episodes: all = false } = context.args;
  return withIndex(context, async (check) => {
    const { store, index } = check;
    const { name } = await findHost(store.read, context.positionals[0] ?? "");
    const has = { count: 0, bytes: 0 };
    for await (const { size } of index.all(name)) {
      has.count++;
      has.bytes += size;
    }
    const episodes = `its ${many(has.count, "episode")} (${asSize(has.bytes)})`;
    if (!yes) {
      const what = `"${name}" would lose its history, events and token; ${episodes} would ${all ? "go, too" : "stay"}`;
      throw new UsageError(what, `picket-receiver host delete ${name} --yes${all ? " --episodes" : ""}`);
    }
    if (all) {
      // No upload begins any more. Killed from here on, the same command goes on.
      await store.write((tx) => archiveHost(tx, name, Date.now()));
      for await (const _ of remove(check, ofHost(check, name)));
    }
    await store.write((tx) => deleteHost(tx, name));
    context.print(`${name}: deleted; ${episodes} ${all ? "are removed" : "stay"}`);
  });
}

/** A host's episodes by the index, then files that are not in it. */
async function* ofHost({ index, episodes }: Removal, name: string): AsyncIterable<EpisodeKey> {
  yield* index.all(name);
  for await (const stored of episodes.list()) if (stored.host === name) yield stored;
}

/** The host to pause: an archived one raises no events. */
const pausable = async (tx: Queries, name: string) => ({ host: (await findActiveHost(tx, name)).id });

/** The commands, as data. */
export const HOST_COMMANDS = {
  "host set": {
    summary: "set how often one host reports, its tags, and what is an alert there",
    usage: `usage: picket-receiver host set HOST [--interval SECONDS] [--tag TAG]… [--untag TAG]… [--alert KEY=VALUE]…
                                [--offline-is-fine | --offline-is-alert]

  --interval          1 to 86400 seconds; "default": as often as all others. picket-agent keeps to 60 to 3600
  --tag, --untag      add a tag, or take one away: the page shows the hosts of a tag. May be given several times
  --alert             what is an alert on this host alone: a key of "alerts" in the configuration, except its last three (…_minutes,
                      remind_hours). For one mount, unit, pool, disk or sensor: KEY.NAME=VALUE; a list: containers=stopped,restarting.
                      "off" switches it off, "default" takes the setting away. May be given several times
  --offline-is-fine   its silence is no alert, as of a laptop; --offline-is-alert takes that back

example: picket-receiver host set nas --alert disk_percent./backup=98 --alert temperature_c=off`,
    run: set,
  },
  "host rename": {
    summary: "give a host another name; its history, token and episodes stay with it",
    usage: `usage: picket-receiver host rename OLD NEW

Safe while the daemon runs. An agent whose host_id is OLD goes on: OLD stays another name of the host, until a host is added or
renamed to it. If this is killed, run it again.

example: picket-receiver host rename nas nas-old`,
    run: rename,
  },
  "host delete": {
    summary: "delete a host with its history, events and token",
    usage: `usage: picket-receiver host delete HOST --yes [--episodes]

  --yes        without it, only show what would be lost
  --episodes   remove its episodes, too

To keep the history, use: picket-receiver host archive HOST

example: picket-receiver host delete web-1 --yes`,
    run: deleteIt,
  },
  "host pause": {
    summary: "raise no events for a host for a while",
    usage: `usage: picket-receiver host pause HOST DURATION [--reason TEXT]

DURATION is such as 30m, 2h or 3d. The pause ends by itself; what is still wrong then is told then.

example: picket-receiver host pause nas 30m --reason "new disk"`,
    run: (context: Context<{ reason?: string }>) => pauseCommand(context, pausable),
  },
  "host resume": {
    summary: "end a host's pause now",
    usage: "usage: picket-receiver host resume HOST\n\nexample: picket-receiver host resume nas",
    run: (context: Context) => resumeCommand(context, async (tx, name) => ({ host: (await findHost(tx, name)).id })),
  },
} satisfies Record<string, Command<Config>>;
