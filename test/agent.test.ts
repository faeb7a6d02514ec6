// The agent against a real receiver: heartbeat, backlog, refused tokens, what is said and what is never said.
// Not tested here: Proxmox, episodes and containers, which have files of their own.

import { beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Daemon, Folder, TARGETS, command, freePort, runRole, startRole, until } from "./kit.ts";
import { Clock, Hub, faketime } from "./receiver/kit.ts";

type Row = Record<string, unknown>;

// Compiling takes longer than a test may, where this file is the first to ask for it.
beforeAll(() => command("agent", "binary"), 180_000);

/** An agent's configuration towards a hub; its loop is quick until the receiver says 60. */
function configure(folder: Folder, url: string, token: string, more = ""): string {
  return folder.write(
    "agent.yaml",
    `receiver: { url: "${url}", token: ${token} }\ndata_dir: ${folder.at("agent")}\ninterval_seconds: 0.2\ndocker: { enabled: false }\n${more}`,
  );
}

async function start(config: string, target: "source" | "binary" = "source"): Promise<Daemon> {
  return startRole("agent", ["--config", config, "--log-level", "debug"], { target });
}

/** The root file system in GiB, as df has it. */
function disk(): { size: number; used: number } {
  const df = Bun.spawnSync(["df", "-BG", "--output=size,used", "/"]).stdout.toString();
  const [, size, used] = /(\d+)G +(\d+)G/.exec(df)!;
  return { size: Number(size), used: Number(used) };
}

function waiting(folder: Folder): string[] {
  const dir = folder.at("agent/queue");
  return existsSync(dir) ? readdirSync(dir).filter((name) => name.endsWith(".json")) : [];
}

describe.each(TARGETS)("%s", (target) => {
  test("copied alone, with two variables, the host is seen with its real figures", async () => {
    await using hub = await Hub.start();
    using folder = new Folder();
    const before = disk();
    await using agent = await startRole("agent", [], {
      target,
      cwd: folder.path,
      env: {
        PICKET_URL: hub.url,
        PICKET_TOKEN: hub.tokens.get("web-1"),
        PICKET_INTERVAL_SECONDS: "-5",
        HOME: folder.path,
        XDG_CONFIG_HOME: folder.path,
        STATE_DIRECTORY: folder.at("state"),
      },
    });
    await agent.said(" ready ");
    expect(agent.log.join("\n")).toContain("PICKET_INTERVAL_SECONDS");
    const { status, facts, metrics } = await hub.get<{ status: string; facts: Row; metrics: Row }>("/v1/hosts/web-1");
    expect(status).toBe("online");
    const free = Bun.spawnSync(["free", "-m"]).stdout.toString();
    expect(metrics["memory_total_mb"]).toBe(Number(/^Mem: +(\d+)/m.exec(free)![1]));
    const after = disk();
    expect(metrics["disk_total_gb"]).toBe(after.size);
    // Others write to this disk meanwhile; df rounds up.
    expect(metrics["disk_used_gb"] as number).toBeWithin(
      Math.min(before.used, after.used) - 1,
      Math.max(before.used, after.used) + 2,
    );
    expect(facts["cpu_count"]).toBe(Number(Bun.spawnSync(["nproc", "--all"]).stdout.toString()));
    const uptime = Number(readFileSync("/proc/uptime", "utf8").split(".")[0]);
    expect(Math.abs((metrics["uptime_seconds"] as number) - uptime)).toBeLessThan(30);
    // Those with a device behind them, else all but loopback: as the kernel counted since boot.
    const rows = readFileSync("/proc/net/dev", "utf8").matchAll(/^ *([^:\s]+): *(\d+)/gm);
    const seen = [...rows].map(([, name, bytes]) => ({ name: name!, bytes: Number(bytes) }));
    const devices = seen.filter(({ name }) => existsSync(`/sys/class/net/${name}/device`));
    const outer = devices.length > 0 ? devices : seen.filter(({ name }) => !/^(lo|docker|veth|br-|vh)/.test(name));
    const received = outer.reduce((sum, { bytes }) => sum + bytes, 0);
    expect(metrics["network_rx_bytes"] as number).toBeLessThanOrEqual(received);
    expect(metrics["network_rx_bytes"] as number).toBeGreaterThanOrEqual(received * 0.9 - 1e6);
    expect(await agent.kill()).toBe(0);
  }, 60_000);
});

