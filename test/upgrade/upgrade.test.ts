// What a former version left is taken over whole: nothing is lost, and nothing is told or counted twice.
//
// The state is 0.1.0.tar.zst (record.ts says what is in it). PICKET_UPGRADE_FROM=FOLDER with a former version's binaries records it
// anew, in place. Not tested here: systemd and install.sh (test/install.test.ts).

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync, existsSync, readFileSync, readdirSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Folder, inboxLines, runRole, startRole, until } from "../kit.ts";
import { archive, container, report, uploadHeaders } from "../receiver/kit.ts";
import { type Manifest, configure, record } from "./record.ts";

const former = process.env["PICKET_UPGRADE_FROM"];
const folder = new Folder();
const dir = folder.path;
let left: Manifest;

beforeAll(async () => {
  if (former) left = await record(former, dir);
  else left = await unpack(join(import.meta.dir, "0.1.0.tar.zst"));
  for (const [name, at] of Object.entries(left.drops)) utimesSync(join(dir, "drops", name), 0, at / 1000);
});
afterAll(() => folder[Symbol.dispose]());

/** The recorded state, as it was when it lay here: notes name its files by their inodes. */
async function unpack(packed: string): Promise<Manifest> {
  const tar = Bun.zstdDecompressSync(await Bun.file(packed).bytes());
  if (Bun.spawnSync(["tar", "-C", dir, "-xf", "-"], { stdin: tar }).exitCode !== 0) throw new Error("tar fails");
  const manifest = JSON.parse(readFileSync(join(dir, "manifest.json"), "utf8")) as Manifest;
  const here = (text: string): string =>
    Object.entries(manifest.inodes).reduce(
      (rest, [name, inode]) => rest.replaceAll(`:${inode}`, `:${statSync(join(dir, name)).ino}`),
      text,
    );
  for (const note of ["observer/snapshot.json", "observer/corrections.json"].map((name) => join(dir, name))) {
    writeFileSync(note, here(readFileSync(note, "utf8")));
  }
  using db = new Database(join(dir, "receiver/receiver.db"));
  const { value } = db.query("SELECT value FROM meta WHERE key = 'index_place'").get() as { value: string };
  db.query("UPDATE meta SET value = ? WHERE key = 'index_place'").run(here(value));
  return manifest;
}

const events = (recipient: string) => inboxLines(join(dir, "inbox"), recipient);
const ids = (recipient: string) => events(recipient).map(({ id }) => id!);

test("the collector knows deliveries and drops of before, and a reader goes on where it was", async () => {
  await using daemon = await startRole("collector", ["--config", configure(dir, "collector")]);
  const url = await daemon.url();
  for (const { path, delivery, id } of left.deliveries) {
    const headers = { "x-github-delivery": delivery, "content-type": "application/json" };
    const answer = await fetch(url + path, { method: "POST", body: '{"n":"sent again"}', headers });
    expect([answer.status, await answer.json()]).toEqual([202, { id }]);
  }
  await until("the drops are gone", () => readdirSync(join(dir, "drops")).every((name) => name.startsWith(".")));
  const payloads = events("bob").map(({ payload }) => payload);
  const all = [
    "event 1",
    "event 2",
    "event 3",
    "event 4",
    "event 5",
    "event 6",
    "delivered, not yet removed",
    "not yet seen",
  ];
  expect(payloads).toEqual(all);
  const read = () => runRole("collector", ["read", "bob", "--new", "--json", "--config", join(dir, "collector.yaml")]);
  const shown = (await read()).stdout.trim().split("\n");
  expect(shown.map((line) => (JSON.parse(line) as { id: string }).id)).toEqual(
    ids("bob").filter((id) => !left.shown.includes(id)),
  );
  expect((await read()).stdout).toBe("");
});

