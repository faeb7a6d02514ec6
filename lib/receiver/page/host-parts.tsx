/** @jsxImportSource hono/jsx */
// What a host has, a table each: those that it has nothing of are left out.

import type { Child } from "hono/jsx";
import type { IndexRow } from "../episode-index.ts";
import type { EventRow } from "../events.ts";
import { LOOK_OF, type Look, commandOf } from "../fleet.ts";
import type { Host } from "../hosts.ts";
import { worded } from "../plot.ts";
import type { Details } from "../reading.ts";
import { cut, printable, printableLines, roughly, size } from "../../text.ts";
import { At, State, Text } from "./parts.tsx";
import { Live } from "./regions.tsx";
import { type Column, Name, Table } from "./table.tsx";

const [MIB, GIB] = [2 ** 20, 2 ** 30];

export interface PartsShown {
  host: Host;
  details: Details;
  /** The newest first. */
  events: EventRow[];
  episodes: IndexRow[];
  uptime: number | null;
  now: number;
}

interface PartProps {
  id: string;
  title: string;
  columns?: readonly Column[];
  rows: readonly Child[][];
  children?: Child;
}

/** A table with its heading; nothing where it has no rows. */
function Part({ id, title, columns, rows, children }: PartProps) {
  if (rows.length === 0) return null;
  return (
    <Live id={`part-${id}`} as="section" list="parts">
      <h2>{title}</h2>
      {columns && <Table columns={columns} rows={rows} />}
      {children}
    </Live>
  );
}

const percent = (value: number | null) => (value === null ? "" : worded(value, "%"));
const bytes = (value: number | null, unit = 1) => (value === null ? "" : size(value * unit));
const degrees = (value: number | null) => (value === null ? "" : worded(value, "°C"));

export function Parts(shown: PartsShown) {
  return (
    <div class="parts" id="parts">
      <Disks {...shown} />
      <Hardware {...shown} />
      <Running {...shown} />
      <Events {...shown} />
      <Doctor {...shown} />
      <Episodes {...shown} />
    </div>
  );
}

function Disks({ details: { lists, alerts }, uptime }: PartsShown) {
  const high = new Set(alerts.filter(({ type }) => type === "disk.high").map(({ subject }) => subject));
  const { disks, pools, smart, devices } = lists;
  const fullest = (disks ?? []).toSorted((a, b) => (b.used_percent ?? -1) - (a.used_percent ?? -1));
  return (
    <>
      <Part
        id="disks"
        title="File systems"
        columns={[["Mount"], ["Used", "num"], ["Of", "num"], ["Inodes", "num minor"]]}
        rows={fullest.map((disk) => [
          <>
            <Name text={disk.mount} />
            <small>
              {[disk.device && cut(disk.device, 80), disk.fstype, disk.read_only ? "read-only" : null]
                .filter((one) => one !== null)
                .map(printable)
                .join(", ")}
            </small>
          </>,
          <Share percent={disk.used_percent} isHigh={high.has(disk.mount)} />,
          // Of a small one the agent reports 0.
          bytes(disk.total_gb || null, GIB),
          percent(disk.inodes_used_percent),
        ])}
      />
      <Part
        id="pools"
        title="Pools"
        columns={[["Pool"], ["State"], ["Detail"]]}
        rows={(pools ?? []).map(({ name, kind, state, detail }) => [
          <>
            <Name text={name} />
            <small>{printable(kind ?? "")}</small>
          </>,
          <State look={state === "online" ? "ok" : "bad"} word={printable(state ?? "unknown")} />,
          <Name text={detail ?? ""} />,
        ])}
      />
      <Part
        id="smart"
        title="SMART"
        columns={[
          ["Disk"],
          ["Test"],
          ["Errors", "num"],
          ["Worn", "num"],
          ["Powered on", "num minor"],
          ["Temp.", "num"],
        ]}
        rows={(smart ?? []).map((disk) => [
          <>
            <Name text={disk.device} />
            <small>{printable(disk.model ?? "")}</small>
          </>,
          disk.passed === null ? (
            <State look="off" word="asleep" />
          ) : (
            <State look={disk.passed ? "ok" : "bad"} word={disk.passed ? "passed" : "failing"} />
          ),
          disk.errors,
          percent(disk.wear_percent),
          disk.power_on_hours === null ? "" : roughly(disk.power_on_hours * 3_600_000),
          degrees(disk.temperature),
        ])}
      />
      <Part
        id="devices"
        title="Devices, since boot"
        columns={[["Device"], ["Read", "num"], ["Written", "num"], ["Busy", "num"]]}
        rows={(devices ?? []).map(({ name, read_bytes, write_bytes, busy_ms }) => [
          <Name text={name} />,
          bytes(read_bytes),
          bytes(write_bytes),
          busy_ms !== null && uptime ? percent(busy_ms / uptime / 10) : "",
        ])}
      />
    </>
  );
}

