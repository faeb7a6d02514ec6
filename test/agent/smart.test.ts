// What smartctl says of disks: JSON in the form that smartctl documents, for disks of each kind, from a smartctl that is a script.

import { expect, test } from "bun:test";
import { chmodSync, existsSync, readFileSync } from "node:fs";
import { createSmart } from "../../lib/agent/smart.ts";
import { Folder } from "../kit.ts";

const SCAN = {
  devices: [
    { name: "/dev/sda", info_name: "/dev/sda", type: "scsi", protocol: "SCSI" },
    { name: "/dev/sdb", info_name: "/dev/sdb", type: "scsi", protocol: "SCSI" },
    { name: "/dev/sdc", info_name: "/dev/sdc", type: "scsi", protocol: "SCSI" },
    { name: "/dev/nvme0", info_name: "/dev/nvme0", type: "nvme", protocol: "NVMe" },
    { name: "/dev/bus/0", info_name: "/dev/bus/0 [megaraid_disk_08]", type: "megaraid,8", protocol: "SCSI" },
  ],
};
const attribute = (id: number, name: string, value: number, raw: number) => ({ id, name, value, raw: { value: raw } });
const ANSWERS: Record<string, object> = {
  "/dev/sda": {
    smartctl: { version: [7, 3], exit_status: 0 },
    device: { name: "/dev/sda", type: "sat", protocol: "ATA" },
    model_name: "Samsung SSD 870 EVO 1TB",
    rotation_rate: 0,
    smart_status: { passed: true },
    ata_smart_attributes: {
      table: [
        attribute(5, "Reallocated_Sector_Ct", 100, 0),
        attribute(177, "Wear_Leveling_Count", 97, 42),
        attribute(187, "Uncorrectable_Error_Cnt", 100, 0),
      ],
    },
    power_on_time: { hours: 12_345 },
    temperature: { current: 31 },
  },
  "/dev/sdb": {
    smartctl: { exit_status: 8 },
    model_name: "WDC WD40EFRX-68N32N0",
    rotation_rate: 5400,
    smart_status: { passed: false },
    ata_smart_attributes: {
      table: [
        attribute(9, "Power_On_Hours", 40, 44_321),
        attribute(197, "Current_Pending_Sector", 200, 12),
        attribute(198, "Offline_Uncorrectable", 100, 11),
      ],
    },
    power_on_time: { hours: 44_321 },
    temperature: { current: 38 },
  },
  "/dev/sdc": {
    smartctl: {
      exit_status: 2,
      messages: [{ string: "Device is in STANDBY mode, exit(2)", severity: "information" }],
    },
  },
  "/dev/nvme0": {
    smartctl: { exit_status: 0 },
    model_name: "KINGSTON SNV2S1000G",
    smart_status: { passed: true, nvme: { value: 0 } },
    nvme_smart_health_information_log: { percentage_used: 6, media_errors: 3, temperature: 40 },
    power_on_time: { hours: 800 },
    temperature: { current: 40 },
  },
  "/dev/bus/0": {
    smartctl: { exit_status: 0 },
    scsi_model_name: "SEAGATE ST600MM0009",
    smart_status: { passed: true },
    scsi_grown_defect_list: 2,
    temperature: { current: 29, drive_trip: 65 },
  },
};

/** A smartctl that prints what the folder holds. */
function program(folder: Folder) {
  folder.write("scan", JSON.stringify(SCAN));
  for (const [device, answer] of Object.entries(ANSWERS))
    folder.write(device.slice(5).replace("/", "-"), JSON.stringify(answer));
  folder.write(
    "smartctl",
    `#!/bin/sh
cd ${folder.path}
echo "$*" >> calls
for last; do :; done
case "$last" in
--scan) cat scan;;
*) file=$(echo "$last" | sed 's,/dev/,,; s,/,-,'); [ ! -e hang-$file ] || exec sleep 100; cat $file;;
esac
`,
  );
  chmodSync(folder.at("smartctl"), 0o755);
  const before = process.env["PATH"];
  process.env["PATH"] = `${folder.path}:${before}`;
  return {
    calls: () => (existsSync(folder.at("calls")) ? readFileSync(folder.at("calls"), "utf8").trim().split("\n") : []),
    [Symbol.dispose]: () => void (process.env["PATH"] = before),
  };
}

test("each kind of disk, once an hour, without waking one; what sleeps keeps its last answer", async () => {
  using folder = new Folder();
  using smartctl = program(folder);
  let now = 0;
  const said: (string | null)[] = [];
  const smart = createSmart({ note: (_, why) => said.push(why), clock: () => now });
  // The first report doesn't wait for them.
  expect(smart.read()).toBeNull();
  await smart.answered();
  const none = { model: null, passed: null, temperature: null, power_on_hours: null, wear_percent: null, errors: null };
  const first = [
    {
      device: "/dev/sda",
      model: "Samsung SSD 870 EVO 1TB",
      passed: true,
      temperature: 31,
      power_on_hours: 12_345,
      wear_percent: 3,
      errors: 0,
    },
    {
      device: "/dev/sdb",
      model: "WDC WD40EFRX-68N32N0",
      passed: false,
      temperature: 38,
      power_on_hours: 44_321,
      wear_percent: null,
      errors: 12,
    },
    { device: "/dev/sdc", ...none },
    {
      device: "/dev/nvme0",
      model: "KINGSTON SNV2S1000G",
      passed: true,
      temperature: 40,
      power_on_hours: 800,
      wear_percent: 6,
      errors: 3,
    },
    {
      device: "/dev/bus/0 megaraid,8",
      model: "SEAGATE ST600MM0009",
      passed: true,
      temperature: 29,
      power_on_hours: null,
      wear_percent: null,
      errors: 2,
    },
  ];
  expect(smart.read()).toEqual(first);
  const ask = "--json -n standby -i -H -A";
  expect(smartctl.calls()).toEqual([
    "--json --scan",
    ...["/dev/sda", "/dev/sdb", "/dev/sdc", "-d nvme /dev/nvme0", "-d megaraid,8 /dev/bus/0"].map(
      (one) => `${ask} ${one}`,
    ),
  ]);
  // An hour later one sleeps that was awake, and one can't be opened any more.
  folder.write("sda", JSON.stringify(ANSWERS["/dev/sdc"]));
  const denied = { string: "Smartctl open device: /dev/sdb failed: Permission denied", severity: "error" };
  folder.write("sdb", JSON.stringify({ smartctl: { exit_status: 2, messages: [denied] } }));
  now = 3_600_000;
  expect(smart.read()).toEqual(first);
  await smart.answered();
  expect(smart.read()).toEqual(first.filter(({ device }) => device !== "/dev/sdb"));
  expect(said).toEqual([null, "/dev/sdb: Smartctl open device: /dev/sdb failed: Permission denied"]);
});

test("without smartctl, or where it sees no disk, nothing is reported or said", async () => {
  using folder = new Folder();
  const said: (string | null)[] = [];
  const read = async () => {
    const smart = createSmart({ note: (_, why) => said.push(why), clock: () => 0 });
    smart.read();
    await smart.answered();
    return smart.read();
  };
  const before = process.env["PATH"];
  process.env["PATH"] = folder.path;
  expect(await read()).toBeNull();
  process.env["PATH"] = before;
  using _ = program(folder);
  folder.write("scan", "{}");
  expect(await read()).toBeNull();
  expect(said).toEqual([null]);
});
