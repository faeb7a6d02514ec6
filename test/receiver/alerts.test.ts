// What gets worse or better on a host: an event, an alert, a line in the inbox, once.

import { describe, expect, test } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
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

test("after a backup is copied back every event is told, and a reader that is ahead or in between misses none", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 1000" });
  const file = join(hub.data, "receiver.db");
  const ill = async (...names: string[]) => {
    for (const name of names) {
      const body = report({ containers: [container(name, { health_status: "unhealthy" })] });
      expect((await hub.report(body)).status).toBe(200);
    }
  };
  type Page = { events: { id: number; subject: string }[]; next: number; reset?: boolean };
  const page = (since: number | string) => hub.get<Page>(`/v1/events?since=${encodeURIComponent(since)}`);
  const subjects = ({ events }: Page) => events.map(({ subject }) => subject);
  const told = (...names: string[]) =>
    until("it is told", () => {
      const lines = new Set(inboxLines(hub.inbox, "ops").map(({ payload }) => payload));
      return names.every((name) => lines.has(`web-1: container ${name} is unhealthy`));
    });
  await ill("app-1");
  await told("app-1");
  await hub.daemon.kill();
  copyFileSync(file, hub.folder.at("copy.db"));
  await hub.up();
  await ill("app-2", "app-3", "app-4");
  await told("app-2", "app-3", "app-4");
  const { events, next } = await page(0);
  expect(subjects({ events, next })).toEqual(["app-1", "app-2", "app-3", "app-4"]);
  await hub.daemon.kill();
  copyFileSync(hub.folder.at("copy.db"), file);
  await hub.up();
  expect(await page(next)).toMatchObject({ events: [{ subject: "app-1" }], next: 1, reset: true });
  const stop = new AbortController();
  const headers = { accept: "text/event-stream", "last-event-id": String(next) };
  const stream = await fetch(`${hub.url}/v1/events`, { headers, signal: stop.signal });
  let got = "";
  const listening = (async () => {
    for await (const chunk of stream.body!.pipeThrough(new TextDecoderStream())) got += chunk;
  })().catch(() => {});
  await ill("db-1", "db-2", "db-3", "db-4");
  await told("db-1", "db-2", "db-3", "db-4");
  await until("the stream has all", () => got.includes('"subject":"db-4"'));
  expect(got).toContain(`event: reset\ndata: {"since":${next},"newest":1}`);
  for (const name of ["app-1", "db-1", "db-2", "db-3", "db-4"]) expect(got).toContain(`"subject":"${name}"`);
  // Of the numbers that were lost none is another event's, also where there are as many events again.
  for (const { id } of events.slice(1))
    expect(subjects(await page(id)).slice(-4)).toEqual(["db-1", "db-2", "db-3", "db-4"]);
  const newest = (await page(1)).events.at(-1)!.id;
  expect(await page(new Date().toISOString())).toEqual({ events: [], next: newest });
  expect(await page(newest)).toEqual({ events: [], next: newest });
  expect(new Set(inboxLines(hub.inbox, "ops").map(({ id }) => id)).size).toBe(8);
  stop.abort();
  await listening;
});
