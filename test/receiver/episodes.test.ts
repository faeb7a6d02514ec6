// Episodes in and out: what is stored, what is refused, and that nothing stays behind. Real archives, real sockets.
// Not tested here: kill -9, power cuts and full disks (e2e/receiver-faults.test.ts); network file systems.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { Folder, TARGETS, have, until } from "../kit.ts";
import { Hub, archive, sha256, uploadHeaders } from "./kit.ts";

type Row = Record<string, unknown>;

function indexLines(hub: Hub): Row[] {
  const path = join(hub.data, "index.jsonl");
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Row);
}

function filesOf(hub: Hub, host = "web-1"): string[] {
  const folder = join(hub.data, "episodes", host);
  return existsSync(folder) ? readdirSync(folder).toSorted() : [];
}

/** Random bytes that begin as zstd does. */
function bytesOf(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(bytes.subarray(at, Math.min(at + 65_536, size)));
  bytes.set([0x28, 0xb5, 0x2f, 0xfd]);
  return bytes;
}

/** Opens an upload by hand: announces `length`, and gives the socket to go on with. */
async function begin(
  hub: Hub,
  episode: string,
  { length, headers = {} }: { length: number; headers?: Record<string, string> },
) {
  const { hostname, port } = new URL(hub.url);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const socket = connect(Number(port), hostname, resolve);
  socket.on("error", reject);
  let answer = "";
  const closed = new Promise<string>((done) => socket.on("close", () => done(answer)));
  socket.on("data", (chunk) => (answer += chunk.toString()));
  await promise;
  const all = { ...hub.bearer(), "content-type": "application/zstd", "x-schema-version": "1", ...headers };
  const lines = Object.entries(all)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("");
  socket.write(
    `PUT /v1/episodes/web-1/${episode}.tar.zst HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}\r\n${lines}\r\n`,
  );
  return { socket, closed, answer: () => answer };
}

