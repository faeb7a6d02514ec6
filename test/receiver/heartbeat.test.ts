// The receiver's own heartbeat, towards a job of another receiver and towards a peer that fails.

import { expect, test } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { beat } from "../../lib/receiver/heartbeat.ts";
import { Secret } from "../../lib/secret.ts";
import { inboxLines, until } from "../kit.ts";
import { Hub, TELLS_SOON, container, report } from "./kit.ts";

test("a receiver that works pings the job that another one has for it", async () => {
  await using other = new Hub();
  const { stdout } = await other.run("job", "add", "hub-2", "--every", "1m", "--grace", "5m");
  await other.up();
  const hub = new Hub();
  await using _ = hub;
  hub.configure(`heartbeat_url_file: ${hub.folder.write("url", other.url + new URL(stdout.trim()).pathname)}`);
  await hub.up();
  await until("it came", () => other.rows<{ status: string }>("SELECT status FROM jobs")[0]!.status === "up");
  expect(await hub.get("/health")).not.toHaveProperty("heartbeat_problem");
});

test("one that fails is logged once and shown in /health and the doctor, without its URL", async () => {
  using peer = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ url }) => new Response(`no ${url}`, { status: 500, statusText: new URL(url).pathname }),
  });
  const hub = new Hub({ more: `heartbeat_url: http://127.0.0.1:${peer.port}/ping/0b1c2d3e` });
  await using _ = hub;
  await hub.up();
  await hub.daemon.said("pass failed loop=heartbeat");
  const health = await hub.get("/health");
  expect(health["heartbeat_problem"]).toStartWith("heartbeat: answered 500");
  const { stdout } = await hub.run("--check", "--print");
  expect(stdout).toContain("[redacted]");
  expect([hub.daemon.log.join("\n"), JSON.stringify(health), stdout].join("\n")).not.toContain("0b1c2d3e");
  expect((await hub.get<{ hosts: object[] }>("/v1/hosts")).hosts).toEqual([]);
});

test("one that doesn't work is silent", async () => {
  const seen: string[] = [];
  using peer = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: ({ url }) => (seen.push(url), new Response("OK")) });
  const urls = ["a", "b"].map((path) => new Secret(`http://127.0.0.1:${peer.port}/${path}`));
  const heart = { last: { problem: null }, signal: new AbortController().signal };
  await beat({ ...heart, urls, works: async () => false });
  expect(seen).toEqual([]);
  await beat({ ...heart, urls, works: async () => true });
  expect(seen).toHaveLength(2);
  const far = beat({ ...heart, urls: [new Secret("http://192.0.2.1/secret-path")], works: async () => true });
  expect(await far.catch((error: Error) => error.message)).toMatch(
    /^heartbeat: no answer from \[redacted\]: .*private/,
  );
});

test("an inbox that can't be written is shown in /health until what waits is told", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  writeFileSync(hub.inbox, "");
  const app = (more: object) => report({ interval_seconds: 3600, containers: [container("app", { ...more })] });
  await hub.report(app({}));
  await hub.report(app({ health_status: "unhealthy" }));
  const problem = async () => (await hub.get("/health"))["inbox_problem"];
  await until("it is shown", async () => (await problem()) !== undefined);
  expect(await problem()).toStartWith("tell the inbox: ");
  rmSync(hub.inbox);
  await until("it is told", async () => (await problem()) === undefined);
  expect(inboxLines(hub.inbox, "ops").map(({ payload }) => payload)).toEqual([
    "web-1: container app is unhealthy; docker logs --tail 50 app",
  ]);
});

test.each(["hub.example", "ftp://hub.example/x"])("the URL %s is refused, and not repeated", async (url) => {
  await using hub = new Hub({ more: `heartbeat_url: ${url}` });
  const { code, stderr } = await hub.run("--check");
  expect([code, stderr]).toEqual([78, expect.stringMatching(/heartbeat_url: must be an http or https URL\n$/)]);
  expect(stderr).not.toContain("hub.example");
});
