// The heartbeat: its interval, what the receiver answers, and what a broken round costs.

import { expect, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { Backlog } from "../../lib/agent/backlog.ts";
import type { Hub } from "../../lib/agent/hub.ts";
import { Reporter } from "../../lib/agent/reporter.ts";
import { TransportError } from "../../lib/client.ts";
import { createLog } from "../../lib/log.ts";
import { FakeHub, Lab, configure, refusal, start, waiting } from "./kit.ts";
import { Folder, until } from "../kit.ts";

test("an envelope that blocks is logged on the first report, too, and again only when it changes", async () => {
  let blocked = true;
  const hub = new FakeHub({ "/v1/host-report": () => Response.json({ blocked }) });
  using place = new Lab(hub, { more: "interval_seconds: 0.2\n" });
  await using agent = await place.start();
  await agent.said(/envelope.*\\"blocked\\":true/);
  await until("some more reports", () => hub.asked.filter((path) => path === "/v1/host-report").length > 3);
  blocked = false;
  await agent.said(/envelope.*\\"blocked\\":false/);
  expect(agent.log.filter((line) => line.includes("envelope")).length).toBe(2);
});

test("an interval that the answer to a waiting sample asks for takes effect at once", async () => {
  const live: string[] = [];
  const hub = new FakeHub({
    "/v1/host-report": async (request) => {
      const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
      if (sent_at === undefined) live.push(recorded_at);
      return Response.json({ poll_interval_seconds: sent_at === undefined && live.length === 1 ? 3600 : 60 });
    },
  });
  using place = new Lab(hub);
  mkdirSync(place.folder.at("agent/queue"), { recursive: true });
  const recorded_at = new Date(Date.now() - 60_000).toISOString();
  place.folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
  await using agent = await place.start();
  await agent.said(/interval adopted seconds=60 /);
  await until("the next report, an hour before its time", () => live.length > 1);
});

test("the interval that the receiver asks for is adopted within its bounds", async () => {
  for (const [asked, adopted] of [
    [5, 60],
    [120, 120],
    [99_999, 3600],
  ] as const) {
    using folder = new Folder();
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () =>
        Response.json({ poll_interval_seconds: asked, blocked: false, desired_generation: 0, has_signed_ops: false }),
    });
    await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t"));
    expect(await agent.said("interval adopted")).toContain(`seconds=${adopted}`);
    const said = `asks for a report every ${asked} s; this agent sends one every ${adopted} s`;
    expect(agent.log.some((line) => line.includes(said))).toBe(asked !== adopted);
    await agent.kill();
    await server.stop(true);
  }
});

test("three broken rounds, and the fourth works; Retry-After is obeyed; 422 drops and names the clock", async () => {
  using folder = new Folder();
  const answers = [
    () => Response.json({ poll_interval_seconds: 60 }, { status: 503 }),
    () => new Response("oops", { status: 500 }),
    () => new Response(null, { status: 302, headers: { location: "https://elsewhere.example" } }),
    () =>
      Response.json(
        { code: "broken", error: "recorded_at: is more than an hour ago" },
        { status: 422, headers: { date: new Date(Date.now() + 600_000).toUTCString() } },
      ),
    () => new Response(null, { status: 429, headers: { "retry-after": "2" } }),
  ];
  const at: number[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch(request) {
      // The doctor's requests are not of these rounds.
      if (!request.url.endsWith("/agent/telemetry")) return new Response(null, { status: 404 });
      at.push(performance.now());
      return answers[at.length - 1]?.() ?? new Response(null, { status: 204 });
    },
  });
  await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t", "protocol: telemetry\n"));
  await agent.said("answers again");
  await agent.said(/this report is dropped: this host's clock is \d+m .* behind the receiver's/);
  expect(at[5]! - at[4]!).toBeGreaterThan(1900);
  await agent.kill();
  await server.stop(true);
});

test("a wrong clock is logged once although the receiver accepts the report, and again when it is right", async () => {
  using folder = new Folder();
  let ahead = 600_000;
  let reports = 0;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch() {
      reports++;
      return new Response(null, { status: 204, headers: { date: new Date(Date.now() + ahead).toUTCString() } });
    },
  });
  await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t", "protocol: telemetry\n"));
  await agent.said(/warn .*this host's clock is \d+m \d+s behind the receiver's/);
  const before = reports;
  await until("some more reports", () => reports > before + 5);
  expect(agent.log.filter((line) => line.includes("behind the receiver's")).length).toBe(1);
  ahead = 0;
  await agent.said("clock agrees with the receiver's again");
  await agent.kill();
  await server.stop(true);
});

test("rejected after a first report, the agent retries long before the interval is over", async () => {
  using folder = new Folder();
  const live: string[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      if (!request.url.endsWith("/v1/host-report")) return new Response(null, { status: 404 });
      const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
      // The queued report makes the next report come at once; the one after it would be due in an hour.
      if (sent_at !== undefined) return Response.json({ poll_interval_seconds: 3600 });
      live.push(recorded_at);
      return live.length === 2
        ? refusal(401)
        : Response.json({ poll_interval_seconds: live.length === 1 ? 1800 : 3600 });
    },
  });
  const config = configure(folder, `http://127.0.0.1:${server.port}`, "t");
  mkdirSync(folder.at("agent/queue"), { recursive: true });
  const recorded_at = new Date(Date.now() - 60_000).toISOString();
  folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
  await using agent = await start(config);
  await agent.said("reports are queued");
  await agent.said("answers again");
  await until("what was refused has arrived", () => waiting(folder).length === 0);
  await agent.kill();
  await server.stop(true);
});

test("the queue is looked at only while a sample waits and live reports arrive", async () => {
  using folder = new Folder();
  let arrives = true;
  const hub: Hub = {
    async ask() {
      if (!arrives) throw new TransportError("report: no answer");
      return { status: 200, text: "{}", json: {}, body: { blocked: false }, headers: new Headers() };
    },
  };
  const reporter = new Reporter({
    hub,
    backlog: new Backlog(folder.at("queue"), 1 << 20),
    collect: async () => ({ recorded_at: new Date().toISOString() }),
    interval: 60,
    protocol: "report",
    log: createLog({ role: "agent", json: true, level: "error", write: () => {} }),
  });
  const pauseAfter = async (round: boolean) => {
    arrives = round;
    await reporter.round();
    return reporter.drainPause;
  };
  expect([await pauseAfter(true), await pauseAfter(false)]).toEqual([Infinity, Infinity]);
  expect(await pauseAfter(true)).toBeWithin(1, 5);
  await reporter.drain();
  expect([reporter.sent, reporter.drainPause]).toEqual([3, Infinity]);
});
