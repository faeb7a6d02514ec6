// The CPU's temperature in °C: its hottest sensor. A disk's, a board's or ACPI's doesn't stand in for it.

import { type KernelFiles, numberIn } from "./kernel-files.ts";

interface Sensor {
  /** The driver of the chip, or the type of the thermal zone. */
  chip: string;
  /** The folder of the chip's files, or the zone's. */
  folder: string;
  label: string;
  /** The file in the folder. */
  input: string;
}

/** What measures the CPU, the best first. A sensor is read only if its kind counts: a disk's answer may take long. */
const KINDS: ((sensor: Sensor) => boolean)[] = [
  ({ chip }) => /^(coretemp|k\d+temp|zenpower|via_cputemp|x86_pkg_temp)$/.test(chip),
  ({ chip }) => /(^|[-_])(cpu|cpuss|big|little|bigcore|littlecore|cluster|tcpu|b0d4)(?![a-z])/i.test(chip),
  ({ chip }) => /^(soc|package|tj|scpi_sensors)(?![a-z])/i.test(chip),
  // A board's own chip, or a laptop's.
  ({ label }) => /^(cpu|cputin|tdie|tctl|peci|package id|soc)\b/i.test(label),
];

/** Null if nothing here measures it. */
export function cpuTemperature(files: KernelFiles): number | null {
  const sensors = [...hwmonSensors(files), ...thermalZones(files)];
  for (const isOfKind of KINDS) {
    const known = sensors
      .filter(isOfKind)
      .flatMap(({ folder, input }) => celsiusOf(files.text(`${folder}/${input}`)) ?? []);
    if (known.length > 0) return Math.max(...known);
  }
  return null;
}

/** Before kernel 3.15 a chip's files are in its folder `device`. */
function hwmonSensors(files: KernelFiles): Sensor[] {
  return files.names("sys/class/hwmon").flatMap((hwmon) => {
    const folders = [`sys/class/hwmon/${hwmon}`, `sys/class/hwmon/${hwmon}/device`];
    const chip = folders.map((folder) => files.text(`${folder}/name`)?.trim()).find(Boolean) ?? "";
    const sensors = folders.flatMap((folder) =>
      files.names(folder).flatMap((input) => {
        if (!/^temp\d+_input$/.test(input)) return [];
        const label = files.text(`${folder}/${input.replace("input", "label")}`)?.trim() ?? "";
        return [{ chip, folder, label, input }];
      }),
    );
    // AMD's control temperature may be the die's plus up to 27 degrees, for the fans' sake.
    return sensors.some(({ label }) => label === "Tdie") ? sensors.filter(({ label }) => label !== "Tctl") : sensors;
  });
}

function thermalZones(files: KernelFiles): Sensor[] {
  const zones = files.names("sys/class/thermal").filter((zone) => zone.startsWith("thermal_zone"));
  return zones.map((zone) => {
    const folder = `sys/class/thermal/${zone}`;
    return { chip: files.text(`${folder}/type`)?.trim() ?? "", folder, label: "", input: "temp" };
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
