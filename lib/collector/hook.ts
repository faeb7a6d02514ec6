// `hook`: the new events of an identity, for the hooks of a coding agent.
//
// The client runs it at an event of its own (a prompt, a tool's end, the end of a turn), with JSON on stdin that names the event, and takes from
// stdout what that event allows. Where a client would drop the answer nothing is printed, and the events stay new.

import * as v from "valibot";
import { identityOf } from "../identity.ts";
import { type ReadEvent, readNew } from "../reader.ts";
import type { Command } from "../service.ts";
import type { Config } from "./config.ts";
import { MOST_CHARACTERS, fit } from "./fit.ts";
import { type InstallArgs, changeSettings } from "./hook-install.ts";
import { type Context, configOf, oneOf, openPlace } from "./inbox-command.ts";

// Looked up in the documentation of Claude Code, Codex and Gemini CLI, and tried with 2.1.197, 0.171.0 and 0.61.0.
// Claude Code documents `additionalContext` for Notification, too, but drops it.

/** Events at which Claude Code and Codex give plain text to the model. */
const TEXT = new Set(["SessionStart", "UserPromptSubmit"]);
/** Events at which `additionalContext` reaches the model; the last two are Gemini CLI's. */
const CONTEXT = new Set([
  ...TEXT,
  "UserPromptExpansion",
  "PreToolUse",
  "PostToolUse",
  "PostToolUseFailure",
  "PostToolBatch",
  "SubagentStart",
  "Setup",
  "BeforeAgent",
  "AfterTool",
]);
/** The end of a turn, which `block` prolongs; the last one is Gemini CLI's. */
const END = new Set(["Stop", "SubagentStop", "AfterAgent"]);

/** So long a database that is away is waited for: the agent waits, too. */
const PATIENCE_MS = 3000;

const Call = v.object({
  hook_event_name: v.string(),
  /** The turn goes on because a hook has blocked its end. */
  stop_hook_active: v.optional(v.unknown()),
  /** Set where a subagent runs, which the events aren't for. */
  agent_id: v.optional(v.unknown()),
  /** Set by Gemini CLI alone, which shows plain text to the person and not to the model. */
  timestamp: v.optional(v.unknown()),
});

/** How a client takes events. */
interface Form {
  wrap: (text: string) => string;
  /** The events that it is for; the others stay new. */
  only?: (event: ReadEvent) => boolean;
}

const PLAIN: Form = { wrap: (text) => text };

/** How what is on stdin is answered; null where nothing can be. */
function formOf(stdin: string, onlyJson: boolean): Form | null {
  if (!/^\s*[[{]/.test(stdin)) return onlyJson ? null : PLAIN;
  const call = v.safeParse(v.pipe(v.string(), v.parseJson(), Call), stdin);
  if (!call.success) return null;
  const { hook_event_name: name, stop_hook_active, agent_id, timestamp } = call.output;
  if (END.has(name)) {
    const only = ({ priority, type }: ReadEvent) => priority === "urgent" || type === "NEEDS-RESPONSE";
    return stop_hook_active === true
      ? null
      : { wrap: (text) => JSON.stringify({ decision: "block", reason: text }), only };
  }
  if (!CONTEXT.has(name) || (agent_id && name !== "SubagentStart")) return null;
  if (TEXT.has(name) && !onlyJson && timestamp === undefined) return PLAIN;
  const output = (text: string) => ({ hookSpecificOutput: { hookEventName: name, additionalContext: text } });
  return { wrap: (text) => JSON.stringify(output(text)) };
}

/**
 * Whatever happens, it ends with 0 and prints nothing else: a hook that fails stops the agent's work, and to some agents exit code 2 means
 * "refuse the prompt". The mark moves once the answer was written whole.
 */
async function answer(context: Context<{ as?: string; format?: string }>): Promise<void> {
  const { args, env, log } = context;
  try {
    const onlyJson = oneOf("--format", args.format ?? "text", ["text", "json"]) === "json";
    const form = formOf(await context.stdin(), onlyJson);
    const recipient = identityOf(args.as, env);
    const config = await configOf(context, recipient);
    if (form === null) return;
    await using place = await openPlace(context, config, PATIENCE_MS);
    const { inboxes } = place;
    if ((await inboxes.watcher(recipient)) !== null) return;
    const { wrap, only } = form;
    const warn = (message: string) => log.warn(message);
    const { events, more, done } = await readNew({ inboxes, recipient, reader: "agent", only, warn });
    // Claude Code allows so many UTF-16 units, Codex so many bytes of UTF-8; it is kept with what JSON adds.
    const sizeOf = (text: string) => Buffer.byteLength(wrap(text)) - Buffer.byteLength(wrap(""));
    const most = MOST_CHARACTERS - Buffer.byteLength(wrap(""));
    const { text, count } = fit(events, { recipient, isMore: more, rest: "next time", most, sizeOf });
    if (count > 0) context.print(wrap(text));
    await done(count);
  } catch (error) {
    log.error("inbox not read", { error });
  }
}

async function hook(context: Context<InstallArgs & { format?: string }>): Promise<void> {
  const { install, uninstall } = context.args;
  if ((install ?? uninstall) === undefined) await answer(context);
  else changeSettings(context);
}

/** Whether it is a person who calls, not a client. */
function isForPeople(argv: string[]): boolean {
  return argv.some((word) => /^--(un)?install(=|$)/.test(word));
}

/** The command, as data. */
export const HOOK_COMMANDS = {
  hook: {
    summary: "print new events for the hooks of a coding agent, or install them there",
    usage: `usage: picket-collector hook [--as NAME] [--format FORMAT]
       picket-collector hook --install CLIENT [--as NAME] [--event EVENT]… [--project] [--dry-run]
       picket-collector hook --uninstall CLIENT [--event EVENT]… [--project] [--dry-run]

  --as         whose inbox (default: $PICKET_IDENTITY, $PING_AGENT_IDENTITY, or the name in $CLAUDE_HOME/ping-agent or ~/.ping-agent)
  --format     json: answer with JSON or nothing, for a client that takes no plain text
  --install    add the hook to the settings of claude-code, codex or gemini-cli; a backup is kept beside them
  --uninstall  take it out again
  --event      at these events of the client (default: a session's start, a prompt, after a tool, a turn's end)
  --project    in the settings of the project in this folder, not in yours
  --dry-run    print the settings as they would be

Reads the client's JSON on stdin and answers in the form of its event. Prints at most ${MOST_CHARACTERS} characters, nothing when there is
nothing new or the event can't take it, and ends with 0 whatever happens.

example: picket-collector hook --install claude-code --as bob`,
    neverFails: (argv) => !isForPeople(argv),
    run: hook,
  },
} satisfies Record<string, Command<Config>>;
