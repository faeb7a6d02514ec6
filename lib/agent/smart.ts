// What the disks say of themselves: smartctl's JSON (smartmontools 7), once an hour, in the background. A disk that sleeps isn't
// woken; it keeps its last answer. Without smartctl, or where it sees no disk, nothing is reported.

import { errorChain } from "../log.ts";
import { answerOf } from "../program.ts";
import type { Note } from "./source.ts";

const HOUR_MS = 3_600_000;
/** How long one disk may take. */
const DISK_MS = 30_000;
/** The bit of smartctl's exit code for a disk that can't be opened, and for one that sleeps. */
const NOT_ASKED = 2;

/** An element of a report's `host.smart`. */
interface Smart {
  device: string;
  model: string | null;
  /** The disk's own judgement. */
  passed: boolean | null;
  temperature: number | null;
  power_on_hours: number | null;
  /** 100: worn as far as its maker planned. */
  wear_percent: number | null;
  /** Media errors, or sectors that can't be read. */
  errors: number | null;
}

interface Disk {
  device: string;
  /** How smartctl is told of it. */
  args: string[];
}

/** Of an answer of smartctl: what is read of it. All of it depends on the disk. */
interface Answer {
  smartctl?: { exit_status?: number; messages?: { string?: string; severity?: string }[] };
  model_name?: string;
  scsi_model_name?: string;
  rotation_rate?: number;
  smart_status?: { passed?: boolean };
  temperature?: { current?: number };
  power_on_time?: { hours?: number };
  ata_smart_attributes?: { table?: { id?: number; name?: string; value?: number; raw?: { value?: number } }[] };
  nvme_smart_health_information_log?: { percentage_used?: number; media_errors?: number };
  scsi_percentage_used_endurance_indicator?: number;
  scsi_grown_defect_list?: number;
}

export function createSmart({ note, clock }: { note: Note; clock: () => number }) {
  let latest: Smart[] | null = null;
  let running: Promise<void> | null = null;
  let due = Number.NEGATIVE_INFINITY;

  async function askAll(): Promise<void> {
    const former = new Map(latest?.map((one) => [one.device, one]));
    const answers: Smart[] = [];
    const troubles: string[] = [];
    for (const disk of await scan()) {
      try {
        answers.push(await askDisk(disk, former.get(disk.device)));
      } catch (error) {
        troubles.push(errorChain(error));
      }
    }
    latest = answers.length > 0 ? answers : null;
    if (troubles.length > 0) throw new Error(troubles.join("; "));
  }

  function begin(): void {
    due = clock() + HOUR_MS;
    running = askAll()
      .then(
        () => note("smart", null),
        (error: unknown) => note("smart", errorChain(error)),
      )
      .then(() => void (running = null));
  }

  return {
    /** A report's `host.smart`: the last answers. */
    read(): Smart[] | null {
      if (!running && clock() >= due && Bun.which("smartctl", { PATH: process.env["PATH"] ?? "" }) !== null) begin();
      return latest;
    },
    /** Waits for the answers that are being asked for. */
    answered: async () => await running,
  };
}

/** The disks, also behind the controllers that smartctl knows. */
async function scan(): Promise<Disk[]> {
  const { text } = await answerOf(["smartctl", "--json", "--scan"]);
  const { devices = [] } = JSON.parse(text) as { devices?: { name: string; type?: string }[] };
  return devices.map(({ name, type = "scsi" }) => ({
    // Several disks behind one controller have its name.
    device: type.includes(",") ? `${name} ${type}` : name,
    // "scsi" is only a first guess: a SATA disk has that, too.
    args: type === "scsi" ? [name] : ["-d", type, name],
  }));
}

/** @throws Error when the disk can't be asked. */
async function askDisk({ device, args }: Disk, former: Smart | undefined): Promise<Smart> {
  const command = ["smartctl", "--json", "-n", "standby", "-i", "-H", "-A", ...args];
  const { text } = await answerOf(command, { ms: DISK_MS });
  const answer = JSON.parse(text) as Answer;
  const trouble = answer.smartctl?.messages?.find(({ severity }) => severity === "error")?.string;
  const isAsked = ((answer.smartctl?.exit_status ?? 0) & NOT_ASKED) === 0;
  if (!isAsked && trouble !== undefined) throw new Error(`${device}: ${trouble}`);
  if (!isAsked && former) return former;
  const attributes = answer.ata_smart_attributes?.table ?? [];
  const nvme = answer.nvme_smart_health_information_log;
  return {
    device,
    model: answer.model_name ?? answer.scsi_model_name ?? null,
    passed: answer.smart_status?.passed ?? null,
    temperature: answer.temperature?.current ?? null,
    power_on_hours: answer.power_on_time?.hours ?? null,
    wear_percent:
      nvme?.percentage_used ??
      answer.scsi_percentage_used_endurance_indicator ??
      wearOf(answer.rotation_rate, attributes),
    errors: nvme?.media_errors ?? answer.scsi_grown_defect_list ?? unreadable(attributes),
  };
}

type Attributes = NonNullable<NonNullable<Answer["ata_smart_attributes"]>["table"]>;

/** An SSD's attribute begins at 100 and goes down; makers have different names for it. */
function wearOf(rotation: number | undefined, attributes: Attributes): number | null {
  if (rotation !== 0) return null;
  const left = attributes.find(({ name = "" }) => /wearout|wear_level|life_?(left|time|remain)|lifetime/i.test(name));
  return left?.value === undefined ? null : Math.max(0, 100 - left.value);
}

/** Reported uncorrectable errors, pending sectors, and those that an offline scan couldn't read: they overlap. */
function unreadable(attributes: Attributes): number | null {
  const counts = attributes.filter(({ id = 0 }) => [187, 197, 198].includes(id)).flatMap(({ raw }) => raw?.value ?? []);
  return counts.length > 0 ? Math.max(...counts) : null;
}
