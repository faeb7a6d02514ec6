// Episodes shipped by a real agent to a real receiver: the folder each ends in, byte for byte, under all failures.
// Not tested here: 10 GiB in one folder (PICKET_TEST_EPISODE_MIB makes the large one larger).

import { describe, expect, test } from "bun:test";
import { randomBytes } from "node:crypto";
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { COMMIT, FakeHub, Lab, refusal } from "./kit.ts";
import { CuttingProxy } from "../cutting-proxy.ts";
import { isRoot, smallDisk } from "../e2e/disk.ts";
import { listen } from "../fixtures/service/manager.ts";
import { Folder, freePort, runRole, until } from "../kit.ts";
import { Hub } from "../receiver/kit.ts";

/** A hub that answers uploads as given, such as with errors that a receiver rarely gives; all else succeeds. */
function hubThat(answers: (upload: Request) => Response | Promise<Response>) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      await request.arrayBuffer();
      if (request.url.endsWith(".tar.zst")) return answers(request);
      return request.url.endsWith("/v1/ping") ? Response.json({ host: "web-1" }) : new Response(null, { status: 204 });
    },
  });
}

/** An archive's content, listed by GNU tar. */
function listed(bytes: Uint8Array): string {
  const tar = Bun.zstdDecompressSync(bytes);
  const run = Bun.spawnSync(["tar", "--numeric-owner", "--quoting-style=escape", "-tvf", "-"], {
    stdin: tar,
    stderr: "pipe",
  });
  if (run.exitCode !== 0 || run.stderr.length > 0) throw new Error(`tar: ${run.stderr.toString()}`);
  return run.stdout.toString();
}

test("finished folders are shipped, unfinished ones stay, and the archive equals the folder", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using place = new Lab(hub.url, { token: hub.tokens.get("web-1")! });
  const odd = Buffer.concat([
    Buffer.from(place.folder.at("episodes/ep-1/")),
    Buffer.from([0x62, 0x61, 0x64, 0xff, 0xfe]),
  ]);
  place.episode("ep-1", { "a.txt": "x".repeat(1000), "line\nbreak": "y", ["n".repeat(180)]: "long", empty: "" });
  writeFileSync(odd, "no UTF-8");
  symlinkSync("/etc/passwd", place.folder.at("episodes/ep-1/link"));
  mkdirSync(place.folder.at("episodes/ep-1/sub/empty"), { recursive: true });
  utimesSync(place.folder.at("episodes/ep-1/a.txt"), 1_600_000_000, 1_600_000_000);
  mkdirSync(place.folder.at("episodes/unfinished"));
  const { code, stdout } = await place.once();
  expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
  expect([place.in("episodes"), place.in("shipped"), place.in("outbox"), place.in("quarantine")]).toEqual([
    ["unfinished"],
    ["ep-1"],
    [],
    [],
  ]);
  const bytes = readFileSync(join(hub.data, "episodes/web-1/ep-1.tar.zst"));
  const names = listed(bytes);
  expect(names).toMatch(/^-rw-r--r-- 0\/0 +1000 2020-09-13 .* ep-1\/a\.txt$/m);
  expect(names).toContain("ep-1/line\\nbreak");
  expect(names).toContain("ep-1/bad\\377\\376");
  expect(names).toContain(`ep-1/${"n".repeat(180)}`);
  expect(names).toContain("ep-1/link -> /etc/passwd");
  expect(names).toContain("ep-1/sub/empty/");
  const order = names
    .trim()
    .split("\n")
    .map((line) => line.replace(/.* (ep-1)/, "$1"));
  expect(order[0]).toBe("ep-1/");
  expect(await hub.get("/v1/episodes")).toMatchObject({ episodes: [{ episode: "ep-1", commit: COMMIT }] });
  // The same folder gives the same archive: moved back, it is no conflict.
  renameSync(place.folder.at("shipped/ep-1"), place.folder.at("episodes/ep-1"));
  expect((await place.once()).code).toBe(0);
  expect(hub.daemon.log.join("\n")).not.toContain("conflict");
});