describe.each(TARGETS)("%s", (target) => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({
      target,
      hosts: ["web-1", "web-2"],
      more: "rate_limit_per_minute: 10000\nmax_episode_bytes: 50000000",
    });
  }, 60_000);
  afterAll(() => hub[Symbol.asyncDispose]());

  test("stored is 201, the same bytes again 200, other bytes 409; the index has one line, keys in order", async () => {
    const bytes = await archive("first");
    const stored = await hub.ship("ep-1", bytes, { headers: { "x-cis490-code-commit": "b".repeat(40) } });
    expect([stored.status, await stored.json()]).toEqual([201, { sha256: sha256(bytes), size: bytes.length }]);
    const again = await hub.ship("ep-1", bytes);
    expect([again.status, await again.json()]).toEqual([200, { sha256: sha256(bytes), size: bytes.length }]);
    const other = await hub.ship("ep-1", await archive("second"));
    expect([other.status, await other.json()]).toEqual([
      409,
      expect.objectContaining({ code: "conflict", sha256: sha256(bytes) }),
    ]);
    expect(readFileSync(join(hub.data, "episodes/web-1/ep-1.tar.zst"))).toEqual(Buffer.from(bytes));
    const line = readFileSync(join(hub.data, "index.jsonl"), "utf8").split("\n")[0]!;
    expect(Object.keys(JSON.parse(line) as Row)).toEqual([
      "received_at",
      "host",
      "episode",
      "sha256",
      "size",
      "schema",
      "commit",
    ]);
    expect(indexLines(hub)).toMatchObject([
      { host: "web-1", episode: "ep-1", sha256: sha256(bytes), size: bytes.length, schema: 1, commit: "b".repeat(40) },
    ]);
  });

  test("what is missing, malformed or not true is 400 with its field, and leaves nothing", async () => {
    const bytes = await archive("never");
    const plain = new TextEncoder().encode("no zstd");
    const cases: [string, Record<string, string | null>, Uint8Array<ArrayBuffer>?][] = [
      ["X-Content-SHA256", { "x-content-sha256": null }],
      ["X-Content-SHA256", { "x-content-sha256": "abc" }],
      ["X-Content-SHA256", { "x-content-sha256": "0".repeat(64) }],
      ["Content-Type", { "content-type": "application/json" }],
      ["X-Schema-Version", { "x-schema-version": null }],
      ["X-Schema-Version", { "x-schema-version": "2" }],
      ["X-Code-Commit", { "x-code-commit": "main" }],
      ["Content-Encoding", { "content-encoding": "gzip" }],
      ["body", {}, plain],
      ["body", {}, new Uint8Array()],
    ];
    for (const [field, headers, body = bytes] of cases) {
      const answer = await hub.ship("never", body, { headers });
      expect([field, headers, answer.status, await answer.json()]).toEqual([
        field,
        headers,
        400,
        expect.objectContaining({ field }),
      ]);
    }
    for (const name of [".hidden", "a%2Fb", "..%2F..%2Fx", "x".repeat(129), "a b"]) {
      expect([name, (await hub.ship(name, bytes)).status]).toEqual([name, 400]);
    }
    expect(filesOf(hub).filter((name) => name.includes("never") || name.startsWith("."))).toEqual([]);
  });

  test("too large is 413: before the body where Content-Length says so, else when it is over", async () => {
    const early = await begin(hub, "large", { length: 50_000_001, headers: { "x-content-sha256": "0".repeat(64) } });
    await until("it is refused", () => early.answer().includes("413"));
    early.socket.destroy();
    const bytes = bytesOf(8 << 20);
    async function* endless() {
      for (let n = 0; n < 10; n++) yield bytes;
    }
    const late = await fetch(`${hub.url}/v1/episodes/web-1/large.tar.zst`, {
      method: "PUT",
      body: endless() as unknown as Bun.BodyInit,
      headers: { ...hub.bearer(), ...uploadHeaders(bytes) },
    });
    expect([late.status, await late.json()]).toEqual([413, expect.objectContaining({ limit_bytes: 50_000_000 })]);
    expect(filesOf(hub).filter((name) => name.includes("large"))).toEqual([]);
  });

  test("a client that is cut off leaves nothing, and its retry is taken", async () => {
    const bytes = bytesOf(3 << 20);
    for (const part of [0, 1, 5, 65_536, 2 << 20, bytes.length - 1]) {
      const upload = await begin(hub, "cut", { length: bytes.length, headers: uploadHeaders(bytes) });
      upload.socket.write(bytes.subarray(0, part));
      if (part > 65_536) await until("it is being written", () => filesOf(hub).some((name) => name.startsWith(".cut")));
      upload.socket.destroy();
      await upload.closed;
      await until("nothing is left", () => !filesOf(hub).some((name) => name.includes("cut")));
    }
    expect((await hub.ship("cut", bytes)).status).toBe(201);
  });

  test("two at once with the same bytes get 201 and 200, with other bytes 201 and 409", async () => {
    for (let round = 0; round < 5; round++) {
      const bytes = bytesOf(1 << 20);
      const same = await Promise.all([hub.ship(`same-${round}`, bytes), hub.ship(`same-${round}`, bytes)]);
      expect(same.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 201]);
      const [one, two] = [bytesOf(1 << 20), bytesOf(1 << 20)];
      const other = await Promise.all([hub.ship(`other-${round}`, one), hub.ship(`other-${round}`, two)]);
      expect(other.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 409]);
      const winner = other[0].status === 201 ? one : two;
      expect(sha256(readFileSync(join(hub.data, `episodes/web-1/other-${round}.tar.zst`)))).toBe(sha256(winner));
    }
    const names = indexLines(hub).map(({ episode }) => episode);
    expect(names.length).toBe(new Set(names).size);
    expect(filesOf(hub).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("listed, downloaded, in part, and not again where it is known", async () => {
    const bytes = await archive("to be read");
    await hub.ship("read", bytes, { host: "web-2" });
    const url = `${hub.url}/v1/episodes/web-2/read.tar.zst`;
    expect(await hub.get("/v1/episodes?host=web-2")).toMatchObject({ episodes: [{ host: "web-2", episode: "read" }] });
    expect(await hub.get(`/v1/episodes?since=${new Date(Date.now() + 60_000).toISOString()}`)).toEqual({
      episodes: [],
    });
    const whole = await fetch(url);
    expect([whole.status, whole.headers.get("etag"), whole.headers.get("content-type")]).toEqual([
      200,
      `"${sha256(bytes)}"`,
      "application/zstd",
    ]);
    expect(new Uint8Array(await whole.arrayBuffer())).toEqual(bytes);
    const part = async (range: string, more: Record<string, string> = {}) => {
      const answer = await fetch(url, { headers: { range, ...more } });
      return [
        answer.status,
        answer.headers.get("content-range"),
        Buffer.from(await answer.arrayBuffer()).toString("hex"),
      ];
    };
    const hex = (from: number, to: number) => Buffer.from(bytes.slice(from, to)).toString("hex");
    const size = bytes.length;
    expect(await part("bytes=0-3")).toEqual([206, `bytes 0-3/${size}`, hex(0, 4)]);
    expect(await part("bytes=4-")).toEqual([206, `bytes 4-${size - 1}/${size}`, hex(4, size)]);
    expect(await part("bytes=-5")).toEqual([206, `bytes ${size - 5}-${size - 1}/${size}`, hex(size - 5, size)]);
    expect(await part(`bytes=${size}-`)).toEqual([416, `bytes */${size}`, ""]);
    expect((await part("bytes=0-3", { "if-range": '"other"' }))[0]).toBe(200);
    expect((await fetch(url, { headers: { "if-none-match": `"${sha256(bytes)}"` } })).status).toBe(304);
    expect((await fetch(`${hub.url}/v1/episodes/web-2/nothing.tar.zst`)).status).toBe(404);
    const head = await fetch(url, { method: "HEAD" });
    expect([head.status, head.headers.get("content-length")]).toEqual([200, String(size)]);
  });
});

