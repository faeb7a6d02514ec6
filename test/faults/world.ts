// A role in a world that can break: its process, its port, its disk, its clock, and the load on it.

import { existsSync, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Folder, command, freePort, have, startRole, until } from "../kit.ts";
import { Clock, faketime } from "../receiver/kit.ts";
import { CuttingProxy } from "../cutting-proxy.ts";
import { isRoot } from "../e2e/disk.ts";
import type { Chance } from "./chance.ts";
import type { Ledger } from "./oracle.ts";
import { Volume } from "./volume.ts";
import type { Request } from "./wire.ts";

/** Longer than this after a fault is not "within seconds", on a busy machine either. */
const ANSWERS_WITHIN_SECONDS = 30;
/** The pause after the few failures of a fault is a matter of seconds, too. */
const ARRIVES_WITHIN_SECONDS = 45;
/** A role has 3 s to end; a busy machine may add to that. */
const ENDS_WITHIN_MS = 15_000;
/** Descriptors that a role may hold more than at its calmest. */
const SPARE_DESCRIPTORS = 6;
const LOOKS = 50;
/** What a heap that has seen a storm may keep. */
const SPARE_MIB = 96;

/** Whether disks can be broken here. */
export const canBreakDisks = isRoot && have("mkfs.ext4", "power cuts, full and read-only disks");
/** Whether the kernel lets a file system be told that its device failed. */
export const canFailDisks = canBreakDisks && existsSync("/sys/fs/ext4");
if (canBreakDisks && !canFailDisks) console.log("skipped: read-only disks: there is no /sys/fs/ext4");
/** The library that sets a process's clock; null (said) where it isn't there. */
export const clockLibrary = faketime("clock jumps");

export const ROLES = ["collector", "receiver", "observer", "agent"] as const;
export type Role = (typeof ROLES)[number];

/** A request whose acknowledgement means something. */
export interface Handover {
  request: Request;
  /** Notes that it is about to be sent. */
  attempt: () => void;
  /** Notes the answer. */
  answered: (status: number) => void;
}

/** What a role's load and its oracle know. */
export interface Subject {
  /** Prepares whatever the role needs to be there, and writes its configuration. Called once. */
  prepare(): Promise<void>;
  /** The load: hands over, in many ways at once, until it is told to stop. */
  load(stop: AbortSignal): Promise<void>;
  /** A request of constant length, each with something else in it; null for a role that doesn't listen. */
  handover: ((chance: Chance) => Handover) | null;
  /** Asks the role to do its job once; gives whether it has. */
  probe(): Promise<boolean>;
  /** What was handed over as files and has not arrived yet. */
  waiting(): string[];
  /** Does what a calm world does before it is judged. */
  settle(): Promise<void>;
  /** What the role's files say that is wrong. */
  judge(): Promise<string[]>;
  /** Files that should not be there when all is calm. */
  litter(): string[];
  readonly ledger: Ledger;
  /** The role's clock, so many seconds away from ours. */
  clockOffset: number;
  end(): Promise<void>;
}

/** One role in its world. */
export class World implements AsyncDisposable {
  readonly folder: Folder;
  readonly port = freePort();
  readonly role: Role;
  readonly chance: Chance;
  /** Null where disks can't be broken. */
  readonly volume: Volume | null;
  /** Stands between the agent and its receiver; for other roles between the load and the role. */
  proxy!: CuttingProxy;
  subject!: Subject;
  daemon!: Daemon;
  readonly clock: Clock | null;
  /** Faults that may have torn what nobody was told of. */
  mayHaveTorn = 0;
  /** Positions at which requests were cut. */
  readonly cutPositions = new Set<number>();
  requestLength = 0;
  /** Slowest return to service, in milliseconds. */
  slowest = 0;
  #frozen: Promise<void> | null = null;
  #calm: { descriptors: number; mebibytes: number } | null = null;

  private constructor(role: Role, chance: Chance, volume: Volume | null, folder: Folder) {
    this.role = role;
    this.chance = chance;
    this.volume = volume;
    this.folder = folder;
    this.clock = clockLibrary === null ? null : new Clock(folder, clockLibrary);
  }

