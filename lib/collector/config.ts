// The collector's configuration: the schema is the documentation of the defaults.

import * as v from "valibot";
import {
  type Problem,
  isLoopback,
  listen,
  nameSegment,
  number,
  parsed,
  path,
  writableFolder,
  restart,
  restartToSwitch,
  rule,
  seconds,
} from "../config.ts";
import { connectionEntries, whoMayConnect } from "../guard.ts";
import { comparable } from "../http.ts";
import { inboxEntries } from "../inbox-place.ts";
import { EVENT_TYPES, PRIORITIES } from "../inbox.ts";
import { PeerSettings } from "../peer.ts";
import { DeliverySettings, takenNames } from "./deliver/config.ts";
import { type Verify, VerifySettings, compileVerifier } from "./signature.ts";
import { compileTemplate } from "./template.ts";

const DEFAULT_POLL_SECONDS = 30;

const template = () => parsed("expected a template (text)", compileTemplate);

/** The settings that a scheme has besides its secret: the one that it needs, and the optional ones. */
const SETTINGS: Partial<Record<Verify["scheme"], { needs?: keyof Verify; takes?: (keyof Verify)[] }>> = {
  hmac: { needs: "header", takes: ["algorithm", "encoding", "prefix", "payload", "timestamp_header"] },
  stripe: { takes: ["header"] },
  token: { needs: "header" },
  basic: { needs: "username" },
  query: { needs: "name" },
};

function* verifyProblems(verify: Verify): Generator<Problem> {
  const { scheme, secret, payload = "{body}", timestamp_header } = verify;
  const { needs, takes = [] } = SETTINGS[scheme] ?? {};
  if (needs !== undefined && verify[needs] === undefined)
    yield { path: ["scheme"], text: `${scheme} needs "${needs}"` };
  if (scheme === "none" && secret.length > 0) yield { path: ["secret"], text: 'the scheme none has no "secret"' };
  const known = new Set<string>(["scheme", "secret", needs ?? "", ...takes]);
  for (const key of Object.keys(verify).filter((one) => !known.has(one)))
    yield { path: [key], text: `the scheme ${scheme} has no "${key}"` };
  const placeholders: string[] = payload.match(/\{[^{}]*\}/g) ?? [];
  const unknown = placeholders.find((one) => one !== "{body}" && one !== "{timestamp}");
  if (unknown !== undefined) yield { path: ["payload"], text: `"${unknown}" is not one of {body}, {timestamp}` };
  if (payload.split("{body}").length !== 2) yield { path: ["payload"], text: "expected {body} once" };
  const isTimed = placeholders.includes("{timestamp}");
  if (isTimed && timestamp_header === undefined)
    yield { path: ["payload"], text: '{timestamp} needs "timestamp_header": the header that holds it' };
  if (!isTimed && timestamp_header !== undefined)
    yield {
      path: ["timestamp_header"],
      text: 'the signature does not cover it: put {timestamp} into "payload", where the sender signs it',
    };
  if (scheme !== "none" && secret.length === 0) {
    yield { path: ["scheme"], text: `${scheme} needs a secret: set "secret_file" (or "secret")` };
    return;
  }
  try {
    compileVerifier(verify);
  } catch (error) {
    yield { path: ["secret"], text: (error as Error).message };
  }
}