test("without URL or token it ends with 2 and names both variables", async () => {
  using folder = new Folder();
  const env = { HOME: folder.path, XDG_CONFIG_HOME: folder.path, PICKET_URL: undefined, PICKET_TOKEN: undefined };
  const { code, stderr } = await runRole("agent", [], { env });
  expect(code).toBe(2);
  expect(stderr).toContain("PICKET_URL");
  expect(stderr).toContain("PICKET_TOKEN");
});

test("http is refused but to this machine", async () => {
  using folder = new Folder();
  const { code, stderr } = await runRole("agent", [
    "--check",
    "--config",
    configure(folder, "http://hub.example", "x"),
  ]);
  expect([code, stderr]).toEqual([78, expect.stringContaining("only https")]);
});

test("fractions of seconds and of mebibytes are taken, as a trial wants them", async () => {
  using folder = new Folder();
  const more = `queue_max_mb: 0.1\nship: { episodes_dir: ${folder.at("episodes")}, scan_seconds: 0.2 }\n`;
  const config = configure(folder, "http://127.0.0.1:9", "t", more);
  writeFileSync(config, readFileSync(config, "utf8").replace("token: t", "token: t, timeout_seconds: 0.5"));
  const { code, stdout, stderr } = await runRole("agent", ["--check", "--config", config]);
  expect([code, stdout, stderr]).toEqual([0, "ok\n", ""]);
});

test("a wrong token ends it with 3 on the very first report; a token that is revoked later holds everything", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using folder = new Folder();
  const wrong = await runRole("agent", ["--config", configure(folder, hub.url, `pk_${"x".repeat(40)}`)]);
  expect([wrong.code, wrong.stderr]).toEqual([3, expect.stringContaining("token rotate")]);
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token, "protocol: telemetry\n");
  await using agent = await start(config);
  await agent.said(" ready ");
  await hub.run("token", "revoke", "web-1");
  await until("samples wait", () => waiting(folder).length > 3);
  await agent.said("everything is held");
  expect(agent.log.filter((line) => line.includes("everything is held")).length).toBe(1);
  expect(agent.child.exitCode).toBeNull();
  const before = waiting(folder).length;
  // Bound again to a new token, nothing was lost.
  const next = /pk_\w+/.exec((await hub.run("token", "rotate", "web-1")).stdout)![0];
  await agent.kill();
  await using again = await start(configure(folder, hub.url, next, "protocol: telemetry\n"));
  await until("all of it has arrived", () => waiting(folder).length === 0, 120);
  const samples = hub.rows<{ n: number }>("SELECT COUNT(*) AS n FROM host_samples")[0]!.n;
  expect(samples).toBeGreaterThan(before);
  for (const log of [agent.log, again.log]) expect(log.join("\n")).not.toContain("pk_");
}, 180_000);

test("the receiver away: samples wait, then arrive in order while the live report goes first", async () => {
  const port = freePort();
  await using hub = new Hub({ port, more: "rate_limit_per_minute: 100000" });
  await hub.addHost("web-1");
  using folder = new Folder();
  await using agent = await start(
    configure(folder, `http://127.0.0.1:${port}`, hub.tokens.get("web-1")!, "protocol: telemetry\n"),
  );
  await agent.said(" ready ");
  await agent.said("no answer");
  await until("samples wait", () => waiting(folder).length >= 5);
  expect(agent.log.filter((line) => line.includes("report: no answer")).length).toBe(1);
  await hub.up();
  await agent.said("answers again");
  await until("all of it has arrived", () => waiting(folder).length === 0, 120);
  expect(await hub.get("/v1/hosts/web-1")).toMatchObject({ status: "online" });
  await agent.kill();
  const samples = hub.rows<{ at: number }>("SELECT at FROM host_samples ORDER BY at");
  expect(samples.length).toBeGreaterThan(5);
}, 180_000);

const library = faketime("an hour's absence of the receiver, a host's wrong clock");