test("the receiver tells the event that waited, once, and knows hosts, containers and episodes", async () => {
  const config = configure(dir, "receiver");
  await using daemon = await startRole("receiver", ["--config", config]);
  const url = await daemon.url();
  await until("the event is told", () => ids("ops").length > left.told.ops.length);
  const headers = { authorization: `Bearer ${left.token}` };
  const stopped = container("shop", { state: "exited", status: "Exited (1)" });
  const send = (containers: unknown[]) =>
    fetch(`${url}/v1/host-report`, { method: "POST", headers, body: JSON.stringify({ ...report(), containers }) });
  // The same trouble again is no news; that it is over is.
  expect((await send([stopped, container("db", { health_status: "unhealthy" })])).status).toBe(200);
  expect((await send([stopped, container("db")])).status).toBe(200);
  await until("the recovery is told", () => events("ops").some(({ payload }) => payload?.endsWith("db is well again")));
  const said = events("ops")
    .map(({ payload }) => payload!)
    .filter((payload) => !/ is (stale|offline|back) /.test(payload));
  expect(said.slice(1)).toEqual([left.untold.ops, "web-1: container db is well again"]);
  expect(ids("ops").slice(0, 1)).toEqual(left.told.ops);

  const bytes = await archive("episode 1");
  const known = await fetch(`${url}/v1/episodes/web-1/ep-1.tar.zst`, {
    method: "PUT",
    body: readFileSync(join(dir, "receiver/episodes/web-1/ep-1.tar.zst")),
    headers: { ...headers, ...uploadHeaders(readFileSync(join(dir, "receiver/episodes/web-1/ep-1.tar.zst"))) },
  });
  expect(known.status).toBe(200);
  const fresh = await fetch(`${url}/v1/episodes/web-1/ep-9.tar.zst`, {
    method: "PUT",
    body: bytes,
    headers: { ...headers, ...uploadHeaders(bytes) },
  });
  expect(fresh.status).toBe(201);
  const { episodes } = (await (await fetch(`${url}/v1/episodes`)).json()) as { episodes: { episode: string }[] };
  expect(episodes.map(({ episode }) => episode)).toEqual(["ep-1", "ep-2", "ep-9"]);
  expect(await runRole("receiver", ["index", "verify", "--config", config])).toMatchObject({ code: 0 });
});

test("the agent sends the reports that waited, oldest first, and ships the episode that was packed", async () => {
  const reports: { recorded_at: string; sent_at?: string }[] = [];
  const shipped: string[] = [];
  using hub = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    async fetch(request) {
      const { pathname } = new URL(request.url);
      if (request.method === "PUT" && pathname.startsWith("/v1/episodes/")) {
        shipped.push(pathname);
        const bytes = await request.bytes();
        const sha256 = new Bun.CryptoHasher("sha256").update(bytes).digest("hex");
        expect(request.headers.get("x-content-sha256")).toBe(sha256);
        return Response.json({ sha256, size: bytes.length }, { status: 201 });
      }
      if (pathname === "/v1/host-report") reports.push((await request.json()) as { recorded_at: string });
      return Response.json({ poll_interval_seconds: 60, host: "web-1" });
    },
  });
  const waiting = readdirSync(join(dir, "agent/queue")).toSorted();
  expect(waiting).toHaveLength(3);
  const settings = `receiver: { url: "http://127.0.0.1:${hub.port}", token: ${left.token} }\nhost_id: web-1`;
  await using _ = await startRole("agent", ["--config", configure(dir, "agent", settings)]);
  await until("the queue is empty", () => readdirSync(join(dir, "agent/queue")).length === 0);
  const late = reports.filter(({ sent_at }) => sent_at !== undefined);
  expect(late.map(({ recorded_at }) => `${Date.parse(recorded_at)}.json`)).toEqual(waiting);
  await until("the episode is shipped", () => existsSync(join(dir, "lab/shipped/ep-3")));
  expect(shipped).toEqual(["/v1/episodes/web-1/ep-3.tar.zst"]);
});

test("the observer counts nothing again, and tells the escalation that waited once", async () => {
  await using daemon = await startRole("observer", ["--config", configure(dir, "observer")]);
  const url = await daemon.url();
  const stats = async () => (await (await fetch(`${url}/observer/stats`)).json()) as Manifest["operations"];
  const tell = (operations: unknown) =>
    fetch(`${url}/observer/event`, { method: "POST", body: JSON.stringify(operations) });
  expect(await stats()).toMatchObject(left.operations);
  await tell(Array.from({ length: 100 }, (_, n) => ({ id: `op-${n}`, endpoint: "deploy", duration_ms: n })));
  appendFileSync(join(dir, "corrections.txt"), "use the small machine\nand only that\n");
  await until("the new corrections are recorded", async () => (await stats()).total === left.operations.total + 2);
  await until("the escalation is told", () => ids("obs").length > left.told.obs.length);
  await tell({ endpoint: "backup", success: false, error: "job 4 of backup: no answer" });
  await until("the failure is counted", async () => (await stats()).failures === left.operations.failures + 1);
  await daemon.kill();
  expect(ids("obs").slice(0, 1)).toEqual(left.told.obs);
  expect(
    events("obs")
      .slice(1)
      .map(({ payload }) => payload!.slice(0, left.untold.obs.length)),
  ).toEqual([left.untold.obs]);
  expect(await runRole("observer", ["check", "--config", join(dir, "observer.yaml")])).toMatchObject({ code: 0 });
});