test("an upload has a content-length", async () => {
  const seen: [said: string | null, sent: number][] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      const { byteLength } = await request.arrayBuffer();
      if (request.method === "PUT") seen.push([request.headers.get("content-length"), byteLength]);
      return Response.json({ host: "web-1" }, { status: request.method === "PUT" ? 201 : 200 });
    },
  });
  using place = new Lab(`http://127.0.0.1:${server.port}`);
  place.episode("ep-1", { noise: crypto.getRandomValues(new Uint8Array(50_000)) });
  expect((await place.once()).code).toBe(0);
  expect(seen).toEqual([[String(seen[0]?.[1]), expect.any(Number)]]);
  expect(seen[0]![1]).toBeGreaterThan(50_000);
  await server.stop(true);
});

test("rejected episodes go to quarantine with the reason, conflicts stay, and neither stops the others", async () => {
  await using hub = await Hub.start({ more: `rate_limit_per_minute: 100000\nmax_episode_bytes: 100000` });
  using place = new Lab(hub.url, { token: hub.tokens.get("web-1")! });
  place.episode("conflict", { x: "first" });
  expect((await place.once()).code).toBe(0);
  place.episode("conflict", { x: "second" });
  const large = new Uint8Array(300_000);
  for (let at = 0; at < large.length; at += 60_000) crypto.getRandomValues(large.subarray(at, at + 60_000));
  place.episode("large", { large });
  place.episode("good");
  const { code, stdout } = await place.once();
  expect([code, stdout]).toEqual([6, "scanned=3 shipped=1 transient=0 conflicts=1 fatal=1\n"]);
  expect([place.in("episodes"), place.in("quarantine"), place.in("outbox")]).toEqual([
    ["conflict"],
    ["large"],
    ["conflict.tar.zst"],
  ]);
  const reason = JSON.parse(readFileSync(place.folder.at("quarantine/large/quarantine_reason.json"), "utf8")) as object;
  expect(reason).toEqual({
    status: 413,
    body: expect.objectContaining({ code: "too_large" }),
    time: expect.stringMatching(/Z$/),
  });
  const list = await runRole("agent", ["quarantine", "list", "--config", place.config]);
  expect(list.stdout).toMatch(/^large {2}413 /);
  const retry = await runRole("agent", ["quarantine", "retry", "large", "--config", place.config]);
  expect(retry.code).toBe(0);
  expect([place.in("quarantine"), existsSync(place.folder.at("episodes/large/quarantine_reason.json"))]).toEqual([
    [],
    false,
  ]);
  const none = await runRole("agent", ["quarantine", "retry", "nothing", "--config", place.config]);
  expect([none.code, none.stderr]).toEqual([1, expect.stringContaining("not in quarantine")]);
  // A daemon logs a conflict once.
  await using agent = await place.start({ target: "binary" });
  await agent.said("conflict");
  place.episode("later");
  await until("it is shipped", () => place.in("shipped").includes("later"));
  expect(agent.log.filter((line) => line.includes("other bytes under this name")).length).toBe(1);
});

test("the version gate's remediation is logged whole; drain-unstamped quarantines episodes without a commit", async () => {
  const server = hubThat(() =>
    Response.json(
      {
        error: "too old",
        code: "commit_outside_window",
        remediation: "cd /opt/lab && git pull && sudo ./install.sh",
      },
      { status: 412 },
    ),
  );
  using place = new Lab(`http://127.0.0.1:${server.port}`);
  place.episode("old");
  const refused = await place.once();
  expect([refused.code, refused.stderr]).toEqual([
    6,
    expect.stringContaining("cd /opt/lab && git pull && sudo ./install.sh"),
  ]);
  place.episode("unstamped", { x: "y" }, null);
  place.episode("stamped");
  const dry = await runRole("agent", ["quarantine", "drain-unstamped", "--dry-run", "--config", place.config]);
  expect(dry.stdout).toBe("unstamped\n1 unstamped, left where they are\n");
  for (const expected of ["unstamped\n1 unstamped put into quarantine\n", "0 unstamped put into quarantine\n"]) {
    const drained = await runRole("agent", ["quarantine", "drain-unstamped", "--config", place.config]);
    expect(drained.stdout).toBe(expected);
  }
  expect([place.in("episodes"), place.in("quarantine")]).toEqual([["stamped"], ["old", "unstamped"]]);
  await server.stop(true);
});