test.skipIf(library === null)(
  "an hour without a receiver: every sample arrives, oldest first, and the host is online throughout",
  async () => {
    const port = freePort();
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    await using hub = new Hub({ port, more: "rate_limit_per_minute: 100000", env: clock.env });
    await hub.addHost("web-1");
    const config = configure(folder, `http://127.0.0.1:${port}`, hub.tokens.get("web-1")!, "protocol: telemetry\n");
    await hub.up();
    await hub.run("host", "set", "web-1", "--interval", "60");
    await using agent = await startRole("agent", ["--config", config], { env: clock.env });
    await agent.said(" ready ");
    const status = async () => (await hub.get<{ status: string }>("/v1/hosts/web-1")).status;
    expect(await status()).toBe("online");
    await hub.daemon.kill();
    // Three minutes from one sample to the next.
    for (let step = 1; step <= 20; step++) {
      const before = waiting(folder).length;
      clock.offset(step * 180);
      await until("one more sample waits", () => waiting(folder).length > before);
    }
    await hub.up();
    await agent.said("answers again");
    const times = () =>
      waiting(folder)
        .map((name) => Number.parseInt(name, 10))
        .toSorted((a, b) => a - b);
    const all = times();
    expect(all.at(-1)! - all[0]!).toBeGreaterThan(50 * 60_000);
    await until(
      "all of it has arrived",
      async () => {
        const left = times();
        expect(left).toEqual(all.slice(all.length - left.length));
        expect(await status()).toBe("online");
        return left.length === 0;
      },
      200,
    );
    await agent.kill();
    const stored = new Set(hub.rows<{ at: number }>("SELECT at FROM host_samples").map(({ at }) => at));
    expect(all.filter((at) => !stored.has(at))).toEqual([]);
    // The receiver was away, not the host.
    expect(hub.rows("SELECT * FROM events")).toEqual([]);
  },
  300_000,
);

test.skipIf(library === null)(
  "a clock that is ten minutes wrong is said by the log and by the doctor",
  async () => {
    await using hub = await Hub.start();
    using folder = new Folder();
    const clock = new Clock(folder, library!);
    const config = configure(folder, hub.url, hub.tokens.get("web-1")!);
    for (const [seconds, words] of [
      [600, "ahead of"],
      // Taken by the receiver, as all that is less than an hour behind.
      [-600, "behind"],
      [-4200, "behind"],
    ] as const) {
      clock.offset(seconds);
      await using agent = await startRole("agent", ["--config", config], { env: clock.env });
      const said = await agent.said("this host's clock is");
      expect(said).toContain(`${words} the receiver's`);
      const { code, stdout } = await runRole("agent", ["doctor", "--config", config], { env: clock.env });
      expect([code, stdout]).toEqual([
        2,
        expect.stringMatching(new RegExp(`^red +clock .*\\dm.* ${words} the receiver's`, "m")),
      ]);
      expect(stdout).toContain("timedatectl set-ntp true");
      await agent.kill();
    }
  },
  60_000,
);

test("no token anywhere: debug log, refusals that repeat it, errors, doctor, selftest, the process's own arguments", async () => {
  using folder = new Folder();
  const token = `pk_${"s".repeat(40)}`;
  let status = 500;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    // Says back what it was sent, as a proxy's error page may.
    fetch: (request) => Response.json({ error: `refused ${request.headers.get("authorization")}` }, { status }),
  });
  const places = `ship: { episodes_dir: ${folder.at("episodes")} }\n`;
  const config = configure(folder, `http://127.0.0.1:${server.port}`, token, `protocol: telemetry\n${places}`);
  mkdirSync(folder.at("episodes/ep-1"), { recursive: true });
  writeFileSync(folder.at("episodes/ep-1/done.marker"), "");
  const texts: string[] = [];
  await using agent = await start(config);
  await agent.said("ask for this host's name");
  texts.push(readFileSync(`/proc/${agent.child.pid}/cmdline`, "utf8"));
  for (status of [500, 422, 401, 302]) {
    for (const args of [
      ["doctor", "--json"],
      ["selftest"],
      ["ping"],
      ["--once"],
      ["quarantine", "list"],
      ["--check", "--print"],
    ]) {
      const { stdout, stderr } = await runRole("agent", [...args, "--config", config, "--log-level", "debug"]);
      texts.push(stdout, stderr);
    }
  }
  const wrong = await runRole("agent", [
    "--config",
    folder.write("bad.yaml", `receiver: { url: 7, token: ${token} }\nx: 1\n`),
  ]);
  expect(wrong.code).toBe(78);
  texts.push(wrong.stderr);
  await agent.kill();
  texts.push(agent.log.join("\n"));
  await server.stop(true);
  for (const text of texts) expect(text).not.toContain("s".repeat(40));
}, 60_000);

