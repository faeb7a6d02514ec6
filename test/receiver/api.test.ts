// What an operator reads.

import { expect, test } from "bun:test";
import { Folder, freePort, have, until } from "../kit.ts";
import { TELLS_SOON, Hub, container, report } from "./kit.ts";

test("events come as a stream, and go on after the last one that was read", async () => {
  await using hub = await Hub.start({ more: TELLS_SOON });
  const send = (state: string) =>
    hub.report(report({ interval_seconds: 3600, containers: [container("app", { state })] }));
  await send("running");
  await send("exited");
  await until("it is told", () => hub.rows("SELECT 1 FROM events").length === 1);
  const stop = new AbortController();
  const listen = async (got: string[], since?: string) => {
    const headers: Record<string, string> = {
      accept: "text/event-stream",
      ...(since ? { "last-event-id": since } : {}),
    };
    const answer = await fetch(`${hub.url}/v1/events`, { headers, signal: stop.signal });
    expect(answer.headers.get("content-type")).toStartWith("text/event-stream");
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) got.push(chunk);
  };
  const news: string[] = [];
  const listening = listen(news).catch(() => {});
  await until("it listens", () => news.join("").includes(": listening"));
  await send("running");
  await until("the news is there", () => news.join("").includes("container.recovered"));
  expect(news.join("")).not.toContain("container.stopped");
  const all: string[] = [];
  const again = listen(all, "0").catch(() => {});
  await until("all of it is there", () => all.join("").includes("container.recovered"));
  expect(all.join("")).toMatch(/id: 1\n?.*event: container\.stopped|event: container\.stopped[^]*id: 1/);
  stop.abort();
  await Promise.all([listening, again]);
  expect(await hub.get("/v1/events?limit=1")).toMatchObject({
    events: [{ type: "container.recovered", severity: "info", host: "web-1" }],
    next: 2,
  });
  expect(await hub.get("/v1/events?since=1")).toMatchObject({ events: [{ id: 2 }] });
  // A stream that is open doesn't keep the daemon from stopping.
  expect(await hub.daemon.kill()).toBe(0);
});

test.skipIf(!have("nginx", "the event stream behind nginx"))(
  "events pass nginx with its default settings at once",
  async () => {
    await using hub = await Hub.start({ more: `auth: { token: ours }\n${TELLS_SOON}` });
    using folder = new Folder();
    const port = freePort();
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${folder.at(name)};`)
      .join(" ");
    const config = `daemon off; master_process off; pid ${folder.at("pid")}; error_log ${folder.at("error.log")};
events {}
http { access_log off; ${temporary} server { listen 127.0.0.1:${port}; location / { proxy_pass ${hub.url}; } } }`;
    const nginx = Bun.spawn(["nginx", "-p", folder.path, "-c", folder.write("nginx.conf", config)], {
      stderr: "ignore",
    });
    const stop = new AbortController();
    const open = () =>
      fetch(`http://127.0.0.1:${port}/v1/events`, {
        headers: { accept: "text/event-stream", authorization: "Bearer ours" },
        signal: stop.signal,
      }).catch(() => null);
    try {
      const answer = await until("nginx is there", open);
      let got = "";
      const reading = (async () => {
        for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) got += chunk;
      })().catch(() => {});
      await until("it listens", () => got.includes(": listening"));
      for (const state of ["running", "exited"]) {
        await hub.report(report({ interval_seconds: 3600, containers: [container("app", { state })] }));
      }
      await until("the event is there", () => got.includes("container.stopped"));
      expect(answer.headers.get("cache-control")).toBe("no-cache");
      stop.abort();
      await reading;
    } finally {
      nginx.kill("SIGKILL");
      await nginx.exited;
    }
  },
);
