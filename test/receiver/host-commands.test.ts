// A host's later life: another name, a pause, its end.

import { describe, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Folder, command, inboxLines, runRole, until } from "../kit.ts";
import { configure } from "../agent/kit.ts";
import { TELLS_SOON, Hub, begin, bytesOf, container, filesOf, indexLines, report, sha256 } from "./kit.ts";
import { onFile, storeEnv } from "./store-kit.ts";

const WELL = { code: 0, stdout: expect.stringMatching(/, all as the index says\n$/) };
const texts = (hub: Hub) => inboxLines(hub.inbox, "ops").map(({ payload }) => payload);

describe("a host that is renamed", () => {
  test("keeps its history, token, alerts and episodes; its agent may go on with the former name", async () => {
    await using hub = await Hub.start({ hosts: ["nas", "pi"] });
    const bytes = bytesOf(1000);
    const of = { host: "nas" };
    await hub.report(report({ containers: [container("db")] }), of);
    await hub.report(report({ containers: [container("db", { health_status: "unhealthy" })] }), of);
    expect((await hub.ship("one", bytes, of)).status).toBe(201);
    expect((await hub.ship("gone", bytes, of)).status).toBe(201);
    await hub.run("episodes", "rm", "nas/gone");
    const announced = { length: 1000, headers: { ...hub.bearer("nas"), "x-content-sha256": sha256(bytes) } };
    const upload = await begin(hub, "late", { ...announced, to: "nas" });
    upload.socket.write(bytes.subarray(0, 500));
    // A bucket shows nothing of it.
    await until("it is under way", () => !onFile || filesOf(hub, "nas").some((name) => name.endsWith(".partial")));
    expect(await hub.run("host", "rename", "nas", "attic")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("host_id: nas"),
    });
    upload.socket.write(bytes.subarray(500));
    await until("it is taken", () => upload.answer().includes("201 Created"));
    upload.socket.destroy();
    expect(await hub.get("/v1/hosts/nas")).toMatchObject({
      id: "attic",
      status: "online",
      alerts: [{ what: "container.unhealthy db" }],
    });
    // The former name in a report, a path, and the doctor's result.
    expect((await hub.report(report({ host_id: "nas" }), of)).status).toBe(200);
    expect((await hub.report(report({ host_id: "pi" }), of)).status).toBe(403);
    expect((await hub.ship("two", bytes, { host: "nas" })).status).toBe(201);
    expect((await hub.ship("one", bytes, { host: "nas", to: "attic" })).status).toBe(200);
    expect((await hub.ship("gone", bytesOf(1000), { host: "nas" })).status).toBe(409);
    const ping = await fetch(`${hub.url}/v1/ping`, { method: "POST", headers: hub.bearer("nas") });
    expect(await ping.json()).toMatchObject({ host: "attic", former_names: ["nas"] });
    // The upload that ended under the former name follows.
    await hub.run("host", "rename", "nas", "attic");
    if (onFile) {
      expect(filesOf(hub, "attic")).toEqual(["late.tar.zst", "one.tar.zst", "two.tar.zst"]);
      expect(existsSync(join(hub.data, "episodes/nas"))).toBe(false);
      expect(indexLines(hub)).toContainEqual({ renamed_at: expect.any(String), renamed_from: "nas", host: "attic" });
    }
    const listed = await hub.get<{ episodes: { host: string }[] }>("/v1/episodes?host=attic");
    expect(listed.episodes.map(({ host }) => host)).toEqual(["attic", "attic", "attic"]);
    expect(await hub.run("index", "verify")).toMatchObject(WELL);
    for (const [from, to] of [
      ["attic", "pi"],
      ["attic", "../x"],
      ["web-9", "x"],
    ]) {
      expect((await hub.run("host", "rename", from!, to!)).code).toBe(2);
    }
    // The name is free for another machine; and there is a way back.
    await hub.addHost("nas");
    expect((await hub.ship("one", bytesOf(500), { host: "nas" })).status).toBe(201);
    expect((await hub.run("host", "rename", "attic", "nas")).code).toBe(2);
    expect((await hub.run("host", "rename", "nas", "nas-2")).code).toBe(0);
    expect((await hub.run("host", "rename", "attic", "nas")).code).toBe(0);
    const names = async (host: string) =>
      (await hub.get<{ episodes: { episode: string }[] }>(`/v1/episodes?host=${host}`)).episodes.map(
        (row) => row.episode,
      );
    expect([(await names("nas")).toSorted(), await names("nas-2")]).toEqual([["late", "one", "two"], ["one"]]);
    expect(await hub.run("index", "verify")).toMatchObject(WELL);
  });

  test("is renamed whole, also when the command is killed and agents ship on", async () => {
    await using hub = await Hub.start({ hosts: ["nas"], more: "rate_limit_per_minute: 100000" });
    const bytes = bytesOf(100);
    for (let n = 0; n < 10; n++) {
      await Promise.all(Array.from({ length: 50 }, (_, m) => hub.ship(`ep-${n}-${m}`, bytes, { host: "nas" })));
    }
    const cmd = [...(await command("receiver", "source")), "host", "rename", "nas", "attic", "--config", hub.config];
    const renaming = Bun.spawn(cmd, { stdout: "ignore", stderr: "ignore", env: { ...process.env, ...storeEnv } });
    let sent = 0;
    while (renaming.exitCode === null && filesOf(hub, "attic").length < 20) {
      expect((await hub.ship(`more-${sent++}`, bytes, { host: "nas" })).status).toBe(201);
    }
    renaming.kill("SIGKILL");
    await renaming.exited;
    await hub.daemon.kill("SIGKILL");
    await hub.up();
    if (onFile) await until("the daemon has moved the rest", () => filesOf(hub, "attic").length === 500 + sent);
    expect(await hub.run("index", "verify")).toMatchObject(WELL);
    expect(await hub.get("/health")).toMatchObject({ episodes: 500 + sent });
  });

  test("an agent with the former name as its host_id reports and ships on", async () => {
    await using hub = await Hub.start({ hosts: ["nas"] });
    await hub.run("host", "rename", "nas", "attic");
    using folder = new Folder();
    const config = configure(folder, hub.url, hub.tokens.get("nas")!, "host_id: nas\n");
    const { code, stdout } = await runRole("agent", ["selftest", "hub", "--config", config]);
    expect([code, stdout]).toEqual([0, expect.stringContaining("/v1/host-report: 200")]);
  });
});

