// A node of Proxmox VE, from its API (versions 6 to 9).
//
//   /nodes/N/status             the node's figures; required
//   /nodes/N/lxc, /qemu         the guests and their status; if one of the two lists fails, the report has no guests. Only a full
//                               list says that a machine is paused or has stopped for an I/O error
//   /nodes/N/{kind}/ID/config   cores, memory, disks; if it fails (forbidden, locked, late) the guest has no `spec`
//   /nodes/N/storage            the storages of guests and backups
//   /nodes/N/storage/S/content  the newest backup of each guest; requested every ten minutes, because the lists can be long
//
// The API is slow (some 20 ms of CPU a request): a guest's configuration is requested when its list entry changes, and hourly.
// Numbers come as numbers or as text, depending on version and field.

import * as v from "valibot";
import { type Client, HttpError, deadline, eachOf, openClient } from "../client.ts";
import { isLoopback } from "../config.ts";
import { errorChain } from "../log.ts";
import { Secret } from "../secret.ts";
import type { GuestStatus } from "../report.ts";
import type { Config } from "./config.ts";
import { fittingOf } from "./fitting.ts";
import type { HostFacts, HostMetrics } from "./host.ts";
import type { Warn } from "./source.ts";

type ProxmoxSettings = NonNullable<Config["proxmox"]>;

/** A node's part of a report. */
export type NodeReading = Awaited<ReturnType<Proxmox["read"]>>;

type GuestSpec = ReturnType<typeof specOf>;
type Backup = ReturnType<typeof newestOf>[number];
type Kind = "lxc" | "qemu";

const ANSWER_MS = 10_000;
const LARGEST_ANSWER = 32 << 20;
/** For everything after the status: a node that is slow for each of many guests must not delay the heartbeat. */
const REST_MS = 30_000;
/** Concurrent requests. */
const AT_ONCE = 8;
/** The receiver rejects a report with more. */
const MOST_GUESTS = 1000;
const BACKUPS_MS = 10 * 60_000;
const CONFIG_MS = 3_600_000;
const MIB = 1 << 20;
const GIB = 1 << 30;

// -- the API's answers

/** A number, also as text; null for anything else and below 0: the receiver would reject the whole report for it. */
const num = v.fallback(v.pipe(v.unknown(), v.transform(asNumber)), null);
const text = v.fallback(v.nullable(v.string()), null);
const Space = v.nullish(v.object({ total: num, used: num }), null);
const Status = v.object({
  cpu: num,
  uptime: num,
  memory: Space,
  rootfs: Space,
  loadavg: v.nullish(v.array(num), null),
  swap: Space,
  wait: num,
  cpuinfo: v.nullish(v.object({ cpus: num }), null),
  kversion: text,
  "current-kernel": v.nullish(v.object({ release: text }), null),
  pveversion: text,
});
const Listed = v.object({
  vmid: v.pipe(
    v.union([v.number(), v.string()], "expected a guest's number"),
    v.transform(Number),
    v.check((id) => Number.isSafeInteger(id) && id >= 0, "expected a guest's number"),
  ),
  name: text,
  status: text,
  /** The machine's own word, while it runs. */
  qmpstatus: text,
  lock: text,
  template: num,
  cpus: num,
  maxmem: num,
  maxdisk: num,
});
type Listed = v.InferOutput<typeof Listed>;
const GuestConfig = v.record(v.string(), v.unknown());
const Storage = v.object({
  storage: v.string(),
  type: text,
  content: text,
  active: num,
  enabled: num,
  shared: num,
  total: num,
  used: num,
});
type Storage = v.InferOutput<typeof Storage>;
const Content = v.object({
  volid: v.string(),
  vmid: num,
  ctime: num,
  size: num,
  verification: v.fallback(v.nullable(v.object({ state: text })), null),
});
type Content = v.InferOutput<typeof Content>;

function asNumber(given: unknown): number | null {
  const value = typeof given === "string" && given.trim() !== "" ? Number(given) : given;
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : null;
}

// -- the node

/** Reads a node. */
export class Proxmox {
  #settings: ProxmoxSettings;
  #warn: Warn;
  #api: Client;
  #restMs: number;
  #specs = new Map<string, { listed: string; spec: GuestSpec; until: number }>();
  #backups = new Map<string, { all: Backup[]; until: number }>();

