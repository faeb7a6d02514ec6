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
const numeric = (message: string) =>
  v.pipe(
    v.unknown(),
    v.transform((given) =>
      typeof given === "string" && /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(given) ? Number(given) : given,
    ),
    v.number(message),
  );

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

/** Text that is cut. */
const cut = (most: number) =>
  v.pipe(
    v.string(),
    v.transform((given) => given.slice(0, most)),
  );
const name = v.pipe(cut(255), v.minLength(1));
const percent = between(0, 100);
const celsius = between(-1000, 10_000);

/** A list of what agents don't need to share: elements that don't fit are left out, and so are those past the limit. */
const some = <T>(most: number, element: v.GenericSchema<unknown, T>) =>
  odd(
    orEmpty(
      [],
      v.pipe(
        v.array(v.unknown()),
        v.transform((all) =>
          all.slice(0, most).flatMap((one) => {
            const { success, output } = v.safeParse(element, one);
            return success ? [output] : [];
          }),
        ),
      ),
    ),
  );

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

/** A local file system, or a pool of them. GiB with one decimal. */
const Disk = fields({
  mount: v.pipe(cut(1024), v.minLength(1)),
  device: odd(cut(255)),
  fstype: odd(cut(32)),
  used_gb: odd(atLeastZero),
  total_gb: odd(atLeastZero),
  used_percent: odd(percent),
  inodes_used_percent: odd(percent),
  read_only: odd(v.boolean()),
});

/** A block device. Counters since boot; `busy_ms`: how long it had something to do. */
const Device = fields({ name, read_bytes: odd(count), write_bytes: odd(count), busy_ms: odd(count) });

/** A network interface. Counters since boot; `counted`: they are part of network_rx_bytes and network_tx_bytes. */
const Interface = fields({
  name,
  rx_bytes: odd(count),
  tx_bytes: odd(count),
  up: odd(v.boolean()),
  speed_mbit: odd(count),
  counted: odd(v.boolean()),
});

/** `high` and `critical`: the sensor's own marks. */
const Temperature = fields({
  chip: name,
  label: odd(cut(64)),
  celsius: odd(celsius),
  high: odd(celsius),
  critical: odd(celsius),
});

/** A unit of the system manager. `state` and `sub` are systemd's words; `since`: RFC 3339; `detail`: why it failed, such as "exit 1". */
const Unit = fields({
  name,
  state: odd(cut(32)),
  sub: odd(cut(32)),
  since: odd(cut(64)),
  detail: odd(cut(128)),
});

/** 100 percent are one CPU. */
const Process = fields({ pid: odd(count), name, cpu_percent: odd(atLeastZero), memory_mb: odd(atLeastZero) });

/** `kind`: zfs, md or btrfs. `state`: online, degraded (redundancy is lost, or data is damaged) or failed. `detail`: the rest, in words. */
const Pool = fields({ name, kind: odd(cut(32)), state: odd(cut(32)), detail: odd(cut(255)) });

/** A disk's own judgement; all but its name null until it has been awake. `errors`: media errors, or sectors that can't be read. */
const Smart = fields({
  device: name,
  model: odd(cut(128)),
  passed: odd(v.boolean()),
  temperature: odd(celsius),
  power_on_hours: odd(count),
  wear_percent: odd(between(0, 255)),
  errors: odd(count),
});

/** A battery, or another supply of power. `kind` and `state` are the kernel's words in lower case. */
const Power = fields({
  name,
  kind: odd(cut(32)),
  state: odd(cut(32)),
  percent: odd(percent),
  online: odd(v.boolean()),
});

/** What a host has, each a list; null where the agent can't tell. */
export const HOST_LISTS = {
  disks: some(128, Disk),
  devices: some(128, Device),
  interfaces: some(128, Interface),
  temperatures: some(128, Temperature),
  units: some(128, Unit),
  processes: some(20, Process),
  pools: some(64, Pool),
  smart: some(64, Smart),
  power: some(16, Power),
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

/** A report as it is sent. */
export const Report = fields({
  recorded_at: dateTime,
  sent_at: known(dateTime),
  host_id: known(text(128)),
  agent_version: known(text(64)),
  interval_seconds: known(atLeastZero),
  host: fields({ metrics: orEmpty({}, HostMetrics), facts: known(orEmpty({}, HostFacts)), ...HOST_LISTS }),
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
