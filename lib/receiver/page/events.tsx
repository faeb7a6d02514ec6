/** @jsxImportSource hono/jsx */
// What happened, newest first.

import { SEVERITIES } from "../alerts.ts";
import { LOOK_OF } from "../fleet.ts";
import { EVENT_TYPES, type EventRow, eventsBefore, numberAt } from "../events.ts";
import { Filters, Paging, ROWS, choicesOf, endOf, filterOf } from "./lists.tsx";
import type { Page } from "./page.ts";
import { At, State } from "./parts.tsx";
import { Live } from "./regions.tsx";
import { Told } from "./told.tsx";

const PATH = "/events";

export const eventsPage: Page = {
  path: PATH,
  async show({ reading, query, now }) {
    const { read } = reading.store;
    const [filter, end] = [filterOf(query), endOf(query)];
    if (end !== null) filter.before ??= await numberAt(read, end);
    const rows = await eventsBefore(read, { ...filter, limit: ROWS + 1 });
    const shown = rows.slice(0, ROWS);
    const choices = [
      ...(await choicesOf(read)),
      { name: "kind", label: "Kind", options: EVENT_TYPES },
      { name: "priority", label: "Priority", options: SEVERITIES },
      { name: "until", label: "Until (UTC)", options: null },
    ];
    return {
      title: "Events",
      content: (
        <section class="whole">
          <h1>Events</h1>
          <Filters path={PATH} query={query} choices={choices} />
          <Live id="none" as="p" class="none">
            {shown.length === 0 && (query.size > 0 ? "There are no such events." : "There are no events yet.")}
          </Live>
          <ol class="log" id="events">
            {shown.map((event) => (
              <Event event={event} now={now} />
            ))}
          </ol>
          <Paging path={PATH} query={query} older={rows.length > ROWS ? String(shown.at(-1)!.id) : null} />
        </section>
      ),
    };
  },
};

/** An event, in a list `events`. */
export function Event({ event, now }: { event: EventRow; now: number }) {
  const { id, at, type, severity } = event;
  return (
    <Live id={`event-${id}`} as="li" list="events">
      <At at={at} now={now} />
      <State look={type.endsWith(".recovered") ? "ok" : LOOK_OF[severity]} word={severity} />
      <Told {...event} />
      <span class="kind">{type}</span>
    </Live>
  );
}