test("1,000 rejected folders take 1,000 requests, and the good one behind them is shipped", async () => {
  let puts = 0;
  const server = hubThat(({ url }) => {
    puts++;
    return url.includes("/good.") ? Response.json({}, { status: 201 }) : refusal(400);
  });
  // In memory if there is such a folder: each episode has five syncs, which a busy disk makes slow.
  const under = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  using place = new Lab(`http://127.0.0.1:${server.port}`, { under });
  for (let n = 0; n < 1000; n++) place.episode(`bad-${n}`, {}, null);
  place.episode("good");
  const { code, stdout } = await place.once();
  expect([code, stdout]).toEqual([6, "scanned=1001 shipped=1 transient=0 conflicts=0 fatal=1000\n"]);
  expect(puts).toBe(1001);
  expect((await place.once()).stdout).toBe("scanned=0 shipped=0 transient=0 conflicts=0 fatal=0\n");
  await server.stop(true);
});

test("a daemon, --once and drain-unstamped never work on the same episode", async () => {
  const puts: string[] = [];
  const { promise: gate, resolve: open } = Promise.withResolvers<void>();
  const server = hubThat(async ({ url }) => {
    puts.push(url.replace(/.*\//, ""));
    await gate;
    return Response.json({}, { status: 201 });
  });
  using place = new Lab(`http://127.0.0.1:${server.port}`);
  place.episode("slow", undefined, null);
  await using agent = await place.start({ target: "binary" });
  await until("it is being sent", () => puts.length === 1);
  const drained = await runRole("agent", ["quarantine", "drain-unstamped", "--config", place.config]);
  expect([drained.code, drained.stdout]).toEqual([
    5,
    "slow: is being shipped right now, left where it is\n0 unstamped put into quarantine\n",
  ]);
  const beside = await place.once();
  expect([beside.code, beside.stdout]).toEqual([5, "scanned=1 shipped=0 transient=1 conflicts=0 fatal=0\n"]);
  expect([puts, place.in("quarantine"), place.in("outbox")]).toEqual([["slow.tar.zst"], [], ["slow.tar.zst"]]);
  open();
  await until("it is shipped", () => place.in("shipped").includes("slow"));
  await agent.kill();
  for (let n = 0; n < 40; n++) place.episode(`ep-${n}`);
  const all = await Promise.all([place.once(), place.once(), place.once()]);
  const shipped = all.map(({ stdout }) => Number(/shipped=(\d+)/.exec(stdout)?.[1]));
  expect([shipped[0]! + shipped[1]! + shipped[2]!, puts.length]).toEqual([40, 41]);
  await server.stop(true);
});

describe("trouble on the way", () => {
  test("401 pauses all shipping and moves nothing; 503 and no answer are retried", async () => {
    let status = 401;
    const server = hubThat(() => {
      if (status === 201) return Response.json({}, { status });
      return refusal(status, { headers: status === 503 ? { "retry-after": "1" } : {} });
    });
    using place = new Lab(`http://127.0.0.1:${server.port}`);
    place.episode("a");
    place.episode("b");
    for (const held of [401, 403, 404, 429, 500, 503, 507]) {
      status = held;
      const { code, stdout, stderr } = await place.once();
      expect([held, code, stdout]).toEqual([held, 5, "scanned=2 shipped=0 transient=2 conflicts=0 fatal=0\n"]);
      // Only a failure that an operator must fix is an error.
      expect([held, / error .*all shipping waits/.test(stderr)]).toEqual([held, held < 429]);
    }
    expect([place.in("episodes"), place.in("quarantine")]).toEqual([["a", "b"], []]);
    status = 503;
    await using agent = await place.start({ target: "binary" });
    await agent.said(/503/);
    status = 201;
    await until("both are shipped", () => place.in("shipped").length === 2);
    await server.stop(true);
  });

  test("kill -9 in every state, and a receiver that dies again and again: each arrives once, byte for byte", async () => {
    const port = freePort();
    await using hub = new Hub({ port, more: "rate_limit_per_minute: 1000000", target: "binary" });
    await hub.addHost("web-1");
    await hub.up();
    using place = new Lab(hub.url, { token: hub.tokens.get("web-1")! });
    const count = 40;
    const content = new Map<string, string>();
    for (let n = 0; n < count; n++) {
      const data = new Uint8Array(200_000 + n * 5000);
      for (let at = 0; at < data.length; at += 60_000)
        crypto.getRandomValues(data.subarray(at, Math.min(at + 60_000, data.length)));
      place.episode(`ep-${n}`, { data });
      content.set(`ep-${n}`, Bun.hash(data).toString());
    }
    let kills = 0;
    for (; place.in("shipped").length < count && kills < 200; kills++) {
      const agent = await place.start({ target: "binary" });
      await agent.said(" ready ");
      // Longer with time: on a busy machine the first ones may end before they have sent anything.
      await Bun.sleep(Math.random() * (120 + 10 * kills));
      if (kills % 3 === 0) {
        await hub.daemon.kill("SIGKILL");
        await hub.up();
        await Bun.sleep(Math.random() * 100);
      }
      await agent.kill("SIGKILL");
    }
    // Most of them went between the kills, not after the last one.
    expect(place.in("shipped").length).toBeGreaterThan(count / 2);
    expect((await place.once()).code).toBe(0);
    expect([place.in("episodes"), place.in("outbox"), place.in("quarantine")]).toEqual([[], [], []]);
    const { episodes } = await hub.get<{ episodes: { episode: string }[] }>("/v1/episodes?limit=1000");
    expect(episodes.map(({ episode }) => episode).toSorted()).toEqual([...content.keys()].toSorted());
    for (const [id, hash] of content) {
      const tar = Bun.zstdDecompressSync(readFileSync(join(hub.data, `episodes/web-1/${id}.tar.zst`)));
      const file = Bun.spawnSync(["tar", "-xOf", "-", `${id}/data`], { stdin: tar }).stdout;
      expect([id, Bun.hash(file).toString()]).toEqual([id, hash]);
    }
    expect((await hub.run("index", "verify")).code).toBe(0);
    console.log(`${kills} kills`);
    expect(kills).toBeGreaterThan(2);
  });
});

/** The head of an upload, with its headers, is cut every so many bytes; 1 is at each, and takes two minutes. */
const CUT_STEP = Number(process.env["PICKET_CUT_STEP"] ?? 23);

test("a connection cut at any point of an upload: retried, and stored once, byte for byte", async () => {
  const port = freePort();
  await using hub = new Hub({ port, more: "rate_limit_per_minute: 1000000", target: "binary" });
  await hub.addHost("web-1");
  await hub.up();
  using proxy = await CuttingProxy.to(port);
  using place = new Lab(`http://127.0.0.1:${proxy.port}`, { token: hub.tokens.get("web-1")! });
  const content = crypto.getRandomValues(new Uint8Array(60_000));
  place.episode("ep", { content });
  writeFileSync(place.config, `${readFileSync(place.config, "utf8")}host_id: web-1\n`);
  let cuts = 0;
  for (let at = 1; place.in("shipped").length === 0; at += at < 700 ? CUT_STEP : 4099) {
    proxy.cutAfter = at;
    const { code, stdout } = await place.once();
    if (code === 0) break;
    expect([at, code, stdout]).toEqual([at, 5, "scanned=1 shipped=0 transient=1 conflicts=0 fatal=0\n"]);
    cuts++;
  }
  expect(cuts).toBeGreaterThan(30);
  expect([place.in("episodes"), place.in("outbox"), place.in("shipped")]).toEqual([[], [], ["ep"]]);
  const tar = Bun.zstdDecompressSync(readFileSync(join(hub.data, "episodes/web-1/ep.tar.zst")));
  expect(Bun.spawnSync(["tar", "-xOf", "-", "ep/content"], { stdin: tar }).stdout.equals(content)).toBe(true);
  expect(readdirSync(join(hub.data, "episodes/web-1"))).toEqual(["ep.tar.zst"]);
  expect(await hub.get<{ episodes: unknown[] }>("/v1/episodes")).toMatchObject({ episodes: [{ episode: "ep" }] });
}, 600_000);

test("a large folder and many small files are shipped with flat memory; a growing file is cut to its size at the start", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000", target: "binary" });
  using place = new Lab(hub.url, { token: hub.tokens.get("web-1")! });
  const mib = Number(process.env["PICKET_TEST_EPISODE_MIB"] ?? 300);
  const large = place.folder.at("large");
  const chunk = new Uint8Array(1 << 20);
  const out = Bun.file(large).writer();
  for (let n = 0; n < mib; n++) {
    for (let at = 0; at < chunk.length; at += 65_536) crypto.getRandomValues(chunk.subarray(at, at + 65_536));
    await out.write(chunk.slice());
  }
  await out.end();
  mkdirSync(place.folder.at("episodes/big"));
  renameSync(large, place.folder.at("episodes/big/large"));
  place.episode("big");
  const files = Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`f${n}`, `${n}`]));
  place.episode("many", files);
  const grows = place.folder.at("episodes/growing/log");
  place.episode("growing", { log: "line\n" });
  const enough = new AbortController();
  // By its descriptor, like a program's log: the folder moves, the writer goes on.
  const log = openSync(grows, "a");
  const appending = (async () => {
    while (!enough.signal.aborted) {
      appendFileSync(log, "line\n".repeat(1000));
      await Bun.sleep(1);
    }
    closeSync(log);
  })();
  await using agent = await place.start({ target: "binary" });
  await until("all are shipped", () => place.in("shipped").length === 3);
  enough.abort();
  await appending;
  const peak = Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${agent.child.pid}/status`, "utf8"))?.[1]) / 1024;
  console.log(`${mib} MiB and 5,000 files, at most ${Math.round(peak)} MiB resident`);
  expect(peak).toBeLessThan(200);
  const grown = readFileSync(join(hub.data, "episodes/web-1/growing.tar.zst"));
  expect(listed(grown)).toContain("growing/log");
  expect(listed(readFileSync(join(hub.data, "episodes/web-1/many.tar.zst"))).split("\n").length).toBeGreaterThan(5000);
  expect(statSync(join(hub.data, "episodes/web-1/big.tar.zst")).size).toBeGreaterThan(mib << 20);
});

test.skipIf(!isRoot)("an episode that is too large for the disk leaves its space to the others", async () => {
  using folder = new Folder();
  await using disk = await smallDisk(folder, "12m");
  const hub = new FakeHub();
  using place = new Lab(hub, { under: disk.path });
  writeFileSync(join(place.episode("a-large"), "data.bin"), randomBytes(7 << 20));
  place.episode("b-small");
  utimesSync(place.folder.at("episodes/a-large/done.marker"), 1, 1);
  const { code, stdout, stderr } = await place.once();
  expect([code, stdout]).toEqual([5, "scanned=2 shipped=1 transient=1 conflicts=0 fatal=0\n"]);
  expect(stderr).toContain("ENOSPC");
  expect([place.in("outbox"), place.in("shipped")]).toEqual([[], ["b-small"]]);
});

test.each([
  [401, {}],
  [404, {}],
  [429, { "retry-after": "30" }],
])("%d pauses shipping for --once, too: one upload, not three", async (status, headers) => {
  const hub = new FakeHub({ ".tar.zst": () => refusal(status, { headers }) });
  using place = new Lab(hub);
  for (const id of ["a", "b", "c"]) place.episode(id);
  const { code, stdout } = await place.once();
  expect([code, stdout]).toEqual([5, "scanned=3 shipped=0 transient=3 conflicts=0 fatal=0\n"]);
  expect(hub.asked).toEqual(["/v1/ping", "/v1/episodes/web-1/a.tar.zst"]);
});

test.each(["answer comes late", "bytes go slowly"])("an upload whose %s still feeds the watchdog", async (kind) => {
  let patient = true;
  const hub = new FakeHub({
    ".tar.zst": async (request) => {
      for await (const _ of request.body!) if (patient && kind === "bytes go slowly") await Bun.sleep(20);
      await until("the watchdog was fed", () => !patient);
      return Response.json({}, { status: 201 });
    },
  });
  using place = new Lab(hub);
  place.episode("slow");
  // Packed already, so that the test times the upload and not the disk's sync.
  mkdirSync(place.folder.at("outbox"));
  writeFileSync(place.folder.at("outbox/slow.tar.zst"), randomBytes(64 << 20));
  const manager = listen(place.folder.at("notify"));
  try {
    await using agent = await place.start({
      env: { NOTIFY_SOCKET: place.folder.at("notify"), WATCHDOG_USEC: "4000000" },
    });
    await until("it is being sent", () => hub.asked.some((path) => path.endsWith("slow.tar.zst")));
    const fed = () => manager.messages().filter((message) => message.includes("WATCHDOG=1")).length;
    const before = fed();
    // It is fed at most every quarter of its period: six times take a period and a half.
    await until("the watchdog is fed while the upload waits", () => {
      return fed() >= before + 6 || agent.log.some((line) => line.includes("loop hangs"));
    });
    expect(agent.log.join("\n")).not.toContain("loop hangs");
    patient = false;
    await until("it is shipped", () => place.in("shipped").length === 1);
  } finally {
    patient = false;
    manager.close();
  }
});

test.each([400, 409, 412, 422])("%d to the request for the host's name quarantines no episode", async (status) => {
  const hub = new FakeHub({ "/v1/ping": () => refusal(status) });
  using place = new Lab(hub);
  place.episode("good");
  const { code, stdout } = await place.once();
  expect([code, stdout]).toEqual([5, "scanned=1 shipped=0 transient=1 conflicts=0 fatal=0\n"]);
  expect([place.in("episodes"), place.in("quarantine")]).toEqual([["good"], []]);
});

test("a retried episode is packed again, even if a crash left the rejected archive", async () => {
  const sent: Uint8Array[] = [];
  const hub = new FakeHub({
    ".tar.zst": async (request) => {
      sent.push(new Uint8Array(await request.arrayBuffer()));
      return Response.json({}, { status: 201 });
    },
  });
  using place = new Lab(hub);
  for (const folder of ["quarantine/ep-1", "outbox"]) mkdirSync(place.folder.at(folder), { recursive: true });
  for (const file of ["quarantine/ep-1/done.marker", "quarantine/ep-1/fixed.txt", "outbox/ep-1.tar.zst"])
    place.folder.write(file, "");
  expect((await place.run(["quarantine", "retry", "ep-1"])).code).toBe(0);
  expect((await place.once()).code).toBe(0);
  expect(Buffer.from(Bun.zstdDecompressSync(sent[0]!)).includes("ep-1/fixed.txt")).toBe(true);
});
