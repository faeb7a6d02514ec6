/** @jsxImportSource hono/jsx */
// The first page: what needs you, and the fleet, worst first.

import {
  type Fleet,
  LOOK_OF,
  type FleetHost,
  type FleetJob,
  type Sort,
  SORTS,
  type Trouble,
  commandOf,
  fleetOf,
} from "../fleet.ts";
import type { AlertType } from "../alerts.ts";
import type { EventRow } from "../events.ts";
import { addressOf } from "./lists.tsx";
import { Ago, At, For, State, brief } from "./parts.tsx";
import type { Page } from "./page.ts";
import { Live } from "./regions.tsx";
import { Runs } from "./runs.tsx";
import { Named } from "./told.tsx";
import { SparkLine } from "./spark.tsx";

/** What is wrong with one host, and how many jobs are shown: their own pages have the rest. */
const MOST_TROUBLES = 4;
const MOST_JOBS = 12;
/** Fewer hosts need no filter, and have more room. */
const FEW_HOSTS = 8;
const MANY_HOSTS = 40;

export const fleetPage: Page = {
  path: "/",
  async show({ reading, query, now }) {
    const sort = SORTS.find((one) => one === query.get("sort")) ?? "worst";
    const [text, tag, state] = [query.get("q") ?? "", query.get("tag") || null, query.get("state") || null];
    const archived = query.has("archived");
    const fleet = await fleetOf(reading, { now, text, tag, state, sort, archived });
    const isFiltered = text !== "" || tag !== null || state !== null;
    return {
      title: fleet.headline,
      content: (
        <>
          <Live id="summary" class="summary">
            <h1>{fleet.headline}</h1>
            <p>
              {fleet.summary.map((part) => (
                <span>{brief(part)}</span>
              ))}
            </p>
          </Live>
          <div class="columns">
            <div>
              <section>
                <Heading fleet={fleet} query={query} isFiltered={isFiltered} />
                <Hosts hosts={fleet.hosts} sort={sort} query={query} now={now} />
                {fleet.total === 0 && <NoHosts />}
              </section>
              <Jobs jobs={fleet.jobs} now={now} />
            </div>
            <Events events={fleet.events} now={now} />
          </div>
        </>
      ),
    };
  },
};

function Heading({ fleet, query, isFiltered }: { fleet: Fleet; query: URLSearchParams; isFiltered: boolean }) {
  const { hosts, total, tags, states, hidden } = fleet;
  return (
    <div class="heading">
      <h2>Hosts</h2>
      {(total > FEW_HOSTS || tags.length > 0 || isFiltered) && (
        <form class="filter" method="get" action="/" role="search">
          {query.has("sort") && <input type="hidden" name="sort" value={query.get("sort")!} />}
          {query.has("archived") && <input type="hidden" name="archived" value="1" />}
          <input
            type="search"
            name="q"
            value={query.get("q") ?? ""}
            placeholder="Name, tag or trouble"
            aria-label="Name, tag or trouble"
          />
          <Choice
            name="state"
            all="any state"
            options={[["trouble", "need you"], ...states.map((one) => [one, one] as const)]}
            query={query}
          />
          {tags.length > 0 && <Choice name="tag" all="any tag" options={tags.map((one) => [one, one])} query={query} />}
          <button>Filter</button>
        </form>
      )}
      <Live id="shown" as="p" class="dim">
        {isFiltered && (
          <>
            {hosts.length} of {total} shown,{" "}
            <a href={addressOf("/", query, { q: null, tag: null, state: null })}>show all</a>
          </>
        )}
        {hidden.archived > 0 && (
          <a href={addressOf("/", query, { archived: query.has("archived") ? null : "1" })}>
            {query.has("archived") ? "Hide" : "Show"} {hidden.archived} archived
          </a>
        )}
        <a href="/hosts/add">Add a host</a>
      </Live>
    </div>
  );
}

function Choice({
  name,
  all,
  options,
  query,
}: {
  name: string;
  all: string;
  options: (readonly [string, string])[];
  query: URLSearchParams;
}) {
  return (
    <select name={name} aria-label={name}>
      <option value="">{all}</option>
      {options.map(([value, label]) => (
        <option value={value} selected={query.get(name) === value}>
          {label}
        </option>
      ))}
    </select>
  );
}

const COLUMNS: readonly (readonly [Sort, string])[] = [
  ["worst", "State"],
  ["name", "Host"],
  ["disk", "Fullest disk"],
  ["cpu", "CPU"],
  ["memory", "Memory"],
  ["temperature", "Temp"],
  ["seen", "Last report"],
];

function Hosts({ hosts, sort, query, now }: { hosts: FleetHost[]; sort: Sort; query: URLSearchParams; now: number }) {
  return (
    <table id="hosts" class={hosts.length > MANY_HOSTS ? "hosts dense" : "hosts"}>
      <thead>
        <tr>
          {COLUMNS.map(([by, label]) => (
            <th scope="col" aria-sort={by === sort ? (by === "name" ? "ascending" : "descending") : undefined}>
              <a href={addressOf("/", query, { sort: by === "worst" ? null : by })}>{label}</a>
            </th>
          ))}
        </tr>
      </thead>
      {hosts.map((host) => (
        <Live id={`host-${host.name}`} as="tbody" list="hosts" class={host.look}>
          <HostRow host={host} now={now} />
          {(host.troubles.length > 0 || host.paused?.reason) && <Reasons host={host} />}
        </Live>
      ))}
    </table>
  );
}