  /** @throws Error when `ca_file` can't be read. */
  constructor(settings: ProxmoxSettings, warn: Warn, { restMs = REST_MS }: { restMs?: number } = {}) {
    this.#restMs = restMs;
    this.#settings = settings;
    this.#warn = warn;
    this.#api = openApi(settings);
  }

  /** Reads the node. @throws Error when its status can't be read. */
  async read(signal: AbortSignal) {
    const { endpoint } = this.#settings;
    const status = await this.#get("/status", Status, signal);
    using late = deadline(this.#restMs);
    const rest = AbortSignal.any([signal, late.signal]);
    const [guests, storages] = await Promise.all([this.#guests(rest), this.#storages(rest)]);
    const isThisHost = isLoopback(new URL(endpoint).hostname);
    return {
      isThisHost,
      ...figuresOf(status, { isThisHost }),
      guests,
      storage_targets: storages.map(targetOf),
      backups: await this.#newestBackups(storages, rest),
    };
  }

  async #get<S extends v.GenericSchema>(path: string, schema: S, signal: AbortSignal): Promise<v.InferOutput<S>> {
    const fullPath = `/api2/json/nodes/${encodeURIComponent(this.#settings.node)}${path}`;
    const what = `ask Proxmox at ${this.#api.url} for ${fullPath}`;
    const { json } = await this.#api.ask({ what: "GET", path: fullPath, signal }).catch((error: unknown) => {
      throw new Error(`${what}${hintFor(error)}`, { cause: error });
    });
    const parsed = v.safeParse(v.object({ data: schema }), json);
    if (parsed.success) return parsed.output.data;
    const [issue] = parsed.issues;
    throw new Error(`${what}: unexpected answer: ${v.getDotPath(issue) ?? ""}: ${issue.message}`);
  }

  async #list<S extends v.GenericSchema>(path: string, element: S, signal: AbortSignal): Promise<v.InferOutput<S>[]> {
    const all = await this.#get(path, v.array(v.unknown()), signal);
    return fittingOf(element, all, { what: `an entry of ${path}`, warn: this.#warn });
  }

  /** Undefined if they can't be listed. */
  async #guests(signal: AbortSignal) {
    try {
      const [containers, machines] = await Promise.all([
        this.#list("/lxc", Listed, signal),
        // Only a full list says what a machine is doing.
        this.#list("/qemu?full=1", Listed, signal),
      ]);
      const all = [
        ...containers.map((one) => ({ kind: "lxc" as const, one })),
        ...machines.map((one) => ({ kind: "qemu" as const, one })),
      ].toSorted((a, b) => a.one.vmid - b.one.vmid);
      if (all.length > MOST_GUESTS) this.#warn("guests", `${all.length} guests: only ${MOST_GUESTS} are reported`);
      return await eachOf(all.slice(0, MOST_GUESTS), AT_ONCE, ({ kind, one }) => this.#guest(kind, one, signal));
    } catch (error) {
      this.#warn("guests", `guests not read, the report has none: ${errorChain(error)}`);
      return undefined;
    }
  }

  async #guest(kind: Kind, one: Listed, signal: AbortSignal) {
    const { vmid } = one;
    let spec: GuestSpec | undefined;
    try {
      spec = await this.#spec(kind, one, signal);
    } catch (error) {
      if (signal.aborted) this.#warn("late", "guests without spec: the node takes too long to answer");
      else this.#warn(`config ${kind} ${vmid}`, `guest ${vmid} (${kind}) without spec: ${errorChain(error)}`);
    }
    return { vmid, name: one.name?.slice(0, 255) ?? null, kind, status: statusOf(one), spec, controller_version: "" };
  }

