// The shape of a report: what the receiver accepts, and what the agent therefore sends. Unknown fields are ignored: an agent may
// be newer than the receiver. Agents in other languages write a number as text, and an empty map as [] or an empty list as {}.

import * as v from "valibot";
import { isNestedDeeper } from "./json.ts";
import type { BrokenField } from "./refusal.ts";

/** A missing or null value is unknown: null. */
const known = <T>(schema: v.GenericSchema<unknown, T>) => v.nullish(schema, null);

const text = (most: number) => {
  const message = `expected text of at most ${most} characters`;
  return v.pipe(v.string(message), v.maxLength(most, message));
};

/** A number, also as text. */
const asNumber = (given: unknown): unknown =>
  typeof given === "string" && /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(given) ? Number(given) : given;
const numeric = (message: string) => v.pipe(v.unknown(), v.transform(asNumber), v.number(message));

const count = v.pipe(
  numeric("expected a whole number of 0 or more"),
  v.check((n) => Number.isSafeInteger(n) && n >= 0, "expected a whole number of 0 or more"),
);

function between(least: number, most: number, { whole = false, message }: { whole?: boolean; message?: string } = {}) {
  message ??= `expected a ${whole ? "whole " : ""}number from ${least} to ${most}`;
  return v.pipe(
    numeric(message),
    v.check((n) => n >= least && n <= most && (!whole || Number.isInteger(n)), message),
  );
}

const atLeastZero = between(0, Number.MAX_VALUE, { message: "expected a number of 0 or more" });

/** RFC 3339, and what others write: no zone (UTC), +0000, a comma, a leap second. */
const DATE_TIME = /^(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:)(\d\d)(?:[.,](\d+))? ?(?:[Zz]|UTC|GMT|([+-]\d\d):?(\d\d)?)?$/;
const NO_DATE_TIME = 'expected a date-time with its zone, such as "2026-01-31T12:00:00Z"';

const dateTime = v.pipe(
  v.string(NO_DATE_TIME),
  v.check((given) => !Number.isNaN(parseTime(given)), NO_DATE_TIME),
  v.transform(parseTime),
);

function parseTime(given: string): number {
  const [whole, date, hour, second, fraction = "0", zone, minutes = "00"] = DATE_TIME.exec(given) ?? [];
  if (whole === undefined) return Number.NaN;
  const leap = second === "60" ? "59" : second;
  return Date.parse(`${date}T${hour}${leap}.${fraction}${zone === undefined ? "Z" : `${zone}:${minutes}`}`);
}

/** The deepest nesting that is taken: JSON.stringify must be able to write it again. */
export const DEEPEST = 16;
/** The longest list of free content. */
const LONGEST = 10_000;

function isList(value: unknown): value is unknown[] {
  return Array.isArray(value) && value.length <= LONGEST && !isNestedDeeper(value, DEEPEST);
}

function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isNestedDeeper(value, DEEPEST);
}

