// The temperatures of a host in °C: sensors of chips (/sys/class/hwmon, see the kernel's Documentation/hwmon/sysfs-interface.rst) and
// thermal zones. Each answer comes from a chip, some of them over a slow bus: they are read one after the other, in a thread.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type KernelFiles, inOrder, numberIn, openKernelFiles } from "./kernel-files.ts";

interface Sensor {
  /** The driver of the chip, or the type of the thermal zone. */
  chip: string;
  label: string;
  /** The file with the present value. */
  input: string;
  /** The sensor's own marks; null if it has none. */
  high: number | null;
  critical: number | null;
}

/** An element of a report's `host.temperatures`. */
type Temperature = Omit<Sensor, "label" | "input"> & { label: string | null; celsius: number };

/** What measures the CPU, the best first. A disk's, a board's or ACPI's sensor doesn't stand in for it. */
const KINDS: ((sensor: { chip: string; label: string | null }) => boolean)[] = [
  ({ chip }) => /^(coretemp|k\d+temp|zenpower|via_cputemp|x86_pkg_temp)$/.test(chip),
  ({ chip }) => /(^|[-_])(cpu|cpuss|big|little|bigcore|littlecore|cluster|tcpu|b0d4)(?![a-z])/i.test(chip),
  ({ chip }) => /^(soc|package|tj|scpi_sensors)(?![a-z])/i.test(chip),
  // A board's own chip, or a laptop's.
  ({ label }) => /^(cpu|cputin|tdie|tctl|peci|package id|soc)\b/i.test(label ?? ""),
];

/** The CPU's temperature: its hottest sensor. Null if nothing here measures it. */
export function cpuTemperature(all: Temperature[]): number | null {
  for (const isOfKind of KINDS) {
    const known = all.filter(isOfKind).map(({ celsius }) => celsius);
    if (known.length > 0) return Math.max(...known);
  }
  return null;
}

/** Some disks never sleep if their temperature is read more often than twice as long as they wait for that (the driver's documentation). */
const DISKS_CHIP = "drivetemp";
const DISK_AGAIN_MS = 3_600_000;

/** Reads a report's `host.temperatures`. What doesn't change is read once, until there are other chips. */
export function createTemperatures(root: string, clock: () => number): () => Promise<Temperature[]> {
  let sensors: Sensor[] = [];
  let chips = "";
  let disksDue = Number.NEGATIVE_INFINITY;
  const ofDisks = new Map<string, number | null>();
  return async () => {
    const files = openKernelFiles(root);
    const now = [...files.names("sys/class/hwmon"), ...files.names("sys/class/thermal")].join(" ");
    if (now !== chips) {
      ofDisks.clear();
      sensors = hwmonSensors(files);
      // The kernel makes a chip of some zones, and writes its name with _.
      const known = new Set(sensors.map(({ chip }) => chip));
      sensors.push(...thermalZones(files).filter(({ chip }) => !known.has(chip.replaceAll("-", "_"))));
    }
    chips = now;
    const all: Temperature[] = [];
    if (clock() >= disksDue) {
      ofDisks.clear();
      disksDue = clock() + DISK_AGAIN_MS;
    }
    for (const { input, label, ...sensor } of sensors) {
      const celsius = ofDisks.get(input) ?? celsiusOf(await readFile(join(root, input), "utf8").catch(() => null));
      if (sensor.chip === DISKS_CHIP) ofDisks.set(input, celsius);
      if (celsius !== null) all.push({ ...sensor, label: label || null, celsius });
    }
    return all;
  };
}

/** Before kernel 3.15 a chip's files are in its folder `device`. */
function hwmonSensors(files: KernelFiles): Sensor[] {
  return inOrder(files.names("sys/class/hwmon")).flatMap((hwmon) => {
    const folders = [`sys/class/hwmon/${hwmon}`, `sys/class/hwmon/${hwmon}/device`];
    const chip = folders.map((folder) => files.text(`${folder}/name`)?.trim()).find(Boolean) ?? "unknown";
    const sensors = folders.flatMap((folder) =>
      inOrder(files.names(folder)).flatMap((input) => {
        if (!/^temp\d+_input$/.test(input)) return [];
        const about = (what: string) => files.text(`${folder}/${input.replace("input", what)}`);
        const mark = (what: string) => celsiusOf(about(what) ?? null);
        const label = about("label")?.trim() ?? "";
        return [{ chip, label, input: `${folder}/${input}`, high: mark("max"), critical: mark("crit") }];
      }),
    );
    // AMD's control temperature may be the die's plus up to 27 degrees, for the fans' sake.
    return sensors.some(({ label }) => label === "Tdie") ? sensors.filter(({ label }) => label !== "Tctl") : sensors;
  });
}

function thermalZones(files: KernelFiles): Sensor[] {
  const zones = inOrder(files.names("sys/class/thermal").filter((zone) => zone.startsWith("thermal_zone")));
  return zones.map((zone) => {
    const folder = `sys/class/thermal/${zone}`;
    const points = files.names(folder).filter((name) => /^trip_point_\d+_type$/.test(name));
    const mark = (kind: string) => {
      const point = points.find((name) => files.text(`${folder}/${name}`)?.trim() === kind);
      return point === undefined ? null : celsiusOf(files.text(`${folder}/${point.replace("type", "temp")}`));
    };
    const chip = files.text(`${folder}/type`)?.trim() || zone;
    return { chip, label: "", input: `${folder}/temp`, high: mark("hot"), critical: mark("critical") };
  });
}

/** From thousandths of a degree; some vendors' kernels have whole degrees. */
function celsiusOf(text: string | null): number | null {
  const given = numberIn(text);
  if (given === null) return null;
  const degrees = Math.round(Math.abs(given) < 150 ? given * 10 : given / 100) / 10;
  // Sensors that aren't connected report 0, -273 or 255.
  return degrees > -40 && degrees < 150 && degrees !== 0 ? degrees : null;
}
