// What an agent meets and nobody meant: each of it once stopped the agent, held up what it had nothing to do with, or was told wrongly.

import { afterEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { HostReader } from "../../lib/agent/host.ts";
import { openHub } from "../../lib/agent/hub.ts";
import { Proxmox } from "../../lib/agent/proxmox.ts";
import { Secret } from "../../lib/secret.ts";
import { listen } from "../fixtures/service/manager.ts";
import { isRoot, smallDisk } from "../e2e/disk.ts";
import { type Daemon, Folder, have, runRole, startRole, until } from "../kit.ts";

type Answer = (request: Request) => Response | Promise<Response>;

const CONTENT = { poll_interval_seconds: 60, blocked: false, desired_generation: 0, has_signed_ops: false };

/** A receiver that takes everything, but for what `doors` (ends of paths) answer otherwise. */
class FakeHub {
  readonly asked: string[] = [];
  readonly server: Bun.Server<undefined>;
  readonly url: string;

  constructor(doors: Record<string, Answer> = {}) {
    this.server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      idleTimeout: 0,
      fetch: (request) => {
        const { pathname } = new URL(request.url);
        this.asked.push(pathname);
        const door = Object.keys(doors).find((end) => pathname.endsWith(end));
        return door === undefined ? this.#take(request, pathname) : doors[door]!(request);
      },
    });
    this.url = `http://127.0.0.1:${this.server.port}`;
    hubs.push(this);
  }

  async #take(request: Request, pathname: string): Promise<Response> {
    await request.arrayBuffer();
    if (pathname === "/v1/ping") return Response.json({ host: "web-1", time: new Date().toISOString() });
    return Response.json(CONTENT, { status: pathname.endsWith(".tar.zst") ? 201 : 200 });
  }
}

const hubs: FakeHub[] = [];
afterEach(async () => {
  for (const { server } of hubs.splice(0)) await server.stop(true);
});

/** An agent's places, with a configuration. */
class Lab implements Disposable {
  readonly folder: Folder;
  readonly config: string;

  constructor(url: string, more = "", under?: string) {
    this.folder = new Folder(under);
    mkdirSync(this.folder.at("episodes"));
    this.config = this.folder.write(
      "agent.yaml",
      `receiver: { url: "${url}", token: pk_strange-token }\ndata_dir: ${this.folder.at("agent")}\ndocker: { enabled: false }\nship: { episodes_dir: ${this.folder.at("episodes")}, scan_seconds: 1 }\n${more}`,
    );
  }