function isEmpty(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/** An empty map or list as what is expected. */
const orEmpty = <T>(empty: unknown, schema: v.GenericSchema<unknown, T>) =>
  v.pipe(
    v.unknown(),
    v.transform((given) => (isEmpty(given) ? empty : given)),
    schema,
  );

const list = known(
  orEmpty([], v.custom<unknown[]>(isList, `expected a list of at most ${LONGEST}, at most ${DEEPEST} levels deep`)),
);
const mapping = orEmpty(
  {},
  v.custom<Record<string, unknown>>(isMapping, `expected a mapping, at most ${DEEPEST} levels deep`),
);

const fields = <T extends v.ObjectEntries>(entries: T) => v.object(entries, "expected a mapping");

/** A list whose length is checked before its elements. */
function atMost<T>(most: number, what: string, element: v.GenericSchema<unknown, T>) {
  const all = v.custom<unknown[]>(Array.isArray, "expected a list");
  const few = v.check<unknown[], string>((given) => given.length <= most, `expected at most ${most} ${what}`);
  return orEmpty([], v.pipe(all, few, v.array(element)));
}

/** A field that agents don't need to share: a value that doesn't fit is unknown, and costs no report. */
const odd = <T>(schema: v.GenericSchema<unknown, T>) => v.fallback(known(schema), null);

const percent = between(0, 100);
const celsius = between(-1000, 10_000);

const Sampled = {
  cpu_percent: known(percent),
  memory_used_mb: known(count),
  memory_total_mb: known(count),
  disk_used_gb: known(count),
  disk_total_gb: known(count),
  network_rx_bytes: known(count),
  network_tx_bytes: known(count),
  uptime_seconds: known(count),
  load_average: known(atLeastZero),
  cpu_temp_c: known(celsius),
};

export type Metric = keyof typeof Sampled;
/** The figures of a host that have a history, in the order of their columns. */
export const METRICS = Object.keys(Sampled) as Metric[];

const HostMetrics = fields({
  ...Sampled,
  load_average_5: odd(atLeastZero),
  load_average_15: odd(atLeastZero),
  swap_used_mb: odd(count),
  swap_total_mb: odd(count),
  /** Time that the CPUs were idle because of input and output. */
  cpu_iowait_percent: odd(percent),
  /** Time that a hypervisor gave to others. */
  cpu_steal_percent: odd(percent),
});

/** A field of an element: null for a value that doesn't fit. Schemas with fallbacks take more than twice as long, and a report has hundreds of these. */
type Field<T> = (given: unknown) => T | null;

const words =
  (most: number): Field<string> =>
  (given) =>
    typeof given === "string" ? given.slice(0, most) : null;
const figure =
  (least: number, most: number): Field<number> =>
  (given) => {
    const n = asNumber(given);
    return typeof n === "number" && n >= least && n <= most ? n : null;
  };
const whole: Field<number> = (given) => {
  const n = asNumber(given);
  return Number.isSafeInteger(n) && (n as number) >= 0 ? (n as number) : null;
};
const amount = figure(0, Number.MAX_VALUE);
const share = figure(0, 100);
const degrees = figure(-1000, 10_000);
const yesOrNo: Field<boolean> = (given) => (typeof given === "boolean" ? given : null);

/** An element: the text that names it, and its other fields. */
type Element<K extends string, F extends Record<string, Field<unknown>>> = Record<K, string> & {
  [P in keyof F]: ReturnType<F[P]>;
};

/** A list of what agents don't need to share: elements without a name are left out, and so are those past the limit. */
function some<K extends string, F extends Record<string, Field<unknown>>>(most: number, key: K, rest: F) {
  const named = words(key === "mount" ? 1024 : 255);
  const [fields, readers] = [Object.keys(rest), Object.values(rest)];
  return (given: unknown): Element<K, F>[] | null => {
    if (!Array.isArray(given)) return isEmpty(given) ? [] : null;
    const elements: Element<K, F>[] = [];
    for (const element of given.slice(0, most) as (Record<string, unknown> | null)[]) {
      const name = named(element?.[key]);
      if (!name) continue;
      const read: Record<string, unknown> = { [key]: name };
      for (let n = 0; n < fields.length; n++) read[fields[n]!] = readers[n]!(element![fields[n]!]);
      elements.push(read as Element<K, F>);
    }
    return elements;
  };
}

/** What a host has, each a list; null where the agent can't tell. Counters count since boot. */
export const HOST_LISTS = {
  /** Local file systems, or pools of them. GiB with one decimal. */
  disks: some(128, "mount", {
    device: words(255),
    fstype: words(32),
    used_gb: amount,
    total_gb: amount,
    used_percent: share,
    inodes_used_percent: share,
    read_only: yesOrNo,
  }),
  /** `busy_ms`: how long it had something to do. */
  devices: some(128, "name", { read_bytes: whole, write_bytes: whole, busy_ms: whole }),
  /** `counted`: they are part of network_rx_bytes and network_tx_bytes. */
  interfaces: some(128, "name", {
    rx_bytes: whole,
    tx_bytes: whole,
    up: yesOrNo,
    speed_mbit: whole,
    counted: yesOrNo,
  }),
  /** `high` and `critical`: the sensor's own marks. */
  temperatures: some(128, "chip", { label: words(64), celsius: degrees, high: degrees, critical: degrees }),
  /** Units of the system manager. `state` and `sub` are systemd's words; `since`: RFC 3339; `detail`: why it failed, such as "exit 1". */
  units: some(128, "name", { state: words(32), sub: words(32), since: words(64), detail: words(128) }),
  /** 100 percent are one CPU. */
  processes: some(20, "name", { pid: whole, cpu_percent: amount, memory_mb: amount }),
  /** `kind`: zfs, md or btrfs. `state`: online, degraded (redundancy is lost, or data is damaged) or failed. `detail`: the rest, in words. */
  pools: some(64, "name", { kind: words(32), state: words(32), detail: words(255) }),
  /** A disk's own judgement; all but its name null until it has been awake. `errors`: media errors, or sectors that can't be read. */
  smart: some(64, "device", {
    model: words(128),
    passed: yesOrNo,
    temperature: degrees,
    power_on_hours: whole,
    wear_percent: figure(0, 255),
    errors: whole,
  }),
  /** Batteries, and other supplies of power. `kind` and `state` are the kernel's words in lower case. */
  power: some(16, "name", { kind: words(32), state: words(32), percent: share, online: yesOrNo }),
};

const HostFacts = fields({
  cpu_count: known(between(1, 1024, { whole: true })),
  memory_total_mb: known(count),
  disk_total_gb: known(count),
  os: known(text(80)),
  docker_version: known(text(32)),
  kernel: known(text(255)),
  arch: known(text(64)),
  boot_at: known(text(64)),
});

/** The figures of a container. */
export const CONTAINER_METRICS = [
  "cpu_percent",
  "memory_usage_mb",
  "memory_limit_mb",
  "network_rx_bytes",
  "network_tx_bytes",
  "block_read_bytes",
  "block_write_bytes",
] as const;

const Container = fields({
  container_id: v.pipe(text(80), v.minLength(1, "expected an id")),
  name: text(255),
  image: text(255),
  image_tag: known(text(128)),
  // Docker's own texts may be longer: "Up About a minute (health: starting)".
  status: known(
    v.pipe(
      text(1024),
      v.transform((status) => status.slice(0, 32)),
    ),
  ),
  state: known(text(32)),
  health_status: known(text(16)),
  ports: list,
  labels: known(mapping),
  metrics: known(orEmpty({}, fields(v.entriesFromList(CONTAINER_METRICS, known(atLeastZero))))),
  started_at: known(text(64)),
  finished_at: known(text(64)),
});

/** `hibernated`: its memory is on disk. The last two are the machine's own trouble. */
const GUEST_STATUSES = [
  "running",
  "stopped",
  "paused",
  "hibernated",
  "template",
  "unknown",
  "io-error",
  "internal-error",
] as const;
export type GuestStatus = (typeof GUEST_STATUSES)[number];

const Guest = fields({
  vmid: count,
  name: known(text(255)),
  kind: v.picklist(["lxc", "qemu"], 'expected "lxc" or "qemu"'),
  status: v.nullish(v.picklist(GUEST_STATUSES, `expected one of ${GUEST_STATUSES.join(", ")}`), "unknown"),
  spec: known(orEmpty({}, fields({ cores: known(count), memory_mb: known(atLeastZero), disk_gb: known(atLeastZero) }))),
  controller_version: known(text(64)),
});

const Host = v.pipe(
  v.looseObject({ metrics: orEmpty({}, HostMetrics), facts: known(orEmpty({}, HostFacts)) }, "expected a mapping"),
  v.transform(({ metrics, facts, ...rest }) => ({ metrics, facts, ...listsOf(rest) })),
);

/** What a host has. */
export type HostLists = { [L in keyof typeof HOST_LISTS]: ReturnType<(typeof HOST_LISTS)[L]> };

const READ_LISTS = Object.entries(HOST_LISTS);

function listsOf(given: Record<string, unknown>): HostLists {
  const lists: Record<string, unknown> = {};
  for (const [list, read] of READ_LISTS) lists[list] = read(given[list]);
  return lists as HostLists;
}

/** A report as it is sent. */
export const Report = fields({
  recorded_at: dateTime,
  sent_at: known(dateTime),
  host_id: known(text(128)),
  agent_version: known(text(64)),
  interval_seconds: known(atLeastZero),
  host: Host,
  containers: known(atMost(500, "containers", Container)),
  guests: known(atMost(1000, "guests", Guest)),
  cloudflared: known(
    fields({
      status: v.nullish(
        v.picklist(["active", "inactive", "failed", "unknown"], 'expected "active", "inactive", "failed" or "unknown"'),
        "unknown",
      ),
    }),
  ),
  /** Picket's own field: another agent's field of that name is ignored. */
  services: v.fallback(list, null),
  storage_targets: list,
  backups: list,
  restore_tests: list,
  pbs_snapshots: list,
  audit_tail: list,
});

/** A valid report. Times in milliseconds since 1970, unknown values are null. */
export type Report = v.InferOutput<typeof Report>;
export type Container = v.InferOutput<typeof Container>;
export type Guest = v.InferOutput<typeof Guest>;

/** The field of a broken rule, such as `containers[3].metrics.cpu_percent`, and the rule. */
export function asBroken(issue: v.BaseIssue<unknown>): BrokenField {
  const steps = (issue.path ?? []).map(({ key }) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`));
  const missing = issue.input === undefined;
  const message = issue.message.startsWith("expected") ? issue.message : "is not valid";
  return { field: steps.join("").replace(/^\./, "") || "body", error: missing ? "is missing" : message };
}
