/** @jsxImportSource hono/jsx */
// The page of a host: how it is, what is wrong, its figures over time, its containers, and all that it has.

import { settingsText } from "../alert-settings.ts";
import { eventsBefore } from "../events.ts";
import { type Shown as Condition, conditionOf } from "../fleet.ts";
import { type Host, formerNames, tagsOf } from "../hosts.ts";
import { hostPlots, rangeOf, ratesNow } from "../host-plots.ts";
import { type Plot, sized, sizedOf, worded } from "../plot.ts";
import { type Details, detailsOf, hostOf } from "../reading.ts";
import { readContainerSparks } from "../sparks.ts";
import type { RefusedReports } from "../report-alerts.ts";
import type { Metric } from "../../report.ts";
import { duration, printable } from "../../text.ts";
import { Acknowledge } from "./alerts.tsx";
import { Containers } from "./container.tsx";
import { Pause } from "./host-forms.tsx";
import { Parts } from "./host-parts.tsx";
import type { Page } from "./page.ts";
import { Ago, At, State } from "./parts.tsx";
import { Figure, Ranges } from "./plot.tsx";
import { Live } from "./regions.tsx";

const MOST_EVENTS = 20;
const MOST_EPISODES = 10;
const MIB = 2 ** 20;

export const hostPage: Page = {
  path: "/hosts/:name",
  async show({ reading, params, query, now }) {
    const host = await hostOf(reading, params["name"]);
    const details = await detailsOf(reading, host);
    const range = rangeOf(query, { now, since: host.created_at });
    const plots = await hostPlots(reading, host, range);
    const rates = await ratesNow(reading, host);
    const condition = conditionOf(host, details.alerts);
    const names = await formerNames(reading.store.read, host.id);
    const shown = {
      host,
      details,
      sparks: await readContainerSparks(reading.store.read, { host: host.id, now }),
      now,
      uptime: uptimeOf(host),
      events: await eventsBefore(reading.store.read, { host: host.name, limit: MOST_EVENTS }),
      episodes: (await reading.index.list({ host: host.name, since: null, limit: MOST_EPISODES })).toReversed(),
    };
    const interval = host.told_interval ?? host.set_interval ?? reading.config().poll_interval_seconds;
    return {
      title: titleOf(condition),
      content: (
        <div class="host">
          <Head condition={condition} host={host} now={now} />
          <Facts host={host} details={details} names={names} interval={interval} />
          <Troubles condition={condition} now={now} />
          <Ranges path={`/hosts/${host.name}`} range={range} now={now} />
          <div class="plots">
            {plots.map((plot) => (
              <Figure plot={plot} {...latest(plot, host, rates)} />
            ))}
          </div>
          <Containers {...shown} />
          <Parts {...shown} />
        </div>
      ),
    };
  },
};

function titleOf({ name, state, troubles }: Condition): string {
  const first = troubles.find(({ acknowledged }) => !acknowledged);
  return first ? `${name}: ${printable(first.text)}` : `${name} is ${state}`;
}

function uptimeOf({ metrics }: Host): number | null {
  return (JSON.parse(metrics) as Partial<Record<Metric, number | null>>).uptime_seconds ?? null;
}

function Head({ condition, host, now }: { condition: Condition; host: Host; now: number }) {
  const { look, state, since, paused } = condition;
  const refused = host.refused === null ? null : (JSON.parse(host.refused) as RefusedReports);
  return (
    <div class="head">
      <h1>{host.name}</h1>
      <Live id="state" as="p">
        <State look={look} word={state} />{" "}
        <span class="dim">
          {paused !== null ? (
            <>
              until <At at={paused.until} now={now} />
              {paused.reason !== null && `: ${printable(paused.reason)}`}
            </>
          ) : (
            since !== null && (
              <>
                since <At at={since} now={now} />
              </>
            )
          )}
          {" · last report "}
          <Ago at={host.last_seen_at} now={now} />
          {host.status === "pending" && (
            <>
              {" · "}
              <code>picket-agent ping</code> on that host says why
            </>
          )}
        </span>
        {refused !== null && (
          <span class="refused">
            Its report of <At at={refused.at} now={now} /> was refused: {printable(refused.why)}
          </span>
        )}
      </Live>
      <Pause host={host} />
    </div>
  );
}

interface FactsShown {
  host: Host;
  details: Details;
  names: string[];
  interval: number;
}

