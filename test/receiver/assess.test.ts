// What a report says is wrong, as alerts and lines: limits, their texts, how they end, and the settings of one host.
// Not tested here: the pace itself (forecast.test.ts), how lines are grouped (announce.test.ts).

import { describe, expect, test } from "bun:test";
import { inboxLines, until } from "../kit.ts";
import { Hub, TELLS_SOON, report, runOn } from "./kit.ts";

type Row = Record<string, unknown>;

const AT_ONCE = `${TELLS_SOON}\nalerts: { for_minutes: 0, clear_minutes: 0 }`;
const texts = (hub: Hub): string[] => inboxLines(hub.inbox, "ops").map(({ payload }) => String(payload));
const sources = (hub: Hub) => inboxLines(hub.inbox, "ops").map(({ source, priority }) => [source, priority]);

/** Sends a report with these parts of `host`, of a host that is not silent soon. */
async function send(
  hub: Hub,
  host: Row,
  { name = "nas", agoMs = 0, metrics = {} }: { name?: string; agoMs?: number; metrics?: Row } = {},
) {
  const body = report({ interval_seconds: 3600, host: { metrics, ...host } }, agoMs);
  expect((await hub.report(body, { host: name })).status).toBe(200);
}

const disk = (percent: number, more: Row = {}): Row => ({
  disks: [{ mount: "/", used_gb: percent / 25, total_gb: 4, used_percent: percent, inodes_used_percent: 3, ...more }],
});
const open = async (hub: Hub): Promise<string[]> =>
  (await hub.get<{ alerts: Row[] }>("/v1/alerts?state=open")).alerts.map(({ what }) => String(what));

/** Waits until all that was changed so far is told: an event of another host comes after it. */
async function settled(hub: Hub, lines: number): Promise<string[]> {
  await until(`${lines} lines`, () => texts(hub).length >= lines);
  return texts(hub);
}

test("a disk is told at 90, 95 and 99 percent, once each, and when it has room again for long", async () => {
  await using hub = await Hub.start({ hosts: ["nas"], more: TELLS_SOON });
  const what = "; du -xh / | sort -h | tail";
  let lines = 0;
  const step = async (percent: number, expected: string | null) => {
    await send(hub, disk(percent));
    if (expected !== null) expect((await settled(hub, ++lines))[lines - 1]).toBe(expected);
  };
  await step(89.9, null);
  await step(91, `nas: / is 91 % full (3.6 of 4.0 GB)${what}`);
  await step(94.9, null);
  await step(95.1, `nas: / is 95 % full (3.8 of 4.0 GB)${what}`);
  await step(80, null);
  await step(91, null);
  await step(99.2, `nas: / is 99 % full (4.0 of 4.0 GB)${what}`);
  // Less than a twentieth below, or not for long: it is not over.
  await step(86, null);
  await hub.daemon.kill("SIGKILL");
  runOn(hub, 5 * 60_000);
  await hub.up();
  await step(86, null);
  await step(85, null);
  expect(await open(hub)).toEqual(["disk.high /"]);
  await hub.daemon.kill("SIGKILL");
  runOn(hub, 5 * 60_000);
  await hub.up();
  await step(80, "nas: / has room again: it is 80 % full (3.2 of 4.0 GB)");
  expect(sources(hub)).toEqual([
    ["receiver:disk.high", "normal"],
    ["receiver:disk.high", "normal"],
    ["receiver:disk.high", "urgent"],
    ["receiver:disk.recovered", "normal"],
  ]);
  const { alerts } = await hub.get<{ alerts: Row[] }>("/v1/alerts");
  expect(alerts).toEqual([
    expect.objectContaining({ severity: "critical", figures: expect.objectContaining({ limit: 90 }) }),
  ]);
});

test("300 changes around the limit are two messages", async () => {
  await using hub = await Hub.start({ hosts: ["nas"], more: TELLS_SOON, target: "binary" });
  for (let change = 0; change < 300; change++) {
    if (change % 100 === 50) await hub.daemon.kill("SIGKILL").then(() => hub.up());
    await send(hub, disk(change % 2 === 0 ? 90.5 : 84));
  }
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  await send(hub, disk(84));
  await hub.daemon.kill("SIGKILL");
  runOn(hub, 5 * 60_000);
  await hub.up();
  await send(hub, disk(84));
  await settled(hub, 2);
  expect(sources(hub)).toEqual([
    ["receiver:disk.high", "normal"],
    ["receiver:disk.recovered", "normal"],
  ]);
  expect(hub.rows("SELECT 1 FROM alerts").length).toBe(1);
});

