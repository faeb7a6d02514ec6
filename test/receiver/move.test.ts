// A store that moves to PostgreSQL while its receiver runs: whole, killed, refused, and used afterwards.

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { DEFAULT_TARGET, Folder, ROOT, command, runRole, until } from "../kit.ts";
import { configure } from "../upgrade/record.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { S3 } from "../s3.ts";
import { Hub, bytesOf, report, sha256 } from "./kit.ts";
import { FLEET, LOADS, seedHomelab, writeYear } from "./page/seed.ts";
import { onFile } from "./store-kit.ts";

const programs = postgresPrograms("moving a store");

const DAY_MS = 86_400_000;

type Rows = Record<string, Record<string, unknown>[]>;

const OWN = new Set(["schema_version", "index_place", "moved"]);
/** As one text a row. A column of milliseconds has no fractions in PostgreSQL. */
const sorted = (rows: Record<string, unknown>[]) =>
  rows
    .filter(({ key }) => !OWN.has(key as string))
    .map((row) => Object.entries(row).toSorted(([a], [b]) => (a < b ? -1 : 1)))
    .map((row) =>
      JSON.stringify(row.map(([key, value]) => [key, key.endsWith("_ms") ? Math.round(value as number) : value])),
    )
    .toSorted();

/** All tables of a store but the index of the episodes. */
function here(data: string): Rows {
  const db = new Database(join(data, "receiver.db"), { readonly: true });
  const names = db.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").all();
  const tables = (names as { name: string }[]).map(({ name }) => name).filter((name) => name !== "episodes");
  const all = Object.fromEntries(tables.map((name) => [name, db.query(`SELECT * FROM ${name}`).all()])) as Rows;
  db.close();
  return all;
}

/** Expects that a database has what the store has. */
async function expectSame(data: string, url: string): Promise<void> {
  await using sql = new Bun.SQL(url, { bigint: true, max: 1 });
  for (const [name, rows] of Object.entries(here(data))) {
    const theirs = (await sql.unsafe(`SELECT * FROM ${name}`)) as Record<string, unknown>[];
    for (const row of theirs) for (const key in row) if (typeof row[key] === "bigint") row[key] = Number(row[key]);
    expect([name, sorted(theirs)]).toEqual([name, sorted(rows)]);
  }
}

const ago = (days: number): string => new Date(Math.floor(Date.now() / DAY_MS - days) * DAY_MS).toISOString();

/** What a receiver shows of its store. */
async function shown(hub: Hub) {
  const history = `/v1/hosts/nas/history?metric=cpu_percent&points=500&from=${ago(350)}&to=${ago(1)}`;
  const { hosts } = await hub.get<{ hosts: { id: string }[] }>("/v1/hosts");
  const { events } = await hub.get<{ events: { id: number }[] }>("/v1/events?limit=500");
  return {
    hosts: hosts.map(({ id }) => id),
    events,
    episodes: await hub.get("/v1/episodes"),
    jobs: await hub.get("/v1/jobs"),
    history: await hub.get(history),
  };
}

const written = (said: string): number =>
  Number(/^\d+ rows in \d+ tables: (\d+) written, all compared/.exec(said)?.[1]);

/** Runs it to its end; gives how many rows were written. */
async function move(hub: Hub, url: string, s3: S3, place: string): Promise<number> {
  const args = ["move", "--to", url, "--episodes", place, "--config", hub.config];
  const { code, stdout, stderr } = await runRole("receiver", args, { env: s3.env });
  expect([code, stderr]).toEqual([0, ""]);
  return written(stdout);
}

const refused = (what: string) => ({ code: 2, stdout: "", stderr: expect.stringContaining(what) });

