// Batteries and other supplies: /sys/class/power_supply, see the kernel's Documentation/ABI/testing/sysfs-class-power. A driver may
// have to ask a controller on a slow bus.

import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";

/** A report's `host.power`; null where the kernel has no such class. */
export async function readPower(root: string) {
  const folder = join(root, "sys/class/power_supply");
  const names = await readdir(folder).catch(() => null);
  if (names === null) return null;
  const supplies = [];
  for (const name of names.toSorted()) {
    const text = await readFile(join(folder, name, "uevent"), "utf8").catch(() => "");
    const field = (key: string) => new RegExp(`^POWER_SUPPLY_${key}=(.*)$`, "m").exec(text)?.[1]?.toLowerCase() ?? null;
    const capacity = field("CAPACITY");
    const online = field("ONLINE");
    supplies.push({
      name,
      kind: field("TYPE"),
      state: field("STATUS"),
      percent: capacity === null ? null : Number(capacity),
      online: online === null ? null : online !== "0",
    });
  }
  return supplies;
}
