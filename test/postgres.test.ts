// lib/postgres.ts against a server that dies, stands still, cuts connections, or has other things in its way.
// Not tested: a network that loses packets; a standby that takes over; versions other than the one that is installed.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, chownSync, copyFileSync, statSync } from "node:fs";
import type { Database } from "../lib/database.ts";
import { type PostgresSettings, openPostgres } from "../lib/postgres.ts";
import { Folder, certificates, freePort, have, until } from "./kit.ts";
import { CuttingProxy } from "./cutting-proxy.ts";
import { Postgres, postgresPrograms } from "./postgres.ts";

const programs = postgresPrograms("a database that dies");
const TABLES = {
  name: "test",
  // A commit of 13 takes a while: time to cut its answer off.
  steps: [
    [
      "CREATE TABLE things (id BIGINT PRIMARY KEY, n BIGINT NOT NULL DEFAULT 0)",
      `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.id = 13 THEN PERFORM pg_sleep(0.5); END IF; RETURN NEW; END $$`,
      "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON things DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
    ],
  ],
  lock: "SELECT id FROM things WHERE id = ANY($1::bigint[]) ORDER BY id FOR UPDATE",
};

let server: Postgres;

beforeAll(async () => {
  if (programs) server = await Postgres.start(programs, { fsync: "off" });
});
afterAll(() => server?.[Symbol.asyncDispose]());

/** A database of its own behind a proxy that cuts. */
async function setUp(more: Partial<PostgresSettings> = {}) {
  const direct = server.database();
  const proxy = await CuttingProxy.to(server.port);
  const url = direct.replace(String(server.port), String(proxy.port));
  const open = (): Promise<Database> =>
    openPostgres({ url, password: null, connections: 3, direct: null, ...more }, TABLES);
  const db = await open();
  const name = new URL(url).pathname.slice(1);
  return {
    db,
    open,
    proxy,
    url,
    ids: () => server.psql("SELECT id FROM things ORDER BY id", name).stdout.toString().trim().split("\n").map(Number),
    sql: (text: string) => server.psql(text, name).stdout.toString().trim(),
    async [Symbol.asyncDispose]() {
      await db.close();
      proxy[Symbol.dispose]();
    },
  };
}

const add = (db: Database, id: number, scope: readonly number[] | null = []) =>
  db.transaction(async (tx) => void (await tx.run("INSERT INTO things (id) VALUES ($1)", [id])), scope);

/** What a promise fails with, as a code and a text. */
const failure = (work: Promise<unknown>) =>
  work.then(
    () => "no failure",
    ({ code, message }) => `${code}: ${message}`,
  );

