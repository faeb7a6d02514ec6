// Inboxes in PostgreSQL through the front doors of their writers: collectors, the outbox, a receiver, an observer. What files and tables
// share is tested by the suites of the collector, with PICKET_TEST_INBOX=postgres. Not tested here: random kills (test/e2e).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readdirSync, renameSync } from "node:fs";
import { createOutbox, derivedId } from "../lib/outbox.ts";
import { createLog } from "../lib/log.ts";
import { Folder, runRole, startRole, until } from "./kit.ts";
import { Postgres, postgresPrograms } from "./postgres.ts";

const programs = postgresPrograms("inboxes in tables");

let server: Postgres;
beforeAll(async () => {
  if (programs) server = await Postgres.start(programs, { fsync: "off" });
});
afterAll(() => server?.[Symbol.asyncDispose]());

/** Collectors on one database, each with a folder of its own. */
function site(routes = `[{ path: /bob, recipient: bob, type: INFO, template: "{{ .n }}" }]`) {
  const url = server.database();
  const folder = new Folder();
  const sql = (text: string): string[] =>
    server.psql(text, new URL(url).pathname.slice(1)).stdout.toString().split("\n").filter(Boolean);
  const configure = (name: string, hours = 24): string => {
    mkdirSync(folder.at(name, "drops"), { recursive: true });
    return folder.write(
      `${name}.yaml`,
      `agent: ${name}\ninbox: ${url}\ninbox_dir: ${folder.at(name, "local")}\nwebhook: { listen: "127.0.0.1:0", dedupe_hours: ${hours}, routes: ${routes} }\ndrop_folder: { path: ${folder.at(name, "drops")} }\n`,
    );
  };
  return {
    url,
    folder,
    sql,
    configure,
    lines: (recipient = "bob") =>
      sql(`SELECT line FROM inbox WHERE recipient = '${recipient}' ORDER BY seq`).map(
        (line) => JSON.parse(line) as Record<string, string>,
      ),
    start: (name: string) => startRole("collector", ["--config", folder.at(`${name}.yaml`)]),
    drop(name: string, file: string, payload: string): void {
      folder.write(`${name}/${file}`, JSON.stringify({ recipient: "bob", type: "INFO", payload }));
      renameSync(folder.at(name, file), folder.at(name, "drops", file));
    },
    [Symbol.dispose]: () => folder[Symbol.dispose](),
  };
}

const post = (url: string, n: number | string, id?: string) =>
  fetch(`${url}/bob`, {
    method: "POST",
    body: JSON.stringify({ n }),
    headers: id === undefined ? {} : { "idempotency-key": id },
  });

const texts = (lines: Record<string, string>[]) => lines.map(({ payload }) => payload);

describe.skipIf(!programs)("collectors on one database", () => {
  test("a delivery that reaches both at once, and again, is one event, and many at once share commits", async () => {
    using all = site();
    const names = ["one", "two"];
    for (const name of names) all.configure(name);
    await using one = await all.start("one");
    await using two = await all.start("two");
    const urls = [await one.url(), await two.url()];
    const numbers = Array.from({ length: 100 }, (_, n) => n);
    const answers = await Promise.all(
      [...numbers, ...numbers].flatMap((n) => urls.map((url) => post(url, n, `d${n}`))),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]));
    const ids = await Promise.all(answers.map(async (answer) => ((await answer.json()) as { id: string }).id));
    expect(new Set(ids).size).toBe(100);
    expect(
      texts(all.lines())
        .map(Number)
        .toSorted((a, b) => a - b),
    ).toEqual(numbers);
    expect(new Set(all.lines().map(({ id }) => id!))).toEqual(new Set(ids));
    const commits = Number(all.sql("SELECT count(DISTINCT xmin::text) FROM inbox")[0]);
    expect(commits).toBeLessThan(60);
  });

  test("an id whose window is over is another event; a drop that was delivered stays that", async () => {
    using all = site();
    all.configure("one", 1);
    await using one = await all.start("one");
    const url = await one.url();
    await post(url, "first", "d");
    all.drop("one", "a.json", "dropped");
    await until("the drop is there", () => all.lines().length === 2);
    const [first, drop] = all.lines();
    all.sql("UPDATE inbox SET at = at - 3599000");
    const within = (await (await post(url, "within", "d")).json()) as { id: string };
    expect(within.id).toBe(first!["id"]!);
    all.sql("UPDATE inbox SET at = at - 2000");
    expect(await (await post(url, "second", "d")).json()).toEqual({ id: first!["id"] });
    expect(texts(all.lines())).toEqual(["first", "dropped", "second"]);
    expect(all.sql("SELECT count(DISTINCT id), count(*) FROM inbox")).toEqual(["3\t3"]);
    expect(drop!["source"]).toBe("drop-folder:a.json");
  });

  test("while it is away webhooks are told when to come again, drops stay, and all goes on by itself; a start waits", async () => {
    using all = site();
    all.configure("one");
    all.configure("two");
    await using one = await all.start("one");
    const url = await one.url();
    expect((await post(url, 1, "d1")).status).toBe(202);
    await server.down("SIGQUIT");
    const refused = await post(url, 2, "d2");
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "5"]);
    expect(await refused.json()).toMatchObject({ code: "away" });
    const health = await fetch(`${url}/health`);
    expect([health.status, ((await health.json()) as { problem: string }).problem]).toEqual([
      503,
      expect.stringContaining("is away"),
    ]);
    all.drop("one", "a.json", "3");
    await one.said("drops stay: the inbox can't be written");
    const ping = await runRole("collector", ["ping", "bob", "4", "--config", all.folder.at("one.yaml")]);
    expect([ping.code, ping.stderr]).toEqual([1, expect.stringContaining("is away")]);
    await using two = await all.start("two");
    await two.said("the start waits");
    await server.up();
    await two.said(" ready ");
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect((await post(url, 2, "d2")).status).toBe(202);
    await until("the drop is there", () => all.lines().length === 3);
    expect(new Set(texts(all.lines()))).toEqual(new Set(["1", "2", "3"]));
    expect(readdirSync(all.folder.at("one", "drops"))).toEqual([]);
  });

  test("commands write and show what all of them took: ping, deliveries", async () => {
    using all = site();
    const config = all.configure("one");
    all.configure("two");
    const run = (...args: string[]) => runRole("collector", [...args, "--config", config]);
    const ping = await run("ping", "bob", "by hand", "--from", "me");
    expect(ping.code).toBe(0);
    expect(all.lines()).toEqual([expect.objectContaining({ id: ping.stdout.trim(), from: "me", payload: "by hand" })]);
    await using one = await all.start("one");
    await using two = await all.start("two");
    await post(await one.url(), 1);
    await fetch((await two.url()) + "/bob");
    await until(
      "both are noted",
      async () => (await run("deliveries")).stdout.split("\n").filter(Boolean).length === 2,
    );
    expect((await run("deliveries", "--failed", "--json")).stdout).toContain('"status":405');
  });
});

