// What the agent reads from the engines of containers: recorded answers of several versions, and all sorts of trouble, over a
// real unix socket. test/agent/fixtures/docker: each file says whether it was recorded or written after the documentation; beside the
// answers stands what `docker stats --no-stream` (20.10 and 28.2 print the same) makes of them.
// Not tested here: a real engine, see test/e2e/docker.test.ts.

import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import {
  type DockerContainer,
  type Timeouts,
  dockerVersion,
  findEngine,
  readContainers,
  splitImage,
} from "../../lib/agent/docker.ts";
import { errorChain } from "../../lib/log.ts";
import { readReport } from "../../lib/receiver/report.ts";
import { Lab } from "./kit.ts";
import { Folder, certificates, have, runRole } from "../kit.ts";
import { printedBytes } from "../printed.ts";

interface Listed {
  Id: string;
  Names?: string[];
  State: string;
  [more: string]: unknown;
}

/** An engine's answers; those of stats one after the other. */
interface Recording {
  what: string;
  version: { Version: string; ApiVersion: string };
  list: Listed[];
  containers: Record<string, { inspect: unknown; stats: unknown[] }>;
  printed: Record<string, { cpu: string; memory: string }>;
}

const RECORDINGS = join(import.meta.dir, "fixtures/docker");

const recording = (name: string) => JSON.parse(readFileSync(join(RECORDINGS, `${name}.json`), "utf8")) as Recording;

const NAMES = readdirSync(RECORDINGS)
  .map((file) => file.replace(/\.json$/, ""))
  .toSorted();

/** Recorded looks lie a second apart already. */
const TIMEOUTS: Partial<Timeouts> = { list: 10_000, answer: 10_000, all: 30_000, resample: 1 };