test("a host that is deleted is gone with all that the store has of it; its episodes on demand", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"] });
  for (const host of ["nas", "pi"]) {
    await hub.report(report({ containers: [container("db")] }), { host });
    await hub.report(report({ containers: [container("db", { state: "exited" })] }), { host });
    expect((await hub.ship("ep", bytesOf(1000), { host })).status).toBe(201);
  }
  await hub.run("host", "rename", "nas", "attic");
  const refused = await hub.run("host", "delete", "attic");
  expect([refused.code, refused.stderr]).toEqual([
    2,
    expect.stringMatching(/its 1 episode .*hint: .*host delete attic --yes/s),
  ]);
  expect(await hub.run("host", "delete", "attic", "--yes")).toMatchObject({
    code: 0,
    stdout: expect.stringContaining("stay"),
  });
  expect(await hub.run("host", "delete", "pi", "--yes", "--episodes")).toMatchObject({ code: 0 });
  // An object keeps its name.
  expect([filesOf(hub, onFile ? "attic" : "nas"), filesOf(hub, "pi")]).toEqual([["ep.tar.zst"], []]);
  expect((await hub.report(report(), { host: "nas" })).status).toBe(401);
  expect(await hub.get("/v1/hosts")).toEqual({ hosts: [] });
  expect(await hub.get("/v1/events")).toMatchObject({ events: [] });
  const tables = hub.rows<{ name: string }>(
    onFile
      ? "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'host' AND c.type = 'INTEGER'"
      : "SELECT table_name AS name FROM information_schema.columns WHERE column_name = 'host' AND data_type = 'bigint'",
  );
  expect(tables.length).toBeGreaterThan(10);
  for (const { name } of tables) expect([name, hub.rows(`SELECT * FROM ${name}`)]).toEqual([name, []]);
  expect(await hub.run("index", "verify")).toMatchObject(WELL);
  // The name of a host whose episodes are still there is not given away.
  await hub.addHost("web-1");
  expect(await hub.run("host", "rename", "web-1", "attic")).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("prune --host attic"),
  });
});

test("a paused host raises no events; what is still wrong at the end is told then", async () => {
  await using hub = await Hub.start({ hosts: ["nas", "pi"], more: TELLS_SOON });
  setIntervals(hub, 3600);
  const [db, web] = [container("db"), container("web")];
  const stopped = container("web", { state: "exited", status: "Exited (137)" });
  const send = async (host: string, ...containers: unknown[]) =>
    expect((await hub.report(report({ containers }), { host })).status).toBe(200);
  await send("nas", db, web);
  await send("nas", container("db", { health_status: "unhealthy" }), web);
  await until("it is told", () => texts(hub).length === 1);
  for (const text of ["soon", "0m", "30"]) expect((await hub.run("host", "pause", "nas", text)).code).toBe(2);
  const paused = await hub.run("host", "pause", "nas", "3d", "--reason", "new disk");
  expect(paused).toMatchObject({ code: 0, stdout: expect.stringMatching(/^nas: paused until .*Z/) });
  expect((await hub.run("host", "list")).stdout).toMatch(/^nas +online, paused until .*Z: new disk /m);
  const [listed] = JSON.parse((await hub.run("host", "list", "--json")).stdout) as Record<string, unknown>[];
  expect(listed).toMatchObject({ id: "nas", paused_until: expect.stringMatching(/Z$/), pause_reason: "new disk" });
  // What was told before recovers, which is told; what comes and goes meanwhile is not.
  await send("nas", db, stopped);
  await send("nas", db, web);
  await until("its recovery is told", () => texts(hub).length === 2);
  setIntervals(hub, 1);
  await send("nas", db, stopped);
  await send("pi", db);
  await until("pi is offline", () => texts(hub).some((text) => text?.includes("pi is offline")));
  expect(texts(hub).filter((text) => text?.startsWith("nas"))).toEqual([
    "nas: container db is unhealthy; docker logs --tail 50 db",
    "nas: container db is well again",
  ]);
  expect((await hub.run("host", "resume", "nas")).code).toBe(0);
  await until("nas is offline", () => texts(hub).some((text) => text?.includes("nas is offline")));
  expect(texts(hub)).toContain("nas: container web has stopped (Exited (137)); docker logs --tail 50 web");
  setIntervals(hub, 3600);
  await send("nas", db, web);
  await until("all is told", () => texts(hub).some((text) => text?.includes("web is well again")));
  expect((await hub.run("host", "resume", "nas")).stdout).toContain("was not paused");
  await hub.run("host", "pause", "nas", "1s");
  await until("it ends by itself", async () => !(await hub.run("host", "list")).stdout.includes("paused"));
});

/** As `host set` does, and sooner than it allows. */
function setIntervals(hub: Hub, seconds: number): void {
  hub.change((db) => db.run("UPDATE hosts SET set_interval = ?", [seconds]));
}