test("the interval that the receiver asks for is adopted within its bounds", async () => {
  for (const [asked, adopted] of [
    [5, 60],
    [120, 120],
    [99_999, 3600],
  ] as const) {
    using folder = new Folder();
    const server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: () =>
        Response.json({ poll_interval_seconds: asked, blocked: false, desired_generation: 0, has_signed_ops: false }),
    });
    await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t"));
    expect(await agent.said("interval adopted")).toContain(`seconds=${adopted}`);
    await agent.kill();
    await server.stop(true);
  }
}, 60_000);

test("three broken rounds, and the fourth works; Retry-After is obeyed; 422 drops and names the clock", async () => {
  using folder = new Folder();
  const answers = [
    () => Response.json({ poll_interval_seconds: 60 }, { status: 503 }),
    () => new Response("oops", { status: 500 }),
    () => new Response(null, { status: 302, headers: { location: "https://elsewhere.example" } }),
    () =>
      Response.json(
        { error: "recorded_at: is more than an hour ago" },
        { status: 422, headers: { date: new Date(Date.now() + 600_000).toUTCString() } },
      ),
    () => new Response(null, { status: 429, headers: { "retry-after": "2" } }),
  ];
  const at: number[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch(request) {
      // The doctor asks, too, at its own pace: what it is told is not of these rounds.
      if (!request.url.endsWith("/agent/telemetry")) return new Response(null, { status: 404 });
      at.push(performance.now());
      return answers[at.length - 1]?.() ?? new Response(null, { status: 204 });
    },
  });
  await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t", "protocol: telemetry\n"));
  await agent.said("answers again");
  await agent.said(/this sample is dropped: this host's clock is \d+m .* behind the receiver's/);
  expect(at[5]! - at[4]!).toBeGreaterThan(1900);
  await agent.kill();
  await server.stop(true);
}, 60_000);

test("a clock that is wrong is said also where the receiver takes the report, once, and when it is right again", async () => {
  using folder = new Folder();
  let ahead = 600_000;
  let reports = 0;
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch() {
      reports++;
      return new Response(null, { status: 204, headers: { date: new Date(Date.now() + ahead).toUTCString() } });
    },
  });
  await using agent = await start(configure(folder, `http://127.0.0.1:${server.port}`, "t", "protocol: telemetry\n"));
  await agent.said(/warn .*this host's clock is \d+m \d+s behind the receiver's/);
  const before = reports;
  await until("some more reports", () => reports > before + 5);
  expect(agent.log.filter((line) => line.includes("behind the receiver's")).length).toBe(1);
  ahead = 0;
  await agent.said("clock agrees with the receiver's again");
  await agent.kill();
  await server.stop(true);
}, 60_000);

test("refused later, the agent reports again long before the interval is over", async () => {
  using folder = new Folder();
  const live: string[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    async fetch(request) {
      if (!request.url.endsWith("/v1/host-report")) return new Response(null, { status: 404 });
      const { recorded_at, sent_at } = (await request.json()) as { recorded_at: string; sent_at?: string };
      // What waited has the next report come at once, and then there would be an hour until the one after it.
      if (sent_at !== undefined) return Response.json({ poll_interval_seconds: 3600 });
      live.push(recorded_at);
      return live.length === 2
        ? new Response(null, { status: 401 })
        : Response.json({ poll_interval_seconds: live.length === 1 ? 1800 : 3600 });
    },
  });
  const config = configure(folder, `http://127.0.0.1:${server.port}`, "t");
  mkdirSync(folder.at("agent/queue"), { recursive: true });
  const recorded_at = new Date(Date.now() - 60_000).toISOString();
  folder.write(`agent/queue/${Date.parse(recorded_at)}.json`, JSON.stringify({ recorded_at }));
  await using agent = await start(config);
  await agent.said("everything is held");
  await agent.said("answers again");
  await until("what was refused has arrived", () => waiting(folder).length === 0);
  await agent.kill();
  await server.stop(true);
}, 60_000);