export const Route = v.strictObject({
  path: v.pipe(
    v.string(),
    v.regex(/^\/[^\s?#]*$/, 'expected a path that starts with "/", without spaces, "?" and "#"'),
  ),
  /** Stands in `source`, log and `deliveries` instead of the path, which may hold a secret. */
  name: v.optional(nameSegment()),
  recipient: v.union([
    nameSegment(),
    v.pipe(v.array(nameSegment()), v.minLength(1, "expected at least one recipient")),
  ]),
  type: v.picklist(EVENT_TYPES),
  template: template(),
  priority: v.optional(v.picklist(["", ...PRIORITIES]), "normal"),
  /** Readers hold the event back until this path exists. */
  sentinel: v.optional(path()),
  /** A template: anything but `true` answers 200 and writes nothing. */
  when: v.optional(template()),
  /** What a missing key gives: `zero` prints `<no value>`, `error` answers 500. */
  missing: v.optional(v.picklist(["zero", "error"]), "zero"),
  verify: v.optional(v.pipe(VerifySettings, rule(verifyProblems))),
});

const Settings = v.strictObject({
  /** The `from` of every event. */
  agent: v.pipe(v.string(), v.trim(), v.minLength(1, "expected a name"), v.maxLength(128)),
  /** Where inboxes are. */
  ...inboxEntries,
  inbox_dir: restart(inboxEntries.inbox_dir),
  inbox: restart(inboxEntries.inbox),
  /** `disk`: an answer means that the event is synced to disk. `os`: a power cut may lose the last ones. */
  durability: restart(v.optional(v.picklist(["disk", "os"]), "disk")),
  webhook: restartToSwitch(
    v.optional(
      v.strictObject({
        listen: restart(v.optional(listen(), "127.0.0.1:18790")),
        routes: v.optional(v.array(Route), []),
        /** How long a delivery id is remembered. */
        dedupe_hours: v.optional(number({ min: 0, unit: "hours" }), 24),
      }),
    ),
  ),
  drop_folder: v.optional(
    v.strictObject({
      path: writableFolder(),
      /** A full scan at least this often; 0 means 30. */
      poll_fallback_seconds: v.optional(
        v.pipe(
          seconds(),
          v.transform((given) => given || DEFAULT_POLL_SECONDS),
        ),
        DEFAULT_POLL_SECONDS,
      ),
      /** A file that can't be right is judged once size and mtime were still for so many milliseconds. */
      settle_ms: v.optional(number({ min: 0, unit: "milliseconds" }), 1000),
    }),
  ),
  ...connectionEntries,
  /** Where the events of inboxes are sent: see deliver/config.ts. Behind `auth`, to which a credential called `token` belongs. */
  deliver: v.optional(v.array(DeliverySettings), []),
  /** What the tools of `mcp` ask beside the inbox. */
  mcp: v.optional(v.strictObject({ receiver: v.optional(PeerSettings), observer: v.optional(PeerSettings) })),
});

/** What the configuration file gives. */
export type Config = v.InferOutput<typeof Settings>;
export const Config = v.pipe(
  Settings,
  rule((config: Config) => [
    ...sources(config),
    ...routes(config),
    ...takenNames(config.deliver),
    ...openDoors(config),
  ]),
);

function* sources(config: Config): Generator<Problem> {
  if (!config.webhook && !config.drop_folder && config.deliver.length === 0) {
    yield { path: ["webhook"], text: 'nothing to do: set "webhook", "drop_folder" or "deliver"' };
  }
}

function* routes({ webhook }: Config): Generator<Problem> {
  const seen = new Set(["/health", "/metrics"]);
  for (const [index, route] of (webhook?.routes ?? []).entries()) {
    const at = ["webhook", "routes", index, "path"];
    const path = comparable(route.path);
    if (seen.has(path)) yield { path: at, text: `"${route.path}" is taken already` };
    seen.add(path);
  }
}

function* openDoors(config: Config): Generator<Problem> {
  const { webhook, trusted_proxies } = config;
  const isPublic = webhook && !isLoopback(webhook.listen.host);
  if (!webhook || (!isPublic && trusted_proxies.length === 0)) return;
  const who = isPublic ? `who reaches ${String(webhook.listen)}` : "who reaches one of `trusted_proxies`";
  const open = webhook.routes.entries().filter(([, { verify }]) => !verify);
  for (const [index] of open) {
    yield {
      path: ["webhook", "routes", index],
      text: `anyone ${who} could send to this route: set "verify", or "verify: { scheme: none }" to allow that`,
    };
  }
  if (!isPublic || webhook.routes.length > 0) return;
  const text = whoMayConnect({ ...config, listen: webhook.listen });
  if (text) yield { path: ["webhook", "listen"], text };
}

/** What only the daemon uses, or `mcp`: a user's other commands need none of its secrets, and no source. */
export const DAEMON_ONLY = ["webhook", "drop_folder", "deliver", "auth", "tls", "trusted_proxies", "mcp"];
