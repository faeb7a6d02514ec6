// The agent's configuration: the schema is the documentation of the defaults.

import * as v from "valibot";
import { HOST_LISTS } from "../report.ts";
import {
  httpUrl,
  nameSegment,
  number,
  dataFolder,
  path,
  readableFile,
  writableFolder,
  restart,
  restartToSwitch,
  rule,
  seconds,
  secret,
  tokenReadable,
} from "../config.ts";

const Receiver = v.pipe(
  v.strictObject({
    url: httpUrl(),
    ...secret("token", { required: true }),
    /** Plain http towards private addresses: where a VPN encrypts, or nobody else can listen. */
    allow_http: v.optional(v.boolean(), false),
    /** Trusted instead of the system's authorities. */
    ca_file: v.optional(readableFile()),
    client_cert_file: v.optional(readableFile()),
    client_key_file: v.optional(readableFile()),
    /** Together with collecting this must stay below the unit's watchdog (180 s). */
    timeout_seconds: v.optional(seconds({ min: 0.1, max: 120 }), 30),
  }),
  rule(({ url, allow_http, client_cert_file: cert, client_key_file: key }) => {
    const problems = tokenReadable("url", url, allow_http);
    if (!cert !== !key) {
      problems.push({
        path: ["client_cert_file"],
        text: 'client certificates need "client_cert_file" and "client_key_file"',
      });
    }
    return problems;
  }),
);

const ProxmoxNode = v.pipe(
  v.strictObject({
    endpoint: httpUrl(),
    node: nameSegment(),
    /** An API token: user@realm!id=uuid. */
    ...secret("token", { required: true }),
    /** Trusted instead of the system's authorities: /etc/pve/pve-root-ca.pem. */
    ca_file: v.optional(readableFile({ later: true })),
    /** Or the SHA-256 of the server's certificate. */
    fingerprint: v.optional(
      v.pipe(
        v.string(),
        v.regex(
          /^([0-9a-f]{2}:?){31}[0-9a-f]{2}$/i,
          "expected the 64 hex digits of a SHA-256 fingerprint, with or without colons",
        ),
      ),
    ),
  }),
  rule(({ endpoint, ca_file, fingerprint }) => {
    const problems = tokenReadable("endpoint", endpoint);
    if (ca_file !== undefined && fingerprint !== undefined) {
      problems.push({ path: ["fingerprint"], text: 'given beside "ca_file": set one of them, not both' });
    }
    if (fingerprint !== undefined && endpoint.startsWith("http:")) {
      problems.push({ path: ["fingerprint"], text: "http has no certificate: https is needed" });
    }
    return problems;
  }),
);

const Ship = v.strictObject({
  /** Folders with a done.marker in them are shipped. */
  episodes_dir: restart(writableFolder("siblings")),
  scan_seconds: v.optional(seconds({ min: 0.1, max: 3600 }), 5),
  /** 0 keeps them forever. */
  shipped_keep_days: v.optional(number({ min: 0, unit: "days" }), 7),
  quarantine_keep_days: v.optional(number({ min: 0, unit: "days" }), 30),
});

export const Config = v.strictObject({
  receiver: Receiver,
  /** Default: the token's host. */
  host_id: v.optional(nameSegment()),
  /** Until the receiver sets another interval. */
  interval_seconds: v.optional(
    v.pipe(
      seconds({ max: 86_400 }),
      v.check((given) => given > 0, "expected a number of seconds above 0"),
    ),
    60,
  ),
  /** `telemetry` for hubs that support only that. */
  protocol: v.optional(v.picklist(["report", "telemetry"]), "report"),
  /** The folder of queued reports. */
  data_dir: restart(v.optional(writableFolder(), () => dataFolder("agent", { own: true }))),
  queue_max_mb: v.optional(number({ min: 0.001, unit: "MiB" }), 64),
  /** Patterns of the mount points whose space is reported: `*` and `?`, and `!` in front to exclude. */
  disks: v.optional(
    v.array(v.union([v.pipe(v.string(), v.regex(/^!.|[*?]/, "expected a mount point or a pattern")), path()])),
    ["*"],
  ),
  /** Lists of the host that are left out of reports. */
  omit: v.optional(v.array(v.picklist(Object.keys(HOST_LISTS) as (keyof typeof HOST_LISTS)[])), []),
  docker: v.optional(
    v.strictObject({
      /** A path, or an address as in DOCKER_HOST: unix:// or tcp://. */
      socket: v.optional(v.union([v.literal("auto"), v.pipe(v.string(), v.regex(/^(unix|tcp):\/\//)), path()]), "auto"),
      enabled: v.optional(v.boolean(), true),
    }),
    {},
  ),
  /** A node of Proxmox VE: its figures, guests, storages and backups. */
  proxmox: v.optional(ProxmoxNode),
  /** systemd units whose state is reported, or patterns of them; `cloudflared` also has its own field. */
  services: v.optional(
    v.array(v.pipe(v.string(), v.regex(/^[A-Za-z0-9:_.\\@*?[\]-]+$/, "expected the name of a unit, or a pattern"))),
    [],
  ),
  ship: restartToSwitch(v.optional(Ship)),
});

export type Config = v.InferOutput<typeof Config>;