test.skipIf(!programs)(
  "doctor looks into the tables: what came, whose reader is away, and whether they can be had",
  async () => {
    using all = site();
    const config = all.configure("one");
    const rows = async (role = "collector", file = config) => {
      const { stdout } = await runRole(role, ["doctor", "--json", "--config", file]);
      const { checks } = JSON.parse(stdout) as { checks: { name: string; state: string; detail: string }[] };
      return Object.fromEntries(checks.map(({ name, state, detail }) => [name, `${state}: ${detail}`]));
    };
    expect((await rows())["inboxes"]).toBe(`yellow: no event has come to ${all.url} yet`);
    const run = (...args: string[]) => runRole("collector", [...args, "--config", config]);
    await run("ping", "bob", "seen");
    expect((await run("read", "bob", "--new")).stdout).toContain("seen");
    for (const text of ["a", "b"]) await run("ping", "bob", text);
    all.sql("UPDATE inbox_marks SET at = at - 172800000");
    const well = await rows();
    expect(well["inboxes"]).toStartWith("green: 1, the last event ");
    expect(well["inbox bob"]).toMatch(/^yellow: its reader came last 2d .* ago, and has not seen 2 events$/);
    expect(well["deliveries"]).toStartWith("yellow: none has arrived");
    const observer = all.folder.write(
      "observer.yaml",
      `persist_path: ""\nnotify: { recipient: ops, inbox: ${all.url} }\n`,
    );
    expect((await rows("observer", observer))["notify"]).toBe(`green: escalations go to ops in ${all.url}`);
    await server.down("SIGQUIT");
    expect((await rows())["inboxes"]).toMatch(/^red: .* is away/);
    expect((await rows("observer", observer))["notify"]).toMatch(/^red: .* is away/);
    await server.up();
  },
);

describe.skipIf(!programs)("an outbox", () => {
  test("that is killed between telling and marking tells again, and the inbox takes it once; away it waits", async () => {
    const inbox = server.database();
    const log = createLog({ role: "test", json: false, level: "error", write: () => {} });
    const told: string[] = [];
    let dies = true;
    const untold = async () =>
      ["one", "two"].slice(told.length).map((text) => ({
        event: { id: derivedId(text), ts: new Date().toISOString(), urgent: false, text, source: "test:x" },
        mark: async () => {
          if (dies) throw new Error("killed");
          told.push(text);
        },
      }));
    /** Why a pass of a new life failed; null when it went well. */
    const pass = async (): Promise<string | null> => {
      const outbox = createOutbox({ inbox_dir: "/nowhere", inbox, recipient: "ops" }, { from: "me", log });
      const failure = await outbox
        .pass(untold, () => {})
        .then(
          () => null,
          (error: Error) => error.message,
        );
      await outbox.close();
      return failure;
    };
    expect(await pass()).toBe("killed");
    await server.down("SIGQUIT");
    expect(await pass()).toBe("tell the inbox");
    await server.up();
    dies = false;
    expect(await pass()).toBeNull();
    const { stdout } = server.psql("SELECT line FROM inbox ORDER BY seq", new URL(inbox).pathname.slice(1));
    expect(
      stdout
        .toString()
        .split("\n")
        .filter(Boolean)
        .map((line) => (JSON.parse(line) as { payload: string }).payload),
    ).toEqual(["one", "two"]);
  });
});
