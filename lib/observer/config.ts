// The observer's configuration: the schema is the documentation of the defaults.

import { join } from "node:path";
import * as v from "valibot";
import {
  dataFolder,
  httpUrl,
  integer,
  isLoopback,
  listen,
  nameSegment,
  number,
  readableFile,
  writableFolder,
  restart,
  rule,
  seconds,
  secret,
} from "../config.ts";
import { connectionEntries, whoMayConnect } from "../guard.ts";
import { inboxEntries } from "../inbox-place.ts";
import type { EscalationRules } from "./spells.ts";

const Llm = v.pipe(
  v.strictObject({
    /** Any OpenAI-compatible server. */
    url: httpUrl(),
    model: v.pipe(v.string(), v.minLength(1, "expected the name of a model")),
    ...secret("api_key"),
    timeout_seconds: v.optional(seconds({ min: 0.1, max: 120 }), 20),
    calls_per_hour: v.optional(integer({ min: 0, unit: "calls" }), 60),
  }),
  rule(function* ({ url, api_key }) {
    const { protocol, hostname } = new URL(url);
    if (api_key.length > 0 && protocol === "http:" && !isLoopback(hostname)) {
      yield { path: ["url"], text: "http would send the key in clear text: use https, or http to this machine" };
    }
  }),
);

const Settings = v.strictObject({
  listen: restart(v.optional(listen(), "127.0.0.1:3219")),
  /** The log of operations; the observer's other files lie beside it. Empty: in memory only. */
  persist_path: restart(
    v.optional(v.union([v.literal(""), writableFolder("file")]), () => join(dataFolder("observer"), "ops.jsonl")),
  ),
  durability: restart(v.optional(v.picklist(["disk", "os"]), "disk")),
  rotate_mb: v.optional(number({ min: 0.001, max: 1 << 20, unit: "MiB" }), 256),
  overseer_corrections: restart(v.optional(readableFile({ later: true }))),
  cycle_seconds: v.optional(seconds({ min: 0.1, max: 86_400 }), 30),
  escalation_threshold: v.optional(integer({ min: 1, max: 1000, unit: "failures" }), 3),
  window_minutes: v.optional(number({ min: 0.001, max: 100_000, unit: "minutes" }), 30),
  /** Default: escalation_threshold. 0 switches it off. */
  consecutive: v.optional(integer({ min: 0, max: 1000, unit: "failures" })),
  cooldown_hours: v.optional(number({ min: 0.0001, max: 10_000, unit: "hours" }), 24),
  review: v.optional(
    v.pipe(
      v.strictObject({
        accept_from: v.optional(number({ min: 0, max: 100, unit: "percent" }), 50),
        reject_below: v.optional(number({ min: 0, max: 100, unit: "percent" }), 20),
        reject_from_attempt: v.optional(integer({ min: 1, unit: "attempts" }), 3),
      }),
      rule(function* ({ accept_from, reject_below }) {
        if (reject_below > accept_from) yield { path: ["reject_below"], text: "is above accept_from" };
      }),
    ),
    {},
  ),
  /** Whether secrets in texts are replaced before anything is written, shown or sent. */
  scrub: v.optional(v.picklist(["on", "off"]), "on"),
  /** Judges reviews and diagnoses escalations; when it fails, the heuristic judges a review. */
  llm: v.optional(Llm),
  /** The inbox that gets the escalations. */
  notify: v.optional(v.strictObject({ ...inboxEntries, recipient: nameSegment() })),
  ...connectionEntries,
});

export const Config = v.pipe(
  Settings,
  rule(function* (config) {
    const text = whoMayConnect(config);
    if (text) yield { path: ["listen"], text };
  }),
);
/** What the configuration file gives. */
export type Config = v.InferOutput<typeof Config>;

/** When a cluster of failures is escalated, as the configuration says. */
export function escalationRules(config: Config): EscalationRules {
  const { escalation_threshold, window_minutes, cooldown_hours, consecutive = escalation_threshold } = config;
  return {
    consecutive,
    threshold: escalation_threshold,
    windowMs: window_minutes * 60_000,
    cooldownMs: cooldown_hours * 3_600_000,
  };
}
