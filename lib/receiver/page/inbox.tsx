/** @jsxImportSource hono/jsx */
// The inbox that events go to: what is open, urgent events first, and what was handled lately.

import type { End, InboxEnd, InboxLine } from "../inbox-end.ts";
import { Refusal } from "../../refusal.ts";
import { fieldOf } from "./form.ts";
import type { Asked, Page } from "./page.ts";
import { State, Text, When, brief } from "./parts.tsx";
import { Live } from "./regions.tsx";

const MOST_OPEN = 100;
const MOST_HANDLED = 50;

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
    const end = await inbox.look();
    const open = openIn(end);
    const handled = end.lines.filter((line) => line.handled !== null);
    const headline = end.problem === null ? headlineOf(open) : "The inbox can't be read";
    return {
      title: headline,
      content: (
        <section class="whole">
          <Live id="headline" as="h1">
            {headline}
            <small>{about(inbox, end)}</small>
          </Live>
          <Lines name="open-events" lines={open.slice(0, MOST_OPEN)} now={asked.now} />
          <Live id="handled-heading" as="h2">
            {handled.length > 0 && "Handled"}
          </Live>
          <Lines name="handled-events" lines={handled.slice(0, MOST_HANDLED)} now={asked.now} />
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

function about({ recipient, where }: InboxEnd, { lines, malformed, isCut, problem }: End): string {
  if (problem !== null) return problem;
  const facts = [
    `Inbox of ${recipient}`,
    lines.length === 0 && `${where} is empty`,
    isCut && `The newest ${lines.length} events; older ones: picket-collector read ${recipient} --open`,
    malformed > 0 && `${malformed === 1 ? "1 line is" : `${malformed} lines are`} not an event`,
  ];
  return facts.filter(Boolean).join(". ");
}

function Lines({ name, lines, now }: { name: string; lines: InboxLine[]; now: number }) {
  return (
    <ol id={name} class="log">
      {lines.map((line) => (
        <Live id={`${name}-${line.offset}`} as="li" list={name} class={isOpenUrgent(line) ? "is-bad" : undefined}>
          <Line line={line} now={now} />
        </Live>
      ))}
    </ol>
  );
}

const isOpenUrgent = (line: InboxLine): boolean => line.handled === null && isUrgent(line);

function Line({ line, now }: { line: InboxLine; now: number }) {
  const { handled } = line;
  const { from, type, ts, id, source, payload } = line.event;
  const [look, word] = isOpenUrgent(line) ? (["bad", "urgent"] as const) : (["off", "open"] as const);
  return (
    <>
      {handled ? <State look="ok" word="handled" /> : <State look={look} word={word} />}
      <div class="told">
        <Text text={payload} />
        <p class="about">
          {!source?.startsWith(`${from}:`) && <bdi>{brief(from)}</bdi>}
          {type !== "INFO" && <b> {brief(type)}</b>} {source !== undefined && <bdi>{brief(source)}</bdi>}
        </p>
        {handled && (
          <div class="about">
            {DONE[handled.by] ?? brief(handled.by)} <When ts={handled.ts} now={now} />
            {handled.note !== undefined && <Text text={handled.note} />}
          </div>
        )}
      </div>
      <div class="aside">
        <When ts={ts} now={now} />
        {!handled && (
          <form method="post" action="/inbox/handled">
            <input type="hidden" name="id" value={id} />
            <button>Mark as handled</button>
          </form>
        )}
      </div>
    </>
  );
}
