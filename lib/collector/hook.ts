// `hook`: the new events of an identity, for the prompt hook of a coding agent.

import { asBlock } from "../frame.ts";
import { type ReadEvent, readNew } from "../reader.ts";
import { type Command, UsageError } from "../service.ts";
import type { Config } from "./config.ts";
import { type Context, asRecipient, configOf } from "./inbox-command.ts";

const HOOK_CHARACTERS = 10_000;

/**
 * `hook`: the new events of an identity as plain text, for the prompt hook of a coding agent. Whatever happens, it ends
 * with 0 and prints nothing else: a hook that fails stops the agent's work, and to some agents exit code 2 means "refuse the prompt".
 */
async function hook(context: Context<{ as?: string }>): Promise<void> {
  const { args, env, log } = context;
  const recipient = env["PICKET_IDENTITY"] || args.as;
  try {
    if (!recipient) throw new UsageError("no recipient: set PICKET_IDENTITY or give --as NAME");
    const { inbox_dir: dir } = await configOf(context, asRecipient(recipient));
    const { events, done } = await readNew({
      dir,
      recipient,
      warn: (message) => log.warn(message),
    });
    const { text, count } = fit(recipient, events);
    if (count > 0) context.print(text);
    done(count);
  } catch (error) {
    log.error("inbox not read", { error });
  }
}

/** As many events as fit into a hook's text, in their order; the rest waits for the next turn. */
function fit(recipient: string, events: ReadEvent[]): { text: string; count: number } {
  const parts: string[] = [];
  const title = (count: number, more: number) =>
    `${count} new in the inbox of ${recipient}${more > 0 ? `, ${more} more next time` : ""}:`;
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

  --as        whose inbox, where PICKET_IDENTITY is not set

Prints at most ${HOOK_CHARACTERS} characters, nothing when there is nothing new, and ends with 0 whatever happens.

example: PICKET_IDENTITY=bob picket-collector hook`,
    neverFails: true,
    run: hook,
  },
} satisfies Record<string, Command<Config>>;