test("a disk that fills up is told with the time that is left; one that had a burst is not", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: AT_ONCE });
  // Half a terabyte that grows by 20 GB an hour: full in 5 hours.
  for (let minute = 58; minute >= 0; minute -= 2) {
    const agoMs = minute * 60_000;
    const grown = 400 - (20 * minute) / 60;
    await send(hub, disk(80, { used_gb: grown, total_gb: 500, used_percent: null }), { agoMs });
    const burst = minute > 30 ? 400 : 460;
    await send(hub, disk(80, { used_gb: burst, total_gb: 500, used_percent: null }), { agoMs, name: "pi" });
  }
  expect(await settled(hub, 1)).toEqual(
    [
      "nas: / will be full in about 5 h at the pace of the last hours (400.0 of 500.0 GB); du -xh / | sort -h | tail",
    ].map((text) =>
      expect.stringMatching(new RegExp(`^${text.replaceAll(/[/|()]/g, "\\$&").replace("400.0", "\\d+\\.\\d")}$`)),
    ),
  );
  expect(await open(hub)).toEqual(["disk.filling /"]);
  const { alerts } = await hub.get<{ alerts: { figures: { hours_left: number } }[] }>("/v1/alerts");
  expect(Math.abs(alerts[0]!.figures.hours_left / 5 - 1)).toBeLessThan(0.2);
});

const failed = { name: "caddy.service", state: "failed", detail: "exit 1" };
const pool = (state: string) => ({ pools: [{ name: "tank", kind: "zfs", state, detail: "sdb FAULTED" }] });
const smart = (passed: boolean) => ({ smart: [{ device: "sda", model: "WD40", passed, errors: 3 }] });
const sensor = (celsius: number) => ({ temperatures: [{ chip: "k10temp", label: "Tctl", celsius, critical: 95 }] });

