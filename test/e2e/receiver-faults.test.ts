// What the receiver promises when things break: kill -9, a power cut, a full disk, a client that stalls.
// Not tested: what a disk loses that says "synced" and isn't; file systems other than ext4 and tmpfs.
// PICKET_FAULT_SECONDS sets how long it is killed again and again (10; `bun run test:long` 60).

import { describe, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { existsSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { freePort, startRole, until } from "../kit.ts";
import { Hub, archive, container, report, sha256, uploadHeaders } from "../receiver/kit.ts";
import { Disk, canCut, isRoot, smallDisk } from "./disk.ts";

const SECONDS = Number(process.env["PICKET_FAULT_SECONDS"] ?? 10);
const HOSTS = ["web-1", "web-2", "web-3"];
const MORE = "rate_limit_per_minute: 10000000";

/** What was acknowledged. A report is told by its host and recorded_at, its figures by its number. */
interface Ledger {
  reports: { host: string; at: number; n: number }[];
  episodes: { host: string; episode: string; sha256: string }[];
}

/** Sends reports and episodes until told to stop; what gets its answer is noted, all else is tried again or forgotten. */
function load(hub: Hub, url: () => string, stop: AbortSignal): { ledger: Ledger; done: Promise<unknown> } {
  const ledger: Ledger = { reports: [], episodes: [] };
  let n = 0;
  let last = 0;
  const reporter = async (host: string): Promise<void> => {
    while (!stop.aborted) {
      const number = n++;
      last = Math.max(Date.now(), last + 1);
      const at = last;
      const body = report({
        recorded_at: new Date(at).toISOString(),
        host: { metrics: { cpu_percent: number % 100, uptime_seconds: number } },
        containers: Array.from({ length: 5 }, (_, c) =>
          container(`c${c}`, { status: `Up ${number} seconds`, metrics: { memory_usage_mb: number } }),
        ),
      });
      const answer = await fetch(`${url()}/v1/host-report`, {
        method: "POST",
        body: JSON.stringify(body),
        headers: hub.bearer(host),
        signal: AbortSignal.any([stop, AbortSignal.timeout(5000)]),
      }).catch(() => null);
      if (answer?.status === 200) ledger.reports.push({ host, at, n: number });
      else if (answer) throw new Error(`a report is answered ${answer.status}: ${await answer.text()}`);
      await Bun.sleep(answer ? 20 : 5);
    }
  };
  const shipper = async (host: string, who: number): Promise<void> => {
    for (let e = 0; !stop.aborted; e++) {
      const bytes = new Uint8Array(200_000 + e);
      crypto.getRandomValues(bytes.subarray(0, 60_000));
      bytes.set([0x28, 0xb5, 0x2f, 0xfd]);
      const episode = `s${who}-${e}`;
      for (;;) {
        const answer = await fetch(`${url()}/v1/episodes/${host}/${episode}.tar.zst`, {
          method: "PUT",
          body: bytes,
          headers: { ...hub.bearer(host), ...uploadHeaders(bytes) },
          signal: AbortSignal.any([stop, AbortSignal.timeout(5000)]),
        }).catch(() => null);
        if (answer && answer.status !== 201 && answer.status !== 200)
          throw new Error(`an episode is answered ${answer.status}`);
        if (answer) ledger.episodes.push({ host, episode, sha256: sha256(bytes) });
        if (answer || stop.aborted) break;
        await Bun.sleep(5);
      }
    }
  };
  const workers = [
    ...Array.from({ length: 24 }, (_, w) => reporter(HOSTS[w % HOSTS.length]!)),
    ...Array.from({ length: 6 }, (_, w) => shipper(HOSTS[w % HOSTS.length]!, w)),
  ];
  return { ledger, done: Promise.all(workers) };
}

/** Compares what is in a data folder with what was acknowledged; every report that is there has to be whole. */
function judge(data: string, { reports, episodes }: Ledger): void {
  const db = new Database(join(data, "receiver.db"), { readonly: true });
  try {
    expect(db.query("PRAGMA integrity_check").all()).toEqual([{ integrity_check: "ok" }]);
    type Sample = { host: string; at: number; n: number; containers: string | null };
    const samples = db
      .query(
        `SELECT h.name AS host, s.at, s.uptime_seconds AS n, w.containers FROM host_samples s JOIN hosts h ON h.id = s.host
         LEFT JOIN workload_samples w ON w.host = s.host AND w.at = s.at`,
      )
      .all() as Sample[];
    const torn = samples.filter(({ n, containers }) => {
      const figures = Object.values(JSON.parse(containers ?? "{}") as Record<string, number[]>);
      return figures.length !== 5 || figures.some((one) => one[1] !== n);
    });
    expect(torn.slice(0, 3)).toEqual([]);
    const there = new Map(samples.map(({ host, at, n }) => [`${host} ${at}`, n]));
    expect(reports.filter(({ host, at, n }) => there.get(`${host} ${at}`) !== n).slice(0, 3)).toEqual([]);
    // A host's state is that of one report, and agrees with its containers' and its alerts'.
    type State = { id: number; status: string; metrics: string; open: number };
    const states = db
      .query(
        "SELECT id, status, metrics, (SELECT COUNT(*) FROM alerts a WHERE a.host = h.id AND closed_at IS NULL) AS open FROM hosts h",
      )
      .all() as State[];
    for (const { id, status, metrics, open } of states) {
      expect([status, open]).toEqual(["online", 0]);
      const { uptime_seconds: n } = JSON.parse(metrics) as { uptime_seconds: number };
      const described = db.query("SELECT description FROM containers WHERE host = ? AND gone_at IS NULL").all(id) as {
        description: string;
      }[];
      expect(described.map(({ description }) => (JSON.parse(description) as { status: string }).status)).toEqual(
        Array.from({ length: 5 }, () => `Up ${n} seconds`),
      );
    }
  } finally {
    db.close();
  }
  const at = ({ host, episode }: { host: string; episode: string }) =>
    join(data, "episodes", host, `${episode}.tar.zst`);
  expect(episodes.filter((one) => !existsSync(at(one)) || sha256(readFileSync(at(one))) !== one.sha256)).toEqual([]);
  const lines = readFileSync(join(data, "index.jsonl"), "utf8").split("\n").filter(Boolean);
  const noted = lines.map((line) => JSON.parse(line) as { host: string; episode: string });
  const keys = noted.map(({ host, episode }) => `${host}/${episode}`);
  expect(keys.length).toBe(new Set(keys).size);
  expect(episodes.filter(({ host, episode }) => !keys.includes(`${host}/${episode}`))).toEqual([]);
}

function partials(data: string): string[] {
  return readdirSync(join(data, "episodes"), { recursive: true })
    .map(String)
    .filter((name) => name.endsWith(".partial"));
}

test("kill -9 at random moments: every acknowledged report and episode is there and whole, once", async () => {
  const port = freePort();
  await using hub = new Hub({ port, more: MORE, target: "binary" });
  for (const host of HOSTS) await hub.addHost(host);
  await hub.up();
  const stop = new AbortController();
  const { ledger, done } = load(hub, () => `http://127.0.0.1:${port}`, stop.signal);
  let kills = 0;
  // As long as that, and longer where a busy machine gets less done in it.
  const enough = () => kills > 3 && ledger.reports.length > 500 && ledger.episodes.length > 20;
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end || !enough(); kills++) {
    // Longer with time: on a busy machine little is done between two of them.
    await Bun.sleep(50 + Math.random() * (700 + 20 * kills));
    await hub.daemon.kill("SIGKILL");
    await hub.up();
  }
  stop.abort();
  await done;
  expect(await hub.daemon.kill()).toBe(0);
  judge(hub.data, ledger);
  // What a kill left without its line gets it by `index rebuild`; partial files are swept by the next start.
  await hub.up();
  expect(partials(hub.data)).toEqual([]);
  expect((await hub.run("index", "rebuild")).code).toBe(0);
  expect((await hub.run("index", "verify")).stdout).toEndWith("all as the index says\n");
  console.log(`${kills} kills, ${ledger.reports.length} reports, ${ledger.episodes.length} episodes`);
});

describe.skipIf(!canCut)("a power cut", () => {
  test("loses nothing that was acknowledged", async () => {
    for (let round = 0; round < 2; round++) {
      await using hub = new Hub({ more: MORE, target: "binary" });
      await using disk = await Disk.make(hub.folder, 1024);
      const data = join(disk.path, "data");
      await using cut = await cutUnderLoad(hub, disk, data);
      judge(join(cut.disk.path, "data"), cut.ledger);
      expect(cut.ledger.reports.length).toBeGreaterThan(1000);
      expect(cut.ledger.episodes.length).toBeGreaterThan(10);
    }
  });

  /** Runs under load, stops the receiver where it stands, copies the device, and lets the next start heal the copy. */
  async function cutUnderLoad(hub: Hub, disk: Disk, data: string) {
    writeFileSync(hub.config, `listen: 127.0.0.1:0\ndata_dir: ${data}\n${MORE}\n`);
    for (const host of HOSTS) await hub.addHost(host);
    await hub.up();
    await Bun.$`sync -f ${disk.path}`;
    const stop = new AbortController();
    const { ledger, done } = load(hub, () => hub.url, stop.signal);
    await until("enough is acknowledged", () => ledger.reports.length > 1200 && ledger.episodes.length > 12);
    hub.daemon.child.kill("SIGSTOP");
    const acknowledged = structuredClone(ledger);
    const after = await disk.cut();
    stop.abort();
    await hub.daemon.kill("SIGKILL");
    await done;
    await after.mount();
    writeFileSync(hub.config, `listen: 127.0.0.1:0\ndata_dir: ${join(after.path, "data")}\n`);
    await hub.up();
    expect((await hub.run("index", "rebuild")).code).toBe(0);
    expect(await hub.daemon.kill()).toBe(0);
    return { disk: after, ledger: acknowledged, [Symbol.asyncDispose]: () => after[Symbol.asyncDispose]() };
  }
});

describe.skipIf(!isRoot)("a full disk", () => {
  test("is 507, leaves nothing, and everything goes on when there is room", async () => {
    await using hub = new Hub({ more: MORE });
    await using disk = await smallDisk(hub.folder, "4m");
    const data = join(disk.path, "data");
    writeFileSync(hub.config, `listen: 127.0.0.1:0\ndata_dir: ${data}\n${MORE}\n`);
    await hub.addHost("web-1");
    await hub.up();
    expect((await hub.report()).status).toBe(200);
    const large = new Uint8Array(8 << 20);
    crypto.getRandomValues(large.subarray(0, 65_536));
    large.set([0x28, 0xb5, 0x2f, 0xfd]);
    const refused = await hub.ship("large", large);
    expect([refused.status, await refused.json()]).toEqual([507, expect.objectContaining({ code: "disk_full" })]);
    expect(partials(data)).toEqual([]);
    const filler = join(disk.path, "filler");
    await Bun.$`dd if=/dev/zero of=${filler} bs=64k`.quiet().nothrow();
    const acknowledged: number[] = [];
    await until("a report is refused", async () => {
      const at = Date.now();
      const containers = Array.from({ length: 100 }, (_, n) => container(`c${n}`, { status: `Up ${at}` }));
      const answer = await hub.report(report({ recorded_at: new Date(at).toISOString(), containers }));
      if (answer.status === 200) acknowledged.push(at);
      else expect([answer.status, await answer.json()]).toEqual([507, expect.objectContaining({ code: "disk_full" })]);
      return answer.status === 507;
    });
    expect((await fetch(`${hub.url}/health`)).status).toBe(503);
    expect((await hub.ship("small", await archive("x"))).status).toBe(507);
    rmSync(filler);
    await until("it takes reports again", async () => (await hub.report()).status === 200);
    expect((await hub.ship("small", await archive("x"))).status).toBe(201);
    expect((await fetch(`${hub.url}/health`)).status).toBe(200);
    const db = new Database(join(data, "receiver.db"), { readonly: true });
    const there = new Set((db.query("SELECT at FROM host_samples").all() as { at: number }[]).map(({ at }) => at));
    db.close();
    expect(acknowledged.filter((at) => !there.has(at))).toEqual([]);
  });

  test("makes a start wait until there is room", async () => {
    await using hub = new Hub({ more: MORE });
    await using disk = await smallDisk(hub.folder, "4m");
    writeFileSync(hub.config, `listen: 127.0.0.1:0\ndata_dir: ${join(disk.path, "data")}\n${MORE}\n`);
    await hub.addHost("web-1");
    await hub.up();
    expect((await hub.report()).status).toBe(200);
    await hub.daemon.kill();
    const filler = join(disk.path, "filler");
    await Bun.$`dd if=/dev/zero of=${filler} bs=4k`.quiet().nothrow();
    await using patient = await startRole("receiver", ["--config", hub.config]);
    await patient.said("the start waits until there is room");
    expect(await patient.kill()).toBe(0);
    const started = hub.up();
    await until("it waits", () => hub.daemon.log.some((line) => line.includes("waits until there is room")));
    rmSync(filler);
    await started;
    expect((await hub.report()).status).toBe(200);
    expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
  });

  test("raises no alert for hosts whose reports were refused meanwhile", async () => {
    await using hub = new Hub();
    await using disk = await smallDisk(hub.folder, "4m");
    writeFileSync(
      hub.config,
      `listen: 127.0.0.1:0\ndata_dir: ${join(disk.path, "data")}\n${MORE}\npoll_interval_seconds: 2\n`,
    );
    await hub.addHost("web-1");
    await hub.up();
    expect((await hub.report()).status).toBe(200);
    const filler = join(disk.path, "filler");
    await Bun.$`dd if=/dev/zero of=${filler} bs=4k`.quiet().nothrow();
    const large = report({ containers: Array.from({ length: 100 }, (_, n) => container(`c${n}`)) });
    let refused = 0;
    // Longer than the eight seconds after which a silent host is offline.
    const end = performance.now() + 10_000;
    while (performance.now() < end || refused <= 10) {
      if ((await hub.report({ ...large, recorded_at: new Date().toISOString() })).status === 507) refused++;
      await Bun.sleep(500);
    }
    rmSync(filler);
    await until("it takes reports again", async () => (await hub.report()).status === 200);
    expect(await hub.get("/v1/events")).toMatchObject({ events: [] });
  });
});

test.concurrent("a client that is slow, but goes on, is let finish", async () => {
  await using hub = await Hub.start();
  const { hostname, port } = new URL(hub.url);
  const bytes = new Uint8Array(40_000);
  bytes.set([0x28, 0xb5, 0x2f, 0xfd]);
  const headers = Object.entries({ ...hub.bearer(), ...uploadHeaders(bytes) }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  );
  const socket = connect(Number(port), hostname);
  let answer = "";
  socket.on("data", (chunk) => (answer += chunk.toString()));
  socket.write(
    `PUT /v1/episodes/web-1/slow.tar.zst HTTP/1.1\r\nHost: x\r\nContent-Length: ${bytes.length}\r\n${headers.join("")}\r\n`,
  );
  for (let at = 0; at < bytes.length; at += 1000) {
    socket.write(bytes.subarray(at, at + 1000));
    await Bun.sleep(1000);
  }
  await until("it is stored", () => answer.startsWith("HTTP/1.1 201"));
  socket.destroy();
});

test.concurrent("a client that stalls in the middle of its episode is cut off, and leaves nothing", async () => {
  await using hub = await Hub.start();
  const { hostname, port } = new URL(hub.url);
  const bytes = new Uint8Array(2 << 20);
  bytes.set([0x28, 0xb5, 0x2f, 0xfd]);
  const headers = Object.entries({ ...hub.bearer(), ...uploadHeaders(bytes) }).map(
    ([name, value]) => `${name}: ${value}\r\n`,
  );
  const socket = connect(Number(port), hostname);
  const closed = new Promise<void>((done) => socket.on("close", () => done()));
  let answer = "";
  socket.on("data", (chunk) => (answer += chunk.toString()));
  socket.on("error", () => {});
  socket.write(
    `PUT /v1/episodes/web-1/stalled.tar.zst HTTP/1.1\r\nHost: x\r\nContent-Length: ${bytes.length}\r\n${headers.join("")}\r\n`,
  );
  socket.write(bytes.subarray(0, 1 << 20));
  await until(
    "it is being written",
    () => existsSync(join(hub.data, "episodes/web-1")) && partials(hub.data).length === 1,
  );
  await closed;
  expect(answer).toStartWith("HTTP/1.1 408");
  await until("nothing is left", () => partials(hub.data).length === 0);
});
