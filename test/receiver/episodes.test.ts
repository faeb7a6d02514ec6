// Episodes in and out: what is stored, what is refused, and that nothing stays behind. Real archives, real sockets.
// Not tested here: kill -9, power cuts and full disks (e2e/receiver-faults.test.ts); network file systems.

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TARGETS, have, until } from "../kit.ts";
import { Hub, archive, begin, bytesOf, fileOf, filesOf, indexLines, sha256, uploadHeaders } from "./kit.ts";
import { onFile, testOnFile } from "./store-kit.ts";

describe.each(TARGETS)("%s", (target) => {
  let hub: Hub;
  beforeAll(async () => {
    hub = await Hub.start({
      target,
      hosts: ["web-1", "web-2"],
      more: "rate_limit_per_minute: 10000\nmax_episode_bytes: 50000000",
    });
  });
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
    expect(readFileSync(fileOf(hub, "ep-1"))).toEqual(Buffer.from(bytes));
    expect(Object.keys(indexLines(hub)[0]!)).toEqual([
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

  test("a missing, malformed or untrue header is 400 with its field, and leaves no file", async () => {
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

  test("too large is 413: before the body where Content-Length tells, else once the limit is passed", async () => {
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
      if (part > 65_536 && onFile)
        await until("it is being written", () => filesOf(hub).some((name) => name.startsWith(".cut")));
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
      expect(sha256(readFileSync(fileOf(hub, `other-${round}`, { bytes: winner })))).toBe(sha256(winner));
    }
    const names = indexLines(hub).map(({ episode }) => episode);
    expect(names.length).toBe(new Set(names).size);
    expect(filesOf(hub).filter((name) => name.startsWith("."))).toEqual([]);
  });

  test("listed, downloaded whole and in part, and 304 where the ETag is known", async () => {
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

test("an episode of any size goes through with flat memory", async () => {
  const gib = Number(process.env["PICKET_TEST_UPLOAD_GIB"] ?? 0.25);
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
  // Parts of an upload to a bucket are in memory.
  expect(peak).toBeLessThan(onFile ? 150 : 180);
});

testOnFile("an upload whose name was never synced is synced before its retry is answered", async () => {
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
});
