// Reports that want to do harm, come late, slowly or twice.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { connect } from "node:net";
import { until } from "../kit.ts";
import { Hub, container, report } from "./kit.ts";

type Row = Record<string, unknown>;

describe("reports that want to do harm", () => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  });
  afterAll(() => hub[Symbol.asyncDispose]());

  test("lists that are too long are refused by their length, nested and endless values by what they are", async () => {
    const fields = async (more: Row) => {
      const answer = await hub.report(report(more));
      const { fields: all } = (await answer.json()) as { fields: { field: string }[] };
      return [answer.status, all.map(({ field }) => field)];
    };
    let deep: unknown = 1;
    for (let n = 0; n < 5000; n++) deep = [deep];
    const many = Array.from({ length: 500_000 }, () => 0);
    expect(await fields({ guests: many })).toEqual([422, ["guests"]]);
    expect(await fields({ containers: many })).toEqual([422, ["containers"]]);
    expect(await fields({ storage_targets: many })).toEqual([422, ["storage_targets"]]);
    expect(await fields({ containers: [container("a", { labels: { x: deep } })] })).toEqual([
      422,
      ["containers[0].labels"],
    ]);
    expect(await fields({ containers: [container("a", { ports: [deep] })] })).toEqual([422, ["containers[0].ports"]]);
    const endless = JSON.stringify(report())
      .replace('"load_average":0.5', '"load_average":1e999')
      .replace('"cpu_temp_c":41.5', '"cpu_temp_c":-1e999');
    const answer = await hub.report(endless);
    const { fields: named } = (await answer.json()) as { fields: { field: string }[] };
    expect(named.map(({ field }) => field)).toEqual(["host.metrics.load_average", "host.metrics.cpu_temp_c"]);
    const health = await fetch(`${hub.url}/v1/host-health/web-1`, {
      method: "PUT",
      headers: hub.bearer(),
      body: JSON.stringify(deep),
    });
    expect(health.status).toBe(422);
    const polluting = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}';
    expect(
      (
        await hub.report(
          JSON.stringify(report({ containers: [container("a", { labels: 0 })] })).replace(
            '"labels":0',
            `"labels":${polluting}`,
          ),
        )
      ).status,
    ).toBe(200);
    expect((await hub.report()).status).toBe(200);
  });

  test("one that comes slowly and is overtaken is a sign of life, and turns nothing back", async () => {
    const { hostname, port } = new URL(hub.url);
    const old = JSON.stringify(report({ containers: [container("old")] }));
    const socket = connect(Number(port), hostname);
    let answer = "";
    socket.on("data", (chunk) => (answer += chunk.toString()));
    const head = `POST /v1/host-report HTTP/1.1\r\nHost: x\r\nAuthorization: ${hub.bearer()["authorization"]}\r\nContent-Length: ${Buffer.byteLength(old)}\r\n\r\n`;
    socket.write(head + old.slice(0, 50));
    await until("it is in flight", async () =>
      (await (await fetch(`${hub.url}/metrics`)).text()).includes("in_flight 2"),
    );
    await Bun.sleep(5);
    expect((await hub.report(report({ containers: [container("new")] }))).status).toBe(200);
    const before = await hub.get<{ last_seen_at: string; last_recorded_at: string }>("/v1/hosts/web-1");
    await Bun.sleep(5);
    socket.write(old.slice(50));
    await until("it is answered", () => answer.startsWith("HTTP/1.1 200"));
    socket.destroy();
    const after = await hub.get<{ last_seen_at: string; last_recorded_at: string; containers: Row[] }>(
      "/v1/hosts/web-1",
    );
    expect(after.last_recorded_at).toBe(before.last_recorded_at);
    expect(Date.parse(after.last_seen_at)).toBeGreaterThan(Date.parse(before.last_seen_at));
    expect(after.containers.filter((one) => one["gone_at"] === null).map((one) => one["name"])).toEqual(["new"]);
  });
});

test("figures that took their time are no report from a queue", async () => {
  // More than half an interval; the host is online for two of them.
  await using hub = await Hub.start({ more: "poll_interval_seconds: 10" });
  expect((await hub.report(report({ sent_at: new Date().toISOString() }, 9000))).status).toBe(200);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
});
