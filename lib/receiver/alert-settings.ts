// What is an alert: the configuration's `alerts`, and what one host has instead (`host set HOST --alert KEY=VALUE`).

import * as v from "valibot";
import { UsageError } from "../command-line.ts";
import { number } from "../config.ts";
import { nearest } from "../nearest.ts";

const orOff = <T>(what: string, fits: (given: unknown) => given is T) =>
  v.custom<T | "off">((given) => given === "off" || fits(given), `expected ${what}, or off`);

const limit = ({ min = 0, max = Number.MAX_VALUE, unit }: { min?: number; max?: number; unit: string }) => {
  const range = max === Number.MAX_VALUE ? `over ${min}` : `over ${min}, up to ${max}`;
  return orOff(
    `a number of ${unit} ${range}`,
    (given): given is number => typeof given === "number" && given > min && given <= max,
  );
};
const percent = () => limit({ max: 100, unit: "percent" });
const word = <T extends string>(only: T) => orOff(`"${only}"`, (given): given is T => given === only);

export const CONTAINERS = ["unhealthy", "restarting", "stopped"] as const;
type ContainerTrouble = (typeof CONTAINERS)[number];

/** Each key with its default; `off` switches it off. */
const ENTRIES = {
  /** Of each mount, inodes too; told again at 95 and at 99. */
  disk_percent: v.optional(percent(), 90),
  /** Full within so many hours, at the pace of the last six. */
  disk_full_hours: v.optional(limit({ unit: "hours" }), 24),
  units: v.optional(word("failed"), "failed"),
  pools: v.optional(word("degraded"), "degraded"),
  smart: v.optional(word("failing"), "failing"),
  /** Stopped with exit code 0 is nothing. */
  containers: v.optional(
    orOff(
      `a list of ${CONTAINERS.join(", ")}`,
      (given): given is ContainerTrouble[] => Array.isArray(given) && given.every((one) => CONTAINERS.includes(one)),
    ),
    () => [...CONTAINERS],
  ),
  doctor: v.optional(word("red"), "red"),
  /** `critical`: a sensor's own mark. */
  temperature_c: v.optional(
    orOff(
      "critical, or a number of degrees",
      (given): given is "critical" | number => given === "critical" || (typeof given === "number" && given > 0),
    ),
    "critical",
  ),
  cpu_percent: v.optional(percent(), "off"),
  memory_percent: v.optional(percent(), "off"),
  swap_percent: v.optional(percent(), "off"),
  load_per_cpu: v.optional(limit({ unit: "processes" }), "off"),
};

export const Alerts = v.strictObject({
  ...ENTRIES,
  /** How long it must last before it counts. Disks, units, pools, disks' own tests and the doctor count at once. */
  for_minutes: v.optional(number({ min: 0, max: 1440, unit: "minutes" }), 5),
  /** How long a figure must be a twentieth below its limit before the alert is over. */
  clear_minutes: v.optional(number({ min: 0, max: 1440, unit: "minutes" }), 5),
  /** A critical alert that stays open is told again. */
  remind_hours: v.optional(number({ min: 0.01, max: 8784, unit: "hours" }), 24),
});
export type Alerts = v.InferOutput<typeof Alerts>;
export type AlertKey = keyof typeof ENTRIES;

/** The keys that one mount, unit, pool, disk or sensor can have a setting of its own for. */
const BY_SUBJECT = new Set(["disk_percent", "disk_full_hours", "units", "pools", "smart", "temperature_c"]);

const EXAMPLE = "such as disk_percent./backup=98";

/** A host's own settings: `disk_percent` or `disk_percent./backup`, and their values. */
export type OwnSettings = Record<string, unknown>;

/** The setting of a key, for one subject (such as a mount) where that has its own. */
export type SettingOf = <K extends AlertKey>(key: K, subject?: string) => Alerts[K];

export function settingOf(alerts: Alerts, own: string | null): SettingOf {
  if (own === null) return (key) => alerts[key];
  const set = JSON.parse(own) as OwnSettings;
  return <K extends AlertKey>(key: K, subject?: string) =>
    (set[`${key}.${subject}`] ?? set[key] ?? alerts[key]) as Alerts[K];
}

/**
 * Changes a host's settings by texts such as `disk_percent./backup=98`; the value `default` takes one away.
 * @throws UsageError
 */
export function changeSettings(before: OwnSettings, changes: readonly string[]): OwnSettings {
  const own = { ...before };
  for (const change of changes) {
    const at = change.lastIndexOf("=");
    const [name, text] = [change.slice(0, at), change.slice(at + 1)];
    if (at < 1) throw new UsageError(`--alert "${change}" is not KEY=VALUE`, EXAMPLE);
    const key = name.split(".", 1)[0]!;
    if (!Object.hasOwn(ENTRIES, key)) {
      const near = nearest(key, Object.keys(ENTRIES));
      const hint = near === undefined ? `known are: ${Object.keys(ENTRIES).join(", ")}` : `did you mean "${near}"?`;
      throw new UsageError(`--alert "${change}": unknown key "${key}"`, hint);
    }
    if (text === "default") {
      delete own[name];
      continue;
    }
    if (name === `${key}.`) throw new UsageError(`--alert "${change}": no name after "${name}"`, EXAMPLE);
    if (name !== key && !BY_SUBJECT.has(key)) {
      throw new UsageError(`--alert "${change}": "${key}" is for the whole host only`, `--alert ${key}=${text}`);
    }
    const words = text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
    const value = key === "containers" && text !== "off" ? text.split(",").map((one) => one.trim()) : words;
    const checked = v.safeParse(ENTRIES[key as AlertKey], value);
    if (!checked.success) {
      const hint = key === "containers" ? "such as containers=stopped,restarting" : undefined;
      throw new UsageError(`--alert "${change}": ${checked.issues[0].message}, found "${text}"`, hint);
    }
    own[name] = checked.output;
  }
  return own;
}

/** A host's settings for people: `disk_percent./backup=98 offline-is-fine`; empty where it has none. */
export function settingsText({ alert_settings, offline_is_fine }: HostSettings): string {
  const own = Object.entries(JSON.parse(alert_settings ?? "{}") as OwnSettings);
  return [
    ...own.map(([name, value]) => `${name}=${String(value)}`),
    ...(offline_is_fine ? ["offline-is-fine"] : []),
  ].join(" ");
}

interface HostSettings {
  alert_settings: string | null;
  offline_is_fine: 0 | 1;
}