/** Something behind a unix socket that speaks HTTP. */
function serve(
  folder: Folder,
  answer: (path: string) => Response | Promise<Response>,
): { socket: string } & Disposable {
  const socket = folder.at("docker.sock");
  const server = Bun.serve({
    unix: socket,
    fetch: (request) => {
      // A client of the engine asks first (HEAD), and puts the version before the path.
      if (request.method !== "GET" && request.method !== "HEAD") throw new Error("nothing but GET");
      const { pathname, search } = new URL(request.url);
      return answer(pathname.replace(/^\/v[\d.]+\//, "/") + search);
    },
  });
  return { socket, [Symbol.dispose]: () => void server.stop(true) };
}

const missing = () => Response.json({ message: "No such container" }, { status: 404 });

const never = () => new Promise<Response>(() => {});

/** Answers as the engine did that was recorded. */
function replay({ list, containers, version }: Recording): (path: string) => Response {
  const asked = new Map<string, number>();
  const live = (all: Listed[]) => all.filter(({ State }) => ["running", "paused", "restarting"].includes(State));
  return (path) => {
    const [, what, id = "", part = ""] = /^\/(\w+)(?:\/([^/?]+))?(?:\/(\w+))?/.exec(path) ?? [];
    if (what === "_ping")
      return new Response("OK", { headers: { "api-version": version.ApiVersion, ostype: "linux" } });
    if (what === "version") return Response.json(version);
    if (what === "info") return Response.json({ OSType: "linux" });
    if (what !== "containers") return missing();
    if (id === "json") return Response.json(path.includes("all=1") ? list : live(list));
    const [whole, found] = Object.entries(containers).find(([one]) => one.startsWith(id)) ?? [];
    if (!whole || !found) return missing();
    if (part === "json") return Response.json(found.inspect);
    const n = asked.get(whole) ?? 0;
    asked.set(whole, n + 1);
    const stats = found.stats[Math.min(n, found.stats.length - 1)];
    return stats === undefined ? missing() : Response.json(stats);
  };
}

async function read(name: string): Promise<Map<string, DockerContainer>> {
  using folder = new Folder();
  using engine = serve(folder, replay(recording(name)));
  const rows = await readContainers(engine.socket, { timeouts: TIMEOUTS });
  return new Map(rows.map((row) => [row.name, row]));
}

/** What the receiver says of them. */
function judge(containers: DockerContainer[]): unknown {
  const host = { metrics: {} };
  const report = JSON.parse(JSON.stringify({ recorded_at: new Date().toISOString(), host, containers })) as unknown;
  const judged = readReport(report, { now: Date.now(), backfillMs: 0 });
  return "broken" in judged ? judged.broken : "fine";
}

describe.each(NAMES)("%s", (name) => {
  test("figures are those that docker stats prints, and the receiver accepts them", async () => {
    const rows = await read(name);
    expect(judge([...rows.values()])).toBe("fine");
    const { printed } = recording(name);
    const withFigures = [...rows.values()].filter(({ metrics }) => metrics !== null);
    expect(withFigures.map((row) => row.name).toSorted()).toEqual(Object.keys(printed).toSorted());
    for (const { name: container, metrics } of withFigures) {
      const { memory_usage_mb: usage, memory_limit_mb: limit, cpu_percent: cpu } = metrics!;
      const memory = `${printedBytes(usage!)} / ${printedBytes(limit!)}`;
      expect([container, memory]).toEqual([container, printed[container]!.memory]);
      // What it makes of Podman's answers isn't CPU use (see below): one that loops for ever has 0.07% there.
      if (!name.startsWith("podman"))
        expect([container, `${cpu!.toFixed(2)}%`]).toEqual([container, printed[container]!.cpu]);
    }
  });

  test.skipIf(!have("docker", `docker stats over the recorded answers of ${name}`))(
    "docker stats here prints what it printed then",
    async () => {
      using folder = new Folder();
      const recorded = recording(name);
      // It looks once.
      for (const { stats } of Object.values(recorded.containers)) stats.splice(0, stats.length - 1);
      using engine = serve(folder, replay(recorded));
      const child = Bun.spawn(
        ["docker", "stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.CPUPerc}} {{.MemUsage}}"],
        { env: { PATH: process.env["PATH"], HOME: folder.path, DOCKER_HOST: `unix://${engine.socket}` } },
      );
      const lines = (await new Response(child.stdout).text()).trim().split("\n");
      for (const [container, { cpu, memory }] of Object.entries(recorded.printed)) {
        const { Id } = recorded.list.find(({ Names }) => Names?.includes(`/${container}`))!;
        expect(lines).toContain(`${Id} ${cpu} ${memory}`);
      }
    },
  );

  test("the version", async () => {
    using folder = new Folder();
    const recorded = recording(name);
    using engine = serve(folder, replay(recorded));
    expect(await dockerVersion(engine.socket)).toBe(recorded.version.Version);
  });
});

describe("what the list tells", () => {
  const health = (rows: Map<string, DockerContainer>) =>
    Object.fromEntries([...rows].map(([name, { health_status }]) => [name, health_status]));

  test("Docker 20.10, recorded", async () => {
    const rows = await read("docker-20.10");
    expect(health(rows)).toEqual({
      host: null,
      paused: null,
      made: null,
      ended: null,
      labelled: null,
      starting: "starting",
      sick: "unhealthy",
      healthy: "healthy",
      eater: null,
      busy: null,
    });
    expect(rows.get("labelled")!.labels).toEqual({
      "a,b": 'c=d,e="f"',
      lines: "one\ntwo",
      schön: "ü€😀",
      empty: "",
    });
    expect(rows.get("ended")).toMatchObject({
      image: "box",
      image_tag: null,
      state: "exited",
      metrics: null,
      started_at: expect.stringMatching(/^2026-11-21T09:43:\d\d\.\d{5,9}Z$/),
      finished_at: expect.stringMatching(/^2026-11-21T09:43:\d\d\.\d{5,9}Z$/),
    });
    expect(rows.get("made")).toMatchObject({ state: "created", metrics: null, started_at: null, finished_at: null });
    expect(rows.get("host")!.metrics).toMatchObject({ network_rx_bytes: null, block_read_bytes: 0 });
  });

  test("Podman tells health on inspection only; its CPU use is counted by the clock", async () => {
    const rows = await read("podman-4.3");
    expect(health(rows)).toEqual({ publ: null, busy: null, host: null, healthy: "healthy", ended: null, made: null });
    expect(rows.get("busy")!.metrics!.cpu_percent).toBeCloseTo(49.55, 1);
    expect(rows.get("publ")).toMatchObject({ state: "paused", metrics: { cpu_percent: 0 } });
    const newer = await read("podman-5");
    expect(health(newer)).toEqual({ "no-system": "healthy", "busy-time": "unhealthy", stopped: null });
    // 0.37 s in a second; three seconds in two.
    expect(newer.get("no-system")!.metrics).toMatchObject({
      cpu_percent: 37,
      block_read_bytes: 4096,
      network_rx_bytes: 100,
    });
    expect(newer.get("busy-time")!.metrics!.cpu_percent).toBe(150);
    expect(newer.get("no-system")).toMatchObject({
      image: "docker.io/library/nginx",
      image_tag: "latest",
      labels: {},
      ports: [
        { ip: null, private_port: 80, public_port: 8080, type: "tcp" },
        { ip: null, private_port: 90, public_port: null, type: "tcp" },
      ],
    });
  });

  test("Docker 17.09: every state, an image by its id, a name beside links", async () => {
    const rows = await read("docker-17.09");
    expect([...rows.values()].map(({ name, state, status }) => [name, state, status])).toEqual([
      ["web", "running", "Up 2 hours"],
      ["no-online-cpus", "running", "Up 2 hours"],
      ["all-cache", "running", "Up 2 hours"],
      ["host-network", "running", "Up 2 hours"],
      ["loops", "restarting", "Restarting (1) 5 seconds ago"],
      ["going", "removing", "Removal In Progress"],
      ["dead", "dead", "Dead"],
    ]);
    expect(rows.get("web")).toMatchObject({
      image: expect.stringMatching(/^sha256:[0-9a-f]{64}$/),
      image_tag: null,
      labels: { "com.example.list": "a=1,b=2,c" },
      ports: [
        { ip: "127.0.0.1", private_port: 53, public_port: 53, type: "udp" },
        { ip: "0.0.0.0", private_port: 80, public_port: 8080, type: "tcp" },
        { ip: null, private_port: 443, public_port: null, type: "tcp" },
      ],
      metrics: {
        network_rx_bytes: 1_011_124,
        network_tx_bytes: 2_000_648,
        block_read_bytes: 205_676_544,
        block_write_bytes: 97_959_936,
      },
      started_at: "2023-11-14T22:13:20.123456789Z",
      finished_at: null,
    });
    expect(rows.get("no-online-cpus")).toMatchObject({ image: "images.example:5000/team/app", image_tag: null });
    expect(rows.get("loops")).toMatchObject({ metrics: null, finished_at: "2023-11-14T22:13:21.5Z" });
  });

  test("Docker 28: ranges, IPv6, sctp; labels null; no block figures; a status that is too long", async () => {
    const rows = await read("docker-28");
    const api = rows.get("api")!;
    expect(api).toMatchObject({
      image: "ghcr.io/example/api",
      image_tag: "2.1",
      status: "Up Less than a second",
      health_status: "starting",
    });
    expect(
      api.ports.map(({ ip, private_port, public_port, type }) => `${ip} ${public_port} ${private_port}/${type}`),
    ).toEqual([
      "null null 132/sctp",
      "0.0.0.0 9000 8000/tcp",
      ":: 9000 8000/tcp",
      "null null 8000/udp",
      "0.0.0.0 9001 8001/tcp",
      ":: 9001 8001/tcp",
      "0.0.0.0 9002 8002/tcp",
      ":: 9002 8002/tcp",
    ]);
    expect(api.metrics).toMatchObject({ block_read_bytes: 4097, block_write_bytes: 8194, network_rx_bytes: 9979 });
    expect(rows.get("worker")).toMatchObject({
      labels: {},
      health_status: "healthy",
      metrics: { block_read_bytes: null, network_rx_bytes: null },
    });
    expect(health(rows)).toMatchObject({ quiet: null, done: null });
    expect(rows.get("done")!.finished_at).toBe("2023-11-15T00:00:00.000000001Z");
  });

  test("Docker 29 tells health in a field", async () => {
    expect(health(await read("docker-29"))).toEqual({ sick: "unhealthy", unchecked: null, wordless: "starting" });
  });

  test.each([
    ["nginx", "nginx", null],
    ["nginx:1.27", "nginx", "1.27"],
    ["host:5000/x", "host:5000/x", null],
    ["host:5000/x:y", "host:5000/x", "y"],
    ["x@sha256:00ff", "x", null],
    ["sha256:00ff", "sha256:00ff", null],
  ])("image %s", (image, name, tag) => expect(splitImage(image)).toEqual([name, tag]));
});

const ID = (n: number) => n.toString(16).padStart(64, "0");

const STATS = {
  cpu_stats: { cpu_usage: { total_usage: 3_000_000_000 }, system_cpu_usage: 20_000_000_000, online_cpus: 4 },
  precpu_stats: { cpu_usage: { total_usage: 1_000_000_000 }, system_cpu_usage: 10_000_000_000 },
  memory_stats: { usage: 100 * 2 ** 20, limit: 512 * 2 ** 20 },
};

const STATE = { State: { StartedAt: "2026-01-31T12:00:00.5Z", FinishedAt: "0001-01-01T00:00:00Z" } };

/** So many containers; `stats` answers for the n-th. */
function crowd(
  count: number,
  stats: (n: number) => Response | Promise<Response>,
  more: (n: number) => object = () => ({}),
) {
  const list = Array.from({ length: count }, (_, n) => ({
    Id: ID(n),
    Names: [`/c${n}`],
    Image: "x",
    State: "running",
    ...more(n),
  }));
  return (path: string) => {
    if (path.startsWith("/containers/json")) return Response.json(list);
    const id = path.split("/")[2]!;
    return path.endsWith("/json") ? Response.json(STATE) : stats(Number.parseInt(id, 16));
  };
}

/** What is read, and what is said to be missing. */
async function readSome(socket: string, timeouts: Partial<Timeouts> = {}) {
  const gaps: string[] = [];
  const warn = (_kind: string, text: string) => void gaps.push(text);
  const rows = await readContainers(socket, { timeouts: { ...TIMEOUTS, ...timeouts }, warn });
  return { rows, gaps };
}

describe("trouble", () => {
  test("a container whose figures never come delays no other, and keeps its entry and its times", async () => {
    using folder = new Folder();
    using engine = serve(
      folder,
      crowd(40, (n) => (n === 7 ? never() : Response.json(STATS))),
    );
    const { rows, gaps } = await readSome(engine.socket, { answer: 3000 });
    expect(rows.filter(({ metrics }) => metrics?.cpu_percent === 80).length).toBe(39);
    expect(rows[7]).toMatchObject({ name: "c7", metrics: null, started_at: "2026-01-31T12:00:00.5Z" });
    expect(gaps).toEqual(["containers: 1 without figures or times, because of the timeout"]);
  });

  test("six hundred whose figures never come: the deadline ends it, 500 are reported, running ones first", async () => {
    using folder = new Folder();
    const isLive = (n: number) => n % 6 !== 0;
    using engine = serve(
      folder,
      crowd(600, never, (n) => ({ State: isLive(n) ? "running" : "exited" })),
    );
    // One after the other they would take 500 / 128 × 10 s.
    const { rows, gaps } = await readSome(engine.socket, { all: 4000 });
    expect(rows.length).toBe(500);
    expect(
      rows.every(({ state, started_at, metrics }) => state === "running" && started_at !== null && metrics === null),
    ).toBe(true);
    expect(gaps).toEqual(["containers: 100 left out, 500 without figures or times, because of the timeout"]);
    expect(judge(rows)).toBe("fine");
  });

  test("five hundred containers whose figures take two seconds each are read within the deadline", async () => {
    using folder = new Folder();
    using engine = serve(
      folder,
      crowd(500, () => Bun.sleep(2000).then(() => Response.json(STATS))),
    );
    const { rows, gaps } = await readSome(engine.socket);
    expect(rows.filter(({ metrics }) => metrics !== null).length).toBe(500);
    expect(gaps).toEqual([]);
  });

  test("a container that is removed after the list was read keeps its entry, and nothing is logged", async () => {
    using folder = new Folder();
    const here = crowd(3, () => Response.json(STATS));
    using engine = serve(folder, (path) => (path.includes(ID(1)) ? missing() : here(path)));
    const { rows, gaps } = await readSome(engine.socket);
    expect(rows.map(({ name, metrics, started_at }) => [name, metrics === null, started_at === null])).toEqual([
      ["c0", false, false],
      ["c1", true, true],
      ["c2", false, false],
    ]);
    expect(gaps).toEqual([]);
  });

  test("a container whose figures are invalid has none", async () => {
    using folder = new Folder();
    const odd = [
      Response.json({}),
      Response.json({ ...STATS, memory_stats: { usage: "much" } }),
      new Response("", { status: 200 }),
      Response.json({ message: "cgroup deleted" }, { status: 500 }),
    ];
    using engine = serve(
      folder,
      crowd(5, (n) => odd[n] ?? Response.json(STATS)),
    );
    const { rows, gaps } = await readSome(engine.socket);
    expect(rows.map(({ metrics }) => metrics === null)).toEqual([true, true, true, true, false]);
    expect(gaps).toEqual([]);
  });

  test("a container with nothing but an id is reported", async () => {
    using folder = new Folder();
    using engine = serve(folder, () => Response.json([{ Id: ID(1), Names: null, Ports: null, Labels: null }]));
    const { rows } = await readSome(engine.socket);
    expect(rows).toEqual([
      {
        container_id: ID(1),
        name: "000000000000",
        image: "",
        image_tag: null,
        status: null,
        state: null,
        health_status: null,
        ports: [],
        labels: {},
        metrics: null,
        started_at: null,
        finished_at: null,
      },
    ]);
    expect(judge(rows)).toBe("fine");
  });

  test("labels that would make the receiver refuse the report are left out, the others' stay", async () => {
    using folder = new Folder();
    const ports = Array.from({ length: 20_000 }, (_, n) => ({ PrivatePort: n + 1 }));
    using engine = serve(
      folder,
      crowd(
        100,
        () => Response.json(STATS),
        (n) => ({
          Labels: { n: String(n), ...(n === 3 ? { long: "x".repeat(5 << 20) } : {}) },
          Ports: n === 4 ? ports : [],
        }),
      ),
    );
    const { rows, gaps } = await readSome(engine.socket);
    expect(JSON.stringify(rows).length).toBeLessThan(4 << 20);
    expect([rows[2]!.labels, rows[3]!.labels, rows[4]!.ports]).toEqual([{ n: "2" }, {}, []]);
    expect(gaps).toEqual(["containers: 2 without labels"]);
    expect(judge(rows)).toBe("fine");
  });

  /** Why nothing was read. */
  const failure = (socket: string, timeouts: Partial<Timeouts> = {}) =>
    readSome(socket, timeouts).then(() => "none", errorChain);

  test.each<[string, () => Response | Promise<Response>, string]>([
    ["something else", () => Response.json({ not: "a list" }), "Array"],
    ["garbage", () => new Response("\u0000<garbage>"), "JSON"],
    ["10 MB of garbage", () => new Response("x".repeat(10 << 20)), "JSON"],
    ["an error", () => Response.json({ message: "disk is on fire" }, { status: 500 }), "answered 500: disk is on fire"],
    ["an error without words", () => new Response("<html>", { status: 502 }), "answered 502"],
    [
      "no end",
      () => new Response(new ReadableStream({ pull: (out) => out.enqueue(new Uint8Array(1 << 20)) })),
      "over 64 MiB",
    ],
  ])("the list is %s: an error that says so", async (_, answer, said) => {
    using folder = new Folder();
    using engine = serve(folder, answer);
    expect(await failure(engine.socket)).toContain(said);
  });

  test("a socket that accepts and never answers, or closes at once, or isn't HTTP", async () => {
    for (const [open, said, timeouts] of [
      [() => {}, /timed out/, { list: 300 }],
      [(socket: { end: () => void }) => socket.end(), /closed|ECONNRESET/, {}],
      [(socket: { end: (text: string) => void }) => socket.end("220 hello\r\n\r\n"), /closed|ECONNRESET/, {}],
    ] as const) {
      using folder = new Folder();
      const socket = folder.at("docker.sock");
      const server = Bun.listen({ unix: socket, socket: { open, data() {} } });
      const why = await failure(socket, timeouts);
      expect(why).toContain(socket);
      expect(why).toMatch(said);
      server.stop(true);
    }
  });

  test("reading ends when the agent stops", async () => {
    using folder = new Folder();
    const stop = new AbortController();
    using engine = serve(
      folder,
      crowd(3, () => {
        stop.abort();
        return never();
      }),
    );
    const rows = await readContainers(engine.socket, { signal: stop.signal });
    expect(rows.map(({ metrics }) => metrics)).toEqual([null, null, null]);
  });

  test("a missing socket, a file in its place, or no permission: the error names the socket", async () => {
    using folder = new Folder();
    expect(await failure(folder.at("none.sock"))).toMatch(/none\.sock.*ENOENT/s);
    expect(await failure(folder.write("file.sock", ""))).toMatch(/file\.sock.*ECONNREFUSED/s);
    using engine = serve(folder, () => Response.json([]));
    chmodSync(engine.socket, 0);
    const isRoot = process.getuid?.() === 0;
    if (isRoot) process.seteuid?.(65_534);
    try {
      expect(await failure(engine.socket)).toMatch(/docker\.sock.*EACCES/s);
    } finally {
      if (isRoot) process.seteuid?.(0);
    }
  });
});

test("~/ is the home folder in the container engine's socket, too; auto stays auto", async () => {
  using place = new Lab("http://127.0.0.1:9");
  const shown = async (socket: string) => {
    const env = { HOME: "/home/somebody", PICKET_AGENT_DOCKER__SOCKET: socket };
    const { stdout } = await runRole("agent", ["--check", "--print", "--config", place.config], { env });
    return /socket: (.*)/.exec(stdout)?.[1];
  };
  expect([await shown("~/engine.sock"), await shown("/run/engine.sock"), await shown("auto")]).toEqual([
    "/home/somebody/engine.sock",
    "/run/engine.sock",
    "auto",
  ]);
});

describe("where the engine is", () => {
  const list = () => Response.json([{ Id: ID(1), Names: ["/one"] }]);
  const answer = ({ url }: Request) => (url.includes("/containers/json") ? list() : missing());
  const containers = async (env: Record<string, string>, more = "docker: { enabled: true }\n") => {
    using folder = new Folder();
    const config = folder.write(
      "agent.yaml",
      `receiver: { url: "http://127.0.0.1:9", token: t }\ndata_dir: ${folder.at("agent")}\n${more}`,
    );
    const { stdout, stderr } = await runRole("agent", ["selftest", "docker", "--config", config], { env });
    return stdout.includes('"one"') ? "read" : stdout + stderr;
  };

  test("DOCKER_HOST and the setting: tcp, a unix socket; ssh is refused in words", async () => {
    using folder = new Folder();
    using engine = serve(folder, (path) => (path.startsWith("/containers/json") ? list() : missing()));
    using remote = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
    const tcp = `tcp://127.0.0.1:${remote.port}`;
    expect(await containers({ DOCKER_HOST: tcp })).toBe("read");
    expect(await containers({ DOCKER_HOST: `unix://${engine.socket}` })).toBe("read");
    expect(await containers({ DOCKER_HOST: "ssh://nas" }, `docker: { socket: "${tcp}" }\n`)).toBe("read");
    expect(await containers({ DOCKER_HOST: "ssh://ops@nas" })).toMatch(
      /"ssh:\/\/ops@nas": ssh:\/\/ is not supported: only unix:\/\/ and tcp:\/\//,
    );
  });

  test.skipIf(!have("openssl", "Docker over TLS"))(
    "tcp with TLS: the certificates lie in DOCKER_CERT_PATH",
    async () => {
      using folder = new Folder();
      await certificates(folder);
      for (const [ours, theirs] of [
        ["cert", "client"],
        ["key", "client"],
      ] as const) {
        renameSync(folder.at(`${theirs}.${ours === "cert" ? "pem" : "key"}`), folder.at(`${ours}.pem`));
      }
      const file = (name: string) => Bun.file(folder.at(name));
      const tls = {
        cert: file("server.pem"),
        key: file("server.key"),
        ca: file("ca.pem"),
        requestCert: true,
        rejectUnauthorized: true,
      };
      using remote = Bun.serve({ port: 0, hostname: "127.0.0.1", tls, fetch: answer }) as Bun.Server<undefined> &
        Disposable;
      const DOCKER_HOST = `tcp://127.0.0.1:${remote.port}`;
      expect(await containers({ DOCKER_HOST, DOCKER_TLS_VERIFY: "1", DOCKER_CERT_PATH: folder.path })).toBe("read");
      expect(await containers({ DOCKER_HOST })).toContain("containers not read");
    },
  );

  test.each(["docker.sock", "podman/podman.sock"])("a rootless engine's socket %s is found", async (name) => {
    using folder = new Folder();
    mkdirSync(folder.at("podman"));
    const unix = folder.at(name);
    using _ = Bun.serve({ unix, fetch: answer });
    expect(findEngine("auto", { XDG_RUNTIME_DIR: folder.path })).toBe(
      existsSync("/var/run/docker.sock") ? "/var/run/docker.sock" : unix,
    );
  });
});
