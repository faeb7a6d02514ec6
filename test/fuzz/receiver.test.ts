// The receiver's doors at random: reports through their reader and through a real receiver, uploads with names and headers of all
// kinds, reading; its index and its archives as others leave them.

import { expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import * as fc from "fast-check";
import { EpisodeFolder } from "../../lib/receiver/episode-folder.ts";
import { rowOf } from "../../lib/receiver/episode-check.ts";
import { memoryPercent, readReport } from "../../lib/receiver/report.ts";
import { Folder } from "../kit.ts";
import { Hub, archive, container, report, uploadHeaders } from "../receiver/kit.ts";
import {
  PATIENCE_MS,
  TIMEOUT_MS,
  cpuMs,
  damaged,
  exchange,
  json,
  listing,
  mutated,
  prototypesUntouched,
  residentMb,
  runs,
  sample,
  sideBySide,
  statusesOf,
  strangeJson,
  text,
} from "./kit.ts";

const RIGHT = {
  ...report(),
  host_id: "web-1",
  interval_seconds: 60,
  containers: [container("a"), container("b")],
  guests: [
    {
      vmid: "100",
      name: "g",
      kind: "lxc",
      status: "running",
      spec: { cores: 1, memory_mb: 2, disk_gb: 3 },
      controller_version: "",
    },
  ],
  cloudflared: { status: "active" },
  storage_targets: [{ name: "s" }],
  backups: [],
  restore_tests: [],
  pbs_snapshots: [],
  audit_tail: [{ a: [1] }],
};

test(
  "a report of any shape is refused with its fields, or is one that can be kept",
  () => {
    fc.assert(
      fc.property(fc.oneof(damaged(RIGHT), json), (data) => {
        const read = readReport(data, { now: Date.now(), backfillMs: 86_400_000 });
        if ("broken" in read) {
          expect(read.broken.length).toBeGreaterThan(0);
          expect(read.broken.every(({ field, error }) => field !== "" && error !== "")).toBe(true);
          return;
        }
        JSON.stringify(read.report);
        for (const { metrics } of read.report.containers ?? []) memoryPercent(metrics);
      }),
      runs(),
    );
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

const fresh = (body: unknown): string => {
  const data = body as Record<string, unknown> | null;
  if (typeof data === "object" && data !== null && data["recorded_at"] === RIGHT["recorded_at" as keyof typeof RIGHT])
    data["recorded_at"] = new Date().toISOString();
  return JSON.stringify(body) ?? "";
};

test(
  "no report and no health result makes the receiver fail, and what it took can be read",
  async () => {
    await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000000" });
    const before = listing(hub.folder.path, [hub.data, hub.inbox]);
    const body = fc.oneof(
      { weight: 4, arbitrary: damaged(RIGHT).map(fresh) },
      strangeJson(),
      strangeJson().map(
        (inner) =>
          `{"recorded_at":"${new Date().toISOString()}","host":{"metrics":{}},"audit_tail":${inner},"x":${inner}}`,
      ),
      fc.tuple(text(), text(), text()).map(([a, b, c]) =>
        fresh({
          ...RIGHT,
          containers: [
            container("x", { container_id: a, name: b, labels: { [c]: a } }),
            container("y", { container_id: a }),
          ],
          guests: [],
        }),
      ),
    );
    const given = fc.record({
      path: fc.constantFrom("/v1/host-report", "/agent/telemetry", "/v1/host-health/web-1"),
      body,
    });
    const wrong: unknown[] = [];
    const statuses = new Map<number, number>();
    await sideBySide(sample(given, 0.5), 16, async ({ path, body: sent }) => {
      const method = path.includes("health") ? "PUT" : "POST";
      const answer = await fetch(hub.url + path, { method, body: sent, headers: hub.bearer() });
      const said = await answer.text();
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      if (![200, 204, 400, 403, 413, 422].includes(answer.status))
        wrong.push([path, sent.slice(0, 500), answer.status, said.slice(0, 300)]);
    });
    expect(wrong).toEqual([]);
    expect(statuses.get(200)).toBeGreaterThan(0);
    for (const path of [
      "/v1/hosts",
      "/v1/hosts/web-1",
      "/v1/hosts/web-1/history?metric=cpu_percent",
      "/v1/events",
      "/v1/host-health",
      "/health",
    ])
      await hub.get(path);
    expect(listing(hub.folder.path, [hub.data, hub.inbox])).toEqual(before);
    expect(await residentMb(hub.daemon.child.pid)).toBeLessThan(700);
  },
  TIMEOUT_MS * 2,
);

const header = fc.oneof(
  text().map((given) => given.replaceAll(/[^\x20-\xff]/g, "")),
  fc.constantFrom(
    "0".repeat(64),
    "A".repeat(40),
    "a".repeat(40),
    "application/zstd",
    "application/zstd; x",
    "1",
    "-1",
    "1e3",
    "99999999999999999999",
    "gzip",
    "identity",
    "abc",
  ),
);
const segment = fc.oneof(
  fc.constantFrom(
    "web-1",
    "..",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fx",
    "..%2f..%2fx",
    "%00",
    ".",
    "",
    "a%0ab",
    "x.tar.zst",
    "ep-1.tar.zst",
    ".x.tar.zst",
    "..tar.zst",
    "%",
    "%zz",
    "WEB-1",
    "a".repeat(200),
    "é",
    "web-1%2f..",
    "index.jsonl",
    "receiver.db",
  ),
  text().map((given) => encodeURIComponent(given.toWellFormed())),
);

test(
  "no name and no header of an upload makes the receiver fail, or write anywhere but where its episodes lie",
  async () => {
    await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000000\nmax_episode_bytes: 100000" });
    const good = await archive("x");
    const before = listing(hub.folder.path, [hub.data, hub.inbox]);
    const upload = fc.record({
      host: fc.oneof(fc.constant("web-1"), segment),
      file: segment,
      headers: fc.dictionary(
        fc.constantFrom(
          "x-content-sha256",
          "content-type",
          "x-schema-version",
          "x-code-commit",
          "x-cis490-code-commit",
          "content-encoding",
          "authorization",
          "range",
        ),
        header,
        { maxKeys: 2 },
      ),
      bytes: fc.oneof(fc.constant(good), mutated(fc.constant(good)), fc.uint8Array({ maxLength: 50 })),
      suffix: fc.boolean(),
    });
    const reading = fc.record({
      path: fc
        .tuple(
          fc.constantFrom(
            "/v1/hosts/",
            "/v1/episodes/",
            "/v1/host-health/",
            "/v1/events",
            "/v1/episodes",
            "/v1/hosts/web-1/history",
          ),
          segment,
          fc.option(segment),
        )
        .map(
          ([path, a, b]) => `${path}${path.endsWith("/") ? a : ""}${b === null || !path.endsWith("/") ? "" : `/${b}`}`,
        ),
      query: fc.array(
        fc.tuple(
          fc.constantFrom("host", "since", "limit", "metric", "from", "to", "points", "container"),
          fc.oneof(text(), fc.constantFrom("cpu_percent", "10", "2026-01-01T00:00:00Z", "1e9", "-1", "0")),
        ),
        { maxLength: 4 },
      ),
      range: fc.option(
        fc.constantFrom(
          "bytes=0-",
          "bytes=5-1",
          "bytes=-0",
          "bytes=9999999999999999999-",
          "bytes=0-0,2-3",
          "bytes=a-b",
          "x",
        ),
      ),
    });
    const wrong: unknown[] = [];
    let stored = 0;
    await sideBySide(sample(upload, 0.25), 16, async ({ host, file, headers: more, bytes, suffix }) => {
      const all = { ...hub.bearer(), ...uploadHeaders(new Uint8Array(bytes)), ...more };
      const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
      const head = `PUT /v1/episodes/${host}/${file}${suffix ? ".tar.zst" : ""} HTTP/1.1\r\nHost: x\r\n${lines.join("")}Content-Length: ${bytes.length}\r\nConnection: close\r\n\r\n`;
      const answer = await exchange(hub.url, Buffer.concat([Buffer.from(head, "latin1"), bytes]), PATIENCE_MS);
      const [status] = statusesOf(answer ?? "");
      if (status === 201) stored++;
      if (status === undefined || ![200, 201, 400, 401, 403, 404, 405, 409, 413].includes(status))
        wrong.push([head, answer]);
    });
    await sideBySide(sample(reading, 0.25), 16, async ({ path, query, range }) => {
      const search = query.map(([key, value]) => `${key}=${encodeURIComponent(value.toWellFormed())}`).join("&");
      const lines = range === null ? "" : `Range: ${range}\r\n`;
      const answer = await exchange(
        hub.url,
        Buffer.from(`GET ${path}?${search} HTTP/1.1\r\nHost: localhost\r\n${lines}Connection: close\r\n\r\n`),
        PATIENCE_MS,
      );
      const [status] = statusesOf(answer ?? "");
      if (status === undefined || ![200, 206, 304, 400, 404, 405, 416].includes(status))
        wrong.push([path, search, range, answer]);
    });
    expect(wrong.slice(0, 5)).toEqual([]);
    expect(stored).toBeGreaterThan(0);
    expect(listing(hub.folder.path, [hub.data, hub.inbox])).toEqual(before);
    const episodes = listing(hub.data).filter((path) => path.includes("/episodes/"));
    expect(
      episodes.filter((path) => !/\/episodes\/web-1(\/[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.tar\.zst)?$/.test(path)),
    ).toEqual([]);
    expect(episodes.length - 1).toBe(stored);
  },
  TIMEOUT_MS * 2,
);

test(
  "an index that others wrote into is read for what it is worth, also at a start",
  async () => {
    await using hub = await Hub.start();
    const bytes = await archive("x");
    expect((await hub.ship("ep-1", bytes)).status).toBe(201);
    const path = `${hub.data}/index.jsonl`;
    // Of another episode: of two lines for one episode the later one counts.
    const row = { ...(JSON.parse(readFileSync(path, "utf8")) as object), episode: "another" };
    const line = fc.oneof(
      damaged(row).map((value) => JSON.stringify(value) ?? ""),
      strangeJson(),
      mutated(fc.constant(JSON.stringify(row))).map((bytes) => Buffer.from(bytes).toString("latin1")),
    );
    const lines = sample(line).map((one) => one.replaceAll("\n", " "));
    const good = readFileSync(path, "utf8");
    for (const content of [`${lines.join("\n")}\n${good}`, `${good}${lines.join("\n")}`]) {
      await hub.daemon.kill();
      writeFileSync(path, content);
      await hub.up();
      const { episodes } = await hub.get<{ episodes: unknown[] }>("/v1/episodes?limit=1000");
      expect(episodes.length).toBeGreaterThan(0);
      expect((await hub.ship("ep-1", bytes)).status).toBe(200);
      await hub.get("/health");
    }
    expect([0, 1]).toContain((await hub.run("index", "verify")).code);
  },
  TIMEOUT_MS,
);

// ---------------------------------------------------------------------------------------------------------------
// Archives

/** A header of a tar file as POSIX has it (ustar). */
function tarHeader(name: string, size: number, type = "0"): Buffer {
  const block = Buffer.alloc(512);
  block.write(name.slice(0, 100), 0, "latin1");
  for (const [offset, text] of [
    [100, "0000644\0"],
    [108, "0000000\0"],
    [116, "0000000\0"],
    [124, `${size.toString(8).padStart(11, "0")}\0`],
    [136, "00000000000\0"],
    [156, type],
    [257, "ustar\x0000"],
  ] as const)
    block.write(text, offset, "latin1");
  block.fill(0x20, 148, 156);
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return block;
}

function tarEntry(name: string, content: Uint8Array, { size = content.length, type = "0" } = {}): Buffer {
  return Buffer.concat([tarHeader(name, size, type), content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}

async function commitOf(folder: Folder, bytes: Uint8Array): Promise<string | undefined> {
  mkdirSync(folder.at("web-1"), { recursive: true });
  folder.write("web-1/ep.tar.zst", bytes);
  const row = await rowOf(new EpisodeFolder(folder.path), {
    host: "web-1",
    episode: "ep",
    size: bytes.length,
    modifiedAt: Date.now(),
    at: folder.at("web-1/ep.tar.zst"),
  });
  return row.commit;
}

const COMMIT = "c".repeat(40);
const META = Buffer.from(JSON.stringify({ code_version: { commit: COMMIT } }));

test(
  "an archive of any bytes gives a commit or none, and nothing is unpacked anywhere",
  async () => {
    using folder = new Folder();
    const name = fc.oneof(
      fc.constantFrom(
        "ep/meta.json",
        "meta.json",
        "/meta.json",
        "../meta.json",
        "../../etc/meta.json",
        "./x/meta.json",
        "x/y/meta.json",
      ),
      text(),
    );
    const content = fc.oneof(
      damaged({ code_version: { commit: COMMIT } }).map((value) => Buffer.from(JSON.stringify(value) ?? "")),
      strangeJson().map((given) => Buffer.from(given)),
      fc.uint8Array({ maxLength: 600 }).map((bytes) => Buffer.from(bytes)),
    );
    const entry = fc
      .tuple(
        name,
        content,
        fc.constantFrom("0", "1", "2", "5", "x", "g", "L", "K", "S", "\0"),
        fc.option(fc.integer({ min: 0, max: 0o77777777777 })),
      )
      .map(([given, bytes, type, size]) => tarEntry(given, bytes, { type, size: size ?? bytes.length }));
    const tar = fc.array(entry, { maxLength: 3 }).map((all) => Buffer.concat([...all, Buffer.alloc(1024)]));
    const bytes = fc.oneof(
      tar.map((given) => Bun.zstdCompressSync(given, { level: 1 })),
      mutated(tar).map((given) => Bun.zstdCompressSync(given, { level: 1 })),
      mutated(tar.map((given) => Bun.zstdCompressSync(given, { level: 1 }))),
      fc.uint8Array({ maxLength: 100 }),
    );
    await fc.assert(
      fc.asyncProperty(bytes, async (given) => {
        const commit = await commitOf(folder, given);
        if (commit !== undefined) expect(commit).toMatch(/^[0-9a-f]{40}$/);
      }),
      runs(0.5),
    );
    expect(listing(folder.path)).toEqual([folder.at("web-1"), folder.at("web-1", "ep.tar.zst")]);
    prototypesUntouched();
  },
  TIMEOUT_MS,
);

const zeros = Bun.zstdCompressSync(Buffer.alloc(64 << 20));
const frames = (first: Buffer, more: Uint8Array, times: number): Buffer =>
  Buffer.concat([Bun.zstdCompressSync(first), ...Array<Uint8Array>(times).fill(more)]);
const oneMeta = Bun.zstdCompressSync(tarEntry("x/meta.json", Buffer.alloc(1 << 20)));
test.each([
  ["a thousand meta.json of a mebibyte", frames(Buffer.alloc(0), oneMeta, 1000)],
  ["zeros without end", frames(Buffer.alloc(0), zeros, 1000)],
  ["a file of nothing", frames(tarHeader("x/data", 0o77777777777), zeros, 1000)],
  ["a meta.json that says it is huge", frames(tarHeader("x/meta.json", 0o77777777777), zeros, 1000)],
  ["an extended header that says it is huge", frames(tarHeader("x", 0o7777777777, "x"), zeros, 1000)],
  ["a name that says it is huge", frames(tarHeader("x", 0o7777777777, "L"), zeros, 1000)],
  [
    "files without end",
    frames(Buffer.alloc(0), Bun.zstdCompressSync(Buffer.concat(Array(10_000).fill(tarHeader("x", 0)))), 100),
  ],
])(
  "in bounded time and memory: %s",
  async (_what, bytes) => {
    using folder = new Folder();
    const before = process.memoryUsage.rss();
    let highest = before;
    const watching = setInterval(() => (highest = Math.max(highest, process.memoryUsage.rss())), 5);
    const used = cpuMs();
    expect(await commitOf(folder, bytes)).toBeUndefined();
    clearInterval(watching);
    expect(cpuMs() - used).toBeLessThan(15_000);
    expect((Math.max(highest, process.memoryUsage.rss()) - before) / 2 ** 20).toBeLessThan(500);
  },
  TIMEOUT_MS,
);

test("the commit of a right archive is found, also behind much data", async () => {
  using folder = new Folder();
  const data = tarEntry("ep/data.bin", Buffer.alloc(8 << 20, "some data, "));
  expect(
    await commitOf(
      folder,
      Bun.zstdCompressSync(Buffer.concat([data, tarEntry("ep/meta.json", META), Buffer.alloc(1024)])),
    ),
  ).toBe(COMMIT);
});

test("a meta.json that comes in pieces is read to its end, whatever small file stands before it; so is one that is cut", async () => {
  using folder = new Folder();
  const note = Buffer.from(JSON.stringify({ note: "x".repeat(300_000), code_version: { commit: COMMIT } }));
  const tar = Buffer.concat([tarEntry("ep/first", Buffer.alloc(777)), tarEntry("ep/meta.json", note)]);
  const inPieces = (all: Buffer): Buffer =>
    Buffer.concat([Bun.zstdCompressSync(all.subarray(0, 4000)), Bun.zstdCompressSync(all.subarray(4000))]);
  expect(await commitOf(folder, inPieces(tar))).toBe(COMMIT);
  expect(await commitOf(folder, inPieces(tar.subarray(0, 100_000)))).toBeUndefined();
});
