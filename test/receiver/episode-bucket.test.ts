// Episodes in a bucket, which several receivers share: what is so there alone. What is the same in a folder is in episodes.test.ts,
// episode-index.test.ts and removal.test.ts. Real PostgreSQL, npm's s3rver.
// Not tested here: the parts of an upload that was given up (s3rver refuses AbortMultipartUpload); a bucket that hangs (30 s each).

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { until } from "../kit.ts";
import { Hub, type HubOptions, archive, begin, bytesOf, report, sha256, uploadHeaders } from "./kit.ts";
import { Postgres, postgresPrograms } from "../postgres.ts";
import { S3 } from "../s3.ts";
import { testOnFile } from "./store-kit.ts";

const programs = postgresPrograms("episodes in a bucket");

/** The servers. Receivers with the same options share a database and a place in the bucket. */
class Place implements AsyncDisposable {
  readonly postgres: Postgres;
  readonly s3: S3;

  constructor(postgres: Postgres, s3: S3) {
    this.postgres = postgres;
    this.s3 = s3;
  }

  options(more = ""): HubOptions & { more: string; place: string; database: string } {
    const [place, url] = [this.s3.place(), this.postgres.database()];
    const lines = [`store: ${url}`, `episodes: ${place}`, `s3: { endpoint: "${this.s3.endpoint}" }`, more];
    return { more: lines.join("\n"), env: this.s3.env, place, database: new URL(url).pathname.slice(1) };
  }

  sql({ database }: { database: string }, text: string): string {
    const { exitCode, stdout, stderr } = this.postgres.psql(text, database);
    if (exitCode !== 0) throw new Error(stderr.toString());
    return stdout.toString();
  }

  /** Puts an object past the receivers. */
  async put({ place }: { place: string }, episode: string, bytes: Uint8Array): Promise<void> {
    const key = `${new URL(place).pathname.slice(1)}/web-1/${episode}.${sha256(bytes)}.tar.zst`;
    await this.s3.client.write(key, bytes);
  }

  /** The episodes that have an object. */
  async names({ place }: { place: string }): Promise<string[]> {
    return (await this.s3.keys(place)).map((key) => key.replace(/\.[0-9a-f]{64}\.tar\.zst$/, ""));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.postgres[Symbol.asyncDispose](), this.s3[Symbol.asyncDispose]()]);
  }
}

/** Two receivers on the same database and bucket. */
class Pair implements AsyncDisposable {
  readonly one: Hub;
  readonly two: Hub;
  readonly options: { place: string };

  private constructor(one: Hub, two: Hub, options: { place: string }) {
    this.one = one;
    this.two = two;
    this.options = options;
  }

  static async start(place: Place): Promise<Pair> {
    const options = place.options("rate_limit_per_minute: 10000");
    const one = await Hub.start({ ...options, hosts: ["web-1", "nas"] });
    const two = new Hub(options);
    for (const [host, token] of one.tokens) two.tokens.set(host, token);
    await two.up();
    return new Pair(one, two, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.one[Symbol.asyncDispose](), this.two[Symbol.asyncDispose]()]);
  }
}

