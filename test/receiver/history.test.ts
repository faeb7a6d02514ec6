// Samples, thinned out with age, and read back.

import { expect, test } from "bun:test";
import { Folder, until } from "../kit.ts";
import { Hub, container, faketime, report, reportAt, runUntil, startAt } from "./kit.ts";

test("one broken row does not stop the other hosts' figures from being rolled up", async () => {
  await using hub = new Hub();
  for (const host of ["web-1", "web-2"]) await hub.addHost(host);
  const at = Math.floor(Date.now() / 600_000 - 2) * 600_000;
  hub.change((db) => {
    for (const [host, figures] of [
      [1, '{"1":[1,2'],
      [2, '{"1":[1,2,3]}'],
    ] as const) {
      db.run("INSERT INTO host_samples (host, at, cpu_percent) VALUES (?, ?, 5)", [host, at]);
      db.run("INSERT INTO workload_samples (host, at, containers, guests) VALUES (?, ?, ?, '{}')", [host, at, figures]);
      db.run("INSERT INTO rollups_due (step, at, host) VALUES (600, ?, ?)", [at, host]);
    }
  });
  await hub.up();
  await hub.daemon.said(/loop=rollups error="roll up 600 s of host 1 /);
  expect(hub.rows("SELECT host FROM host_rollups WHERE step = 600")).toEqual([{ host: 2 }]);
});

const library = faketime("rollups with a clock that is set");

test.skipIf(!library)("samples that wait for their rollup outlive a long absence", async () => {
  using folder = new Folder();
  const { hub, clock } = await startAt(folder, library!, ["web-1"]);
  await using _ = hub;
  await reportAt(hub, 0);
  await hub.daemon.kill("SIGKILL");
  clock.offset(3 * 86_400);
  await hub.up();
  const rolled = () => hub.rows<{ metrics: string }>("SELECT metrics FROM host_rollups WHERE step = 86400");
  await until("the day is rolled up", () => rolled().length === 1);
  expect(JSON.parse(rolled()[0]!.metrics)).toMatchObject({ cpu_percent: [12.5, 12.5, 12.5, 1] });
});

test.skipIf(!library)(
  "samples become rollups, late ones too; old grains go, and a page over a year reads hundreds of rows",
  async () => {
    using folder = new Folder();
    const { hub, clock } = await startAt(folder, library!, ["web-1"]);
    await using _ = hub;
    const day = 86_400;
    const hourStart = Math.ceil(Date.now() / 3_600_000) * 3600 - Math.floor(Date.now() / 1000);
    const send = async (at: number, cpu: number, usage: number, more = {}) => {
      const body = report(
        {
          host: { metrics: { cpu_percent: cpu } },
          containers: [container("app", { metrics: { memory_usage_mb: usage, memory_limit_mb: 100 } })],
        },
        -at * 1000,
      );
      expect((await hub.report({ ...body, ...more })).status).toBe(200);
    };
    clock.offset(hourStart + 30);
    for (const [n, cpu] of [10, 20, 60].entries()) await send(hourStart + n * 5, cpu, cpu);
    clock.offset(hourStart + 3700);
    const hours = () => hub.rows<{ metrics: string }>("SELECT metrics FROM host_rollups WHERE step = 3600");
    await hub.daemon.kill();
    await hub.up();
    await until("the hour is rolled up", () => hours().length === 1);
    expect(JSON.parse(hours()[0]!.metrics)).toEqual({ cpu_percent: [10, 30, 60, 3] });
    // A late one makes it anew.
    await send(hourStart + 20, 100, 100, { sent_at: new Date(Date.now() + (hourStart + 3700) * 1000).toISOString() });
    await hub.daemon.kill();
    await hub.up();
    await until("the hour is made anew", () => hours()[0]!.metrics.includes("100"));
    expect(JSON.parse(hours()[0]!.metrics)).toEqual({ cpu_percent: [10, 47.5, 100, 4] });
    const iso = (seconds: number) => new Date(Date.now() + seconds * 1000).toISOString();
    const page = (query: string) =>
      hub.get<{ points: { min: number; mean: number; max: number }[]; step_seconds: number }>(
        `/v1/hosts/web-1/history?${query}`,
      );
    const range = `from=${iso(hourStart - 60)}&to=${iso(hourStart + 3600)}`;
    expect((await page(`metric=cpu_percent&${range}&points=1`)).points).toMatchObject([
      { min: 10, mean: 47.5, max: 100 },
    ]);
    expect((await page(`metric=cpu_percent&${range}&points=10000`)).points.length).toBe(4);
    expect((await page(`metric=memory_percent&container=app&${range}&points=1`)).points).toMatchObject([
      { min: 10, max: 100 },
    ]);
    const samples = (await page(`metric=memory_percent&container=app&${range}&points=10000`)).points;
    expect(samples.map(({ min, max }) => [min, max])).toEqual([10, 20, 60, 100].map((value) => [value, value]));
    // Three days later the samples are gone, after a year and a day the rest.
    const passed = async (seconds: number) => {
      await hub.daemon.kill();
      clock.offset(seconds);
      runUntil(hub, seconds);
      await hub.up();
    };
    await passed(hourStart + 3 * day);
    await until("raw samples are gone", () => hub.rows("SELECT 1 FROM host_samples").length === 0);
    await until("the day is rolled up", () => hub.rows("SELECT 1 FROM host_rollups WHERE step = 86400").length === 1);
    expect(
      (await page(`metric=cpu_percent&from=${iso(hourStart - day)}&to=${iso(hourStart + 3 * day)}`)).points,
    ).toMatchObject([{ mean: 47.5 }]);
    expect(
      (await page(`metric=cpu_percent&from=${iso(hourStart - 360 * day)}&to=${iso(hourStart + 3 * day)}`)).step_seconds,
    ).toBeGreaterThan(86_400);
    await passed(hourStart + 368 * day);
    await until(
      "rollups are gone",
      () => hub.rows("SELECT 1 FROM host_rollups").length + hub.rows("SELECT 1 FROM workload_rollups").length === 0,
    );
    const bad = async (query: string) => (await fetch(`${hub.url}/v1/hosts/web-1/history?${query}`)).status;
    expect([
      await bad("metric=nothing"),
      await bad("from=never"),
      await bad("points=0"),
      await bad("container=none"),
    ]).toEqual([400, 400, 400, 404]);
  },
);