describe.skipIf(!programs)("a database that dies", () => {
  test("cut connections cost what is under way on them, and nothing after it", async () => {
    await using here = await setUp();
    const { db, proxy } = here;
    await add(db, 1);
    // Not noticed before they are used.
    proxy.cutAll();
    await add(db, 9);
    proxy.cutAll();
    expect(await db.read.one("SELECT 1 AS a")).toEqual({ a: 1 });
    const halfDone = db.transaction(async (tx) => {
      await tx.run("INSERT INTO things (id) VALUES (2)");
      proxy.cutAll();
      await tx.run("INSERT INTO things (id) VALUES (3)");
    }, null);
    expect(await failure(halfDone)).toStartWith(`EAWAY: the database at "127.0.0.1:${proxy.port}" is away`);
    for (let id = 4; id < 9; id++) await add(db, id);
    expect(here.ids()).toEqual([1, 4, 5, 6, 7, 8, 9]);
    expect(await db.read.all("SELECT id FROM things WHERE id < 5 ORDER BY id")).toEqual([{ id: 1 }, { id: 4 }]);
  });

  test("a commit whose answer is lost fails as away: it may have been made", async () => {
    await using here = await setUp();
    const commit = add(here.db, 13);
    await until("the commit is under way", () =>
      here.sql("SELECT 1 FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"),
    );
    here.proxy.cutAll();
    expect(await failure(commit)).toStartWith("EAWAY: ");
    await until("the server has made it", () => here.ids()[0] === 13);
  });

  test("a statement that fails unnoticed makes no commit", async () => {
    await using here = await setUp();
    await add(here.db, 1);
    const careless = here.db.transaction(async (tx) => {
      await tx.run("INSERT INTO things (id) VALUES (2)");
      await tx.run("INSERT INTO things (id) VALUES (1)").catch(() => {});
    }, null);
    expect(await failure(careless)).toContain("the transaction was rolled back");
    expect(here.ids()).toEqual([1]);
  });

  test("transactions that lock each other out run again", async () => {
    await using here = await setUp();
    await add(here.db, 1);
    await add(here.db, 2);
    const { promise: both, resolve } = Promise.withResolvers<void>();
    let waiting = 2;
    const crossing = (first: number, second: number) =>
      here.db.transaction(async (tx) => {
        await tx.run("UPDATE things SET n = n + 1 WHERE id = $1", [first]);
        if (--waiting === 0) resolve();
        await both;
        await tx.run("UPDATE things SET n = n + 1 WHERE id = $1", [second]);
      }, []);
    await Promise.all([crossing(1, 2), crossing(2, 1)]);
    expect(await here.db.read.all("SELECT n FROM things")).toEqual([{ n: 2 }, { n: 2 }]);
  });

  test("one leads, another goes on when its session ends, and sessions that stand still are ended", async () => {
    await using here = await setUp();
    const other = await here.open();
    // Asked twice at once, it is still one session.
    expect(await Promise.all([here.db.leads(), here.db.leads()])).toEqual([true, true]);
    expect(await other.leads()).toBe(false);
    const lock =
      "FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND granted";
    here.sql(`SELECT pg_terminate_backend(pid) ${lock}`);
    await until("the other leads", () => other.leads());
    expect(await failure(here.db.leads())).toStartWith("EAWAY");
    expect(await here.db.leads()).toBe(false);
    const limits = async (scope: null) => {
      let found = {};
      await here.db.transaction(async (tx) => {
        const ask =
          "SELECT current_setting('idle_in_transaction_session_timeout') AS idle, current_setting('lock_timeout') AS lock";
        found = (await tx.one(ask)) ?? {};
      }, scope);
      return found;
    };
    expect(await limits(null)).toEqual({ idle: "5s", lock: "15s" });
    await other.close();
  });

  test("hints are heard again after cut connections", async () => {
    await using here = await setUp();
    const other = await here.open();
    let heard = 0;
    other.onHint(() => heard++);
    const isHeard = () => until("a hint is heard", () => (here.db.hint("change"), heard > 0));
    await isHeard();
    here.proxy.cutAll();
    heard = 0;
    await isHeard();
    expect(await other.otherChanges()).toBeGreaterThan(0);
    await other.close();
  });

  test("what is hinted last is sent before the end", async () => {
    await using here = await setUp();
    const heard = new Set<string>();
    here.db.onHint((what) => heard.add(String(what)));
    const first = await here.open();
    await until("hints are heard", () => (first.hint("first"), heard.has("first")));
    await first.close();
    for (let n = 0; n < 20; n++) {
      const other = await here.open();
      other.hint(`last-${n}`);
      await other.close();
    }
    await until("the last one is heard", () => heard.has("last-19"));
    expect([...heard].filter((what) => what.startsWith("last")).length).toBe(20);
  });

  test("a server that is away or stands still is away soon, and back by itself", async () => {
    await using here = await setUp({ connections: 2 });
    await add(here.db, 1);
    await server.down("SIGQUIT");
    const away = [add(here.db, 2), here.db.read.one("SELECT 1"), here.open()];
    for (const why of await Promise.all(away.map(failure))) expect(why).toStartWith("EAWAY");
    await server.up();
    const isBack = (id: number) => until("it is back", async () => (await failure(add(here.db, id))) === "no failure");
    // A connection that was begun while it was away fails first.
    await isBack(3);
    // Two have a connection each, the third finds none.
    server.signal("SIGSTOP");
    const failures = await Promise.all([4, 5, 6].map((id) => failure(add(here.db, id))));
    server.signal("SIGCONT");
    expect(failures.join()).toContain("no answer within 5 s");
    for (const why of failures) expect(why).toStartWith("EAWAY");
    await isBack(7);
    expect(here.ids()).toEqual([1, 3, 7]);
  });

  test("a database stands still, and closing it does not", async () => {
    await using here = await setUp();
    await here.db.leads();
    const stuck = failure(here.db.read.one("SELECT pg_sleep(600)"));
    await here.db.close();
    expect(await stuck).toStartWith("EAWAY");
  });

  test("who is refused is told so", async () => {
    const url = server.database().replace("picket@", "mallory@");
    const opened = openPostgres({ url, password: null, connections: 2, direct: null }, TABLES);
    expect(await opened.catch((error: Error) => `${error.name}: ${error.message}`)).toContain("mallory");
  });

  test.skipIf(!have("openssl", "TLS to PostgreSQL"))("TLS is as sslmode and sslrootcert say", async () => {
    using folder = new Folder();
    await certificates(folder);
    const { uid, gid } = statSync(server.folder);
    for (const name of ["server.pem", "server.key"]) {
      copyFileSync(folder.at(name), `${server.folder}/${name}`);
      chownSync(`${server.folder}/${name}`, uid, gid);
      chmodSync(`${server.folder}/${name}`, 0o600);
    }
    const url = server.database();
    const tried = async (query: string, to = url): Promise<string> => {
      try {
        const db = await openPostgres({ url: to + query, password: null, connections: 2, direct: null }, TABLES);
        const row = await db.read.one<{ ssl: boolean }>("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
        await db.close();
        return row!.ssl ? "encrypted" : "plain";
      } catch (error) {
        return (error as Error).message;
      }
    };
    const [ca, foreign] = [folder.at("ca.pem"), folder.at("foreign-ca.pem")];
    expect(await tried("")).toBe("plain");
    expect(await tried("?sslmode=require")).toContain("does not support SSL");
    await server.down();
    await server.up({
      ssl: "on",
      listen_addresses: "127.0.0.1,127.0.0.2",
      ssl_cert_file: `${server.folder}/server.pem`,
      ssl_key_file: `${server.folder}/server.key`,
    });
    const otherName = url.replace("127.0.0.1", "127.0.0.2");
    for (const [query, expected, to = url] of [
      ["", "encrypted"],
      ["?sslmode=disable", "plain"],
      ["?sslmode=allow", "encrypted"],
      ["?sslmode=require", "encrypted"],
      [`?sslmode=require&sslrootcert=${ca}`, "encrypted"],
      [`?sslmode=require&sslrootcert=${foreign}`, "unable to verify"],
      [`?sslmode=verify-ca&sslrootcert=${ca}`, "encrypted", otherName],
      [`?sslmode=verify-ca&sslrootcert=${foreign}`, "unable to verify", otherName],
      [`?sslmode=verify-full&sslrootcert=${ca}`, "encrypted"],
      [`?sslmode=verify-full&sslrootcert=${ca}`, "does not match", otherName],
      ["?sslmode=verify-full", "unable to verify"],
      [`?sslmode=verify-full&sslrootcert=${folder.at("missing.pem")}`, "missing.pem"],
    ] as const) {
      expect(`${query}: ${await tried(query, to)}`).toContain(expected);
    }
  });

  test.skipIf(!have("pgbouncer", "a pooler"))(
    "through PgBouncer in transaction mode, with locks and hints past it",
    async () => {
      using folder = new Folder();
      const port = freePort();
      folder.write("users", '"picket" ""\n');
      const { uid, gid } = statSync(server.folder);
      const ini = folder.write(
        "pgbouncer.ini",
        `[databases]
* = host=127.0.0.1 port=${server.port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
auth_type = trust
auth_file = ${folder.at("users")}
pool_mode = transaction
default_pool_size = 2
unix_socket_dir =
`,
      );
      for (const path of [folder.path, ini, folder.at("users")]) chownSync(path, uid, gid);
      const account = process.getuid?.() === 0 ? ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"] : [];
      const pooler = Bun.spawn([...account, "pgbouncer", "-q", ini], { stdout: "ignore", stderr: "ignore" });
      try {
        const direct = server.database();
        const url = direct.replace(String(server.port), String(port));
        const settings = { url, password: null, connections: 6, direct };
        const db = await until("the pooler answers", () => openPostgres(settings, TABLES).catch(() => null));
        const other = await openPostgres(settings, TABLES);
        let heard = 0;
        other.onHint(() => heard++);
        const adding = Array.from({ length: 60 }, async (_, id) => {
          await add(id % 2 ? db : other, id, id % 5 ? [id] : null);
          const row = await db.read.one<{ id: number; n: string }>(
            `SELECT id, '${id % 7}' AS n FROM things WHERE id = $1`,
            [id],
          );
          expect(row).toEqual({ id, n: String(id % 7) });
        });
        await Promise.all(adding);
        expect([await db.leads(), await other.leads(), await db.leads()]).toEqual([true, false, true]);
        await until("a hint is heard", () => (db.hint("change"), heard > 0));
        await Promise.all([db.close(), other.close()]);
      } finally {
        pooler.kill();
        await pooler.exited;
      }
    },
  );
});