describe("one event when it goes wrong, one when it is over", () => {
  test.each([
    [
      "unit",
      () => ({ units: [{ ...failed, since: new Date(Date.now() - 125_000).toISOString() }] }),
      { units: [] },
      ["unit.failed", "normal", "nas: unit caddy failed (exit 1) 2 min ago; systemctl status caddy"],
      "nas: unit caddy is no longer failed",
    ],
    [
      "pool",
      () => pool("degraded"),
      pool("online"),
      ["pool.degraded", "urgent", "nas: pool tank is degraded: sdb FAULTED; zpool status tank"],
      "nas: pool tank is online again",
    ],
    [
      "smart",
      () => smart(false),
      smart(true),
      ["smart.failing", "urgent", "nas: disk sda (WD40) says that it is failing, 3 errors; smartctl -a /dev/sda"],
      "nas: disk sda (WD40) passes its own test again",
    ],
    [
      "temperature",
      () => sensor(96),
      sensor(80),
      ["temperature.high", "urgent", "nas: k10temp Tctl is at 96 °C (limit 95 °C); sensors"],
      "nas: k10temp Tctl has cooled down to 80 °C",
    ],
    [
      "disk",
      () => disk(50, { inodes_used_percent: 93, mount: "/var lib" }),
      disk(50, { mount: "/var lib", used_gb: 21_862, total_gb: 43_724 }),
      ["disk.high", "normal", "nas: /var lib has used 93 % of its inodes; df -i '/var lib'"],
      "nas: /var lib has room again: it is 50 % full (21.3 of 42.7 TB)",
    ],
  ] as const)("%s", async (kind, wrong, well, [type, priority, text], recovered) => {
    await using hub = await Hub.start({ hosts: ["nas"], more: AT_ONCE });
    await send(hub, wrong());
    await send(hub, wrong());
    // What isn't known now begins and ends nothing.
    await send(hub, {});
    expect(await settled(hub, 1)).toEqual([text]);
    await send(hub, well);
    await send(hub, well);
    expect(await settled(hub, 2)).toEqual([text, recovered]);
    expect(sources(hub)).toEqual([
      [`receiver:${type}`, priority],
      [`receiver:${kind}.recovered`, "normal"],
    ]);
    const list = Object.keys(well)[0]!;
    expect((await hub.get(`/v1/hosts/nas`))[list]).toEqual(expect.any(Array));
  });

  test("doctor", async () => {
    await using hub = await Hub.start({ hosts: ["nas"], more: TELLS_SOON });
    await send(hub, {});
    const put = async (...checks: unknown[]) => {
      const headers = { ...hub.bearer("nas"), "content-type": "application/json" };
      const body = JSON.stringify({ state: "red", checks });
      expect((await fetch(`${hub.url}/v1/host-health/nas`, { method: "PUT", headers, body })).status).toBe(204);
    };
    const space = { name: "space /", state: "red", detail: "2 % free", fix: "df -h" };
    await put(space, null, { name: "clock", state: "yellow", detail: "40 s off" });
    expect(await settled(hub, 1)).toEqual(["nas: the doctor finds an error: space /: 2 % free; picket-agent doctor"]);
    await put({ ...space, state: "green" });
    expect((await settled(hub, 2))[1]).toBe("nas: the doctor finds no more errors");
    expect(sources(hub).map(([source]) => source)).toEqual(["receiver:doctor.red", "receiver:doctor.recovered"]);
  });

  test("loads, where the configuration asks for them", async () => {
    const limits = "cpu_percent: 95, memory_percent: 90, swap_percent: 50, load_per_cpu: 2";
    await using hub = await Hub.start({
      hosts: ["nas"],
      more: `${TELLS_SOON}\nalerts: { ${limits}, clear_minutes: 0 }`,
    });
    const busy = {
      cpu_percent: 99,
      memory_used_mb: 95,
      memory_total_mb: 100,
      swap_used_mb: 60,
      swap_total_mb: 100,
      load_average: 9,
    };
    const facts = { facts: { cpu_count: 4 } };
    await send(hub, facts, { metrics: busy });
    // For five minutes, through a restart.
    expect(await open(hub)).toEqual([]);
    await hub.daemon.kill("SIGKILL");
    runOn(hub, 5 * 60_000);
    await hub.up();
    await send(hub, facts, { metrics: busy });
    expect((await settled(hub, 4)).toSorted()).toEqual([
      "nas: 60 % of its swap is used (limit 50); free -m",
      "nas: 95 % of its memory is used (limit 90); ps -eo rss,pid,comm --sort -rss | head",
      "nas: its CPUs are 99 % busy (limit 95); ps -eo pcpu,pid,comm --sort -pcpu | head",
      "nas: its load is 2.3 for each CPU (limit 2); uptime",
    ]);
    await send(hub, facts, {
      metrics: { ...busy, cpu_percent: 1, memory_used_mb: 1, swap_used_mb: 1, load_average: 1 },
    });
    expect((await settled(hub, 8)).filter((text) => text.endsWith(")")).toSorted()[0]).toBe(
      "nas: 1 % of its memory is used (limit 90)",
    );
  });
});

test("a paused host raises nothing, and the end of the pause tells what is still wrong", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: AT_ONCE });
  await send(hub, {});
  expect((await hub.run("host", "pause", "nas", "3d")).code).toBe(0);
  await send(hub, { ...disk(99.5), ...pool("degraded") });
  await send(hub, pool("online"));
  await send(hub, pool("degraded"), { name: "pi" });
  await settled(hub, 1);
  expect(await open(hub)).toEqual(["pool.degraded tank", "disk.high /"]);
  await hub.daemon.kill("SIGKILL");
  await hub.up();
  expect((await hub.run("host", "resume", "nas")).code).toBe(0);
  expect(await settled(hub, 2)).toEqual([
    expect.stringContaining("pi: pool tank"),
    expect.stringContaining("nas: / is 99 %"),
  ]);
});

