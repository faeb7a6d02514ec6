// What is PostgreSQL's alone in a receiver's store. All else is the same for both: PICKET_TEST_STORE=postgres runs the other tests on it.

import { afterAll, beforeAll, expect, test } from "bun:test";
import { until } from "../kit.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { Hub, container, report } from "./kit.ts";

const DAY_MS = 86_400_000;
const programs = postgresPrograms("a receiver on PostgreSQL");
const onPostgres = test.skipIf(programs === null);
let server: Postgres;
beforeAll(async () => void (programs !== null && (server = await Postgres.start(programs, { fsync: "off" }))));
afterAll(() => server?.[Symbol.asyncDispose]());

/** A receiver that is down, with a host, and what asks its database. */
async function receiver() {
  const url = server.database();
  const hub = new Hub({ more: `store: ${url}` });
  await hub.addHost("web-1");
  const ask = (text: string): string[] => {
    const { stdout, stderr } = server.psql(text, new URL(url).pathname.slice(1));
    if (stderr.length > 0) throw new Error(stderr.toString());
    return stdout.toString().trim().split("\n");
  };
  return { hub, ask, url };
}

onPostgres("a day of samples is a partition, made ahead, filled from the rest, and dropped whole", async () => {
  const { hub, ask } = await receiver();
  await using _ = hub;
  const today = Math.floor(Date.now() / DAY_MS);
  const name = (day: number) =>
    `host_samples_${new Date((today + day) * DAY_MS).toISOString().slice(0, 10).replaceAll("-", "")}`;
  const at = (day: number) => (today + day) * DAY_MS + 1;
  const days = (from: number, to: number) => `PARTITION OF host_samples FOR VALUES FROM (${at(from)}) TO (${at(to)})`;
  ask(`CREATE TABLE ${name(-9)} ${days(-9, -8)}`);
  for (const day of [-9, -8, -3, 0, 9]) ask(`INSERT INTO host_samples (host, at) VALUES (1, ${at(day)})`);
  await hub.up();
  expect((await hub.report()).status).toBe(200);
  await until("the old day is gone", () => ask(`SELECT to_regclass('${name(-9)}') IS NULL`)[0] === "t");
  const rows = 'SELECT tableoid::regclass::text COLLATE "C" AS part, COUNT(*) FROM host_samples GROUP BY 1 ORDER BY 1';
  // A time that lies ahead is of a wrong clock.
  await until("each is in its place", () => ask(rows).join() === `${name(0)}\t2,host_samples_rest\t1`);
  expect(ask(`SELECT to_regclass('${name(2)}')`)).toEqual([name(2)]);
});

onPostgres("texts with what PostgreSQL can't keep are taken, and no page fails for them", async () => {
  const { hub } = await receiver();
  await using _ = hub;
  await hub.up();
  const odd = "a\0b\ud800c\\u0000";
  const disks = [{ mount: `/${odd}`, size_gb: 100, used_gb: 99, used_percent: 99 }];
  const body = report({ containers: [container(odd, { state: "exited" }), container("app")] });
  Object.assign(body["host"] as object, { disks });
  const sent = await hub.report(body);
  expect([sent.status, await sent.text()]).toEqual([200, expect.stringContaining("poll_interval")]);
  const shown = await hub.run("status", "--json");
  expect([shown.code, shown.stderr]).toEqual([expect.any(Number), ""]);
  expect((await fetch(hub.url)).status).toBe(200);
  expect((await fetch(`${hub.url}/v1/hosts/web-1/history?metric=cpu_percent&container=app`)).status).toBe(200);
});

onPostgres("a command for a store's file says what PostgreSQL has for it; the doctor asks the database", async () => {
  const { hub, url } = await receiver();
  await using _ = hub;
  for (const [command, own] of [
    ["backup", "pg_dump"],
    ["restore", "pg_restore"],
  ] as const) {
    const { code, stderr } = await hub.run(command, hub.folder.at("file"));
    expect([code, stderr]).toEqual([2, expect.stringContaining(own)]);
    expect(stderr).toContain(url);
  }
  const well = await hub.run("doctor");
  expect(well.stdout).toMatch(/^green +store +PostgreSQL \d+.* answers/m);
  hub.configure(`store: ${url.replace(/\w+$/, "nowhere")}`);
  expect((await hub.run("doctor")).stdout).toMatch(/^red +store .*nowhere/m);
});