test("a queue that is full is said, with how many went", async () => {
  using folder = new Folder();
  const answer = () => new Response(null, { status: 500 });
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", fetch: answer });
  const config = configure(folder, `http://127.0.0.1:${server.port}`, "t", "queue_max_mb: 1\n");
  mkdirSync(folder.at("agent/queue"), { recursive: true });
  folder.write("agent/queue/1700000000000.json", JSON.stringify({ fill: "x".repeat(1 << 20) }));
  await using agent = await start(config);
  await agent.said("the queue is full: 1 samples dropped");
  expect(waiting(folder)).not.toContain("1700000000000.json");
  await agent.kill();
  await server.stop(true);
});

test("ping and selftest show what is, and never the token", async () => {
  await using hub = await Hub.start();
  using folder = new Folder();
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token);
  const ping = await runRole("agent", ["ping", "--config", config]);
  const [, ms, skew] = /knows this host as "web-1" \((\d+) ms, clocks differ by (\d+) s\)/.exec(ping.stdout) ?? [];
  expect(ping.code).toBe(0);
  // It is one clock: they differ by no more than the answer was on its way.
  expect(Number(skew)).toBeLessThanOrEqual(Math.round(Number(ms) / 1000));
  expect(hub.rows("SELECT * FROM host_samples")).toEqual([]);
  const test = await runRole("agent", ["selftest", "--config", config, "--log-level", "debug"]);
  expect(test.stdout).toContain('"memory_total_mb"');
  expect(test.stdout).toContain(`${hub.url}/v1/host-report: 200 {"poll_interval_seconds":60`);
  const host = await runRole("agent", ["selftest", "host", "--config", config]);
  expect(JSON.parse(host.stdout)).toMatchObject({ metrics: { uptime_seconds: expect.any(Number) } });
  const wrong = await runRole("agent", ["selftest", "everything", "--config", config]);
  expect(wrong.code).toBe(2);
  const shown = await runRole("agent", ["--check", "--print", "--config", config]);
  for (const one of [ping, test, host, wrong, shown]) expect(one.stdout + one.stderr).not.toContain(token);
  const refused = await runRole("agent", ["ping", "--config", configure(folder, hub.url, `pk_${"x".repeat(40)}`)]);
  expect(refused.code).toBe(3);
});

test("a reload takes over what can change, and says what can't", async () => {
  await using hub = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  await using other = await Hub.start({ more: "rate_limit_per_minute: 100000" });
  using folder = new Folder();
  const more = "protocol: telemetry\n";
  const config = configure(folder, hub.url, hub.tokens.get("web-1")!, more);
  await using agent = await start(config);
  await agent.said(" ready ");
  configure(folder, other.url, other.tokens.get("web-1")!, `${more}services: [cloudflared, ssh]\n`);
  agent.child.kill("SIGHUP");
  await agent.said("configuration reloaded");
  const seen = () => other.get<{ status: string }>("/v1/hosts/web-1");
  await until("the other receiver is told", async () => (await seen()).status === "online");
  const status = expect.any(String);
  const services = ["cloudflared", "ssh"].map((name) => ({ name, status }));
  expect(await seen()).toMatchObject({ cloudflared: { status }, services });
  writeFileSync(config, "receiver: { url: nonsense }\n");
  agent.child.kill("SIGHUP");
  await agent.said("the former one stays");
  configure(folder, hub.url, hub.tokens.get("web-1")!, more);
  writeFileSync(config, readFileSync(config, "utf8").replace(/data_dir: .*/, `data_dir: ${folder.at("elsewhere")}`));
  agent.child.kill("SIGHUP");
  await agent.said("data_dir: a change takes effect at the next start");
  await agent.kill();
  expect(existsSync(folder.at("elsewhere"))).toBe(false);
}, 60_000);

