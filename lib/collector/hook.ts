// `hook`: the new events of an identity, for the prompt hook of a coding agent.

import { asBlock } from "../frame.ts";
import { identityOf } from "../identity.ts";
import { type ReadEvent, readNew } from "../reader.ts";
import type { Command } from "../service.ts";
import type { Config } from "./config.ts";
import { type Context, configOf } from "./inbox-command.ts";

const HOOK_CHARACTERS = 10_000;

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
    const { text, count } = fit(recipient, events, more);
    if (count > 0) context.print(text);
    done(count);
  } catch (error) {
    log.error("inbox not read", { error });
  }
}

/** As many events as fit into a hook's text, in their order; the rest waits for the next turn. */
function fit(recipient: string, events: ReadEvent[], isMore: boolean): { text: string; count: number } {
  const parts: string[] = [];
  const title = (count: number, more: number) =>
    `${count} new in the inbox of ${recipient}${more > 0 ? `, ${more}${isMore ? "+" : ""} more next time` : ""}:`;
  // The longest that it can be, and the line break at the end.
  let left = HOOK_CHARACTERS - title(events.length, events.length).length - 1;
  for (const event of events) {
    const part = asBlock(event);
    // Two line breaks stand before each.
    left -= 2;
    if (part.length > left && parts.length > 0) break;
    parts.push(part.length > left ? cut(part, left, recipient) : part);
    left -= part.length;
    if (left <= 0) break;
  }
  const text = [title(parts.length, events.length - parts.length), ...parts].join("\n\n");
  return { text, count: parts.length };
}

function cut(text: string, length: number, recipient: string): string {
  const note = `\n[cut: ${text.length} characters; all of it: picket-collector read ${recipient}]`;
  return text.slice(0, length - note.length).replace(/[\uD800-\uDBFF]$/, "") + note;
}

/** The command, as data. */
export const HOOK_COMMANDS = {
  hook: {
    summary: "print new events as plain text, for the prompt hook of a coding agent",
    usage: `usage: PICKET_IDENTITY=NAME picket-collector hook [--as NAME]

  --as        whose inbox (default: $PICKET_IDENTITY, $PING_AGENT_IDENTITY, or the name in $CLAUDE_HOME/ping-agent or ~/.ping-agent)

Prints at most ${HOOK_CHARACTERS} characters, nothing when there is nothing new, and ends with 0 whatever happens.

example: PICKET_IDENTITY=bob picket-collector hook`,
    neverFails: true,
    run: hook,
  },
} satisfies Record<string, Command<Config>>;