function Facts({ host, details, names, interval }: FactsShown) {
  const { os, kernel, arch, cpu_count, memory_total_mb, docker_version } = JSON.parse(host.facts) as Partial<
    Record<string, string | number | null>
  >;
  const { cloudflared } = details.lists as { cloudflared?: { status?: string } | null };
  const uptime = uptimeOf(host);
  const facts: [string, string | number | false | null | undefined][] = [
    ["System", os],
    ["Kernel", kernel],
    ["Architecture", arch],
    ["CPUs", cpu_count],
    ["Memory", typeof memory_total_mb === "number" && sized(memory_total_mb * MIB)],
    ["Up for", uptime !== null && duration(uptime * 1000)],
    ["Docker", docker_version],
    ["cloudflared", cloudflared?.status],
    ["Agent", host.agent_version],
    ["Reports", `every ${interval} s`],
    ["Added", new Date(host.created_at).toISOString().slice(0, 10)],
    ["Tags", tagsOf(host).join(", ")],
    ["Former names", names.join(", ")],
    ["Alerts", settingsText(host)],
  ];
  return (
    <Live id="facts" as="dl">
      {facts.map(([name, value]) =>
        value ? (
          <div>
            <dt>{name}</dt>
            <dd>{printable(String(value))}</dd>
          </div>
        ) : null,
      )}
    </Live>
  );
}

function Troubles({ condition, now }: { condition: Condition; now: number }) {
  return (
    <ol class="troubles" id="troubles">
      {condition.troubles.map(({ id, look, text, command, since, acknowledged }) => (
        <Live id={`trouble-${id}`} as="li" list="troubles" class={acknowledged ? "is-off" : `is-${look}`}>
          <State
            look={acknowledged ? "off" : look}
            word={acknowledged ? "acknowledged" : look === "bad" ? "critical" : "warning"}
          />
          <div>
            {printable(text)}
            {command !== null && <code>{printable(command)}</code>}
          </div>
          <span class="dim">
            since <At at={since} now={now} />
          </span>
          {!acknowledged && <Acknowledge id={id} back={`/hosts/${condition.name}`} />}
        </Live>
      ))}
    </ol>
  );
}

/** The figure of a plot as it is now, and what it is of. */
function latest(
  { id, unit }: Plot,
  { metrics, facts }: Host,
  rates: [received: number, sent: number] | null,
): { now?: string; more?: string } {
  const now = JSON.parse(metrics) as Partial<Record<string, number | null>>;
  const known = (name: string): number | null => now[name] ?? null;
  const share = (used: number | null, total: number | null, bytes: number) =>
    used === null || !total
      ? {}
      : { now: worded((used / total) * 100, "%"), more: sizedOf(used * bytes, total * bytes) };
  const iowait = known("cpu_iowait_percent");
  const steal = known("cpu_steal_percent");
  const [cpu, load, celsius, swap] = [
    known("cpu_percent"),
    known("load_average"),
    known("cpu_temp_c"),
    known("swap_used_mb"),
  ];
  switch (id) {
    case "cpu": {
      const more = [
        ...(iowait !== null && iowait >= 1 ? [`${worded(iowait, "%")} waiting for disks`] : []),
        ...(steal !== null && steal >= 1 ? [`${worded(steal, "%")} taken by the hypervisor`] : []),
      ].join(", ");
      return cpu === null ? {} : { now: worded(cpu, "%"), more };
    }
    case "memory": {
      const { now: percent, more } = share(known("memory_used_mb"), known("memory_total_mb"), MIB);
      return percent === undefined ? {} : { now: percent, more: `${more}${swap ? `, ${sized(swap * MIB)} swap` : ""}` };
    }
    case "disk":
      return share(known("disk_used_gb"), known("disk_total_gb"), 2 ** 30);
    case "network":
      return rates === null ? {} : { now: `${worded(rates[0], unit)} in, ${worded(rates[1], unit)} out` };
    case "load": {
      const { cpu_count: cpus } = JSON.parse(facts) as { cpu_count?: number };
      const longer = [known("load_average_5"), known("load_average_15")].filter((one) => one !== null);
      const more = [
        ...longer.map((one, n) => `${worded(one, "")} over ${n === 0 ? 5 : 15} min`),
        ...(cpus ? [cpus === 1 ? "1 CPU" : `${cpus} CPUs`] : []),
      ];
      return load === null ? {} : { now: worded(load, unit), more: more.join(", ") };
    }
    default:
      return celsius === null ? {} : { now: worded(celsius, unit) };
  }
}
