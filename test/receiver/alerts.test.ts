// What gets worse or better on a host: an event, an alert, a line in the inbox, once.

import { describe, expect, test } from "bun:test";
import { inboxLines, until } from "../kit.ts";
import { Hub, container, report } from "./kit.ts";

type Row = Record<string, unknown>;

describe("containers", () => {
  test("what gets worse or better is an event, an alert and a line in the inbox, once", async () => {
    await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000" });
    const send = async (more: Row) =>
      expect((await hub.report(report({ containers: [container("app", more)] }))).status).toBe(200);
    await send({ health_status: "starting" });
    await send({ health_status: "unhealthy" });
    await send({ health_status: "unhealthy", status: "Up 5 hours (unhealthy)" });
    const open = async () =>
      (await hub.get<{ alerts: { what: string }[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    expect(await open()).toEqual(["container.unhealthy app"]);
    await send({ state: "exited", status: "Exited (137) 1 second ago", health_status: null });
    expect(await open()).toEqual(["container.unhealthy app", "container.stopped app"]);
    await send({ health_status: "starting" });
    expect((await open()).length).toBe(2);
    await send({ health_status: "healthy" });
    expect(await open()).toEqual([]);
    await send({ state: "exited" });
    // Taken away: nobody's trouble any more.
    expect((await hub.report(report({ containers: [] }))).status).toBe(200);
    expect(await open()).toEqual([]);
    await until("all is told", () => inboxLines(hub.inbox, "ops").length === 4);
    expect(inboxLines(hub.inbox, "ops").map(({ payload, source }) => [payload, source])).toEqual([
      ["web-1: container app is unhealthy", "receiver:container.unhealthy"],
      ["web-1: container app has stopped (Exited (137) 1 second ago)", "receiver:container.stopped"],
      ["web-1: container app is well again", "receiver:container.recovered"],
      ["web-1: container app has stopped (Up 3 hours)", "receiver:container.stopped"],
    ]);
  });

  test("one that comes back unhealthy after a stop is told, and a renamed one leaves no alert behind", async () => {
    await using hub = await Hub.start();
    const send = (more: Row) => hub.report(report({ containers: [{ ...container("one"), ...more }] }));
    const open = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
    await send({ health_status: "healthy" });
    await send({ health_status: "unhealthy", state: "exited" });
    await send({ health_status: "unhealthy" });
    expect(await open()).toEqual(["container.stopped one", "container.unhealthy one"]);
    await send({ health_status: "unhealthy", name: "two" });
    await send({ health_status: "healthy", name: "two" });
    expect(await open()).toEqual([]);
  });

  test("a late report leaves samples and changes nothing of the present", async () => {
    await using hub = await Hub.start();
    await hub.report(report({ containers: [container("app")] }));
    const before = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
    const late = report(
      {
        containers: [container("app", { state: "exited" }), container("old")],
        sent_at: new Date().toISOString(),
        host: { metrics: { cpu_percent: 99 }, facts: { os: "older" } },
      },
      7_200_000,
    );
    expect((await hub.report(late)).status).toBe(200);
    const after = await hub.get<{ containers: Row[] }>("/v1/hosts/web-1");
    expect({ ...after, containers: after.containers.filter((one) => one["gone_at"] === null) }).toEqual(before);
    const { points } = await hub.get<{ points: { max: number }[] }>("/v1/hosts/web-1/history?metric=cpu_percent");
    expect(points.map(({ max }) => max)).toEqual([99, 12.5]);
  });
});
