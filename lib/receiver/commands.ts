// The commands: hosts and tokens here, others beside. They work on the store itself, also while the daemon runs: it asks the store for every
// request.

import { ALERT_COMMANDS } from "./alert-commands.ts";
import { settingsText } from "./alert-settings.ts";
import { BACKUP_COMMANDS } from "./backup.ts";
import { cut, printable } from "../text.ts";
import { version } from "../version.ts";
import type { Command } from "../service.ts";
import type { Config } from "./config.ts";
import { doctor } from "./doctor.ts";
import { EPISODE_COMMANDS } from "./episode-commands.ts";
import { HOST_COMMANDS } from "./host-commands.ts";
import {
  type Host,
  addHost,
  archiveHost,
  findHost,
  listHosts,
  listTokens,
  rebindHost,
  revokeTokens,
  rotateToken,
  tagsOf,
  time,
} from "./hosts.ts";
import type { Queries } from "../database.ts";
import { JOB_COMMANDS } from "./job-commands.ts";
import { LOCAL_URL, checkUrl, pasted, publicUrl } from "./public-url.ts";
import { MOVE_COMMANDS } from "./move.ts";
import type { RefusedReports } from "./report-alerts.ts";
import { STATUS_COMMANDS } from "./status.ts";
import { endSessions } from "./sessions.ts";
import type { Store } from "./store.ts";
import { type Context, change, many, table, withStore } from "./store-command.ts";

async function giveToken(
  context: Context<{ url?: string }>,
  give: (tx: Queries, name: string, now: number) => Promise<string>,
  { said, make, line }: { said: string; make: boolean; line?: string },
): Promise<void> {
  const [name = ""] = context.positionals;
  const { url: given } = context.args;
  checkUrl(given);
  const show = async (store: Store, config: Config): Promise<void> => {
    const [token, { url, isLocal }] = await store.write(
      async (tx) => [await give(tx, name, Date.now()), await publicUrl(tx, config, given)] as const,
    );
    context.print(`${name}: ${said}. Paste on that host (the token is not shown again):

${pasted(url, token, line)}

The third line is for root; with sudo after the | for others.`);
    if (isLocal) context.print(`\n${LOCAL_URL}`);
  };
  await withStore(context, show, { make });
}

async function showHosts(context: Context<{ json?: boolean }>): Promise<void> {
  await withStore(context, async (store, config) => {
    const hosts = await listHosts(store.read);
    const interval = (host: Host) =>
      Math.max(host.set_interval ?? config.poll_interval_seconds, host.told_interval ?? 0);
    if (context.args.json) {
      const shown = hosts.map((host) => ({
        id: host.name,
        status: host.status,
        tags: tagsOf(host),
        last_seen_at: time(host.last_seen_at),
        paused_until: time(host.paused_until),
        pause_reason: host.pause_reason,
        interval_seconds: interval(host),
        agent_version: host.agent_version,
        refused: whyRefused(host),
        alerts: JSON.parse(host.alert_settings ?? "{}"),
        offline_is_fine: host.offline_is_fine === 1,
      }));
      return context.print(printable(JSON.stringify(shown)));
    }
    if (hosts.length === 0) return context.print(`no hosts in "${config.data_dir}" yet: picket-receiver host add NAME`);
    // Most hosts have no settings of their own.
    const own = hosts.some((host) => settingsText(host) !== "");
    const rows = hosts.map((host) => [
      host.name,
      stateOf(host),
      printable(
        host.refused === null ? (time(host.last_seen_at) ?? "never") : `refused: ${cut(whyRefused(host)!, 80)}`,
      ),
      `${interval(host)} s`,
      printable(agentOf(host)),
      ...(own ? [printable(settingsText(host)) || "-"] : []),
    ]);
    context.print(table(["HOST", "STATUS", "LAST REPORT", "EVERY", "AGENT", ...(own ? ["ALERTS"] : [])], rows));
  });
}

function stateOf({ status, paused_until, pause_reason: reason }: Host): string {
  if (paused_until === null) return status;
  return printable(`${status}, paused until ${time(paused_until)}${reason === null ? "" : `: ${reason}`}`);
}

function whyRefused({ refused }: Host): string | null {
  return refused === null ? null : (JSON.parse(refused) as RefusedReports).why;
}

/** The version of a host's agent, and whether it is older than this program. */
function agentOf({ agent_version: agent }: Host): string {
  if (agent === null) return "-";
  const older = /^\d+\.\d+\.\d+/.test(agent) && Bun.semver.order(agent, version) < 0;
  return older ? `${agent}, older than the receiver` : agent;
}