describe("the index", () => {
  test("a file without a line gets it by the sender's retry, or by `index rebuild`, with the commit of its meta.json", async () => {
    await using hub = await Hub.start();
    const [one, two] = [await archive("one"), await archive("two")];
    await hub.ship("one", one);
    await hub.ship("two", two);
    rmSync(join(hub.data, "index.jsonl"));
    expect(await hub.get("/v1/episodes")).toEqual({ episodes: [] });
    expect((await hub.ship("one", one)).status).toBe(200);
    expect((await hub.ship("two", await archive("other"))).status).toBe(409);
    expect(indexLines(hub)).toMatchObject([{ episode: "one" }]);
    const rebuilt = await hub.run("index", "rebuild");
    expect([rebuilt.code, rebuilt.stdout]).toEqual([0, "web-1/two: line made\n1 missing line made\n"]);
    expect(indexLines(hub)).toMatchObject([
      { episode: "one" },
      { episode: "two", sha256: sha256(two), commit: "a".repeat(40), backfilled: true, schema: 1 },
    ]);
    expect((await hub.run("index", "rebuild")).stdout).toBe("nothing was missing\n");
    // The daemon sees what another process wrote.
    expect(await hub.get<{ episodes: Row[] }>("/v1/episodes")).toMatchObject({
      episodes: [{ episode: "two" }, { episode: "one" }],
    });
  });

  test("`index verify` finds what differs", async () => {
    await using hub = await Hub.start();
    for (const name of ["good", "changed", "shorter", "missing"]) await hub.ship(name, await archive(name));
    expect(await hub.run("index", "verify")).toMatchObject({ code: 0, stdout: "4 episodes, all as the index says\n" });
    const at = (name: string) => join(hub.data, "episodes/web-1", `${name}.tar.zst`);
    const bytes = readFileSync(at("changed"));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(at("changed"), bytes);
    writeFileSync(at("shorter"), readFileSync(at("shorter")).subarray(0, 20));
    unlinkSync(at("missing"));
    writeFileSync(at("foreign"), await archive("foreign"));
    const { code, stdout } = await hub.run("index", "verify");
    expect(code).toBe(1);
    for (const what of [
      "changed: other hash",
      "shorter: other size",
      "missing: missing file",
      "foreign: missing line",
      "4 episodes, 4 differences",
    ]) {
      expect(stdout).toContain(what);
    }
  });

  test("a damaged file is nobody's 200, and a lost one comes back with the same bytes alone", async () => {
    await using hub = await Hub.start();
    const bytes = await archive("precious");
    await hub.ship("precious", bytes);
    const path = join(hub.data, "episodes/web-1/precious.tar.zst");
    const damaged = Buffer.from(bytes);
    damaged[damaged.length - 1]! ^= 1;
    writeFileSync(path, damaged);
    const answer = await hub.ship("precious", bytes);
    expect([answer.status, await answer.json()]).toEqual([500, expect.objectContaining({ code: "damaged" })]);
    unlinkSync(path);
    expect((await hub.ship("precious", await archive("other"))).status).toBe(409);
    expect((await hub.ship("precious", bytes)).status).toBe(201);
    expect(indexLines(hub).length).toBe(1);
    expect((await hub.run("index", "verify")).stdout).toBe("1 episode, all as the index says\n");
  });

  test("torn, foreign and repeated lines harm nobody; a replaced file is read anew", async () => {
    await using hub = await Hub.start();
    await hub.ship("one", await archive("one"));
    const path = join(hub.data, "index.jsonl");
    appendFileSync(path, `nonsense\n{"host":1}\n\n${readFileSync(path, "utf8")}{"received_at":"20`);
    await hub.ship("two", await archive("two"));
    expect((await hub.get<{ episodes: Row[] }>("/v1/episodes")).episodes.map(({ episode }) => episode)).toEqual([
      "one",
      "two",
    ]);
    unlinkSync(path);
    writeFileSync(path, "");
    expect(await hub.get("/v1/episodes")).toEqual({ episodes: [] });
  });

  test("partial files of a daemon that died are swept at the start", async () => {
    await using hub = new Hub();
    await hub.addHost("web-1");
    await hub.up();
    const bytes = bytesOf(1 << 20);
    const upload = await begin(hub, "half", { length: bytes.length + 5, headers: uploadHeaders(bytes) });
    upload.socket.write(bytes);
    await until(
      "it is being written",
      () => filesOf(hub).length === 1 && statSync(join(hub.data, "episodes/web-1", filesOf(hub)[0]!)).size > 0,
    );
    await hub.daemon.kill("SIGKILL");
    upload.socket.destroy();
    expect(filesOf(hub).length).toBe(1);
    await hub.up();
    expect(filesOf(hub)).toEqual([]);
    await hub.daemon.said("swept unfinished uploads files=1");
  });
});