describe.skipIf(programs === null)("a bucket", () => {
  let place: Place;
  let pair: Pair;
  beforeAll(async () => {
    place = new Place(await Postgres.start(programs!), await S3.start());
    pair = await Pair.start(place);
  });
  afterAll(async () => {
    await pair[Symbol.asyncDispose]();
    await place[Symbol.asyncDispose]();
  });

  test("two clients at once through two receivers: equal bytes are 201 and 200, other bytes 201 and 409", async () => {
    const { one, two } = pair;
    for (let round = 0; round < 5; round++) {
      // More than a part of an upload, and less.
      const size = round % 2 === 0 ? 9 << 20 : 1 << 20;
      const [bytes, other] = [bytesOf(size), bytesOf(size)];
      const status = async (episode: string, first: typeof bytes, second: typeof bytes) =>
        (await Promise.all([one.ship(episode, first), two.ship(episode, second)])).map((answer) => answer.status);
      expect(new Set(await status(`same-${round}`, bytes, bytes))).toEqual(new Set([200, 201]));
      const answers = await status(`other-${round}`, bytes, other);
      expect(new Set(answers)).toEqual(new Set([201, 409]));
      const winner = sha256(answers[0] === 201 ? bytes : other);
      const stored = await fetch(`${two.url}/v1/episodes/web-1/other-${round}.tar.zst`);
      expect([stored.headers.get("etag"), sha256(await stored.bytes())]).toEqual([`"${winner}"`, winner]);
    }
    expect(await one.run("index", "verify")).toMatchObject({ code: 0, stdout: "10 episodes, all as the index says\n" });
  });

  test("bytes with another hash than was announced, and an upload that is cut off, leave nothing under their key", async () => {
    const { one } = pair;
    for (const size of [1 << 20, 20 << 20]) {
      const [name, bytes] = [`wrong-${size}`, bytesOf(size)];
      const wrong = await one.ship(name, bytes, { headers: { "x-content-sha256": "0".repeat(64) } });
      expect(wrong.status).toBe(400);
      const upload = await begin(one, name, { length: size, headers: uploadHeaders(bytes) });
      upload.socket.write(bytes.subarray(0, size - 1));
      upload.socket.destroy();
      await upload.closed;
      expect(await place.names(pair.options)).not.toContain(`web-1/${name}`);
      expect((await one.ship(name, bytes)).status).toBe(201);
    }
  });

  test("a bucket that is away is 503 with Retry-After for episodes alone, also in the middle of an upload", async () => {
    const { one } = pair;
    const bytes = bytesOf(30 << 20);
    expect((await one.ship("there", bytes)).status).toBe(201);
    const upload = await begin(one, "away", { length: bytes.length, headers: uploadHeaders(bytes) });
    upload.socket.write(bytes.subarray(0, 20 << 20));
    await place.s3.down();
    try {
      upload.socket.write(bytes.subarray(20 << 20));
      await until("it is refused", () => /^HTTP\/1.1 503 [^]*retry-after: 10/i.test(upload.answer()));
      upload.socket.destroy();
      const shipped = await one.ship("away", bytes);
      expect([shipped.status, await shipped.json()]).toEqual([503, expect.objectContaining({ code: "bucket" })]);
      expect((await fetch(`${one.url}/v1/episodes/web-1/there.tar.zst`)).status).toBe(503);
      expect((await one.report(report())).status).toBe(200);
      expect(await one.run("index", "verify")).toMatchObject({
        code: 1,
        stderr: expect.stringContaining("ConnectionRefused"),
      });
    } finally {
      await place.s3.up();
    }
    expect((await one.ship("away", bytes)).status).toBe(201);
  });

  test("a renamed host's objects stay where they are; its episodes have its new name", async () => {
    const { one, two } = pair;
    const [bytes, other] = [await archive("before"), await archive("other")];
    expect((await one.ship("ep", bytes, { host: "nas" })).status).toBe(201);
    const late = await begin(one, "late", {
      length: other.length,
      headers: { ...one.bearer("nas"), ...uploadHeaders(other) },
      to: "nas",
    });
    late.socket.write(other.subarray(0, 10));
    await until("it is under way", async () => (await fetch(`${one.url}/health`)).ok);
    expect((await two.run("host", "rename", "nas", "attic")).code).toBe(0);
    late.socket.write(other.subarray(10));
    await until("it is stored", () => late.answer().startsWith("HTTP/1.1 201 "));
    late.socket.destroy();
    expect((await place.names(pair.options)).filter((name) => name.startsWith("nas/"))).toEqual(["nas/ep", "nas/late"]);
    expect(await one.get("/v1/episodes?host=attic")).toMatchObject({
      episodes: [
        { host: "attic", episode: "ep" },
        { host: "attic", episode: "late" },
      ],
    });
    expect(await (await fetch(`${two.url}/v1/episodes/attic/ep.tar.zst`)).bytes()).toEqual(bytes);
    // Its agent goes on with the former name.
    expect((await one.ship("ep", bytes, { host: "nas", to: "attic" })).status).toBe(200);
    expect((await one.ship("ep", other, { host: "nas" })).status).toBe(409);
    expect(await one.run("index", "verify")).toMatchObject({ code: 0 });
    expect(await one.run("episodes", "rm", "attic/ep")).toMatchObject({ code: 0 });
    expect((await place.names(pair.options)).filter((name) => name.startsWith("nas/"))).toEqual(["nas/late"]);
  });

  test("an object without a row is noted, and swept a day later unless a row came; `index rebuild` makes one", async () => {
    const options = place.options();
    await using hub = new Hub(options);
    await hub.addHost("web-1");
    const [left, lost] = [await archive("left"), await archive("lost")];
    await place.put(options, "left", left);
    await place.put(options, "lost", lost);
    const noted = async (count: number) =>
      until(`${count} are noted`, () => place.sql(options, "SELECT COUNT(*) FROM stray_objects") === `${count}\n`);
    await hub.up();
    await noted(2);
    expect((await hub.ship("left", left)).status).toBe(201);
    await noted(1);
    expect((await place.names(options)).length).toBe(2);
    await hub.daemon.kill();
    place.sql(options, `UPDATE stray_objects SET seen_at = ${Date.now() - 86_400_000}`);
    await hub.up();
    await hub.daemon.said("removed objects that no episode has objects=1");
    expect(await place.names(options)).toEqual(["web-1/left"]);
    // A database that was restored from a backup of yesterday.
    place.sql(options, "DELETE FROM episodes");
    expect((await hub.run("index", "verify")).stdout).toContain(
      "web-1/left: missing line: run: picket-receiver index rebuild",
    );
    expect(await hub.run("index", "rebuild")).toMatchObject({
      code: 0,
      stdout: "web-1/left: line made\n1 missing line made\n",
    });
    expect(await hub.run("index", "verify")).toMatchObject({ code: 0 });
  });

  test("an object that is being removed gets no row: its upload is told to come again", async () => {
    const options = place.options();
    await using hub = await Hub.start(options);
    const bytes = await archive("again");
    await hub.ship("again", bytes);
    await hub.run("episodes", "rm", "web-1/again");
    // As a command that was killed leaves it.
    const object = `web-1/again.${sha256(bytes)}.tar.zst`;
    const now = Date.now();
    const claim = `INSERT INTO stray_objects (object, seen_at, removing) VALUES ('${object}', ${now}, ${now})`;
    // The sweep at the start may have noted it.
    place.sql(options, `${claim} ON CONFLICT (object) DO UPDATE SET removing = ${now}`);
    const answer = await hub.ship("again", bytes);
    expect([answer.status, await answer.json()]).toEqual([503, expect.objectContaining({ code: "being_removed" })]);
    place.sql(options, `UPDATE stray_objects SET removing = ${Date.now() - 3_600_000}`);
    await hub.daemon.kill();
    await hub.up();
    await hub.daemon.said("removed objects that no episode has objects=1");
    expect((await hub.ship("again", bytes)).status).toBe(201);
  });

  // The hubs of the suite on PostgreSQL have credentials and a place of their own.
  testOnFile(
    "credentials come from a file as Amazon's tools have it, too; without any, a start says what to set",
    async () => {
      const { more } = place.options();
      await using hub = new Hub({ more });
      const refused = await hub.run("index", "verify");
      expect(refused).toMatchObject({ code: 78, stderr: expect.stringContaining("s3.credentials_file") });
      hub.configure(more.replace("}", ", credentials_file: credentials }"));
      hub.folder.write("credentials", "[default]\naws_access_key_id = S3RVER\naws_secret_access_key = S3RVER\n");
      expect((await hub.run("index", "verify")).stdout).toBe("0 episodes, all as the index says\n");
      hub.configure(more.replace("}", ", credentials_file: credentials }").replace("s3://picket", "s3://absent"));
      await hub.up();
      await hub.daemon.said(/episodes can't be stored now .*NoSuchBucket/);
    },
  );

  test("without a place episodes are refused, and all else works", async () => {
    const { more, env } = place.options();
    await using hub = await Hub.start({ more: more.replace(/^(episodes|s3):.*\n/gm, ""), env: env! });
    const answer = await hub.ship("ep", await archive("x"));
    expect([answer.status, await answer.json()]).toEqual([503, expect.objectContaining({ code: "no_place" })]);
    expect((await hub.report(report())).status).toBe(200);
    expect(await hub.get("/v1/episodes")).toEqual({ episodes: [] });
  });
});

testOnFile("a bucket needs a shared store, and a shared store a bucket", async () => {
  const shared = "store: postgres://picket@127.0.0.1:1/picket";
  const cases: [more: string, problem: RegExp][] = [
    ["episodes: s3://picket/episodes", /episodes: a bucket needs "store: postgres:\/\/…"/],
    [`${shared}\nepisodes: /srv/episodes`, /episodes: receivers that share a store need a bucket/],
    [`${shared}\nepisodes: gs://picket`, /episodes: expected a folder, or s3:\/\/BUCKET\/PREFIX/],
    [`${shared}\nepisodes: s3://picket`, /^ok/],
  ];
  for (const [more, problem] of cases) {
    await using hub = new Hub({ more });
    const { stdout, stderr } = await hub.run("--check");
    expect([more, stdout + stderr]).toEqual([more, expect.stringMatching(problem)]);
  }
});
