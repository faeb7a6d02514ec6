// The tools of `mcp` that ask a receiver or an observer: what they know, as short text that a model can use.
//
// Texts in the answers come from hosts and programs, so each is one line without control characters: none can look like another line.

import * as v from "valibot";
import { type PeerSettings, openPeer } from "../peer.ts";
import { columns, cut, printable } from "../text.ts";
import type { Config } from "./config.ts";
import { type Tool, tool } from "./mcp-tools.ts";

type Peers = NonNullable<Config["mcp"]>;

const LARGEST_ANSWER = 32 << 20;
const TIMEOUT_MS = 15_000;
const LONGEST_TEXT = 300;
/** Events that are looked through; shown where no time is given. */
const MOST_EVENTS = 1000;
const NEWEST = 50;
const POINTS = 60;

/** A peer's JSON. Its fields are printed as they are found, so that newer ones show. */
type Json = Record<string, unknown>;

/** The tools for the peers that are configured. @throws Error when a certificate can't be read. */
export function peerTools({ receiver, observer }: Peers): Tool[] {
  return [
    ...(receiver ? receiverTools(askerOf(receiver, "receiver")) : []),
    ...(observer ? observerTools(askerOf(observer, "observer")) : []),
  ];
}

function askerOf(settings: PeerSettings, role: string) {
  const limits = { timeoutMs: TIMEOUT_MS, largestAnswer: LARGEST_ANSWER };
  const ask = openPeer(settings, { program: "picket-collector", role, ...limits });
  return (path: string, signal: AbortSignal, json?: unknown): Promise<Json> =>
    ask({ path, signal, ...(json === undefined ? {} : { method: "POST", json }) });
}

type Ask = ReturnType<typeof askerOf>;

const host = v.pipe(v.string(), v.description("the host's name, as `hosts` lists it"));
const fromLine = v.optional(
  v.pipe(v.number(), v.integer(), v.minValue(1), v.description("continue a long answer at this line")),
  1,
);

function receiverTools(ask: Ask): Tool[] {
  return [
    tool({
      name: "hosts",
      description: "All hosts: status, when each was last seen, main figures, open alerts.",
      schema: v.object({ from_line: fromLine }),
      run: async (_, { signal }) => hostLines(listOf(await ask("/v1/hosts", signal), "hosts")),
    }),
    tool({
      name: "host",
      description:
        "One host in full: facts, figures, disks, units, containers, guests, open alerts, its last health check.",
      schema: v.object({ host, from_line: fromLine }),
      run: async ({ host: name }, { signal }) => outline(await ask(`/v1/hosts/${encodeURIComponent(name)}`, signal)),
    }),
    tool({
      name: "history",
      description: "How a figure of a host went: mean (lowest to highest) over even steps.",
      schema: v.object({
        host,
        metric: v.pipe(v.string(), v.description("such as cpu_percent, memory_used_mb, disk_used_gb, load_average")),
        hours: v.pipe(v.number(), v.minValue(0.1), v.maxValue(8784), v.description("how far back")),
        from_line: fromLine,
      }),
      run: async ({ host: name, metric, hours }, { signal }) => {
        const from = new Date(Date.now() - hours * 3_600_000).toISOString();
        const query = new URLSearchParams({ metric, from, points: `${POINTS}` });
        return historyLines(await ask(`/v1/hosts/${encodeURIComponent(name)}/history?${query.toString()}`, signal));
      },
    }),
    tool({
      name: "events",
      description:
        "What happened to the hosts, such as host.offline, disk.high, unit.failed: the newest, or those since a time.",
      schema: v.object({
        since: v.optional(
          v.pipe(v.string(), v.description("a time such as 2026-01-31T12:00:00Z, or an event's number")),
        ),
        host: v.optional(host),
        from_line: fromLine,
      }),
      run: async ({ since, host: name }, { signal }) => {
        const query = new URLSearchParams({ limit: `${MOST_EVENTS}`, ...(since === undefined ? {} : { since }) });
        const events = listOf(await ask(`/v1/events?${query.toString()}`, signal), "events");
        const wanted = events.filter((event) => name === undefined || event["host"] === name);
        return eventLines(since === undefined ? wanted.slice(-NEWEST) : wanted);
      },
    }),
  ];
}

