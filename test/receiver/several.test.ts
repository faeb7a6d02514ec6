// Several receivers on one store: one leads, all take and show. Behind a balancer, and with the database dying, too: e2e/scale-faults.test.ts.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { until } from "../kit.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { type Hub, report } from "./kit.ts";
import { Several, healthOf } from "./several.ts";

const programs = postgresPrograms("several receivers on one store");

describe.skipIf(!programs)("several receivers on one store", () => {
  let server: Postgres;
  beforeAll(async () => void (server = await Postgres.start(programs!, { fsync: "off" })));
  afterAll(() => server[Symbol.asyncDispose]());

  test("what one takes all show, in their API, streams and pages, and it is told once", async () => {
    await using several = await Several.start(server, {
      more: "poll_interval_seconds: 1\nrate_limit_per_minute: 1000",
    });
    const [a, b, c] = several.hubs as [Hub, Hub, Hub];
    const leading = await Promise.all(several.hubs.map(async (hub) => (await healthOf(hub)).leads));
    expect(leading.filter(Boolean)).toEqual([true]);
    const streams = await Promise.all(several.hubs.map((hub) => listen(hub, "/v1/events")));
    const pages = await Promise.all(several.hubs.map((hub) => listen(hub, "/live?of=/")));
    await until("the pages are followed", () => pages.every((page) => page().includes("event: hello")));
    const metrics = { ...(report() as { host: { metrics: object } }).host.metrics };
    const at = new Date().toISOString();
    expect(
      (await a.report({ ...report(), recorded_at: at, host: { metrics: { ...metrics, cpu_percent: 77.5 } } })).status,
    ).toBe(200);
    for (const hub of [b, c])
      expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online", metrics: { cpu_percent: 77.5 } });
    await until("all pages show it", () => pages.every((page) => page().includes("web-1 is fine")));
    await until("it is told", () => several.told().length === 1);
    expect(several.told()[0]).toMatchObject({ source: "host.offline" });
    await b.report(report({ interval_seconds: 3600 }));
    await until("its end is told", () => several.told().length === 2);
    const events = await Promise.all(
      several.hubs.map((hub) => hub.get<{ events: { id: number; type: string }[] }>("/v1/events")),
    );
    const ids = events.map((one) => one.events.map(({ id }) => id));
    expect(ids).toEqual([ids[0]!, ids[0]!, ids[0]!]);
    await until("all streams have shown all", () =>
      streams.every((stream) => ids[0]!.every((id) => stream().includes(`id: ${id}\n`))),
    );
    const sent = streams.map((stream) => [...stream().matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id)));
    expect(sent).toEqual([ids[0]!, ids[0]!, ids[0]!]);
    const allShow = (what: string) => until(`pages show ${what}`, () => pages.every((page) => page().includes(what)));
    await until("they are quiet", () => pages.every((page) => page().split("web-1 is fine").length > 2));
    expect((await b.run("host", "add", "web-2")).code).toBe(0);
    await allShow("/hosts/web-2");
    // Without a hint, as if it had been lost with the connection.
    several.rows("UPDATE hosts SET name = 'web-3' WHERE name = 'web-2'");
    several.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    await allShow("/hosts/web-3");
  });

  test("an allowance is that of all together, and exact", async () => {
    await using several = await Several.start(server, { more: "rate_limit_per_minute: 20" });
    const ping = (n: number) => {
      const hub = several.hubs[n % several.hubs.length]!;
      return fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer() });
    };
    const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => ping(n)));
    const counts = Map.groupBy(answers, ({ status }) => status);
    expect([counts.get(200)?.length, counts.get(429)?.length]).toEqual([20, 40]);
    for (const answer of counts.get(429)!) expect(Number(answer.headers.get("retry-after"))).toBeWithin(1, 61);
    const aMinuteAgo = "ARRAY(SELECT one - 60000 * 1000000::bigint FROM unnest(taken) AS one)";
    several.rows(`UPDATE allowances SET taken = ${aMinuteAgo}`);
    const later = await Promise.all(Array.from({ length: 60 }, (_, n) => ping(n)));
    expect(later.filter(({ status }) => status === 200).length).toBe(20);
    // The row of a large one stays small.
    const waits = several.rows("SELECT picket_take('large', 5000, 1) FROM generate_series(1, 6000)").map(Number);
    expect(waits.filter((wait) => wait === 0).length).toBe(5000);
    expect(Math.max(...waits)).toBeWithin(1, 60_101);
    const [moments] = several.rows("SELECT cardinality(taken) FROM allowances WHERE key = 'large'");
    expect(Number(moments)).toBeLessThan(601);
  });

  test("a session, its end and a token's sender count at all", async () => {
    const more = "auth: { token: operators, bind_fingerprint: true }";
    await using several = await Several.start(server, { more });
    const [a, b, c] = several.hubs as [Hub, Hub, Hub];
    const login = await fetch(`${a.url}/login`, {
      method: "POST",
      body: new URLSearchParams({ token: "operators" }),
      headers: { origin: a.url },
      redirect: "manual",
    });
    const [cookie = ""] = (login.headers.get("set-cookie") ?? "").split(";");
    const reads = () =>
      Promise.all(
        several.hubs.map(async ({ url }) => (await fetch(`${url}/v1/hosts`, { headers: { cookie } })).status),
      );
    expect(await reads()).toEqual([200, 200, 200]);
    await fetch(`${b.url}/logout`, { method: "POST", headers: { cookie, origin: b.url }, redirect: "manual" });
    expect(await reads()).toEqual([401, 401, 401]);
    const ping = async ({ url }: Hub, agent: string) =>
      (await fetch(`${url}/v1/ping`, { method: "POST", headers: { ...a.bearer(), "user-agent": agent } })).status;
    const first = await Promise.all(several.hubs.flatMap((hub) => [ping(hub, "agent"), ping(hub, "other")]));
    const won = first[0] === 200 ? "agent" : "other";
    const statuses = async (agent: string) => Promise.all([ping(a, agent), ping(b, agent), ping(c, agent)]);
    expect([await statuses(won), await statuses(won === "agent" ? "other" : "agent")]).toEqual([
      [200, 200, 200],
      [401, 401, 401],
    ]);
  });

  test.concurrent.each(["SIGKILL", "SIGSTOP"] as const)(
    "the leader gets %s: another goes on within 15 s, and tells of the silent host alone, once",
    async (signal) => {
      const hosts = ["web-1", "web-2", "web-3", "silent"];
      await using several = await Several.start(server, {
        hosts,
        more: "poll_interval_seconds: 5\nrate_limit_per_minute: 10000",
      });
      await several.report(hosts);
      const leader = await several.leader();
      const died = performance.now();
      leader.daemon.child.kill(signal);
      await until("it has stopped", () => !several.running.includes(leader));
      const heard = hosts.slice(0, 3);
      let took = 0;
      await until("it is told", async () => {
        await several.report(heard);
        const leads = await Promise.all(several.running.map(async (hub) => (await healthOf(hub)).leads));
        if (took === 0 && leads.includes(true)) took = performance.now() - died;
        return several.told().length > 0;
      });
      expect(took).toBeLessThan(15_000);
      if (signal === "SIGSTOP") leader.daemon.child.kill("SIGCONT");
      else await leader.up();
      await until("the former leader is one of all again", async () => {
        await several.report(heard);
        return (await healthOf(leader)).leads === false;
      });
      const start = performance.now();
      await until("a while later", async () => {
        await several.report(heard);
        return performance.now() - start > 3000;
      });
      expect(several.told()).toEqual([
        { source: "host.offline", payload: expect.stringMatching(/^silent is offline/) },
      ]);
      expect(several.rows("SELECT DISTINCT h.name FROM events e JOIN hosts h ON h.id = e.host")).toEqual(["silent"]);
    },
  );
});

/** Reads a stream of events; gives what it has sent so far. */
async function listen(hub: Hub, path: string): Promise<() => string> {
  const answer = await fetch(hub.url + path, { headers: { accept: "text/event-stream" } });
  let text = "";
  void (async () => {
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) text += chunk;
  })().catch(() => {});
  return () => text;
}