/** How full something is: a bar, and the figure. */
function Share({ percent: full, isHigh }: { percent: number | null; isHigh: boolean }) {
  if (full === null) return <span class="dim">unknown</span>;
  return (
    <span class="share">
      <svg class={isHigh ? "hot" : undefined} viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true">
        <rect width="100" height="4" />
        <rect class="full" width={full} height="4" />
      </svg>
      {worded(full, "%")}
    </span>
  );
}

function Hardware({ details: { lists } }: PartsShown) {
  const { interfaces, temperatures, power } = lists;
  const links = (interfaces ?? []).toSorted((a, b) => Number(b.up ?? 0) - Number(a.up ?? 0));
  return (
    <>
      <Part
        id="interfaces"
        title="Interfaces, since boot"
        columns={[["Interface"], ["Link"], ["In", "num"], ["Out", "num"]]}
        rows={links.map(({ name, up, speed_mbit, rx_bytes, tx_bytes }) => [
          <Name text={name} />,
          <>
            {up === null ? "" : up ? "up" : <span class="dim">down</span>}
            {speed_mbit !== null && <span class="dim minor"> {speed_mbit} Mbit/s</span>}
          </>,
          bytes(rx_bytes),
          bytes(tx_bytes),
        ])}
      />
      <Part
        id="temperatures"
        title="Temperatures"
        columns={[["Sensor"], ["Now", "num"], ["High", "num"], ["Critical", "num"]]}
        rows={(temperatures ?? []).map(({ chip, label, celsius, high, critical }) => [
          <Name text={[chip, label].filter((one) => one !== null).join(" ")} />,
          <span class={hot(celsius, critical) ? "bad" : hot(celsius, high) ? "warn" : undefined}>
            {degrees(celsius)}
          </span>,
          degrees(high),
          degrees(critical),
        ])}
      />
      <Part
        id="power"
        title="Power"
        columns={[["Supply"], ["Kind"], ["State"], ["Charge", "num"]]}
        rows={(power ?? []).map((supply) => [
          <Name text={supply.name} />,
          printable(supply.kind ?? ""),
          printable(supply.state ?? (supply.online === null ? "" : supply.online ? "online" : "offline")),
          percent(supply.percent),
        ])}
      />
    </>
  );
}

const hot = (celsius: number | null, mark: number | null) => celsius !== null && mark !== null && celsius >= mark;

const UNIT_LOOKS: Record<string, Look> = { failed: "warn", active: "ok" };