function observerTools(ask: Ask): Tool[] {
  const text = (most: number, about: string) => v.pipe(v.string(), v.maxLength(most), v.description(about));
  return [
    tool({
      name: "clusters",
      description: "Failures of operations, grouped by their cause, the latest first.",
      schema: v.object({ from_line: fromLine }),
      run: async (_, { signal }) => clusterLines(listOf(await ask("/v1/observer/clusters", signal), "clusters")),
    }),
    tool({
      name: "cluster",
      description: "One group of failures: why they belong together, when they came, examples.",
      schema: v.object({ fingerprint: text(300, "as `clusters` lists it"), from_line: fromLine }),
      run: async ({ fingerprint }, { signal }) =>
        outline(await ask(`/v1/observer/clusters/${encodeURIComponent(fingerprint)}`, signal)),
    }),
    tool({
      name: "record_operation",
      description:
        "Records an operation that you carried out, and how it went, so that failures that repeat are noticed.",
      schema: v.object({
        endpoint: text(4096, "what was called or done, such as deploy"),
        success: v.boolean(),
        duration_ms: v.optional(v.pipe(v.number(), v.minValue(0))),
        input_summary: v.optional(text(4096, "what it was given")),
        output_summary: v.optional(text(4096, "what came of it")),
        error: v.optional(text(16_384, "the error's text, if it failed")),
        task_class: v.optional(text(256, "the kind of task")),
      }),
      writes: true,
      run: async (operation, { signal }) => {
        await ask("/v1/observer/event", signal, { ...operation, source: "mcp" });
        return ["recorded"];
      },
    }),
  ];
}

// ---------------------------------------------------------------------------------------------------------------
// Words

function listOf(body: Json, key: string): Json[] {
  const list = body[key];
  return Array.isArray(list) ? (list as Json[]) : [];
}

function word(value: unknown): string {
  if (value === null || value === undefined) return "-";
  return printable(cut(typeof value === "string" ? value : (JSON.stringify(value) ?? ""), LONGEST_TEXT));
}

/** A time without its milliseconds. */
const time = (value: unknown): string => word(value).replace(/\.\d+Z$/, "Z");

function hostLines(hosts: Json[]): string[] {
  if (hosts.length === 0) return ["no hosts"];
  const rows = hosts.map((one) => {
    const figures = (one["metrics"] ?? {}) as Json;
    const used = (name: string, unit: string) =>
      `${word(figures[`${name}_used_${unit}`])}/${word(figures[`${name}_total_${unit}`])}`;
    return [
      word(one["id"]),
      word(one["status"]),
      time(one["last_seen_at"]),
      word(figures["cpu_percent"]),
      used("memory", "mb"),
      used("disk", "gb"),
      word(one["open_alerts"]),
    ];
  });
  return columns([["host", "status", "last seen", "cpu %", "memory MB", "disk GB", "open alerts"], ...rows]).split(
    "\n",
  );
}

function historyLines(history: Json): string[] {
  const points = listOf(history, "points");
  const lines = points.map(
    ({ at, mean, min, max }) => `${time(at)}  ${word(round(mean))}  (${word(round(min))} to ${word(round(max))})`,
  );
  const { host: name, metric, step_seconds } = history;
  return [`${word(metric)} of ${word(name)}, steps of ${word(step_seconds)} s: mean (lowest to highest)`, ...lines];
}

const round = (value: unknown): unknown => (typeof value === "number" ? Math.round(value * 100) / 100 : value);

function eventLines(events: Json[]): string[] {
  if (events.length === 0) return ["no events"];
  return events.map(({ id, at, severity, type, text }) =>
    [word(id), time(at), word(severity), word(type), word(text)].join("  "),
  );
}

function clusterLines(clusters: Json[]): string[] {
  if (clusters.length === 0) return ["no failures"];
  return clusters.map(({ fingerprint, count, last_at, endpoint, shape, level }) => {
    const escalated = Number(level) > 0 ? "  (escalated)" : "";
    return `${word(fingerprint)}  ${word(count)} times, last ${time(last_at)}  ${word(endpoint)}: ${word(shape)}${escalated}`;
  });
}

/** Any JSON as lines: plain values of a mapping on one, each list and mapping below its name. What is null or empty is left out. */
function outline(value: unknown, indent = ""): string[] {
  if (typeof value !== "object" || value === null) return [indent + word(value)];
  const entries = Array.isArray(value) ? value.map((one) => ["-", one] as const) : Object.entries(value);
  const plain = entries.filter(([, one]) => one !== null && typeof one !== "object" && one !== "");
  const nested = entries.filter(([, one]) => typeof one === "object" && one !== null && Object.keys(one).length > 0);
  const line = plain.map(([key, one]) => (key === "-" ? word(one) : `${word(key)}: ${word(one)}`)).join(", ");
  return [
    ...(line === "" ? [] : [indent + line]),
    ...nested.flatMap(([key, one]) => {
      const [first = "", ...rest] = outline(one, `${indent}  `);
      // An element stands on its dash's own line.
      return key === "-" ? [`${indent}- ${first.trimStart()}`, ...rest] : [`${indent}${word(key)}:`, first, ...rest];
    }),
  ];
}