test("the queue holds so many bytes, the oldest go first and are counted", async () => {
  using folder = new Folder();
  const { Backlog } = await import("../lib/agent/backlog.ts");
  const backlog = new Backlog(join(folder.path, "queue"), 1000);
  for (let n = 0; n < 20; n++)
    backlog.add({ recorded_at: new Date(1_700_000_000_000 + n * 1000).toISOString(), fill: "x".repeat(100) } as never);
  expect(backlog.count).toBeLessThan(8);
  expect(backlog.dropped).toBe(20 - backlog.count);
  // One of an earlier time (the clock was set back) comes first, one of the same millisecond is kept as well.
  backlog.remove(backlog.oldest!);
  backlog.remove(backlog.oldest!);
  for (const at of [1_600_000_000_000, 1_700_000_019_000]) backlog.add({ recorded_at: new Date(at).toISOString() });
  const order = (queue: InstanceType<typeof Backlog>) => {
    const times: number[] = [];
    for (let next = queue.oldest; next; next = queue.oldest) {
      times.push(next.recordedAt);
      queue.remove(next);
    }
    return times;
  };
  const again = new Backlog(backlog.dir, 1000);
  expect([again.count, readdirSync(backlog.dir).length]).toEqual([backlog.count, backlog.count]);
  const times = order(again);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  expect(times.slice(-2)).toEqual([1_700_000_019_000, 1_700_000_019_001]);
  expect(times[0]).toBe(1_600_000_000_000);
});

test("the doctor sees what is wrong, and the receiver is told", async () => {
  await using hub = await Hub.start();
  using folder = new Folder();
  const token = hub.tokens.get("web-1")!;
  const config = configure(folder, hub.url, token, `ship: { episodes_dir: ${folder.at("episodes")} }\n`);
  mkdirSync(folder.at("episodes"));
  type Result = { state: string; checks: { name: string; state: string; detail: string; fix?: string }[] };
  const look = async (path = config): Promise<{ code: number; result: Result }> => {
    const { code, stdout } = await runRole("agent", ["doctor", "--json", "--config", path]);
    expect(stdout).not.toContain("pk_");
    return { code, result: JSON.parse(stdout) as Result };
  };
  const well = await look();
  expect([well.code, well.result.state]).toEqual([0, "green"]);
  expect(well.result.checks.map(({ name }) => name)).toContain("clock");
  mkdirSync(folder.at("quarantine/old"), { recursive: true });
  const reason = { status: 412, body: { remediation: "cd /opt/lab && git pull" }, time: new Date().toISOString() };
  writeFileSync(folder.at("quarantine/old/quarantine_reason.json"), JSON.stringify(reason));
  const refused = await look();
  expect(refused.code).toBe(2);
  expect(refused.result.checks.find(({ name }) => name === "version gate")).toMatchObject({
    state: "red",
    fix: "cd /opt/lab && git pull",
  });
  const table = await runRole("agent", ["doctor", "--config", config]);
  expect(table.stdout).toMatch(/^red +version gate .*\n +mend it: cd \/opt\/lab/m);
  const foreign = await look(configure(folder, hub.url, `pk_${"x".repeat(40)}`));
  expect([foreign.code, foreign.result.checks.find(({ name }) => name === "token")?.state]).toEqual([2, "red"]);
  const away = await look(configure(folder, "http://127.0.0.1:9", token));
  expect([away.code, away.result.checks.find(({ name }) => name === "tls")?.state]).toEqual([2, "red"]);
  configure(folder, hub.url, token);
  await using again = await start(config);
  await until("the result is there", async () => (await fetch(`${hub.url}/v1/host-health/web-1`)).status === 200);
  expect(await hub.get("/v1/host-health/web-1")).toMatchObject({ health: { state: "green" } });
  await again.kill();
}, 60_000);

test.each([
  ["", "green"],
  ['{"level":"info","msg":"episode shipped"}', "green"],
  ['{"level":"warn","msg":"ship a: 503: busy"}', "yellow"],
  [
    '{"level":"warn","msg":"episode \\"a\\" not shipped: no answer"}\n{"level":"error","msg":"episode put into quarantine","status":400}',
    "red",
  ],
  ['{"level":"error","msg":"x","status":400}\n{"level":"error","msg":"x","status":412}', "red"],
])("a journal of %s is %s", async (text, state) => {
  const { judgeJournal } = await import("../lib/agent/doctor.ts");
  const check = judgeJournal(text);
  expect(check.state).toBe(state as "green");
  if (text.includes("412")) expect(check.detail).toContain("412");
});