  /** A running role under no load yet. */
  static async make(
    role: Role,
    chance: Chance,
    subjectOf: (world: World) => Subject,
    megabytes: number,
  ): Promise<World> {
    const folder = new Folder();
    const volume = canBreakDisks ? await Volume.make(folder, megabytes) : null;
    const world = new World(role, chance, volume, folder);
    try {
      world.subject = subjectOf(world);
      await world.subject.prepare();
      await world.start();
      return world;
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Where the role's files lie. */
  get data(): string {
    return this.volume?.path ?? this.folder.path;
  }

  get config(): string {
    return this.folder.at(`${this.role}.yaml`);
  }

  get pid(): number {
    return this.daemon.child.pid;
  }

  /** Starts the role. */
  async start({ wrap = [], env = {} }: { wrap?: string[]; env?: Record<string, string> } = {}): Promise<void> {
    this.daemon = await startRole(this.role, ["--config", this.config], { target: "binary", wrap, env });
    await this.daemon.url();
  }

  /** Ends it as systemd does. @throws Error when it ends with anything but 0, or takes its time. */
  async stop(): Promise<void> {
    const began = performance.now();
    const code = await Promise.race([this.daemon.kill(), Bun.sleep(ENDS_WITHIN_MS).then(() => "no end")]);
    const took = performance.now() - began;
    if (code === 0 && took < ENDS_WITHIN_MS) return;
    throw new Error(`SIGTERM: ${code} after ${Math.round(took)} ms\n${this.lastWords()}`);
  }

  /** Ends it with SIGKILL. */
  async kill(): Promise<void> {
    await this.daemon.kill("SIGKILL");
  }

  lastWords(): string {
    return this.daemon.log.slice(-12).join("\n");
  }

  /** Waits until the role does its job, as after a fault. */
  async answers(): Promise<void> {
    const began = performance.now();
    await until(`the ${this.role} answers again`, () => this.subject.probe(), ANSWERS_WITHIN_SECONDS).catch((error) => {
      throw new Error(`${(error as Error).message}\n${this.lastWords()}`);
    });
    this.slowest = Math.max(this.slowest, performance.now() - began);
  }

  /** Waits until what was waiting has arrived. */
  async arrived(waiting: string[] | null = null): Promise<void> {
    const gone = (): boolean => {
      const now = this.subject.waiting();
      return waiting === null ? now.length === 0 : !waiting.some((one) => now.includes(one));
    };
    await until("what waits has arrived", gone, ARRIVES_WITHIN_SECONDS).catch((error: unknown) => {
      const waits = this.subject.waiting().slice(0, 5).join(", ");
      throw new Error(`${(error as Error).message}: ${waits}\n${this.lastWords()}`);
    });
  }

  /** Holds everybody who writes to the volume from outside, while `work` runs. */
  async frozen(work: () => Promise<void>): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#frozen = promise;
    try {
      await work();
    } finally {
      this.#frozen = null;
      resolve();
    }
  }

  /** Holds the role, too: each of its threads stands still, and no call into the kernel is under way. */
  async standing(work: () => Promise<void>): Promise<void> {
    await this.frozen(async () => {
      this.daemon.child.kill("SIGSTOP");
      const tasks = `/proc/${this.pid}/task`;
      const stands = (task: string) => {
        try {
          return readFileSync(join(tasks, task, "stat"), "utf8").includes(") T ");
        } catch {
          // A thread that has ended meanwhile: who is left is looked at again.
          return false;
        }
      };
      await until("it stands still", () => readdirSync(tasks).every(stands));
      await work();
      this.daemon.child.kill("SIGCONT");
    });
  }

  /** For those who write to the volume: what follows without an `await` is not interrupted. */
  async mayWrite(): Promise<void> {
    while (this.#frozen) await this.#frozen;
  }

  /** Notes what a calm role holds, for `leaks` to compare with: the least of many looks, as connections take a while to go. */
  async rememberCalm(): Promise<void> {
    const looks: number[] = [];
    while (looks.length < LOOKS) {
      looks.push(this.#descriptors().length);
      await Bun.sleep(20);
    }
    this.#calm = { descriptors: Math.min(...looks), mebibytes: this.#mebibytes() };
  }

  /** What it held when it was calm at first, and what it holds now. */
  get held(): string {
    const now = `${this.#descriptors().length} descriptors, ${this.#mebibytes()} MiB`;
    return `${this.#calm?.descriptors} descriptors, ${this.#calm?.mebibytes} MiB before, ${now} after`;
  }

  /** What a role holds, once it is calm, that it should not; waits for it to let go. */
  async leaks(): Promise<string[]> {
    const calm = this.#calm;
    if (calm === null) return [];
    const within = (probe: () => boolean) =>
      until("calm", probe, 20).then(
        () => true,
        () => false,
      );
    const most = calm.descriptors + SPARE_DESCRIPTORS;
    const complaints: string[] = [];
    if (!(await within(() => this.#descriptors().length <= most))) {
      const kinds = Map.groupBy(this.#descriptors(), (one) => one.replace(/\d+/g, "N"));
      const held = [...kinds].map(([kind, all]) => `${all.length} × ${kind}`);
      complaints.push(`descriptors leak: ${held.join(", ")}; calm: ${calm.descriptors}`);
    }
    if (!(await within(() => this.#mebibytes() <= calm.mebibytes + SPARE_MIB))) {
      complaints.push(`memory leaks: ${this.#mebibytes()} MiB; calm: ${calm.mebibytes}`);
    }
    if (!(await within(() => this.subject.litter().length === 0))) {
      complaints.push(`files are left: ${this.subject.litter().slice(0, 5).join(", ")}`);
    }
    return complaints;
  }

  /** What its descriptors are, as /proc tells it. */
  #descriptors(): string[] {
    const { exitCode, signalCode } = this.daemon.child;
    if (exitCode !== null || signalCode !== null) {
      throw new Error(`the ${this.role} has ended by itself: ${exitCode ?? signalCode}\n${this.lastWords()}`);
    }
    const folder = `/proc/${this.pid}/fd`;
    return readdirSync(folder).flatMap((fd) => {
      try {
        return [readlinkSync(join(folder, fd))];
      } catch {
        return [];
      }
    });
  }

  #mebibytes(): number {
    const resident = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${this.pid}/status`, "utf8"))?.[1];
    return Math.round(Number(resident) / 1024);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon?.[Symbol.asyncDispose]();
    this.proxy?.[Symbol.dispose]();
    await this.subject?.end();
    await this.volume?.[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

/** Compiles the roles before anything is timed. */
export async function compile(): Promise<void> {
  for (const role of ROLES) await command(role, "binary");
}