function HostRow({ host, now }: { host: FleetHost; now: number }) {
  const { name, look, state, since, tags, figures, sparks, paused } = host;
  const high = (type: AlertType) => (host.troubles.some((one) => one.type === type) ? look : undefined);
  return (
    <tr>
      <td>
        <State look={look} word={state} more={moreOf({ since, paused, now })} />
      </td>
      <th scope="row">
        <a href={`/hosts/${name}`}>{name}</a>
        {tags.length > 0 && <small> {tags.join(" ")}</small>}
      </th>
      <td class={high("disk.high")} title={host.mount ?? undefined}>
        {percent(figures.disk_percent)}
        <SparkLine points={sparks.disk_percent} />
      </td>
      <td class={high("cpu.high")}>
        {percent(figures.cpu_percent)}
        <SparkLine points={sparks.cpu_percent} />
      </td>
      <td class={high("memory.high")}>
        {percent(figures.memory_percent)}
        <SparkLine points={sparks.memory_percent} />
      </td>
      <td class={high("temperature.high")}>
        {figures.temperature_c === null ? "–" : `${Math.round(figures.temperature_c)}°`}
        {figures.temperature_c !== null && <SparkLine points={sparks.temperature_c} least={20} />}
      </td>
      <td>
        <Ago at={host.last_seen_at} now={now} />
      </td>
    </tr>
  );
}

const percent = (value: number | null): string => (value === null ? "–" : `${Math.round(value)} %`);

/** For how long, or until when it is paused. */
function moreOf({ since, paused, now }: Pick<FleetHost, "since" | "paused"> & { now: number }) {
  if (paused !== null) {
    return (
      <>
        until <At at={paused.until} now={now} />
      </>
    );
  }
  return since === null ? undefined : <For at={since} now={now} />;
}

function Reasons({ host: { name, troubles, paused } }: { host: FleetHost }) {
  const more = troubles.length - MOST_TROUBLES;
  return (
    <tr>
      <td></td>
      <td colspan={6}>
        {paused?.reason && <p>{brief(paused.reason)}</p>}
        {troubles.slice(0, MOST_TROUBLES).map((trouble) => (
          <Reason trouble={trouble} />
        ))}
        {more > 0 && (
          <p>
            <a href={`/hosts/${name}`}>{more} more</a>
          </p>
        )}
      </td>
    </tr>
  );
}

function Reason({ trouble: { text, command, acknowledged } }: { trouble: Trouble }) {
  return (
    <p class={acknowledged ? "dim" : undefined}>
      {brief(text)}
      {acknowledged && " (acknowledged)"} {command !== null && <code>{brief(command)}</code>}
    </p>
  );
}

function NoHosts() {
  return (
    <div class="empty">
      <p>
        <a href="/hosts/add">Add the first host</a>, or on this machine:
      </p>
      <pre>picket-receiver host add web-1</pre>
    </div>
  );
}

function Jobs({ jobs, now }: { jobs: FleetJob[]; now: number }) {
  return (
    <section>
      <div class="heading">
        <h2>Jobs</h2>
        {jobs.length > MOST_JOBS && <a href="/jobs">All {jobs.length}</a>}
      </div>
      <table id="jobs" class="jobs">
        {jobs.slice(0, MOST_JOBS).map((job) => (
          <Live id={`job-${job.name}`} as="tbody" list="jobs" class={job.look}>
            <JobRow job={job} now={now} />
          </Live>
        ))}
      </table>
    </section>
  );
}

function JobRow({ job, now }: { job: FleetJob; now: number }) {
  const { name, look, state, since, runs, schedule, last_ping_at, paused } = job;
  return (
    <tr>
      <td>
        <State look={look} word={state} more={moreOf({ since, paused, now })} />
      </td>
      <th scope="row">
        <a href={`/jobs/${name}`}>{name}</a>
      </th>
      <td>
        <Runs runs={runs} />
      </td>
      <td>{schedule}</td>
      <td>
        <Ago at={last_ping_at} now={now} />
      </td>
    </tr>
  );
}

function Events({ events, now }: { events: EventRow[]; now: number }) {
  return (
    <aside>
      <section>
        <div class="heading">
          <h2>Newest events</h2>
          <a href="/events">All</a>
        </div>
        <ol id="newest" class="events">
          {events.map((event) => (
            <Live id={`event-${event.id}`} as="li" list="newest" class={LOOK_OF[event.severity]}>
              <At at={event.at} now={now} />
              <Named {...event} what={commandOf(event.text)[0]} words={brief} />
            </Live>
          ))}
        </ol>
      </section>
    </aside>
  );
}
