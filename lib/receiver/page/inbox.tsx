/** @jsxImportSource hono/jsx */
// The inbox that events go to: what is open, urgent events first, and what was handled lately.

import { cut, printable } from "../../text.ts";
import type { End, InboxEnd, InboxLine } from "../inbox-end.ts";
import { Refusal } from "../../refusal.ts";
import { fieldOf } from "./form.ts";
import type { Asked, Page } from "./page.ts";
import { Ago, State, Text } from "./parts.tsx";
import { Live } from "./regions.tsx";

const MOST_OPEN = 100;
const MOST_HANDLED = 50;
const LONGEST_FIELD = 100;

/** What `by` means in the journal of handled events. */
const DONE: Record<string, string> = {
  ack: "acknowledged",
  respond: "answered",
  mark_handled: "marked as handled by an agent",
  page: "marked as handled on this page",
};

export const inboxPage: Page = {
  path: "/inbox",
  async show(asked) {
    const inbox = inboxOf(asked);
    const end = inbox.look();
    const open = openIn(end);
    const handled = end.lines.filter((line) => line.handled !== null);
    const headline = headlineOf(open);
    return {
      title: headline,
      content: (
        <section class="texts">
          <h1>Inbox of {inbox.recipient}</h1>
          <Live id="inbox-state" as="p" class="summary">
            {end.problem === null ? headline : "The inbox can't be read"}
            <small>{about(inbox, end)}</small>
          </Live>
          <Lines name="open" lines={open.slice(0, MOST_OPEN)} now={asked.now} />
          <h2>Handled</h2>
          <Lines name="handled" lines={handled.slice(0, MOST_HANDLED)} now={asked.now} />
        </section>
      ),
    };
  },
  forms: {
    "/inbox/handled": async (asked, fields) => {
      await inboxOf(asked).handle(fieldOf(fields, "id"), "page");
      return "/inbox";
    },
  },
};

function inboxOf({ inbox }: Asked): InboxEnd {
  if (inbox) return inbox;
  throw new Refusal(404, "no_inbox", 'events go to no inbox: set "notify.recipient", and restart the receiver');
}

/** Urgent ones first, then the newest. */
export function openIn({ lines }: End): InboxLine[] {
  const urgent = (line: InboxLine): number => Number(isUrgent(line));
  return lines.filter(({ handled }) => handled === null).toSorted((a, b) => urgent(b) - urgent(a));
}

const isUrgent = ({ event }: InboxLine): boolean => event.priority === "urgent";

function headlineOf(open: InboxLine[]): string {
  const urgent = open.filter(isUrgent).length;
  if (open.length === 0) return "No event is open";
  const are = `${open.length} ${open.length === 1 ? "event is" : "events are"} open`;
  return urgent === 0 ? are : `${are}, ${urgent} of them urgent`;
}

function about({ recipient, path }: InboxEnd, { lines, malformed, isCut, problem }: End): string {
  if (problem !== null) return problem;
  const rest = `older ones: picket-collector read ${recipient} --open`;
  const facts = [
    isCut ? `The newest ${lines.length} events; ${rest}` : lines.length === 0 && `${path} is empty`,
    malformed > 0 && `${malformed === 1 ? "1 line is" : `${malformed} lines are`} not an event`,
  ];
  return facts.filter(Boolean).join(". ");
}

function Lines({ name, lines, now }: { name: string; lines: InboxLine[]; now: number }) {
  return (
    <ol id={name} class="lines">
      {lines.map((line) => (
        <Live id={`${name}-${line.offset}`} as="li" list={name}>
          <Line line={line} now={now} />
        </Live>
      ))}
    </ol>
  );
}

function Line({ line: { event, handled }, now }: { line: InboxLine; now: number }) {
  const { from, type, priority, ts, id, source, payload } = event;
  const [look, word] = priority === "urgent" ? (["bad", "urgent"] as const) : (["off", "open"] as const);
  return (
    <>
      <p class="about">
        {handled ? <State look="ok" word="handled" /> : <State look={look} word={word} />} <bdi>{short(from)}</bdi>{" "}
        {type !== "INFO" && <b>{short(type)} </b>}
        {source !== undefined && <bdi class="dim">{short(source)} </bdi>}
        <When ts={ts} now={now} />
      </p>
      <div>
        <Text text={payload} />
        {handled && (
          <p class="dim">
            {DONE[handled.by] ?? short(handled.by)} <When ts={handled.ts} now={now} />
          </p>
        )}
        {handled?.note !== undefined && <Text text={handled.note} />}
      </div>
      {!handled && (
        <form method="post" action="/inbox/handled">
          <input type="hidden" name="id" value={id} />
          <button>Mark as handled</button>
        </form>
      )}
    </>
  );
}

const short = (text: string): string => printable(cut(text, LONGEST_FIELD));

/** Other programs write times, too: what is none is shown as it is. */
function When({ ts, now }: { ts: string; now: number }) {
  const at = Date.parse(ts);
  return Number.isNaN(at) ? <span class="dim">{short(ts)}</span> : <Ago at={at} now={now} />;
}