  episode(id: string): string {
    const folder = this.folder.at("episodes", id);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "data.txt"), id);
    writeFileSync(join(folder, "done.marker"), "");
    return folder;
  }

  in(place: string): string[] {
    const folder = this.folder.at(place);
    return existsSync(folder) ? readdirSync(folder).toSorted() : [];
  }

  run(args: string[], wrap: string[] = []) {
    return runRole("agent", [...args, "--config", this.config], { wrap });
  }

  start(options: { wrap?: string[]; env?: Record<string, string> } = {}): Promise<Daemon> {
    return startRole("agent", ["--config", this.config], options);
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

/** Root without the power to read and write everything: folders' rights count for it, too. */
const POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
const powerless = process.getuid?.() !== 0 ? [] : POWERLESS;
const canBePowerless = powerless.length === 0 || have("setpriv", "folders that may not be read");

describe("among the episodes", () => {
  test("a file, a link to itself and one to nowhere keep nothing from being shipped", async () => {
    using place = new Lab(new FakeHub().url);
    place.episode("good");
    place.folder.write("episodes/README", "not an episode");
    symlinkSync("circle", place.folder.at("episodes/circle"));
    symlinkSync("/nonexistent", place.folder.at("episodes/dangling"));
    const { code, stdout, stderr } = await place.run(["--once"]);
    expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
    expect(stderr).not.toContain("can't be shipped");
  });

  test.skipIf(!canBePowerless)("a folder that may not be read is told, the others are shipped", async () => {
    using place = new Lab(new FakeHub().url);
    place.episode("good");
    chmodSync(place.episode("hidden"), 0);
    const { code, stdout, stderr } = await place.run(["--once"], powerless);
    chmodSync(place.folder.at("episodes/hidden"), 0o700);
    expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
    expect(stderr).toContain('episode "hidden" can\'t be shipped: let it be read');
  });
});

test("a folder in the outbox that looks like an archive keeps nothing from being shipped", async () => {
  using place = new Lab(new FakeHub().url);
  place.episode("good");
  mkdirSync(place.folder.at("outbox/odd.tar.zst/within"), { recursive: true });
  const { code, stdout, stderr } = await place.run(["--once"]);
  expect([code, stdout]).toEqual([0, "scanned=1 shipped=1 transient=0 conflicts=0 fatal=0\n"]);
  expect(stderr).toContain("odd.tar.zst");
});

test.skipIf(!isRoot)("an episode that is too large for the disk leaves the room to the others", async () => {
  using folder = new Folder();
  await using disk = await smallDisk(folder, "12m");
  const hub = new FakeHub();
  using place = new Lab(hub.url, "", disk.path);
  writeFileSync(join(place.episode("a-large"), "data.bin"), randomBytes(7 << 20));
  place.episode("b-small");
  utimesSync(place.folder.at("episodes/a-large/done.marker"), 1, 1);
  const { code, stdout, stderr } = await place.run(["--once"]);
  expect([code, stdout]).toEqual([5, "scanned=2 shipped=1 transient=1 conflicts=0 fatal=0\n"]);
  expect(stderr).toContain("ENOSPC");
  expect([place.in("outbox"), place.in("shipped")]).toEqual([[], ["b-small"]]);
});

test.skipIf(!canBePowerless)("old episodes go, also behind one that can't be removed", async () => {
  using place = new Lab(new FakeHub().url);
  const [days, made] = ["0.000001", Date.now()];
  for (const old of ["shipped/a-stuck/sub", "shipped/b", "quarantine/c"]) {
    mkdirSync(place.folder.at(old), { recursive: true });
    writeFileSync(place.folder.at(old, "data.txt"), "old");
  }
  chmodSync(place.folder.at("shipped/a-stuck/sub"), 0o500);
  const env = { PICKET_AGENT_SHIP__SHIPPED_KEEP_DAYS: days, PICKET_AGENT_SHIP__QUARANTINE_KEEP_DAYS: days };
  await until("a millionth of a day has passed", () => Date.now() - made > 200);
  await using agent = await place.start({ wrap: powerless, env });
  await until("b and c are gone", () => !place.in("shipped").includes("b") && place.in("quarantine").length === 0);
  expect(place.in("shipped")).toEqual(["a-stuck"]);
  await agent.said(/old episode not removed.*a-stuck/);
  chmodSync(place.folder.at("shipped/a-stuck/sub"), 0o700);
});

test.each([
  [401, {}],
  [404, {}],
  [429, { "retry-after": "30" }],
])("what holds all shipping (%d) holds it for --once, too: one upload, not three", async (status, headers) => {
  const hub = new FakeHub({ ".tar.zst": () => new Response(null, { status, headers }) });
  using place = new Lab(hub.url);
  for (const id of ["a", "b", "c"]) place.episode(id);
  const { code, stdout } = await place.run(["--once"]);
  expect([code, stdout]).toEqual([5, "scanned=3 shipped=0 transient=3 conflicts=0 fatal=0\n"]);
  expect(hub.asked).toEqual(["/v1/ping", "/v1/episodes/web-1/a.tar.zst"]);
});

test.each(["answer comes late", "bytes go slowly"])(
  "an upload whose %s is no loop that hangs",
  async (kind) => {
    let patient = true;
    const hub = new FakeHub({
      ".tar.zst": async (request) => {
        for await (const _ of request.body!) if (patient && kind === "bytes go slowly") await Bun.sleep(20);
        await until("the watchdog was fed", () => !patient);
        return Response.json({}, { status: 201 });
      },
    });
    using place = new Lab(hub.url);
    place.episode("slow");
    // As if a run before had packed it: what is to be seen is the upload, not how long a disk takes to sync what was packed.
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
      // It is fed every quarter of its period at most: six times are a period and a half.
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
  },
  60_000,
);

describe("a data folder that can't be written", () => {
  test("while the receiver is away: the agent says that samples are lost, and goes on", async () => {
    const hub = new FakeHub({ "/v1/host-report": () => new Response(null, { status: 503 }) });
    using place = new Lab(hub.url, "interval_seconds: 0.2\n");
    place.folder.write("agent", "a file where the folder should be");
    await using agent = await place.start();
    await agent.said(" ready ");
    await agent.said("a sample that can't be sent is lost");
    await until("it goes on", () => hub.asked.filter((path) => path === "/v1/host-report").length > 3);
    expect(agent.log.join("\n")).not.toContain("pass failed");
    expect(await agent.kill()).toBe(0);
  });

  test.skipIf(!canBePowerless)("what has arrived and can't be removed is sent once", async () => {
    const arrived: string[] = [];
    const hub = new FakeHub({
      "/v1/host-report": async (request) => {
        const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
        if (sent_at !== undefined) arrived.push(recorded_at);
        return Response.json(CONTENT);
      },
    });
    using place = new Lab(hub.url);
    mkdirSync(place.folder.at("agent/queue"), { recursive: true });
    const times = [3, 2, 1].map((minutes) => new Date(Date.now() - minutes * 60_000).toISOString());
    for (const recorded_at of times)
      place.folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
    chmodSync(place.folder.at("agent/queue"), 0o500);
    await using _ = await place.start({ wrap: powerless });
    await until("all have arrived", () => arrived.length >= 3);
    chmodSync(place.folder.at("agent/queue"), 0o700);
    expect(arrived).toEqual(times);
  });
});

test.each([2048, 4096])(
  "a queue of %d MiB holds more than one sample",
  async (mebibytes) => {
    const hub = new FakeHub({ "/v1/host-report": () => new Response(null, { status: 503 }) });
    using place = new Lab(hub.url, `interval_seconds: 0.2\nqueue_max_mb: ${mebibytes}\n`);
    await using _ = await place.start();
    await until("three wait", () => place.in("agent/queue").length >= 3);
  },
  40_000,
);

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

test("a refusal that isn't JSON is kept in the quarantine's reason as it came", async () => {
  const hub = new FakeHub({ ".tar.zst": () => new Response("<h1>413 too large</h1>", { status: 413 }) });
  using place = new Lab(hub.url);
  place.episode("large");
  expect((await place.run(["--once"])).code).toBe(6);
  const reason: unknown = await Bun.file(place.folder.at("quarantine/large/quarantine_reason.json")).json();
  expect(reason).toMatchObject({ status: 413, body: "<h1>413 too large</h1>" });
  expect((await place.run(["quarantine", "list"])).stdout).toContain("413 too large");
});

test.each([400, 409, 412, 422])(
  "a receiver that answers %d to who this host is says nothing of its episodes",
  async (status) => {
    const hub = new FakeHub({ "/v1/ping": () => Response.json({ error: "odd" }, { status }) });
    using place = new Lab(hub.url);
    place.episode("good");
    const { code, stdout } = await place.run(["--once"]);
    expect([code, stdout]).toEqual([5, "scanned=1 shipped=0 transient=1 conflicts=0 fatal=0\n"]);
    expect([place.in("episodes"), place.in("quarantine")]).toEqual([["good"], []]);
  },
);

test("what answers everything with 200 and is no receiver is seen by ping and the doctor", async () => {
  const hub = new FakeHub({ "/v1/ping": () => new Response("<h1>Welcome</h1>") });
  using place = new Lab(hub.url);
  const ping = await place.run(["ping"]);
  expect([ping.code, ping.stdout, ping.stderr]).toEqual([1, "", expect.stringContaining("not as a receiver does")]);
  const doctor = await place.run(["doctor", "--json"]);
  const { checks } = JSON.parse(doctor.stdout) as { checks: { name: string; state: string }[] };
  expect([doctor.code, checks.find(({ name }) => name === "token")?.state]).toEqual([2, "red"]);
});

test("the doctor tells of a configuration that is wrong or missing as of everything else", async () => {
  using place = new Lab("http://127.0.0.1:9", "nonsense: 1\ninterval_seconds: often\n");
  const table = await place.run(["doctor"]);
  expect([table.code, table.stdout]).toEqual([
    2,
    expect.stringMatching(/^red +configuration +.*nonsense: unknown key/m),
  ]);
  expect(table.stdout).toContain("interval_seconds");
  expect(table.stdout).toContain("mend it: ");
  const env = {
    HOME: place.folder.path,
    XDG_CONFIG_HOME: place.folder.path,
    PICKET_URL: undefined,
    PICKET_TOKEN: undefined,
  };
  const bare = await runRole("agent", ["doctor", "--json"], { env });
  const { state, checks } = JSON.parse(bare.stdout) as { state: string; checks: { detail: string }[] };
  expect([bare.code, state]).toEqual([2, "red"]);
  expect(checks.map(({ detail }) => detail).join("\n")).toContain("PICKET_TOKEN");
});

test("a proxy in the environment never sees what goes to this machine", async () => {
  const [proxy, hub] = [new FakeHub(), new FakeHub()];
  const node = new FakeHub({ "/status": () => Response.json({ data: {} }) });
  using place = new Lab(
    hub.url,
    `proxmox: { endpoint: "${node.url}", node: pve1, token: root@pam!picket=00000000-0000 }\n`,
  );
  const env = { http_proxy: proxy.url, HTTP_PROXY: proxy.url, https_proxy: proxy.url, NO_PROXY: "", no_proxy: "" };
  const { code } = await runRole("agent", ["selftest", "--config", place.config], { env });
  expect([code, proxy.asked]).toEqual([0, []]);
  expect([hub.asked, node.asked.length > 0]).toEqual([["/v1/host-report"], true]);
});

test("a node that never tells of its guests' configuration delays the report by so much, whatever their number", async () => {
  const vmids = Array.from({ length: 100 }, (_, index) => 100 + index);
  const forEver = () => new Promise<Response>(() => {});
  const node = new FakeHub({
    "/status": () => Response.json({ data: {} }),
    "/lxc": () => Response.json({ data: vmids.map((vmid) => ({ vmid, status: "running" })) }),
    "/qemu": () => Response.json({ data: [] }),
    "/storage": () => Response.json({ data: [{ storage: "tank", content: "backup" }] }),
    "/config": forEver,
    "/content": forEver,
  });
  const warned: string[] = [];
  const settings = { endpoint: node.url, node: "pve1", token: [new Secret("root@pam!picket=00000000-0000")] };
  const proxmox = new Proxmox(settings, (kind) => warned.push(kind), { restMs: 2000 });
  const { guests, backups } = await proxmox.read(new AbortController().signal);
  expect(guests?.map(({ vmid }) => vmid)).toEqual(vmids);
  expect(guests?.some((guest) => "spec" in guest)).toBe(false);
  expect(backups).toEqual([]);
  expect([...new Set(warned)].toSorted()).toEqual(["backups tank", "late"]);
});

test.each(["99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])(
  "Retry-After: %s is an hour, and not for ever",
  async (header) => {
    const away = () => new Response(null, { status: 503, headers: { "retry-after": header } });
    const { url } = new FakeHub({ "/v1/ping": away });
    const hub = openHub({ url, token: [new Secret("pk_x")], timeout_seconds: 5 });
    const refused = await hub.send({ method: "POST", path: "/v1/ping", what: "ping" }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 503, retryAfter: 3600 });
  },
);

test("a container with half a CPU has one: the receiver would refuse the report for less", async () => {
  const node = new FakeHub({
    "/status": () => Response.json({ data: {} }),
    "/lxc": () => Response.json({ data: [{ vmid: "101", status: "running", cpus: 0.5 }] }),
    "/qemu": () => Response.json({ data: [] }),
    "/storage": () => Response.json({ data: [] }),
    "/config": () => Response.json({ data: { cpulimit: "0.5", memory: 512 } }),
  });
  const settings = { endpoint: node.url, node: "pve1", token: [new Secret("root@pam!picket=00000000-0000")] };
  const { guests } = await new Proxmox(settings, () => {}).read(new AbortController().signal);
  expect(guests?.[0]?.spec).toEqual({ cores: 1, memory_mb: 512, disk_gb: null });
});

test("an envelope that blocks is told also when it is the first one, and again when it changes only", async () => {
  let blocked = true;
  const hub = new FakeHub({ "/v1/host-report": () => Response.json({ blocked }) });
  using place = new Lab(hub.url, "interval_seconds: 0.2\n");
  await using agent = await place.start();
  await agent.said(/envelope.*\\"blocked\\":true/);
  await until("some more reports", () => hub.asked.filter((path) => path === "/v1/host-report").length > 3);
  blocked = false;
  await agent.said(/envelope.*\\"blocked\\":false/);
  expect(agent.log.filter((line) => line.includes("envelope")).length).toBe(2);
});

test("an interval that the answer to a waiting sample asks for takes effect at once", async () => {
  const live: string[] = [];
  const hub = new FakeHub({
    "/v1/host-report": async (request) => {
      const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
      if (sent_at === undefined) live.push(recorded_at);
      return Response.json({ poll_interval_seconds: sent_at === undefined && live.length === 1 ? 3600 : 60 });
    },
  });
  using place = new Lab(hub.url);
  mkdirSync(place.folder.at("agent/queue"), { recursive: true });
  const recorded_at = new Date(Date.now() - 60_000).toISOString();
  place.folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
  await using agent = await place.start();
  await agent.said(/interval adopted seconds=60 /);
  await until("the next report, an hour before its time", () => live.length > 1);
});

test("a retried episode is packed anew, also where a kill left the archive that was refused", async () => {
  const sent: Uint8Array[] = [];
  const hub = new FakeHub({
    ".tar.zst": async (request) => {
      sent.push(new Uint8Array(await request.arrayBuffer()));
      return Response.json({}, { status: 201 });
    },
  });
  using place = new Lab(hub.url);
  for (const folder of ["quarantine/ep-1", "outbox"]) mkdirSync(place.folder.at(folder), { recursive: true });
  for (const file of ["quarantine/ep-1/done.marker", "quarantine/ep-1/mended.txt", "outbox/ep-1.tar.zst"])
    place.folder.write(file, "");
  expect((await place.run(["quarantine", "retry", "ep-1"])).code).toBe(0);
  expect((await place.run(["--once"])).code).toBe(0);
  expect(Buffer.from(Bun.zstdDecompressSync(sent[0]!)).includes("ep-1/mended.txt")).toBe(true);
});

test("more memory available than there is means that none is used: the receiver would refuse the report for less than none", () => {
  using root = new Folder();
  mkdirSync(root.at("proc"));
  root.write("proc/meminfo", "MemTotal:        1024000 kB\nMemAvailable:    2048000 kB\n");
  const { metrics } = new HostReader({ root: root.path, mounts: [] }).look();
  expect([metrics.memory_used_mb, metrics.memory_total_mb]).toEqual([0, 1000]);
});

test("what a receiver says steers no terminal", async () => {
  const answer = { error: "old\u001b[2J\nep-2  200  shipped", remediation: "cd /opt/lab\ngit pull\u001b[31m" };
  const hub = new FakeHub({
    ".tar.zst": () => Response.json(answer, { status: 412 }),
    "/v1/ping": () => Response.json({ host: "web-1\u001b[1m" }),
  });
  using place = new Lab(hub.url, "host_id: web-1\n");
  place.episode("ep-1");
  await place.run(["--once"]);
  const list = await place.run(["quarantine", "list"]);
  expect(list.stdout.trimEnd()).toMatch(/^ep-1  412  \S+  old\\u001b\[2J\\u000aep-2  200  shipped$/);
  const [doctor, ping] = [await place.run(["doctor"]), await place.run(["ping"])];
  expect(doctor.stdout).toContain("cd /opt/lab\ngit pull\\u001b[31m\n");
  expect(doctor.stdout + ping.stdout).not.toContain("\u001b");
});

/** How many files and folders a process has the kernel watch. */
function watches(pid: number): number {
  const infos = readdirSync(`/proc/${pid}/fdinfo`).map((fd) => {
    try {
      return readFileSync(`/proc/${pid}/fdinfo/${fd}`, "utf8");
    } catch {
      return ""; // closed meanwhile
    }
  });
  return infos.join("\n").match(/^inotify wd/gm)?.length ?? 0;
}

test("what has been shipped is watched no longer", async () => {
  using place = new Lab(new FakeHub().url);
  await using agent = await place.start();
  await agent.said(" ready ");
  await until("the episodes' folder is watched", () => watches(agent.child.pid) === 1);
  for (let n = 0; n < 20; n++) mkdirSync(join(place.episode(`ep-${n}`), "sub"));
  await until("all are shipped", () => place.in("shipped").length === 20);
  await until("one folder is watched", () => watches(agent.child.pid) === 1);
}, 60_000);

test.each(["removed", "renamed"])(
  "an episodes' folder that is %s and made again is watched again",
  async (kind) => {
    using place = new Lab(new FakeHub().url);
    const episodes = place.folder.at("episodes");
    await using agent = await place.start();
    await agent.said(" ready ");
    await until("it is watched", () => watches(agent.child.pid) === 1);
    if (kind === "removed") rmSync(episodes, { recursive: true });
    else renameSync(episodes, place.folder.at("former"));
    mkdirSync(episodes);
    place.episode("new");
    await until("an episode of the new folder is shipped", () => {
      return place.in("shipped").length > 0 || agent.child.exitCode !== null;
    });
    expect(agent.child.exitCode).toBeNull();
  },
  60_000,
);

test("an answer that goes on and on is given up, and the sample waits", async () => {
  const spaces = new Uint8Array(64 << 10).fill(32);
  const endless = () => new Response(new ReadableStream({ pull: (controller) => controller.enqueue(spaces) }));
  using place = new Lab(new FakeHub({ "/v1/host-report": endless }).url);
  await using agent = await place.start();
  await agent.said(/no answer from .*the answer is over 1 MiB/);
  await until("the sample waits", () => place.in("agent/queue").length === 1);
});
