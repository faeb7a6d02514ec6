// What becomes of a report in the tables: facts that stay, containers and guests, samples.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { TARGETS } from "../kit.ts";
import { Hub, container, report } from "./kit.ts";

type Row = Record<string, unknown>;

describe.each(TARGETS)("%s", (target) => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({ target, hosts: ["web-1", "web-2"], more: "rate_limit_per_minute: 1000" });
  });
  afterAll(() => hub[Symbol.asyncDispose]());

  test("null and absent fields overwrite no fact; unknown fields are ignored", async () => {
    await hub.report(report({ host: { metrics: {}, facts: { kernel: "6.1", cpu_count: 8 } } }), { host: "web-2" });
    await hub.report(
      report({ host: { metrics: {}, facts: { cpu_count: null, os: "Debian" } }, novelty: { deep: [1] } }),
      { host: "web-2" },
    );
    expect(await hub.get("/v1/hosts/web-2")).toMatchObject({ facts: { kernel: "6.1", cpu_count: 8, os: "Debian" } });
  });

  test("a list that a report lacks stays as it was known", async () => {
    const [services, pools] = [[{ name: "caddy", status: "active" }], [{ name: "tank", state: "online" }]];
    const send = (host: object, more: object = {}) =>
      hub.report(report({ host: { metrics: {}, ...host }, ...more }), { host: "web-2" });
    const shown = () => hub.get("/v1/hosts/web-2");
    await send({ pools, power: [] }, { services });
    await send({ pools: null, power: [{ name: "BAT0" }] });
    expect(await shown()).toMatchObject({ pools, power: [{ name: "BAT0" }], services });
    await send({ power: [] });
    expect(await shown()).toMatchObject({ pools, power: [], services });
    await send({ pools: [] });
    expect(await shown()).toMatchObject({ pools: [], power: [], services });
    const [{ lists }] = hub.rows<{ lists: string }>(
      "SELECT lists FROM host_lists JOIN hosts ON id = host AND name = 'web-2'",
    ) as [{ lists: string }];
    expect(JSON.parse(lists)).toEqual({ pools: [] });
  });

  test("containers and guests are kept per host, with their figures; a missing one is marked gone and stays known", async () => {
    const guests = [
      {
        vmid: "101",
        name: "db",
        kind: "lxc",
        status: "running",
        spec: { cores: 2, memory_mb: 512, disk_gb: 8 },
        controller_version: "",
      },
      { vmid: 102, kind: "qemu" },
    ];
    await hub.report(
      report({ containers: [container("nginx"), container("db", { metrics: { memory_usage_mb: 5 } })], guests }),
    );
    await hub.report(report({ containers: [container("nginx")] }), { host: "web-2" });
    await hub.report(
      report({
        containers: [container("nginx", { status: "Up 4 hours" })],
        guests: [{ vmid: 101, kind: "lxc", status: "stopped" }],
      }),
    );
    // No list is no news: Docker could not be asked.
    await hub.report(report());
    const { containers, guests: shown } = await hub.get<{ containers: Row[]; guests: Row[] }>("/v1/hosts/web-1");
    expect(containers).toMatchObject([
      { name: "nginx", status: "Up 4 hours", gone_at: null, metrics: { memory_usage_mb: 50, memory_percent: 16.67 } },
      { name: "db", gone_at: expect.any(String), metrics: null },
    ]);
    expect(shown).toMatchObject([
      { vmid: 101, status: "stopped", spec: { cores: 2 }, gone_at: null },
      { vmid: 102, status: "unknown", spec: null, gone_at: expect.any(String) },
    ]);
    expect(
      hub.rows<Row>(
        "SELECT COUNT(*) AS n FROM containers WHERE container_id = (SELECT container_id FROM containers WHERE id = 1)",
      ),
    ).toEqual([{ n: 2 }]);
  });

  test("501 containers are too many; a container's id twice is one", async () => {
    const many = Array.from({ length: 501 }, (_, n) => container(`c${n}`));
    expect((await hub.report(report({ containers: many }), { host: "web-2" })).status).toBe(422);
    expect((await hub.report(report({ containers: [...many.slice(0, 499), many[0]] }), { host: "web-2" })).status).toBe(
      200,
    );
    expect((await hub.report(report({ containers: [] }), { host: "web-2" })).status).toBe(200);
  });
});

test("reports sent twice are one sample", async () => {
  await using hub = await Hub.start();
  const body = report({ containers: [container("app")] });
  await Promise.all([hub.report(body), hub.report(body), hub.report(body)]);
  expect(hub.rows("SELECT COUNT(*) AS n FROM host_samples")).toEqual([{ n: 1 }]);
  expect(hub.rows("SELECT COUNT(*) AS n FROM workload_samples")).toEqual([{ n: 1 }]);
});