test("an episode of any size goes through with flat memory", async () => {
  const gib = Number(process.env["PICKET_TEST_UPLOAD_GIB"] ?? 1);
  await using hub = await Hub.start({ target: "binary" });
  const chunk = bytesOf(1 << 20);
  const hasher = new Bun.CryptoHasher("sha256");
  for (let n = 0; n < gib * 1024; n++) hasher.update(chunk);
  async function* body() {
    for (let n = 0; n < gib * 1024; n++) yield chunk;
  }
  const answer = await fetch(`${hub.url}/v1/episodes/web-1/huge.tar.zst`, {
    method: "PUT",
    body: body() as unknown as Bun.BodyInit,
    headers: { ...hub.bearer(), ...uploadHeaders(chunk), "x-content-sha256": hasher.digest("hex") },
  });
  expect(answer.status).toBe(201);
  const peak =
    Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${hub.daemon.child.pid}/status`, "utf8"))?.[1]) / 1024;
  console.log(`${gib} GiB, at most ${Math.round(peak)} MiB resident (PICKET_TEST_UPLOAD_GIB sets the size)`);
  expect(peak).toBeLessThan(150);
}, 120_000);

test("unstamped uploads are told, but not of a host that never reported; a stamped one closes the alert", async () => {
  using folder = new Folder();
  await using hub = await Hub.start({
    more: `rate_limit_per_minute: 100000\nversion_gate: { enabled: true, repo_path: ${folder.at("repo")} }`,
  });
  const bytes = await archive("x");
  const alerts = async () => (await hub.get<{ alerts: Row[] }>("/v1/hosts/web-1")).alerts.map(({ what }) => what);
  expect((await hub.ship("a", bytes)).status).toBe(400);
  expect(await alerts()).toEqual([]);
  await hub.report();
  expect((await hub.ship("a", bytes)).status).toBe(400);
  expect(await alerts()).toEqual(["host.unstamped"]);
  const git = `git init -q ${folder.at("repo")} && cd ${folder.at("repo")} && git -c user.name=t -c user.email=t@example.org commit -q --allow-empty -m x && git rev-parse HEAD`;
  const commit = Bun.spawnSync(["sh", "-c", git]).stdout.toString().trim();
  await until(
    "it is let in",
    async () => (await hub.ship("a", bytes, { headers: { "x-code-commit": commit } })).status === 201,
  );
  expect(await alerts()).toEqual([]);
}, 60_000);

test("an upload whose name was never synced is synced before its retry is answered", async () => {
  await using hub = await Hub.start();
  const bytes = await archive("left by a crash");
  mkdirSync(join(hub.data, "episodes/web-1"), { recursive: true });
  writeFileSync(join(hub.data, "episodes/web-1/left.tar.zst"), bytes);
  if (!have("strace", "what is synced")) return;
  const trace = Bun.spawn(["strace", "-f", "-y", "-e", "trace=fsync,fdatasync", "-p", String(hub.daemon.child.pid)], {
    stderr: "pipe",
    stdout: "ignore",
  });
  let seen = "";
  const reading = (async () => {
    for await (const chunk of trace.stderr.pipeThrough(new TextDecoderStream())) seen += chunk;
  })();
  await until("strace is there", () => seen.includes("attached"));
  expect((await hub.ship("left", bytes)).status).toBe(200);
  await until("it was synced", () => /episodes\/web-1>/.test(seen) && /left\.tar\.zst>/.test(seen));
  trace.kill("SIGINT");
  await trace.exited;
  await reading;
  expect(seen.indexOf("left.tar.zst>")).toBeLessThan(seen.indexOf("index.jsonl>"));
}, 60_000);