function Running({ details: { lists, guests }, now }: PartsShown) {
  const { units, processes } = lists;
  const present = guests.filter(({ gone_at }) => gone_at === null);
  return (
    <>
      <Part
        id="units"
        title="Units"
        columns={[["Unit"], ["State"], ["Since", "num"]]}
        rows={(units ?? []).map(({ name, state, detail, since }) => [
          <Name text={name} />,
          <>
            <State look={UNIT_LOOKS[state ?? ""] ?? "off"} word={printable(state ?? "unknown")} />
            {detail !== null && <small>{printable(detail)}</small>}
          </>,
          Number.isNaN(Date.parse(since ?? "")) ? "" : <At at={Date.parse(since!)} now={now} />,
        ])}
      />
      <Part
        id="processes"
        title="Processes"
        columns={[["Process"], ["PID", "num"], ["CPU", "num"], ["Memory", "num"]]}
        rows={(processes ?? []).map(({ name, pid, cpu_percent, memory_mb }) => [
          <Name text={name} />,
          <span class="dim">{pid}</span>,
          percent(cpu_percent),
          bytes(memory_mb, MIB),
        ])}
      />
      <Part
        id="guests"
        title="Guests"
        columns={[["Guest"], ["State"], ["CPUs", "num"], ["Memory", "num"], ["Disk", "num minor"]]}
        rows={present.map(({ vmid, name, kind, status, spec }) => [
          <>
            <Name text={name ?? ""} />
            <small>
              {kind} {vmid}
            </small>
          </>,
          <State
            look={status === "running" ? "ok" : status.endsWith("-error") ? "bad" : "off"}
            word={status.replace("-", " ")}
          />,
          spec?.cores,
          bytes(spec?.memory_mb ?? null, MIB),
          bytes(spec?.disk_gb ?? null, GIB),
        ])}
      />
    </>
  );
}

function Events({ host, events, now }: PartsShown) {
  return (
    <Part id="events" title="Events" rows={events.map(() => [])}>
      <ol class="happened">
        {events.map(({ at, type, severity, text }) => {
          const [what, command] = commandOf(text);
          const own = what.startsWith(`${host.name}: `) ? what.slice(host.name.length + 2) : what;
          return (
            <li>
              <At at={at} now={now} />
              <State look={type.endsWith(".recovered") ? "ok" : LOOK_OF[severity]} word={severity} />
              <div>
                <Text text={own} />
                {command !== null && <code>{printable(command)}</code>}
              </div>
            </li>
          );
        })}
      </ol>
      <a class="all" href={`/events?host=${host.name}`}>
        All events
      </a>
    </Part>
  );
}

const CHECK_LOOKS: Record<string, Look> = { red: "bad", yellow: "warn", green: "ok" };

/** The last result of its doctor: any JSON; the checks of a Picket's doctor as a table. */
function Doctor({ host: { health, health_at }, now }: PartsShown) {
  if (health === null) return null;
  const result = JSON.parse(health) as { checks?: unknown } | null;
  const given = Array.isArray(result?.checks) ? (result.checks as (Record<string, unknown> | null)[]) : [];
  const text = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? ""));
  const checks = given.map((check) => ({
    state: text(check?.["state"]),
    name: text(check?.["name"]),
    detail: text(check?.["detail"]),
    fix: check?.["fix"],
  }));
  const worstFirst = checks.toSorted((a, b) => order(a.state) - order(b.state));
  return (
    <Live id="part-doctor" as="section" list="parts">
      <h2>
        Doctor{" "}
        <small>
          <At at={health_at ?? 0} now={now} />
        </small>
      </h2>
      {checks.length === 0 ? (
        <details>
          <summary>As it was sent</summary>
          <pre>{printableLines(JSON.stringify(result, null, 2))}</pre>
        </details>
      ) : (
        <Table
          columns={[["Check"], ["Result"]]}
          rows={worstFirst.map(({ state, name, detail, fix }) => [
            <State look={CHECK_LOOKS[state] ?? "off"} word={printable(name)} />,
            <>
              <Text text={detail} />
              {typeof fix === "string" && <code>{printableLines(fix)}</code>}
            </>,
          ])}
        />
      )}
    </Live>
  );
}

const order = (state: string): number => ["red", "yellow"].indexOf(state) >>> 0;

function Episodes({ host, episodes, now }: PartsShown) {
  return (
    <Part
      id="episodes"
      title="Episodes"
      columns={[["Episode"], ["Received", "num"], ["Size", "num"], ["Commit", "minor"]]}
      rows={episodes.map(({ host: of, episode, received_at, size: length, commit }) => [
        <a href={`/v1/episodes/${of}/${episode}.tar.zst`} download>
          {episode}
        </a>,
        <At at={Date.parse(received_at)} now={now} />,
        size(length),
        <code title={commit}>{commit?.slice(0, 10)}</code>,
      ])}
    >
      <a class="all" href={`/episodes?host=${host.name}`}>
        All episodes
      </a>
    </Part>
  );
}