test("a host's own settings count, are shown, and can be taken back", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: AT_ONCE });
  const set = (...args: string[]) => hub.run("host", "set", "nas", ...args);
  const alert = (...all: string[]) => set(...all.map((one) => `--alert=${one}`));
  expect((await alert("disk_percent./backup=98", "temperature_c=70", "units.caddy.service=off")).stdout).toBe(
    "nas: alerts: disk_percent./backup=98 temperature_c=70 units.caddy.service=off, from its next report on\n",
  );
  const disks = [...(disk(97, { mount: "/backup" })["disks"] as Row[]), ...(disk(92)["disks"] as Row[])];
  await send(hub, { disks, ...sensor(71), units: [failed, { ...failed, name: "db.service" }] });
  expect((await open(hub)).toSorted()).toEqual([
    "disk.high /",
    "temperature.high k10temp Tctl",
    "unit.failed db.service",
  ]);
  expect((await hub.run("host", "list")).stdout).toMatch(/^nas .* disk_percent.\/backup=98 temperature_c=70 units/m);
  expect(await hub.get("/v1/hosts/nas")).toMatchObject({
    alert_settings: { "disk_percent./backup": 98 },
    offline_is_fine: false,
  });
  await alert(
    "disk_percent=off",
    "temperature_c=default",
    "units.caddy.service=default",
    "disk_percent./backup=default",
    "containers=stopped",
  );
  await send(hub, { disks, ...sensor(60), units: [failed] });
  expect(await open(hub)).toEqual(["unit.failed caddy.service"]);
  expect(JSON.parse((await hub.run("host", "list", "--json")).stdout)).toEqual([
    expect.objectContaining({ id: "nas", alerts: { disk_percent: "off", containers: ["stopped"] } }),
    expect.objectContaining({ id: "pi", alerts: {}, offline_is_fine: false }),
  ]);
  for (const [given, said] of [
    ["disk_percnt=98", 'did you mean "disk_percent"?'],
    ["disk_percent", "is not KEY=VALUE"],
    ["disk_percent./=101", "expected a number of percent over 0, up to 100, or off"],
    ["containers=odd", "expected a list of unhealthy, restarting, stopped, or off"],
    ["containers=[stopped]", "such as containers=stopped,restarting"],
    ["units=on", 'expected "failed", or off'],
    ["disk_percent.=98", 'no name after "disk_percent."'],
    ["cpu_percent.eth0=98", '"cpu_percent" is for the whole host only'],
  ] as const) {
    const { code, stderr } = await alert(given);
    expect([given, code, stderr]).toEqual([given, 2, expect.stringContaining(said)]);
  }
  expect((await set("--offline-is-fine", "--offline-is-alert")).stderr).toContain("not both");
});

test("a host whose silence is fine goes offline and comes back without a line", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: TELLS_SOON });
  expect((await hub.run("host", "set", "nas", "--offline-is-fine")).stdout).toContain("alerts: offline-is-fine");
  for (const host of ["nas", "pi"]) expect((await hub.report(report(), { host })).status).toBe(200);
  await settled(hub, 1);
  await send(hub, {});
  await send(hub, {}, { name: "pi" });
  await settled(hub, 2);
  expect(texts(hub)).toEqual([expect.stringContaining("pi is offline"), expect.stringContaining("pi is back")]);
  expect((await hub.run("host", "set", "nas", "--offline-is-alert")).stdout).toContain("alerts: as for all others");
  expect(hub.rows("SELECT offline_is_fine FROM hosts WHERE name = 'nas'")).toEqual([{ offline_is_fine: 0 }]);
});

test("wrong alerts in the configuration are refused, each with its line", async () => {
  const hub = new Hub({
    more: "alerts:\n  disk_percent: 200\n  units: on\n  disk_ful_hours: 3\n  containers: [odd]\n  remind_hours: off",
  });
  await using _ = hub;
  const { code, stderr } = await hub.run("--check");
  expect(code).toBe(78);
  for (const said of [
    ":5:17: alerts.disk_percent: expected a number of percent over 0, up to 100, or off",
    'alerts.units: expected "failed", or off',
    'did you mean "disk_full_hours"?',
    "alerts.containers: expected a list of unhealthy, restarting, stopped, or off",
    "alerts.remind_hours: expected a number of hours",
  ]) {
    expect(stderr).toContain(said);
  }
});
