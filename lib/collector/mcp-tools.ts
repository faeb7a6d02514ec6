// The tools of `mcp`: how each is declared and answered, and those of the inbox.
//
// A tool gives text or throws: what it throws becomes an error result in words. An answer has at most 10,000 characters, and says how to get
// the rest. The mark moves only once the client has read the answer.

import * as v from "valibot";
import { NAME_SEGMENT } from "../config.ts";
import type { EventWriter } from "../event-writer.ts";
import { EVENT_TYPES, PRIORITIES, completeEvent } from "../inbox.ts";
import type { Inboxes } from "../inboxes.ts";
import { errorChain } from "../log.ts";
import { cut } from "../text.ts";
import { answer } from "./answer.ts";
import { MOST_CHARACTERS, fit, fitOne } from "./fit.ts";
import type { McpInbox } from "./mcp-inbox.ts";
import type { Asked } from "./mcp-stdio.ts";

/** Room for the line that says what is missing. */
const NOTE_CHARACTERS = 100;
const LONGEST_ERROR = 500;
const LONGEST_WAIT_SECONDS = 3600;

/** The schema of a tool's arguments. */
export type Arguments = v.GenericSchema<Record<string, unknown>>;

/** A tool as `mcp` registers it. */
export interface Tool {
  name: string;
  title: string;
  description: string;
  schema: Arguments;
  annotations: { readOnlyHint: boolean; destructiveHint: boolean };
  call: (args: unknown, asked: Asked) => Promise<{ content: { type: "text"; text: string }[]; isError?: boolean }>;
}

interface Declared<S extends Arguments> {
  name: string;
  description: string;
  schema: S;
  /** It changes something. */
  writes?: boolean;
  /** Gives the answer; as lines if `from_line` continues a long one. @throws Error in words. */
  run: (args: v.InferOutput<S>, asked: Asked) => Promise<string | string[]>;
}

/** Declares a tool whose arguments are checked. */
export function tool<const S extends Arguments>({ name, description, schema, writes, run }: Declared<S>): Tool {
  return {
    name,
    title: name.replaceAll("_", " "),
    description,
    schema,
    annotations: { readOnlyHint: writes !== true, destructiveHint: false },
    async call(args, asked) {
      try {
        const parsed = v.safeParse(schema, args ?? {});
        if (!parsed.success) throw new Error(parsed.issues.map(wrong).join("; "));
        const answer = await run(parsed.output, asked);
        const text =
          typeof answer === "string" ? answer : page(answer, (parsed.output as { from_line?: number }).from_line);
        return { content: [{ type: "text", text }] };
      } catch (error) {
        return { content: [{ type: "text", text: cut(errorChain(error), LONGEST_ERROR) }], isError: true };
      }
    },
  };
}

function wrong(issue: v.BaseIssue<unknown>): string {
  return `${v.getDotPath(issue) ?? "arguments"}: ${cut(issue.message, LONGEST_ERROR)}`;
}

/** As many lines as fit, and how to get the others. */
function page(lines: string[], from = 1): string {
  const shown: string[] = [];
  let left = MOST_CHARACTERS - NOTE_CHARACTERS;
  for (const line of lines.slice(from - 1)) {
    left -= line.length + 1;
    if (left < 0) break;
    shown.push(line);
  }
  const next = from + shown.length;
  if (shown.length === 0) return `there are ${lines.length} lines`;
  return next > lines.length
    ? shown.join("\n")
    : `${shown.join("\n")}\n[${lines.length} lines; continue with from_line: ${next}]`;
}

// ---------------------------------------------------------------------------------------------------------------
// The inbox

const id = v.pipe(v.string(), v.maxLength(200), v.description("the event's id, as its header names it"));
const text = (about: string) => v.pipe(v.string(), v.minLength(1), v.description(about));

interface InboxToolsOf {
  inboxes: Inboxes;
  inbox: McpInbox;
  writer: EventWriter;
}

/** The tools of a recipient's inbox. */
export function inboxTools({ inboxes, inbox, writer }: InboxToolsOf): Tool[] {
  const { recipient } = inbox;
  const mine = { inboxes, writer, recipient };
  return [
    tool({
      name: "read_inbox",
      description:
        "New events of your inbox, urgent first. What you have read is not new any more, unless `peek` is set.",
      schema: v.strictObject({
        limit: v.optional(v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1000)), 1000),
        peek: v.optional(v.pipe(v.boolean(), v.description("look only: they stay new")), false),
      }),
      writes: true,
      run: ({ limit, peek }, asked) =>
        inbox.read(asked, {
          limit,
          peek,
          fit: (events, isMore) => fit(events, { recipient, isMore, rest: "with read_inbox" }),
        }),
    }),
    tool({
      name: "wait_for_event",
      description: "Waits for the next new event of your inbox, and returns it.",
      schema: v.strictObject({
        timeout_seconds: v.optional(v.pipe(v.number(), v.minValue(0), v.maxValue(LONGEST_WAIT_SECONDS)), 300),
        min_priority: v.optional(v.picklist(PRIORITIES), "normal"),
      }),
      writes: true,
      async run({ timeout_seconds, min_priority }, asked) {
        const event = await inbox.next(asked, { min: min_priority, timeoutMs: timeout_seconds * 1000 });
        return event === null ? `no event within ${timeout_seconds} s` : fitOne(event, recipient);
      },
    }),
    tool({
      name: "ack",
      description: "Tells the sender of an event that you have seen it, and marks it as handled.",
      schema: v.strictObject({ id }),
      writes: true,
      run: (args) => answer(mine, { by: "ack", ...args }),
    }),
    tool({
      name: "respond",
      description: "Answers the sender of an event, and marks it as handled.",
      schema: v.strictObject({ id, text: text("the answer") }),
      writes: true,
      run: (args) => answer(mine, { by: "respond", ...args }),
    }),
    tool({
      name: "mark_handled",
      description: "Marks an event as handled; its sender gets no answer.",
      schema: v.strictObject({ id, note: v.optional(text("why")) }),
      writes: true,
      run: (args) => answer(mine, { by: "mark_handled", ...args }),
    }),
    tool({
      name: "ping",
      description: "Sends an event to another inbox.",
      schema: v.strictObject({
        to: v.pipe(v.string(), v.regex(NAME_SEGMENT, "not the name of an inbox"), v.description("whose inbox")),
        text: text("what to say"),
        type: v.optional(v.picklist(EVENT_TYPES), "INFO"),
        priority: v.optional(v.picklist(PRIORITIES), "normal"),
      }),
      writes: true,
      async run({ to, text: payload, type, priority }) {
        const event = completeEvent({ from: recipient, to, type, priority, payload });
        await writer.deliver(event);
        return `sent to ${to} as ${event.id}`;
      },
    }),
  ];
}