async function showTokens(context: Context<{ json?: boolean }>): Promise<void> {
  await withStore(context, async (store) => {
    const [name] = context.positionals;
    if (name !== undefined) await findHost(store.read, name);
    const tokens = await listTokens(store.read, name ?? null);
    if (context.args.json) {
      const shown = tokens.map(({ id, host, created_at, last_used_at, revoked_at, fingerprint }) => ({
        id,
        host,
        created_at: time(created_at),
        last_used_at: time(last_used_at),
        revoked_at: time(revoked_at),
        bound: fingerprint !== null,
      }));
      return context.print(JSON.stringify(shown));
    }
    const rows = tokens.map((one) => [
      one.host,
      one.revoked_at === null ? "active" : "revoked",
      time(one.created_at),
      time(one.last_used_at) ?? "never",
      one.fingerprint === null ? "-" : "bound",
    ]);
    context.print(table(["HOST", "TOKEN", "MADE", "LAST USED", "SENDER"], rows));
  });
}

const URL_HELP = "  --url       how agents reach this receiver, for the lines to paste; remembered";

/** The commands, as data. */
export const COMMANDS = {
  "host add": {
    summary: "make a host and print its token, once",
    usage: `usage: picket-receiver host add HOST [--url URL]\n\n${URL_HELP}\n\nexample: picket-receiver host add web-1 --url https://hub.example`,
    run: (context: Context<{ url?: string }>) =>
      giveToken(context, addHost, {
        said: "added",
        make: true,
      }),
  },
  "host list": {
    summary: "show all hosts",
    usage: "usage: picket-receiver host list [--json]\n\nexample: picket-receiver host list",
    run: showHosts,
  },
  "host archive": {
    summary: "take a host out of service: its token is revoked, its history stays",
    usage:
      "usage: picket-receiver host archive HOST\n\nTo bring it back: picket-receiver host add HOST\n\nexample: picket-receiver host archive web-1",
    run: (context: Context) =>
      change(context, async (tx, name) => {
        await archiveHost(tx, name, Date.now());
        return `${name}: archived; its token is revoked, its history stays (back: picket-receiver host add ${name})`;
      }),
  },
  "host rebind": {
    summary: "let a reinstalled machine bind its token again",
    usage:
      "usage: picket-receiver host rebind HOST\n\nWith auth.bind_fingerprint: the next request binds the token.\n\nexample: picket-receiver host rebind web-1",
    run: (context: Context) =>
      change(context, async (tx, name) => {
        await rebindHost(tx, name);
        return `${name}: bound to no sender; with auth.bind_fingerprint its next request binds the token`;
      }),
  },
  "token rotate": {
    summary: "revoke a host's tokens and print a new one, once",
    usage: `usage: picket-receiver token rotate HOST [--url URL]\n\n${URL_HELP}\n\nexample: picket-receiver token rotate web-1`,
    run: (context: Context<{ url?: string }>) =>
      giveToken(context, rotateToken, {
        said: "its former tokens are revoked",
        make: false,
        line: `echo "$PICKET_TOKEN" | sh -c 'cat > /etc/picket/token && systemctl restart picket-agent'`,
      }),
  },
  "token revoke": {
    summary: "revoke all tokens of a host",
    usage: "usage: picket-receiver token revoke HOST\n\nexample: picket-receiver token revoke web-1",
    run: (context: Context) =>
      change(
        context,
        async (tx, name) => `${name}: ${many(await revokeTokens(tx, name, Date.now()), "token")} revoked`,
      ),
  },
  "token list": {
    summary: "show when tokens were made and last used",
    usage: "usage: picket-receiver token list [HOST] [--json]\n\nexample: picket-receiver token list",
    run: showTokens,
  },
  ...STATUS_COMMANDS,
  "sessions end": {
    summary: "end all sessions of the page: each browser has to log in again",
    usage: `usage: picket-receiver sessions end

A session lasts 30 days. A new auth.token ends all of them, too.

example: picket-receiver sessions end`,
    run: (context: Context) =>
      withStore(context, async (store) => {
        await endSessions(store);
        context.print("all sessions are over: each browser has to log in again");
      }),
  },
  doctor,
  ...HOST_COMMANDS,
  ...JOB_COMMANDS,
  ...ALERT_COMMANDS,
  ...EPISODE_COMMANDS,
  ...BACKUP_COMMANDS,
  ...MOVE_COMMANDS,
} satisfies Record<string, Command<Config>>;
