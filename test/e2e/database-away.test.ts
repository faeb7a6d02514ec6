// A receiver whose database is away: it starts all the same, waits, serves on by itself, and says what is wrong where you look.

import { expect, test } from "bun:test";
import { listen } from "../fixtures/service/manager.ts";
import { until } from "../kit.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { Hub, report } from "../receiver/kit.ts";

const programs = postgresPrograms("a database that is away");

test.skipIf(!programs)(
  "a start waits for the database, and what comes while it is away is told to come again",
  async () => {
    await using server = await Postgres.start(programs!, { fsync: "off" });
    const status = `@picket-test-${crypto.randomUUID()}`;
    const manager = listen(status);
    await using hub = new Hub({ more: `store: ${server.database()}`, env: { NOTIFY_SOCKET: status } });
    await hub.addHost("web-1");
    await server.down("SIGQUIT");

    const { code, stderr } = await hub.run("host", "list");
    expect([code, stderr]).toEqual([1, expect.stringMatching(/error: the database at "127.0.0.1:\d+" is away: /)]);

    try {
      const started = hub.up();
      await until("the status line says why", () =>
        manager.messages().some((one) => /STATUS=waits: the database at .* is away.*\nEXTEND_TIMEOUT_USEC=/.test(one)),
      );
      await server.up();
      await started;
      expect((await hub.report()).status).toBe(200);

      await server.down("SIGQUIT");
      const answer = await hub.report(report());
      expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
      expect(await answer.json()).toMatchObject({ error: "the database is away; send it again later" });
      for (const path of ["/health", "/v1/hosts", "/"]) {
        const { status } = await fetch(hub.url + path);
        expect([path, status]).toEqual([path, 503]);
      }
      await server.up();
      await until("it takes reports again", async () => (await hub.report(report())).status === 200);
      await until("it is healthy", async () => (await fetch(`${hub.url}/health`)).status === 200);
    } finally {
      manager.close();
    }

    await server.down("SIGQUIT");
    expect(await hub.daemon.kill()).toBe(0);
    const [former, waiting] = [hub.daemon, hub.up().catch(() => {})];
    await until("the next one starts", () => hub.daemon !== former);
    await hub.daemon.said("the start waits");
    expect(await hub.daemon.kill()).toBe(0);
    await waiting;
  },
);