  async #spec(kind: Kind, one: Listed, signal: AbortSignal): Promise<GuestSpec> {
    const { vmid, name, cpus, maxmem, maxdisk } = one;
    const listed = JSON.stringify([name, cpus, maxmem, maxdisk]);
    const known = this.#specs.get(`${kind} ${vmid}`);
    if (known?.listed === listed && performance.now() < known.until) return known.spec;
    const config = await this.#get(`/${kind}/${vmid}/config`, GuestConfig, signal);
    const spec = specOf(kind, config, one);
    this.#specs.set(`${kind} ${vmid}`, { listed, spec, until: performance.now() + CONFIG_MS });
    return spec;
  }

  async #storages(signal: AbortSignal): Promise<Storage[]> {
    try {
      return await this.#list("/storage", Storage, signal);
    } catch (error) {
      this.#warn("storage", `storages and backups not read: ${errorChain(error)}`);
      return [];
    }
  }

  async #newestBackups(storages: Storage[], signal: AbortSignal): Promise<Backup[]> {
    const holding = storages.filter(({ content, active }) => contents(content).includes("backup") && active !== 0);
    const lists = await eachOf(holding, AT_ONCE, async ({ storage }) => {
      const known = this.#backups.get(storage);
      if (known && performance.now() < known.until) return known.all;
      try {
        const path = `/storage/${encodeURIComponent(storage)}/content?content=backup`;
        const all = newestOf(storage, await this.#list(path, Content, signal));
        this.#backups.set(storage, { all, until: performance.now() + BACKUPS_MS });
        return all;
      } catch (error) {
        this.#warn(`backups ${storage}`, `backups on "${storage}" not read: ${errorChain(error)}`);
        return known?.all ?? [];
      }
    });
    return lists.flat();
  }
}

function openApi({ endpoint, token, ca_file, fingerprint }: ProxmoxSettings): Client {
  const secret = (token[0]?.reveal() ?? "").replace(/^PVEAPIToken=/, "");
  return openClient({
    url: endpoint.replace(/\/+$/, ""),
    ca_file,
    fingerprint,
    headers: { accept: "application/json", authorization: `PVEAPIToken=${secret}` },
    secrets: [new Secret(secret)],
    timeoutMs: ANSWER_MS,
    largestAnswer: LARGEST_ANSWER,
  });
}

function hintFor(error: unknown): string {
  const status = error instanceof HttpError ? error.status : null;
  if (status === 401) return " (is the token right? It has the form user@realm!id=uuid)";
  const grant = "pveum acl modify / --tokens … --roles PVEAuditor";
  return status === 403 ? ` (the token needs the role PVEAuditor on /: ${grant})` : "";
}

/** A node's figures and facts, as far as the API has them. */
function figuresOf(status: v.InferOutput<typeof Status>, { isThisHost }: { isThisHost: boolean }) {
  const { cpu, uptime, memory, rootfs, loadavg, swap, wait, cpuinfo, kversion, pveversion } = status;
  const kernel = status["current-kernel"]?.release ?? /\b\d+\.\d+\.\S+/.exec(kversion ?? "")?.[0] ?? null;
  const product = /^pve-manager\/([^/]+)/.exec(pveversion ?? "")?.[1];
  const memoryTotal = scaled(memory?.total, MIB, Math.floor);
  const diskTotal = scaled(rootfs?.total, GIB, Math.ceil);
  const share = (part: number | null) =>
    part === null ? null : Math.round(Math.min(Math.max(part, 0), 1) * 10_000) / 100;
  const metrics: Partial<HostMetrics> = {
    cpu_percent: share(cpu),
    // The API counts the cache of ZFS as used; /proc tells what of it can be given back.
    memory_used_mb: isThisHost ? null : scaled(memory?.used, MIB, Math.floor),
    memory_total_mb: memoryTotal,
    disk_used_gb: scaled(rootfs?.used, GIB, Math.ceil),
    disk_total_gb: diskTotal,
    uptime_seconds: scaled(uptime, 1, Math.floor),
    load_average: loadavg?.[0] ?? null,
    load_average_5: loadavg?.[1] ?? null,
    load_average_15: loadavg?.[2] ?? null,
    swap_used_mb: scaled(swap?.used, MIB, Math.floor),
    swap_total_mb: scaled(swap?.total, MIB, Math.floor),
    cpu_iowait_percent: share(wait),
  };
  const facts: Partial<HostFacts> = {
    cpu_count: cpusOf(cpuinfo?.cpus),
    memory_total_mb: memoryTotal,
    disk_total_gb: diskTotal,
    os: product === undefined ? null : `Proxmox VE ${product}`.slice(0, 80),
    kernel: kernel?.slice(0, 255) ?? null,
  };
  return { metrics: withoutNulls(metrics), facts: withoutNulls(facts) };
}

function withoutNulls<T extends object>(fields: T): Partial<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null)) as Partial<T>;
}

/** In whole units; null if the result is not a safe integer. */
function scaled(value: number | null | undefined, unit: number, whole: (n: number) => number): number | null {
  if (value === null || value === undefined) return null;
  const scale = whole(value / unit);
  return Number.isSafeInteger(scale) ? scale : null;
}

