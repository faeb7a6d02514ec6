// The receiver's configuration: the schema is the documentation of the defaults.

import * as v from "valibot";
import {
  type Problem,
  type Secret,
  dataFolder,
  httpUrl,
  integer,
  isPostgres,
  listen,
  nameSegment,
  number,
  parsed,
  postgresUrl,
  readableFile,
  writable,
  writableFolder,
  restart,
  rule,
  secret,
} from "../config.ts";
import { inboxEntries } from "../inbox-place.ts";
import { Alerts } from "./alert-settings.ts";
import { authEntries, connectionEntries, whoMayConnect } from "../guard.ts";
import { PeerSettings } from "../peer.ts";
import { S3Settings, isS3 } from "./s3-settings.ts";

const Gate = v.strictObject({
  enabled: v.optional(v.boolean(), false),
  /** A clone of the maintainer's repository: `git log` of its HEAD is asked where Forgejo isn't there. */
  repo_path: v.optional(readableFile({ later: true })),
  forgejo: v.optional(
    v.strictObject({
      url: httpUrl(),
      repo: v.pipe(v.string(), v.regex(/^[\w.-]+\/[\w.-]+$/, 'expected OWNER/NAME, such as "lab/code"')),
      ...secret("token"),
    }),
  ),
  /** So many commits back the code of an episode may be. */
  window: v.optional(integer({ min: 1, max: 10_000, unit: "commits" }), 100),
  /** What is to be pasted into the shell of a host whose code is too old. */
  remediation: v.optional(v.string(), "git pull, in the checkout that the episodes are made with; then start it again"),
});

const Retention = v.strictObject({
  /** Samples as they were reported. */
  raw_hours: v.optional(integer({ min: 2, max: 24 * 366, unit: "hours" }), 48),
  /** Rollups of ten minutes. */
  ten_minute_days: v.optional(integer({ min: 1, max: 3660, unit: "days" }), 30),
  /** Rollups of an hour and of a day. */
  hourly_days: v.optional(integer({ min: 1, max: 3660, unit: "days" }), 366),
  /** Events, alerts that are over, containers and guests that are gone. */
  event_days: v.optional(integer({ min: 1, max: 3660, unit: "days" }), 366),
});
export type Retention = v.InferOutput<typeof Retention>;

const STORES = 'expected "sqlite" or postgres://USER@HOST/DATABASE';

const Settings = v.strictObject({
  listen: restart(v.optional(listen(), "127.0.0.1:18791")),
  /** Store, episodes and index. */
  data_dir: restart(v.optional(writableFolder(), () => dataFolder("receiver"))),
  /** One file below data_dir, or an engine that several receivers share. */
  store: restart(
    v.optional(
      parsed(STORES, (text) =>
        isPostgres(text) ? v.parse(postgresUrl(), text) : v.parse(v.literal("sqlite", STORES), text),
      ),
      "sqlite",
    ),
  ),
  ...secret("store_password"),
  /** The same database past a pooler, which can't keep locks and LISTEN. */
  store_direct: restart(v.optional(postgresUrl())),
  store_connections: restart(v.optional(integer({ min: 2, max: 1000, unit: "connections" }), 8)),
  /** A folder, below data_dir unless it is absolute (default: episodes); with a shared store a bucket. */
  episodes: restart(
    v.optional(
      v.pipe(
        v.string(),
        v.check(
          (text) => text !== "" && (isS3(text) || !text.includes("://")),
          "expected a folder, or s3://BUCKET/PREFIX",
        ),
        writable(),
      ),
    ),
  ),
  s3: restart(v.optional(S3Settings, {})),
  max_episode_bytes: v.optional(integer({ min: 1, unit: "bytes" }), 8 * 1024 ** 3),
  rate_limit_per_minute: v.optional(integer({ min: 1, unit: "requests" }), 60),
  /** What hosts are told, unless `host set` says otherwise. */
  poll_interval_seconds: v.optional(integer({ min: 1, max: 86_400, unit: "seconds" }), 60),
  /** How old a report from an agent's queue may be. */
  backfill_hours: v.optional(number({ min: 1, max: 47, unit: "hours" }), 24),
  /** What is an alert. */
  alerts: v.optional(Alerts, {}),
  retention: v.optional(Retention, {}),
  version_gate: v.optional(Gate, {}),
  /** Where events are told. */
  notify: restart(
    v.optional(
      v.strictObject({
        ...inboxEntries,
        recipient: nameSegment(),
        from: v.optional(v.pipe(v.string(), v.trim(), v.minLength(1, "expected a name"), v.maxLength(128)), "receiver"),
      }),
    ),
  ),
  /** Fetched each minute while the receiver works. */
  ...secret("heartbeat_url"),
  ...connectionEntries,
  auth: v.optional(
    // bind_fingerprint: a token belongs to the address and user agent that used it first.
    v.strictObject({ ...authEntries, bind_fingerprint: v.optional(v.boolean(), false) }),
    {},
  ),
  /** Whose failures the pages show. Behind `auth`, to which a credential called `token` belongs. */
  observer: v.optional(PeerSettings),
});

/** What the configuration file gives. */
export type Config = v.InferOutput<typeof Settings> & {
  auth: { token: Secret[] };
  heartbeat_url: Secret[];
  store_password: Secret[];
};
export const Config = v.pipe(
  Settings,
  rule((config) =>
    [openDoors, gateSources, grains, heartbeats, places].flatMap((judge) => [...judge(config as Config)]),
  ),
);

function* openDoors(config: Config): Generator<Problem> {
  const text = whoMayConnect(config);
  if (text) yield { path: ["listen"], text };
}

/** A rollup is made of finer rows, and late reports are samples, too: each has to be kept for as long as it is needed. */
function* grains({ retention, backfill_hours }: Config): Generator<Problem> {
  const { raw_hours, ten_minute_days, hourly_days } = retention;
  const needed: [key: keyof Retention, hours: number, least: number, what: string][] = [
    ["raw_hours", raw_hours, backfill_hours + 1, `"backfill_hours" (${backfill_hours}) and an hour`],
    ["ten_minute_days", ten_minute_days * 24, raw_hours, `"raw_hours" (${raw_hours})`],
    ["hourly_days", hourly_days, ten_minute_days, `"ten_minute_days" (${ten_minute_days})`],
  ];
  for (const [key, kept, least, what] of needed) {
    if (kept < least) yield { path: ["retention", key], text: `must cover ${what}` };
  }
}

function* heartbeats({ heartbeat_url: urls }: Config): Generator<Problem> {
  if (urls.some((url) => !/^https?:$/.test(URL.parse(url.reveal())?.protocol ?? ""))) {
    yield { path: ["heartbeat_url"], text: "must be an http or https URL" };
  }
}

/** A folder is on one machine, and a bucket needs the rows that several receivers share. */
function* places({ store, episodes }: Config): Generator<Problem> {
  if (episodes === undefined) return;
  const path = ["episodes"];
  if (isS3(episodes) && !isPostgres(store))
    yield { path, text: 'a bucket needs "store: postgres://…", which says what is in it' };
  if (!isS3(episodes) && isPostgres(store))
    yield { path, text: "receivers that share a store need a bucket: s3://BUCKET/PREFIX" };
}

function* gateSources({ version_gate: gate }: Config): Generator<Problem> {
  if (gate.enabled && !gate.repo_path && !gate.forgejo) {
    yield { path: ["version_gate"], text: 'no source of commits: set "forgejo", "repo_path" or both' };
  }
}