// What moves is SQLite's file.
test.if(programs !== null && onFile)(
  "a store with a year of history moves beside its receiver, whatever happens meanwhile",
  async () => {
    await using server = await Postgres.start(programs!, { fsync: "off" });
    await using s3 = await S3.start();
    await using hub = await seedHomelab({ hours: 1 });
    writeYear(hub, "nas", LOADS.nas);
    const [url, place] = [server.database(), s3.place()];
    const moved = () => move(hub, url, s3, place);

    // Killed while rows arrive.
    const cut = Bun.spawn(
      [...(await command("receiver", DEFAULT_TARGET)), "move", "--to", url, "--config", hub.config],
      { stderr: "pipe" },
    );
    const count = () => Number(server.psql("SELECT COUNT(*) FROM host_rollups", basename(url)).stdout.toString());
    await until("rows arrive", () => count() > 0);
    cut.kill("SIGKILL");
    await cut.exited;
    const arrived = count();
    const rows = here(hub.data);
    expect(arrived).toBeLessThan(rows["host_rollups"]!.length);
    // The rows arrive whole, and the episode whose file was damaged doesn't.
    const file = join(hub.data, "episodes/web-1/deploy-0042.tar.zst");
    const bytes = readFileSync(file);
    writeFileSync(file, "other bytes");
    const args = ["move", "--to", url, "--episodes", place, "--config", hub.config];
    const spoiled = { code: 1, stderr: expect.stringContaining("web-1/deploy-0042 can't be copied: its hash is ") };
    const first = await runRole("receiver", args, { env: s3.env });
    expect(first).toMatchObject(spoiled);
    expect(written(first.stdout)).toBeLessThanOrEqual(Object.values(rows).flat().length - arrived);
    writeFileSync(file, bytes);
    expect(await moved()).toBeLessThan(100);

    // Hosts and jobs that change places, beside reports.
    for (const line of [
      "host rename web-1 www",
      "host add web-1",
      "job rm certificates",
      "job add certificates --every 1h",
      "episodes rm www/deploy-0041",
    ])
      expect(await hub.run(...line.split(" "))).toMatchObject({ code: 0 });
    expect((await hub.report(report({}, 30_000), { host: "nas" })).status).toBe(200);
    hub.change((db) => {
      db.run("DELETE FROM host_rollups WHERE step = 600 AND at % 7200000 = 0");
      db.run("INSERT INTO host_samples (host, at) SELECT id, 1e12 FROM hosts");
    });
    expect(await moved()).toBeLessThan(2000);

    const before = await shown(hub);
    await hub.daemon.kill();
    await moved();
    await expectSame(hub.data, url);
    expect(await moved()).toBe(0);
    const rest = server.psql("SELECT COUNT(*) FROM host_samples_rest", basename(url));
    expect(rest.stdout.toString()).toBe("0\n");

    // A receiver on another machine.
    await using there = new Hub({ more: `${FLEET}\nstore: ${url}\nepisodes: ${place}`, env: s3.env });
    for (const [host, token] of hub.tokens) there.tokens.set(host, token);
    await there.up();
    const after = await shown(there);
    expect({ ...after, events: after.events.slice(-before.events.length) }).toEqual(before);
    expect(await there.run("index", "verify")).toMatchObject({
      code: 0,
      stdout: "1 episode, all as the index says\n",
    });
    // Objects keep their names.
    expect(await s3.keys(place)).toEqual([`web-1/deploy-0042.${sha256(bytes)}.tar.zst`]);
    const again = await there.ship("deploy-0041", bytesOf(100), { to: "www" });
    expect([again.status, (await there.ship("deploy-0042", new Uint8Array(bytes), { to: "www" })).status]).toEqual([
      409, 200,
    ]);
    // New rows get new numbers.
    await there.addHost("fresh");
    expect((await there.report(report(), { host: "fresh" })).status).toBe(200);
    const next = server.psql("SELECT nextval(pg_get_serial_sequence('events', 'id'))", basename(url)).stdout.toString();
    expect(Number(next)).toBeGreaterThan(before.events.at(-1)!.id);
    expect(await hub.run("move", "--to", url)).toMatchObject(refused("a receiver has used the database"));

    await using other = new Hub();
    await other.addHost("nas");
    expect(await other.run("move", "--to", url)).toMatchObject(refused("the store of another receiver"));
  },
);

test.if(programs !== null)("a store of 0.1.0 moves, too", async () => {
  await using server = await Postgres.start(programs!, { fsync: "off" });
  using folder = new Folder();
  const packed = await Bun.file(join(ROOT, "test/upgrade/0.1.0.tar.zst")).bytes();
  const unpacked = Bun.spawnSync(["tar", "-C", folder.path, "-xf", "-"], { stdin: Bun.zstdDecompressSync(packed) });
  expect(unpacked.exitCode).toBe(0);
  // Events have no number 1 after an age.
  using db = new Database(folder.at("receiver/receiver.db"));
  db.run("UPDATE events SET id = id + 1000");
  const url = server.database();
  const args = ["move", "--to", url, "--config", configure(folder.path, "receiver")];
  expect(await runRole("receiver", args)).toMatchObject({ code: 0, stderr: "" });
  await expectSame(folder.at("receiver"), url);
});
