// Collects one report from all sources. A source that fails is left out or null, and the failure is logged. Only the status of a
// configured Proxmox node is required: a report without it would describe another host.

import { type Log, errorChain, seldom } from "../log.ts";
import { build } from "../version.ts";
import type { Config } from "./config.ts";
import { type DockerContainer, dockerVersion, findEngine, readContainers } from "./docker.ts";
import { fit } from "./fitting.ts";
import { HostReader } from "./host.ts";
import { type NodeReading, Proxmox } from "./proxmox.ts";
import type { Warn } from "./source.ts";

type SourceSettings = Pick<Config, "disks" | "docker" | "proxmox" | "host_id" | "services" | "omit">;

/** A report as it is sent; `recorded_at` is when its collection began. */
export type Report = { recorded_at: string; containers?: unknown[]; guests?: unknown[] } & Record<string, unknown>;

const HOUR_MS = 3_600_000;
/** From the creation of a sampler to its first report: CPU use is measured between two samples. */
export const FIRST_SAMPLE_MS = 200;

/** Collects reports. CPU use is measured since the last one, or since its creation. */
export class Sampler {
  #settings: SourceSettings;
  #env: Record<string, string | undefined>;
  #host: HostReader;
  #proxmox: Proxmox | null;
  #warn: Warn;
  #engine: { socket: string; version: string; until: number } | null = null;

  constructor(settings: SourceSettings, { env, log }: { env: Record<string, string | undefined>; log: Log }) {
    this.#settings = settings;
    this.#env = env;
    const seldomly = seldom(log);
    this.#warn = (kind, text) => seldomly.warn(kind, text);
    const { disks, services, omit } = settings;
    this.#host = new HostReader({ root: "/", disks, services, omit, warn: this.#warn });
    this.#proxmox = settings.proxmox ? new Proxmox(settings.proxmox, this.#warn) : null;
  }

  /** The container engine's socket or address; null if there is none yet. */
  get dockerSocket(): string | null {
    const { enabled, socket } = this.#settings.docker;
    return enabled ? findEngine(socket, this.#env) : null;
  }

  /** This host's own part of a report, with what otherwise comes with a later one. */
  async host() {
    return (await this.#host.readAll()).host;
  }

  /** Why what of this host can't be read, by source. */
  hostTroubles = () => this.#host.troubles();

  /** The containers; undefined if there is no engine, or if it doesn't answer (logged). */
  async containers(signal: AbortSignal): Promise<DockerContainer[] | undefined> {
    const socket = this.dockerSocket;
    if (socket === null) return undefined;
    try {
      return await readContainers(socket, { signal, env: this.#env, warn: this.#warn });
    } catch (error) {
      this.#warn("docker", `containers not read: the report goes without them: ${errorChain(error)}`);
      return undefined;
    }
  }

  /** The node of Proxmox VE; null if none is configured. @throws Error when its status can't be read. */
  async node(signal: AbortSignal): Promise<NodeReading | null> {
    return this.#proxmox ? this.#proxmox.read(signal) : null;
  }

  /** Collects a report. @throws Error when the configured Proxmox node doesn't answer. */
  async sample({ interval, signal }: { interval: number; signal: AbortSignal }): Promise<Report> {
    const recorded_at = new Date().toISOString();
    const { host_id } = this.#settings;
    const [node, containers, docker_version, { host, services }] = await Promise.all([
      this.node(signal),
      this.containers(signal),
      this.#dockerVersion(signal),
      this.#host.read(),
    ]);
    const cloudflared = services.find(({ name }) => /^cloudflared(\.service)?$/.test(name));
    // A node that is another machine has figures that this host can't read, and none of this host's lists.
    const own = node?.isThisHost === false ? { metrics: asNulls(host.metrics), facts: asNulls(host.facts) } : host;
    const report: Report = {
      recorded_at,
      ...(host_id === undefined ? {} : { host_id }),
      agent_version: build,
      interval_seconds: interval,
      host: {
        ...own,
        metrics: { ...own.metrics, ...node?.metrics },
        facts: { ...own.facts, ...node?.facts, docker_version },
      },
      ...(containers === undefined ? {} : { containers }),
      ...(node?.guests ? { guests: node.guests } : {}),
      ...(cloudflared ? { cloudflared: { status: cloudflared.status } } : {}),
      ...(services.length > 0 ? { services } : {}),
      storage_targets: node?.storage_targets ?? [],
      backups: node?.backups ?? [],
      restore_tests: [],
      pbs_snapshots: [],
      audit_tail: [],
    };
    return fit(report, this.#warn);
  }

  /** Requested once an hour. */
  async #dockerVersion(signal: AbortSignal): Promise<string | null> {
    const socket = this.dockerSocket;
    if (socket === null) return null;
    const known = this.#engine;
    if (known?.socket === socket && performance.now() < known.until) return known.version;
    const version = await dockerVersion(socket, { env: this.#env, signal }).catch(() => null);
    if (version !== null) this.#engine = { socket, version, until: performance.now() + HOUR_MS };
    return version;
  }
}

function asNulls(fields: object): Record<string, null> {
  return Object.fromEntries(Object.keys(fields).map((name) => [name, null]));
}
