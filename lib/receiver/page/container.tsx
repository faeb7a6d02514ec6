/** @jsxImportSource hono/jsx */
// The containers of a host as a table, and the page of one.

import { Refusal } from "../../refusal.ts";
import { cut, printable, size } from "../../text.ts";
import type { Look } from "../fleet.ts";
import { containerPlots, rangeOf } from "../host-plots.ts";
import { sizedOf, worded } from "../plot.ts";
import { type Details, containerOf, detailsOf, hostOf } from "../reading.ts";
import type { Host } from "../hosts.ts";
import type { ContainerSparks } from "../sparks.ts";
import type { Page } from "./page.ts";
import { Ago, State } from "./parts.tsx";
import { Figure, Ranges } from "./plot.tsx";
import { Live } from "./regions.tsx";
import { SparkLine } from "./spark.tsx";
import { Name, Table } from "./table.tsx";

const MIB = 2 ** 20;
/** So many that are gone are named. */
const MOST_GONE = 20;

type Container = Details["containers"][number];

const addressOf = (host: string, { container_id }: Container) =>
  `/hosts/${host}/containers/${encodeURIComponent(container_id)}`;

interface ContainersShown {
  host: Host;
  details: Details;
  sparks: ContainerSparks;
  now: number;
}

export function Containers({ host, details, sparks, now }: ContainersShown) {
  const gone = details.containers.filter(({ gone_at }) => gone_at !== null);
  const present = details.containers
    .filter(({ gone_at }) => gone_at === null)
    .toSorted((a, b) => rankOf(a) - rankOf(b) || a.name.localeCompare(b.name));
  return (
    <div id="containers">
      {details.containers.length > 0 && (
        <Live id="container-table" as="section" class="containers" list="containers">
          <h2>Containers</h2>
          <Table
            columns={[
              ["Container"],
              ["State"],
              ["CPU", "num"],
              ["Memory", "num"],
              ["In", "num minor"],
              ["Out", "num minor"],
              ["Read", "num minor"],
              ["Written", "num minor"],
            ]}
            rows={present.map((one) => rowOf(host, one, sparks))}
          />
          {gone.length > 0 && (
            <details class="gone">
              <summary>{gone.length} gone</summary>
              <ul>
                {gone.slice(0, MOST_GONE).map((one) => (
                  <li>
                    <a href={addressOf(host.name, one)}>{printable(one.name)}</a> <Ago at={one.gone_at} now={now} />
                  </li>
                ))}
              </ul>
            </details>
          )}
        </Live>
      )}
    </div>
  );
}

function rowOf({ name }: Host, one: Container, sparks: ContainerSparks) {
  const { metrics } = one;
  const { cpu, memory } = sparks.get(String(one.id)) ?? {};
  const bytes = (value: number | null | undefined) => (typeof value === "number" ? size(value) : "");
  return [
    <>
      <a href={addressOf(name, one)}>{printable(cut(one.name, 80) || one.container_id)}</a>{" "}
      <small>{printable(cut(imageOf(one), 80))}</small>
    </>,
    <ContainerState of={one} />,
    typeof metrics?.cpu_percent === "number" && (
      <>
        {worded(metrics.cpu_percent, "%")}
        {cpu && <SparkLine points={cpu} most={Math.max(1, ...cpu.map(Number))} />}
      </>
    ),
    typeof metrics?.memory_usage_mb === "number" && (
      <>
        <span title={metrics.memory_limit_mb ? `of ${size(metrics.memory_limit_mb * MIB)}` : undefined}>
          {size(metrics.memory_usage_mb * MIB)}
        </span>
        {memory && <SparkLine points={memory} most={Math.max(1, ...memory.map(Number))} />}
      </>
    ),
    bytes(metrics?.network_rx_bytes),
    bytes(metrics?.network_tx_bytes),
    bytes(metrics?.block_read_bytes),
    bytes(metrics?.block_write_bytes),
  ];
}

const imageOf = ({ image, image_tag }: Container) => image + (image_tag === null ? "" : `:${image_tag}`);

function ContainerState({ of: one }: { of: Container }) {
  const [look, word] = stateOf(one);
  return (
    <>
      <State look={look} word={printable(word)} /> {one.status !== null && <small>{printable(one.status)}</small>}
    </>
  );
}

function stateOf({ state, status, health_status: health, gone_at }: Container): [Look, string] {
  if (gone_at !== null) return ["off", "gone"];
  switch (state?.toLowerCase()) {
    case "running":
      return health === "unhealthy" ? ["warn", health] : ["ok", health === "starting" ? health : "running"];
    case "restarting":
    case "dead":
      return ["warn", state];
    case "exited":
    case "stopped":
      return [status?.startsWith("Exited (0)") ? "off" : "warn", state];
    default:
      return ["off", state ?? "unknown"];
  }
}

function latest(plot: string, { metrics }: Container): { now?: string; more?: string } {
  const { cpu_percent: cpu = null, memory_usage_mb: memory = null, memory_limit_mb: limit = null } = metrics ?? {};
  if (plot === "cpu") return cpu === null ? {} : { now: worded(cpu, "%") };
  if (memory === null) return {};
  return limit ? { now: sizedOf(memory * MIB, limit * MIB) } : { now: worded(memory, "MB"), more: "without a limit" };
}

const rankOf = (one: Container): number => ["bad", "warn", "ok", "off"].indexOf(stateOf(one)[0]);

export const containerPage: Page = {
  path: "/hosts/:name/containers/:container",
  async show({ reading, params, query, now }) {
    const host = await hostOf(reading, params["name"]);
    const id = await containerOf(reading, host, params["container"]!);
    const { containers } = await detailsOf(reading, host);
    const one = containers.find((container) => container.id === id);
    if (!one) throw new Refusal(404, "unknown_container", `"${host.name}" has no container "${params["container"]}"`);
    const range = rangeOf(query, { now, since: one.first_seen_at });
    const plots = await containerPlots(reading, host, id, range);
    const [, word] = stateOf(one);
    const name = printable(one.name);
    return {
      title: `${name} on ${host.name} is ${printable(word)}`,
      content: (
        <div class="host">
          <div class="head">
            <p>
              <a href={`/hosts/${host.name}`}>{host.name}</a>
            </p>
            <h1>
              <Name text={one.name || one.container_id} />
            </h1>
            <Live id="state" as="p">
              <ContainerState of={one} />
            </Live>
          </div>
          <Ranges path={addressOf(host.name, one)} range={range} now={now} />
          <div class="plots">
            {plots.map((plot) => (
              <Figure plot={plot} {...latest(plot.id, one)} />
            ))}
          </div>
          <Live id="container" class="parts">
            <section>
              <h2>Container</h2>
              <Table
                columns={[["What"], ["Value"]]}
                rows={[
                  ["Image", <Name text={imageOf(one)} />],
                  ["Id", one.container_id],
                  ["Started", one.started_at ?? ""],
                  ["Ended", one.finished_at ?? ""],
                  ...(one.ports ?? []).map((port) => ["Port", <Name text={JSON.stringify(port)} />]),
                ]}
              />
            </section>
            <section>
              <h2>Labels</h2>
              <Table
                columns={[["Label"], ["Value"]]}
                rows={Object.entries(one.labels ?? {}).map(([label, value]) => [
                  <Name text={label} />,
                  <Name text={typeof value === "string" ? value : JSON.stringify(value)} />,
                ])}
              />
            </section>
          </Live>
        </div>
      ),
    };
  },
};
