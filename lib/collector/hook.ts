// `hook`: the new events of an identity, for the prompt hook of a coding agent.

import { identityOf } from "../identity.ts";
import { readNew } from "../reader.ts";
import type { Command } from "../service.ts";
import type { Config } from "./config.ts";
import { MOST_CHARACTERS, fit } from "./fit.ts";
import { type Context, configOf } from "./inbox-command.ts";

/**
 * `hook`: the new events of an identity as plain text, for the prompt hook of a coding agent. Whatever happens, it ends
 * with 0 and prints nothing else: a hook that fails stops the agent's work, and to some agents exit code 2 means "refuse the prompt".
 */
async function hook(context: Context<{ as?: string }>): Promise<void> {
  const { args, env, log } = context;
  try {
    const recipient = identityOf(args.as, env);
    const { inbox_dir: dir } = await configOf(context, recipient);
    const { events, more, done } = await readNew({
      dir,
      recipient,
      reader: "agent",
      warn: (message) => log.warn(message),
    });
    const { text, count } = fit(events, { recipient, isMore: more, rest: "next time" });
    if (count > 0) context.print(text);
    done(count);
  } catch (error) {
    log.error("inbox not read", { error });
  }
}

/** The command, as data. */
export const HOOK_COMMANDS = {
  hook: {
    summary: "print new events as plain text, for the prompt hook of a coding agent",
    usage: `usage: PICKET_IDENTITY=NAME picket-collector hook [--as NAME]

  --as        whose inbox (default: $PICKET_IDENTITY, $PING_AGENT_IDENTITY, or the name in $CLAUDE_HOME/ping-agent or ~/.ping-agent)

Prints at most ${MOST_CHARACTERS} characters, nothing when there is nothing new, and ends with 0 whatever happens.

example: PICKET_IDENTITY=bob picket-collector hook`,
    neverFails: true,
    run: hook,
  },
} satisfies Record<string, Command<Config>>;
