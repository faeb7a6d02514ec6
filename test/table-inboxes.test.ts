// What readers and deliveries of inboxes in PostgreSQL do besides what those of files do (PICKET_TEST_INBOX=postgres runs their tests): several
// machines, leases, and a database that goes away.
// Not tested: a machine without /proc, where the lease of a killed process lasts its five seconds.

import { afterAll, expect, test } from "bun:test";
import { hostname } from "node:os";
import { type Got, Sink, came, configure, linesOf, numbered } from "./collector/deliver/kit.ts";
import { TestInboxes, startServer } from "./inbox-kit.ts";
import { Daemon, Folder, command, runRole, startRole, until } from "./kit.ts";
import { postgresPrograms } from "./postgres.ts";

const programs = postgresPrograms("inboxes in tables");
const server = programs === null ? null : await startServer(programs);
afterAll(() => server?.[Symbol.asyncDispose]());
const inTables = test.skipIf(server === null);

const line = (payload: string): string => `${JSON.stringify({ payload })}\n`;

/** A turn of bob's reader, in which all is handed over one by one. */
const bobs = { recipient: "bob", reader: "agent" };

inTables("a turn that was taken over notes nothing, and neither does a lease's former holder", async () => {
  using folder = new Folder();
  await using of = new TestInboxes(folder, "inbox", server);
  const [one, other] = [await of.open(), await of.open()];
  const first = await one.mark(bobs).takeTurn();
  expect(await first.replace("mark\n")).toBe(true);
  // As if it had stood still.
  of.sql("UPDATE inbox_turns SET until = now() - interval '1 second'");
  expect(await first.note("still its own\n")).toBe(true);
  of.sql("UPDATE inbox_turns SET until = now() - interval '1 second'");
  const second = await other.mark(bobs).takeTurn();
  expect([await first.note("late\n"), await first.replace("late\n")]).toEqual([false, false]);
  expect(await second.note("in time\n")).toBe(true);
  // It gives back what is its own.
  await first.end();
  expect(await second.note("and again\n")).toBe(true);
  expect(await one.mark(bobs).read()).toBe("mark\nstill its own\nin time\nand again\n");
  await second.end();
  const [sends, stands] = [one.delivery("hub"), other.delivery("hub")];
  expect([await sends.hold(), await stands.hold(), await sends.hold()]).toEqual([1, 0, 1]);
  await sends.write("one's");
  // One of another machine, whose process id means nothing here.
  of.sql(`UPDATE inbox_turns SET holder = '1@elsewhere x y', until = now() + interval '5 seconds'`);
  await sends.write("late");
  expect([await stands.read(), await stands.hold()]).toEqual(["one's", 0]);
  of.sql("UPDATE inbox_turns SET until = now() - interval '1 second'");
  expect(await stands.hold()).toBe(1);
  expect((await one.watcher("bob")) ?? (await (await other.becomeWatcher("bob"))!())).toBeUndefined();
  const end = await other.becomeWatcher("bob");
  expect([await one.watcher("bob"), await one.becomeWatcher("bob")]).toEqual([`${process.pid}@${hostname()}`, null]);
  await end!();
});

inTables("readers wait while the database is away, and go on; a hook prints nothing, soon", async () => {
  using folder = new Folder();
  await using of = new TestInboxes(folder, "inbox", server);
  const env = { HOME: folder.path, XDG_CONFIG_HOME: folder.at("none"), ...of.env, PICKET_IDENTITY: "bob" };
  of.append("bob", line("before"));
  const words = [...(await command("collector", "source")), "read", "bob", "--new", "--follow", "--json"];
  await using reader = Bun.spawn(words, { env: { ...process.env, ...env }, stdout: "pipe", stderr: "pipe" });
  const [log, shown] = [linesIn(reader.stderr), linesIn(reader.stdout)];
  await until("it has begun", () => shown.length === 1);
  await server!.down("SIGQUIT");
  await until("it is said", () => log.some((one) => one.includes("waiting for the database")));
  expect(await runRole("collector", ["hook"], { env })).toMatchObject({ code: 0, stdout: "" });
  const late = runRole("collector", ["read", "bob", "--open"], { env });
  await server!.up({ fsync: "off" });
  expect((await late).stdout).toContain("before");
  of.append("bob", line("after"));
  await until("all is shown", () => shown.length === 2);
  expect(shown.map((one) => (JSON.parse(one) as { payload: string }).payload)).toEqual(["before", "after"]);
  expect(log.join()).toContain("the database is back");
  reader.kill("SIGINT");
  expect(await reader.exited).toBe(0);
});

/** The lines of a stream so far. */
function linesIn(stream: ReadableStream<Uint8Array<ArrayBuffer>>): string[] {
  const lines: string[] = [];
  void (async () => {
    let rest = "";
    for await (const chunk of stream.pipeThrough(new TextDecoderStream())) {
      const parts = (rest + chunk).split("\n");
      rest = parts.pop()!;
      lines.push(...parts);
    }
  })();
  return lines;
}

inTables(
  "of two collectors one sends a delivery's messages; where it is killed or stands still, the other goes on",
  async () => {
    using folder = new Folder();
    await using of = new TestInboxes(folder, "inbox", server);
    using sink = new Sink();
    configure(folder, [`{ name: hub, recipients: [ops], webhook: { url: "${sink.url}" } }`]);
    const start = (): Promise<Daemon> =>
      startRole("collector", ["--config", folder.at("c.yaml"), "--log-level", "debug"], { env: of.env });
    const state = async (daemon: Daemon): Promise<string> => {
      const health = (await (await fetch(`${await daemon.url()}/health`)).json()) as {
        deliver: { hub: { state: string } };
      };
      return health.deliver.hub.state;
    };
    await using first = await start();
    await first.url();
    await using second = await start();
    expect([await state(first), await state(second)]).toEqual(["ok", "standby"]);
    of.append("ops", linesOf("ops", numbered(3)));
    await came(sink, numbered(3));
    await first.kill("SIGKILL");
    of.append("ops", linesOf("ops", numbered(3, 4)));
    await came(sink, numbered(6));
    await using third = await start();
    expect([await state(second), await state(third)]).toEqual(["ok", "standby"]);
    second.child.kill("SIGSTOP");
    of.append("ops", linesOf("ops", numbered(3, 7)));
    await came(sink, numbered(9));
    second.child.kill("SIGCONT");
    await until("it sees that it was replaced", async () => (await state(second)) === "standby");
    of.append("ops", linesOf("ops", numbered(3, 10)));
    await came(sink, numbered(12));
    // What was in hand at the kill may have come twice, with the same id.
    const unique = new Map(sink.got.map((message): [string, Got] => [message.id, message]));
    expect([...unique.values()].flatMap(({ events }) => events.map(({ payload }) => payload))).toEqual(numbered(12));
  },
);
