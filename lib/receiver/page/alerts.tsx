/** @jsxImportSource hono/jsx */
// What is wrong now, then what was. An open alert can be acknowledged.

import { Refusal } from "../../refusal.ts";
import { duration, printable } from "../../text.ts";
import { ALERTS, type AlertRow, SEVERITIES, acknowledge, listAlerts } from "../alerts.ts";
import { LOOK_OF } from "../fleet.ts";
import { Filters, Paging, ROWS, addressOf, choicesOf, filterOf } from "./lists.tsx";
import type { Asked, Page, Shown } from "./page.ts";
import { At, State } from "./parts.tsx";
import { Live } from "./regions.tsx";
import { Told } from "./told.tsx";

const PATH = "/alerts";
/** So many open ones are shown. */
const MOST_OPEN = 500;

export const alertsPage: Page = {
  path: PATH,
  show,
  forms: {
    "/alerts/:id/acknowledge": async ({ reading, params, query, now }) => {
      const id = Number(params["id"]);
      const done = await reading.store.write((tx) => acknowledge(tx, { id, by: null, at: now }));
      if (!done) throw new Refusal(404, "unknown_alert", `There is no open alert "${params["id"]}". It may be over.`);
      reading.news.emit("change");
      return wayBack(query);
    },
  },
};

/** Where a form comes back to: a page of this site. */
function wayBack(query: URLSearchParams): string {
  const { origin, pathname, search } = new URL(query.get("back") ?? addressOf(PATH, query), "http://page");
  return origin === "http://page" ? pathname + search : PATH;
}

async function show({ reading, query, now }: Asked): Promise<Shown> {
  const { read } = reading.store;
  const filter = filterOf(query);
  // Pages after the first go on with those that are over.
  const open = filter.before === null ? await listAlerts(read, { ...filter, open: true, limit: MOST_OPEN }) : [];
  const closed = await listAlerts(read, { ...filter, open: false, limit: ROWS + 1 });
  const over = closed.slice(0, ROWS);
  const choices = [
    ...(await choicesOf(read)),
    { name: "kind", label: "Kind", options: Object.keys(ALERTS).toSorted() },
    { name: "priority", label: "Priority", options: SEVERITIES.filter((one) => one !== "info") },
  ];
  const title = filter.before === null ? headline(open) : "Alerts that are over";
  return {
    title,
    content: (
      <section class="whole">
        <Live id="headline" as="h1">
          {title}
        </Live>
        <Filters path={PATH} query={query} choices={choices} />
        <ol class="log" id="open">
          {open.toSorted(worst).map((alert) => (
            <OpenAlert alert={alert} back={addressOf(PATH, query)} now={now} />
          ))}
        </ol>
        <Live id="over-heading" as="h2">
          {over.length > 0 && "Over"}
        </Live>
        <ol class="log" id="over">
          {over.map((alert) => (
            <Over alert={alert} now={now} />
          ))}
        </ol>
        <Paging path={PATH} query={query} older={closed.length > ROWS ? String(over.at(-1)!.id) : null} />
      </section>
    ),
  };
}

const isKnown = ({ acknowledged_at }: AlertRow): boolean => acknowledged_at !== null;

/** What no one takes care of comes first, of that the critical, of these the newest. */
function worst(a: AlertRow, b: AlertRow): number {
  const rank = (alert: AlertRow) => (isKnown(alert) ? 2 : alert.severity === "critical" ? 0 : 1);
  return rank(a) - rank(b) || b.id - a.id;
}

function headline(open: AlertRow[]): string {
  const known = open.filter(isKnown).length;
  const left = open.length - known;
  const counted =
    left === 0
      ? "No open alerts"
      : `${left}${open.length === MOST_OPEN ? " or more" : ""} open alert${left === 1 ? "" : "s"}`;
  return known === 0 ? counted : `${counted}, ${known} acknowledged`;
}

/** An open alert, in a list `open`. @param back where its form comes back to. */
export function OpenAlert({ alert, back, now }: { alert: AlertRow; back: string; now: number }) {
  const { id, severity, opened_at, acknowledged_by: by } = alert;
  const look = isKnown(alert) ? "off" : LOOK_OF[severity];
  return (
    <Live id={`open-${id}`} as="li" list="open" class={`is-${look}`}>
      <State
        look={look}
        word={isKnown(alert) ? "acknowledged" : severity}
        more={by === null ? undefined : `by ${printable(by)}`}
      />
      <Told {...alert} />
      <div class="aside">
        <span class="kind">{alert.type}</span>
        <span>
          since <At at={opened_at} now={now} />
        </span>
        {!isKnown(alert) && <Acknowledge id={id} back={back} />}
      </div>
    </Live>
  );
}

/** The form that acknowledges an alert. @param back the path that it comes back to. */
export function Acknowledge({ id, back }: { id: number; back: string }) {
  return (
    <form method="post" action={`${PATH}/${id}/acknowledge?${new URLSearchParams({ back }).toString()}`}>
      <button aria-label={`Acknowledge alert ${id}`}>Acknowledge</button>
    </form>
  );
}

function Over({ alert, now }: { alert: AlertRow; now: number }) {
  const { id, severity, opened_at } = alert;
  const closed_at = alert.closed_at!;
  return (
    <Live id={`over-${id}`} as="li" list="over">
      <State look="ok" word="over" more={severity} />
      <Told {...alert} />
      <div class="aside">
        <span class="kind">{alert.type}</span>
        <span>
          <At at={opened_at} now={now} />, for {duration(closed_at - opened_at)}
        </span>
      </div>
    </Live>
  );
}