/** The receiver accepts 1 to 1024 CPUs. */
function cpusOf(cpus: number | null | undefined): number | null {
  const whole = scaled(cpus, 1, Math.ceil);
  return whole !== null && whole >= 1 && whole <= 1024 ? whole : null;
}

/** The status in the list is "running" for a machine that is paused, and "stopped" for a hibernated one and for a template. */
function statusOf({ status, qmpstatus, lock, template }: Listed): GuestStatus {
  if (template === 1) return "template";
  if (status === "stopped") return lock === "suspended" ? "hibernated" : "stopped";
  return MACHINE_STATUS.get(qmpstatus ?? status ?? "") ?? (status === "running" ? "running" : "unknown");
}

/** The words of a machine that is neither stopped nor running as usual. */
const MACHINE_STATUS = new Map<string, GuestStatus>([
  ["paused", "paused"],
  ["frozen", "paused"],
  ["prelaunch", "paused"],
  ["suspended", "paused"],
  ["io-error", "io-error"],
  ["internal-error", "internal-error"],
  ["guest-panicked", "internal-error"],
]);

/** A guest's resources by its configuration; if that lacks a field, the default or the list's value. */
function specOf(kind: Kind, config: Record<string, unknown>, { cpus, maxmem }: Listed) {
  const field = (name: string) => asNumber(config[name]);
  const cores = field("cores");
  // Since version 8 memory may be written as a list of properties: "current=2048".
  const { memory } = config;
  const current = asNumber(typeof memory === "string" ? memory.replace(/^current=|,.*$/g, "") : memory);
  return {
    // By default a container has all of the node's cores, and a machine has one core and one socket. The list's cpus of a
    // container may be its cpulimit, such as 0.5; the receiver accepts only whole numbers.
    cores: scaled(kind === "qemu" ? (cores ?? 1) * (field("sockets") ?? 1) : (cores ?? cpus), 1, Math.ceil),
    memory_mb: current ?? scaled(maxmem, MIB, Math.floor),
    disk_gb: diskGb(config),
  };
}

const DISK = /^(rootfs|mp\d+|ide\d+|sata\d+|scsi\d+|virtio\d+)$/;
const UNITS: Record<string, number> = { K: 2 ** -20, M: 2 ** -10, G: 1, T: 2 ** 10 };

/** The sum of the disks in GiB, without CD-ROMs; null if no disk has a size. */
function diskGb(config: Record<string, unknown>): number | null {
  const sizes = Object.entries(config).flatMap(([name, value]) => {
    if (!DISK.test(name) || typeof value !== "string" || /(^|,)media=cdrom(,|$)/.test(value)) return [];
    const [, digits, unit] = /(?:^|,)size=(\d+(?:\.\d+)?)([KMGT]?)(?:,|$)/.exec(value) ?? [];
    if (digits === undefined) return [];
    return [Number(digits) * (unit ? UNITS[unit]! : 1 / GIB)];
  });
  return sizes.length === 0 ? null : Math.round(sizes.reduce((all, size) => all + size, 0) * 100) / 100;
}

function contents(list: string | null): string[] {
  return (list ?? "").split(",").filter(Boolean);
}

function targetOf(one: Storage) {
  const { storage, type, content, active, enabled, shared, total, used } = one;
  return {
    name: storage,
    type,
    content: contents(content),
    active: active !== 0 && enabled !== 0,
    shared: shared === 1,
    total_bytes: total,
    used_bytes: used,
  };
}

/** The newest finished backup of each guest; an unfinished one of a backup server has size 1. `verified` is the backup server's own check: `ok`, `failed`; null if there was none. */
function newestOf(storage: string, content: Content[]) {
  const finished = content.filter(({ size }) => size === null || size > 1);
  const byGuest = Map.groupBy(finished, ({ vmid }) => vmid);
  return [...byGuest].map(([vmid, all]) => {
    const newest = all.reduce((best, one) => ((one.ctime ?? 0) > (best.ctime ?? 0) ? one : best));
    return {
      vmid,
      storage,
      volume: newest.volid,
      created_at: newest.ctime === null ? null : new Date(newest.ctime * 1000).toISOString(),
      size_bytes: newest.size,
      count: all.length,
      verified: newest.verification?.state ?? null,
    };
  });
}
