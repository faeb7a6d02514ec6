// One report: what every source says now. A source that fails is left out or null, and said once per kind of failure.

import { version } from "../version.ts";
import type { Log } from "../log.ts";
import { errorChain } from "../log.ts";
import { dockerVersion, findSocket, readContainers } from "./docker.ts";
import { HostReader } from "./host.ts";
import { readServices } from "./services.ts";

export interface Sources {
  host: HostReader;
  /** The engine's socket; null where there is none. */
  docker: string | null;
  hostId: string | undefined;
  /** Units of systemd. */
  services: readonly string[];
}

/** What is to be looked at, by the configuration. */
export interface SourceSettings {
  disks: string[];
  docker: { enabled: boolean; socket: string };
  host_id?: string | undefined;
  services: string[];
}

/** Gets ready to look. CPU use counts from here on. */
export function openSources(settings: SourceSettings, env: Record<string, string | undefined>): Sources {
  const { disks, docker, host_id, services } = settings;
  return {
    host: new HostReader({ root: "/", mounts: disks }),
    docker: docker.enabled ? findSocket(docker.socket, env) : null,
    hostId: host_id,
    services,
  };
}

/** A report as it is sent; `recorded_at` is when it was begun. */
export type Report = { recorded_at: string } & Record<string, unknown>;

/** Collects one. Never throws: what can't be had is left out. */
export async function collect(
  { host, docker, hostId, services }: Sources,
  { interval, log, signal }: { interval: number; log: Log; signal: AbortSignal },
): Promise<Report> {
  const recorded_at = new Date().toISOString();
  const containers =
    docker === null
      ? undefined
      : await readContainers(docker, { signal }).catch((error: unknown) => {
          log.warn("containers not read: the report goes without them", { error: errorChain(error) });
          return undefined;
        });
  const units = await readServices(services);
  const cloudflared = units.find(({ name }) => /^cloudflared(\.service)?$/.test(name));
  const engine = docker === null ? null : await dockerVersion(docker).catch(() => null);
  return {
    recorded_at,
    ...(hostId === undefined ? {} : { host_id: hostId }),
    agent_version: version,
    interval_seconds: interval,
    host: { metrics: host.metrics(), facts: { ...host.facts(), docker_version: engine } },
    ...(containers === undefined ? {} : { containers }),
    ...(cloudflared ? { cloudflared: { status: cloudflared.status } } : {}),
    ...(units.length > 0 ? { services: units } : {}),
    storage_targets: [],
    backups: [],
    restore_tests: [],
    pbs_snapshots: [],
    audit_tail: [],
  };
}
